"""A browser for the tests that look at a page: Debian's Chromium, driven by Playwright."""

import shutil
from importlib.util import find_spec

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PACKAGES = ("playwright", "gradio")


def chromium():
    """Return the path of the browser, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def missing():
    """Return what browser tests lack on this machine, in words; "" if nothing is missing."""
    lacking = [name for name in PACKAGES if find_spec(name) is None]
    return ", ".join([*lacking, *([] if chromium() else ["chromium"])])
