"""The built-in label spaces."""

from __future__ import annotations

import json
from importlib import resources

import jsonschema
import pytest
import yaml

from relabel.datasets.labelspace import LabelSpace

SCHEMAS = resources.files("relabel.schemas")
# Categories in all, and classes that are learned.
SIZES = {
    "acdc": (10, 8),
    "bdd100k": (13, 10),
    "cityscapes": (10, 8),
    "coco": (80, 80),
    "imagenet1k": (1000, 1000),
    "nuimages": (23, 22),
    "shift": (6, 6),
    "voc": (20, 20),
    "waymo": (3, 3),
}


def test_every_label_space_is_there():
    assert LabelSpace.builtin_names() == sorted(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_label_space(name: str):
    raw = yaml.safe_load((SCHEMAS / f"{name}.yaml").read_text())
    schema = json.loads((SCHEMAS / "label_space.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(raw, schema)

    space = LabelSpace.load(name)
    assert space.name == name
    assert (len(space), space.num_classes) == SIZES[name]
    for category in space.categories:
        assert category.prompt or name == "imagenet1k"
        assert "." not in category.text_prompt and "_" not in category.text_prompt
        # An alias that is another category's name would never be reached.
        for alias in category.aliases:
            assert space.index(alias) == space.index(category.name)


@pytest.mark.parametrize(
    "broken",
    [
        {"name": "x"},
        {"name": "x", "categories": []},
        {"name": "x", "categories": [{"id": "1", "name": "a"}]},
        {"name": "x", "categories": [{"id": 1, "name": "a", "alias": ["b"]}]},
    ],
)
def test_json_schema_refuses(broken: dict):
    schema = json.loads((SCHEMAS / "label_space.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_published_ids():
    ids = {n: {c.name: c.id for c in LabelSpace.load(n).categories} for n in SIZES}
    assert ids["cityscapes"] == ids["acdc"]
    assert ids["cityscapes"] == {
        "person": 24,
        "rider": 25,
        "car": 26,
        "truck": 27,
        "bus": 28,
        "caravan": 29,
        "trailer": 30,
        "train": 31,
        "motorcycle": 32,
        "bicycle": 33,
    }
    assert ids["waymo"] == {"vehicle": 1, "pedestrian": 2, "cyclist": 4}
    assert list(ids["bdd100k"])[:10] == [
        *("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
        *("traffic light", "traffic sign"),
    ]
    assert [ids["bdd100k"][n] for n in list(ids["bdd100k"])[:10]] == list(range(1, 11))
    gaps = set(range(1, 91)) - set(ids["coco"].values())
    assert gaps == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert (ids["coco"]["stop sign"], ids["coco"]["toothbrush"]) == (13, 90)
    assert list(ids["voc"]) == sorted(ids["voc"])
    assert list(ids["voc"].values()) == list(range(1, 21))


def test_ignore_categories_and_aliases():
    assert LabelSpace.load("nuimages").names[-1] == "static_object.bicycle_rack"
    bdd = LabelSpace.load("bdd100k")
    assert [c.name for c in bdd.categories if c.ignore] == [
        "other person",
        "other vehicle",
        "trailer",
    ]
    aliases = {"person": "pedestrian", "bike": "bicycle", "motor": "motorcycle", "van": "car"}
    for alias, name in aliases.items():
        assert bdd.names[bdd.index(alias)] == name
