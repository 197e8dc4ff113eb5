"""Files as people have them: encodings, delimiters, packing, names of columns, lines of mistakes."""

import csv
import gzip
import io
import json

import pytest

from captum_globenc.evaluation import Example, evaluate, read_examples
from captum_globenc.evaluation.labels import classes_of
from captum_globenc.texts import load_classifier

ROWS = [("Café noir, très bon.", "good"), ("Zwei\nZeilen", "bad"), ("ein Wort", "good")]


def table(delimiter=",", head=("text", "label"), rows=ROWS):
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerows([head, *rows])
    return file.getvalue()


def objects(rows=ROWS):
    return [{"text": text, "label": label} for text, label in rows]


CONTENTS = {
    "texts.csv": table(),
    "semicolons.csv": table(";"),
    "tabs.csv": table("\t"),
    "bars.csv": table("|"),
    "texts.jsonl": "\n".join(map(json.dumps, objects())),
    "texts.json": json.dumps(objects(), indent=2),
    "in one line.json": json.dumps(objects()),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1", "cp1252"]
)
@pytest.mark.parametrize("name", CONTENTS)
def test_what_is_in_a_file_is_read_whatever_it_is_written_in(tmp_path, name, encoding, packed):
    path = tmp_path / (name + ".gz" * packed)
    content = CONTENTS[name].encode(encoding)
    path.write_bytes(gzip.compress(content) if packed else content)
    told = encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32")
    found = read_examples(path, encoding=None if told else encoding)
    assert [(example.text, example.label) for example in found] == ROWS
    assert [example.number for example in found] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("texts.csv", [2, 3, 5]),
        ("texts.jsonl", [1, 2, 3]),
        ("texts.json", [2, 6, 10]),
        ("in one line.json", [1, 1, 1]),
    ],
)
def test_each_text_knows_its_line(tmp_path, name, lines):
    path = tmp_path / name
    path.write_text(CONTENTS[name], encoding="utf-8")
    assert [example.line for example in read_examples(path)] == lines


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("commas.tsv", 'text,label\n"a, b",1\n'),
        ("tabs.tsv", "text\tlabel\na, b\t1\n"),
        ("a comma in the head.csv", 'text;label;"c, d, e"\n"a, b";1;x\n'),
        ("semicolons in the head.csv", '"c;d;e",text,label\nx,"a, b",1\n'),
    ],
)
def test_quotes_follow_the_delimiter(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    (example,) = read_examples(tmp_path / name)
    assert (example.text, example.label) == ("a, b", "1")


def test_a_field_may_be_of_any_length_and_the_limit_of_others_stays(tmp_path):
    long = "word " * 60_000
    (tmp_path / "long.csv").write_text(table(rows=[(long, "good")]), encoding="utf-8")
    before = csv.field_size_limit()
    assert read_examples(tmp_path / "long.csv")[0].text == long
    assert csv.field_size_limit() == before
    (tmp_path / "bad.csv").write_text('text,label\n"open', encoding="utf-8")
    with pytest.raises(ValueError, match="cannot read"):
        read_examples(tmp_path / "bad.csv")
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json"])
def test_columns_can_be_named(tmp_path, ending):
    rows = [("so good", "yes", "1"), ("so bad", "no", "0")]
    names = ("Review", "Reply", "Stars")
    path = tmp_path / f"named.{ending}"
    entries = [dict(zip(names, row, strict=True)) for row in rows]
    path.write_text(
        {
            "csv": table(head=names, rows=rows),
            "jsonl": "\n".join(map(json.dumps, entries)),
            "json": json.dumps(entries),
        }[ending],
        encoding="utf-8",
    )
    found = read_examples(path, text_column="review", label_column="Stars", pair_column="REPLY")
    assert [(it.text, it.pair, it.label) for it in found] == rows
    for lacking in ("text_column", "label_column", "pair_column"):
        wanted = {"text_column": "Review", lacking: "Title"}
        with pytest.raises(ValueError, match="no column Title, only Review, Reply, Stars"):
            read_examples(path, **wanted)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", table(rows=[*ROWS, ("", "bad")]), "line 6 has no text"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": 5}', "line 3 has no text"),
        ("a.jsonl", '{"text": "a"}\n[1]', "line 2 is no JSON object"),
        ("a.json", '[{"text": "a"},\n 5]', "line 2 is no JSON object"),
        ("a.json", '[{"text": "a"}\n {"text": "b"}]', "line 1 .*neither , nor ]"),
        ("a.json", '{"text": "a"}', "no JSON array"),
        ("a.json", "[]", "holds no texts"),
        ("a.jsonl", '{"text": "a", "label": {"b": 1}}', "label of line 1"),
        ("a.csv", "text,text\na,b", "several columns are called text"),
        ("a.csv", "Text,text\na,b", "several columns are called Text, text"),
        ("a.csv", "label,text\n1,good, really bad", "line 2 has more fields than the head"),
        ("a.csv", "text,label\na,b\nc", "line 3 has fewer fields than the head"),
        ("a.csv.gz", "no gzip", "no gzip file, or a damaged one"),
        ("a.csv.gz", gzip.compress(b"text\na" * 99)[:-12], "no gzip file, or a damaged one"),
        ("a.csv.gz", b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 20, "no gzip file, or a damaged one"),
        ("a.csv", table(head=("text", "text_pair"), rows=[("a", "b"), ("c", "")]), "line 3 has no second"),
        ("a.xml", "", "ends in none of .csv, .tsv, .jsonl, .json"),
        ("a.csv", b"text,label\na,b\nCaf\xe9,c", "line 3 is not utf-8: name the file's encoding"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read_examples(path)
    assert "\n" not in str(caught.value)


def test_an_encoding_that_is_not_known_is_told(tmp_path):
    (tmp_path / "a.csv").write_text(table())
    with pytest.raises(ValueError, match="no encoding is called 'klingon'"):
        read_examples(tmp_path / "a.csv", encoding="klingon")


@pytest.mark.parametrize("written", ["True,False", "true,false", "TRUE,FALSE"])
def test_true_and_false_are_classes(tmp_path, folder, written):
    yes, no = written.split(",")
    (tmp_path / "a.csv").write_text(f"text,label\na good film,{yes}\na bad film,{no}\n")
    model, tokenizer, _ = load_classifier(folder)
    evaluation = evaluate(
        model, tokenizer, read_examples(tmp_path / "a.csv"), methods=["random"], metrics=["accuracy"]
    )
    assert [row["label"] for row in evaluation.rows] == ["POSITIVE", "NEGATIVE"]


def test_a_label_that_the_model_has_not_is_told_with_its_line(tmp_path, folder):
    (tmp_path / "a.csv").write_text("text,label\na film,POSITIVE\na plot,MIXED\n")
    model, tokenizer, _ = load_classifier(folder)
    examples = read_examples(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="line 3: label 'MIXED' is none of the model's"):
        evaluate(model, tokenizer, examples, methods=["random"], metrics=["accuracy"])


@pytest.mark.parametrize("method", ["globenc", "integrated-gradients", "feature-ablation"])
def test_the_second_segment_is_evaluated_too(folder, method):
    """As the tokenizer itself lays the pair out, and not as the first segment alone."""
    model, tokenizer, _ = load_classifier(folder)
    metrics = ["comprehensiveness", "sufficiency"]
    alone = [Example(0, "a good film", None), Example(1, "the plot is bad", None)]
    pairs = [Example(0, "a good film", None, "bad script"), Example(1, "the plot is bad", None, "good b")]
    rows = [
        evaluate(model, tokenizer, examples, methods=[method], metrics=metrics).rows
        for examples in (alone, pairs)
    ]
    encoded = tokenizer("a good film", "bad script", return_tensors="pt")
    predicted = model.config.id2label[int(model(**encoded).logits.argmax())]
    assert rows[1][0]["prediction"] == predicted
    for metric in metrics:
        assert abs(rows[0][0][metric] - rows[1][0][metric]) > 1e-6
    with pytest.raises(ValueError, match="some texts have a second segment and others none"):
        evaluate(model, tokenizer, [alone[0], pairs[1]], methods=[method], metrics=metrics)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n\n{"text": ', "line 3 is not valid JSON"),
        ("a.jsonl", '{"text": "a"}\n' + "[" * 100_000, "line 2 is not valid JSON"),
        ("a.json", '[{"text": "a"},\n' + "[" * 100_000, "line 2 is nested too deep"),
        ("a.jsonl", '{"text": "a"}\n{"text": "\\ud800"}', "line 2: .* surrogates not allowed"),
    ],
)
def test_json_that_is_none_is_told_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_examples(tmp_path / name)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize(
    "labels", [["007", "7"], ["1.0", "2.0"], ["+1", "-0"], ["NA", "null"], ["1e3", "true"]]
)
def test_labels_of_tables_are_what_is_written_there(tmp_path, suffix, labels):
    path, mark = tmp_path / f"a{suffix}", "\t" if suffix == ".tsv" else ","
    rows = [("text", "text_pair", "label"), *(("01", "1.0", it) for it in labels)]
    path.write_text("".join(mark.join(row) + "\n" for row in rows))
    examples = read_examples(path)
    assert [(it.text, it.pair, it.label) for it in examples] == [("01", "1.0", it) for it in labels]
    # Classes that are called so are these.
    assert [classes_of(it.label, labels, "single_label_classification") for it in examples] == [(0,), (1,)]


def test_a_number_that_is_no_index_names_no_class():
    assert classes_of("1.0", ["bad", "good"], "single_label_classification") == (1,)
    with pytest.raises(ValueError, match="'01' is none of the model's: bad, good"):
        classes_of("01", ["bad", "good"], "single_label_classification")
