"""How long a run of align is expected to take, with real networks of the smallest size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from relabel.align import estimate
from relabel.align.estimate import Costs, announcement, expected_seconds, parts
from relabel.align.plan import AlignPlan, prepare
from relabel.align.settings import PipelineSettings
from relabel.catalogue.catalogue import load_catalogue
from relabel.detectors.settings import SpecialistSettings
from relabel.lat.settings import LatSettings
from relabel.settings import Runtime

MakeSet = Callable[..., Path]
COSTS = Costs(step=1.0, maps=0.5, detect=0.1, pool=0.2, lat_step=0.3, lat_image=0.01)


@pytest.fixture
def plan(tmp_path: Path, coco_set: MakeSet) -> Callable[..., AlignPlan]:
    tables = []
    for name, classes, images in (("fine", ["car", "bus"], 6), ("coarse", ["vehicle"], 4)):
        coco_set(name, classes, images, folder=tmp_path)
        tables.append(
            f'[datasets.{name}]\nformat = "coco"\nroot = "{name}"\ntrain = "train.json"\n'
        )
    (tmp_path / "relabel.toml").write_text("".join(tables))

    def make(specialist: SpecialistSettings | None = None) -> AlignPlan:
        given = specialist or SpecialistSettings(backbone="mobilenet_v2", image_size=64, steps=10)
        settings = PipelineSettings(specialist=given, lat=LatSettings(image_size=64, steps=20))
        catalogue = load_catalogue(config=tmp_path / "relabel.toml")
        runtime = Runtime(quiet=True, device="cpu")
        return prepare(catalogue, "fine", ["coarse"], tmp_path / "out", settings, runtime)

    return make


def test_every_stage_has_a_length_made_of_its_steps_and_images(
    plan: Callable[..., AlignPlan], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(estimate, "_measured", lambda plan: COSTS)
    made = plan()
    seconds = expected_seconds(made)
    assert set(seconds) == set(made.stages)
    assert seconds["specialist fine"] == 10 * 1.0 + 6 * 0.5
    assert seconds["specialist fine without fold 1 of 3"] == 10 * 1.0
    assert seconds["labels by coarse on fine"] == pytest.approx(6 * 0.1)
    # The target's specialist and those of its three folds label together.
    assert seconds["labels by fine on coarse"] == pytest.approx(4 * 4 * 0.1)
    more = expected_seconds(made, {"fine": 60, "coarse": 4})
    assert more["labels by coarse on fine"] == pytest.approx(60 * 0.1)
    assert more["LAT"] - seconds["LAT"] == pytest.approx(54 * (0.2 + 0.01))
    told = parts(made, seconds)
    assert list(told) == ["specialists", "labels", "transfer", "report"]
    assert sum(told.values()) == pytest.approx(sum(seconds.values()))


def test_what_is_done_is_not_counted(
    plan: Callable[..., AlignPlan], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(estimate, "_measured", lambda plan: COSTS)
    made = plan()
    whole = parts(made, expected_seconds(made))
    made.status["specialist coarse"] = "done"
    rest = parts(made, expected_seconds(made))
    assert whole["specialists"] - rest["specialists"] == pytest.approx(10 + 4 * 0.5)


@pytest.mark.parametrize("frozen_stride", [4, 32])
def test_real_networks_are_tried(plan: Callable[..., AlignPlan], frozen_stride: int):
    import torch

    small = SpecialistSettings(backbone="mobilenet_v2", image_size=64, steps=10, batch_size=2)
    made = plan(replace(small, frozen_stride=frozen_stride))
    before = torch.get_rng_state()
    assert announcement(made).startswith("about ")
    assert all(seconds > 0 for seconds in made.expected.values())
    assert torch.equal(torch.get_rng_state(), before)
    assert not made.out.exists()


def test_what_was_measured_before_is_not_measured_again(
    plan: Callable[..., AlignPlan], monkeypatch: pytest.MonkeyPatch
):
    def measured(plan: AlignPlan) -> Costs:
        raise AssertionError("measured again")

    monkeypatch.setattr(estimate, "_measured", measured)
    made = plan()
    known = {stage.name: 60.0 for stage in made.to_run()}
    assert announcement(made, known).startswith("about ")
    assert made.expected == known


def test_a_network_that_cannot_be_made_is_left_to_the_stage_that_needs_it(
    plan: Callable[..., AlignPlan],
):
    made = plan(SpecialistSettings(backbone="no_such_backbone"))
    assert announcement(made) == ""
    assert made.expected == {}
