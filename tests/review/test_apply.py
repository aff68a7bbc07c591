"""Decisions put into labels: of the same run, and of one whose model was trained anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.datasets.dataset import DetectionDataset, Provenance, make_boxes
from relabel.datasets.decisions import Before, Verdict, decided_of
from relabel.datasets.removed import NO_LABEL, Removed, without_label
from relabel.review.apply import REJECTED, Reviewed, apply_all, apply_decisions, told
from relabel.review.decisions import Box, Decision, Origin, Review
from tests.builders.datasets import dataset_of

AT = "2026-11-29T12:00:00+00:00"
CAR, RIDER, BICYCLE = 0, 1, 2
TARGET = ["car", "rider", "bicycle"]
CYCLIST = (10.0, 10.0, 20.0, 40.0)
VAN = (50.0, 10.0, 30.0, 30.0)
CONE = (5.0, 60.0, 8.0, 10.0)


def annotated() -> DetectionDataset:
    """Image a: a cyclist 11, a van 12, a cone 13; image b: none."""
    boxes = make_boxes([0, 0, 0], [CYCLIST, VAN, CONE], [0, 1, 2], id=[11, 12, 13])
    return dataset_of("theirs", ["cyclist", "van", "cone"], ["a.png", "b.png"], boxes)


def labelled(*labels: tuple[int, Box, int, int]) -> DetectionDataset:
    """Labels as (image, box, class, source id or -1), on the images of `annotated`."""
    image, box, category, source = zip(*labels, strict=True) if labels else ((),) * 4
    names = {11: "cyclist", 12: "van", 13: "cone", -1: ""}
    provenance = Provenance(
        "theirs",
        ["source" if s >= 0 else "pseudo:ours" for s in source],
        np.array(source, np.int64),
        [names[s] for s in source],
        np.full(len(source), 0.9, np.float32),
    )
    boxes = make_boxes(
        image, list(box), category, score=np.full(len(box), 0.6), provenance=provenance
    )
    space = dataset_of("ours", TARGET, ["a.png"], make_boxes([], [], [])).space
    return annotated().with_boxes(boxes, space)


FIRST = (
    (0, CYCLIST, RIDER, 11),
    (0, (10.0, 25.0, 20.0, 25.0), BICYCLE, 11),
    (0, VAN, CAR, 12),
    (1, (30.0, 30.0, 10.0, 10.0), CAR, -1),
)


def decision(
    verdict: Verdict,
    category: str,
    bbox: Box,
    *,
    file_name: str = "a.png",
    before: str | None = None,
    was: Box | None = None,
    source: int | None = None,
    of_class: str | None = None,
    source_bbox: Box | None = None,
    origin: str | None = None,
) -> Decision:
    old = None if verdict == "add" else Before(before or category, was or bbox, 0.6)
    return Decision(
        "theirs",
        file_name,
        verdict,
        category,
        bbox,
        AT,
        old,
        Origin("theirs", source, of_class, origin, source_bbox),
    )


def applied(
    after: DetectionDataset, *decisions: Decision, left: list[Decision] | None = None
) -> Reviewed:
    before = annotated()
    removed = without_label(before, after)
    return apply_decisions(before, after, removed, Review(list(decisions), left or []))


def rows(found: Reviewed) -> list[tuple[str, str, tuple[float, ...]]]:
    data, boxes = found.after, found.after.boxes
    return [
        (
            str(data.images.file_name[boxes.image[k]]),
            data.space.names[boxes.category[k]],
            tuple(boxes.xywh[k].tolist()),
        )
        for k in range(len(boxes))
    ]


def test_no_decisions_change_nothing() -> None:
    after = labelled(*FIRST)
    found = applied(after)
    assert found.after is after and found.lost == [] and found.counts == {}
    assert found.removed.row.tolist() == [2] and len(found.rejected.boxes) == 0


def test_an_accepted_label_is_sure_and_says_who_decided() -> None:
    found = applied(labelled(*FIRST), decision("accept", "car", VAN, source=12, source_bbox=VAN))
    assert sorted(rows(found)) == sorted(rows(applied(labelled(*FIRST))))
    row = rows(found).index(("a.png", "car", VAN))
    boxes = found.after.boxes
    assert boxes.score[row] == 1 and np.delete(boxes.score, row).max() < 1
    said = decided_of(boxes, row)
    assert said is not None
    assert (said.decided_by, said.decision, said.decided_at) == ("human", "accept", AT)
    assert said.before == Before("car", VAN, 0.6)
    assert boxes.provenance is not None
    assert boxes.provenance.source_id[row] == 12 and boxes.provenance.source_iou[row] == 1
    assert boxes.id.tolist() == [1, 2, 3, 4]


def test_a_rejected_label_goes_and_its_annotation_is_told_as_removed() -> None:
    found = applied(labelled(*FIRST), decision("reject", "car", VAN, source=12, source_bbox=VAN))
    assert ("a.png", "car", VAN) not in rows(found) and len(rows(found)) == 3
    assert found.removed.row.tolist() == [1, 2]
    assert list(found.removed.reason) == [REJECTED, NO_LABEL]
    assert found.rejected.boxes.xywh.tolist() == [list(VAN)]
    # Of an annotation with two labels one stays, and so it has a label.
    half = applied(
        labelled(*FIRST), decision("reject", "bicycle", FIRST[1][1], source=11, source_bbox=CYCLIST)
    )
    assert half.removed.row.tolist() == [2]
    assert [name for _, name, _ in rows(half)] == ["rider", "car", "car"]


def test_relabelled_reshaped_restored_and_added_labels_are_there() -> None:
    box = (1.0, 2.0, 3.0, 4.0)
    found = applied(
        labelled(*FIRST),
        decision("relabel", "bicycle", VAN, before="car", source=12, source_bbox=VAN),
        decision("reshape", "rider", (11.0, 9.0, 21.0, 40.0), was=CYCLIST, source=11),
        decision("restore", "car", CONE, before="cone", source=13, source_bbox=CONE),
        decision("add", "rider", box, file_name="b.png"),
    )
    assert set(rows(found)) == {
        ("a.png", "bicycle", VAN),
        ("a.png", "bicycle", FIRST[1][1]),
        ("a.png", "rider", (11.0, 9.0, 21.0, 40.0)),
        ("a.png", "car", CONE),
        ("b.png", "car", FIRST[3][1]),
        ("b.png", "rider", box),
    }
    assert len(found.removed) == 0
    assert found.counts == {"relabel": 1, "reshape": 1, "restore": 1, "add": 1}
    origin = found.after.boxes.provenance
    assert origin is not None
    by_row = {row[1:]: o for row, o in zip(rows(found), origin.origin, strict=True)}
    assert by_row["car", CONE] == "source" and by_row["rider", box] == "human"


@pytest.mark.parametrize("category", [CAR, BICYCLE])
def test_after_retraining_the_label_of_the_same_object_answers(category: int) -> None:
    """Another box, another class: what was decided holds for the object, once."""
    moved = (52.0, 11.0, 30.0, 30.0)
    after = labelled((0, CYCLIST, RIDER, 11), (0, moved, category, 12))
    said = decision("relabel", "rider", VAN, before="car", source=12, source_bbox=VAN)
    found = applied(after, said)
    assert sorted(rows(found)) == [("a.png", "rider", CYCLIST), ("a.png", "rider", VAN)]
    gone = applied(after, decision("reject", "car", VAN, source=12, source_bbox=VAN))
    assert rows(gone) == [("a.png", "rider", CYCLIST)]


def test_a_label_of_the_same_class_answers_from_half_an_overlap() -> None:
    """IoU .62: the label of its class is meant; one of another class in that place is not."""
    beside = (57.0, 10.0, 30.0, 30.0)
    said = decision("accept", "car", VAN)
    assert rows(applied(labelled((0, beside, CAR, -1)), said)) == [("a.png", "car", VAN)]
    assert len(rows(applied(labelled((0, beside, RIDER, -1)), said))) == 2


def test_an_object_that_the_new_model_does_not_find_is_still_labelled() -> None:
    far = (70.0, 70.0, 10.0, 10.0)
    said = decision("accept", "car", far, origin="pseudo:ours")
    found = applied(labelled(), said)
    assert rows(found) == [("a.png", "car", far)] and found.lost == []
    assert found.after.boxes.provenance is not None
    assert found.after.boxes.provenance.origin == ["pseudo:ours"]


def test_a_rejection_does_not_take_a_label_that_was_left_alone() -> None:
    """The rider lies on the rejected car; the new model has no car there."""
    after = labelled((0, VAN, RIDER, -1))
    said = decision("reject", "car", VAN)
    assert rows(applied(after, said)) == []
    seen = decision("accept", "rider", VAN)
    assert rows(applied(after, said, left=[seen])) == [("a.png", "rider", VAN)]


def test_what_is_not_there_any_more_is_told() -> None:
    far = (80.0, 80.0, 10.0, 10.0)
    found = applied(
        labelled(*FIRST),
        decision("accept", "car", VAN, file_name="gone.png"),
        decision("restore", "car", far, before="van", source=99, of_class="van", source_bbox=far),
        decision("relabel", "tram", VAN, before="car", source=12, source_bbox=VAN),
        decision("reject", "car", VAN, file_name="gone.png"),
    )
    whys = [one.why for one in found.lost]
    assert whys == [
        "the image is gone",
        "the target has no class 'tram'",
        "the image is gone",
        "the annotation it was made from is gone",
    ]
    assert rows(found) == rows(applied(labelled(*FIRST)))
    assert [one["why"] for one in told(found)["lost"]] == whys and told(found)["applied"] == {}


def test_an_annotation_that_was_numbered_anew_is_known_by_its_place() -> None:
    said = decision(
        "restore", "car", CONE, before="cone", source=77, of_class="cone", source_bbox=CONE
    )
    found = applied(labelled(*FIRST), said)
    assert found.lost == [] and len(found.removed) == 0
    assert found.after.boxes.provenance is not None
    assert 13 in found.after.boxes.provenance.source_id.tolist()


def test_a_later_file_has_the_last_word() -> None:
    before, after = annotated(), labelled(*FIRST)
    first = Review([decision("reject", "car", VAN, source=12, source_bbox=VAN)], [])
    second = Review([decision("accept", "car", VAN, source=12, source_bbox=VAN)], [])
    removed = without_label(before, after)
    kept = apply_all(before, after, removed, [first, second])
    assert ("a.png", "car", VAN) in rows(kept) and kept.removed.row.tolist() == [2]
    gone = apply_all(before, after, removed, [second, first])
    assert ("a.png", "car", VAN) not in rows(gone) and gone.removed.row.tolist() == [1, 2]
    assert gone.counts == {"accept": 1, "reject": 1}
    assert apply_all(before, after, removed, []).after is after


def test_other_datasets_are_passed_over() -> None:
    before = annotated()
    after = labelled(*FIRST)
    stranger = Decision("others", "a.png", "reject", "car", VAN, AT)
    found = apply_decisions(before, after, Removed.none(), Review([stranger], []))
    assert found.after is after and found.lost == []


@given(st.data())
def test_decisions_about_a_run_hold_in_that_run(data: st.DataObject) -> None:
    """Whatever is decided about distinct labels, the same labels with it applied are the result."""
    labels = data.draw(
        st.lists(
            st.tuples(
                st.integers(0, 1),
                st.sampled_from([VAN, (51.0, 10.0, 30.0, 30.0), (52.0, 12.0, 30.0, 28.0)]),
                st.integers(0, 2),
                st.just(-1),
            ),
            max_size=8,
            unique=True,
        )
    )
    verdicts: list[Verdict | None] = ["accept", "reject", "relabel", None]
    after = labelled(*labels)
    names = ["a.png", "b.png"]
    decisions, left, expected = [], [], []
    for image, box, category, _ in labels:
        verdict = data.draw(st.sampled_from(verdicts))
        name = TARGET[category]
        if verdict is None:
            left.append(decision("accept", name, box, file_name=names[image]))
        else:
            new = data.draw(st.sampled_from(TARGET)) if verdict == "relabel" else name
            decisions.append(decision(verdict, new, box, file_name=names[image], before=name))
            name = new
        if verdict != "reject":
            expected.append((names[image], name, box))
    found = applied(after, *decisions, left=left)
    assert sorted(rows(found)) == sorted(expected)
    assert found.lost == [] and sum(found.counts.values()) == len(decisions)


def test_root_is_kept(tmp_path: Path) -> None:
    after = labelled(*FIRST)
    found = applied(after, decision("reject", "car", VAN, source=12))
    assert found.rejected.root == after.root and found.after.root == after.root
