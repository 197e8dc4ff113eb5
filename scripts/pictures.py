"""Draw the pictures of README and guides: terminal, layers, tasks, words of data, the page, the web demo.

python scripts/pictures.py docs
"""

import argparse
import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import small_models
import transformers
from matplotlib.figure import Figure
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console

from captum_globenc.datasets import Attributor, attribute_files, summarize
from captum_globenc.evaluation import SENTENCES
from captum_globenc.media import explain_file
from captum_globenc.results.explanations import Explanations
from captum_globenc.results.terminal import Shown
from captum_globenc.texts import Explanation, explain, load_default
from captum_globenc.visualization import draw_media, plot_pairs, plot_words
from captum_globenc.visualization.figures import plot_comparison, plot_layers

SENTENCE = "The plot is thin, but the acting is simply wonderful."
OTHERS = (
    "I expected a masterpiece and got two hours of boredom.",
    "Not a bad film at all.",
    "Unfathomably dull.",
)
PATIENCE = 120_000
"""Maximum waiting time for the demo, in milliseconds."""
COLOURS = 256
"""Number of colors of a picture of a page, which halves its file size."""
ROWS, OFTEN = 300, 4
"""Number of sentences of the data set, and minimum count of a drawn word."""


def draw_terminal(explanation: Explanation, path: Path) -> None:
    """Draw what `captum-globenc explain` shows."""
    console = Console(
        record=True, width=72, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Shown(explanation))
    console.save_svg(str(path), title="captum-globenc explain")


def draw_layers(explanation: Explanation, path: Path) -> None:
    """Draw the heat maps over the layers, and a comparison of the methods."""
    figure = Figure(figsize=(7, 8.4), layout="constrained")
    above, middle, below = figure.subplots(3)
    plot_layers(explanation.layers["globenc"], explanation.tokens, ax=above)
    above.set_title("GlobEnc: share of each token in the representation of [CLS]", loc="left", fontsize=9)
    plot_layers(explanation.layers["transformer-deep-lift"], explanation.tokens, ax=middle, first=0)
    middle.set_title(
        f"TransformerDeepLift: {explanation.captions['transformer-deep-lift']}", loc="left", fontsize=9
    )
    plot_comparison(explanation.scores, explanation.tokens, ax=below)
    figure.savefig(path, dpi=110)


def draw_classes(explanation: Explanation, path: Path) -> None:
    """Draw how strongly the words support or oppose each of several classes."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    words = [word.text for word in explanation.groups]
    classes = {
        target: [score for _, score in explanation.words(name)]
        for name, (target, _) in explanation.outputs.items()
    }
    ax = plot_comparison(classes, words, ax=figure.subplots(), relative=False)
    ax.set_ylabel("contribution to the logit")
    figure.savefig(path, dpi=110)


def draw_similarity(matrix: Any, path: Path) -> None:
    """Draw the contribution of each pair of tokens to the similarity of two sentences."""
    figure = Figure(figsize=(6, 4.6), layout="constrained")
    ax = plot_pairs(matrix.scores, matrix.tokens, matrix.others, ax=figure.subplots())
    ax.set_title(
        f"cosine {matrix.similarity:.3f}: contribution of each pair of tokens", loc="left", fontsize=9
    )
    figure.savefig(path, dpi=110)


def draw_words(folder: Path, path: Path) -> None:
    """Draw the words with the highest scores over a data set, as `captum-globenc summarize --figure` does."""
    lines = SENTENCES.read_text(encoding="utf-8").splitlines()[1:]
    texts = folder / "sentences.tsv"
    texts.write_text("\n".join(["source\tlabel\ttext", *lines[:: len(lines) // ROWS]]), encoding="utf-8")
    attribute_files(Attributor(methods="transformer-deep-lift"), texts, folder / "attributions")
    panels: dict[str, list[tuple[str, float]]] = {}
    for it in summarize(folder / "attributions", top=12, min_count=OFTEN):
        panels.setdefault(it.label, []).append((it.word, it.mean))
    plot_words(panels).savefig(path, dpi=110)


def guide(folder: Path) -> Mapping[str, Any]:
    """Run the examples of the guide on tasks, with the models of a folder instead of the named ones.

    Generated text has another model, see `draw_generated`.
    """
    page = Path(__file__).parents[1] / "docs/tasks.md"
    blocks = page.read_text(encoding="utf-8").split("```python\n")[1:]
    names: dict[str, Any] = {}
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        for block in blocks:
            code = block.partition("```")[0]
            if "explain_file" not in code and "ForCausalLM" not in code:
                exec(code, names)
    return names


def draw_parts(browser: Browser, explanations: Sequence[Explanation], path: Path, width: int = 720) -> None:
    """Take a picture of explanations as a notebook shows them."""
    page = browser.new_page(viewport={"width": width, "height": 400}, device_scale_factor=1.5)
    page.set_content(f"<body style='margin:0;font:16px system-ui'>{Explanations(explanations)._repr_html_()}")
    page.add_style_tag(content="details { display: none }")
    page.locator(".globenc-part").screenshot(path=path)
    shrink(path)


def draw_generated(browser: Browser, folder: Path, path: Path) -> None:
    """Take a picture of the answer of a small language model, which benchmarks/facts.py trains."""
    sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
    from facts import prompts, trained_on_facts

    prompt = prompts(1, 6)[0].text
    *sentences, _ = prompt.split(". ")
    model, tokenizer = trained_on_facts(folder / "facts", most=8)
    found = explain([prompt], model, tokenizer, max_new_tokens=1, passages=[f"{it}." for it in sentences])
    draw_parts(browser, found, path)


def draw_page(browser: Browser, explanations: Explanations, path: Path) -> None:
    """Take a picture of the page that `captum-globenc explain --html` writes, with a selected word."""
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    page.set_content(explanations.to_html())
    page.locator(".shaded").nth(1).get_by_text("wonderful").click()
    page.screenshot(path=path, animations="disabled")
    shrink(path)


def draw_long(browser: Browser, explanation: Explanation, path: Path) -> None:
    """Take a picture of a long document on that page: its map, and the text near its strongest words."""
    page = browser.new_page(viewport={"width": 900, "height": 400})
    page.set_content(explanation.by("transformer-deep-lift").to_html())
    page.locator("article").screenshot(path=path, animations="disabled")
    shrink(path)


def draw_demo(browser: Browser, path: Path) -> None:
    """Take a picture of the web demo."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-u", "-m", "captum_globenc", "demo", "--port", str(port)]
    query = urlencode({"text": SENTENCE, "__theme": "light"})
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            server.stdout.readline()  # the server prints its address once it listens
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(f"http://127.0.0.1:{port}/?{query}", timeout=PATIENCE)
            page.locator("#layers td").first.wait_for(timeout=PATIENCE)
            page.screenshot(path=path, full_page=True, animations="disabled")
        finally:
            server.terminate()
    shrink(path)


def shrink(path: Path) -> None:
    """Write a picture with few colors."""
    # Keep colors of few pixels, such as in a legend.
    few = {"method": Image.Quantize.MAXCOVERAGE, "dither": Image.Dither.NONE}
    Image.open(path).convert("RGB").quantize(COLOURS, **few).save(path, optimize=True)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium."""
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--headless", "--no-sandbox", "--disable-gpu"]
        )


def main() -> None:
    """Write the pictures to the given folder, and pictures of tasks to its subfolder `tasks`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    (explanation,) = explain([SENTENCE], *load_default())
    draw_terminal(explanation, folder / "explain.svg")
    found = explain([SENTENCE, *OTHERS], *load_default(), layers=True)
    draw_layers(found[0], folder / "layers.png")
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        draw_page(browser, found, folder / "page.png")
        draw_demo(browser, folder / "demo.png")
        where = Path(name)
        draw_words(where, folder / "words.png")
        small_models.train_texts(where)
        made = guide(where)
        draw_classes(made["both"], tasks / "classes.png")
        draw_parts(browser, made["found"], tasks / "pairs.png")
        draw_parts(browser, made["ranked"], tasks / "rerankers.png")
        draw_parts(browser, [made["alike"]], tasks / "similarity.png")
        draw_similarity(made["matrix"], tasks / "matrix.png")
        draw_parts(browser, made["entities"], tasks / "entities.png")
        draw_parts(browser, [made["answer"]], tasks / "answer.png")
        draw_parts(browser, [made["filled"], made["heart"]], tasks / "masked.png")
        draw_long(browser, made["whole"], tasks / "long.png")
        draw_generated(browser, where, tasks / "generated.png")
        for train, path in (small_models.train_digits, "image.png"), (small_models.train_beeps, "sound.png"):
            model, processor, file = train(where)
            with contextlib.chdir(where):  # the title is the file name without its folder
                explained = explain_file(file.name, model, processor)
            draw_media(explained).savefig(tasks / path, dpi=110)


if __name__ == "__main__":
    main()
