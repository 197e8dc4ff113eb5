"""The page of the web demo: its examples teach what they are called, and its events do what they should."""

from types import SimpleNamespace

import pytest

from captum_globenc.app import demo
from captum_globenc.app.answers import answer
from captum_globenc.app.layout import EXAMPLES
from captum_globenc.app.offered import Classifiers
from checkpoints import save_classifier

CLAIMS = {
    "For and against": ("POSITIVE", "POSITIVE", {"wonderful": 1, "thin": -1}),
    "A good word in a bad review": ("NEGATIVE", "NEGATIVE", {"boredom": 1, "masterpiece": -1}),
    "Why not the other class?": ("NEGATIVE", "POSITIVE", {"good": 1, "terrible": -1}),
    "A negation that it gets wrong": ("NEGATIVE", "NEGATIVE", {"waste": 1}),
}
"""What is predicted, what is explained, and words that speak for (1) and against it (-1)."""


@pytest.fixture(scope="module")
def classifiers():
    return Classifiers((), any_model=False)


def test_every_example_claims_something():
    assert EXAMPLES.keys() == CLAIMS.keys()


@pytest.mark.parametrize("name", CLAIMS)
def test_an_example_shows_what_it_is_called(classifiers, name):
    found = answer(EXAMPLES[name], classifiers).explanation
    predicted, explained, speak = CLAIMS[name]
    assert (found.prediction, found.target) == (predicted, explained)
    contributions = dict(found.words("transformer-deep-lift"))
    for word, sign in speak.items():
        assert sign * contributions[word] > 0.1
    strongest = max(contributions, key=lambda word: abs(contributions[word]))
    assert strongest in speak


def test_classes_can_be_chosen_before_anything_is_asked(classifiers, tmp_path):
    assert classifiers.classes("") == ["NEGATIVE", "POSITIVE"]
    value = save_classifier(tmp_path, num_labels=1, id2label={0: "stars"}, label2id={"stars": 0})
    assert Classifiers((str(value),), any_model=False).classes("") == []


def test_who_cancels_and_who_leaves_end_their_own_work(monkeypatch, folder):
    pytest.importorskip("gradio")
    ended = []
    monkeypatch.setattr(demo, "Turns", lambda seconds: SimpleNamespace(end=ended.append))
    page = demo.build([folder])
    (cancel,) = (index for index, block in page.blocks.items() if block.elem_id == "cancel")
    for target in ((cancel, "click"), (None, "unload")):
        events = [it for it in page.fns.values() if target in [tuple(found) for found in it.targets]]
        (event,) = (it for it in events if it.fn is not None and not it.is_cancel_function)
        event.fn(SimpleNamespace(session_hash=f"who {target[1]}s"))
    assert ended == ["who clicks", "who unloads"]
