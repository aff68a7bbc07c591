"""A frozen backbone's maps: what is kept is what the body gives, once per image."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from relabel.backbones import stored
from relabel.backbones.extractor import FeatureExtractor, PyramidBackbone, resolve_backbone
from relabel.backbones.stored import MapSizes, MapStore, stacked, view_of
from relabel.datasets.dataset import DetectionDataset, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.location import load_rgb
from relabel.errors import DataError, RelabelError
from relabel.settings import Runtime
from relabel.training.pixels import pad_batch, resized_pixels
from tests.builders.blocks import tiny_backbone
from tests.builders.datasets import dataset_of, write_pixels

RUNTIME = Runtime(device="cpu", workers=0, quiet=True)
CPU = torch.device("cpu")
SIZES = MapSizes(96, 160, "fp32")


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> FeatureExtractor:
    folder = str(tiny_backbone(tmp_path_factory.mktemp("backbone")))
    body = FeatureExtractor(resolve_backbone(folder), folder)
    for module in body.net.modules():  # statistics that a norm in training mode would not keep
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    body.freeze(32)
    return body


@pytest.fixture
def store(body: FeatureExtractor, tmp_path: Path) -> MapStore:
    return MapStore(PyramidBackbone(body, (8, 16), 16), tmp_path / "maps", SIZES, CPU)


def photos(folder: Path, sizes: list[tuple[int, int]]) -> DetectionDataset:
    """Noise of these heights and widths."""
    rng = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(len(sizes))]
    for name, size in zip(names, sizes, strict=True):
        write_pixels(folder / name, rng.integers(0, 256, (*size, 3)).astype(np.uint8))
    space = LabelSpace.from_names("one", ["thing"])
    none = make_boxes([], np.zeros((0, 4)), [])
    made = dataset_of("noise", space, names, none, root=folder, size=(1, 1))
    height, width = (np.array(side, np.int32) for side in zip(*sizes, strict=True))
    return replace(made, images=replace(made.images, height=height, width=width))


def live(
    body: FeatureExtractor, dataset: DetectionDataset, row: int, *, mirrored: bool
) -> dict[int, torch.Tensor]:
    x = resized_pixels(load_rgb(dataset, row), SIZES.image_size, SIZES.max_image_size)
    pixels, _ = pad_batch([x.flip(2) if mirrored else x], 32)
    body.train()  # as in a training, which a frozen body takes no notice of
    with torch.no_grad():
        return body(pixels)


def test_kept_maps_are_the_live_ones_to_half_precision(
    body: FeatureExtractor, store: MapStore, tmp_path: Path
) -> None:
    dataset = photos(tmp_path, [(96, 96), (70, 140), (200, 150)])
    files = store.fill(dataset, mirrored=True, runtime=RUNTIME)
    for row in range(3):
        for mirrored in (False, True):
            kept = store.read(dataset, row, files[row], mirrored)
            expected = live(body, dataset, row, mirrored=mirrored)
            assert list(kept.levels) == [8, 16]
            for stride, level in kept.levels.items():
                assert level.dtype == torch.float16
                whole = expected[stride][0]
                torch.testing.assert_close(level.float(), whole, rtol=1e-3, atol=1e-3)
    plain = store.read(dataset, 1, files[1], mirrored=False)
    assert plain.size == (80, 160)
    assert plain.levels[8].shape[1:] == (12, 20)  # 80 pixels padded to 96


def test_a_batch_pads_the_maps_of_smaller_images(store: MapStore, tmp_path: Path) -> None:
    dataset = photos(tmp_path, [(96, 96), (96, 150)])
    files = store.fill(dataset, mirrored=False, runtime=RUNTIME)
    images = [store.read(dataset, row, files[row], mirrored=False) for row in range(2)]
    batch, sizes = stacked(images)
    assert sizes == [(96, 96), (96, 150)]
    assert batch.size == (96, 160)
    for stride, level in batch.levels.items():
        first = images[0].levels[stride]
        assert torch.equal(level[0, :, :, : first.shape[2]], first)
        assert not level[0, :, :, first.shape[2] :].any()
        assert torch.equal(level[1], images[1].levels[stride])
        assert level.is_contiguous(memory_format=torch.channels_last)


def test_images_are_computed_once_whatever_their_labels(
    store: MapStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = photos(tmp_path, [(96, 96), (96, 128), (64, 64)])
    files = store.fill(dataset, [0, 2], mirrored=True, runtime=RUNTIME)
    assert [f.is_file() for f in files] == [True, False, True]
    relabelled = dataset.with_boxes(
        make_boxes([0], np.array([[1, 2, 30, 40]]), [0]), LabelSpace.from_names("b", ["car"])
    )
    computed: list[Path] = []
    write = MapStore._write
    monkeypatch.setattr(
        MapStore, "_write", lambda self, file, x: (computed.append(file), write(self, file, x))
    )
    assert store.fill(relabelled, mirrored=True, runtime=RUNTIME) == files
    assert set(computed) == {files[1], view_of(files[1])}
    part = store.fill(dataset.subset([2, 1]), mirrored=True, runtime=RUNTIME)
    assert part == [files[2], files[1]]
    assert len(computed) == 2
    assert not list(store.folder.rglob(".tmp-*"))


def test_other_pixels_weights_and_sizes_have_files_of_their_own(
    body: FeatureExtractor, store: MapStore, tmp_path: Path
) -> None:
    dataset = photos(tmp_path, [(96, 96)])
    before = store.fill(dataset, mirrored=False, runtime=RUNTIME)
    image = tmp_path / "0.png"
    state = image.stat()
    write_pixels(image, np.zeros((96, 96, 3), np.uint8))
    os.utime(image, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))
    after = store.fill(dataset, mirrored=False, runtime=RUNTIME)
    assert before != after
    black = store.read(dataset, 0, after[0], mirrored=False)
    expected = live(body, dataset, 0, mirrored=False)[8][0]
    torch.testing.assert_close(black.levels[8].float(), expected, rtol=1e-3, atol=1e-3)

    maps = PyramidBackbone(body, (8, 16), 16)
    same = MapStore(PyramidBackbone(body, (16, 8), 32), tmp_path / "maps", SIZES, CPU)
    others = [
        MapStore(maps, tmp_path / "maps", replace(SIZES, image_size=64), CPU),
        MapStore(maps, tmp_path / "maps", replace(SIZES, precision="bf16"), CPU),
        MapStore(PyramidBackbone(body, (8, 32), 16), tmp_path / "maps", SIZES, CPU),
    ]
    weight = next(body.net.parameters())
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight += 1
        others.append(MapStore(maps, tmp_path / "maps", SIZES, CPU))
    finally:
        weight.data.copy_(kept)
    assert same.folder == store.folder
    assert len({store.folder, *(o.folder for o in others)}) == 5


def test_an_image_that_cannot_be_read_is_named(store: MapStore, tmp_path: Path) -> None:
    dataset = photos(tmp_path, [(96, 96), (96, 96)])
    (tmp_path / "1.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"1\.png"):
        store.fill(dataset, mirrored=True, runtime=RUNTIME)
    (tmp_path / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png"):
        store.fill(dataset, mirrored=True, runtime=RUNTIME)


def test_maps_that_the_disk_has_no_room_for_are_refused_before_the_first(
    store: MapStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = photos(tmp_path, [(96, 96)])
    needed = 2 * 2 * sum((96 // s) ** 2 * store.body.channels[s] for s in (8, 16))

    class Usage:
        free = needed - 1

    monkeypatch.setattr(stored.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(RelabelError, match="GB are free"):
        store.fill(dataset, mirrored=True, runtime=RUNTIME)
    Usage.free = needed
    files = store.fill(dataset, mirrored=True, runtime=RUNTIME)
    assert sum(f.stat().st_size for f in (files[0], view_of(files[0]))) == needed
