"""The report of pseudo-labels against their truth: numbers, reliability, the worst in pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from relabel.reports import charts
from relabel.reports.compare import DrawnBox, Side, compared
from relabel.reports.made import Made
from relabel.reports.page import (
    details,
    embedded,
    note,
    picture_section,
    swatch,
    table,
    tiles,
    write_page,
)
from relabel.reports.pictures import Color, class_palette, draw_boxes
from relabel.reports.style import escaped, named

_WIDTH = 320  # pixels of a picture
_CHARTS = 12  # of classes


@dataclass(frozen=True, eq=False)
class LabelPicture:
    """One label of the report.

    Attributes:
        name: the image's file name.
        group: the heading it goes under.
        pixels: uint8 [H, W, 3], the part of the image around it.
        boxes: float64 [k, 4] xyxy there: the label's, and the true box that is near, if one is.
        classes: k names.
        claims: confidence and quality.
        text: what the truth says.
    """

    name: str
    group: str
    pixels: np.ndarray
    boxes: np.ndarray
    classes: Sequence[str]
    claims: str
    text: str


class SeenBox(NamedTuple):
    """A true box or a label of an `ImagePicture`.

    Attributes:
        xyxy: pixels of the image.
        name: its class.
        text: everything about it, in a few words.
        kind: ``fits`` where truth and labels agree about it, ``differs`` where they do not, and
            ``aside`` where nothing is counted.
    """

    xyxy: tuple[float, float, float, float]
    name: str
    text: str
    kind: str


@dataclass(frozen=True, eq=False)
class ImagePicture:
    """A whole image with its true boxes and its labels.

    Attributes:
        name: its file name.
        group: why it is shown.
        pixels: uint8 [H, W, 3].
        truth: its true boxes.
        labels: its labels that are sure enough to be drawn.
        below: how many are not.
    """

    name: str
    group: str
    pixels: np.ndarray
    truth: Sequence[SeenBox]
    labels: Sequence[SeenBox]
    below: int = 0


@dataclass(frozen=True, eq=False)
class Bars:
    """A reliability diagram: mean claim, what was seen, and labels of each bin.

    Attributes:
        title: what is compared.
        claimed, seen: float [b].
        count: int [b].
        error: expected calibration error, None without labels.
    """

    title: str
    claimed: np.ndarray
    seen: np.ndarray
    count: np.ndarray
    error: float | None


def write_pseudo_label_report(
    out: Path,
    *,
    title: str,
    numbers: Mapping[str, object],
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]],
    overall: Sequence[Bars],
    classes: Sequence[Bars],
    pictures: Sequence[LabelPicture],
    images: Sequence[ImagePicture] = (),
    threshold: float = 0.0,
    missing: str = "",
    about: Mapping[str, Any] | None = None,
    made: Made | None = None,
) -> Path:
    """Write the report; the same inputs give the same bytes.

    Args:
        out: the HTML file.
        title: its heading.
        numbers: by what they are, for the tiles.
        tables: header and rows by title.
        overall: reliability of all labels.
        classes: and of each class, those with the most labels first.
        pictures: the worst labels, in the order of their groups.
        images: whole ones, truth beside labels.
        threshold: confidence from which labels are drawn on them.
        missing: why there are no pictures of some, in a sentence.
        about: what was measured, folded at the end.
        made: command, versions and times of the run.

    Returns:
        ``out``.
    """
    named_on = {name for picture in pictures for name in picture.classes}
    named_on |= {box.name for p in images for side in (p.truth, p.labels) for box in side}
    palette = class_palette(named_on)
    shown = picture_section(pictures, _KEY, lambda picture: _card(picture, palette))
    if missing:
        shown = shown or '<section id="pictures"><h2>Pictures</h2></section>'
        shown = shown.removesuffix("</section>") + note(escaped(missing)) + "</section>"
    measured = "".join(table(*content, title=name) for name, content in tables.items())
    contents = {"measured": "Measured", "reliability": "Reliability"}
    contents |= {"images": "Truth and labels"} if images else {}
    contents |= {"pictures": "Pictures"} if shown else {}
    sections = [
        f"<section>{tiles(numbers)}</section>",
        f'<section id="measured"><h2>Measured</h2>{note(_MEASURED)}'
        f'<div class="tables">{measured}</div></section>',
        _reliability(overall, classes),
        _images(images, threshold, palette),
        shown,
    ]
    return write_page(out, title, contents, sections, about, made)


_MEASURED = (
    "A label is right if it is matched to a true box of its class, one to one and by confidence. "
    "Labels in ignore regions count neither way. p is the class score, v the localisation quality, "
    "rho Spearman's rank correlation with the IoU of a label with the nearest true box of its "
    "class: over all labels, and over those that overlap one."
)
_KEY = note(
    "A label has a plain frame, the true box that is nearest a dashed one, each in the colour of "
    "its class."
)


def _reliability(overall: Sequence[Bars], classes: Sequence[Bars]) -> str:
    text = (
        "What labels claim, and what is true of them: the share that is right at IoU 0.5, by "
        "confidence, and the mean IoU, by localisation quality. Claims that can be taken at their "
        "word have bars that end at the dashed line."
    )
    parts = ['<section id="reliability"><h2>Reliability</h2>', note(text)]
    parts.append(f'<div class="charts">{"".join(map(reliability_chart, overall))}</div>')
    some = [bars for bars in classes if bars.count.sum()]
    if len(some) > 1:
        drawn = "".join(map(reliability_chart, some[:_CHARTS]))
        left = len(some) - _CHARTS
        more = note(f"and {left:,} classes with fewer labels") if left > 0 else ""
        parts.append(details("By class", f'<div class="charts">{drawn}</div>{more}'))
    return "".join([*parts, "</section>"])


def reliability_chart(bars: Bars) -> str:
    """The diagram as a chart of a page."""
    gap = "" if bars.error is None else f", {bars.error:.3f} from the line in the mean"
    return charts.reliability(
        bars.claimed,
        bars.seen,
        bars.count,
        title=bars.title,
        note=f"{int(bars.count.sum()):,} labels{gap}",
        tip="claimed {confidence:.2f}, true {share:.2f}: {count:,} labels",
    )


def _images(images: Sequence[ImagePicture], threshold: float, palette: Mapping[str, Color]) -> str:
    """Whole images, the true boxes left of a slider and the labels right of it."""
    if not images:
        return ""
    figures = []
    for k, picture in enumerate(images):
        missed = sum(box.kind == "differs" for box in picture.truth)
        wrong = sum(box.kind == "differs" for box in picture.labels)
        real = sum(box.kind != "aside" for box in picture.truth)
        text = f"Truth: {real} boxes, {missed} missed"
        labels = f"Labels: {len(picture.labels)}, {wrong} wrong"
        one = Side("Truth", text, _drawn(picture.truth, palette))
        two = Side("Labels", labels, _drawn(picture.labels, palette))
        below = f" Less sure, not drawn: {picture.below:,}." if picture.below else ""
        figures.append(
            f'<figure class="ba"><figcaption>{named(picture.name)} '
            f"<small>{escaped(picture.group)}</small></figcaption>"
            f"{compared(f'image-{k}', picture.pixels, one, two)}"
            f"{note(f'{text}. {labels}.{below}')}</figure>"
        )
    names = {b.name for p in images for side in (p.truth, p.labels) for b in side}
    legend = "".join(f"<li>{swatch(palette[name])}{named(name)}</li>" for name in sorted(names))
    said = (
        f"The slider moves the border between the true boxes and the labels of confidence "
        f"{threshold:g} or more. Dashed: true boxes that none of these labels has at IoU 0.5, and "
        "labels that have no true box; hatched: what counts neither way."
    )
    return (
        f'<section id="images"><h2>Truth and labels</h2>{note(said)}'
        f'<ul class="legend">{legend}</ul><div class="twos">{"".join(figures)}</div></section>'
    )


def _drawn(boxes: Sequence[SeenBox], palette: Mapping[str, Color]) -> list[DrawnBox]:
    kinds = {"fits": "", "differs": "dashed", "aside": "ignored"}
    return [
        DrawnBox(
            box.xyxy,
            "" if box.kind == "aside" else box.name,
            palette[box.name],
            f"{box.name}: {box.text}",
            kinds[box.kind],
        )
        for box in boxes
    ]


def _card(picture: LabelPicture, palette: Mapping[str, Color]) -> str:
    dashed = np.arange(len(picture.boxes)) > 0
    drawn = draw_boxes(
        picture.pixels,
        picture.boxes,
        picture.classes,
        colors=palette,
        dashed=dashed,
        width=_WIDTH,
        tags=False,
        line=3,
    )
    items = "".join(
        f"<li>{swatch(palette[name])}<span>{named(name)}</span><span>{escaped(said)}</span></li>"
        for name, said in zip(picture.classes, (picture.claims, "true"), strict=False)
    )
    text = f"{picture.classes[0]}: {picture.text}"
    return (
        f"<figure>{embedded(drawn, text)}<figcaption><ul>{items}</ul>"
        f"<p>{escaped(picture.text)}</p><small>{named(picture.name)}</small>"
        "</figcaption></figure>"
    )
