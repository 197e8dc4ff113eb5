"""A small Llama that answers questions from facts in its prompt: which sentence holds the answer is known.

    OMP_NUM_THREADS=1 python benchmarks/facts.py [--out build/facts] [--most 60]

A prompt is "Give Ada pears. Give Ben nuts. Give Ada", its answer " pears". Names of a prompt are different,
things may repeat: a sentence with the right thing may be about another name. The model is trained in about a
minute on one core, with a fixed seed, and kept with its tokenizer in a folder.

B prompts, F facts, N tokens, Q questions, V words, D embedding size.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, normalize
from trained import Loaded, kept
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_NAMES = (
    "Ada Adam Alan Alice Amy Anna Ben Bella Bob Carl Carol Clara Cora Dan David Diana Dora Edith Elena "
    "Emil Emma Eric Eva Felix Fiona Frank Fred Gina Grace Greta Hanna Hans Hugo Ida Igor Irene Iris "
    "Ivan Jack Jane Jim Joan John Julia Karl Kate Kim Lara Laura Leo Lina Lisa Lola Luke Maria Mark Max "
    "Mia Mona Nina Nora Olga Oscar Otto Paul Peter Petra Rita Rosa Ruth Sam Sara Simon Sofia Tara Theo "
    "Tina Tom Vera Walter"
)
_THINGS = (
    "apples bananas beans beets books boots bottles candles cards carrots cherries coats cups eggs figs "
    "flowers forks grapes hats lamps lemons mushrooms nuts onions pears peas pens plums ropes shirts "
    "spoons stones"
)
NAMES, THINGS = _NAMES.split(), _THINGS.split()
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
VERB, STOP = "Give", "."
VOCABULARY = {word: number for number, word in enumerate([*SPECIAL, VERB, STOP, *NAMES, *THINGS])}
PAD, START, END, _ = range(len(SPECIAL))
FIRST_NAME, FIRST_THING = VOCABULARY[NAMES[0]], VOCABULARY[THINGS[0]]
WORDS = 4
"""Tokens of a fact: the verb, a name, a thing, a full stop."""

STAGES = ((3, 8), (3, 20), (3, 60))
"""How many facts a prompt has, from the first stage of the training to the last."""

SIZE = 128
"""The width of the model."""
OF_NAMES, OF_OTHERS, BEFORE = slice(0, 48), slice(48, 80), slice(80, SIZE)
"""Dimensions that embeddings have at the start: of names, of other words, and of the name before a word."""

TOKENS = 1600
"""Tokens in a batch, about."""
QUESTIONS = 8
"""Questions after the facts of a training sequence, at most."""
RIGHT = 0.98
"""The share of right answers that ends a stage."""
STEPS = (2000, 1000, 1000)
"""The most steps of each stage."""
RECENT = 50
"""Steps over which the share of right answers is averaged."""


class Fact(NamedTuple):
    """A prompt that ends in a question.

    Attributes:
        text: the sentences that hold facts, and the beginning of one more.
        answer: the word that completes it, with a space before it.
        sentence: which sentence holds the answer.
    """

    text: str
    answer: str
    sentence: int


def draw(count: int, facts: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw facts, and an order in which they are asked for.

    Returns:
        Ids of the names and of the things, and numbers of the facts, each `(B, F)`.
    """
    names, order = (
        torch.rand(count, size, generator=generator).argsort(1)[:, :facts] for size in (len(NAMES), facts)
    )
    things = torch.randint(len(THINGS), (count, facts), generator=generator)
    return names + FIRST_NAME, things + FIRST_THING, order


def prompts(count: int, facts: int, seed: int = 1) -> list[Fact]:
    """Return prompts that the training does not draw, because it draws from other seeds."""
    words, made = [*VOCABULARY], []
    names, things, order = draw(count, facts, torch.Generator().manual_seed(seed))
    for its_names, its_things, (asked, *_) in zip(
        names.tolist(), things.tolist(), order.tolist(), strict=True
    ):
        sentences = [
            f"{VERB} {words[name]} {words[thing]}{STOP}"
            for name, thing in zip(its_names, its_things, strict=True)
        ]
        text = " ".join([*sentences, VERB, words[its_names[asked]]])
        made.append(Fact(text, f" {words[its_things[asked]]}", asked))
    return made


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of words and full stops, which puts <s> in front of a text."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token=SPECIAL[-1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", START)])
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


class Batch(NamedTuple):
    """Training sequences: facts, and after them several questions with their answers.

    Each question stands at the positions that follow the facts, and attends to the facts and to itself.

    Attributes:
        ids: `(B, N)`.
        positions: `(1, N)`.
        visible: `(1, 1, N, N)`, which positions a position attends to.
        facts: the number of facts.
    """

    ids: Tensor
    positions: Tensor
    visible: Tensor
    facts: int

    @property
    def first(self) -> int:
        """Where the questions begin."""
        return 1 + WORDS * self.facts


def batches(fewest: int, most: int, generator: torch.Generator) -> Iterator[Batch]:
    """Yield batches without end, each with a number of facts drawn from `fewest` to `most`."""
    while True:
        facts = int(torch.randint(fewest, most + 1, (), generator=generator))
        yield batch_of(facts, generator)


def batch_of(facts: int, generator: torch.Generator) -> Batch:
    """Return a batch of sequences with so many facts each."""
    questions = min(facts, QUESTIONS)
    count = max(4, TOKENS // (1 + WORDS * (facts + questions)))
    names, things, order = draw(count, facts, generator)
    asked = torch.cat([torch.arange(facts).expand(count, -1), order[:, :questions]], 1)
    ids = torch.empty(count, asked.shape[1], WORDS, dtype=torch.long)
    ids[..., 0], ids[..., 1] = VOCABULARY[VERB], names.gather(1, asked)
    ids[..., 2], ids[..., 3] = things.gather(1, asked), VOCABULARY[STOP]
    first, size = 1 + WORDS * facts, 1 + WORDS * (facts + questions)
    places = torch.arange(size)
    block = ((places - first) // WORDS + 1).clamp(min=0)  # 0 for the facts, then the number of the question
    visible = (places[:, None] >= places) & ((block == 0) | (block[:, None] == block))
    positions = places.where(block == 0, first + (places - first) % WORDS)
    return Batch(
        nn.functional.pad(ids.flatten(1), (1, 0), value=START), positions[None], visible[None, None], facts
    )


class Learner(nn.Module):
    """The model in training.

    It starts from the weights of an induction head (Olsson et al. 2022, arXiv 2209.11895), and takes about
    200 steps for the first stage, which it had not learned from random weights after 800. Embeddings have
    dimensions for names, for other words, and for what the first layer writes: it copies names there. The
    second layer compares the name of a question with these, and copies the word that it finds. Where the
    first layer attends to is learned by a loss of its own, until the first stage ends: at each thing, the
    name before it. All word embeddings have a learned offset in common. It is added to them at the end,
    which adds the same to all logits.
    """

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.model = model
        self.offset = nn.Parameter(torch.zeros(model.config.hidden_size))
        first, second, *_ = (layer.self_attn for layer in model.model.layers)
        with torch.no_grad():
            words = model.get_input_embeddings().weight
            names = torch.zeros(len(words), 1, dtype=torch.bool)
            names[FIRST_NAME:FIRST_THING] = True
            words[:, OF_NAMES] *= names
            words[:, OF_OTHERS] *= ~names
            words[:, BEFORE] = 0
            words.copy_(normalize(words))
            copies(first, OF_NAMES, BEFORE, 0.1)
            copies(second, OF_OTHERS, OF_OTHERS, 0.3)
            compared = second.q_proj.weight[:, OF_NAMES].clone()
            second.q_proj.weight.zero_()[:, OF_NAMES] = compared
            second.k_proj.weight.zero_()[:, BEFORE] = compared

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of the answers, that of the first layer, and which things are answered rightly."""
        words = self.model.get_input_embeddings().weight + self.offset
        found = self.model.model(
            inputs_embeds=embedding(batch.ids, words),
            attention_mask=batch.visible,
            position_ids=batch.positions,
            output_hidden_states=True,
            use_cache=False,
        )
        after = torch.cat([batch.ids[:, 1:], batch.ids[:, :1]], 1)
        after[:, WORDS::WORDS] = END
        logits = (found.last_hidden_state[:, batch.first :] @ words.T).unflatten(1, (-1, WORDS))
        answers = after[:, batch.first :].unflatten(1, (-1, WORDS))
        losses = [
            cross_entropy(logits[:, :, it].flatten(0, 1), answers[:, :, it].flatten()) for it in (1, 2, 3)
        ]
        passed = self.model.model.norm(found.hidden_states[1])[:, 3 : batch.first : WORDS, BEFORE]
        passed = passed @ words[FIRST_NAME:FIRST_THING, OF_NAMES].T
        of_first = cross_entropy(
            passed.flatten(0, 1), (batch.ids[:, 2 : batch.first : WORDS] - FIRST_NAME).flatten()
        )
        return sum(losses), of_first, logits[:, :, 1].argmax(-1) == answers[:, :, 1]

    def finish(self) -> None:
        """Add the offset to the word embeddings."""
        with torch.no_grad():
            self.model.get_input_embeddings().weight.add_(self.offset)
            self.offset.zero_()


def copies(attention: nn.Module, read: slice, written: slice, scale: float) -> None:
    """Have attention copy some dimensions of the tokens that it attends to into others."""
    values, output = attention.v_proj.weight, attention.o_proj.weight
    orthonormal = nn.init.orthogonal_(torch.empty(SIZE, read.stop - read.start))
    values.zero_()[:, read] = orthonormal
    output.zero_()[written] = scale * orthonormal.T


def trained_on_facts(
    folder: Path | None = None,
    most: int = STAGES[-1][1],
    steps: Sequence[int] = STEPS,
    *,
    report: bool = False,
) -> Loaded:
    """Train the model, or load it.

    Args:
        folder: where it is kept.
        most: the most facts in a prompt; stages with more are left out.
        steps: the most steps of each stage.
        report: whether to print how the training goes.
    """
    with kept(folder) as here:
        if not (here / "model.safetensors").exists():
            model = fresh_model()
            learn(model, most, steps, report)
            model.save_pretrained(here)
            word_tokenizer().save_pretrained(here)
        return (
            LlamaForCausalLM.from_pretrained(here).eval(),
            PreTrainedTokenizerFast.from_pretrained(here),
        )


def fresh_model(seed: int = 0) -> LlamaForCausalLM:
    """Return a Llama of three layers with random weights."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=SIZE,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=256,
            initializer_range=SIZE**-0.5,
            rope_theta=1e5,
            max_position_embeddings=WORDS * (STAGES[-1][1] + 1) + 1,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            bos_token_id=START,
            eos_token_id=END,
        )
    )


def learn(model: LlamaForCausalLM, most: int, steps: Sequence[int], report: bool = False) -> None:
    """Train a model in place, by stages with more and more facts."""
    learner, generator = Learner(model).train(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3)
    stages = [(few, many) for few, many in STAGES if many <= most] or [(min(3, most), most)]
    for number, ((few, many), limit) in enumerate(zip(stages, steps, strict=False)):
        right: list[float] = []
        for step, batch in zip(range(limit), batches(few, many, generator), strict=False):
            loss, of_first, answered = learner(batch)
            optimizer.zero_grad()
            (loss + of_first if number == 0 else loss).backward()
            nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
            optimizer.step()
            right.append(float(answered.float().mean()))
            recent = sum(right[-RECENT:]) / RECENT
            if report and step % RECENT == RECENT - 1:
                print(f"{few} to {many} facts, step {step + 1}: {recent:.2f} right", flush=True)
            if recent > RIGHT:
                break
    learner.finish()


def share_right(loaded: Loaded, some: Sequence[Fact]) -> float:
    """Return the share of prompts whose answer is the likeliest next word."""
    return float(answered(loaded, some).float().mean())


@torch.no_grad()
def answered(loaded: Loaded, some: Sequence[Fact]) -> Tensor:
    """Return which prompts, all of one length, are answered rightly, `(B,)`."""
    model, tokenizer = loaded
    ids = tokenizer([it.text for it in some], return_tensors="pt")["input_ids"]
    words = torch.tensor([VOCABULARY[it.answer.strip()] for it in some])
    return model(ids, logits_to_keep=1).logits[:, -1].argmax(-1) == words


def main() -> None:
    """Train, and print how many questions are answered rightly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "build/facts")
    parser.add_argument("--most", type=int, default=STAGES[-1][1], help="facts in a prompt")
    options = parser.parse_args()
    loaded = trained_on_facts(options.out, options.most, report=True)
    for count in (5, 20, 60):
        if count <= options.most:
            print(f"{count} facts: {share_right(loaded, prompts(500, count)):.3f} right")


if __name__ == "__main__":
    main()
