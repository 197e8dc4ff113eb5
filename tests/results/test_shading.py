"""The shaded text is the original text, for all tokenizers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_explanation import explanation

from captum_globenc.results.record import Span
from captum_globenc.results.shading import CUT, UNREAD, cut_into_pieces
from captum_globenc.results.words import Word
from captum_globenc.texts.words import find_offsets, find_unknown, find_words
from vocabularies import TOKENIZERS, byte_level, goes_on, sentencepiece, wordpiece

MADE = {name: make() for name, make in TOKENIZERS.items()}
TEXTS = {
    "spaces": "  the\tfox,\n\ncafé  <b> ",
    "emoji": "the 😀😀👩\u200d🚀 fox ❤\ufe0f",
    "unknown": "x" * 200,
    "right to left": "the שלום, 'مرحبا' fox",
    "without spaces": "今日は天气好 สวัสดี",
    "composed otherwise": "cafe\u0301 ﬁne ⑴ Ⅷ",
    "dropped": "the \x07 fox\u200b",
    "empty": "",
}


def record(tokenizer, text, pair=None, **options):
    """The record of a text, without a model."""
    pairs = None if pair is None else [pair]
    batch = tokenizer([text], pairs, **options)
    (words,) = find_words(batch, tokenizer, [text], pairs)
    (ids,) = batch["input_ids"]
    return explanation(
        text=text,
        pair=pair,
        tokens=tokenizer.convert_ids_to_tokens(ids),
        scores={},
        kinds={},
        groups=words,
        offsets=find_offsets(batch, 0),
        ids=ids,
        unknown=find_unknown(ids, words, tokenizer.unk_token_id),
        truncated=bool(options),
    )


def check(found, of):
    """The pieces join to the texts, and each token is in exactly one of them."""
    pieces = found.pieces(of)
    assert ["".join(it.text for it in row if not it.special) for row in pieces] == list(found.sources)
    tokens = [token for row in pieces for it in row for token in it.tokens]
    assert sorted(tokens) == list(range(len(found.tokens)))
    return pieces


def shown(row):
    return [(it.text, it.tokens) for it in row]


@pytest.mark.parametrize("of", ["words", "tokens"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("kind", MADE)
def test_pieces_join_to_the_text_and_hold_every_token_once(kind, text, of):
    check(record(MADE[kind], text), of)
    check(record(MADE[kind], text, "the fox"), of)
    check(record(MADE[kind], text, text, truncation=True, max_length=9), of)


@given(st.text(max_size=20), st.sampled_from(list(MADE)), st.sampled_from(["words", "tokens"]))
def test_pieces_join_to_any_text(text, kind, of):
    check(record(MADE[kind], text), of)


def test_a_word_is_a_piece_and_so_is_a_token_on_request():
    found = record(wordpiece(), "UNHAPPY  fox")
    (words,) = found.pieces()
    assert shown(words) == [
        ("<s>", (0,)), ("UNHAPPY", (1, 2)), ("  ", ()), ("fox", (3,)), ("</s>", (4,)),
    ]  # fmt: skip
    assert [it.special for it in words] == [True, False, False, False, True]
    (tokens,) = found.pieces("tokens")
    assert shown(tokens)[1:3] == [("UN", (1,)), ("HAPPY", (2,))]
    with pytest.raises(ValueError, match="of is 'letters': words or tokens"):
        found.pieces("letters")


@pytest.mark.parametrize("text", ["😀😀😀", "x" * 3000])
def test_unknown_words_are_shown_as_written_with_a_note(text):
    (pieces,) = record(wordpiece(), f"the {text} fox").pieces()
    assert shown(pieces)[1:6] == [("the", (1,)), (" ", ()), (text, (2,)), (" ", ()), ("fox", (3,))]
    assert [it.unknown for it in pieces] == [it.text == text for it in pieces]
    assert pieces[3].note == "not in the vocabulary: the model reads <unk>"
    assert {it.note for it in pieces if not it.unknown} == {""}


def test_tokens_of_one_character_are_one_piece():
    (pieces,) = record(byte_level(), "fox 😀 caf\u00e9").pieces("tokens")
    (face,) = [it for it in pieces if it.text == "😀"]
    assert len(face.tokens) == 5  # the space ahead of it is the first byte's
    assert not face.unknown


def test_right_to_left_words_are_whole_and_in_the_order_of_the_text():
    (pieces,) = record(sentencepiece(), "the שלום fox").pieces()
    assert [it.text for it in pieces if it.tokens and not it.special] == ["the", "שלום", "fox"]


def test_each_text_of_a_pair_has_its_own_pieces_and_the_special_tokens_behind_it():
    first, second = record(byte_level(), "the fox", "fox").pieces()
    assert [it.text for it in first] == ["<s>", "the", " ", "fox", "</s>", "</s>"]
    assert [it.text for it in second] == ["fox", "</s>"]


def test_a_separately_encoded_second_text_starts_with_its_special_tokens():
    texts = ["[CLS]", "a", "[SEP]", "[CLS]", "query:", "b", "[SEP]"]
    units = [Word(text, (token,), len(text) > 1) for token, text in enumerate(texts)]
    places = [None, Span(0, 1), None, None, None, Span(0, 1, 1), None]
    first, second = cut_into_pieces(["a", "b"], units, places)
    assert [it.text for it in first] == ["[CLS]", "a", "[SEP]"]
    assert [it.text for it in second] == ["[CLS]", "query:", "b", "[SEP]"]
    assert [it.tokens for it in [*first, *second]] == [(token,) for token in range(7)]


def test_truncated_and_dropped_text_has_a_note():
    (pieces,) = record(wordpiece(), "the fox the fox", truncation=True, max_length=4).pieces()
    assert [it.text for it in pieces] == ["<s>", "the", " ", "fox", " the fox", "</s>"]
    assert [it.note for it in pieces] == ["", "", "", "", CUT, ""]
    (pieces,) = record(wordpiece(), "the \x07 fox").pieces()
    assert shown(pieces)[2] == (" \x07 ", ())
    assert [it.note for it in pieces] == ["", "", UNREAD, "", ""]


def test_without_offsets_the_decoded_tokens_are_shown(tmp_path):
    tokenizer = goes_on(tmp_path)
    first, second = record(tokenizer, "unhappy x the", "fox").pieces()
    assert [it.text for it in first if it.tokens] == ["<s>", "unhappy", "<unk>", "the", "</s>", "</s>"]
    assert {it.text for it in first if not it.tokens} == {" "}
    assert [it.text for it in second] == ["fox", " ", "</s>"]
    assert [it.text for it in first if it.unknown] == ["<unk>"]


def test_offsets_that_overlap_or_go_back_still_give_the_text():
    units = [Word(str(token), (token,), False) for token in range(4)]
    places = [Span(0, 2), Span(4, 6), Span(1, 3), None]
    (pieces,) = cut_into_pieces(["abcdefg"], units, places)
    assert shown(pieces) == [("abcdef", (0, 1, 2, 3)), ("g", ())]


def test_tokens_without_characters_belong_to_the_next_piece():
    units = [Word("", (0,), False), Word("a", (1,), False), Word("", (2,), False), Word("|", (3,), True)]
    places = [None, Span(0, 1), None, None]
    assert shown(cut_into_pieces(["a"], units, places)[0]) == [("a", (0, 1, 2)), ("|", (3,))]
    assert shown(cut_into_pieces([""], units[:1], [None])[0]) == [("", (0,))]


def test_text_truncated_at_the_beginning_has_a_note_there():
    tokenizer = wordpiece()
    tokenizer.truncation_side = "left"
    (pieces,) = record(tokenizer, "the fox, the fox", truncation=True, max_length=4).pieces()
    assert [it.text for it in pieces] == ["<s>", "the fox, ", "the", " ", "fox", "</s>"]
    assert [it.note for it in pieces] == ["", CUT, "", "", "", ""]
