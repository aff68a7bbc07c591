"""Settings of the downstream comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relabel.errors import ConfigError
from relabel.settings import setting


@dataclass(frozen=True)
class DownstreamSettings:
    """What every arm shares beside the detector's own settings, and the arms' options.

    Raises:
        ConfigError: a value outside its range.
    """

    target_share: float = setting(
        0.0, "Share of target images in a mixed batch; 0 draws evenly from all images."
    )
    target_only_last: float = setting(
        0.25, "Share of the iterations, at the end, that sees target images only."
    )
    anneal_on_target: bool = setting(
        False,
        "Keep the learning rate at its peak while batches are mixed and let it fall while they "
        "hold target images only, so that what is learned last is the target's convention.",
    )
    curve_points: int = setting(5, "Evaluations on the test images during a training.")
    pseudo_threshold: float = setting(
        0.5, "Least score of the target specialist's labels in the pseudo and overlap arms."
    )
    overlap_iou: float = setting(0.5, "Least IoU of a source box with the label it takes.")
    uncertain: float = setting(
        0.5,
        "Labels that reach this share of pseudo_threshold in the pseudo arm, and source boxes "
        "without a label in the overlap arm, are ignore regions, as LAT's uncertain boxes are; 0 "
        "makes them background.",
    )
    normalize_min_boxes: int = setting(
        20, "Fewest boxes of a class to normalise by; with fewer, all classes stand in."
    )
    teacher_threshold: float = setting(0.7, "Least score of the teacher's labels.")
    unsupervised_weight: float = setting(4.0, "Weight of the loss on the teacher's labels.")
    teacher_ema: float = setting(0.999, "Decay of the teacher's weights.")
    burn_in: float = setting(0.2, "Share of the iterations before the teacher labels anything.")
    teacher_target_share: float = setting(
        0.5, "Share of target images in a batch while the teacher labels the others."
    )
    teacher_boxes: bool = setting(
        False, "Whether the student also learns the coordinates of the teacher's boxes."
    )

    def result_dict(self, how: str) -> dict[str, Any]:
        """What a training depends on. Thresholds of labels act through the labels alone."""
        names = ["target_share", "target_only_last"]
        names += ["anneal_on_target"] if self.anneal_on_target else []
        if how == "student-teacher":
            names += ["teacher_threshold", "unsupervised_weight", "teacher_ema", "burn_in"]
            names += ["teacher_target_share", "teacher_boxes"]
        return {name: getattr(self, name) for name in names}

    def __post_init__(self) -> None:
        shares = ("target_share", "target_only_last", "burn_in", "teacher_target_share")
        scores = ("pseudo_threshold", "overlap_iou", "uncertain", "teacher_threshold")
        for name in (*shares, *scores, "teacher_ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}", remedy="Use a value between 0 and 1."
                )
        if self.curve_points < 1:
            raise ConfigError(f"curve_points is {self.curve_points}", remedy="Use 1 or more.")
