"""Measures of pseudo-labels against direct loops, SciPy and numbers worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.labelspace import LabelSpace
from relabel.errors import DataError
from relabel.evaluation.detections import evaluate_detections
from relabel.evaluation.joined_labels import join_labels
from relabel.evaluation.pseudo_labels import (
    IOUS,
    PseudoLabelMetrics,
    measure_pseudo_labels,
    reliability,
    spearman,
)
from relabel.geometry import iou_matrix

CLASSES = ["car", "bus", "tram"]


def coco(annotations: Sequence[dict[str, Any]], images: int = 2, classes=CLASSES) -> dict:
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(1, images + 1)],
        "categories": [{"id": c, "name": name} for c, name in enumerate(classes, 1)],
        "annotations": [{"id": i, **row} for i, row in enumerate(annotations, 1)],
    }


def true(box: Sequence[float], category: int = 1, image: int = 1, crowd: int = 0) -> dict:
    return {"image_id": image, "category_id": category, "bbox": list(box), "iscrowd": crowd}


def label(
    box: Sequence[float], p: float, v: float | None = None, category: int = 1, image: int = 1
) -> dict:
    row = {"image_id": image, "category_id": category, "bbox": list(box), "score": p}
    return row if v is None else {**row, "quality": v}


def measured(truth: Sequence[dict], labels: Sequence[dict], **how: Any) -> PseudoLabelMetrics:
    return measure_pseudo_labels(join_labels(coco(truth), coco(labels)), **how)


def scipys(a: Any, b: Any) -> float:
    result: Any = spearmanr(a, b)
    return result.statistic


def test_rates_worked_out_by_hand() -> None:
    truth = [true([0, 0, 10, 10]), true([50, 0, 10, 10]), true([0, 50, 10, 10], 2)]
    labels = [
        label([0, 0, 10, 8], 0.9),  # IoU 0.8
        label([0, 0, 10, 10], 0.8),  # exact, but a surer label has the object up to IoU 0.8
        label([50, 0, 10, 6], 0.7),  # IoU 0.6
        label([0, 50, 10, 10], 0.6, category=1),  # of another class
        label([0, 50, 10, 10], 0.3, category=2),
    ]
    found = measured(truth, labels, thresholds=(0.0, 0.65))
    every, sure = found.rates
    assert (every.labels, sure.labels) == (5, 3)
    at = {iou: k for k, iou in enumerate(IOUS)}
    assert every.precision[at[0.5]] == pytest.approx(3 / 5)
    assert every.recall[at[0.5]] == 1.0
    assert every.f1[at[0.5]] == pytest.approx(2 * 3 / (5 + 3))
    assert sure.precision[at[0.6]] == pytest.approx(2 / 3)
    assert sure.precision[at[0.65]] == pytest.approx(1 / 3)
    # Above 0.8 the second label has the object, and the first is the wrong one.
    assert sure.precision[at[0.85]] == pytest.approx(1 / 3)
    assert sure.recall[at[0.95]] == pytest.approx(1 / 3)
    assert sure.means()[1] == pytest.approx((3 * 2 / 3 + 7 * 1 / 3) / 10)
    assert found.per_class["bus"]["precision"] == found.per_class["bus"]["recall"] == 1.0
    assert found.per_class["tram"]["recall"] is None


def test_labels_in_an_ignore_region_count_neither_way() -> None:
    truth = [true([0, 0, 10, 10]), true([50, 0, 50, 50], crowd=1)]
    inside, outside = label([60, 10, 10, 10], 0.9), label([200, 0, 10, 10], 0.8)
    other = label([60, 10, 10, 10], 0.7, category=2)  # the region is one of cars
    found = measured(truth, [inside, outside, other, label([0, 0, 10, 10], 0.6)])
    assert found.counts["labels_ignored"] == 1
    assert found.rates[0].precision[0] == pytest.approx(1 / 3)
    assert found.correlation["all"]["labels"] == 3
    assert found.correlation["overlap"]["labels"] == 1
    assert found.reliability.count.sum() == 3


def test_the_rank_correlation_is_scipys_with_the_true_iou() -> None:
    rng = np.random.default_rng(0)
    truth, labels, expected = [], [], []
    for k in range(30):
        truth.append(true([100 * k, 0, 40, 40], category=1 + k % 3, image=1 + k % 2))
        height = int(rng.integers(10, 40))
        p, v = round(float(rng.random()), 2), round(float(rng.random()), 2)
        row = label([100 * k, 0, 40, height], p, v, category=1 + k % 3, image=1 + k % 2)
        labels.append(row)
        expected.append((p, v, height / 40))
    labels += [label([0, 500 + 20 * k, 9, 9], 0.01 * k, 0.5) for k in range(10)]
    p, v, iou = np.array(expected).T
    found = measured(truth, labels).correlation
    values = {"score": p, "quality": v, "product": p * v, "geometric": np.sqrt(p * v)}
    for ranking, sure in values.items():
        assert found["overlap"][ranking] == pytest.approx(scipys(sure, iou))
    every = np.concatenate([p, 0.01 * np.arange(10)])
    rho = scipys(every, np.concatenate([iou, np.zeros(10)]))
    assert found["all"]["score"] == pytest.approx(rho)
    assert (found["all"]["labels"], found["overlap"]["labels"]) == (40, 30)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20))
def test_spearman_is_scipys_with_ties_or_nothing(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(column, float) for column in zip(*pairs, strict=True)) if pairs else ([], [])
    found = spearman(np.asarray(a), np.asarray(b))
    if len(set(a)) < 2 or len(set(b)) < 2:
        assert found is None
    else:
        assert found == pytest.approx(scipys(a, b))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=30))
def test_reliability_is_that_of_a_loop_over_bins(labels: list[tuple[float, bool]]) -> None:
    claimed, seen = (np.array([x[k] for x in labels]) for k in (0, 1))
    found = reliability(claimed, seen)
    error = 0.0
    for k in range(10):
        inside = [(c, s) for c, s in labels if k == min(int(c * 10), 9)]
        assert found.count[k] == len(inside)
        if inside:
            means = np.mean([c for c, _ in inside]), np.mean([s for _, s in inside])
            assert (found.claimed[k], found.seen[k]) == pytest.approx(means)
            error += len(inside) / len(labels) * abs(means[0] - means[1])
    assert found.error == (pytest.approx(error) if labels else None)
    json.dumps(found.to_dict(), allow_nan=False)


BOX = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 12)] * 2).map(list)
SHARE = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.75, 1.0])
TRUE = st.builds(true, BOX, st.integers(1, 3), st.integers(1, 2), st.sampled_from([0, 0, 0, 1]))
LABEL = st.builds(label, BOX, SHARE, SHARE, st.integers(1, 3), st.integers(1, 2))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(TRUE, max_size=8),
    st.lists(LABEL, max_size=10),
    st.sampled_from(["score", "quality", "product", "geometric"]),
    SHARE,
)
def test_agrees_with_a_loop_over_labels(
    truth: list[dict], labels: list[dict], on: Any, threshold: float
) -> None:
    found = measured(truth, labels, on=on, thresholds=(threshold,), rare=2)
    objects = [t for t in truth if not t["iscrowd"]]
    regions = [t for t in truth if t["iscrowd"]]

    def corners(row: dict) -> np.ndarray:
        x, y, w, h = row["bbox"]
        return np.array([[x, y, x + w, y + h]], float)

    def same(a: dict, b: dict) -> bool:
        return (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])

    def sure(row: dict) -> float:
        p, v = row["score"], row["quality"]
        return {"score": p, "quality": v, "product": p * v, "geometric": (p * v) ** 0.5}[on]

    def aside(row: dict) -> bool:
        a = corners(row)[0]
        for region in regions:
            b = corners(region)[0]
            w, h = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
            area = (a[2] - a[0]) * (a[3] - a[1])
            if same(row, region) and w > 0 and h > 0 and w * h / area >= 0.5:
                return True
        return False

    have_v = bool(labels)
    for t, least in enumerate(IOUS):
        pairs = [
            (-(sure(a) if have_v else a["score"]), -iou_matrix(corners(a), corners(b))[0, 0], i, j)
            for i, a in enumerate(labels)
            for j, b in enumerate(objects)
            if same(a, b) and iou_matrix(corners(a), corners(b))[0, 0] >= least
        ]
        taken: dict[int, int] = {}
        # Labels stand by image in the table, in the order of the file within one.
        for _, _, i, j in sorted(pairs, key=lambda p: (p[0], p[1])):
            if i not in taken and j not in taken.values():
                taken[i] = j
        kept = [i for i, a in enumerate(labels) if sure(a) >= threshold]
        hits = sum(i in taken for i in kept)
        wrong = sum(i not in taken and not aside(labels[i]) for i in kept)
        # With ties the same number of labels is matched, if not the same ones.
        if len({sure(a) for a in labels}) == len(labels):
            (rates,) = found.rates
            assert rates.precision[t] == (
                pytest.approx(hits / (hits + wrong)) if hits + wrong else None
            )
            assert rates.recall[t] == (pytest.approx(hits / len(objects)) if objects else None)
    assert found.counts["truth"] == len(objects)
    counts = [sum(t["category_id"] == c for t in objects) for c in (1, 2, 3)]
    rare = sorted((n, c) for c, n in enumerate(counts) if n)[:2]
    assert list(found.rare) == [CLASSES[c] for _, c in rare]
    json.dumps(found.to_dict(), allow_nan=False)


def test_ap_by_each_ranking_is_cocos() -> None:
    rng = np.random.default_rng(1)
    truth, labels = [], []
    for k in range(60):
        where = [int(x) for x in rng.integers(0, 100, 2)]
        truth.append(true([*where, 30, 30], category=1 + int(rng.integers(3)), image=1 + k % 2))
        moved = [w + int(s) for w, s in zip(where, rng.integers(-6, 7, 2), strict=True)]
        p, v = (float(x) for x in rng.random(2))
        labels.append(label([*moved, 30, 30], p, v, truth[-1]["category_id"], 1 + k % 2))
    found = measured(truth, labels, rare=1)
    for ranking, average in found.average.items():
        scored = []
        for row in labels:
            p, v = row["score"], row["quality"]
            value = {"score": p, "quality": v, "product": p * v, "geometric": (p * v) ** 0.5}
            scored.append({**row, "score": value[ranking]})
        expected = evaluate_detections(coco(truth), coco(scored))
        for name, value in average.to_dict().items():
            assert value == pytest.approx(getattr(expected, name)), name
        assert found.rare_ap(ranking) == pytest.approx(expected.per_class[found.rare[0]])


def test_labels_without_quality_have_p_alone() -> None:
    found = measured([true([0, 0, 9, 9])], [label([0, 0, 9, 9], 0.5)], on="quality")
    assert list(found.average) == ["score"]
    assert found.localisation is None and found.on == "score"
    assert set(found.correlation["all"]) == {"labels", "score"}


@pytest.mark.parametrize(
    ("truth", "labels"),
    [([], []), ([true([0, 0, 9, 9])], []), ([], [label([0, 0, 9, 9], 0.5, 0.5)])],
)
def test_nothing_to_measure_is_none_and_never_nan(truth: list[dict], labels: list[dict]) -> None:
    content = measured(truth, labels).to_dict()
    json.dumps(content, allow_nan=False)
    assert content["spearman"]["all"]["score"] is None
    if not truth:
        assert content["AP"]["score"]["AP"] is None and content["rare_classes"] == []


def pseudo(names: Sequence[str], covered: Sequence[bool], image: Sequence[int]) -> PseudoLabels:
    n = len(image)
    return PseudoLabels(
        LabelSpace.from_names("fine", CLASSES[:2]),
        "fine",
        "coarse",
        list(names),
        np.array(image, np.int32),
        np.tile(np.array([0, 0, 10, 10], np.float32), (n, 1)),
        np.tile(np.array([0.25, 0.5], np.float32), (n, 1)),
        covered=np.array(covered),
        quality=np.linspace(0.5, 1, n).astype(np.float32),
    )


def test_shards_are_measured_on_the_images_that_were_labelled() -> None:
    truth = coco([true([0, 0, 10, 10], 2, image) for image in (1, 2, 3)], images=3)
    labels = pseudo(["", "3.jpg", "1.jpg"], [False, True, True], [1, 2])
    joined = join_labels(truth, labels, name="labels")
    assert list(joined.truth.images.file_name) == ["1.jpg", "3.jpg"]
    assert joined.quality is not None and joined.quality.tolist() == [1.0, 0.5]
    assert joined.warnings[0].startswith("1 of 3 images")
    found = measure_pseudo_labels(joined)
    assert found.rates[0].recall[0] == found.rates[0].precision[0] == 1.0


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (coco([label([0, 0, 9, 9], 0.5)], classes=["cars"]), "'cars' does not exist"),
        (coco([true([0, 0, 9, 9])]), "label without a score"),
        (coco([label([0, 0, 9, 9], 50)]), "label of score 50"),
        ([label([0, 0, 9, 9], 0.5, 2.0)], r"quality is 2.0"),
        (
            coco([label([0, 0, 9, 9], 0.5, 1.0), label([0, 0, 9, 9], 0.5)]),
            "without a quality, unlike others",
        ),
    ],
)
def test_labels_that_cannot_be_measured(labels: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        join_labels(coco([true([0, 0, 9, 9])]), labels)


def test_a_results_list_may_have_qualities() -> None:
    rows = [label([0, 0, 9, 9], 0.5, 0.25, image=2), label([0, 0, 9, 9], 0.5, 0.75)]
    for labels in (rows, {"predictions": rows}):
        joined = join_labels(coco([true([0, 0, 9, 9])]), labels)
        assert joined.quality is not None and joined.quality.tolist() == [0.75, 0.25]
