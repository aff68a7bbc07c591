import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relabel.datasets.formats.box_checks import check_file_name, clean_boxes, clipped_area
from relabel.datasets.pixels.placing import file_name_fault
from relabel.errors import DataError, Problems

number = st.floats(-50, 150, allow_nan=False)
size = st.floats(0, 200, allow_nan=False)


def clean(boxes, problems=None, width=100, height=80):
    xywh = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return clean_boxes(
        np.zeros(len(xywh), np.int32), xywh, np.array([width]), np.array([height]),
        problems or Problems(), "f.json", lambda i: f"annotation {i}",
    )  # fmt: skip


@settings(max_examples=150)
@given(st.lists(st.tuples(number, number, size, size), max_size=8))
def test_what_is_kept_lies_inside_and_what_was_inside_is_untouched(boxes):
    problems = Problems()
    keep, out = clean(boxes, problems)
    for (x, y, w, h), kept, box in zip(boxes, keep, out, strict=True):
        # A millionth of a pixel outside is rounding, and no reason to cut or drop.
        e = 1e-6
        overlaps = w > 0 and h > 0 and x < 100 + e and y < 80 + e and x + w > -e and y + h > -e
        if kept:
            assert overlaps
            assert box[0] >= -1e-6
            assert box[1] >= -1e-6
            assert box[0] + box[2] <= 100 + 1e-6
            assert box[1] + box[3] <= 80 + 1e-6
            if x >= 0 and y >= 0 and x + w <= 100 and y + h <= 80:
                assert box.tolist() == [x, y, w, h]
    assert sum(problems.counts.values()) >= int((~keep).sum())


def test_an_image_of_unknown_size_does_not_clip_on_the_right():
    keep, out = clean([[-4, 5, 1000, 9]], width=0, height=0)
    assert keep.tolist() == [True]
    assert out.tolist() == [[0, 5, 996, 9]]


def test_rounding_of_the_sum_is_no_clip():
    problems = Problems()
    box = [0.1, 0.2, 100 - 0.1 + 1e-12, 10]
    keep, out = clean([box], problems)
    assert keep.all()
    assert out.tolist() == [box]
    assert problems.counts == {}


def test_bad_boxes_are_errors_with_their_record():
    with pytest.raises(DataError, match=r"f\.json, annotation 1: .*not finite"):
        clean([[1, 1, 1, 1], [1, np.nan, 1, 1]])
    problems = Problems(skip_bad=True)
    keep, _ = clean([[1, 1, 1, -1], [1, 1, np.inf, 1], [1, 1, 1, 1]], problems)
    assert keep.tolist() == [False, False, True]
    assert [p.record for p in problems.errors] == ["annotation 0", "annotation 1"]
    assert problems.counts == {}


def test_a_clipped_box_keeps_the_area_of_its_mask_where_it_fits():
    before = np.array([[0, 0, 10, 10], [-5, 0, 10, 10], [-5, 0, 10, 10.0]])
    after = np.array([[0, 0, 10, 10], [0, 0, 5, 10], [0, 0, 5, 10.0]])
    areas = clipped_area(np.array([70.0, 30.0, 100.0]), before, after)
    assert areas.tolist() == [70, 30, 50]


@pytest.mark.parametrize(
    "name",
    ["/a.jpg", "\\a.jpg", "C:\\a.jpg", "c:a.jpg", "..", "../a.jpg", "a/../b.jpg", "a\\..\\b.jpg",
     "", "a\0.jpg", "~/a.jpg", "zip:a!b", "bytes:/etc/passwd!0!9"],
)  # fmt: skip
def test_names_that_lead_outside(name):
    assert file_name_fault(name)
    with pytest.raises(DataError, match="image 3"):
        check_file_name(name, problems=Problems(), file="a.json", record="image 3")


@pytest.mark.parametrize("name", ["a.jpg", "x/y/a..b.jpg", "..a.jpg", "a b.jpg", "ä.png"])
def test_names_that_stay_inside(name):
    assert check_file_name(name, problems=Problems(), file="a.json")


@pytest.mark.filterwarnings("error")
def test_infinite_corners_are_reported_without_a_word_of_numpy():
    problems = Problems(skip_bad=True)
    xywh = np.array([[-np.inf, 1, np.inf, 5], [1, 1, 5, 5]])
    size = np.array([40])
    keep, _ = clean_boxes(np.zeros(2, int), xywh, size, size, problems, "f", lambda i: f"box {i}")
    assert keep.tolist() == [False, True] and [p.record for p in problems.errors] == ["box 0"]
