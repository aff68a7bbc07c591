"""Settings of the downstream comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from relabel.settings import Count, Positive, Settings, Share, setting


@dataclass(frozen=True)
class DownstreamSettings(Settings):
    """What every arm shares beside the detector's own settings, and the arms' options."""

    seeds: Annotated[tuple[Count, ...], Meta(min_length=1)] = setting(
        (0, 1, 2), "Seeds of the trainings of each arm."
    )
    target_share: Share = setting(
        0.0, "Share of target images in a mixed batch; 0 draws evenly from all images."
    )
    target_only_last: Share = setting(
        0.25, "Share of the iterations, at the end, that sees target images only."
    )
    anneal_on_target: bool = setting(
        False,
        "Keep the learning rate at its peak while batches are mixed and let it fall while they "
        "hold target images only, so that what is learned last is the target's convention.",
    )
    curve_points: Positive = setting(5, "Evaluations on the test images during a training.")
    pseudo_threshold: Share = setting(
        0.5,
        "Minimum score of the target specialist's labels in the pseudo, pseudo-supported and "
        "overlap arms.",
    )
    overlap_iou: Share = setting(
        0.5, "Minimum IoU of a source box with the label it takes, or supports."
    )
    lgpl_threshold: Share = setting(
        0.05, "Minimum score of a source box by the target specialist's box head in the lgpl arm."
    )
    ignore_band: Share = setting(
        0.5,
        "Labels that reach this share of their threshold in the pseudo and lgpl arms, and source "
        "boxes without a label in the overlap arm, are ignore regions, as LAT's uncertain boxes "
        "are; 0 makes them background.",
    )
    normalize_min_boxes: Count = setting(
        20, "Minimum of boxes of a class to normalise by; with fewer, all classes stand in."
    )

    def result_dict(self) -> dict[str, Any]:
        """What a training depends on. Thresholds of labels act through the labels alone."""
        names = ["target_share", "target_only_last"]
        names += ["anneal_on_target"] if self.anneal_on_target else []
        return {name: getattr(self, name) for name in names}
