"""The methods that explain texts, compared with plain calls of the model."""

import json
import re

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForSequenceClassification,
    EsmConfig,
    EsmForSequenceClassification,
    EsmTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    LongformerConfig,
    LongformerForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from captum_globenc.texts import explain
from captum_globenc.texts.methods import MAIN_METHODS
from captum_globenc.texts.methods.captums import INTEGRATION_STEPS
from checkpoints import VOCABULARY, save_classifier, save_tokenizer

TEXTS = ["the plot is bad", "unhappy but not bad , great script !", "good"]
NAMES = ("NEGATIVE", "POSITIVE")
SIGNED = ("transformer-deep-lift", "integrated-gradients")
ONE = {"num_labels": 1, "id2label": {0: "STARS"}, "label2id": {"STARS": 0}}
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}


@pytest.fixture
def classifier(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return model.double(), AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def tokenizer(tmp_path):
    save_tokenizer(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


def logits(model, tokenizer, text, baseline=None, pair=None):
    """The logits of one text, or of its baseline, from plain calls of the model."""
    batch = tokenizer(text, pair, return_tensors="pt")
    if baseline is None:
        return model(**batch).logits[0]
    ids = batch.pop("input_ids")
    special = torch.isin(ids, torch.tensor([2, 3]))
    table = model.get_input_embeddings().weight
    if baseline in ("zero", "mean"):
        vector = table.mean(0) * (baseline == "mean")
        embeddings = torch.where(special[..., None], table[ids], vector)
    else:
        blank = {"mask": tokenizer.mask_token_id, "pad": tokenizer.pad_token_id}[baseline]
        embeddings = model.get_input_embeddings()(torch.where(special, ids, blank))
    return model(**batch, inputs_embeds=embeddings).logits[0]


def asked(values, target, against):
    values = values[NAMES.index(target)] - (0 if against is None else values[NAMES.index(against)])
    return values.item()


@pytest.mark.parametrize("baseline", ["mask", "mean", "pad", "zero"])
@pytest.mark.parametrize(
    ("target", "against"),
    [(None, None), ("POSITIVE", None), (0, None), ("negative", "POSITIVE"), ("POSITIVE", 0)],
)
@pytest.mark.parametrize("pair", [None, "great film"])
def test_signed_scores_sum_to_the_difference_of_plain_calls(classifier, baseline, target, against, pair):
    options = {"target": target, "against": against, "baseline": baseline, "pair": pair}
    for explanation in explain(TEXTS, *classifier, methods=SIGNED, **options):
        values = logits(*classifier, explanation.text, pair=pair)
        one = (
            NAMES[int(values.argmax())]
            if target is None
            else {"negative": "NEGATIVE", 0: "NEGATIVE"}.get(target, target)
        )
        other = {0: "NEGATIVE"}.get(against, against)
        assert (explanation.target, explanation.against) == (one, other)
        whole = asked(values, one, other)
        assert explanation.explained == pytest.approx(whole, abs=1e-5)
        change = whole - asked(logits(*classifier, explanation.text, baseline, pair), one, other)
        exact, integrated = (explanation.scores[name] for name in SIGNED)
        assert sum(exact) == pytest.approx(change, abs=1e-6)
        assert sum(integrated) == pytest.approx(change, abs=0.1)
        # Special tokens are as they were.
        kept = [i for i, token in enumerate(explanation.tokens) if token in ("[CLS]", "[SEP]")]
        assert [exact[i] for i in kept] == [integrated[i] for i in kept] == [0] * len(kept)


def test_a_contrast_class_gives_the_difference_of_both(classifier):
    names = ["transformer-deep-lift", "decompx"]
    both = explain(TEXTS, *classifier, target="POSITIVE", against="NEGATIVE", methods=names)
    one = explain(TEXTS, *classifier, target="POSITIVE", methods=names)
    other = explain(TEXTS, *classifier, target="NEGATIVE", methods=names)
    for name in names:
        for whole, first, second in zip(both, one, other, strict=True):
            expected = [a - b for a, b in zip(first.scores[name], second.scores[name], strict=True)]
            assert whole.scores[name] == pytest.approx(expected, abs=1e-9)


def test_integrated_gradients_equal_the_sum_written_out(classifier):
    model, tokenizer = classifier
    (explanation,) = explain(TEXTS[:1], model, tokenizer, methods=["integrated-gradients"], target=1)
    batch = tokenizer(TEXTS[0], return_tensors="pt")
    ids = batch.pop("input_ids")
    masked = ids.clone()
    masked[:, 1:-1] = tokenizer.mask_token_id
    end, start = (model.get_input_embeddings()(each).detach() for each in (ids, masked))
    # Gauss and Legendre's nodes, which Captum takes as well.
    import numpy

    places, weights = numpy.polynomial.legendre.leggauss(50)
    total = torch.zeros_like(end)
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        point = (start + place * (end - start)).requires_grad_()
        model(**batch, inputs_embeds=point).logits[0, 1].backward()
        total += weight * point.grad
    expected = (total * (end - start)).sum(-1)[0].tolist()
    assert INTEGRATION_STEPS == 50
    assert explanation.scores["integrated-gradients"] == pytest.approx(expected, abs=1e-5)


def test_sums_of_contributions_are_stated(classifier):
    for explanation in explain(TEXTS, *classifier, target="NEGATIVE", methods=MAIN_METHODS):
        (said,) = explanation.sums.values()
        assert list(explanation.sums) == ["transformer-deep-lift"]
        assert re.fullmatch(r"-?[\d.]+ baseline [+-] [\d.]+ tokens = -?[\d.]+ logit of NEGATIVE", said)
        left, sign, tokens, right = re.findall(r"-?[\d.]+|[+-]", said)[:4]
        baseline = logits(*classifier, explanation.text, "mask")[0].item()
        change = explanation.explained - baseline
        assert float(left) == pytest.approx(baseline, abs=0.011)
        assert float(tokens) * (-1 if sign == "-" else 1) == pytest.approx(change, abs=0.006)
        assert float(right) == pytest.approx(explanation.explained, abs=0.006)
    (held,) = explain(TEXTS[:1], *classifier, target="NEGATIVE", against="POSITIVE")
    assert held.sums["transformer-deep-lift"].endswith(" logit of NEGATIVE minus POSITIVE")


def test_headline_and_captions_name_the_explained_output(classifier):
    (plain,) = explain(TEXTS[:1], *classifier)
    other = NAMES[1 - NAMES.index(plain.prediction)]
    assert plain.headline == f"{plain.prediction} ({plain.probability:.1%})"
    assert plain.captions == {
        "globenc": "share of each token in the representation of [CLS]",
        "transformer-deep-lift": f"supports or opposes {plain.prediction}",
    }
    assert plain.units == {"globenc": "%", "transformer-deep-lift": "logit"}
    (chosen,) = explain(TEXTS[:1], *classifier, target=other.lower(), position="mean")
    assert chosen.headline == f"{plain.headline}, explained: {other}"
    assert chosen.captions["globenc"] == "share of each token in the mean representation of all tokens"
    (held,) = explain(TEXTS[:1], *classifier, against=other, position=-2)
    assert held.headline == f"{plain.headline}, explained: {plain.prediction} rather than {other}"
    assert held.captions == {
        "globenc": "share of each token in the representation of bad",
        "transformer-deep-lift": f"supports or opposes {plain.prediction} rather than {other}",
    }
    (shares,) = explain(TEXTS[:1], *classifier, target=other, methods=["globenc"])
    assert shares.headline == plain.headline
    assert shares.sums == {}


def test_probabilities_are_those_of_all_classes(classifier):
    for explanation in explain(TEXTS, *classifier):
        expected = logits(*classifier, explanation.text).softmax(-1).tolist()
        assert list(explanation.probabilities) == list(NAMES)
        assert list(explanation.probabilities.values()) == pytest.approx(expected, abs=1e-6)
        assert explanation.probability == explanation.probabilities[explanation.prediction]


def test_exact_differences_have_the_same_sum_at_every_depth(classifier):
    for explanation in explain(TEXTS, *classifier, layers=True, target="POSITIVE", baseline="zero"):
        rows, scores = (
            explanation.layers["transformer-deep-lift"],
            explanation.scores["transformer-deep-lift"],
        )
        assert [len(row) for row in rows] == [len(explanation.tokens)] * 3
        assert rows[0] == pytest.approx(scores, abs=1e-9)
        for row in rows:
            assert sum(row) == pytest.approx(sum(scores), abs=1e-9)


@pytest.mark.parametrize("baseline", ["mask", "zero"])
def test_texts_that_run_some_at_a_time_have_the_same_scores(classifier, monkeypatch, baseline):
    options = {"methods": MAIN_METHODS, "layers": True, "baseline": baseline, "against": None, "target": 1}
    together = explain(TEXTS, *classifier, **options)
    monkeypatch.setattr("captum_globenc.texts.request.TOKENS_AT_ONCE", 17)
    for whole, part in zip(together, explain(TEXTS, *classifier, **options), strict=True):
        for name in MAIN_METHODS:
            assert part.scores[name] == pytest.approx(whole.scores[name], abs=1e-9)
        for rows, others in zip(*(it.layers["transformer-deep-lift"] for it in (whole, part)), strict=True):
            assert rows == pytest.approx(others, abs=1e-9)


def test_the_json_holds_all_of_it(classifier):
    (explanation,) = explain(TEXTS[:1], *classifier, layers=True, target=1, against=0, methods=MAIN_METHODS)
    read = json.loads(json.dumps(explanation.to_dict(), allow_nan=False))
    assert read["scores"] == explanation.scores
    assert read["layers"] == explanation.layers
    assert list(read["scores"]) == list(MAIN_METHODS)
    assert (read["target"], read["against"], read["explained"]) == (
        "POSITIVE",
        "NEGATIVE",
        explanation.explained,
    )
    assert read["probabilities"] == explanation.probabilities
    assert read["position"] == 0
    assert read["sums"] == explanation.sums


def test_globenc_alone_runs_no_method_with_a_class(classifier, monkeypatch):
    def fail(*_, **__):
        raise AssertionError

    monkeypatch.setattr("captum_globenc.texts.request.TransformerDeepLift", fail)
    (explanation,) = explain(TEXTS[:1], *classifier, methods=["globenc"], layers=True)
    assert list(explanation.scores) == list(explanation.layers) == ["globenc"]


def test_a_prediction_cannot_be_contrasted_with_itself(classifier):
    (explanation,) = explain(TEXTS[:1], *classifier)
    with pytest.raises(ValueError, match="is the predicted class of 'the plot is bad'.*choose a target"):
        explain(TEXTS[:1], *classifier, against=explanation.prediction)


@pytest.mark.parametrize(
    "config",
    [
        {"num_labels": 1, "id2label": {0: "STARS"}, "label2id": {"STARS": 0}},
        {"problem_type": "regression"},
        {
            "num_labels": 1,
            "id2label": {0: "X"},
            "label2id": {"X": 0},
            "problem_type": "multi_label_classification",
        },
    ],
)
def test_a_regression_has_no_contrast_class(tmp_path, config):
    folder = save_classifier(tmp_path, **config)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match="there is no contrast class"):
        explain(TEXTS, *loaded, against=0)
    (explanation,) = explain(TEXTS[:1], *loaded)
    if explanation.probability is None:
        assert explanation.probabilities == {}
        assert explanation.sums["transformer-deep-lift"].endswith(f" tokens = {explanation.value:.2f} value")
        assert explanation.captions["transformer-deep-lift"] == (
            f"supports or opposes a higher value of {explanation.prediction}"
        )
        assert explanation.units["transformer-deep-lift"] == "value"


def test_an_unknown_word_is_not_part_of_the_baseline(classifier):
    for explanation in explain(["the zebra is bad"], *classifier, methods=SIGNED):
        assert explanation.tokens[2] == "[UNK]"
        assert all(row[2] != 0 for row in explanation.scores.values())


def test_a_special_token_that_somebody_typed_is_a_word(classifier):
    (explanation,) = explain(["the [SEP] film"], *classifier, methods=SIGNED)
    assert explanation.tokens == ["[CLS]", "the", "[SEP]", "film", "[SEP]"]
    for row in explanation.scores.values():
        assert row[2] != 0
        assert row[0] == row[4] == 0


def test_without_a_padding_token_the_baseline_pad_is_rejected(classifier):
    model, tokenizer = classifier
    tokenizer.pad_token = None
    for name in SIGNED:
        with pytest.raises(ValueError, match="no padding token: choose another baseline, mask, mean or zero"):
            explain(TEXTS[:1], model, tokenizer, baseline="pad", methods=[name])


def gpt2(**config):
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24, "initializer_range": 0.6}
    return GPT2ForSequenceClassification(GPT2Config(vocab_size=len(VOCABULARY), **shape, **config, **LABELS))


def llama(**config):
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    shape = {**shape, "initializer_range": 0.6}
    return LlamaForSequenceClassification(
        LlamaConfig(vocab_size=len(VOCABULARY), **shape, **config, **LABELS)
    )


@pytest.mark.parametrize(("make", "precision"), [(gpt2, 1e-5), (llama, 1e-3)])  # float32 in its norms
@pytest.mark.parametrize("pad", [0, None])
@pytest.mark.parametrize("baseline", ["mask", "mean", "zero", "pad"])
@pytest.mark.parametrize("mask_token", ["[MASK]", None])
def test_a_model_that_globenc_rejects_has_exact_differences(
    tokenizer, make, precision, pad, baseline, mask_token
):
    torch.manual_seed(0)
    model = make(pad_token_id=pad).eval().double()
    tokenizer.mask_token = mask_token
    with pytest.warns(UserWarning, match="globenc is left out: No supported encoder found") as told:
        found = explain(TEXTS, model, tokenizer, baseline=baseline)
    assert len(told) == 1
    for explanation in found:
        assert list(explanation.scores) == ["transformer-deep-lift"]
        assert explanation.position is None
        values = model(**tokenizer(explanation.text, return_tensors="pt")).logits[0]
        assert explanation.prediction == NAMES[int(values.argmax())]
        assert explanation.explained == pytest.approx(values.max().item(), abs=1e-5)
        # Without padding, a model may be given embeddings.
        shown = "mean" if baseline == "mask" and mask_token is None else baseline
        assert explanation.settings["baseline"] == shown
        start = logits(model, tokenizer, explanation.text, shown)[int(values.argmax())].item()
        total = sum(explanation.scores["transformer-deep-lift"])
        assert total == pytest.approx(values.max().item() - start, abs=precision)
    (named,) = explain(TEXTS[:1], model, tokenizer, methods=["transformer-deep-lift"], baseline=baseline)
    assert named.scores["transformer-deep-lift"] == pytest.approx(
        found[0].scores["transformer-deep-lift"], abs=1e-9
    )
    with pytest.raises(ValueError, match="No supported encoder found"):
        explain(TEXTS, model, tokenizer, methods=["globenc", "transformer-deep-lift"])


@pytest.mark.parametrize("baseline", ["mask", "mean", "pad", "zero"])
def test_padding_of_a_models_own_stays_where_it_is(tokenizer, baseline):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    shape = {**shape, "initializer_range": 0.6, "max_position_embeddings": 40, "pad_token_id": 0}
    config = LongformerConfig(vocab_size=len(VOCABULARY), attention_window=4, **shape, **LABELS)
    model = LongformerForSequenceClassification(config).eval().double()
    # In no text; the padding's own id would change positions as well.
    stand_in, table = len(VOCABULARY) - 1, model.get_input_embeddings().weight.data
    table[stand_in] = {
        "mask": table[4],
        "mean": table[:stand_in].mean(0),  # which leaves the mean as it is
        "pad": table[0],
        "zero": torch.zeros(16),
    }[baseline]
    options = {"methods": ["transformer-deep-lift"], "baseline": baseline, "target": 1}
    for text, explanation in zip(TEXTS, explain(TEXTS, model, tokenizer, **options), strict=True):
        batch = tokenizer(text, return_tensors="pt")
        end = model(**batch).logits[0, 1].item()
        ids = batch["input_ids"]
        batch["input_ids"] = torch.where((ids == 2) | (ids == 3), ids, stand_in)
        start = model(**batch).logits[0, 1].item()
        assert sum(explanation.scores["transformer-deep-lift"]) == pytest.approx(end - start, abs=1e-5)


BIAS_FREE = {
    "llama": (LlamaConfig, LlamaForSequenceClassification),
    "mistral": (MistralConfig, MistralForSequenceClassification),
    "qwen3": (Qwen3Config, Qwen3ForSequenceClassification),
}


@pytest.mark.parametrize("kind", BIAS_FREE)
@pytest.mark.parametrize("special", [True, False])
def test_without_a_mask_token_norms_without_a_bias_are_regular_at_the_default_baseline(
    tokenizer, kind, special
):
    """In float32 and 12 layers deep. At zero, contributions are 1e8 times the difference or more."""
    torch.manual_seed(0)
    config, make = BIAS_FREE[kind]
    shape = {"hidden_size": 32, "num_hidden_layers": 12, "num_attention_heads": 4, "intermediate_size": 64}
    shape |= {"head_dim": 8, "num_key_value_heads": 4, "pad_token_id": 0}
    model = make(config(vocab_size=len(VOCABULARY), **shape, **LABELS)).eval()
    tokenizer.mask_token = None
    if not special:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing("$A", "$A $B:1")
    for it in explain(TEXTS, model, tokenizer, methods=SIGNED):
        ids = tokenizer(it.text, return_tensors="pt")["input_ids"]
        table = model.get_input_embeddings().weight
        kept = torch.isin(ids, torch.tensor([2, 3]))[..., None]
        with torch.no_grad():
            whole = model(input_ids=ids).logits
            start = model(inputs_embeds=torch.where(kept, table[ids], table.mean(0))).logits
        change = (whole - start)[0, NAMES.index(it.target)].item()
        exact, integrated = (it.scores[name] for name in SIGNED)
        assert sum(exact) == pytest.approx(change, abs=1e-5)
        assert sum(map(abs, exact)) < 100 * abs(change)
        assert sum(integrated) == pytest.approx(change, abs=0.1 * abs(change) + 1e-3)


@pytest.mark.parametrize("pad", [0, None])
def test_integrated_gradients_hold_for_decoders(tokenizer, pad):
    torch.manual_seed(1)
    model = gpt2(pad_token_id=pad).eval().double()
    for explanation in explain(TEXTS, model, tokenizer, methods=["integrated-gradients"], target=1):
        ends = [logits(model, tokenizer, explanation.text, how)[1].item() for how in (None, "mask")]
        assert sum(explanation.scores["integrated-gradients"]) == pytest.approx(ends[0] - ends[1], abs=0.05)


def test_a_decoder_that_reads_the_text_again_has_no_globenc_and_no_layers(tokenizer):
    torch.manual_seed(0)
    shape = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 24}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    widths = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "init_std": 0.4}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    config = BartConfig(vocab_size=len(VOCABULARY), **shape, **heads, **widths, **ids, **LABELS)
    model = BartForSequenceClassification(config).eval().double()
    told = []
    (explanation, *_) = explain(TEXTS, model, tokenizer, layers=True, tell=told.append)
    assert list(explanation.scores) == ["transformer-deep-lift"]
    assert [note.partition(":")[0] for note in told] == [
        "globenc is left out",
        "transformer-deep-lift has no scores of single layers",
    ]
    for options in ({"methods": ["integrated-gradients"]}, {"baseline": "zero"}):
        with pytest.raises(ValueError, match="a decoder that reads the text again"):
            explain(TEXTS, model, tokenizer, **options)


class Ruleless(nn.Module):
    """An activation that no rule is known of."""

    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_an_operation_without_a_rule_leaves_globenc(classifier):
    model, tokenizer = classifier
    model.bert.encoder.layer[1].intermediate.intermediate_act_fn = Ruleless()
    with pytest.warns(UserWarning, match="transformer-deep-lift is left out: .*bessel_j0.* has no rule"):
        (explanation,) = explain(TEXTS[:1], model, tokenizer, layers=True)
    assert list(explanation.scores) == list(explanation.layers) == ["globenc"]
    with pytest.raises(ValueError, match="bessel_j0.* has no rule"):
        explain(TEXTS, model, tokenizer, methods=["transformer-deep-lift"])


def test_without_recorded_attention_exact_differences_remain(classifier):
    model, tokenizer = classifier
    # Whatever is written into the stream behind its back, exact differences see as any other operation.
    attention = model.bert.encoder.layer[1].attention.output.dense
    attention.register_forward_hook(lambda module, args, output: output * 1.5)
    with pytest.warns(UserWarning, match="globenc is left out: In encoder layer 1, .* does not sum"):
        (explanation,) = explain(TEXTS[:1], model, tokenizer)
    assert list(explanation.scores) == ["transformer-deep-lift"]
    with pytest.raises(RuntimeError, match="does not sum"):
        explain(TEXTS, model, tokenizer, methods=["globenc"])


def test_if_no_method_supports_the_model_both_reasons_are_given(tokenizer):
    model = gpt2(pad_token_id=0).eval()
    model.transformer.h[0].mlp.act = Ruleless()
    with pytest.raises(ValueError, match="globenc: No supported .*; transformer-deep-lift: .*no rule"):
        explain(TEXTS, model, tokenizer)


def test_a_model_is_left_as_it_was_also_after_an_error(classifier):
    model, tokenizer = classifier

    def state():
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        grads = [(it.grad is None, it.requires_grad) for it in model.parameters()]
        return hooks, grads, model.training, model.config.to_dict(), torch.get_rng_state().tolist()

    before = state()
    explain(TEXTS, model, tokenizer, methods=MAIN_METHODS, baseline="zero", layers=True)
    assert state() == before
    activation = model.bert.encoder.layer[0].intermediate.intermediate_act_fn
    model.bert.encoder.layer[0].intermediate.intermediate_act_fn = Ruleless()
    with pytest.raises(ValueError, match="no rule"):
        explain(TEXTS, model, tokenizer, methods=["transformer-deep-lift"], baseline="zero")
    model.bert.encoder.layer[0].intermediate.intermediate_act_fn = activation
    assert state() == before


@pytest.fixture(scope="module")
def protein(tmp_path_factory):
    """An ESM-2 as it is published (token_dropout), of 4 classes."""
    names = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWC", "<mask>"]
    path = tmp_path_factory.mktemp("esm") / "vocab.txt"
    path.write_text("\n".join(names))
    torch.manual_seed(0)
    config = EsmConfig(
        vocab_size=len(names), mask_token_id=len(names) - 1, pad_token_id=1, hidden_size=16,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, position_embedding_type="rotary",
        token_dropout=True, num_labels=4, initializer_range=0.5,
    )  # fmt: skip
    return EsmForSequenceClassification(config).double().eval(), EsmTokenizer(str(path))


@pytest.mark.parametrize("baseline", [{}, {"baseline": "mask"}, {"baseline": "zero"}, {"baseline": "pad"}])
def test_esm_2_is_compared_with_embeddings_that_do_not_change_its_scale(protein, baseline):
    model, tokenizer = protein
    text, told = "MKTAYIAK", []
    (it,) = explain([text], model, tokenizer, methods=SIGNED[:1], tell=told.append, **baseline)
    pads = baseline == {"baseline": "pad"}
    assert it.settings["baseline"] == ("pad" if pads else "zero")
    assert told == [
        "the baseline is 'zero': the model scales its embeddings by the number of mask tokens "
        "(token_dropout), so 'mask' is not a baseline"
    ] * (baseline.get("baseline", "mask") == "mask")
    batch = tokenizer(text, return_tensors="pt")

    def replaced(_module, _args, output):
        output = output.clone()
        output[:, 1:-1] = model.get_input_embeddings().weight[1] if pads else 0
        return output

    with torch.no_grad():
        logits = model(**batch).logits[0]
        handle = model.get_input_embeddings().register_forward_hook(replaced)
        without = model(**batch).logits[0]
        handle.remove()
    best = int(logits.argmax())
    change = (logits - without)[best].item()
    assert abs(change) > 0.01
    assert sum(it.scores[SIGNED[0]]) == pytest.approx(change, rel=1e-5)  # rotations are of float32
    assert it.scores[SIGNED[0]][0] == it.scores[SIGNED[0]][-1] == 0
