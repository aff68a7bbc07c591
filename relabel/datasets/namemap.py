"""Category names from one label space to another: given label spaces, and users' name maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.errors import ConfigError, Problems, did_you_mean
from relabel.files.opening import read_text
from relabel.files.yaml_text import load_yaml


def into_space(
    space: LabelSpace,
    own: LabelSpace,
    category: np.ndarray,
    keep: np.ndarray,
    file: str | Path,
    problems: Problems,
) -> np.ndarray:
    """Positions in ``own`` to positions in a given ``space``, by name or alias.

    Args:
        category: int [n], positions in ``own``.
        keep: bool [n]; only categories with such boxes have to be known.

    Returns:
        int [n], -1 where ``space`` lacks the name.

    Raises:
        DataError: a category with boxes is not in ``space``, unless problems are to be skipped.
    """
    table = np.array([-1 if (p := space.get(c.name)) is None else p for c in own.categories])
    counts = np.bincount(category[keep], minlength=len(own))
    for i in np.flatnonzero((table < 0) & (counts > 0)).tolist():
        label = own.categories[i].name
        problems.error(
            f"category {label!r} is not in label space {space.name!r}",
            file=file,
            record=f"category {own.categories[i].id}",
            remedy=did_you_mean(label, space.names),
        )
    return table[category] if len(table) else category


@dataclass(frozen=True)
class NameMap:
    """A user's map of category names: ``{source name: target name, or None to drop it}``."""

    names: Mapping[str, str | None]
    file: Path | None = None

    @classmethod
    def load(cls, file: Path) -> NameMap:
        """Read a YAML (or JSON) map.

        Raises:
            ConfigError: no such file, not YAML, or not a map of names to names or null.
        """
        text = read_text(file, remedy="Check --map.")
        # As written: `no: traffic light` and `1: car` are about classes called no and 1.
        data = load_yaml(text, file, as_text=True, nulls=True)
        remedy = "Write one `source name: target name` per line; null drops a category."
        if not isinstance(data, dict) or not data:
            raise ConfigError("not a map of names", file=file, remedy=remedy)
        for key, value in data.items():
            if isinstance(value, list | dict):
                what = "a list" if isinstance(value, list) else "a map"
                raise ConfigError(
                    f"{key!r} is mapped to {what}, not to a name", file=file, remedy=remedy
                )
            if not key or value == "":
                raise ConfigError(f"{key!r}: {value!r} has an empty name", file=file, remedy=remedy)
        names: dict[str, str | None] = data
        return cls(names, file)

    @property
    def targets(self) -> list[str]:
        """The target names, in the order in which the map first has them."""
        return list(dict.fromkeys(t for t in self.names.values() if t is not None))

    def unused(self, space: LabelSpace) -> list[str]:
        """Source names of the map that the label space does not have."""
        return [name for name in self.names if space.get(name) is None]

    def apply(self, dataset: DetectionDataset) -> DetectionDataset:
        """The dataset in the target names; ids of the new categories are dense from 1.

        Boxes of categories mapped to null are left out; images stay, also those left empty. A
        target keeps ``ignore`` where every category mapped to it is one. Categories to ignore that
        the map does not name are left out.

        Raises:
            ConfigError: categories with boxes that the map does not name.
        """
        space = dataset.space
        # An exact name counts before an alias or another spelling of it.
        by_category: dict[int, str | None] = {}
        for source, target in self.names.items():
            at = space.get(source)
            if at is not None and (at not in by_category or space.categories[at].name == source):
                by_category[at] = target
        counts = np.bincount(dataset.boxes.category, minlength=len(space))
        missing = [
            c.name
            for i, c in enumerate(space.categories)
            if i not in by_category and counts[i] and not c.ignore
        ]
        if missing:
            shown = ", ".join(repr(n) for n in missing[:20]) + (", ..." if missing[20:] else "")
            raise ConfigError(
                f"the map does not name {shown}",
                file=self.file,
                remedy="Map each category to a name, or to null to leave it out.",
            )

        # Where each category goes; several may go to one target.
        kept = {at: target for at, target in by_category.items() if target is not None}
        classes = {target for at, target in kept.items() if not space.categories[at].ignore}
        regions = set(kept.values()) - classes
        target_space = LabelSpace(
            space.name,
            tuple(
                Category(i, name, ignore=name in regions) for i, name in enumerate(self.targets, 1)
            ),
        )
        # Categories with ignore move to the end of a label space.
        moved = {c.name: i for i, c in enumerate(target_space.categories)}
        table = np.full(max(len(space), 1), -1, dtype=np.int32)
        for at, target in kept.items():
            table[at] = moved[target]
        category = table[dataset.boxes.category]
        boxes = replace(dataset.boxes, category=category).take(category >= 0)
        info = {k: v for k, v in dataset.info.items() if k != "category_fields"}
        return replace(dataset.with_boxes(boxes, target_space), info=info)
