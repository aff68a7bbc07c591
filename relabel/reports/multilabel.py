"""The report of multi-labels: pictures of regions with their labels, counts, confused classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from relabel.reports import charts
from relabel.reports.compare import DrawnBox, Side, compared
from relabel.reports.made import Made
from relabel.reports.page import (
    Cell,
    note,
    picture_section,
    swatch,
    table,
    tiles,
    write_page,
)
from relabel.reports.pictures import Color, class_palette, draw_masks
from relabel.reports.style import named

_WIDTH = 420  # pixels of a picture
_FONT = 17  # pixels of a name on it; pages show it at two thirds of its width
_LABELS_SHOWN = 7
_LEAST = 0.005  # of a label that is listed


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


def write_multilabel_report(
    out: Path,
    counts: Counts,
    pictures: Sequence[Picture],
    *,
    title: str,
    settings: Mapping[str, Any] | None = None,
    made: Made | None = None,
) -> Path:
    """Write the report; the same inputs give the same bytes.

    Args:
        out: the HTML file.
        counts: its numbers.
        pictures: its images, in the order of their groups.
        title: its heading.
        settings: settings of the run; tables may be nested.
        made: command, versions and times of the run.

    Returns:
        ``out``.
    """
    numbers = count()
    shown = picture_section(pictures, _KEY, lambda p: _card(next(numbers), p, counts.confident))
    sections = [_skipped(counts), _overview(counts), shown, _added(counts), _confused(counts)]
    contents = {"skipped": "Images left out"} if counts.skipped_total else {}
    contents |= {"pictures": "Pictures"} if pictures else {}
    contents |= {"added": "Added labels", "confused": "Confused classes"}
    return write_page(out, title, contents, sections, settings, made)


_KEY = note(
    "Before is the photo with its own label, after has the regions that were found. Each tinted "
    "region is a mask, in the colour of its most probable class, which the list below the picture "
    "repeats; it says its class where the pointer rests, and when it has the focus. A ring marks a "
    "label that no region shown is called by: the image's own label, or a region's lesser guess. "
    "Grey labels are below the confidence that the counts are made at."
)


def _overview(counts: Counts) -> str:
    limit = f"p ≥ {counts.confident:g}"
    shown = [
        charts.bars(counts.labels, title="Labels per image", note=f"labels with {limit}"),
        charts.bars(counts.regions, title="Regions per image", note="masks kept after refinement"),
        charts.bars(
            counts.probabilities,
            title="Probability of a region's best class",
            note="by the region classifier",
            every=5,
            mark=round(counts.confident * len(counts.probabilities)),
        ),
        charts.bars(counts.areas, title="Area of a region", note="share of its image", every=5),
    ]
    return (
        f'<section>{tiles(counts.numbers)}<div class="charts four">{"".join(shown)}</div></section>'
    )


def _card(number: int, picture: Picture, confident: float) -> str:
    names = [name for name, _ in picture.mask_labels]
    palette = class_palette(names)
    scores = np.array([p for _, p in picture.mask_labels], np.float64)
    height, width = picture.pixels.shape[:2]
    # Cards are 4:3: a tall picture is made narrower, so that its names come out equally large.
    fitted = min(_WIDTH, max(1, round(_WIDTH * 0.75 * width / height)))
    drawn = draw_masks(
        picture.pixels, picture.masks, names, scores, palette, width=fitted, size=_FONT
    )
    # What is written as 0.00 says nothing.
    listed = [(n, p) for n, p in picture.labels if p >= _LEAST or n == picture.original]
    items = []
    for name, prob in listed[:_LABELS_SHOWN]:
        color = swatch(palette[name]) if name in palette else '<i class="none"></i>'
        kinds = ["own"] if name == picture.original else []
        kinds += ["faint"] if prob < confident else []
        text = f"<b>{named(name)}</b>" if "own" in kinds else named(name)
        items.append(
            f'<li class="{" ".join(kinds)}">{color}<span>{text}</span><span>{prob:.2f}</span></li>'
        )
    more = len(picture.labels) - len(items)
    rest = f"<p><small>and {more} more</small></p>" if more > 0 else ""
    labels = f"<ul>{''.join(items)}</ul>" if items else "<p>no label</p>"
    photo = np.asarray(Image.fromarray(picture.pixels).resize(drawn.size))
    own = picture.original or "no label of its own"
    before = Side("Before", f"{picture.name}, the photo: {own}", ())
    after = Side(
        "After",
        f"{picture.name}: {len(names)} regions",
        _regions(picture, palette, drawn.width / width),
        np.asarray(drawn),
    )
    shown = compared(f"image-{number}", photo, before, after, width=drawn.width, chosen="two")
    return (
        f'<figure class="ba">{shown}<figcaption>{labels}{rest}'
        f"<small>{named(picture.name)}</small></figcaption></figure>"
    )


def _regions(picture: Picture, palette: Mapping[str, Color], scale: float) -> list[DrawnBox]:
    """The masks' boxes, which are only seen where they are looked at."""
    boxes = []
    for mask, (name, prob) in zip(picture.masks, picture.mask_labels, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            x1, x2 = scale * columns[0], scale * (columns[-1] + 1)
            y1, y2 = scale * rows[0], scale * (rows[-1] + 1)
            text = f"{name} {prob:.2f}: a region of {mask.mean():.0%} of the image"
            boxes.append(DrawnBox((x1, y1, x2, y2), "", palette[name], text, "quiet"))
    return boxes


def _added(counts: Counts) -> str:
    head = '<section id="added"><h2>Added labels</h2>' + note(
        f"Images that got a further class with p ≥ {counts.confident:g} beside their own."
    )
    if not counts.added:
        return f"{head}<p>No label was added.</p></section>"
    pairs = table(
        ["own class", "added class", "images", "of the own class", ""],
        [
            [own, new, n, f"{share:.1%}", _bar(n, counts.added[0][2])]
            for own, new, n, share in counts.added
        ],
        title="Most frequent pairs",
        words=2,
    )
    classes = table(
        ["added class", "images", ""],
        [[name, n, _bar(n, counts.added_classes[0][1])] for name, n in counts.added_classes],
        title="Most frequent classes",
    )
    return f'{head}<div class="tables">{pairs}{classes}</div></section>'


def _bar(count: int, most: int) -> Cell:
    return Cell(f'<i style="width:{count / most:.1%}"></i>', "bar")


def _confused(counts: Counts) -> str:
    about = note(
        "Classes that the region classifier takes for one another in both directions: synonyms, "
        "a part and its whole, or a class and its kind. An added label of such a pair says little."
    )
    rows = [[a, b, f"{there:.0%}", f"{back:.0%}"] for a, b, there, back in counts.confused]
    head = ["class", "taken for", "at a rate of", "and back at"]
    body = table(head, rows, words=2) if rows else "<p>None were found.</p>"
    return f'<section id="confused"><h2>Confused classes</h2>{about}{body}</section>'


def _skipped(counts: Counts) -> str:
    if not counts.skipped_total:
        return ""
    more = counts.skipped_total - len(counts.skipped)
    listed = table(["image", "reason"], [list(row) for row in counts.skipped], words=2)
    listed += note(f"and {more:,} more") if more else ""
    text = f"{counts.skipped_total:,} images could not be read, and have no labels."
    return f'<section id="skipped"><h2>Images left out, and why</h2>{note(text)}{listed}</section>'
