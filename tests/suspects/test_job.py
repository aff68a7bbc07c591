"""A check that trains: specialists learn the blocks, and find what is wrong with their labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relabel.crosslabel.settings import CrossLabelSettings
from relabel.datasets.dataset import DetectionDataset
from relabel.errors import DataError
from relabel.settings import Runtime
from relabel.suspects.job import CheckJob, folds_to_check
from relabel.suspects.settings import CheckPipeline, CheckSettings
from tests.builders.blocks import make_world
from tests.builders.datasets import dataset_of
from tests.builders.detectors import tiny_detector

RUNTIME = Runtime(device="cpu", workers=0, quiet=True)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return make_world(tmp_path_factory.mktemp("world"), images=24).target


def settings(folder: Path, steps: int, **check: object) -> CheckPipeline:
    given = {"folds": 2, "fold_stretches": 1, "fold_gap": 0, "pictures": 2, **check}
    return CheckPipeline(
        check=CheckSettings(**given),
        specialist=tiny_detector(folder, steps=steps, batch_size=4),
        crosslabel=CrossLabelSettings(shard_images=6),
    )


def test_errors_in_labels_are_found_by_what_was_learned(
    blocks: DetectionDataset, tmp_path: Path
) -> None:
    """Three blocks of the other colour, three doubled ones and three taken out, of about sixty."""
    boxes = blocks.boxes
    rows = np.random.default_rng(1).permutation(len(boxes))
    swapped, gone, doubled = rows[:3], rows[3:6], rows[6:9]
    category = boxes.category.copy()
    category[swapped] = 1 - category[swapped]
    wrong = replace(boxes, category=category)
    kept = np.sort(np.concatenate([np.setdiff1d(np.arange(len(boxes)), gone), doubled]))
    doubles = wrong.take(kept)
    ids = doubles.id.copy()
    second = np.flatnonzero(ids[1:] == ids[:-1]) + 1
    twins = set(ids[second].tolist())
    ids[second] = ids[second] + 1000
    data = blocks.with_boxes(replace(doubles, id=ids))

    job = CheckJob(data, tmp_path / "out", settings(tmp_path / "net", 400), RUNTIME)
    ran = job.run().ran
    assert len(ran) == 4  # two specialists, what they predict, the result
    found = json.loads((tmp_path / "out/suspects.json").read_text())
    of_kind: dict[str, set[int | None]] = {}
    for suspect in found["suspects"][:15]:
        of_kind.setdefault(suspect["kind"], set()).add(suspect["annotation_id"])
    assert len(of_kind["wrong class"] & set(boxes.id[swapped].tolist())) >= 2
    flagged = of_kind["duplicate"]
    assert sum(i in flagged or i + 1000 in flagged for i in twins) == 3
    missing = [s for s in found["suspects"] if s["kind"] == "missing box"]
    places = {
        (data.images.file_name[int(boxes.image[row])], float(boxes.xywh[row, 0]))
        for row in gone.tolist()
    }
    near = [
        s
        for s in missing
        if any(s["file_name"] == n and abs(s["proposed_bbox"][0] - x) < 6 for n, x in places)
    ]
    assert near
    assert job.read_predictions()[1] is not None  # the box heads were asked, too


def test_a_check_is_resumed_and_not_done_again(blocks: DetectionDataset, tmp_path: Path) -> None:
    few = settings(tmp_path / "net", 2)

    def job() -> CheckJob:
        return CheckJob(blocks, tmp_path / "out", few, RUNTIME)

    job().run()
    whole = (tmp_path / "out/suspects.json").read_bytes()
    assert job().run().ran == ()
    (tmp_path / "out/suspects.json").unlink()
    (tmp_path / "out/predictions/fold1/shard-00001-of-00002.parquet").unlink()
    ran = job().run().ran
    assert ran == ("predictions on what each has not seen", f"suspects of {blocks.name}")
    assert (tmp_path / "out/suspects.json").read_bytes() == whole


def test_other_pictures_ask_for_no_other_training(blocks: DetectionDataset, tmp_path: Path) -> None:
    few = settings(tmp_path / "net", 2)
    CheckJob(blocks, tmp_path / "out", few, RUNTIME).run()
    fewer = replace(few, check=replace(few.check, pictures=1))
    again = CheckJob(blocks, tmp_path / "out", fewer, RUNTIME)
    assert again.run(overwrite=True).ran == (f"suspects of {blocks.name}",)


def test_a_detector_without_a_box_head_is_asked_for_its_predictions_alone(
    blocks: DetectionDataset, tmp_path: Path
) -> None:
    few = settings(tmp_path / "net", 2)
    few = replace(few, specialist=tiny_detector(tmp_path / "net", "rt-detr", steps=2, batch_size=2))
    job = CheckJob(blocks, tmp_path / "out", few, RUNTIME)
    job.run()
    predictions, heads = job.read_predictions()
    assert heads is None and predictions.coverage.all()
    assert json.loads((tmp_path / "out/suspects.json").read_text())["annotations"] == len(
        blocks.boxes
    )


def test_every_image_is_predicted_by_a_specialist_that_has_not_seen_it(
    blocks: DetectionDataset, tmp_path: Path
) -> None:
    given = settings(tmp_path, 1, folds=3)
    made = folds_to_check(blocks, given)
    held = np.concatenate([fold.held_out for fold in made])
    assert sorted(held.tolist()) == list(range(len(blocks)))
    assert not any(set(fold.held_out.tolist()) & set(fold.rest.tolist()) for fold in made)


def test_folds_without_anything_to_learn_from_are_refused(tmp_path: Path) -> None:
    data = dataset_of("one", ["car"], ["a.jpg", "b.jpg", "c.jpg"], [(0, [1, 1, 9, 9], 0)])
    given = settings(tmp_path, 1)
    with pytest.raises(DataError, match="outside of fold 1 of 2 have no boxes to learn from"):
        folds_to_check(data, given)
