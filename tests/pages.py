"""Pages as a reader finds them: headings, tables, pictures, and what they would fetch."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """What stands in an HTML text.

    Attributes:
        headings: of sections.
        tables: caption -> rows of cells, the header first.
        pictures: alternative texts.
        fetched: addresses that a browser would ask for by itself.
        text: everything that is read.
    """

    def __init__(self, html):
        super().__init__()
        self.headings, self.tables, self.pictures, self.fetched = [], {}, [], re.findall(r"url\(|@import", html)
        self.text, self._open, self._caption = "", "", ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "img":
            self.pictures.append(found["alt"])
        self.fetched += [v for k, v in found.items() if k in ("src", "srcset", "data") and not v.startswith("data:")]
        self.fetched += [found["href"]] if tag == "link" else []
        if tag == "table":
            self._rows = []
        if tag == "tr":
            self._rows.append([])
        if tag in ("h2", "caption", "th", "td"):
            self._open, self._held = tag, ""

    def handle_data(self, data):
        self.text += data
        if self._open:
            self._held += data

    def handle_endtag(self, tag):
        if tag != self._open:
            return
        self._open = ""
        if tag == "h2":
            self.headings.append(self._held)
        elif tag == "caption":
            self.tables[self._held] = self._rows
        else:
            self._rows[-1].append(self._held)
