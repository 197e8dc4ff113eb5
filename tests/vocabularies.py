"""Tiny tokenizers of the kinds that write spaces and pieces of words differently."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PhobertTokenizer, PreTrainedTokenizerFast

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
MERGES = [
    ("t", "h"),
    ("th", "e"),
    ("Ġ", "the"),
    ("o", "x"),
    ("f", "ox"),
    ("Ġ", "fox"),
    ("Ġ", "c"),
    ("a", "f"),
    ("Ã", "©"),
]
PIECES = [
    "\u2581the",
    "\u2581fox",
    "\u2581un",
    "happy",
    "caf",
    "é",
    "s",
    "b",
    "\u2581",
    ",",
    "'",
    "t",
    "<",
    ">",
    "今日",
    "は",
    "\u2581天",
    "气",
    "好",
    "ส",
    "วัส",
    "ดี",
]


def _wrapped(tokenizer):
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )


def byte_level():
    """As RoBERTa's: bytes written as letters, "Ġ" for a space, two separators in a pair."""
    names = [*SPECIAL, *BYTES, *(a + b for a, b in MERGES)]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return _wrapped(tokenizer)


def sentencepiece(split=True):
    """As XLM-R's: "▁" for a space; without `split`, over whole texts at once, without any word ids."""
    pieces = [(name, -1.0) for name in SPECIAL] + [(piece, -2.0) for piece in PIECES]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return _wrapped(tokenizer)


def word_end():
    """As XLM's: "</w>" after the last piece of a word."""
    names = [*SPECIAL, *"thefox", "the</w>", "x</w>", "th", "fo", "fox</w>"]
    merges = [("t", "h"), ("th", "e</w>"), ("f", "o"), ("fo", "x</w>")]
    names.append("e</w>")
    model = models.BPE({name: i for i, name in enumerate(names)}, merges, end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.BPEDecoder()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return _wrapped(tokenizer)


def wordpiece():
    """As BERT's: "##" ahead of all pieces of a word but the first."""
    names = [*SPECIAL, "the", "un", "##happy", "fox", "caf", "##é", "##s", ",", "'", "t", "<", ">", "b"]
    tokenizer = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    return _wrapped(tokenizer)


def goes_on(folder):
    """As BERTweet's and PhoBERT's: "@@" after all pieces of a word but the last; written in Python."""
    (folder / "vocab.txt").write_text("the 1\nun@@ 1\nhappy 1\nf@@ 1\nox 1\n")
    (folder / "bpe.codes").write_text(
        "t h 1\nth e</w> 1\no x</w> 1\nu n 1\nh a 1\nha p 1\nhap p 1\nhapp y</w> 1\n"
    )
    return PhobertTokenizer(str(folder / "vocab.txt"), str(folder / "bpe.codes"))


TOKENIZERS = {
    "wordpiece": wordpiece,
    "byte-level": byte_level,
    "sentencepiece": sentencepiece,
    "sentencepiece-whole": lambda: sentencepiece(split=False),
    "word-end": word_end,
}
