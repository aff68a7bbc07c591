"""What the demo world's road users look like: outlines and paint in metres.

Shapes face right; the scene mirrors them. A shape is a list of parts, far to near; a part is one
instance in the Cityscapes sense, so a cyclist is a bicycle and a rider.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from relabel.demo.paint import (
    GLASS,
    HUB,
    SKIN,
    TYRE,
    Colour,
    PartShape,
    Point,
    Shape,
    Stroke,
    arc,
    disc,
    line,
    pick,
    polygon,
    rectangle,
    shade,
    spoked_wheel,
    wheel,
)


def _person(rng: np.random.Generator, height: float, clothes: tuple[Colour, Colour]) -> PartShape:
    top, trousers = clothes
    s = float(rng.uniform(0.03, 0.13))  # half the stride
    unit: tuple[Point, ...] = (
        *((-s - 0.05, 0.0), (-s + 0.05, 0.0), (0.0, 0.40), (s - 0.04, 0.0), (s + 0.07, 0.0)),
        *((0.09, 0.47), (0.14, 0.47), (0.18, 0.51), (0.14, 0.80), (0.05, 0.85), (0.07, 0.92)),
        *((0.04, 1.0), (-0.04, 1.0), (-0.07, 0.92), (-0.05, 0.85), (-0.14, 0.80)),
        *((-0.18, 0.51), (-0.14, 0.47), (-0.09, 0.47)),
    )
    skin = pick(rng, SKIN)
    hair = pick(rng, ((40, 30, 26), (96, 66, 40), (186, 156, 100), (120, 120, 124)))
    paint = (
        polygon(((-s - 0.05, 0.0), (-s + 0.05, 0.0), (0.02, 0.5), (-0.09, 0.5)), trousers),
        polygon(
            ((s - 0.04, 0.0), (s + 0.07, 0.0), (0.09, 0.5), (-0.02, 0.5)), shade(trousers, 0.8)
        ),
        line(((-0.12, 0.78), (-0.155, 0.50)), 0.06, shade(top, 0.8)),
        line(((0.12, 0.78), (0.155, 0.50)), 0.06, shade(top, 0.9)),
        polygon(
            ((-0.10, 0.46), (0.10, 0.46), (0.14, 0.80), (0.05, 0.85), (-0.05, 0.85), (-0.14, 0.80)),
            top,
        ),
        disc(0.0, 0.92, 0.08, hair, 0.85),
        disc(0.015, 0.905, 0.065, skin, 0.8),
    )
    return _scaled(PartShape("person", unit, paint), height)


def _scaled(part: PartShape, factor: float) -> PartShape:
    def grow(points: tuple[Point, ...]) -> tuple[Point, ...]:
        return tuple((x * factor, y * factor) for x, y in points)

    strokes = tuple(Stroke(p.form, grow(p.points), p.colour, p.width * factor) for p in part.paint)
    return PartShape(part.label, grow(part.outline), strokes)


def adult(rng: np.random.Generator) -> Shape:
    top = pick(rng, ((178, 44, 60), (126, 62, 150), (60, 90, 160), (84, 60, 48), (210, 120, 140)))
    trousers = pick(rng, ((44, 50, 76), (60, 58, 56), (30, 32, 38)))
    return Shape((_person(rng, float(rng.uniform(1.62, 1.88)), (top, trousers)),), 0.35)


def child(rng: np.random.Generator) -> Shape:
    top = pick(rng, ((240, 96, 170), (90, 200, 240), (250, 150, 190)))
    part = _person(rng, float(rng.uniform(1.05, 1.25)), (top, (90, 110, 190)))
    bag = rectangle(-0.13, 0.62, 0.10, 0.95, (120, 40, 130))
    return Shape(
        (PartShape(part.label, part.outline, (*part.paint[:-2], bag, *part.paint[-2:])),), 0.3
    )


def worker(rng: np.random.Generator) -> Shape:
    part = _person(rng, float(rng.uniform(1.68, 1.85)), ((250, 124, 20), (60, 66, 90)))
    stripes = (
        rectangle(-0.21, 1.0, 0.21, 1.07, (236, 240, 120)),
        rectangle(-0.23, 1.2, 0.23, 1.27, (236, 240, 120)),
        disc(0.0, 1.70, 0.10, (250, 220, 40), 1.0),
    )
    return Shape((PartShape(part.label, part.outline, (*part.paint, *stripes)),), 0.35)


def _bicycle_part(frame: Colour) -> PartShape:
    r, cx = 0.34, 0.52
    outline = (
        *arc(-cx, r, r, -90, -260, 8),
        *((-0.30, 0.95), (-0.10, 0.97), (0.34, 0.97), (0.34, 1.06), (0.52, 1.06), (0.50, 0.92)),
        *arc(cx, r, r, 80, -90, 8),
    )
    tubes: tuple[tuple[Point, ...], ...] = (
        ((-cx, r), (-0.06, 0.30), (-0.22, 0.84), (-cx, r)),
        ((-0.06, 0.30), (0.36, 0.80), (-0.20, 0.78)),
        ((cx, r), (0.36, 0.80), (0.34, 1.0), (0.50, 1.02)),
    )
    paint = (
        *spoked_wheel(-cx, r),
        *spoked_wheel(cx, r),
        *(line(t, 0.085, frame) for t in tubes),
        line(((-0.30, 0.93), (-0.12, 0.93)), 0.07, TYRE),
    )
    return PartShape("bicycle", outline, paint)


BICYCLE_FRAMES: tuple[Colour, ...] = ((0, 196, 204), (30, 220, 150), (250, 250, 250))


def bicycle(rng: np.random.Generator) -> Shape:
    return Shape((_bicycle_part(pick(rng, BICYCLE_FRAMES)),), 0.8)


def bicycle_group(rng: np.random.Generator) -> Shape:
    """Bicycles in a rack, too tangled to tell apart: one group region."""
    paint: list[Stroke] = []
    for x in (-0.9, -0.3, 0.3, 0.9):
        for stroke in _bicycle_part(pick(rng, BICYCLE_FRAMES)).paint:
            shifted = tuple((px * 0.8 + x, py) for px, py in stroke.points)
            paint.append(Stroke(stroke.form, shifted, stroke.colour, stroke.width))
    outline: tuple[Point, ...] = (
        *((-1.4, 0.0), (-1.6, 0.34), (-1.4, 0.68), (-1.15, 0.97), (1.15, 1.06), (1.3, 1.06)),
        *((1.4, 0.68), (1.6, 0.34), (1.4, 0.0)),
    )
    return Shape((PartShape("bicyclegroup", outline, tuple(paint)),), 1.5)


def cyclist(rng: np.random.Generator) -> Shape:
    top = pick(rng, ((206, 240, 40), (250, 230, 30), (180, 230, 60)))
    helmet = pick(rng, ((250, 250, 250), (230, 60, 40)))
    leg = (36, 40, 60)
    outline: tuple[Point, ...] = (
        *((-0.02, 0.24), (0.17, 0.24), (0.15, 0.40), (0.27, 0.74), (0.10, 0.92), (0.22, 1.12)),
        *((0.46, 0.98), (0.50, 1.08), (0.30, 1.40), (0.44, 1.52), (0.45, 1.66), (0.34, 1.77)),
        *((0.20, 1.74), (0.14, 1.58), (-0.12, 1.34), (-0.36, 1.0), (-0.33, 0.84), (0.02, 0.72)),
        (0.01, 0.45),
    )
    paint = (
        line(((-0.20, 0.92), (0.18, 0.74), (0.07, 0.30), (0.15, 0.28)), 0.14, leg),
        polygon(((-0.36, 1.0), (-0.30, 0.84), (-0.04, 0.86), (0.28, 1.36), (0.12, 1.52)), top),
        line(((0.16, 1.38), (0.30, 1.14), (0.45, 1.03)), 0.10, shade(top, 0.85)),
        disc(0.30, 1.60, 0.13, pick(rng, SKIN), 0.95),
        polygon(arc(0.30, 1.62, 0.15, -5, 185, 10), helmet),
    )
    bike = _bicycle_part(pick(rng, BICYCLE_FRAMES))
    return Shape((bike, PartShape("rider", outline, paint)), 0.8)


def motorcyclist(rng: np.random.Generator) -> Shape:
    body = pick(rng, ((150, 20, 150), (110, 30, 190)))
    r, cx = 0.31, 0.68
    machine = (
        *arc(-cx, r, r, -90, -230, 7),
        *((-0.86, 0.86), (-0.30, 0.84), (0.10, 0.98), (0.36, 1.14), (0.52, 1.14), (0.66, 0.80)),
        *arc(cx, r, r, 60, -90, 7),
        *((0.40, 0.16), (-0.40, 0.16)),
    )
    machine_paint = (
        *wheel(-cx, r),
        *wheel(cx, r),
        line(((cx, r), (0.44, 1.08)), 0.09, HUB),
        rectangle(-0.38, 0.18, 0.36, 0.62, (70, 70, 76)),
        polygon(
            ((-0.86, 0.86), (-0.60, 0.60), (0.40, 0.50), (0.60, 0.84), (0.42, 1.10), (0.10, 0.96)),
            body,
        ),
        line(((-0.60, 0.84), (-0.06, 0.84)), 0.10, TYRE),
        disc(0.58, 0.86, 0.09, (255, 246, 200)),
    )
    suit = pick(rng, ((38, 38, 44), (70, 24, 30)))
    rider: tuple[Point, ...] = (
        *((0.02, 0.24), (0.24, 0.24), (0.22, 0.42), (0.32, 0.74), (0.10, 0.94), (0.16, 1.12)),
        *((0.44, 1.0), (0.47, 1.10), (0.16, 1.42), (0.26, 1.55), (0.24, 1.70), (0.12, 1.78)),
        *((-0.04, 1.74), (-0.09, 1.56), (-0.18, 1.34), (-0.34, 0.96), (-0.28, 0.80), (0.06, 0.70)),
    )
    rider_paint = (
        line(((-0.16, 0.90), (0.22, 0.76), (0.11, 0.32), (0.22, 0.29)), 0.16, shade(suit, 0.8)),
        polygon(((-0.34, 0.96), (-0.28, 0.80), (0.08, 0.86), (0.18, 1.34), (-0.14, 1.46)), suit),
        line(((0.05, 1.36), (0.20, 1.12), (0.42, 1.06)), 0.11, shade(suit, 1.3)),
        disc(0.08, 1.60, 0.17, pick(rng, ((240, 240, 244), (250, 200, 40)))),
        rectangle(0.08, 1.55, 0.24, 1.66, GLASS),
    )
    return Shape(
        (PartShape("motorcycle", machine, machine_paint), PartShape("rider", rider, rider_paint)),
        1.0,
    )


CAR_BODIES: tuple[Colour, ...] = ((196, 36, 36), (36, 84, 190), (176, 180, 188), (34, 36, 44))


def _car_side(body: Colour, extras: tuple[Stroke, ...]) -> Shape:
    hull: tuple[Point, ...] = (
        *((-2.15, 0.25), (-2.15, 0.75), (-1.95, 0.93), (-1.55, 0.97), (-1.15, 1.40), (0.45, 1.45)),
        *((1.10, 0.98), (1.95, 0.86), (2.15, 0.60), (2.15, 0.25)),
    )
    below = (*arc(1.35, 0.33, 0.33, 0, -180, 7), *arc(-1.35, 0.33, 0.33, 0, -180, 7))
    paint = (
        polygon(hull, body),
        polygon(((-2.15, 0.25), (-2.15, 0.52), (2.15, 0.46), (2.15, 0.25)), shade(body, 0.7)),
        polygon(((-1.36, 0.96), (-1.04, 1.32), (-0.36, 1.35), (-0.36, 0.96)), GLASS),
        polygon(((-0.26, 0.96), (-0.26, 1.35), (0.36, 1.36), (0.86, 0.98)), GLASS),
        line(((-0.31, 0.94), (-0.31, 0.40)), 0.04, shade(body, 0.6)),
        *wheel(-1.35, 0.33),
        *wheel(1.35, 0.33),
        rectangle(-2.15, 0.66, -2.02, 0.80, (230, 40, 40)),
        rectangle(1.98, 0.62, 2.13, 0.76, (255, 246, 214)),
        *extras,
    )
    return Shape((PartShape("car", (*hull, *below), paint),), 2.2)


def _car_end(body: Colour, lamp: Colour, extras: tuple[Stroke, ...]) -> Shape:
    outline: tuple[Point, ...] = (
        *((-0.90, 0.0), (-0.92, 0.78), (-0.80, 0.96), (-0.64, 1.40), (-0.40, 1.46), (0.40, 1.46)),
        *((0.64, 1.40), (0.80, 0.96), (0.92, 0.78), (0.90, 0.0), (0.62, 0.0), (0.60, 0.2)),
        *((-0.60, 0.2), (-0.62, 0.0)),
    )
    paint = (
        rectangle(-0.90, 0.0, -0.62, 0.4, TYRE),
        rectangle(0.62, 0.0, 0.90, 0.4, TYRE),
        polygon((*outline[1:9], (0.90, 0.24), (-0.90, 0.24)), body),
        polygon(((-0.66, 0.98), (-0.54, 1.36), (0.54, 1.36), (0.66, 0.98)), GLASS),
        rectangle(-0.90, 0.20, 0.90, 0.40, shade(body, 0.6)),
        rectangle(-0.88, 0.62, -0.60, 0.80, lamp),
        rectangle(0.60, 0.62, 0.88, 0.80, lamp),
        rectangle(-0.26, 0.44, 0.26, 0.56, (236, 236, 226)),
        *extras,
    )
    return Shape((PartShape("car", outline, paint),), 1.0)


def car(rng: np.random.Generator) -> Shape:
    body = pick(rng, CAR_BODIES)
    if rng.random() < 0.5:
        return _car_side(body, ())
    return _car_end(body, ((230, 40, 40), (255, 246, 214))[int(rng.integers(2))], ())


def police_car(rng: np.random.Generator) -> Shape:
    """A white and blue car with a light bar; a car in Cityscapes, its own class in nuImages."""
    body: Colour = (240, 242, 246)
    if rng.random() < 0.5:
        stripe = rectangle(-2.1, 0.56, 2.1, 0.74, (20, 60, 220))
        return _car_side(body, (stripe, rectangle(-0.5, 1.34, 0.1, 1.45, (30, 70, 255))))
    bar = rectangle(-0.40, 1.34, 0.40, 1.46, (30, 70, 255))
    return _car_end(body, (230, 40, 40), (rectangle(-0.58, 0.60, 0.58, 0.80, (20, 60, 220)), bar))


def truck(rng: np.random.Generator) -> Shape:
    cab = pick(rng, ((20, 120, 60), (24, 100, 90)))
    cargo: Colour = (226, 226, 214)
    if rng.random() < 0.4:
        outline: tuple[Point, ...] = (
            *((-1.2, 0.0), (-1.25, 0.6), (-1.25, 3.2), (1.25, 3.2), (1.25, 0.6), (1.2, 0.0)),
            *((0.8, 0.0), (0.8, 0.45), (-0.8, 0.45), (-0.8, 0.0)),
        )
        paint = (
            rectangle(-1.2, 0.0, -0.8, 0.7, TYRE),
            rectangle(0.8, 0.0, 1.2, 0.7, TYRE),
            rectangle(-1.25, 0.6, 1.25, 3.2, cargo),
            rectangle(-1.25, 0.45, 1.25, 0.75, shade(cab, 0.7)),
            rectangle(-1.25, 2.6, 1.25, 2.8, cab),
            line(((0.0, 0.75), (0.0, 3.1)), 0.05, shade(cargo, 0.6)),
            rectangle(-1.15, 0.5, -0.8, 0.7, (230, 40, 40)),
            rectangle(0.8, 0.5, 1.15, 0.7, (230, 40, 40)),
        )
        return Shape((PartShape("truck", outline, paint),), 1.3)
    side: tuple[Point, ...] = (
        *((-3.8, 0.5), (-3.8, 3.2), (1.9, 3.2), (1.95, 2.6), (3.3, 2.6), (3.8, 1.5), (3.8, 0.45)),
        *arc(2.8, 0.45, 0.45, 0, -180, 6),
        *((1.2, 0.5), (-1.1, 0.5)),
        *arc(-2.6, 0.45, 0.45, 0, -180, 6),
    )
    side_paint = (
        rectangle(-3.8, 0.5, 3.8, 0.8, (60, 62, 66)),
        rectangle(-3.8, 0.75, 1.9, 3.2, cargo),
        rectangle(-3.8, 1.7, 1.9, 2.1, cab),
        polygon(((1.95, 0.5), (1.95, 2.6), (3.3, 2.6), (3.8, 1.5), (3.8, 0.45)), cab),
        polygon(((2.35, 1.55), (2.35, 2.4), (3.2, 2.4), (3.6, 1.55)), GLASS),
        *wheel(-2.6, 0.45),
        *wheel(2.8, 0.45),
    )
    return Shape((PartShape("truck", side, side_paint),), 3.8)


def bus(rng: np.random.Generator) -> Shape:
    body = pick(rng, ((250, 204, 20), (244, 190, 30)))
    if rng.random() < 0.4:
        outline: tuple[Point, ...] = (
            *((-1.2, 0.0), (-1.25, 0.4), (-1.25, 2.8), (-1.1, 3.0), (1.1, 3.0), (1.25, 2.8)),
            *((1.25, 0.4), (1.2, 0.0), (0.85, 0.0), (0.85, 0.35), (-0.85, 0.35), (-0.85, 0.0)),
        )
        paint = (
            rectangle(-1.2, 0.0, -0.85, 0.6, TYRE),
            rectangle(0.85, 0.0, 1.2, 0.6, TYRE),
            polygon((*outline[1:7],), body),
            rectangle(-1.08, 1.4, 1.08, 2.5, GLASS),
            rectangle(-0.6, 2.6, 0.6, 2.85, (250, 150, 40)),
            rectangle(-1.25, 0.4, 1.25, 0.6, shade(body, 0.6)),
            rectangle(-1.15, 0.8, -0.85, 1.05, (230, 40, 40)),
            rectangle(0.85, 0.8, 1.15, 1.05, (230, 40, 40)),
        )
        return Shape((PartShape("bus", outline, paint),), 1.3)
    side: tuple[Point, ...] = (
        *((-5.2, 0.4), (-5.2, 2.9), (-5.0, 3.0), (5.0, 3.0), (5.2, 2.6), (5.25, 0.4)),
        *arc(3.4, 0.48, 0.48, 0, -180, 6),
        *arc(-3.2, 0.48, 0.48, 0, -180, 6),
    )
    windows = tuple(rectangle(x, 1.5, x + 1.45, 2.5, GLASS) for x in np.arange(-4.9, 3.0, 1.62))
    side_paint = (
        polygon(side[:6], body),
        rectangle(-5.2, 0.4, 5.2, 0.75, shade(body, 0.65)),
        *windows,
        polygon(((3.3, 0.6), (3.3, 2.6), (5.1, 2.6), (5.2, 0.6)), GLASS),
        line(((4.2, 0.6), (4.2, 2.6)), 0.08, body),
        *wheel(-3.2, 0.48),
        *wheel(3.4, 0.48),
    )
    return Shape((PartShape("bus", side, side_paint),), 5.2)


def excavator(rng: np.random.Generator) -> Shape:
    """A construction vehicle; Cityscapes counts it among the trucks."""
    body: Colour = pick(rng, ((246, 130, 24), (236, 116, 30)))
    outline: tuple[Point, ...] = (
        *((-1.8, 0.1), (-1.8, 1.9), (0.1, 1.95), (0.15, 2.65), (1.15, 2.65), (1.3, 2.1)),
        *((2.15, 3.3), (2.55, 3.35), (3.65, 1.5), (3.5, 0.75), (2.85, 0.75), (3.1, 1.4)),
        *((2.35, 2.75), (1.6, 1.4), (1.8, 0.7), (1.8, 0.0), (-1.7, 0.0)),
    )
    paint = (
        rectangle(-1.8, 0.0, 1.8, 0.75, (44, 44, 48)),
        *(disc(x, 0.37, 0.26, (96, 96, 100)) for x in (-1.35, -0.45, 0.45, 1.35)),
        polygon(((-1.8, 0.8), (-1.8, 1.9), (0.2, 1.95), (1.4, 1.4), (1.4, 0.8)), body),
        polygon(((0.15, 1.0), (0.15, 2.65), (1.15, 2.65), (1.3, 1.6), (1.3, 1.0)), body),
        polygon(((0.3, 1.6), (0.3, 2.45), (1.0, 2.45), (1.1, 1.6)), GLASS),
        line(((1.35, 1.4), (2.35, 3.1), (3.35, 1.45)), 0.36, shade(body, 0.9)),
        polygon(((2.85, 0.75), (3.05, 1.45), (3.65, 1.5), (3.5, 0.75)), (70, 70, 74)),
    )
    return Shape((PartShape("truck", outline, paint),), 2.0)


def cone(rng: np.random.Generator) -> Shape:
    del rng
    outline: tuple[Point, ...] = (
        *((-0.26, 0.0), (-0.26, 0.08), (-0.19, 0.08), (-0.05, 0.75), (0.05, 0.75), (0.19, 0.08)),
        *((0.26, 0.08), (0.26, 0.0)),
    )
    paint = (
        polygon(outline, (240, 60, 20)),
        polygon(((-0.14, 0.30), (-0.10, 0.48), (0.10, 0.48), (0.14, 0.30)), (250, 250, 250)),
    )
    return Shape((PartShape("static", outline, paint),), 0.3)


SHAPES: dict[str, Callable[[np.random.Generator], Shape]] = {
    "adult": adult,
    "child": child,
    "worker": worker,
    "cyclist": cyclist,
    "bicycle": bicycle,
    "bicycle_group": bicycle_group,
    "motorcyclist": motorcyclist,
    "car": car,
    "police_car": police_car,
    "truck": truck,
    "bus": bus,
    "construction": excavator,
    "cone": cone,
}
