"""Arms from a user's own COCO files that are already in the target's label space.

An oracle (the true labels of a source's images), a colleague's relabelling, the output of another
tool: such a file needs no source and no map.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.location import image_location, is_packed
from relabel.errors import ConfigError, DataError, Problems
from relabel.studies.downstream.arms import ARMS


def parse_extra(text: str) -> tuple[str, Path]:
    """``NAME=FILE`` as given to ``--extra``.

    Raises:
        ConfigError: not of that form, a name that an arm has or that no folder can have, or no
            such file.
    """
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ConfigError(
            f"--extra {text!r} is not NAME=FILE", remedy="Write --extra oracle=labels.json."
        )
    if name.lower() in ARMS:  # which some file systems would give the same folder
        raise ConfigError(
            f"--extra {text!r}: an arm is called {name.lower()!r} already",
            remedy="Choose another name.",
        )
    # The name becomes a folder.
    if name.startswith(".") or not all(c.isalnum() or c in "-_.+" for c in name):
        raise ConfigError(
            f"--extra name {name!r} is not usable",
            remedy="Use letters, digits, '-', '_', '+' and '.'.",
        )
    file = Path(value).expanduser()
    if not file.is_file():
        raise ConfigError("no such file", file=file, remedy=f"Check --extra {name}.")
    return name, file


def read_extra(
    name: str,
    file: Path,
    target_space: LabelSpace,
    images: Mapping[str, DetectionDataset],
    *,
    test: DetectionDataset | None = None,
    problems: Problems | None = None,
) -> DetectionDataset:
    """A COCO file in the target's label space, with its images.

    Categories are joined by name, whatever their ids; the file may have fewer than the target.
    ``iscrowd`` and ``ignore`` mark regions to leave out. Images are looked for where the COCO
    reader looks (the root the file states, its folder, ``images/`` beside it), then by
    ``file_name`` among ``images``, and then by the last part of the name where that is unique.

    Args:
        name: the arm's name, and the dataset's.
        target_space: the label space of the file.
        images: datasets by name whose images the file may name.
        test: the images that will be tested on, which the file must not hold.
        problems: takes bad records where they are to be skipped.

    Raises:
        DataError: a damaged file, a category the target does not have, images that are nowhere,
            in several datasets or of another size there, no boxes, or test images.
    """
    from relabel.datasets.formats.coco.read import read

    if not file.is_file():
        raise DataError("no such file", file=file, remedy=f"Check the file of extra arm {name!r}.")
    found = read(file, name=name, split=None, problems=problems or Problems(), space=target_space)
    if not len(found.boxes):
        raise DataError(
            "holds no boxes", file=file, remedy=f"Give --extra {name} a file with annotations."
        )
    found = replace(found, images=replace(found.images, location=_locations(found, images, file)))
    held = set() if test is None else set(_absolute(test))
    both = [i for i, place in enumerate(_absolute(found)) if place in held]
    if test is not None and both:
        raise DataError(
            f"{len(both)} of its images are test images of {test.name!r}; the first is "
            f"{found.images.file_name[both[0]]!r}",
            file=file,
            remedy="Leave them out: what is tested on must not be trained on.",
        )
    return found


def _locations(
    found: DetectionDataset, images: Mapping[str, DetectionDataset], file: Path
) -> list[str]:
    """Where each image's pixels are; "" for those that lie below the dataset's root."""
    names = found.images.file_name
    location = [""] * len(names)
    lost = [i for i in range(len(names)) if not found.image_path(i).is_file()]
    for key in (_normal, _last_part):
        rows: dict[str, dict[int, int]] = {}
        for name, dataset in images.items():
            known = _unique_rows([key(n) for n in dataset.images.file_name])
            rows[name] = {i: known[k] for i in lost if (k := key(names[i])) in known}
        # Numbered frames have the same names in many datasets: the file is of the one that has
        # most of its images.
        order = sorted(rows, key=lambda name: -len(rows[name]))
        for i in lost:
            having = [name for name in order if i in rows[name]]
            if not having:
                continue
            first = having[0]
            if len(having) > 1 and len(rows[first]) == len(rows[having[1]]):
                raise DataError(
                    f"image {names[i]!r} is in {first!r} and in {having[1]!r}",
                    file=file,
                    remedy="Put the file beside its images, so that it is clear which is meant.",
                )
            row = rows[first][i]
            here, there = (
                f"{int(d.images.width[k])}x{int(d.images.height[k])}"
                for d, k in ((found, i), (images[first], row))
            )
            if here != there:
                raise DataError(
                    f"is {here} in the file and {there} in {first!r}",
                    file=file,
                    record=f"image {names[i]!r}",
                    remedy="The boxes must be in the pixels of the images that are trained on.",
                )
            location[i] = image_location(images[first], row)
        lost = [i for i in lost if not location[i]]
    if lost:
        known = ", ".join(images) or "none"
        raise DataError(
            f"{len(lost)} of {len(names)} images are neither beside the file nor in the datasets "
            f"({known}); the first is {names[lost[0]]!r}",
            file=file,
            remedy="Put the file beside its images, or name the datasets it is about.",
        )
    return location


def _absolute(dataset: DetectionDataset) -> Sequence[str]:
    """Locations that are the same for the same image, however it is reached."""
    places = [image_location(dataset, row) for row in range(len(dataset))]
    return [p if is_packed(p) else str(Path(p).resolve()) for p in places]


def _normal(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _last_part(name: str) -> str:
    return _normal(name).rsplit("/", 1)[-1]


def _unique_rows(names: Sequence[str]) -> dict[str, int]:
    """The row of each name that stands in one row only."""
    count = Counter(names)
    return {name: row for row, name in enumerate(names) if count[name] == 1}
