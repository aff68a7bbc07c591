"""Where the classes of a source went: as a Sankey diagram and as a matrix.

The matrix is a table of numbers, and the alternative of the diagram.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from relabel.reports.charts import TONES
from relabel.reports.page import Cell, note, table
from relabel.reports.statistics import ClassFlow
from relabel.reports.style import escaped, isolated, shortened

MOST_CLASSES = 30  # of a side; those with fewer boxes are counted together
_OTHERS = "other classes"
_WIDTH, _MARGIN, _NODE = 760, 190, 12
_HEIGHT, _GAP = 30, 6  # about that of a node, and between two
_LETTERS = 24  # of a name, in columns


class _Node(NamedTuple):
    """A class of a side: its name, count, and place from top to bottom."""

    name: str
    total: int
    top: float
    bottom: float


def class_flow_section(flow: ClassFlow) -> str:
    """Diagram and matrix with their captions, as HTML."""
    if not flow.counts.any():
        return "<p>No boxes.</p>"
    few = fewer_classes(flow, MOST_CLASSES)
    text = (
        "Labels by the class of the annotation that they come from, shaded by share of the "
        "row. The last row holds labels that come from no annotation, the last column "
        "annotations that no label names, those that were merged among them."
    )
    left = sum(map(len, (flow.rows, flow.columns))) - sum(map(len, (few.rows, few.columns)))
    if left > 0:
        text += f" The {MOST_CLASSES} classes with the most boxes of a side are listed by name."
    return f'<div class="scroll sankey">{sankey(few)}</div>{note(text)}{_matrix(few)}'


def fewer_classes(flow: ClassFlow, most: int) -> ClassFlow:
    """The flow with the classes beyond ``most`` of a side taken together as one."""
    counts, rows = _gathered(flow.counts, flow.rows, most)
    turned, columns = _gathered(counts.T, flow.columns, most)
    return ClassFlow(rows, columns, turned.T)


def _gathered(counts: np.ndarray, names: Sequence[str], most: int) -> tuple[np.ndarray, list[str]]:
    """Rows of the ``most`` largest classes, those of all others as one, and the last row."""
    classes = len(names) - 1
    if classes <= most:
        return counts, list(names)
    order = np.argsort(-counts[:-1].sum(axis=1), kind="stable")
    kept, others = np.sort(order[: most - 1]), order[most - 1 :]
    made = np.vstack([counts[kept], counts[others].sum(axis=0), counts[-1]])
    return made, [*(names[int(k)] for k in kept), f"{len(others):,} {_OTHERS}", names[-1]]


def sankey(flow: ClassFlow) -> str:
    """The flow as an SVG: source classes to the left, target classes to the right.

    A band is as wide, at either end, as its share of the node there, and nowhere too thin to be
    seen. Every band says its numbers where the pointer rests.
    """
    rows = [r for r in range(len(flow.rows)) if flow.counts[r].any()]
    columns = [c for c in range(len(flow.columns)) if flow.counts[:, c].any()]
    counts = flow.counts[np.ix_(rows, columns)]
    height = float(_HEIGHT * max(len(rows), len(columns)) + 40)
    left = _nodes([flow.rows[r] for r in rows], counts.sum(axis=1), height)
    right = _nodes([flow.columns[c] for c in columns], counts.sum(axis=0), height)
    bands = []
    starts, ends = [n.top for n in left], [n.top for n in right]
    for (r, c), n in np.ndenumerate(counts):
        if not n:
            continue
        one = (left[r].bottom - left[r].top) * n / left[r].total
        two = (right[c].bottom - right[c].top) * n / right[c].total
        tone = "var(--t5)" if rows[r] == len(flow.rows) - 1 else f"var(--t{r % len(TONES)})"
        path = _band(starts[r], starts[r] + max(one, 1), ends[c], ends[c] + max(two, 1))
        starts[r] += one
        ends[c] += two
        tip = f"{left[r].name} → {right[c].name}: {n:,} of {left[r].total:,}"
        bands.append(f'<path d="{path}" style="fill:{tone}"><title>{isolated(tip)}</title></path>')
    names = "".join(
        [
            *(_label(n, _MARGIN, "end", -8) for n in left),
            *(_label(n, _WIDTH - _MARGIN - _NODE, "start", _NODE + 8) for n in right),
        ]
    )
    text = (
        f"Bands from {len(left)} source classes to {len(right)} target classes; "
        "the table below has the numbers"
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escaped(text)}">'
        f"{''.join(bands)}{names}</svg>"
    )


def _band(top: float, bottom: float, top_after: float, bottom_after: float) -> str:
    """The outline of a band from the left nodes to the right ones."""
    x1, x2 = _MARGIN + _NODE, _WIDTH - _MARGIN - _NODE
    middle = (x1 + x2) / 2
    return (
        f"M{x1} {top:.1f}C{middle:g} {top:.1f} {middle:g} {top_after:.1f} {x2} {top_after:.1f}"
        f"V{bottom_after:.1f}C{middle:g} {bottom_after:.1f} {middle:g} {bottom:.1f} "
        f"{x1} {bottom:.1f}Z"
    )


def _nodes(names: Sequence[str], totals: np.ndarray, height: float) -> list[_Node]:
    """Places of the nodes of a side: as high as their share, but never lower than their name."""
    free = height - _GAP * (len(names) - 1)
    least = min(16.0, free / len(names))
    share = totals / totals.sum()
    tall = np.maximum(share * free, least)
    # What the small ones got beyond their share comes from the others.
    spare = tall - least
    over = tall.sum() - free
    if over > 0 and spare.sum() > 0:
        tall -= spare * over / spare.sum()
    found, top = [], 0.0
    for name, total, high in zip(names, totals.tolist(), tall.tolist(), strict=True):
        found.append(_Node(name, total, top, top + high))
        top += high + _GAP
    return found


def _label(node: _Node, x: float, anchor: str, shift: float) -> str:
    cut = shortened(node.name, _LETTERS)
    tip = f"{node.name}: {node.total:,}"
    room = _MARGIN - 10
    # Names of wide letters are narrowed, as nobody knows the font that they are drawn in.
    wide = sum(13 if c in "WM@%" or not c.isascii() else 7.5 for c in cut) > room
    fitted = f' textLength="{room}" lengthAdjust="spacingAndGlyphs"' if wide else ""
    return (
        f'<g><title>{isolated(tip)}</title><rect x="{x}" y="{node.top:.1f}" width="{_NODE}" '
        f'height="{node.bottom - node.top:.1f}" style="fill:var(--soft)"/>'
        f'<text x="{x + shift}" y="{(node.top + node.bottom) / 2 + 4.5:.1f}" '
        f'text-anchor="{anchor}"{fitted}>{isolated(cut)}</text></g>'
    )


def _matrix(flow: ClassFlow) -> str:
    """Source class to target class, shaded by the share of each row.

    Rows and columns that are empty are left out, and named below the table.
    """
    counts, total = flow.counts, flow.counts.sum(axis=1)
    new, dropped = len(flow.rows) - 1, len(flow.columns) - 1
    columns = [c for c in range(dropped + 1) if counts[:, c].any() or c == dropped]
    rows: list[int] = np.flatnonzero(total).tolist()

    def cell(n: int, of: int) -> Cell:
        if not n:
            return Cell("·", "num empty")
        share = n / of
        return Cell(f"{n:,}<small>{share:.0%}</small>", "num heat", f"--p:{round(share * 100)}%")

    kind = "matrix" + " upright" * (len(columns) > 9) + " new" * (new in rows)
    made = table(
        ["source class", *(flow.columns[c] for c in columns), "total"],
        [
            [
                flow.rows[r],
                *(cell(int(counts[r, c]), int(total[r])) for c in columns),
                int(total[r]),
            ]
            for r in rows
        ],
        kind=kind,
    )
    unused = {
        "Target classes without a box": [n for c, n in enumerate(flow.columns) if c not in columns],
        "Source classes without a box": [
            n for r, n in enumerate(flow.rows) if r not in rows and r != new
        ],
    }
    return made + "".join(_listed(text, names) for text, names in unused.items() if names)


def _listed(text: str, names: Sequence[str]) -> str:
    first = ", ".join(isolated(name) for name in names[:MOST_CLASSES])
    more = len(names) - MOST_CLASSES
    return note(f"{text}: {first}{f' and {more:,} more' if more > 0 else ''}.")
