"""MaskCut's rounds: hand-made scenes, the rules, and independence of sign, batch and solver."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from relabel.errors import ConfigError, DataError
from relabel.multilabel.regions import maskcut
from relabel.multilabel.regions.maskcut import discover, discover_batch
from tests.multilabel.regions.dense import clusters, eigenpairs, iou, second_eigenvector, upsampled


def scene(*rows: str) -> torch.Tensor:
    """Features [h, w, d] of a drawing: every letter a direction of its own, a dot the ground."""
    letters = sorted(set("".join(rows)))
    one_hot = torch.eye(len(letters))
    return torch.stack([torch.stack([one_hot[letters.index(c)] for c in row]) for row in rows])


def drawn(mask: torch.Tensor) -> list[str]:
    return ["".join("#" if cell else "." for cell in row) for row in mask.tolist()]


def test_one_object() -> None:
    """The smaller part has the larger |v|, as D-orthogonality to 1 demands: it is the seed's."""
    features = scene(
        "........",
        "..aaa...",
        "..aaa...",
        "........",
        "........",
    )
    (mask,) = discover(features, 0.5, 3)
    assert drawn(mask) == ["........", "..###...", "..###...", "........", "........"]
    # After it the ground is alone and uniform: there is nothing to cut in rounds two and three.


def test_objects_one_after_the_other() -> None:
    """Of parts that only eps connects, the cheapest to cut off for its degrees comes first.

    30 patches of ground, 6 of a, 4 of b. Cutting off a set S costs
    eps |S| |rest| (1/assoc(S) + 1/assoc(rest)), with assoc about the sum of squared sizes:
    {a}: 6 · 34 (1/36 + 1/916) = 5.89 eps; {b}: 4 · 36 (1/16 + 1/936) = 9.15 eps;
    {a, b}: 10 · 30 (1/52 + 1/900) = 6.10 eps.
    """
    features = scene(
        "........",
        ".aaa....",
        ".aaa.bb.",
        ".....bb.",
        "........",
    )
    masks = [drawn(mask) for mask in discover(features, 0.5, 3)]
    a = ["........", ".###....", ".###....", "........", "........"]
    b = ["........", "........", ".....##.", ".....##.", "........"]
    assert masks == [a, b]


def test_only_the_seeds_component() -> None:
    """Both islands of a are foreground with equal entries; the first patch of all is the seed."""
    features = scene(
        "..........",
        ".aa.......",
        "......aaa.",
        "......aaa.",
        "..........",
    )
    masks = [drawn(mask) for mask in discover(features, 0.5, 2)]
    first = ["..........", ".##.......", "..........", "..........", ".........."]
    second = ["..........", "..........", "......###.", "......###.", ".........."]
    assert masks == [first, second]


def test_diagonal_neighbours_are_not_connected() -> None:
    features = scene(
        ".......",
        ".aa....",
        "...aa..",
        ".......",
        ".......",
    )
    (mask,) = discover(features, 0.5, 1)
    assert drawn(mask) == [".......", ".##....", ".......", ".......", "......."]


@pytest.mark.parametrize("corners, flipped", [(2, False), (3, True), (4, True)])
def test_three_corners_swap_the_sides(corners: int, flipped: bool) -> None:
    """A ring of a with 16 of 36 patches has the larger |v|, but it has the corners."""
    ring = torch.zeros(6, 6, dtype=torch.bool)
    ring[0] = ring[:, 0] = ring[-1] = ring[:, -1] = True
    cells = [(0, 0), (0, 5), (5, 0), (5, 5)]
    for row, column in cells[corners:]:
        ring[row, column] = False
    features = torch.where(ring[..., None], torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    mask = discover(features, 0.5, 1)[0]
    if flipped:
        assert torch.equal(mask[1:5, 1:5], torch.ones(4, 4, dtype=torch.bool))
        assert not mask[ring].any()
    else:
        # The seed's component: without two corners the ring falls into parts.
        assert mask[0, 0] and not mask[1:5, 1:5].any()


def _in_three_rounds() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A 12 x 12 scene whose cuts are, in this order, an object, a speck and a second object.

    Only eps connects the first object (16 patches) and the speck (1) to the rest, in which the
    bridge's patches are neighbours of both the ground and the second object: a costlier cut.
    """
    directions = {
        "first": [0.0, 0.0, 1.0, 0.0],
        "speck": [0.0, 0.0, 0.0, 1.0],
        "second": [0.0, 1.0, 0.0, 0.0],
        "bridge": [1.0, 1.0, 0.0, 0.0],
    }
    places = {name: torch.zeros(12, 12, dtype=torch.bool) for name in directions}
    places["first"][1:5, 1:5] = True
    places["speck"][2, 9] = True
    places["second"][7:11, 5:10] = True
    places["bridge"][7:11, 10] = True
    features = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(12, 12, 1)
    for name, direction in directions.items():
        features[places[name]] = torch.tensor(direction)
    return features, places


def test_small_masks_are_rejected_and_do_not_come_back() -> None:
    """The speck, 1 of 144 patches, is no more than 1 %. Its round finds nothing; the next does."""
    features, places = _in_three_rounds()
    for rounds in (1, 2):
        (mask,) = discover(features, 0.5, rounds)
        assert torch.equal(mask, places["first"])
    for rounds in (3, 4):
        masks = discover(features, 0.5, rounds)
        assert torch.equal(masks[0], places["first"])
        assert masks[1][places["second"]].all()
        assert not masks[1][~places["second"] & ~places["bridge"]].any()


@pytest.mark.parametrize("side, kept", [(10, False), (9, True)])
def test_one_percent_is_too_small(side: int, kept: bool) -> None:
    """A speck of one patch: of 100 rejected, of 81 kept."""
    features = torch.tensor([1.0, 0.0, 0.0]).repeat(side, side, 1)
    features[1:4, 1:4] = torch.tensor([0.0, 1.0, 0.0])
    features[6, 6] = torch.tensor([0.0, 0.0, 1.0])
    sizes = [int(mask.sum()) for mask in discover(features, 0.5, 2)]
    assert sizes == ([9, 1] if kept else [9])


def test_the_first_mask_may_be_small() -> None:
    features = torch.tensor([1.0, 0.0]).repeat(11, 11, 1)
    features[6, 6] = torch.tensor([0.0, 1.0])
    (mask,) = discover(features, 0.5, 3)
    assert mask.nonzero().tolist() == [[6, 6]]


def test_nothing_to_cut() -> None:
    for features in (torch.ones(4, 5, 3), torch.zeros(4, 5, 3), torch.eye(20).view(4, 5, 20)):
        masks = discover(features, 0.5, 3)
        assert masks.shape == (0, 4, 5)
        assert masks.dtype == torch.bool
    assert discover(torch.ones(1, 1, 3), 0.5, 3).shape == (0, 1, 1)
    # Two patches: unlike ones are all apart, like ones all together; neither has a cut.
    assert discover(torch.eye(2)[None], 0.5, 3).shape == (0, 1, 2)
    assert discover(torch.ones(1, 2, 2), 0.5, 3).shape == (0, 1, 2)


def test_entries_at_the_mean_are_not_foreground() -> None:
    """8 patches of a, 8 of b and 4 of ground: v is c on a, -c on b and 0 but for rounding between.

    With sizes k, k and P - 2k the cut of a from b costs eps P / k = 2.5 eps and that of both from
    the ground eps ((P - 2k) / k + 2k / (P - 2k)) = 4.5 eps. The first patch of all is the seed.
    """
    features = scene("aa.bb", "aa.bb", "aa.bb", "aa.bb")
    (mask, *_) = discover(features, 0.5, 1)
    assert drawn(mask) == ["##...", "##...", "##...", "##..."]


SCENES = {
    "clusters": (clusters(256, 4, 16, 0.5, 0).view(16, 16, 16), 0.3),
    "noise": (clusters(256, 1, 8, 9.0, 1).view(16, 16, 8), 0.2),
    "smooth": (upsampled(16, 4, 12, 2), 0.4),
    "smooth, high tau": (upsampled(16, 4, 12, 3), 0.8),
    "smooth, low tau": (upsampled(16, 6, 12, 4), 0.1),
    "oblong": (upsampled(16, 5, 12, 5)[:9], 0.3),
}


@pytest.mark.parametrize("name", SCENES)
def test_the_first_mask_is_the_dense_vectors(name: str) -> None:
    """By methods.md to the letter, with the vector whose largest magnitude is positive."""
    features, tau = SCENES[name]
    h, w = features.shape[:2]
    v = eigenpairs(features.flatten(0, 1), tau)[2][:, 1]
    # Patches of a tight cluster have entries that differ by rounding only: the first of them.
    seed = int(np.argmax(np.abs(v) > 0.999999 * np.abs(v).max()))
    v = v * np.sign(v[seed])
    foreground = (v > v.mean()).reshape(h, w)
    if sum(foreground[i, j] for i in (0, h - 1) for j in (0, w - 1)) >= 3:
        foreground, seed = ~foreground, int(np.argmax(-v > 0.999999 * (-v).max()))
    parts = np.empty((h, w), np.int32)
    ndimage.label(foreground, output=parts)
    expected = parts == parts.ravel()[seed]
    assert iou(discover(features, tau, 1)[0].numpy(), expected) >= 0.99


@pytest.mark.parametrize("name", SCENES)
def test_the_sign_of_the_solver_does_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features, tau = SCENES[name]
    expected = discover(features, tau, 4)
    vector = second_eigenvector(features.flatten(0, 1), tau)
    solver = maskcut.second_vectors
    monkeypatch.setattr(maskcut, "second_vectors", lambda *args: -solver(*args))
    assert torch.equal(discover(features, tau, 4), expected)
    assert torch.equal(second_eigenvector(features.flatten(0, 1), tau), vector)


@pytest.mark.parametrize("name", SCENES)
def test_masks_are_disjoint_connected_and_large(name: str) -> None:
    features, tau = SCENES[name]
    masks = discover(features, tau, 5)
    assert 1 <= len(masks) <= 5
    assert int(masks.sum(0).max()) == 1
    for at, mask in enumerate(masks.numpy()):
        assert ndimage.label(mask, output=np.empty(mask.shape, np.int32)) == 1
        assert at == 0 or mask.sum() > 0.01 * mask.size
    for n in range(1, 5):
        fewer = discover(features, tau, n)
        assert torch.equal(fewer, masks[: len(fewer)])


def test_a_batch_gives_what_each_image_gives() -> None:
    images = [upsampled(12, 4, 8, seed) for seed in range(6)]
    images += [torch.ones(12, 12, 8), clusters(144, 4, 8, 0.3, 0).view(12, 12, 8)]
    batch = torch.stack(images)
    together = maskcut._discover_together(batch, 0.4, 4)  # as on a GPU
    one_by_one = discover_batch(batch, 0.4, 4)
    backwards = maskcut._discover_together(batch.flip(0), 0.4, 4)[::-1]
    for at, image in enumerate(images):
        expected = discover(image, 0.4, 4)
        assert torch.equal(together[at], expected)
        assert torch.equal(one_by_one[at], expected)
        assert torch.equal(backwards[at], expected)
    assert len({len(masks) for masks in together}) > 1  # some images end before others
    assert discover_batch(batch[:0], 0.4, 4) == []


@given(
    h=st.integers(1, 7),
    w=st.integers(1, 7),
    kinds=st.integers(1, 4),
    noise=st.sampled_from([0.0, 0.3, 1.0]),
    zeros=st.integers(0, 5),
    seed=st.integers(0, 10**6),
)
@hypothesis_settings(max_examples=60)
def test_any_grid(h: int, w: int, kinds: int, noise: float, zeros: int, seed: int) -> None:
    features = clusters(h * w, kinds, 6, noise, seed)
    features[:zeros] = 0
    features = features.view(h, w, 6)
    masks = discover(features, 0.4, 3)
    assert masks.shape[1:] == (h, w)
    assert len(masks) <= 3
    assert bool((masks.sum((1, 2)) > 0).all())
    assert int(masks.sum(0).max() if len(masks) else 0) <= 1
    other = maskcut._discover_together(torch.stack([features, features]), 0.4, 3)
    assert torch.equal(other[0], masks) and torch.equal(other[1], masks)


def test_bad_arguments() -> None:
    with pytest.raises(DataError, match="h, w, d"):
        discover(torch.ones(4, 3), 0.5, 3)
    with pytest.raises(DataError, match="h, w, d"):
        discover_batch(torch.ones(4, 3, 2), 0.5, 3)
    with pytest.raises(DataError, match="h, w, d"):
        discover(torch.ones(0, 3, 2), 0.5, 3)
    with pytest.raises(ConfigError, match="max_masks"):
        discover(torch.ones(4, 3, 2), 0.5, 0)
    with pytest.raises(ConfigError, match="tau"):
        discover(torch.ones(4, 3, 2), 1.0, 3)
    features = torch.ones(2, 2, 3, 2)
    features[1, 1, 2, 0] = float("nan")
    with pytest.raises(DataError, match="image 1 of the batch, patch 5"):
        maskcut._discover_together(features, 0.5, 3)


def test_photos(shared: Path) -> None:
    """Partitions of real photos equal the dense solver's; colour and texture as features."""
    files = sorted((shared / "data" / "voc100" / "JPEGImages").glob("*.jpg"))[:8]
    assert len(files) == 8
    for file in files:
        pixels = Image.open(file).convert("RGB").resize((160, 160), Image.Resampling.LANCZOS)
        image = torch.from_numpy(np.array(pixels)).float().permute(2, 0, 1) / 255
        patches = image.unfold(1, 8, 8).unfold(2, 8, 8).permute(1, 2, 0, 3, 4).flatten(2)
        features = torch.cat([patches.mean(2, keepdim=True), patches - patches.mean()], 2)
        flat = features.flatten(0, 1)
        v = second_eigenvector(flat, 0.6).numpy()
        d, _, vectors = eigenpairs(flat, 0.6)
        expected = vectors[:, 1] * np.sign(v @ d @ vectors[:, 1])
        assert iou(v > v.mean(), expected > expected.mean()) >= 0.99


@pytest.mark.cuda
def test_gpu_gives_what_the_cpu_gives() -> None:
    batch = torch.stack([upsampled(20, 5, 8, seed) for seed in range(5)])
    found = discover_batch(batch.cuda(), 0.4, 4)
    for at, expected in enumerate(discover_batch(batch, 0.4, 4)):
        assert found[at].is_cuda
        assert torch.equal(found[at].cpu(), expected)
