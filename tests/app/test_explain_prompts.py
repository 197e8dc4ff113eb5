"""`captum-globenc explain` with language models: prompts and chats."""

import gzip
import json

import pytest

from captum_globenc import explain
from captum_globenc.evaluation import evaluate, read_examples
from language_models import language_model, word_tokenizer
from sentences import write_rows

TEMPLATE = "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}assistant :"
CHAT = [{"role": "user", "content": "what is the colour ?"}]


@pytest.fixture
def saved(tmp_path):
    """The folder of a language model, and the model and its tokenizer."""

    def save(family="llama"):
        model, tokenizer = language_model(family), word_tokenizer()
        tokenizer.chat_template = TEMPLATE
        model.save_pretrained(tmp_path / family)
        tokenizer.save_pretrained(tmp_path / family)
        return tmp_path / family, type(model).from_pretrained(tmp_path / family), tokenizer

    return save


def expected(prompts, model, tokenizer, **options):
    found = explain(prompts, model, tokenizer, tell=lambda _: None, **options)
    return json.loads(json.dumps(found.to_dict()))


def printed(out):
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize(
    "options", [{"answer": "red mat"}, {"answer": "red", "against": "blue"}, {"max_new_tokens": 3}]
)
def test_a_prompt_is_explained(run, saved, family, options):
    folder, model, tokenizer = saved(family)
    chosen = [part for name, it in options.items() for part in (f"--{name.replace('_', '-')}", str(it))]
    out, err = run("explain", "the cat sat", "--model", folder, "--json", *chosen)
    assert printed(out) == expected(["the cat sat"], model, tokenizer, **options)
    assert ("globenc is left out: it explains encoders" in err) == (family == "llama")
    out, _ = run("explain", "the cat sat", "--model", folder, *chosen)
    assert "log-probability of the answer" in " ".join(out.split())


def test_a_chat_comes_from_a_file(run, saved, tmp_path):
    folder, model, tokenizer = saved()
    for chats in (CHAT, [CHAT, CHAT * 2]):
        file = tmp_path / ("chat.json" if chats is CHAT else "chats.json.gz")
        content = json.dumps(chats).encode("utf-8-sig" if chats is CHAT else "utf-16")
        file.write_bytes(content if chats is CHAT else gzip.compress(content))
        out, _ = run("explain", "--model", folder, "--chat", file, "--max-new-tokens", "3", "--json")
        asked = [chats] if chats is CHAT else chats
        assert printed(out) == expected(asked, model, tokenizer, max_new_tokens=3)


def test_user_errors_are_reported(failing, saved, tmp_path):
    folder, _, _ = saved()
    file = tmp_path / "chat.json"
    file.write_text("{}")
    assert "is not a chat, a list such as" in failing("explain", "--model", folder, "--chat", file)
    file.write_text("[")
    assert "not valid JSON" in failing("explain", "--model", folder, "--chat", file)
    assert "leave one of the two out" in failing("explain", "a", "--model", folder, "--chat", file)
    assert "No such file" in failing("explain", "--model", folder, "--chat", tmp_path / "none.json")
    assert "answer: for models that generate text" in failing("explain", "good", "--answer", "x")
    assert "saliency has no sign" in failing(
        "explain", "a", "--model", folder, "--answer", "red", "--against", "blue", "--method", "saliency"
    )


def test_a_prompt_is_explained_by_other_methods(run, saved):
    folder, model, tokenizer = saved()
    method = "feature-ablation"
    out, _ = run("explain", "the cat sat", "--model", folder, "--answer", "red", "--method", method, "--json")
    assert printed(out) == expected(["the cat sat"], model, tokenizer, answer="red", methods=[method])


def test_methods_are_compared_on_prompts_with_answers(run, failing, saved, tmp_path):
    folder, model, tokenizer = saved()
    texts = ["the cat sat . a dog ran . what is red ?", "the mat is blue . what is on the mat ?"]
    data = write_rows(tmp_path / "asked.csv", {"text": texts, "reply": ["blue", "a cat"]})
    command = ("evaluate", "--model", folder, "--data", data, "--methods", "transformer-deep-lift,random")
    out, _ = run(*command, "--answer-column", "reply", "--out", tmp_path / "out")
    found = evaluate(
        model,
        tokenizer,
        read_examples(data, answer_column="reply"),
        methods=["transformer-deep-lift", "random"],
    )
    assert all(name in out for name in ("drop-1", "drop-3", "drop-5", "lds"))
    written = json.loads((tmp_path / "out/summary.json").read_text())["summary"]
    for method, cells in found.summary().items():
        for metric, cell in cells.items():
            assert written[method][metric]["mean"] == pytest.approx(cell.mean, abs=1e-5)
    assert "example 0 has no answer" in failing(*command, "--out", tmp_path / "other")
