"""Classifiers on soft multi-labels: images, targets, batches, augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from relabel.classifiers.augment import centre_view, draw_crop, mixed, mixing
from relabel.classifiers.data import (
    UNKNOWN,
    AugmentedBatches,
    Batch,
    from_detections,
)
from relabel.classifiers.inputs import read_images
from relabel.datasets.dataset import DetectionDataset, make_boxes
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.errors import DataError, Problems
from tests.builders.colours import COLOURS, quick, read, two_colour_set
from tests.builders.datasets import dataset_of, write_image
from tests.builders.ranks import as_rank

NAMES = tuple(COLOURS)


def test_labels_are_joined_by_name_and_rows_without_labels_left_out(tmp_path: Path) -> None:
    two_colour_set(tmp_path / "a", 6)
    names = sorted(p.relative_to(tmp_path / "a").as_posix() for p in tmp_path.glob("a/*/*.png"))
    labels = tmp_path / "some.tsv"
    labels.write_text(f"{names[4]}\t2\t0,2\t0.2500,1.0000\n{names[1]}\t1\t\t\n")
    images = read(tmp_path / "a", labels)
    assert images.file_names == [names[1], names[4]]
    assert images.class_names == NAMES
    assert images.gt.tolist() == [1, 2]
    assert images.targets(np.array([1, 0])).tolist() == [[0.25, 0, 1], [0, 0, 0]]
    # The image whose target is all zero teaches BCE nothing; its original label teaches softmax.
    assert images.usable("bce").tolist() == [1]
    assert images.usable("softmax").tolist() == [0, 1]
    bare = tmp_path / "bare.tsv"
    bare.write_text(f"{Path(names[3]).name}\t0\t1\t0.5000\n")
    assert read(tmp_path / "a", bare).file_names == [names[3]]


def test_what_the_labels_do_not_name_is_told(tmp_path: Path) -> None:
    two_colour_set(tmp_path / "a", 6)
    names = sorted(p.relative_to(tmp_path / "a").as_posix() for p in tmp_path.glob("a/*/*.png"))
    labels = tmp_path / "some.tsv"
    labels.write_text(f"{names[4]}\t2\t0\t1.0000\nred/none.png\t1\t\t\n")
    problems = Problems()
    assert len(read_images(tmp_path / "a", labels, None, problems)) == 1
    told = [p.message for p in problems.found]
    assert told == [
        f"names no classes for {len(names) - 1} of {len(names)} images, which are left out",
        f"1 of 2 lines name no image of {tmp_path / 'a'} and are left out",
    ]


def test_labels_of_other_images_or_classes_are_an_error(tmp_path: Path) -> None:
    two_colour_set(tmp_path / "a", 4)
    labels = tmp_path / "x.tsv"
    labels.write_text("nowhere/1.png\t0\t0\t1.0000\n")
    with pytest.raises(DataError, match="none of the labels"):
        read(tmp_path / "a", labels)
    name = next((tmp_path / "a").glob("*/*.png")).relative_to(tmp_path / "a").as_posix()
    labels.write_text(f"{name}\t0\t7\t1.0000\n")
    with pytest.raises(DataError, match="class id 7 of the labels is beyond the 3"):
        read(tmp_path / "a", labels)


def test_selecting_keeps_each_images_labels(tmp_path: Path) -> None:
    images = read(tmp_path / "a", two_colour_set(tmp_path / "a", 8))
    rows = np.array([6, 0, 3])
    assert np.array_equal(images.select(rows).targets(np.arange(3)), images.targets(rows))


def detections(tmp_path: Path) -> DetectionDataset:
    space = LabelSpace("s", (Category(1, "cat"), Category(2, "dog"), Category(3, "cow")))
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, 8, 8)
    boxes = make_boxes(
        [0, 0, 0, 0],
        [[0, 0, 2, 2], [0, 0, 5, 5], [1, 1, 3, 3], [0, 0, 8, 8]],
        [0, 1, 1, 2],
        ignore=[False, False, True, True],
    )
    return dataset_of("d", space, ["a.png", "b.png"], boxes, root=tmp_path, size=(8, 8))


def test_detections_become_classes_with_doubtful_ones_unknown(tmp_path: Path) -> None:
    images = from_detections(detections(tmp_path))
    assert images.targets(np.array([0])).tolist() == [[1, 1, UNKNOWN]]
    assert images.gt.tolist() == [1, -1]  # the dog's box is the largest that is certain
    assert images.usable("bce").tolist() == [0]
    crowds = from_detections(detections(tmp_path), crowds=True)
    assert crowds.targets(np.array([0])).tolist() == [[1, 1, 1]]
    assert crowds.gt.tolist() == [2, -1]


def test_batches_depend_on_the_step_and_not_on_the_number_of_processes(tmp_path: Path) -> None:
    images = read(tmp_path / "a", two_colour_set(tmp_path / "a", 10))
    s = quick("x", augment="3-augment", color_jitter=0.3, seed=3)
    whole = AugmentedBatches(images, s, 32)
    parts = of_two(whole, 5)
    batch = whole(5)
    assert batch.pixels.shape == (8, 3, 32, 32)
    assert torch.equal(batch.pixels, whole(5).pixels)
    assert torch.equal(torch.cat([p.pixels for p in parts]), batch.pixels)
    assert torch.equal(torch.cat([p.targets for p in parts]), batch.targets)
    assert not torch.equal(whole(6).pixels, batch.pixels)
    single = AugmentedBatches(images, quick("x", loss="softmax"), 32)(0)
    assert single.targets.sum(dim=1).tolist() == [1.0] * 8


def test_a_crop_keeps_to_area_aspect_and_image() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((40, 60), (10, 200)):
        for _ in range(200):
            left, top, right, bottom = draw_crop(height, width, (0.25, 0.5), rng)
            w, h = right - left, bottom - top
            assert left >= 0 and top >= 0 and right <= width + 1e-9 and bottom <= height + 1e-9
            assert 0.75 - 1e-9 <= w / h <= 4 / 3 + 1e-9
            if width == 60:
                assert 0.25 - 1e-9 <= w * h / (height * width) <= 0.5 + 1e-9


def test_the_centre_is_what_is_tested() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 255
    assert (centre_view(image, 16, 1.0, "bilinear")[:, 1:-1] == 255).all()
    image[5:35, 25:55] = 90
    assert (centre_view(image, 16, 0.5, "bilinear") == 90).all()


def test_mixup_blends_pixels_and_targets_alike() -> None:
    pixels = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    targets = torch.tensor([[1.0, 0.0, UNKNOWN], [0.0, 1.0, 1.0]])
    mix = mixing(quick("x", mixup=0.8))
    shares = set()
    for seed in range(20):
        x, t = mixed(pixels, targets, mix, seed)
        other = float(x[0, 0, 0, 0])  # the second image is 1, the first 0
        assert x[0].unique().numel() == 1
        assert x[1, 0, 0, 0].item() == pytest.approx(1 - other)
        assert t[0].tolist() == pytest.approx([1 - other, other, UNKNOWN])
        assert t[1].tolist() == pytest.approx([other, 1 - other, UNKNOWN])
        shares.add(other)
    assert len(shares) == 20


def test_cutmix_gives_the_share_of_the_pixels_that_were_cut() -> None:
    pixels = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 16, 16)
    mix = mixing(quick("x", cutmix=1.0))
    for seed in range(50):
        x, t = mixed(pixels, torch.eye(2), mix, seed)
        assert set(x.unique().tolist()) <= {0.0, 1.0}
        cut = float(x[0].mean())
        assert t.flatten().tolist() == pytest.approx([1 - cut, cut, cut, 1 - cut])


def test_blending_depends_on_the_seed_alone() -> None:
    pixels, targets = torch.rand(4, 3, 8, 8), torch.eye(4)
    both = mixing(quick("x", mixup=0.8, cutmix=1.0))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = [mixed(pixels, targets, both, seed) for seed in range(12)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    again = [mixed(pixels, targets, both, seed) for seed in range(12)]
    for (x, t), (y, u) in zip(first, again, strict=True):
        assert torch.equal(x, y) and torch.equal(t, u)
    # Each batch takes one of the two: only CutMix leaves pixels as they were.
    kept = [bool((x == pixels).any()) for x, _ in first]
    assert any(kept) and not all(kept)
    assert mixing(quick("x")) is None
    assert mixed(pixels, targets, None, 0) == (pixels, targets)


def test_processes_blend_their_images_as_one_does_and_steps_in_their_own_ways(
    tmp_path: Path,
) -> None:
    images = read(tmp_path / "a", two_colour_set(tmp_path / "a", 10))
    s = quick("x", mixup=0.8, cutmix=1.0, seed=3)
    batches, mix = AugmentedBatches(images, s, 32), mixing(s)
    blended = []
    for step in range(3):
        whole = batches(step)
        pixels, targets = mixed(whole.pixels.float(), whole.targets, mix, whole.seed)
        assert not torch.equal(pixels, whole.pixels.float())
        parts = [
            [x[p.leading :] for x in mixed(p.pixels.float(), p.targets, mix, p.seed)]
            for p in of_two(batches, step)
        ]
        assert torch.equal(torch.cat([p[0] for p in parts]), pixels)
        assert torch.equal(torch.cat([p[1] for p in parts]), targets)
        blended.append(whole.seed)
    assert len(set(blended)) == 3


def of_two(batches: AugmentedBatches, step: int) -> list[Batch]:
    """Both processes' parts of a step."""
    parts = []
    for rank in range(2):
        with as_rank(rank, 2):
            parts.append(batches(step))
    return parts
