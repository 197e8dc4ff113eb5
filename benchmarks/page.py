"""How large the page of 300 texts is, or of 10,000 words, and how long a browser takes to draw it.

python benchmarks/page.py
"""

import csv
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from captum_globenc import Explanation, Explanations, explain
from captum_globenc.results.record import Span
from captum_globenc.results.words import Word
from captum_globenc.texts import load_default

TEXTS, WORDS, RUNS, BATCH = 300, 10_000, 9, 20
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"
"""Milliseconds from the beginning until the first frame after the script is drawn."""


def pages() -> Iterator[tuple[str, str]]:
    """Yield what is on a page, and the page."""
    with (files("captum_globenc") / "data/sentiment_sentences.tsv").open(encoding="utf-8") as lines:
        texts = [row["text"] for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)]
    classifier = load_default()
    found = [
        it
        for start in range(0, TEXTS, BATCH)
        for it in explain(texts[start:TEXTS][:BATCH], *classifier, layers=True)
    ]
    yield f"{TEXTS} texts", Explanations(Explanation(**{**vars(it), "layers": {}}) for it in found).to_html()
    yield f"{TEXTS} texts with layers", Explanations(found).to_html()
    yield f"a document of {WORDS} words", joined(found).to_html()


def joined(found: list[Explanation]) -> Explanation:
    """Lay explanations one after the other until they are a document."""
    words = [
        (text, [row[place] for row in it.scores.values()], it)
        for it in found
        for place, text in enumerate(it.tokens)
    ]
    words = (words * (WORDS // len(words) + 1))[:WORDS]
    starts = [0]
    for text, _, _ in words:
        starts.append(starts[-1] + len(text) + 1)
    made = {
        "text": " ".join(text for text, _, _ in words),
        "tokens": [text for text, _, _ in words],
        "ids": [],
        "unknown": [],
        "layers": {},
        "groups": [Word(text, (place,), False) for place, (text, _, _) in enumerate(words)],
        "offsets": [Span(start, stop - 1) for start, stop in pairwise(starts)],
        "scores": {name: [row[place] for _, row, _ in words] for place, name in enumerate(found[0].scores)},
    }
    return Explanation(**{**vars(found[0]), **made})


def milliseconds(chromium: Browser, path: Path) -> list[float]:
    """Open a page again and again, each time anew."""
    times = []
    for _ in range(RUNS):
        page = chromium.new_page(viewport={"width": 1280, "height": 800})
        page.goto(path.as_uri(), wait_until="commit")
        page.wait_for_load_state("load")
        times.append(page.evaluate(DRAWN))
        page.close()
    return times


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        print("| page | MB | drawn after, ms: median of 9 (range) |\n|---|---|---|")
        for name, page in pages():
            path = Path(folder) / "page.html"
            path.write_text(page, encoding="utf-8")
            times = milliseconds(chromium, path)
            middle = f"{statistics.median(times):.0f} ({min(times):.0f} to {max(times):.0f})"
            print(f"| {name} | {path.stat().st_size / 1e6:.2f} | {middle} |")


if __name__ == "__main__":
    main()
