"""Write scenes in the layout and convention of nuImages.

Boxes are whole numbers and amodal: they cover the hidden parts of an object too, up to the border
of the image. A bicycle or motorcycle includes its rider; bicycle racks are regions of their own.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, cast

import numpy as np

from relabel.demo.render import image_bytes, render, surfaces
from relabel.demo.world import Actor, Scene, filled, make_scene

CATEGORIES = (
    *("animal", "flat.driveable_surface", "human.pedestrian.adult", "human.pedestrian.child"),
    *("human.pedestrian.construction_worker", "human.pedestrian.personal_mobility"),
    *("human.pedestrian.police_officer", "human.pedestrian.stroller"),
    *("human.pedestrian.wheelchair", "movable_object.barrier", "movable_object.debris"),
    *("movable_object.pushable_pullable", "movable_object.trafficcone"),
    *("static_object.bicycle_rack", "vehicle.bicycle", "vehicle.bus.bendy", "vehicle.bus.rigid"),
    *("vehicle.car", "vehicle.construction", "vehicle.ego", "vehicle.emergency.ambulance"),
    *("vehicle.emergency.police", "vehicle.motorcycle", "vehicle.trailer", "vehicle.truck"),
)
KINDS = {
    "adult": "human.pedestrian.adult",
    "child": "human.pedestrian.child",
    "worker": "human.pedestrian.construction_worker",
    "cyclist": "vehicle.bicycle",
    "bicycle": "vehicle.bicycle",
    "bicycle_group": "static_object.bicycle_rack",
    "motorcyclist": "vehicle.motorcycle",
    "car": "vehicle.car",
    "police_car": "vehicle.emergency.police",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "construction": "vehicle.construction",
    "cone": "movable_object.trafficcone",
}
ATTRIBUTES = (
    *("cycle.with_rider", "cycle.without_rider", "pedestrian.moving", "pedestrian.standing"),
    *("vehicle.moving", "vehicle.parked"),
)
CHANNELS = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT")
VERSION = "v1.0-train"
IMAGES_PER_LOG = 40
_FIRST_TIME, _TIME_STEP = 1_530_000_000_000_000, 500_000


def nuimages_name(index: int) -> str:
    """``samples/{channel}/{log}__{channel}__{time}.jpg`` of an image."""
    channel = CHANNELS[index % len(CHANNELS)]
    return f"samples/{channel}/{_logfile(index // IMAGES_PER_LOG)}__{channel}__{_time(index)}.jpg"


def nuimages_objects(scene: Scene) -> list[tuple[Actor, str, np.ndarray]]:
    """The labelled objects with their category and amodal xyxy float64 [4]."""
    return [(a, KINDS[a.kind], scene.amodal_box(a)) for a in scene.actors if a.kind in KINDS]


class NuImagesTables:
    """Collects the rows of the relational tables, one image at a time."""

    def __init__(self, root: Path, *, seed: int) -> None:
        self.root = root
        self.seed = seed
        tables = ("attribute", "calibrated_sensor", "category", "ego_pose", "log", "object_ann")
        tables += ("sample", "sample_data", "sensor", "surface_ann")
        self._rows: dict[str, list[dict[str, Any]]] = {table: [] for table in tables}
        for table, names in (("attribute", ATTRIBUTES), ("category", CATEGORIES)):
            for name in names:
                self._add(table, name, name=name, description="")
        for channel in CHANNELS:
            self._add("sensor", channel, channel=channel, modality="camera")
        self._calibrated: set[str] = set()

    def add(self, index: int) -> Path:
        """Render one image, write it, and add its rows; returns the image's path."""
        scene = make_scene("nuimages", "train", index, seed=self.seed)
        path = self.root / nuimages_name(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(render(scene), "JPEG"))
        self._add_sample(scene, index)
        data_token = self._token("sample_data", index)
        for number, (actor, category, box) in enumerate(nuimages_objects(scene)):
            attribute = _attribute(actor)
            self._add(
                "object_ann",
                index,
                number,
                sample_data_token=data_token,
                category_token=self._token("category", category),
                attribute_tokens=[self._token("attribute", attribute)] if attribute else [],
                bbox=[int(v) for v in box],
                mask=_encoded(scene.visible_mask(actor)),
            )
        self._add(
            "surface_ann",
            index,
            sample_data_token=data_token,
            category_token=self._token("category", "flat.driveable_surface"),
            mask=_encoded(_road(scene)),
        )
        return path

    def write(self) -> list[Path]:
        """Write the tables; returns their paths."""
        folder = self.root / VERSION
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for name, rows in self._rows.items():
            path = folder / f"{name}.json"
            path.write_text(json.dumps(rows, indent=0), encoding="utf-8")
            files.append(path)
        return files

    def _add_sample(self, scene: Scene, index: int) -> None:
        log, camera = index // IMAGES_PER_LOG, scene.camera
        if index % IMAGES_PER_LOG == 0 or not self._rows["log"]:
            self._add(
                "log",
                log,
                logfile=_logfile(log),
                vehicle="n000",
                date_captured="2018-07-01",
                location="demo-town",
            )
        channel = CHANNELS[index % len(CHANNELS)]
        if channel not in self._calibrated:
            self._calibrated.add(channel)
            self._add(
                "calibrated_sensor",
                channel,
                sensor_token=self._token("sensor", channel),
                translation=[1.7, 0.0, 1.6],
                rotation=[0.5, -0.5, 0.5, -0.5],
                camera_intrinsic=[
                    [camera.focal, 0.0, camera.width / 2],
                    [0.0, camera.focal, camera.horizon],
                    [0.0, 0.0, 1.0],
                ],
                camera_distortion=[0.0] * 6,
            )
        self._add(
            "ego_pose",
            index,
            timestamp=_time(index),
            translation=[float(index), 0.0, 0.0],
            rotation=[1.0, 0.0, 0.0, 0.0],
            rotation_rate=[0.0, 0.0, 0.0],
            acceleration=[0.0, 0.0, 0.0],
            speed=5.0,
        )
        self._add(
            "sample",
            index,
            timestamp=_time(index),
            log_token=self._token("log", log),
            key_camera_token=self._token("sample_data", index),
        )
        self._add(
            "sample_data",
            index,
            sample_token=self._token("sample", index),
            ego_pose_token=self._token("ego_pose", index),
            calibrated_sensor_token=self._token("calibrated_sensor", channel),
            filename=nuimages_name(index),
            fileformat="jpg",
            width=camera.width,
            height=camera.height,
            timestamp=_time(index),
            is_key_frame=True,
            prev="",
            next="",
        )

    def _add(self, table: str, *key: Any, **columns: Any) -> None:
        """Append a row whose token is that of its key."""
        self._rows[table].append({"token": self._token(table, *key), **columns})

    def _token(self, table: str, *key: Any) -> str:
        text = "/".join(map(str, (self.seed, table, *key)))
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _encoded(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run lengths of a bool mask [H, W], as nuImages stores them."""
    from pycocotools import mask as coco

    runs = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "size": [int(side) for side in runs["size"]],
        "counts": base64.b64encode(cast(bytes, runs["counts"])).decode("ascii"),
    }


def _road(scene: Scene) -> np.ndarray:
    road = next(polygon for label, polygon in surfaces(scene.camera) if label == "road")
    return (filled(scene.camera, [(road, 1)]) > 0) & (scene.part_map == 0)


def _attribute(actor: Actor) -> str | None:
    if actor.kind in ("cone", "bicycle_group"):
        return None
    if actor.kind in ("cyclist", "motorcyclist"):
        return "cycle.with_rider"
    if actor.kind == "bicycle":
        return "cycle.without_rider"
    if KINDS[actor.kind].startswith("human"):
        return "pedestrian.moving" if actor.moving else "pedestrian.standing"
    return "vehicle.moving" if actor.moving else "vehicle.parked"


def _logfile(log: int) -> str:
    return f"n000-2018-07-01-12-{log % 60:02d}-00+0000"


def _time(index: int) -> int:
    return _FIRST_TIME + index * _TIME_STEP
