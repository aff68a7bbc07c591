"""What the trained families share: a network as something to train, to predict with, to keep.

Shape legend: ``B`` images, ``n`` boxes of an image, ``m`` ignore regions, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from relabel.backbones.extractor import FeatureMaps, StrideMaps
from relabel.backbones.stored import ImageMaps, MapSizes, MapStore, stacked
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.location import stated_size
from relabel.detectors.base import BoxScores, Detections, PreparedImage, no_box_head
from relabel.detectors.checkpoint import CONFIG, WEIGHTS, write_model
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import DataError
from relabel.files.json_text import read_object
from relabel.files.opening import foreign, said_of
from relabel.files.tensors import read_tensors
from relabel.settings import Ranking, settings_dict, settings_from
from relabel.training.loop import autocast, resolve_device
from relabel.training.memory import keep_freed_memory
from relabel.training.pixels import resized_bytes, scales_of, stack_bytes, stack_images

MIN_SCORE = 0.01
TOP_DETECTIONS = 300


class DetectionNetwork(nn.Module):
    """A network of one of the families.

    Attributes:
        divisor: sides of a batch must be multiples of it.
        ranking: what its detections are ranked by.
        exclusive: whether the scores of a box and that of the background sum to 1; else each class
            is a question of its own.
    """

    divisor: int
    ranking: Ranking = "score"
    exclusive: bool = True

    def forward(
        self,
        pixels: Any,
        sizes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> Any:
        """Named losses (training) or detections per image.

        Args:
            pixels: [B, 3, H, W] in [0, 1], padded at the bottom and right.
            sizes: (height, width) of each image without its padding.
            targets: per image ``boxes`` [n, 4] xyxy in pixels of the batch, ``labels`` [n] from
                1, ``ignored`` [m, 4] and, in all images or in none, ``classes`` bool [C + 1]: the
                background (0) and the classes that the image's dataset knows; the others get
                neither loss nor gradient. Images may have ``possible`` bool [n, C + 1], the
                classes each box may be of: the loss asks for any of them; and ``weights`` [n] that
                the losses of each box are multiplied by.

        Returns:
            In evaluation mode a dict per image with ``boxes`` [n, 4] xyxy in pixels of the batch
            and ``scores`` [n, C], and ``quality`` [n] in [0, 1] where the network judges how
            well boxes are located.
        """
        raise NotImplementedError

    def score_boxes(
        self, pixels: Any, sizes: list[tuple[int, int]], boxes: list[Tensor]
    ) -> list[dict[str, Tensor]]:
        """What the box head says of given boxes, in evaluation mode.

        Args:
            pixels, sizes: as in `forward`.
            boxes: per image [n, 4], xyxy in pixels of the batch.

        Returns:
            Per image ``scores`` [n, C] and ``boxes`` [n, C, 4], in pixels of the batch.

        Raises:
            ConfigError: the network has no box head.
        """
        raise no_box_head()

    def pretrained(self) -> nn.Module:
        """The part that came with weights."""
        raise NotImplementedError

    def description(self) -> dict[str, Any]:
        """JSON-ready: what the family makes the same network from."""
        raise NotImplementedError

    def kept_maps(self) -> StrideMaps | None:
        """What makes the maps that may be kept and given in the place of pixels, if it is frozen.

        Such a network's ``forward`` takes `FeatureMaps` as ``pixels``.
        """
        return None


@dataclass(frozen=True)
class Family:
    """How the detectors of one family are made and kept.

    Attributes:
        kind: ``detector`` in ``config.json``, by which `load_detector` knows the family.
        title: the family in messages, with its article.
        retrain: what a user can do about a damaged checkpoint.
        new: a network to train, from pretrained weights.
        rebuild: the network that a `DetectionNetwork.description` describes, with any weights, for
            a number of classes; needs neither hub nor folder.
        restrict: a copy of a network that has the classes at some positions only, in that order.
        sees_padding: what is found in an image depends on the size it is padded to.
    """

    kind: str
    title: str
    retrain: str
    new: Callable[[int, SpecialistSettings], DetectionNetwork]
    rebuild: Callable[[int, SpecialistSettings, Any], DetectionNetwork]
    restrict: Callable[[Any, Sequence[int]], DetectionNetwork]
    sees_padding: bool

    def trainable(self, space: LabelSpace, settings: SpecialistSettings) -> Trainable:
        """A new detector to train.

        Raises:
            ConfigError, DataError: the backbone or the pretrained model cannot be loaded.
        """
        return Trainable(self, self.new(space.num_classes, settings), space, settings)

    def load(self, folder: Path, device: str = "auto") -> NetworkDetector:
        """Read what `Trainable.save` wrote; needs neither the hub nor the backbone's folder.

        Raises:
            DataError: a file is missing, damaged, or does not fit the configuration.
        """
        keep_freed_memory()
        config_file, weights_file = folder / CONFIG, folder / WEIGHTS
        config = read_object(config_file, remedy=self.retrain)
        with foreign(config_file, f"{self.title} checkpoint", remedy=self.retrain):
            space = LabelSpace.from_dict(config["space"], file=config_file)
            settings = settings_from(SpecialistSettings, config["settings"], where=str(config_file))
            model = self.rebuild(space.num_classes, settings, config["network"])
        try:
            model.load_state_dict(read_tensors(weights_file))
        except Exception as error:
            text = error.message if isinstance(error, DataError) else said_of(error)
            raise DataError(
                f"weights cannot be loaded: {text}", file=weights_file, remedy=self.retrain
            ) from error
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        trained = Trainable(self, model, space, settings)
        return trained.detector(resolve_device(device))


@dataclass
class Trainable:
    """A detector in training.

    Attributes:
        model: the network.
        space: the label space of its ``C`` classes.
    """

    family: Family
    model: DetectionNetwork
    space: LabelSpace
    settings: SpecialistSettings

    def backbone_parameters(self) -> set[int]:
        """``id`` of the parameters that learn at ``backbone_lr_scale``."""
        return {id(p) for p in self.model.pretrained().parameters()}

    def detector(self, device: torch.device) -> NetworkDetector:
        """A detector over the model's current weights; it shares them."""
        return NetworkDetector(self, device)

    def save(self, out: Path) -> None:
        """Write a checkpoint that `load_detector` reads."""
        config = {
            "detector": self.family.kind,
            "space": self.space.to_dict(),
            "network": self.model.description(),
            "settings": settings_dict(self.settings),
        }
        write_model(out, self.model.state_dict(), config)

    def map_store(self, folder: Path, device: torch.device) -> MapStore | None:
        """The frozen backbone's maps in a folder; None where a part of it learns."""
        return map_store(self.model, self.settings, folder, device)

    def restricted(self, space: LabelSpace, classes: Sequence[int]) -> Trainable:
        """A copy of the current model that knows some classes only.

        Args:
            space: the label space of the copy.
            classes: position in `space` of this model of each class of the copy.
        """
        model = self.family.restrict(self.model, classes)
        return Trainable(self.family, model, space, self.settings)


def map_store(
    model: DetectionNetwork, settings: SpecialistSettings, folder: Path, device: torch.device
) -> MapStore | None:
    """The maps of a network's frozen backbone in a folder; None where a part of it learns."""
    backbone = model.kept_maps()
    if backbone is None:
        return None
    sizes = MapSizes(settings.image_size, settings.max_image_size, settings.precision)
    return MapStore(backbone, folder, sizes, device)


class NetworkDetector:
    """A trained network: a `Detector`.

    Where a network sees the padding, an image is batched only with others of its padded size, so
    that what is found in it does not depend on its neighbours.
    """

    def __init__(self, trained: Trainable, device: torch.device) -> None:
        self.model = trained.model.to(device).eval()
        self.space = trained.space
        self.settings = trained.settings
        self.sees_padding = trained.family.sees_padding
        self.device = device

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Detect in B images, each uint8 [H, W, 3] RGB; sizes may differ."""
        return self.predict_prepared([self.prepare(image) for image in images])

    @property
    def prepared_size(self) -> tuple[int, int] | None:
        """See `relabel.detectors.base.Preparing`; None on a CPU, whose cores the network has."""
        return None if self.device.type == "cpu" else self._size

    @property
    def _size(self) -> tuple[int, int]:
        return self.settings.image_size, self.settings.max_image_size

    def prepare(self, image: np.ndarray) -> PreparedImage:
        """See `relabel.detectors.base.Preparing`."""
        height, width = image.shape[:2]
        return PreparedImage(resized_bytes(image, *self._size), (height, width))

    def predict_prepared(self, images: Sequence[PreparedImage]) -> list[Detections]:
        """See `relabel.detectors.base.Preparing`."""
        groups: dict[Any, list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(self._padded(image) if self.sees_padding else None, []).append(i)
        found: dict[int, Detections] = {}
        for rows in groups.values():
            batch = self._predict([images[i] for i in rows])
            found.update(zip(rows, batch, strict=True))
        return [found[i] for i in range(len(images))]

    def score_boxes(
        self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]
    ) -> list[BoxScores]:
        """Classify and refine given boxes; see `relabel.detectors.base.BoxHead`."""
        s = self.settings
        batch, sizes, scales = stack_images(
            images, s.image_size, s.max_image_size, self.model.divisor, self.device
        )
        batch = batch.to(self.device, memory_format=torch.channels_last)
        factors = [np.array([sx, sy, sx, sy], np.float32) for sy, sx in scales]
        given = [
            torch.from_numpy(np.asarray(b, np.float32).reshape(-1, 4) * factor).to(self.device)
            for b, factor in zip(boxes, factors, strict=True)
        ]
        with torch.no_grad(), autocast(s.precision, self.device):
            found = self.model.score_boxes(batch, sizes, given)
        results = []
        for row, image, factor in zip(found, images, factors, strict=True):
            height, width = image.shape[:2]
            refined = row["boxes"].float().cpu().numpy() / factor
            refined = np.clip(refined, 0, np.array([width, height] * 2, np.float32))
            scores = row["scores"].float().cpu().numpy()
            results.append(BoxScores(scores, refined.astype(np.float32)))
        return results

    def _padded(self, image: PreparedImage) -> tuple[int, int]:
        d = self.model.divisor
        height, width = image.pixels.shape[1:]
        return -(-height // d) * d, -(-width // d) * d

    def _predict(self, images: Sequence[PreparedImage]) -> list[Detections]:
        pixels = [image.pixels for image in images]
        shapes = [image.size for image in images]
        batch, sizes = stack_bytes(pixels, self.model.divisor, self.device)
        return self._run(batch, sizes, scales_of(sizes, shapes), shapes)

    def predict_kept(
        self, store: MapStore, dataset: DetectionDataset, rows: Sequence[int], files: Sequence[Path]
    ) -> list[Detections]:
        """Detect in B images of a dataset whose maps are kept.

        Args:
            files: of all the dataset's images, from `MapStore.fill`.
        """
        maps = [store.read(dataset, row, files[row], mirrored=False) for row in rows]
        return self.predict_maps(maps, [stated_size(dataset, row)[::-1] for row in rows])

    def predict_maps(
        self, maps: Sequence[ImageMaps], shapes: Sequence[Sequence[int]]
    ) -> list[Detections]:
        """See `relabel.detectors.base.MapReader`."""
        batch, sizes = stacked(maps)
        return self._run(batch, sizes, scales_of(sizes, shapes), shapes)

    def map_store(self, folder: Path) -> MapStore | None:
        """See `Trainable.map_store`."""
        return map_store(self.model, self.settings, folder, self.device)

    def _run(
        self,
        batch: Tensor | FeatureMaps,
        sizes: list[tuple[int, int]],
        scales: Sequence[tuple[float, float]],
        shapes: Sequence[Sequence[int]],
    ) -> list[Detections]:
        """Detect in a batch; boxes go back by ``scales`` (y, x) into images of (height, width)."""
        batch = batch.to(self.device, memory_format=torch.channels_last)
        # Not inference mode: transformers keeps anchors it made, and training goes on with them.
        with torch.no_grad(), autocast(self.settings.precision, self.device):
            found = self.model(batch, sizes)
        boxes, scores = (on_cpu([row[key] for row in found]) for key in ("boxes", "scores"))
        quality: list[np.ndarray | None] = [None] * len(found)
        if "quality" in found[0]:
            quality = [*on_cpu([row["quality"].float().clamp(0, 1) for row in found])]
        results = []
        for i, ((height, width), (sy, sx)) in enumerate(zip(shapes, scales, strict=True)):
            box = boxes[i] / np.array([sx, sy, sx, sy], np.float32)
            box = np.clip(box, 0, np.array([width, height, width, height], np.float32))
            results.append(
                Detections(box.astype(np.float32), scores[i], quality[i], self.model.ranking)
            )
        return results


def on_cpu(parts: Sequence[Tensor]) -> list[np.ndarray]:
    """Tensors [n, ...] of several images as float32 arrays: copied at once, as each copy waits
    for the GPU."""
    whole = torch.cat([part.float() for part in parts]).cpu()
    return [part.numpy().copy() for part in whole.split([len(part) for part in parts])]
