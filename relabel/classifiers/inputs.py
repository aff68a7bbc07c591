"""What `train-classifier` and `classify` read: image folders, detection sets, truths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from relabel.classifiers.data import (
    UNKNOWN,
    LabelledImages,
    from_detections,
    from_image_set,
)
from relabel.datasets.multilabels import label_matrix, label_rows
from relabel.errors import DataError, Problems

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import DatasetEntry, Which


def read_images(
    root: Path | str, labels: Path | None, classes: str | None, problems: Problems
) -> LabelledImages:
    """Images below a folder or URL with the labels of a TSV, or with those their folders tell.

    Raises:
        DataError: no images, damaged labels, or none that fit.
    """
    from relabel.datasets.pixels.image_folder import read_image_set

    table = None
    if labels is not None:
        from relabel.datasets.multilabels import read_tsv

        table = read_tsv(labels)
    images = read_image_set(root, classes=classes, problems=problems)
    found = from_image_set(images, table, name=images.name)
    if table is not None and labels is not None:
        bare, lines = len(images) - len(found), len(table) - len(found)
        if bare:
            what = f"names no classes for {bare} of {len(images)} images, which are left out"
            problems.warning(what, file=labels)
        if lines:
            what = f"{lines} of {len(table)} lines name no image of {root} and are left out"
            problems.warning(what, file=labels)
    return found


def read_detections(entry: DatasetEntry, which: Which, problems: Problems) -> LabelledImages:
    """Images of a detection set with the classes of their boxes."""
    return from_detections(entry.read(which, problems=problems), crowds=entry.format == "coco")


def read_validation(
    root: Path | str,
    labels: Path | None,
    classes: str | None,
    train: LabelledImages,
    problems: Problems,
) -> LabelledImages:
    """Images to measure on, their labels in the classes of the training images.

    Args:
        labels: a truth that `relabel evaluate multilabel` reads (TSV, ``real.json``, INv2-ML,
            COCO, VOC); None takes the labels that the folders tell.

    Raises:
        DataError: as `read_images`, or a class that the training images do not have.
    """
    from relabel.datasets.pixels.image_folder import read_image_set

    found = read_image_set(root, classes=classes, problems=problems)
    images = from_image_set(found, None, name=found.name)
    if labels is None:
        return in_classes_of(images, train)
    return with_truth(images, labels, train, problems)


def in_classes_of(images: LabelledImages, train: LabelledImages) -> LabelledImages:
    """The images with their class ids, names and keys as in ``train``, joined by key.

    Raises:
        DataError: a class that is used and that ``train`` does not have.
    """
    if images.class_keys == train.class_keys:
        return images
    place = {key: i for i, key in enumerate(train.class_keys)}
    new = np.array([place.get(key, -1) for key in images.class_keys], dtype=np.int32)
    labels = images.labels
    used = np.unique(np.concatenate([labels.indices, images.gt[images.gt >= 0]]))
    foreign = [images.class_names[i] for i in used.tolist() if new[i] < 0]
    if foreign:
        raise DataError(
            f"class {foreign[0]!r} of the validation images is none of the training images'",
            file=images.root,
            remedy="Use images of the same classes.",
        )
    shape = (len(images), len(train.class_names))
    return replace(
        images,
        gt=np.where(images.gt >= 0, new[images.gt], -1).astype(np.int32) if len(new) else images.gt,
        labels=label_matrix(label_rows(labels), new[labels.indices], shape, labels.data),
        class_names=train.class_names,
        class_keys=train.class_keys,
    )


def with_truth(
    images: LabelledImages, file: Path, train: LabelledImages, problems: Problems | None = None
) -> LabelledImages:
    """The images that a file of true classes names, with those classes.

    Raises:
        DataError: the file is damaged, names none of the images, or other classes.
    """
    from relabel.evaluation.multilabel.joining import join_images
    from relabel.evaluation.multilabel.truths import read_truths

    truth = read_truths(file)
    if problems is not None:
        for note in truth.notes:
            problems.warning(note, file=file)
    records, _ = join_images(
        truth.file_names, images.file_names, truth_file=file, predictions_file=images.root
    )
    there = np.flatnonzero(records >= 0)
    if len(there) == 0:
        raise DataError(
            f"names none of the images in {images.root}", file=file, remedy="Check --validate."
        )
    rows, ids, values = [], [], []
    for listed, value in ((truth.labels, 1.0), (truth.ignored, UNKNOWN)):
        if listed is not None:
            chosen = listed[there]
            rows.append(label_rows(chosen))
            ids.append(chosen.indices)
            values.append(np.full(chosen.nnz, value))
    row, label, value = (np.concatenate(parts) for parts in (rows, ids, values))
    if truth.space is not None:
        label = _by_name(truth.space.class_names, label, train, file)
    if int(label.max(initial=-1)) >= len(train.class_names):
        raise DataError(
            f"class id {int(label.max())} is beyond the {len(train.class_names)} classes of the "
            "training images",
            file=file,
        )
    chosen = images.select(records[there])
    table = label_matrix(row, label, (len(there), len(train.class_names)), value)
    return replace(
        chosen,
        gt=np.full(len(there), -1, dtype=np.int32),
        labels=table.astype(np.float32),
        class_names=train.class_names,
        class_keys=train.class_keys,
    )


def _by_name(names: list[str], label: np.ndarray, train: LabelledImages, file: Path) -> np.ndarray:
    place = {name: i for i, name in enumerate(train.class_names)}
    new = np.array([place.get(name, -1) for name in names], dtype=np.int64)
    foreign = [names[i] for i in np.unique(label).tolist() if new[i] < 0]
    if foreign:
        raise DataError(
            f"class {foreign[0]!r} is none of the training images'",
            file=file,
            remedy="Validate on images of the same classes.",
        )
    return new[label]
