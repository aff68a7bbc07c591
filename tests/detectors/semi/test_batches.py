"""Which images a step has, in which views, and what the student learns of them."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relabel.backbones.extractor import FeatureMaps
from relabel.backbones.stored import ImageMaps
from relabel.detectors.semi.batches import (
    SemiBatch,
    SemiBatches,
    repeated_rows,
    student_batch,
    usual_schedule,
    without_boxes,
)
from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.semi.views import Placement, strong_view
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.training import new_trainable
from tests.builders.blocks import World
from tests.builders.datasets import dataset_of
from tests.builders.detectors import RUNTIME, tiny_detector


def test_labelled_images_alone_come_first_and_then_both(
    world: World, detector: SpecialistSettings
) -> None:
    s = replace(detector, batch_size=4, steps=20)
    semi = SemiSettings(burn_in=0.2, unlabeled_images=3)
    others = {"a": world.source, "b": world.source.subset([0, 1])}
    schedule = usual_schedule(world.target, others, s, semi)
    steps = [schedule(step) for step in range(20)]
    assert [len(step) for step in steps] == [4] * 4 + [7] * 16
    assert all(part == 0 for step in steps[:4] for part, _ in step)
    assert [[part > 0 for part, _ in step] for step in steps[4:]] == [[False] * 4 + [True] * 3] * 16
    # 48 images of the 6 + 2: six passes, in each of which every one comes once.
    drawn = Counter(image for step in steps[4:] for image in step[4:])
    assert drawn == {**{(1, row): 6 for row in range(6)}, **{(2, row): 6 for row in range(2)}}
    assert usual_schedule(world.target, {}, s, semi)(19) == schedule(19)[:4]


def test_images_of_rare_classes_come_more_often() -> None:
    # 16 images, class 0 in all, class 1 in the first alone.
    boxes = [(i, (0, 0, 5, 5), 0) for i in range(16)] + [(0, (5, 5, 5, 5), 1)]
    data = dataset_of("d", ["a", "b"], [f"{i}.jpg" for i in range(16)], boxes)
    counts = np.zeros(16)
    for seed in range(200):
        rows = repeated_rows(data, seed)
        assert rows.tolist() == sorted(rows.tolist())
        counts += np.bincount(rows, minlength=16)
    # f = (1 + 1/16) / 2; sqrt(f / f_1) = sqrt(8.5) = 2.915; class 0 is above the mean.
    assert counts[1:].tolist() == [200] * 15
    assert counts[0] / 200 == pytest.approx(2.915, abs=0.1)
    empty = data.with_boxes(data.boxes.take(np.zeros(0, np.int64)))
    assert repeated_rows(empty, 0).tolist() == list(range(16))


def test_both_views_show_the_same_place_and_only_the_strong_one_is_changed(
    world: World, detector: SpecialistSettings
) -> None:
    turned = replace(detector, flip=1.0, scale_jitter=(2.0, 2.0), color_jitter=0.5, batch_size=1)
    semi = SemiSettings(burn_in=0, unlabeled_images=1)
    others = {"loose": world.source}
    schedule = usual_schedule(world.target, others, turned, semi)
    batch = SemiBatches(world.target, others, schedule, turned, semi, 32)(0)
    assert isinstance(batch.weak, torch.Tensor)
    assert batch.sizes == [(192, 192)]
    assert batch.weak.shape == (1, 3, 192, 192)
    [view] = batch.views
    assert isinstance(view, torch.Tensor)
    assert batch.placements == [[Placement(0)]]
    assert view.shape == (3, 192, 192)
    assert not torch.equal(batch.weak[0], view)
    # Colours of the weak view are those of the file: blocks of (200, 40, 40) or (40, 60, 200).
    colours = {tuple(int(v) for v in c) for c in (batch.weak[0] * 255).round().flatten(1).T}
    assert colours & {(200, 40, 40), (40, 60, 200)}


def test_a_batch_depends_on_its_step_alone(world: World, detector: SpecialistSettings) -> None:
    semi = SemiSettings(burn_in=0, unlabeled_images=4, mix="mixpl")
    others = {"loose": world.source}
    schedule = usual_schedule(world.target, others, detector, semi)
    batches = [
        SemiBatches(world.target, data, schedule, detector, semi, 32)
        for data in (others, {"loose": without_boxes(world.source)})
    ]
    batches[0](0)
    first, second = (b(3) for b in batches)
    assert first.placements == second.placements
    assert len(first.views) == 5
    views = [[v for v in b.views if isinstance(v, torch.Tensor)] for b in (first, second)]
    assert len(views[0]) == 5
    assert all(torch.equal(a, b) for a, b in zip(*views, strict=True))
    assert isinstance(first.weak, torch.Tensor) and isinstance(second.weak, torch.Tensor)
    assert torch.equal(first.weak, second.weak)


def found(boxes: list[list[float]], labels: list[int]) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "weights": torch.tensor([0.5 * n for n in labels]),
    }


def test_a_view_has_the_labels_of_all_its_images_and_one_without_any_is_left_out() -> None:
    views = [torch.zeros(3, 20, 30), torch.zeros(3, 40, 40), torch.zeros(3, 10, 10)]
    placements = [
        [Placement(0), Placement(1)],
        [Placement(1, 0.5, 10, 20), Placement(0, 2.0, 0, 4)],
        [Placement(1)],
    ]
    batch = SemiBatch(None, None, [], views, placements)
    labels = [found([[1, 2, 3, 4], [5, 6, 7, 8]], [1, 2]), found([], [])]
    seen = student_batch(batch, labels, 32)
    assert seen is not None
    pixels, sizes, targets = seen
    assert isinstance(pixels, torch.Tensor)
    assert pixels.shape == (2, 3, 64, 64)
    assert sizes == [(20, 30), (40, 40)]
    assert targets[0]["boxes"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert targets[1]["boxes"].tolist() == [[2, 8, 6, 12], [10, 16, 14, 20]]
    assert targets[1]["labels"].tolist() == [1, 2]
    assert targets[1]["weights"].tolist() == [0.5, 1.0]
    assert targets[1]["ignored"].shape == (0, 4)
    assert student_batch(batch, [found([], []), found([], [])], 32) is None


def test_kept_strong_views_are_the_maps_of_what_would_be_drawn_and_fit_their_weak_view(
    world: World, tmp_path: Path
) -> None:
    frozen = tiny_detector(
        tmp_path / "backbone", frozen_stride=32, steps=8, batch_size=1, flip=0.5
    ).resolved()
    semi = SemiSettings(burn_in=0, unlabeled_images=3, kept_views=4)
    trainable = new_trainable(world.target.space, frozen)
    store = trainable.map_store(tmp_path / "maps", torch.device("cpu"))
    assert store is not None
    others = {"loose": world.source}
    schedule = usual_schedule(world.target, others, frozen, semi)

    def batches(seed: int, **more: Any) -> SemiBatches:
        settings = replace(frozen, seed=seed)
        changed = replace(semi, **more)
        return SemiBatches(
            world.target, others, schedule, settings, changed, 32, store, replace(RUNTIME)
        )

    made = batches(0)
    files = sorted(store.folder.rglob("*strong*"))
    assert len(files) == 4 * len(world.source)
    written = [f.stat().st_mtime_ns for f in files]
    part, body = made.parts[1], trainable.model.pretrained().eval()
    seen = set()
    for step in range(8):
        batch = made(step)
        assert isinstance(batch.weak, FeatureMaps)
        assert batch.placements == [[Placement(0)], [Placement(1)], [Placement(2)]]
        rows = [row for number, row in schedule(step) if number]
        for i, (row, view) in enumerate(zip(rows, batch.views, strict=True)):
            assert isinstance(view, ImageMaps)
            weak = {s: m[i].half() for s, m in batch.weak.levels.items()}
            sides = [part.maps(row, mirrored) for mirrored in (False, True)]
            (mirrored,) = [
                k
                for k, m in enumerate(sides)
                if all(torch.equal(m.levels[s], weak[s]) for s in weak)
            ]
            x = part.pixels(row, frozen.image_size, bool(mirrored))
            candidates = []
            for number in range(mirrored, 4, 2):
                crc = zlib.crc32(part.files[row].stem.encode())
                strong = strong_view(x, np.random.default_rng([crc, number]))
                with torch.no_grad():
                    candidates.append(body(strong[None].to(memory_format=torch.channels_last)))
            stride = min(view.levels)
            gaps = [float((c[stride][0] - view.levels[stride]).abs().max()) for c in candidates]
            assert min(gaps) < 0.02 * float(candidates[0][stride].abs().max())
            seen.add((row, mirrored, int(np.argmin(gaps))))
    assert len(seen) > 10
    label = {
        "boxes": torch.tensor([[1.0, 2, 3, 4]]),
        "labels": torch.tensor([1]),
        "weights": torch.ones(1),
    }
    nothing = {k: v[:0] for k, v in label.items()}
    student = student_batch(made(0), [label, nothing, label], 32)
    assert student is not None and isinstance(student[0], FeatureMaps)
    assert len(student[1]) == len(student[2]) == 2
    # Another seed reads the same files; mixed images are always drawn anew.
    batches(1)(0)
    assert [f.stat().st_mtime_ns for f in files] == written
    assert isinstance(batches(0, mix="mixpl")(0).views[0], torch.Tensor)
    assert isinstance(batches(0, kept_views=0)(0).views[0], torch.Tensor)
