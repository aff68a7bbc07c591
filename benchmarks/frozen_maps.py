"""What does a training step cost with a frozen backbone's kept maps, and RoIAlign in it?

    python benchmarks/frozen_maps.py --photos SHARED/data/roadside/target/train.json \\
        --backbone SHARED/weights/mobilenet_v2_imagenet --out benchmarks/frozen_maps.md

Processor milliseconds of one thread; the set-ups take turns, medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torchvision.ops import MultiScaleRoIAlign

from relabel.datasets.formats.coco import read as coco
from relabel.detectors.pooling import SeparableRoIAlign
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.specialist import TrainingBatches
from relabel.detectors.training import new_trainable, on_device
from relabel.errors import Problems
from relabel.settings import Runtime
from relabel.training.loop import autocast, build_optimizer
from relabel.workspace.atomic import atomic_write_bytes

STEPS = 6  # of a round; the first does not count
SETUPS = {
    "maps kept, pyramid from stride 16": {"frozen_stride": 32, "fpn_strides": (16, 32)},
    "maps kept, pyramid from stride 8": {"frozen_stride": 32, "fpn_strides": (8, 16, 32)},
    "trained above stride 16, from pixels": {"frozen_stride": 16, "fpn_strides": (8, 16, 32)},
}
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="COCO file")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        steps = {name: step(args, Path(folder), setup) for name, setup in SETUPS.items()}
        lines = ["| step of 8 images of 320 px | CPU ms | of the first |", "|---|---:|---:|"]
        lines += rows(steps, args.rounds)
    lines += ["", "| RoIAlign of 8 x 32 RoIs, forward and backward | CPU ms | of the first |"]
    lines += ["|---|---:|---:|", *rows(pooling(), args.rounds)]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        head = f"# Kept maps of a frozen backbone\n\n{(__doc__ or '').strip()}\n\n"
        atomic_write_bytes(args.out, (head + text).encode())


def step(args: argparse.Namespace, folder: Path, setup: dict[str, Any]) -> Callable[[], None]:
    """A training step of a detector with the small protocols' head."""
    data = coco.read(args.photos, name="photos", split=None, problems=Problems())
    settings = SpecialistSettings(
        backbone=args.backbone,
        image_size=320,
        fpn_channels=64,
        head_channels=256,
        rpn_proposals=100,
        rois_per_image=32,
        batch_size=8,
    ).resolved()
    settings = replace(settings, **setup)
    trainable = new_trainable(data.space, settings)
    store = trainable.map_store(folder, CPU)
    runtime = Runtime(device="cpu", workers=0)
    batches = TrainingBatches(data, settings, trainable.model.divisor, store, runtime)
    model: Any = trainable.model.to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(model, settings, trainable.backbone_parameters())
    number = iter(range(1 << 30))

    def run() -> None:
        batch = on_device(batches(next(number)), CPU)
        with autocast(settings.precision, CPU):
            losses = model(*batch)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def pooling() -> dict[str, Callable[[], None]]:
    """RoIAlign over the maps of 8 images of 320 px, by torchvision and as weighted sums."""
    torch.manual_seed(0)
    corners = torch.rand(8, 32, 2, 2) * 320
    boxes = list(torch.cat([corners.amin(2), corners.amax(2) + 8], dim=-1).clamp(max=320))
    made: dict[str, Callable[[], None]] = {}
    for strides in ((16, 32), (8, 16, 32)):
        maps = {str(s): torch.rand(8, 64, 320 // s, 320 // s, requires_grad=True) for s in strides}
        for title, kind in (("torchvision", MultiScaleRoIAlign), ("sums", SeparableRoIAlign)):
            pool = kind(list(maps), output_size=7, sampling_ratio=2).train()

            def run(pool: Any = pool, maps: dict[str, torch.Tensor] = maps) -> None:
                pool(maps, boxes, [(320, 320)] * 8).sum().backward()

            made[f"{title}, from stride {strides[0]}"] = run
    return made


def rows(work: dict[str, Callable[[], None]], rounds: int) -> list[str]:
    """Table rows: the median over rounds of the mean of a round's steps."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            run()
            started = time.process_time()
            for _ in range(STEPS - 1):
                run()
            taken[name].append((time.process_time() - started) / (STEPS - 1) * 1000)
    found = {name: statistics.median(values) for name, values in taken.items()}
    first = next(iter(found.values()))
    return [f"| {name} | {ms:.0f} | {ms / first:.2f} |" for name, ms in found.items()]


if __name__ == "__main__":
    main()
