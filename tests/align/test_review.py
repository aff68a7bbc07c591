"""`relabel align --review`: decisions in the result of the real command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from relabel.review.decisions import (
    Decision,
    Origin,
    ReviewedImage,
    ReviewedLabel,
    write_decisions,
)
from tests.align.test_align import World, result_bytes
from tests.align.test_align import world as world  # a fixture

AT = "2026-11-29T12:00:00+00:00"
FIRST = (4.0, 5.0, 9.0, 6.0)  # the label of coarse's first image, a pixel wider than its box


def decisions(folder: Path, *, far: bool = False) -> Path:
    """Coarse's image 0: its label is a bus. Image 1: rejected. Image 2: one was added."""
    first, second, third = (f"images/00{k}.png" for k in range(3))
    if far:
        first = "images/999.png"
    origin = Origin("coarse", 1, "vehicle", "source", (4.0, 5.0, 8.0, 6.0))
    bus = Decision("coarse", first, "relabel", "bus", FIRST, AT, None, origin)
    gone = Decision(
        "coarse", second, "reject", "car", (4.0, 6.0, 9.0, 6.0), AT, None, Origin("coarse", 2)
    )
    new = Decision("coarse", third, "add", "bus", (30.0, 30.0, 8.0, 8.0), AT)
    images = [
        ReviewedImage("coarse", first, 64, 48, [label(bus)], []),
        ReviewedImage("coarse", second, 64, 48, [], [gone]),
        ReviewedImage("coarse", third, 64, 48, [label(new)], []),
    ]
    file = folder / "decisions.json"
    write_decisions(file, images, {"car": 1, "bus": 2}, folder / "runs/fine/result")
    return file


def label(one: Decision) -> ReviewedLabel:
    return ReviewedLabel(one.category, one.bbox, 1.0, False, one.origin, one)


def labels_of(world: World) -> list[dict[str, Any]]:
    file = world.folder / "runs/fine/result/coarse/annotations.json"
    return json.loads(file.read_text())["annotations"]


def test_decisions_are_respected_without_redoing_anything_else(world: World) -> None:
    world.run()
    model = labels_of(world)
    world.calls()
    file = decisions(world.folder)
    planned = world.run("--review", str(file), "--dry-run").stdout.splitlines()
    assert [line[:6] for line in planned if "to do again, with the decisions" in line] == ["result"]
    assert planned[-2].startswith("1 of 16 stages") and planned[-1].startswith("takes about ")
    done = world.run("--review", str(file))
    assert world.calls() == []
    assert "decisions respected: 1 relabel, 1 reject, 1 add" in done.stdout
    now = labels_of(world)
    assert len(now) == len(model)  # one gone, one new
    (bus,) = [a for a in now if a["bbox"] == list(FIRST)]
    assert (bus["category_id"], bus["score"], bus["decided_by"]) == (2, 1.0, "human")
    assert bus["relabel"]["source_annotation_id"] == 1 and bus["decided_at"] == AT
    assert not [a for a in now if a["bbox"] == [4.0, 6.0, 9.0, 6.0]]
    assert [a["relabel"]["origin"] for a in now if a.get("decision") == "add"] == ["human"]
    removed = world.folder / "runs/fine/result/coarse/removed.json"
    (gone,) = json.loads(removed.read_text())["annotations"]
    assert (gone["id"], gone["relabel_removed"]["reason"]) == (2, "rejected in review")
    merged = json.loads((world.folder / "runs/fine/result/merged.json").read_text())
    assert sum(a.get("decided_by") == "human" for a in merged["annotations"]) == 2
    # All is done; and nobody leaves the decisions out by mistake.
    assert "Everything is done already" in world.run("--review", str(file)).stderr
    refused = world.run(status=1).stderr
    assert "inputs.review" in refused and "→ nothing" in refused
    world.run("--overwrite")
    assert labels_of(world) == model


def test_decisions_hold_after_the_model_was_trained_anew(world: World) -> None:
    world.run()
    file = decisions(world.folder)
    world.run("--review", str(file))
    before = labels_of(world)
    world.calls()
    refused = world.run("--review", str(file), "--set", "lat.seed=7", status=1).stderr
    assert "stage 'LAT' was started with different settings" in refused
    world.run("--review", str(file), "--set", "lat.seed=7", "--overwrite")
    assert any(call.startswith("lat") for call in world.calls())
    assert labels_of(world) == before


def test_decisions_without_an_object_are_told(world: World) -> None:
    world.run()
    done = world.run("--review", str(decisions(world.folder, far=True)))
    assert "decisions without an object: 1" in done.stdout
    assert "relabel 'bus' in images/999.png: the image is gone" in done.stdout
    told = json.loads(world.run("--review", str(world.folder / "decisions.json"), "--json").stdout)
    assert told["review"]["coarse"]["applied"] == {"reject": 1, "add": 1}
    assert told["review"]["coarse"]["lost"][0]["why"] == "the image is gone"
    assert told["review"]["legacy"] == {"applied": {}, "lost": []}


def test_a_damaged_file_leaves_the_result_alone(world: World) -> None:
    world.run()
    before = result_bytes(world.folder / "runs/fine")
    file = decisions(world.folder)
    file.write_text(file.read_text()[:-30])
    error = world.run("--review", str(file), status=1).stderr
    assert "decisions.json" in error and error.count("\n") == 1
    assert "does not exist" in world.run("--review", "none.json", status=1).stderr
    assert result_bytes(world.folder / "runs/fine") == before
