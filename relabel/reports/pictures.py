"""Pictures with boxes drawn on them, and sheets of such pictures.

Boxes are xyxy pixels of the image given; pictures come back as Pillow images, resized where asked.
"""

from __future__ import annotations

import colorsys
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.location import load_rgb
from relabel.errors import shown

Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]

# Bright and well apart on photographs, first the ones that people with colour-vision deficiency
# tell apart best.
_COLORS: tuple[Color, ...] = tuple(
    ImageColor.getrgb(code)[:3]
    for code in (
        *("#e69f00", "#56b4e9", "#f0e442", "#00be8c", "#e95a14", "#e082be", "#1e82f0", "#fa465a"),
        *("#96dc3c", "#aa78ff", "#00d7e1", "#ffaf96", "#bea064", "#ff3cc8", "#78a582", "#c8d7ff"),
    )
)
IGNORE_COLOR: Color = (150, 150, 150)


def class_palette(names: Iterable[str]) -> dict[str, Color]:
    """A colour for each class name, the same for the same set of names in any order.

    A name's colour comes from its hash, so it also stays the same from one set to another unless
    two names of a set fall on one colour; then the later in the alphabet moves on.
    """
    palette: dict[str, Color] = {}
    taken: set[int] = set()
    for name in sorted(set(names)):
        start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        if len(taken) == len(_COLORS):
            hue, light = (start % 3600) / 3600, 0.5 + 0.2 * ((start >> 16) % 2)
            red, green, blue = colorsys.hls_to_rgb(hue, light, 0.75)
            palette[name] = (round(red * 255), round(green * 255), round(blue * 255))
            continue
        slot = next(
            s for k in range(len(_COLORS)) if (s := (start + k) % len(_COLORS)) not in taken
        )
        taken.add(slot)
        palette[name] = _COLORS[slot]
    return palette


def draw_boxes(
    image: np.ndarray,
    xyxy: np.ndarray,
    labels: Sequence[str],
    scores: np.ndarray | None = None,
    colors: Mapping[str, Color] | None = None,
    *,
    ignore: np.ndarray | None = None,
    dashed: np.ndarray | None = None,
    width: int | None = None,
    tags: bool = True,
    line: int | None = None,
) -> Image.Image:
    """Draw boxes with their class names.

    A name is left out where it would cover another name or where its box is too small to hold
    one; the colour still tells the class. Larger boxes are drawn first, so that small ones in
    front stay visible.

    Args:
        image: uint8 [H, W, 3] RGB.
        xyxy: float [n, 4], pixels of ``image``.
        labels: n class names.
        scores: float [n], shown behind the name where not NaN.
        colors: colour by class name; default `class_palette` of ``labels``.
        ignore: bool [n]; these regions are hatched in grey and have no name.
        dashed: bool [n], boxes with a dashed frame.
        width: scale the picture to this width, at most twice its own, before drawing.
        tags: write the class names.
        line: width of the frames in pixels; default a 320th of the picture's, at least 2.

    Raises:
        ValueError: ``labels`` and ``xyxy`` differ in length.
    """
    xyxy = np.asarray(xyxy, dtype=np.float64).reshape(-1, 4)
    if len(labels) != len(xyxy):
        raise ValueError(f"{len(xyxy)} boxes, but {len(labels)} labels")
    colors = class_palette(labels) if colors is None else colors
    picture, scale = _scaled(image, width)
    xyxy = xyxy * scale
    pen = ImageDraw.Draw(picture)
    line = line or max(2, round(picture.width / 320))
    area = np.prod(xyxy[:, 2:] - xyxy[:, :2], axis=1)
    order: list[int] = np.argsort(-area, kind="stable").tolist()
    hidden = np.zeros(len(xyxy), bool) if ignore is None else np.asarray(ignore, bool)
    for i in order:
        if hidden[i]:
            _hatch(picture, tuple(xyxy[i].tolist()))
    for i in order:
        if not hidden[i]:
            broken = dashed is not None and bool(dashed[i])
            color = colors.get(labels[i], IGNORE_COLOR)
            _frame(pen, tuple(xyxy[i].tolist()), color, line, dashed=broken)
    if tags:
        _write_tags(picture, xyxy, labels, scores, colors, [i for i in order if not hidden[i]])
    return picture


def crop_around(
    image: np.ndarray,
    box: Rectangle,
    *,
    context: float = 0.75,
    least: int = 64,
    aspect: float = 1.0,
) -> tuple[np.ndarray, Rectangle]:
    """The part of an image around a box, and the box there.

    Args:
        image: uint8 [H, W, 3].
        context: width of the margin on each side, as a share of the box's longer side.
        least: sides of the part, if the image has so many pixels.
        aspect: width of the part by its height, as far as the image is wide enough.
    """
    x1, y1, x2, y2 = box
    side = max(least, (1 + 2 * context) * max(x2 - x1, y2 - y1))
    ends = []
    height, width = image.shape[:2]
    for low, high, size, want in ((x1, x2, width, side * aspect), (y1, y2, height, side)):
        span = min(round(want), size)
        start = min(max(0, round((low + high - span) / 2)), size - span)
        ends.append((start, start + span))
    (left, right), (top, bottom) = ends
    return image[top:bottom, left:right], (x1 - left, y1 - top, x2 - left, y2 - top)


def draw_masks(
    image: np.ndarray,
    masks: np.ndarray,
    labels: Sequence[str],
    scores: np.ndarray | None = None,
    colors: Mapping[str, Color] | None = None,
    *,
    width: int | None = None,
    tags: bool = True,
    size: int | None = None,
) -> Image.Image:
    """Tint masks in the colours of their classes, with outlines and class names.

    Larger masks come first, so that small ones in front stay visible. Names are left out where
    `draw_boxes` would leave out those of the masks' bounding boxes.

    Args:
        image: uint8 [H, W, 3] RGB.
        masks: bool [n, H, W].
        labels: n class names.
        scores: float [n], shown behind the name where not NaN.
        colors: colour by class name; default `class_palette` of ``labels``.
        width: scale the picture to this width, at most twice its own, before drawing.
        tags: write the class names.
        size: of the letters, in pixels; default a 44th of the width.

    Raises:
        ValueError: ``labels`` or ``image`` do not fit ``masks``.
    """
    if len(labels) != len(masks) or (len(masks) and masks.shape[1:] != image.shape[:2]):
        raise ValueError(
            f"{len(labels)} labels and an image of {image.shape[:2]} for masks of {masks.shape}"
        )
    colors = class_palette(labels) if colors is None else colors
    picture, _ = _scaled(image, width)
    line = max(1, round(picture.width / 240))
    pixels = np.asarray(picture, dtype=np.float32).copy()
    order: list[int] = np.argsort(-masks.sum((1, 2)), kind="stable").tolist()
    boxes = np.zeros((len(masks), 4))
    for i in order:
        mask = np.asarray(Image.fromarray(masks[i]).resize(picture.size, Image.Resampling.NEAREST))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            continue
        boxes[i] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        color = np.array(colors.get(labels[i], IGNORE_COLOR), np.float32)
        pixels[mask] = 0.6 * pixels[mask] + 0.4 * color
        # Beyond the picture, a mask is taken to go on.
        inner = np.asarray(binary_erosion(mask, iterations=line, border_value=1), bool)
        pixels[mask & ~inner] = color
        # A dark seam keeps light colours visible on bright ground.
        pixels[inner & ~np.asarray(binary_erosion(inner, border_value=1), bool)] *= 0.55
    picture = Image.fromarray(pixels.astype(np.uint8))
    if tags:
        seen = (boxes[:, 2] > boxes[:, 0]).nonzero()[0]
        _write_tags(picture, boxes, labels, scores, colors, [i for i in order if i in seen], size)
    return picture


def _scaled(image: np.ndarray, width: int | None) -> tuple[Image.Image, float]:
    """The picture at a width, at most twice its own, and by what it was scaled."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    if width is None or picture.width == width:
        return picture, 1.0
    scale = min(2.0, width / picture.width)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS), scale


def contact_sheet(
    pictures: Sequence[Image.Image],
    captions: Sequence[str],
    *,
    columns: int = 2,
    cell_width: int = 640,
) -> Image.Image:
    """Pictures in a grid, each scaled to the cell's width, with a line of text above each.

    Raises:
        ValueError: no pictures, or a different number of captions.
    """
    if not pictures:
        raise ValueError("no pictures for the sheet")
    if len(captions) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures, but {len(captions)} captions")
    gap, head, font = 12, 28, ImageFont.load_default(size=18)
    cells = [
        (
            text,
            p.convert("RGB").resize((cell_width, max(1, round(p.height * cell_width / p.width)))),
        )
        for text, p in zip(captions, pictures, strict=True)
    ]
    columns = min(columns, len(cells))
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(picture.height for _, picture in row) + head + gap for row in rows]
    size = (columns * (cell_width + gap) + gap, sum(heights) + gap)
    sheet = Image.new("RGB", size, (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    y = gap
    for row, height in zip(rows, heights, strict=True):
        for c, (text, picture) in enumerate(row):
            x = gap + c * (cell_width + gap)
            pen.text((x, y + 4), text, fill=(0, 0, 0), font=font, anchor="lt")
            sheet.paste(picture, (x, y + head))
        y += height
    return sheet


def side_by_side(
    layers: Mapping[str, DetectionDataset], rows: Sequence[int], *, cell_width: int = 560
) -> Image.Image:
    """A contact sheet of several annotations of the same images: an image a row.

    Args:
        layers: datasets with the same images in the same order, by caption.
        rows: the images.

    Raises:
        DataError: an image cannot be read.
        ValueError: no layers or rows.
    """
    palette = class_palette({n for d in layers.values() for n in d.space.names})
    pictures, captions = [], []
    for row in rows:
        pixels = load_rgb(next(iter(layers.values())), row)
        for caption, dataset in layers.items():
            boxes = dataset.boxes.take(np.arange(len(dataset.boxes))[dataset.rows(row)])
            names = [dataset.space.names[c] for c in boxes.category]
            picture = draw_boxes(
                pixels,
                boxes.xyxy,
                names,
                colors=palette,
                ignore=boxes.ignore,
                width=2 * pixels.shape[1],
            )
            pictures.append(picture)
            captions.append(caption)
    return contact_sheet(pictures, captions, columns=len(layers), cell_width=cell_width)


def ink(color: Color) -> Color:
    """Black or white, whichever has the higher contrast on ``color``."""
    red, green, blue = ((c / 255) ** 2.2 for c in color)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def _frame(
    pen: ImageDraw.ImageDraw, box: Rectangle, color: Color, line: int, *, dashed: bool = False
) -> None:
    x1, y1, x2, y2 = (round(v) for v in box)
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    # A dark seam keeps light colours visible on bright ground.
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0), width=1)
    line = min(line, max(1, (x2 - x1) // 4))
    pen.rectangle((x1, y1, x2, y2), outline=color, width=line)
    if not dashed:
        return
    dash = 3 * line
    for x in range(x1 + dash, x2 - line, 2 * dash):
        for y in (y1, y2 - line + 1):
            pen.rectangle((x, y, min(x + dash, x2 - line), y + line - 1), fill=(0, 0, 0))
    for y in range(y1 + dash, y2 - line, 2 * dash):
        for x in (x1, x2 - line + 1):
            pen.rectangle((x, y, x + line - 1, min(y + dash, y2 - line)), fill=(0, 0, 0))


def _hatch(picture: Image.Image, box: Rectangle) -> None:
    x1, y1 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x2, y2 = min(picture.width, math.ceil(box[2])), min(picture.height, math.ceil(box[3]))
    if x2 <= x1 or y2 <= y1:
        return
    region = picture.crop((x1, y1, x2, y2))
    shaded = Image.blend(region, Image.new("RGB", region.size, IGNORE_COLOR), 0.35)
    pen = ImageDraw.Draw(shaded)
    for x in range(-region.height, region.width, 10):
        pen.line((x, region.height, x + region.height, 0), fill=(215, 215, 215), width=1)
    pen.rectangle((0, 0, region.width - 1, region.height - 1), outline=IGNORE_COLOR, width=2)
    picture.paste(shaded, (x1, y1))


def _write_tags(
    picture: Image.Image,
    xyxy: np.ndarray,
    labels: Sequence[str],
    scores: np.ndarray | None,
    colors: Mapping[str, Color],
    order: Sequence[int],
    size: int | None = None,
) -> None:
    """Write the names of the boxes ``order`` where there is room, in that order."""
    pen = ImageDraw.Draw(picture)
    size = size or max(11, round(picture.width / 44))
    font = ImageFont.load_default(size=size)
    texts = {i: shown(labels[i]) for i in order}
    if scores is not None:
        texts |= {i: f"{texts[i]} {scores[i]:.2f}" for i in order if not np.isnan(scores[i])}
    for i, tag in tag_places(picture.size, xyxy, texts, size).items():
        color = colors.get(labels[i], IGNORE_COLOR)
        pen.rectangle(tag, fill=color)
        pen.text((tag[0] + 3, tag[1] + 1), texts[i], fill=ink(color), font=font, anchor="lt")


def tag_places(
    size: tuple[int, int], xyxy: np.ndarray, texts: Mapping[int, str], letters: int
) -> dict[int, Rectangle]:
    """Where names of boxes stand so that they cover neither one another nor a box's middle.

    Args:
        size: width and height of the picture in pixels.
        xyxy: float [n, 4].
        texts: by box, in the order in which they are placed.
        letters: size of the letters in pixels.

    Returns:
        A rectangle for each box whose name has room.
    """
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    font = ImageFont.load_default(size=letters)
    placed: dict[int, Rectangle] = {}
    centres = (xyxy[list(texts), :2] + xyxy[list(texts), 2:]) / 2
    for i, text in texts.items():
        box = tuple(xyxy[i].tolist())
        tag = _place_tag(pen, text, font, box, size, list(placed.values()), centres)
        if tag is not None:
            placed[i] = tag
    return placed


def _place_tag(
    pen: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    box: Rectangle,
    size: tuple[int, int],
    placed: Sequence[Rectangle],
    centres: np.ndarray,
) -> Rectangle | None:
    """A place for a name tag at a corner of its box, or None.

    It must cover neither a tag placed before nor the middle of a box (``centres``, [n, 2]).
    """
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font, anchor="lt")
    width, height = right - left + 6, bottom - top + 5
    x1, y1, x2, y2 = box
    if x2 - x1 < 0.3 * width:
        return None
    for x, y in (
        (x1, y1 - height),
        (x1, y2),
        (x2 - width, y1 - height),
        (x2 - width, y2),
        (x1, y1),
    ):
        x = min(max(x, 0.0), size[0] - width)
        if x < 0 or y < 0 or y + height > size[1]:
            continue
        tag = (x, y, x + width, y + height)
        covers_tag = any(
            tag[0] < t[2] and t[0] < tag[2] and tag[1] < t[3] and t[1] < tag[3] for t in placed
        )
        inside = (centres > (x, y)) & (centres < (x + width, y + height))
        if not covers_tag and not inside.all(axis=1).any():
            return tag
    return None
