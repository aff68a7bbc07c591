"""A tiny world for transfer: grey photos of coloured blocks under two label conventions.

The target boxes a block tightly and calls it by its colour; the source boxes it loosely, calls
everything a thing, and leaves small blocks out. Pseudo-labels are drawn noisily from the truth,
so that no detector has to be trained.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.dataset import DetectionDataset, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.geometry import xyxy_to_xywh
from relabel.lat.settings import LatSettings
from relabel.settings import Runtime
from tests.builders.datasets import dataset_of, write_pixels

SIZE = 96
COLORS = {"red": (200, 40, 40), "blue": (40, 60, 200)}
SMALL = 18
RUNTIME = Runtime(device="cpu", workers=0, quiet=True)
# A network that learns next to nothing, in seconds.
TINY_LAT = LatSettings(
    image_size=SIZE,
    steps=2,
    batch_size=4,
    channels=16,
    feature_channels=4,
    precision="fp32",
    folds=2,
)


@dataclass
class World:
    """Datasets, the truth of the source in the target's convention, and pseudo-labels."""

    target: DetectionDataset
    source: DetectionDataset
    truth: DetectionDataset
    labels: dict[tuple[str, str], PseudoLabels]


def train_on_blocks(world: World, settings: LatSettings, out: Path) -> Path:
    """Train LAT on the world."""
    from relabel.lat.train import train_lat

    datasets = {"tight": world.target, "loose": world.source}
    return train_lat(datasets, world.labels, "tight", out, settings, RUNTIME)


def tiny_backbone(folder: Path) -> Path:
    """A randomly initialised MobileNetV2 of a few channels, as a transformers checkpoint."""
    import torch
    from transformers import MobileNetV2Config, MobileNetV2Model

    torch.manual_seed(0)
    config = MobileNetV2Config(depth_multiplier=0.35, image_size=SIZE)
    model = MobileNetV2Model(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            # Norms keep their first statistics, so that nothing else holds signals up to size.
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "MobileNetV2ImageProcessor",
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
            }
        )
    )
    return folder


def make_world(folder: Path, images: int = 24, seed: int = 0) -> World:
    """Write the photos and return both datasets with their pseudo-labels."""
    rng = np.random.default_rng(seed)
    tight = LabelSpace.from_names("tight", list(COLORS))
    loose = LabelSpace.from_names("loose", ["thing"])
    target = _dataset(folder / "tight", "tight", tight, images, rng)
    truth = _dataset(folder / "loose", "loose", tight, images, rng)
    source = _loosened(truth, loose)
    labels = {
        ("loose", "tight"): _pseudo(_loosened(target, loose), "loose", "tight", rng),
        ("tight", "loose"): _pseudo(truth, "tight", "loose", rng),
        ("tight", "tight"): _pseudo(target, "tight", "tight", rng),
    }
    return World(target, source, truth, labels)


def _dataset(
    folder: Path, name: str, space: LabelSpace, images: int, rng: np.random.Generator
) -> DetectionDataset:
    names, image, boxes, classes = [], [], [], []
    for i in range(images):
        pixels = rng.integers(90, 130, (SIZE, SIZE, 3)).astype(np.uint8)
        taken: list[tuple[int, int, int, int]] = []
        for _ in range(3):
            w, h = rng.integers(10, 32, 2)
            x, y = rng.integers(4, SIZE - w - 4), rng.integers(4, SIZE - h - 4)
            if any(
                x < b[2] + 4 and x + w > b[0] - 4 and y < b[3] + 4 and y + h > b[1] - 4
                for b in taken
            ):
                continue
            c = int(rng.integers(2))
            pixels[y : y + h, x : x + w] = list(COLORS.values())[c]
            taken.append((x, y, x + w, y + h))
            image.append(i)
            boxes.append((x, y, w, h))
            classes.append(c)
        write_pixels(folder / f"{i:03d}.png", pixels)
        names.append(f"{i:03d}.png")
    made = make_boxes(image, boxes, classes)
    return dataset_of(name, space, names, made, root=folder, size=(SIZE, SIZE))


def _loosened(dataset: DetectionDataset, space: LabelSpace) -> DetectionDataset:
    boxes = dataset.boxes
    keep = np.flatnonzero(boxes.xywh[:, 3] >= SMALL)
    xyxy = boxes.xyxy[keep] + np.array([-0.12, -0.12, 0.12, 0.12]) * np.tile(
        boxes.xywh[keep, 2:], 2
    )
    xywh = xyxy_to_xywh(np.clip(xyxy, 0, SIZE))
    made = make_boxes(boxes.image[keep], xywh, np.zeros(len(keep)))
    return dataset.with_boxes(made, space)


def _pseudo(seen: DetectionDataset, by: str, on: str, rng: np.random.Generator) -> PseudoLabels:
    """A middling specialist: shaky boxes, one class in six wrong, one object in eight missed."""
    found = np.flatnonzero(rng.random(len(seen.boxes)) > 0.125)
    boxes = seen.boxes.xyxy[found]
    size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    boxes = boxes + rng.normal(0, 0.06, boxes.shape) * size
    n, classes = len(found), seen.space.num_classes
    category = seen.boxes.category[found].copy()
    wrong = rng.random(n) < 1 / 6
    category[wrong] = rng.integers(0, classes, wrong.sum())
    scores = rng.uniform(0, 0.2, (n, classes))
    scores[np.arange(n), category] = rng.uniform(0.5, 0.95, n)
    return PseudoLabels(
        space=seen.space,
        by=by,
        on=on,
        file_name=list(seen.images.file_name),
        image=seen.boxes.image[found],
        boxes=np.clip(boxes, 0, SIZE).astype(np.float32),
        scores=scores.astype(np.float32),
    )
