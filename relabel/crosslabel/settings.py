"""Settings of cross-labelling. Imports neither torch nor pyarrow: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relabel.errors import ConfigError
from relabel.settings import setting, settings_dict


@dataclass(frozen=True)
class CrossLabelSettings:
    """How specialists label other datasets.

    Raises:
        ConfigError: a value outside its range.
    """

    min_score: float = setting(
        0.05,
        "Confidence filter: detections whose best class scores less are left out. Low, because "
        "LAT weighs pseudo-labels by their confidence.",
    )
    nms_iou: float = setting(
        0.5, "Class-wise NMS: IoU above which the lower of two boxes of one class is left out."
    )
    ranking: str = setting(
        "score",
        "What NMS ranks by; score-quality multiplies by the localisation quality of detectors "
        "that have one.",
        choices=("score", "score-quality"),
    )
    ensemble: bool = setting(
        True,
        "Sources are labelled by the target's specialist and those of its cross-fitting together, "
        "their detections fused.",
    )
    max_per_image: int = setting(100, "Most pseudo-labels kept per image, best first.")
    score_storage: str = setting(
        "float16",
        "Precision in which score vectors are kept and compared.",
        choices=("float16", "float32"),
    )
    batch_size: int | str = setting(
        "auto", "Images per batch, or auto: 8 on a CPU, 32 on an accelerator."
    )
    shard_images: int = setting(256, "Images per Parquet shard: what an interruption can cost.")

    def __post_init__(self) -> None:
        if self.batch_size != "auto":
            try:
                object.__setattr__(self, "batch_size", int(self.batch_size))
            except ValueError:
                raise ConfigError(
                    f"batch_size is {self.batch_size!r}", remedy="Use a number or auto."
                ) from None
        for name, low, high in (
            ("min_score", 0.0, 1.0),
            ("nms_iou", 0.0, 1.0),
            ("max_per_image", 1, None),
            ("batch_size", 1, None),
            ("shard_images", 1, None),
        ):
            value = getattr(self, name)
            if value == "auto":
                continue
            if not (low <= value and (high is None or value <= high)):
                span = f"between {low} and {high}" if high is not None else f"{low} or more"
                raise ConfigError(f"{name} is {value}", remedy=f"Use a value {span}.")
        for name, known in (
            ("ranking", ("score", "score-quality")),
            ("score_storage", ("float16", "float32")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}", remedy=f"Use {' or '.join(known)}."
                )

    def result_dict(self) -> dict[str, Any]:
        """The settings that pseudo-labels depend on: not how they are batched and sharded."""
        values = settings_dict(self)
        return {k: v for k, v in values.items() if k not in ("batch_size", "shard_images")}

    def images_per_batch(self, device_type: str) -> int:
        """The batch size on a torch device type such as ``cpu`` or ``cuda``."""
        if self.batch_size != "auto":
            return int(self.batch_size)
        return 8 if device_type == "cpu" else 32
