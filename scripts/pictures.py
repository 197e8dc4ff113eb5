"""Draw the pictures of README and guides: the terminal, the heat map over the layers, the page, the web demo.

python scripts/pictures.py docs
"""

import argparse
import io
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

from matplotlib.figure import Figure
from playwright.sync_api import Browser, Playwright, sync_playwright
from rich.console import Console

from captum_globenc.results.explanations import Explanations
from captum_globenc.results.terminal import show
from captum_globenc.texts import Explanation, explain, load_default
from captum_globenc.visualization.figures import plot_comparison, plot_layers

SENTENCE = "The plot is thin, but the acting is simply wonderful."
OTHERS = (
    "I expected a masterpiece and got two hours of boredom.",
    "Not a bad film at all.",
    "Unfathomably dull.",
)
PATIENCE = 120_000
"""Milliseconds that the browser waits for the demo."""


def draw_terminal(explanation: Explanation, path: Path) -> None:
    """Draw what `captum-globenc explain` shows."""
    console = Console(
        record=True, width=72, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    show(console, explanation)
    console.save_svg(str(path), title="captum-globenc explain")


def draw_layers(explanation: Explanation, path: Path) -> None:
    """Draw the heat maps over the layers, and the comparison of methods under them."""
    figure = Figure(figsize=(7, 8.4), layout="constrained")
    above, middle, below = figure.subplots(3)
    plot_layers(explanation.layers["globenc"], explanation.tokens, ax=above)
    above.set_title("GlobEnc: shares of what [CLS] has mixed in", loc="left", fontsize=9)
    plot_layers(explanation.layers["transformer-deep-lift"], explanation.tokens, ax=middle, first=0)
    middle.set_title(
        f"TransformerDeepLift: {explanation.captions['transformer-deep-lift']}", loc="left", fontsize=9
    )
    plot_comparison(explanation.scores, explanation.tokens, ax=below)
    figure.savefig(path, dpi=110)


def draw_page(explanations: Explanations, path: Path) -> None:
    """Take a picture of the page that `captum-globenc explain --html` writes, with a word asked for."""
    with sync_playwright() as playwright:
        page = chromium(playwright).new_page(viewport={"width": 1280, "height": 760})
        page.set_content(explanations.to_html())
        page.locator(".shaded").nth(1).get_by_text("wonderful").click()
        page.screenshot(path=path, animations="disabled")


def chromium(playwright: Playwright) -> Browser:
    """Start Debian's Chromium."""
    return playwright.chromium.launch(
        executable_path=shutil.which("chromium"), args=["--headless", "--no-sandbox", "--disable-gpu"]
    )


def draw_demo(path: Path) -> None:
    """Take a picture of the web demo in Chromium."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-u", "-m", "captum_globenc", "demo", "--port", str(port)]
    query = urlencode({"text": SENTENCE, "__theme": "light"})
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            server.stdout.readline()  # it tells the address once it listens
            with sync_playwright() as playwright:
                page = chromium(playwright).new_page(viewport={"width": 900, "height": 600})
                page.goto(f"http://127.0.0.1:{port}/?{query}", timeout=PATIENCE)
                page.locator("#layers td").first.wait_for(timeout=PATIENCE)
                page.screenshot(path=path, full_page=True, animations="disabled")
        finally:
            server.terminate()


def main() -> None:
    """Write the pictures into the folder that is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    (explanation,) = explain([SENTENCE], *load_default())
    draw_terminal(explanation, folder / "explain.svg")
    (explanation,) = explain([SENTENCE], *load_default(), layers=True)
    draw_layers(explanation, folder / "layers.png")
    draw_page(explain([SENTENCE, *OTHERS], *load_default(), layers=True), folder / "page.png")
    draw_demo(folder / "demo.png")


if __name__ == "__main__":
    main()
