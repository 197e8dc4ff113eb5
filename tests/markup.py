"""Parse HTML in tests: elements of pages, and a text that would run if it was not escaped."""

from html.parser import HTMLParser

HOSTILE = "<script>alert('x')</script>"
VOID = {"meta", "br", "input"}


class Page(HTMLParser):
    """A page's elements, with a check that every one is closed where it should be."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
