"""What spoils a semi-supervised training without stopping it is told; the best weights are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from relabel.detectors.semi import train as semi_train
from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.semi.teacher import Teacher
from relabel.detectors.semi.train import BestWeights, Watch
from tests.builders.detectors import tiny_detector
from tests.detectors.semi.test_teacher import CPU, Known, fake


def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> tuple[Watch, Any]:
    """A watch over a teacher of three classes, 5 steps burn-in and looks every 2 steps."""

    semi = replace(SemiSettings(), **{k: v for k, v in more.items() if k != "batch_size"})
    settings = tiny_detector(tmp_path, steps=15, batch_size=more.get("batch_size", 4))
    teacher = Teacher(fake(Known([]), 3), semi, 5, CPU)
    told: list[str] = []
    monkeypatch.setattr(semi_train, "message", lambda text, **_: told.append(text))
    return Watch(teacher, settings, semi, quiet=False), told


def test_what_spoils_a_training_is_told_once_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, told = watched(tmp_path, monkeypatch)
    log = watch.teacher.log
    watch.begin()
    assert told == []
    watch.look(7)
    assert told == []  # no image was labelled yet

    def labelled(classes: list[int], confidence: float, sure: bool) -> None:
        count = len(classes)
        log.add(np.array(classes, np.int64), np.full(count, confidence), np.full(count, sure))

    labelled([0, 1], 0.31, False)
    watch.look(8)
    assert told == []  # not yet time
    watch.look(9)
    assert len(told) == 1
    assert told[0].startswith("no pseudo-box in 1 images up to step 9")
    assert "highest confidence is 0.31" in told[0] and "semi.threshold (now 0.7)" in told[0]
    labelled([0, 1], 0.31, False)
    watch.look(11)
    assert len(told) == 1
    labelled([0, 2], 0.9, True)
    labelled([1], 0.2, False)
    watch.saw({"pseudo_loss_box_reg": torch.tensor(0.5)})
    watch.look(13)
    assert len(told) == 2
    assert told[1].startswith("no pseudo-box of 'c1' in 2 images up to step 13")
    assert "highest confidence is 0.20, its threshold 0.70" in told[1]
    labelled([0, 1, 2], 0.9, True)
    watch.saw({"pseudo_loss_box_reg": torch.tensor(0.0), "loss_box_reg": torch.tensor(3.0)})
    watch.look(15)
    assert len(told) == 3
    assert told[2].startswith("pseudo-boxes cost nothing in their coordinates up to step 15")
    again = Watch(watch.teacher, watch.detector, watch.semi, quiet=False)
    again.load_state_dict(watch.state_dict())
    labelled([0, 2], 0.9, True)
    again.look(15)
    assert len(told) == 3


def test_batches_of_two_and_two_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, told = watched(tmp_path, monkeypatch, batch_size=2, unlabeled_images=2)
    watch.begin()
    assert len(told) == 1 and told[0].startswith("2 labelled and 2 unlabelled images per step")


def test_a_burn_in_without_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, told = watched(tmp_path, monkeypatch, burn_in=1.0)
    watch.teacher.burn_in = 15
    watch.begin()
    assert len(told) == 1 and "semi.burn_in (now 1)" in told[0]


def test_a_loss_of_weight_zero_is_no_surprise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for more in ({"boxes": False}, {"unsupervised_weight": 0.0}):
        watch, told = watched(tmp_path, monkeypatch, **more)
        watch.teacher.log.add(np.array([0, 1, 2]), np.full(3, 0.9), np.full(3, True))
        watch.look(7)
        assert told == []


def test_best_weights_without_an_ap_are_the_last(tmp_path: Path) -> None:

    model = nn.Linear(1, 1)
    best = BestWeights(tmp_path / "best.safetensors")
    for step in (1, 2):
        nn.init.constant_(model.weight, float(step))
        best.offer(fake(model), step, None)
    best.restore(fake(model), 2, quiet=True)
    assert float(model.weight.detach()) == 2
