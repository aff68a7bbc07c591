"""Which classes lie on the same objects, counted; and what share of a batch the target has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from relabel.datasets.labelspace import Category, JointLabelSpace, LabelSpace
from relabel.lat.association import association, cooccurrence, named
from relabel.lat.bank import ProposalBank
from relabel.lat.proposals import image_proposals
from relabel.lat.settings import LatSettings
from relabel.lat.train import LatBatches
from tests.builders.blocks import World, make_world

NEW, OLD = ["car", "bus", "truck"], ["car", "coach"]
JOINT = JointLabelSpace((LabelSpace.from_names("new", NEW), LabelSpace.from_names("old", OLD)))


def test_a_rare_class_is_recognised_by_its_company() -> None:
    """Nine of ten buses lie under `coach`, which hardly ever lies on anything else."""
    counts = np.zeros((5, 5))
    counts[3, :3] = [900, 1, 60]  # what `old/car` lies on
    counts[4, :3] = [1, 9, 1]  # what `old/coach` lies on
    table = association(counts, JOINT)
    assert table.shape == (5, 5) and table.dtype == np.float32
    assert table[4, 1] > 2 and table[4, 1] == table[:, 1].max()
    assert table[4, 0] < -0.9 and abs(table[3, 0]) < 0.1
    # By hand: P(bus) = 10.5 / 973.5; given `coach` (9 + 5 P) / (11 + 5). No name has its word.
    share = 10.5 / 973.5
    assert table[4, 1] == pytest.approx(np.log((9 + 5 * share) / 16 / share), abs=1e-6)
    # Nothing is known of what the target's classes lie on: no word for or against anything.
    assert np.allclose(table[:3, :3], 0) and np.allclose(table[1:, 3:], 0)


def test_names_speak_where_nothing_was_counted_and_yield_to_counts() -> None:
    spaces = (
        LabelSpace.from_names("new", ["car", "bus-s", "bus-l", "truck"]),
        LabelSpace.from_names("old", ["Small_Bus", "big bus", "big truck", "van"]),
    )
    joint = JointLabelSpace(spaces)
    by_name = named(joint)
    assert by_name[4, :4].tolist() == [0, 0.5, 0.5, 0]
    assert by_name[6, :4].tolist() == [0, 0, 0, 1]
    assert not by_name[7].any() and not by_name[:4, :4].any() and not by_name[4:, 4:].any()
    counts = np.zeros((8, 8))
    counts[:4, :4] = np.diag([900, 20, 40, 300])
    counts[5, :4] = [2, 0, 40, 4]
    table = association(counts, joint)
    # Nothing was seen of small buses: buses, small or large; large ones were counted.
    assert table[4, 1] > 1.5 and table[4, 2] > 1.5 and table[4, [0, 3]].max() < 0
    assert table[5].argmax() == 2 and table[5, 2] > table[5, 1] + 1
    assert np.allclose(table[7], 0)


def test_names_without_a_common_word_are_fine() -> None:
    spaces = (LabelSpace.from_names("new", ["car"]), LabelSpace.from_names("old", ["vehicle"]))
    assert not named(JointLabelSpace(spaces)).any()


def test_ignore_categories_are_no_classes() -> None:
    new = LabelSpace("new", (Category(1, "car"), Category(2, "car group", ignore=True)))
    joint = JointLabelSpace((new, LabelSpace.from_names("old", ["van", "big car"])))
    assert named(joint).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_a_word_that_every_class_has_says_nothing() -> None:
    spaces = (
        LabelSpace.from_names("new", ["car", "vehicle"]),
        LabelSpace.from_names("old", ["vehicle.car", "vehicle.bus.rigid"]),
    )
    by_name = named(JointLabelSpace(spaces))
    assert by_name[2].tolist() == [1, 0, 0, 0]
    assert by_name[3].tolist() == [0, 0, 0, 0]
    # From the other side: `vehicle` may be any of the two, so it says nothing either.
    assert by_name[1].tolist() == [0, 0, 0, 0]


def _banks(world: World, settings: LatSettings) -> tuple[list[ProposalBank], JointLabelSpace]:
    joint = JointLabelSpace((world.target.space, world.source.space))
    banks = []
    for position, dataset in enumerate((world.target, world.source)):
        labels = {by: pl for (by, on), pl in world.labels.items() if on == dataset.name}
        rows = np.arange(len(dataset))
        found = [image_proposals(dataset, int(r), joint, labels, settings) for r in rows]
        none = np.zeros((0, 4), np.float16)
        start = np.zeros(1, np.int64)
        banks.append(ProposalBank(dataset, position, rows, found, none, start))
    return banks, joint


def test_pseudo_labels_are_counted_where_they_lie_on_annotations(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=24)
    banks, joint = _banks(world, LatSettings(min_score=0.0))
    counts = cooccurrence(banks, joint)
    objects = np.bincount(world.target.boxes.category, minlength=2)
    # Out-of-fold labels of the target's own classes: five in six are of the right class.
    assert counts[0, 0] > 2 * counts[0, 1] and counts[1, 1] > 2 * counts[1, 0]
    # Every annotation is counted once per label space at most, by the score of the label.
    assert (counts[:2, :2].sum(axis=0) <= objects).all()
    assert (counts[2, :2] <= objects).all() and (counts[2, :2] > 0).all()
    # The source's own annotations under the target's classes; its specialist labels no own image.
    assert counts[2, 2] == 0 and (counts[:2, 2] > 0).all()


def _drawn(target: int, other: int, share: float, batch: int, steps: int) -> np.ndarray:
    def bank(images: int) -> ProposalBank:
        return cast(ProposalBank, SimpleNamespace(image_rows=np.arange(images)))

    settings = LatSettings(target_share=share, batch_size=batch)
    batches = LatBatches([bank(target), bank(other)], JOINT, settings)
    assert len(batches) == target + other
    return np.array([batches.rows(step) for step in range(steps)])


def test_half_of_each_batch_is_the_targets() -> None:
    drawn = _drawn(target=10, other=90, share=0.5, batch=8, steps=45)
    assert drawn.shape == (45, 8)
    assert ((drawn < 10).sum(axis=1) == 4).all()
    # Both take turns: 18 passes over the target, two over the others, nothing more often.
    assert set(np.bincount(drawn.ravel())[:10]) == {18}
    assert set(np.bincount(drawn.ravel())[10:]) == {2}


def test_shares_that_are_no_whole_images_add_up() -> None:
    drawn = _drawn(target=10, other=90, share=0.3, batch=1, steps=100)
    assert (drawn < 10).sum() == 30


@pytest.mark.parametrize(("target", "other", "share"), [(10, 30, 0.0), (10, 0, 0.5), (0, 10, 0.5)])
def test_without_a_share_all_images_are_drawn_alike(target: int, other: int, share: float) -> None:
    drawn = _drawn(target, other, share, batch=5, steps=8)
    assert set(np.bincount(drawn.ravel(), minlength=target + other)) == {40 // (target + other)}


def test_the_targets_images_alone() -> None:
    assert _drawn(target=4, other=9, share=1.0, batch=2, steps=6).max() < 4


def test_batches_are_made_of_those_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = LatSettings(min_score=0.0, target_share=0.5, batch_size=8)
    banks, joint = _banks(make_world(tmp_path, images=24), settings)
    batches = LatBatches(banks, joint, settings)
    monkeypatch.setattr("relabel.lat.train.collate", lambda items, joint: items)
    for step in range(6):
        items = cast(list, batches(step))
        drawn = [bank.position * 24 + image for bank, image, *_ in items]
        assert drawn == batches.rows(step).tolist()
        assert sum(bank.position == 0 for bank, *_ in items) == 4
