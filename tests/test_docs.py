"""The page on adding a family runs, tables match the code, and the API pages are complete."""

import doctest
import inspect
import re
from importlib import import_module

import pytest
import torch
import transformers

from captum_globenc import Explanations
from captum_globenc.encoders import registry
from captum_globenc.encoders.registry import UNSUPPORTED
from captum_globenc.texts.tokenizing import token_limit
from pages import ROOT, load_script, python_blocks

DOCS = ROOT / "docs"
PAGE = DOCS / "adding-a-family.md"


def rows(columns):
    """The rows of that many columns of the page's tables, each a tuple of cells."""
    cells = [
        re.split(r" *\| *", line.strip("| ")) for line in PAGE.read_text().split("\n") if line[:1] == "|"
    ]
    return {tuple(row) for row in cells if len(row) == columns}


def test_the_page_on_adding_a_family_runs(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    found = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 15
    assert found.failed == 0


def test_the_example_of_the_page_on_captums_tests_runs():
    found = doctest.testfile(str(DOCS / "captum.md"), module_relative=False)
    assert found.attempted > 5
    assert found.failed == 0


def test_the_page_lists_every_rejected_family_with_its_reason():
    assert rows(2) >= set(UNSUPPORTED.items())


def test_the_page_lists_every_rejected_setting_with_its_reason():
    refused = {
        (spec.model_type, setting, reason)
        for spec in registry._REGISTRY.values()
        for setting, reason in spec.refuses.items()
    }
    assert rows(3) >= refused
    assert refused


def test_the_page_removes_its_family_from_the_registry():
    with pytest.raises(KeyError):
        registry._REGISTRY["our-bert"]


@pytest.mark.parametrize(
    "module",
    [
        "",
        ".datasets",
        ".encoders",
        ".errors",
        ".evaluation",
        ".media",
        ".metrics",
        ".proofs",
        ".texts",
        ".visualization",
    ],
)
def test_the_api_pages_hold_every_public_function_and_class(module):
    pages = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    public = import_module(f"captum_globenc{module}")
    described = {name.rpartition(".")[2] for name in re.findall(r":: ([\w.]+)", pages)}
    objects = {name: getattr(public, name) for name in public.__all__}
    ours = {name for name, it in objects.items() if inspect.isfunction(it) or inspect.isclass(it)}
    assert ours
    assert ours - described == set()


HUB = {
    "cross-encoder/nli-MiniLM2-L6-H768": (
        "BertForSequenceClassification",
        ["contradiction", "entailment", "neutral"],
    ),
    "cross-encoder/ms-marco-MiniLM-L6-v2": ("BertForSequenceClassification", ["LABEL_0"]),
    "dslim/bert-base-NER": ("BertForTokenClassification", ["O", "B-PER", "I-PER", "B-LOC"]),
    "distilbert/distilbert-base-cased-distilled-squad": ("BertForQuestionAnswering", ["LABEL_0", "LABEL_1"]),
    "google-bert/bert-base-uncased": ("BertForMaskedLM", ["LABEL_0", "LABEL_1"]),
    "Qwen/Qwen3-0.6B": ("BertLMHeadModel", ["LABEL_0", "LABEL_1"]),
}
"""What the guide loads by name, here from folders of these names: the class of the model, and its labels."""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that holds tiny models of random weights under the names of the hub, as the current one."""
    from captum_globenc.texts import load_default

    _, tokenizer = load_default()
    for name, (kind, labels) in HUB.items():
        config = transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=8,
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            initializer_range=0.5,
            is_decoder=kind == "BertLMHeadModel",
        )
        torch.manual_seed(0)
        getattr(transformers, kind)(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    load_script("commands").prepare_media(tmp_path)
    monkeypatch.chdir(tmp_path)


def test_the_guide_on_tasks_runs_and_prints_the_shown_results(hub):
    names = {}
    for block in python_blocks(DOCS / "tasks.md"):
        exec(block, names)
    assert list(names["both"].scores) == [
        "globenc", "transformer-deep-lift: NEGATIVE", "transformer-deep-lift: POSITIVE",
    ]  # fmt: skip
    assert names["both"].top(1, "transformer-deep-lift: POSITIVE")[0][0] == "wonderful"
    assert {text for text, _ in names["alike"].top(4, of="words")} >= {"cat", "kitten"}
    assert names["axes"].images[0].get_array().shape == (
        len(names["matrix"].others),
        len(names["matrix"].tokens),
    )
    assert names["answer"].prediction in names["passage"]
    assert (names["heart"].target, names["heart"].against) == ("heart", "capital")
    assert 0 < len(names["why"].answer.ids) <= 3
    assert (names["rather"].target, names["rather"].against) == (" Paris", " Rome")
    assert not names["whole"].truncated
    assert len(names["whole"].tokens) > token_limit(names["model"], names["tokenizer"])
    assert names["cat"].tokens[0] == "row 1, column 1"
    # By these names scripts/pictures.py draws several.
    assert all(isinstance(names[name], Explanations) for name in ("found", "ranked", "entities"))
    best = [text for text, _ in names["whole"].top(2, of="sentences")]
    assert best == ["A wonderful film at first.", "By then it is dull, a waste of two hours."]


def test_the_guide_on_exact_differences_runs():
    names = {}
    for block in python_blocks(DOCS / "differences.md"):
        exec(block, names)
    logits = [names["forward"](names[of], *names["extra"]).detach()[0, 1] for of in ("inputs", "baseline")]
    assert float(names["scores"].detach().sum()) == pytest.approx(float(logits[0] - logits[1]), abs=1e-4)


def documented():
    """Yield every name that the pages on the API document, with its module."""
    module = ""
    for page in sorted((ROOT / "docs/api").glob("*.md")):
        for kind, name in re.findall(
            r"^\.\. (\w+):: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            if kind in ("automodule", "currentmodule", "module"):
                module = name
            elif kind.startswith("auto"):
                yield page.name, name if name.startswith("captum_globenc.") else f"{module}.{name}"


def test_every_documented_name_can_be_imported():
    missing = []
    for page, name in documented():
        parts, found = name.split("."), None
        for place in range(1, len(parts) + 1):
            try:
                found = import_module(".".join(parts[:place]))
            except ImportError:
                found = getattr(found, parts[place - 1], None)
        missing += [(page, name)] if found is None else []
    assert missing == []
    assert len(list(documented())) > 60


def test_every_page_that_shows_python_is_run_by_a_test():
    # Here, and in tests/test_readme.py, tests/datasets, tests/test_quantus.py and tests/test_harnesses.py.
    known = {"tasks.md", "differences.md", "evaluation.md", "datasets.md"}
    assert {page.name for page in DOCS.glob("*.md") if python_blocks(page)} == known
    doctests = {"adding-a-family.md", "captum.md", "choosing.md", "inputs.md"}
    assert {page.name for page in DOCS.glob("*.md") if "\n    >>> " in page.read_text()} == doctests


PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(DOCS.glob("*.md")),
    *sorted(DOCS.glob("api/*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text(encoding="utf-8"))
    # The site has the tutorials in a folder beside its pages.
    places = (page.parent, *([ROOT] if page.parent == DOCS else []))
    assert [it for it in links if not any((place / it).exists() for place in places)] == []
