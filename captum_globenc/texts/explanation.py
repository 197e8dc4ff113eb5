"""What a classifier predicts for one text, and what every token had to do with it: plain data.

N tokens, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from captum_globenc.texts.words import Word

__all__ = ["Explanation"]

ADDING_UP = frozenset({"transformer-deep-lift"})
"""Methods whose scores add up to the output's difference from that of the text all masked."""


@dataclass(frozen=True)
class Explanation:
    """One text's prediction and the scores of its tokens, special tokens included.

    Attributes:
        text: The text.
        pair: The second segment, if there is one.
        prediction: The name of the predicted class; of a regression model, of its output.
        probability: The predicted class's probability; None for a regression model.
        value: The model's output for `prediction`: a logit, or what a regression model predicts.
        tokens: N tokens, without padding.
        scores: N GlobEnc scores, which sum to 1.
        layers: L rows of N scores, what the explained position has gathered after each layer; the
            last row is `scores`. Empty unless asked for.
        compared: N scores per name of another method; empty unless asked for.
        words: The words that the tokens make up, special tokens among them (see
            `captum_globenc.texts.words.merge_scores`).
        truncated: Whether the text was longer than the model takes, so that its end is missing.
    """

    text: str
    pair: str | None
    prediction: str
    probability: float | None
    value: float
    tokens: list[str]
    scores: list[float]
    layers: list[list[float]] = field(default_factory=list)
    compared: Mapping[str, list[float]] = field(default_factory=dict)
    words: Sequence[Word] = ()
    truncated: bool = False

    @property
    def methods(self) -> dict[str, list[float]]:
        """The scores by method: GlobEnc's first, then the compared ones."""
        return {"GlobEnc": self.scores, **self.compared}

    @property
    def headline(self) -> str:
        """The prediction in a few words, such as ``POSITIVE (98.1%)``."""
        if self.probability is None:
            return f"{self.prediction} = {self.value:.4g}"
        return f"{self.prediction} ({self.probability:.1%})"

    @property
    def sums(self) -> dict[str, str]:
        """What the scores of methods that add up come to: ``0.80 baseline + 4.10 tokens = 4.90 ...``."""
        unit = "value" if self.probability is None else f"logit of {self.prediction}"
        made = {}
        for name in ADDING_UP & self.compared.keys():
            tokens = math.fsum(self.compared[name])
            sign = "-" if tokens < 0 else "+"
            baseline = f"{self.value - tokens:.2f} baseline"
            made[name] = f"{baseline} {sign} {abs(tokens):.2f} tokens = {self.value:.2f} {unit}"
        return made

    def to_dict(self) -> dict[str, object]:
        """Return what JSON can hold; ``pair``, ``layers`` and ``compare`` only where asked for."""
        asked = {"layers": self.layers, "compare": dict(self.compared)}
        return {
            "text": self.text,
            **({} if self.pair is None else {"pair": self.pair}),
            "prediction": self.prediction,
            "probability": self.probability,
            "value": self.value,
            "tokens": self.tokens,
            "scores": self.scores,
            **{name: value for name, value in asked.items() if value},
            "truncated": self.truncated,
        }
