"""The arms made of name maps and pseudo-labels, on worlds small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from relabel.crosslabel.given import GivenLabels
from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.dataset import DetectionDataset, make_boxes
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.errors import ConfigError
from relabel.studies.downstream.labels import (
    LABEL_ARMS,
    guided,
    label_source,
    naive,
    name_map_of,
    normalized,
    overlapped,
    pseudo_labelled,
)
from relabel.studies.downstream.settings import DownstreamSettings
from tests.builders.datasets import dataset_of, images_of

FINE = LabelSpace("fine", (Category(7, "car"), Category(8, "bus"), Category(9, "x", ignore=True)))
Row = tuple[int, str, Sequence[float]]


def dataset(
    name: str,
    space: LabelSpace,
    rows: Sequence[Row],
    ignore: list[bool] | None = None,
    files: tuple[str, ...] = ("a.png", "b.png"),
    size: tuple[int, int] = (100, 50),
) -> DetectionDataset:
    images = images_of(files, size, ids=range(len(files)))
    boxes = make_boxes(
        [r[0] for r in rows],
        [r[2] for r in rows],
        [space.index(r[1]) for r in rows],
        ignore=ignore,
        id=np.arange(len(rows)) + 100,
        extra=[b'{"mask":1}'] * len(rows),
    )
    return dataset_of(name, space, images, boxes)


OLD = LabelSpace.from_names("old", ["vehicle", "bus", "sign"])
SOURCE = dataset(
    "old",
    OLD,
    [
        (0, "vehicle", [0, 0, 10, 10]),
        (0, "bus", [20, 0, 20, 10]),
        (0, "sign", [50, 0, 4, 4]),
        (0, "sign", [60, 0, 30, 30]),  # a crowd of signs
        (1, "vehicle", [0, 0, 20, 20]),
        (1, "vehicle", [40, 0, 10, 10]),  # a crowd of vehicles
    ],
    ignore=[False, False, False, True, False, True],
)
NAMES = {"vehicle": "car", "bus": "bus", "sign": None}


def pseudo(
    rows: list[tuple[int, list[float], list[float]]], covered: list[bool] | None = None
) -> PseudoLabels:
    """Rows are (image, xyxy, scores of car and bus)."""
    return PseudoLabels(
        FINE,
        "fine",
        "old",
        ["a.png", "b.png"],
        np.array([r[0] for r in rows], np.int32),
        np.array([r[1] for r in rows], np.float32).reshape(-1, 4),
        np.array([r[2] for r in rows], np.float32).reshape(-1, 2),
        None if covered is None else np.array(covered),
    )


FOUND = pseudo(
    [
        (0, [0, 0, 10, 9], [0.8, 0.1]),  # IoU 0.9 with the first vehicle
        (0, [20, 0, 40, 8], [0.1, 0.6]),  # IoU 0.8 with the bus
        (0, [70, 0, 80, 10], [0.3, 0.2]),  # unsure
        (0, [70, 30, 80, 40], [0.2, 0.1]),  # next to nothing
        (1, [30, 20, 60, 40], [0.1, 0.9]),  # not annotated by the source
    ]
)


def listed(found: DetectionDataset) -> list[tuple[int, str, list[float], bool]]:
    boxes = found.boxes
    return [
        (int(i), found.space.names[c], [round(float(v), 6) for v in b], bool(g))
        for i, c, b, g in zip(boxes.image, boxes.category, boxes.xywh, boxes.ignore, strict=True)
    ]


def sound(found: DetectionDataset) -> None:
    """What every reader and training relies on."""
    boxes = found.boxes
    assert len(set(boxes.id.tolist())) == len(boxes)
    assert bool(np.all(np.diff(boxes.image) >= 0))
    assert boxes.provenance is not None and len(boxes.provenance.origin) == len(boxes)
    assert bool(np.all(boxes.category[~boxes.ignore] < found.space.num_classes))


def test_naive_keeps_boxes_and_regions() -> None:
    found = naive(SOURCE, FINE, NAMES)
    sound(found)
    assert found.space == FINE and found.name == "old"
    assert listed(found) == [
        (0, "car", [0, 0, 10, 10], False),
        (0, "bus", [20, 0, 20, 10], False),
        (0, "car", [60, 0, 30, 30], True),  # the crowd stays, though signs are dropped
        (1, "car", [0, 0, 20, 20], False),
        (1, "car", [40, 0, 10, 10], True),
    ]
    assert found.boxes.provenance is not None
    assert found.boxes.provenance.source_id.tolist() == [100, 101, 103, 104, 105]
    assert list(found.boxes.provenance.source_category)[2] == "sign"


def test_naive_onto_a_category_to_ignore() -> None:
    found = naive(SOURCE, FINE, {"vehicle": "car", "bus": "x", "sign": None})
    sound(found)
    assert listed(found)[1] == (0, "x", [20, 0, 20, 10], True)
    with pytest.raises(ConfigError, match=r"'fine' has no category 'van'"):
        naive(SOURCE, FINE, {"vehicle": "van"})


def test_normalized_by_hand() -> None:
    """Cars: widths 10, 20 and heights 10, 20; the target's are 40, 90 and 10, 10 of 200 x 200."""
    goal = dataset(
        "fine",
        FINE,
        [(0, "car", [0, 0, 40, 10]), (1, "car", [0, 0, 90, 10]), (1, "bus", [0, 0, 5, 5])],
        size=(200, 200),
    )
    source = dataset(
        "old",
        OLD,
        [
            (0, "vehicle", [20, 20, 10, 10]),
            (0, "bus", [50, 10, 20, 10]),
            (1, "vehicle", [30, 10, 20, 20]),
            (1, "vehicle", [1, 2, 3, 4]),
        ],
        ignore=[False, False, False, True],
    )
    found = normalized(source, goal, NAMES, min_boxes=2)
    sound(found)
    # Two values map onto two values: relative widths 0.1, 0.2 become 0.2, 0.45 of 100. The
    # target's heights have no spread: a shift in the log, from the geometric mean sqrt(0.2 * 0.4)
    # of 10/50 and 20/50 to 10/200.
    shift = 0.05 / np.sqrt(0.08)
    cars = [r for r in listed(found) if r[1] == "car"]
    assert cars[0][2] == pytest.approx([25 - 10, 25 - 5 * shift, 20, 10 * shift], abs=1e-5)
    assert cars[1][2] == pytest.approx([40 - 22.5, 20 - 10 * shift, 45, 20 * shift], abs=1e-5)
    assert cars[2] == (1, "car", [1, 2, 3, 4], True)
    # One bus on either side: all three boxes of both stand in.
    bus = next(r for r in listed(found) if r[1] == "bus")
    mine, theirs = np.log([0.1, 0.2, 0.2]), np.log([0.2, 0.45, 0.025])
    width = 100 * np.exp(theirs.mean() + (np.log(0.2) - mine.mean()) * theirs.std() / mine.std())
    assert bus[2][2] == pytest.approx(width, abs=1e-5)
    assert bus[2][0] + bus[2][2] / 2 == pytest.approx(60, abs=1e-5)
    real = ~found.boxes.ignore
    assert found.boxes.area[real] == pytest.approx(found.boxes.xywh[real, 2:].prod(axis=1))
    assert found.boxes.extra is None


def test_normalized_with_too_few_boxes_leaves_them() -> None:
    goal = dataset("fine", FINE, [(0, "car", [0, 0, 40, 10])])
    assert listed(normalized(SOURCE, goal, NAMES, 2)) == listed(naive(SOURCE, FINE, NAMES))
    few = dataset("fine", FINE, [(0, "car", [0, 0, 40, 10]), (0, "bus", [0, 0, 9, 9])])
    assert listed(normalized(SOURCE, few, NAMES, 20)) == listed(naive(SOURCE, FINE, NAMES))
    empty = dataset("old", OLD, [])
    assert len(normalized(empty, goal, NAMES, 2).boxes) == 0


def test_normalized_is_clipped_and_recovers_a_known_style() -> None:
    rng = np.random.default_rng(0)
    # Centres over the whole image, sizes log-normal; the other protocol's boxes are a power.
    centre = rng.uniform([0.3, 0.3], [0.7, 0.7], (200, 2)) * [1000, 1000]
    true = np.exp(rng.normal([-3.0, -3.5], [0.3, 0.2], (200, 2)))
    loose = true**1.2 * 2.0
    rows = [
        (0, "vehicle", [*(c - s * 500), *(s * 1000)]) for c, s in zip(centre, loose, strict=True)
    ]
    goal = [(0, "car", [*(c - s * 500), *(s * 1000)]) for c, s in zip(centre, true, strict=True)]
    found = normalized(
        dataset("old", OLD, rows, size=(1000, 1000)),
        dataset("fine", FINE, goal, size=(1000, 1000)),
        NAMES,
    )
    assert found.boxes.xywh == pytest.approx(np.array([r[2] for r in goal]), abs=1e-6)
    # At the image's edge.
    big = [(0, "car", [0, 0, 80, 40]), (0, "car", [0, 0, 99, 49])]
    edge = [(0, "vehicle", [0, 0, 4, 4]), (0, "vehicle", [94, 44, 6, 6])]
    clipped = normalized(dataset("old", OLD, edge), dataset("fine", FINE, big), NAMES, 2)
    assert listed(clipped)[0][2] == pytest.approx([0, 0, 2 + 40, 2 + 20], abs=1e-5)
    assert listed(clipped)[1][2] == pytest.approx(
        [97 - 49.5, 47 - 24.5, 3 + 49.5, 3 + 24.5], abs=1e-5
    )


def test_normalized_counts_real_boxes_of_images_of_every_size() -> None:
    """The source's images are 100 x 50 and 400 x 400; a region of the target says nothing."""
    goal = dataset(
        "fine",
        FINE,
        [(0, "car", [0, 0, 20, 10]), (0, "car", [0, 0, 20, 10]), (1, "car", [0, 0, 90, 45])],
        ignore=[False, False, True],
    )
    rows: list[Row] = [
        (0, "vehicle", [10, 10, 10, 10]),
        (0, "vehicle", [98, 10, 10, 10]),
        (1, "vehicle", [100, 100, 40, 80]),
    ]
    source = dataset("old", OLD, rows)
    images = replace(
        source.images, width=np.array([100, 400], np.int32), height=np.array([50, 400], np.int32)
    )
    found = normalized(replace(source, images=images), goal, NAMES, 2)
    # All are a tenth of the width and a fifth of the height, and become a fifth of both. The
    # second's centre lies outside its image, and so does the whole of a narrower box there.
    assert [r[2] for r in listed(found)] == [
        pytest.approx([5, 10, 20, 10]),
        pytest.approx([93, 10, 7, 10]),
        pytest.approx([80, 100, 80, 80]),
    ]
    narrow = dataset("fine", FINE, [(0, "car", [0, 0, 2, 10])] * 2)
    found = normalized(replace(source, images=images), narrow, NAMES, 2)
    assert [r[2] for r in listed(found)] == [
        pytest.approx([14, 10, 2, 10]),
        pytest.approx([116, 100, 8, 80]),
    ]


def test_a_label_at_the_threshold_is_sure() -> None:
    labels = pseudo([(0, [0, 0, 10, 10], [0.5, 0.0]), (0, [20, 0, 30, 10], [0.499, 0.0])])
    found = pseudo_labelled(dataset("old", OLD, []), labels, 0.5, ignore_band=0.5)
    assert [r[3] for r in listed(found)] == [False, True]


def test_pseudo() -> None:
    found = pseudo_labelled(SOURCE, FOUND, 0.5)
    sound(found)
    assert listed(found) == [
        (0, "car", [0, 0, 10, 9], False),
        (0, "bus", [20, 0, 20, 8], False),
        (0, "car", [60, 0, 30, 30], True),
        (1, "bus", [30, 20, 30, 20], False),
        (1, "car", [40, 0, 10, 10], True),
    ]
    soft = pseudo_labelled(SOURCE, FOUND, 0.5, ignore_band=0.5)
    sound(soft)
    assert [r for r in listed(soft) if r not in listed(found)] == [
        (0, "car", [70, 0, 10, 10], True)
    ]
    assert soft.boxes.provenance is not None
    assert list(soft.boxes.provenance.origin) == [
        "pseudo:fine",
        "pseudo:fine",
        "uncertain",
        "source",
        "pseudo:fine",
        "source",
    ]


def test_images_without_pseudo_labels_are_left_out() -> None:
    part = replace(FOUND, covered=np.array([False, True])).take(FOUND.image == 1)
    for found in (pseudo_labelled(SOURCE, part), overlapped(SOURCE, part)):
        assert list(found.images.file_name) == ["b.png"]
        assert [r[0] for r in listed(found)].count(0) == len(found.boxes)


def test_overlap() -> None:
    found = overlapped(SOURCE, FOUND, 0.5, 0.5)
    sound(found)
    assert listed(found) == [
        (0, "car", [0, 0, 10, 10], False),
        (0, "bus", [20, 0, 20, 10], False),
        (0, "car", [60, 0, 30, 30], True),
        (1, "car", [40, 0, 10, 10], True),
    ]
    kept = overlapped(SOURCE, FOUND, 0.5, 0.85, unmatched_ignored=True)
    sound(kept)
    assert [(r[0], r[2], r[3]) for r in listed(kept) if r[3]] == [
        (0, [20, 0, 20, 10], True),  # IoU 0.8 no longer counts
        (0, [50, 0, 4, 4], True),
        (0, [60, 0, 30, 30], True),
        (1, [0, 0, 20, 20], True),
        (1, [40, 0, 10, 10], True),
    ]


def test_name_map_from_names_and_data() -> None:
    settings = DownstreamSettings()
    assert name_map_of(SOURCE, FOUND, None, settings) == {
        "vehicle": "car",  # by data
        "bus": "bus",  # by name
        "sign": None,
    }
    # The one vehicle that is overlapped is a bus: most, but of 100 boxes fewer than one in 20.
    rows: list[Row] = [(0, "vehicle", [0, 0, 10, 10])] * 4
    rows += [(1, "vehicle", [50, 30, 4, 4])] * 96
    bus = pseudo([(0, [0, 0, 10, 9], [0.1, 0.8])])
    assert name_map_of(dataset("old", OLD, rows), bus, None, settings)["vehicle"] is None
    rows[4] = rows[0]
    assert name_map_of(dataset("old", OLD, rows), bus, None, settings)["vehicle"] == "bus"


def test_name_map_of_a_person() -> None:
    settings = DownstreamSettings()
    given = {"Vehicle": "BUS", "sign": None, "bus": "car"}
    assert name_map_of(SOURCE, FOUND, given, settings) == {
        "vehicle": "bus",
        "bus": "car",
        "sign": None,
    }
    with pytest.raises(ConfigError, match=r"map of 'old' does not name 'sign'"):
        name_map_of(SOURCE, FOUND, {"vehicle": "car", "bus": "bus"}, settings)
    with pytest.raises(ConfigError, match=r"'old' has no category 'vehicel'.*'vehicle'"):
        name_map_of(SOURCE, FOUND, {"vehicel": "car"}, settings)
    with pytest.raises(ConfigError, match=r"'fine' has no category 'cra'.*'car'"):
        name_map_of(SOURCE, FOUND, {"vehicle": "cra"}, settings)


def test_a_name_map_needs_classes_with_boxes_only_and_prefers_a_name_to_an_alias() -> None:
    settings = DownstreamSettings()
    space = LabelSpace(
        "old",
        (Category(1, "vehicle", aliases=("auto",)), Category(2, "bus"), Category(3, "sign")),
    )
    rows: list[Row] = [(0, "vehicle", [0, 0, 10, 10]), (0, "sign", [60, 0, 30, 30])]
    source = dataset("old", space, rows, ignore=[False, True])
    # No box is a bus, and the only sign is a region.
    assert name_map_of(source, FOUND, {"vehicle": "car"}, settings) == {"vehicle": "car"}
    for given in ({"vehicle": "car", "auto": "bus"}, {"auto": "bus", "vehicle": "car"}):
        assert name_map_of(source, FOUND, given, settings) == {"vehicle": "car"}


def test_without_uncertain_labels_unmatched_boxes_are_background() -> None:
    goal = dataset("fine", FINE, [])
    plain = DownstreamSettings(ignore_band=0.0)
    found = label_source("overlap", SOURCE, goal, FOUND, NAMES, plain)
    assert listed(found) == listed(overlapped(SOURCE, FOUND, 0.5, 0.5))


def test_pseudo_labels_without_a_source_box_are_background() -> None:
    found = pseudo_labelled(SOURCE, FOUND, 0.5, 0.5, supported_by=0.85)
    sound(found)
    # The bus has IoU 0.8 only; what is unsure has no box, and a crowd supports nothing.
    assert listed(found) == [
        (0, "car", [0, 0, 10, 9], False),
        (0, "car", [60, 0, 30, 30], True),
        (1, "car", [40, 0, 10, 10], True),
    ]


def given(scores: list[list[float]], covered: list[bool] | None = None) -> GivenLabels:
    """The head of ``fine`` on the four boxes of SOURCE, which it makes one pixel narrower."""
    real = SOURCE.boxes.take(~SOURCE.boxes.ignore)
    return GivenLabels(
        FINE,
        "fine",
        "old",
        ["a.png", "b.png"],
        real.image,
        (real.xyxy - [0, 0, 1, 0]).astype(np.float32),
        np.array(scores, np.float32),
        None if covered is None else np.array(covered),
        annotation=real.id,
    )


def test_guided() -> None:
    scores = [[0.8, 0.1], [0.0, 0.3], [0.1, 0.0], [0.2, 0.7]]
    hard = guided(SOURCE, given(scores), 0.5)
    sound(hard)
    assert listed(hard) == [
        (0, "car", [0, 0, 9, 10], False),
        (0, "car", [60, 0, 30, 30], True),
        (1, "bus", [0, 0, 19, 20], False),
        (1, "car", [40, 0, 10, 10], True),
    ]
    soft = guided(SOURCE, given(scores), 0.5, ignore_band=0.5)
    sound(soft)
    assert [r for r in listed(soft) if r not in listed(hard)] == [(0, "bus", [20, 0, 19, 10], True)]
    assert soft.boxes.provenance is not None
    assert list(soft.boxes.provenance.origin) == ["source", "uncertain", *["source"] * 3]
    part = guided(SOURCE, given(scores, [False, True]), 0.5)
    assert list(part.images.file_name) == ["b.png"]
    # Nothing of the target's at all: the regions are what is left.
    assert all(row[3] for row in listed(guided(SOURCE, given([[0.0, 0.0]] * 4), 0.5)))


def test_every_arm_by_name() -> None:
    settings = DownstreamSettings(ignore_band=0.5, normalize_min_boxes=2)
    goal = dataset("fine", FINE, [(0, "car", [0, 0, 40, 10])] * 3)
    expected = {
        "naive": naive(SOURCE, FINE, NAMES),
        "normalized": normalized(SOURCE, goal, NAMES, 2),
        "pseudo": pseudo_labelled(SOURCE, FOUND, 0.5, 0.5),
        "pseudo-supported": pseudo_labelled(SOURCE, FOUND, 0.5, 0.5, supported_by=0.5),
        "overlap": overlapped(SOURCE, FOUND, 0.5, 0.5, unmatched_ignored=True),
    }
    made = {arm: label_source(arm, SOURCE, goal, FOUND, NAMES, settings) for arm in LABEL_ARMS}
    assert {a: listed(d) for a, d in made.items()} == {a: listed(d) for a, d in expected.items()}
    assert len({str(listed(d)) for d in made.values()}) == 5
    with pytest.raises(ConfigError, match=r"arm 'lat'"):
        label_source("lat", SOURCE, goal, FOUND, NAMES, settings)
