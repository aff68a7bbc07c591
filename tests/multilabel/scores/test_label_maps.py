"""Label maps: files, cells, region scores, axis order; expectations worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from relabel.errors import DataError
from relabel.multilabel.grid import mask_weights, to_grid
from relabel.multilabel.scores.label_maps import (
    LabelMap,
    LabelMapFolder,
    axis_agreement,
    keep_top,
    read_label_map,
    region_scores_batch,
)


def _tiny() -> LabelMap:
    """Four classes, two kept, 2 x 2 cells: class 1 in the left column, class 3 in the right."""
    logits = torch.tensor([[[4.0, 2.0], [4.0, 2.0]], [[1.0, 0.5], [1.0, 0.5]]])
    ids = torch.tensor([[[1, 3], [1, 3]], [[0, 1], [0, 1]]])
    return LabelMap(logits, ids, 4)


def _random(classes: int = 1000, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(classes, 15, 15, generator=g) * 4
    values, ids = logits.topk(5, dim=0)
    return torch.stack([values, ids.float()])


def test_a_dense_map_holds_the_kept_logits_and_zeros() -> None:
    dense = _tiny().dense()
    assert dense.tolist() == [
        [[1.0, 0.0], [1.0, 0.0]],
        [[4.0, 0.5], [4.0, 0.5]],
        [[0.0, 0.0], [0.0, 0.0]],
        [[0.0, 2.0], [0.0, 2.0]],
    ]


def _scores(label_map: LabelMap, masks: torch.Tensor) -> torch.Tensor:
    """float32 [n, C]: the scores of one image's regions."""
    rows = torch.zeros(len(masks), dtype=torch.long)
    return region_scores_batch(label_map.stacked()[None], rows, masks, label_map.classes)


def _dense_scores(dense: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The same from all logits [C, g, g], zeros included."""
    sums = torch.einsum("ngh,cgh->nc", masks.double(), dense.double())
    return (sums / masks.double().sum((1, 2))[:, None]).softmax(1).float()


def test_region_scores_are_the_softmax_of_the_weighted_mean() -> None:
    left = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    mixed = torch.tensor([[[1.0, 0.5], [0.0, 0.5]]])  # mean: 1/2 of left, 1/2 of right
    scores = _scores(_tiny(), torch.cat([left, mixed]))
    for row, means in zip(scores, ([1, 4, 0, 0], [0.5, 2.25, 0, 1]), strict=True):
        total = sum(math.exp(m) for m in means)
        assert row.tolist() == pytest.approx([math.exp(m) / total for m in means], abs=1e-6)
    dense = _dense_scores(_tiny().dense(), torch.cat([left, mixed]))
    assert torch.allclose(scores, dense, atol=1e-7)


def test_a_region_without_weight_is_undecided() -> None:
    assert _scores(_tiny(), torch.zeros(1, 2, 2)).tolist() == [[0.25] * 4]


def test_a_batch_scores_each_region_with_its_own_image() -> None:
    maps = torch.stack([_random(50, s) for s in range(3)])
    masks = torch.rand(4, 15, 15, generator=torch.Generator().manual_seed(1))
    images = torch.tensor([2, 0, 0, 1])
    scores = region_scores_batch(maps, images, masks, 50)
    for row, image, mask in zip(scores, images, masks, strict=True):
        single = LabelMap(maps[image, 0], maps[image, 1].long(), 50)
        assert torch.allclose(row, _dense_scores(single.dense(), mask[None])[0], atol=1e-6)


def test_grids_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="grid"):
        _scores(_tiny(), torch.ones(1, 3, 3))


def test_mask_weights_are_exact_areas() -> None:
    mask = torch.zeros(1, 3, 4, dtype=torch.bool)
    mask[0, 1, :2] = True  # the middle row is shared by both rows of cells
    weights = mask_weights(mask, 2)
    # A cell is 1.5 x 2 pixels; half of the row's height, 0.5 x 2, is in each left cell.
    assert torch.allclose(weights[0], torch.tensor([[1 / 3, 0.0], [1 / 3, 0.0]]))
    generator = torch.Generator().manual_seed(0)
    many = torch.rand(5, 37, 53, generator=generator) > 0.5
    fine = mask_weights(many, (15, 7))
    assert fine.shape == (5, 15, 7)
    share = many.float().mean((1, 2))
    assert torch.allclose(fine.mean((1, 2)), share, atol=1e-6)


def test_the_grid_keeps_means_when_shrinking_and_interpolates_when_growing() -> None:
    x = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(to_grid(x, 5).mean((2, 3)), x.mean((2, 3)), atol=1e-6)
    row = torch.tensor([[0.0, 4.0], [0.0, 4.0]])
    assert to_grid(row[None, None], 4)[0, 0, 0].tolist() == [0.0, 1.0, 3.0, 4.0]
    assert torch.equal(to_grid(x[..., :7], 7), x[..., :7])


def test_kept_classes_keep_their_probabilities_under_zero_fill() -> None:
    logits = torch.randn(2, 30, 3, 3, generator=torch.Generator().manual_seed(0)) * 3 - 7
    maps = keep_top(logits, 5)
    assert maps.shape == (2, 2, 5, 3, 3)
    ids = maps[1, 1].long()
    dense = LabelMap(maps[1, 0], ids, 30).dense()
    # All logits were around -7: with plain zero fill the left-out classes would have won.
    kept = dense.softmax(0).gather(0, ids)
    assert torch.allclose(kept, logits[1].softmax(0).gather(0, ids), atol=1e-6)
    assert torch.equal(ids[0], logits[1].argmax(0))


def test_all_classes_kept_are_left_as_they_are() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0]).view(1, 3, 1, 1)
    maps = keep_top(logits, 5)
    assert maps[0, 0].flatten().tolist() == [3.0, 2.0, 1.0]
    assert maps[0, 1].flatten().tolist() == [1.0, 2.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_files_are_read_in_any_number_type(dtype: torch.dtype, tmp_path: Path) -> None:
    data = _random()
    torch.save(data.to(dtype), tmp_path / "a.pt")
    found = read_label_map(tmp_path / "a.pt")
    assert torch.equal(found.logits, data[0].to(dtype).float())
    assert torch.equal(found.ids, data[1].long())
    assert found.dense().shape == (1000, 15, 15)
    swapped = read_label_map(tmp_path / "a.pt", transpose=True)
    assert torch.equal(swapped.dense(), found.dense().transpose(1, 2))
    assert not torch.equal(swapped.ids, found.ids)


def test_class_ids_beyond_fp16_stay_exact(tmp_path: Path) -> None:
    data = torch.stack([torch.ones(5, 15, 15), torch.full((5, 15, 15), 4097.0)])
    torch.save(data, tmp_path / "a.pt")
    assert int(read_label_map(tmp_path / "a.pt", classes=5000).ids.max()) == 4097


def _broken(what: str, path: Path) -> None:
    data = _random()
    if what == "missing":
        return
    if what == "cut off":
        torch.save(data, path)
        path.write_bytes(path.read_bytes()[:900])
    elif what == "text":
        path.write_text("not a tensor")
    elif what == "code":
        torch.save({"run": print}, path)
    elif what == "dict":
        torch.save({"a": data}, path)
    elif what == "shape":
        torch.save(data[:, :, :14], path)
    elif what == "three":
        torch.save(torch.cat([data, data[:1]]), path)
    else:
        row, value = {"high": (1, 1000), "low": (1, -1), "half": (1, 3.5), "nan": (0, math.nan)}[
            what
        ]
        data[row, 0, 3, 4] = value
        torch.save(data, path)


def test_a_few_numbers_that_stand_for_billions(tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    for data in (
        torch.zeros(1).expand(2, 5, 30000, 30000),
        torch.sparse_coo_tensor(torch.empty(4, 0), torch.empty(0), (2, 5, 30000, 30000)),
    ):
        torch.save(data, path)
        assert path.stat().st_size < 4000
        with pytest.raises(DataError, match="9,000,000,000 numbers, or in an unusual form"):
            read_label_map(path)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("missing", "does not exist"),
        ("cut off", "cannot be read"),
        ("text", "cannot be read"),
        ("code", "cannot be read"),
        ("dict", "a dict, not a tensor"),
        ("shape", r"shape \[2, 5, 14, 15\]"),
        ("three", r"shape \[3, 5, 15, 15\]"),
        ("high", r"class id 1000 is outside 0\.\.999"),
        ("low", r"class id -1 is outside"),
        ("half", "class id 3.5 is not a whole number"),
        ("nan", "NaN"),
    ],
)
def test_bad_files_are_named_in_one_line(what: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    _broken(what, path)
    with pytest.raises(DataError, match=says) as caught:
        read_label_map(path)
    assert caught.value.file == str(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "image",
    [
        "n01440764/n01440764_10026.JPEG",
        "train/n01440764/n01440764_10026.JPEG",
        "n01440764_10026.JPEG",
    ],
)
def test_a_folder_finds_the_map_of_an_image(image: str, tmp_path: Path) -> None:
    (tmp_path / "n01440764").mkdir()
    torch.save(_random(), tmp_path / "n01440764" / "n01440764_10026.pt")
    folder = LabelMapFolder(tmp_path)
    assert torch.equal(folder.read(image).ids, _random()[1].long())
    assert folder.find("n01440764/n01440764_1.JPEG") is None
    with pytest.raises(DataError, match=r"n01440764_1\.pt: label map does not exist"):
        folder.read("n01440764/n01440764_1.JPEG")


def test_an_image_without_a_folder_is_found_in_the_root(tmp_path: Path) -> None:
    torch.save(_random(), tmp_path / "x.pt")
    folder = LabelMapFolder(tmp_path)
    assert folder.find("x.JPEG") == tmp_path / "x.pt"
    assert folder.any_of(["y.JPEG", "x.JPEG"]) and not folder.any_of(["y.JPEG"])


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        LabelMapFolder(tmp_path / "none")


@pytest.mark.parametrize("stored", ["plain", "swapped"])
def test_the_axis_order_is_told_from_the_regions(stored: str) -> None:
    g = torch.Generator().manual_seed(0)
    maps, masks, labels = [], [], []
    for i in range(12):
        region = torch.zeros(1, 45, 60, dtype=torch.bool)
        top, left = int(torch.randint(0, 25, (), generator=g)), (i % 3) * 15
        region[0, top : top + 20, left : left + 15] = True
        cells = mask_weights(region, 15)[0] * 9 + torch.rand(15, 15, generator=g)
        if stored == "swapped":
            cells = cells.T
        ids = torch.full((1, 15, 15), i % 7)
        maps.append(LabelMap(cells[None].contiguous(), ids, 7))
        masks.append(region)
        labels.append(i % 7)
    found = axis_agreement(maps, masks, labels)
    assert found.images == 12
    assert found.transpose is (stored == "swapped")
    assert max(found.plain, found.transposed) > 0.9 > min(found.plain, found.transposed)


def test_without_regions_the_axis_order_is_not_told() -> None:
    found = axis_agreement([_tiny()], [torch.zeros(0, 8, 8, dtype=torch.bool)], [1])
    assert found.images == 0
    assert found.transpose is None
