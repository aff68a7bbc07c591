"""Which file of a folder is damaged, and how."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.fuzz.mutations import images, markup, packed, tables, text, tree

Mutator = Callable[[Random, bytes], tuple[bytes, str]]
BY_SUFFIX: dict[str, tuple[Mutator, int]] = {
    ".json": (markup.json_file, 10),
    ".yaml": (markup.yaml_file, 10),
    ".yml": (markup.yaml_file, 10),
    ".toml": (markup.toml_file, 10),
    ".xml": (markup.xml_file, 10),
    ".txt": (tables.table_file, 8),
    ".tsv": (tables.table_file, 10),
    ".csv": (tables.table_file, 10),
    ".data": (tables.table_file, 6),
    ".names": (tables.table_file, 6),
    ".zip": (packed.zip_file, 10),
    ".tfrecord": (packed.tfrecord_file, 10),
    ".parquet": (packed.parquet_file, 10),
    ".safetensors": (packed.tensors_file, 8),
    ".pt": (packed.pickled_file, 8),
    ".pth": (packed.pickled_file, 8),
    ".png": (images.image_file, 4),
    ".jpg": (images.image_file, 4),
    ".jpeg": (images.image_file, 4),
}


def damage(rng: Random, root: Path, outside: Path) -> tuple[str, str]:
    """One change of a file or folder below ``root``; returns its kind and what was done.

    What an earlier change has left may be nothing that the next one can work on.
    """
    try:
        return _damage(rng, root, outside)
    except (OSError, ValueError, OverflowError, struct.error) as error:
        return "nothing", f"{type(error).__name__}: {error}"


def _damage(rng: Random, root: Path, outside: Path) -> tuple[str, str]:
    if rng.random() < 0.12:
        return "folder", tree.damage_tree(rng, root, outside)
    files = sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())
    files = [p for p in files if p.stat().st_mode & 0o400]
    if not files:
        return "folder", "nothing left to damage"
    chosen = [BY_SUFFIX.get(p.suffix.lower(), (text.flip_bytes, 2)) for p in files]
    # One suffix first: a dataset has more images than annotation files.
    groups: dict[str, list[int]] = {}
    for i, file in enumerate(files):
        groups.setdefault(file.suffix.lower(), []).append(i)
    names = sorted(groups)
    suffix = rng.choices(names, [chosen[groups[name][0]][1] for name in names])[0]
    i = rng.choice(groups[suffix])
    content, said = chosen[i][0](rng, files[i].read_bytes())
    files[i].write_bytes(content)
    kind = suffix.lstrip(".") or "plain"
    return kind, f"{files[i].relative_to(root).as_posix()}: {said}"
