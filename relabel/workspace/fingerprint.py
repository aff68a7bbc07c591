"""Fingerprints: SHA-256 of what a stage depends on, the same on every machine and in every run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relabel.errors import DataError

if TYPE_CHECKING:
    from relabel.datasets.dataset import DetectionDataset


def fingerprint(obj: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``obj``: sorted keys, no spaces, UTF-8.

    Dataclasses count as their fields, tuples as lists, paths as strings, sets as sorted lists.
    """
    text = json.dumps(
        obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain
    )
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def file_fingerprint(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes.

    Raises:
        DataError: the file does not exist or cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error


def folder_fingerprint(path: str | Path) -> str:
    """SHA-256 (hex) over the relative names and bytes of all files below a folder.

    Hidden files and folders (``.lock``, ``.git``) do not count.

    Raises:
        DataError: the folder does not exist, or a file in it cannot be read.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError("is not a folder", file=path)
    names = sorted(
        p.relative_to(root).as_posix()
        for p in root.rglob("*")
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(root).parts)
    )
    return fingerprint([[name, file_fingerprint(root / name)] for name in names])


def source_identity(name: str) -> str:
    """What stands for a network in fingerprints and manifests.

    A local folder is its name and the fingerprint of its files, so that it may move; anything
    else is its hub id or torchvision name.
    """
    folder = Path(name)
    if not name or not folder.is_dir():
        return name
    return f"{folder.resolve().name}@{folder_fingerprint(folder)[:12]}"


def dataset_fingerprint(dataset: DetectionDataset, *, boxes: bool = True) -> str:
    """SHA-256 (hex) of a dataset: its label space, columns, file names and image file sizes.

    Sizes stand for the pixels: reading every image would take minutes, and modification times
    change whenever a dataset is copied. The root's own place on the disk does not count. A set of
    one million boxes takes well under a second, and images a few microseconds each.

    Args:
        boxes: False takes the images only, for what does not depend on the annotations.
    """
    import numpy as np

    digest = hashlib.sha256()

    def column(name: str, values: Any) -> None:
        array = np.ascontiguousarray(values)
        digest.update(f"{name}:{array.dtype.str}:{array.shape}:".encode())
        digest.update(array.data if array.size else b"")

    def strings(name: str, values: Sequence[str | bytes | None]) -> None:
        digest.update(f"{name}:{len(values)}:".encode())
        digest.update("\0".join(v if isinstance(v, str) else repr(v) for v in values).encode())

    images = dataset.images
    for name in ("id", "width", "height"):
        column(name, getattr(images, name))
    strings("file_name", images.file_name)
    if images.location is not None:
        prefix = f"{dataset.root}/"
        strings("location", [(text or "").replace(prefix, "") for text in images.location])
    column("size", np.array(image_sizes(dataset), dtype=np.int64))
    if not boxes:
        return digest.hexdigest()
    digest.update(fingerprint([dataset.name, dataset.space.to_dict()]).encode())
    rows = dataset.boxes
    for name in ("image", "xywh", "category", "score", "ignore", "id", "area"):
        column(f"box {name}", getattr(rows, name))
    if rows.extra is not None:
        strings("extra", rows.extra)
    if rows.provenance is not None:
        strings("origin", rows.provenance.origin)
        strings("source category", rows.provenance.source_category)
        column("source id", rows.provenance.source_id)
        column("source iou", rows.provenance.source_iou)
    return digest.hexdigest()


def image_sizes(dataset: DetectionDataset) -> list[int]:
    """Bytes of each image's file, or of the archive or record file it lies in; -1 if absent."""
    root = str(dataset.root)
    archives: dict[str, int] = {}
    sizes = []
    for row, name in enumerate(dataset.images.file_name):
        location = dataset.images.location[row] if dataset.images.location is not None else None
        scheme, _, rest = (location or "").partition(":")
        if scheme in ("zip", "bytes", "parquet"):
            parts = rest.rsplit("!", 1 if scheme == "zip" else 2)
            if parts[0] not in archives:
                archives[parts[0]] = _size(parts[0])
            sizes.append(archives[parts[0]])
        else:
            sizes.append(_size(location or f"{root}/{name}"))
    return sizes


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return -1


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, set | frozenset):
        return sorted(value)
    to_list = getattr(value, "tolist", None)
    if to_list is not None:  # NumPy arrays and scalars, without importing NumPy
        return to_list()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"cannot take the fingerprint of a {type(value).__name__}")
