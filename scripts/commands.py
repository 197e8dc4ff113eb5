"""Run every command that the README and the guides show, with the files that they name, and log it.

    python scripts/commands.py [--log commands.log]

Each command runs in bash, in a folder with a classifier, texts, an image and a sound. A command that serves a
page is stopped once it prints the address. The exit status is the number of failed commands. The test suite
also runs the commands, in one process (tests/test_commands.py), except for slow ones.
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
PAGES = (
    "README.md",
    "llms.txt",
    "CONTRIBUTING.md",
    "captum_globenc/data/README.md",
    *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "command-line.md"),
)
HELP = "captum-globenc --help"
"""The source of the examples in the help texts, from which docs/command-line.md is generated."""

SETS_UP = {
    "python3 -m venv": "makes an environment",
    "pip install": "fills an environment",
    "make": "sets everything up by itself; CI does",
    "python scripts/train_default.py": "trains for ten minutes",
}
"""Beginnings of commands that are never run, with the reason."""
TAKES_LONG = {
    "captum-globenc evaluate --limit 200": "takes minutes",
    "captum-globenc demo": "serves until it is stopped; tests/demo/test_demo.py starts it on a free port",
    "captum-globenc attribute --data reviews.csv --out runs/four --engine ray": "needs Ray, and starts it",
}
"""Beginnings of commands that only this script runs, not the test suite, with the reason."""
NEEDS = {"--engine ray": "ray", "captum-globenc demo": "gradio"}
"""The package that a command with these words needs."""

TEXTS = (
    "The plot is thin, but the acting is simply wonderful.",
    "Dull, and far too long.",
    "Not bad at all.",
)
OFTEN = 20
"""How often a data set repeats the texts, so that their words reach the minimum count of a summary."""


def shown(page: str) -> Iterator[str]:
    """Yield the commands in the shell blocks of a page, one per line, without comments."""
    if page == HELP:
        from captum_globenc.app import evaluate, explain

        blocks = [evaluate.EXAMPLES.replace("Examples:", ""), explain.EXAMPLES.replace("Examples:", "")]
    else:
        text = (ROOT / page).read_text(encoding="utf-8")
        blocks = re.findall(r"^```shell\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in re.sub(r"\s*\\\n\s*", " ", "\n".join(blocks)).splitlines():
        command = re.sub(r"\s+#.*", "", line).strip()
        if command:
            yield command


def left_out(command: str, reasons: dict[str, str]) -> str:
    """Return the reason why a command is omitted; "" if it is run."""
    return next((why for begin, why in reasons.items() if command.startswith(begin)), "")


def prepare(folder: Path) -> None:
    """Create the files that the pages name in a folder: models, texts, labeled texts, data sets."""
    import pyarrow as pa
    import transformers as hf
    from pyarrow import csv, parquet

    from captum_globenc.texts import load_default

    for part in load_default():
        part.save_pretrained(folder / "my-classifier")
    _, tokenizer = load_default()
    small = hf.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    for part in (hf.LlamaForCausalLM(small), tokenizer):
        part.save_pretrained(folder / "my-language-model")
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    table = pa.table({"text": TEXTS, "label": [1, 0, 1]})
    (folder / "reviews").mkdir()
    for name in ("reviews", "reviews/more"):
        csv.write_csv(table, folder / f"{name}.csv")
    parquet.write_table(pa.concat_tables([table] * OFTEN), folder / "reviews.parquet")
    parquet.write_table(table, folder / "reviews/more.parquet")
    csv.write_csv(pa.table({"text": TEXTS, "answer": TEXTS[::-1]}), folder / "questions.csv")


def prepare_media(folder: Path) -> None:
    """Create an image, a sound, and tiny classifiers of them with the names of real ones in a folder."""
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
    """Run a command in bash, and return its status and output."""
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
    """Run all commands, and return the number of failures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, default=Path("commands.log"))
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name, options.log.open("w", encoding="utf-8") as log:
        prepare(Path(name))
        prepare_media(Path(name))
        for page in (*PAGES, HELP):
            for command in dict.fromkeys(shown(page)):
                lacking = [need for words, need in NEEDS.items() if words in command and not find_spec(need)]
                why = left_out(command, SETS_UP) or (f"{lacking[0]} is not installed" if lacking else "")
                written = ""
                if why:
                    line = f"omitted, {why}: {command}"
                else:
                    start = time.perf_counter()
                    status, written = run(command, Path(name))
                    failed += status != 0
                    line = f"{time.perf_counter() - start:6.1f} s, status {status}: {command}"
                print(line, flush=True)
                print(f"{page}: {line}\n{written}", file=log, flush=True)
        print(f"{failed} failed", file=log)
    return failed


if __name__ == "__main__":
    sys.exit(main())
