"""The arms of the comparison: ways of using the sources when a detector for the target is trained.

The list is that of "Label-Aligned Transfer" (arXiv 2506.04737) and of Liao et al. (ICLR 2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from relabel.errors import ConfigError, did_you_mean

Needs = Literal["pseudo", "given", "lat", "sam3"]
Method = Literal["labels", "semi", "unified"]


@dataclass(frozen=True)
class Arm:
    """One way of using the sources.

    Attributes:
        name: as given to ``--arms``.
        title: in tables.
        needs: what must have been made before: the target specialist's pseudo-labels on the
            sources, the sources' boxes through its box head, the sources relabelled by LAT, or
            SAM 3.
        method: trained on labels in the target space, or by a training of its own.
        semi: what an arm of method ``semi`` changes in `SemiSettings`.
        detector: the family that the arm trains, where it is not that of all arms.
    """

    name: str
    title: str
    needs: tuple[Needs, ...] = ()
    method: Method = "labels"
    semi: Mapping[str, Any] = field(default_factory=dict)
    detector: Literal["certainty"] | None = None


# Unbiased Teacher (Liu et al., ICLR 2021): one threshold on the class score, no box is learned,
# since the score says little of where it is.
_UNBIASED: Mapping[str, Any] = {
    "threshold_gamma": 0.0,
    "weight_gamma": 0.0,
    "unsupervised_weight": 4.0,
    "boxes": False,
    "mix": "none",
}


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("target-only", "target only"),
        Arm("naive", "naive merge, name map", ("pseudo",)),
        Arm("normalized", "box normalisation, name map", ("pseudo",)),
        Arm("pseudo", "filtered pseudo-labels", ("pseudo",)),
        Arm("pseudo-supported", "pseudo-labels that a source box supports", ("pseudo",)),
        Arm("overlap", "best-overlap relabelling", ("pseudo",)),
        Arm("lgpl", "label-guided pseudo-labels", ("given",)),
        Arm("student-teacher", "student–teacher", (), "semi", _UNBIASED),
        Arm("mixpl", "student–teacher on mixed images", (), "semi", {"mix": "mixpl"}),
        Arm(
            "certainty",
            "certainty-aware pseudo-labels, mixed images",
            (),
            "semi",
            {"mix": "mixpl"},
            "certainty",
        ),
        Arm("unified", "unified label space", (), "unified"),
        Arm("sam3", "SAM 3 labels", ("sam3",)),
        Arm("lat", "LAT", ("lat",)),
        Arm("lat+sam3", "LAT + SAM 3", ("lat", "sam3")),
    )
}


def resolve_arms(names: Sequence[str]) -> list[Arm]:
    """The arms by name, in the order given.

    Raises:
        ConfigError: an unknown name, with near matches, or none at all.
    """
    for name in names:
        if name not in ARMS:
            raise ConfigError(f"unknown arm {name!r}", remedy=did_you_mean(name, ARMS))
    if not names:
        raise ConfigError("no arms to compare", remedy=f"Known: {', '.join(ARMS)}.")
    return [ARMS[name] for name in names]
