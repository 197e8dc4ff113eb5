"""Each task explains the predictions of the library's own objects, compared with plain calls."""

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForTokenClassification,
    pipeline,
)

from captum_globenc import EncoderForward, Explanations, GlobEnc, explain
from captum_globenc.datasets import Attributor
from captum_globenc.results.record import Span
from checkpoints import save_classifier
from language_models import word_tokenizer
from vocabularies import TOKENIZERS, byte_level

TEXTS = ["The plot is BAD, unhappy film", "Good but not great !", "a"]
LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]
SIGNED = "transformer-deep-lift"


@pytest.fixture(scope="module")
def of(tmp_path_factory):
    """Make a tiny model of a class, float64, and its tokenizer."""

    def make(kind, labels=("NEGATIVE", "POSITIVE"), **config):
        names = {"id2label": dict(enumerate(labels)), "label2id": {it: i for i, it in enumerate(labels)}}
        folder = save_classifier(tmp_path_factory.mktemp("task"), **names, **config)
        torch.manual_seed(3)  # of the head, which the folder has not
        return kind.from_pretrained(folder).double().eval(), AutoTokenizer.from_pretrained(folder)

    return make


@pytest.fixture(scope="module")
def tagger(of):
    return of(AutoModelForTokenClassification, LABELS)


@pytest.fixture(scope="module")
def answerer(of):
    return of(AutoModelForQuestionAnswering)


@pytest.fixture(scope="module")
def filler(of):
    return of(AutoModelForMaskedLM)


def compared(model, tokenizer, explanation, value):
    """Return an output of the model minus its value for the fully masked text, by plain calls."""
    batch = tokenizer(explanation.text, explanation.pair, return_tensors="pt")
    ids = batch.pop("input_ids")
    special = torch.tensor(
        tokenizer.get_special_tokens_mask(ids[0].tolist(), already_has_special_tokens=True)
    ).bool()
    blank = ids.where(special & (ids != tokenizer.unk_token_id), tokenizer.mask_token_id)
    with torch.no_grad():
        one, base = (value(model(input_ids=it, **batch)) for it in (ids, blank))
    return (one - base).item()


# Classes side by side, and several labels


def test_classes_side_by_side_equal_single_explanations(of, tmp_path):
    classifier = of(AutoModelForSequenceClassification, ["bad", "fair", "good"])
    methods = ["globenc", SIGNED, "decompx"]
    found = explain(TEXTS, *classifier, methods=methods, target="all", layers=True)
    assert len(found) == len(TEXTS)
    for name in ("bad", "fair", "good"):
        alone = explain(TEXTS, *classifier, methods=methods, target=name, layers=True)
        for it, one in zip(found, alone, strict=True):
            for method in (SIGNED, "decompx"):
                assert it.scores[f"{method}: {name}"] == pytest.approx(one.scores[method], abs=1e-9)
            assert it.layers[f"{SIGNED}: {name}"][0] == pytest.approx(one.layers[SIGNED][0], abs=1e-9)
            assert it.outputs[f"{SIGNED}: {name}"] == (name, pytest.approx(one.explained))
            assert it.captions[f"{SIGNED}: {name}"] == one.captions[SIGNED]
            assert it.sums[f"{SIGNED}: {name}"] == one.sums[SIGNED]
            assert it.scores["globenc"] == pytest.approx(one.scores["globenc"], abs=1e-9)
            assert (it.prediction, it.target) == (one.prediction, one.prediction)
    assert list(found[0].scores) == [
        "globenc",
        *(f"{method}: {name}" for method in (SIGNED, "decompx") for name in ("bad", "fair", "good")),
    ]
    assert "explained" not in found[0].headline
    found.save(tmp_path / "saved")
    assert Explanations.load(tmp_path / "saved") == found
    two = explain(TEXTS[:1], *classifier, methods=[SIGNED], target=["good", 0])[0]
    assert list(two.scores) == [f"{SIGNED}: good", f"{SIGNED}: bad"]
    assert two.difference(two).outputs[f"{SIGNED}: bad"] == ("bad", 0)


def test_classes_with_equal_or_missing_names_are_distinguished(of):
    model, tokenizer = of(AutoModelForSequenceClassification, ["a", "b", "c", "d", "e"])
    plain = explain(TEXTS, model, tokenizer, methods=[SIGNED], target="all")
    model.config.id2label = {0: "Good", 1: "", 2: "bad", 3: "good", 4: "bad"}
    names = ["Good", "1", "bad (2)", "good", "bad (4)"]
    for it, one in zip(explain(TEXTS, model, tokenizer, methods=[SIGNED], target="all"), plain, strict=True):
        assert list(it.probabilities.items()) == list(zip(names, one.probabilities.values(), strict=True))
        assert list(it.scores) == [f"{SIGNED}: {name}" for name in names]
        assert list(it.scores.values()) == list(one.scores.values())
    for name, old in zip(names, "abcde", strict=True):
        (found,) = explain(TEXTS[:1], model, tokenizer, methods=[SIGNED], target=name)
        assert found.target == name
        assert found.scores[SIGNED] == pytest.approx(plain[0].scores[f"{SIGNED}: {old}"], abs=1e-9)
        (row,) = Attributor(model, tokenizer, target=name)({"text": TEXTS[:1]})["explained"]
        assert row == name
    with pytest.raises(ValueError, match="target 'GOOD' is not a class of the model: Good, 1, bad"):
        explain(TEXTS, model, tokenizer, target="GOOD")


def test_each_label_that_is_likely_is_explained(of):
    names = ["dull", "long", "loud", "rude"]
    model, tokenizer = of(
        AutoModelForSequenceClassification, names, problem_type="multi_label_classification"
    )
    found = explain(TEXTS, model, tokenizer)
    for text in TEXTS:
        with torch.no_grad():
            shares = model(**tokenizer(text, return_tensors="pt")).logits[0].sigmoid().tolist()
        ours = [it for it in found if it.text == text]
        likely = [name for name, share in zip(names, shares, strict=True) if share >= 0.5]
        assert [it.target for it in ours] == (likely or [names[shares.index(max(shares))]])
        for it in ours:
            assert it.prediction == it.target
            assert it.probability == pytest.approx(shares[names.index(it.target)])
            (chosen,) = explain([text], model, tokenizer, target=it.target)
            assert it.scores[SIGNED] == pytest.approx(chosen.scores[SIGNED], abs=1e-9)
    assert len(found) > len(TEXTS)
    (best,) = explain(TEXTS[:1], model, tokenizer, threshold=1)
    assert best.probability == max(best.probabilities.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "all", "against": "NEGATIVE"}, "several classes cannot have a contrast class"),
        ({"target": []}, "an empty list"),
        ({"target": ["POSITIVE", "x"]}, "target 'x' is not a class of the model"),
        ({"threshold": 2}, "threshold is 2: pass a probability"),
        ({"windows": -1}, "windows is -1: pass the number of tokens that they share, 0 or more"),
        ({"windows": True}, "windows is True"),
    ],
)
def test_empty_options_are_rejected(of, options, message):
    with pytest.raises(ValueError, match=message):
        explain(TEXTS, *of(AutoModelForSequenceClassification), **options)


# Entities


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max", "none", None])
def test_entities_equal_the_pipelines(tagger, strategy):
    model, tokenizer = tagger
    pipe = pipeline(
        "token-classification",
        model=model,
        tokenizer=tokenizer,
        device="cpu",
        aggregation_strategy=strategy or "simple",
    )
    subject = tagger if strategy is None else (pipe,)
    found = iter(explain(TEXTS, *subject, methods=[SIGNED]))
    count = 0
    for text, entities in zip(TEXTS, pipe(TEXTS), strict=True):
        for entity in entities:
            it = next(found)
            assert (it.text, it.span) == (text, Span(entity["start"], entity["end"]))
            assert it.prediction == it.target == entity.get("entity_group", entity.get("entity"))
            assert it.probability == pytest.approx(float(entity["score"]), rel=1e-5)
            assert it.headline == f"{it.part}: {it.prediction} ({it.probability:.1%})"
            assert it.part == text[entity["start"] : entity["end"]]
            count += 1
    assert next(found, None) is None
    assert count > 3


@pytest.mark.parametrize("name", TOKENIZERS)
def test_spans_of_entities_and_answers_do_not_depend_on_the_tokenizer(name):
    tokenizer, text = TOKENIZERS[name](), "the fox, café  the unhappy fox"
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, pad_token_id=1, initializer_range=0.6, id2label={0: "O", 1: "B-A", 2: "I-A"},
        label2id={"O": 0, "B-A": 1, "I-A": 2},
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForTokenClassification(config).eval()
    pipe = pipeline(
        "ner", model=model, tokenizer=tokenizer, device="cpu", aggregation_strategy="simple", ignore_labels=[]
    )
    found = explain([text], pipe, methods=[SIGNED])
    expected = [(it["start"], it["end"], it["entity_group"]) for it in pipe(text)]
    assert [(it.span.start, it.span.stop, it.prediction) for it in found] == expected
    assert len(expected) > 1
    config.num_labels = 2
    (answer,) = explain(["the"], BertForQuestionAnswering(config).eval(), tokenizer, pair=text)
    assert answer.part == answer.prediction == text[answer.span.start : answer.span.stop].strip()


def entity_tokens(explanation):
    return [
        place
        for place, it in enumerate(explanation.offsets)
        if it and explanation.span.start <= it.start and it.stop <= explanation.span.stop
    ]


@pytest.mark.parametrize(
    ("target", "against"), [(None, None), ("PER", None), ("I-ORG", "O"), (0, "per"), ("4", None)]
)
def test_contributions_to_an_entity_sum_to_its_mean_logit(tagger, tmp_path, target, against):
    model, tokenizer = tagger
    found = explain(TEXTS, model, tokenizer, methods=[SIGNED], target=target, against=against)
    assert len(found) > 2
    found.save(tmp_path / "saved")
    assert Explanations.load(tmp_path / "saved") == found
    for it in found:
        tokens = entity_tokens(it)
        with torch.no_grad():
            real = model(**tokenizer(it.text, return_tensors="pt")).logits[0, tokens]

        def mean(output, it=it, tokens=tokens, real=real):
            logits = output.logits[0, tokens]

            def best(group):
                labels = [LABELS.index(group)] if group in LABELS else [
                    label for label, name in enumerate(LABELS) if name.endswith(f"-{group.upper()}")
                ]  # fmt: skip
                # The label of the group is selected on the text, not on its baseline.
                return logits[range(len(tokens)), [labels[int(row[labels].argmax())] for row in real]]

            value = best(it.target).mean()
            return value if it.against is None else value - best(it.against).mean()

        assert it.target == {None: it.prediction, 0: "O", "4": "I-ORG"}.get(target, target)
        assert sum(it.scores[SIGNED]) == pytest.approx(compared(model, tokenizer, it, mean), abs=1e-6)


def test_globenc_explains_the_tokens_of_an_entity(tagger):
    model, tokenizer = tagger
    found = explain(TEXTS, model, tokenizer, methods=["globenc"], layers=True)
    assert {len(entity_tokens(it)) for it in found} >= {1, 2}
    for it in found:
        forward, tokens = EncoderForward(model), entity_tokens(it)
        inputs, extra = forward.arguments(tokenizer(it.text, return_tensors="pt"))
        expected = GlobEnc(forward).attribute(inputs, None, extra, position=[tokens])[0]
        assert it.scores["globenc"] == pytest.approx(expected.tolist(), rel=1e-9)
        assert it.layers["globenc"][-1] == pytest.approx(it.scores["globenc"])
        assert it.position == (tokens[0] if len(tokens) == 1 else None)
        whose = it.tokens[tokens[0]] if len(tokens) == 1 else it.part
        assert it.captions["globenc"] == f"share of each token in the representation of {whose}"
    (mean,) = explain(["a"], model, tokenizer, methods=["globenc"], position="mean")[:1]
    assert mean.position == "mean"


def test_a_text_without_entities_is_reported(tagger):
    model, tokenizer = tagger
    pipe = pipeline(
        "ner", model=model, tokenizer=tokenizer, device="cpu", aggregation_strategy="simple",
        ignore_labels=["O", "PER", "ORG"],
    )  # fmt: skip
    told = []
    assert list(explain(TEXTS, pipe, tell=told.append)) == []
    assert told == [f"no entity is found in {text!r}" for text in TEXTS]
    with pytest.raises(ValueError, match="token classification takes single texts: leave pair out"):
        explain(TEXTS, model, tokenizer, pair="a")
    with pytest.raises(ValueError, match="label 'LOC' is not a label of the model: O, B-PER"):
        explain(TEXTS, model, tokenizer, target="LOC")
    with pytest.raises(ValueError, match="only the classes of a sequence classifier are shown side by side"):
        explain(TEXTS, model, tokenizer, target=["PER", "ORG"])


# Answers

QUESTION = "is the film good ?"
CONTEXT = "The plot, the script and unhappy [b] red film. Not a GREAT one, but good / bad & great!"


def reference_answer(model, tokenizer, question, context, longest=15):
    """The likeliest answer, as transformers' pipeline finds it: softmax over the context and [CLS]."""
    batch = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets = batch.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        output = model(**batch)
    allowed = [index for index, it in enumerate(batch.sequence_ids(0)) if it == 1]
    ends = []
    for logits in (output.start_logits[0], output.end_logits[0]):
        whole = torch.logsumexp(logits[[0, *allowed]], 0)
        ends.append((logits - whole).exp().tolist())
    stretches = sorted(
        (
            (-ends[0][start] * ends[1][end], start, end)
            for start in allowed
            for end in allowed
            if start <= end < start + longest
        ),
    )
    found = {}
    for score, start, end in stretches[:12]:
        first = batch.word_to_chars(0, batch.token_to_word(0, start), 1).start
        last = batch.word_to_chars(0, batch.token_to_word(0, end), 1).end
        assert first <= offsets[start][0]
        one = found.setdefault(context[first:last].lower(), [0, start, end, (first, last)])
        one[0] -= score
    return max(found.values())


@pytest.mark.parametrize("target", [None, "start", "end"])
def test_an_answer_equals_the_pipelines_and_its_ends_are_summed(answerer, target):
    model, tokenizer = answerer
    texts = [QUESTION, "the plot ?"]
    contexts = [CONTEXT[:52], "unhappy, but not bad"]
    found = explain(texts, model, tokenizer, pair=contexts, target=target, methods=["globenc", SIGNED])
    for it, question, context in zip(found, texts, contexts, strict=True):
        score, start, end, (first, last) = reference_answer(model, tokenizer, question, context)
        assert it.probability == pytest.approx(score, rel=1e-6)
        assert (it.span, it.prediction, it.part) == (Span(first, last, 1), *[context[first:last]] * 2)
        assert it.target == (it.prediction if target is None else f"the {target} of {it.prediction}")

        def value(output, start=start, end=end):
            ends = {"start": output.start_logits[0, start], "end": output.end_logits[0, end]}
            return sum(ends.values()) if target is None else ends[target]

        assert sum(it.scores[SIGNED]) == pytest.approx(compared(model, tokenizer, it, value), abs=1e-6)
        forward = EncoderForward(model, output="start_logits")
        inputs, extra = forward.arguments(tokenizer(question, context, return_tensors="pt"))
        places = {None: [start, end] if start != end else [start], "start": [start], "end": [end]}[target]
        expected = GlobEnc(forward).attribute(inputs, None, extra, position=[places])[0]
        assert it.scores["globenc"] == pytest.approx(expected.tolist(), rel=1e-9)


def test_the_context_of_a_question_is_its_pair(answerer):
    texts = [QUESTION, "the plot ?"]
    expected = explain(texts, *answerer, pair=CONTEXT[:52])
    assert explain(texts, *answerer, context=CONTEXT[:52]) == expected
    assert explain([(it, CONTEXT[:52]) for it in texts], *answerer) == expected
    assert explain(texts, *answerer, context=[CONTEXT[:52]] * 2) == expected
    with pytest.raises(ValueError, match="context is an alias of pair"):
        explain(texts, *answerer, context=CONTEXT[:52], pair="a")
    with pytest.raises(TypeError, match=r"context\[1\] is 3 \(int\)"):
        explain(texts, *answerer, context=["a", 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "a question needs a context: pass the text that contains the answer as pair"),
        (
            {"pair": CONTEXT[:20], "target": "middle"},
            "target 'middle' is not one of an answer's targets: start, end",
        ),
        ({"pair": CONTEXT[:20], "against": "start"}, "an answer has no contrast class"),
    ],
)
def test_a_question_without_context_is_rejected(answerer, options, message):
    with pytest.raises(ValueError, match=message):
        explain([QUESTION], *answerer, **options)


# Masked words

MASKED = ["The [MASK] is BAD, [MASK] film", "[MASK]"]


def test_masked_words_equal_the_pipelines(filler):
    model, tokenizer = filler
    pipe = pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu")
    found = explain(MASKED, pipe, methods=["globenc", SIGNED])
    expected = [*pipe(MASKED[0]), pipe(MASKED[1])]
    assert len(found) == len(expected) == 3
    for it, answers in zip(found, expected, strict=True):
        assert it.prediction == answers[0]["token_str"]
        assert it.probability == pytest.approx(answers[0]["score"], rel=1e-5)
        assert list(it.probabilities) == [answer["token_str"] for answer in answers]
        assert it.part == "[MASK]"
        assert it.tokens[it.position] == "[MASK]"
        assert it.headline == f"[MASK]: {it.prediction} ({it.probability:.1%})"
        token, place = tokenizer.convert_tokens_to_ids(it.prediction), it.position
        change = compared(model, tokenizer, it, lambda output: output.logits[0, place, token])  # noqa: B023
        assert sum(it.scores[SIGNED]) == pytest.approx(change, abs=1e-6)
    assert [it.position for it in found] == [2, 6, 1]


def test_another_word_than_the_one_filled_in(filler):
    model, tokenizer = filler
    (it,) = explain(MASKED[1:], model, tokenizer, methods=[SIGNED], target="great", against="bad")
    with torch.no_grad():
        logits = model(**tokenizer(MASKED[1], return_tensors="pt")).logits[0, 1]
    one, other = logits[tokenizer.convert_tokens_to_ids(["great", "bad"])]
    assert (it.target, it.against) == ("great", "bad")
    assert it.explained == pytest.approx((one - other).item())
    assert it.headline.endswith(", explained: great rather than bad")
    for target in ("unhappy", "zebra"):
        with pytest.raises(ValueError, match=f"'{target}' is not a single token of the model's vocabulary"):
            explain(MASKED, model, tokenizer, target=target)
    with pytest.raises(ValueError, match=r"'a film' has no \[MASK\]: a masked language model predicts"):
        explain(["a film"], model, tokenizer)


@pytest.mark.parametrize("baseline", ["pad", "zero"])
def test_a_mask_stays_where_other_words_go(filler, baseline):
    for it in explain(MASKED, *filler, methods=[SIGNED, "integrated-gradients"], baseline=baseline):
        masks = [place for place, token in enumerate(it.tokens) if token == "[MASK]"]
        for scores in it.scores.values():
            assert [scores[place] for place in masks] == [0] * len(masks)


def test_of_equal_masked_words_the_most_likely_is_shown():
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = BertForMaskedLM(config).eval()
    inside, begins = tokenizer.convert_tokens_to_ids(["the", "\u0120the"])
    with torch.no_grad():
        model.cls.predictions.bias[[inside, begins]] = torch.tensor([8.0, 9.0])
    (it,) = explain(["a <mask>"], model, tokenizer, methods=["globenc"])
    assert it.prediction == "the"
    assert it.probabilities["the"] == it.probability > 0.5
    assert next(iter(it.probabilities)) == "the"


def test_a_tokenizer_without_a_mask_token_is_named():
    config = BertConfig(
        vocab_size=25, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with pytest.raises(ValueError, match="the tokenizer has none: set its mask_token"):
        explain(["the cat sat"], BertForMaskedLM(config).eval(), word_tokenizer())
