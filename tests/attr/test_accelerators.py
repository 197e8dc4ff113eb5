"""The number of kernels and device syncs of a call on a batch.

Counted on a CPU with the tile budget of an accelerator, which dispatches the same operations.
"""

import operator

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from captum_globenc import EncoderForward, GlobEnc
from captum_globenc.decomposition import workspace

TOKENS = 64
ONE_LAYER = workspace.TileBudget(cells=1, receivers=TOKENS, sources=TOKENS, syncs=True)


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
def test_kernels_do_not_grow_with_the_texts(model, padded, bench):
    globenc = GlobEnc(EncoderForward(model))
    counts = []
    ids, extra = inputs(8, padded)
    globenc.attribute(ids, 1, extra)  # runs the encoder twice, to check it
    for texts in (8, 64):
        ids, extra = inputs(texts, padded)
        with bench("operations").Dispatched() as seen:
            globenc.attribute(ids, 1, extra)
        counts.append(seen.operations)
    assert counts[1] == counts[0]


@pytest.mark.parametrize(("padded", "most"), [(False, (900, 380, 3)), (True, (1000, 450, 3))])
def test_layers_share_kernels(model, padded, most, bench):
    ids, extra = inputs(8, padded)
    globenc = GlobEnc(EncoderForward(model))
    operations = bench("operations")
    with operations.as_on_an_accelerator():
        found = operations.counts(lambda: globenc.attribute(ids, 1, extra))
    assert all(map(operator.le, (found.operations, found.kernels, found.syncs), most))


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (1.5, "In encoder layer 2, example"),
        (torch.nan, "NaN or infinity in encoder layer 2"),
    ],
)
def test_errors_name_the_layer_among_those_decomposed_together(model, factor, message):
    ids, extra = inputs(3, padded=True)
    changes = []

    def change(module, args, output):
        return (output[0] * factor, *output[1:]) if changes else None

    model.bert.encoder.layer[2].attention.self.register_forward_hook(change)
    globenc = GlobEnc(EncoderForward(model))
    globenc.attribute(ids, 1, extra)  # checks the model, and decomposes each layer by itself
    globenc.attribute(ids, 1, extra)
    changes.append(1)
    with pytest.raises((RuntimeError, ValueError), match=message):
        globenc.attribute(ids, 1, extra)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_model_that_overwrites_its_tensors_later_has_the_same_scores(model, mode, monkeypatch):
    """As models do that reuse buffers: each layer overwrites all that the layer before it computed."""
    ids, extra = inputs(3, padded=True)
    forward = EncoderForward(model.double())
    with monkeypatch.context() as patch:
        patch.setattr(workspace, "CPU", ONE_LAYER)
        expected = GlobEnc(forward).mixing_matrices(ids, extra)
    seen, overwritten = [], []

    def keep(module, args, output=None):
        # not the mask, which all layers share
        seen[-1].extend(it for it in (*args[:1], output) if isinstance(it, torch.Tensor))

    def overwrite(module, args, output):
        for it in seen[-2] if len(seen) > 1 else ():
            overwritten.append(it.fill_(torch.nan))

    for layer in model.bert.encoder.layer:
        layer.register_forward_pre_hook(lambda *_: seen.append([]))
        layer.register_forward_pre_hook(keep)
        attention = layer.attention.self
        for module in (attention.query, attention.key, attention.value, layer.attention.output.dense):
            module.register_forward_hook(keep)
        for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm):
            norm.register_forward_pre_hook(keep)
        layer.register_forward_hook(overwrite)

    def run(*arguments):
        seen.clear()
        with mode():
            return forward(*arguments)

    for _ in range(2):  # the first call also checks the model
        found = GlobEnc(run, model).mixing_matrices(ids, extra)
        assert (found - expected).abs().max() <= 1e-12 * expected.max()
    assert len(overwritten) > 100


@pytest.mark.parametrize("position", [None, "mean", slice(1, 3)], ids=str)
def test_no_sync_before_the_pass_is_over_and_three_after(model, position, bench):
    forward = EncoderForward(model)
    ids, extra = inputs(8, padded=True)
    GlobEnc(forward).attribute(ids, None, extra, position=0)  # synchronizes, to check the model
    dispatched = bench("operations").Dispatched
    with dispatched() as seen, torch.no_grad():
        forward(ids, *extra)
    model_syncs = seen.syncs
    ended = []

    def watched(*arguments):
        output = forward(*arguments)
        ended.append(seen.syncs)
        return output

    with dispatched() as seen:
        GlobEnc(watched, model).attribute(ids, None, extra, position=position or 0)
    assert ended == [model_syncs]
    assert seen.syncs - model_syncs <= 3


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


def test_views_and_allocations_are_no_kernels(bench):
    given = torch.arange(6.0)
    with bench("operations").Dispatched() as seen:
        made = torch.empty(2, 3)  # an allocation
        made.copy_(given.view(2, 3).t().t())  # three views, one kernel
        made.mul_(2).sum().item()  # two kernels, and one that the CPU waits for
        given.tolist()
    assert (seen.operations, seen.kernels, seen.syncs) == (8, 4, 2)
    assert made.tolist() == [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]


def test_every_subject_is_counted_and_the_counts_of_a_call_do_not_grow_with_the_texts(bench):
    operations = bench("operations")
    few, many = (operations.counted((texts, 16), layers=2, padded=True) for texts in (2, 8))
    assert tuple(few) == bench("subjects").SUBJECTS
    assert few == many
    assert few["forward"].kernels < few["one gradient"].kernels < few["TransformerDeepLift"].kernels
    more = operations.counted((2, 16), layers=3)["TransformerDeepLift"]
    fewer = operations.counted((2, 16), layers=2)["TransformerDeepLift"]
    assert more.operations - fewer.operations <= 190  # of a layer
    assert more.kernels - fewer.kernels <= 77
    assert few["TransformerDeepLift"].syncs == fewer.syncs == more.syncs  # neither layers nor padding add any
    lines = list(operations.table(few))
    assert lines[2].startswith(f"| forward | {few['forward'].operations} |")
    assert lines[2].endswith("| 1.0 |")
