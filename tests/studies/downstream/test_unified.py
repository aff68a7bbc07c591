"""Unified label space: datasets teach their own classes, and the target's part stands alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from relabel.datasets.alternatives import alternatives_field, possible_classes
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.datasets.pixels.location import load_rgb
from relabel.detectors.base import Detector
from relabel.detectors.load import load_detector
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.training import Evaluate, new_trainable, train_detector
from relabel.evaluation.detector import validation_scores
from relabel.studies.downstream.settings import DownstreamSettings
from relabel.studies.downstream.unified import (
    TargetPart,
    UnifiedBatches,
    flat_space,
    into_joint,
    joint_space,
    unified_training,
)
from tests.builders.blocks import World, make_world
from tests.builders.detectors import FAMILIES, RUNTIME, assert_resumes, tiny_detector

HALF = DownstreamSettings(target_share=0.5)


def train_unified(
    world: World,
    sources: dict[str, DetectionDataset],
    out: Path,
    detector: SpecialistSettings,
    settings: DownstreamSettings,
    evaluate: Evaluate | None = None,
) -> Path:
    trainable, batches = unified_training(world.target, sources, detector, settings)
    out.mkdir(parents=True, exist_ok=True)
    train_detector(
        trainable,
        batches,
        detector.steps,
        out,
        detector,
        RUNTIME,
        description="unified",
        evaluate=evaluate,
    )
    return out


def unified_batches(world: World, steps: int, detector: SpecialistSettings) -> UnifiedBatches:
    used = [world.target, world.source]
    return UnifiedBatches(used, joint_space(used), replace(detector, steps=steps), HALF, 32)


def test_classes_are_concatenated_even_where_two_datasets_share_a_label_space(
    world: World,
) -> None:
    twice = [world.target, replace(world.truth, name="other"), world.source]
    joint = joint_space(twice)
    flat = flat_space(joint)
    assert flat.class_names == [
        "0:tight/red",
        "0:tight/blue",
        "1:other/red",
        "1:other/blue",
        "2:loose/thing",
    ]
    assert flat.categories[2].text_prompt == "red"
    moved = into_joint(world.truth, joint, 1)
    assert moved.boxes.category.tolist() == [c + 2 for c in world.truth.boxes.category]
    assert np.array_equal(moved.boxes.xywh, world.truth.boxes.xywh)


def test_boxes_of_ignore_categories_stay_regions(world: World) -> None:
    space = LabelSpace("loose", (Category(1, "thing"), Category(2, "crowd", ignore=True)))
    category = world.source.boxes.category.copy()
    category[0] = 1
    source = world.source.with_boxes(replace(world.source.boxes, category=category), space)
    joint = joint_space([world.target, source])
    assert joint.num_classes == 3
    assert flat_space(joint).class_names == ["0:tight/red", "0:tight/blue", "1:loose/thing"]
    moved = into_joint(source, joint, 1)
    assert moved.boxes.ignore.tolist() == [True] + [False] * (len(source.boxes) - 1)
    assert set(moved.boxes.category.tolist()) == {2}


def test_alternatives_speak_the_joint_space(world: World) -> None:
    target = world.target
    others = np.zeros((len(target.boxes), 2), bool)
    others[0, 1 - target.boxes.category[0]] = True
    boxes = replace(target.boxes, extra=alternatives_field(others, target.space))
    joint = joint_space([world.source, target])
    moved = into_joint(target.with_boxes(boxes), joint, 1)
    possible = possible_classes(moved, slice(0, 2))
    assert possible is not None and possible[0].tolist() == [False, True, True]
    assert possible[1].sum() == 1 and not possible[1, 0]


def test_a_source_without_images_has_no_classes(world: World, detector: SpecialistSettings) -> None:
    sources = {"empty": world.source.subset([]), "loose": world.source}
    trained, _ = unified_training(world.target, sources, detector, HALF)
    names = trained.space.class_names
    assert names == ["0:tight/red", "0:tight/blue", "1:loose/thing"]


def test_images_name_the_classes_of_their_dataset_and_the_last_quarter_is_the_target_s(
    world: World, detector: SpecialistSettings
) -> None:
    batches = unified_batches(world, 8, detector)
    of_target, of_source = [True, True, True, False], [True, False, False, True]
    for step in range(8):
        _, _, targets = batches(step)
        found = [t["classes"].tolist() for t in targets]
        assert found == ([of_target] * 2 + [of_source] * 2 if step < 6 else [of_target] * 4)
        for t in targets:
            assert bool(t["classes"][t["labels"]].all())


def class_rows(model: nn.Module, classes: int) -> dict[str, Tensor]:
    """Gradients of all weights with a row per class (after one for the background, if any)."""
    found = {}
    for name, p in model.named_parameters():
        if any(part in name for part in ("cls_score", "class_embed", "enc_score_head")):
            assert p.grad is not None, name
            background = 1 if "cls_score" in name else 0
            found[name] = p.grad[background : background + classes]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_gives_no_gradient_to_classes_its_dataset_does_not_know(
    world: World, tmp_path: Path, family: str
) -> None:
    detector = tiny_detector(tmp_path, family, batch_size=4)
    used = [world.target, world.source]
    trainable = new_trainable(flat_space(joint_space(used)), detector)
    model = trainable.model.train()
    pixels, sizes, targets = unified_batches(world, 8, detector)(0)
    assert isinstance(pixels, torch.Tensor)
    for images, known, unknown in (([0, 1], [0, 1], [2]), ([2, 3], [2], [0, 1])):
        model.zero_grad()
        torch.manual_seed(0)
        chosen = [targets[i] for i in images]
        losses = model(pixels[images], [sizes[i] for i in images], chosen)
        torch.stack(list(losses.values())).sum().backward()
        rows = class_rows(model, 3)
        assert len(rows) == {"faster-rcnn": 2, "rt-detr": 7, "certainty": 2}[family]
        for name, grad in rows.items():
            assert float(grad[unknown].abs().max()) == 0.0, name
        largest = torch.stack(
            [g[known].abs().flatten(1).amax(dim=1) for g in rows.values() if g.ndim > 1]
        )
        assert float(largest.amax(dim=0).min()) > 0


@pytest.mark.slow
def test_without_the_key_the_loss_is_what_it_was(
    world: World, detector: SpecialistSettings
) -> None:
    model = new_trainable(world.target.space, detector).model.train()
    target = {
        "boxes": torch.tensor([[10.0, 10, 40, 40]]),
        "labels": torch.tensor([1]),
        "ignored": torch.zeros(0, 4),
    }
    pixels = torch.rand(1, 3, 96, 96)

    def loss(**more: Tensor) -> dict[str, float]:
        torch.manual_seed(0)
        losses = model(pixels, [(96, 96)], [{**target, **more}])
        return {k: float(v.detach()) for k, v in losses.items()}

    plain = loss()
    assert (
        loss(classes=torch.tensor([True, True, False]))["loss_classifier"]
        < (plain["loss_classifier"])
    )
    # Neither the mask of all classes nor that of the call before changes anything.
    assert loss(classes=torch.tensor([True, True, True])) == plain
    assert loss() == plain


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_target_s_part_scores_like_the_whole_with_the_others_masked(
    world: World, tmp_path: Path, family: str
) -> None:
    detector = tiny_detector(tmp_path / "backbone", family)
    # Another dataset's classes first, so that rows have to be moved.
    flat = LabelSpace.from_names("unified", ["a", "red", "b", "blue"])
    whole = new_trainable(flat, detector)
    part = TargetPart(whole, world.target.space, [1, 3])
    device = torch.device("cpu")
    image = load_rgb(world.target, 0)
    (mine,) = part.detector(device).predict([image])
    for name, p in whole.model.named_parameters():
        if name.endswith(
            ("cls_score.bias", "enc_score_head.bias", "enc_score_head.module.bias")
        ) or ("class_embed" in name and name.endswith("bias")):
            with torch.no_grad():
                start = len(p) - 4
                p[[start, start + 2]] = -1e4
    (all_of_them,) = whole.detector(device).predict([image])
    assert len(mine) == len(all_of_them) > 0
    assert mine.scores.shape[1] == 2
    np.testing.assert_allclose(mine.scores, all_of_them.scores[:, [1, 3]], atol=1e-6)
    np.testing.assert_allclose(mine.boxes, all_of_them.boxes, atol=1e-3)
    assert float(all_of_them.scores[:, [0, 2]].max()) == 0.0
    part.save(tmp_path)
    read = load_detector(tmp_path, device="cpu")
    assert read.space == world.target.space
    np.testing.assert_array_equal(read.predict([image])[0].boxes, mine.boxes)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_an_interrupted_training_ends_with_the_same_bytes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    detector = tiny_detector(tmp_path, family, steps=4, batch_size=2, checkpoint_every=0.0)
    seen: list[LabelSpace] = []

    def evaluate(found: Detector, _step: int) -> dict[str, float]:
        seen.append(found.space)
        return {"AP": float(len(found.predict([load_rgb(world.target, 0)])))}

    def train(name: str) -> Path:
        return train_unified(
            world,
            {"loose": world.source, "empty": world.source.subset([])},
            tmp_path / name,
            replace(detector, eval_every=2),
            HALF,
            evaluate,
        )

    assert_resumes(train, UnifiedBatches, 3, monkeypatch)
    # After steps 2 and 4, the cut one's second half on its own.
    assert seen == [world.target.space] * 4


@pytest.mark.slow
def test_it_finds_and_names_blocks_it_has_not_seen(
    detector: SpecialistSettings, tmp_path: Path
) -> None:
    world = make_world(tmp_path / "train", images=24)
    fresh = make_world(tmp_path / "fresh", images=10, seed=1).target
    folder = train_unified(
        world,
        {"loose": world.source},
        tmp_path / "out",
        replace(detector, steps=150),
        DownstreamSettings(),
    )
    # 0.36 when written; half of the images it saw have no colours to learn.
    assert validation_scores(load_detector(folder, device="cpu"), fresh, RUNTIME)["AP50"] > 0.25
