import pytest

from captum_globenc.texts.pieces import readable_tokens, splits_unspaced, word_start_rule
from vocabularies import byte_level, goes_on, sentencepiece, word_end, wordpiece


@pytest.mark.parametrize(
    ("make", "tokens", "expected"),
    [
        (wordpiece, ["<s>", "un", "##happy", ",", "b"], ["<s>", "un", "happy", ",", "b"]),
        (
            byte_level,
            ["<s>", "the", "Ġfox", "Ã©", "ð", "Ġ", "##"],
            ["<s>", "the", "fox", "é", "�", "␣", "##"],
        ),
        (sentencepiece, ["<s>", "\u2581the", "é", "\u2581"], ["<s>", "the", "é", "␣"]),
        (word_end, ["<s>", "fo", "x</w>", "the</w>"], ["<s>", "fo", "x", "the"]),
    ],
)
def test_tokens_read_without_their_marks(make, tokens, expected):
    assert readable_tokens(tokens, make()) == expected


def test_a_continued_piece_reads_without_its_mark(tmp_path):
    assert readable_tokens(["un@@", "happy", "@@", "<s>"], goes_on(tmp_path)) == ["un", "happy", "@@", "<s>"]


def test_a_mark_at_the_end_of_a_piece_stays_where_it_is_none():
    assert readable_tokens(["the@@"], wordpiece()) == ["the@@"]


def test_the_mark_that_most_tokens_have_counts():
    # A multilingual vocabulary of pieces has the letter that stands for a space elsewhere.
    tokenizer = wordpiece()
    tokenizer.add_tokens(["Ġ", "▁"])
    begins = word_start_rule(tokenizer)
    assert [begins("un", "##happy"), begins("un", "fox"), begins("the", "Ġ")] == [False, True, True]


@pytest.mark.parametrize(
    ("before", "after", "cut"),
    [
        ("今日", "は", True),
        ("カ", "ﾀ", True),
        ("AI", "是", True),
        ("是", "AI", True),
        ("က", "မ", True),
        ("ខ", "គ", True),
        ("ກ", "ຂ", True),
        ("ka", "ta", False),
        ("한", "국", False),  # written with spaces
        ("カ", "ー", False),  # makes the vowel before it long
        ("ก", "\u0e49", False),  # a tone mark
        ("", "今", False),
        ("今", "", False),
    ],
)
def test_scripts_without_spaces_are_split(before, after, cut):
    assert splits_unspaced(before, after) is cut
