"""Saved explanations load unchanged; invalid lines are rejected by number."""

import gzip
import json
import math
import subprocess
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_explanation import SIGNED, explanation

from captum_globenc import Explanation, Explanations
from captum_globenc.drawing.picture import Picture
from captum_globenc.results.files import FORMS
from captum_globenc.results.record import Record
from captum_globenc.results.words import Word
from checkpoints import ENVIRONMENT

PICTURE = "data:image/png;base64,iVBORw0KGgo="
FOUND = Explanations(
    [
        explanation(),
        explanation(
            text="a\u2028b\n\r😀 </script>", pair=None, probability=None, probabilities={}, position="mean"
        ),
        explanation(layers={SIGNED: [[0.1 + 0.2] * 10, [5e-324] * 10]}, against="NEGATIVE", truncated=True),
        explanation(offsets=[], groups=[], position=None, pair=""),
        explanation().difference(explanation(target="NEGATIVE")),
        explanation(
            pair=None,
            groups=[Word(str(place), (place,), False) for place in range(10)],
            offsets=[],
            picture=Picture("image", [8, 8, 1], [8, 8, 8], PICTURE),
        ),
    ]
)


@pytest.mark.parametrize("name", ["saved.jsonl", "saved.jsonl.gz"])
def test_saved_explanations_load_equal(tmp_path, name):
    path = tmp_path / name
    FOUND.save(path)
    assert Explanations.load(path) == FOUND
    assert path.read_bytes()[:2] == (b"\x1f\x8b" if name.endswith("gz") else b'{"')
    again = tmp_path / f"again-{name}"
    Explanations.load(str(path)).save(str(again))
    assert again.read_bytes() == path.read_bytes()


def test_a_line_holds_one_explanation(tmp_path):
    FOUND.save(tmp_path / "all")
    lines = (tmp_path / "all").read_text(encoding="utf-8").split("\n")
    assert len(lines) == len(FOUND) + 1
    assert [Explanation.from_dict(json.loads(line)) for line in lines[:-1]] == list(FOUND)
    assert [json.loads(line) for line in lines[:-1]] == json.loads(json.dumps(FOUND.to_dict()))
    FOUND[0].save(tmp_path / "one")
    assert (tmp_path / "one").read_text(encoding="utf-8").split("\n")[0] == lines[0]


@given(st.lists(st.floats(-1e299, 1e299), min_size=10, max_size=10))
def test_every_float_is_restored_exactly(tmp_path_factory, row):
    path = tmp_path_factory.mktemp("floats") / "x"
    Explanations([explanation(scores={SIGNED: row})]).save(path)
    (found,) = Explanations.load(path)
    assert [value.hex() for value in found.scores[SIGNED]] == [value.hex() for value in row]


def test_integers_of_other_json_writers_become_floats():
    found = explanation(layers={SIGNED: [[2.0] * 10]}, outputs={SIGNED: ("POSITIVE", 3.0)}, value=4.0)
    made = json.loads(json.dumps(found.to_dict()).replace(".0,", ",").replace(".0]", "]"))
    again = Explanation.from_dict(made)
    assert again == found
    numbers = [again.value, *again.scores[SIGNED], *again.layers[SIGNED][0], again.outputs[SIGNED][1]]
    assert {type(it) for it in numbers} == {float}


def test_every_field_is_checked():
    assert set(FORMS) == set(Record.__dataclass_fields__)


def without(name):
    made = explanation().to_dict()
    del made[name]
    return json.dumps(made)


def drawn(**fields):
    return {"kind": "image", "widths": [1], "heights": [1], "source": PICTURE, **fields}


def changed(**fields):
    return json.dumps({**explanation().to_dict(), **fields})


def answered(ids):
    return {"text": "a", "tokens": ["a"], "ids": ids, "log_probabilities": [-0.5]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not an explanation"),
        ('{"text": "a"}', "not an explanation"),
        (changed(format="captum_globenc.explanation/99"), "is of another version: this one reads"),
        (without("scores"), "the explanation has no 'scores'"),
        (changed(tokens="abc"), "'tokens' has an invalid value: abc"),
        (changed(value=True), "'value' has an invalid value"),
        (changed(value=math.nan), "NaN is not a valid score"),
        (changed(value=10**400), "'value' has an invalid value"),
        (changed().replace("0.75", "1e999", 1), "'probability' has an invalid value"),
        (changed(position=-1), "'position' has an invalid value"),
        (changed(position=10), "is outside the 10 tokens"),
        (changed(groups=[["a", [99], False]]), "is outside the 10 tokens"),
        (changed(offsets=[[1, 2]] * 10), "'offsets' has an invalid value"),
        (changed(scores={SIGNED: [1.0]}), "scores of transformer-deep-lift: 1 for 10 tokens"),
        (changed(kinds={}), "kind of globenc"),
        (
            changed(passage_spans=[["a", [0, 99, 0]]]),
            r"span \(0, 99\) is empty or outside a text of 17 characters",
        ),
        (changed(passage_spans=[["a", [0, 8, 0]], ["b", [7, 9, 0]]]), "overlap: a token would count twice"),
        (changed(answer=answered([])), "a row of scores for each token"),
        (changed(answer=answered([1]), answer_scores={SIGNED: [[0.5] * 10] * 2}), "a row of scores for each"),
        (changed(picture={"kind": "image"}), "'picture' has an invalid value"),
        (changed(picture=drawn(kind="film")), "a picture is of the kind image or sound, not 'film'"),
        (changed(picture=drawn(widths=[])), "parts of a picture have a width"),
        (changed(picture=drawn(heights=[0])), "parts of a picture have a width"),
        (changed(picture=drawn(widths=[1] * 2)), "first words are not the 2 parts of a picture"),
        (changed(picture=drawn(source="http://elsewhere/x.png")), "is the data URL of a PNG or JPEG"),
        (changed(picture=drawn(source=f"{PICTURE});x:url(//elsewhere")), "is the data URL of a PNG or JPEG"),
        (changed(picture=drawn(source="data:image/svg+xml;base64,iVBORw0KGgo=")), "is the data URL of"),
    ],
)
def test_an_invalid_line_is_rejected_by_its_number(tmp_path, line, message):
    path = tmp_path / "file"
    path.write_text(f"{changed()}\n\n{line}\n")
    with pytest.raises(ValueError, match=message) as caught:
        Explanations.load(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.gz", b"{}"),
        ("b.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9]),
        ("c.gz", gzip.compress(b"{}" * 99, mtime=0)[:10] + b"\xff" * 20),
        ("d", zlib.compress(b"x")),
        ("e", b"\xff\xfe"),
    ],
)
def test_other_compression_is_rejected(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: .*: not a file of explanations"):
        Explanations.load(tmp_path / name)


def test_a_saved_file_is_read_without_torch(tmp_path):
    FOUND.save(tmp_path / "x")
    script = (
        "import sys\n"
        "from captum_globenc import Explanations\n"
        f"found = Explanations.load({str(tmp_path / 'x')!r})\n"
        "found.to_html(), found[0].sentences()\n"
        "print([name for name in ('torch', 'transformers', 'captum') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert done.stdout.strip() == "[]"


def test_a_too_deeply_nested_line_is_rejected(tmp_path):
    (tmp_path / "x").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="x, line 1: not valid JSON"):
        Explanations.load(tmp_path / "x")
