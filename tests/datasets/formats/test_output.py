"""What an output folder holds: nothing in it is lost, mixed or taken for whole too early."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from relabel.cli import main
from relabel.datasets.convert import convert
from relabel.datasets.formats.output import MARKER
from relabel.datasets.formats.registry import read_dataset
from relabel.datasets.pixels import placing
from relabel.errors import DataError, Problems
from relabel.workspace.atomic import TEMP_PREFIX
from tests.builders.datasets import write_image, write_json

FORMATS = ("coco", "voc", "yolo", "fiftyone")


def coco(root: Path, *names: str, color: tuple[int, int, int] = (200, 0, 0), x: int = 1) -> Path:
    """A COCO file with its images beside it, one box each at ``x``."""
    for name in names:
        write_image(root / name, 40, 30, color)
    sizes = {"width": 40, "height": 30}
    box = {"category_id": 1, "bbox": [x, 2, 10, 10], "area": 100, "iscrowd": 0}
    file = root / "labels.json"
    write_json(
        file,
        {
            "images": [{"id": i, "file_name": n, **sizes} for i, n in enumerate(names, 1)],
            "annotations": [{"id": i, "image_id": i, **box} for i in range(1, len(names) + 1)],
            "categories": [{"id": 1, "name": "van"}],
        },
    )
    return file


def to(source: Path, format: str, out: Path, *, split: str = "train", images: str = "copy"):
    dataset = read_dataset(source, "coco")
    return convert(dataset, format, out, split=split, images=images, problems=Problems())  # type: ignore[arg-type]


def tree(folder: Path, *, times: bool = False) -> dict[str, object]:
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            what = path.readlink() if path.is_symlink() else path.read_bytes()
            found[str(path.relative_to(folder))] = (what, times and path.lstat().st_mtime_ns)
    return found


@pytest.mark.parametrize("format", FORMATS)
def test_a_second_split_with_the_same_names_keeps_the_first(tmp_path: Path, format: str) -> None:
    first = coco(tmp_path / "train", "0001.png")
    second = coco(tmp_path / "valid", "0001.png", color=(0, 0, 200), x=7)
    out = tmp_path / "out"
    to(first, format, out)
    before = tree(out)
    if format == "yolo":  # it has a folder per split
        to(second, format, out, split="valid")
        after = tree(out)
        assert {k for k in before if after[k] != before[k]} <= {"data.yaml", MARKER}
        for split, source in (("train", first), ("valid", second)):
            back = read_dataset(out, format, split=split)
            assert back.image_path(0).read_bytes() == (source.parent / "0001.png").read_bytes()
            assert back.boxes.xywh[0, 0] == pytest.approx(1 if split == "train" else 7)
        return
    with pytest.raises(DataError, match=r"was written here before.*needs the same name"):
        to(second, format, out, split="valid")
    assert tree(out) == before


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("images", ["copy", "link", "auto"])
def test_the_same_again_changes_nothing(tmp_path: Path, format: str, images: str) -> None:
    source, out = coco(tmp_path / "s", "a.png", "b.png"), tmp_path / "out"
    to(source, format, out, images=images)
    before = tree(out, times=True)
    to(source, format, out, images=images)
    after = tree(out, times=True)
    rewritten = {MARKER, "samples.json", "metadata.json", "annotations/instances_train.json"}
    assert {k: v[0] for k, v in after.items()} == {k: v[0] for k, v in before.items()}  # type: ignore[index]
    assert {k for k in after if after[k] != before[k]} <= rewritten


@pytest.mark.parametrize("format", ["voc", "yolo"])
def test_splits_that_share_nothing_share_a_folder(tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    for split, names in (("train", ["a.png", "b.png"]), ("val", ["c.png"])):
        to(coco(tmp_path / split, *names), format, out, split=split)
    assert [len(read_dataset(out, format, split=s)) for s in ("train", "val")] == [2, 1]


def test_one_image_in_two_image_sets_is_one_file(tmp_path: Path) -> None:
    """As in VOC's own train and trainval."""
    source, out = coco(tmp_path / "s", "a.png"), tmp_path / "out"
    to(source, "voc", out)
    to(source, "voc", out, split="trainval")
    assert [len(read_dataset(out, "voc", split=s)) for s in ("train", "trainval")] == [1, 1]


@pytest.mark.parametrize("format", FORMATS)
def test_another_dataset_of_the_same_split_is_refused(tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    to(coco(tmp_path / "one", "a.png"), format, out)
    before = tree(out)
    with pytest.raises(DataError, match=r"holds .*one/labels\.json', and this is of"):
        to(coco(tmp_path / "two", "b.png"), format, out)
    assert tree(out) == before
    shutil.rmtree(out)
    to(coco(tmp_path / "two", "b.png"), format, out)


@pytest.mark.parametrize("format", ["voc", "yolo"])
def test_a_split_that_became_smaller_leaves_no_labels_behind(tmp_path: Path, format: str) -> None:
    source, out = coco(tmp_path / "s", "a.png", "b.png"), tmp_path / "out"
    to(source, format, out)
    before = tree(out)
    coco(tmp_path / "s", "a.png")
    with pytest.raises(DataError, match=r"b\.(xml|txt): is not of this dataset, but would be read"):
        to(source, format, out)
    assert tree(out) == before


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("images", ["none", "auto", "copy"])
def test_files_of_others_are_kept(tmp_path: Path, format: str, images: str) -> None:
    source, out = coco(tmp_path / "s", "a.png"), tmp_path / "out"
    to(source, format, tmp_path / "made", images=images)
    labels = {
        "coco": "annotations/instances_train.json",
        "voc": "Annotations/a.xml",
        "yolo": "labels/train/a.txt",
        "fiftyone": "samples.json",
    }[format]
    assert (tmp_path / "made" / labels).is_file()
    (out / labels).parent.mkdir(parents=True)
    (out / labels).write_text("of somebody else")
    before = tree(out)
    with pytest.raises(DataError, match="is there already, and was not written by this conv"):
        to(source, format, out, images=images)
    assert tree(out) == before


@pytest.mark.parametrize("format", FORMATS)
def test_images_of_others_are_kept(tmp_path: Path, format: str) -> None:
    source, out = coco(tmp_path / "s", "a.png"), tmp_path / "out"
    to(source, format, tmp_path / "made")
    image = next(p for p in tree(tmp_path / "made") if p.endswith("a.png"))
    write_image(out / image, 40, 30, (1, 2, 3))
    before = tree(out)
    with pytest.raises(DataError, match="is there already"):
        to(source, format, out)
    assert tree(out) == before
    shutil.copy(tmp_path / "s/a.png", out / image)  # one with the same bytes is welcome
    to(source, format, out)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("images", ["link", "copy", "auto", "none"])
@pytest.mark.parametrize("folder", ["data", "images", "images/train", "JPEGImages", "."])
def test_nothing_is_written_over_the_input(
    tmp_path: Path, format: str, images: str, folder: str
) -> None:
    """In place, images stand where the output's would."""
    root = tmp_path / "d"
    (root / folder).mkdir(parents=True)
    source = coco(root / folder, "a.png", "b.png")
    source = shutil.move(source, root / "labels.json")
    data = json.loads(Path(source).read_text())
    for image in data["images"]:
        image["file_name"] = os.path.normpath(f"{folder}/{image['file_name']}")
    write_json(Path(source), data)
    before = tree(root)
    for out in (root, tmp_path / "linked"):
        if out != root:
            out.symlink_to(root, target_is_directory=True)
        try:
            to(Path(source), format, out, images=images)
        except DataError as error:
            assert error.remedy
            assert out != root or tree(root) == before
        assert before.items() <= tree(root).items()


def test_images_placed_over_themselves_are_refused(tmp_path: Path) -> None:
    source = coco(tmp_path / "d" / "data", "a.png")
    for images in ("link", "copy"):
        with pytest.raises(DataError, match="is an image of the dataset itself"):
            to(source, "fiftyone", tmp_path / "d", images=images)
    assert sorted(tree(tmp_path)) == ["d/data/a.png", "d/data/labels.json"]


def test_the_file_that_is_read_is_not_written(tmp_path: Path) -> None:
    source = coco(tmp_path / "d", "a.png")
    (tmp_path / "e").symlink_to(tmp_path / "d", target_is_directory=True)
    os.link(source, tmp_path / "hard.json")
    (tmp_path / "soft.json").symlink_to(source)
    before = tree(tmp_path)
    for out in (source, tmp_path / "e/labels.json", tmp_path / "d/../d/labels.json"):
        with pytest.raises(DataError, match="is the dataset that is read"):
            to(source, "coco", out, images="none")
    for out in ("hard.json", "soft.json"):
        with pytest.raises(DataError, match="is there already"):
            to(source, "coco", tmp_path / out, images="none")
    with pytest.raises(DataError, match="is the dataset that is read"):
        to(tmp_path / "soft.json", "coco", source, images="none")
    assert tree(tmp_path) == before


def test_swapped_images_are_refused(tmp_path: Path) -> None:
    """The place of one image is that of another."""
    root = tmp_path / "d"
    write_image(root / "images/train/images/a.png", 40, 30, (1, 1, 1))
    write_image(root / "images/train/a.png", 40, 30, (2, 2, 2))
    source = coco(tmp_path / "x", "a.png")
    data = json.loads(source.read_text())
    data["images"] = [
        {"id": 1, "file_name": "images/a.png", "width": 40, "height": 30},
    ]
    data["info"] = {"relabel": {"root": "images/train"}}
    write_json(root / "labels.json", data)
    before = tree(root)
    with pytest.raises(DataError):
        to(root / "labels.json", "yolo", root, images="auto")
    assert tree(root) == before


@pytest.mark.parametrize("format", FORMATS)
def test_an_image_is_reused_only_for_its_bytes(tmp_path: Path, format: str) -> None:
    source, out = coco(tmp_path / "s", "a.bmp"), tmp_path / "out"
    to(source, format, out)
    size = (tmp_path / "s/a.bmp").stat().st_size
    write_image(tmp_path / "s/a.bmp", 40, 30, (9, 9, 9))
    assert (tmp_path / "s/a.bmp").stat().st_size == size
    to(source, format, out)
    placed = next(p for p in tree(out) if p.endswith("a.bmp"))
    assert (out / placed).read_bytes() == (tmp_path / "s/a.bmp").read_bytes()


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_not_finished_is_not_read(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = coco(tmp_path / "s", "a.png", "b.png", "c.png"), tmp_path / "out"
    to(source, format, tmp_path / "whole")

    calls = []

    def place(placer: placing.Placer, location: str, target: str) -> bool:
        calls.append(target)
        if len(calls) == 3:
            Path(target).with_name(f"{TEMP_PREFIX}0-0-0.png").write_bytes(b"half")
            raise KeyboardInterrupt
        return real(placer, location, target)

    real = placing.Placer.place
    monkeypatch.setattr(placing.Placer, "place", place)
    with pytest.raises(KeyboardInterrupt):
        to(source, format, out)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"was not finished.*Run the same"):
        read_dataset(out, format)
    with pytest.raises(DataError, match=r"was not finished"):
        read_dataset(out, format, split="training")
    to(source, format, out)
    assert read_dataset(out, format)
    left = {k: v for k, v in tree(out).items() if TEMP_PREFIX not in k}
    assert left == tree(tmp_path / "whole")


def test_a_damaged_marker_is_one_line(tmp_path: Path) -> None:
    source, out = coco(tmp_path / "s", "a.png"), tmp_path / "out"
    to(source, "yolo", out)
    for text in ("{", "[]", '{"parts": 3}', '{"parts": {"x": {"files": 1}}}', "\x00"):
        (out / MARKER).write_text(text)
        for call in (lambda: read_dataset(out, "yolo"), lambda: to(source, "yolo", out)):
            with pytest.raises(DataError) as caught:
                call()
            assert MARKER in str(caught.value)


@pytest.mark.parametrize(("format", "boxes"), [("coco", 3), ("voc", 3), ("yolo", 0)])
def test_counts_that_are_printed_were_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str, boxes: int
) -> None:
    """Every box is a crowd, which YOLO cannot express."""
    data = json.loads(coco(tmp_path / "s", "a.png", "b.png", "c.png").read_text())
    for box in data["annotations"]:
        box["iscrowd"] = 1
    write_json(tmp_path / "s/labels.json", data)
    where = ["--format", "coco", "--to", format, "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as caught:
        main(["datasets", "convert", str(tmp_path / "s/labels.json"), *where])
    assert not caught.value.code
    told = capsys.readouterr().err
    assert f"3 images and {boxes} boxes written" in told
    assert ("has none to train on" in told) == (format == "yolo")
