"""The deadline of the demo: it ends any work of a model, and leaves the model and torch as they were."""

import threading

import pytest
import torch

from captum_globenc.app import deadline as clock
from captum_globenc.app.answers import METHODS, Form, answer
from captum_globenc.app.deadline import STOPS, Deadline
from captum_globenc.texts.loading import load_classifier
from models import state_of


@pytest.fixture
def passes_after(monkeypatch):
    """Sets the clock so that the time is over when it has been looked at so many times."""

    def tick(looks):
        seen = []
        monkeypatch.setattr(clock, "monotonic", lambda: (seen.append(1), float(len(seen) > looks + 1))[1])

    return tick


@pytest.mark.parametrize("looks", [0, 1, 10, 40, 150, 400])
def test_wherever_it_ends_work_the_model_is_as_it_was(looks, passes_after):
    classifier = load_classifier()
    form = Form("Not a bad film.", methods=tuple(METHODS))
    before = state_of(classifier.model)
    passes_after(looks)
    with pytest.raises(TimeoutError, match=r"longer than 0\.5 seconds"), Deadline(0.5):
        answer(form, lambda name: classifier)
    assert state_of(classifier.model) == before
    assert torch.is_grad_enabled()
    with Deadline(1e9):
        assert answer(form, lambda name: classifier).explanation is not None


def test_it_counts_for_its_own_thread_alone(passes_after):
    passes_after(0)
    done = []

    def other():
        done.append(torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)))

    with Deadline(0.5):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(done) == 1


def test_what_it_ends_work_at_are_functions_of_torch():
    for name in STOPS:
        assert hasattr(torch, name) or hasattr(torch.nn.functional, name)
