"""Two annotations of one image as one picture, with a slider between them.

The picture is in the page once; each side is an SVG over it whose boxes are elements of their own:
they say what they are where the pointer rests and when they have the focus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from relabel.reports.page import jpeg_data
from relabel.reports.pictures import IGNORE_COLOR, Color, ink, tag_places
from relabel.reports.style import escaped, isolated, shortened

MOST_BOXES = 300  # of a side; the largest, as small ones hide below each other
_WIDTH = 640
_LETTERS = 15  # size of those of names, as in the style sheet
_LONGEST = 26  # letters of a name on a picture; the whole is in its text


class DrawnBox(NamedTuple):
    """A box of a side.

    Attributes:
        xyxy: pixels of the image.
        name: what is written at it; empty writes nothing.
        color: of its frame.
        text: everything about it, in a few words.
        kind: words of `dashed`, `ignored` and `quiet`, which is drawn only where looked at.
    """

    xyxy: tuple[float, float, float, float]
    name: str
    color: Color
    text: str
    kind: str = ""


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two annotations.

    Attributes:
        title: a word, such as ``Before``.
        text: what there is to be seen, for those who do not see it.
        boxes: drawn on it.
        pixels: uint8 [H, W, 3], where it has a picture of its own.
    """

    title: str
    text: str
    boxes: Sequence[DrawnBox]
    pixels: np.ndarray | None = None


def compared(
    key: str,
    pixels: np.ndarray,
    one: Side,
    two: Side,
    *,
    width: int = _WIDTH,
    chosen: str = "both",
) -> str:
    """The two sides with buttons to switch and a slider, as HTML.

    Args:
        key: unique on the page: letters, digits and dashes.
        pixels: uint8 [H, W, 3] RGB.
        one: to the left of the slider.
        two: to the right of it.
        width: of the picture in units of which the letters have 15: the fewer, the larger.
        chosen: what is shown at first, ``both``, ``one`` or ``two``.
    """
    scale = width / pixels.shape[1]
    size = (width, max(1, round(pixels.shape[0] * scale)))
    href = _picture(pixels)
    first = f'<image id="{key}" href="{href}" width="{size[0]}" height="{size[1]}"/>'
    second = f'<use href="#{key}"/>'
    if two.pixels is not None:
        own = _picture(two.pixels)
        second = f'<image href="{own}" width="{size[0]}" height="{size[1]}"/>'
    choices = {"both": "both", "one": one.title.lower(), "two": two.title.lower()}
    border = escaped(f"Border between {one.title.lower()} and {two.title.lower()}, in percent")
    return (
        f"{switch(key, choices, chosen)}"
        f'<div class="panes">{_side("one", one, first, size, scale)}'
        f"{_side('two', two, second, size, scale)}</div>"
        f'<input class="cut" type="range" min="0" max="100" value="50" aria-label="{border}">'
    )


def switch(key: str, choices: Mapping[str, str], chosen: str) -> str:
    """Buttons of which one is pressed, as HTML; the style sheet shows what belongs to it.

    Args:
        key: unique on the page: letters, digits and dashes.
        choices: names by value.
        chosen: the value that is pressed at first.
    """
    buttons = "".join(
        f'<label><input type="radio" name="{key}" value="{value}"{" checked" * (value == chosen)}>'
        f"{escaped(text)}</label>"
        for value, text in choices.items()
    )
    return f'<fieldset class="switch"><legend>Show</legend>{buttons}</fieldset>'


def _picture(pixels: np.ndarray) -> str:
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if picture.width > _WIDTH:
        height = max(1, round(picture.height * _WIDTH / picture.width))
        picture = picture.resize((_WIDTH, height), Image.Resampling.LANCZOS)
    return jpeg_data(picture)


def _side(kind: str, side: Side, picture: str, size: tuple[int, int], scale: float) -> str:
    xyxy = np.array([box.xyxy for box in side.boxes], np.float64).reshape(-1, 4) * scale
    area = np.prod(xyxy[:, 2:] - xyxy[:, :2], axis=1)
    # Small ones last: they lie on top, where the pointer finds them.
    order: list[int] = np.argsort(-area, kind="stable")[:MOST_BOXES].tolist()
    texts = {i: shortened(side.boxes[i].name, _LONGEST) for i in order if side.boxes[i].name}
    drawn = "".join(
        _box(side.boxes[i], xyxy[i].tolist(), "0" if k == 0 else "-1") for k, i in enumerate(order)
    )
    tags = "".join(
        _tag(texts[i], place, side.boxes[i].color)
        for i, place in tag_places(size, xyxy, texts, _LETTERS).items()
    )
    left = len(side.boxes) - len(order)
    more = f"; the {len(order)} largest are drawn" if left else ""
    place = 'x="8"' if kind == "one" else f'x="{size[0] - 8}" text-anchor="end"'
    return (
        f'<svg class="{kind}" viewBox="0 0 {size[0]} {size[1]}" role="group" '
        f'aria-label="{isolated(side.text)}{more}">{picture}{drawn}<g aria-hidden="true">{tags}'
        f'<text class="side" {place} y="{size[1] - 10}">{escaped(side.title)}</text></g></svg>'
    )


def _box(box: DrawnBox, xyxy: Sequence[float], tab: str) -> str:
    x1, y1, x2, y2 = xyxy
    color = IGNORE_COLOR if "ignored" in box.kind.split() else box.color
    at = f'x="{x1:.1f}" y="{y1:.1f}" width="{max(x2 - x1, 1):.1f}" height="{max(y2 - y1, 1):.1f}"'
    kind, text = f" {box.kind}" if box.kind else "", isolated(box.text)
    return (
        f'<g class="box{kind}" style="--c:rgb{color}" role="img" tabindex="{tab}" '
        f'aria-label="{text}"><title>{text}</title><rect class="seam" {at}/>'
        f'<rect class="line" {at}/></g>'
    )


def _tag(text: str, place: tuple[float, float, float, float], color: Color) -> str:
    x1, y1, x2, y2 = place
    # The browser's letters are not those that were measured; they are made to fit.
    return (
        f'<g class="tag" style="--c:rgb{color}"><rect x="{x1:.1f}" y="{y1:.1f}" '
        f'width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"/><text x="{x1 + 3:.1f}" y="{y2 - 4:.1f}" '
        f'textLength="{max(x2 - x1 - 6, 1):.1f}" lengthAdjust="spacingAndGlyphs" '
        f'fill="rgb{ink(color)}">{isolated(text)}</text></g>'
    )
