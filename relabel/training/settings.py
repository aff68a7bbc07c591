"""How a model is trained; shared by specialists and Label-Aligned Transfer."""

from __future__ import annotations

from dataclasses import dataclass

from relabel.settings import setting


@dataclass(frozen=True)
class TrainSettings:
    """Optimisation settings. ``steps`` of 0 means that ``epochs`` decides."""

    epochs: float = setting(12.0, "Passes over the training images.")
    steps: int = setting(0, "Training steps; 0 derives them from the epochs.")
    batch_size: int = setting(4, "Images per step over all processes.")
    lr: float = setting(5e-4, "Peak learning rate.")
    backbone_lr_scale: float = setting(0.2, "Learning rate of a trained backbone, relative to lr.")
    weight_decay: float = setting(0.05, "Weight decay, not applied to norms and biases.")
    optimizer: str = setting("adamw", "Optimiser.", choices=("adamw", "sgd"))
    warmup: float = setting(0.05, "Share of the steps with a linearly rising learning rate.")
    decay: float = setting(
        1.0, "Share of the steps, at the end, over which the learning rate falls; before, it stays."
    )
    grad_clip: float = setting(5.0, "Largest gradient norm; 0 switches clipping off.")
    ema: float = setting(0.0, "Decay of the weights' moving average; 0 switches it off.")
    precision: str = setting(
        "auto",
        "Arithmetic of the forward pass; auto takes bf16 where the device has it.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    checkpoint_every: float = setting(60.0, "Seconds between checkpoints that resume starts from.")
    eval_every: int = setting(0, "Steps between validations; 0 validates at the end only.")
    seed: int = setting(0, "Seed of weights, order and augmentation.")
