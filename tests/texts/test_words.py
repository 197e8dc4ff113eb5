import math

import pytest
import torch
from tokenizers import normalizers
from transformers import ByT5Tokenizer

from captum_globenc.texts.words import REDUCTIONS, Word, find_words, merge_scores
from vocabularies import TOKENIZERS, byte_level, goes_on, sentencepiece, word_end, wordpiece


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def texts(words, special=False):
    return [word.text for word in words if special or not word.special]


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_token_but_padding_belongs_to_exactly_one_word(tokenizer, side):
    batch = tokenizer(
        ["the  fox, café <b>", "fox"], ["the 😀 fox ", "the"],
        padding=True, padding_side=side, return_tensors="pt",
    )  # fmt: skip
    assert not batch["attention_mask"].all()
    for words, mask in zip(find_words(batch, tokenizer), batch["attention_mask"], strict=True):
        positions = [token for word in words for token in word.tokens]
        assert positions == mask.nonzero().flatten().tolist()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_words_read_as_the_text_does(kind):
    tokenizer = TOKENIZERS[kind]()
    text = "the fox the" if kind == "word-end" else "the fox café unhappy"
    (words,) = find_words(tokenizer([text]), tokenizer)
    assert texts(words, special=True) == ["<s>", *text.split(), "</s>"]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_words_of_a_pair_keep_apart(kind):
    # Word ids begin at 0 again in the second text: the two words there are must not become one.
    tokenizer = TOKENIZERS[kind]()
    (words,) = find_words(tokenizer(["fox"], ["the fox"]), tokenizer)
    assert texts(words) == ["fox", "the", "fox"]
    assert [word.special for word in words].count(True) == (4 if kind == "byte-level" else 3)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_batch_that_has_lost_its_word_ids_has_the_same_words(kind):
    tokenizer = TOKENIZERS[kind]()
    given = ["the fox the", "the"], ["the fox", "fox"]
    batch = tokenizer(*given, padding=True, return_tensors="pt")
    plain = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert find_words(plain, tokenizer) == find_words(batch, tokenizer)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (wordpiece, ["the", "fox", ",", "b", "'", "t"]),
        (byte_level, ["the", "fox", ",", "b", "'t"]),
        (sentencepiece, ["the", "fox,", "b't"]),
    ],
)
def test_the_tokenizer_defines_the_words(make, expected):
    (words,) = find_words(make()(["the fox, b't"]), make())
    assert texts(words) == expected


@pytest.mark.parametrize("make", [wordpiece, byte_level, sentencepiece])
def test_words_given_one_by_one_stay_as_given(make):
    tokenizer = make()
    (words,) = find_words(tokenizer([["the", "fox,", "b't"]], is_split_into_words=True), tokenizer)
    found = [len(word.tokens) for word in words if not word.special]
    assert len(found) == 3
    assert [text.replace(" ", "") for text in texts(words)] == ["the", "fox,", "b't"]


def test_a_character_of_several_tokens_is_read_as_one():
    tokenizer = byte_level()
    (words,) = find_words(tokenizer(["the 😀"]), tokenizer)
    assert [(word.text, len(word.tokens)) for word in words[1:-1]] == [("the", 1), ("😀", 5)]


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_white_space_belongs_to_the_word_that_follows_or_stands_alone(make):
    tokenizer = make()
    (words,) = find_words(tokenizer(["the   fox  "]), tokenizer)
    assert texts(words) == ["the", "fox", "␣"]


def test_a_special_token_that_the_text_spells_out_is_a_word():
    tokenizer = byte_level()
    (words,) = find_words(tokenizer(["the </s> fox"]), tokenizer)
    assert [(word.text, word.special) for word in words] == [
        ("<s>", True), ("the", False), ("</s>", False), ("fox", False), ("</s>", True),
    ]  # fmt: skip


def test_an_unknown_token_does_not_swallow_the_word_that_follows():
    tokenizer = word_end()
    tokens = ["<s>", "the</w>", "<unk>", "the</w>", "fo", "x</w>", "</s>"]
    # A plain mapping, as from a tokenizer without word ids.
    (words,) = find_words({"input_ids": [tokenizer.convert_tokens_to_ids(tokens)]}, tokenizer)
    assert texts(words) == ["the", "<unk>", "the", "fox"]


def test_an_unknown_word_is_no_special_token():
    tokenizer = wordpiece()
    batch = tokenizer(["the zebra"], return_tensors="pt")
    for given in (batch, dict(batch)):
        (words,) = find_words(given, tokenizer)
        assert [(word.text, word.special) for word in words[1:-1]] == [("the", False), ("<unk>", False)]


def test_no_text_has_no_word_but_the_special_tokens(tokenizer):
    (words,) = find_words(tokenizer([""]), tokenizer)
    assert all(word.special for word in words)
    assert len(words) == 2


def test_sums_keep_the_total(tokenizer):
    batch = tokenizer(["the  fox, café unhappy", "fox"], ["the 😀", "the"], padding=True, return_tensors="pt")
    scores = torch.randn(batch["input_ids"].shape, dtype=torch.float64) * batch["attention_mask"]
    for words, row in zip(find_words(batch, tokenizer), scores.tolist(), strict=True):
        merged = merge_scores(row, words, "sum")
        assert len(merged) == len(words)
        assert math.fsum(merged) == pytest.approx(math.fsum(row), rel=1e-12)


@pytest.mark.parametrize(("reduce", "expected"), [("sum", -0.25), ("mean", -0.125), ("max", -0.5)])
def test_a_word_is_reduced_as_given(reduce, expected):
    words = [Word("b", (2,), False), Word("a", (0, 1), False)]
    assert merge_scores([0.25, -0.5, 3.0], words, reduce) == [3.0, expected]


def test_an_unknown_reduction_is_rejected():
    with pytest.raises(ValueError, match="median.*one of sum, mean, max"):
        merge_scores([1.0], [Word("a", (0,), False)], "median")
    assert list(REDUCTIONS) == ["sum", "mean", "max"]


SPELT = "The  FOX, café U.S. <b> 😀 zebra's"


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_words_are_spelled_as_in_the_text(kind, side):
    tokenizer = TOKENIZERS[kind]()
    spelt = "the   fox" if kind == "word-end" else SPELT  # that one drops what it does not know
    given = [spelt, "fox"], ["the  fox", "the"]
    batch = tokenizer(*given, padding=True, padding_side=side, return_tensors="pt")
    found = find_words(batch, tokenizer, *given)
    for words, *sources in zip(found, *given, strict=True):
        written = "".join(text for text in texts(words) if text != "␣")
        assert written == "".join(" ".join(sources).split())
    plain = find_words(batch, tokenizer)
    assert [[word[1:] for word in words] for words in found] == [
        [word[1:] for word in words] for words in plain
    ]


@pytest.mark.parametrize("make", [wordpiece, byte_level, sentencepiece])
@pytest.mark.parametrize("side", ["left", "right"])
def test_words_given_one_by_one_read_as_given(make, side):
    tokenizer = make()
    given = [["The", "U.S.", "今日は", "zebra's", "New York"], ["fox"]], [["气好", "b't"], ["A.", "B."]]
    batch = tokenizer(*given, is_split_into_words=True, padding=True, padding_side=side, return_tensors="pt")
    for words, *sources in zip(find_words(batch, tokenizer, *given), *given, strict=True):
        assert texts(words) == [*sources[0], *sources[1]]


def test_pre_split_words_are_recognized_by_their_offsets():
    tokenizer = wordpiece()
    (words,) = find_words(tokenizer([["the", "b't", "fox,"]], is_split_into_words=True), tokenizer)
    assert texts(words) == ["the", "b't", "fox,"]


@pytest.mark.parametrize("source", ["⑴", "⑴ fox", "㈱"])
def test_a_character_that_makes_several_words_reads_as_itself(source):
    tokenizer = wordpiece()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    batch = tokenizer([source])
    (words,) = find_words(batch, tokenizer, [source])
    assert len(words) == len(find_words(batch, tokenizer)[0]) > 3
    assert texts(words)[:3] == [source[0]] * 3
    assert texts(words)[-1] == source.split()[-1]


def test_only_truncated_pre_split_words_are_missing():
    tokenizer = wordpiece()
    given = [["the", "unhappy", "fox"]]
    batch = tokenizer(given, is_split_into_words=True, truncation=True, max_length=5)
    (words,) = find_words(batch, tokenizer, given)
    assert [(word.text, len(word.tokens)) for word in words[1:-1]] == [("the", 1), ("unhappy", 2)]


def test_pieces_with_a_continuation_mark(tmp_path):
    tokenizer = goes_on(tmp_path)
    batch = tokenizer(["the unhappy fox", "the"], padding=True, return_tensors="pt")
    assert [texts(words) for words in find_words(batch, tokenizer)] == [["the", "unhappy", "fox"], ["the"]]


@pytest.mark.parametrize("pairs", [None, [["zebra"], ["the", "fox,"]]])
def test_pre_split_words_without_word_ids(pairs, tmp_path):
    tokenizer = goes_on(tmp_path)
    given = [["The", "unhappy", "今日は", "fox", "zebra"], ["the"]]
    batch = tokenizer(given, pairs, is_split_into_words=True, padding=True, return_tensors="pt")
    found = find_words(batch, tokenizer, given, pairs)
    assert [texts(words) for words in found] == [
        [*text, *pair] for text, pair in zip(given, pairs or [[], []], strict=True)
    ]
    cut = tokenizer(given[:1], is_split_into_words=True, truncation=True, max_length=5)
    (words,) = find_words(cut, tokenizer, given[:1])  # what is left of them is known by its marks again
    assert [token for word in words for token in word.tokens] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("split", [True, False])
def test_a_language_without_spaces_has_a_word_a_piece(split):
    tokenizer = sentencepiece(split)
    source = "天气好, the fox สวัสดี今日は"
    expected = ["天", "气", "好", ",", "the", "fox", "ส", "วัส", "ดี", "今日", "は"]
    batch = tokenizer([source])
    for given in (batch, dict(batch)):
        assert texts(find_words(given, tokenizer)[0]) == expected
    assert texts(find_words(batch, tokenizer, [source])[0]) == expected


def test_a_character_in_bytes_is_not_cut_in_a_language_without_spaces():
    tokenizer = byte_level()
    batch = tokenizer(["今日は fox"])
    for given in (batch, dict(batch)):
        (words,) = find_words(given, tokenizer)
        assert texts(words) == ["今", "日", "は", "fox"]


def test_a_tokenizer_of_bytes_has_words():
    tokenizer = ByT5Tokenizer()
    batch = tokenizer(["the f\u00e9"])
    (words,) = find_words(batch, tokenizer, ["the f\u00e9"])
    assert [token for word in words for token in word.tokens] == [*range(len(batch["input_ids"][0]))]
    assert texts(words)[:3] == ["t", "h", "e"]


@pytest.mark.parametrize("texts", ["the fox", ["the", "fox"], [["the", "fox"], ["the"]]])
def test_texts_of_another_batch_are_rejected(texts):
    tokenizer = wordpiece()
    with pytest.raises(ValueError, match="texts: (one string|2) for a batch of 1"):
        find_words(tokenizer(["the fox"]), tokenizer, texts)


def test_given_words_that_do_not_fit_the_batch_are_rejected():
    tokenizer = wordpiece()
    batch = tokenizer([["the", "fox", "the"]], is_split_into_words=True)
    with pytest.raises(ValueError, match="pass lists of words"):
        find_words(batch, tokenizer, ["the fox the"])
    with pytest.raises(ValueError, match="more words than the 2"):
        find_words(batch, tokenizer, [["the", "fox"]])
