"""Student and teacher: whose labels count, what is told, and what comes out at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from relabel.detectors.base import Detector
from relabel.detectors.load import load_detector
from relabel.detectors.semi import train as semi_train
from relabel.detectors.semi.batches import SemiBatches, without_boxes
from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.semi.teacher import Teacher
from relabel.detectors.semi.train import (
    is_box_loss,
    train_semi_supervised,
    train_with_unlabelled,
)
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.training import new_trainable
from relabel.errors import DataError
from relabel.evaluation.detector import validation_scores, validator
from tests.builders.blocks import World, make_world
from tests.builders.detectors import FAMILIES, RUNTIME, assert_resumes, tiny_detector

# The teacher of a few steps is sure of nothing: it labels everything, mostly wrong.
EAGER = SemiSettings(
    burn_in=0.25, threshold=0.0, threshold_gamma=0.0, weight_gamma=0.0, unlabeled_images=1
)


@pytest.fixture(scope="module")
def detector(detector: SpecialistSettings) -> SpecialistSettings:
    """One labelled image a step."""
    return replace(detector, batch_size=1)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(str(folder / "model.safetensors"))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_student_learns_labels_of_the_teacher_on_the_strong_view(
    world: World,
    detector: SpecialistSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitted: dict[str, Any] = {}

    def fit(_model: nn.Module, batches: SemiBatches, losses: Any, **more: Any) -> None:
        fitted.update(batches=batches, losses=losses, **more)

    monkeypatch.setattr(semi_train, "fit", fit)
    monkeypatch.setattr(semi_train, "drop_checkpoint", lambda _out: None)
    label = {
        "boxes": torch.tensor([[1.0, 2, 30, 40]]),
        "labels": torch.tensor([2]),
        "weights": torch.tensor([1.5]),
    }
    monkeypatch.setattr(Teacher, "label", lambda *_: [label])
    seen: list[tuple[Tensor, Any]] = []

    def net(pixels: Tensor, _sizes: Any, targets: Any) -> dict[str, Tensor]:
        seen.append((pixels, targets))
        return {"loss_classifier": torch.tensor(1.0), "loss_box_reg": torch.tensor(2.0)}

    def parts(semi: SemiSettings, step: int) -> dict[str, float]:
        averaged = replace(detector, ema=0.9)
        train_semi_supervised(
            world.target, {"loose": world.source}, tmp_path, averaged, semi, RUNTIME
        )
        return {k: float(v) for k, v in fitted["losses"](net, fitted["batches"](step)).items()}

    mine = {"loss_classifier": 1.0, "loss_box_reg": 2.0}
    weighted = replace(EAGER, unsupervised_weight=3.0)
    theirs = {"pseudo_loss_classifier": 3.0, "pseudo_loss_box_reg": 6.0}
    assert parts(weighted, 3) == mine | theirs
    batch = fitted["batches"](3)
    assert torch.equal(seen[0][0], batch.labelled[0])
    height, width = batch.views[0].shape[1:]
    assert torch.equal(seen[1][0][0, :, :height, :width], batch.views[0])
    [target] = seen[1][1]
    assert target["boxes"].tolist() == [[1, 2, 30, 40]] and target["weights"].tolist() == [1.5]
    classes_alone = parts(replace(weighted, boxes=False), 3)
    assert classes_alone == mine | {"pseudo_loss_classifier": 3.0}
    assert parts(weighted, 1) == mine
    monkeypatch.setattr(Teacher, "label", lambda *_: [{k: v[:0] for k, v in label.items()}])
    assert parts(weighted, 3) == mine
    # Where the teacher labels nothing in a step of unlabelled images alone, nothing is learned.
    nothing = fitted["losses"](net, replace(batch, labelled=None))
    assert {k: float(v.detach()) for k, v in nothing.items()} == {"pseudo_none": 0.0}
    nothing["pseudo_none"].backward()
    # The teacher is the average; another one would be measured in its place.
    assert fitted["settings"].ema == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_of_coordinates_are_known_by_name(world: World, tmp_path: Path, family: str) -> None:
    model = new_trainable(world.target.space, tiny_detector(tmp_path, family)).model.train()
    target = {
        "boxes": torch.tensor([[10.0, 10, 40, 40]]),
        "labels": torch.tensor([1]),
        "ignored": torch.zeros(0, 4),
    }
    names = model(torch.rand(1, 3, 96, 96), [(96, 96)], [target]).keys()
    about_boxes = {name for name in names if is_box_loss(name)}
    rt_detr = {f"loss_{b}{end}" for b in ("bbox", "giou") for end in ("", "_aux", "_dn")}
    expected = {
        "rt-detr": rt_detr,
        "faster-rcnn": {"loss_box_reg", "loss_rpn_box_reg"},
        "certainty": {"loss_box_interval", "loss_box_offset", "loss_rpn_box_reg"},
    }
    assert about_boxes == expected[family]
    assert names - about_boxes


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_labels_of_unlabelled_images_have_no_influence_and_their_pixels_do(
    world: World, tmp_path: Path, family: str
) -> None:
    detector = tiny_detector(tmp_path, family, steps=4, batch_size=2)

    def train(name: str, source: Any, semi: SemiSettings = EAGER) -> dict[str, Tensor]:
        folder = train_semi_supervised(
            world.target, {"s": source}, tmp_path / name, detector, semi, RUNTIME
        )
        return weights(folder)

    whole = train("whole", world.source)
    assert same(whole, train("bare", without_boxes(world.source)))
    assert not same(whole, train("others", world.source.subset([0])))
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

    folder = train_semi_supervised(
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
    told = json.loads((folder / "pseudo_boxes.json").read_text())
    assert set(told) == {"red", "blue"}
    assert all(row["threshold"] == 0 and row["weight"] == 1 for row in told.values())
    assert sum(row["boxes"] for row in told.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("dies_at", [1, 5, 7])
def test_an_interrupted_training_ends_with_the_same_bytes(
    world: World,
    detector: SpecialistSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dies_at: int,
) -> None:
    often = replace(detector, checkpoint_every=0.0, eval_every=2)
    # The best is not the last, so that it has to survive as well.
    scores = {2: 0.1, 4: 0.3, 6: 0.2, 8: 0.1}
    classwise = replace(EAGER, threshold_gamma=0.05, weight_gamma=0.6, mix="mixpl")

    def train(name: str) -> Path:
        return train_semi_supervised(
            world.target,
            {"loose": world.source},
            tmp_path / name,
            often,
            classwise,
            RUNTIME,
            evaluate=lambda _found, step: {"AP": scores[step]},
            keep_best=True,
        )

    assert_resumes(train, SemiBatches, dies_at, monkeypatch)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert (cut / "pseudo_boxes.json").read_bytes() == (whole / "pseudo_boxes.json").read_bytes()
    assert not list(cut.glob("best*"))


KILLED = """
import sys
from pathlib import Path
from tests.builders.blocks import make_world
from tests.builders.detectors import RUNTIME, tiny_detector
from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.semi.train import train_semi_supervised

work, out = Path(sys.argv[1]), Path(sys.argv[2])
world = make_world(work / "world", images=6)
detector = tiny_detector(work / "backbone", steps=12, batch_size=1, checkpoint_every=0.0)
semi = SemiSettings(burn_in=0.25, threshold=0.02, threshold_gamma=0.0, unlabeled_images=1)
train_semi_supervised(world.target, {"loose": world.source}, out, detector, semi, RUNTIME)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(out)]
        return subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})

    assert start(tmp_path / "whole").wait() == 0
    cut = tmp_path / "cut"
    kills = 0
    for wait in (0.2, 0.9):
        process = start(cut)
        while process.poll() is None and not (cut / "checkpoint").exists():
            time.sleep(0.02)
        time.sleep(wait)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(cut).wait() == 0
    assert kills, "the training was over before it could be killed"
    for name in ("model.safetensors", "config.json", "training.json", "pseudo_boxes.json"):
        assert (cut / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
def test_the_best_held_back_weights_are_kept_and_the_fall_is_told(
    world: World,
    detector: SpecialistSettings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured: dict[int, dict[str, Tensor]] = {}
    scores = {2: 0.1, 4: 0.42, 6: 0.42, 8: 0.2}

    def evaluate(found: Detector, step: int) -> dict[str, float]:
        model: nn.Module = found.model  # type: ignore[attr-defined]
        measured[step] = {k: v.clone() for k, v in model.state_dict().items()}
        return {"AP": scores[step]}

    def train(name: str, keep_best: bool) -> dict[str, Tensor]:
        return weights(
            train_semi_supervised(
                world.target,
                {"loose": world.source},
                tmp_path / name,
                replace(detector, eval_every=2),
                EAGER,
                replace(RUNTIME, quiet=False),
                evaluate=evaluate,
                keep_best=keep_best,
            )
        )

    assert same(train("best", True), measured[6])
    told = [line for line in capsys.readouterr().err.splitlines() if "AP fell" in line]
    assert told == [
        "AP fell from 42.0 after step 6 to 20.0 at the end: the weights of step 6 are kept"
    ]
    assert same(train("last", False), measured[8])
    assert "AP fell" not in capsys.readouterr().err


def test_nothing_to_learn_from_is_one_line(
    world: World, detector: SpecialistSettings, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no boxes to learn from"):
        train_with_unlabelled(
            without_boxes(world.target),
            {"loose": world.source},
            tmp_path / "out",
            detector,
            EAGER,
            RUNTIME,
        )


@pytest.mark.slow
def test_two_labelled_images_and_forty_others_teach_what_a_block_is(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", images=42)
    labelled, rest = world.target.subset([0, 1]), world.target.subset(range(2, 42))
    fresh = make_world(tmp_path / "fresh", images=16, seed=1).target
    detector = tiny_detector(tmp_path / "backbone", epochs=22, batch_size=4)
    semi = replace(EAGER, burn_in=0.4, threshold=0.4, teacher_ema=0.9, unlabeled_images=4)
    held_back = make_world(tmp_path / "val", images=6, seed=2).target
    folder = train_with_unlabelled(
        labelled,
        {"rest": rest},
        tmp_path / "semi",
        detector,
        semi,
        RUNTIME,
        validate=validator(held_back, RUNTIME),
    )
    # Epochs count all 42 images: 231 steps, looked at ten times.
    measured = json.loads((folder / "metrics.json").read_text())
    history = measured["validation"]
    assert [row["step"] for row in history] == [*range(24, 231, 24), 231]
    [best] = [row["AP"] for row in history if row["step"] == measured["kept"]]
    assert best == max(row["AP"] for row in history)
    kept = validation_scores(load_detector(folder, "cpu"), held_back, RUNTIME)["AP"]
    assert kept == pytest.approx(best, abs=1e-6)
    # A detector that knows nothing has an AP below 0.01.
    assert validation_scores(load_detector(folder, "cpu"), fresh, RUNTIME)["AP"] > 0.25
    told = json.loads((folder / "pseudo_boxes.json").read_text())
    assert all(row["boxes"] > 50 for row in told.values())
