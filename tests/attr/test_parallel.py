"""nn.DataParallel: over no device it calls its module, over several it is rejected."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from captum_globenc import DecompX, EncoderForward, GlobEnc, TransformerDeepLift
from models import SMALL, randomize

IDS, BASELINE = torch.tensor([[2, 5, 7, 9, 3]]), torch.tensor([[2, 4, 4, 4, 3]])


def arguments(method):
    return (IDS, BASELINE, 1) if method is TransformerDeepLift else (IDS, 1)


@pytest.mark.parametrize("wrap", ["forward", "model"])
@pytest.mark.parametrize("method", [GlobEnc, DecompX, TransformerDeepLift])
def test_one_device_is_as_none_and_several_are_rejected(method, wrap):
    model = randomize(BertForSequenceClassification(BertConfig(**SMALL))).double()
    expected = method(EncoderForward(model)).attribute(*arguments(method))

    def wrapped(device_ids):
        parallel = nn.DataParallel(EncoderForward(model) if wrap == "forward" else model)
        parallel.device_ids = device_ids
        return parallel if wrap == "forward" else EncoderForward(parallel)

    found = method(wrapped([])).attribute(*arguments(method))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    name = "EncoderForward" if wrap == "forward" else "BertForSequenceClassification"
    message = rf"replicas of {name} in threads on 2 devices, which cannot be recorded: pass .*model\.module"
    with pytest.raises(ValueError, match=message):
        method(wrapped([0, 1]))
    with pytest.raises(ValueError, match=message):
        method(wrapped([0, 1]), model)
