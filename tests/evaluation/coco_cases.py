"""Hypothesis strategies of COCO truth and results that press on every rule of the evaluation."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

from hypothesis import strategies as st

# Few distinct values, so that equal IoUs, equal scores and boxes on the edge of a size range and
# of an IoU threshold are common.
COORDINATE = st.sampled_from([0.0, 5.0, 10.0, 20.0, 31.0, 32.0, 33.5])
SIZE = st.sampled_from([0.0, 4.0, 8.0, 16.0, 20.0, 32.0, 40.0, 96.0, 200.0])
BOX = st.one_of(
    st.tuples(COORDINATE, COORDINATE, SIZE, SIZE),
    st.tuples(*[st.floats(0, 120, allow_nan=False, allow_subnormal=False)] * 4),
).map(list)
SCORE = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
AREA = st.sampled_from([None, None, 0.0, 500.0, 1023.0, 1024.0, 9216.0, 9216.5, 1e10, 1e11])


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A truth file's content and a results list; either may be empty."""
    images = draw(st.lists(st.integers(0, 60), min_size=1, max_size=4, unique=True))
    classes = draw(st.lists(st.integers(0, 20), min_size=1, max_size=3, unique=True))
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    crowd_in_ten = draw(st.sampled_from([0, 3, 7]))
    for image in images:
        for _ in range(draw(st.integers(0, 5))):
            box = draw(BOX)
            area = draw(AREA)
            row = {
                "image_id": image,
                "category_id": draw(st.sampled_from(classes)),
                "bbox": box,
                "area": box[2] * box[3] if area is None else area,
                "iscrowd": int(draw(st.integers(0, 9)) < crowd_in_ten),
            }
            ignore = draw(st.sampled_from([None, None, 0, 1]))
            annotations.append(row if ignore is None else {**row, "ignore": ignore})
        mine = [a for a in annotations if a["image_id"] == image]
        for _ in range(draw(st.integers(0, 6))):
            near = [*mine[:3]] if mine and draw(st.booleans()) else []
            box = list(draw(st.sampled_from(near))["bbox"]) if near else draw(BOX)
            box[2] *= draw(st.sampled_from([1.0, 1.0, 0.95, 0.75, 0.5]))
            row = {
                "image_id": image,
                "category_id": draw(st.sampled_from(classes)),
                "bbox": box,
                "score": draw(SCORE),
            }
            # Far beyond the limit of detections per image, all in one cell.
            copies = 1 if draw(st.integers(0, 19)) else 120
            results.extend(copy.deepcopy(row) for _ in range(copies))
    first = draw(st.sampled_from([0, 1, 1, 7]))
    for i, annotation in enumerate(draw(st.permutations(annotations))):
        annotation["id"] = first + i
    truth = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in images],
        "categories": [{"id": k, "name": f"class {k}"} for k in classes],
        "annotations": annotations,
    }
    return truth, draw(st.permutations(results))


def pycocotools_numbers(truth: dict[str, Any], results: list[dict[str, Any]]) -> Any:
    """The evaluator after summarize(), which prints and changes what it is given."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        reference: Any = COCO()
        found: Any = COCO()
        reference.dataset = copy.deepcopy(truth)
        reference.createIndex()
        if results:
            found = reference.loadRes(copy.deepcopy(results))
        else:  # loadRes looks at the first result
            found.dataset = {**copy.deepcopy(truth), "annotations": []}
            found.createIndex()
        engine = COCOeval(reference, found, "bbox")
        engine.evaluate()
        engine.accumulate()
        engine.summarize()
    return engine
