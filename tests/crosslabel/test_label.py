"""Cross-labelling from images to shards: resume, kills, bad images, batches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from relabel.crosslabel.ensemble import EnsembleDetector
from relabel.crosslabel.label import cross_label
from relabel.crosslabel.nms import select
from relabel.crosslabel.pseudo import PseudoLabels, merge_pseudo_labels
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.crosslabel.shards import read_pseudo_labels
from relabel.datasets.dataset import DetectionDataset, Images
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.location import load_rgb
from relabel.detectors.base import Detections, PreparedImage
from relabel.detectors.family import NetworkDetector
from relabel.detectors.load import load_detector
from relabel.detectors.training import new_trainable
from relabel.errors import DataError, Problems, RelabelError
from relabel.settings import Runtime
from tests.builders.datasets import dataset_of, write_pixels
from tests.builders.detectors import SPACE, tiny_detector

SETTINGS = CrossLabelSettings(batch_size=3, shard_images=5, max_per_image=6)
RUNTIME = Runtime(device="cpu", workers=2, quiet=True)
IMAGES = 17


class FakeDetector:
    """Detections that depend on an image's pixels alone; every fourth or so has none."""

    def __init__(self, name: str = "fine", pause: float = 0.0) -> None:
        self.space = LabelSpace.from_names(name, ["car", "bus", "truck"])
        self.pause = pause
        self.batches: list[int] = []

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        self.batches.append(len(images))
        time.sleep(self.pause)
        return [self.one(image) for image in images]

    def one(self, image: np.ndarray) -> Detections:
        rng = np.random.default_rng(zlib.crc32(image.tobytes()))
        n = int(rng.integers(0, 4)) * 8
        low = rng.uniform(-3, 20, (n, 2))
        boxes = np.hstack([low, low + rng.uniform(1, 20, (n, 2))]).astype(np.float32)
        return Detections(boxes, rng.dirichlet(np.ones(4), n)[:, :3].astype(np.float32))


def make_dataset(root: Path, n: int = IMAGES, name: str = "coarse") -> DetectionDataset:
    """n PNG images of noise, of three sizes."""
    rng = np.random.default_rng(n)
    names, sizes = [], []
    for i in range(n):
        width, height = [(32, 24), (24, 32), (40, 24)][i % 3]
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        write_pixels(root / f"{i:03d}.png", pixels)
        names.append(f"{i:03d}.png")
        sizes.append((width, height))
    width, height = np.array(sizes, np.int32).T
    images = Images(np.arange(1, n + 1), names, width, height)
    return dataset_of(name, ["vehicle"], images, root=root)


def run(dataset: DetectionDataset, out: Path, **changes) -> FakeDetector:
    detector = changes.pop("detector", None) or FakeDetector()
    rest = {"settings": SETTINGS, "runtime": RUNTIME, **changes}
    cross_label(Path("no-checkpoint"), dataset, out, detector=detector, **rest)
    return detector


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def same(a: PseudoLabels, b: PseudoLabels) -> bool:
    columns = ("image", "boxes", "scores", "coverage")
    return list(a.file_name) == list(b.file_name) and all(
        np.array_equal(getattr(a, c), getattr(b, c)) for c in columns
    )


def test_from_images_to_pseudo_labels(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "photos")
    detector = run(dataset, tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == [
        f"shard-{i:05d}-of-00004.parquet" for i in range(4)
    ]
    # 5 + 5 + 5 + 2 images in batches of 3 that never span two shards.
    assert detector.batches == [3, 2, 3, 2, 3, 2, 2]
    labels = read_pseudo_labels(tmp_path / "out")
    assert (labels.by, labels.on, labels.space) == ("fine", "coarse", detector.space)
    assert labels.file_name == list(dataset.images.file_name)
    assert labels.coverage.all()
    counts = np.diff(labels.offsets)
    assert (counts == 0).any()
    assert counts.max() == SETTINGS.max_per_image
    for row in range(IMAGES):  # every image has what the detector finds in its pixels
        image = load_rgb(dataset, row)
        height, width = image.shape[:2]
        expected = select(
            detector.one(image), SETTINGS, num_classes=3, width=width, height=height, source=""
        )
        part = labels.rows(row)
        assert np.array_equal(labels.boxes[part], expected.boxes)
        assert np.array_equal(labels.scores[part], expected.scores)


def test_nothing_depends_on_batches_shards_and_workers(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "photos")
    run(dataset, tmp_path / "a")
    expected = read_pseudo_labels(tmp_path / "a")
    run(dataset, tmp_path / "b", settings=replace(SETTINGS, batch_size=1))
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    run(dataset, tmp_path / "c", settings=replace(SETTINGS, shard_images=100))
    assert same(read_pseudo_labels(tmp_path / "c"), expected)
    run(dataset, tmp_path / "d", runtime=replace(RUNTIME, workers=0))
    assert contents(tmp_path / "d") == contents(tmp_path / "a")


def test_resume_redoes_what_is_missing_or_damaged_only(tmp_path: Path, capsys) -> None:
    dataset = make_dataset(tmp_path / "photos")
    out = tmp_path / "out"
    run(dataset, out)
    before = contents(out)
    assert run(dataset, out).batches == []
    names = list(before)
    (out / names[1]).unlink()
    (out / names[2]).write_bytes(before[names[2]][:200])
    (out / ".tmp-1-0.parquet").write_bytes(b"left by a killed run")
    kept = (out / names[0]).stat().st_mtime_ns
    again = run(dataset, out, runtime=replace(RUNTIME, quiet=False))
    assert again.batches == [3, 2, 3, 2]
    assert contents(out) == before
    assert (out / names[0]).stat().st_mtime_ns == kept
    said = capsys.readouterr()
    assert f"{names[2]} is made again: not a readable shard of pseudo-labels" in said.err
    assert "Labelling coarse with fine: 17/17" in said.err
    assert said.out == ""


def test_shards_of_another_run_are_redone(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "photos")
    out = tmp_path / "out"
    run(dataset, out)
    assert sum(run(dataset, out, settings=replace(SETTINGS, nms_iou=0.3)).batches) == IMAGES
    strict = replace(SETTINGS, nms_iou=0.3)
    assert run(dataset, out, settings=strict).batches == []
    assert sum(run(dataset, out, settings=strict, image_rows=np.arange(12)).batches) == 12
    assert read_pseudo_labels(out).coverage.sum() == 12
    other = replace(dataset, name="renamed")
    assert sum(run(other, out, settings=strict).batches) == IMAGES


def test_a_retrained_specialist_labels_again(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "photos", 4)
    checkpoint = tmp_path / "specialist"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"old")

    def batches() -> list[int]:
        detector = FakeDetector()
        cross_label(checkpoint, dataset, tmp_path / "out", SETTINGS, RUNTIME, detector=detector)
        return detector.batches

    assert batches() == [3, 1]
    assert batches() == []
    (checkpoint / "model.safetensors").write_bytes(b"new")
    assert batches() == [3, 1]


def test_cross_fitted_parts_make_a_whole(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "photos")
    run(dataset, tmp_path / "whole")
    folds = [np.arange(k, IMAGES, 3) for k in range(3)]
    for k, fold in enumerate(folds):
        run(dataset, tmp_path / f"fold{k}", image_rows=fold[::-1])
    parts = [read_pseudo_labels(tmp_path / f"fold{k}") for k in range(3)]
    assert [p.coverage.sum() for p in parts] == [6, 6, 5]
    assert same(merge_pseudo_labels(parts), read_pseudo_labels(tmp_path / "whole"))


def test_bad_images_stop_the_run_or_are_skipped(tmp_path: Path, capsys) -> None:
    dataset = make_dataset(tmp_path / "photos")
    broken = tmp_path / "photos" / "007.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"not an image")
    for i in range(10, 15):  # the whole third shard
        (tmp_path / "photos" / f"{i:03d}.png").unlink()
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"007\.png.*not in a known image format"):
        run(dataset, out)
    assert list(contents(out)) == ["shard-00000-of-00004.parquet"]  # what was finished stays
    skipping = replace(RUNTIME, skip_bad=True)
    problems = Problems(skip_bad=True)
    run(dataset, out, runtime=skipping, problems=problems)
    bad = [7, 10, 11, 12, 13, 14]
    assert sorted(Path(p.file).name for p in problems.errors) == [f"{i:03d}.png" for i in bad]
    labels = read_pseudo_labels(out)
    assert np.flatnonzero(~labels.coverage).tolist() == bad
    assert not np.isin(labels.image, bad).any()
    before = contents(out)

    # A resumed run lists them again and does nothing; without --skip-bad it stops again.
    again = run(dataset, out, runtime=replace(skipping, quiet=False))
    assert again.batches == []
    assert contents(out) == before
    assert capsys.readouterr().err.count("skipped ") == len(bad)
    with pytest.raises(DataError, match=r"007\.png"):
        run(dataset, out)
    broken.write_bytes(whole)
    fixed = run(dataset, out, image_rows=np.arange(10))
    assert sum(fixed.batches) == 10
    assert read_pseudo_labels(out).coverage[:10].all()


def test_memory_of_the_device_is_shared_out(tmp_path: Path) -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    class Small(FakeDetector):
        limit = 1

        def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
            if len(images) > self.limit:
                raise OutOfMemoryError
            return super().predict(images)

    dataset = make_dataset(tmp_path / "photos", 7)
    run(dataset, tmp_path / "a")
    small = run(dataset, tmp_path / "b", detector=Small())
    assert small.batches == [1] * 7
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    Small.limit = 0
    with pytest.raises(RelabelError, match=r"does not fit .* --device cpu"):
        run(dataset, tmp_path / "c", detector=Small())


def test_wrong_calls_are_named(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "photos", 4)
    with pytest.raises(DataError, match="no images"):
        run(dataset.subset([]), tmp_path / "out")
    with pytest.raises(DataError, match="rows 0 to 4"):
        run(dataset, tmp_path / "out", image_rows=np.arange(5))
    with pytest.raises(DataError, match=r"config\.json"):
        cross_label(tmp_path / "none", dataset, tmp_path / "out", SETTINGS, RUNTIME)

    class Short(FakeDetector):
        def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
            return super().predict(images)[1:]

    with pytest.raises(DataError, match="2 results for 3 images"):
        run(dataset, tmp_path / "out", detector=Short())


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_label import FakeDetector, make_dataset, run
run(make_dataset(Path({photos!r})), Path({out!r}), detector=FakeDetector(pause=0.05))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bytes(tmp_path: Path, how: signal.Signals) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    dataset = make_dataset(photos)
    run(dataset, tmp_path / "uninterrupted")
    script = KILLED.format(here=str(Path(__file__).parent), photos=str(photos), out=str(out))
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + 300
    while not list(out.glob("shard-00001*")) and time.monotonic() < until:
        assert child.poll() is None
        time.sleep(0.005)
    child.send_signal(how)
    assert child.wait(timeout=120) != 0  # Ctrl-C leaves no thread that keeps the process alive
    left = contents(out)
    assert 2 <= len([name for name in left if name.startswith("shard")]) < 4
    again = run(dataset, out)
    assert 0 < sum(again.batches) < IMAGES
    assert contents(out) == contents(tmp_path / "uninterrupted")


@pytest.fixture(scope="module")
def specialists(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three of random weights, the last of which sees smaller images."""
    folder = tmp_path_factory.mktemp("specialists")
    settings = tiny_detector(folder / "backbone")
    changes = ({"seed": 0}, {"seed": 1}, {"seed": 2, "image_size": 64})
    for i, more in enumerate(changes):
        new_trainable(SPACE, replace(settings, **more)).save(folder / str(i))
    return [folder / str(i) for i in range(len(changes))]


@pytest.mark.parametrize("members", [(0,), (0, 1), (0, 2)])
def test_images_are_prepared_where_they_are_read(
    specialists: list[Path],
    members: tuple[int, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a GPU in the decoding threads, with the labels of a detector that prepares none; members
    of an ensemble share what was prepared, if they want the same."""
    detectors: list[Any] = [load_detector(specialists[i], "cpu") for i in members]
    detector = EnsembleDetector(detectors) if len(members) > 1 else detectors[0]
    dataset = make_dataset(tmp_path / "images")
    plain = SimpleNamespace(space=detector.space, predict=detector.predict)
    run(dataset, tmp_path / "plain", detector=plain)
    threads: list[str] = []
    assert detector.prepared_size is None  # on a CPU, which is busy
    monkeypatch.setattr(NetworkDetector, "prepared_size", property(lambda self: self._size))
    real = [one.prepare for one in detectors]

    def watched(image: np.ndarray, prepare: Any) -> PreparedImage:
        threads.append(threading.current_thread().name)
        return prepare(image)

    for one, prepare in zip(detectors, real, strict=True):
        one.prepare = partial(watched, prepare=prepare)
    run(dataset, tmp_path / "prepared", detector=detector)
    reading = [name for name in threads if name.startswith("relabel-decode")]
    alike = members != (0, 2)
    assert len(reading) == (IMAGES if alike else 0)
    assert len(threads) - len(reading) == (0 if alike else 2 * IMAGES)
    assert contents(tmp_path / "prepared") == contents(tmp_path / "plain")
    assert len(read_pseudo_labels(tmp_path / "plain")) > 0
