"""What networks read of images: kept maps of a frozen backbone, or pixels for a trained one.

A frozen backbone gives the same maps for every method, seed and proportion of known labels, so
they are computed once, into a folder named by the backbone's weights, the images and the size. The
folder is memory-mapped: of a hundred thousand images only the rows of a batch are read.

Shape legend: ``N`` images, ``B`` images of a batch, ``D`` channels, ``H, W`` cells of a map, ``S``
side of the square that the network sees.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from relabel.datasets.partial.labels import PartialLabels
from relabel.datasets.pixels.location import read_rgb
from relabel.errors import DataError, RelabelError
from relabel.files.json_text import read_object
from relabel.files.opening import check_regular, foreign
from relabel.files.remote import is_url
from relabel.partial.body import body_identity, build_body
from relabel.partial.settings import CompletionSettings
from relabel.settings import Runtime
from relabel.training.loop import autocast, resolve_device, resolve_precision
from relabel.training.prefetch import prefetch
from relabel.workspace.atomic import atomic_write_json, sync
from relabel.workspace.cores import reading_threads
from relabel.workspace.engine import Make, driver_device, make_in_order
from relabel.workspace.fingerprint import fingerprint
from relabel.workspace.lock import FolderLock
from relabel.workspace.progress import progress

DONE, PART = "features.json", "part.json"
MAPS, POOLED = "maps.f16", "pooled.f16"
LARGEST = 65504.0  # of float16
_BATCH = 16
_BETWEEN_NOTES = 16  # batches between two notes of how far the maps are
_PATIENCE = 24 * 3600.0  # for another process that computes the same maps
# Sides of a training crop relative to the image's: 448 px and less of 512 in the public code of
# SST, SARB and HST.
_CROPS = (1.0, 0.875, 0.75, 0.625, 0.5)
_RENEW = "Remove the folder; its maps are computed again."


@dataclass(frozen=True, eq=False)
class Features:
    """Kept maps of N images.

    Attributes:
        maps: float16 [n, D, H, W], memory-mapped; or their means [n, D, 1, 1].
        rows: int64 [N], the images' rows of ``maps``.
        readable: bool [N]; the maps of the others are 0.
        identity: what the maps depend on but for the images: networks are bound to it.
    """

    maps: np.ndarray
    rows: np.ndarray
    readable: np.ndarray
    identity: str

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def channels(self) -> int:
        return self.maps.shape[1]

    def select(self, rows: np.ndarray) -> Features:
        """Some of the images, in the order given."""
        rows = np.asarray(rows, np.int64)
        return replace(self, rows=self.rows[rows], readable=self.readable[rows])

    def batch(self, rows: np.ndarray, seed: Sequence[int] | None = None) -> Tensor:
        """Maps of some images, float16 [B, D, H, W]; the same with every seed."""
        return torch.from_numpy(np.asarray(self.maps[self.rows[rows]]))


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images themselves, for a backbone that is trained.

    Attributes:
        locations: N places, see `relabel.datasets.pixels.location`.
        side: S.
        readable: bool [N].
        identity: what networks that read these pixels are bound to.
    """

    locations: list[str]
    side: int
    readable: np.ndarray
    identity: str

    def __len__(self) -> int:
        return len(self.locations)

    def select(self, rows: np.ndarray) -> Pixels:
        """Some of the images, in the order given."""
        kept = [self.locations[i] for i in np.asarray(rows).tolist()]
        return replace(self, locations=kept, readable=self.readable[rows])

    def batch(self, rows: np.ndarray, seed: Sequence[int] | None = None) -> Tensor:
        """uint8 [B, 3, S, S]: whole images squeezed into the square, unreadable ones black.

        Args:
            seed: random crops instead, each image with numbers of its own; mirrored half the time.
        """
        views = torch.zeros(len(rows), 3, self.side, self.side, dtype=torch.uint8)
        for place, row in enumerate(np.asarray(rows).tolist()):
            if self.readable[row]:
                image = read_rgb(self.locations[row])
                if seed is not None:
                    image = _crop(image, np.random.default_rng([*seed, place]))
                views[place] = squeezed(image, self.side)
        return views


Inputs = Features | Pixels


def squeezed(image: np.ndarray, side: int) -> Tensor:
    """uint8 [3, S, S] of an image [H, W, 3]: whole, its aspect not kept.

    Labels speak of all that an image shows, so that nothing of it may be cut off.
    """
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    if x.shape[-2:] != (side, side):
        x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return x[0]


def _crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    scale = _CROPS[rng.integers(len(_CROPS))]
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    top = int(rng.integers(image.shape[0] - height + 1))
    left = int(rng.integers(image.shape[1] - width + 1))
    view = image[top : top + height, left : left + width]
    return view[:, ::-1] if rng.random() < 0.5 else view


def open_inputs(
    labels: PartialLabels,
    settings: CompletionSettings,
    runtime: Runtime,
    cache: Path,
    *,
    maps: bool = True,
) -> Inputs:
    """What a network with these settings reads of the images.

    Args:
        cache: folder of kept maps, shared by methods, seeds, proportions and processes.
        maps: False keeps the maps' means only, which is all that some methods read.

    Raises:
        DataError: an image that cannot be read, unless ``runtime.skip_bad``.
        ConfigError: the backbone is not available.
        RelabelError: the disk has no room for the maps.
    """
    if len(labels) == 0:
        raise DataError(f"{labels.name!r} has no image", file=labels.root)
    device = resolve_device(runtime.device)
    if not settings.frozen:
        return _open_pixels(labels, settings, runtime)
    how = [
        *body_identity(settings),
        settings.image_size,
        resolve_precision(settings.precision, device),
    ]
    folder = cache / fingerprint([how, labels.fingerprint(labels=False)])[:16]
    kept = _open_kept(folder, len(labels), fingerprint(how), maps)
    if kept is None:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder, f"the maps of {labels.name}")
        lock.acquire(_PATIENCE)
        try:
            if _open_kept(folder, len(labels), fingerprint(how), maps) is None:
                _fill(labels, settings, runtime, folder, maps=maps)
        finally:
            lock.release()
        kept = _open_kept(folder, len(labels), fingerprint(how), maps)
        assert kept is not None
    if not runtime.skip_bad:
        for row in np.flatnonzero(~kept.readable)[:1].tolist():
            read_rgb(labels.location(row))  # says what is wrong, as without kept maps
    return kept


def _open_pixels(labels: PartialLabels, settings: CompletionSettings, runtime: Runtime) -> Pixels:
    body = build_body(settings)
    side = _side(settings.image_size, body.divisor)
    places = [labels.location(row) for row in range(len(labels))]
    readable = np.ones(len(labels), bool)
    if runtime.skip_bad:
        readable = np.array([_is_readable(place) for place in places], bool)
    identity = fingerprint([*body_identity(settings), settings.image_size, "pixels"])
    return Pixels(places, side, readable, identity)


def _is_readable(location: str) -> bool:
    try:
        read_rgb(location)
    except DataError:
        return False
    return True


def _side(image_size: int, divisor: int) -> int:
    """The square's side, a multiple of the backbone's stride."""
    return -(-image_size // divisor) * divisor


def _open_kept(folder: Path, images: int, identity: str, maps: bool) -> Features | None:
    """The finished maps of a folder, None where there are none."""
    if not (folder / DONE).is_file():
        return None
    done = read_object(folder / DONE, remedy=_RENEW)
    with foreign(folder / DONE, "a description of kept maps", remedy=_RENEW):
        if maps and not done["maps"]:
            return None
        shape = (images, int(done["channels"]), *(map(int, done["grid"]) if maps else (1, 1)))
        readable = np.ones(images, bool)
        readable[done["unreadable"]] = False
    file = folder / (MAPS if maps else POOLED)
    if check_regular(file, remedy=_RENEW) != 2 * int(np.prod(shape)):
        raise DataError("has not the size its description says", file=file, remedy=_RENEW)
    stored = np.memmap(file, np.float16, "r", shape=shape)
    return Features(stored, np.arange(images), readable, identity)


def _fill(
    labels: PartialLabels,
    settings: CompletionSettings,
    runtime: Runtime,
    folder: Path,
    *,
    maps: bool,
) -> None:
    """Compute the maps of all images into ``folder``, from where a run before left off."""
    local = runtime.engine == "local"
    device = resolve_device(driver_device(runtime))
    body = build_body(settings).to(device).eval()
    here = body if local else None
    side = _side(settings.image_size, body.divisor)
    with torch.inference_mode():
        probe = body(torch.zeros(1, 3, side, side, device=device))
    channels, *grid = probe.shape[1:]
    images = len(labels)
    row_bytes = {POOLED: 2 * channels, **({MAPS: 2 * probe.numel()} if maps else {})}
    start, unreadable = _resumed(folder, row_bytes)
    _check_room(labels.name, folder, sum(row_bytes.values()) * (images - start))
    title = f"Computing the backbone's maps of {labels.name}"

    def open(runtime: Runtime) -> Make[_Computed]:
        device = resolve_device(runtime.device)
        net = here or build_body(settings).to(device).eval()

        def read(i: int) -> tuple[Tensor, list[int]]:
            rows = range(start + i * _BATCH, min(start + (i + 1) * _BATCH, images))
            return _read(labels, rows, side, skip_bad=runtime.skip_bad)

        def make(items: Sequence[int]) -> Iterator[_Computed]:
            threads = _threads(labels, runtime)
            ahead = prefetch(lambda at: read(items[at]), 0, len(items), workers=threads)
            for pixels, bad in ahead:
                x = pixels.to(device, memory_format=torch.channels_last).float() / 255
                with torch.inference_mode(), autocast(settings.precision, device):
                    found = net(x).float()
                    found[bad] = 0
                kept = {POOLED: _halved(found.mean((2, 3)))}
                if maps:
                    kept[MAPS] = _halved(found)
                yield _Computed(kept, bad)

        return make

    def note(done: int) -> None:
        for name in row_bytes:
            sync(_unfinished(folder / name))
        atomic_write_json(folder / PART, {"done": done, "unreadable": unreadable})

    batches = range(-(-(images - start) // _BATCH))
    streams = {name: _unfinished(folder / name).open("ab") for name in row_bytes}
    try:
        with progress(title, total=images, unit="img", quiet=runtime.quiet or not local) as bar:
            bar.update(start)
            done = start
            computed = make_in_order(
                open, batches, runtime, title=title, unit="batches", what="batch"
            )
            for number, one in enumerate(computed, start=1):
                for name, stream in streams.items():
                    stream.write(one.values[name].tobytes())
                unreadable += [done + place for place in one.unreadable]
                count = len(one.values[POOLED])
                done += count
                bar.update(count)
                if number % _BETWEEN_NOTES == 0:
                    for stream in streams.values():
                        stream.flush()
                    note(done)
    finally:
        for stream in streams.values():
            stream.close()
    note(images)
    for name in row_bytes:
        _unfinished(folder / name).replace(folder / name)
    atomic_write_json(
        folder / DONE,
        {"channels": channels, "grid": grid, "maps": maps, "unreadable": unreadable},
    )
    (folder / PART).unlink(missing_ok=True)


@dataclass(frozen=True, eq=False)
class _Computed:
    """A batch's maps: float16 [B, ...] by file name, and places of images that were not read."""

    values: Mapping[str, np.ndarray]
    unreadable: Sequence[int]


def _read(
    labels: PartialLabels, rows: Sequence[int], side: int, *, skip_bad: bool
) -> tuple[Tensor, list[int]]:
    """uint8 [B, 3, S, S] of some images, and the places of those that cannot be read."""
    pixels, bad = torch.zeros(len(rows), 3, side, side, dtype=torch.uint8), []
    for place, row in enumerate(rows):
        try:
            pixels[place] = squeezed(read_rgb(labels.location(row)), side)
        except DataError:
            if not skip_bad:
                raise
            bad.append(place)
    return pixels, bad


def _resumed(folder: Path, row_bytes: dict[str, int]) -> tuple[int, list[int]]:
    """The rows that a run before finished, cut to them, and which of them cannot be read."""
    done, unreadable = 0, []
    if (folder / PART).is_file():
        part = read_object(folder / PART, remedy=_RENEW)
        with foreign(folder / PART, "a note of how far maps are", remedy=_RENEW):
            done, unreadable = int(part["done"]), list(part["unreadable"])
    if any(_size(_unfinished(folder / name)) < done * size for name, size in row_bytes.items()):
        done, unreadable = 0, []
    for name, size in row_bytes.items():
        with _unfinished(folder / name).open("ab") as stream:
            stream.truncate(done * size)
    return done, unreadable


def _unfinished(file: Path) -> Path:
    """Where a file grows. The finished one may be mapped by others, and is not touched."""
    return file.with_name(f"{file.name}.part")


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _halved(values: Tensor) -> np.ndarray:
    return values.clamp(-LARGEST, LARGEST).half().contiguous().cpu().numpy()


def _threads(labels: PartialLabels, runtime: Runtime) -> int:
    distant = len(labels) > 0 and is_url(labels.location(0))
    return reading_threads(runtime.workers, waiting=distant)


def _check_room(name: str, folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise RelabelError(
            f"the backbone's maps of {name!r} need {wanted / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
            "are free",
            file=folder,
            remedy="Free some space, take a method that keeps the maps' means alone, such as "
            "--method bce, or lower --set complete.image_size.",
        )


def passes(images: int, size: int) -> Iterator[np.ndarray]:
    """Rows of all images in order, ``size`` at a time, int64."""
    for first in range(0, images, size):
        yield np.arange(first, min(first + size, images))
