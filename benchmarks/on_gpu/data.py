"""Made-up photos and datasets, and detectors of random weights whose detections are as many as
trained ones have."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.on_gpu import Work
from relabel.backbones.extractor import FeatureExtractor
from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.dataset import DetectionDataset, Images, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.image_folder import ImageSet
from relabel.detectors.family import Trainable
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.training import new_trainable
from relabel.geometry import xyxy_to_xywh

BOXES = 8  # of an image, about COCO's
# Of the logits of random heads: so that the best class of most boxes has a score above 0.05.
SHARPER = 30.0


def photo(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """uint8 [H, W, 3]: a landscape of large soft shapes, plain objects, and grain.

    A JPEG of it is about as large as one of a photo.
    """
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    soft = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(soft, np.int16).copy()
    for _ in range(BOXES):
        w, h = (int(side * rng.uniform(0.1, 0.4)) for side in (width, height))
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        pixels[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    grain = rng.integers(-12, 13, (height, width, 1), dtype=np.int16)
    return np.clip(pixels + grain, 0, 255).astype(np.uint8)


def photos(work: Work, count: int, size: tuple[int, int], distinct: int) -> Path:
    """A folder of ``count`` JPEGs, of which ``distinct`` differ; made once."""
    folder = work.folder / f"photos-{size[0]}x{size[1]}-{count}"
    if folder.is_dir():
        return folder
    making = folder.with_suffix(".making")
    making.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    distinct = min(distinct, count)
    for i in range(distinct):
        Image.fromarray(photo(rng, *size)).save(making / f"{i:06d}.jpg", quality=88)
    for i in range(distinct, count):
        name = making / f"{i:06d}.jpg"
        if not name.exists():
            os.link(making / f"{i % distinct:06d}.jpg", name)
    return making.rename(folder)


def space_of(name: str, classes: int) -> LabelSpace:
    return LabelSpace.from_names(name, [f"class {i}" for i in range(classes)])


def boxes_in(rng: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """xyxy [count, 4] inside an image of (width, height)."""
    scale = np.array(size)
    sides = scale * rng.uniform(0.08, 0.5, (count, 2))
    corner = rng.uniform(0, 1, (count, 2)) * (scale - sides)
    return np.concatenate([corner, corner + sides], axis=1)


def dataset(
    work: Work, name: str, count: int, size: tuple[int, int], classes: int, distinct: int
) -> DetectionDataset:
    """``count`` images of (width, height) with `BOXES` boxes each."""
    rng = np.random.default_rng(1)
    images = Images(
        np.arange(1, count + 1),
        [f"{i:06d}.jpg" for i in range(count)],
        np.full(count, size[0], np.int32),
        np.full(count, size[1], np.int32),
    )
    n = count * BOXES
    xywh = xyxy_to_xywh(boxes_in(rng, n, size))
    boxes = make_boxes(np.repeat(np.arange(count), BOXES), xywh, rng.integers(0, classes, n))
    root = photos(work, count, size, distinct)
    return DetectionDataset(name, space_of(name, classes), images, boxes, root)


def pseudo_labels(
    data: DetectionDataset, space: LabelSpace, per_image: int, size: tuple[int, int], seed: int
) -> PseudoLabels:
    """Half of them lie on annotations, nearly."""
    rng = np.random.default_rng([2, seed])
    n = len(data) * per_image
    boxes = boxes_in(rng, n, size).reshape(len(data), per_image, 4)
    some = min(BOXES, per_image // 2)
    annotated = data.boxes.xyxy.reshape(len(data), BOXES, 4)[:, :some]
    boxes[:, :some] = annotated + rng.uniform(-2, 2, annotated.shape)
    scores = rng.dirichlet(np.full(space.num_classes, 0.05), n).astype(np.float32)
    return PseudoLabels(
        space,
        space.name,
        data.name,
        data.images.file_name,
        np.repeat(np.arange(len(data), dtype=np.int32), per_image),
        boxes.reshape(-1, 4).clip(0, [*size, *size]).astype(np.float32),
        scores,
    )


def image_set(work: Work, count: int, size: tuple[int, int], distinct: int) -> ImageSet:
    root = photos(work, count, size, distinct)
    names = [f"{i:06d}.jpg" for i in range(count)]
    return ImageSet(root, names, np.full(count, -1, np.int32), [], [])


TINY_DETECTOR: dict[str, Any] = {
    "backbone": "resnet18",
    "image_size": 64,
    "max_image_size": 96,
    "fpn_channels": 16,
    "head_channels": 32,
    "rpn_proposals": 50,
    "rois_per_image": 16,
    "rtdetr_queries": 20,
    "rtdetr_denoising": 10,
    "rtdetr_layers": 2,
    "rtdetr_channels": 32,
    "rtdetr_ffn": 64,
}


def detector_settings(work: Work, family: Any, **more: Any) -> SpecialistSettings:
    """Those of the preset ``standard``, with random weights; made small for a CPU.

    The learning rate is so low that random weights stay what they are; no time depends on it.
    """
    settings = SpecialistSettings(detector=family, preset="standard", pretrained=False).resolved()
    small = {} if work.large else TINY_DETECTOR
    return replace(settings, lr=1e-7, checkpoint_every=1e9, **small, **more)


def new_detector(space: LabelSpace, settings: SpecialistSettings) -> Trainable:
    """A detector of random weights, whose signals stay in bounds and whose classes differ."""
    trainable = new_trainable(space, settings)
    model: Any = trainable.model
    tame(model.backbone.body)
    heads = (
        [model.net.decoder.module.class_embed[-1]]
        if settings.detector == "rt-detr"
        else [model.roi_heads.box_predictor.cls_score]
    )
    with torch.no_grad():
        for head in heads:
            head.weight.mul_(SHARPER)
    return trainable


def tame(body: FeatureExtractor) -> None:
    """Make the residual branches of a random ResNet small: added up they would grow from block to
    block, as its norms have not seen any images."""
    with torch.no_grad():
        for name, module in body.net.named_modules():
            last = name.rpartition(".")[2]
            if last == "conv3" or (last == "conv2" and not _has(body.net, name, "conv3")):
                for tensor in (t for t in module.parameters() if isinstance(t, Tensor)):
                    tensor.mul_(0.2)


def _has(net: nn.Module, name: str, sibling: str) -> bool:
    return hasattr(net.get_submodule(name.rpartition(".")[0]), sibling)
