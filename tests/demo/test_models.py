"""The models of the demo: offered models, other models if allowed, and the examples."""

from types import SimpleNamespace

import pytest

from captum_globenc.demo import models as offered_models
from captum_globenc.demo import page
from captum_globenc.demo.explaining import answer
from captum_globenc.demo.form import LONGEST_TEXT, Form
from captum_globenc.demo.models import EXAMPLES, Classifiers
from captum_globenc.texts.loading import LoadingError
from checkpoints import save_classifier

HOSTS = {
    "127.0.0.1": True,
    "127.8.8.8": True,
    "::1": True,
    "localhost": True,
    "0.0.0.0": False,
    "::": False,
    "192.168.0.7": False,
    "example.org": False,
    "": False,
}


@pytest.fixture
def looked_up(monkeypatch):
    """The names that were looked up, none of which is loaded."""
    names = []

    def load(name):
        names.append(name)
        return name or "the embedded one"

    monkeypatch.setattr(offered_models, "load_model", load)
    return names


@pytest.mark.parametrize("offered", [(), ("here",), ("here", "there")])
@pytest.mark.parametrize("name", ["/etc", "../secret", "somebody/large", "Here", "here/"])
def test_models_that_are_not_offered_are_rejected_before_loading(looked_up, offered, name):
    classifiers = Classifiers(offered, any_model=False)
    with pytest.raises(LoadingError, match="only; its operator can allow others"):
        classifiers(name)
    assert looked_up == []
    said = answer(Form("a text", model=name), classifiers).prediction
    assert "its operator can allow others" in said
    assert looked_up == []


def test_offered_models_are_loaded_and_few_stay_in_memory(looked_up):
    offered = ("one", "two", "three")
    classifiers = Classifiers(offered, any_model=False)
    assert [classifiers(name) for name in ("", *offered, "three", "one")] == ["one", *offered, "three", "one"]
    assert looked_up == ["one", "two", "three", "one"]


def test_no_more_are_in_memory_than_fit_the_bound_while_one_is_loaded(monkeypatch):
    held = []

    def load(name):
        held.append(len(classifiers._kept) + 1)
        return name

    monkeypatch.setattr(offered_models, "load_model", load)
    classifiers = Classifiers((), any_model=True)
    for name in "abcabdea":
        classifiers(name)
    assert max(held) == offered_models.KEPT_MODELS


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (("/srv/models/mine",), ["mine"]),
        (("/srv/models/mine/", "someone/theirs"), ["mine", "theirs"]),
        (("/srv/a/same", "/srv/b/same"), ["/srv/a/same", "/srv/b/same"]),
    ],
)
def test_models_are_called_by_their_last_names_where_these_differ(looked_up, models, names):
    classifiers = Classifiers(models, any_model=False)
    assert list(classifiers.offered) == names
    assert [classifiers(name) for name in names] == list(models)
    with pytest.raises(LoadingError) as refused:
        classifiers("other")
    assert ("/srv" in str(refused.value)) == (names == list(models))


@pytest.mark.parametrize("field", ["text", "pair", "model", "position"])
def test_too_long_fields_load_no_model(looked_up, field):
    long = Form("a text")._replace(**{field: "x" * (LONGEST_TEXT + 1)})
    assert "20,000 are the most" in answer(long, Classifiers((), any_model=True)).prediction
    assert looked_up == []


def test_any_model_is_loaded_if_allowed(looked_up):
    assert Classifiers((), any_model=True)("anything") == "anything"
    assert Classifiers((), any_model=True)("") == "the embedded one"


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("asked", [None, False, True])
def test_only_a_local_address_allows_any_model(monkeypatch, host, asked):
    built = []

    class Page:
        def launch(self, **_):
            return None, "", None

        def block_thread(self):
            pass

    def build(models, any_model, seconds):
        built.append((models, any_model))
        return Page()

    monkeypatch.setattr(page, "build", build)
    monkeypatch.setattr(page, "launch_options", dict)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    page.serve(host, models=["here"], any_model=asked)
    assert built == [(["here"], HOSTS[host] if asked is None else asked)]


@pytest.mark.parametrize("models", [(), ("here",), ("here", "there")])
def test_a_link_can_name_offered_models_only(looked_up, models):
    classifiers = Classifiers(models, any_model=True)
    assert all(name in classifiers for name in ("", *models))
    assert "somebody/large" not in classifiers
    classifiers("somebody/large")
    assert "somebody/large" in classifiers


CLAIMS = {
    "Support and opposition": ("POSITIVE", "POSITIVE", {"wonderful": 1, "thin": -1}),
    "A good word in a bad review": ("NEGATIVE", "NEGATIVE", {"boredom": 1, "masterpiece": -1}),
    "Why not the other class?": ("NEGATIVE", "POSITIVE", {"good": 1, "terrible": -1}),
    "A negation that it gets wrong": ("NEGATIVE", "NEGATIVE", {"waste": 1}),
}
"""What is predicted, what is explained, and words that speak for (1) and against it (-1)."""


@pytest.fixture(scope="module")
def classifiers():
    return Classifiers((), any_model=False)


def test_every_example_has_a_known_result():
    assert EXAMPLES.keys() == CLAIMS.keys()


@pytest.mark.parametrize("name", CLAIMS)
def test_an_example_has_the_result_in_its_title(classifiers, name):
    found = answer(EXAMPLES[name], classifiers).explanation
    predicted, explained, speak = CLAIMS[name]
    assert (found.prediction, found.target) == (predicted, explained)
    contributions = dict(found.words("transformer-deep-lift"))
    for word, sign in speak.items():
        assert sign * contributions[word] > 0.1
    strongest = max(contributions, key=lambda word: abs(contributions[word]))
    assert strongest in speak


def test_classes_can_be_chosen_before_the_first_explanation(classifiers, tmp_path):
    assert classifiers.classes("") == ["NEGATIVE", "POSITIVE"]
    value = save_classifier(tmp_path, num_labels=1, id2label={0: "stars"}, label2id={"stars": 0})
    assert Classifiers((str(value),), any_model=False).classes("") == []


def test_cancelling_and_leaving_stop_only_the_own_run(monkeypatch, folder):
    pytest.importorskip("gradio")
    ended = []
    monkeypatch.setattr(page, "Turns", lambda seconds: SimpleNamespace(end=ended.append))
    built = page.build([folder])
    (cancel,) = (index for index, block in built.blocks.items() if block.elem_id == "cancel")
    for target in ((cancel, "click"), (None, "unload")):
        events = [it for it in built.fns.values() if target in [tuple(found) for found in it.targets]]
        (event,) = (it for it in events if it.fn is not None and not it.is_cancel_function)
        event.fn(SimpleNamespace(session_hash=f"who {target[1]}s"))
    assert ended == ["who clicks", "who unloads"]
