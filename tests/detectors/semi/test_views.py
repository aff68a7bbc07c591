"""What the student sees, and where its boxes are in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from relabel.detectors.semi import views
from relabel.detectors.semi.views import Placement, mixed_views, mixup, mosaic, strong_view


def test_a_strong_view_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "ERASED", ())
    x = torch.full((3, 60, 80), 0.5)
    x[0, 20:40, 30:50] = 0.9
    kept = x.clone()
    changed = 0
    for seed in range(40):
        y = strong_view(x, np.random.default_rng(seed))
        assert y.shape == x.shape
        assert 0 <= float(y.min()) <= float(y.max()) <= 1
        rows, columns = ((y - y[:, :1, :1]).abs().sum(dim=0) > 0.02).nonzero().unbind(1)
        assert float(rows.float().mean()) == pytest.approx(29.5, abs=0.6)
        assert float(columns.float().mean()) == pytest.approx(39.5, abs=0.6)
        changed += not torch.equal(x, y)
    assert changed >= 30
    assert torch.equal(x, kept)


def test_erased_boxes_leave_most_of_the_image() -> None:
    x = torch.full((3, 60, 80), 0.5)
    shares = []
    for seed in range(60):
        y = strong_view(x, np.random.default_rng(seed))
        assert torch.equal(y, strong_view(x, np.random.default_rng(seed)))
        flat = (y - y.flatten(1).median(dim=1).values[:, None, None]).abs().amax(dim=0) < 0.02
        shares.append(1 - float(flat.float().mean()))
    # At least one box in 1 - 0.3 * 0.5 * 0.7 of the views, each of 2 to 20 percent.
    assert np.mean(np.array(shares) > 0.01) == pytest.approx(0.895, abs=0.1)
    assert max(shares) < 0.6


def spot(height: int, width: int, box: list[int], value: float) -> Tensor:
    """A dark image with a bright rectangle."""
    x = torch.zeros(3, height, width)
    x[:, box[1] : box[3], box[0] : box[2]] = value
    return x


def bright(x: Tensor, above: float) -> list[float]:
    """The box around what is brighter."""
    rows, columns = (x[0] > above).nonzero().unbind(1)
    return [
        float(columns.min()),
        float(rows.min()),
        float(columns.max()) + 1,
        float(rows.max()) + 1,
    ]


def test_mixup_shows_half_of_each_where_both_are_and_all_of_one_elsewhere() -> None:
    first, second = torch.full((3, 20, 60), 0.8), torch.full((3, 40, 30), 0.2)
    view, placements = mixup([first, second], 0, 1)
    assert view.shape == (3, 40, 60)
    assert view[0, 10, 10] == pytest.approx(0.5)
    assert view[0, 10, 50] == pytest.approx(0.8)
    assert view[0, 30, 10] == pytest.approx(0.2)
    assert view[0, 30, 50] == 0
    assert placements == [Placement(0), Placement(1)]
    boxes = torch.tensor([[1.0, 2, 3, 4]])
    assert torch.equal(placements[1].boxes(boxes), boxes)


@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.35, 0.65), (0.6, 0.4)])
def test_boxes_of_a_mosaic_lie_where_its_images_do(centre: tuple[float, float]) -> None:
    boxes = [[10, 20, 50, 60], [30, 10, 90, 70], [60, 40, 100, 80], [20, 30, 60, 60]]
    sizes = [(80, 120), (90, 100), (100, 110), (80, 80)]
    images = [spot(h, w, box, 0.9) for (h, w), box in zip(sizes, boxes, strict=True)]
    view, placements = mosaic(images, [2, 0, 3, 1], centre)
    assert view.shape == images[2].shape
    assert [p.image for p in placements] == [2, 0, 3, 1]
    middle = (round(centre[0] * 110), round(centre[1] * 100))
    for place, p in enumerate(placements):
        alone = [x if i == p.image else torch.zeros_like(x) for i, x in enumerate(images)]
        only, _ = mosaic(alone, [2, 0, 3, 1], centre)
        moved = p.boxes(torch.tensor([boxes[p.image]], dtype=torch.float32))[0].tolist()
        assert bright(only, 0.45) == pytest.approx(moved, abs=1.0)
        # Whole, on its side of the centre.
        frame = p.boxes(torch.tensor([[0.0, 0, *sizes[p.image][::-1]]]))[0].tolist()
        low_x, high_x = (middle[0], 110) if place % 2 else (0, middle[0])
        low_y, high_y = (middle[1], 100) if place >= 2 else (0, middle[1])
        assert low_x - 1 <= frame[0] <= frame[2] <= high_x + 1
        assert low_y - 1 <= frame[1] <= frame[3] <= high_y + 1


def test_every_image_is_mixed_with_another_and_four_make_a_mosaic() -> None:
    images = [torch.full((3, 32, 48), 0.1 * i) for i in range(9)]
    found = mixed_views(images, np.random.default_rng(0))
    pairs = [p for _, p in found if len(p) == 2]
    fours = [p for _, p in found if len(p) == 4]
    assert len(pairs) == 9 and len(fours) == 2 and len(found) == 11
    assert all(a.image != b.image for a, b in pairs)
    assert sorted(p.image for pair in pairs for p in pair) == sorted([*range(9), *range(9)])
    assert len({p.image for four in fours for p in four}) == 8
    again = mixed_views(images, np.random.default_rng(0))
    assert all(torch.equal(a, b) and p == q for (a, p), (b, q) in zip(found, again, strict=True))


def test_a_single_image_stays_as_it_is_and_three_make_no_mosaic() -> None:
    one = torch.rand(3, 8, 8)
    [(view, placements)] = mixed_views([one], np.random.default_rng(0))
    assert torch.equal(view, one) and placements == [Placement(0)]
    assert mixed_views([], np.random.default_rng(0)) == []
    three = mixed_views([one, one, one], np.random.default_rng(0))
    assert [len(p) for _, p in three] == [2, 2, 2]


@pytest.mark.parametrize("size", [(1, 90), (90, 1), (2, 3), (1, 1)])
def test_strips_are_blurred_and_mixed_as_well(size: tuple[int, int]) -> None:
    x = torch.rand(3, *size)
    views = [strong_view(x, np.random.default_rng(seed)) for seed in range(40)]
    assert all(view.shape == x.shape and bool(view.isfinite().all()) for view in views)
    for seed in range(10):
        found = mixed_views([x, torch.rand(3, 30, 40), x, x], np.random.default_rng(seed))
        assert len(found) == 5
        assert all(bool(view.isfinite().all()) for view, _ in found)
