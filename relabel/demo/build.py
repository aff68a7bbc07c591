"""Write the demo world: three datasets, the paired truth, and a manifest to reuse it by."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL

from relabel.demo import write_cityscapes, write_nuimages, write_waymo
from relabel.demo.truth import truth_coco
from relabel.demo.world import make_scene
from relabel.workspace.atomic import atomic_write_json
from relabel.workspace.progress import message, progress

WORLD_FILE = "world.json"
_WORLD_VERSION = 1
SOURCES = ("waymo", "nuimages")
TARGET = "cityscapes"


@dataclass(frozen=True)
class World:
    """A written demo world.

    Attributes:
        root: its folder.
        reused: True if an earlier run had written it.
    """

    root: Path
    seed: int
    reused: bool = False

    @property
    def manifest(self) -> Path:
        """Names the settings and every file; the last file to be written."""
        return self.root / WORLD_FILE

    def truth(self, source: str) -> Path:
        """COCO file of a source's images in the Cityscapes convention."""
        return self.root / "truth" / f"{source}_in_{TARGET}.json"


def write_world(
    out: Path,
    *,
    images: int = 120,
    target_images: int | None = None,
    val_images: int = 40,
    seed: int = 0,
    quiet: bool = False,
) -> World:
    """Write the three datasets and the paired truth, or reuse a complete earlier world.

    The files are a function of the arguments and of the versions of Pillow and pyarrow: the same
    call writes the same bytes.

    Args:
        out: folder; ``cityscapes/``, ``waymo/``, ``nuimages/`` and ``truth/`` in it are replaced.
        images: training images per dataset.
        target_images: training images of the target, where it has fewer or more than a source.
        val_images: validation images of the target.
    """
    import pyarrow

    target_images = images if target_images is None else target_images

    settings = {
        "version": _WORLD_VERSION,
        "images": images,
        "target_images": target_images,
        "val_images": val_images,
        "seed": seed,
        "pillow": PIL.__version__,
        "pyarrow": pyarrow.__version__,
        "code": _code_fingerprint(),
    }
    if _is_complete(out, settings):
        message(f"The demo world in {out} is complete: reused.", quiet=quiet)
        return World(out, seed, reused=True)
    (out / WORLD_FILE).unlink(missing_ok=True)
    for name in (TARGET, *SOURCES, "truth"):
        shutil.rmtree(out / name, ignore_errors=True)
    files: list[Path] = []
    counts = {"train": target_images, "val": val_images}
    total = len(SOURCES) * images + sum(counts.values())
    with progress("Rendering the demo world", total=total, unit="images", quiet=quiet) as bar:
        for count, written in _write_datasets(out, images, counts, seed):
            files += written
            bar.update(count)
    world = World(out, seed)
    names = {"waymo": write_waymo.waymo_name, "nuimages": write_nuimages.nuimages_name}
    for source, name_of in names.items():
        pairs = ((name_of(i), make_scene(source, "train", i, seed=seed)) for i in range(images))
        atomic_write_json(world.truth(source), truth_coco(pairs))
        files.append(world.truth(source))
    sizes = {str(path.relative_to(out)): path.stat().st_size for path in files}
    atomic_write_json(out / WORLD_FILE, {"settings": settings, "files": sizes}, indent=1)
    return world


def _write_datasets(
    out: Path, images: int, target: dict[str, int], seed: int
) -> Iterator[tuple[int, list[Path]]]:
    """Write everything piece by piece; yields images and files of each piece.

    Args:
        images: of each source.
        target: images of the target by split.
    """
    for split, count in target.items():
        for i in range(count):
            yield 1, write_cityscapes.write_image(out / "cityscapes", split, i, seed=seed)
    step = write_waymo.FRAMES_PER_SEGMENT
    for segment, start in enumerate(range(0, images, step)):
        indices = range(start, min(start + step, images))
        yield len(indices), write_waymo.write_segment(out / "waymo", segment, indices, seed=seed)
    tables = write_nuimages.NuImagesTables(out / "nuimages", seed=seed)
    for i in range(images):
        yield 1, [tables.add(i)]
    yield 0, tables.write()


def _is_complete(out: Path, settings: dict[str, Any]) -> bool:
    try:
        written = json.loads((out / WORLD_FILE).read_text(encoding="utf-8"))
        return written["settings"] == settings and all(
            (out / name).stat().st_size == size for name, size in written["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _code_fingerprint() -> str:
    """Of the modules that decide what is drawn and written."""
    digest = hashlib.sha256()
    for name in (
        *("paint", "shapes", "world", "render", "truth", "build"),
        *("write_cityscapes", "write_waymo", "write_nuimages"),
    ):
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]
