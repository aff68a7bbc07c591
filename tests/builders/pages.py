"""Report pages as a browser reads them: parsed, with what every page must keep to."""

from __future__ import annotations

from html.parser import HTMLParser

from relabel.reports.script import SCRIPT

_VOID = frozenset({"meta", "img", "input", "br", "link", "hr"})
_RAW = frozenset({"script", "style"})


class ParsedPage(HTMLParser):
    """A page whose elements close in the order they open.

    Attributes:
        rows: cells of every table row; the pieces of a cell's text are joined by a space.
        texts: every piece of text outside of scripts and styles.
        headings: levels of the headings, in order.
        scripts: the text of every script.
        elements: names and attributes of all elements.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self.headings: list[int] = []
        self.scripts: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.stack.append(tag)
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.stack:
            self.scripts.append(data)
        if set(self.stack) & _RAW:
            return
        self.texts.append(data)
        if {"td", "th"} & set(self.stack):
            self.rows[-1][-1] += f" {data}" if self.rows[-1][-1] else data

    def attributes(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [attrs[name] for _, attrs in self.elements if name in attrs]

    def check(self) -> None:
        """What holds of every page, whatever names are in it."""
        assert self.scripts == [SCRIPT]
        for name in ("src", "href", "xlink:href"):
            for value in self.attributes(name):
                assert value.startswith(("data:image/jpeg;base64,", "#")), value[:80]
        handlers = [key for _, attrs in self.elements for key in attrs if key.startswith("on")]
        assert handlers == []
        ids = self.attributes("id")
        assert len(ids) == len(set(ids))
        links = [a["href"][1:] for tag, a in self.elements if tag in ("a", "use") and "href" in a]
        assert set(links) <= set(ids)
        assert all(attrs.get("alt") for tag, attrs in self.elements if tag == "img")
        assert all(attrs.get("scope") for tag, attrs in self.elements if tag == "th")
        assert self.headings[0] == 1 and self.headings.count(1) == 1
        steps = zip(self.headings, self.headings[1:], strict=False)
        assert all(after <= before + 1 for before, after in steps)
        landmarks = [tag for tag, _ in self.elements if tag in ("header", "nav", "main")]
        assert landmarks == ["header", "nav", "main"]
