"""The web demo: a page that explains texts in the browser, and its server."""
