"""The web demo: a page that explains a text in the browser, and the server that shows it."""
