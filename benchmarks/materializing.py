"""GlobEnc for BERT written straight from its definition: every vector of every pair of tokens is made.

Only here to be measured against: the vectors take O(H N^2 D) memory, as in the original code.
"""

import torch
from torch import Tensor
from transformers import BertForSequenceClassification


def _norm(vectors: Tensor, norm: torch.nn.LayerNorm, seen: Tensor) -> Tensor:
    """Apply a LayerNorm without its bias to `(N, N, D)`, with the deviations of the vectors it saw."""
    deviation = (seen.var(-1, unbiased=False) + norm.eps).sqrt()
    centred = vectors - vectors.mean(-1, keepdim=True)
    return centred / deviation[:, None, None] * norm.weight


@torch.no_grad()
def materialized_globenc(model: BertForSequenceClassification, ids: Tensor, mask: Tensor) -> Tensor:
    """Return GlobEnc's scores `(B, N)` of a BERT with eager attention; every token is real."""
    layers = model.bert.encoder.layer
    seen: list[dict[str, Tensor]] = [{} for _ in layers]
    handles = []
    for layer, notes in zip(layers, seen, strict=True):
        parts = {
            "x": layer.attention.self,
            "norm1": layer.attention.output.LayerNorm,
            "norm2": layer.output.LayerNorm,
        }
        for name, part in parts.items():

            def note(module, args, notes=notes, name=name):
                notes[name] = args[0]

            handles.append(part.register_forward_pre_hook(note))
    try:
        attentions = model(ids, attention_mask=mask, output_attentions=True).attentions
    finally:
        for handle in handles:
            handle.remove()
    scores = []
    for example in range(len(ids)):
        rollout = None
        for layer, notes, attention in zip(layers, seen, attentions, strict=True):
            x, weights = notes["x"][example], attention[example]
            heads, tokens, _ = weights.shape
            value = layer.attention.self.value(x).view(tokens, heads, -1)
            output = layer.attention.output.dense.weight.view(-1, heads, value.shape[-1])
            sent = torch.einsum("jhe,dhe->hjd", value, output)
            vectors = (weights[..., None] * sent[:, None]).sum(0)
            vectors[range(tokens), range(tokens)] += x
            vectors = _norm(vectors, layer.attention.output.LayerNorm, notes["norm1"][example])
            vectors = _norm(vectors, layer.output.LayerNorm, notes["norm2"][example])
            mixture = vectors.norm(dim=-1)
            rollout = mixture if rollout is None else mixture @ rollout
            rollout = rollout / rollout.max()
        scores.append(rollout[0] / rollout[0].sum())
    return torch.stack(scores)
