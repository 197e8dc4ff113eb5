"""Real weights: the proofs of families on models that were trained."""

import pytest
import torch
from transformers import AlbertModel, AutoTokenizer, BertModel

from captum_globenc import EncoderForward, GlobEnc, check_encoder
from captum_globenc.encoders import find_encoder
from weights import minilm_folder, rxnmapper_folder

REACTIONS = ("CC(=O)O.OCC>>CC(=O)OCC", "C=C.[Br]>>BrCCBr", "CCO>>C=C")


def albert():
    """Rxnmapper's ALBERT and three reactions, a token for each letter that it knows."""
    folder = rxnmapper_folder()
    vocabulary = {token: i for i, token in enumerate((folder / "vocab.txt").read_text().split("\n"))}
    texts = [["[CLS]", *(c for c in text if c in vocabulary), "[SEP]"] for text in REACTIONS]
    ids = torch.full((len(texts), max(map(len, texts))), vocabulary["[PAD]"])
    for i, text in enumerate(texts):
        ids[i, : len(text)] = torch.tensor([vocabulary[token] for token in text])
    lengths = torch.tensor([[len(text)] for text in texts])
    return AlbertModel, folder, ids, (torch.arange(ids.shape[1]) < lengths).long()


def minilm():
    """MiniLM's BERT and three sentences."""
    folder = minilm_folder()
    texts = ["The plot is thin, but the acting is simply wonderful.", "A dull film.", "Not bad at all!"]
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    return BertModel, folder, batch["input_ids"], batch["attention_mask"]


@pytest.mark.parametrize("source", [minilm, albert])
def test_trained_models_pass_the_proofs(source):
    kind, folder, ids, mask = source()
    model, report = kind.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    assert not {key for key in report["missing_keys"] if "pooler" not in key}
    forward = EncoderForward(model.eval(), ("attention_mask",), "last_hidden_state")
    found = check_encoder(find_encoder(model).spec, model, ids, mask, forward_func=forward, tolerance=1e-10)
    assert found.padding
    scores = GlobEnc(forward).attribute(ids, additional_forward_args=mask)
    assert (scores[mask == 0] == 0).all()
    torch.testing.assert_close(scores.sum(-1), torch.ones(3).double())
    # A trained model attends to something: its scores are not spread evenly.
    assert scores[0].max() > 1.5 * scores[0].median()
