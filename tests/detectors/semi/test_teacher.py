"""The teacher: an average of the student that labels what it is sure of."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.family import DetectionNetwork, Trainable
from relabel.detectors.faster_rcnn import FasterRCNN
from relabel.detectors.rt_detr.model import RTDetr
from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.semi.teacher import Teacher
from relabel.settings import Ranking

PLAIN = SemiSettings(threshold_gamma=0.0, weight_gamma=0.0)
CPU = torch.device("cpu")


class Known(nn.Module):
    """Finds what it was told."""

    def __init__(
        self, rows: list[dict[str, Tensor]], ranking: Ranking = "score", exclusive: bool = True
    ) -> None:
        super().__init__()
        self.rows = rows
        self.ranking = ranking
        self.exclusive = exclusive

    def forward(self, _pixels: Tensor, _sizes: Any) -> list[dict[str, Tensor]]:
        assert not self.training
        return self.rows


def fake(model: nn.Module, classes: int = 2) -> Trainable:
    nothing: Any = None
    space = LabelSpace.from_names("s", [f"c{i}" for i in range(classes)])
    return Trainable(nothing, cast(DetectionNetwork, model), space, nothing)


def label(teacher: Teacher, images: int = 1) -> list[dict[str, Tensor]]:
    return teacher.label(torch.zeros(images, 3, 64, 96), [(64, 96)] * images)


def test_the_average_starts_at_the_end_of_the_burn_in() -> None:
    student = nn.Linear(1, 1, bias=False)
    student.ranking = "score"  # type: ignore[assignment]
    nn.init.constant_(student.weight, 0.0)
    semi = SemiSettings(teacher_ema=0.2)
    teacher = Teacher(fake(student), semi, 2, CPU)
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
    again = Teacher(fake(student), semi, 2, CPU)
    again.average.load_state_dict(teacher.average.state_dict())
    assert int(again.average.n_averaged) == 1 + 3
    assert float(again.trainable.model.state_dict()["weight"]) == seen[-1]


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
    teacher = Teacher(fake(Known([{"boxes": boxes, "scores": scores}, nothing])), PLAIN, 0, CPU)
    first, second = label(teacher, 2)
    assert first["boxes"].tolist() == [[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 40, 64]]
    assert first["labels"].tolist() == [1, 2, 1]
    assert first["weights"].tolist() == [1, 1, 1]
    assert second["boxes"].shape == (0, 4)
    assert second["labels"].shape == second["weights"].shape == (0,)
    assert teacher.log.total.tolist() == [2, 1]
    assert teacher.log.images == 2
    assert teacher.log.best.tolist() == pytest.approx([0.9, 0.75])


@pytest.mark.parametrize(
    ("confidence", "kept"),
    [
        ("score", [0, 1]),  # 0.9, 0.8, 0.5
        ("quality", [1, 2]),  # 0.5, 0.9, 0.95
        ("product", [1]),  # 0.45, 0.72, 0.475
        ("geometric", [1]),  # 0.67, 0.85, 0.69
    ],
)
def test_the_threshold_is_for_the_score_the_quality_or_both(
    confidence: Any, kept: list[int]
) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
    row = {
        "boxes": boxes,
        "scores": torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.5, 0.0]]),
        "quality": torch.tensor([0.5, 0.9, 0.95]),
    }
    semi = SemiSettings(threshold_gamma=0.0, confidence=confidence)
    teacher = Teacher(fake(Known([row], "product")), semi, 0, CPU)
    [found] = label(teacher)
    # The statistics are of p * v, whatever the threshold is for.
    assert teacher.statistics.confidences.tolist() == pytest.approx([0.45 + 0.72, 0])
    assert sorted(found["boxes"].tolist()) == boxes[kept].tolist()


def test_classes_that_are_rarely_found_have_lower_thresholds_and_greater_weights() -> None:
    # Nine of class 0 at 0.95; one of class 1 at 0.66; class 2 never.
    boxes = torch.tensor([[20.0 * i, 0, 20.0 * i + 10, 10] for i in range(10)]) / 3
    scores = torch.zeros(10, 3)
    scores[:9, 0], scores[9, 1] = 0.95, 0.66
    semi = SemiSettings(threshold=0.7, threshold_gamma=0.05, weight_gamma=0.6)
    teacher = Teacher(fake(Known([{"boxes": boxes, "scores": scores}]), 3), semi, 0, CPU)
    [found] = label(teacher)
    mean = 10 / 3
    frequency = np.array([9 * 0.95, 0.66]) / mean
    assert teacher.thresholds()[:2] == pytest.approx(0.7 * frequency**0.05, rel=1e-5)
    assert teacher.thresholds()[2] == 0.4
    assert found["labels"].tolist() == [1] * 9 + [2]
    expected = frequency**-0.6
    assert found["weights"].tolist() == pytest.approx([expected[0]] * 9 + [expected[1]], rel=1e-5)
    # Alone, the box of class 1 would not have reached the one threshold.
    [plain] = label(Teacher(fake(Known([{"boxes": boxes, "scores": scores}]), 3), PLAIN, 0, CPU))
    assert plain["labels"].tolist() == [1] * 9


def test_what_is_likelier_background_is_not_counted() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    scores = torch.tensor([[0.45, 0.2], [0.3, 0.1]])  # background 0.35 and 0.6
    teacher = Teacher(fake(Known([{"boxes": boxes, "scores": scores}])), SemiSettings(), 0, CPU)
    label(teacher)
    assert teacher.statistics.counts.tolist() == [1, 0]
    assert teacher.statistics.confidences.tolist() == pytest.approx([0.45, 0])


def test_where_every_class_is_a_question_of_its_own_yes_is_likelier_than_no() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    scores = torch.tensor([[0.6, 0.1], [0.3, 0.3]])  # a sum of 0.6 says nothing of the second
    scores = torch.cat([scores, torch.full((2, 30), 0.02)], dim=1)
    known = Known([{"boxes": boxes, "scores": scores}], exclusive=False)
    teacher = Teacher(fake(known, 32), SemiSettings(), 0, CPU)
    label(teacher)
    assert teacher.statistics.counts[:2].tolist() == [1, 0]
    assert not RTDetr.exclusive and FasterRCNN.exclusive


@pytest.mark.parametrize(("threshold", "low", "high"), [(0.7, 0.4, 0.9), (0.2, 0.2, 0.9)])
def test_thresholds_stay_within_their_range(threshold: float, low: float, high: float) -> None:
    semi = SemiSettings(threshold=threshold, threshold_gamma=2.0)
    teacher = Teacher(fake(Known([]), 3), semi, 0, CPU)
    teacher.statistics.add(np.array([0] * 50 + [1]), np.array([0.95] * 50 + [0.3]))
    found = teacher.thresholds()
    assert found.min() == low
    assert found.max() == pytest.approx(min(high, threshold * (50 * 0.95 / 17) ** 2))
