"""The number of kernels and device syncs of a call on a batch.

Counted on a CPU with the tile budget of an accelerator, which dispatches the same operations.
"""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertForSequenceClassification

from captum_globenc import EncoderForward, GlobEnc
from captum_globenc.decomposition import workspace

SYNCS = {
    "aten._local_scalar_dense.default",
    "aten.nonzero.default",
    "aten.equal.default",
    "aten.item.default",
}
TOKENS = 64


class Dispatched(TorchDispatchMode):
    """Counts dispatched operations."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[str(func)] += 1
        return func(*args, **(kwargs or {}))

    @property
    def syncs(self):
        return sum(count for name, count in self.names.items() if name in SYNCS)


@pytest.fixture(name="model")
def _model(monkeypatch):
    monkeypatch.setattr(workspace, "CPU", workspace.ACCELERATOR)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=100, hidden_size=48, intermediate_size=64, num_attention_heads=12)
    return BertForSequenceClassification(config).eval()


def inputs(texts, padded):
    ids = torch.randint(4, 100, (texts, TOKENS))
    mask = torch.ones_like(ids)
    if padded:
        mask[: max(texts // 2, 1), 40:] = 0
    return ids, (mask,)


@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
def test_kernels_do_not_grow_with_the_texts(model, padded):
    globenc = GlobEnc(EncoderForward(model))
    counts = []
    ids, extra = inputs(8, padded)
    globenc.attribute(ids, 1, extra)  # runs the encoder twice, to check it
    for texts in (8, 64):
        ids, extra = inputs(texts, padded)
        with Dispatched() as seen:
            globenc.attribute(ids, 1, extra)
        counts.append(sum(seen.names.values()))
    assert counts[1] <= 3000
    assert counts[1] == counts[0]


@pytest.mark.parametrize("position", [None, "mean", slice(1, 3)], ids=str)
def test_no_sync_before_the_pass_is_over_and_three_after(model, position, monkeypatch):
    forward = EncoderForward(model)
    ids, extra = inputs(8, padded=True)
    GlobEnc(forward).attribute(ids, None, extra, position=0)  # synchronizes, to check the model
    read = []
    monkeypatch.setattr(
        torch.Tensor, "tolist", lambda self, own=torch.Tensor.tolist: read.append(1) or own(self)
    )
    with Dispatched() as seen, torch.no_grad():
        forward(ids, *extra)
    model_syncs = seen.syncs
    ended = []

    def watched(*arguments):
        output = forward(*arguments)
        ended.append(seen.syncs + len(read))
        return output

    with Dispatched() as seen:
        GlobEnc(watched, model).attribute(ids, None, extra, position=position or 0)
    assert ended == [model_syncs]
    assert seen.syncs + len(read) - model_syncs <= 3


@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
def test_scores_are_those_of_the_texts_one_by_one(model, padded, monkeypatch):
    ids, (mask,) = inputs(8, padded)
    model.double()
    together = GlobEnc(EncoderForward(model)).attribute(ids, 1, (mask,))
    monkeypatch.undo()
    for row in range(len(ids)):
        length = int(mask[row].sum())
        alone = GlobEnc(EncoderForward(model)).attribute(ids[row : row + 1, :length], 1)
        assert torch.allclose(together[row, :length], alone[0], rtol=1e-10, atol=0)
