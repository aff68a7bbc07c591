"""Parallel image loading: order, boundaries, bad images, shutdown."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from relabel.datasets.dataset import DetectionDataset, Images
from relabel.datasets.pixels.batches import ImageBatches
from relabel.errors import ConfigError, DataError, Problems
from tests.builders.datasets import dataset_of, write_image


def make_dataset(root: Path, n: int) -> DetectionDataset:
    """n PNG images; image i is (4 + i) wide, 3 high, every pixel (i, 2 i, 3 i)."""
    names = [f"img{i}.png" for i in range(n)]
    for i, name in enumerate(names):
        write_image(root / name, 4 + i, 3, (i, 2 * i, 3 * i))
    images = Images(
        np.arange(100, 100 + n, dtype=np.int64),
        names,
        np.arange(4, 4 + n, dtype=np.int32),
        np.full(n, 3, np.int32),
    )
    return dataset_of("tiny", ["car"], images, root=root)


def decode_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("relabel-decode")]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_keep_the_given_order_and_pixels(tmp_path: Path, workers: int) -> None:
    dataset = make_dataset(tmp_path, 7)
    order = np.array([6, 0, 3, 3, 5])
    with ImageBatches(dataset, order, batch_size=2, workers=workers) as batches:
        assert len(batches) == 3
        found = list(batches)
    assert [rows.tolist() for rows, _ in found] == [[6, 0], [3, 3], [5]]
    for rows, images in found:
        for row, image in zip(rows.tolist(), images, strict=True):
            assert image.shape == (3, 4 + row, 3)
            assert image.dtype == np.uint8
            assert (image == [row, 2 * row, 3 * row]).all()


def test_all_images_and_a_second_iteration(tmp_path: Path) -> None:
    batches = ImageBatches(make_dataset(tmp_path, 5), batch_size=3, workers=2)
    first = [rows.tolist() for rows, _ in batches]
    assert first == [[0, 1, 2], [3, 4]]
    assert [rows.tolist() for rows, _ in batches] == first
    assert decode_threads() == []


def test_endless_sampler_is_consumed_as_needed(tmp_path: Path) -> None:
    taken: list[int] = []

    def sampler():
        for k in itertools.count():
            taken.append(k)
            yield [k % 4, (k + 1) % 4]

    with ImageBatches(make_dataset(tmp_path, 4), batches=sampler(), workers=1) as batches:
        found = [rows.tolist() for rows, _ in itertools.islice(batches, 3)]
    assert found == [[0, 1], [1, 2], [2, 3]]
    assert len(taken) <= 3 + 2
    with pytest.raises(TypeError):
        len(batches)


def test_reading_ahead_is_bounded_and_happens(tmp_path: Path) -> None:
    loaded: list[int] = []

    def load(dataset: DetectionDataset, row: int) -> np.ndarray:
        loaded.append(row)
        return np.zeros((1, 1, 3), np.uint8)

    dataset = make_dataset(tmp_path, 3)
    batches = ImageBatches(dataset, batches=[[0]] * 100, workers=1, load=load)
    run = iter(batches)
    next(run)
    until = time.monotonic() + 5
    while len(loaded) < 3 and time.monotonic() < until:
        time.sleep(0.005)
    time.sleep(0.05)
    assert len(loaded) == 3  # the batch in hand and two ahead
    batches.close()
    assert decode_threads() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_stop_or_are_left_out(tmp_path: Path, workers: int) -> None:
    dataset = make_dataset(tmp_path, 6)
    (tmp_path / "img1.png").write_bytes((tmp_path / "img1.png").read_bytes()[:40])
    (tmp_path / "img4.png").unlink()
    (tmp_path / "img5.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        list(ImageBatches(dataset, batch_size=2, workers=workers))
    assert str(tmp_path / "img1.png") in str(error.value)
    assert "image 101" in str(error.value)
    assert decode_threads() == []

    problems = Problems(skip_bad=True)
    found = list(ImageBatches(dataset, batch_size=2, workers=workers, problems=problems))
    # The third batch has no readable image; boundaries of the others do not move.
    assert [rows.tolist() for rows, _ in found] == [[0], [2, 3]]
    assert [p.file for p in problems.errors] == [str(tmp_path / f"img{i}.png") for i in (1, 4, 5)]
    assert sum(len(rows) for rows, _ in found) == 3


def test_threads_end_on_an_exception_and_on_ctrl_c(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 6)
    for kind in (KeyboardInterrupt, RuntimeError):
        with (
            pytest.raises(kind),
            ImageBatches(dataset, batch_size=1, workers=2) as batches,
        ):
            for _ in batches:
                assert decode_threads()
                raise kind
        assert decode_threads() == []

    def broken(dataset: DetectionDataset, row: int) -> np.ndarray:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(ImageBatches(dataset, workers=2, problems=Problems(skip_bad=True), load=broken))
    assert decode_threads() == []


def test_wrong_settings(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 1)
    with pytest.raises(ConfigError, match="batch_size"):
        ImageBatches(dataset, batch_size=0)
    with pytest.raises(ConfigError, match="workers"):
        ImageBatches(dataset, workers=-2)
    with pytest.raises(ConfigError, match="both"):
        ImageBatches(dataset, [0], batches=[[0]])
