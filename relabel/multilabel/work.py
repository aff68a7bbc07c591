"""What the functions that make the shards of a stage share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relabel.multilabel.store import RegionShard, read_regions
from relabel.settings import Runtime
from relabel.workspace.clock import Clock
from relabel.workspace.columns import Shard, write_shard
from relabel.workspace.parts import shard_progress
from relabel.workspace.stage import Shards

if TYPE_CHECKING:
    from relabel.datasets.pixels.image_folder import ImageSet


@dataclass(frozen=True)
class ShardWork:
    """The shards of a stage that this process has to make.

    Attributes:
        images: all images.
        regions: the shards of regions, which the later stages read.
        shards: those of the stage.
        todo: which of them to make.
        run: see `Shard`.
    """

    images: ImageSet
    regions: Shards
    shards: Shards
    todo: Sequence[int]
    run: Mapping[str, Any]
    runtime: Runtime
    clock: Clock

    def from_regions(
        self, description: str, make: Callable[[RegionShard], Shard], *, features: bool = True
    ) -> None:
        """Make each shard of the regions of its images, read with their features or without."""
        with shard_progress(description, self.shards, self.todo, self.runtime) as bar:
            for i in self.todo:
                found = read_regions(self.regions.shard_path(i), features=features)
                write_shard(self.shards.shard_path(i), make(found))
                self.clock.images += len(found)
                bar.update(len(found))
