"""SHIFT, discrete set: ``discrete/images/{split}/{view}/det_2d.json`` and ``img.zip`` beside it.

Images are ``{sequence}/{frame}_img_{view}.jpg`` inside ``img.zip``, in ``img/``, or in the view's
folder itself; zipped ones are read where they are.

Source: Sun et al., SHIFT, CVPR 2022, and its published file layout.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.box_checks import check_file_name
from relabel.datasets.formats.scalabel.frames import (
    Frame,
    ImageSize,
    Placed,
    frame_boxes,
    place_frames,
    read_frames,
)
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.location import image_size, zip_location
from relabel.errors import DataError, Problems

_SIZE = (1280, 800)
_VIEW = "front"
_LABELS = "det_2d.json"
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
    file = _label_file(path, split or "train", annotations)
    root = path if file.is_relative_to(path) and path.is_dir() else file.parent
    store = _Store(file.parent, root)
    if not store.found:
        problems.warning("no images beside it: labels are read without images", file=file)
    frames, config_size = read_frames(file, problems, remedy=_REMEDY)

    def place(frame: Frame) -> Placed | None:
        record = f"frame {frame.name}"
        title = frame.name
        if frame.videoName and not title.startswith(f"{frame.videoName}/"):
            title = f"{frame.videoName}/{title}"
        if not check_file_name(title, problems=problems, file=file, record=record):
            return None
        try:
            return store.place(title, frame.size or config_size)
        except DataError as error:
            problems.error(
                error.message,
                file=error.file or file,
                record=record,
                remedy="Download the images again, or leave it out with --skip-bad.",
            )
            return None

    with store:
        frames, images = place_frames(frames, place, file, problems)
    boxes = frame_boxes(frames, images, space, file, problems)
    return DetectionDataset(name, space, images, boxes, root)


def _label_file(path: Path, split: str, annotations: str | None) -> Path:
    if annotations is not None:
        return path / annotations
    if path.is_file():
        return path
    inside = [f"{split}/{_VIEW}", _VIEW, "."]
    folders = [f"discrete/images/{split}/{_VIEW}", f"images/{split}/{_VIEW}", *inside]
    for folder in folders:
        if (path / folder / _LABELS).exists():
            return path / folder / _LABELS
    raise DataError("file does not exist", file=path / folders[0] / _LABELS, remedy=_REMEDY)


class _Store:
    """The images of one view: in ``img.zip``, in ``img/``, or in the view's own folder."""

    def __init__(self, view: Path, root: Path) -> None:
        self.view, self.root = view, root
        self.archive: zipfile.ZipFile | None = None
        self.members: dict[str, str] = {}
        self.folder = view / "img" if (view / "img").is_dir() else view
        self.zip_path = view / "img.zip"
        self.zipped = self.zip_path.exists()
        unpacked = self.folder.is_dir() and any(p.is_dir() for p in self.folder.iterdir())
        self.found = self.zipped or unpacked
        if self.zipped:
            try:
                self.archive = zipfile.ZipFile(self.zip_path)
            except (zipfile.BadZipFile, OSError) as error:
                raise DataError(
                    f"not a readable zip archive: {error}",
                    file=self.zip_path,
                    remedy="Download the file again.",
                ) from error
            # Some archives hold a leading folder: the last two parts name an image.
            for member in self.archive.namelist():
                self.members["/".join(member.split("/")[-2:])] = member

    def __enter__(self) -> _Store:
        return self

    def __exit__(self, *_: object) -> None:
        if self.archive is not None:
            self.archive.close()

    def place(self, title: str, size: ImageSize | None) -> Placed:
        """Where the image ``title`` is.

        Raises:
            DataError: it is not in the store, or its header cannot be read.
        """
        known = (size.width, size.height) if size else None
        file = self.folder / title
        if not self.found:
            return Placed(self._name(file), "", *(known or _SIZE))
        if self.archive is None or file.exists():
            if not file.exists():
                raise DataError("image file does not exist", file=file)
            return Placed(self._name(file), "", *(known or image_size(str(file))))
        member = self.members.get(title)
        if member is None:
            raise DataError(f"holds no image {title!r}", file=self.zip_path)
        location = zip_location(self.zip_path, member)
        return Placed(self._name(self.view / title), location, *(known or self._size(member)))

    def _name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

    def _size(self, member: str) -> tuple[int, int]:
        assert self.archive is not None
        try:
            with self.archive.open(member) as stream, Image.open(stream) as image:
                return image.size
        except (
            UnidentifiedImageError,
            OSError,
            SyntaxError,
            ValueError,
            zipfile.BadZipFile,
            io.UnsupportedOperation,
        ) as error:
            raise DataError(
                f"image {member!r} cannot be read: {error}", file=self.zip_path
            ) from error
