"""Image sets: class folders, integer folders, label files, and their errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from relabel.datasets.pixels import image_folder as imagenet
from relabel.datasets.pixels.batches import ImageBatches
from relabel.datasets.pixels.image_folder import (
    ImageSet,
    imagenet_classes,
    load_image,
    read_image_set,
)
from relabel.errors import ConfigError, DataError, Problems
from tests.builders.datasets import write_image


def put(root: Path, *names: str) -> Path:
    """Image i of size (4 + i) x 3 in the colour (10 i, 1, 2)."""
    for i, name in enumerate(names):
        write_image(root / name, 4 + i, 3, (10 * i, 1, 2))
    return root


def labelled(images: ImageSet) -> dict[str, int]:
    return dict(zip(images.file_names, images.labels.tolist(), strict=True))


def test_wnid_folders_have_imagenets_index_also_where_classes_are_missing(tmp_path: Path) -> None:
    put(tmp_path, "n15075141/b.JPEG", "n01443537/sub/x.png", "n15075141/a.jpg")
    (tmp_path / "n01443537/readme.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/hidden.png").write_bytes(b"")
    images = read_image_set(tmp_path)
    assert images.file_names == ["n01443537/sub/x.png", "n15075141/a.jpg", "n15075141/b.JPEG"]
    assert images.labels.dtype == np.int32
    assert images.labels.tolist() == [1, 999, 999]
    assert images.num_classes == 1000
    assert images.class_names[1] == "goldfish"
    assert images.class_keys[999] == "n15075141"


def test_names_that_two_imagenet_classes_share() -> None:
    classes = imagenet_classes()
    assert classes.names[134] == "crane (bird)" and classes.names[517] == "crane (machine)"
    assert (classes.find("Cardigan"), classes.find("cardigan")) == (264, 474)
    assert classes.find("CARDIGAN") is None  # would be either
    assert classes.find("Tench") == 0
    assert classes.keys == sorted(classes.keys) and len(set(classes.names)) == 1000


def test_integer_folders_are_class_indices_in_numeric_order(tmp_path: Path) -> None:
    put(tmp_path, "0/a.png", "1/a.png", "2/a.png", "10/a.png", "10/b.png", "100/a.png")
    images = read_image_set(tmp_path)
    assert images.file_names == [
        "0/a.png",
        "1/a.png",
        "2/a.png",
        "10/a.png",
        "10/b.png",
        "100/a.png",
    ]
    assert images.labels.tolist() == [0, 1, 2, 10, 10, 100]
    assert images.class_names[10] == "brambling"


def test_integer_folders_beyond_imagenet_are_their_own_names(tmp_path: Path) -> None:
    put(tmp_path, "3/a.png", "1200/a.png")
    images = read_image_set(tmp_path)
    assert images.labels.tolist() == [3, 1200]
    assert images.class_names == [str(i) for i in range(1201)]


def test_dates_are_no_class_indices(tmp_path: Path) -> None:
    put(tmp_path, "20240102/a.png", "20240101/a.png")
    images = read_image_set(tmp_path)
    assert images.class_names == ["20240101", "20240102"]
    assert images.labels.tolist() == [0, 1]


def test_other_folders_are_the_classes_in_sorted_order(tmp_path: Path) -> None:
    put(tmp_path, "zebra/1.png", "ant/1.png", "empty/readme.txt.png", "ant/0.png")
    (tmp_path / "empty/readme.txt.png").unlink()
    images = read_image_set(tmp_path)
    assert images.class_names == images.class_keys == ["ant", "zebra"]
    assert labelled(images) == {"ant/0.png": 0, "ant/1.png": 0, "zebra/1.png": 1}


def test_classes_by_file(tmp_path: Path) -> None:
    root = put(tmp_path / "images", "zebra/1.png", "ant/1.png")
    text = tmp_path / "classes.txt"
    text.write_text("zebra\tthe zebra\nbee\nant\n")
    images = read_image_set(root, classes=text)
    assert images.class_names == ["the zebra", "bee", "ant"]
    assert images.class_keys == ["zebra", "bee", "ant"]
    assert labelled(images) == {"ant/1.png": 2, "zebra/1.png": 0}
    yaml = tmp_path / "classes.yaml"
    for content in ("[bee, zebra, ant]", "{0: bee, 2: ant, 1: zebra}", "names: [bee, zebra, ant]"):
        yaml.write_text(content)
        assert labelled(read_image_set(root, classes=yaml)) == {"ant/1.png": 2, "zebra/1.png": 1}
    text.write_text("zebra\nbee\n")
    with pytest.raises(DataError, match="'ant' is none of the 2 classes"):
        read_image_set(root, classes=text)
    text.write_text("zebra\nzebra\n")
    with pytest.raises(DataError, match="'zebra' is listed twice"):
        read_image_set(root, classes=text)
    with pytest.raises(ConfigError, match="Did you mean 'imagenet1k'"):
        read_image_set(root, classes="imagenet")


def test_builtin_label_space_as_classes(tmp_path: Path) -> None:
    images = read_image_set(put(tmp_path, "dog/1.png"), classes="voc")
    assert images.num_classes == 20
    assert images.class_names[images.labels[0]] == "dog"


def test_unknown_wnid_is_an_error_not_a_shift_of_all_indices(tmp_path: Path) -> None:
    put(tmp_path, "n01440764/a.png", "n99999999/a.png")
    with pytest.raises(DataError, match="'n99999999' is none of the 1000 classes"):
        read_image_set(tmp_path)
    problems = Problems(skip_bad=True)
    images = read_image_set(tmp_path, problems=problems)
    assert labelled(images) == {"n01440764/a.png": 0}
    assert len(problems.errors) == 1


def test_wnids_of_other_classes_only_are_classes_of_their_own(tmp_path: Path) -> None:
    images = read_image_set(put(tmp_path, "n99999999/a.png", "n88888888/a.png"))
    assert images.class_names == ["n88888888", "n99999999"]


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    images = read_image_set(put(tmp_path, "b.png", "a.png"))
    assert labelled(images) == {"a.png": -1, "b.png": -1}
    assert images.num_classes == 0
    assert read_image_set(tmp_path, classes="imagenet1k").num_classes == 1000


def test_loose_images_beside_class_folders(tmp_path: Path) -> None:
    put(tmp_path, "ant/a.png", "sheet.png")
    with pytest.raises(DataError, match=r"such as 'sheet\.png'"):
        read_image_set(tmp_path)
    assert read_image_set(tmp_path, problems=Problems(True)).file_names == ["ant/a.png"]


@pytest.mark.parametrize(
    "text",
    [
        "deep/b.png\t7\na.png\tn01440764\n",
        "filename\tclass\r\n./a.png\ttench\r\ndeep/b.png\tCOCK\tmore\r\n",
        'a.png,0\n"deep/b.png","cock"\n',
        "\ufeffimage,label\na.png,tench\ndeep/b.png,n01514668\n\n",
    ],
)
def test_labels_file(tmp_path: Path, text: str) -> None:
    root = put(tmp_path / "images", "a.png", "deep/b.png", "deep/c.png")
    file = tmp_path / "labels.tsv"
    file.write_text(text, encoding="utf-8")
    images = read_image_set(root, file)
    assert labelled(images) == {"a.png": 0, "deep/b.png": 7, "deep/c.png": -1}
    assert images.num_classes == 1000


def test_labels_file_with_names_of_its_own(tmp_path: Path) -> None:
    root = put(tmp_path / "images", "a.png", "b.png", "c.png")
    file = tmp_path / "labels.csv"
    file.write_text("a.png,person\nb.png,aeroplane\nc.png,person\n")
    images = read_image_set(root, file)
    assert images.class_names == ["aeroplane", "person"]
    assert images.labels.tolist() == [1, 0, 1]
    images = read_image_set(root, file, "voc")
    assert [images.class_names[c] for c in images.labels] == ["person", "aeroplane", "person"]


def test_errors_of_a_labels_file(tmp_path: Path) -> None:
    root = put(tmp_path / "images", "a.png", "b.png")
    file = tmp_path / "labels.tsv"

    def fails(text: str, match: str) -> Problems:
        file.write_text(text)
        with pytest.raises(DataError, match=match):
            read_image_set(root, file)
        problems = Problems(skip_bad=True)
        assert labelled(read_image_set(root, file, problems=problems)) == {"a.png": 0, "b.png": -1}
        return problems

    fails(
        "a.png\tn01440764\nb.png\ttennch\n", "labels.tsv, line 2: unknown class 'tennch'.*'tench'"
    )
    fails("a.png\t0\na.png\t1\n", "line 2: 'a.png' is listed on line 1 already")
    fails("a.png\t0\nb.png\n", "line 2: 'b.png' is not a file name and a class")
    found = fails("x/1.png\t0\na.png\t0\ny.png\t3\n", "2 of 3 listed files are not in")
    assert len(found.errors) == 1
    assert "'x/1.png', 'y.png'" in found.errors[0].message
    with pytest.raises(DataError, match="does not exist"):
        read_image_set(root, tmp_path / "none.tsv")
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="line 1: is UTF-16 text or binary"):
        read_image_set(root, file)


def test_no_images(tmp_path: Path) -> None:
    (tmp_path / "n01440764").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        read_image_set(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_image_set(tmp_path / "gone")


def test_names_that_no_output_can_hold(tmp_path: Path) -> None:
    put(tmp_path, "ant/a\tb.png", "ant/a.png")
    with pytest.raises(DataError, match="has a tab"):
        read_image_set(tmp_path)
    assert read_image_set(tmp_path, problems=Problems(True)).file_names == ["ant/a.png"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    put(tmp_path / "real", "a.png")
    root = tmp_path / "images"
    root.mkdir()
    (root / "ant").symlink_to(tmp_path / "real")
    (tmp_path / "real/again").symlink_to(tmp_path / "real")
    assert read_image_set(root).file_names == ["ant/a.png"]


def test_listing_asks_no_file_for_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, *(f"ant/{i}.png" for i in range(5)))

    stat = imagenet.os.stat

    def only_of_folders(path: object, **options: Any) -> object:
        assert not str(path).endswith(".png"), "a file's status was asked for"
        return stat(str(path), **options)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr(imagenet.os, "stat", only_of_folders)
    monkeypatch.setattr(imagenet, "read_rgb", refuse)
    images = read_image_set(tmp_path)
    assert len(images) == 5
    images.fingerprint(sizes=False)


def test_select_and_fingerprint(tmp_path: Path) -> None:
    images = read_image_set(put(tmp_path / "x", "ant/a.png", "bee/b.png", "bee/c.png"))
    part = images.select([2, 0])
    assert labelled(part) == {"bee/c.png": 1, "ant/a.png": 0}
    assert part.class_names == ["ant", "bee"]
    assert images.select(images.labels == 1).file_names == ["bee/b.png", "bee/c.png"]
    assert images.select(slice(0, 3, 2)).file_names == ["ant/a.png", "bee/c.png"]

    whole = images.fingerprint()
    assert part.fingerprint() != whole
    again = read_image_set(put(tmp_path / "y", "ant/a.png", "bee/b.png", "bee/c.png"))
    assert again.fingerprint() == whole
    with (tmp_path / "y/ant/a.png").open("ab") as stream:
        stream.write(b"more")
    assert again.fingerprint() != whole
    assert again.fingerprint(sizes=False) == images.fingerprint(sizes=False)
    images.labels[0] = 1
    assert images.fingerprint(sizes=False) != again.fingerprint(sizes=False)


def test_load_image(tmp_path: Path) -> None:
    put(tmp_path, "ant/a.png", "ant/b.png")
    images = read_image_set(tmp_path)
    pixels = load_image(images, 1)
    assert pixels.shape == (3, 5, 3) and pixels.dtype == np.uint8
    assert (pixels == [10, 1, 2]).all()
    Image.new("CMYK", (6, 2), (255, 255, 255, 255)).save(tmp_path / "ant/a.png", "JPEG")
    assert load_image(images, 0).shape == (2, 6, 3)
    (tmp_path / "ant/b.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"ant/b\.png: .*not in a known image format"):
        load_image(images, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_an_image_set_skip_and_list_bad_images(tmp_path: Path, workers: int) -> None:
    images = read_image_set(put(tmp_path, *(f"ant/{i}.png" for i in range(5))))
    whole = (tmp_path / "ant/3.png").read_bytes()
    (tmp_path / "ant/3.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"ant/3\.png"):
        list(ImageBatches(images, batch_size=2, workers=workers))
    problems = Problems(skip_bad=True)
    batches = list(ImageBatches(images, batch_size=2, workers=workers, problems=problems))
    assert [rows.tolist() for rows, _ in batches] == [[0, 1], [2], [4]]
    assert [image.shape[1] for _, loaded in batches for image in loaded] == [4, 5, 6, 8]
    assert [Path(p.file).name for p in problems.errors] == ["3.png"]


def test_the_thousand_photos(shared: Path) -> None:
    images = read_image_set(shared / "data/imagenet1000")
    assert len(images) == 1000
    assert images.labels.tolist() == list(range(1000))
    assert images.file_names[0] == "n01440764/tench.jpg"
