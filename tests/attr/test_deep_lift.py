"""TransformerDeepLift: Captum's contract, inputs, checks, errors, safety."""

import copy
import gc
import threading

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel
from captum.metrics import infidelity, sensitivity_max
from captum.testing.attr.helpers.gen_test_utils import parse_test_config
from captum.testing.helpers.basic import assertTensorAlmostEqual
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    CLIPConfig,
    CLIPModel,
)

from captum_globenc import Contrast, EncoderForward, GlobEnc, TransformerDeepLift
from captum_globenc.differences.call import LINEAR
from captum_globenc.differences.rules import EXACT, Row
from checkpoints import save_tokenizer
from models import SMALL, randomize, state_of

MASK_ID = 3


@pytest.fixture
def setting(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    return forward, inputs, masked(inputs), extra


def masked(ids):
    return torch.where(ids > 3, MASK_ID, ids)


def change_of(forward, inputs, baselines, extra, target=1):
    with torch.no_grad():
        outputs = [forward(side, *extra) for side in (inputs, baselines)]
    difference = outputs[0] - outputs[1]
    return difference if difference.dim() == 1 else difference[:, target]


@pytest.fixture
def config(setting):
    """A row of the table from which Captum generates its tests."""
    forward, inputs, baselines, extra = setting
    arguments = {"inputs": inputs, "baselines": baselines, "target": 0, "additional_forward_args": extra}
    return {
        "name": "text",
        "algorithms": [TransformerDeepLift],
        "model": forward,
        "attribute_args": arguments,
    }


def test_hooks_are_removed_when_the_target_is_bad(config):
    """Run Captum's generated hook-removal test."""
    (algorithm,), model, arguments, *_ = parse_test_config(config)
    before = state_of(model)
    arguments["target"] = (9999,) * 20
    with pytest.raises(AssertionError):
        algorithm(model).attribute(**arguments)
    for module in model.modules():
        assert len(module._forward_hooks) == 0
        assert len(module._backward_hooks) == 0
        assert len(module._forward_pre_hooks) == 0
    assert state_of(model) == before


@pytest.mark.parametrize("target", [1, [0, 2, 1], torch.tensor([0, 2, 1]), torch.tensor([1]), (1,)])
def test_a_batch_with_targets_equals_its_examples(config, target):
    """Run Captum's generated target test."""
    (algorithm,), model, arguments, *_ = parse_test_config(config)
    arguments["target"] = target
    together = algorithm(model).attribute(**arguments)
    per_example = not isinstance(target, tuple) and len(torch.as_tensor(target).flatten()) == len(together)
    for example in range(len(together)):
        one = slice(example, example + 1)
        alone = algorithm(model).attribute(
            arguments["inputs"][one],
            arguments["baselines"][one],
            target=target[example] if per_example else target,
            additional_forward_args=tuple(a[one] for a in arguments["additional_forward_args"]),
        )
        assertTensorAlmostEqual(None, alone[0], together[example], delta=1e-11, mode="max")


def test_a_target_out_of_range_raises_what_captum_raises(setting):
    forward, inputs, baselines, extra = setting
    before = state_of(forward)
    with pytest.raises(IndexError):
        TransformerDeepLift(forward).attribute(inputs, baselines, 9, extra)
    with pytest.raises(AssertionError, match="Target not provided"):
        TransformerDeepLift(forward).attribute(inputs, baselines, None, extra)
    assert state_of(forward) == before


def test_it_is_one_line_from_integrated_gradients(setting, classifier):
    forward, inputs, baselines, extra = setting
    embed = classifier.bert.embeddings.word_embeddings
    x, x0 = embed(inputs).detach(), embed(baselines).detach()
    exact, delta = TransformerDeepLift(forward).attribute(x, x0, 1, extra, return_convergence_delta=True)
    path = IntegratedGradients(forward).attribute(x, x0, 1, extra, n_steps=200)
    assert exact.shape == path.shape == x.shape
    assert delta.abs().max() < 1e-12
    # And by ids: the same, summed over the embedding.
    by_ids = TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra)
    torch.testing.assert_close(by_ids, exact.sum(-1), rtol=1e-9, atol=1e-11)
    many = TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra, n_steps=20)
    torch.testing.assert_close(many, path.sum(-1), rtol=0.02, atol=2e-3 * path.sum(-1).abs().max().item())


@pytest.mark.parametrize("n_steps", [1, 2, 5])
def test_contributions_add_up(setting, n_steps):
    forward, inputs, baselines, extra = setting
    scores, delta = TransformerDeepLift(forward).attribute(
        inputs, baselines, 1, extra, return_convergence_delta=True, n_steps=n_steps
    )
    change = change_of(forward, inputs, baselines, extra)
    torch.testing.assert_close(scores.sum(1), change, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(delta, scores.sum(1) - change, rtol=0, atol=1e-11)
    assert not scores[inputs == baselines].any()


def test_baselines_of_all_kinds(setting, classifier):
    forward, inputs, _, extra = setting
    method = TransformerDeepLift(forward)
    by_id = method.attribute(inputs, MASK_ID, 1, extra)
    torch.testing.assert_close(by_id, method.attribute(inputs, torch.full_like(inputs, MASK_ID), 1, extra))
    row = torch.full_like(inputs[:1], MASK_ID)
    torch.testing.assert_close(by_id, method.attribute(inputs, row, 1, extra))
    x = classifier.bert.embeddings.word_embeddings(inputs).detach()
    torch.testing.assert_close(
        method.attribute(x, None, 1, extra), method.attribute(x, torch.zeros_like(x), 1, extra)
    )


def test_ids_without_a_baseline_raise_with_advice(setting):
    forward, inputs, _, extra = setting
    with pytest.raises(ValueError, match=r"EncoderForward\.masked"):
        TransformerDeepLift(forward).attribute(inputs, target=1, additional_forward_args=extra)


def test_the_masked_baseline_keeps_special_tokens_and_masks_unknown_words(tmp_path, classifier):
    save_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    batch = tokenizer(["a zebra film", "good"], padding=True, return_tensors="pt")
    assert tokenizer.unk_token_id in batch["input_ids"]
    found = EncoderForward(classifier).masked(batch, tokenizer)
    names = [tokenizer.convert_ids_to_tokens(row) for row in found.tolist()]
    assert names == [
        ["[CLS]", "[MASK]", "[MASK]", "[MASK]", "[SEP]"],
        ["[CLS]", "[MASK]", "[SEP]", "[PAD]", "[PAD]"],
    ]


@pytest.mark.parametrize(
    ("baselines", "message"),
    [
        (torch.zeros(3, 2).long(), "do not fit inputs"),
        (torch.zeros(2, 6).long(), "do not fit inputs"),
        ((1, 2), "2 baselines for 1 inputs"),
    ],
)
def test_baselines_that_do_not_fit_are_rejected(setting, baselines, message):
    forward, inputs, _, extra = setting
    with pytest.raises(ValueError, match=message):
        TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra)


def test_less_than_one_segment_is_rejected(setting):
    forward, inputs, baselines, extra = setting
    with pytest.raises(ValueError, match="n_steps is 0"):
        TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra, n_steps=0)


def test_tuples_in_tuples_out(setting):
    forward, inputs, baselines, extra = setting
    method = TransformerDeepLift(forward)
    (scores,) = method.attribute((inputs,), (baselines,), 1, extra)
    assert torch.equal(scores, method.attribute(inputs, baselines, 1, extra))


def test_several_inputs_and_encoders_of_one_function():
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**SMALL, "num_hidden_layers": 2, "eos_token_id": 59},
        vision_config={**SMALL, "num_hidden_layers": 2, "image_size": 8, "patch_size": 4},
        projection_dim=16,
    )
    model = randomize(CLIPModel(config).double())
    ids = torch.randint(5, 59, (2, 6))
    ids[:, -1] = 59
    pixels = torch.randn(2, 3, 8, 8, dtype=torch.float64)

    def similarity(ids, pixels):
        output = model(input_ids=ids, pixel_values=pixels)
        return torch.cosine_similarity(output.text_embeds, output.image_embeds)

    base = ids.clone()
    base[:, 1:-1] = 4
    of_text, of_image = TransformerDeepLift(similarity, model).attribute((ids, pixels), (base, 0.0))
    assert (of_text.shape, of_image.shape) == (ids.shape, pixels.shape)
    change = similarity(ids, pixels) - similarity(base, 0 * pixels)
    torch.testing.assert_close(
        of_text.sum(1) + of_image.flatten(1).sum(1), change.detach(), rtol=1e-8, atol=1e-10
    )


def test_two_texts_of_one_model():
    torch.manual_seed(0)
    model = randomize(AlbertModel(AlbertConfig(**SMALL, embedding_size=12)).double())
    one, other = torch.randint(5, 60, (2, 6)), torch.randint(5, 60, (2, 9))

    def similarity(one, other):
        sides = [model(input_ids=ids).last_hidden_state.mean(1) for ids in (one, other)]
        return torch.cosine_similarity(*sides)

    both = TransformerDeepLift(similarity, model).attribute((one, other), (4, 4))
    change = similarity(one, other) - similarity(torch.full_like(one, 4), torch.full_like(other, 4))
    torch.testing.assert_close(both[0].sum(1) + both[1].sum(1), change.detach(), rtol=1e-8, atol=1e-10)


def test_ids_of_several_texts_an_example():
    torch.manual_seed(0)
    model = randomize(BertForSequenceClassification(BertConfig(**SMALL, num_labels=1)).double())

    def choices(ids):
        return model(ids.view(-1, ids.shape[-1])).logits.view(ids.shape[:2])

    ids = torch.randint(5, 60, (2, 3, 5))
    scores = TransformerDeepLift(choices, model).attribute(ids, 4, target=2)
    assert scores.shape == ids.shape
    assert not scores[:, :2].any()
    alone = TransformerDeepLift(model_logits(model), model).attribute(ids[:, 2], 4, target=0)
    torch.testing.assert_close(scores[:, 2], alone, rtol=1e-9, atol=1e-11)


def model_logits(model):
    return lambda ids: model(ids).logits


def test_all_classes_from_one_run(setting):
    forward, inputs, baselines, extra = setting
    method = TransformerDeepLift(forward)
    classes = method.attribute_classes(inputs, baselines, extra)
    assert classes.shape == (3, 3, inputs.shape[1])
    for target in range(3):
        torch.testing.assert_close(classes[:, target], method.attribute(inputs, baselines, target, extra))


def test_a_contrast_is_the_difference_of_two_classes(setting):
    forward, inputs, baselines, extra = setting
    method = TransformerDeepLift(forward)
    why = TransformerDeepLift(Contrast(forward, 2, 0)).attribute(inputs, baselines, None, extra)
    classes = method.attribute_classes(inputs, baselines, extra)
    torch.testing.assert_close(why, classes[:, 2] - classes[:, 0], rtol=1e-9, atol=1e-11)


def test_each_depth_adds_up_to_the_same(setting, classifier):
    forward, inputs, baselines, extra = setting
    method = TransformerDeepLift(forward)
    depths = method.attribute_layers(inputs, baselines, 1, extra)
    layers = classifier.config.num_hidden_layers
    assert depths.shape == (3, layers + 1, inputs.shape[1])
    change = change_of(forward, inputs, baselines, extra)
    torch.testing.assert_close(depths.sum(-1), change[:, None].expand(3, layers + 1), rtol=1e-9, atol=1e-11)
    # The head reads [CLS] alone, so that at the end all of it is there.
    assert not depths[:, -1, 1:].any()
    # What enters layer 1 is normed word by word.
    torch.testing.assert_close(
        depths[:, 0], method.attribute(inputs, baselines, 1, extra), rtol=1e-9, atol=1e-11
    )


def test_depths_of_a_shared_layer_and_of_a_model_without_a_spec(gpt):
    torch.manual_seed(0)
    albert = randomize(AlbertModel(AlbertConfig(**SMALL, embedding_size=12)).double())
    ids = torch.randint(5, 60, (2, 6))
    forward = EncoderForward(albert, (), "pooler_output")
    assert TransformerDeepLift(forward).attribute_layers(ids, 4, 1).shape == (2, 4, 6)
    depths = TransformerDeepLift(EncoderForward(gpt, ())).attribute_layers(ids, 4, (5, 1))
    assert depths.shape == (2, 3, 6)
    with pytest.raises(ValueError, match="pass the module"):
        TransformerDeepLift(model_logits(gpt)).attribute_layers(ids, 4, (5, 1))
    with pytest.raises(ValueError, match="no layers"):
        TransformerDeepLift(nn.Linear(3, 2)).attribute_layers(torch.ones(1, 3), None, 1)


@pytest.fixture
def gpt():
    from outsiders import OUTSIDERS

    row = OUTSIDERS["llama"]
    return row.make()


def test_nothing_of_the_size_of_all_pairs_of_tokens_is_kept():
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**{**SMALL, "max_position_embeddings": 2048})).eval()
    ids = torch.randint(5, 60, (1, 2048))
    kept = []

    def there():
        gc.collect()
        return [it for it in gc.get_objects() if isinstance(it, torch.Tensor)]

    others = there()  # of whatever ran before
    known = set(map(id, others))

    def function(ids):
        logits = model(ids).logits
        kept.append(max(it.numel() for it in there() if id(it) not in known))
        return logits

    TransformerDeepLift(function, model).attribute(ids, 4, target=1)
    # One activation of a feed-forward layer is the largest there is.
    assert max(kept) < 2048 * 2048 / 10


class TestSafety:
    def test_the_model_is_as_it_was(self, setting, classifier):
        forward, inputs, baselines, extra = setting
        classifier.bert.encoder.layer[0].register_forward_hook(lambda *_: None)
        classifier.bert.embeddings.requires_grad_(False)
        before = state_of(forward)
        method = TransformerDeepLift(forward)
        with torch.no_grad():
            method.attribute(inputs, baselines, 1, extra, n_steps=2)
            method.attribute_layers(inputs, baselines, 1, extra)
            method.attribute_classes(inputs, baselines, extra)
        assert state_of(forward) == before
        assert all(parameter.grad is None for parameter in classifier.parameters())

    @pytest.mark.parametrize("when", [0, 1, 2])
    def test_an_error_in_the_middle(self, setting, classifier, when):
        forward, inputs, baselines, extra = setting
        calls = []

        def fail(*_):
            calls.append(1)
            if len(calls) > when:
                raise KeyError("mine")

        handle = classifier.bert.encoder.layer[1].register_forward_hook(fail)
        before = state_of(forward)
        with pytest.raises(KeyError, match="mine"):
            TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra)
        assert state_of(forward) == before
        handle.remove()
        TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra)

    def test_two_threads_on_one_model(self, setting):
        forward, inputs, baselines, extra = setting
        expected = TransformerDeepLift(forward).attribute_classes(inputs, baselines, extra)
        found = {}

        def work(target):
            method = TransformerDeepLift(forward)
            found[target] = [method.attribute(inputs, baselines, target, extra) for _ in range(10)]

        threads = [threading.Thread(target=work, args=(target,)) for target in (0, 1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for target, results in found.items():
            assert all(torch.allclose(result, expected[:, target], rtol=1e-10) for result in results)

    def test_dropout_is_warned_of_and_the_same_in_both_runs(self, setting, classifier):
        forward, inputs, baselines, extra = setting
        classifier.train()
        with pytest.warns(UserWarning, match="training mode"):
            _, delta = TransformerDeepLift(forward).attribute(
                inputs, baselines, 1, extra, return_convergence_delta=True
            )
        assert delta.abs().max() < 1e-10
        assert classifier.training

    def test_a_rule_that_is_wrong_is_caught_by_the_sum(self, setting, monkeypatch):
        forward, inputs, baselines, extra = setting
        monkeypatch.setitem(EXACT, torch.nn.functional.layer_norm, Row(LINEAR))
        with pytest.raises(RuntimeError, match=r"example \d sum to"):
            TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra)

    def test_a_rule_for_another_function_is_caught_by_the_output(self, setting, monkeypatch):
        forward, inputs, baselines, extra = setting

        def another(depends, query, key, value, *_, **__):
            return value

        monkeypatch.setitem(EXACT, torch.nn.functional.scaled_dot_product_attention, Row(LINEAR, another))
        with pytest.raises(RuntimeError, match="output at the baseline|output at the input"):
            TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra)

    def test_a_function_that_draws_at_random_is_caught(self, setting):
        forward, inputs, baselines, extra = setting
        drawn = iter(range(100))

        def noisy(*arguments):
            return forward(*arguments) * (1 + next(drawn))

        with pytest.raises(RuntimeError, match="sum to|Recording changes"):
            TransformerDeepLift(noisy, forward).attribute(inputs, baselines, 1, extra)

    def test_examples_that_depend_on_each_other_are_caught(self):
        with pytest.raises(RuntimeError, match="sum to"):
            TransformerDeepLift(lambda x: (x - x.mean(0)).exp()).attribute(torch.randn(3, 2), target=1)

    def test_outputs_that_are_not_finite_are_rejected(self):
        with pytest.raises(ValueError, match="NaN or infinite"):
            TransformerDeepLift(lambda x: x.log()).attribute(-torch.ones(2, 3), torch.ones(2, 3), target=0)


class TestKinds:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_in_every_precision_contributions_are_those_of_single(self, setting, classifier, dtype):
        _, inputs, baselines, extra = setting
        half = classifier.to(dtype)
        whole = copy.deepcopy(half).float()
        scores, delta = TransformerDeepLift(EncoderForward(half)).attribute(
            inputs, baselines, 1, extra, return_convergence_delta=True
        )
        expected = TransformerDeepLift(EncoderForward(whole)).attribute(inputs, baselines, 1, extra)
        assert scores.dtype is torch.float32
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
        assert delta.abs().max() < 1e-4
        assert next(half.parameters()).dtype is dtype

    def test_under_autocast(self, setting, classifier):
        forward, inputs, baselines, extra = setting
        classifier.float()
        expected = TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra)
        with torch.autocast("cpu", torch.bfloat16):
            scores = TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra)
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("learns", [True, False])
    def test_adapters(self, setting, classifier, learns):
        _, inputs, baselines, extra = setting
        adapted = get_peft_model(
            classifier, LoraConfig(target_modules=["query", "value"], r=2, init_lora_weights=False)
        )
        adapted.double().requires_grad_(learns)
        forward = EncoderForward(adapted)
        scores = TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra)
        torch.testing.assert_close(
            scores.sum(1), change_of(forward, inputs, baselines, extra), rtol=1e-9, atol=1e-11
        )

    @pytest.mark.parametrize("implementation", ["eager", "sdpa", "flex_attention"])
    def test_every_attention_implementation_scores_alike(self, setting, classifier, implementation):
        forward, inputs, baselines, extra = setting
        expected = TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra)
        classifier.config._attn_implementation_internal = implementation
        scores = TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra)
        torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-11)
        assert classifier.config._attn_implementation == implementation

    def test_compiled_models_run_uncompiled(self, setting, classifier):
        _, inputs, baselines, extra = setting
        expected = TransformerDeepLift(EncoderForward(classifier)).attribute(inputs, baselines, 1, extra)
        classifier.bert.encoder.layer[0].compile(fullgraph=True)
        scores = TransformerDeepLift(EncoderForward(classifier)).attribute(inputs, baselines, 1, extra)
        torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-11)

    def test_an_output_object_needs_a_wrapper(self, classifier, batch):
        with pytest.raises(TypeError, match="EncoderForward"):
            TransformerDeepLift(lambda ids: classifier(ids), classifier).attribute(
                batch["input_ids"], MASK_ID, 1
            )

    def test_a_function_without_a_look_up_is_rejected(self):
        weights = torch.randn(10, 3)
        with pytest.raises(RuntimeError, match="never looked up"):
            TransformerDeepLift(lambda ids: weights[ids].sum(1)).attribute(torch.tensor([[1, 2]]), 0, 1)

    def test_a_model_that_is_not_a_module_is_rejected(self):
        with pytest.raises(TypeError, match="not a module"):
            TransformerDeepLift(len, model="bert")


class TestCaptum:
    def test_what_captum_asks_of_a_method(self, setting):
        method = TransformerDeepLift(setting[0])
        assert method.get_name() == "TransformerDeepLift"
        assert method.multiplies_by_inputs
        assert method.has_convergence_delta()
        with pytest.raises(NotImplementedError):
            method.attribute_future()

    def test_noise_tunnel_over_embeddings(self, setting, classifier):
        forward, inputs, _, extra = setting
        x = classifier.bert.embeddings.word_embeddings(inputs).detach()
        method = TransformerDeepLift(forward)
        torch.manual_seed(0)
        noisy = NoiseTunnel(method).attribute(
            x, nt_samples=4, stdevs=1e-6, target=1, additional_forward_args=extra
        )
        torch.testing.assert_close(noisy, method.attribute(x, None, 1, extra), rtol=1e-3, atol=1e-4)

    def test_infidelity_is_lower_than_for_incomplete_methods(self, setting, classifier):
        forward, inputs, _, extra = setting
        x = classifier.bert.embeddings.word_embeddings(inputs).detach()
        errors = {}
        for name, scores in {
            "exact": TransformerDeepLift(forward).attribute(x, None, 1, extra),
            "gradient": InputXGradient(forward).attribute(x, 1, extra),
            "globenc": GlobEnc(forward).attribute(x, 1, extra),
        }.items():
            # All is taken away at once.
            errors[name] = infidelity(
                forward,
                lambda x: (torch.ones_like(x), torch.zeros_like(x)),
                x,
                scores,
                additional_forward_args=extra,
                target=1,
                n_perturb_samples=1,
            )
        assert errors["exact"].max() < 1e-18
        assert errors["gradient"].min() > 1e-4
        assert errors["globenc"].min() > 1e-4

    def test_sensitivity_of_embeddings(self, setting, classifier):
        forward, inputs, _, extra = setting
        x = classifier.bert.embeddings.word_embeddings(inputs).detach()
        value = sensitivity_max(
            TransformerDeepLift(forward).attribute, x, perturb_radius=1e-6, n_perturb_samples=2, target=1,
            additional_forward_args=extra,
        )  # fmt: skip
        assert (value < 1e-3).all()
