"""Windows cover the whole document, and its scores are averages over the windows."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captum_globenc import EncoderForward, GlobEnc, TransformerDeepLift, explain
from captum_globenc.datasets import Attributor
from captum_globenc.texts import load_classifier
from captum_globenc.texts.windows import cut_windows, merge_windows
from checkpoints import LIMIT
from sentences import sentences

(DOCUMENT,) = sentences(1, seed=3, shortest=50, longest=50)


@given(st.integers(1, 60), st.integers(0, 5), st.integers(0, 6), st.integers(1, 12))
def test_windows_cover_all_tokens_and_share_the_overlap(first, second, overlap, more):
    segments = [None, *[0] * first, None, *[1] * second, *[None] * (second > 0)]
    limit = len(segments) - first + overlap + more
    windows = cut_windows(segments, limit, overlap)
    around = {place for place, segment in enumerate(segments) if segment != 0}
    assert set().union(*windows) == set(range(len(segments)))
    assert all(len(window) == min(limit, len(segments)) for window in windows)
    assert all(around <= set(window) for window in windows)
    for one, other in pairwise(windows):
        assert len(set(one) & set(other) - around) >= overlap
        assert one < other


def test_the_last_window_begins_early_enough_to_be_full():
    assert cut_windows([None, *[0] * 6, None], 6, 1) == [[0, 1, 2, 3, 4, 7], [0, 3, 4, 5, 6, 7]]


def test_too_short_windows_are_rejected():
    with pytest.raises(ValueError, match="leave 2 of 5 tokens to a window"):
        cut_windows([None, 0, 0, 0, None, 1], 5, 2)


def test_scores_are_averages_over_the_windows_that_hold_a_token():
    laid = merge_windows(5, [[0, 1, 2, 4], [0, 2, 3, 4]], [[1.0, 2.0, 3.0, 4.0], [3.0, 5.0, 7.0, 0.0]])
    assert laid.tolist() == [2.0, 2.0, 4.0, 7.0, 2.0]


def test_a_document_gets_the_mean_of_its_windows(folder):
    model, tokenizer, _ = load_classifier(folder)
    forward = EncoderForward(model)
    ids = tokenizer(DOCUMENT, verbose=False)["input_ids"]
    inside, room, overlap = ids[1:-1], LIMIT - 2, 6
    starts = [*range(0, len(inside) - room, room - overlap), len(inside) - room]
    assert len(starts) >= 3
    rows = torch.tensor([[ids[0], *inside[start : start + room], ids[-1]] for start in starts])
    with torch.no_grad():
        logits = forward(rows).mean(0)
    blanks = forward.masked({"input_ids": rows}, tokenizer)
    expected = {
        "globenc": GlobEnc(forward).attribute(rows),
        "transformer-deep-lift": TransformerDeepLift(forward).attribute(rows, blanks, int(logits.argmax())),
    }
    made = Attributor(folder, methods=list(expected), windows=overlap)({"text": [DOCUMENT, "a bad film"]})
    assert made["windows"] == [len(starts), 1]
    assert made["truncated"] == [False, False]
    assert made["logits"][0] == pytest.approx(logits.tolist(), abs=1e-5)
    assert made["input_ids"][0] == ids
    for name, scores in expected.items():
        held = [[] for _ in ids]
        for start, row in zip(starts, scores.tolist(), strict=True):
            for place, score in zip([0, *range(start + 1, start + room + 1), len(ids) - 1], row, strict=True):
                held[place].append(score)
        means = np.array([np.mean(of) for of in held])
        if name == "globenc":
            means /= means.sum()
        assert made[name][0] == pytest.approx(means.tolist(), abs=1e-5)
    assert " ".join(made["words"][0]) == DOCUMENT


def test_every_window_contains_the_second_segment(folder):
    made = Attributor(folder, windows=2)({"text": [DOCUMENT], "pair": ["the plot is bad"]})
    assert made["error"] == [""]
    assert made["words"][0][-4:] == ["the", "plot", "is", "bad"]
    assert len(made["globenc"][0]) == len(made["input_ids"][0]) > 50


def test_a_too_long_second_segment_is_an_error_of_its_row(folder):
    made = Attributor(folder, windows=2)({"text": [DOCUMENT, "bad"], "pair": ["bad " * 30, "good"]})
    assert made["error"][0].startswith("special tokens and the second segment leave 0 of 24 tokens")
    assert made["error"][1] == ""


@pytest.mark.parametrize("pair", ["the plot is bad", DOCUMENT + " a film"])
def test_a_pair_in_windows_is_explained_as_by_itself(folder, pair):
    """The longer of both is cut, whichever that is."""
    text = DOCUMENT if len(pair) < len(DOCUMENT) else "not bad"
    model, tokenizer, _ = load_classifier(folder)
    made = Attributor(model, tokenizer, windows=2)({"text": [text], "pair": [pair]})
    (it,) = explain([text], model, tokenizer, pair=pair, windows=2, methods=["globenc"])
    assert made["error"] == [""]
    assert made["globenc"][0] == pytest.approx(it.scores["globenc"], abs=1e-6)
