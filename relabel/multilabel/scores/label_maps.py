"""Label maps: which class a classifier sees in each cell of a coarse grid over the image.

Shape legend: ``B`` images, ``C`` classes, ``k`` classes kept per cell, ``g`` cells per side, ``n``
regions, ``H, W`` pixels. ReLabel (Yun et al., CVPR 2021) releases one file per training image,
[2, 5, 15, 15]: the five greatest logits of each cell and their class ids. Classes that a cell does
not list count as logit 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from relabel.errors import DataError
from relabel.files.tensors import read_pickled
from relabel.multilabel.grid import mask_weights

_MOST_NUMBERS = 1 << 24
_REMEDY_SHAPE = "A label map holds logits and class ids, [2, 5, 15, 15] in ReLabel's release."


@dataclass(frozen=True)
class LabelMap:
    """The kept classes of each cell of one image.

    Attributes:
        logits: float32 [k, g, g].
        ids: int64 [k, g, g], each in 0 .. classes - 1.
        classes: C.
    """

    logits: Tensor
    ids: Tensor
    classes: int

    @property
    def grid(self) -> int:
        return self.logits.shape[-1]

    def dense(self) -> Tensor:
        """float32 [C, g, g]: logits at their classes, 0 elsewhere."""
        full = torch.zeros(self.classes, self.grid, self.grid, device=self.logits.device)
        return full.scatter_(0, self.ids, self.logits)

    def stacked(self) -> Tensor:
        """float32 [2, k, g, g], the layout of the files."""
        return torch.stack([self.logits, self.ids.float()])


def read_label_map(path: str | Path, transpose: bool = False, classes: int = 1000) -> LabelMap:
    """Read one label map as ReLabel releases them.

    Args:
        path: a file with one tensor [2, k, g, g] of any number type: logits, then class ids.
        transpose: swap the two axes of the grid. The public loaders disagree about their order;
            `axis_agreement` tells from the data.
        classes: C; ids must be below it.

    Raises:
        DataError: the file is missing, damaged or not such a tensor, a logit is not finite, or a
            class id is not whole or out of range.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(
            "label map does not exist",
            file=path,
            remedy="Check --maps, or go on without such images by --skip-bad; or give a "
            "--classifier that makes the maps.",
        )
    try:
        # A label map is data from the network: nothing in it may be executed.
        data = read_pickled(path)
    except DataError as error:
        raise DataError(
            f"label map cannot be read: {error.message}",
            file=path,
            remedy="Download the file again.",
        ) from error
    if not isinstance(data, Tensor):
        raise DataError(
            f"holds a {type(data).__name__}, not a tensor", file=path, remedy=_REMEDY_SHAPE
        )
    shape = tuple(data.shape)
    if len(shape) != 4 or shape[0] != 2 or shape[2] != shape[3] or 0 in shape:
        raise DataError(f"has shape {list(shape)}", file=path, remedy=_REMEDY_SHAPE)
    # A tensor may repeat a few stored numbers without end.
    if data.layout != torch.strided or data.is_quantized or data.numel() > _MOST_NUMBERS:
        raise DataError(
            f"holds {data.numel():,} numbers, or in an unusual form",
            file=path,
            remedy=_REMEDY_SHAPE,
        )
    if data.is_complex() or data.dtype == torch.bool:
        raise DataError(f"holds {data.dtype} values", file=path, remedy=_REMEDY_SHAPE)
    logits, ids = data[0].float(), data[1].double()
    if transpose:
        logits, ids = logits.transpose(-1, -2), ids.transpose(-1, -2)
    if not bool(torch.isfinite(logits).all()):
        raise DataError("a logit is NaN or infinite", file=path, remedy="Download the file again.")
    whole = ids.round()
    if not bool((whole == ids).all()):  # NaN included
        raise DataError(
            f"class id {float(ids[whole != ids][0]):g} is not a whole number",
            file=path,
            remedy="Index 0 of a label map holds the logits, index 1 the class ids.",
        )
    wrong = (ids < 0) | (ids >= classes)
    if bool(wrong.any()):
        raise DataError(
            f"class id {int(ids[wrong][0])} is outside 0..{classes - 1}",
            file=path,
            remedy=f"These maps must be made for the same {classes} classes as the images have.",
        )
    return LabelMap(logits.contiguous(), whole.long().contiguous(), classes)


class LabelMapFolder:
    """A folder of label maps, ``<wnid>/<stem>.pt`` for the image ``<wnid>/<stem>.JPEG``.

    Raises:
        DataError: ``root`` is not a folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(
                "folder of label maps does not exist", file=self.root, remedy="Check --maps."
            )

    def find(self, file_name: str) -> Path | None:
        """The map of the image with this relative POSIX name, None where there is none.

        Looked for under the image's own relative path, then under its last folder, then under
        the synset in its name (``n01440764_10026``), then directly in the root.
        """
        name = PurePosixPath(file_name)
        stem = f"{name.stem}.pt"
        options = [
            str(name.parent / stem),
            str(PurePosixPath(name.parent.name) / stem),
            f"{name.stem.split('_')[0]}/{stem}",
            stem,
        ]
        for option in options:
            path = self.root / option
            if path.is_file():
                return path
        return None

    def any_of(self, file_names: Iterable[str]) -> bool:
        """Whether any of these images has a map; ends at the first one."""
        return any(self.find(name) is not None for name in file_names)

    def read(self, file_name: str, transpose: bool = False, classes: int = 1000) -> LabelMap:
        """The image's label map; see `read_label_map`.

        Raises:
            DataError: it is missing or damaged.
        """
        path = self.find(file_name)
        if path is None:
            name = PurePosixPath(file_name)
            path = self.root / name.parent.name / f"{name.stem}.pt"
        return read_label_map(path, transpose, classes)


def keep_top(logits: Tensor, top: int) -> Tensor:
    """Dense logits as label maps.

    A reader takes the classes that a cell does not list as logit 0. Each cell is therefore
    shifted so that the classes left out have a mean exponential of 1: under a softmax over the
    cell, the kept classes then have exactly the probabilities they had. The shift is the same for
    all classes of a cell, and so changes nothing else.

    Args:
        logits: [B, C, g, g].
        top: classes to keep; at most C.

    Returns:
        float32 [B, 2, k, g, g]: logits in descending order, class ids.
    """
    classes = logits.shape[1]
    count = min(top, classes)
    logits = logits.float()
    kept, ids = logits.topk(count, dim=1)
    if count < classes:
        rest = logits.scatter(1, ids, -math.inf).logsumexp(1, keepdim=True)
        kept = kept - (rest - math.log(classes - count))
    return torch.stack([kept, ids.float()], dim=1)


def region_scores_batch(maps: Tensor, images: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Class probabilities s_P of regions of many images at once (multi-label paper, region filter).

    Softmax of the mask-weighted mean of the dense logits, on the maps' device; a region without
    weight gets equal probabilities. Only the kept classes are summed, which is C / k times less
    work than the dense maps.

    Args:
        maps: [B, 2, k, g, g].
        images: int64 [n], the row in ``maps`` of each region's image.
        masks: float [n, g, g], the cells' weights in each region; see `mask_weights`.
        classes: C.

    Returns:
        float32 [n, C].
    """
    if maps.shape[-2:] != masks.shape[-2:]:
        raise ValueError(
            f"masks on a grid of {tuple(masks.shape[-2:])}, label maps on one of "
            f"{tuple(maps.shape[-2:])}"
        )
    k = maps.shape[2]
    mine = maps[images.to(maps.device)].flatten(3)  # [n, 2, k, g * g]
    weight = masks.to(maps.device).double().flatten(1)[:, None].expand(-1, k, -1)
    sums = torch.zeros(len(masks), classes, dtype=torch.float64, device=maps.device)
    # fp64: sums by atomic additions differ between runs on a GPU only far below fp32.
    sums.scatter_add_(1, mine[:, 1].long().flatten(1), (mine[:, 0].double() * weight).flatten(1))
    area = masks.to(maps.device).double().flatten(1).sum(1, keepdim=True)
    mean = torch.where(area > 0, sums / area.clamp_min(1e-300), torch.zeros_like(sums))
    return mean.softmax(1).float()


@dataclass(frozen=True)
class AxisAgreement:
    """Which axis order of the label maps fits the masks.

    Attributes:
        images: images that could tell (label in the map, a mask that is not everything).
        plain, transposed: mean correlation in [-1, 1] of the label's logits with the regions, as
            the maps are stored and with their axes swapped.
        z: mean difference over its standard error; positive where the stored order fits better.
    """

    images: int
    plain: float
    transposed: float
    z: float

    @property
    def transpose(self) -> bool | None:
        """Whether the maps should be transposed; None while the data do not tell (|z| < 3)."""
        return None if abs(self.z) < 3 else self.z < 0


def axis_agreement(
    maps: Iterable[LabelMap], masks: Iterable[Tensor], labels: Iterable[int]
) -> AxisAgreement:
    """Compare both axis orders of label maps on images with regions and labels.

    The logits of an image's own label should be high inside its regions. Each image contributes
    the correlation over cells between the two; see `AxisAgreement`.

    Args:
        maps: read without transposing.
        masks: bool [n, H, W] per image.
        labels: the image's own class.
    """
    found = []
    for label_map, regions, label in zip(maps, masks, labels, strict=True):
        if not len(regions) or label < 0:
            continue
        inside = mask_weights(regions.any(0, keepdim=True), label_map.grid)[0].double()
        plane = label_map.dense()[label].double()
        pair = _correlation(plane, inside), _correlation(plane.T, inside)
        if pair[0] is not None and pair[1] is not None:
            found.append(pair)
    if not found:
        return AxisAgreement(0, 0.0, 0.0, 0.0)
    values = torch.tensor(found, dtype=torch.float64)
    difference = values[:, 0] - values[:, 1]
    spread = float(difference.std()) if len(found) > 1 else 0.0
    error = max(spread, 1e-9) / len(found) ** 0.5
    z = float(difference.mean()) / error if len(found) > 1 else 0.0
    return AxisAgreement(len(found), float(values[:, 0].mean()), float(values[:, 1].mean()), z)


def _correlation(a: Tensor, b: Tensor) -> float | None:
    a, b = a - a.mean(), b - b.mean()
    scale = float(a.norm() * b.norm())
    return float((a * b).sum()) / scale if scale > 1e-9 else None
