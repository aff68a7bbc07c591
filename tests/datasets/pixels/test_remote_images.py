"""Images behind URLs are those of a folder: same pixels, sizes, fingerprints and shards."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relabel.align.inputs import usable_images
from relabel.catalogue.catalogue import Catalogue, load_catalogue
from relabel.classifiers.inputs import read_images
from relabel.crosslabel.label import cross_label
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.fingerprint import dataset_fingerprint
from relabel.datasets.partial.opening import open_partial
from relabel.datasets.pixels import location
from relabel.datasets.pixels.batches import ImageBatches
from relabel.datasets.pixels.image_folder import load_image, read_image_set
from relabel.datasets.pixels.location import (
    image_header,
    image_location,
    images_at,
    load_rgb,
    stored_bytes,
    stored_sample,
    zip_location,
)
from relabel.datasets.pixels.placing import place_images
from relabel.datasets.pixels.unlabelled import read_unlabelled
from relabel.errors import ConfigError, DataError, Problems, RelabelError
from tests.builders.datasets import write_image
from tests.builders.store import Store
from tests.crosslabel.test_label import RUNTIME, SETTINGS, FakeDetector, contents, make_dataset, run


@pytest.fixture
def pair(tmp_path: Path, bucket: Store) -> tuple[DetectionDataset, DetectionDataset]:
    """A dataset in a folder, and the same with its images in a store."""
    local = make_dataset(tmp_path / "data")
    return local, images_at(local, bucket.put_folder(tmp_path / "data", "set/images"))


def catalogue(folder: Path, images: str) -> Catalogue:
    """A COCO set of five images, whose images are said to be at a URL."""
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    content = {
        "images": [
            {"id": i, "file_name": f"a/{i}.png", "width": 40, "height": 24} for i in range(5)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [2, 3, 8, 6], "area": 48}
            for i in range(5)
        ],
        "categories": [{"id": 1, "name": "cup"}],
    }
    (folder / "labels" / "train.json").write_text(json.dumps(content))
    (folder / "relabel.toml").write_text(
        '[datasets.cups]\nroot = "labels"\nformat = "coco"\ntrain = "train.json"\n'
        f'images = "{images}"\n'
    )
    return load_catalogue(config=folder / "relabel.toml")


def test_shards_are_those_of_local_images(
    pair: tuple[DetectionDataset, DetectionDataset], tmp_path: Path
) -> None:
    local, distant = pair
    run(local, tmp_path / "local")
    run(distant, tmp_path / "distant", runtime=replace(RUNTIME, workers=-1))
    assert contents(tmp_path / "local") == contents(tmp_path / "distant")
    assert dataset_fingerprint(local) == dataset_fingerprint(distant)


def test_a_missing_object_is_skipped_and_listed(
    pair: tuple[DetectionDataset, DetectionDataset], bucket: Store, tmp_path: Path
) -> None:
    local, distant = pair
    bucket.delete("set/images/003.png")
    url = f"{bucket.url}/set/images/003.png"
    with pytest.raises(DataError, match=rf"{url}, image 4.*: image file does not exist"):
        run(distant, tmp_path / "out")
    with pytest.raises(DataError, match="image file does not exist") as caught:
        usable_images(distant, tmp_path, RUNTIME, Problems())
    assert caught.value.file == url
    problems = Problems(skip_bad=True)
    skipping = replace(RUNTIME, skip_bad=True)
    run(distant, tmp_path / "out", runtime=skipping, problems=problems)
    assert [p.file for p in problems.errors] == [url]
    left = usable_images(distant, tmp_path, skipping, problems := Problems(skip_bad=True))
    assert (len(left), [p.file for p in problems.errors]) == (16, [url])
    (local.root / "003.png").unlink()
    run(local, tmp_path / "local", runtime=skipping, problems=Problems(skip_bad=True))
    assert contents(tmp_path / "local") == contents(tmp_path / "out")


def test_a_store_that_fails_ends_the_run_though_bad_images_are_skipped(
    pair: tuple[DetectionDataset, DetectionDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(url: str, *, most: int) -> bytes:
        raise RelabelError("access is denied", file=url)

    monkeypatch.setattr(location, "read_remote", failing)
    with pytest.raises(RelabelError, match="access is denied"):
        run(pair[1], tmp_path, runtime=replace(RUNTIME, skip_bad=True))


def _in_another_process(data: bytes, out: Path) -> list[int]:
    """What a worker of another machine does: it has nothing but the dataset's bytes."""
    dataset = pickle.loads(data)
    cross_label(Path("none"), dataset, out, SETTINGS, RUNTIME, detector=FakeDetector())
    return load_rgb(dataset, 2).flatten().tolist()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pickled_dataset_is_read_in_another_process(
    pair: tuple[DetectionDataset, DetectionDataset], tmp_path: Path, method: str
) -> None:
    local, distant = pair
    load_rgb(distant, 0)  # the parent is connected when it forks
    with multiprocessing.get_context(method).Pool(1) as pool:
        arguments = (pickle.dumps(distant), tmp_path / "there")
        pixels = pool.apply_async(_in_another_process, arguments).get(120)
    assert pixels == load_rgb(local, 2).flatten().tolist()
    run(local, tmp_path / "here")
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_headers_are_read_without_the_pixels(bucket: Store) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, (900, 700, 3), dtype=np.uint8)
    for kind in ("JPEG", "PNG"):
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, kind, exif=exif, quality=95)
        bucket.put("a", stream.getvalue())
        assert len(stream.getvalue()) > 1 << 19
        assert image_header(f"{bucket.url}/a").size == (900, 700)
    bucket.put("a", b"no image")
    with pytest.raises(DataError, match="not an image"):
        image_header(f"{bucket.url}/a")
    with pytest.raises(DataError, match="image file does not exist"):
        image_header(f"{bucket.url}/b")


def test_sizes_stand_for_files(bucket: Store) -> None:
    bucket.put("a", b"123")
    assert stored_bytes(f"{bucket.url}/a") == 3
    assert stored_bytes(f"{bucket.url}/b") == -1
    assert stored_sample(f"{bucket.url}/b") == bytes(16)
    before = stored_sample(f"{bucket.url}/a")
    bucket.put("a", b"1234")
    assert stored_sample(f"{bucket.url}/a") not in (before, bytes(16))


def test_class_folders_in_a_store(bucket: Store, tmp_path: Path) -> None:
    for i in range(6):
        write_image(tmp_path / "set" / ("cat", "dog")[i % 2] / f"{i}.png", 20, 10 + i)
    write_image(tmp_path / "set" / "dog" / ".hidden.png", 20, 20)
    (tmp_path / "set" / "dog" / "notes.txt").write_text("no image")
    url = bucket.put_folder(tmp_path / "set", "some/set")
    local, distant = read_image_set(tmp_path / "set"), read_image_set(f"{url}/")
    assert distant.file_names == local.file_names
    assert distant.class_names == local.class_names == ["cat", "dog"]
    assert distant.labels.tolist() == local.labels.tolist()
    assert distant.fingerprint() == local.fingerprint()
    assert distant.select([0, 4]).fingerprint() == local.select([0, 4]).fingerprint()
    assert (distant.name, local.name) == ("set", "set")
    with ImageBatches(pickle.loads(pickle.dumps(distant)), batch_size=4) as batches:
        found = [image for _, images in batches for image in images]
    assert all(np.array_equal(image, load_image(local, row)) for row, image in enumerate(found))
    labelled = read_images(url, None, None, Problems())
    assert (
        labelled.fingerprint()
        == read_images(tmp_path / "set", None, None, Problems()).fingerprint()
    )
    (tmp_path / "labels.txt").write_text("cat/0.png\t1\ndog/1.png\t0\n")
    listed = [read_image_set(r, tmp_path / "labels.txt", "coco") for r in (tmp_path / "set", url)]
    assert listed[0].labels.tolist() == listed[1].labels.tolist()
    with pytest.raises(DataError, match="holds no images"):
        read_image_set(f"{bucket.url}/nothing")


def test_photos_without_labels_in_a_store(bucket: Store, tmp_path: Path) -> None:
    for i in range(3):
        write_image(tmp_path / "set" / f"{i}.jpg", 20 + i, 10)
    bucket.put("photos/3.jpg", b"broken")
    url = bucket.put_folder(tmp_path / "set", "photos")
    with pytest.raises(DataError, match="not an image"):
        read_unlabelled(url, "photos", Problems())
    problems = Problems(skip_bad=True)
    images = read_unlabelled(url, "photos", problems)
    assert [problem.file for problem in problems.errors] == [f"{url}/3.jpg"]
    assert images.images.width.tolist() == [20, 21, 22]
    assert load_rgb(images, 2).shape == (10, 22, 3)
    assert dataset_fingerprint(images) == dataset_fingerprint(
        read_unlabelled(tmp_path / "set", "photos", Problems())
    )


def test_images_of_a_dataset_named_in_relabel_toml(bucket: Store, tmp_path: Path) -> None:
    for i in range(5):
        write_image(tmp_path / "pixels" / "a" / f"{i}.png", 40, 24)
    entry = catalogue(tmp_path, bucket.put_folder(tmp_path / "pixels", "cups")).get("cups")
    dataset = entry.read("train")
    assert image_location(dataset, 1) == f"{bucket.url}/cups/a/1.png"
    assert load_rgb(dataset, 1).shape == (24, 40, 3)
    place_images(dataset, tmp_path / "placed", "link", quiet=True)
    assert (tmp_path / "placed/a/4.png").read_bytes() == bucket.get("cups/a/4.png")
    labels = open_partial(entry)
    assert labels.location(1) == f"{bucket.url}/cups/a/1.png"
    before = labels.fingerprint()
    bucket.put("cups/a/1.png", b"another")
    assert open_partial(entry).fingerprint() != before


def test_what_cannot_be_at_a_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"images is no URL, but '/data'"):
        catalogue(tmp_path, "/data")
    catalogue(tmp_path, "s3://bucket")
    with pytest.raises(ConfigError, match="annotations are read from this machine"):
        load_catalogue(tmp_path, ["cups=s3://bucket/train.json:coco"])
    dataset = make_dataset(tmp_path / "data", 1)
    packed = replace(dataset.images, location=[zip_location("a.zip", "000.png")])
    with pytest.raises(ConfigError, match="lie inside other files"):
        images_at(replace(dataset, images=packed), "s3://bucket")
