"""The file of decisions: written, read, read as COCO, and refused where it is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relabel.datasets.decisions import Before
from relabel.datasets.formats.registry import read_dataset
from relabel.errors import DataError
from relabel.review.decisions import (
    Decision,
    Origin,
    ReviewedImage,
    ReviewedLabel,
    read_decisions,
    write_decisions,
)
from tests.builders.datasets import write_image

AT = "2026-11-29T12:00:00+00:00"
BOX = (4.0, 5.0, 9.0, 6.0)
NAME = 'street & <b>"night"</b>\nשלום 🚲.png'


def written(folder: Path) -> tuple[Path, list[Decision]]:
    origin = Origin("theirs", 7, "van", "source", (4.0, 5.0, 8.0, 6.0))
    relabelled = Decision(
        "theirs", NAME, "relabel", "truck", BOX, AT, Before("car", BOX, 0.5, "source"), origin
    )
    rejected = Decision("theirs", NAME, "reject", "car", BOX, AT, Before("car", BOX))
    other = Decision("theirs", "b.png", "add", "tram", BOX, AT, None, Origin("theirs"))
    images = [
        ReviewedImage(
            "theirs",
            NAME,
            64,
            48,
            [
                ReviewedLabel("truck", BOX, 1.0, False, origin, relabelled),
                ReviewedLabel("car", BOX, 0.25, False, Origin("theirs")),
                ReviewedLabel("car", BOX, None, True, Origin("theirs")),
            ],
            [rejected],
        ),
        ReviewedImage("theirs", "b.png", 64, 48, [ReviewedLabel(
            "tram", BOX, None, False, Origin("theirs"), other)], []),
        ReviewedImage(
            "theirs", "c.png", 64, 48, [ReviewedLabel("car", BOX, 0.5, False, Origin())], []
        ),
    ]  # fmt: skip
    file = folder / "decisions.json"
    decided = write_decisions(file, images, {"car": 3, "truck": 9}, folder / "run/result")
    return file, decided


def test_decisions_come_back(tmp_path: Path) -> None:
    file, decided = written(tmp_path)
    found = read_decisions(file)
    assert sorted(map(repr, found.decisions)) == sorted(map(repr, decided))
    assert [one.verdict for one in decided] == ["relabel", "reject", "add"]
    # Labels left alone in an image that a decision is about; no regions, no other images.
    assert [(one.file_name, one.category, one.bbox) for one in found.left] == [(NAME, "car", BOX)]


def test_any_reader_of_coco_takes_it_as_the_reviewed_labels(tmp_path: Path) -> None:
    file, _ = written(tmp_path)
    content = json.loads(file.read_text())
    assert content["categories"] == [
        {"id": 3, "name": "car"},
        {"id": 9, "name": "truck"},
        {"id": 10, "name": "tram"},
    ]
    by_human, by_model, region, *_ = content["annotations"]
    assert (by_human["decided_by"], by_human["decision"]) == ("human", "relabel")
    assert by_human["before"] == {
        "category": "car",
        "bbox": list(BOX),
        "score": 0.5,
        "origin": "source",
    }
    assert by_human["relabel"]["source_bbox"] == [4.0, 5.0, 8.0, 6.0]
    assert by_model["decided_by"] == "model" and "decision" not in by_model
    assert region["iscrowd"] == 1
    (rejected,) = content["rejected"]
    assert rejected["decided_at"] == AT
    for name in ("b.png", "c.png"):
        write_image(tmp_path / "run/result/images/theirs" / name, 64, 48)
    data = read_dataset(file, "coco")
    assert data.space.names == ["car", "truck", "tram"]
    assert len(data.boxes) == 5 and data.boxes.ignore.sum() == 1
    assert data.image_path(1).is_file()


def damaged(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.unlink(), "does not exist"),
        (lambda file: file.write_text("{"), "not valid JSON"),
        (lambda file: file.write_text("[]"), "Expected `object`, got `array`"),
        (damaged(lambda c: c["info"]["relabel"].pop("kind")), "no file of decisions"),
        (damaged(lambda c: c.pop("rejected")), "missing required field `rejected`"),
        (damaged(lambda c: c["images"].clear()), "annotation 1.*an image that the file lacks"),
        (damaged(lambda c: c["categories"].clear()), "annotation 1.*a class that the file lacks"),
        (damaged(lambda c: c["annotations"][0].pop("decision")), "annotation 1.*no decision"),
        (
            damaged(lambda c: c["annotations"][0].update(decision="reject")),
            "annotation 1.*its decision is 'reject'",
        ),
        (damaged(lambda c: c["rejected"][0].update(decision="accept")), "rejected 1"),
        (damaged(lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 4])), "bbox"),
        (damaged(lambda c: c["annotations"][0].update(bbox=[1, 2, 3])), "bbox"),
        (damaged(lambda c: c["annotations"][0].update(decision="perhaps")), "perhaps"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_told_by_file_and_record(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    file, _ = written(tmp_path)
    damage(file)
    with pytest.raises(DataError, match=said) as raised:
        read_decisions(file)
    assert raised.value.file == str(file)
