"""A browser that shows the pages of explanations."""

from urllib.parse import urlsplit

import pytest

PATIENCE = 30_000
"""Milliseconds that a page may take on a busy machine."""
HERE = "http://localhost/"
"""Where pages are said to be from: nothing is asked of it. Only such a place may use the clipboard."""


@pytest.fixture
def show(chromium):
    """Open the page of some explanations; it asks for nothing, and nothing fails in it."""
    opened = []

    def show(found, **options):
        context = chromium.new_context(**options)
        context.set_default_timeout(PATIENCE)
        if options.get("java_script_enabled", True):
            context.grant_permissions(["clipboard-read", "clipboard-write"], origin=HERE)
        page = context.new_page()
        asked, failed = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.on("console", lambda said: failed.append(said.text) if said.type == "error" else None)
        page.on("dialog", lambda dialog: (failed.append(dialog.message), dialog.dismiss()))
        page.route(
            "**", lambda route: route.fulfill(body=found.to_html(), content_type="text/html; charset=utf-8")
        )
        page.goto(HERE)
        opened.append((context, asked, failed))
        return page

    yield show
    for context, asked, failed in opened:
        context.close()
        assert [url for url in asked if urlsplit(url).scheme not in ("blob", "data")] == [HERE]
        assert failed == []
