"""The demo's own small backbone, so that it needs no download.

A fresh machine has no pretrained weights, and detectors trained from nothing on a hundred
pictures learn little in a minute. So a small ResNet first learns from the target's pixel labels
(what is where, and how far the sides of its box are), as networks elsewhere learn from ImageNet,
and is saved as a transformers checkpoint that every stage loads like any other.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.location import load_rgb
from relabel.demo.world import mask_box
from relabel.files.images import open_image
from relabel.files.opening import open_file
from relabel.workspace.atomic import atomic_write_json
from relabel.workspace.fingerprint import fingerprint
from relabel.workspace.progress import message, progress

if TYPE_CHECKING:
    from torch import Tensor, nn

STRIDE = 4
_DONE = "demo.json"
_THINGS = 24
_LABELS = 34
_BOX_SCALE = 32.0  # pixels; brings distances to the box's sides near one
_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
_STD = np.array((0.229, 0.224, 0.225), np.float32)


@dataclass(frozen=True)
class BackboneSettings:
    """Size and training of the demo's backbone.

    Attributes:
        channels: of the four stages, at strides 4, 8, 16 and 32.
        steps, batch_size, crop: training steps, crops per step, and their side in pixels.
        lr: peak learning rate.
    """

    channels: tuple[int, ...] = (32, 64, 96, 128)
    steps: int = 200
    batch_size: int = 12
    crop: int = 160
    lr: float = 3e-3
    seed: int = 0


def train_backbone(
    folder: Path,
    dataset: DetectionDataset,
    world: str,
    settings: BackboneSettings | None = None,
    *,
    quiet: bool = False,
) -> Path:
    """Train the backbone on the target's training images, or reuse the one there.

    Args:
        folder: where the transformers checkpoint goes.
        dataset: the target's training images, on disk in Cityscapes layout.
        world: what identifies the world; a backbone trained on another one is trained anew.

    Returns:
        ``folder``.
    """
    settings = settings or BackboneSettings()
    key = fingerprint({"world": world, **asdict(settings), "channels": list(settings.channels)})
    if _is_done(folder, key):
        message(f"The backbone in {folder} is complete: reused.", quiet=quiet)
        return folder
    import torch

    torch.manual_seed(settings.seed)
    rng = np.random.default_rng([settings.seed, 77])
    pixels, labels, sides = _training_data(dataset)
    net, head = _network(settings)
    parameters = [*net.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.steps, pct_start=0.15
    )
    net.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    with progress("Training the backbone", settings.steps, quiet=quiet) as bar:
        for _ in range(settings.steps):
            loss = _loss(net, head, *_batch(pixels, labels, sides, settings, rng))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
            schedule.step()
            bar.update(loss=float(loss.detach()))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _DONE).unlink(missing_ok=True)
    _save(net, folder)
    atomic_write_json(folder / _DONE, {"fingerprint": key})
    return folder


def trial(folder: Path, dataset: DetectionDataset, settings: BackboneSettings) -> float:
    """Save a backbone that has learned nothing; returns the seconds of one training step."""
    import torch

    pixels, labels, sides = _training_data(dataset)
    rng = np.random.default_rng(0)
    net, head = _network(settings)
    net.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    taken = 0.0
    for _ in range(2):  # the first one is slower than all others
        started = time.perf_counter()
        _loss(net, head, *_batch(pixels, labels, sides, settings, rng)).backward()
        taken = time.perf_counter() - started
    _save(net, folder)
    return taken


def _save(net: nn.Module, folder: Path) -> None:
    from transformers.utils import logging

    net.eval()
    logging.disable_progress_bar()
    try:
        net.save_pretrained(folder)  # type: ignore[operator]
    finally:
        logging.enable_progress_bar()


def _loss(net: nn.Module, head: nn.Conv2d, x: Tensor, y: Tensor, box: Tensor) -> Tensor:
    """Of class and box sides at every place of a batch; see `_batch`."""
    import torch
    import torch.nn.functional as F

    out = _dense(net, head, x.to(memory_format=torch.channels_last))
    class_loss = F.cross_entropy(out[:, :_LABELS], y)
    thing = (y >= _THINGS).unsqueeze(1)
    box_error = F.smooth_l1_loss(out[:, _LABELS:], box, reduction="none", beta=0.2)
    return class_loss + (box_error * thing).sum() / (4 * thing.sum()).clamp(min=1)


def _is_done(folder: Path, key: str) -> bool:
    try:
        written = json.loads((folder / _DONE).read_text(encoding="utf-8"))
        return written["fingerprint"] == key and (folder / "model.safetensors").is_file()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _network(settings: BackboneSettings) -> tuple[nn.Module, nn.Conv2d]:
    from torch import nn
    from transformers import ResNetConfig, ResNetModel

    from relabel.training.memory import keep_freed_memory

    keep_freed_memory()  # before the first step: here, for all that train or try it
    config = ResNetConfig(
        embedding_size=settings.channels[0],
        hidden_sizes=list(settings.channels),
        depths=[1] * len(settings.channels),
        layer_type="basic",
    )
    head = nn.Conv2d(sum(settings.channels), _LABELS + 4, 1)
    return ResNetModel(config), head


def _dense(net: nn.Module, head: nn.Conv2d, x: Tensor) -> Tensor:
    """Class logits and box sides [B, _LABELS + 4, H / 4, W / 4] of pixels [B, 3, H, W].

    The head reads the maps of all stages, each at its own size: enlarging what it makes of them
    is the same as reading enlarged maps, and far less work.
    """
    import torch
    import torch.nn.functional as F

    maps = net(x, output_hidden_states=True).hidden_states[1:]
    weights = torch.split(head.weight, [m.shape[1] for m in maps], dim=1)
    out = F.conv2d(maps[0], weights[0], head.bias)
    for coarse, weight in zip(maps[1:], weights[1:], strict=True):
        read = F.conv2d(coarse, weight)
        out = out + F.interpolate(read, size=out.shape[-2:], mode="bilinear", align_corners=False)
    return out


def _training_data(dataset: DetectionDataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels uint8 [I, H, W, 3]; at stride 4, label ids int64 [I, h, w] and the distances from
    each pixel to its object's left, top, right and bottom float32 [I, 4, h, w]."""
    pixels, labels, sides = [], [], []
    for row, name in enumerate(dataset.images.file_name):
        pixels.append(load_rgb(dataset, row))
        truth = name.replace("leftImg8bit/", "gtFine/", 1).replace(
            "_leftImg8bit.png", "_gtFine_instanceIds.png"
        )
        with (
            open_file(dataset.root / truth) as stream,
            open_image(stream, dataset.root / truth) as image,
        ):
            ids = np.asarray(image).astype(np.int64)
        middle = STRIDE // 2
        coarse = ids[middle::STRIDE, middle::STRIDE]
        labels.append(np.where(coarse >= 1000, coarse // 1000, coarse))
        y, x = np.mgrid[0 : coarse.shape[0], 0 : coarse.shape[1]] * STRIDE + middle + 0.0
        distance = np.zeros((4, *coarse.shape), dtype=np.float32)
        for value in np.unique(coarse[coarse >= 1000]):
            x0, y0, x1, y1 = mask_box(ids == value)
            here = coarse == value
            distance[:, here] = np.stack([x - x0, y - y0, x1 - x, y1 - y])[:, here]
        sides.append(distance / _BOX_SCALE)
    return np.stack(pixels), np.stack(labels), np.stack(sides)


def _batch(
    pixels: np.ndarray,
    labels: np.ndarray,
    sides: np.ndarray,
    settings: BackboneSettings,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Random crops, mirrored half of the time, in changing light."""
    import torch

    side = settings.crop // STRIDE
    height, width = labels.shape[1:]
    side_y, side_x = min(side, height), min(side, width)
    parts: list[tuple[Any, Any, Any]] = []
    for i in rng.integers(len(pixels), size=settings.batch_size):
        top = int(rng.integers(height - side_y + 1))
        left = int(rng.integers(width - side_x + 1))
        rows, columns = slice(top, top + side_y), slice(left, left + side_x)
        big_rows = slice(top * STRIDE, (top + side_y) * STRIDE)
        big_columns = slice(left * STRIDE, (left + side_x) * STRIDE)
        x = pixels[i, big_rows, big_columns].astype(np.float32) / 255
        gain = (rng.uniform(0.7, 1.25) * rng.uniform(0.85, 1.15, 3)).astype(np.float32)
        noise = np.float32(rng.uniform(0, 0.03)) * rng.standard_normal(x.shape, np.float32)
        x = ((x * gain + noise).clip(0, 1) - _MEAN) / _STD
        x = x.transpose(2, 0, 1)
        y, box = labels[i, rows, columns], sides[i, :, rows, columns]
        if rng.random() < 0.5:
            x, y, box = x[..., ::-1], y[..., ::-1], box[[2, 1, 0, 3]][..., ::-1]
        parts.append((x, y, box))
    x, y, box = (np.stack(column) for column in zip(*parts, strict=True))
    return (
        torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)),
        torch.from_numpy(np.ascontiguousarray(y)),
        torch.from_numpy(np.ascontiguousarray(box, dtype=np.float32)),
    )
