"""BDD100K detection: ``images/100k/{split}/*.jpg`` and ``labels/det_20/det_{split}.json``.

The file of the older release, ``labels/bdd100k_labels_images_{split}.json``, reads as well: its
category names are aliases in the label space, its lanes and drivable areas are left out. Images
that have no frame in the label file were never labelled and are no images of the dataset.
"""

from __future__ import annotations

from pathlib import Path

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.box_checks import check_file_name
from relabel.datasets.formats.pairing import check_pairing
from relabel.datasets.formats.scalabel.frames import (
    Frame,
    Placed,
    frame_boxes,
    place_frames,
    read_frames,
)
from relabel.datasets.formats.splits import find_split, split_names
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.location import image_size
from relabel.errors import DataError, Problems
from relabel.files.paths import posix
from relabel.files.walk import walk_files

_SIZE = (1280, 720)
_OLD = "bdd100k_labels_images_{split}.json"
_LABEL_FILES = (
    "labels/det_20/det_{split}.json",
    f"labels/{_OLD}",
    f"labels/100k/{_OLD}",
    f"labels/det_20/{_OLD}",
    _OLD,
)
_SUFFIXES = frozenset((".jpg", ".jpeg", ".png"))
_REMEDY = "Point at the folder that holds images/100k/ and labels/det_20/."


def read(
    path: Path,
    *,
    name: str,
    split: str | None,
    problems: Problems,
    space: LabelSpace | None = None,
    annotations: str | None = None,
) -> DetectionDataset:
    """Read one split of BDD100K.

    Args:
        path: the folder that holds ``images/`` and ``labels/``, its parent, or a label file.
        split: ``train`` (default) or ``val``.
        annotations: the label file relative to ``path``, where it lies elsewhere.

    Raises:
        DataError: the label file is missing or damaged, or an image is missing where the folder
            of the images is there.
    """
    space = space or LabelSpace.load("bdd100k")
    root, file, split = _locate(path, split, annotations)
    folders = [f"images/100k/{name}" for name in split_names(split)]
    folder = next((f for f in folders if (root / f).is_dir()), folders[0])
    have_images = (root / folder).is_dir()
    if not have_images:
        problems.warning(
            f"no {folder} folder: labels are read without images, sizes taken as "
            f"{_SIZE[0]}x{_SIZE[1]} where the file names none",
            file=root,
        )
    lost: list[str] = []

    def place(frame: Frame) -> Placed | None:
        record = f"frame {frame.name}"
        file_name = f"{folder}/{posix(frame.name)}"
        if not check_file_name(frame.name, problems=problems, file=file, record=record):
            return None
        size = (frame.size.width, frame.size.height) if frame.size else _SIZE
        if have_images:
            try:
                size = image_size(str(root / file_name))
            except DataError as error:
                lost.append(frame.name)
                problems.error(
                    error.message,
                    file=root / file_name,
                    record=record,
                    remedy="Download the image, or leave it out with --skip-bad.",
                )
                return None
        return Placed(file_name, "", *size)

    frames, _ = read_frames(file, problems, remedy=_REMEDY)
    frames, images = place_frames(frames, place, file, problems)
    if have_images:
        used = {name[len(folder) + 1 :] for name in images.file_name}.union(lost)
        check_pairing(
            paired=len(images.id),
            bare_images=sorted(set(walk_files(root / folder, _SUFFIXES)) - used),
            orphan_labels=lost,
            file=root / folder,
            problems=problems,
            remedy="Frames of the label file are named as the images are.",
            background=False,
        )
    boxes = frame_boxes(frames, images, space, file, problems)
    return DetectionDataset(name, space, images, boxes, root)


def _locate(path: Path, split: str | None, annotations: str | None) -> tuple[Path, Path, str]:
    """Root, label file and split."""
    if annotations is not None:
        return path, path / annotations, split or _split_of(annotations)
    if path.is_file():
        roots = [p for p in path.parents if (p / "images/100k").is_dir()]
        return (roots or [path.parent])[0], path, split or _split_of(path.name)
    wanted = split or "train"
    for root in (path, path / "bdd100k"):
        found: dict[str, Path] = {}
        for pattern in _LABEL_FILES:
            before, after = pattern.split("{split}")
            for file in root.glob(f"{before}*{after}"):
                title = file.relative_to(root).as_posix()
                found.setdefault(title.removeprefix(before).removesuffix(after), file)
        if found:
            known = find_split(wanted, found, file=root)
            return root, found[known], known
    raise DataError(
        "file does not exist", file=path / _LABEL_FILES[0].format(split=wanted), remedy=_REMEDY
    )


def _split_of(file_name: str) -> str:
    return next((s for s in ("val", "test") if s in Path(file_name).stem.split("_")), "train")
