"""The error messages of common user errors."""

import re

import numpy
import pytest
import torch

from captum_globenc import DecompX, EncoderForward, GlobEnc, TransformerDeepLift, explain
from captum_globenc.evaluation import Example, evaluate
from captum_globenc.media import explain_file
from captum_globenc.texts.loading import load_classifier

TEXTS = ["a good film", "the plot is bad"]


@pytest.fixture
def classifier(folder):
    model, tokenizer, _ = load_classifier(folder)
    return model, tokenizer


@pytest.fixture
def tokenized(classifier):
    """The forward function, and the batch of `TEXTS`."""
    model, tokenizer = classifier
    return EncoderForward(model), tokenizer(TEXTS, padding=True, return_tensors="pt")


def attribute(method, forward, inputs, target=1, extra=None):
    """Call `attribute` of a class of methods, with a baseline where it takes one."""
    if method is TransformerDeepLift:
        baseline = 0 if not isinstance(inputs, torch.Tensor) else torch.zeros_like(inputs)
        return method(forward).attribute(inputs, baseline, target, extra)
    return method(forward).attribute(inputs, target, extra)


every_method = pytest.mark.parametrize("method", [GlobEnc, TransformerDeepLift, DecompX])


@every_method
@pytest.mark.parametrize("kind", ["batch", "dict", "tuple of batch", "lists", "array", "text", "texts"])
def test_an_input_that_is_no_tensor_names_forward_arguments(tokenized, method, kind):
    forward, batch = tokenized
    inputs = {
        "batch": batch,
        "dict": dict(batch),
        "tuple of batch": (batch,),
        "lists": batch["input_ids"].tolist(),
        "array": numpy.ones((2, 3), dtype=int),
        "text": TEXTS[0],
        "texts": tuple(TEXTS),
    }[kind]
    named = {"batch": "BatchEncoding", "tuple of batch": "BatchEncoding", "lists": "list", "array": "ndarray"}
    found = r"inputs, extra = forward\.arguments\(batch\).*additional_forward_args=extra"
    with pytest.raises(AssertionError, match=found) as error:  # Captum's type
        attribute(method, forward, inputs)
    assert named.get(kind, "str" if "text" in kind else kind) in str(error.value)


NO_BATCH = r"\(6,\).*\(B, N\).*ids\[None\]"


@every_method
def test_ids_without_a_batch_dimension_are_reported(tokenized, method):
    forward, batch = tokenized
    with pytest.raises(ValueError, match=NO_BATCH):
        attribute(method, forward, batch["input_ids"][1])


@pytest.mark.parametrize("method", [GlobEnc, DecompX])
def test_ids_without_a_batch_dimension_are_reported_before_a_function_runs(tokenized, method):
    forward, batch = tokenized
    model = forward.model
    with pytest.raises(ValueError, match=NO_BATCH):
        method(lambda ids: model(ids).logits, model).attribute(batch["input_ids"][1], 1)


def test_other_inputs_are_not_mistaken_for_ids_without_a_batch():
    # A function of one number an example, and one that adds the dimension itself.
    table = torch.nn.Embedding(5, 3)
    numbers = torch.tensor([1, 4])
    made = TransformerDeepLift(lambda ids: table(ids).sum(-1)).attribute(numbers, 0)
    expected = table.weight[numbers].sum(-1) - table.weight[0].sum()
    torch.testing.assert_close(made, expected.detach())


OUT_OF_RANGE = r"target \(?7,?\)? is out of range: the output has 2 classes, 0 to 1"
NAMED = r"'POSITIVE' is a class name.*2 classes.*model\.config\.label2id\['POSITIVE'\]"


@every_method
@pytest.mark.parametrize(
    ("target", "kinds", "message"),
    [
        (7, IndexError, OUT_OF_RANGE),
        (-7, IndexError, "target -7 is out of range"),
        ([1, 7], RuntimeError, OUT_OF_RANGE),
        (torch.tensor([1, 7]), RuntimeError, OUT_OF_RANGE),
        (torch.tensor(7), IndexError, OUT_OF_RANGE),
        ([(1,), (7,)], IndexError, OUT_OF_RANGE),
        ("POSITIVE", AssertionError, NAMED),
        (["POSITIVE", "NEGATIVE"], AssertionError, NAMED),
        (("POSITIVE",), (AssertionError, IndexError, TypeError), NAMED),
        ([1], AssertionError, "1 targets? for 2 examples"),
    ],
)
def test_an_invalid_target_is_reported_with_the_number_of_classes(tokenized, method, target, kinds, message):
    forward, batch = tokenized
    inputs, extra = forward.arguments(batch)
    with pytest.raises(kinds, match=message):
        attribute(method, forward, inputs, target, extra)


def test_invalid_targets_per_token_are_reported_with_the_exceeded_size(tagger, batch):
    forward = EncoderForward(tagger)
    inputs, extra = forward.arguments(batch)
    for target, message in {
        (2, 5): r"target \(2, 5\) is out of range: the output of each example is \(9, 5\)",
        (9, 0): r"target \(9, 0\) is out of range: the output of each example is \(9, 5\)",
    }.items():
        with pytest.raises(IndexError, match=message):
            GlobEnc(forward).attribute(inputs, target, extra)


def test_a_good_target_selects_what_captum_selects(tokenized):
    forward, batch = tokenized
    inputs, extra = forward.arguments(batch)
    method, baseline = TransformerDeepLift(forward), torch.zeros_like(inputs)
    one = method.attribute(inputs, baseline, 1, extra)
    for target in ([1, 1], torch.tensor([1, 1]), torch.tensor(1), (1,), [(1,), (1,)], -1):
        torch.testing.assert_close(method.attribute(inputs, baseline, target, extra), one, rtol=0, atol=0)


def test_arguments_of_lists_name_return_tensors(tokenized, classifier):
    forward, batch = tokenized
    _, tokenizer = classifier
    for made in (tokenizer(TEXTS), tokenizer(TEXTS[0]), tokenizer(TEXTS, padding=True, return_tensors="np")):
        for ask in (forward.arguments, lambda made: forward.masked(made, tokenizer)):
            with pytest.raises(TypeError, match='tokenizer.*padding=True, return_tensors="pt"'):
                ask(made)
    with pytest.raises(TypeError, match="attention_mask.*return_tensors"):
        forward.arguments({**batch, "attention_mask": batch["attention_mask"].tolist()})
    for made in (TEXTS, TEXTS[0], batch["input_ids"]):
        with pytest.raises(TypeError, match=f"a {type(made).__name__}, not.*tokenizer"):
            forward.arguments(made)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", None], r"texts\[1\] is None.*missing"),
        ([float("nan"), "a"], r"texts\[0\] is nan.*missing"),
        (["a", "b", 3], r"texts\[2\] is 3 \(int\)"),
        (["a", b"b"], r"texts\[1\] is b'b' \(bytes\)"),
        ([{"text": "a", "text_pair": "b"}], r"texts\[0\] is .* \(dict\).*pair"),
        ([("a", None)], r"texts\[0\]\[1\] is None"),
        ([("a", "b", "c")], r"texts\[0\] has 3 entries.*\(text, pair\)"),
        (["a", ("a", "b")], "1 of 2 texts have a pair"),
        ({"text": ["a"]}, r"texts is a dict.*texts\['text'\]"),
        ("a", r"texts is one string.*\['a'\]"),
        (None, "texts is None"),
        (7, "texts is a int"),
    ],
)
def test_an_entry_that_is_no_text_is_named_by_its_index(classifier, texts, message):
    with pytest.raises((TypeError, ValueError), match=message):
        explain(texts, *classifier)


def test_a_table_instead_of_texts_is_rejected(classifier):
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=r"texts is a DataFrame.*texts\['review'\]"):
        explain(pandas.DataFrame({"review": TEXTS}), *classifier)


def test_pairs_that_are_no_texts_are_named_by_their_index(classifier):
    with pytest.raises(TypeError, match=r"pair\[1\] is 3 \(int\)"):
        explain(TEXTS, *classifier, pair=["a", 3])


def test_texts_in_tuples_have_their_pairs(classifier):
    expected = explain(TEXTS, *classifier, pair=["a script", "great"])
    for kind in (tuple, list):
        assert (
            explain([kind(it) for it in zip(TEXTS, ["a script", "great"], strict=True)], *classifier)
            == expected
        )
    with pytest.raises(ValueError, match="texts contain pairs already.*leave pair out"):
        explain([("a", "b")], *classifier, pair="c")


def test_context_is_for_models_that_answer_questions(classifier):
    with pytest.raises(ValueError, match="BertForSequenceClassification.*pass it as pair"):
        explain(TEXTS, *classifier, context="a film")


def test_the_name_of_a_tokenizer_is_rejected_with_the_loading_call(classifier):
    with pytest.raises(TypeError, match=r"tokenizer is a string.*AutoTokenizer\.from_pretrained\('bert-base"):
        explain(TEXTS, classifier[0], "bert-base-uncased")
    with pytest.raises(TypeError, match=r"model is a str.*from_pretrained\('some/model'\)"):
        explain(TEXTS, "some/model", classifier[1])
    with pytest.raises(TypeError, match="model is the class BertForSequenceClassification.*from_pretrained"):
        explain(TEXTS, type(classifier[0]), classifier[1])
    with pytest.raises(TypeError, match="tokenizer is a BertConfig.*AutoTokenizer"):
        explain(TEXTS, classifier[0], classifier[0].config)


def test_a_model_that_is_not_from_transformers_is_reported(classifier):
    with pytest.raises(TypeError, match=r"Linear.*transformers.*TransformerDeepLift\(forward_func"):
        explain(TEXTS, torch.nn.Linear(3, 2), classifier[1])
    with pytest.raises(TypeError, match=r"DataParallel.*transformers.*model\.module"):
        explain(TEXTS, torch.nn.DataParallel(classifier[0]), classifier[1])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["glob-enc"], r"no method glob-enc; known: globenc, .*; did you mean globenc\?"),
        (["globenc", "integrated_gradients"], r"; did you mean integrated-gradients\?"),
        (["TransformerDeepLift"], r"; did you mean transformer-deep-lift\?"),
        (["GlobEnc", "decompX"], r"; did you mean globenc, decompx\?"),
        (["qwertz"], r"no method qwertz; known: globenc, transformer-deep-lift[^?]*$"),
    ],
)
def test_a_misspelled_method_names_the_nearest(classifier, failing, names, message):
    with pytest.raises(ValueError, match=message):
        explain(TEXTS, *classifier, methods=names)
    assert re.search(message, failing("explain", "good", "--method", ",".join(names)))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"methods": ["glob_enc"]}, r"no method glob_enc; .*did you mean globenc\?"),
        ({"metrics": ["suficiency"]}, r"no metric suficiency; .*did you mean sufficiency\?"),
        ({"removal": "masks"}, r"no removal masks; known: mask, delete, pad; did you mean mask\?"),
        ({"methods": []}, r"no method is given; known: globenc"),
    ],
)
def test_names_of_evaluations_and_files_suggest_the_nearest(classifier, option, message):
    with pytest.raises(ValueError, match=message):
        evaluate(*classifier, [Example(0, "good")], **option)
    if "methods" in option:
        with pytest.raises(ValueError, match=message):
            explain_file("a.png", classifier[0], None, **option)
