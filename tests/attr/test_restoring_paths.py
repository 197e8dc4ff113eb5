"""Paths through real inputs: identities of exact differences on them, and exact Shapley values."""

from dataclasses import replace
from itertools import combinations, permutations
from math import factorial

import pytest
import torch
from torch import nn
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    ViTConfig,
    ViTForImageClassification,
)

from captum_globenc import Contrast, EncoderForward, TransformerDeepLift
from captum_globenc.attr import deep_lift, paths
from captum_globenc.errors import ReconstructionError
from models import SMALL, randomize

MASK_ID = 3
RESTORE = {"path": "restore", "n_steps": 2}


@pytest.fixture
def setting(classifier, batch):
    """The classifier, three padded texts, and the same with all tokens but the first and last masked."""
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    kept = torch.zeros_like(inputs).bool()
    kept[:, 0] = True
    return forward, inputs, torch.where((inputs == 0) | kept, inputs, MASK_ID), extra


def shapley(value, features):
    """Shapley values by their definition: the mean gain of a feature over all orders, by subsets."""
    found = []
    for one in range(features):
        others = [it for it in range(features) if it != one]
        found.append(
            sum(
                factorial(size)
                * factorial(features - 1 - size)
                / factorial(features)
                * (value({*some, one}) - value({*some}))
                for size in range(features)
                for some in combinations(others, size)
            )
        )
    return torch.stack(found)


def all_orders(count, n_paths, seed):
    return [torch.tensor(order) for order in permutations(range(count))]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 20])
@pytest.mark.parametrize("n_paths", [1, 3])
def test_contributions_add_up(setting, steps, n_paths):
    forward, inputs, baselines, extra = setting
    scores, delta = TransformerDeepLift(forward).attribute(
        inputs, baselines, 1, extra, True, n_steps=steps, path="restore", n_paths=n_paths
    )
    with torch.no_grad():
        change = (forward(inputs, *extra) - forward(baselines, *extra))[:, 1]
    torch.testing.assert_close(scores.sum(1), change, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(delta, scores.sum(1) - change, rtol=0, atol=1e-11)
    # Padding, and what is the same in both texts.
    assert not scores[inputs == baselines].any()
    assert scores[inputs != baselines].all()


def test_all_orders_of_single_tokens_give_exact_shapley_values(setting, monkeypatch):
    forward, inputs, baselines, extra = setting
    inputs, baselines, extra = (inputs[:1, :7], baselines[:1, :7], tuple(it[:1, :7] for it in extra))
    monkeypatch.setattr(paths, "random_orders", all_orders)
    scores = TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra, n_steps=6, path="restore")

    def value(present):
        text = baselines.clone()
        for token in present:
            text[0, 1 + token] = inputs[0, 1 + token]
        with torch.no_grad():
            return forward(text, *extra)[0, 1]

    torch.testing.assert_close(scores[0, 1:], shapley(value, 6), rtol=1e-6, atol=1e-9)


def test_symmetric_tokens_get_the_same_on_average_and_dummies_get_nothing(monkeypatch):
    """The first two elements are interchangeable, and the last is read by nothing."""

    class Product(nn.Module):
        def forward(self, x):
            return (x[:, 0] * x[:, 1] * x[:, 2]).tanh() + x[:, 2] + 0 * x[:, 3]

    x = torch.tensor([[0.7, 0.7, -1.3, 2.0]], dtype=torch.float64)
    monkeypatch.setattr(paths, "random_orders", all_orders)
    for steps in (2, 3, 4):
        scores = TransformerDeepLift(Product()).attribute(x, 0.1, None, n_steps=steps, path="restore")
        torch.testing.assert_close(scores[0, 0], scores[0, 1], rtol=1e-12, atol=0)
        assert scores[0, 3] == 0
    monkeypatch.undo()
    scores = [
        TransformerDeepLift(Product()).attribute(x, 0.1, None, path="restore", n_steps=2, seed=seed)
        for seed in range(300)
    ]
    first, second, _, _ = torch.cat(scores).unbind(1)
    off = first - second
    # Within four standard errors of the mean over seeds; a single path does tell them apart.
    assert off.abs().max() > 0.01
    assert off.mean().abs() < 4 * off.std() / 300**0.5


def test_on_a_linear_model_every_path_is_the_same():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 2)).double()
    x = torch.randn(3, 5, dtype=torch.float64)
    method = TransformerDeepLift(model)
    straight = method.attribute(x, 0.5, 1)
    for options in ({"n_steps": 2}, {"n_steps": 5, "n_paths": 2, "seed": 7}):
        torch.testing.assert_close(method.attribute(x, 0.5, 1, path="restore", **options), straight)


def test_one_part_is_one_segment(setting):
    forward, inputs, baselines, extra = setting
    method = TransformerDeepLift(forward)
    whole = method.attribute(inputs, baselines, 1, extra)
    assert torch.equal(method.attribute(inputs, baselines, 1, extra, path="restore", n_paths=3), whole)


def test_a_seed_reproduces_and_the_global_generator_is_left_alone(setting):
    forward, inputs, baselines, extra = setting
    method = TransformerDeepLift(forward)
    before = torch.get_rng_state()
    one = method.attribute(inputs, baselines, 1, extra, **RESTORE)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert torch.equal(method.attribute(inputs, baselines, 1, extra, **RESTORE, seed=0), one)
    assert not torch.equal(method.attribute(inputs, baselines, 1, extra, **RESTORE, seed=1), one)


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize("steps", [2, 4, 7])
def test_a_batch_equals_its_examples_however_many_segments_run_together(setting, steps, at_once, monkeypatch):
    forward, inputs, baselines, extra = setting
    options = {"n_steps": steps, "path": "restore", "n_paths": 2}
    method, targets = TransformerDeepLift(forward), torch.tensor([0, 2, 1])
    monkeypatch.setattr(deep_lift, "segments_at_once", lambda *_: at_once)
    together = method.attribute(inputs, baselines, targets, extra, **options)
    for row, length in enumerate((9, 6, 4)):
        alone = method.attribute(
            inputs[row : row + 1, :length],
            baselines[row : row + 1, :length],
            int(targets[row]),
            tuple(it[row : row + 1, :length] for it in extra),
            **options,
        )
        torch.testing.assert_close(together[row, :length], alone[0], rtol=1e-9, atol=1e-12)
        assert not together[row, length:].any()


@pytest.mark.parametrize("targets", [[0, 2, 1], (2,), torch.tensor([1]), [(0,), (2,), (1,)]])
def test_targets_of_all_kinds(setting, targets):
    forward, inputs, baselines, extra = setting
    method = TransformerDeepLift(forward)
    scores = method.attribute(inputs, baselines, targets, extra, **RESTORE)
    classes = method.attribute_classes(inputs, baselines, extra, **RESTORE)
    chosen = torch.as_tensor(targets).flatten().expand(3)
    torch.testing.assert_close(scores, classes[range(3), chosen], rtol=1e-9, atol=1e-12)


def test_arguments_without_a_row_for_each_example_are_passed_as_they_are(setting):
    forward, inputs, baselines, extra = setting
    positions = torch.arange(inputs.shape[1])[None]
    by_position = EncoderForward(forward.model, ("attention_mask", "token_type_ids", "position_ids"))
    scores = TransformerDeepLift(by_position).attribute(
        inputs, baselines, 1, (extra[0], None, positions), **RESTORE
    )
    plain = TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra, **RESTORE)
    torch.testing.assert_close(scores, plain, rtol=1e-9, atol=1e-12)


def test_arguments_that_cannot_be_repeated_run_one_segment_at_a_time(setting):
    forward, inputs, baselines, extra = setting

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.forward_func = forward

        def forward(self, ids, named):
            return self.forward_func(ids, named["mask"], named["types"])

    named = {"mask": extra[0], "types": extra[1]}
    scores = TransformerDeepLift(Named()).attribute(inputs, baselines, 1, named, **RESTORE)
    # A function that holds the batch's own mask.
    held = TransformerDeepLift(lambda ids: forward(ids, *extra)).attribute(inputs, baselines, 1, **RESTORE)
    plain = TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra, **RESTORE)
    torch.testing.assert_close(scores, plain, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(held, plain, rtol=1e-9, atol=1e-12)


def test_ids_and_their_embeddings_get_the_same(setting, classifier):
    forward, inputs, baselines, extra = setting
    embed = classifier.bert.embeddings.word_embeddings
    x, x0 = embed(inputs).detach(), embed(baselines).detach()
    method, options = TransformerDeepLift(forward), {"path": "restore", "n_steps": 3, "n_paths": 2}
    by_ids = method.attribute(inputs, baselines, 1, extra, **options)
    exact = method.attribute(x, x0, 1, extra, **options)
    assert exact.shape == x.shape
    torch.testing.assert_close(by_ids, exact.sum(-1), rtol=1e-9, atol=1e-12)


def texts_seen(forward):
    """Keep the ids that a model sees."""
    seen = []
    handle = forward.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    return seen, handle


def test_every_text_on_the_path_is_made_of_tokens_of_both_texts_and_parts_are_balanced(setting):
    forward, inputs, baselines, extra = setting
    seen, handle = texts_seen(forward)
    TransformerDeepLift(forward).attribute(
        inputs[:1], baselines[:1], 1, tuple(it[:1] for it in extra), **RESTORE
    )
    handle.remove()
    texts = {tuple(it) for it in seen}
    # Baseline, half, the other half, input.
    assert len(texts) == 4
    both = [inputs[0].tolist(), baselines[0].tolist()]
    assert all(token in pair for text in texts for token, *pair in zip(text, *both, strict=True))
    assert sorted(text.count(MASK_ID) for text in texts) == [0, 4, 4, 8]


def test_a_feature_mask_keeps_words_together(setting):
    forward, inputs, baselines, extra = setting
    words = torch.tensor([[0, 1, 1, 5, 5, 5, 2, 2, 9]])
    seen, handle = texts_seen(forward)
    method = TransformerDeepLift(forward)
    scores = method.attribute(
        inputs, baselines, 1, extra, path="restore", n_steps=8, feature_mask=words, n_paths=2
    )
    handle.remove()
    for row in range(3):
        texts = torch.tensor([it for it in seen if it[0] == inputs[row, 0]])
        there = texts == inputs[row]
        for word in (1, 5, 2):
            of_word = there[:, (words[0] == word) & (inputs[row] != baselines[row])]
            assert not of_word.shape[1] or torch.equal(of_word.all(1), of_word.any(1))
    change = (forward(inputs, *extra) - forward(baselines, *extra))[:, 1].detach()
    torch.testing.assert_close(scores.sum(1), change, rtol=1e-10, atol=1e-11)
    # All orders of words: a word's tokens share the word's Shapley value.
    one = {"path": "restore", "n_steps": 4, "feature_mask": words[0]}
    again = method.attribute(inputs, baselines, 1, extra, **one)
    assert torch.equal(again, method.attribute(inputs, baselines, 1, extra, **{**one, "feature_mask": words}))


def test_words_get_their_shapley_values(setting, monkeypatch):
    forward, inputs, baselines, extra = setting
    inputs, baselines, extra = (inputs[:1, :8], baselines[:1, :8], tuple(it[:1, :8] for it in extra))
    words = torch.tensor([[0, 7, 7, 4, 4, 2, 2, 2]])
    monkeypatch.setattr(paths, "random_orders", all_orders)
    scores = TransformerDeepLift(forward).attribute(
        inputs, baselines, 1, extra, path="restore", n_steps=3, feature_mask=words
    )

    def value(present):
        there = torch.isin(words, torch.tensor([(7, 4, 2)[it] for it in present]))
        with torch.no_grad():
            return forward(torch.where(there, inputs, baselines), *extra)[0, 1]

    by_word = torch.stack([scores[words == word].sum() for word in (7, 4, 2)])
    torch.testing.assert_close(by_word, shapley(value, 3), rtol=1e-6, atol=1e-9)


def test_groups_are_shared_among_the_tensors_of_a_tuple(monkeypatch):
    class Both(nn.Module):
        def forward(self, a, b):
            return (a[:, 0] * b[:, 1] * a[:, 1]).tanh() + (a.sum(1) * b[:, 0]).sigmoid()

    torch.manual_seed(0)
    a, b = torch.randn(2, 2, 2, dtype=torch.float64).unbind(0)
    monkeypatch.setattr(paths, "random_orders", all_orders)
    masks = (torch.tensor([[0, 1]]), torch.tensor([[1, 2]]))
    options = {"path": "restore", "n_steps": 3}
    of_a, of_b = TransformerDeepLift(Both()).attribute(
        (a, b), (0.5, -0.2), None, feature_mask=masks, **options
    )

    def value(present):
        there = [torch.isin(mask, torch.tensor(sorted(present))) for mask in masks]
        return Both()(torch.where(there[0], a, 0.5), torch.where(there[1], b, -0.2))

    exact = shapley(value, 3).T
    found = torch.stack([of_a[:, 0], of_a[:, 1] + of_b[:, 0], of_b[:, 1]], 1)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-12)
    # Without a mask each element is a feature of its own.
    of_a, of_b = TransformerDeepLift(Both()).attribute((a, b), (0.5, -0.2), **{**options, "n_steps": 4})

    def value(present):
        there = torch.tensor([it in present for it in range(4)])
        return Both()(torch.where(there[:2], a, 0.5), torch.where(there[2:], b, -0.2))

    torch.testing.assert_close(torch.cat([of_a, of_b], 1), shapley(value, 4).T, rtol=1e-9, atol=1e-12)


def clip():
    config = CLIPConfig(
        text_config={**SMALL, "num_hidden_layers": 2, "eos_token_id": 59},
        vision_config={**SMALL, "num_hidden_layers": 2, "image_size": 8, "patch_size": 4},
        projection_dim=16,
    )
    return randomize(CLIPModel(config).double())


def test_ids_and_pixels_together():
    torch.manual_seed(0)
    model = clip()
    ids = torch.randint(5, 59, (2, 6))
    ids[:, -1] = 59
    base = ids.clone()
    base[:, 1:-1] = 4
    pixels = torch.randn(2, 3, 8, 8, dtype=torch.float64)

    def similarity(ids, pixels):
        output = model(input_ids=ids, pixel_values=pixels)
        return torch.cosine_similarity(output.text_embeds, output.image_embeds)

    patches = 10 + torch.arange(4).view(2, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)
    masks = (torch.arange(6)[None], patches[None, None])
    of_text, of_image = TransformerDeepLift(similarity, model).attribute(
        (ids, pixels), (base, 0.0), path="restore", n_steps=4, feature_mask=masks
    )
    change = (similarity(ids, pixels) - similarity(base, 0 * pixels)).detach()
    torch.testing.assert_close(of_text.sum(1) + of_image.flatten(1).sum(1), change, rtol=1e-8, atol=1e-10)


def vit():
    config = ViTConfig(**SMALL, image_size=8, patch_size=4, num_channels=3, num_labels=3)
    return randomize(ViTForImageClassification(config).double()), torch.randn(2, 3, 8, 8).double()


def ast():
    config = ASTConfig(
        **{key: value for key, value in SMALL.items() if key != "vocab_size"},
        num_mel_bins=8, max_length=16, patch_size=4, frequency_stride=4, time_stride=4, num_labels=3,
    )  # fmt: skip
    return randomize(ASTForAudioClassification(config).double()), torch.randn(2, 16, 8).double()


@pytest.mark.parametrize("make", [vit, ast])
def test_pixels_by_patches_and_sound_by_frames(make, monkeypatch):
    torch.manual_seed(0)
    model, x = make()
    forward = EncoderForward(model, ())
    mask = None
    if x.dim() == 4:
        mask = torch.arange(4).view(1, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    method = TransformerDeepLift(forward)
    scores = method.attribute(x, 0.0, 1, **RESTORE, feature_mask=mask)
    change = (forward(x) - forward(0 * x))[:, 1].detach()
    assert scores.shape == x.shape
    torch.testing.assert_close(scores.flatten(1).sum(1), change, rtol=1e-8, atol=1e-10)
    if mask is not None:
        monkeypatch.setattr(paths, "random_orders", all_orders)
        scores = method.attribute(x, 0.0, 1, path="restore", n_steps=4, feature_mask=mask)

        def value(present):
            there = torch.isin(mask, torch.tensor(sorted(present)))
            with torch.no_grad():
                return forward(x * there)[:, 1]

        by_patch = torch.stack([(scores * (mask == it)).flatten(1).sum(1) for it in range(4)])
        torch.testing.assert_close(by_patch, shapley(value, 4), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "options", [RESTORE, {"path": "restore", "n_steps": 3, "n_paths": 2}, {"n_steps": 3}]
)
def test_classes_layers_and_contrasts_agree_with_attribute(setting, classifier, options):
    forward, inputs, baselines, extra = setting
    method = TransformerDeepLift(forward)
    classes = method.attribute_classes(inputs, baselines, extra, **options)
    for target in range(3):
        scores = method.attribute(inputs, baselines, target, extra, **options)
        torch.testing.assert_close(classes[:, target], scores, rtol=1e-9, atol=1e-12)
    depths = method.attribute_layers(inputs, baselines, 2, extra, **options)
    assert depths.shape == (3, classifier.config.num_hidden_layers + 1, inputs.shape[1])
    assert not any(it.requires_grad for it in (classes, depths, scores))
    # What enters layer 1 is normed word by word.
    torch.testing.assert_close(depths[:, 0], classes[:, 2], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(
        depths.sum(-1), classes[:, 2].sum(-1, keepdim=True).expand(depths.shape[:2]), rtol=1e-9, atol=1e-11
    )
    why = TransformerDeepLift(Contrast(forward, 2, 0)).attribute(inputs, baselines, None, extra, **options)
    torch.testing.assert_close(why, classes[:, 2] - classes[:, 0], rtol=1e-9, atol=1e-11)


def test_the_sum_check_runs_on_every_segment(setting, monkeypatch):
    """Errors of two segments that cancel in the sum are found."""
    forward, inputs, baselines, extra = setting
    real, error = paths.SegmentRun.of_inputs, iter([0.5, -0.5])

    def wrong(self, comparison, target):
        scored = real(self, comparison, target)
        (made,) = scored.contributions
        made = made.clone()
        made[:, 1] += next(error)
        return replace(scored, contributions=(made,))

    monkeypatch.setattr(paths.SegmentRun, "of_inputs", wrong)
    with pytest.raises(ReconstructionError):
        TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra, **RESTORE)


def test_equal_texts_and_texts_with_fewer_features_than_parts(setting):
    forward, inputs, baselines, extra = setting
    method = TransformerDeepLift(forward)
    assert not method.attribute(inputs, inputs, 1, extra, **RESTORE).any()
    some = inputs.clone()
    some[0] = baselines[0]
    some[1, 3:] = baselines[1, 3:]
    scores = method.attribute(some, baselines, 1, extra, path="restore", n_steps=5)
    assert not scores[0].any()
    change = (forward(some, *extra) - forward(baselines, *extra))[:, 1].detach()
    torch.testing.assert_close(scores.sum(1), change, rtol=1e-10, atol=1e-11)


def test_dropout_is_the_same_in_all_segments(setting):
    forward, inputs, baselines, extra = setting
    forward.train()
    with pytest.warns(UserWarning, match="dropout is active"):
        scores, delta = TransformerDeepLift(forward).attribute(inputs, baselines, 1, extra, True, **RESTORE)
    assert delta.abs().max() < 1e-9 * scores.abs().max()


def test_padding_that_a_mask_covers_or_a_baseline_brings_is_not_warned_of(recwarn):
    """Half-restored texts may end in the baseline's padding tokens, which is no padding of the input."""
    torch.manual_seed(0)
    model = randomize(BertForSequenceClassification(BertConfig(**SMALL, num_labels=2, pad_token_id=0)))
    ids = torch.randint(5, 60, (2, 7))
    TransformerDeepLift(EncoderForward(model)).attribute(ids, 0, 1, path="restore", n_steps=3)
    assert not [it for it in recwarn if "padding" in str(it.message)]


def test_a_decoder_without_a_padding_token_takes_one_segment_at_a_time():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=60, n_embd=24, n_layer=2, n_head=4, num_labels=2, pad_token_id=None)
    model = randomize(AutoModelForSequenceClassification.from_config(config).double())
    ids = torch.randint(5, 60, (1, 7))
    scores, delta = TransformerDeepLift(EncoderForward(model)).attribute(ids, 4, 1, None, True, **RESTORE)
    assert delta.abs().max() < 1e-9
    assert scores.all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "curved"}, "choose one of straight, restore"),
        ({"n_paths": 2}, 'need path="restore"'),
        ({"feature_mask": torch.zeros(1, 9).long()}, 'need path="restore"'),
        ({"path": "restore", "n_paths": 0}, "n_paths is 0"),
        ({"path": "restore", "n_steps": 0}, "n_steps is 0"),
        ({"path": "restore", "feature_mask": torch.zeros(1, 8).long()}, "does not broadcast"),
        ({"path": "restore", "feature_mask": torch.zeros(1, 9)}, "tensor of integers"),
        ({"path": "restore", "feature_mask": (torch.zeros(1, 9).long(),) * 2}, "2 feature masks for 1"),
    ],
)
def test_bad_options_are_rejected(setting, options, message):
    forward, inputs, baselines, extra = setting
    method = TransformerDeepLift(forward)
    for call in (method.attribute, method.attribute_layers):
        with pytest.raises(ValueError, match=message):
            call(inputs, baselines, 1, extra, **options)


def test_inputs_of_different_batch_sizes_are_rejected():
    method = TransformerDeepLift(lambda a, b: (a * b).sum(1))
    with pytest.raises(ValueError, match="first dimensions are 2, 1"):
        method.attribute((torch.ones(2, 3), torch.ones(1, 3)), path="restore", n_steps=2)
