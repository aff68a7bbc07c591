"""Scenes are reproducible, and their boxes follow from their pixels."""

from __future__ import annotations

import numpy as np
import pytest

from relabel.demo.render import render
from relabel.demo.truth import cityscapes_boxes, truth_coco
from relabel.demo.world import CAMERAS, DATASETS, Camera, make_scene, mask_box


def test_mask_box_is_half_open_pixels():
    mask = np.zeros((6, 9), dtype=bool)
    mask[2, 3] = mask[4, 7] = True
    assert mask_box(mask).tolist() == [3, 2, 8, 5]


def test_camera_projects_a_metre_at_ten_metres():
    camera = Camera(200, 100, 250.0, 40.0)
    assert camera.scale(10) == 25
    assert camera.ground(10) == 80  # horizon + 1.6 m * 25 px
    assert camera.column(-2, 10) == 50


@pytest.mark.parametrize("dataset", DATASETS)
def test_same_numbers_same_scene_other_numbers_other_scene(dataset):
    first = make_scene(dataset, "train", 3, seed=5)
    again = make_scene(dataset, "train", 3, seed=5)
    assert np.array_equal(render(first), render(again))
    assert np.array_equal(first.part_map, again.part_map)
    for other in (
        make_scene(dataset, "train", 4, seed=5),
        make_scene(dataset, "val", 3, seed=5),
        make_scene(dataset, "train", 3, seed=6),
    ):
        assert not np.array_equal(render(first), render(other))


@pytest.mark.parametrize("dataset", DATASETS)
def test_pictures_have_the_camera_size_and_use_the_range(dataset):
    pixels = render(make_scene(dataset, "train", 0, seed=0))
    camera = CAMERAS[dataset]
    assert pixels.shape == (camera.height, camera.width, 3)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 20


def test_nearer_objects_hide_farther_ones_and_boxes_shrink():
    shrunk = 0
    for index in range(30):
        scene = make_scene("nuimages", "train", index, seed=0)
        depths = [a.depth for a in scene.actors]
        assert depths == sorted(depths, reverse=True)
        for actor in scene.actors:
            visible = mask_box(scene.visible_mask(actor))
            amodal = scene.amodal_box(actor)
            assert (visible[:2] >= amodal[:2]).all()
            assert (visible[2:] <= amodal[2:]).all()
            shrunk += not np.array_equal(visible, amodal)
    assert shrunk > 20


def test_every_kind_of_object_occurs_and_cyclists_are_two_instances():
    kinds: set[str] = set()
    for index in range(80):
        scene = make_scene("cityscapes", "train", index, seed=0)
        kinds |= {actor.kind for actor in scene.actors}
        for actor in scene.actors:
            labels = [part.label for part in actor.parts]
            if actor.kind == "cyclist":
                assert labels == ["bicycle", "rider"]
            if actor.kind == "motorcyclist":
                assert labels == ["motorcycle", "rider"]
    assert kinds == {
        *("adult", "child", "worker", "cyclist", "bicycle", "bicycle_group", "motorcyclist"),
        *("car", "police_car", "truck", "bus", "construction", "cone"),
    }


def test_objects_are_where_the_picture_shows_them():
    """Painted over the street, an object changes the pixels inside its mask, not far outside."""
    for index in range(6):
        scene = make_scene("waymo", "train", index, seed=1)
        empty = type(scene)(
            scene.dataset,
            scene.split,
            scene.index,
            scene.camera,
            (),
            scene.light,
            scene.street_seed,
        )
        change = np.abs(render(scene).astype(int) - render(empty).astype(int)).max(-1) > 40
        covered = scene.part_map > 0
        assert change[covered].mean() > 0.5
        assert change[~covered].mean() < 0.02


def test_truth_leaves_out_cones_and_marks_groups():
    scenes = [make_scene("nuimages", "train", i, seed=0) for i in range(40)]
    kinds = [a.kind for s in scenes for a in s.actors]
    truth = truth_coco((f"{i}.jpg", s) for i, s in enumerate(scenes))
    names = {c["id"]: c["name"] for c in truth["categories"]}
    assert list(names.values()) == [
        *("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    ]
    rows = truth["annotations"]
    count = {n: sum(names[r["category_id"]] == n for r in rows) for n in names.values()}
    assert count["person"] == sum(k in ("adult", "child", "worker") for k in kinds)
    assert count["rider"] == kinds.count("cyclist") + kinds.count("motorcyclist")
    assert count["car"] == kinds.count("car") + kinds.count("police_car")
    assert count["truck"] == kinds.count("truck") + kinds.count("construction")
    assert count["motorcycle"] == kinds.count("motorcyclist")
    assert count["train"] == 0
    assert sum(r["iscrowd"] for r in rows) == kinds.count("bicycle_group") > 0
    first = [box for _, box, _ in cityscapes_boxes(scenes[0])]
    got = [r["bbox"] for r in rows if r["image_id"] == 1]
    assert got == [[*b[:2], *(b[2:] - b[:2])] for b in first]
