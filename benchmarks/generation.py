"""Which sentence of its prompt made a model answer so? Methods on prompts whose evidence is known.

    OMP_NUM_THREADS=1 python benchmarks/generation.py [--facts 5,20,60] [--limit 100]

The model of benchmarks/facts.py answers questions from facts in its prompt; it is trained first and kept in
build/facts. Only prompts that it answers rightly are explained. Measured are how often the sentence with the
answer has the highest score, and as ContextCite defines them (Cohen-Wang et al. 2024, arXiv 2409.00729) what
the answer's log-probability loses without the sentences of the highest scores, and the linear datamodeling
score (LDS). Seeds are fixed.

B prompts, K subsets of sentences, N tokens, S sentences that hold facts, T tokens of the answer.
"""

import argparse
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from captum.attr import InputXGradient, Saliency
from comparison import Measured, table
from facts import WORDS, Fact, answered, prompts, trained_on_facts
from sklearn.linear_model import Lasso
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc import EncoderForward, TransformerDeepLift, explain
from captum_globenc.differences.peers import ATTN_LRP
from captum_globenc.evaluation.subject import Remembering
from captum_globenc.metrics import linear_datamodeling_score, outputs_without, top_k_drop
from captum_globenc.texts.embeddings import OnEmbeddings
from captum_globenc.texts.methods.backward import relevance
from captum_globenc.texts.tasks.generation import AnswerForward

DROPS = (1, 3, 5)
"""How many sentences are removed."""
SUBSETS = 64
"""Random subsets of sentences for the linear datamodeling score of a prompt."""
PROMPTS_AT_ONCE, ROWS_AT_ONCE = 16, 64
"""Prompts that are explained together, and rows that run together, which bounds the memory."""
DEEP_LIFT = "transformer-deep-lift"


@dataclass(frozen=True)
class Questions:
    """Prompts with as many facts each, and the log-probability of the right answer to each.

    Attributes:
        model: the model.
        tokenizer: its tokenizer.
        prompts: B prompts.
        seed: of subsets that methods draw.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[Fact]
    seed: int = 0

    @cached_property
    def ids(self) -> Tensor:
        """The prompts, `(B, N)`."""
        return self._tokens([it.text for it in self.prompts])

    @cached_property
    def extra(self) -> tuple[Tensor, Tensor]:
        """The other arguments of `forward`: the attention mask `(B, N)`, and the answers `(B, T)`."""
        answers = self._tokens([it.answer for it in self.prompts], add_special_tokens=False)
        return torch.ones_like(self.ids), answers

    def _tokens(self, texts: Sequence[str], **options: Any) -> Tensor:
        ids: Tensor = self.tokenizer(list(texts), return_tensors="pt", **options)["input_ids"]
        return ids

    @cached_property
    def forward(self) -> AnswerForward:
        """The forward function: log-probabilities `(B, T)`, T being 1."""
        return AnswerForward(self.model)

    @cached_property
    def over_embeddings(self) -> OnEmbeddings:
        """The same of word embeddings and ids."""
        return OnEmbeddings(self.forward, self.model)

    @cached_property
    def sentences(self) -> Tensor:
        """By token, the number of its sentence, 0 to S - 1; S at the question, -1 at `<s>`: `(N,)`."""
        return (torch.arange(self.ids.shape[1]) - 1) // WORDS

    @cached_property
    def count(self) -> int:
        """S."""
        return int(self.sentences[-1])

    @cached_property
    def truth(self) -> Tensor:
        """The sentences that hold the answers, `(B,)`."""
        return torch.tensor([it.sentence for it in self.prompts])

    def by_sentence(self, scores: Tensor) -> Tensor:
        """Return the scores of sentences `(B, S)`, from those of tokens `(B, N)`."""
        return torch.stack([scores[:, self.sentences == it].sum(1) for it in range(self.count)], 1)

    def values(self, kept: Tensor) -> Tensor:
        """Return the log-probabilities `(B, K)` of the answers to prompts with some sentences.

        The others are hidden from attention, and positions count what is left, as in a prompt without them.

        Args:
            kept: `(B, K, S)`.
        """
        gone = torch.zeros(*kept.shape[:2], len(self.sentences), dtype=torch.bool)
        gone[..., (self.sentences >= 0) & (self.sentences < self.count)] = ~kept.repeat_interleave(WORDS, -1)
        outputs = outputs_without(
            self.forward, self.ids, gone, None, self.extra, removal="pad", max_examples_per_batch=ROWS_AT_ONCE
        )
        return outputs.sum(-1).double()

    def subsets(self, count: int, seed: str) -> Tensor:
        """Draw subsets `(B, K, S)`, each sentence with probability 1/2; of a prompt, always the same."""
        made = [
            torch.rand(
                count, self.count, generator=torch.Generator().manual_seed(hash_of(f"{seed} {it.text}"))
            )
            for it in self.prompts
        ]
        return torch.stack(made) < 0.5

    @cached_property
    def measured_subsets(self) -> Tensor:
        """Random subsets `(B, K, S)`, the same for every method."""
        return self.subsets(SUBSETS, "measure")

    @cached_property
    def value(self) -> Remembering:
        """The forward function of the answers' log-probabilities `(B,)`, which runs every prompt once."""
        return Remembering(lambda *arguments: self.forward(*arguments).sum(-1))


def hash_of(text: str) -> int:
    """Return a seed that depends on a text alone."""
    return zlib.crc32(text.encode())


def explained(questions: Questions, baseline: str = "mean", method: str = DEEP_LIFT) -> Tensor:
    """The package's `explain`; "eos" is the embedding of the token that ends a text."""
    tokenizer = questions.tokenizer
    if baseline == "eos":
        tokenizer, baseline = deepcopy(tokenizer), "pad"
        tokenizer.pad_token = tokenizer.eos_token
    found = explain(
        [it.text for it in questions.prompts],
        questions.model,
        tokenizer,
        answer=[it.answer for it in questions.prompts],
        baseline=baseline,
        methods=[method],
    )
    return questions.by_sentence(torch.tensor([it.scores[method] for it in found]))


def question_kept(questions: Questions, **path: Any) -> Tensor:
    """Exact differences from a baseline that keeps the question; or on a path that restores sentences."""
    over, sentences = questions.over_embeddings, questions.sentences[None, :, None]
    own = over.embed(questions.ids)
    facts = (sentences >= 0) & (sentences < questions.count)
    if path:
        path |= {"path": "restore", "feature_mask": sentences, "seed": questions.seed}
    scores = TransformerDeepLift(over).attribute(
        own, torch.where(facts, over.mean, own), 0, (questions.ids, *questions.extra), **path
    )
    return questions.by_sentence(scores.sum(-1))


def leave_one_out(questions: Questions) -> Tensor:
    """What the answer's log-probability loses without a sentence."""
    whole = torch.ones(1, questions.count, dtype=torch.bool)
    kept = torch.cat([whole, ~torch.eye(questions.count, dtype=torch.bool)])
    values = questions.values(kept.expand(len(questions.prompts), -1, -1))
    return values[:, :1] - values[:, 1:]


def regression(questions: Questions, passes: int) -> Tensor:
    """ContextCite's sparse linear regression of the logit of the answer's probability on random subsets."""
    kept = questions.subsets(passes, f"regression {questions.seed}")
    logits = questions.values(kept).exp().logit(eps=1e-7)
    rows = []
    for its_kept, its_logits in zip(kept.double().numpy(), logits.numpy(), strict=True):
        scaler = StandardScaler()
        fit = Lasso(alpha=0.01, random_state=0).fit(scaler.fit_transform(its_kept), its_logits)
        rows.append(torch.tensor(fit.coef_ / scaler.scale_))
    return torch.stack(rows)


def gradients(questions: Questions, method: type[Any], reduce: Callable[..., Tensor]) -> Tensor:
    """One of Captum's methods on word embeddings."""
    over = questions.over_embeddings
    scores = method(over).attribute(
        over.embed(questions.ids).requires_grad_(),
        target=0,
        additional_forward_args=(questions.ids, *questions.extra),
    )
    return questions.by_sentence(reduce(scores.detach(), dim=-1))


def attention(questions: Questions) -> Tensor:
    """What the last position attends to, the mean over heads and layers."""
    model = questions.model
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = torch.stack(model(questions.ids, output_attentions=True).attentions)
    model.set_attn_implementation(before)
    return questions.by_sentence(weights.mean((0, 2))[:, -1])


def attn_lrp(questions: Questions) -> Tensor:
    """AttnLRP by the package's rules, of the answer's logit: it has no rule for log-probabilities."""
    mask, answers = questions.extra
    targets = [(questions.ids.shape[1] - 1, word) for (word,) in answers.tolist()]
    forward = EncoderForward(questions.model)
    return questions.by_sentence(relevance(forward, questions.ids, (mask,), targets, ATTN_LRP))


def random(questions: Questions) -> Tensor:
    """Chance."""
    return torch.rand(len(questions.prompts), questions.count, generator=torch.Generator().manual_seed(0))


METHODS: Mapping[str, Callable[[Questions], Tensor]] = {
    "exact differences": explained,
    "exact differences/zero": partial(explained, baseline="zero"),
    "exact differences/eos": partial(explained, baseline="eos"),
    "exact differences/question-kept": question_kept,
    "exact differences/restore-2": partial(question_kept, n_steps=2),
    "exact differences/restore-4": partial(question_kept, n_steps=4),
    "leave one sentence out": leave_one_out,
    "sparse regression/32": partial(regression, passes=32),
    "sparse regression/64": partial(regression, passes=64),
    "integrated gradients": partial(explained, method="integrated-gradients"),
    "gradient x input": partial(gradients, method=InputXGradient, reduce=torch.sum),
    "gradient norm": partial(gradients, method=Saliency, reduce=torch.linalg.vector_norm),
    "attention": attention,
    "AttnLRP": attn_lrp,
    "random": random,
}
"""Methods by name: scores of sentences `(B, S)`."""


class Passes:
    """Counts the rows that go through a model, and those that come back through it.

    Attributes:
        forward: rows of forward passes.
        backward: rows of backward passes.
    """

    def __init__(self) -> None:
        self.forward = self.backward = 0

    @contextmanager
    def counted(self, model: PreTrainedModel) -> Iterator[None]:
        """Count what runs within."""
        gradient = torch.autograd.grad

        def back(outputs: Any, *arguments: Any, **options: Any) -> Any:
            some = [outputs] if isinstance(outputs, Tensor) else outputs
            self.backward += sum(it.numel() for it in some)
            return gradient(outputs, *arguments, **options)

        def run(module: Any, arguments: Any, output: Any) -> None:
            self.forward += len(output.logits)

        handle = model.register_forward_hook(run)
        try:
            with patch("torch.autograd.grad", back):
                yield
        finally:
            handle.remove()


def measured(questions: Questions, scores: Tensor) -> dict[str, Tensor]:
    """Return the measures of scores `(B, S)`, one value a prompt."""
    sentences = questions.sentences.where(questions.sentences < questions.count, -1)
    by_token = scores.new_zeros(questions.ids.shape)
    by_token[:, [sentences.tolist().index(it) for it in range(questions.count)]] = scores
    call = (questions.value, questions.ids, by_token, None, questions.extra)
    options: dict[str, Any] = {
        "feature_mask": sentences[None],
        "removal": "pad",
        "max_examples_per_batch": ROWS_AT_ONCE,
    }
    best = scores.argsort(dim=1, descending=True, stable=True)[:, 0]
    return {
        "recall at 1": (best == questions.truth).double(),
        **{f"drop at {k}": top_k_drop(*call, k=k, **options) for k in DROPS},
        "LDS": linear_datamodeling_score(*call, subsets=questions.measured_subsets, **options),
    }


def rows_of(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase], some: Sequence[Fact], names: Sequence[str]
) -> tuple[Measured, dict[str, dict[str, str]]]:
    """Return what is measured of methods, and how many passes of the model each takes for a prompt."""
    parts = [
        Questions(*loaded, some[start : start + PROMPTS_AT_ONCE])
        for start in range(0, len(some), PROMPTS_AT_ONCE)
    ]
    rows: Measured = {}
    costs: dict[str, dict[str, str]] = {"forward": {}, "backward": {}}
    for name in names:
        passes, found = Passes(), []
        for part in parts:
            with passes.counted(part.model):
                scores = METHODS[name](part).detach().double()
            found.append(measured(part, scores))
        rows[name] = {measure: torch.cat([it[measure] for it in found]) for measure in found[0]}
        for kind in costs:
            costs[kind][name] = f"{getattr(passes, kind) / len(some):.3g}"
    return rows, costs


def main() -> None:
    """Print a table for each number of facts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", default="5,20,60", help="sentences in a prompt")
    parser.add_argument("--limit", type=int, default=100, help="prompts of each number of facts")
    parser.add_argument("--methods", default=",".join(METHODS), help="which methods")
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[1] / "build/facts")
    options = parser.parse_args()
    loaded = trained_on_facts(options.model, report=True)
    for count in map(int, options.facts.split(",")):
        drawn = prompts(max(500, 2 * options.limit), count)
        right = answered(loaded, drawn)
        some = [it for it, known in zip(drawn, right.tolist(), strict=True) if known][: options.limit]
        share = f"{right.double().mean():.1%} of {len(drawn)} answers are right"
        print(f"\n{count} facts: {share}; {len(some)} prompts are explained.\n", flush=True)
        rows, costs = rows_of(loaded, some, options.methods.split(","))
        for line in table(rows, [], costs):
            print(line, flush=True)


if __name__ == "__main__":
    main()
