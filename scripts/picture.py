"""Draw the README's picture: what `captum-globenc explain` shows of a sentence in a terminal.

python scripts/picture.py docs/explain.svg
"""

import argparse
import io

from rich.console import Console

from captum_globenc.default import load_default
from captum_globenc.explain import explain
from captum_globenc.terminal import show

SENTENCE = "The plot is thin, but the acting is simply wonderful."


def main() -> None:
    """Write the picture to the path that is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    console = Console(
        record=True, width=72, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    model, tokenizer = load_default()
    for explanation in explain([SENTENCE], model, tokenizer, compare=["integrated-gradients"]):
        show(console, explanation)
    console.save_svg(parser.parse_args().path, title="captum-globenc explain")


if __name__ == "__main__":
    main()
