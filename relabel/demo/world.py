"""The scene model: a camera on a street, road users at depths, and which pixels belong to whom.

A scene is a pure function of (seed, dataset, split, index): the same numbers give the same scene
on every machine, and no scene depends on another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from relabel.demo.paint import PartShape, Point, Shape
from relabel.demo.shapes import SHAPES

DATASETS = ("cityscapes", "waymo", "nuimages")
SPLITS = ("train", "val")
CAMERA_HEIGHT = 1.6  # metres above the road
ROAD_HALF_WIDTH = 5.5  # metres
MIN_VISIBLE = 0.4  # share of an object that nearer objects must leave visible
MIN_PART_PIXELS = 28
MIN_PART_HEIGHT = 7


@dataclass(frozen=True)
class Camera:
    """A pinhole camera looking along the road.

    Attributes:
        width, height: pixels.
        focal: pixels.
        horizon: y of the horizon, pixels.
    """

    width: int
    height: int
    focal: float
    horizon: float

    def scale(self, depth: float) -> float:
        """Pixels per metre at a depth in metres."""
        return self.focal / depth

    def ground(self, depth: float) -> float:
        """y of the road at a depth, pixels."""
        return self.horizon + CAMERA_HEIGHT * self.scale(depth)

    def column(self, x: float, depth: float) -> float:
        """Pixel column of a lateral position in metres."""
        return self.width / 2 + x * self.scale(depth)


# The three datasets' aspect ratios (2:1, 3:2, 16:9) at a size small networks train on quickly.
CAMERAS = {
    "cityscapes": Camera(384, 192, 335.0, 74.0),
    "waymo": Camera(336, 224, 310.0, 92.0),
    "nuimages": Camera(352, 198, 315.0, 78.0),
}


@dataclass(frozen=True)
class Light:
    """Time of day and weather of one image; the mild gap between the datasets.

    Attributes:
        sky: colours at the top and at the horizon.
        gain: multiplies R, G, B of the finished picture.
        haze: depth in metres at which colours have faded to 1/e towards the horizon's colour.
        noise: standard deviation of the sensor noise, in 8-bit steps.
    """

    sky: tuple[tuple[float, float, float], tuple[float, float, float]]
    gain: tuple[float, float, float]
    haze: float
    noise: float


_LIGHTS = {
    "cityscapes": Light(((150, 176, 206), (214, 220, 224)), (0.96, 0.98, 0.98), 140.0, 2.0),
    "waymo": Light(((92, 140, 214), (246, 214, 178)), (1.06, 0.98, 0.88), 180.0, 1.5),
    "nuimages": Light(((148, 154, 160), (190, 196, 198)), (0.86, 0.92, 0.96), 90.0, 3.0),
}


@dataclass(frozen=True)
class Part:
    """One placed instance.

    Attributes:
        label: Cityscapes label, e.g. ``rider``, ``bicyclegroup``, ``static``.
        outline: int [k, 2] closed polygon of the pixels it covers, occlusion and borders ignored.
    """

    label: str
    shape: PartShape
    outline: np.ndarray

    @cached_property
    def extent(self) -> np.ndarray:
        """float64 [4] xyxy of the whole outline; it may reach beyond the image."""
        return np.concatenate([self.outline.min(0), self.outline.max(0) + 1]).astype(np.float64)


@dataclass(frozen=True)
class Actor:
    """One placed object.

    Attributes:
        kind: key of `SHAPES`.
        depth: metres.
        origin: pixel position of the ground point, float (x, y).
        scale: pixels per metre, horizontally (negative where mirrored) and vertically.
        parts: far to near.
        moving: its parked or moving state, where the kind can be either.
    """

    kind: str
    depth: float
    origin: tuple[float, float]
    scale: tuple[float, float]
    shape: Shape
    parts: tuple[Part, ...]
    moving: bool

    @cached_property
    def extent(self) -> np.ndarray:
        """float64 [4] xyxy of all its parts, occlusion and borders ignored."""
        boxes = np.stack([part.extent for part in self.parts])
        return np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])


@dataclass(frozen=True)
class Scene:
    """What one image shows.

    Attributes:
        dataset, split, index: which image it is.
        actors: far to near.
        light: its lighting.
        street_seed: seeds the buildings, trees, road texture and noise.
    """

    dataset: str
    split: str
    index: int
    camera: Camera
    actors: tuple[Actor, ...]
    light: Light
    street_seed: tuple[int, ...]

    @cached_property
    def parts(self) -> list[Part]:
        """All parts, far to near."""
        return [part for actor in self.actors for part in actor.parts]

    @cached_property
    def part_map(self) -> np.ndarray:
        """int32 [H, W]: 1 + index into `parts` of the part each pixel shows, 0 where none."""
        return filled(self.camera, [(part.outline, i + 1) for i, part in enumerate(self.parts)])

    def visible_mask(self, actor: Actor) -> np.ndarray:
        """bool [H, W], the pixels that show the object."""
        own = set(map(id, actor.parts))
        return np.isin(self.part_map, [i + 1 for i, p in enumerate(self.parts) if id(p) in own])

    def part_boxes(self) -> np.ndarray:
        """float64 [len(parts), 4] xyxy of the visible pixels of every part."""
        return np.stack([mask_box(self.part_map == i + 1) for i in range(len(self.parts))])

    def amodal_box(self, actor: Actor) -> np.ndarray:
        """float64 [4] xyxy of the whole object, seen or not, clipped to the image."""
        limit = np.array([self.camera.width, self.camera.height] * 2, dtype=np.float64)
        return np.clip(actor.extent, 0, limit)


def mask_box(mask: np.ndarray) -> np.ndarray:
    """xyxy float64 [4] around the True pixels of a mask [H, W] that has some."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def filled(camera: Camera, polygons: Iterable[tuple[Any, int]]) -> np.ndarray:
    """int32 [H, W]: the value of the last of the polygons [k, 2] over each pixel, 0 where none."""
    canvas = Image.new("I", (camera.width, camera.height))
    draw = ImageDraw.Draw(canvas)
    for polygon, value in polygons:
        draw.polygon([(int(x), int(y)) for x, y in polygon], fill=value)
    return np.asarray(canvas, dtype=np.int32)


def make_scene(dataset: str, split: str, index: int, *, seed: int) -> Scene:
    """The scene of one image of the demo world."""
    numbers = (seed, DATASETS.index(dataset), SPLITS.index(split), index)
    rng = np.random.default_rng(numbers)
    camera = CAMERAS[dataset]
    light = _light(dataset, rng)
    candidates = [_candidate(camera, kind, rng) for kind in _cast(rng)]
    actors = _settle(camera, candidates)
    return Scene(dataset, split, index, camera, actors, light, (*numbers, 1))


def _light(dataset: str, rng: np.random.Generator) -> Light:
    base = _LIGHTS[dataset]
    brightness = rng.uniform(0.88, 1.06)
    r, g, b = (float(gain * brightness * rng.uniform(0.98, 1.02)) for gain in base.gain)
    return Light(base.sky, (r, g, b), float(base.haze * rng.uniform(0.8, 1.2)), base.noise)


def _cast(rng: np.random.Generator) -> list[str]:
    """The kinds of object that try to get a place in the scene."""
    often = (
        ("car", 3), ("adult", 3), ("cyclist", 2), ("motorcyclist", 1), ("bicycle", 2),
        ("truck", 1), ("bus", 1),
    )  # fmt: skip
    kinds: list[str] = []
    for kind, most in often:
        kinds += [kind] * int(rng.integers(0, most + 1))
    for kind, chance in (("child", 0.35), ("police_car", 0.12), ("bicycle_group", 0.10)):
        if rng.random() < chance:
            kinds.append(kind)
    if rng.random() < 0.35:  # road works
        kinds += ["construction", "worker", "cone", "cone"][int(rng.integers(0, 2)) :]
    return kinds or ["car"]


# Depth range in metres and the strip of the street, in metres from its middle, of each kind.
_PLACES: dict[str, tuple[float, float, float, float]] = {
    "adult": (7, 20, 0, 9),
    "child": (6, 14, 2, 8),
    "worker": (7, 16, 1, 6),
    "cyclist": (6.5, 17, 0, 6),
    "bicycle": (6.5, 15, 3, 9),
    "bicycle_group": (9, 15, 5, 9),
    "motorcyclist": (7, 18, 0, 5),
    "car": (8, 26, 0, 8),
    "police_car": (9, 24, 0, 7),
    "truck": (12, 28, 0, 9),
    "bus": (13, 28, 0, 9),
    "construction": (12, 20, 2, 9),
    "cone": (6, 11, 1, 6),
}
_LONG = ("truck", "bus", "construction", "car", "police_car")
_SIDEWAYS = 2.6  # an object wider than this in metres is seen from its side


def _candidate(camera: Camera, kind: str, rng: np.random.Generator) -> Actor:
    near, far, inner, outer = _PLACES[kind]
    depth = float(near * (far / near) ** rng.random())
    reach = min(outer, 0.48 * camera.width / camera.scale(depth))
    x = float(rng.uniform(min(inner, reach * 0.6), reach)) * (1 if rng.random() < 0.5 else -1)
    shape = SHAPES[kind](rng)
    squeeze = 1.0
    if 2 * shape.shadow > _SIDEWAYS or kind in ("cyclist", "bicycle", "motorcyclist"):
        squeeze = float(rng.uniform(0.6, 1.0))  # seen at an angle
    vertical = camera.scale(depth)
    horizontal = vertical * squeeze * (1 if rng.random() < 0.5 else -1)
    origin = (camera.column(x, depth), camera.ground(depth))
    # A filled polygon includes its border pixels, so a vertex is the index of the pixel whose
    # middle is nearest to the outline's point.
    parts = tuple(
        Part(
            part.label,
            part,
            np.round(project(part.outline, origin, (horizontal, vertical)) - 0.5).astype(np.int64),
        )
        for part in shape.parts
    )
    moving = bool(rng.random() < 0.6)
    return Actor(kind, depth, origin, (horizontal, vertical), shape, parts, moving)


def project(
    points: tuple[Point, ...], origin: tuple[float, float], scale: tuple[float, float]
) -> np.ndarray:
    """Metres to pixels: float64 [k, 2]."""
    xy = np.asarray(points, dtype=np.float64)
    return np.stack([origin[0] + xy[:, 0] * scale[0], origin[1] - xy[:, 1] * scale[1]], axis=1)


def _settle(camera: Camera, candidates: list[Actor]) -> tuple[Actor, ...]:
    """Keep the objects that enough is seen of, nearest first; return them far to near."""
    taken = np.zeros((camera.height, camera.width), dtype=bool)
    kept: list[Actor] = []
    for actor in sorted(candidates, key=lambda a: a.depth):
        covered = np.zeros_like(taken)
        for part in reversed(actor.parts):
            mask = filled(camera, [(part.outline, 1)]) > 0
            visible = mask & ~taken & ~covered
            covered |= mask
            pixels = int(visible.sum())
            if pixels < MIN_PART_PIXELS or np.ptp(np.flatnonzero(visible.any(1))) < MIN_PART_HEIGHT:
                break
            # A rider hides part of the bicycle under them; that does not count against it.
            if len(actor.parts) == 1 and pixels < MIN_VISIBLE * mask.sum():
                break
        else:
            inside = np.clip(actor.extent, 0, [camera.width, camera.height] * 2)
            share = np.prod(inside[2:] - inside[:2]) / np.prod(actor.extent[2:] - actor.extent[:2])
            visible_share = (covered & ~taken).sum() / max(1, covered.sum())
            if share >= 0.45 and visible_share >= MIN_VISIBLE:
                kept.append(actor)
                taken |= covered
    return tuple(reversed(kept))
