"""Tiny trainings of every kind that several processes share, with the losses of each step.

As a program, for torchrun. Other ranks than the first fail as soon as they write below OUT; before
a specialist's step STEP the second rank meets its end (`kill`, `raise`) or none (`no`).

    python -m tests.builders.shared_trainings curves FOLDER OUT NAME...
    python -m tests.builders.shared_trainings END STEP ARGUMENTS-OF-RELABEL...
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from relabel.datasets.dataset import DetectionDataset
from relabel.errors import RelabelError
from relabel.training import shared
from relabel.workspace import ranks
from tests.builders.blocks import RUNTIME, TINY_LAT, World, make_world, train_on_blocks
from tests.builders.colours import quick, read, tiny_resnet, two_colour_set
from tests.builders.datasets import coco_set, write_pixels
from tests.builders.detectors import tiny_detector

NAMES = ("faster-rcnn", "rt-detr", "frozen", "lat", "classifier", "blended")
STEPS, BATCH = 3, 4
_TRAINING = ("relabel.detectors.training", "relabel.lat.train", "relabel.classifiers.train")
ROOT = Path(__file__).resolve().parents[2]


def under_torchrun(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """This module as a program in two processes."""
    launch = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return subprocess.run(
        [sys.executable, "-m", *launch, "-m", __name__, *map(str, args)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def prepare(folder: Path) -> None:
    """What the trainings read, beside the world of blocks."""
    two_colour_set(folder / "colours", 12)
    tiny_resnet(folder / "resnet")


def train(name: str, folder: Path, out: Path) -> list[dict[str, float]]:
    """Train on what is in ``folder``; the losses of each step."""
    out.mkdir(parents=True, exist_ok=True)
    with _losses() as curve, _double_precision():
        if name == "lat":
            settings = replace(TINY_LAT, backbone=_backbone(folder), steps=STEPS, folds=1)
            train_on_blocks(make_world(folder / "world", images=6), settings, out / name)
        elif name in ("classifier", "blended"):
            from relabel.classifiers.train import train_classifier

            more = {"mixup": 0.8, "cutmix": 1.0} if name == "blended" else {"ema": 0.5}
            settings = quick(folder / "resnet", steps=STEPS, batch_size=BATCH, **more)
            images = read(folder / "colours", folder / "colours.tsv")
            train_classifier(images, out / name, settings, RUNTIME)
        else:
            from relabel.detectors.specialist import train_specialist

            family = "faster-rcnn" if name == "frozen" else name
            more: dict[str, Any] = {"frozen_stride": 32 if name == "frozen" else 0}
            more |= {"image_size": 64, "fpn_strides": (8, 16), "fpn_channels": 16}
            settings = tiny_detector(
                folder / "backbone", family, steps=STEPS, batch_size=BATCH, ema=0.5, **more
            )
            # The maps of a frozen body are rounded to 16 bits: one digit decides, so all use these.
            maps = folder / "two" / "maps"
            train_specialist(_two_sizes(folder), out / name, settings, RUNTIME, maps=maps)
    return curve


def _backbone(folder: Path) -> str:
    return tiny_detector(folder / "backbone").backbone


def specialist_arguments(folder: Path, out: Path) -> list[str]:
    """relabel's, for a training of 5 steps with a checkpoint after each, on what is in a folder."""
    photos = coco_set(folder, "fine", ["car", "bus"])
    settings = ("frozen_stride=0", "fpn_channels=32", "head_channels=64", "rpn_proposals=100")
    settings += ("rois_per_image=32", "checkpoint_every=0", "lr=2e-4")
    return [
        *("train-specialist", "fine", "--data", f"fine={photos}:coco", "--out", str(out)),
        *("--backbone", _backbone(folder), "--steps", "5", "--image-size", "96"),
        *("--precision", "fp32", "--batch-size", "4", "--device", "cpu", "--workers", "0"),
        *(word for setting in settings for word in ("--set", f"specialist.{setting}")),
        "--quiet",
    ]


def _two_sizes(folder: Path) -> DetectionDataset:
    """The target of the world; every other image is cut, so that padding shows."""
    world: World = make_world(folder / "sizes", images=6)
    dataset = world.target
    height = np.where(np.arange(6) % 2, 96, 64).astype(dataset.images.height.dtype)
    rng = np.random.default_rng(1)
    for row in range(0, 6, 2):
        pixels = rng.integers(90, 130, (64, 96, 3)).astype(np.uint8)
        write_pixels(dataset.image_path(row), pixels)
    boxes = dataset.boxes
    inside = boxes.xyxy[:, 3] <= height[boxes.image]
    cut = replace(dataset, images=replace(dataset.images, height=height))
    return cut.with_boxes(boxes.take(np.flatnonzero(inside)))


@contextmanager
def _losses() -> Iterator[list[dict[str, float]]]:
    from relabel.training.loop import _Progress

    curve: list[dict[str, float]] = []
    advance = _Progress.advance

    def noted(self: Any, parts: dict[str, float]) -> None:
        curve.append(dict(parts))
        advance(self, parts)

    _Progress.advance = noted
    try:
        yield curve
    finally:
        _Progress.advance = advance


@contextmanager
def _double_precision() -> Iterator[None]:
    """Let the trainings of the block compute in float64.

    In float32 sums in another order soon make another set of sampled proposals, and what one
    process and two have in common does not show.
    """
    modules: list[Any] = [importlib.import_module(name) for name in _TRAINING]
    fit = modules[0].fit
    for module in modules:
        module.fit = functools.partial(_fit_in_double, fit)
    try:
        yield
    finally:
        for module in modules:
            module.fit = fit


def _fit_in_double(fit: Any, model: nn.Module, batch: Any, *args: Any, **more: Any) -> Any:
    single = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        return fit(model.double(), lambda step: _doubled(batch(step)), *args, **more)
    finally:
        torch.Tensor.float = single
        torch.set_default_dtype(torch.float32)
        model.float()


def _doubled(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {k: _doubled(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_doubled(v) for v in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _doubled(getattr(value, f.name)) for f in fields(value)})
    return value


def _curves(folder: Path, out: Path, names: Sequence[str]) -> None:
    if ranks.enter() > 0:
        _forbid_writing(out)
        with _double_precision():
            error = ranks.serve()
        if error is not None:
            raise error
        return
    ranks.join()
    for name in names:
        curve = train(name, folder, out)
        (out / f"{name}.json").write_text(json.dumps(curve))
    (out / "pieces.json").write_text(json.dumps(pieces()))
    ranks.release()


@ranks.on_all_ranks()
def pieces() -> dict[str, Any]:
    """What `relabel.training.shared` makes of a batch of 4, put together over processes."""
    from torchvision.ops import StochasticDepth

    torch.manual_seed(1)
    x = torch.randn(4, 3, 5, 6) * torch.arange(1, 5).view(4, 1, 1, 1)
    known = torch.rand(x.shape) < torch.tensor([0.1, 0.2, 0.6, 0.9]).view(4, 1, 1, 1)
    unused = nn.Linear(1, 1)
    net = nn.Sequential(
        *(nn.BatchNorm2d(3), nn.Dropout(0.3), StochasticDepth(0.5, "row"), nn.Conv2d(3, 2, 3)),
        *(nn.Flatten(), nn.BatchNorm1d(24, momentum=None, affine=False)),
    )
    shared.see_whole_batches(net)
    mine = shared.own_part(4)
    part, counted = x[mine].requires_grad_(), known.flatten(1)[mine, :24]
    y = net(part)
    loss = ((y - 1).square() * counted).sum() / shared.divisor(counted.sum())
    loss.backward()
    parameters = [*net.parameters(), *unused.parameters()]
    shared.average_gradients(parameters)
    assert part.grad is not None
    return {
        "y": _joined(y),
        "loss": shared.averaged(loss).item(),
        "slope": _joined(part.grad / ranks.world()),
        "slopes": [None if p.grad is None else p.grad.tolist() for p in parameters],
        "buffers": {k: v.tolist() for k, v in net.named_buffers()},
        "count": float(shared.divisor(len(x[mine]))) * ranks.world(),
        "none": float(shared.divisor(torch.tensor(0), least=2)) * ranks.world(),
    }


def _joined(part: torch.Tensor) -> list[Any]:
    return torch.cat(shared.gathered(part.detach())).tolist()


def _forbid_writing(folder: Path) -> None:
    import accelerate

    accelerator: Any = accelerate.Accelerator

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("another rank than the first writes")

    def look(event: str, args: tuple[Any, ...]) -> None:
        changes = event in ("os.rename", "os.remove", "shutil.rmtree")
        writes = (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if (changes or writes) and str(args[0]).startswith(str(folder)):
            refused()

    accelerator.save_state = refused
    sys.addaudithook(look)


def _relabel(end: str, at: int, arguments: Sequence[str]) -> None:
    """relabel; the second rank ends before a step."""
    from relabel.cli import main
    from relabel.detectors.specialist import TrainingBatches

    real = TrainingBatches.__call__

    def batch(self: Any, step: int) -> Any:
        if step == at and ranks.rank() == 1:
            if end == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RelabelError(f"step {at} of rank 1")
        return real(self, step)

    TrainingBatches.__call__ = batch
    main(arguments)


if __name__ == "__main__":
    if sys.argv[1] == "curves":
        _curves(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        _relabel(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
