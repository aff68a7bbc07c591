"""Settings and prompts of SAM 3. Imports no torch: the command line reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from relabel.settings import (
    Count,
    Positive,
    Precision,
    Settings,
    Share,
    Text,
    setting,
    settings_dict,
)

if TYPE_CHECKING:
    from relabel.datasets.labelspace import LabelSpace


@dataclass(frozen=True)
class Sam3Settings(Settings):
    """SAM 3 (Carion et al., 2025) as a text-prompted detector."""

    model: Text = setting("facebook/sam3", "Hub id or local folder of the weights.")
    threshold: Share = setting(
        0.5,
        "Minimum score of SAM 3's boxes where they are taken as labels; where they are "
        "pseudo-labels, the filter of cross-labelling counts.",
    )
    image_size: Count = setting(
        0, "Side in pixels of the square that images are resized to; 0: the model's own (1008)."
    )
    prompt_batch: Positive = setting(16, "Pairs of image and prompt that are detected at once.")
    merge_iou: Annotated[float, Meta(ge=0.9, le=1)] = setting(
        0.9,
        "Boxes of several prompts that overlap more become one with several scores; 1 keeps all.",
    )
    precision: Precision = setting("auto", "Arithmetic; auto takes bf16 where the device has it.")

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
