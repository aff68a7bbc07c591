"""What `relabel check` found of a run, in the run's own FiftyOne dataset."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import uuid4

import jsonschema
import pytest

from relabel.errors import ConfigError
from relabel.review.suspects import find_check
from relabel.workspace.fingerprint import file_fingerprint
from tests.align.test_removed import export as write_result
from tests.align.test_removed import removed
from tests.builders.datasets import write_json
from tests.fiftyone_database import loaded_by_view


def suspect(rank: int, kind: str, image: str, score: float, **more: Any) -> dict[str, Any]:
    return {
        "rank": rank,
        "score": score,
        "kind": kind,
        "image_id": 1,
        "file_name": f"images/{image}",
        "annotation_id": None,
        "category": None,
        "bbox": None,
        "proposed_category": None,
        "proposed_bbox": None,
        "proposal": f"proposal {rank}",
        "reason": f"reason {rank}",
        **more,
    }


# The training file has the target's car, then the source's car in image a and its bus in c, which
# have the ids 1 and 2 in the source.
SUSPECTS = [
    suspect(
        *(1, "wrong class", "coarse/a.png", 0.875),
        annotation_id=2,
        category="car",
        bbox=[0, 0, 40, 42],
        proposed_category="bus",
    ),
    suspect(
        *(2, "missing box", "coarse/b.png", 0.75),
        proposed_category="car",
        proposed_bbox=[10, 20, 50, 40],
    ),
    suspect(
        *(3, "missing box", "fine/b.png", 0.625),
        proposed_category="car",
        proposed_bbox=[10, 20, 50, 40],
    ),
    suspect(
        *(4, "spurious box", "coarse/c.png", 0.5),
        annotation_id=3,
        category="bus",
        bbox=[5, 5, 30, 30],
    ),
]


def write_check(
    folder: Path, merged: Path | None, suspects: Sequence[dict[str, Any]] = SUSPECTS
) -> Path:
    """What `relabel check` would have written of a run, or of a dataset."""
    content = {
        "schema": 1,
        "relabel": "0",
        "dataset": "run",
        "merged": None if merged is None else file_fingerprint(merged),
        "images": 6,
        "checked_images": 6,
        "annotations": 3,
        "predictions_by": "2 specialists",
        "counts": {},
        "suspects": suspects,
        "split_classes": [],
    }
    schema = json.loads((resources.files("relabel.schemas") / "suspects.json").read_text())
    jsonschema.validate(content, schema)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "suspects.json", content)
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_result(tmp_path / "runs/one", removed())
    return tmp_path / "runs/one"


def test_a_check_is_given_or_lies_where_check_puts_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = run / "result/merged.json"
    assert find_check(run, None) is None
    write_check(tmp_path / "runs/check/one", None)
    assert find_check(run, None) is None  # of a dataset of the same name
    assert capsys.readouterr().err == ""
    write_check(tmp_path / "runs/check/one", merged)
    for shown in (run, run / "result", run / "result/coarse"):
        found = find_check(shown, None)
        assert found is not None and [s.rank for s in found.suspects] == [1, 2, 3, 4]
    other = write_check(tmp_path / "other", merged, SUSPECTS[:1])
    for given in (other, other / "suspects.json"):
        found = find_check(run, given)
        assert found is not None and [s.rank for s in found.suspects] == [1]


def test_a_check_of_an_earlier_result_is_told_of(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = run / "result/merged.json"
    place = write_check(tmp_path / "runs/check/one", merged)
    merged.write_bytes(merged.read_bytes() + b"\n")
    assert find_check(run, None) is None
    error = capsys.readouterr().err
    assert "of another result than this one, or of an earlier one" in error
    assert f"relabel check {run} --out runs/check/one --overwrite" in error
    with pytest.raises(ConfigError, match="of an earlier one") as refused:
        find_check(run, place)
    assert f"--out {place} --overwrite" in str(refused.value.remedy)
    with pytest.raises(ConfigError, match="the check of a dataset"):
        find_check(run, write_check(tmp_path / "dataset", None))
    with pytest.raises(ConfigError, match="is for the run of align"):
        find_check(tmp_path, place)


_LOOK = """
import json, sys
from pathlib import Path
from relabel import viewer
from relabel.errors import RelabelError
from relabel.review import edits
from relabel.review.export import export_decisions
from relabel.review.suspects import find_check
fo = viewer.start()
run, name = Path(sys.argv[1]), sys.argv[2]
sources = viewer.find_sources(run)
d = fo.load_dataset(name)

def views():
    found = {}
    for view in d.list_saved_views():
        if view.startswith("suspects"):
            seen = d.load_saved_view(view)
            places = ("suspects.detections", "transferred.detections")
            found[view] = [len(seen), *(seen.count(place) for place in places)]
    return found

def labels(field):
    names = ("label", "suspect", "suspect_score", "suspect_proposal", "suspect_reason")
    got = (x for s in d.iter_samples() if s[field] for x in s[field].detections)
    return sorted([edits.attribute_of(x, n) for n in names] for x in got)

out = {"views": views(), "labels": labels("transferred")}
out["suspects"] = [
    [s["file_name"], x.label, x.kind, x.rank, x.confidence, x.annotation_id, x.annotated_class,
     x.bounding_box]
    for s in d.sort_by("file_name").iter_samples() for x in s["suspects"].detections
]
spurious = d.load_saved_view("suspects: spurious box")
out["meant"] = {v: [edits.count(edits.selected(d.load_saved_view(v)), (f,)) for f in edits.FIELDS]
                for v in ("suspects", "suspects: missing box")}
out["shown"] = sorted(d.app_config.active_fields.paths)
first = d.match(fo.ViewField("file_name") == "a.png").first()
ours = {"label_id": first.suspects.detections[0].id, "sample_id": first.id, "field": "suspects"}
out["of a suspect"] = [edits.decide(d, edits.selected(d, [ours]), v).count
                       for v in ("accept", "reject", "restore")]
done = edits.decide(d, edits.selected(spurious), "reject")
out["meant"]["after"] = [edits.count(edits.selected(spurious), (f,)) for f in edits.FIELDS]
out["rejected"] = [done.count, labels("transferred"), labels("rejected"), views()]

# Other suspects, of the same result: the decision stays.
check = find_check(run, Path(sys.argv[3]))
viewer.load_suspects(fo, d, sources, check)
out["other"] = [views(), labels("transferred"), labels("rejected"), edits.unexported(d)]
decided, _ = export_decisions(d, run / "decisions.json", run / "result",
                              viewer.labels_as_loaded(d, sources))
out["exported"] = [[o.verdict, o.category] for o in decided]
edits.undo(d)
out["undone"] = labels("transferred")
print(json.dumps(out))
fo.delete_dataset(name)
"""


@pytest.mark.fiftyone
@pytest.mark.slow
def test_suspects_in_the_run_s_own_dataset(run: Path, tmp_path: Path) -> None:
    merged = run / "result/merged.json"
    write_check(tmp_path / "runs/check/one", merged)
    other = write_check(tmp_path / "other", merged, SUSPECTS[:1])
    name = f"suspects-{uuid4().hex[:8]}"
    done, env = loaded_by_view(run, "--name", name, database=tmp_path / "db")
    assert "suspects of runs/check/one/suspects.json: 3; 1 are on images of the target" in (
        done.stderr
    )
    done, env = loaded_by_view(run, "--name", name, database=tmp_path / "db")
    assert "unchanged" in done.stderr and "suspects of" not in done.stderr
    seen = subprocess.run(
        [sys.executable, "-c", _LOOK, str(run), name, str(other)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert seen.returncode == 0, seen.stderr[-3000:]
    said = json.loads(seen.stdout.strip().splitlines()[-1])
    # Images, suspects, and the labels that they accuse.
    assert said["views"] == {
        "suspects": [3, 3, 2],
        "suspects: missing box": [1, 1, 0],
        "suspects: spurious box": [1, 1, 1],
        "suspects: wrong class": [1, 1, 1],
    }
    wrong = ["car", "wrong class", 0.875, "proposal 1", "reason 1"]
    spurious = ["bus", "spurious box", 0.5, "proposal 4", "reason 4"]
    assert said["labels"] == [spurious, wrong]
    assert said["suspects"] == [
        ["a.png", "bus", "wrong class", 1, 0.875, 1, "car", [0, 0, 0.4, 0.525]],
        ["b.png", "car", "missing box", 2, 0.75, None, None, [0.1, 0.25, 0.5, 0.5]],
        ["c.png", "bus", "spurious box", 4, 0.5, 2, "bus", [0.05, 0.0625, 0.3, 0.375]],
    ]
    # Transferred, rejected and removed: what the review's buttons are about.
    assert said["meant"] == {
        "suspects": [2, 0, 0],
        "suspects: missing box": [0, 0, 0],
        "after": [0, 1, 0],
    }
    assert "suspects" in said["shown"] and "transferred" in said["shown"]
    assert said["of a suspect"] == [0, 0, 0]
    views = {**said["views"], "suspects": [3, 3, 1], "suspects: spurious box": [1, 1, 0]}
    assert said["rejected"] == [1, [wrong], [spurious], views]
    only = {"suspects": [1, 1, 1], "suspects: wrong class": [1, 1, 1]}
    cleared = ["bus", None, None, None, None]
    assert said["other"] == [only, [wrong], [cleared], 1]
    assert said["exported"] == [["reject", "bus"]]
    assert said["undone"] == [cleared, wrong]
