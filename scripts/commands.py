"""Run every command that the README and the guides show, with the files that they name, and log it.

    python scripts/commands.py [--log commands.log]

Left out is what sets a machine up, pip and make, and what needs a package that is not installed. What serves
a page is ended as soon as it says where. Fails where a command does.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/datasets.md", "docs/evaluation.md", "docs/tasks.md")
NEEDS = {"--engine ray": "ray", "demo": "gradio"}
"""What has to be installed for a command that has these words in it."""
TEXTS = (
    "The plot is thin, but the acting is simply wonderful.",
    "Dull, and far too long.",
    "Not bad at all.",
)


def shown(page: Path) -> Iterator[str]:
    """Yield the package's commands in the code blocks of a page, without comments."""
    for line in re.findall(
        r"^(?: {4}|\$ )?(captum-globenc .*)$", page.read_text(encoding="utf-8"), re.MULTILINE
    ):
        yield re.sub(r"\s+#.*", "", line).strip()


def prepare(folder: Path) -> None:
    """Put the files that the pages name into a folder: a classifier, texts, labelled texts."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    from captum_globenc.texts import load_default

    for part in load_default():
        part.save_pretrained(folder / "my-classifier")
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    table = pa.table({"text": TEXTS, "label": [1, 0, 1]})
    (folder / "reviews").mkdir()
    for name in ("reviews", "reviews/more"):
        csv.write_csv(table, folder / f"{name}.csv")
        parquet.write_table(table, folder / f"{name}.parquet")


def prepare_media(folder: Path) -> None:
    """Put an image, a sound, and tiny classifiers of them, under the names of real ones, into a folder."""
    import wave

    import transformers as hf
    from PIL import Image

    Image.new("RGB", (64, 48), "teal").save(folder / "cat.jpg")
    with wave.open(str(folder / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes(bytes(range(256)) * 60)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    name = folder / "google/vit-base-patch16-224"
    vision = hf.ViTConfig(image_size=32, patch_size=8, **sizes)
    hf.ViTForImageClassification(vision).save_pretrained(name)
    hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(name)
    name = folder / "superb/wav2vec2-base-superb-ks"
    hearing = hf.Wav2Vec2Config(
        **sizes, conv_dim=(8, 8), conv_kernel=(10, 3), conv_stride=(5, 2), num_feat_extract_layers=2,
        feat_extract_norm="layer", num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    hf.Wav2Vec2ForSequenceClassification(hearing).save_pretrained(name)
    hf.Wav2Vec2FeatureExtractor(sampling_rate=16000).save_pretrained(name)


def run(command: str, folder: Path) -> tuple[int, str]:
    """Run a command by bash, and return its status and what it wrote."""
    home = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{home}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    options = {
        "cwd": folder, "env": environment, "text": True, "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT,
    }  # fmt: skip
    if not command.startswith("captum-globenc demo"):
        done = subprocess.run(["bash", "-c", command], check=False, **options)
        return done.returncode, done.stdout
    written = ""
    with subprocess.Popen(["bash", "-c", command], start_new_session=True, **options) as process:
        for line in process.stdout:
            written += line
            if "http://" in line:
                os.killpg(process.pid, signal.SIGTERM)
                return 0, written
    return 1, written


def main() -> int:
    """Run them, and return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, default=Path("commands.log"))
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name, options.log.open("w", encoding="utf-8") as log:
        prepare(Path(name))
        prepare_media(Path(name))
        for page in PAGES:
            for command in dict.fromkeys(shown(ROOT / page)):
                lacking = [need for words, need in NEEDS.items() if words in command and not find_spec(need)]
                if lacking:
                    print(f"left out, {lacking[0]} is not installed: {command}", file=log)
                    continue
                start = time.perf_counter()
                status, written = run(command, Path(name))
                failed += status != 0
                told = f"{time.perf_counter() - start:6.1f} s, status {status}: {command}"
                print(told, flush=True)
                print(f"{page}: {told}\n{written}", file=log, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
