r"""Photos as a source annotates them, relabelled, and the truth, side by side in one picture.

    python benchmarks/before_after.py LABELS --config relabel.toml --source riders --truth FILE \
        --images a.jpg,b.jpg --out FILE

LABELS is COCO JSON: ``result/SOURCE/annotations.json`` of `relabel align`, or what
`benchmarks/downstream.py` keeps as ``labels/lat/SOURCE.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from relabel.catalogue.catalogue import load_catalogue
from relabel.datasets.formats.registry import read_dataset
from relabel.reports.pictures import side_by_side


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("labels", type=Path)
    parser.add_argument("--config", type=Path, required=True, help="relabel.toml, or a protocol")
    parser.add_argument("--source", required=True)
    parser.add_argument("--truth", type=Path, required=True, help="COCO, in the target's space")
    parser.add_argument("--images", required=True, help="file names, with commas")
    parser.add_argument("--out", type=Path, required=True, help="the picture")
    args = parser.parse_args()
    names = args.images.split(",")
    before = load_catalogue(config=args.config).get(args.source).read("train")
    layers = {
        f"as {args.source} annotates": before,
        "relabelled": read_dataset(args.labels, "coco"),
        "truth": read_dataset(args.truth, "coco"),
    }
    picked = {}
    for caption, dataset in layers.items():
        row_of = {Path(name).name: row for row, name in enumerate(dataset.images.file_name)}
        unknown = [name for name in names if Path(name).name not in row_of]
        if unknown:
            parser.error(f"no image {unknown[0]!r} {caption}")
        picked[caption] = dataset.subset([row_of[Path(name).name] for name in names])
    side_by_side(picked, range(len(names)), cell_width=320).save(args.out, quality=80)


if __name__ == "__main__":
    main()
