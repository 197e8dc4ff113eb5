"""Generated text: contributions of a prompt to the log-probability of an answer, against plain calls."""

import copy
import json
import math

import numpy
import pandas
import pytest
import torch
import transformers as hf
from captum.attr import LLMAttributionResult

from captum_globenc import Explanation, Explanations, GlobEnc, explain
from captum_globenc.differences import compare
from language_models import FAMILIES, LIMIT, MIXTURES, language_model, word_tokenizer

METHOD = "transformer-deep-lift"
PROMPTS = ["the cat sat on the mat . what is the colour of the mat ?", "a dog ran"]
ANSWER = "red . blue"
DECODERS = [it for it in FAMILIES if it not in ("t5", "bart", "mbart", "marian", "led")]


def quiet(*arguments, **options):
    return explain(*arguments, tell=lambda _: None, **options)


def log_probabilities(model, tokenizer, explanation, *, baseline=False, answer=None):
    """The log-probabilities of the answer's tokens by a plain call, of one prompt without padding.

    At the baseline all prompt tokens but special ones have the mean of the word embeddings, or are masked.
    """
    ids = torch.tensor([explanation.ids])
    answer = torch.tensor([explanation.answer.ids if answer is None else answer])
    special = torch.tensor([[it in (1, 2) for it in explanation.ids]])
    embed = model.get_input_embeddings()
    words = embed(ids)
    if baseline:
        blank = embed(torch.arange(len(embed.weight))).mean(0)
        if tokenizer.mask_token_id is not None:
            blank = embed(torch.tensor(tokenizer.mask_token_id))
        words = torch.where(special[..., None], words, blank)
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            start = torch.tensor([[model.config.decoder_start_token_id]])
            steps = torch.cat([start, answer[:, :-1]], 1)
            if explanation.ids[-1] == 2:  # a tokenizer that puts <s> and </s> around texts: <s> comes first
                steps = torch.cat([start, torch.tensor([[1]]), answer[:, :-1]], 1)
            logits = model(inputs_embeds=words, decoder_input_ids=steps).logits[0, -answer.shape[1] :]
        else:
            words = torch.cat([words, embed(answer)], 1)
            logits = model(inputs_embeds=words).logits[0, ids.shape[1] - 1 : -1]
    return logits.double().log_softmax(-1).gather(-1, answer[0][:, None])[:, 0]


def check_complete(model, tokenizer, explanation):
    """Check contributions against the difference that plain calls give; return the size of the largest."""
    f, base = (
        log_probabilities(model, tokenizer, explanation, baseline=it).sum().item() for it in (False, True)
    )
    scores = explanation.scores[METHOD]
    assert explanation.kinds[METHOD] == "contributions"
    assert explanation.explained == pytest.approx(f, abs=1e-4)
    assert math.fsum(scores) == pytest.approx(f - base, abs=1e-4)
    return max(map(abs, scores))


@pytest.mark.parametrize("family", FAMILIES)
def test_contributions_sum_to_the_difference_of_log_probabilities(family):
    model, tokenizer = language_model(family), word_tokenizer()
    for explanation in quiet(PROMPTS, model, tokenizer, answer=ANSWER):
        assert check_complete(model, tokenizer, explanation) > 1e-2
        assert explanation.answer.text == explanation.prediction == ANSWER
        assert explanation.answer.tokens == ANSWER.split()
        assert explanation.settings["baseline"] == "mean"
        expected = log_probabilities(model, tokenizer, explanation).tolist()
        assert explanation.answer.log_probabilities == pytest.approx(expected, abs=1e-4)


def test_the_share_of_decisions_that_differ_at_the_baseline_is_reported():
    model, tokenizer, told = language_model("mixtral"), word_tokenizer(), []
    del model.model.layers[1]
    (it,) = explain(PROMPTS[:1], model, tokenizer, answer=ANSWER, layers=False, tell=told.append)
    embed, chosen = model.get_input_embeddings(), []
    ids = torch.tensor([it.ids + it.answer.ids[:-1]])
    words = embed(ids).detach()
    base = words.clone()
    base[:, : len(it.ids)] = embed.weight.detach().mean(0)
    gate = model.model.layers[0].mlp.gate
    handle = gate.register_forward_hook(
        lambda module, inputs, _: chosen.append((inputs[0] @ module.weight.T).topk(2, dim=-1).indices)
    )
    with torch.no_grad(), handle:
        for given in (words, base):
            model(inputs_embeds=given, use_cache=False)
    differing, total = int((chosen[0] != chosen[1]).sum()), chosen[0].numel()
    assert 0 < differing < total == 2 * ids.shape[1]
    share = f"; {differing / total:.1%} of {total} decisions would differ at the baseline"
    assert any(message.endswith(share) for message in told)


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
@pytest.mark.parametrize("prompt", ["a", "a dog ran"])
def test_an_answer_may_repeat_its_prompt(family, prompt):
    model, tokenizer = language_model(family), word_tokenizer()
    (explanation,) = quiet([prompt], model, tokenizer, answer=prompt)
    assert check_complete(model, tokenizer, explanation) > 1e-3


def test_the_limit_of_the_model_cuts_an_answer_as_it_does_alone():
    model, tokenizer = language_model("gpt2"), word_tokenizer()
    prompts = ["the cat " * 20, "a dog ran"]
    found = [it.answer.ids for it in quiet(prompts, model, tokenizer)]
    assert found == [quiet([it], model, tokenizer)[0].answer.ids for it in prompts]
    assert list(map(len, found)) == [LIMIT - 40 + 1, LIMIT - 3 + 1]


@pytest.mark.parametrize("family", MIXTURES)
def test_mixtures_of_experts_are_explained_along_the_route_of_the_prompt(family):
    model, tokenizer, told = language_model(family), word_tokenizer(), []
    found = explain(PROMPTS, model, tokenizer, answer=ANSWER, per_token=True, tell=told.append)
    assert any("routes tokens to experts" in it for it in told)
    embed = model.get_input_embeddings()
    for explanation in found:
        ids = torch.tensor([explanation.ids + explanation.answer.ids])
        prompt = ids.shape[1] - len(explanation.answer.ids)

        def answered(words, ids=ids, prompt=prompt):
            logits = model(inputs_embeds=words, use_cache=False).logits[0, prompt - 1 : -1]
            return logits.log_softmax(-1).gather(-1, ids[0, prompt:, None]).sum()

        inputs = embed(ids).detach()
        baseline = inputs.clone()
        baseline[:, :prompt] = embed.weight.detach().mean(0)
        both = compare(answered, [inputs], [baseline], decisions="follow")
        expected = both.contributions(both.output)[0].sum(-1)[0, :prompt].tolist()
        assert explanation.scores[METHOD] == pytest.approx(expected, abs=1e-4)
        assert explanation.explained == pytest.approx(both.output.item(), abs=1e-4)
        rows = torch.tensor(explanation.answer_scores[METHOD], dtype=torch.float64)
        assert rows.sum(0).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "t5", "bart", "mbart"])
def test_special_tokens_of_tokenizers_are_kept(family):
    model, tokenizer = language_model(family), word_tokenizer(mask=True, ends=True)
    (explanation,) = quiet(PROMPTS[:1], model, tokenizer, answer=ANSWER)
    check_complete(model, tokenizer, explanation)
    assert explanation.answer.tokens == ANSWER.split()
    assert explanation.tokens[0] == "<s>"
    assert explanation.scores[METHOD][0] == explanation.scores[METHOD][-1] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_gives_what_single_prompts_give(family):
    model, tokenizer = language_model(family), word_tokenizer()
    together = quiet(PROMPTS, model, tokenizer, answer=["red", ANSWER], per_token=True)
    for explanation, answer in zip(together, ["red", ANSWER], strict=True):
        (alone,) = quiet([explanation.text], model, tokenizer, answer=answer, per_token=True)
        assert explanation.tokens == alone.tokens
        assert explanation.explained == pytest.approx(alone.explained, abs=1e-4)
        assert explanation.scores[METHOD] == pytest.approx(alone.scores[METHOD], abs=1e-4)
        for row, expected in zip(explanation.answer_scores[METHOD], alone.answer_scores[METHOD], strict=True):
            assert row == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_answers_equal_generate_before_and_after(family):
    model, tokenizer = language_model(family), word_tokenizer()
    config, generation = model.config.to_dict(), copy.deepcopy(model.generation_config.to_dict())
    names = set(vars(model))

    def written(prompt):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        found = model.generate(ids, max_new_tokens=4, do_sample=False)[0]
        return found[1:] if model.config.is_encoder_decoder else found[ids.shape[1] :]

    before = [written(it).tolist() for it in PROMPTS]
    explained = quiet(PROMPTS, model, tokenizer, max_new_tokens=4)
    assert [it.answer.ids for it in explained] == before
    assert [it.answer.text for it in explained] == tokenizer.batch_decode(before)
    assert [written(it).tolist() for it in PROMPTS] == before
    assert (config, generation) == (model.config.to_dict(), model.generation_config.to_dict())
    assert set(vars(model)) == names
    for it in explained:
        check_complete(model, tokenizer, it)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_answer_tokens_sum_to_the_whole(family):
    model, tokenizer = language_model(family), word_tokenizer()
    answer = " ".join(["red", "blue", "mat"] * 6)  # of more tokens than run together
    (explanation,) = quiet(PROMPTS[1:], model, tokenizer, answer=answer, per_token=True)
    rows = torch.tensor(explanation.answer_scores[METHOD], dtype=torch.float64)
    assert rows.shape == (18, len(explanation.tokens))
    assert rows.sum(0).tolist() == pytest.approx(explanation.scores[METHOD], abs=1e-4)
    f, base = (log_probabilities(model, tokenizer, explanation, baseline=it) for it in (False, True))
    assert rows.sum(1).tolist() == pytest.approx((f - base).tolist(), abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_against_explains_the_difference_of_two_answers(family):
    model, tokenizer = language_model(family), word_tokenizer()
    others = ["blue", "what is"]
    for it, other in zip(
        quiet(PROMPTS, model, tokenizer, answer=ANSWER, against=others), others, strict=True
    ):
        ids = tokenizer(other, add_special_tokens=False)["input_ids"]
        f, base = (
            log_probabilities(model, tokenizer, it, baseline=at).sum()
            - log_probabilities(model, tokenizer, it, baseline=at, answer=ids).sum()
            for at in (False, True)
        )
        assert it.explained == pytest.approx(f.item(), abs=1e-4)
        assert math.fsum(it.scores[METHOD]) == pytest.approx((f - base).item(), abs=1e-4)
        assert it.against == other
        assert it.sums[METHOD].endswith(f"log-probability of the answer minus {other}")


def test_a_model_without_padding_takes_prompts_one_by_one():
    model, tokenizer = language_model("gpt2"), word_tokenizer()
    expected = quiet(PROMPTS, model, tokenizer, answer=ANSWER, against="blue")
    model.config.pad_token_id = tokenizer.pad_token = None
    for it, other in zip(
        quiet(PROMPTS, model, tokenizer, answer=ANSWER, against="blue"), expected, strict=True
    ):
        assert it.scores[METHOD] == pytest.approx(other.scores[METHOD], abs=1e-5)


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }} : {{ m.content | trim }} . {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
CHAT = [
    {"role": "system", "content": "a"},  # which stands in the template's own text as well
    {"role": "user", "content": "the cat sat on the red mat ."},
    {"role": "assistant", "content": "a cat"},
    {"role": "user", "content": [{"type": "text", "text": " what is the colour ? "}]},
]
PARTS = TEMPLATE.replace(
    "m.content | trim", "(m.content if m.content is string else m.content[0].text) | trim"
)


@pytest.fixture
def chatting():
    model, tokenizer = language_model("llama"), word_tokenizer()
    tokenizer.chat_template = PARTS
    return model, tokenizer


def test_the_tokens_of_a_template_are_special(chatting):
    model, tokenizer = chatting
    (explanation,) = quiet([CHAT], model, tokenizer, answer="red", passages=["red mat"])
    rendered = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert explanation.text == rendered
    assert (
        explanation.ids
        == tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=True)["input_ids"]
    )
    words = [it.text for it in explanation.groups if not it.special]
    assert " ".join(words) == "a the cat sat on the red mat . a cat what is the colour ?"
    for place, score in zip(explanation.offsets, explanation.scores[METHOD], strict=True):
        assert place is None or rendered[place.start : place.stop].strip()
        assert score == 0 or place is not None
    special = {token for word in explanation.groups if word.special for token in word.tokens}
    assert all(explanation.scores[METHOD][it] == 0 for it in special)
    assert all(score != 0 for it, score in enumerate(explanation.scores[METHOD]) if it not in special)
    (name, score), rest = explanation.passages()
    assert (name, rest[0]) == ("red mat", "")
    assert score + rest[1] == pytest.approx(math.fsum(explanation.scores[METHOD]))
    # The kept tokens of the template enter the baseline run: only the messages are replaced.
    embed = model.get_input_embeddings()
    kept = torch.tensor([[it in special for it in range(len(explanation.ids))]])
    words = torch.where(kept[..., None], embed(torch.tensor([explanation.ids])), embed.weight.mean(0))
    with torch.no_grad():
        base = model(inputs_embeds=words).logits[0, -1].double().log_softmax(-1)[explanation.answer.ids[0]]
    assert math.fsum(explanation.scores[METHOD]) == pytest.approx(
        explanation.explained - base.item(), abs=1e-4
    )


def test_chats_of_different_lengths_run_together(chatting):
    together = quiet([CHAT, CHAT[:2]], *chatting, max_new_tokens=3)
    for it, chat in zip(together, [CHAT, CHAT[:2]], strict=True):
        (alone,) = quiet([chat], *chatting, max_new_tokens=3)
        assert it.answer.text == alone.answer.text
        assert it.scores[METHOD] == pytest.approx(alone.scores[METHOD], abs=1e-4)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "the tokenizer has no chat template: pass the prompt as a string"),
        ("{{ raise_exception('roles must alternate') }}", "chat template fails: roles must alternate"),
        ("{{ messages[0]['content'] | upper }}", "changes their text: pass the prompt as a string"),
    ],
)
def test_a_template_that_is_missing_or_fails_is_reported(chatting, template, message):
    model, tokenizer = chatting
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=message):
        quiet([CHAT[:2]], model, tokenizer)


def test_passages_and_sentences_sum_over_tokens():
    model, tokenizer = language_model("llama"), word_tokenizer()
    prompts = ["the cat sat on the mat . the dog is red . what is blue ?", "a dog ran . the cat sat ."]
    one = {"cats": "the cat sat on the mat .", "dogs": "the dog is red ."}
    two = [("second", "the cat sat ."), ("first", "a dog ran .")]
    first, second = quiet(prompts, model, tokenizer, answer="red", passages=[one, two])
    assert [name for name, _ in first.passages()] == ["cats", "dogs", ""]
    assert first.passages()[0][1] == pytest.approx(first.sentences()[0][1])
    assert second.passages()[0][1] == pytest.approx(second.sentences()[1][1])
    for it in (first, second):
        assert math.fsum(score for _, score in it.passages()) == pytest.approx(math.fsum(it.scores[METHOD]))
    with pytest.raises(ValueError, match="passages 'x' and 'y' overlap"):
        quiet(prompts[:1], model, tokenizer, answer="red", passages=[("x", "cat sat"), ("y", "sat on")])
    with pytest.raises(ValueError, match="'the' is 3 times in the prompt"):
        quiet(prompts[:1], model, tokenizer, answer="red", passages=["the"])
    (both,) = quiet([prompts[0] + " " + prompts[0]], model, tokenizer, answer="red", passages=["red", "red"])
    assert [(name, span.start) for name, span in both.passage_spans] == [("red", 36), ("red", 93)]


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_globenc_explains_the_encoder(family):
    model, tokenizer = language_model(family), word_tokenizer()
    for it in quiet(PROMPTS, model, tokenizer, answer=ANSWER):
        assert list(it.scores) == ["globenc", METHOD]
        assert it.position == "mean"
        assert math.fsum(it.scores["globenc"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_layers_of_an_encoder_end_in_its_scores(family):
    model, tokenizer = language_model(family), word_tokenizer()
    for options in ({}, {"against": "blue"}):
        (it,) = quiet(PROMPTS[1:], model, tokenizer, answer=ANSWER, layers=True, **options)
        assert it.layers["globenc"][-1] == pytest.approx(it.scores["globenc"], abs=1e-5)
        for row in it.layers.get(METHOD, []):
            assert math.fsum(row) == pytest.approx(math.fsum(it.scores[METHOD]), abs=1e-4)


def test_globenc_is_left_out_for_decoders():
    model, tokenizer = language_model("opt"), word_tokenizer()
    told = []
    (explanation,) = explain(["a dog"], model, tokenizer, answer="red", tell=told.append)
    assert told == ["globenc is left out: it explains encoders, and OPTForCausalLM is a decoder"]
    assert list(explanation.scores) == [METHOD]
    with pytest.raises(ValueError, match="globenc does not support the model: it explains encoders"):
        quiet(["a dog"], model, tokenizer, answer="red", methods=["globenc"])


def test_pipelines_are_explained_and_chats_in_them(chatting):
    model, tokenizer = chatting
    pipeline = hf.pipeline("text-generation", model=model, tokenizer=tokenizer)
    (explanation,) = quiet(["the cat"], pipeline, max_new_tokens=4)
    made = pipeline("the cat", max_new_tokens=4, do_sample=False, return_full_text=False)
    assert explanation.answer.text == made[0]["generated_text"]
    (explanation,) = quiet([CHAT[:2]], pipeline, max_new_tokens=4)
    made = pipeline(CHAT[:2], max_new_tokens=4, do_sample=False, return_full_text=False)
    assert explanation.answer.text == made[0]["generated_text"]


def test_generation_options_have_the_names_of_generate():
    model, tokenizer = language_model("llama"), word_tokenizer()
    ids = tokenizer("the cat", return_tensors="pt")["input_ids"]
    options = {"num_beams": 3, "no_repeat_ngram_size": 1, "max_new_tokens": 5}
    (explanation,) = quiet(["the cat"], model, tokenizer, **options)
    assert explanation.answer.ids == model.generate(ids, **options, do_sample=False)[0, 2:].tolist()


def test_sampling_needs_a_seed_and_leaves_the_random_state():
    model, tokenizer = language_model("llama"), word_tokenizer()
    model.generation_config.do_sample = True  # of a model that samples by default, greedily all the same
    greedy = [quiet(["the cat"], model, tokenizer, max_new_tokens=6)[0].answer.ids for _ in range(3)]
    assert greedy[0] == greedy[1] == greedy[2]
    options = {"do_sample": True, "max_new_tokens": 6, "temperature": 5.0}
    with pytest.raises(ValueError, match="pass a seed as well"):
        quiet(["the cat"], model, tokenizer, **options)
    state = torch.get_rng_state()
    found = [quiet(["the cat"], model, tokenizer, **options, seed=it)[0].answer.ids for it in (1, 1, 2, 3)]
    assert found[0] == found[1]
    assert len({tuple(it) for it in found}) > 1
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("prompts", "options", "error", "message"),
    [
        (["the cat " * LIMIT], {}, ValueError, f"has {2 * LIMIT} tokens, and the model takes {LIMIT}"),
        (["the cat " * 20], {"answer": "red " * 20}, ValueError, "has 40 tokens and its answer 20"),
        (["the cat " * 20], {"max_new_tokens": 20}, ValueError, "pass max_new_tokens=9 or less"),
        (["the cat"], {"answer": ""}, ValueError, "the answer to 'the cat' has no tokens: pass a text"),
        ([""], {"answer": "red"}, ValueError, "has no tokens"),
        (["a", "the"], {"answer": ["red"]}, ValueError, "answer has 1 entries for 2 prompts"),
        (["a", "the"], {"answer": ["red", None]}, ValueError, "answer is None for some prompts"),
        (["a"], {"answer": [3]}, TypeError, r"answer\[0\] is 3 \(int\), not a string"),
        (["a"], {"answer": 3}, TypeError, "answer is a int: pass a list"),
        (["a"], {"answer": "\ud800"}, ValueError, r"answer\[0\] is not valid UTF-8"),
        (["a"], {"answer": "red", "against": "red"}, ValueError, "against is the answer that is"),
        (["a"], {"answer": "red", "against": "a", "per_token": True}, ValueError, "leave it or against out"),
        (["a"], {"answer": "red", "max_new_tokens": 3}, ValueError, "answer was passed, so nothing"),
        (["a"], {"max_new_tokens": 0}, ValueError, "max_new_tokens is 0: pass an integer"),
        (["a"], {"max_new_tokens": 1.5}, ValueError, "max_new_tokens is 1.5: pass an integer"),
        (["a"], {"num_bean": 3}, TypeError, "unexpected keyword argument 'num_bean'"),
        (["a"], {"target": "red"}, ValueError, "target is not for models that generate text"),
        (["a"], {"pair": "red"}, ValueError, "pair is not for models that generate text"),
        (["a"], {"windows": 3}, ValueError, "windows is not for models that generate text"),
        (["a"], {"layers": True}, ValueError, "layers is not for decoders"),
        (["a"], {"answer": "red", "passages": ["dog"]}, ValueError, "passage 'dog' is not in the prompt 'a'"),
        (["a"], {"answer": "red", "passages": "a"}, TypeError, "passages is one string"),
        ("a", {}, TypeError, "texts is one string"),
        (CHAT, {}, TypeError, "a list of messages is one prompt"),
        ([CHAT, "a"], {}, TypeError, "some prompts are strings and some are chats"),
        ([("a", "b")], {}, ValueError, "a prompt has no second segment"),
    ],
)  # fmt: skip
def test_bad_input_is_reported(prompts, options, error, message):
    with pytest.raises(error, match=message):
        quiet(prompts, language_model("gpt2"), word_tokenizer(), **options)


@pytest.mark.parametrize("held", [tuple, iter, pandas.Series, numpy.array])
def test_prompts_and_answers_come_from_whatever_holds_strings(held):
    prompts, answers, others = ["the dog", "a dog ran"], ["sat", "on"], ["red", "blue"]
    loaded = language_model("gpt2"), word_tokenizer()
    for options in ({"answer": answers}, {"answer": answers, "against": others}, {"passages": ["dog"]}):
        found = quiet(held(prompts), *loaded, **{name: held(value) for name, value in options.items()})
        assert found == quiet(prompts, *loaded, **options)
        assert len(found) == 2
    assert quiet(held(prompts), *loaded, max_new_tokens=numpy.int64(2)) == quiet(
        prompts, *loaded, max_new_tokens=2
    )


def test_an_answer_that_ends_at_once_is_reported():
    model, tokenizer = language_model("gpt2"), word_tokenizer()
    model.generation_config.suppress_tokens = [it for it in range(len(tokenizer)) if it != 2]
    with pytest.raises(ValueError, match="the model ends it at once"):
        quiet(["a dog"], model, tokenizer)


def test_options_of_generation_are_for_models_that_generate():
    from captum_globenc.texts import load_default

    for options in ({"answer": "x"}, {"max_new_tokens": 3}, {"per_token": True}, {"passages": ["x"]}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}: for models that generate text"):
            explain(["x"], *load_default(), **options)


def test_an_encoder_loaded_as_a_decoder_is_reported():
    config = hf.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = hf.BertLMHeadModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(20)
    with pytest.raises(ValueError, match="the attention of this BertLMHeadModel is not causal"):
        quiet(["a dog ran"], model, word_tokenizer(), answer="red")
    model = hf.BertLMHeadModel(hf.BertConfig.from_dict({**config.to_dict(), "is_decoder": True})).eval()
    (explanation,) = quiet(["a dog ran"], model, word_tokenizer(), answer="red")
    assert explanation.kinds[METHOD] == "contributions"


def test_a_model_without_causal_attention_is_rejected():
    """XLNet has no limit of tokens, which its config says by -1."""
    torch.manual_seed(0)
    config = hf.XLNetConfig(d_model=16, n_layer=2, n_head=2, d_inner=24, vocab_size=30, initializer_range=0.5)
    model = hf.XLNetLMHeadModel(config)
    with pytest.raises(ValueError, match="the attention of this XLNetLMHeadModel is not causal"):
        quiet(["a dog ran"], model.eval(), word_tokenizer(), answer="red")


def test_an_encoder_and_a_decoder_of_bert():
    config = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    encoder = hf.BertConfig(**config, intermediate_size=24)
    decoder = hf.BertConfig(**config, intermediate_size=24, is_decoder=True, add_cross_attention=True)
    torch.manual_seed(0)
    model = hf.EncoderDecoderModel(
        hf.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    ).eval()
    model.config.decoder_start_token_id, model.config.pad_token_id = 1, 0
    (explanation,) = quiet(["a dog ran"], model, word_tokenizer(), answer="red", methods=["globenc", METHOD])
    ids = word_tokenizer()(["a dog ran"], return_tensors="pt")["input_ids"]
    scores = GlobEnc(lambda ids: model.encoder(ids)[0][:, 0], model.encoder).attribute(ids, position="mean")
    torch.testing.assert_close(torch.tensor(explanation.scores["globenc"]), scores[0])
    assert explanation.kinds[METHOD] == "contributions"


def test_files_and_objects_keep_everything(tmp_path):
    model, tokenizer = language_model("llama"), word_tokenizer()
    made = quiet(PROMPTS, model, tokenizer, answer=ANSWER, per_token=True, passages=[["mat ."], ["dog"]])
    made.save(tmp_path / "made.jsonl")
    assert Explanations.load(tmp_path / "made.jsonl") == made
    assert Explanation.from_dict(json.loads(json.dumps(made[0].to_dict()))) == made[0]
    assert made[0].by(METHOD) == made[0]
    assert made[0].to_dict()["sums"][METHOD] == made[0].sums[METHOD]


def test_sums_and_captions_name_the_prompt_and_the_answer():
    model, tokenizer = language_model("llama"), word_tokenizer()
    (explanation,) = quiet(PROMPTS[:1], model, tokenizer, answer=ANSWER)
    whole, part = round(explanation.explained, 2), round(math.fsum(explanation.scores[METHOD]), 2)
    sign = "-" if part < 0 else "+"
    assert explanation.sums[METHOD] == (
        f"{whole - part:.2f} baseline {sign} {abs(part):.2f} prompt = {whole:.2f} "
        "log-probability of the answer"
    )
    assert explanation.headline == f"'{ANSWER}' (log-probability {whole:.2f})"
    assert explanation.captions[METHOD] == f"supports or opposes {ANSWER}"
    assert explanation.units[METHOD] == "nats"


def test_captum_plots_what_to_captum_returns():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    model, tokenizer = language_model("llama"), word_tokenizer()
    (explanation,) = quiet(PROMPTS[1:], model, tokenizer, answer=ANSWER, per_token=True)
    result = explanation.to_captum()
    assert isinstance(result, LLMAttributionResult)
    assert result.seq_attr.tolist() == pytest.approx(explanation.scores[METHOD])
    assert result.token_attr.shape == (len(ANSWER.split()), len(explanation.tokens))
    assert (result.input_tokens, result.output_tokens) == (explanation.tokens, ANSWER.split())
    _, axes = result.plot_token_attr(show=False)
    assert [it.get_text() for it in axes.get_xticklabels()] == explanation.tokens
    _, axes = result.plot_seq_attr(show=False)
    heights = [bar.get_height() for bar in axes.patches]
    assert sum(heights) == pytest.approx(sum(explanation.scores[METHOD]), abs=1e-5)
    (whole,) = quiet(PROMPTS[1:], model, tokenizer, answer=ANSWER)
    assert whole.to_captum().token_attr is None


def test_to_captum_is_for_generated_text():
    from captum_globenc.texts import load_default

    (explanation,) = explain(["good"], *load_default())
    with pytest.raises(ValueError, match="to_captum\\(\\) is for generated text"):
        explanation.to_captum()


def test_long_prompts_in_a_batch_do_not_move_others_beyond_the_context():
    model, tokenizer = language_model("gpt2"), word_tokenizer()
    long, short = "the cat " * (LIMIT // 2 - 1), "a dog"
    first, second = quiet([long, short], model, tokenizer, answer=["red", "blue " * 20])
    assert first.explained == pytest.approx(
        quiet([long], model, tokenizer, answer="red")[0].explained, abs=1e-4
    )
    check_complete(model, tokenizer, second)


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_half_precision_sums_in_float32(family):
    model, tokenizer = language_model(family).to(torch.bfloat16), word_tokenizer()
    (explanation,) = quiet(PROMPTS[:1], model, tokenizer, answer=ANSWER)
    f, base = (
        log_probabilities(model.float(), tokenizer, explanation, baseline=it).sum().item()
        for it in (False, True)
    )
    assert explanation.explained == pytest.approx(f, rel=0.1)
    assert math.fsum(explanation.scores[METHOD]) == pytest.approx(f - base, abs=0.1 * abs(f))
