"""SHIFT, discrete set: ``discrete/images/{split}/{view}/det_2d.json`` and ``img.zip`` beside it.

Images are ``{sequence}/{frame}_img_{view}.jpg`` inside ``img.zip``, in ``img/``, or in the view's
folder itself; zipped ones are read where they are.

Source: Sun et al., SHIFT, CVPR 2022, and its published file layout.
"""

from __future__ import annotations

import zipfile
from collections import defaultdict
from pathlib import Path

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.box_checks import check_file_name
from relabel.datasets.formats.pairing import check_pairing
from relabel.datasets.formats.scalabel.frames import (
    Frame,
    ImageSize,
    Placed,
    frame_boxes,
    place_frames,
    read_frames,
)
from relabel.datasets.formats.splits import find_split, split_kind
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.location import image_size, zip_location
from relabel.errors import DataError, Problems
from relabel.files.archive import open_archive
from relabel.files.paths import posix
from relabel.files.walk import is_hidden, walk_files

_SIZE = (1280, 800)
_VIEW = "front"
_LABELS = "det_2d.json"
_SUFFIXES = frozenset((".jpg", ".jpeg", ".png"))
_AGAIN = "Download the images again, or leave it out with --skip-bad."
_REMEDY = "Point at SHIFT's root, or at the folder of one view."


def read(
    path: Path,
    *,
    name: str,
    split: str | None,
    problems: Problems,
    space: LabelSpace | None = None,
    annotations: str | None = None,
) -> DetectionDataset:
    """Read one split of one view of SHIFT.

    Args:
        path: the root (view ``front``), or the folder of a view.
        split: ``train`` (default), ``val`` or ``test``.
        annotations: another label file relative to ``path``, for another view:
            ``discrete/images/val/left_90/det_2d.json``.

    Raises:
        DataError: the label file is missing or damaged, or an image is missing where images are
            there.
    """
    space = space or LabelSpace.load("shift")
    file = _label_file(path, split, annotations)
    root = path if file.is_relative_to(path) and path.is_dir() else file.parent
    store = _Store(file.parent, root)
    if not store.found:
        problems.warning("no images beside it: labels are read without images", file=file)
    frames, config_size = read_frames(file, problems, remedy=_REMEDY)
    lost: list[str] = []

    def place(frame: Frame) -> Placed | None:
        record = f"frame {frame.name}"
        title = posix(frame.name)
        if frame.videoName and not title.startswith(f"{frame.videoName}/"):
            title = f"{frame.videoName}/{title}"
        if not check_file_name(title, problems=problems, file=file, record=record):
            return None
        try:
            return store.place(title, frame.size or config_size)
        except DataError as error:
            lost.append(title)
            problems.error(
                error.message,
                file=error.file or file,
                record=record,
                remedy=error.remedy or _AGAIN,
            )
            return None

    frames, images = place_frames(frames, place, file, problems)
    if store.found:
        check_pairing(
            paired=len(images.id),
            bare_images=store.unused(),
            orphan_labels=lost,
            file=store.zip_path if store.zipped else store.folder,
            problems=problems,
            remedy="Frames of det_2d.json are named as the images are: sequence/frame.",
            background=False,
        )
    boxes = frame_boxes(frames, images, space, file, problems)
    return DetectionDataset(name, space, images, boxes, root)


def _label_file(path: Path, split: str | None, annotations: str | None) -> Path:
    if annotations is not None:
        return path / annotations
    if path.is_file():
        return path
    for base in ("discrete/images", "images", "."):
        found = {p.parents[1].name: p for p in sorted((path / base).glob(f"*/{_VIEW}/{_LABELS}"))}
        if found:
            return found[find_split(split or "train", found, file=path / base)]
    for folder in (path / _VIEW, path):
        if (folder / _LABELS).exists():
            is_of = split_kind(folder.absolute().parent.name)
            if split and is_of in ("train", "val", "test") and is_of != split_kind(split):
                raise DataError(
                    f"is of split {is_of!r}, not {split!r}", file=folder, remedy=_REMEDY
                )
            return folder / _LABELS
    file = path / f"discrete/images/{split or 'train'}/{_VIEW}/{_LABELS}"
    raise DataError("file does not exist", file=file, remedy=_REMEDY)


class _Store:
    """The images of one view: in ``img.zip``, in ``img/``, or in the view's own folder."""

    def __init__(self, view: Path, root: Path) -> None:
        self.view, self.root = view, root
        self.folder = view / "img" if (view / "img").is_dir() else view
        self.zip_path = view / "img.zip"
        self.zipped = self.zip_path.exists()
        unpacked = self.folder.is_dir() and any(p.is_dir() for p in self.folder.iterdir())
        self.found = self.zipped or unpacked
        # Some archives hold a leading folder: the last two parts name an image.
        self.members: dict[str, list[zipfile.ZipInfo]] = defaultdict(list)
        self.unpacked = frozenset(walk_files(self.folder, _SUFFIXES) if unpacked else ())
        self.used: set[str] = set()
        if self.zipped:
            with open_archive(self.zip_path) as archive:
                for info in archive.infolist():
                    parts = posix(info.filename).split("/")
                    if parts[-1] and not any(map(is_hidden, set(parts) - {".", ".."})):
                        self.members["/".join(parts[-2:])].append(info)

    def place(self, title: str, size: ImageSize | None) -> Placed:
        """Where the image ``title`` is.

        Raises:
            DataError: it is not in the store, or its header cannot be read.
        """
        known = (size.width, size.height) if size else None
        file = self.folder / title
        if not self.found:
            return Placed(self._name(file), "", *(known or _SIZE))
        self.used.add(title)
        if title in self.unpacked:
            return Placed(self._name(file), "", *(known or image_size(str(file))))
        if not self.zipped:
            raise DataError("image file does not exist", file=file)
        members = self.members.get(title, [])
        if len(members) != 1:
            raise DataError(f"holds {len(members) or 'no'} images {title!r}", file=self.zip_path)
        if members[0].flag_bits & 1:
            raise DataError(
                f"image {title!r} is encrypted",
                file=self.zip_path,
                remedy="Unpack the archive with its password, into img/ beside it.",
            )
        location = zip_location(self.zip_path, members[0].filename)
        return Placed(self._name(self.view / title), location, *(known or image_size(location)))

    def unused(self) -> list[str]:
        """Images that no frame is about."""
        zipped = (m for m in self.members if Path(m).suffix.lower() in _SUFFIXES)
        return [name for name in (*self.unpacked, *zipped) if name not in self.used]

    def _name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()
