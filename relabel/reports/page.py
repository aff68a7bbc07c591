"""The skeleton of every report: one HTML file with everything in it, its tables and figures.

No network, pictures embedded as JPEG, one small script of our own (`relabel.reports.script`); the
same inputs give the same bytes, but for what a page says of the run that made it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image

from relabel.reports.made import Made
from relabel.reports.script import POLICY, SCRIPT
from relabel.reports.style import CSS, escaped, isolated, named
from relabel.workspace.atomic import atomic_write_bytes

_JPEG_QUALITY = 82
_LONG = 24  # letters of a word, or of a name at the head of a row


class Grouped(Protocol):
    """A picture of a report, under the heading of its group."""

    @property
    def group(self) -> str: ...


P = TypeVar("P", bound=Grouped)


class Cell(NamedTuple):
    """A cell of a table that is more than its text: HTML, CSS classes and a style."""

    html: str
    kind: str = "num"
    style: str = ""


def write_page(
    out: Path,
    title: str,
    contents: Mapping[str, str],
    sections: Sequence[str],
    settings: Mapping[str, Any] | None = None,
    made: Made | None = None,
) -> Path:
    """Write one HTML file.

    Args:
        title: its heading.
        contents: text of each entry of the navigation list, by the id that it leads to.
        sections: what the page holds, in order, as HTML.
        settings: settings of the run, folded at the end; tables may be nested.
        made: command, versions and times of the run, at the end.

    Returns:
        ``out``.
    """
    last = _how_made(made, settings)
    listed = {**contents, "made": "How this was made"} if last else contents
    links = "".join(f'<li><a href="#{k}">{named(v)}</a></li>' for k, v in listed.items())
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escaped(title)}</title><style>{CSS}</style></head><body><header>"
        f'<h1>{escaped(title)}</h1><nav aria-label="Contents"><ul>{links}</ul></nav></header><main>'
        f"{''.join(sections)}{last}</main><script>{SCRIPT}</script></body></html>\n"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(out, page.encode())
    return out


def _how_made(made: Made | None, settings: Mapping[str, Any] | None) -> str:
    parts = []
    if made is not None:
        parts.append(f'<pre class="command">{escaped(made.command)}</pre>')
        took = made.took()
        facts: list[Sequence[object]] = [("written", made.written), ("machine", made.machine)]
        facts += [("its stages took", took)] if took else []
        parts.append(table(["", "run"], facts, words=2))
        if made.stages:
            rows = [(name, f"{seconds:,.1f}") for name, seconds in made.stages.items()]
            parts.append(details("Time by stage", table(["stage", "seconds"], rows)))
        versions = table(["package", "version"], list(made.versions.items()), words=2)
        parts.append(details("Versions", versions))
    if settings:
        parts.append(details("Settings", nested(settings)))
    if not parts:
        return ""
    return f'<section id="made"><h2>How this was made</h2>{"".join(parts)}</section>'


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    words: int = 1,
    kind: str = "",
) -> str:
    """A table whose rows have their first cell as heading, with a caption if named.

    Args:
        head: one name per column.
        rows: `Cell`, or values as `number` writes them.
        words: columns from the left that hold words; the others are to the right.
        kind: CSS classes of the table.
    """
    name = f' class="{kind}"' if kind else ""
    names = "".join(
        f'<th scope="col"{_class("num" * (k >= words), _long(h))}><span>{escaped(h)}</span></th>'
        if h
        else "<td></td>"
        for k, h in enumerate(head)
    )
    body = "".join(
        f"<tr>{_row_heading(str(row[0]))}"
        + "".join(_cell(v, k >= words) for k, v in enumerate(row[1:], 1))
        + "</tr>"
        for row in rows
    )
    caption = f"<caption>{named(title)}</caption>" if title else ""
    made = (
        f'<div class="scroll"><table{name}>{caption}<thead><tr>{names}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )
    return f"<div>{made}</div>" if title else made


def _row_heading(text: str) -> str:
    return f'<th scope="row"{_class("long" * (len(text) > _LONG))}>{escaped(text)}</th>'


def _cell(value: object, right: bool) -> str:
    if not isinstance(value, Cell):
        text = number(value)
        # Numbers are not broken; what is no number any more is.
        long = "long" if right and len(text) > 1.5 * _LONG else _long(text)
        value = Cell(escaped(text), " ".join(filter(None, ("num" * right, long))))
    style = f' style="{value.style}"' if value.style else ""
    return f"<td{_class(value.kind)}{style}>{value.html}</td>"


def _long(text: str) -> str:
    """The CSS class of a text that would make its column too wide, were it not broken anywhere."""
    return "long" if max(map(len, text.split()), default=0) > _LONG else ""


def _class(*names: str) -> str:
    kept = " ".join(filter(None, names))
    return f' class="{kept}"' if kept else ""


def number(value: object) -> str:
    """A value as people read it: grouped integers, four digits after the point, a dash for none."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if value and abs(value) < 0.001 else f"{value:,.4f}"
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value)
    return str(value)


def tiles(numbers: Mapping[str, object]) -> str:
    """Named numbers, each large above its name."""
    each = (
        f"<div><strong>{escaped(number(value))}</strong><span>{escaped(name)}</span></div>"
        for name, value in numbers.items()
    )
    return f'<div class="tiles">{"".join(each)}</div>'


def picture_section(pictures: Sequence[P], key: str, card: Callable[[P], str]) -> str:
    """Pictures in the order of their groups; empty where there are none.

    Args:
        key: HTML that says how to read them.
        card: HTML of one.
    """
    groups = list(dict.fromkeys(picture.group for picture in pictures))
    if not groups:
        return ""
    parts = ['<section id="pictures"><h2>Pictures</h2>' + key]
    for group in groups:
        cards = "".join(card(p) for p in pictures if p.group == group)
        parts.append(f'<h3>{escaped(group)}</h3><div class="cards">{cards}</div>')
    return "".join([*parts, "</section>"])


def nested(values: Mapping[str, Any]) -> str:
    """Tables of nested mappings: plain values first, then one block per inner mapping.

    Inner mappings that share their keys and hold plain values become one table with a row each.
    """
    plain = [(k, v) for k, v in values.items() if not isinstance(v, Mapping)]
    inner = {k: v for k, v in values.items() if isinstance(v, Mapping)}
    parts = [table(["", "value"], plain)] if plain else []
    flat = [v for v in inner.values() if not any(isinstance(x, Mapping) for x in v.values())]
    if len(inner) > 1 and len(flat) == len(inner) and len({tuple(v) for v in flat}) == 1:
        head = ["", *(str(k) for k in flat[0])]
        parts.append(table(head, [[k, *v.values()] for k, v in inner.items()]))
    else:
        parts += [f'<p class="sub">{named(str(k))}</p>{nested(v)}' for k, v in inner.items()]
    return "".join(parts)


def note(html: str) -> str:
    """A short explanation below a heading."""
    return f'<p class="note">{html}</p>'


def details(summary: str, html: str) -> str:
    """Something to unfold."""
    return f"<details><summary>{escaped(summary)}</summary>{html}</details>"


def swatch(color: tuple[int, int, int]) -> str:
    """A small square of a class's colour, for legends."""
    return f'<i style="background:rgb{color}"></i>'


def embedded(picture: Image.Image, text: str) -> str:
    """A picture as an image element that holds its own data; ``text`` describes it."""
    return (
        f'<img alt="{isolated(text)}" width="{picture.width}" height="{picture.height}" '
        f'decoding="async" src="{jpeg_data(picture)}">'
    )


def jpeg_data(picture: Image.Image) -> str:
    """A picture as an address that holds its own data."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
