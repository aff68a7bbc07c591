"""A small result of three shards on disk, whose every number is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relabel.datasets.pixels.image_folder import ImageSet, read_image_set
from relabel.multilabel.store import Found, LabelShard, region_shard
from relabel.workspace.columns import write_shard
from tests.builders.datasets import write_pixels

NAMES = ["ant", "bee", "cow", "dog"]


@dataclass(frozen=True)
class Result:
    images: ImageSet
    regions: list[Path]
    labels: list[Path]


def make_result(folder: Path) -> Result:
    """Five images of 8 x 6 (width x height), ``ant/0 .. bee/4``; two per shard, the last one alone.

    ====  ===  =======================================  ===============================
    row   gt   regions (mask, best class, probability)  labels (probability >= 0.5)
    0     ant  left half ant 0.75, top right bee 0.5    ant 1, bee 0.5, (cow 0.25)
    1     ant  none                                     ant 1
    2     ant  cannot be read                           none
    3     bee  left half cow 1.0                        bee 1, cow 1.0
    4     bee  left half bee 1.0, right half bee 0.25   bee 1, (dog 0.125)
    ====  ===  =======================================  ===============================
    """
    root = folder / "images"
    rng = np.random.default_rng(0)
    for i, name in enumerate(("ant/0.png", "ant/1.png", "ant/2.png", "bee/3.png", "bee/4.png")):
        write_pixels(root / name, rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        if i == 2:
            (root / name).write_bytes(b"broken")
    (folder / "classes.txt").write_text("\n".join(NAMES))
    images = read_image_set(root, classes=folder / "classes.txt")
    left, right, top = np.zeros((3, 6, 8), bool)
    left[:, :4], right[:, 4:], top[:3, 4:] = True, True, True
    found = [
        ([left, top], [(0, 0.75, 1, 0.125), (1, 0.5, 2, 0.25)], {0: 1, 1: 0.5, 2: 0.25}),
        ([], [], {0: 1}),
        (None, [], {}),
        ([left], [(2, 1, -1, 0)], {1: 1, 2: 1}),
        ([left, right], [(1, 1, -1, 0), (1, 0.25, 0, 0.0625)], {1: 1, 3: 0.125}),
    ]
    regions, labels = [], []
    for shard, rows in enumerate(([0, 1], [2, 3], [4])):
        images_of: list[tuple[int, str, Found | str]] = []
        for row in rows:
            masks, _, _ = found[row]
            one: Found | str = "image cannot be decoded"
            if masks is not None:
                n = len(masks)
                stacked = np.stack(masks) if masks else np.zeros((0, 6, 8), bool)
                one = Found.of(stacked, np.ones(n), np.arange(n), np.ones((n, 2)), np.ones(2))
            images_of.append((row, images.file_names[row], one))
        ones = region_shard({"tau": 0.5}, 2, images_of)
        each = [region for row in rows for region in found[row][1]]
        chosen = [found[row][2] for row in rows]
        others = LabelShard(
            run={"region_classifier": "tiny"},
            row=ones.row,
            file_name=ones.file_name,
            gt=images.labels[rows],
            offsets=ones.offsets,
            ids=np.array([(a, b) for a, _, b, _ in each], np.int32).reshape(-1, 2),
            probs=np.array([(p, q) for _, p, _, q in each], np.float32).reshape(-1, 2),
            label_offsets=np.cumsum([0, *map(len, chosen)]),
            label_ids=np.array([c for label in chosen for c in label], np.int32),
            label_probs=np.array([p for label in chosen for p in label.values()], np.float32),
        )
        name = f"shard-{shard:05d}-of-00003.parquet"
        for stage, part, paths in (("1", ones, regions), ("4", others, labels)):
            write_shard(folder / stage / name, part)
            paths.append(folder / stage / name)
    return Result(images, regions, labels)
