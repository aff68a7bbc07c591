"""What an output folder holds, so that nothing in it is lost, mixed, or taken for whole too early.

A folder that datasets are written into carries a hidden ``.relabel-convert``: which parts it
has (splits, or single files), from where each was converted, which files are its own, and whether
it was written to its end. With it, and before anything is touched,

- a file that is there is replaced only if an earlier run of the same conversion wrote it; a second
  split or dataset that needs the same place for something else is refused;
- labels and images that a reader would find in the folder, but that are of no part of it, are
  refused;
- nothing is written over the dataset that is read, nor over its images.

A run that was killed leaves its part marked as unfinished: `check_finished` refuses to read it, and
the same run again ends with the bytes of an undisturbed one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import msgspec

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.splits import split_kind
from relabel.datasets.pixels.location import image_location, is_packed
from relabel.datasets.pixels.placing import (
    CopyImages,
    holds_image,
    placed_over_itself,
    real_entry,
    sync_files,
    write_small,
    writing,
)
from relabel.errors import DataError
from relabel.files.json_text import parse_json
from relabel.files.opening import foreign, read_bytes
from relabel.files.walk import walk_files
from relabel.workspace.atomic import remove_dead
from relabel.workspace.lock import folder_to_itself

MARKER = ".relabel-convert"
_ELSEWHERE = "Choose another --out, or remove what is there."


@dataclass(frozen=True)
class Plan:
    """What a writer is about to write; paths are relative to ``folder``, with forward slashes.

    Attributes:
        folder: the output folder, or the one of a single output file.
        format: the format's name.
        split: the split.
        copy_images: whether and how images are put into the folder.
        main: the main files, written last, with their bytes where they are known beforehand.
        labels: the label files of formats that have one per image, in the order of the images.
        content: gives the bytes of a label file by the image's row.
        shared: those of ``main`` that hold what other parts wrote there, too.
        images: where each image is put, "" for one that is not; empty if none is.
        swept: folders all of whose files with certain suffixes a reader takes for data.
        file: the name of the single file that the output is.
    """

    folder: Path
    format: str
    split: str
    copy_images: CopyImages
    main: Mapping[str, bytes | None]
    labels: Sequence[str] = ()
    content: Callable[[int], bytes] | None = None
    shared: Collection[str] = ()
    images: Sequence[str] = ()
    swept: Mapping[str, Collection[str]] = field(default_factory=dict)
    file: str = ""

    @property
    def part(self) -> str:
        """What of the folder it is."""
        return self.file or f"{self.format} {self.split}"


class _Part(msgspec.Struct):
    """One part of a folder, as the marker tells."""

    format: str
    split: str
    source: str
    finished: bool
    files: list[str]
    images: list[str]


@contextmanager
def output(plan: Plan, dataset: DetectionDataset) -> Iterator[Output]:
    """The folder of a plan, marked as unfinished before the block and as finished after it.

    Raises:
        DataError: something would be lost, mixed or overwritten, and nothing was touched; or the
            folder cannot be written.
    """
    opened = Output(plan, dataset)
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot be made: {error.strerror}", file=plan.folder, remedy="Choose another --out."
        ) from error
    opened.begin()
    try:
        yield opened
    except BaseException:
        opened.give_up()
        raise
    opened.finish()


class Output:
    """See `output`, which makes it."""

    def __init__(self, plan: Plan, dataset: DetectionDataset) -> None:
        self.plan, self.dataset = plan, dataset
        self._folder = str(plan.folder)
        self._written: list[str] = []

    def begin(self) -> None:
        plan = self.plan
        with folder_to_itself(plan.folder):
            parts = _load(plan.folder)
            mine = parts.get(plan.part)
            kept = [] if mine is None else _present(self._folder, mine.files)
            kept_images = [] if mine is None else _present(self._folder, mine.images)
            source = self._source()
            if mine is not None and (kept or kept_images) and mine.source != source:
                raise DataError(
                    f"holds {plan.part!r} of {mine.source!r}, and this is of {source!r}",
                    file=plan.folder,
                    remedy=_ELSEWHERE,
                )
            others = {k: part for k, part in parts.items() if k != plan.part}
            files = self._check_files(set(kept), others)
            images = self._check_images(set(kept_images), others)
            self._check_swept(others)
            if any(not part.finished for part in parts.values()):
                self._clean()
            # One file alone is never half there.
            finished = not plan.labels and not plan.images and len(plan.main) == 1
            parts[plan.part] = _Part(plan.format, plan.split, source, finished, files, images)
            _save(plan.folder, parts)

    def write_labels(self) -> None:
        """Write the label files, then the main files whose bytes are known."""
        plan, content = self.plan, self.plan.content
        assert content is not None
        made: set[str] = set()
        for row, name in enumerate(plan.labels):
            path = f"{self._folder}/{name}"
            parent = path.rpartition("/")[0]
            if parent not in made:
                made.add(parent)
                _make_folder(parent)
            if write_small(path, content(row)):
                self._written.append(path)
        for name, data in plan.main.items():
            if data is not None:
                path = f"{self._folder}/{name}"
                _make_folder(path.rpartition("/")[0])
                if write_small(path, data):
                    self._written.append(path)

    def finish(self) -> None:
        sync_files(self._written)
        with folder_to_itself(self.plan.folder):
            parts = _load(self.plan.folder)
            if self.plan.part in parts:
                parts[self.plan.part].finished = True
                _save(self.plan.folder, parts)

    def give_up(self) -> None:
        """After an error: the part stays unfinished, unless nothing of it was written."""
        folder, name = self.plan.folder, self.plan.part
        with suppress(DataError, OSError), folder_to_itself(folder):
            parts = _load(folder)
            mine = parts.get(name)
            if mine is None or any(_present(self._folder, n) for n in (mine.files, mine.images)):
                return
            del parts[name]
            if parts:
                _save(folder, parts)
            else:
                (folder / MARKER).unlink()

    def _source(self) -> str:
        """Where the dataset comes from, relative to the folder."""
        source = os.path.realpath(self.dataset.source or self.dataset.root)
        try:
            return Path(os.path.relpath(source, os.path.realpath(self._folder))).as_posix()
        except ValueError:  # another drive
            return Path(source).as_posix()

    def _check_files(self, mine: set[str], others: Mapping[str, _Part]) -> list[str]:
        """The files to write that are or will be this part's own.

        Raises:
            DataError: one of them is there and of somebody else.
        """
        plan = self.plan
        names = [*plan.labels, *plan.main]
        there = set(_present(self._folder, names))
        read = str(self.dataset.source or "")
        inputs = {real_entry(read), os.path.realpath(read)} if read else set()
        owners: dict[str, str] | None = None
        for row, name in enumerate(names):
            if name not in there:
                continue
            path = f"{self._folder}/{name}"
            if inputs and real_entry(path) in inputs:
                raise DataError(
                    "is the dataset that is read, and would be written over",
                    file=path,
                    remedy="Choose another --out.",
                )
            if name in mine:
                continue
            owners = _owners(others) if owners is None else owners
            if name in plan.shared and name in owners:
                mine.add(name)
                continue
            if row < len(plan.labels):
                data = None if plan.content is None else plan.content(row)
            else:
                data = plan.main[name]
            if data is None or not _same(path, data):
                raise _clash(path, owners.get(name), plan.part)
        return [name for name in names if name in mine or name not in there]

    def _check_images(self, mine: set[str], others: Mapping[str, _Part]) -> list[str]:
        """The images that are or will be this part's own."""
        plan, dataset = self.plan, self.dataset
        if not plan.images:
            return sorted(mine)
        there = set(_present(self._folder, plan.images))
        if there:
            sources = _image_entries(dataset)
            folders: dict[str, str] = {}
            owners = _owners(others)
            for row, name in enumerate(plan.images):
                if name not in there:
                    continue
                path = f"{self._folder}/{name}"
                head, _, tail = path.rpartition("/")
                if head not in folders:
                    folders[head] = os.path.realpath(head)
                of = sources.get(f"{folders[head]}/{tail}")
                if of is not None:
                    if of != row or plan.copy_images != "auto":
                        raise placed_over_itself(path)
                elif name not in mine and not holds_image(image_location(dataset, row), path):
                    raise _clash(path, owners.get(name), plan.part)
        return [name for name in plan.images if name and (name in mine or name not in there)]

    def _check_swept(self, others: Mapping[str, _Part]) -> None:
        """Refuse what a reader would find in the folder beside what is written."""
        plan = self.plan
        known: set[str] = set()
        for folder, suffixes in plan.swept.items():
            place = f"{self._folder}/{folder}"
            if not os.path.isdir(place):  # noqa: PTH112
                continue
            if not known:
                known.update(plan.labels, plan.main, plan.images)
                known.update(*(chain(part.files, part.images) for part in others.values()))
            strange = [n for n in walk_files(place, suffixes) if f"{folder}/{n}" not in known]
            if strange:
                more = f", nor are {len(strange) - 1} more" if len(strange) > 1 else ""
                raise DataError(
                    f"is not of this dataset, but would be read as part of it{more}",
                    file=f"{place}/{strange[0]}",
                    remedy=_ELSEWHERE,
                )

    def _clean(self) -> None:
        """Remove what a killed run left in the folders that this one writes into."""
        names = chain(self.plan.labels, self.plan.main, self.plan.images)
        for folder in {name.rpartition("/")[0] for name in names}:
            remove_dead(f"{self._folder}/{folder}")
        remove_dead(self._folder)


def check_finished(path: Path, split: str | None) -> None:
    """Refuse to read what a killed or failed conversion left behind.

    Args:
        path: the folder or file of a dataset.
        split: the split that is wanted, None for all.

    Raises:
        DataError: a part of it that is wanted was not written to its end.
    """
    whole = path.is_dir()
    # A file stands in the output folder, or one folder deeper (annotations/).
    for folder in (path,) if whole else (path.parent, path.parent.parent):
        if not (folder / MARKER).is_file():
            continue
        for part in _load(folder).values():
            if part.finished:
                continue
            if not whole and path.relative_to(folder).as_posix() not in part.files:
                continue
            if whole and split is not None and split_kind(split) != split_kind(part.split):
                continue
            raise DataError(
                f"the conversion of {part.source!r} into it was not finished",
                file=path,
                remedy="Run the same `relabel datasets convert` again.",
            )


def _load(folder: Path) -> dict[str, _Part]:
    """The parts that the marker of a folder names; none without a marker."""
    file = folder / MARKER
    if not os.path.lexists(file):
        return {}
    data = parse_json(read_bytes(file, remedy="Remove it."), file)
    with foreign(file, "what `relabel datasets convert` writes there", remedy="Remove it."):
        return msgspec.convert(data["parts"], dict[str, _Part])


def _save(folder: Path, parts: Mapping[str, _Part]) -> None:
    rows = {name: msgspec.structs.asdict(parts[name]) for name in sorted(parts)}
    # ASCII, since file names may hold bytes that are no text.
    text = json.dumps({"written_by": "relabel datasets convert", "parts": rows})
    with writing(folder / MARKER) as temp:
        temp.write_text(text + "\n", encoding="ascii")


def _owners(parts: Mapping[str, _Part]) -> dict[str, str]:
    return {name: k for k, part in parts.items() for name in chain(part.files, part.images)}


def _clash(path: str, owner: str | None, part: str) -> DataError:
    if owner is None:
        what = "is there already, and was not written by this conversion"
    else:
        what = f"is of {owner!r}, which was written here before; {part!r} needs the same name"
    return DataError(what, file=path, remedy=_ELSEWHERE)


def _present(folder: str, names: Sequence[str]) -> list[str]:
    """Those of the names below a folder that exist; each folder on the way is listed once."""
    listed: dict[str, Collection[str]] = {}
    found = []
    for name in names:
        head, _, tail = name.rpartition("/")
        inside = listed.get(head)
        if inside is None:
            try:
                inside = set(os.listdir(f"{folder}/{head}"))  # noqa: PTH208
            except OSError:
                inside = ()
            listed[head] = inside
        if tail in inside:
            found.append(name)
    return found


def _image_entries(dataset: DetectionDataset) -> dict[str, int]:
    """Rows by the image's path: with links of folders followed, and of the image itself too."""
    entries: dict[str, int] = {}
    folders: dict[str, str] = {}
    for row in range(len(dataset)):
        location = image_location(dataset, row)
        if is_packed(location):
            continue
        head, tail = os.path.split(location)
        if head not in folders:
            folders[head] = os.path.realpath(head)
        entries[f"{folders[head]}/{tail}"] = row
        if os.path.islink(location):  # noqa: PTH114
            entries.setdefault(os.path.realpath(location), row)
    return entries


def _same(path: str, data: bytes) -> bool:
    try:
        return os.stat(path).st_size == len(data) and Path(path).read_bytes() == data  # noqa: PTH116
    except OSError:
        return False


def _make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)  # noqa: PTH103
    except OSError as error:
        raise DataError(
            f"cannot be made: {error.strerror}", file=path, remedy="Choose another --out."
        ) from error
