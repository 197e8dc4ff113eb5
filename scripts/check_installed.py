"""Check the package as it is installed, away from its sources: `make test-wheel` runs this.

python -I scripts/check_installed.py
"""

import sys
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

import captum_globenc
from captum_globenc import explain
from captum_globenc.texts import load_default

SHIPPED = ("py.typed", "data/README.md", "data/sentiment.safetensors", "data/sentiment_sentences.tsv")


def main() -> None:
    """Fail unless all that is public is there, with its files, and explains a sentence."""
    home = Path(captum_globenc.__file__).parent
    assert home.is_relative_to(sys.prefix), f"{home} is not what was installed"
    package = files("captum_globenc")
    missing = [name for name in SHIPPED if not package.joinpath(name).is_file()]
    assert not missing, f"the wheel lacks {', '.join(missing)}"
    absent = [name for name in captum_globenc.__all__ if not hasattr(captum_globenc, name)]
    assert not absent, f"not to be imported: {', '.join(absent)}"
    good, bad = explain(["A wonderful film.", "A complete waste of time."], *load_default())
    assert (good.prediction, bad.prediction) == ("POSITIVE", "NEGATIVE")
    assert good.top(1)[0][0] == "wonderful"
    assert "wonderful" in good.to_html()
    assert good.versions["captum_globenc"] == distribution("captum_globenc").version
    print(f"captum_globenc {distribution('captum_globenc').version} is whole in {home}")


if __name__ == "__main__":
    main()
