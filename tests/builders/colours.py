"""Images of one or two colours, where each colour is a class, and classifiers of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from relabel.classifiers.data import LabelledImages
from relabel.classifiers.inputs import read_images
from relabel.classifiers.settings import PRESETS, ClassifierSettings
from relabel.errors import Problems
from tests.builders.datasets import write_pixels

COLOURS = {"blue": (30, 40, 220), "green": (30, 200, 60), "red": (220, 40, 30)}
SIDE = 32


def paint(rng: np.random.Generator, *classes: int) -> np.ndarray:
    """uint8 [32, 32, 3]: vertical stripes of the classes' colours in random order, with noise."""
    names = list(COLOURS)
    pixels = np.zeros((SIDE, SIDE, 3))
    order = rng.permutation(np.resize(classes, 4))
    for i, c in enumerate(order.tolist()):
        pixels[:, i * 8 : (i + 1) * 8] = COLOURS[names[c]]
    return np.clip(pixels + rng.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)


def two_colour_set(root: Path, images: int = 24, seed: int = 0) -> Path:
    """Images in a folder per class and the TSV of their two labels; the folder tells only one."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(images):
        own, other = rng.permutation(3)[:2].tolist()
        name = f"{list(COLOURS)[own]}/{i:03d}.png"
        write_pixels(root / name, paint(rng, own, other))
        lines.append(f"{name}\t{own}\t{own},{other}\t1.0000,0.9000\n")
    labels = root.parent / f"{root.name}.tsv"
    labels.write_text("".join(lines))
    return labels


def tiny_resnet(folder: Path, labels: list[str] | None = None) -> Path:
    """A transformers ResNet of a few thousand random weights as a checkpoint folder."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    names = dict(enumerate(labels or ["one", "two"]))
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        id2label=names,
        label2id={v: k for k, v in names.items()},
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    return folder


def quick(model: Path | str, **values: Any) -> ClassifierSettings:
    defaults: dict[str, Any] = {
        "model": str(model),
        "steps": 60,
        "batch_size": 8,
        "lr": 2e-2,
        "backbone_lr_scale": 1.0,
        "batch_norm": "train",
        "image_size": 32,
        "test_crop": 1.0,
        "crop_scale": (0.6, 1.0),
        "precision": "fp32",
    }
    return ClassifierSettings(**{"preset": "light", **PRESETS["light"], **defaults, **values})


def read(root: Path, labels: Path | None) -> LabelledImages:
    return read_images(root, labels, None, Problems())
