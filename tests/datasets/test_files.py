"""Every command reads the same files and tables: formats, encodings, compression, columns, errors."""

import csv
import datetime
import decimal
import gzip
import io
import json
import subprocess
import sys

import datasets
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_globenc.datasets import Attributor, attribute_files, load_attributions
from captum_globenc.datasets.blocks import Source
from captum_globenc.evaluation import SENTENCES, Example, read_examples
from captum_globenc.evaluation.data import classes_of
from checkpoints import ENVIRONMENT
from sentences import write_rows

ROWS = [("Café noir, très bon.", "good"), ("Zwei\nZeilen", "bad"), ("ein Wort", "good")]


def evaluated(data, **options):
    return [(it.text, it.pair, it.label, it.number) for it in read_examples(data, **options)]


def attributed(data, text_column="text", pair_column="pair", label_column="label", **others):
    names = {"text": text_column, "pair": pair_column, "label": label_column, "id": others.get("id_column")}
    source = Source(data, names, others.get("encoding"))
    survey = source.survey()
    found = []
    for block in source.blocks(2, survey.types):
        assert len(block) <= 2
        for place in range(len(block)):
            if place in block.problems:
                raise ValueError(block.problems[place])
            row = {role: column[place] for role, column in block.columns.items()}
            number = row.get("id", block.start + place)
            found.append((row["text"], row["pair"] or None, row["label"], number))
    assert len(found) == survey.rows
    return found


COMMANDS = pytest.mark.parametrize("read", [evaluated, attributed])


def table(delimiter=",", head=("text", "label"), rows=ROWS):
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerows([head, *rows])
    return file.getvalue()


def objects(rows=ROWS, head=("text", "label")):
    return [dict(zip(head, row, strict=True)) for row in rows]


CONTENTS = {
    "texts.csv": table(),
    "semicolons.csv": table(";"),
    "tabs.csv": table("\t"),
    "bars.csv": table("|"),
    "texts.jsonl": "\n".join(map(json.dumps, objects())),
    "texts.json": json.dumps(objects(), indent=2),
    "in one line.json": json.dumps(objects()),
}


@COMMANDS
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1", "cp1252"]
)
@pytest.mark.parametrize("name", CONTENTS)
def test_text_files_are_read_in_any_encoding_and_packing(tmp_path, name, encoding, packed, read):
    path = tmp_path / (name + ".gz" * packed)
    content = CONTENTS[name].encode(encoding)
    path.write_bytes(gzip.compress(content) if packed else content)
    told = encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32")
    found = read(path, encoding=None if told else encoding)
    assert found == [(text, None, label, number) for number, (text, label) in enumerate(ROWS)]


@COMMANDS
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("quotes.csv", 'text,label\n"good, but ""red""",1\nbad,\n'),
        ("spaces.csv", 'Text, Label\n"good, but ""red""",1\nbad,\n'),
        ("blank lines.csv", '\n\ntext,label\n\n"good, but ""red""",1\n\nbad,'),
        ("old.csv", 'text,label\r"good, but ""red""",1\rbad,\r'),
        ("quotes are text.tsv", '\ufefflabel\ttext\tmore\n1\tgood, but "red"\tx\n\tbad\ty\n'),
        ("commas.tsv", 'text,label\n"good, but ""red""",1\nbad,\n'),
        ("tabs.tsv", 'text\tlabel\ngood, but "red"\t1\nbad\t\n'),
        ("a comma in the head.csv", 'text;label;"c, d, e"\n"good, but ""red""";1;x\nbad;;y\n'),
        ("semicolons in the head.csv", '"c;d;e",text,label\nx,"good, but ""red""",1\ny,bad,\n'),
        ("other delimiters in a name.csv", 'text,"label",a;b;c\n"good, but ""red""",1,x\nbad,,y\n'),
        ("texts.jsonl", '{"text": "good, but \\"red\\"", "label": 1}\n\n{"text": "bad"}\n'),
        ("texts.json", '[{"Text": "good, but \\"red\\"", "label": 1},\n{"Text": "bad"}]'),
    ],
)
def test_delimiters_are_detected_from_the_header(tmp_path, name, content, read):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    good, bad = read(tmp_path / name)
    assert (good[:2], str(good[2])) == (('good, but "red"', None), "1")
    assert bad[:3] == ("bad", None, None)


@COMMANDS
def test_a_field_may_be_of_any_length_and_the_limit_of_others_stays(tmp_path, read):
    long = "word " * 60_000
    (tmp_path / "long.csv").write_text(table(rows=[(long, "good")]), encoding="utf-8")
    before = csv.field_size_limit()
    assert read(tmp_path / "long.csv")[0][0] == long
    assert csv.field_size_limit() == before
    (tmp_path / "bad.csv").write_text('text,label\n"open', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2 opens a quote that is never closed"):
        read(tmp_path / "bad.csv")
    assert csv.field_size_limit() == before


def written(kind, path, columns, encoding="utf-8"):
    """Columns as a file of a format, or a table in memory."""
    rows = objects(zip(*columns.values(), strict=True), columns)
    if kind == "DataFrame":
        return pandas.DataFrame(rows)
    if kind == "Dataset":
        return datasets.Dataset.from_list(rows)
    path = path / f"texts{kind}"
    if kind == ".parquet":
        return write_rows(path, columns)
    if kind.startswith(".json"):
        made = [json.dumps(row, ensure_ascii=False) for row in rows]
        text = "\n".join(made) if ".jsonl" in kind else f"[{', '.join(made)}]"
    else:
        text = table("\t" if ".tsv" in kind else ",", list(columns), [row.values() for row in rows])
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


# Python's own writer of tables leaves a lone \r without quotes.
WRITABLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"))


@pytest.mark.parametrize("kind", [".csv", ".csv.gz", ".jsonl", ".json", ".parquet"])
@given(st.lists(st.tuples(WRITABLE.filter(bool), WRITABLE), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_any_text_comes_back_as_it_was_written(tmp_path_factory, kind, rows):
    columns = dict(zip(("text", "pair"), map(list, zip(*rows, strict=True)), strict=True))
    columns["label"] = ["good"] * len(rows)
    data = written(kind, tmp_path_factory.mktemp("texts"), columns)
    assert [(text, pair or "") for text, pair, *_ in attributed(data)] == rows
    if all(text.strip() for text, _ in rows) and len({pair == "" for _, pair in rows}) == 1:
        assert [(text, pair or "") for text, pair, *_ in evaluated(data)] == rows


FILES = [".csv", ".csv.gz", ".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet"]
KINDS = pytest.mark.parametrize("kind", [*FILES, "DataFrame", "Dataset"])


@COMMANDS
@KINDS
@pytest.mark.parametrize("pair", ["pair", "text_pair", "Text_Pair"])
def test_every_format_has_the_same_columns(tmp_path, kind, pair, read):
    columns = {"id": [7, 8], "Text": ["so good", "007"], pair: ["yes", "NA"], "label": ["b", "007"]}
    data = written(kind, tmp_path, columns)
    assert read(data) == [("so good", "yes", "b", 0), ("007", "NA", "007", 1)]
    assert read(data, id_column="ID") == [("so good", "yes", "b", 7), ("007", "NA", "007", 8)]


@COMMANDS
@KINDS
def test_columns_can_be_named(tmp_path, kind, read):
    names = ("Review", "Reply", "Stars", "Code")
    rows = [("so good", "yes", "1 star", "007"), ("so bad", "no", "0 stars", "a")]
    data = written(kind, tmp_path, dict(zip(names, zip(*rows, strict=True), strict=True)))
    named = {"text_column": "review", "label_column": "Stars", "pair_column": "REPLY", "id_column": "Code"}
    assert read(data, **named) == rows
    for lacking in named:
        with pytest.raises(ValueError, match=r"has no column Title; it has Review, Reply, Stars, Code$"):
            read(data, **{"text_column": "Review", lacking: "Title"})


@COMMANDS
def test_a_name_matches_exactly_before_it_matches_in_any_case(tmp_path, read):
    path = tmp_path / "texts.csv"
    path.write_text("TEXT,text,Text,label,pair,text_pair\nno,yes,no,1,a,b\n")
    assert read(path)[0][0] == "yes"
    # Each command has its own name first, as it always had.
    assert read(path)[0][1] == ("b" if read is evaluated else "a")
    with pytest.raises(ValueError, match="several columns are called TEXT, text, Text"):
        read(path, text_column="tExt")


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".parquet", "DataFrame"])
@pytest.mark.parametrize(
    ("ids", "numbers"),
    [([3, -1], [3, -1]), (["3", "1"], [3, 1]), (["3", "a"], ["3", "a"]), (["007", "8"], ["007", "8"])],
)
def test_ids_are_whole_numbers_where_all_of_them_are(tmp_path, kind, ids, numbers):
    data = written(kind, tmp_path, {"text": ["good", "bad"], "id": ids})
    assert [it.number for it in read_examples(data, id_column="id")] == numbers


@pytest.mark.parametrize(
    ("ids", "message"),
    [(["a", ""], "line 3 has no id"), (["a", "a"], "line 2 and line 3 have the same id, a")],
)
def test_duplicate_ids_are_rejected(tmp_path, ids, message):
    path = written(".csv", tmp_path, {"text": ["good", "bad"], "id": ids})
    with pytest.raises(ValueError, match=message):
        read_examples(path, id_column="id")


@COMMANDS
def test_missing_values_of_tables_in_memory_are_none(read):
    frame = pandas.DataFrame({"text": ["good", "bad"], "label": [1, None], "pair": ["a", float("nan")]})
    assert [row[2] for row in read(frame[["text", "label"]])] == [1, None]
    if read is attributed:
        assert [row[1] for row in read(frame)] == ["a", None]
    else:
        with pytest.raises(ValueError, match="cannot read the DataFrame: row 2 has no second segment"):
            read(frame)
    with pytest.raises(TypeError, match="data is a DatasetDict: pass a path, a DataFrame or a datasets"):
        read(datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["good"]})}))
    with pytest.raises(TypeError, match="data is a list: pass a path, a DataFrame or a datasets.Dataset"):
        read(["good"])


@COMMANDS
def test_a_folder_is_all_its_files_by_their_names(tmp_path, read):
    write_rows(tmp_path / "b.csv", {"text": ["bad"], "label": ["b"]})
    write_rows(tmp_path / "a.parquet", {"text": ["good", "great"], "label": ["a", None]})
    write_rows(tmp_path / "c.jsonl", {"text": ["red"]})
    for name in ("d.csv.gz", "b.csv.gz"):  # the second is b.csv again
        (tmp_path / name).write_bytes(gzip.compress(b"text\nblue\n"))
    (tmp_path / "README.md").write_text("not a table")
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / ".hidden.csv").write_text("no\n")
    found = [("good", "a"), ("great", None), ("bad", "b"), ("red", None), ("blue", None)]
    assert [(text, label) for text, _, label, _ in read(tmp_path)] == found
    (tmp_path / "c.jsonl").write_text('{"text": "red"}\n{nope}')
    with pytest.raises(ValueError, match=r"line 2 .*is not valid JSON") as caught:
        read(tmp_path)
    assert "c.jsonl" in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="contains no file that ends in .csv, .tsv, .jsonl, .parquet"):
        read(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("texts.csv", [2, 3, 5]),
        ("texts.jsonl", [1, 2, 3]),
        ("texts.json", [2, 6, 10]),
        ("in one line.json", [1, 1, 1]),
        ("texts.parquet", [1, 2, 3]),
    ],
)
def test_each_text_knows_its_line(tmp_path, name, lines):
    path = tmp_path / name
    if name in CONTENTS:
        path.write_text(CONTENTS[name], encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(objects()), path)
    assert [example.line for example in read_examples(path)] == lines


def test_a_text_of_a_folder_knows_its_file(tmp_path):
    for name in ("a.csv", "b.parquet"):
        write_rows(tmp_path / name, {"text": ["good"], "label": ["x"]})
    assert [it.line for it in read_examples(tmp_path)] == ["2 of a.csv", "1 of b.parquet"]


BOTH = [
    ("a.jsonl", '{"text": "a"}\n[1]', "line 2 .*is not a JSON object"),
    ("a.jsonl", '{"text": "a"}\n\n{"text": ', "line 3 .*is not valid JSON"),
    ("a.jsonl", '{"text": "a"}\n' + "[" * 100_000, "line 2 .*is not valid JSON"),
    ("a.jsonl", '{"review": "a"}', "it has no column text; it has review|line 1 has no column text"),
    ("a.json", '[{"text": "a"},\n 5]', "line 2 .*is not a JSON object"),
    ("a.json", '[{"text": "a"}\n {"text": "b"}]', "line 1 .*neither , nor ]"),
    ("a.json", '[{"text": "a"},\n' + "[" * 100_000, "line 2 is nested too deeply"),
    ("a.json", '{"text": "a"}', "not a JSON array"),
    ("a.json", '[{"text": "a"}]\n[{"text": "b"}]', "the array is followed by"),
    ("a.jsonl", "[" * 100_000, "line 1 is not valid JSON"),
    ("a.jsonl", '{"text": "a"}\n{"Text": 1, "TEXT": 2}', "line 2 .*several columns are called Text, TEXT"),
    ("a.json", "[]", "contains no texts|no rows in"),
    ("a.jsonl", "", "contains no texts|no rows in"),
    ("a.csv", "", "cannot read .*a.csv: it contains no texts"),
    ("a.csv", "text,label\n", "contains no texts|no rows in"),
    ("a.csv", "review,label\ngood,1\n", "it has no column text; it has review, label"),
    ("a.csv", "text,text\na,b", "several columns are called text, text"),
    ("a.csv", "Text,TEXT\na,b", "several columns are called Text, TEXT"),
    ("a.csv", "label,text\n1,good, really bad", "line 2 has more fields than the head"),
    ("a.csv", "text,label\na,b\nc", "line 3 has fewer fields than the head"),
    ("a.csv", 'text,label\n"open,1\nbad,0\n', "line 2 opens a quote that is never closed"),
    ("a.csv", b"text,label\na,b\n\nCaf\xe9,c", "line 4 .*is not valid UTF-8"),
    ("a.tsv", b"text\tlabel\na\tb\nc\tCaf\xe9", "line 3 .*is not valid UTF-8"),
    ("a.csv", b"text,Caf\xe9\na,b\n", "line 1 is not valid UTF-8: name the file's encoding"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "Caf\xe9"}', "line 2 .*is not valid UTF-8"),
    ("a.json", b'[{"text": "a"},\n{"text": "Caf\xe9"}]', "line 2 .*is not valid UTF-8"),
    ("a.csv.gz", "no gzip", "not a gzip file, or a damaged one"),
    ("a.csv.gz", gzip.compress(b"text\na" * 99, mtime=0)[:-12], "not a gzip file, or a damaged one"),
    ("a.csv.gz", b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 20, "not a gzip file, or a damaged one"),
    ("a.parquet", "PAR1 but no more", "cannot read"),
    ("a.xml", "", "the supported endings are .csv, .tsv, .jsonl, .json, .parquet"),
    ("a.parquet.gz", "", "the supported endings are .csv, .tsv, .jsonl, .json, .parquet"),
    ("a/b.csv", None, "cannot read .*b.csv: no such file or folder"),
]
"""What no command reads, and what is said of it."""


@COMMANDS
@pytest.mark.parametrize(("name", "content", "message"), BOTH)
def test_an_error_names_its_line(tmp_path, name, content, message, read):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name.partition("/")[2] or name in str(caught.value)


@COMMANDS
@pytest.mark.parametrize("encoding", ["klingon", "hex"])
def test_an_unknown_encoding_is_reported(tmp_path, encoding, read):
    (tmp_path / "a.csv").write_text(table())
    with pytest.raises(ValueError, match=f"no encoding is called '{encoding}'"):
        read(tmp_path / "a.csv", encoding=encoding)
    (tmp_path / "odd.csv").write_bytes(b"text\nab")
    with pytest.raises(ValueError, match="it is not valid utf-16-le: name the file's encoding"):
        read(tmp_path / "odd.csv", encoding="utf-16-le")


@COMMANDS
@pytest.mark.parametrize("kind", [".parquet", "Dataset"])
def test_a_column_of_another_type_is_reported(tmp_path, kind, read):
    data = written(kind, tmp_path, {"text": [1, 2]})
    with pytest.raises(ValueError, match=r"cannot read .*: column text has the type int64, not string"):
        read(data)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", table(rows=[*ROWS, ("", "bad")]), "line 6 has no text"),
        ("a.csv", "text\ngood\n \n", "line 3 has no text"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": 5}', "line 3 has no text"),
        ("a.jsonl", '{"text": "a"}\n{"text": "\\ud800"}', "line 2: text is not valid UTF-8"),
        ("a.jsonl", '{"text": "a", "label": {"b": 1}}', "label of line 1 is neither a name nor a number"),
        ("a.jsonl", '{"text": "a", "label": ["x", null]}', "label of line 1 is neither a name nor a number"),
        ("a.jsonl", '{"text": "a", "pair": 1}', "the second segment of line 1 is not a string"),
        ("a.csv", table(head=("text", "text_pair"), rows=[("a", "b"), ("c", "")]), "line 3 has no second"),
        ("a.csv", b"text\ncaf\xe9\n", "line 2 is not valid UTF-8: name the file's encoding"),
    ],
)
def test_an_evaluation_stops_at_the_first_row_that_it_cannot_take(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read_examples(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".parquet", "DataFrame", "Dataset"])
def test_labels_in_other_columns_are_not_ignored(tmp_path, kind):
    data = written(kind, tmp_path, {"text": ["a", "b"], "toxic": [0, 0], "insult": [1, 0]})
    with pytest.raises(ValueError, match="columns toxic, insult contain only 0 and 1, like one-hot labels"):
        read_examples(data)
    data = written(kind, tmp_path, {"text": ["a", "b"], "labels": ["x", "y"]})
    with pytest.raises(ValueError, match="column labels but no column label"):
        read_examples(data)
    assert [it.label for it in read_examples(data, label_column="labels")] == ["x", "y"]


@pytest.mark.parametrize("kind", [".jsonl", ".parquet", "DataFrame", "Dataset"])
def test_lists_of_labels_and_marks_are_read(tmp_path, kind):
    columns = {"text": ["a dull film", "good"], "label": [["x", "y"], []], "marked_spans": [[[2, 6]], []]}
    found = read_examples(written(kind, tmp_path, columns))
    assert [(it.label, it.marked) for it in found] == [(["x", "y"], ((2, 6),)), ([], ())]
    data = written(kind, tmp_path, {"text": ["a", "b", "c"], "id": [0, 1, 2], "seen": [1, 1, 1]})
    assert [it.label for it in read_examples(data)] == [None] * 3


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize(
    "labels", [["007", "7"], ["1.0", "2.0"], ["+1", "-0"], ["NA", "null"], ["1e3", "true"]]
)
def test_labels_of_tables_are_unchanged(tmp_path, suffix, labels):
    columns = {"text": ["01", "01"], "text_pair": ["1.0", "1.0"], "label": labels}
    path = written(suffix, tmp_path, columns)
    examples = [("01", "1.0", it) for it in labels]
    assert [row[:3] for row in evaluated(path)] == [row[:3] for row in attributed(path)] == examples
    # Classes that are called so are these.
    assert [classes_of(label, labels, "single_label_classification") for label in labels] == [(0,), (1,)]


def test_text_files_are_read_without_pyarrow(tmp_path):
    for kind in FILES:
        written(kind, tmp_path, {"text": ["good"], "label": ["a"]})
    program = (
        "import sys, pathlib; sys.modules['pyarrow'] = sys.modules['pyarrow.parquet'] = None\n"
        "from captum_globenc.evaluation import read_examples\n"
        "for path in map(pathlib.Path, sys.argv[1:]):\n"
        "    try: assert read_examples(path)[0].label == 'a'\n"
        "    except ImportError as error: print(path.name, error)"
    )
    paths = [str(tmp_path / f"texts{kind}") for kind in FILES]
    ran = subprocess.run(
        [sys.executable, "-c", program, *paths],
        env=ENVIRONMENT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    (said,) = ran.stdout.splitlines()
    assert said.startswith('texts.parquet pyarrow is not installed: pip install ".[datasets]"')


@pytest.mark.parametrize("kind", [".csv.gz", ".tsv", ".jsonl.gz", ".json", ".parquet"])
def test_the_commands_have_the_same_options_and_rows(run, folder, tmp_path, kind):
    texts, labels, ids = ["good film", "bad plot"], ["POSITIVE", "NEGATIVE"], ["12", "b"]
    columns = {"Review": texts, "Reply": ["so good", "é"], "Stars": labels, "Code": ids}
    data = written(kind, tmp_path, columns, "latin-1")
    options = ("--model", folder, "--data", data, "--encoding", "latin-1", "--text-column", "review")
    options += ("--pair-column", "Reply", "--label-column", "Stars", "--id-column", "code")
    run("attribute", *options, "--out", tmp_path / "attributed")
    made = load_attributions(tmp_path / "attributed", cache_dir=tmp_path / "cache")
    assert {name: made[name][:] for name in ("text", "pair", "label", "id", "idx", "error")} == {
        "text": texts, "pair": ["so good", "é"], "label": labels, "id": ids, "idx": [0, 1], "error": ["", ""],
    }  # fmt: skip
    for _ in range(2):  # the second run reads the ids back
        run(
            *("evaluate", *options, "--out", tmp_path / "evaluated"),
            *("--methods", "random", "--metrics", "accuracy", "--batch-size", 1),
        )
    with (tmp_path / "evaluated" / "results.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["example"])
    assert [(row["example"], row["label"]) for row in rows] == [*zip(ids, labels, strict=True)]


@pytest.mark.parametrize("kind", ["DataFrame", "Dataset"])
def test_tables_in_memory_are_attributed_and_their_content_is_compared(folder, tmp_path, kind):
    columns = {"text": ["good film", "bad plot"], "label": [1, 0], "id": ["a", "b"]}
    out = tmp_path / "out"

    def made(columns):
        return attribute_files(Attributor(folder), written(kind, tmp_path, columns), out, id_column="id")

    assert made(columns).rows == 2
    found = load_attributions(out, cache_dir=tmp_path / "cache")
    assert (found["text"][:], found["label"][:], found["id"][:]) == tuple(columns.values())
    expected = Attributor(folder)({"text": columns["text"]})["globenc"]
    for scores, one in zip(found["globenc"][:], expected, strict=True):
        assert scores == pytest.approx(one, abs=1e-6)
    assert made(columns).rows == 2
    with pytest.raises(ValueError, match="holds attributions of other texts: choose another folder"):
        made({**columns, "text": ["good film", "bad script"]})


def test_ids_that_are_no_numbers_are_written_as_they_are(folder, tmp_path):
    ids = [datetime.date(2026, 1, 31), datetime.date(2026, 2, 1)]
    labels = [decimal.Decimal("1.5"), decimal.Decimal(2)]
    data = written(".parquet", tmp_path, {"text": ["good film", "bad plot"], "label": labels, "id": ids})
    attribute_files(Attributor(folder), data, tmp_path / "out", id_column="id")
    found = load_attributions(tmp_path / "out", cache_dir=tmp_path / "cache")
    assert found["id"][:] == list(map(str, ids))
    assert list(map(float, found["label"][:])) == [1.5, 2.0]


def test_the_shipped_sentences_are_numbered_by_their_rows():
    examples = read_examples(SENTENCES)
    assert [it.number for it in examples] == list(range(3000))
    assert [it.line for it in examples] == list(range(2, 3002))
    assert examples[0] == Example(0, examples[0].text, examples[0].label, None, 2)
