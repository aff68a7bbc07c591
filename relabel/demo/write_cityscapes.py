"""Write scenes in the layout and convention of Cityscapes.

Every instance is apart, a rider from the bicycle under them; the masks show what is visible; a
rack of tangled bicycles is a group region with a bare label id.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from relabel.demo.render import image_bytes, render, surfaces
from relabel.demo.world import Scene, filled, make_scene

LABEL_IDS = {
    "static": 4,
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "motorcycle": 32,
    "bicycle": 33,
}
_FIRST_THING = 24
_CITIES = {"train": ("lindheim", "norderau", "tannstedt"), "val": ("seebruck",)}


def stem(split: str, index: int) -> str:
    """``{city}/{city}_{seq6}_{frame6}`` of an image."""
    cities = _CITIES[split]
    city = cities[index % len(cities)]
    return f"{city}/{city}_{index // len(cities):06d}_000019"


def label_objects(scene: Scene) -> list[tuple[str, np.ndarray]]:
    """Labels and int [k, 2] polygons of everything in the picture, far to near."""
    background = [(label, np.array(points)) for label, points in surfaces(scene.camera)]
    return [*background, *((part.label, part.outline) for part in scene.parts)]


def instance_ids(scene: Scene) -> np.ndarray:
    """uint16 [H, W]: label id * 1000 + instance, or the bare label id of stuff and groups."""
    polygons = []
    counts: dict[int, int] = {}
    for label, polygon in label_objects(scene):
        value = LABEL_IDS[label.removesuffix("group")]
        if value >= _FIRST_THING and not label.endswith("group"):
            number = counts.get(value, 0)
            counts[value] = number + 1
            value = value * 1000 + number
        polygons.append((polygon, value))
    return filled(scene.camera, polygons).astype(np.uint16)


def write_image(root: Path, split: str, index: int, *, seed: int) -> list[Path]:
    """Write one image and its annotation files; returns their paths."""
    scene = make_scene("cityscapes", split, index, seed=seed)
    ids = instance_ids(scene)
    labels = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
    polygons = {
        "imgHeight": scene.camera.height,
        "imgWidth": scene.camera.width,
        "objects": [
            {"label": label, "polygon": polygon.tolist()} for label, polygon in label_objects(scene)
        ],
    }
    base = stem(split, index)
    truth = root / "gtFine" / split / f"{base}_gtFine_"
    files = {
        root / "leftImg8bit" / split / f"{base}_leftImg8bit.png": image_bytes(render(scene), "PNG"),
        truth.with_name(truth.name + "instanceIds.png"): image_bytes(ids, "PNG"),
        truth.with_name(truth.name + "labelIds.png"): image_bytes(labels, "PNG"),
        truth.with_name(truth.name + "polygons.json"): json.dumps(polygons).encode(),
    }
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return list(files)
