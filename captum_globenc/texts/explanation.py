"""What a classifier predicts for one text, and what every token had to do with it: plain data.

N tokens, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from captum_globenc.texts.methods import METHODS
from captum_globenc.texts.words import Word

__all__ = ["Explanation"]


@dataclass(frozen=True)
class Explanation:
    """One text's prediction and the scores of its tokens, special tokens included.

    Attributes:
        text: The text.
        pair: The second segment, if there is one.
        prediction: The name of the predicted class; of a regression model, of its output.
        probability: The predicted class's probability; None for a regression model.
        value: The model's output for `prediction`: a logit, or what a regression model predicts.
        probabilities: Those of all classes by name; empty for a regression model.
        target: The name of the class that is explained: `prediction` unless another was chosen.
        against: The class that it is held against, if there is one.
        explained: The output that is explained: that of `target`, less that of `against`.
        position: The token whose mixture GlobEnc explains, "mean" for the average of all, or None where
            the model's head reads something else, or GlobEnc did not run.
        tokens: N tokens, without padding.
        scores: N scores by the name of each method. GlobEnc's are shares, which sum to 1; the others speak
            for `target` and, where they are negative, against it.
        layers: By method, the rows of N scores at every depth. GlobEnc's: what the explained position has
            gathered after each of L layers, `scores` the last. TransformerDeepLift's: L + 1, of what enters
            each layer and of what leaves the last, each adding up to the same. Empty unless asked for.
        words: The words that the tokens make up, special tokens among them (see
            `captum_globenc.texts.words.merge_scores`).
        truncated: Whether the text was longer than the model takes, so that its end is missing.
    """

    text: str
    pair: str | None
    prediction: str
    probability: float | None
    value: float
    probabilities: Mapping[str, float]
    target: str
    against: str | None
    explained: float
    position: int | Literal["mean"] | None
    tokens: list[str]
    scores: Mapping[str, list[float]]
    layers: Mapping[str, list[list[float]]] = field(default_factory=dict)
    words: Sequence[Word] = ()
    truncated: bool = False

    @property
    def headline(self) -> str:
        """The prediction in a few words, such as ``POSITIVE (98.1%)``, and what else is explained."""
        if self.probability is None:
            said = f"{self.prediction} = {self.value:.4g}"
        else:
            said = f"{self.prediction} ({self.probability:.1%})"
        asked = self.target != self.prediction or self.against is not None
        return f"{said}, explained: {self._class}" if asked and self._knows_classes else said

    @property
    def captions(self) -> dict[str, str]:
        """What the scores of each method are, such as ``for and against POSITIVE``."""
        signed = f"for and against {self._class}"
        if self.probability is None:
            signed = f"for and against a higher value of {self.target}"
        return {name: signed if METHODS[name].signed else self._shares for name in self.scores}

    @property
    def units(self) -> dict[str, str]:
        """What the scores of each method are counted in: ``%`` of a whole, or as the output is."""
        unit = "value" if self.probability is None else "logit"
        return {name: unit if METHODS[name].signed else "%" for name in self.scores}

    @property
    def sums(self) -> dict[str, str]:
        """What the scores of methods that add up come to: ``0.80 baseline + 4.10 tokens = 4.90 ...``.

        Rounded so that what is shown adds up as well.
        """
        if self.probability is None:
            unit = "value"
        else:
            unit = f"logit of {self.target}"
            unit += f" less that of {self.against}" if self.against is not None else ""
        whole = round(self.explained, 2)
        made = {}
        for name, row in self.scores.items():
            if METHODS[name].adds_up:
                tokens = round(math.fsum(row), 2)
                sign = "-" if tokens < 0 else "+"
                parts = f"{whole - tokens:z.2f} baseline {sign} {abs(tokens):.2f} tokens"
                made[name] = f"{parts} = {whole:z.2f} {unit}"
        return made

    @property
    def notes(self) -> dict[str, str]:
        """What is to say of the scores of each method in one line: what they are, and add up to."""
        sums = self.sums
        return {
            name: f"{caption}: {sums[name]}" if name in sums else caption
            for name, caption in self.captions.items()
        }

    def to_dict(self) -> dict[str, object]:
        """Return what JSON can hold; ``pair`` and ``layers`` only where asked for."""
        return {
            "text": self.text,
            **({} if self.pair is None else {"pair": self.pair}),
            "prediction": self.prediction,
            "probability": self.probability,
            "value": self.value,
            "probabilities": dict(self.probabilities),
            "target": self.target,
            "against": self.against,
            "explained": self.explained,
            "position": self.position,
            "tokens": self.tokens,
            "scores": dict(self.scores),
            "sums": self.sums,
            **({"layers": dict(self.layers)} if self.layers else {}),
            "truncated": self.truncated,
        }

    @property
    def _class(self) -> str:
        return self.target if self.against is None else f"{self.target} rather than {self.against}"

    @property
    def _knows_classes(self) -> bool:
        return any(METHODS[name].signed for name in self.scores)

    @property
    def _shares(self) -> str:
        if self.position == "mean":
            return "share of each token in what all tokens have mixed in, on average"
        if self.position is None:
            return "share of each token in what the head reads"
        return f"share of each token in what {self.tokens[self.position]} has mixed in"
