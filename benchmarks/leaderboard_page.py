"""The page of the leaderboard: what lost where first, then tables and a figure. Nothing is measured here."""

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
    "embedded": "The embedded classifier: MiniLM, six layers, fine-tuned on sentences as they are, these "
    "among them. Masked tokens are news to its head.",
    "masked": "The same encoder, fine-tuned on the other sentences with up to half of their tokens masked: "
    "texts with masked tokens are known to it.",
    "pre-ln": "A pre-LN encoder of four layers, trained from scratch in the same way.",
    "vit": "A ViT of four layers on scikit-learn's digits, trained with random patches blanked. Removed are "
    "10 to 50 % of the patches. Left out are methods that `evaluate` alone knows. Two rows need care: "
    "`attn-lrp` is the rule of its paper, whereas LXT, the authors' package, ships CP-LRP with a tuned gamma "
    "rule for ViTs; and the published results of LibraGrad are for pretrained ViTs.",
}
SHORTCUTS = {
    "token": "A rare word, a BERT of four layers trained from scratch.",
    "context": "A rare word that counts only where another stands, too; the same BERT.",
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
"""Methods that claim to add up to the difference from the text all masked."""

IN_LOGITS = (*COMPLETE, "first-last", "feature-ablation", "occlusion", "gradient-shap", "input-x-gradient")
"""Methods whose scores are parts of a logit, so that they can be compared with Shapley values."""

MAIN = {**dict.fromkeys(REMOVAL, "most less least"), **dict.fromkeys(SHORTCUTS, "marked-precision/size")}
"""What methods are ordered by, on each model."""

FIGURE = "leaderboard.png"
QUESTIONS = """\
Two questions are asked. **Removal**: what does the prediction lose without the tokens that have the highest
scores, less what it loses without those that have the lowest? That is about one prediction, and about what
the model makes of texts with holes; it favours methods that compare with the mask, as most here do. **Planted
words**: are the highest scores at the words that decide? That is about what the model looks at, and asks it
about no text with holes. Where the order of two words decides, neither says anything by itself, and without
one of them the text is of a kind that the model never saw. So a method can lead in one table and trail in
the other: the question at hand says which one to read.
"""


@dataclass(frozen=True)
class Outcome:
    """What was measured on a model.

    Args:
        texts: how many, or images.
        rows: values text by text.
        seconds: what it took, training included.
        cost: forward passes of each method.
        reliance: what shows that a model relies on planted words.
        checks: sanity checks, values text by text.
        seeds: means of the main measure with each seed, of methods that split features at random.
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
        """Make it of what was kept."""
        return cls(
            **{name: tensors(value) if name in ("rows", "checks") else value for name, value in found.items()}
        )


def tensors(rows: Mapping[str, Mapping[str, Sequence[float]]]) -> Measured:
    """Return values as tensors again."""
    return {
        method: {name: torch.tensor(values, dtype=torch.double) for name, values in it.items()}
        for method, it in rows.items()
    }


def write(path: Path, outcomes: Mapping[str, Outcome], commit: str, limit: int) -> None:
    """Write the page, and the figure next to it.

    Args:
        path: the page's.
        outcomes: of all parts, by name.
        commit: of the code.
        limit: texts a model.
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
        + ". Means with standard errors; differences are taken text by text. Of the kinds of GlobEnc those "
        "are here that `evaluate` compares by default. rxnmapper's ALBERT, which has no head for classes, "
        "is not here.\n"
    )
    yield f"![Faithfulness against cost, a point a method]({FIGURE})\n"
    yield "## When tokens are removed\n"
    yield (
        "What the predicted class's probability loses as one to five tokens are masked, one after the other "
        "(AOPC): most important first, least important first, and the difference of both. Completeness "
        "error: how far the scores are from adding up to the logit less that of the text all masked, in "
        "logits, for methods that claim it. Distance to Shapley: the relative error to the exact Shapley "
        "values of the logit, for texts of at most 12 tokens and methods whose scores are in logits. Cost: "
        "in forward passes, timed in the same process, the checks of a method's first call included; "
        "[the cost of one call](cost.md) is measured on a quiet machine. Seeds: the mean of the first "
        "column with seeds 0, 1 and 2 of the random parts.\n"
    )
    for name, what in REMOVAL.items():
        if name not in outcomes:
            continue
        yield f"### {name}\n\n{what} {outcomes[name].texts} {'images' if name == 'vit' else 'texts'}.\n"
        yield from removal_table(outcomes[name])
        yield ""
    yield "## Planted words\n"
    yield (
        "`marked-precision` is the share of the highest scores, as many as there are words that decide, "
        "that are at these; `marked-rank` the rank of the first of them; `decoy-named` the share of texts "
        "in which the decoy, a planted word without effect, is among the highest. By score, and by size "
        "(absolute value): which words were used is told by size. Seeds: the mean of the second column with "
        "seeds 0, 1 and 2 of the random parts.\n"
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
    rows = ordered(outcome.rows, "most less least")
    shown = {
        method: {name: it for name, it in values.items() if name in ("most less least", "most", "least")}
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
    yield from table(shown, ["most less least"], {**more, **seeds_column(outcome)})


def seeds_column(outcome: Outcome) -> Mapping[str, Mapping[str, str]]:
    """Return the column of means with each seed, where there are any."""
    written_out = {
        method: ", ".join(f"{value:.3f}" for value in values) for method, values in outcome.seeds.items()
    }
    return {"seeds": written_out} if written_out else {}


def sanity_lines(outcome: Outcome) -> Iterator[str]:
    """Yield the sanity checks."""
    yield f"## Sanity checks\n\nThe pre-LN encoder of above, {outcome.texts} texts.\n"
    yield (
        "Spearman's correlation of the scores with those after weights were drawn anew, from the top down to "
        "the part that heads the column (Adebayo et al. 2018). What stays near 1 when all are drawn anew "
        "says little of the model.\n"
    )
    yield from table(outcome.rows, [])
    yield ""
    yield (
        "Largest change of a score, in parts of the largest score, where what is computed stays the same: "
        "heads in another order, gains of LayerNorms moved into the next matrix, a token added that no "
        "other sees. 0 is right. Methods that take a layer apart (GlobEnc's kinds, ALTI, DecompX) may "
        "depend on how it is put together; those that draw at random draw otherwise where there is a token "
        "more.\n"
    )
    yield from table(outcome.checks, [])


def ordered(rows: Measured, by: str) -> Measured:
    """Return the methods in the order of a measure, the highest first."""
    return dict(sorted(rows.items(), key=lambda item: -mean(item[1][by])[0]))


def losses(outcomes: Mapping[str, Outcome]) -> str:
    """Say where this project's methods lose, and where they do not: by two standard errors, text by text."""
    parts = ["Where this project's methods lose:\n"]
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
            f"- `{ours}` loses to another method on {', '.join(behind) or 'none of the models'}. It is level "
            f"with the best of the others, or ahead, on {', '.join(level) or 'none of them'}."
        )
    return "\n".join(parts) + (
        "\n\nTo lose is to be behind the best by more than two standard errors of the differences text by "
        "text: where tokens are removed, in what the most important take away less what the least important "
        "do; where words are planted, in the share of them that is named by size."
    )


def draw(outcomes: Mapping[str, Outcome], path: Path) -> None:
    """Draw faithfulness against cost, a point a method, its name beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = [name for name in REMOVAL if name in outcomes and outcomes[name].cost]
    if not models:
        return
    points = {
        method: (
            sum(outcomes[name].cost[method] for name in models) / len(models),
            sum(mean(outcomes[name].rows[method]["most less least"])[0] for name in models) / len(models),
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
    axes.set_ylabel(f"lost with the most important tokens less with the least,\nmean of {', '.join(models)}")
    axes.grid(color="#e0e0e0", linewidth=0.6)
    # Names stand in a column on the right, so far apart that each can be read.
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
