import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks import convert_coco
from relabel.datasets.convert import convert
from relabel.datasets.dataset import DetectionDataset, make_boxes
from relabel.datasets.formats.registry import read_dataset
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.datasets.namemap import NameMap
from relabel.errors import ConfigError, DataError, Problems
from tests.builders.datasets import dataset_of, write_image


def street(root: Path, with_images: bool = True) -> DetectionDataset:
    """Two images; car, van, dog (without boxes) and an ignored rack."""
    if with_images:
        for name, color in (("a.png", (255, 0, 0)), ("b.png", (0, 0, 255))):
            write_image(root / name, 80, 60, color)
    space = LabelSpace(
        "street",
        (
            Category(4, "car"),
            Category(2, "van"),
            Category(9, "dog"),
            Category(1, "rack", ignore=True),
        ),
    )
    boxes = make_boxes(
        [0, 0, 1, 1],
        [[1, 2, 10, 10], [5, 5, 20, 20], [0, 0, 30, 30], [40, 40, 9, 9]],
        [0, 1, 0, 3],
        ignore=[False, False, False, True],
        id=[10, 11, 12, 13],
    )
    return dataset_of("street", space, ["a.png", "b.png"], boxes, size=(80, 60), root=root)


def test_a_map_merges_drops_and_numbers_from_one(tmp_path):
    name_map = NameMap({"van": "vehicle", "rack": None, "car": "vehicle", "dog": "animal"})
    result = convert(street(tmp_path), "coco", tmp_path / "o.json", name_map=name_map)
    data = json.loads(result.files[0].read_bytes())
    assert data["categories"] == [{"id": 1, "name": "vehicle"}, {"id": 2, "name": "animal"}]
    assert [(a["id"], a["category_id"]) for a in data["annotations"]] == [(10, 1), (11, 1), (12, 1)]
    assert [i["id"] for i in data["images"]] == [1, 2]


def test_a_category_with_boxes_must_be_in_the_map(tmp_path):
    with pytest.raises(ConfigError, match="the map does not name 'van'"):
        NameMap({"car": "vehicle"}).apply(street(tmp_path))
    # dog has no boxes, and rack is a region to ignore.
    mapped = NameMap({"car": "vehicle", "van": "vehicle"}).apply(street(tmp_path))
    assert len(mapped.boxes) == 3
    result = convert(
        street(tmp_path), "coco", tmp_path / "o.json",
        name_map=NameMap({"car": "a", "van": "b", "bus": "c"}),
    )  # fmt: skip
    assert result.notes == ["the map names what the dataset does not have: bus"]


def test_what_is_mapped_only_from_ignored_stays_ignored(tmp_path):
    mapped = NameMap({"car": "c", "van": "v", "rack": "region"}).apply(street(tmp_path))
    assert mapped.space.names == ["c", "v", "region"]
    assert mapped.space.num_classes == 2
    assert mapped.boxes.ignore.tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not a map"),
        ("- a", "not a map"),
        ("a: [b", "not valid YAML"),
        ("car: {a: b}", "to a map"),
        ("car: [a]", "to a list"),
        ('car: ""', "empty name"),
        ("car: bus\ncar: tram", "twice"),
    ],
)
def test_bad_maps(tmp_path, text, expected):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises((ConfigError, DataError), match=expected):
        NameMap.load(tmp_path / "m.yaml")


def test_maps_are_read_from_yaml(tmp_path):
    (tmp_path / "m.yaml").write_text("car: vehicle\n'no': ~\n1: one\ntram: null\n")
    assert NameMap.load(tmp_path / "m.yaml").names == {
        "car": "vehicle", "no": None, "1": "one", "tram": None,
    }  # fmt: skip


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_outputs_load_with_their_images(tmp_path, format):
    dataset = street(tmp_path / "source")
    out = tmp_path / "deep" / "out"
    convert(dataset, format, out, problems=Problems())
    back = read_dataset(out, format, split="train")
    assert len(back) == 2
    assert int((~back.boxes.ignore).sum()) == 3
    for i in range(2):
        assert back.image_path(i).read_bytes() == dataset.image_path(i).read_bytes()


def test_copies_are_files_and_links_are_links(tmp_path):
    convert(street(tmp_path / "s"), "yolo", tmp_path / "l", images="link")
    convert(street(tmp_path / "s"), "coco", tmp_path / "c", images="copy")
    assert (tmp_path / "l/images/train/a.png").is_symlink()
    assert not (tmp_path / "c/images/a.png").is_symlink()
    (tmp_path / "s/a.png").unlink()
    assert read_dataset(tmp_path / "c", "coco").image_path(0).is_file()


def test_missing_images_are_told_and_refused_where_asked_for(tmp_path):
    dataset = street(tmp_path / "s", with_images=False)
    result = convert(dataset, "voc", tmp_path / "auto")
    assert result.notes == ["2 of 2 images were not found and not linked"]
    with pytest.raises(DataError, match=r"a\.png, image 1: image file does not exist"):
        convert(dataset, "voc", tmp_path / "asked", images="copy")


def test_images_inside_other_files_are_extracted(tmp_path):
    dataset = street(tmp_path / "s")
    blob, places = b"", []
    for i in range(2):
        data = dataset.image_path(i).read_bytes()
        places.append(f"bytes:{tmp_path / 'blob'}!{len(blob)}!{len(data)}")
        blob += data
    (tmp_path / "blob").write_bytes(blob)
    images = replace(dataset.images, location=places)
    packed = replace(dataset, name="p", images=images, root=tmp_path / "nowhere")
    kept = convert(packed, "coco", tmp_path / "kept")
    assert "--extract-images" in kept.notes[0]
    for format in ("coco", "yolo"):
        convert(packed, format, tmp_path / format, extract_images=format == "coco")
        back = read_dataset(tmp_path / format, format, split="train")
        assert [back.image_path(i).read_bytes() for i in range(2)] == [
            dataset.image_path(i).read_bytes() for i in range(2)
        ]


@pytest.mark.parametrize("polygons", [False, True])
def test_same_result_as_the_plain_script_of_the_benchmark(tmp_path, polygons):
    source, names, floor_out = (tmp_path / n for n in ("s.json", "m.yaml", "floor.json"))
    convert_coco.generate(source, images=50, boxes=400, polygons=polygons)
    names.write_text(yaml.safe_dump(convert_coco.name_map()))
    ours = convert(
        read_dataset(source, "coco"), "coco", tmp_path / "o.json", name_map=NameMap.load(names)
    ).files[0]
    convert_coco.run_floor(source, names, floor_out)
    assert convert_coco.same(ours, floor_out)
    data = json.loads(ours.read_bytes())
    assert 300 < len(data["annotations"]) < 400


@pytest.mark.parametrize("format", ["voc", "yolo"])
def test_a_folder_without_images_is_not_written(tmp_path, format):
    with pytest.raises(DataError, match="no image is left to write"):
        convert(dataset_of("a", ["van"], []), format, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_that_lead_out_of_the_dataset_are_told(tmp_path):
    dataset = street(tmp_path / "s")
    (tmp_path / "private.png").write_bytes((tmp_path / "s/a.png").read_bytes())
    (tmp_path / "s/a.png").unlink()
    (tmp_path / "s/a.png").symlink_to("../private.png")
    problems = Problems()
    convert(dataset, "coco", tmp_path / "o", images="copy", problems=problems)
    told = [p.message for p in problems.found if "links" in p.message]
    assert len(told) == 1 and told[0].startswith("1 of 2 images are reached through links")
    (tmp_path / "linked").symlink_to("s")
    (tmp_path / "s/a.png").unlink()
    (tmp_path / "s/a.png").symlink_to("b.png")
    inside = Problems()
    convert(replace(dataset, root=tmp_path / "linked"), "coco", tmp_path / "p", images="copy",
            problems=inside)  # fmt: skip
    assert not [p for p in inside.found if "links" in p.message]


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_images_that_are_not_there_are_left_out_whole_where_bad_ones_are_skipped(tmp_path, format):
    dataset = street(tmp_path / "s")
    (tmp_path / "s/b.png").unlink()
    problems = Problems(skip_bad=True)
    result = convert(dataset, format, tmp_path / "o", images="copy", problems=problems)
    assert [p.record for p in problems.errors] == ["image 2"]
    assert len(result.dataset) == len(read_dataset(tmp_path / "o", format, split="train")) == 1
