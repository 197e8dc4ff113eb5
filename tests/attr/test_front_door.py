"""Any call gets scores that match the definition, or a clear error."""

from functools import cache

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_globenc import EncoderForward, GlobEnc
from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.encoders import find_encoder
from captum_globenc.recording.recorder import record
from families import TEXT, VOCABULARY
from models import state_of
from reference import reference_mixing

REFUSALS = (ValueError, TypeError, IndexError, AssertionError, OverflowError)
"""What a call whose forward pass goes through may end with."""

FAMILIES = {row.label: row for row in TEXT if row.arguments == ("attention_mask",)}
TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-3}


@cache
def model_of(label, dtype, implementation):
    model = FAMILIES[label].make().to(dtype)
    if implementation:
        model.set_attn_implementation(implementation)
    return model


@st.composite
def masks(draw, batch, tokens):
    """None, padding on either side, holes, nothing at all, and shapes that do not fit."""
    kind = draw(st.sampled_from(["none", "right", "right", "holes", "empty", "wrong", "bool"]))
    lengths = [draw(st.integers(1, tokens)) for _ in range(batch)]
    right = torch.arange(tokens)[None] < torch.tensor(lengths)[:, None]
    return {
        "none": None,
        "right": right.long(),
        "bool": right,
        "holes": torch.tensor([[draw(st.integers(0, 1)) for _ in range(tokens)] for _ in range(batch)]),
        "empty": torch.zeros(batch, tokens).long(),
        "wrong": torch.ones(batch, tokens + 1).long(),
    }[kind]


@st.composite
def positions(draw, batch, tokens):
    index = st.integers(-1, tokens)
    return draw(
        st.one_of(
            st.sampled_from(
                [None, "mean", "cls", 0.5, True, slice(None), slice(1, None), slice(tokens, None)]
            ),
            index,
            st.lists(index, min_size=batch, max_size=batch),
            st.lists(index, min_size=batch, max_size=batch).map(torch.tensor),
            st.lists(st.lists(index, max_size=3), min_size=1, max_size=batch + 1),
            st.just(torch.rand(batch, tokens)),
        )
    )


@st.composite
def calls(draw):
    batch, tokens = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    ids = torch.tensor([[draw(st.integers(2, VOCABULARY - 1)) for _ in range(tokens)] for _ in range(batch)])
    return {
        "family": draw(st.sampled_from(sorted(FAMILIES))),
        "dtype": draw(st.sampled_from(sorted(TOLERANCES, key=str))),
        "implementation": draw(st.sampled_from(["", "eager"])),
        "ids": ids.to(draw(st.sampled_from([torch.long, torch.long, torch.int32, torch.float32]))),
        "mask": draw(masks(batch, tokens)),
        "position": draw(positions(batch, tokens)),
        "target": draw(st.sampled_from([None, None, 0, (0, 0), 99, [0], (0, 0, 0)])),
        "mixing": draw(st.sampled_from(list(MIXINGS))),
        "normalize": draw(st.booleans()),
        "wrapper": draw(st.sampled_from(["EncoderForward", "function"])),
    }


def weights(position, real):
    """What a good position means, written out."""
    rows = []
    for example, kept in enumerate(real):
        row = torch.zeros(len(kept), dtype=torch.float64)
        if position == "mean" if isinstance(position, str) else isinstance(position, slice):
            places = range(len(kept))[slice(None) if isinstance(position, str) else position]
            row[[place for place in places if kept[place]]] = 1
        elif isinstance(position, torch.Tensor) and position.ndim == 2:
            row += position[example]
        else:
            each = position if isinstance(position, int) else position[example]
            for place in each if isinstance(each, list) else [int(each)]:
                row[place] += 1
        rows.append(row / row.sum())
    return torch.stack(rows)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(call=calls())
def test_scores_match_the_definition_or_are_rejected(call):
    model = model_of(call["family"], call["dtype"], call["implementation"])
    named = EncoderForward(model, output="last_hidden_state")
    forward = named if call["wrapper"] == "EncoderForward" else lambda *inputs: named(*inputs)
    before = state_of(model)
    extra = (call["mask"],)
    try:
        with torch.no_grad():
            named(call["ids"], *extra)
        runs = True
    except Exception:
        runs = False
    found = refusal = None
    try:
        globenc = GlobEnc(forward, model, mixing=call["mixing"])
        found = globenc.attribute(
            call["ids"], call["target"], extra, position=call["position"], normalize=call["normalize"]
        )
    except Exception as error:
        refusal = error
    assert state_of(model) == before
    if found is None:
        if runs:
            assert isinstance(refusal, REFUSALS), repr(refusal)
            assert str(refusal)
        return
    layers = []
    record(lambda: named(call["ids"], *extra), find_encoder(model), layers.append)
    total = torch.eye(call["ids"].shape[1]).double()
    for layer in layers:
        total = reference_mixing(layer, call["mixing"]).double() @ total
    real = torch.ones(call["ids"].shape) if layers[0].real is None else layers[0].real
    position = call["position"]
    if position is None:  # the target's, or what the family pools
        position = 0 if isinstance(call["target"], tuple) else find_encoder(model).pooled
        if not isinstance(position, int) and position != "mean":
            return
        position = position % call["ids"].shape[1] if isinstance(position, int) else position
    expected = torch.einsum("bi,bij->bj", weights(position, real), total)
    if call["normalize"]:
        expected = expected / expected.sum(1, keepdim=True)
    tolerance = TOLERANCES[call["dtype"]]
    assert (found.double() - expected).abs().max() <= tolerance * expected.max()
