"""Paint a scene: sky, buildings, road and road users, supersampled, with haze, light and noise."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from relabel.demo.paint import Colour, Stroke
from relabel.demo.world import ROAD_HALF_WIDTH, Actor, Camera, Scene, project

SUPERSAMPLING = 2
FAR = 60.0  # metres at which the street meets the buildings at its end
_NEAR = 2.0

# The street's polygons by Cityscapes label, in the order they are painted.
Surface = tuple[str, list[tuple[int, int]]]


def surfaces(camera: Camera) -> list[Surface]:
    """The background as labelled integer polygons, far to near."""
    w, h = camera.width, camera.height
    end = round(camera.ground(FAR))
    strip: list[Surface] = [
        ("sky", [(0, 0), (w - 1, 0), (w - 1, h - 1), (0, h - 1)]),
        ("building", [(0, round(h * 0.1)), (w - 1, round(h * 0.1)), (w - 1, h - 1), (0, h - 1)]),
        ("sidewalk", [(0, end), (w - 1, end), (w - 1, h - 1), (0, h - 1)]),
    ]
    near = camera.ground(_NEAR)
    half_far, half_near = (ROAD_HALF_WIDTH * camera.scale(z) for z in (FAR, _NEAR))
    middle = w / 2
    road = [
        (round(middle - half_far), end),
        (round(middle + half_far), end),
        (round(middle + half_near), round(near)),
        (round(middle - half_near), round(near)),
    ]
    return [*strip, ("road", road)]


def render(scene: Scene) -> np.ndarray:
    """The picture of a scene, uint8 [H, W, 3]."""
    rng = np.random.default_rng(scene.street_seed)
    camera, s = scene.camera, SUPERSAMPLING
    canvas = _street(scene, rng)
    draw = ImageDraw.Draw(canvas, "RGBA")
    for actor in scene.actors:
        _shadow(draw, actor)
        haze = float(1 - np.exp(-actor.depth / scene.light.haze))
        for part in actor.parts:
            for stroke in part.shape.paint:
                _paint(draw, stroke, actor, _faded(stroke.colour, scene, haze))
    small = np.asarray(canvas.reduce(s), dtype=np.float32)
    fall = np.linspace(1.05, 0.93, camera.height, dtype=np.float32)[:, None, None]
    gain = np.array(scene.light.gain, dtype=np.float32)
    noise = rng.normal(0, scene.light.noise, small.shape[:2]).astype(np.float32)
    return np.clip(np.round(small * gain * fall + noise[..., None]), 0, 255).astype(np.uint8)


def image_bytes(pixels: np.ndarray, format: Literal["PNG", "JPEG"]) -> bytes:
    """An image file of uint8 [H, W, 3] or, as PNG, 8-bit or 16-bit grey [H, W]."""
    colour = {"compress_level": 3} if pixels.ndim == 3 else {}
    options = colour if format == "PNG" else {"quality": 92, "subsampling": 0}
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def _street(scene: Scene, rng: np.random.Generator) -> Image.Image:
    camera, s = scene.camera, SUPERSAMPLING
    w, h = camera.width * s, camera.height * s
    end = camera.ground(FAR) * s
    top, bottom = (np.array(c, dtype=np.float32) for c in scene.light.sky)
    ramp = np.linspace(0, 1, h, dtype=np.float32)[:, None, None] * h / max(1.0, camera.horizon * s)
    sky = np.broadcast_to(top + (bottom - top) * np.minimum(ramp, 1), (h, w, 3))
    canvas = Image.fromarray(sky.astype(np.uint8))
    draw = ImageDraw.Draw(canvas, "RGBA")
    _buildings(draw, scene, rng, end)
    tone = int(rng.integers(-6, 7))
    draw.rectangle((0, end, w, h), fill=(160 + tone, 154 + tone, 146 + tone))
    for label, polygon in surfaces(camera):
        if label == "road":
            draw.polygon([(x * s, y * s) for x, y in polygon], fill=(104 + tone, 105 + tone, 110))
    _markings(draw, camera)
    return canvas


def _buildings(
    draw: ImageDraw.ImageDraw, scene: Scene, rng: np.random.Generator, end: float
) -> None:
    """House fronts with window grids, lower towards the vanishing point, and a few trees."""
    s = SUPERSAMPLING
    w, x, middle = scene.camera.width * s, 0.0, scene.camera.width * s / 2
    while x < w:
        width = float(rng.uniform(30, 64)) * s
        nearness = abs(x + width / 2 - middle) / middle
        high = end * (0.30 + 0.55 * nearness) * float(rng.uniform(0.85, 1.1))
        base = rng.integers(128, 176)
        wall = tuple(int(v) for v in base + rng.integers(-10, 11, 3) + np.array([8, 2, -6]))
        draw.rectangle((x, end - high, x + width, end + 1), fill=wall)
        pane = tuple(int(v * 0.8) for v in wall)
        columns, rows = max(2, int(width // (11 * s))), max(1, int(high // (13 * s)))
        for i in range(columns):
            for j in range(rows):
                left = x + (i + 0.28) * width / columns
                upper = end - high + (j + 0.25) * high / rows
                right, lower = left + 0.44 * width / columns, upper + 0.5 * high / rows
                draw.rectangle((left, upper, right, lower), fill=pane)
        x += width
    for _ in range(int(rng.integers(1, 4))):
        side = middle + float(rng.uniform(0.35, 0.95)) * middle * (1 if rng.random() < 0.5 else -1)
        size = float(rng.uniform(9, 17)) * s
        draw.rectangle((side - s, end - size, side + s, end + 2 * s), fill=(92, 78, 66))
        leaf = (92 + int(rng.integers(-8, 9)), 122 + int(rng.integers(-8, 9)), 84)
        for dx, dy in ((-0.5, 1.2), (0.5, 1.25), (0.0, 1.7)):
            cx, cy, r = side + dx * size, end - dy * size, 0.72 * size
            draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=leaf)


def _markings(draw: ImageDraw.ImageDraw, camera: Camera) -> None:
    def quad(x0: float, x1: float, z0: float, z1: float, colour: Colour) -> None:
        corners = [(x0, z0), (x1, z0), (x1, z1), (x0, z1)]
        points = [
            (camera.column(x, z) * SUPERSAMPLING, camera.ground(z) * SUPERSAMPLING)
            for x, z in corners
        ]
        draw.polygon(points, fill=colour)

    for side in (-ROAD_HALF_WIDTH, ROAD_HALF_WIDTH):
        quad(side - 0.12, side + 0.12, _NEAR, FAR, (190, 188, 182))
    for z in np.arange(3.0, FAR, 6.0):
        quad(-0.08, 0.08, float(z), float(z) + 2.5, (206, 206, 200))


def _shadow(draw: ImageDraw.ImageDraw, actor: Actor) -> None:
    s = SUPERSAMPLING
    half = actor.shape.shadow * abs(actor.scale[0])
    depth = 0.16 * actor.scale[1]
    x, y = actor.origin
    box = ((x - half) * s, (y - depth) * s, (x + half) * s, (y + 0.6 * depth) * s)
    draw.ellipse(box, fill=(20, 20, 28, 90))


def _faded(colour: Colour, scene: Scene, haze: float) -> Colour:
    horizon = scene.light.sky[1]
    r, g, b = (round(c * (1 - haze) + f * haze) for c, f in zip(colour, horizon, strict=True))
    return (r, g, b)


def _paint(draw: ImageDraw.ImageDraw, stroke: Stroke, actor: Actor, colour: Colour) -> None:
    points = project(stroke.points, actor.origin, actor.scale) * SUPERSAMPLING
    flat = [(float(x), float(y)) for x, y in points]
    if stroke.form == "polygon":
        draw.polygon(flat, fill=colour)
    elif stroke.form == "ellipse":
        low, high = points.min(0), points.max(0)
        draw.ellipse((*low.tolist(), *high.tolist()), fill=colour)
    else:
        width = max(1, round(stroke.width * actor.scale[1] * SUPERSAMPLING))
        draw.line(flat, fill=colour, width=width, joint="curve")
