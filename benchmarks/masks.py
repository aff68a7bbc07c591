r"""Photos with the regions that `relabel imagenet-multilabel` found, in one picture.

    python benchmarks/masks.py crop TRUTH.json [TRUTH.json ...] --every 6 --out FOLDER
    relabel imagenet-multilabel --images FOLDER ... --out LABELS
    python benchmarks/masks.py draw LABELS --photos FOLDER --images a.jpg,b.jpg --out FILE

``crop`` cuts every sixth object out of detection data, with what is around it, into a folder of
class folders: photos with one label and several objects.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from relabel.datasets.formats.registry import read_dataset
from relabel.datasets.pixels.image_folder import load_image, read_image_set
from relabel.datasets.pixels.location import load_rgb
from relabel.multilabel.store import read_labels, read_regions
from relabel.reports.pictures import class_palette, contact_sheet, crop_around, draw_masks

_SIDE = 448  # pixels of a cut-out photo
_CONTEXT = 0.8  # around an object, as a share of its longer side
_CELL = 360  # pixels of a photo in the picture


def crop(truths: list[Path], every: int, out: Path) -> None:
    """Cut out every `every`-th object of each file."""
    for truth in truths:
        dataset = read_dataset(truth, "coco")
        boxes = dataset.boxes
        for row in range(0, len(boxes), every):
            box = tuple(boxes.xyxy[row].tolist())
            part, _ = crop_around(load_rgb(dataset, int(boxes.image[row])), box, context=_CONTEXT)
            file = out / dataset.space.names[boxes.category[row]] / f"{truth.parent.name}-{row}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            size = (_SIDE, round(_SIDE * part.shape[0] / part.shape[1]))
            Image.fromarray(part).resize(size, Image.Resampling.LANCZOS).save(file, quality=92)


def draw(labels: Path, photos: Path, names: list[str], out: Path, columns: int) -> None:
    """Draw regions with their most probable class; above a photo stand its labels from 0.5 on."""
    images = read_image_set(photos)
    row_of = {name: row for row, name in enumerate(images.file_names)}
    pictures: dict[str, tuple[Image.Image, str]] = {}
    palette = class_palette(images.class_names)
    shards = sorted((labels / "1_regions" / "shards").iterdir())
    for one, other in zip(shards, sorted((labels / "4_labels" / "shards").iterdir()), strict=True):
        regions, found = read_regions(one, features=False), read_labels(other)
        for k, name in enumerate(found.file_name):
            if name not in names:
                continue
            every, first = regions.regions(k), int(regions.offsets[k])
            kept = [r for r in every if found.ids[r, 0] >= 0]
            drawn = draw_masks(
                load_image(images, row_of[name]),
                regions.masks(k)[[r - first for r in kept]],
                [images.class_names[found.ids[r, 0]] for r in kept],
                np.array([found.probs[r, 0] for r in kept]),
                palette,
                size=19,
            )
            listed = range(*found.label_offsets[k : k + 2])
            sure = [
                images.class_names[found.label_ids[i]]
                for i in listed
                if found.label_probs[i] >= 0.5
            ]
            pictures[name] = drawn, ", ".join(sure)
    chosen = [pictures[name] for name in names]
    sheet = contact_sheet(
        [picture for picture, _ in chosen],
        [text for _, text in chosen],
        columns=columns,
        cell_width=_CELL,
    )
    sheet.save(out, quality=85, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("crop")
    one.add_argument("truths", type=Path, nargs="+", help="COCO files")
    one.add_argument("--every", type=int, default=1, help="objects from one photo to the next")
    one.add_argument("--out", type=Path, required=True, help="the folder of class folders")
    two = parts.add_parser("draw")
    two.add_argument("labels", type=Path, help="what imagenet-multilabel wrote")
    two.add_argument("--photos", type=Path, required=True, help="its --images")
    two.add_argument("--images", required=True, help="file names, with commas")
    two.add_argument("--columns", type=int, default=4)
    two.add_argument("--out", type=Path, required=True, help="the picture")
    args = parser.parse_args()
    if args.part == "crop":
        crop(args.truths, args.every, args.out)
    else:
        draw(args.labels, args.photos, args.images.split(","), args.out, args.columns)


if __name__ == "__main__":
    main()
