"""The teacher: a moving average of the student that labels what nobody has labelled.

Shape legend: ``B`` images, ``n`` boxes of an image, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from relabel.backbones.extractor import FeatureMaps
from relabel.detectors.base import ranked
from relabel.detectors.family import Trainable
from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.semi.thresholds import CLIP, ClassStatistics
from relabel.settings import Ranking
from relabel.training.ema import moving_average

TEACHER_NMS = 0.5
MIN_SIDE = 0.5


class Teacher:
    """A moving average with its own copy of the model (Tarvainen and Valpola, 2017).

    The average starts as the student at the end of the burn-in, see `moving_average`. Running
    statistics of norms are averaged like weights.

    Args:
        student: what to copy; its architecture stays the teacher's.
        burn_in: number of steps after which the teacher exists.

    Attributes:
        statistics: of the foreground candidates so far, which class-wise thresholds and weights
            are made of.
        log: what was labelled so far.
    """

    def __init__(
        self, student: Trainable, semi: SemiSettings, burn_in: int, device: torch.device
    ) -> None:
        self.average = moving_average(
            student.model.to(device), semi.teacher_ema, use_buffers=True
        ).requires_grad_(False)
        self.trainable = replace(student, model=self.average.module)
        self.semi = semi
        self.burn_in = burn_in
        classes = student.space.num_classes
        self.statistics = ClassStatistics(classes)
        self.log = PseudoBoxLog(classes)
        self.ranking: Ranking = student.model.ranking

    def exists(self, step: int) -> bool:
        """Whether there is a teacher after ``step`` steps."""
        return step >= self.burn_in

    def follow(self, model: nn.Module, step: int) -> None:
        """Move towards the student, which has done ``step`` steps."""
        if self.exists(step):
            self.average.update_parameters(model)

    def thresholds(self) -> np.ndarray:
        """Minimum confidence of a pseudo-label of each class, float64 [C]."""
        s = self.semi
        if s.threshold_gamma == 0:
            return np.full(len(self.statistics.counts), s.threshold)
        # Who asks for a threshold beyond the published range means it.
        clip = min(CLIP[0], s.threshold), max(CLIP[1], s.threshold)
        return self.statistics.thresholds(s.threshold, s.threshold_gamma, clip)

    def weights(self) -> np.ndarray:
        """Weight of each class's objects in the loss, float64 [C]."""
        return self.statistics.weights(self.semi.weight_gamma)

    @torch.no_grad()
    def label(
        self, pixels: Tensor | FeatureMaps, sizes: Sequence[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Pseudo-labels of a batch, as training targets.

        After class-wise NMS by what the detector ranks by, boxes whose best class is likelier than
        the background (than not, where scores have no background) are the foreground candidates
        that the statistics count, with p * v; those whose confidence reaches their class's
        threshold are labels.

        Args:
            pixels: weak views, [B, 3, H, W] in [0, 1], or maps of a frozen backbone.
            sizes: (height, width) of each image without its padding.

        Returns:
            Per image ``boxes`` [n, 4] xyxy, ``labels`` [n] from 1, ``weights`` [n].
        """
        rows = self.trainable.model.eval()(pixels, list(sizes))
        candidates = [self._candidates(row, size) for row, size in zip(rows, sizes, strict=True)]
        for found in candidates:
            rows = found.foreground
            self.statistics.add(found.label[rows], found.weight[rows])
        # As float32, which confidences are: 0.7 reaches 0.7.
        thresholds, weights = self.thresholds().astype(np.float32), self.weights()
        targets = []
        for found in candidates:
            label, boxes = found.label, found.boxes
            sure = found.confidence >= thresholds[label]
            self.log.add(label, found.confidence, sure)
            kept = torch.from_numpy(np.flatnonzero(sure)).to(boxes.device)
            targets.append(
                {
                    "boxes": boxes[kept],
                    "labels": torch.from_numpy(label[sure] + 1).to(boxes.device),
                    "weights": boxes.new_tensor(weights[label[sure]]),
                }
            )
        return targets

    def _candidates(self, row: dict[str, Tensor], size: tuple[int, int]) -> Candidates:
        """What may be a label of one image."""
        boxes = clip_boxes_to_image(row["boxes"].float(), size)
        vectors = row["scores"].float()
        scores, labels = vectors.max(dim=1)
        p = scores.cpu().numpy()
        v = row["quality"].float().cpu().numpy() if "quality" in row else None
        ranks = boxes.new_tensor(ranked(p, v, self.ranking))
        large = ((boxes[:, 2:] - boxes[:, :2]).amin(dim=1) > MIN_SIDE).nonzero().squeeze(1)
        kept = large[batched_nms(boxes[large], ranks[large], labels[large], TEACHER_NMS)]
        rest = vectors.sum(dim=1) if self.trainable.model.exclusive else scores
        foreground = scores > 1 - rest
        at = kept.cpu().numpy()
        return Candidates(
            boxes[kept],
            labels.cpu().numpy()[at],
            ranked(p, v, self.semi.confidence)[at],
            ranked(p, v, "product")[at],
            foreground.cpu().numpy()[at],
        )


@dataclass(frozen=True, eq=False)
class Candidates:
    """Boxes of one image after NMS.

    Attributes:
        boxes: [n, 4] xyxy.
        label: int64 [n], the best class.
        confidence: float32 [n], what the threshold is for.
        weight: float32 [n], p * v.
        foreground: bool [n], the best class is likelier than the background.
    """

    boxes: Tensor
    label: np.ndarray
    confidence: np.ndarray
    weight: np.ndarray
    foreground: np.ndarray


class PseudoBoxLog:
    """How many boxes were labelled of each class, in all and since it was last asked.

    Args:
        classes: C.

    Attributes:
        total, recent: int64 [C].
        images: number of images shown to the teacher since it was last asked.
        best: float64 [C], the highest confidence since then.
    """

    def __init__(self, classes: int) -> None:
        self.total = np.zeros(classes, np.int64)
        self.start()

    def start(self) -> None:
        """Count anew what is recent."""
        self.recent = np.zeros_like(self.total)
        self.best = np.zeros(len(self.total))
        self.images = 0

    def add(self, label: np.ndarray, confidence: np.ndarray, sure: np.ndarray) -> None:
        """One image: candidates' classes [n], confidences [n], and which are labels, bool [n]."""
        counts = np.bincount(label[sure], minlength=len(self.total))
        self.total += counts
        self.recent += counts
        self.images += 1
        np.maximum.at(self.best, label, confidence)

    def state_dict(self) -> dict[str, Any]:
        return {
            "total": self.total.tolist(),
            "recent": self.recent.tolist(),
            "best": self.best.tolist(),
            "images": self.images,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = np.array(state["total"], np.int64)
        self.recent = np.array(state["recent"], np.int64)
        self.best = np.array(state["best"], np.float64)
        self.images = int(state["images"])
