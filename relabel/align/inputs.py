"""What align checks about its datasets before hours of training depend on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from relabel.datasets.fingerprint import dataset_fingerprint
from relabel.datasets.pixels.location import image_location, image_sizes
from relabel.datasets.pixels.sizes import LOOK, check_sizes
from relabel.errors import ConfigError, DataError, Problem, Problems
from relabel.settings import Runtime
from relabel.workspace.atomic import atomic_write_json
from relabel.workspace.mirror import ensure

if TYPE_CHECKING:
    import numpy as np

    from relabel.catalogue.catalogue import DatasetEntry
    from relabel.datasets.dataset import DetectionDataset

UNREADABLE_FILE = "unreadable.json"


def read_training_set(
    entry: DatasetEntry, out: Path, runtime: Runtime, problems: Problems
) -> DetectionDataset:
    """Read a dataset's training images, and make sure that their files are there.

    With ``--skip-bad`` every image is decoded once and those that cannot be are left out; what was
    found is kept in the workspace, so that the next run knows.

    Raises:
        DataError: the dataset is damaged, or image files are missing.
        ConfigError: nothing is left to train on.
    """
    dataset = usable_images(entry.read("train", problems=problems), out, runtime, problems)
    if len(dataset) == 0:
        raise ConfigError(
            f"dataset {entry.name!r} has no images",
            file=entry.root,
            remedy="Check its split and annotation file in relabel.toml.",
        )
    boxes = dataset.boxes
    if bool(boxes.ignore.all()):
        ignored = f"all {len(boxes)} boxes are ones to ignore" if len(boxes) else "it has no boxes"
        problems.warning(
            f"dataset {entry.name!r} has nothing to train on: {ignored}", file=entry.root
        )
    return dataset


def usable_images(
    dataset: DetectionDataset, out: Path, runtime: Runtime, problems: Problems
) -> DetectionDataset:
    """The images that can be decoded (``--skip-bad``), or all of them, whose files are there.

    Args:
        out: workspace that remembers which images cannot be decoded.

    Raises:
        DataError: ``--skip-bad`` is off, and image files are missing, or are no images or of
            another size than stated as far as their headers tell; see `check_sizes`.
    """
    if problems.skip_bad:
        return _readable(dataset, out, runtime, problems)
    _require_files(dataset)
    return check_sizes(dataset, problems, most=LOOK, damaged=True)


def _require_files(dataset: DetectionDataset) -> None:
    missing = [row for row, size in enumerate(image_sizes(dataset)) if size < 0]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(
            f"image file does not exist{more}",
            file=image_location(dataset, missing[0]),
            record=f"image {int(dataset.images.id[missing[0]])} of {dataset.name}",
            remedy="Check the dataset's root, or leave such images out with --skip-bad.",
        )


def _readable(
    dataset: DetectionDataset, out: Path, runtime: Runtime, problems: Problems
) -> DetectionDataset:
    key = dataset_fingerprint(dataset, boxes=False)
    file = out / UNREADABLE_FILE
    ensure(file)
    known = _known(file)
    if key not in known:
        known[key] = _decode_all(dataset, runtime)
        atomic_write_json(file, known, indent=1)
    bad = known[key]
    if not bad:
        return dataset
    names = dataset.images.file_name
    rows = {name: row for row, name in enumerate(names)}
    for name, text in bad.items():
        place = image_location(dataset, rows[name]) if name in rows else f"{dataset.root / name}"
        problems.found.append(Problem("error", place, "", text))
    return dataset.subset([row for row in range(len(dataset)) if names[row] not in bad])


def _decode_all(dataset: DetectionDataset, runtime: Runtime) -> dict[str, str]:
    """What is wrong with each image that cannot be decoded, by file name."""
    from relabel.datasets.pixels.batches import ImageBatches
    from relabel.datasets.pixels.location import load_rgb
    from relabel.workspace.progress import progress

    bad: dict[str, str] = {}

    def load(dataset: DetectionDataset, row: int) -> np.ndarray:
        try:
            return load_rgb(dataset, row)
        except DataError as error:
            bad[dataset.images.file_name[row]] = error.message
            raise

    skipped = Problems(skip_bad=True)
    batches = ImageBatches(
        dataset, batch_size=16, workers=runtime.workers, problems=skipped, load=load
    )
    label = f"Checking images of {dataset.name}"
    with batches, progress(label, len(dataset), unit="images", quiet=runtime.quiet) as bar:
        for rows, _ in batches:
            bar.update(len(rows))
    return dict(sorted(bad.items()))


def _known(file: Path) -> dict[str, dict[str, str]]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    fine = isinstance(known, dict) and all(isinstance(bad, dict) for bad in known.values())
    return known if fine else {}
