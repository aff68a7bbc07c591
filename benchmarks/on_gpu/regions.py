"""MaskCut: images per second of each stage and of all together, and masks equal to the CPU's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.on_gpu import Measured, Work
from benchmarks.on_gpu.data import image_set
from benchmarks.on_gpu.measure import device_of, once, peak_mib, rounded, timed
from relabel.datasets.pixels.batches import ImageBatches
from relabel.datasets.pixels.image_folder import ImageSet, load_image
from relabel.multilabel.grid import square
from relabel.multilabel.regions.features import PatchFeatures
from relabel.multilabel.regions.maskcut import discover_batch
from relabel.multilabel.regions.refine import refine_batch
from relabel.multilabel.regions.stage import find_regions
from relabel.multilabel.settings import MaskCutSettings
from relabel.multilabel.store import read_regions
from relabel.multilabel.work import ShardWork
from relabel.settings import Runtime
from relabel.workspace.clock import Clock
from relabel.workspace.stage import Shards

IMAGENET = 1_280_000
AIMS = (24.0, 8.0)  # hours
SIZE, SMALL_SIZE = (500, 375), (80, 60)  # the larger one of most of ImageNet's photos
# Share of the pairs of patches that are neighbours. Of random weights no tau is known; photos have
# some 18 to 25 % at the taus that CutLER's features are cut at (`benchmarks/maskcut.md`).
NEIGHBOURS = 0.2
VIT_L: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_REFINE_SIDE = 320


def run(work: Work) -> Measured:
    device = device_of(work)
    settings = MaskCutSettings(backbone=str(random_vit(work, device))).resolved()
    more = {} if work.large else {"image_size": 128, "batch_size": 4}
    images = image_set(work, *((2048, SIZE, 64) if work.large else (8, SMALL_SIZE, 8)))
    share = work.seconds / 6
    found = Measured()
    figures = found.figures
    size = MaskCutSettings(**{**_values(settings), **more}).batch_size
    some = [load_image(images, row) for row in range(size)]
    settings, extractor = with_tau(settings, more, device, some)
    figures |= {"image side": settings.image_size, "batch": size, "tau": rounded(settings.tau)}

    def decode() -> None:
        def load(source: ImageSet, row: int) -> Any:
            return square(load_image(source, row), settings.image_size)

        rows = range(min(len(images), 256))
        with ImageBatches(images, rows, batch_size=size, load=load) as loader:
            for _ in loader:
                pass

    stages: dict[str, float] = {}
    peaks: dict[str, int] = {}
    peak_mib(work)
    decoding = timed(decode, work, share, warm=0, least=1)
    stages["decoding in threads"] = min(len(images), 256) / decoding.median
    pixels = stacked(some, settings.image_size)
    stages["backbone"] = size / timed(lambda: extractor(pixels), work, share).median
    maps = extractor(pixels)
    peaks["backbone"] = peak_mib(work)
    cut = timed(
        lambda: discover_batch(maps.cut, settings.tau, settings.max_masks), work, share, warm=1
    )
    stages["cuts"] = size / cut.median
    coarse = discover_batch(maps.cut, settings.tau, settings.max_masks)
    peaks["cuts"] = peak_mib(work)
    fine = timed(
        lambda: refine_batch(some, coarse, settings.refine, _REFINE_SIDE, device),
        work,
        share,
        warm=1,
    )
    stages["refinement"] = size / fine.median
    peaks["refinement"] = peak_mib(work)
    figures["masks an image before refinement"] = rounded(float(np.mean([len(m) for m in coarse])))
    for name, rate in stages.items():
        figures[f"{name} alone, images/s"] = rounded(rate)
        if name in peaks:
            figures[f"{name} alone, peak MiB"] = peaks[name]
    figures["slowest stage"] = min(stages, key=lambda name: stages[name])
    figures |= equality(some, maps.cut, coarse, settings, device, 4 if work.large else 2)

    least = min(stages.values())
    count = min(len(images), max(4 * size, int(least * work.seconds / 3) // size * size))
    whole(work, images.select(slice(2 * size)), extractor, settings)
    rate, clock, regions = whole(work, images.select(slice(count)), extractor, settings)
    figures["images of the whole stage"] = count
    figures["whole stage, images/s"] = rounded(rate)
    figures["regions an image"] = rounded(regions / count)
    for activity, seconds in sorted(clock.seconds.items()):
        figures[f"of the whole stage: {activity}, ms an image"] = rounded(1000 * seconds / count)
    hours = rounded(IMAGENET / rate / 3600)
    figures["hours for 1.28 million images"] = hours
    for aim in AIMS:
        found.aim(f"hours, under {aim:g}", hours, f"under {aim:g}", hours < aim)
    same = figures["images with the CPU's masks"]
    found.aim("masks equal to the CPU's", same, "1", same == 1)
    return found


def random_vit(work: Work, device: torch.device) -> Path:
    """A checkpoint of a DINOv3 of random weights; the preset is found by its name."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = work.folder / "dinov3-vitl16-random"
    shape = VIT_L if work.large else TINY
    config = DINOv3ViTConfig(patch_size=16, image_size=224, num_register_tokens=4, **shape)
    torch.manual_seed(0)
    with torch.device(device):
        model = DINOv3ViTModel(config)
    model.save_pretrained(folder)
    return folder


def with_tau(
    settings: MaskCutSettings, more: dict[str, Any], device: torch.device, images: list[np.ndarray]
) -> tuple[MaskCutSettings, PatchFeatures]:
    """The settings with a tau that makes `NEIGHBOURS` of the pairs neighbours, and the backbone."""
    settings = MaskCutSettings(**{**_values(settings), **more})
    extractor = PatchFeatures.create(settings, device)
    maps = extractor(stacked(images[:2], settings.image_size)).cut
    rows = torch.nn.functional.normalize(maps.flatten(1, 2), dim=2)
    cosines = (rows @ rows.mT).flatten().cpu().numpy()
    tau = float(np.quantile(cosines[:: max(1, len(cosines) // 1_000_000)], 1 - NEIGHBOURS))
    settings = MaskCutSettings(**{**_values(settings), "tau": min(0.999, max(-1.0, tau))})
    extractor.settings = settings
    return settings, extractor


def _values(settings: MaskCutSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def stacked(images: list[np.ndarray], side: int) -> Tensor:
    """uint8 [B, 3, S, S], as the stage gives them to the backbone."""
    return torch.from_numpy(np.stack([square(x, side) for x in images])).permute(0, 3, 1, 2)


def equality(
    images: list[np.ndarray],
    cut: Tensor,
    coarse: list[Tensor],
    settings: MaskCutSettings,
    device: torch.device,
    count: int,
) -> dict[str, float]:
    """How many of some images have the CPU's masks, of the same features."""
    here = discover_batch(cut[:count].cpu(), settings.tau, settings.max_masks)
    there = [mask.cpu() for mask in coarse[:count]]
    same = [a.shape == b.shape and torch.equal(a, b) for a, b in zip(here, there, strict=True)]
    fine = [
        refine_batch(images[:count], here, settings.refine, _REFINE_SIDE, where)
        for where in (torch.device("cpu"), device)
    ]
    pixels = wrong = 0
    for a, b in zip(*fine, strict=True):
        pixels += max(a.masks.size, b.masks.size)
        wrong += (
            int((a.masks != b.masks).sum())
            if a.masks.shape == b.masks.shape
            else max(a.masks.size, b.masks.size)
        )
    return {
        "images compared with the CPU": count,
        "images with the CPU's masks": sum(same) / count,
        "share of other pixels after refinement": rounded(wrong / max(1, pixels)),
    }


def whole(
    work: Work, images: ImageSet, extractor: PatchFeatures, settings: MaskCutSettings
) -> tuple[float, Clock, int]:
    """Images per second of the real stage, seconds by activity, and regions."""
    folder = work.folder / "regions"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shards = Shards(folder, total=len(images), size=settings.shard_images)
    runtime = Runtime(device=extractor.device.type, quiet=True)
    clock = Clock()
    todo = range(len(shards))
    given = ShardWork(images, shards, shards, todo, {}, runtime, clock)
    seconds = once(lambda: find_regions(given, extractor, settings), extractor.device)
    regions = sum(int(read_regions(path).offsets[-1]) for path in shards.paths)
    return len(images) / seconds, clock, regions
