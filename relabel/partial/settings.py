"""Settings of `relabel complete`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from relabel.settings import NonNegative, Positive, Text, setting, settings_dict
from relabel.training.settings import TrainSettings

LEARNED = "learned"
"""Class embeddings that start at random and are trained."""
CLIP_PROMPT = "clip-prompt"
"""The method whose backbone is a CLIP checkpoint."""

Method = Literal["hst", "bce", "asl", "csl", "curriculum", "sst", "sarb", "sr", "clip-prompt"]
Part = Literal["ist", "cst", "dtl", "plain"]


@dataclass(frozen=True)
class CompletionSettings(TrainSettings):
    """How unknown labels are completed, and how the network that does it is trained."""

    section: ClassVar[str] = "complete"

    method: Method = setting("sr", "What completes the labels.")
    backbone: Text = setting(
        "facebook/dinov2-base",
        "Network below the classifier: a transformers hub id, a local folder or a torchvision "
        "model name; for clip-prompt a CLIP checkpoint.",
    )
    frozen: bool = setting(
        True,
        "Leave the backbone as published and keep its maps, once for all methods and seeds; "
        "false trains it, too.",
    )
    image_size: Positive = setting(224, "Side of the square that images are resized to.")
    embeddings: Text = setting(
        LEARNED,
        "Class embeddings of hst, sst and sarb: learned, a file of word vectors (GloVe or "
        "word2vec text), or a transformers text encoder.",
    )
    width: Positive = setting(
        128, "Channels of class features in hst, sst and sarb; published: 1024."
    )
    without: tuple[Part, ...] = setting(
        (),
        "Parts of hst to leave out: ist (transfer within an image), cst (across images), dtl "
        "(thresholds are learned), plain (the classifier beside it; published without).",
    )
    held_back: Annotated[float, Meta(ge=0, lt=1)] = setting(
        0.2,
        "Share of the known labels that a second training does without, to calibrate the scores "
        "and to choose how far refitting goes; 0: no calibration.",
    )

    epochs: NonNegative = setting(10.0, "Passes over the images; published: 20.")
    batch_size: Positive = setting(32, "Images per step over all processes.")
    lr: NonNegative = setting(1e-3, "Peak learning rate.")
    backbone_lr_scale: NonNegative = setting(
        0.01, "Learning rate of a trained backbone, relative to lr."
    )
    weight_decay: NonNegative = setting(5e-4, "Weight decay, not applied to norms and biases.")

    def result_dict(self) -> dict[str, Any]:
        """What the trained weights depend on, JSON-ready."""
        unused = ["checkpoint_every", "eval_every", "held_back"]
        if self.method not in ("hst", "sst", "sarb"):
            unused += ["embeddings", "width"]
        if self.method != "hst":
            unused += ["without"]
        if self.frozen:
            unused += ["backbone_lr_scale"]
        return {k: v for k, v in settings_dict(self).items() if k not in unused}
