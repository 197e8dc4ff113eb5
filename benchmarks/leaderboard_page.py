"""The page of the leaderboard: where our methods are worse, tables, and a figure; without measuring."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from comparison import Measured, mean, table, written
from shortcuts import said

from captum_globenc.datasets.store import replace
from captum_globenc.texts.provenance import versions

EXACT = "transformer-deep-lift"
OURS = ("globenc", EXACT, f"{EXACT}/restore-2", f"{EXACT}/restore-4")
REMOVAL = {
    "embedded": "The embedded classifier: MiniLM, six layers, fine-tuned on unmasked sentences, including "
    "these. Its head was not trained on masked tokens.",
    "masked": "The same encoder, fine-tuned on the other sentences with up to half of their tokens masked, "
    "so that masked texts are part of its training.",
    "pre-ln": "A pre-LN encoder of four layers, trained from scratch in the same way.",
    "vit": "A ViT of four layers on scikit-learn's digits, trained with random patches blanked. The "
    "measures remove 10 to 50 % of the patches. Methods that only `evaluate` has are omitted. Read two rows "
    "with care: `attn-lrp` is the rule of its paper, whereas LXT, the authors' package, ships CP-LRP with a "
    "tuned gamma rule for ViTs; and the published results of LibraGrad are for pretrained ViTs.",
}
SHORTCUTS = {
    "token": "A rare word, a BERT of four layers trained from scratch.",
    "context": "A rare word that matters only together with another rare word; the same BERT.",
    "context-2": "The same with another seed of the training.",
    "pair": "The order of two rare words; the same BERT.",
    "pair-2": "The same with another seed of the training.",
    "minilm-pair": "The order of two rare words, MiniLM.",
}
SAMPLED = ("kernel-shap/16", "kernel-shap/32", "kernel-shap/64")
COMPLETE = (
    *OURS[1:],
    f"{EXACT}/2",
    "integrated-gradients",
    "deep-lift",
    *SAMPLED,
)
"""Methods whose scores should sum to the difference from the fully masked text."""

IN_LOGITS = (*COMPLETE, "first-last", "feature-ablation", "occlusion", "gradient-shap", "input-x-gradient")
"""Methods with scores in logits, which can be compared with Shapley values."""

MAIN = {**dict.fromkeys(REMOVAL, "most minus least"), **dict.fromkeys(SHORTCUTS, "marked-precision/size")}
"""The measure that orders the methods, for each model."""

FIGURE = "leaderboard.png"
QUESTIONS = """\
The page asks two questions. **Removal**: how much does the prediction decrease without the tokens of the
highest scores, compared with removing the tokens of the lowest scores? The answer depends on the model's
output for incomplete texts, and favors methods whose baseline is the mask, as most methods here.
**Planted words**: do the words that determine the label have the highest scores? This question needs no
incomplete texts. If the order of two words determines the label, neither word alone does, and a text without
one of them is unlike the training texts. A method can therefore be first in one table and last in the other:
read the table that fits your question.
"""


@dataclass(frozen=True)
class Outcome:
    """What was measured on a model.

    Args:
        texts: number of texts or images.
        rows: values per text.
        seconds: time of the part, training included.
        cost: forward passes of each method.
        reliance: evidence that the model relies on planted words.
        checks: sanity checks, values per text.
        seeds: means of the main measure for each seed, for methods that split features at random.
    """

    texts: int
    rows: Measured
    seconds: float
    cost: Mapping[str, float] = field(default_factory=dict)
    reliance: Mapping[str, float] = field(default_factory=dict)
    checks: Measured = field(default_factory=dict)
    seeds: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Outcome":
        """Create an outcome from saved values."""
        return cls(
            **{name: tensors(value) if name in ("rows", "checks") else value for name, value in found.items()}
        )


def tensors(rows: Mapping[str, Mapping[str, Sequence[float]]]) -> Measured:
    """Convert lists of values to tensors."""
    return {
        method: {name: torch.tensor(values, dtype=torch.double) for name, values in it.items()}
        for method, it in rows.items()
    }


def write(path: Path, outcomes: Mapping[str, Outcome], commit: str, limit: int) -> None:
    """Write the page, and the figure next to it.

    Args:
        path: the file of the page.
        outcomes: the outcomes of all parts, by name.
        commit: the commit of the code.
        limit: number of texts per model.
    """
    draw(outcomes, path.with_name(FIGURE))
    replace(path, "\n".join(lines(outcomes, commit, limit)) + "\n")


def lines(outcomes: Mapping[str, Outcome], commit: str, limit: int) -> Iterator[str]:
    """Yield the lines of the page."""
    minutes = sum(it.seconds for it in outcomes.values()) / 60
    yield "# Leaderboard\n"
    yield losses(outcomes) + "\n"
    yield QUESTIONS
    yield (
        f"Made by `OMP_NUM_THREADS=1 python benchmarks/leaderboard.py --limit {limit}` at commit {commit}, "
        "with seed 0, in "
        f"{minutes:.0f} minutes of one core, the training of the models included; "
        + ", ".join(f"{name} {version}" for name, version in versions().items())
        + ". Means with standard errors; differences are paired by text. The kinds of GlobEnc are the ones "
        "that `evaluate` compares by default. rxnmapper's ALBERT is omitted, because it has no "
        "classification head.\n"
    )
    yield f"![Faithfulness against cost, one point per method]({FIGURE})\n"
    yield "## When tokens are removed\n"
    yield (
        "The decrease of the predicted class's probability as one to five tokens are masked, one after the "
        "other (AOPC): most important first, least important first, and the difference of both. Completeness "
        "error: the absolute difference between the sum of the scores and the change of the logit from the "
        "fully masked text, for methods with the completeness property. Distance to Shapley: the relative "
        "error to the exact Shapley values of the logit, for texts of at most 12 tokens and methods whose "
        "scores are in logits. Cost: in forward passes, timed in the same process, including the checks of "
        "a method's first call; [the cost of one call](cost.md) is measured on a quiet machine. Seeds: the "
        "mean of the first column with seeds 0, 1 and 2 of the random parts.\n"
    )
    for name, what in REMOVAL.items():
        if name not in outcomes:
            continue
        yield f"### {name}\n\n{what} {outcomes[name].texts} {'images' if name == 'vit' else 'texts'}.\n"
        yield from removal_table(outcomes[name])
        yield ""
    yield "## Planted words\n"
    yield (
        "k planted words determine the label. `marked-precision` is the share of the k highest scores that "
        "belong to these words, `marked-rank` the rank of the first of them, and `decoy-named` the share of "
        "texts in which the decoy, a planted word without effect, is among the k highest scores. Columns "
        "with `/size` rank by absolute value, which shows the words that the model used. Seeds: the mean of "
        "the second column with seeds 0, 1 and 2 of the random parts.\n"
    )
    for name, what in SHORTCUTS.items():
        if name not in outcomes:
            continue
        outcome = outcomes[name]
        yield f"### {name}\n\n{what} {outcome.texts} texts. {said(outcome.reliance)}\n"
        yield from table(ordered(outcome.rows, MAIN[name]), ["marked-precision/size"], seeds_column(outcome))
        yield ""
    if "sanity" in outcomes:
        yield from sanity_lines(outcomes["sanity"])


def removal_table(outcome: Outcome) -> Iterator[str]:
    """Yield the table of a model, the best method first."""
    rows = ordered(outcome.rows, "most minus least")
    shown = {
        method: {name: it for name, it in values.items() if name in ("most minus least", "most", "least")}
        for method, values in rows.items()
    }
    more = {}
    if outcome.cost:
        more["completeness error"] = {
            method: f"{mean(rows[method]['completeness error'])[0]:.1e}"
            for method in COMPLETE
            if method in rows
        }
        more["distance to Shapley"] = {
            method: written(rows[method]["distance to Shapley"]) for method in IN_LOGITS if method in rows
        }
        more["cost"] = {method: f"{cost:.1f}" for method, cost in outcome.cost.items()}
    yield from table(shown, ["most minus least"], {**more, **seeds_column(outcome)})


def seeds_column(outcome: Outcome) -> Mapping[str, Mapping[str, str]]:
    """Return the column of means with each seed, where there are any."""
    written_out = {
        method: ", ".join(f"{value:.3f}" for value in values) for method, values in outcome.seeds.items()
    }
    return {"seeds": written_out} if written_out else {}


def sanity_lines(outcome: Outcome) -> Iterator[str]:
    """Yield the sanity checks."""
    yield f"## Sanity checks\n\nThe same pre-LN encoder, {outcome.texts} texts.\n"
    yield (
        "Spearman's correlation of the scores before and after the weights are randomized, from the top down "
        "to the part that heads the column (Adebayo et al. 2018). A method whose correlation stays near 1 "
        "when all weights are random explains little of the model.\n"
    )
    yield from table(outcome.rows, [])
    yield ""
    yield (
        "Largest change of a score, relative to the largest score, under changes that keep the model's "
        "function: permuted heads, gains of LayerNorms folded into the next matrix, and an added token that "
        "no other token attends to. The expected value is 0. Methods that decompose layers (GlobEnc's "
        "kinds, ALTI, DecompX) may depend on the implementation; methods with random samples draw other "
        "samples when a token is added.\n"
    )
    yield from table(outcome.checks, [])


def ordered(rows: Measured, by: str) -> Measured:
    """Return the methods in the order of a measure, the highest first."""
    return dict(sorted(rows.items(), key=lambda item: -mean(item[1][by])[0]))


def losses(outcomes: Mapping[str, Outcome]) -> str:
    """Return where our methods are worse than the best other method, by two standard errors."""
    parts = ["Where our methods are worse than another method:\n"]
    measures = {name: measure for name, measure in MAIN.items() if name in outcomes}
    for ours in OURS:
        if not all(ours in outcomes[name].rows for name in measures):
            continue
        behind, level = [], []
        for name, measure in measures.items():
            rows = ordered(outcomes[name].rows, measure)
            others = [it for it in rows if it.split("/")[0] != ours.split("/")[0] and it != "N-Enc"]
            best = others[0]
            gap, error = mean(rows[best][measure] - rows[ours][measure])
            if gap > 2 * error:
                behind.append(f"{name} (`{best}`, by {gap:.3f} ± {error:.3f})")
            else:
                level.append(f"{name} ({-gap:+.3f} ± {error:.3f} to `{best}`)")
        parts.append(
            f"- `{ours}` is worse than another method on {', '.join(behind) or 'none of the models'}. It "
            f"equals the best of the others, or is better, on {', '.join(level) or 'none of them'}."
        )
    return "\n".join(parts) + (
        "\n\nWorse means worse than the best method by more than two standard errors of the differences "
        "paired by text. The measure is `most minus least` when tokens are removed, and "
        "`marked-precision/size` for planted words."
    )


def draw(outcomes: Mapping[str, Outcome], path: Path) -> None:
    """Draw faithfulness against cost, with one labeled point per method."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = [name for name in REMOVAL if name in outcomes and outcomes[name].cost]
    if not models:
        return
    points = {
        method: (
            sum(outcomes[name].cost[method] for name in models) / len(models),
            sum(mean(outcomes[name].rows[method]["most minus least"])[0] for name in models) / len(models),
        )
        for method in outcomes[models[0]].rows
    }
    _, chance = points.pop("random", (0.0, None))
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    costs, heights = zip(*points.values(), strict=True)
    colours = ["#c44e00" if method in OURS else "#606060" for method in points]
    axes.scatter(costs, heights, color=colours, s=20, zorder=3)
    if chance is not None:
        axes.axhline(chance, color="#606060", linestyle=":", linewidth=1)
        axes.text(min(costs), chance, "random", fontsize=7, va="bottom")
    axes.set_xscale("log")
    axes.set_xlabel("cost, forward passes")
    axes.set_ylabel(f"AOPC, most minus least important tokens,\nmean of {', '.join(models)}")
    axes.grid(color="#e0e0e0", linewidth=0.6)
    # The names are in a column on the right, spaced so that they do not overlap.
    low, high = axes.get_ylim()
    step, at = (high - low) / 26, high
    right = max(costs) * 3
    for method, (cost, height) in sorted(points.items(), key=lambda item: -item[1][1]):
        at = min(at - step, height)
        axes.annotate(
            method,
            (cost, height),
            (right, at),
            fontsize=7,
            va="center",
            arrowprops={"arrowstyle": "-", "color": "#a0a0a0", "linewidth": 0.5, "relpos": (0, 0.5)},
        )
    axes.set_xlim(right=right * 20)
    axes.set_ylim(min(low, at - step), high)
    figure.savefig(path, dpi=150)
