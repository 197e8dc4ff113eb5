"""Ray's workers give the same results as one process, through the command's engine and map_batches."""

import shutil
import warnings

import pytest

from captum_globenc.datasets import Attributor, attribute_files, load_attributions
from captum_globenc.datasets.engines import EngineError
from checkpoints import save_classifier
from pages import ROOT, python_blocks
from sentences import sentences, write_rows

pytestmark = pytest.mark.ray
TEXTS = sentences(300, seed=7)


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray", reason='needs the extra "ray"')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def test_two_workers_write_the_same_bytes_as_this_process(ray, folder, tmp_path):
    data = write_rows(tmp_path / "texts.jsonl", {"text": [*TEXTS, None]})
    attribute = Attributor(folder, methods=["globenc", "transformer-deep-lift"])
    counts = {}
    for engine, workers in (("local", 1), ("ray", 2)):
        told = []
        counts[engine] = attribute_files(
            attribute,
            data,
            tmp_path / engine,
            rows_per_shard=40,
            engine=engine,
            workers=workers,
            progress=lambda done, rows, told=told: told.append(done),
        )
        assert told[-1] == pytest.approx(301)
    assert counts["local"] == counts["ray"]
    shards = sorted(path.name for path in (tmp_path / "local").glob("*.parquet"))
    assert len(shards) == 8
    for name in shards:
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()
    assert len(load_attributions(tmp_path / "ray", cache_dir=tmp_path / "cache")) == 301


def test_map_batches_gives_the_rows_of_a_call(ray, folder):
    data = pytest.importorskip("ray.data")
    rows = data.from_items([{"text": text, "idx": number} for number, text in enumerate(TEXTS)])
    mapped = rows.map_batches(
        Attributor, fn_constructor_kwargs={"model": folder}, batch_size=64, concurrency=2
    ).take_all()
    expected = Attributor(folder)({"text": TEXTS})
    assert sorted(row["idx"] for row in mapped) == list(range(300))
    for row in mapped:
        number = row["idx"]
        assert row["text"] == TEXTS[number]
        assert row["prediction"] == expected["prediction"][number]
        assert list(row["words"]) == expected["words"][number]
        assert list(row["globenc"]) == pytest.approx(expected["globenc"][number], abs=1e-5)


def test_more_workers_than_ray_has_are_rejected(ray, folder, tmp_path):
    data = write_rows(tmp_path / "texts.jsonl", {"text": TEXTS[:2]})
    with pytest.raises(ValueError, match="Ray has 2 CPUs for 3 workers: ask for fewer"):
        attribute_files(Attributor(folder), data, tmp_path / "out", engine="ray", workers=3)


def test_a_worker_that_fails_is_reported_in_one_line(ray, tmp_path):
    model = save_classifier(tmp_path / "model")
    data = write_rows(tmp_path / "texts.jsonl", {"text": TEXTS[:2]})
    with pytest.raises(
        EngineError, match=r"^a Ray worker failed \(.*cannot load .*: repeat the call to resume$"
    ):
        attribute_files(
            Attributor(str(model)),
            data,
            tmp_path / "out",
            engine="ray",
            progress=lambda *_: shutil.rmtree(model, ignore_errors=True),
        )


def test_the_guide_runs(ray, tmp_path):
    save_classifier(tmp_path / "my-classifier")
    write_rows(tmp_path / "reviews.parquet", {"text": TEXTS})
    (block,) = (it for it in python_blocks(ROOT / "docs/datasets.md") if "import ray" in it)
    names = {"Attributor": Attributor}
    # Here are two CPUs, of which to read takes one, and workers that began in another folder.
    for said, meant in (
        ("concurrency=2", "concurrency=1"),
        ('"reviews', f'"{tmp_path}/reviews'),
        ('"./', f'"{tmp_path}/'),
    ):
        assert said in block
        block = block.replace(said, meant)
    exec(block, names)
    expected = Attributor(str(tmp_path / "my-classifier"))({"text": TEXTS})["prediction"]
    assert sorted(row["prediction"] for row in names["rows"].take_all()) == sorted(expected)
