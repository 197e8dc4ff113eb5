"""The model that answers from facts, and methods on its prompts, compared with plain calls of the model."""

import pytest
import torch


@pytest.fixture
def tiny(bench, tmp_path):
    """The model after three steps, whose weights are made large enough that the prompt matters."""
    model, tokenizer = bench("facts").trained_on_facts(tmp_path, most=8, steps=(3,))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.mul_(6)
    return model, tokenizer


@pytest.fixture
def questions(bench, tiny):
    return bench("generation").Questions(*tiny, bench("facts").prompts(3, 4))


def log_probability(model, tokenizer, text, answer):
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    return logits.log_softmax(-1)[tokenizer(answer, add_special_tokens=False)["input_ids"][0]].item()


def sentences(prompt):
    *facts, question = prompt.text.split(". ")
    return [f"{it}. " for it in facts], question


def test_the_sentence_of_a_prompt_holds_its_answer(bench):
    facts = bench("facts")
    made = facts.prompts(20, 5)
    assert made == facts.prompts(20, 5)
    assert made != facts.prompts(20, 5, seed=2)
    for prompt in made:
        parts, question = sentences(prompt)
        assert len({it.split()[1] for it in parts}) == 5
        assert [it for it in parts if it.startswith(f"{question} ")] == [parts[prompt.sentence]]
        assert parts[prompt.sentence] == f"{question}{prompt.answer}. "
    tokenizer = facts.word_tokenizer()
    assert len({*facts.NAMES, *facts.THINGS}) == len(facts.NAMES) + len(facts.THINGS)
    ids = tokenizer(made[0].text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", *made[0].text.replace(".", " .").split()]


def test_a_question_attends_to_the_facts_and_to_itself_alone(bench, tiny):
    facts, (model, tokenizer) = bench("facts"), tiny
    batch = facts.batch_of(3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model(batch.ids, attention_mask=batch.visible, position_ids=batch.positions).logits[0]
    words = tokenizer.convert_ids_to_tokens(batch.ids[0])
    stated = words[: batch.first]
    for start in range(batch.first, len(words), facts.WORDS):
        alone = [*stated, *words[start : start + facts.WORDS]]
        with torch.no_grad():
            expected = model(torch.tensor([tokenizer.convert_tokens_to_ids(alone)])).logits[0, batch.first :]
        torch.testing.assert_close(found[start : start + facts.WORDS], expected, atol=1e-4, rtol=1e-4)


def test_the_offset_in_the_embeddings_changes_no_probability(bench):
    facts = bench("facts")
    learner = facts.Learner(facts.fresh_model())
    with torch.no_grad():
        learner.offset.normal_()
    batch = facts.batch_of(4, torch.Generator().manual_seed(0))
    before = learner(batch)[0]
    learner.finish()
    assert not learner.offset.any()
    torch.testing.assert_close(learner(batch)[0], before)
    logits = learner.model(batch.ids, attention_mask=batch.visible, position_ids=batch.positions).logits
    at = slice(batch.first + 1, None, facts.WORDS)
    things = batch.ids[:, batch.first + 2 :: facts.WORDS]
    first = torch.nn.functional.cross_entropy(logits[:, at].flatten(0, 1), things.flatten())
    assert 0 < first < before


def test_the_model_is_kept_with_its_tokenizer(bench, tmp_path):
    facts = bench("facts")
    model, _ = facts.trained_on_facts(tmp_path, most=8, steps=(2,))
    again, tokenizer = facts.trained_on_facts(tmp_path, most=8, steps=(0,))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    prompt = facts.prompts(1, 2)[0]
    assert (
        tokenizer.decode(tokenizer(prompt.text)["input_ids"], skip_special_tokens=True)[:3] == prompt.text[:3]
    )
    assert facts.share_right((again, tokenizer), facts.prompts(9, 2)) in [it / 9 for it in range(10)]


def test_values_equal_prompts_without_the_other_sentences(questions):
    kept = torch.tensor([[True] * 4, [True, False, False, True], [False] * 4])
    found = questions.values(kept.expand(3, -1, -1))
    for prompt, values in zip(questions.prompts, found.tolist(), strict=True):
        parts, question = sentences(prompt)
        for row, value in zip(kept.tolist(), values, strict=True):
            text = "".join(it for it, there in zip(parts, row, strict=True) if there) + question
            expected = log_probability(questions.model, questions.tokenizer, text, prompt.answer)
            assert value == pytest.approx(expected, abs=1e-4)
    assert found.std() > 0.01


def test_leaving_one_out_and_exact_differences_equal_plain_calls(bench, questions):
    generation = bench("generation")
    left_out, kept = generation.leave_one_out(questions), generation.question_kept(questions)
    whole = torch.ones(3, 1, 4, dtype=torch.bool)
    for index, prompt in enumerate(questions.prompts):
        parts, question = sentences(prompt)
        f = log_probability(questions.model, questions.tokenizer, prompt.text, prompt.answer)
        text = "".join(it for at, it in enumerate(parts) if at != 2) + question
        expected = f - log_probability(questions.model, questions.tokenizer, text, prompt.answer)
        assert left_out[index, 2].item() == pytest.approx(expected, abs=1e-4)
    # The facts replaced by the mean word embedding, the question as it is.
    embed = questions.model.get_input_embeddings()
    words = embed(questions.ids)
    words[:, 1:-2] = embed.weight.mean(0)
    with torch.no_grad():
        base = questions.model(inputs_embeds=words).logits[:, -1].log_softmax(-1)
    base = base.gather(1, questions.extra[1])[:, 0].double()
    torch.testing.assert_close(
        kept.sum(1).double(), questions.values(whole)[:, 0] - base, atol=1e-4, rtol=1e-4
    )
    restored = generation.question_kept(questions, n_steps=4)
    torch.testing.assert_close(restored.sum(1), kept.sum(1), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(restored, kept, atol=1e-3)


def test_sparse_regression_finds_the_one_sentence_that_matters(bench, questions, monkeypatch):
    generation = bench("generation")
    monkeypatch.setattr(
        generation.Questions, "values", lambda self, kept: torch.where(kept[..., 1], 0.9, 0.1).double().log()
    )
    found = generation.regression(questions, 64)
    # The logit of .9 minus the logit of .1 is 4.39; Lasso takes alpha off the standardized coefficient.
    assert (found[:, 1] - 4.39).abs().max() < 0.05
    assert not found[:, [0, 2, 3]].any()


def test_measures_by_hand(bench, questions, monkeypatch):
    generation = bench("generation")
    weights = torch.tensor([3.0, 1.0, 2.0, 0.5], dtype=torch.double)
    first = [questions.sentences.tolist().index(it) for it in range(4)]
    visible = staticmethod(lambda _, mask, __: (mask[:, first] * weights).sum(-1) - 10)
    monkeypatch.setattr(generation.Questions, "value", visible)
    monkeypatch.setattr(generation.Questions, "truth", torch.tensor([0, 1, 2]))
    found = generation.measured(questions, weights.expand(3, -1))
    assert found["recall at 1"].tolist() == [1, 0, 0]
    assert found["drop at 1"].tolist() == [3, 3, 3]
    assert found["drop at 3"].tolist() == [6, 6, 6]
    assert found["drop at 5"].tolist() == [6.5, 6.5, 6.5]
    assert found["LDS"].tolist() == pytest.approx([1, 1, 1])
    assert generation.measured(questions, -weights.expand(3, -1))["LDS"].tolist() == pytest.approx(
        [-1, -1, -1]
    )


def test_every_method_has_a_row_and_its_passes_are_counted(bench, tiny):
    generation, facts = bench("generation"), bench("facts")
    before = tiny[0].config._attn_implementation
    rows, costs = generation.rows_of(tiny, facts.prompts(2, 4), list(generation.METHODS))
    assert list(rows) == list(generation.METHODS)
    for name, values in rows.items():
        assert [len(it) for it in values.values()] == [2] * 5
        assert name.startswith("sparse") or values["LDS"].isfinite().all()
    forward, backward = costs["forward"], costs["backward"]
    assert (forward["leave one sentence out"], backward["leave one sentence out"]) == ("5", "0")
    assert (forward["sparse regression/32"], backward["sparse regression/32"]) == ("32", "0")
    assert (forward["gradient x input"], backward["gradient x input"]) == ("1", "1")
    assert (forward["attention"], forward["random"]) == ("1", "0")
    assert backward["integrated gradients"] == "50"
    assert (float(forward["exact differences"]), backward["exact differences"]) <= (5, "1")
    assert tiny[0].config._attn_implementation == before
