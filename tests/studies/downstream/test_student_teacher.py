"""Student and teacher: who labels what when, whose labels count, and what comes out at the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from relabel.detectors.base import Detector
from relabel.detectors.family import DetectionNetwork, Trainable
from relabel.detectors.load import load_detector
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.training import new_trainable
from relabel.evaluation.detector import validation_scores
from relabel.studies.downstream import student_teacher
from relabel.studies.downstream.settings import DownstreamSettings
from relabel.studies.downstream.student_teacher import (
    Teacher,
    TeacherBatches,
    is_box_loss,
    strong_view,
    train_student_teacher,
    without_boxes,
)
from tests.builders.blocks import World, make_world
from tests.builders.detectors import FAMILIES, RUNTIME, assert_resumes, tiny_detector

# The teacher of a few steps is sure of nothing; at 0.02 it labels something, mostly wrong.
EAGER = DownstreamSettings(burn_in=0.25, teacher_threshold=0.02)


@pytest.fixture(scope="module")
def detector(detector: SpecialistSettings) -> SpecialistSettings:
    """Of a batch, one image of each kind."""
    return replace(detector, batch_size=2)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(str(folder / "model.safetensors"))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_target_alone_comes_first_and_last_and_half_in_between(
    world: World, detector: SpecialistSettings
) -> None:
    many = replace(detector, batch_size=4, steps=20)
    batches = TeacherBatches(
        world.target, {"loose": world.source}, many, DownstreamSettings(burn_in=0.2), 32
    )
    parts = [[part for part, _ in batches.mixture.rows(step)] for step in range(20)]
    assert parts[:4] == [[0] * 4] * 4
    assert parts[4:15] == [[0, 0, 1, 1]] * 11
    assert parts[15:] == [[0] * 4] * 5
    mixed, alone = batches(4), batches(15)
    assert mixed.labelled is not None
    assert mixed.weak is not None
    assert mixed.strong is not None
    assert len(mixed.labelled[1]) == len(mixed.weak) == len(mixed.sizes) == 2
    assert alone.labelled is not None
    assert len(alone.labelled[1]) == 4
    assert alone.weak is None
    assert alone.strong is None


def test_both_views_show_the_same_place_and_only_the_strong_one_is_changed(
    world: World, detector: SpecialistSettings
) -> None:
    turned = replace(detector, flip=1.0, scale_jitter=(2.0, 2.0), color_jitter=0.5)
    batch = TeacherBatches(
        world.target, {"loose": world.source}, turned, DownstreamSettings(burn_in=0), 32
    )(0)
    assert batch.weak is not None
    assert batch.strong is not None
    assert batch.sizes == [(192, 192)]
    assert batch.weak.shape == batch.strong.shape == (1, 3, 192, 192)
    assert not torch.equal(batch.weak, batch.strong)
    # Colours of the weak view are those of the file: blocks of (200, 40, 40) or (40, 60, 200).
    colours = {tuple(int(v) for v in c) for c in (batch.weak[0] * 255).round().flatten(1).T}
    assert colours & {(200, 40, 40), (40, 60, 200)}


def test_a_strong_view_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(student_teacher, "ERASED", ())
    x = torch.full((3, 60, 80), 0.5)
    x[0, 20:40, 30:50] = 0.9
    kept = x.clone()
    changed = 0
    for seed in range(40):
        y = strong_view(x, np.random.default_rng(seed))
        assert y.shape == x.shape
        assert 0 <= float(y.min()) <= float(y.max()) <= 1
        rows, columns = ((y - y[:, :1, :1]).abs().sum(dim=0) > 0.02).nonzero().unbind(1)
        assert float(rows.float().mean()) == pytest.approx(29.5, abs=0.6)
        assert float(columns.float().mean()) == pytest.approx(39.5, abs=0.6)
        changed += not torch.equal(x, y)
    assert changed >= 30
    assert torch.equal(x, kept)


def test_erased_boxes_leave_most_of_the_image() -> None:
    x = torch.full((3, 60, 80), 0.5)
    shares = []
    for seed in range(60):
        y = strong_view(x, np.random.default_rng(seed))
        assert torch.equal(y, strong_view(x, np.random.default_rng(seed)))
        flat = (y - y.flatten(1).median(dim=1).values[:, None, None]).abs().amax(dim=0) < 0.02
        shares.append(1 - float(flat.float().mean()))
    # At least one box in 1 - 0.3 * 0.5 * 0.7 of the views, each of 2 to 20 percent.
    assert np.mean(np.array(shares) > 0.01) == pytest.approx(0.895, abs=0.1)
    assert max(shares) < 0.6


def test_the_student_learns_classes_of_the_teacher_on_the_strong_view(
    world: World,
    detector: SpecialistSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitted: dict[str, Any] = {}

    def fit(_model: nn.Module, batches: TeacherBatches, losses: Any, **more: Any) -> None:
        fitted.update(batches=batches, losses=losses, **more)

    monkeypatch.setattr(student_teacher, "fit", fit)
    seen: list[Tensor] = []

    def net(pixels: Tensor, _sizes: Any, _targets: Any) -> dict[str, Tensor]:
        seen.append(pixels)
        return {"loss_classifier": torch.tensor(1.0), "loss_box_reg": torch.tensor(2.0)}

    def parts(settings: DownstreamSettings, step: int) -> dict[str, float]:
        averaged = replace(detector, ema=0.9)
        sources = {"loose": world.source}
        train_student_teacher(world.target, sources, tmp_path, averaged, settings, RUNTIME)
        return {k: float(v) for k, v in fitted["losses"](net, fitted["batches"](step)).items()}

    mine = {"loss_classifier": 1.0, "loss_box_reg": 2.0}
    weighted = replace(EAGER, unsupervised_weight=3.0)
    assert parts(weighted, 3) == mine | {"teacher_loss_classifier": 3.0}
    batch = fitted["batches"](3)
    assert torch.equal(seen[0], batch.labelled[0])
    assert torch.equal(seen[1], batch.strong)
    with_boxes = parts(replace(weighted, teacher_boxes=True), 3)
    assert with_boxes == mine | {"teacher_loss_classifier": 3.0, "teacher_loss_box_reg": 6.0}
    assert parts(weighted, 1) == parts(weighted, 7) == mine
    # The teacher is the average; another one would be measured in its place.
    assert fitted["settings"].ema == 0.0


def fake(model: nn.Module) -> Trainable:
    nothing: Any = None
    return Trainable(nothing, cast(DetectionNetwork, model), nothing, nothing)


def test_the_average_starts_at_the_end_of_the_burn_in() -> None:
    student = nn.Linear(1, 1, bias=False)
    nn.init.constant_(student.weight, 0.0)
    settings = DownstreamSettings(teacher_ema=0.2)
    teacher = Teacher(fake(student), settings, 2, torch.device("cpu"))
    mine = teacher.trainable.model.state_dict()["weight"]
    seen = []
    for step in range(1, 6):
        nn.init.constant_(student.weight, float(step))
        teacher.follow(student, step)
        seen.append(float(mine))
    # Nothing, the copy, then decays min(0.2, 2/11), min(0.2, 3/12), 0.2.
    third = 3 + (2 - 3) * 2 / 11
    fourth = 4 + (third - 4) * 0.2
    assert seen == pytest.approx([0, 2, third, fourth, 5 + (fourth - 5) * 0.2])
    assert [teacher.exists(step) for step in (0, 1, 2, 3)] == [False, False, True, True]
    again = Teacher(fake(student), settings, 2, torch.device("cpu"))
    again.average.load_state_dict(teacher.average.state_dict())
    assert int(again.average.n_averaged) == 1 + 3
    assert float(again.trainable.model.state_dict()["weight"]) == seen[-1]


class Known(nn.Module):
    """Finds what it was told."""

    def __init__(self, rows: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, _pixels: Tensor, _sizes: Any) -> list[dict[str, Tensor]]:
        assert not self.training
        return self.rows


def test_the_teacher_labels_what_it_is_sure_of_once() -> None:
    boxes = torch.tensor(
        [
            [0.0, 0, 10, 10],  # sure
            [0, 0, 10, 9],  # its near copy, IoU 0.9
            [0, 0, 10, 10],  # the same place, another class
            [20, 20, 40, 90],  # at the threshold, over the border
            [40, 0, 50, 10],  # below it
            [60, 0, 60.2, 10],  # nothing
        ]
    )
    scores = torch.tensor(
        [[0.9, 0.1], [0.8, 0.1], [0.1, 0.75], [0.7, 0.0], [0.69, 0.2], [0.9, 0.0]]
    )
    nothing = {"boxes": boxes[:0], "scores": scores[:0]}
    model = Known([{"boxes": boxes, "scores": scores}, nothing])
    teacher = Teacher(fake(model), DownstreamSettings(), 0, torch.device("cpu"))
    first, second = teacher.label(torch.zeros(2, 3, 64, 96), [(64, 96), (64, 96)])
    assert first["boxes"].tolist() == [[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 40, 64]]
    assert first["labels"].tolist() == [1, 2, 1]
    assert first["ignored"].shape == second["boxes"].shape == (0, 4)
    assert second["labels"].shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_coordinates_are_not_learned_from_the_teacher(
    world: World, tmp_path: Path, family: str
) -> None:
    model = new_trainable(world.target.space, tiny_detector(tmp_path, family)).model.train()
    target = {
        "boxes": torch.tensor([[10.0, 10, 40, 40]]),
        "labels": torch.tensor([1]),
        "ignored": torch.zeros(0, 4),
    }
    names = model(torch.rand(1, 3, 96, 96), [(96, 96)], [target]).keys()
    about_boxes = {name for name in names if is_box_loss(name)}
    expected = {
        "faster-rcnn": {"loss_box_reg", "loss_rpn_box_reg"},
        "rt-detr": {f"loss_{b}{end}" for b in ("bbox", "giou") for end in ("", "_aux", "_dn")},
        "certainty": {"loss_box_interval", "loss_box_offset", "loss_rpn_box_reg"},
    }
    assert about_boxes == expected[family]
    assert names - about_boxes


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_labels_of_the_sources_have_no_influence_and_their_images_do(
    world: World, tmp_path: Path, family: str
) -> None:
    detector = tiny_detector(tmp_path, family, steps=4, batch_size=2)

    def train(name: str, source: Any, settings: DownstreamSettings = EAGER) -> dict[str, Tensor]:
        folder = train_student_teacher(
            world.target, {"s": source}, tmp_path / name, detector, settings, RUNTIME
        )
        return weights(folder)

    whole = train("whole", world.source)
    assert same(whole, train("bare", without_boxes(world.source)))
    assert not same(whole, train("none", world.source.subset([])))
    unweighted = replace(EAGER, unsupervised_weight=0.0)
    assert not same(whole, train("unweighted", world.source, unweighted))


@pytest.mark.slow
def test_what_is_measured_and_saved_is_the_average_of_the_student(
    world: World,
    detector: SpecialistSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    students: list[dict[str, Tensor]] = []
    follow = Teacher.follow

    def logged(self: Teacher, model: nn.Module, step: int) -> None:
        students.append({k: v.clone() for k, v in model.state_dict().items()})
        follow(self, model, step)

    monkeypatch.setattr(Teacher, "follow", logged)
    measured: dict[int, dict[str, Tensor]] = {}

    def evaluate(found: Detector, step: int) -> dict[str, float]:
        model: nn.Module = found.model  # type: ignore[attr-defined]
        measured[step] = {k: v.clone() for k, v in model.state_dict().items()}
        return {"AP": 0.0}

    folder = train_student_teacher(
        world.target,
        {"loose": world.source},
        tmp_path,
        replace(detector, eval_every=1),
        EAGER,
        RUNTIME,
        evaluate=evaluate,
    )
    assert sorted(measured) == list(range(1, 9))
    # Burn-in of two steps: the student itself.
    assert same(measured[1], students[0])
    assert same(measured[2], students[1])
    average = students[1]
    for update, student in enumerate(students[2:], start=1):
        decay = (1 + update) / (10 + update)
        average = {k: average[k] * decay + v * (1 - decay) for k, v in student.items()}
    saved = weights(folder)
    assert same(saved, measured[8])
    for name, value in average.items():
        assert torch.allclose(saved[name].float(), value.float(), atol=1e-6), name
    key = "roi_heads.box_predictor.cls_score.weight"
    assert float((saved[key] - students[-1][key]).abs().max()) > 1e-4
    assert float((saved[key] - students[1][key]).abs().max()) > 1e-4
    assert load_detector(folder, device="cpu").space == world.target.space


@pytest.mark.slow
@pytest.mark.parametrize("dies_at", [1, 5, 7])
def test_an_interrupted_training_ends_with_the_same_bytes(
    world: World,
    detector: SpecialistSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dies_at: int,
) -> None:
    often = replace(detector, checkpoint_every=0.0)

    def train(name: str) -> Path:
        return train_student_teacher(
            world.target, {"loose": world.source}, tmp_path / name, often, EAGER, RUNTIME
        )

    assert_resumes(train, TeacherBatches, dies_at, monkeypatch)


@pytest.mark.slow
def test_it_finds_and_names_blocks_it_has_not_seen(
    detector: SpecialistSettings, tmp_path: Path
) -> None:
    world = make_world(tmp_path / "train", images=24)
    fresh = make_world(tmp_path / "fresh", images=10, seed=1).target
    folder = train_student_teacher(
        world.target,
        {"loose": world.source},
        tmp_path / "out",
        replace(detector, steps=150, batch_size=4),
        DownstreamSettings(),
        RUNTIME,
    )
    # A detector that finds every block and guesses its class has 0.5 at most.
    assert validation_scores(load_detector(folder, device="cpu"), fresh, RUNTIME)["AP50"] > 0.5
