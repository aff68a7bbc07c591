"""The written datasets read back, through relabel's own readers, as the scenes say."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relabel.datasets.formats.registry import read_dataset
from relabel.datasets.pixels.location import load_rgb
from relabel.demo import write_nuimages, write_waymo
from relabel.demo.build import World, write_world
from relabel.demo.render import render
from relabel.demo.truth import cityscapes_boxes
from relabel.demo.world import make_scene
from relabel.errors import Problems

IMAGES, VAL, SEED = 24, 3, 11
Rows = list[tuple[str, list[float], bool]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    out = tmp_path_factory.mktemp("world")
    return write_world(out, images=IMAGES, val_images=VAL, seed=SEED, quiet=True)


def read(root: Path, format: str, split: str):
    problems = Problems()
    dataset = read_dataset(root, format, name="demo", split=split, problems=problems)
    assert problems.found == []
    assert problems.counts == {}
    return dataset


def rows_of(dataset, image: int) -> Rows:
    boxes = dataset.boxes
    return sorted(
        (dataset.space.names[boxes.category[i]], boxes.xyxy[i].tolist(), bool(boxes.ignore[i]))
        for i in range(dataset.rows(image).start, dataset.rows(image).stop)
    )


@pytest.mark.parametrize(("split", "count"), [("train", IMAGES), ("val", VAL)])
def test_cityscapes_reads_back(world: World, split: str, count: int):
    dataset = read(world.root / "cityscapes", "cityscapes", split)
    assert len(dataset) == count
    by_name = {n: i for i, n in enumerate(dataset.images.file_name)}
    from relabel.demo.write_cityscapes import stem

    for index in range(count):
        scene = make_scene("cityscapes", split, index, seed=SEED)
        row = by_name[f"leftImg8bit/{split}/{stem(split, index)}_leftImg8bit.png"]
        want = sorted((n, b.tolist(), g) for n, b, g in cityscapes_boxes(scene) if not g)
        assert [r for r in rows_of(dataset, row) if not r[2]] == want
        assert np.array_equal(load_rgb(dataset, row), render(scene))  # PNG is lossless


def test_cityscapes_polygons_tell_the_same_as_the_masks(world: World, tmp_path: Path):
    import shutil

    copy = tmp_path / "polygons_only"
    shutil.copytree(world.root / "cityscapes", copy)
    for mask in copy.rglob("*Ids.png"):
        mask.unlink()
    masks = read(world.root / "cityscapes", "cityscapes", "train")
    polygons = read(copy, "cityscapes", "train")
    for image in range(IMAGES):
        assert rows_of(masks, image) == rows_of(polygons, image)


def test_cityscapes_label_ids_are_the_instance_ids_without_numbers(world: World):
    for path in sorted((world.root / "cityscapes").rglob("*instanceIds.png")):
        with (
            Image.open(path) as instances,
            Image.open(path.with_name(path.name.replace("instanceIds", "labelIds"))) as labels,
        ):
            assert instances.mode == "I;16"
            ids = np.asarray(instances).astype(int)
            assert np.array_equal(np.where(ids >= 1000, ids // 1000, ids), np.asarray(labels))


def test_waymo_reads_back(world: World):
    dataset = read(world.root / "waymo", "waymo_v2", "training")
    assert len(dataset) == IMAGES
    by_name = {n: i for i, n in enumerate(dataset.images.file_name)}
    names = {1: "vehicle", 2: "pedestrian", 4: "cyclist"}
    kinds: list[str] = []
    for index in range(IMAGES):
        scene = make_scene("waymo", "train", index, seed=SEED)
        row = by_name[write_waymo.waymo_name(index)]
        want = sorted((names[t], b.tolist(), False) for _, t, b in write_waymo.waymo_objects(scene))
        assert rows_of(dataset, row) == want
        kinds += [a.kind for a in scene.actors]
        difference = np.abs(load_rgb(dataset, row).astype(int) - render(scene).astype(int))
        assert difference.mean() < 4  # JPEG
    count = dict(zip(*np.unique(dataset.boxes.category, return_counts=True), strict=True))
    cyclist = dataset.space.index("cyclist")
    vehicle = dataset.space.index("vehicle")
    assert kinds.count("bicycle") > 0  # in the pictures, not among the labels
    assert count[cyclist] == kinds.count("cyclist")
    wanted = ("car", "police_car", "truck", "bus", "construction", "motorcyclist")
    assert count[vehicle] == sum(kinds.count(k) for k in wanted)


def test_nuimages_reads_back_with_whole_amodal_boxes(world: World):
    dataset = read(world.root / "nuimages", "nuimages", "train")
    by_name = {n: i for i, n in enumerate(dataset.images.file_name)}
    amodal = 0
    for index in range(IMAGES):
        scene = make_scene("nuimages", "train", index, seed=SEED)
        row = by_name[write_nuimages.nuimages_name(index)]
        want = sorted(
            (c, b.tolist(), c == "static_object.bicycle_rack")
            for _, c, b in write_nuimages.nuimages_objects(scene)
        )
        assert rows_of(dataset, row) == want
        for actor in scene.actors:
            if actor.kind == "cyclist":  # one box from the wheels to the helmet
                bicycle, rider = actor.parts
                box = scene.amodal_box(actor)
                assert box[1] == max(0, rider.extent[1])
                assert box[0] == max(0, min(bicycle.extent[0], rider.extent[0]))
                amodal += 1
    assert amodal > 3


def test_nuimages_tokens_lead_somewhere_and_masks_decode(world: World):
    mask_utils = pytest.importorskip("pycocotools.mask")
    folder = world.root / "nuimages" / "v1.0-train"
    tables = {p.stem: json.loads(p.read_text()) for p in folder.glob("*.json")}
    assert set(tables) == {
        *("attribute", "calibrated_sensor", "category", "ego_pose", "log", "object_ann"),
        *("sample", "sample_data", "sensor", "surface_ann"),
    }
    tokens = {name: {row["token"] for row in rows} for name, rows in tables.items()}
    for name, rows in tables.items():
        assert len(tokens[name]) == len(rows) > 0
        for row in rows:
            for key, value in row.items():
                if key == "key_camera_token":
                    assert value in tokens["sample_data"]
                elif key.endswith("_token"):
                    assert value in tokens[key.removesuffix("_token")]
                elif key.endswith("_tokens"):
                    assert set(value) <= tokens[key.removesuffix("_tokens")]
    index_of = {r["token"]: i for i, r in enumerate(tables["sample_data"])}
    for row in tables["object_ann"][:40]:
        scene = make_scene("nuimages", "train", index_of[row["sample_data_token"]], seed=SEED)
        mask = row["mask"]
        decoded = mask_utils.decode({**mask, "counts": base64.b64decode(mask["counts"])})
        masks = [
            scene.visible_mask(actor) for actor, _, _ in write_nuimages.nuimages_objects(scene)
        ]
        assert any(np.array_equal(decoded.astype(bool), m) for m in masks)
        x0, y0, x1, y1 = row["bbox"]
        assert decoded[y0:y1, x0:x1].sum() == decoded.sum() > 0


def test_truth_joins_the_sources_by_file_name(world: World):
    for source, format, split in (
        ("waymo", "waymo_v2", "training"),
        ("nuimages", "nuimages", "train"),
    ):
        truth = json.loads(world.truth(source).read_text())
        dataset = read(world.root / source, format, split)
        assert {i["file_name"] for i in truth["images"]} == set(dataset.images.file_name)
        sizes = {i["file_name"]: (i["width"], i["height"]) for i in truth["images"]}
        for i, name in enumerate(dataset.images.file_name):
            assert sizes[name] == (dataset.images.width[i], dataset.images.height[i])


def digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(tmp_path: Path):
    a, b, c = (
        write_world(tmp_path / name, images=3, val_images=1, seed=seed, quiet=True)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    first = digests(a.root)
    assert len(first) > 3 * 4 + 10
    assert first == digests(b.root)
    assert first != digests(c.root)


def test_a_complete_world_is_reused_and_a_damaged_one_written_again(tmp_path: Path):
    first = write_world(tmp_path, images=2, val_images=1, seed=1, quiet=True)
    assert not first.reused
    before = digests(tmp_path)
    assert write_world(tmp_path, images=2, val_images=1, seed=1, quiet=True).reused
    picture = next((tmp_path / "nuimages").rglob("*.jpg"))
    picture.write_bytes(b"short")
    assert not write_world(tmp_path, images=2, val_images=1, seed=1, quiet=True).reused
    assert digests(tmp_path) == before
    assert not write_world(tmp_path, images=3, val_images=1, seed=1, quiet=True).reused
