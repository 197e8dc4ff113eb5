"""Paths with alternatives, and stacks that are not pretrained models."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, BertPreTrainedModel

from captum_globenc import EncoderForward, GlobEnc
from captum_globenc.encoders import BERT, find_encoder, registry
from captum_globenc.encoders.search import resolve_path
from captum_globenc.errors import UnsupportedModelError
from models import SMALL, randomize


def tree(**children):
    return nn.ModuleDict(children)


def test_the_first_alternative_that_exists_is_used():
    layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    old, new = tree(encoder=tree(layer=layers)), tree(layers=layers)
    both = tree(layers=layers, encoder=tree(layer=nn.ModuleList()))
    for module in (old, new, both):
        assert resolve_path(module, "layers.*|encoder.layer.*", "x") == list(layers)
    assert resolve_path(new, "layers.1.weight", "x") == [layers[1].weight]


def test_an_alternative_that_exists_in_part_is_not_used():
    whole = [nn.Linear(2, 2), nn.Linear(2, 2)]
    module = nn.ModuleList([tree(out=whole[0], o=nn.Identity()), tree(out=whole[1])])
    assert resolve_path(module, "*.o|*.out", "x") == whole


def test_without_any_alternative_the_error_names_all():
    with pytest.raises(UnsupportedModelError, match="'x' does not fit: ModuleDict has no 'a.b' or 'c' in"):
        resolve_path(tree(a=nn.Identity()), "a.b|c", "x")


class Runner(nn.Module):
    """Runs BERT's layers without being a PreTrainedModel, as CLIP's did in transformers 4."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        bert = BertModel(config)
        self.embeddings, self.encoder = bert.embeddings, bert.encoder

    def forward(self, input_ids):
        return self.encoder(self.embeddings(input_ids))


class Wrapping(BertPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.runner = Runner(config)

    def forward(self, input_ids):
        return self.runner(input_ids)


class Classifying(Wrapping):
    def __init__(self, config):
        super().__init__(config)
        self.classifier = nn.Linear(config.hidden_size, 3)

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.classifier(self.runner(input_ids)[0][:, 0]))


@pytest.fixture
def spec(monkeypatch):
    spec = replace(BERT, stack="Wrapping|Runner")
    monkeypatch.setattr(registry, "_REGISTRY", {**registry._REGISTRY, "bert": spec})
    return spec


def test_the_innermost_module_of_a_stacks_names_is_the_stack(spec):
    bare, classifier = (randomize(kind(BertConfig(**SMALL))) for kind in (Wrapping, Classifying))
    for model in (bare, bare.runner):
        found = find_encoder(model, spec)
        assert found.stack is found.head is bare.runner
    assert find_encoder(classifier, spec).stack is classifier.runner
    assert find_encoder(classifier, spec).head is classifier


def test_a_stack_that_is_not_a_pretrained_model_is_decomposed(spec):
    model = randomize(Classifying(BertConfig(**SMALL)).double())
    ids = torch.tensor([[2, 11, 12, 3], [2, 14, 15, 3]])
    mixtures = GlobEnc(EncoderForward(model)).mixing_matrices(ids)
    plain = BertModel(model.config).double().eval()
    plain.load_state_dict(model.runner.state_dict(), strict=False)
    registry._REGISTRY["bert"] = BERT
    same = GlobEnc(EncoderForward(plain, output="last_hidden_state")).mixing_matrices(ids)
    torch.testing.assert_close(mixtures, same, rtol=1e-12, atol=0)
