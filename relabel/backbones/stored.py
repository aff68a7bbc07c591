"""Maps of a frozen backbone, computed once per image and kept for every training that wants them.

A body that never learns gives the same maps in every pass, for every seed and whatever labels an
image carries. They are kept as float16, one file per image (and one for its mirror image), under
names made of the body's weights, the sizes and the image's file. So trainings, specialists and
processes share a folder without knowing of each other, and what is there is never redone.

Shape legend: ``B`` images, ``H, W`` pixels after padding, ``d`` channels of a map, ``s`` its
stride.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from relabel.backbones.extractor import FeatureMaps, StrideMaps
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.batches import ImageBatches
from relabel.datasets.pixels.location import (
    containing_file,
    image_location,
    relative_location,
    stated_size,
)
from relabel.errors import RelabelError
from relabel.files.remote import is_url
from relabel.settings import Runtime
from relabel.training.loop import autocast, resolve_precision
from relabel.training.pixels import pad_batch, resized, resized_pixels
from relabel.workspace.atomic import atomic_path
from relabel.workspace.fingerprint import fingerprint
from relabel.workspace.progress import progress

LARGEST = 65504.0  # of float16
# What is shown of an image: its resized pixels [3, h, w] and the file of its maps to pixels.
View = Callable[[Tensor, Path], Tensor]
MIRROR = "mirror"


@dataclass(frozen=True)
class MapSizes:
    """How images become the body's input.

    Attributes:
        image_size, max_image_size: short and longest side in pixels.
        precision: arithmetic of the body.
    """

    image_size: int
    max_image_size: int
    precision: str


@dataclass(frozen=True, eq=False)
class ImageMaps:
    """The maps of one image.

    Attributes:
        levels: stride to float16 [d, h, w] of the padded image, its channels last in memory.
        size: (height, width) in pixels without padding.
    """

    levels: dict[int, Tensor]
    size: tuple[int, int]


class MapStore:
    """A folder of a frozen body's maps.

    Args:
        backbone: its body is frozen; only maps at the strides it reads are kept.
        folder: shared by whoever trains on this body; made when the first map is written.
        device: where the body runs.
    """

    def __init__(
        self, backbone: StrideMaps, folder: Path, sizes: MapSizes, device: torch.device
    ) -> None:
        self.body = backbone.body
        self.strides = backbone.read_strides
        self.divisor = backbone.divisor
        self.sizes = sizes
        self.device = device
        weights = {
            name: zlib.crc32(
                value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            )
            for name, value in self.body.net.state_dict().items()
            if value.numel()
        }
        how = {**asdict(sizes), "precision": resolve_precision(sizes.precision, device)}
        key = [asdict(self.body.spec), weights, how, self.strides, self.divisor]
        self.folder = folder / fingerprint(key)[:16]

    def fill(
        self,
        dataset: DetectionDataset,
        rows: Sequence[int] | None = None,
        *,
        mirrored: bool,
        runtime: Runtime,
        views: Mapping[str, View] | None = None,
    ) -> list[Path]:
        """Compute what is missing of a dataset's images; the file of each, for `read`.

        Several processes may fill one folder: each starts elsewhere and leaves out what is there.

        Args:
            rows: these images only; the files of others are named all the same.
            mirrored: the mirror images as well.
            views: further views of every image by name, which stands for how they are made: what
                is there under a name is never made again. They have the size of the image.

        Raises:
            DataError: an image that cannot be read.
            RelabelError: the disk has no room for the maps.
        """
        files = [self._file(dataset, row) for row in range(len(dataset))]
        wanted = range(len(dataset)) if rows is None else rows
        ways: dict[str, View] = {"": lambda x, _: x}
        if mirrored:
            ways[MIRROR] = lambda x, _: x.flip(2)
        ways |= views or {}
        todo = [int(r) for r in wanted if self._missing(files[r], ways)]
        if not todo:
            return files
        self._check_room(dataset, todo, len(ways))
        start = os.getpid() * 7919 % len(todo)
        turned = todo[start:] + todo[:start]

        def missing() -> Iterator[list[int]]:
            for row in turned:
                if self._missing(files[row], ways):
                    yield [row]

        title = f"Computing the backbone's maps of {dataset.name}"
        with (
            ImageBatches(dataset, batches=missing(), workers=runtime.workers) as batches,
            progress(title, total=len(todo), unit="img", quiet=runtime.quiet) as bar,
        ):
            for found, images in batches:
                for row, image in zip(found.tolist(), images, strict=True):
                    x = resized_pixels(image, self.sizes.image_size, self.sizes.max_image_size)
                    for name in self._missing(files[row], ways):
                        self._write(view_of(files[row], name), ways[name](x, files[row]))
                bar.update(len(images))
        return files

    def kept(self, dataset: DetectionDataset, rows: Sequence[int]) -> dict[int, Path] | None:
        """The files of some of a dataset's images by row, if their maps are all there."""
        files = {}
        for row in rows:
            files[row] = self._file(dataset, row)
            if not files[row].is_file():
                return None
        return files

    def read(
        self, dataset: DetectionDataset, row: int, file: Path, mirrored: bool, view: str = ""
    ) -> ImageMaps:
        """The maps of an image of a dataset, from its file as `fill` named it.

        Args:
            view: the name of a further view, in place of the image and its mirror image.
        """
        size = self._size(dataset, row)
        height, width = self._padded(size)
        path = view_of(file, view or (MIRROR if mirrored else ""))
        values = torch.from_numpy(np.fromfile(path, np.float16))
        levels, at = {}, 0
        for stride in self.strides:
            shape = (height // stride, width // stride, self.body.channels[stride])
            count = int(np.prod(shape))
            levels[stride] = values[at : at + count].view(shape).permute(2, 0, 1)
            at += count
        return ImageMaps(levels, size)

    def _write(self, file: Path, x: Tensor) -> None:
        # One image at a time: what a map holds must not depend on its neighbours in a batch.
        pixels, _ = pad_batch([x], self.divisor)
        pixels = pixels.to(self.device, memory_format=torch.channels_last)
        body = self.body.to(self.device).eval()
        with torch.no_grad(), autocast(self.sizes.precision, self.device):
            found = body(pixels)
        with atomic_path(file) as temporary, temporary.open("wb") as stream:
            for stride in self.strides:
                level = found[stride][0].float().clamp(-LARGEST, LARGEST).half()
                expected = (pixels.shape[2] // stride, pixels.shape[3] // stride)
                if level.shape[1:] != expected:
                    raise RelabelError(
                        f"the map at stride {stride} has {tuple(level.shape[1:])} cells and not "
                        f"{expected}: this backbone's maps cannot be kept",
                        remedy="Train some of its layers: set frozen_stride below 32.",
                    )
                stream.write(level.permute(1, 2, 0).contiguous().cpu().numpy().tobytes())

    def _check_room(self, dataset: DetectionDataset, rows: Sequence[int], views: int) -> None:
        wanted = sum(self._bytes(dataset, row) for row in rows) * views
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if wanted > free:
            raise RelabelError(
                f"the backbone's maps of {dataset.name!r} need {wanted / 1e9:.1f} GB, and "
                f"{free / 1e9:.1f} GB are free",
                file=self.folder,
                remedy="Free some space, lower image_size, leave fine maps out of fpn_strides, or "
                "set frozen_stride below 32, which keeps no maps.",
            )

    def _bytes(self, dataset: DetectionDataset, row: int) -> int:
        height, width = self._padded(self._size(dataset, row))
        return 2 * sum((height // s) * (width // s) * self.body.channels[s] for s in self.strides)

    def _size(self, dataset: DetectionDataset, row: int) -> tuple[int, int]:
        width, height = stated_size(dataset, row)
        return resized(height, width, self.sizes.image_size, self.sizes.max_image_size)

    def _padded(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = (-(-side // self.divisor) * self.divisor for side in size)
        return height, width

    def _missing(self, file: Path, names: Iterable[str]) -> list[str]:
        """Which views of an image are not there."""
        return [name for name in names if not view_of(file, name).is_file()]

    def _file(self, dataset: DetectionDataset, row: int) -> Path:
        """Named by the image alone, so that datasets that relabel it share it.

        Its place, bytes and time of change stand for its content: a copy is computed again, and
        so is an image that was replaced. Of one behind a URL the place alone does.
        """
        location = image_location(dataset, row)
        container = containing_file(location)
        if not is_url(container):
            container = os.path.abspath(container)  # noqa: PTH100 (links stay)
        try:
            found = os.stat(container)  # noqa: PTH116 (a Path per image costs time)
            state = (found.st_size, found.st_mtime_ns)
        except OSError:  # reading it says so, with the image's id
            state = (-1, -1)
        inside = relative_location(location, str(dataset.root))
        parts = (container, inside, *state, *stated_size(dataset, row))
        name = hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "replace")).hexdigest()
        return self.folder / name[:2] / f"{name[2:32]}.f16"


def view_of(file: Path, name: str = MIRROR) -> Path:
    """The file of a view of an image, by default its mirror image; "" is the image itself."""
    return file.with_suffix(f".{name}.f16") if name else file


def stacked(
    images: Sequence[ImageMaps], least: tuple[int, int] = (0, 0)
) -> tuple[FeatureMaps, list[tuple[int, int]]]:
    """Maps of images as a batch, zero-padded, and (height, width) of each image in pixels.

    Args:
        least: minimum height and width of the batch in pixels.
    """
    strides = list(images[0].levels)
    levels = {}
    for stride in strides:
        maps = [image.levels[stride] for image in images]
        height, width = (max(least[i] // stride, *(m.shape[i + 1] for m in maps)) for i in (0, 1))
        batch = torch.zeros(len(maps), height, width, maps[0].shape[0], dtype=torch.float16)
        for row, m in zip(batch, maps, strict=True):
            row[: m.shape[1], : m.shape[2]] = m.permute(1, 2, 0)
        levels[stride] = batch.permute(0, 3, 1, 2)
    fine = strides[0]
    size = (levels[fine].shape[2] * fine, levels[fine].shape[3] * fine)
    return FeatureMaps(levels, size), [image.size for image in images]
