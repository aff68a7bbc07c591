"""The skeleton of every report: one HTML file with everything in it, its tables and figures.

No scripts, no network, pictures embedded as JPEG; the same inputs give the same bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image

from relabel.reports.style import CSS, escaped
from relabel.workspace.atomic import atomic_write_bytes

_JPEG_QUALITY = 82


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
) -> Path:
    """Write one HTML file.

    Args:
        title: its heading.
        contents: text of each entry of the navigation list, by the id that it leads to.
        sections: what the page holds, in order, as HTML.
        settings: settings of the run, folded at the end; tables may be nested.

    Returns:
        ``out``.
    """
    links = "".join(f'<li><a href="#{k}">{escaped(v)}</a></li>' for k, v in contents.items())
    folded = f"<section>{details('Settings', nested(settings))}</section>" if settings else ""
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escaped(title)}</title><style>{CSS}</style></head><body><header>"
        f"<h1>{escaped(title)}</h1><nav><ul>{links}</ul></nav></header><main>"
        f"{''.join(sections)}{folded}</main></body></html>\n"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(out, page.encode())
    return out


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    words: int = 1,
    kind: str = "",
) -> str:
    """A table whose rows have their first cell as heading, below a heading of its own if named.

    Args:
        head: one name per column.
        rows: `Cell`, or values as `number` writes them.
        words: columns from the left that hold words; the others are to the right.
        kind: CSS classes of the table.
    """
    num, name = ' class="num"', f' class="{kind}"' if kind else ""
    names = "".join(
        f'<th scope="col"{num if k >= words else ""}><span>{escaped(h)}</span></th>'
        for k, h in enumerate(head)
    )
    body = "".join(
        f'<tr><th scope="row">{escaped(str(row[0]))}</th>'
        + "".join(_cell(v, k >= words) for k, v in enumerate(row[1:], 1))
        + "</tr>"
        for row in rows
    )
    made = (
        f'<div class="scroll"><table{name}><thead><tr>{names}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )
    return f"<div><h4>{escaped(title)}</h4>{made}</div>" if title else made


def _cell(value: object, right: bool) -> str:
    if not isinstance(value, Cell):
        value = Cell(escaped(number(value)), "num" if right else "")
    kind = f' class="{value.kind}"' if value.kind else ""
    style = f' style="{value.style}"' if value.style else ""
    return f"<td{kind}{style}>{value.html}</td>"


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
        parts += [f"<h4>{escaped(str(k))}</h4>{nested(v)}" for k, v in inner.items()]
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
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    data = base64.b64encode(stream.getvalue()).decode()
    return (
        f'<img alt="{escaped(text)}" width="{picture.width}" height="{picture.height}" '
        f'loading="lazy" src="data:image/jpeg;base64,{data}">'
    )
