"""The report of multi-labels: pictures of regions with their labels, counts, confused classes.

One HTML file with everything in it, as `relabel.reports.html` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from relabel.reports import charts
from relabel.reports.html import embedded, nested, write_page
from relabel.reports.pictures import class_palette, draw_masks
from relabel.reports.style import CSS

_WIDTH = 420  # pixels of a picture
_FONT = 17  # pixels of a name on it; pages show it at two thirds of its width
_LABELS_SHOWN = 7

_CSS = """
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,11.5rem),1fr));
gap:.8rem;margin:1.2rem 0}
.tiles div{padding:.7rem .9rem;background:var(--panel);border:1px solid var(--line);
border-radius:6px}
.tiles strong{display:block;font-size:1.5rem;font-weight:600;line-height:1.2;
font-variant-numeric:tabular-nums}
.tiles span{font-size:.88rem;color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr));gap:1rem;
align-items:stretch}
main .cards figure:not(.chart){margin:0;background:var(--panel);border:1px solid var(--line);
border-radius:6px;overflow:hidden}
.cards img{border-radius:0;aspect-ratio:4/3;object-fit:contain;
background:color-mix(in srgb,var(--fg) 10%,var(--panel))}
.charts.four{grid-template-columns:repeat(auto-fill,minmax(min(100%,15.5rem),1fr))}
main .cards figure:not(.chart)>figcaption{padding:.55rem .75rem .65rem;margin:0}
.cards ul{list-style:none;margin:0 0 .35rem;padding:0}
.cards li{display:grid;grid-template-columns:.85rem 1fr auto;gap:.45rem;align-items:baseline;
padding:.08rem 0}
.cards li i{width:.8rem;height:.8rem;border-radius:2px;box-shadow:0 0 0 1px rgb(0 0 0/.35);
align-self:center}
.cards li i.none{background:none;box-shadow:inset 0 0 0 1px var(--soft);border-radius:50%}
.cards li.faint{color:var(--soft)}
.cards li.own b::after{content:"original";font-size:.72rem;font-weight:500;margin-left:.45em;
padding:0 .35em;border:1px solid var(--line);border-radius:3px;color:var(--soft)}
.cards li span{font-variant-numeric:tabular-nums}
.cards p{margin:.15rem 0;color:var(--soft)}
td.bar{min-width:9rem;vertical-align:middle}
td.bar i{display:block;height:.75rem;border-radius:2px;background:var(--bar)}
@media print{.cards figure{break-inside:avoid}}
"""


@dataclass(frozen=True, eq=False)
class Picture:
    """One image of the report.

    Attributes:
        name: its file name.
        group: the heading it goes under.
        pixels: uint8 [H, W, 3] RGB.
        masks: bool [n, H, W].
        mask_labels: (class name, probability) of each mask.
        labels: (class name, probability) of the image, from the most probable on.
        original: the image's own class, or None.
    """

    name: str
    group: str
    pixels: np.ndarray
    masks: np.ndarray
    mask_labels: Sequence[tuple[str, float]]
    labels: Sequence[tuple[str, float]]
    original: str | None


@dataclass(frozen=True)
class Counts:
    """Numbers of a result.

    Attributes:
        numbers: by what they are, for the tiles: whole numbers, or shares as text.
        labels: number of images by number of confident labels: "0", "1", ...
        regions: number of images by number of regions.
        probabilities: number of regions by the probability of their best class, by bin.
        areas: number of regions by share of the image, by bin.
        added: (original class, added class, images, share of the original class's images), the
            most frequent first.
        added_classes: (added class, images), the most frequent first.
        confused: (class, class, rate of the first taken for the second, rate the other way).
        skipped: (file name, reason) of images that could not be read, the first ones.
        skipped_total: how many there are.
    """

    numbers: Mapping[str, object]
    labels: Mapping[str, int]
    regions: Mapping[str, int]
    probabilities: Mapping[str, int]
    areas: Mapping[str, int]
    added: Sequence[tuple[str, str, int, float]]
    added_classes: Sequence[tuple[str, int]] = ()
    confused: Sequence[tuple[str, str, float, float]] = ()
    skipped: Sequence[tuple[str, str]] = ()
    skipped_total: int = 0
    confident: float = field(default=0.5)


def write_report(
    out: Path,
    counts: Counts,
    pictures: Sequence[Picture],
    *,
    title: str,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write the report; the same inputs give the same bytes.

    Args:
        out: the HTML file.
        counts: its numbers.
        pictures: its images, in the order of their groups.
        title: its heading.
        settings: settings of the run; tables may be nested.

    Returns:
        ``out``.
    """
    sections = [_overview(counts)]
    groups = list(dict.fromkeys(p.group for p in pictures))
    if groups:
        sections.append('<section id="pictures"><h2>Pictures</h2>' + _KEY)
        for group in groups:
            cards = "".join(_card(p, counts.confident) for p in pictures if p.group == group)
            sections.append(f'<h3>{escape(group)}</h3><div class="cards">{cards}</div>')
        sections.append("</section>")
    sections += [_added(counts), _confused(counts), _skipped(counts)]
    if settings:
        sections.append(
            f"<section><details><summary>Settings</summary>{nested(settings)}</details></section>"
        )
    contents = "".join(
        f'<li><a href="#{anchor}">{text}</a></li>'
        for anchor, text in (
            ("pictures", "Pictures"),
            ("added", "Added labels"),
            ("confused", "Confused classes"),
        )
        if anchor != "pictures" or groups
    )
    return write_page(out, title, contents, sections, css=CSS + _CSS)


_KEY = (
    '<p class="note">Each tinted region is a mask, in the colour of its most probable class, which '
    "the list below the picture repeats. A ring marks a label that no region shown is called by: "
    "the image's own label, or a lesser guess of a region. Grey labels are below the confidence "
    "that the counts are made at.</p>"
)


def _overview(counts: Counts) -> str:
    tiles = "".join(
        f"<div><strong>{escape(value if isinstance(value, str) else charts.number(value))}</strong>"
        f"<span>{escape(name)}</span></div>"
        for name, value in counts.numbers.items()
    )
    limit = f"p ≥ {counts.confident:g}"
    shown = [
        charts.bars(counts.labels, title="Labels per image", note=f"labels with {limit}"),
        charts.bars(counts.regions, title="Regions per image", note="masks kept after refinement"),
        charts.bars(
            counts.probabilities,
            title="Probability of a region's best class",
            note="by the region labeler",
            every=5,
            mark=round(counts.confident * len(counts.probabilities)),
        ),
        charts.bars(counts.areas, title="Area of a region", note="share of its image", every=5),
    ]
    return (
        f'<section><div class="tiles">{tiles}</div><div class="charts four">{"".join(shown)}</div>'
        "</section>"
    )


def _card(picture: Picture, confident: float) -> str:
    names = [name for name, _ in picture.mask_labels]
    palette = class_palette(names)
    scores = np.array([p for _, p in picture.mask_labels], np.float64)
    height, width = picture.pixels.shape[:2]
    # Cards are 4:3: a tall picture is made narrower, so that its names come out equally large.
    fitted = min(_WIDTH, max(1, round(_WIDTH * 0.75 * width / height)))
    drawn = draw_masks(
        picture.pixels, picture.masks, names, scores, palette, width=fitted, size=_FONT
    )
    items = []
    for name, prob in picture.labels[:_LABELS_SHOWN]:
        color = f'<i style="background:rgb{palette[name]}"></i>' if name in palette else _RING
        kinds = ["own"] if name == picture.original else []
        kinds += ["faint"] if prob < confident else []
        text = f"<b>{escape(name)}</b>" if "own" in kinds else escape(name)
        items.append(
            f'<li class="{" ".join(kinds)}">{color}<span>{text}</span><span>{prob:.2f}</span></li>'
        )
    more = len(picture.labels) - _LABELS_SHOWN
    rest = f"<p><small>and {more} more</small></p>" if more > 0 else ""
    listed = f"<ul>{''.join(items)}</ul>" if items else "<p>no label</p>"
    text = f"{picture.name}: {len(names)} regions"
    return (
        f"<figure>{embedded(drawn, text)}<figcaption>{listed}{rest}"
        f"<small>{escape(picture.name)}</small></figcaption></figure>"
    )


_RING = '<i class="none"></i>'


def _added(counts: Counts) -> str:
    head = (
        '<section id="added"><h2>Added labels</h2><p class="note">Images that got a further class '
        f"with p ≥ {counts.confident:g} beside their own.</p>"
    )
    if not counts.added:
        return f"{head}<p>No label was added.</p></section>"
    pairs = [([own, new], [f"{n:,}", f"{share:.1%}"], n) for own, new, n, share in counts.added]
    classes = [([name], [f"{n:,}"], n) for name, n in counts.added_classes]
    tables = (
        "<div><h4>Most frequent pairs</h4>"
        + _barred(["own class", "added class"], ["images", "of the own class"], pairs)
        + "</div><div><h4>Most frequent classes</h4>"
        + _barred(["added class"], ["images"], classes)
        + "</div>"
    )
    return f'{head}<div class="tables">{tables}</div></section>'


def _barred(
    names: Sequence[str], numbers: Sequence[str], rows: Sequence[tuple[list[str], list[str], int]]
) -> str:
    """A table of (names, numbers, count) with a bar for the count behind each row."""
    most = max((n for _, _, n in rows), default=1)
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in names)
    head += "".join(f'<th scope="col" class="num">{escape(text)}</th>' for text in numbers)
    body = "".join(
        f'<tr><th scope="row">{escape(texts[0])}</th>'
        + "".join(f"<td>{escape(text)}</td>" for text in texts[1:])
        + "".join(f'<td class="num">{escape(text)}</td>' for text in values)
        + f'<td class="bar"><i style="width:{n / most:.1%}"></i></td></tr>'
        for texts, values, n in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}<th></th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _confused(counts: Counts) -> str:
    note = (
        '<p class="note">Classes that the labeler takes for one another in both directions: '
        "synonyms, a part and its whole, or a class and its kind. An added label of such a pair "
        "says little.</p>"
    )
    rows = [[a, b, f"{there:.0%}", f"{back:.0%}"] for a, b, there, back in counts.confused]
    head = ["class", "taken for", "at a rate of", "and back at"]
    body = charts.table(head, rows) if rows else "<p>None were found.</p>"
    return f'<section id="confused"><h2>Confused classes</h2>{note}{body}</section>'


def _skipped(counts: Counts) -> str:
    if not counts.skipped_total:
        return ""
    more = counts.skipped_total - len(counts.skipped)
    rest = f'<p class="note">and {more:,} more</p>' if more else ""
    table = charts.table(["image", "reason"], [list(row) for row in counts.skipped])
    summary = f"Images that could not be read: {counts.skipped_total:,}"
    return f"<section><details><summary>{summary}</summary>{table}{rest}</details></section>"
