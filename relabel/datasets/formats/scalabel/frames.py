"""The Scalabel frames that BDD100K and SHIFT share.

A file is a list of frames, or ``{"frames": [...], "config": {...}}``. A frame without labels
(missing, null or empty) is an image without objects. A ``box2d`` names the first and the last
pixel it covers, so that its width is ``x2 - x1 + 1``.

Source: the Scalabel label format (Yu et al., BDD100K, CVPR 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from relabel.datasets.dataset import Boxes, Images
from relabel.datasets.formats.box_checks import SKIP, ImageRows, checked_boxes
from relabel.datasets.formats.records import collector_paused, convert_record, may_repeat
from relabel.datasets.labelspace import LabelSpace
from relabel.errors import DataError, Problems, did_you_mean
from relabel.files.json_text import parse_json
from relabel.files.opening import read_bytes


class ImageSize(msgspec.Struct, gc=False):
    width: int | float
    height: int | float


class Box2D(msgspec.Struct, gc=False):
    x1: float
    y1: float
    x2: float
    y2: float


class Attributes(msgspec.Struct, gc=False):
    """Label attributes that are kept; their types differ between releases."""

    occluded: Any = None
    truncated: Any = None
    crowd: Any = None
    trafficLightColor: Any = None


class Label(msgspec.Struct, gc=False):
    category: str | None = None
    box2d: Box2D | None = None
    attributes: Attributes | None = None
    id: str | int | None = None


class Frame(msgspec.Struct, gc=False):
    name: str
    labels: list[Label] | None = None
    videoName: str | None = None
    size: ImageSize | None = None


class _Config(msgspec.Struct):
    imageSize: ImageSize | None = None


class _File(msgspec.Struct):
    frames: list[Frame]
    config: _Config | None = None


class _LooseFrame(msgspec.Struct):
    name: str
    labels: list[Any] | None = None
    videoName: str | None = None
    size: ImageSize | None = None


@dataclass(frozen=True)
class Placed:
    """Where a reader puts a frame: its file name under the root, location and size."""

    file_name: str
    location: str
    width: float
    height: float


def read_frames(
    file: Path, problems: Problems, *, remedy: str
) -> tuple[list[Frame], ImageSize | None]:
    """The frames of a Scalabel file and the image size its ``config`` names.

    Labels and frames that do not fit the format go to ``problems``.

    Raises:
        DataError: missing, empty, cut off or not Scalabel; or a bad record, unless skipped.
    """
    data = read_bytes(file, remedy=remedy)
    try:
        with collector_paused():
            if data.lstrip()[:1] == b"[":
                frames, size = msgspec.json.decode(data, type=list[Frame]), None
            else:
                content = msgspec.json.decode(data, type=_File)
                frames, size = content.frames, content.config and content.config.imageSize
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _read_loosely(file, parse_json(data, file), problems)
    labels = sum(len(frame.labels or ()) for frame in frames)
    once = {"frames": 1, "labels": len(frames), "box2d": labels, "category": labels}
    if may_repeat(data, once):
        parse_json(data, file)
    return frames, size


def _read_loosely(
    file: Path, content: Any, problems: Problems
) -> tuple[list[Frame], ImageSize | None]:
    size = None
    if isinstance(content, dict):
        config = content.get("config")
        if config is not None:
            parsed = convert_record(config, _Config, path=file, record="config", problems=problems)
            size = parsed and parsed.imageSize
        content = content.get("frames")
    if not isinstance(content, list):
        raise DataError(
            "is neither a list of frames nor an object with `frames`",
            file=file,
            remedy="Use the detection labels in Scalabel format.",
        )
    frames = []
    for i, raw in enumerate(content):
        title = raw.get("name") if isinstance(raw, dict) else None
        record = f"frame {i}" + (f" ({title})" if isinstance(title, str) else "")
        loose = convert_record(raw, _LooseFrame, path=file, record=record, problems=problems)
        if loose is None:
            continue
        labels = []
        for k, value in enumerate(loose.labels or ()):
            label = convert_record(
                value, Label, path=file, record=f"{record}, label {k}", problems=problems
            )
            if label is not None:
                labels.append(label)
        frames.append(Frame(loose.name, labels, loose.videoName, loose.size))
    return frames, size


def place_frames(
    frames: list[Frame],
    place: Callable[[Frame], Placed | None],
    file: Path,
    problems: Problems,
) -> tuple[list[Frame], Images]:
    """Frames that have a place, each name once, and their images."""
    kept: list[Frame] = []
    rows = ImageRows(problems)
    for frame in frames:
        placed = place(frame)
        if placed is None:
            continue
        size = placed.width, placed.height
        record = f"frame {frame.name}"
        row = rows.add(placed.file_name, size, file=file, record=record, location=placed.location)
        if row is not None:
            kept.append(frame)
    return kept, rows.images()


def frame_boxes(
    frames: list[Frame],
    images: Images,
    space: LabelSpace,
    file: Path,
    problems: Problems,
) -> Boxes:
    """The boxes of frames, of one image each.

    Crowds and ignore categories become ignore boxes. Labels without a ``box2d`` (lanes and
    drivable areas in old releases) are left out and counted.
    """
    image: list[int] = []
    place: list[int] = []
    corners: list[tuple[float, float, float, float]] = []
    category: list[int] = []
    crowd: list[bool] = []
    extra: list[bytes | None] = []
    known: dict[str, int | None] = {}
    encoded: dict[tuple[Any, ...], bytes | None] = {}
    shapeless = 0
    for row, frame in enumerate(frames):
        seen: set[str | int] = set()
        for k, label in enumerate(frame.labels or ()):
            box = label.box2d
            if box is None:
                shapeless += 1
                continue
            title = label.category or ""
            if title not in known:
                known[title] = space.get(title)
            position = known[title]
            if position is None:
                problems.error(
                    f"unknown category {title!r}",
                    file=file,
                    record=f"frame {frame.name}, label {k}",
                    remedy=did_you_mean(title, space.names),
                )
                continue
            if label.id is not None:
                if label.id in seen:
                    problems.error(
                        f"label id {label.id!r} appears twice in the frame",
                        file=file,
                        record=f"frame {frame.name}, label {k}",
                        remedy=SKIP,
                    )
                    continue
                seen.add(label.id)
            attributes = label.attributes
            try:
                extra.append(None if attributes is None else _extra(attributes, encoded))
            except (OverflowError, ValueError) as error:  # an endless number, half a character
                problems.error(
                    f"attributes cannot be kept: {error}",
                    file=file,
                    record=f"frame {frame.name}, label {k}",
                    remedy=SKIP,
                )
                continue
            image.append(row)
            place.append(k)
            # The last pixel belongs to the box.
            corners.append((box.x1, box.y1, box.x2 - box.x1 + 1, box.y2 - box.y1 + 1))
            category.append(position)
            crowd.append(attributes is not None and attributes.crowd in (True, "true"))
    problems.count("labelled without a box2d: left out", shapeless)
    return checked_boxes(
        image,
        corners,
        category,
        images,
        space,
        problems,
        file,
        lambda i: f"frame {frames[image[i]].name}, label {place[i]}",
        ignore=crowd,
        extra=extra,
    )


def _extra(attributes: Attributes, encoded: dict[tuple[Any, ...], bytes | None]) -> bytes | None:
    """The attributes as the JSON of an extra field, one object per combination of values."""
    key = (
        attributes.occluded,
        attributes.truncated,
        attributes.crowd,
        attributes.trafficLightColor,
    )
    try:
        return encoded[key]
    except KeyError:
        pass
    except TypeError:  # a list or an object where the format has a flag: nothing worth keeping
        return None
    kept = {k: v for k, v in msgspec.structs.asdict(attributes).items() if v is not None}
    encoded[key] = msgspec.json.encode({"attributes": kept}) if kept else None
    return encoded[key]
