"""The data of a page are compressed without loss."""

import base64
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captum_globenc.drawing.document import pack

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SHORT = st.floats(allow_nan=False, allow_infinity=False, width=32)


def unpacked(packed, count):
    raw = base64.b64decode(packed)
    return np.frombuffer(raw, {4: "<f4", 8: "<f8"}[len(raw) // count]).astype(float)


def bits(row):
    return struct.pack(f"<{len(row)}d", *row)


@given(st.one_of(st.lists(FLOATS, min_size=1), st.lists(SHORT, min_size=1)))
def test_every_number_is_restored_exactly(row):
    packed = json.loads(pack([{"scores": {"a": row}, "layers": {"a": [row, row]}}])[1])
    rows = [packed["scores"]["a"], *packed["layers"]["a"]]
    assert [bits(unpacked(it, len(row))) for it in rows] == [bits(row)] * 3


@pytest.mark.parametrize(
    ("row", "width"),
    [([0.1], 8), ([0.5, float(np.float32(0.1))], 4), ([1e300, 0.5], 8), ([-0.0], 4), ([5e-324], 8)],
)
def test_four_bytes_are_taken_where_they_hold_the_numbers(row, width):
    (packed,) = json.loads(pack([{"scores": {"a": row}}])[1])["scores"].values()
    assert len(base64.b64decode(packed)) == width * len(row)


def test_common_fields_are_written_once():
    objects = [
        {"same": {"a": [1]}, "other": 1, "scores": {"a": [0.5]}},
        {"same": {"a": [1]}, "other": True, "scores": {"a": [0.5]}, "more": None},
        {"same": {"a": [1]}, "other": 1.0, "scores": {"a": [0.25]}},
    ]
    shared, *own = map(json.loads, pack(objects))
    assert shared == {"same": {"a": [1]}}
    assert [type(it["other"]) for it in own] == [int, bool, float]
    assert [sorted(it) for it in own] == [
        ["other", "scores"],
        ["more", "other", "scores"],
        ["other", "scores"],
    ]


def test_one_object_shares_nothing():
    assert pack([{"a": "é<"}]) == ["{}", '{"a":"é<"}']
    assert pack([]) == ["{}"]
