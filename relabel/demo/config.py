"""The demo's relabel.toml: the three datasets, and settings small enough for two cores."""

from __future__ import annotations

from pathlib import Path

from relabel.workspace.atomic import atomic_write_bytes

_TEMPLATE = """\
# Written by `relabel demo`. From this folder, the same job by hand is
#
#     relabel align --target cityscapes --sources waymo,nuimages --out align

[datasets.cityscapes]
format = "cityscapes"
root = "cityscapes"
split = "train"
val_split = "val"

[datasets.waymo]
format = "waymo_v2"
root = "waymo"
split = "training"

[datasets.nuimages]
format = "nuimages"
root = "nuimages"
split = "train"

[runtime]
seed = {seed}

[align]
pictures = 6

[specialist]
backbone = "backbone"  # a small network that the demo trained itself; real work takes DINO
steps = {specialist_steps}
batch_size = 8
lr = 2e-3
frozen_stride = 32  # all of it: its maps are computed once for the specialists of a dataset
image_size = 192
max_image_size = 400
fpn_strides = [4, 8, 16]
fpn_channels = 48
head_channels = 256
rpn_proposals = 100
rois_per_image = 32

[lat]
steps = {lat_steps}
batch_size = 8
lr = 1e-3
image_size = 192
max_image_size = 400
feature_strides = [4, 8, 16]
feature_channels = 32
channels = 128
folds = 2
"""


def write_config(folder: Path, *, seed: int, effort: float = 1.0) -> Path:
    """Write relabel.toml into the demo's folder, unless it is the same already.

    Args:
        effort: scales the number of training steps.

    Returns:
        Its path.
    """
    text = _TEMPLATE.format(
        seed=seed,
        specialist_steps=max(2, round(80 * effort)),
        lat_steps=max(4, round(450 * effort)),
    )
    path = folder / "relabel.toml"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        atomic_write_bytes(path, text.encode())
    return path
