"""Settings and prompts of SAM 3 as a labeller. Imports no torch: the command line reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relabel.errors import ConfigError
from relabel.settings import setting, settings_dict

if TYPE_CHECKING:
    from relabel.datasets.labelspace import LabelSpace

LABELLERS = ("sam3",)
"""Detectors that label a dataset without having one of their own."""

_PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Sam3Settings:
    """SAM 3 (Carion et al., 2025) as a text-prompted detector.

    Raises:
        ConfigError: a value outside its range.
    """

    model: str = setting("facebook/sam3", "Hub id or local folder of the weights.")
    threshold: float = setting(
        0.5,
        "Least score of SAM 3's boxes where they are taken as labels; where they are "
        "pseudo-labels, the filter of cross-labelling counts.",
    )
    image_size: int = setting(
        0, "Side in pixels of the square that images are resized to; 0: the model's own (1008)."
    )
    prompt_batch: int = setting(16, "Pairs of image and prompt that are detected at once.")
    merge_iou: float = setting(
        0.9,
        "Boxes of several prompts that overlap more become one with several scores; 1 keeps all.",
    )
    precision: str = setting(
        "auto", "Arithmetic; auto takes bf16 where the device has it.", choices=_PRECISIONS
    )

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("SAM 3's model is empty", remedy="Give a hub id or a local folder.")
        for name, low, high in (
            ("threshold", 0.0, 1.0),
            ("merge_iou", 0.9, 1.0),
            ("image_size", 0, None),
            ("prompt_batch", 1, None),
        ):
            value = getattr(self, name)
            if value < low or (high is not None and value > high):
                span = f"between {low} and {high}" if high is not None else f"{low} or more"
                raise ConfigError(f"SAM 3's {name} is {value}", remedy=f"Use a value {span}.")

    def result_dict(self, identities: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What SAM 3's boxes depend on, JSON-ready.

        Args:
            identities: what stands for a model that is a local folder, by its path.
        """
        values = settings_dict(self)
        values["model"] = (identities or {}).get(self.model, self.model)
        return {k: v for k, v in values.items() if k not in ("threshold", "prompt_batch")}


def class_prompts(space: LabelSpace) -> list[str]:
    """The text by which each class of the space is found: its prompt, else its name in words."""
    return [c.prompt or _in_words(c.name) for c in space.categories if not c.ignore]


def _in_words(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip() or name
