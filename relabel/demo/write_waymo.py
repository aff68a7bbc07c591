"""Write scenes in the layout and convention of the Waymo Open Dataset v2 (camera 2D boxes).

Boxes enclose what is visible. A cyclist is one box around rider and bicycle, a motorcycle with
its rider is a vehicle like every other, and parked bicycles are not labelled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from relabel.demo.render import image_bytes, render
from relabel.demo.world import Actor, Scene, make_scene, mask_box

VEHICLE, PEDESTRIAN, CYCLIST = 1, 2, 4
TYPES = {
    "adult": PEDESTRIAN,
    "child": PEDESTRIAN,
    "worker": PEDESTRIAN,
    "cyclist": CYCLIST,
    "motorcyclist": VEHICLE,
    "car": VEHICLE,
    "police_car": VEHICLE,
    "truck": VEHICLE,
    "bus": VEHICLE,
    "construction": VEHICLE,
}
FRONT = 1
SPLIT = "training"
FRAMES_PER_SEGMENT = 20
_ROW_GROUP = 10
_FIRST_TIME, _TIME_STEP = 1_550_000_000_000_000, 100_000


def segment_name(segment: int) -> str:
    """The context name, in the form ``{id}_{start}_{end}``."""
    start = segment * 20
    return f"{10_000_000_000_000_000 + segment * 7_919}_{start:04d}_000_{start + 20:04d}_000"


def timestamp(index: int) -> int:
    """Microseconds of an image."""
    return _FIRST_TIME + index * _TIME_STEP


def waymo_name(index: int) -> str:
    """The name by which the reader calls an image that lies inside a Parquet file."""
    context = segment_name(index // FRAMES_PER_SEGMENT)
    return f"{context}/{timestamp(index)}_FRONT.jpg"


def waymo_objects(scene: Scene) -> list[tuple[Actor, int, np.ndarray]]:
    """The labelled objects with their type and visible xyxy float64 [4]."""
    return [
        (actor, TYPES[actor.kind], mask_box(scene.visible_mask(actor)))
        for actor in scene.actors
        if actor.kind in TYPES
    ]


def write_segment(root: Path, segment: int, indices: range, *, seed: int) -> list[Path]:
    """Write the Parquet files of one driving segment; returns their paths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    context = segment_name(segment)
    box = "[CameraBoxComponent]"
    keys = {
        "key.segment_context_name": pa.string(),
        "key.frame_timestamp_micros": pa.int64(),
        "key.camera_name": pa.int8(),
    }
    image_columns = {**keys, "[CameraImageComponent].image": pa.binary()}
    box_columns = {
        **keys,
        "key.camera_object_id": pa.string(),
        **{f"{box}.box.{p}.{axis}": pa.float64() for p in ("center", "size") for axis in "xy"},
        f"{box}.type": pa.int8(),
        f"{box}.difficulty_level.detection": pa.int8(),
        f"{box}.difficulty_level.tracking": pa.int8(),
    }
    images: list[tuple[Any, ...]] = []
    boxes: list[tuple[Any, ...]] = []
    for index in indices:
        scene = make_scene("waymo", "train", index, seed=seed)
        key = (context, timestamp(index), FRONT)
        images.append((*key, image_bytes(render(scene), "JPEG")))
        for number, (_, kind, (x0, y0, x1, y1)) in enumerate(waymo_objects(scene)):
            place = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
            boxes.append((*key, f"{index:06d}-{number:03d}", *place, kind, 1, 1))
    files = []
    for component, rows, columns in (
        ("camera_image", images, image_columns),
        ("camera_box", boxes, box_columns),
    ):
        path = root / SPLIT / component / f"{context}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        named = [dict(zip(columns, row, strict=True)) for row in rows]
        table = pa.Table.from_pylist(named, schema=pa.schema(columns))
        pq.write_table(table, path, row_group_size=_ROW_GROUP, compression="snappy")
        files.append(path)
    return files
