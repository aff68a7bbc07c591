"""Primitives to paint road users with, in metres.

Coordinates: x to the right, y up, origin on the ground below the object's middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin
from typing import Literal

import numpy as np

Point = tuple[float, float]
Colour = tuple[int, int, int]

GLASS: Colour = (52, 66, 82)
TYRE: Colour = (28, 28, 32)
HUB: Colour = (150, 152, 158)
SKIN: tuple[Colour, ...] = ((236, 196, 168), (198, 146, 112), (132, 90, 66))


@dataclass(frozen=True)
class Stroke:
    """One painted primitive.

    Attributes:
        form: ``polygon`` (vertices), ``ellipse`` (two corners), ``line`` (vertices, round joints).
        points: metres.
        width: metres, of a line.
    """

    form: Literal["polygon", "ellipse", "line"]
    points: tuple[Point, ...]
    colour: Colour
    width: float = 0.0


@dataclass(frozen=True)
class PartShape:
    """One instance: its Cityscapes label, closed outline and paint."""

    label: str
    outline: tuple[Point, ...]
    paint: tuple[Stroke, ...]


@dataclass(frozen=True)
class Shape:
    """A whole object: parts from far to near, and the half length of its shadow."""

    parts: tuple[PartShape, ...]
    shadow: float


def shade(colour: Colour, factor: float) -> Colour:
    """Brighten (> 1) or darken (< 1) a colour."""
    r, g, b = (min(255, max(0, round(c * factor))) for c in colour)
    return (r, g, b)


def polygon(points: tuple[Point, ...], colour: Colour) -> Stroke:
    return Stroke("polygon", points, colour)


def rectangle(x0: float, y0: float, x1: float, y1: float, colour: Colour) -> Stroke:
    return Stroke("polygon", ((x0, y0), (x1, y0), (x1, y1), (x0, y1)), colour)


def disc(x: float, y: float, radius: float, colour: Colour, aspect: float = 1.0) -> Stroke:
    dx = radius * aspect
    return Stroke("ellipse", ((x - dx, y - radius), (x + dx, y + radius)), colour)


def line(points: tuple[Point, ...], width: float, colour: Colour) -> Stroke:
    return Stroke("line", points, colour, width)


def arc(x: float, y: float, radius: float, start: float, stop: float, n: int) -> tuple[Point, ...]:
    """n points on a circle from ``start`` to ``stop`` degrees."""
    angles = np.linspace(start, stop, n)
    return tuple((x + radius * cos(radians(a)), y + radius * sin(radians(a))) for a in angles)


def wheel(x: float, radius: float) -> tuple[Stroke, ...]:
    return (disc(x, radius, radius, TYRE), disc(x, radius, radius * 0.55, HUB))


def spoked_wheel(x: float, radius: float) -> tuple[Stroke, ...]:
    ring = arc(x, radius, radius - 0.045, 0, 360, 25)
    spokes = tuple(line((ring[i], ring[i + 12]), 0.02, (170, 172, 178)) for i in (0, 3, 6, 9))
    return (*spokes, line(ring, 0.09, TYRE))


def pick(rng: np.random.Generator, options: tuple[Colour, ...]) -> Colour:
    return options[int(rng.integers(len(options)))]
