"""How a model is trained; shared by specialists and Label-Aligned Transfer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from msgspec import Meta

from relabel.settings import (
    Count,
    NonNegative,
    Positive,
    Precision,
    Settings,
    Share,
    field_types,
    setting,
)


@dataclass(frozen=True)
class TrainSettings(Settings):
    """Optimisation settings. ``steps`` of 0 means that ``epochs`` decides.

    ``section`` is where users change them: ``--set SECTION.lr=...``.
    """

    section: ClassVar[str] = ""

    epochs: NonNegative = setting(12.0, "Passes over the training images.")
    steps: Count = setting(0, "Training steps; 0 derives them from the epochs.")
    batch_size: Positive = setting(4, "Images per step over all processes.")
    lr: NonNegative = setting(5e-4, "Peak learning rate.")
    backbone_lr_scale: NonNegative = setting(
        0.2, "Learning rate of a trained backbone, relative to lr."
    )
    weight_decay: NonNegative = setting(0.05, "Weight decay, not applied to norms and biases.")
    optimizer: Literal["adamw", "sgd"] = setting("adamw", "Optimiser.")
    warmup: Share = setting(0.05, "Share of the steps with a linearly rising learning rate.")
    decay: Share = setting(
        1.0, "Share of the steps, at the end, over which the learning rate falls; before, it stays."
    )
    grad_clip: NonNegative = setting(5.0, "Maximum gradient norm; 0 switches clipping off.")
    ema: Annotated[float, Meta(ge=0, lt=1)] = setting(
        0.0, "Decay of the weights' moving average; 0 switches it off."
    )
    precision: Precision = setting(
        "auto",
        "Arithmetic of the forward pass; auto takes bf16 where the device has it.",
    )
    checkpoint_every: NonNegative = setting(
        60.0, "Seconds between checkpoints that resume starts from."
    )
    eval_every: Count = setting(0, "Steps between validations; 0 validates at the end only.")
    seed: Count = setting(0, "Seed of weights, order and augmentation.")

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """What a stage's own settings say of its optimisation; the others have their defaults."""
        own = field_types(type(settings))
        return cls(**{name: getattr(settings, name) for name in field_types(cls) if name in own})
