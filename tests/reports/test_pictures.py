"""Drawing boxes: colours at the right pixels, labels that stay apart."""

from __future__ import annotations

import numpy as np
import pytest

from relabel.reports.pictures import class_palette, contact_sheet, crop_around, draw_boxes


def test_palette_depends_on_names_only() -> None:
    names = [f"class {k}" for k in range(16)]
    palette = class_palette(names)
    assert palette == class_palette(reversed(names))
    assert len(set(palette.values())) == 16
    assert class_palette(["car"])["car"] == class_palette(["car"])["car"]
    # More classes than fixed colours still get one each.
    assert len(class_palette([f"c{k}" for k in range(60)])) == 60


def test_frames_are_drawn_where_the_boxes_are() -> None:
    image = np.full((100, 200, 3), 40, np.uint8)
    picture = draw_boxes(
        image, np.array([[50, 30, 150, 80]]), ["car"], colors={"car": (255, 0, 0)}, tags=False
    )
    pixels = np.asarray(picture)
    assert pixels.shape == (100, 200, 3)
    assert pixels[30, 100].tolist() == pixels[55, 50].tolist() == [255, 0, 0]
    assert pixels[80, 100].tolist() == pixels[55, 150].tolist() == [255, 0, 0]
    assert pixels[55, 100].tolist() == [40, 40, 40]
    assert image.min() == image.max() == 40


def test_scaling_moves_the_boxes_along() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    picture = draw_boxes(
        image,
        np.array([[40, 20, 120, 80]]),
        ["a"],
        colors={"a": (0, 255, 0)},
        width=100,
        tags=False,
    )
    assert picture.size == (100, 50)
    assert np.asarray(picture)[25, 20].tolist() == [0, 255, 0]
    # Never more than twice as large.
    assert draw_boxes(image, np.zeros((0, 4)), [], width=900).size == (400, 200)


def test_tags_do_not_cover_each_other() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    boxes = np.array([[50, 60, 150, 160], [52, 61, 152, 161], [54, 62, 154, 162]])
    colors = {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255)}
    bare = np.asarray(draw_boxes(image, boxes, ["a", "b", "c"], colors=colors, tags=False))
    full = np.asarray(draw_boxes(image, boxes, ["a", "b", "c"], colors=colors))
    added = (full != bare).any(axis=2)
    for color in colors.values():
        mine = added & (full == color).all(axis=2)
        rows, columns = np.nonzero(mine)
        # Each tag is one rectangle that no other tag's colour enters.
        inside = full[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        others = [c for c in colors.values() if c != color]
        assert len(rows) > 50
        assert not any((inside == c).all(axis=2).sum() > 0.2 * inside[..., 0].size for c in others)


def test_ignored_regions_have_no_frame_in_the_class_colour() -> None:
    image = np.zeros((60, 60, 3), np.uint8)
    picture = draw_boxes(
        image,
        np.array([[10, 10, 50, 50]]),
        ["a"],
        colors={"a": (255, 0, 0)},
        ignore=np.array([True]),
    )
    pixels = np.asarray(picture)
    assert not (pixels == (255, 0, 0)).all(axis=2).any()
    assert pixels[10:50, 10:50].any(axis=2).mean() > 0.9
    assert not pixels[:9].any()


def test_wrong_lengths() -> None:
    with pytest.raises(ValueError, match="1 boxes, but 2 labels"):
        draw_boxes(np.zeros((5, 5, 3), np.uint8), np.zeros((1, 4)), ["a", "b"])
    with pytest.raises(ValueError, match="no pictures"):
        contact_sheet([], [])


def test_contact_sheet_places_cells_in_a_grid() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    pictures = [draw_boxes(np.full((20, 40, 3), c, np.uint8), np.zeros((0, 4)), []) for c in colors]
    sheet = contact_sheet(pictures, ["a", "b", "c"], columns=2, cell_width=80)
    # Two columns of 80 and three gaps of 12; two rows of 40 + 28 and three gaps.
    assert sheet.size == (2 * 80 + 3 * 12, 2 * 68 + 3 * 12)
    pixels = np.asarray(sheet)
    for (x, y), color in zip([(52, 60), (144, 60), (52, 140)], colors, strict=True):
        assert pixels[y, x].tolist() == list(color)


def test_dashed_frames_have_gaps() -> None:
    image = np.full((100, 200, 3), 40, np.uint8)
    boxes = np.array([[10, 10, 60, 90], [100, 10, 150, 90]])
    picture = draw_boxes(
        image,
        boxes,
        ["a", "a"],
        colors={"a": (255, 0, 0)},
        dashed=np.array([True, False]),
        tags=False,
    )
    red = (np.asarray(picture) == (255, 0, 0)).all(axis=2)
    for frame, whole in ((red[10, 12:58], False), (red[10, 102:148], True)):
        assert frame.any() and bool(frame.all()) == whole
    left, right = red[14:86, 10], red[14:86, 100]
    assert left.any() and not left.all() and right.all()


def test_frames_are_as_wide_as_asked() -> None:
    image, box = np.zeros((100, 200, 3), np.uint8), np.array([[50, 20, 150, 80]])
    for line in (3, 5):
        picture = draw_boxes(image, box, ["a"], colors={"a": (255, 0, 0)}, tags=False, line=line)
        assert (np.asarray(picture)[50, :100] == (255, 0, 0)).all(axis=1).sum() == line


def test_crops_hold_the_box_and_stay_in_the_image() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[40:60, 90:110] = 255
    part, box = crop_around(image, (90, 40, 110, 60), context=1, least=10)
    assert part.shape == (60, 60, 3) and box == (20, 20, 40, 40)
    assert part[20:40, 20:40].min() == 255 and part.sum() == image.sum()
    corner, box = crop_around(image, (190, 90, 200, 100), least=64)
    assert corner.shape == (64, 64, 3) and box == (54, 54, 64, 64)
    # Larger than the image in one direction.
    whole, box = crop_around(image, (0, 0, 120, 100))
    assert whole.shape == (100, 200, 3) and box == (0, 0, 120, 100)
