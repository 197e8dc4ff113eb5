"""Data sets for models that generate text: rows are explained as `explain` does, or have an error."""

import pickle

import pyarrow as pa
import pytest

from captum_globenc import explain
from captum_globenc.datasets import Attributor, Counts, attribute_files, load_attributions, load_explanations
from captum_globenc.datasets.blocks import Source
from captum_globenc.datasets.engines import _Worker
from captum_globenc.datasets.shards import read_about
from language_models import LIMIT, language_model, word_tokenizer
from sentences import write_rows

METHOD = "transformer-deep-lift"
PROMPTS = ["the cat sat on the mat . what is the colour of the mat ?", "a dog ran", "the red dog sat", "a"]
ANSWERS = ["red . blue", "blue", "the mat", "what is the colour of a cat ?"]
FAMILIES = ["gpt2", "llama", "t5", "bart"]


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request):
    return language_model(request.param).double(), word_tokenizer()


def explained(loaded, prompts, **options):
    return explain(prompts, *loaded, methods=[METHOD], tell=lambda _: None, **options)


@pytest.mark.parametrize("batch_tokens", [1, 1024])  # one row at a time, all rows at once
@pytest.mark.parametrize("answered", [True, False])
def test_rows_are_explained_as_explain_does(loaded, answered, batch_tokens):
    rows = {"text": PROMPTS, **({"answer": ANSWERS} if answered else {})}
    options = {} if answered else {"max_new_tokens": 3}
    made = Attributor(*loaded, batch_tokens=batch_tokens, **options)(rows)
    assert made["error"] == [""] * 4
    for row, prompt in enumerate(PROMPTS):
        (it,) = explained(loaded, [prompt], **({"answer": ANSWERS[row]} if answered else options))
        assert made[METHOD][row] == pytest.approx(it.scores[METHOD], abs=1e-6)
        assert made["log_probabilities"][row] == pytest.approx(it.answer.log_probabilities, abs=1e-6)
        assert made["prediction"][row] == made["explained"][row] == it.answer.text
        assert (made["answer_ids"][row], made["answer_tokens"][row]) == (it.answer.ids, it.answer.tokens)
        assert (made["input_ids"][row], made["tokens"][row]) == (it.ids, it.tokens)
        assert " ".join(made["words"][row]) == prompt
    assert "logits" not in made


def test_batches_run_together_and_bound_the_tokens():
    model, tokenizer = language_model("llama"), word_tokenizer()
    attribute, shapes = Attributor(model, tokenizer, batch_tokens=12), []
    handle = model.register_forward_hook(lambda _, __, output: shapes.append(output.logits.shape[0]))
    try:
        attribute({"text": ["a dog ran"] * 5, "answer": ["red"] * 5})  # of four tokens each
    finally:
        handle.remove()
    assert (max(shapes), shapes[0], shapes[-1]) == (3, 3, 2)


@pytest.mark.parametrize("layout", ["python", "arrow"])
def test_an_error_of_a_row_affects_no_other_row(layout):
    loaded = language_model("gpt2"), word_tokenizer()
    long = "the cat " * LIMIT
    rows = {
        "text": [PROMPTS[0], None, "a dog", "a dog", long, "a dog ran"],
        "answer": ["red", "red", "", None, "red", "blue"],
        "pair": [None, None, None, None, None, "a cat"],
    }
    made = Attributor(*loaded)(pa.table(rows) if layout == "arrow" else rows)
    made = made.to_pydict() if layout == "arrow" else made
    assert made["error"][1:4] == ["the text is missing", "the answer is missing", "the answer is missing"]
    assert made["error"][4].endswith(f"has {2 * LIMIT} tokens, and the model takes {LIMIT}: shorten it")
    assert made["error"][5] == "a prompt has no second segment: write it into the prompt"
    (it,) = explained(loaded, PROMPTS[:1], answer="red")
    assert made[METHOD][0] == pytest.approx(it.scores[METHOD], abs=1e-6)
    assert made["error"][0] == ""
    assert made[METHOD][1:] == made["answer_ids"][1:] == [[]] * 5


def test_files_become_shards_and_explanations_and_are_resumed(loaded, tmp_path):
    data = write_rows(tmp_path / "asked.csv", {"text": [*PROMPTS, ""], "answer": [*ANSWERS, "red"]})
    options = {"rows_per_shard": 2}
    counts = attribute_files(Attributor(*loaded), data, tmp_path / "out", **options)
    assert counts == Counts(rows=5, errors=1, first=counts.first)
    assert "has no tokens" in counts.first
    found = load_attributions(tmp_path / "out", cache_dir=tmp_path / "cache")
    assert found["prediction"][:4] == ANSWERS
    for it, other in zip(
        load_explanations(tmp_path / "out"), explained(loaded, PROMPTS, answer=ANSWERS), strict=True
    ):
        assert it.scores[METHOD] == pytest.approx(other.scores[METHOD], rel=1e-5, abs=1e-6)
        assert it.explained == pytest.approx(other.explained, rel=1e-5)
        assert (it.text, it.answer.text, it.answer.ids) == (other.text, other.answer.text, other.answer.ids)
        assert (it.groups, it.offsets, it.settings) == (other.groups, other.offsets, other.settings)
        assert it.kinds == other.kinds
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.parquet")}
    (tmp_path / "out/000001.parquet").unlink()
    assert attribute_files(Attributor(*loaded), data, tmp_path / "out", **options) == counts
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.parquet")} == before
    generating = Attributor(*loaded, answer_column=None, max_new_tokens=2)
    with pytest.raises(ValueError, match="holds attributions with max_new_tokens null, not 2"):
        attribute_files(generating, data, tmp_path / "out", **options)


def test_a_folder_takes_no_answers_of_another_generation_config(tmp_path):
    loaded = language_model("gpt2"), word_tokenizer()
    data = write_rows(tmp_path / "asked.jsonl", {"text": PROMPTS})
    attribute_files(Attributor(*loaded, max_new_tokens=2), data, tmp_path / "out")
    loaded[0].generation_config.repetition_penalty = 2.0
    with pytest.raises(ValueError, match="holds attributions of a model with another generation config"):
        attribute_files(Attributor(*loaded, max_new_tokens=2), data, tmp_path / "out")


def test_a_worker_of_ray_gets_the_answers(tmp_path):
    attribute = Attributor(language_model("gpt2"), word_tokenizer())
    data = write_rows(tmp_path / "asked.jsonl", {"text": PROMPTS, "answer": ANSWERS})
    source = Source(data, {"text": "text", "pair": "pair", "answer": "answer"})
    (block,) = source.blocks(10, source.survey().types)
    expected = attribute({"text": PROMPTS, "answer": ANSWERS})
    for made in (_Worker(attribute).explain(block.rows), attribute.explain(**block.rows)):
        assert {**expected, **made} == expected


def test_a_model_is_loaded_by_name_for_its_task(tmp_path):
    model, tokenizer = language_model("llama"), word_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    attribute = Attributor(tmp_path, max_new_tokens=2)
    rows = {"text": PROMPTS, "label": [0, 1, 2, 3]}
    made = attribute(rows)
    assert (attribute.methods, attribute.labels, attribute.missing) == ((METHOD,), [], ())
    assert [len(it) for it in made["answer_ids"]] == [2] * 4
    assert pickle.loads(pickle.dumps(attribute))(rows) == made


def test_globenc_explains_the_encoder_of_an_encoder_decoder(tmp_path):
    loaded = language_model("t5"), word_tokenizer()
    data = write_rows(tmp_path / "asked.jsonl", {"text": PROMPTS, "answer": ANSWERS})
    attribute_files(Attributor(*loaded, methods=["globenc"]), data, tmp_path / "out")
    for it, other in zip(
        load_explanations(tmp_path / "out"),
        explain(PROMPTS, *loaded, answer=ANSWERS, methods=["globenc"]),
        strict=True,
    ):
        assert it.scores["globenc"] == pytest.approx(other.scores["globenc"], abs=1e-6)
        assert it.position == other.position == "mean"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": "globenc"}, "globenc does not support the model: it explains encoders"),
        ({"windows": 4}, "windows is not for models that generate text"),
        ({"target": "red"}, "target is not for models that generate text"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0: pass an integer of at least 1"),
        ({"max_new_tokens": 3}, "the rows have answers, so nothing is generated"),
        ({"layout": "thermostat"}, "the layout thermostat is for classifiers"),
        ({"answer_column": "reply"}, "it has no column reply"),
    ],
)
def test_options_that_do_not_apply_are_reported_before_the_first_row(options, message, tmp_path):
    data = write_rows(tmp_path / "asked.jsonl", {"text": PROMPTS, "answer": ANSWERS})
    layout = {"layout": options.pop("layout")} if "layout" in options else {}
    with pytest.raises(ValueError, match=message):
        attribute_files(
            Attributor(language_model("gpt2"), word_tokenizer(), **options), data, tmp_path / "out", **layout
        )


def test_classifiers_ignore_answers_and_generate_nothing(folder, tmp_path):
    data = write_rows(tmp_path / "texts.jsonl", {"text": ["good"], "answer": ["bad"]})
    attribute_files(Attributor(folder), data, tmp_path / "out")
    assert "answer" not in read_about(tmp_path / "out")["settings"]["columns"]
    with pytest.raises(ValueError, match="max_new_tokens: for models that generate text"):
        Attributor(folder, max_new_tokens=3)({"text": ["good"]})
