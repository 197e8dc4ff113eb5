"""The deadline of the demo stops a run, and leaves the model and torch unchanged."""

import threading

import pytest
import torch

from captum_globenc.demo import limits as clock
from captum_globenc.demo.explaining import answer
from captum_globenc.demo.form import Form
from captum_globenc.demo.limits import STOPS, Deadline, Turns
from captum_globenc.texts.loading import load_classifier
from captum_globenc.texts.methods import METHODS
from models import state_of


@pytest.fixture
def passes_after(monkeypatch):
    """Sets the clock so that the time is over when it has been looked at so many times."""

    def tick(looks):
        seen = []
        monkeypatch.setattr(clock, "monotonic", lambda: (seen.append(1), float(len(seen) > looks + 1))[1])

    return tick


@pytest.mark.parametrize("looks", [0, 1, 10, 40, 150, 400])
def test_the_model_is_unchanged_wherever_a_run_is_stopped(looks, passes_after):
    classifier = load_classifier()
    form = Form("Not a bad film.", methods=tuple(METHODS))
    before = state_of(classifier.model)
    passes_after(looks)
    with pytest.raises(TimeoutError, match=r"stopped after 0\.5 seconds"), Deadline(0.5):
        answer(form, lambda name: classifier)
    assert state_of(classifier.model) == before
    assert torch.is_grad_enabled()
    with Deadline(1e9):
        assert answer(form, lambda name: classifier).explanation is not None


def test_a_deadline_applies_to_its_own_thread(passes_after):
    passes_after(0)
    done = []

    def other():
        done.append(torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)))

    with Deadline(0.5):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(done) == 1


def test_the_stops_are_torch_functions():
    for name in STOPS:
        assert hasattr(torch, name) or hasattr(torch.nn.functional, name)


def linear():
    torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2))


def test_a_visitor_ends_their_own_work_from_another_thread_and_the_next_has_its_turn():
    turns, started, said, done = Turns(60.0), threading.Event(), [], []

    def endless():
        try:
            with turns.of("one"):
                while True:
                    linear()
                    started.set()
        except TimeoutError as error:
            said.append(str(error))

    def next_one():
        with turns.of("two"):
            linear()
            done.append(bool(said))

    threads = [threading.Thread(target=endless), threading.Thread(target=next_one)]
    threads[0].start()
    assert started.wait(60)
    threads[1].start()
    turns.end("three")
    assert threads[0].is_alive()
    turns.end("one")
    for thread in threads:
        thread.join(60)
    # The second had its turn when the first was through.
    assert (said, done) == (["this was cancelled"], [True])
    turns.end("one")  # of what is over
    with turns.of("one"):
        linear()


def test_a_waiting_request_can_be_cancelled():
    turns, said, waiting = Turns(60.0), [], threading.Event()

    def second():
        try:
            waiting.set()
            with turns.of("two"):
                linear()
        except TimeoutError as error:
            said.append(str(error))

    with turns.of("one"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(60)
        while "two" not in turns._running:
            pass
        turns.end("two")
    thread.join(60)
    assert said == ["this was cancelled"]
