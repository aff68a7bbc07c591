"""Decisions in a real FiftyOne dataset: what they change, undo, export, and what stays safe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.align.test_removed import export as write_result
from tests.align.test_removed import removed

pytestmark = [pytest.mark.fiftyone, pytest.mark.slow]
_LOAD = """
import json, sys
from pathlib import Path
from relabel import viewer
from relabel.errors import RelabelError
from relabel.review import edits
from relabel.review.export import export_decisions
try:
    fo = viewer.start()
except RelabelError as error:
    print("NO DATABASE", error); raise SystemExit(3)
root, name = Path(sys.argv[1]), sys.argv[2]
sources = viewer.find_sources(root)
d = viewer.load(fo, sources, name)

def state():
    def of(f):
        labels = [x for s in d.iter_samples() if s[f] for x in s[f].detections]
        return sorted(
            [x.label, x["decision"] if x.has_field("decision") else None] for x in labels
        )
    return {f: of(f) for f in edits.FIELDS}

def export(file):
    return export_decisions(d, root / file, root / "result", viewer.labels_as_loaded(d, sources))

def tell(**found):
    print(json.dumps(found))
"""


def run(root: Path, script: str, name: str) -> Any:
    pytest.importorskip("fiftyone")
    env = {
        **os.environ,
        "FIFTYONE_DATABASE_DIR": str(root / "database"),
        "FIFTYONE_DO_NOT_TRACK": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", _LOAD + script + "\nfo.delete_dataset(name)", str(root), name],
        env=env,
        capture_output=True,
        text=True,
        timeout=500,
    )
    if done.returncode == 3:
        pytest.skip(f"FiftyOne's database does not start: {done.stdout.strip()[-200:]}")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One session in FiftyOne, step by step.

    The result has two labels, a car of score .9 in image a and a bus in image c, two removed
    annotations, a vehicle with best class bus and a cone with none, and an ignore region.
    """
    root = tmp_path_factory.mktemp("review")
    write_result(root, removed())
    script = """
out = {"loaded": state(), "classes": edits.classes_of(d)}
everything = edits.selected(d)
out["all"] = {f: edits.count(everything, (f,)) for f in edits.FIELDS}
low = d.filter_labels("transferred", fo.ViewField("confidence") < 0.7)
done = edits.decide(d, edits.selected(low), "reject")
out["rejected"] = [done.count, done.passed_over, state()]
out["progress"] = edits.progress(d)
try:
    edits.decide(d, edits.selected(d), "restore")
except RelabelError as error:
    out["refused"] = [str(error), state() == out["rejected"][2]]
done = edits.decide(d, edits.selected(d), "restore", label="bus")
out["restored"] = [done.count, state()]
one = d.first().transferred.detections[0]
label = {"label_id": one.id, "sample_id": d.first().id, "field": "transferred"}
foreign = {"label_id": one.id, "sample_id": d.first().id, "field": "source"}
done = edits.decide(d, edits.selected(d, [label, foreign]), "relabel", label="bus")
out["relabelled"] = [done.count, state()]
for bad in (None, "tram"):
    try:
        edits.decide(d, edits.selected(d, [label]), "relabel", label=bad)
    except RelabelError as error:
        out[f"class {bad}"] = str(error)
decided, kept = export("one.json")
out["first export"] = [len(decided), kept is None, edits.unexported(d)]
steps = []
while (done := edits.undo(d)).number:
    steps.append([done.verdict, done.count])
out["undone"] = [steps, state() == out["loaded"], edits.unexported(d) > 0]
decided, kept = export("one.json")
out["second export"] = [len(decided), kept and kept.name]
# By FiftyOne's own tools.
s = d.first()
s.transferred.detections[0].label = "bus"
s.transferred.detections.append(fo.Detection(label="car", bounding_box=[.5, .5, .25, .25]))
s.save()
last = d.skip(2).first()
last.transferred.detections[0].bounding_box[0] += 0.1
last.save()
decided, _ = export("hand.json")
out["by hand"] = sorted(
    [o.verdict, o.category, list(o.bbox), o.before and o.before.category] for o in decided
)
last["transferred"] = fo.Detections()
last.save()
decided, _ = export("hand.json")
out["deleted"] = sorted([o.verdict, o.file_name, o.category] for o in decided)
edits.decide(d, edits.selected(d), "accept")
for source in sources:
    file = source.path / "samples.json"
    file.write_text(file.read_text().replace("0.9", "0.8"))
try:
    viewer.load(fo, sources, name)
except RelabelError as error:
    out["not lost"] = str(error)
tell(**out)
"""
    return run(root, script, f"edits-{uuid4().hex[:8]}")


def test_what_is_loaded(said: Any) -> None:
    assert said["loaded"] == {
        "transferred": [["bus", None], ["car", None]],
        "rejected": [],
        "removed": [["cone", None], ["vehicle", None]],
    }
    assert said["classes"] == ["car", "bus"]
    assert said["all"] == {"transferred": 2, "rejected": 0, "removed": 2}


def test_rejected_labels_of_a_view_move_out_of_the_result(said: Any) -> None:
    count, passed_over, state = said["rejected"]
    assert count == 1 and state["transferred"] == [["car", None]]
    assert state["rejected"] == [["bus", "reject"]]
    assert passed_over == 0  # the images of the view have no removed annotations
    progress = said["progress"]
    assert (progress["reject"], progress["decided"], progress["labels"]) == (1, 1, 2)


def test_nothing_is_written_where_a_class_is_not_known(said: Any) -> None:
    message, unchanged = said["refused"]
    assert "no class of the target is known for 'cone'" in message and unchanged


def test_restored_and_relabelled(said: Any) -> None:
    count, state = said["restored"]
    assert count == 3 and state["removed"] == state["rejected"] == []
    # The rejected one, and two annotations.
    assert state["transferred"] == [
        ["bus", "restore"],
        ["bus", "restore"],
        ["bus", "restore"],
        ["car", None],
    ]
    count, state = said["relabelled"]
    assert count == 1 and ["bus", "relabel"] in state["transferred"]
    assert "takes a class" in said["class None"] and "no class 'tram'" in said["class tram"]


def test_every_step_can_be_undone(said: Any) -> None:
    steps, as_loaded, changed = said["undone"]
    assert steps == [["relabel", 1], ["restore", 3], ["reject", 1]]
    assert as_loaded and changed


def test_an_export_keeps_an_earlier_file_with_other_decisions(said: Any) -> None:
    assert said["first export"] == [4, True, 0]
    assert said["second export"] == [0, "one.1.json"]


def test_changes_by_other_tools_are_decisions(said: Any) -> None:
    assert said["by hand"] == [
        ["add", "car", [50.0, 40.0, 25.0, 20.0], None],
        ["relabel", "bus", [0.0, 0.0, 40.0, 42.0], "car"],
        ["reshape", "bus", [15.0, 5.0, 30.0, 30.0], "bus"],
    ]
    assert said["deleted"] == [
        ["add", "a.png", "car"],
        ["reject", "c.png", "bus"],
        ["relabel", "a.png", "bus"],
    ]


def test_a_new_result_does_not_replace_decisions_that_were_not_exported(said: Any) -> None:
    assert "relabel review export RUN" in said["not lost"]
