"""AP under resampled images: the plain sample, images drawn twice, and files."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relabel.datasets.dataset import make_boxes
from relabel.datasets.formats.coco.as_written import Strict
from relabel.errors import DataError
from relabel.evaluation.detections import read_scored
from relabel.evaluation.resampling import (
    Matches,
    ap_by_iou,
    match_detections,
    resamples,
    weighted_ap,
)

from .coco_cases import cases, pycocotools_numbers

CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]
Case = tuple[dict[str, Any], list[dict[str, Any]]]


def matches_of(truth: dict[str, Any], results: list[dict[str, Any]]) -> Matches:
    return match_detections(*read_scored(truth, results, Strict()))


def numbered(case: Case) -> Case:
    """Annotation ids from 1: pycocotools counts id 0 as never found."""
    truth = copy.deepcopy(case[0])
    for i, annotation in enumerate(truth["annotations"]):
        annotation["id"] = i + 1
    return truth, case[1]


def assert_is(found: np.ndarray, stats: np.ndarray) -> None:
    for mine, theirs in zip(found, stats[:3], strict=True):
        assert np.isnan(mine) if theirs == -1 else mine == pytest.approx(theirs, abs=1e-9)


@settings(max_examples=60, deadline=None, suppress_health_check=CHECKS)
@given(cases())
def test_the_plain_sample_has_pycocotools_numbers(case: Case) -> None:
    truth, results = numbered(case)
    matches = matches_of(truth, results)
    found = weighted_ap(matches, np.ones((1, len(truth["images"]))))
    stats = pycocotools_numbers(truth, results).stats
    assert_is(found[0], stats)
    over = ap_by_iou(matches)
    assert over.shape == (10,)
    assert_is(np.array([over.mean(), over[0], over[5]]), stats)


@settings(max_examples=60, deadline=None, suppress_health_check=CHECKS)
@given(cases(), st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_an_image_drawn_twice_counts_as_two_images(case: Case, drawn: list[int]) -> None:
    """Scores differ: among equal ones COCO's order is that of the images, copies and all."""
    truth, results = numbered(case)
    for i, row in enumerate(results):
        row["score"] = 0.9 - 0.0005 * i
    images = sorted(truth["images"], key=lambda image: image["id"])
    again: dict[str, Any] = {**truth, "images": [], "annotations": []}
    found: list[dict[str, Any]] = []
    for image, times in zip(images, drawn, strict=False):
        for _ in range(times):
            new = len(again["images"]) + 1
            again["images"].append({"id": new, "file_name": f"{new}.jpg"})
            for row in truth["annotations"]:
                if row["image_id"] == image["id"]:
                    number = len(again["annotations"]) + 1
                    again["annotations"].append({**row, "image_id": new, "id": number})
            found += [{**r, "image_id": new} for r in results if r["image_id"] == image["id"]]
    weights = np.array([drawn[: len(images)]])
    assert_is(
        weighted_ap(matches_of(truth, results), weights)[0],
        pycocotools_numbers(again, found).stats,
    )


def random_matches(rng: np.random.Generator, images: int, n: int, classes: int = 3) -> Matches:
    """Detections that are right more often the better their score is."""
    score = np.sort(rng.uniform(size=n))[::-1]
    limit = rng.uniform(size=(n, 1)) + np.linspace(0, 0.5, 10)
    return Matches(
        image=rng.integers(images, size=n).astype(np.int32),
        category=rng.integers(classes, size=n).astype(np.int32),
        score=score,
        state=(score[:, None] > limit).astype(np.uint8),
        truths=np.full((images, classes), n // images, np.int32),
    )


def test_resamples_are_the_same_for_all_and_chunks_change_nothing() -> None:
    draws = resamples(40, count=300)
    assert draws.shape == (300, 40) and (draws.sum(axis=1) == 40).all()
    assert np.array_equal(draws, resamples(40, count=300))
    assert draws.min() == 0 and draws.max() >= 3
    matches = random_matches(np.random.default_rng(3), 40, 2000)
    whole = weighted_ap(matches, draws)
    assert np.array_equal(whole[260], weighted_ap(matches, draws[260:261])[0])
    plain = weighted_ap(matches, np.ones((1, 40)))[0]
    assert abs(whole.mean(axis=0) - plain).max() < 0.02
    assert 0.001 < whole[:, 0].std() < 0.1


def test_files_are_the_same_every_time_and_damage_is_told(tmp_path: Path) -> None:
    matches = random_matches(np.random.default_rng(0), 5, 50)
    for name in ("a.npz", "b.npz"):
        matches.save(tmp_path / name)
    data = (tmp_path / "a.npz").read_bytes()
    assert data == (tmp_path / "b.npz").read_bytes()
    again = Matches.load(tmp_path / "a.npz")
    assert all(np.array_equal(v, getattr(again, k)) for k, v in vars(matches).items())
    (tmp_path / "b.npz").write_bytes(data[:-40])
    with pytest.raises(DataError, match="damaged"):
        Matches.load(tmp_path / "b.npz")
    replace(matches, score=matches.score[:-1]).save(tmp_path / "b.npz")
    with pytest.raises(DataError, match="belong together"):
        Matches.load(tmp_path / "b.npz")


def test_without_truth_there_is_no_ap() -> None:
    truth = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "class 1"}],
        "annotations": [],
    }
    reference, _ = read_scored(truth, [], Strict())
    nothing = make_boxes(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int))
    found = match_detections(reference, nothing)
    assert len(found.image) == 0 and found.truths.shape == (1, 1)
    assert np.isnan(weighted_ap(found, np.ones((2, 1)))).all()
    assert np.isnan(ap_by_iou(found)).all()
