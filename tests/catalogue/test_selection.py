"""Samples and held-out stretches, and the keys and variables of relabel.toml that name them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from relabel.catalogue.catalogue import load_catalogue
from relabel.catalogue.selection import Selection, name_order
from relabel.cli import cli
from relabel.datasets.dataset import DetectionDataset
from relabel.errors import ConfigError
from tests.builders.datasets import dataset_of

MakeSet = Callable[..., Path]


def frames(names: list[str]) -> DetectionDataset:
    """One box per image, whose width tells the image."""
    return dataset_of("road", ["car"], names, [(i, [0, 0, 1 + i, 5], 0) for i in range(len(names))])


def names_of(dataset: DetectionDataset) -> list[str]:
    return list(dataset.images.file_name)


def test_natural_order() -> None:
    names = ["f10.png", "f9.png", "a/f1.png", "f9a.png", "f009.png", "f.png"]
    assert [names[i] for i in name_order(names)] == [
        "a/f1.png",
        "f009.png",
        "f9.png",
        "f9a.png",
        "f10.png",
        "f.png",
    ]


def test_last_share_is_held_out_by_name_whatever_the_file_order() -> None:
    names = ["f10", "f2", "f9", "f1", "f4", "f3", "f8", "f7", "f6", "f5"]
    selection = Selection(holdout=0.3)
    # In file order, but chosen by name.
    assert names_of(selection.test(frames(names))) == ["f10", "f9", "f8"]
    train = selection.train(frames(names))
    assert names_of(train) == ["f2", "f1", "f4", "f3", "f7", "f6", "f5"]
    assert train.boxes.xywh[:, 2].tolist() == [2, 4, 5, 6, 8, 9, 10]
    assert train.boxes.image.tolist() == list(range(7))


def test_stretches_and_gap() -> None:
    names = [f"f{i:02d}" for i in range(20)]
    selection = Selection(holdout=0.2, holdout_stretches=2, holdout_gap=1)
    # Two parts of 10; the last 2 of each; one image either side belongs to neither.
    assert names_of(selection.test(frames(names))) == ["f08", "f09", "f18", "f19"]
    left = [*range(7), *range(11, 17)]
    assert names_of(selection.train(frames(names))) == [f"f{i:02d}" for i in left]


def test_sample() -> None:
    names = [f"f{i}" for i in range(50)]
    dataset = frames(names)
    ten = names_of(Selection(sample=10).train(dataset))
    assert len(set(ten)) == 10 and ten == sorted(ten, key=names.index)
    # Known answer: the same images on every machine.
    draws = np.random.default_rng(0).random(50)
    assert set(ten) == {f"f{i}" for i in np.argsort(draws)[:10]}
    assert set(ten) < set(names_of(Selection(sample=20).train(dataset)))
    assert ten != names_of(Selection(sample=10, sample_seed=1).train(dataset))
    # Another file order draws the same images.
    shuffled = [names[i] for i in np.random.default_rng(5).permutation(50)]
    assert set(names_of(Selection(sample=10).train(frames(shuffled)))) == set(ten)
    for n in (50, 51):
        assert names_of(Selection(sample=n).train(dataset)) == names


def test_sample_is_drawn_from_what_is_not_held_out() -> None:
    names = [f"f{i:02d}" for i in range(20)]
    selection = Selection(sample=5, holdout=0.5)
    assert len(selection.test(frames(names))) == 10
    assert len(selection.train(frames(names))) == 5
    assert set(names_of(selection.train(frames(names)))) < set(names[:10])


@pytest.mark.parametrize(
    "selection",
    [Selection(holdout=0.1), Selection(holdout=0.9), Selection(holdout=0.5, holdout_gap=9)],
)
def test_too_few_images(selection: Selection) -> None:
    with pytest.raises(ConfigError, match=r"'road' has 4 images.*holdout"):
        selection.train(frames(["a", "b", "c", "d"]))


def write(folder: Path, keys: str) -> Path:
    file = folder / "relabel.toml"
    text = f'[datasets.fine]\nformat = "coco"\nroot = "fine"\ntrain = "train.json"\n{keys}\n'
    file.write_text(text, encoding="utf-8")
    return file


def test_keys_of_the_catalogue(tmp_path: Path, coco_set: MakeSet) -> None:
    coco_set("fine", ["car"], 10)
    write(tmp_path, "holdout = 0.2\nsample = 3\nsample_seed = 4")
    catalogue = load_catalogue(tmp_path)
    entry = catalogue.get("fine")
    assert entry.selection == Selection(sample=3, sample_seed=4, holdout=0.2)
    assert entry.has("test") and not entry.has("val")
    assert names_of(entry.read("test")) == ["images/008.png", "images/009.png"]
    assert len(entry.read("train")) == 3
    assert len(catalogue.resolve("fine", split="train").read()) == 3
    (tmp_path / "fine" / "train.json").rename(tmp_path / "fine" / "other.json")
    assert len(catalogue.resolve("fine", split="other").read()) == 10
    assert load_catalogue(tmp_path, ["fine=x"]).get("fine").selection == entry.selection


def test_some_classes_alone(tmp_path: Path, coco_set: MakeSet) -> None:
    root = coco_set("fine", ["car", "bus", "cow"], 4)
    content = json.loads((root / "train.json").read_text())
    ids = {c["name"]: c["id"] for c in content["categories"]}
    first = content["annotations"][0]
    content["annotations"] = [
        {**first, "id": i + 1, "image_id": image["id"], "category_id": ids[name]}
        for i, (image, name) in enumerate(
            zip(content["images"], ["car", "cow", "bus", "cow"], strict=True)
        )
    ]
    (root / "train.json").write_text(json.dumps(content))
    write(tmp_path, 'test = "train.json"\nclasses = ["cow", "car"]')
    entry = load_catalogue(tmp_path).get("fine")
    for which in ("train", "test"):
        found = entry.read(which)
        assert found.space.names == ["car", "cow"] and found.space.name == "fine"
        assert [found.space.names[c] for c in found.boxes.category] == ["car", "cow", "cow"]
        assert len(found) == 4
    write(tmp_path, 'classes = ["cwo"]')
    with pytest.raises(ConfigError, match=r"'fine' has no category 'cwo'.*'cow'"):
        load_catalogue(tmp_path).get("fine").read()


def test_named_test_files_are_not_sampled(tmp_path: Path, coco_set: MakeSet) -> None:
    root = coco_set("fine", ["car"], 6)
    (root / "test.json").write_bytes((root / "train.json").read_bytes())
    write(tmp_path, 'test = "test.json"\nval = "test.json"\nsample = 2')
    entry = load_catalogue(tmp_path).get("fine")
    assert [len(entry.read(w)) for w in ("train", "val", "test")] == [2, 6, 6]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("sample = 0", r"\[datasets\.fine\]: sample is 0.*all images"),
        ("sample = -3", r"sample is -3"),
        ("sample = 3.5", r"sample must be a whole number, not 3\.5"),
        ("sample = true", r"sample must be a whole number, not True"),
        ('sample = "3"', r"sample must be a whole number, not '3'"),
        ("sample = 3\nsample_seed = -1", r"sample_seed is -1.*0 or more"),
        ("sample_seed = 1", r"sample_seed without sample"),
        ("holdout = 0", r"holdout is 0"),
        ("holdout = 1.0", r"holdout is 1\.0.*below 1"),
        ("holdout = nan", r"holdout is nan"),
        ('holdout = "a"', r"holdout must be a number, not 'a'"),
        ("holdout_gap = 1", r"holdout_gap without holdout"),
        ("holdout = 0.2\nholdout_stretches = 0", r"holdout_stretches is 0.*1 or more"),
        ('holdout = 0.2\ntest = "test.json"', r"holdout and test both name"),
        ('holdout = 0.2\ntest_split = "val"', r"holdout and test_split both name"),
        ('classes = "cow"', r"classes must be a list of names, not 'cow'"),
        ("classes = []", r"classes must be a list of names, not \[\]"),
        ("holdouts = 0.2", r"unknown key 'holdouts'.*'holdout'"),
    ],
)
def test_mistakes(tmp_path: Path, keys: str, expected: str) -> None:
    write(tmp_path, keys)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_catalogue(tmp_path)
    assert "relabel.toml" in str(caught.value)


def test_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, '[align]\nbackbone = "${WEIGHTS:-w}/m$x"\nformats = ["${F}"]')
    text = file.read_text(encoding="utf-8").replace('"fine"', '"${RL_ROOT}/road"')
    file.write_text(text, encoding="utf-8")
    monkeypatch.setenv("RL_ROOT", "/data")
    monkeypatch.setenv("F", "voc")
    monkeypatch.delenv("WEIGHTS", raising=False)
    catalogue = load_catalogue(tmp_path)
    assert catalogue.get("fine").root == Path("/data/road")
    assert catalogue.table("align") == {"backbone": "w/m$x", "formats": ["voc"]}
    monkeypatch.setenv("RL_ROOT", "")
    monkeypatch.setenv("WEIGHTS", "/w")
    with pytest.raises(ConfigError, match=r"relabel\.toml.*RL_ROOT is not set\. Set it, or write"):
        load_catalogue(tmp_path)
    monkeypatch.setenv("RL_ROOT", "rel")
    catalogue = load_catalogue(tmp_path)
    assert catalogue.get("fine").root == tmp_path / "rel" / "road"
    assert catalogue.table("align")["backbone"] == "/w/m$x"


def test_commands_show_them(tmp_path: Path, coco_set: MakeSet) -> None:
    coco_set("fine", ["car"], 10)
    file = write(tmp_path, "holdout = 0.2\nsample = 3")
    run = CliRunner()
    listed = run.invoke(cli, ["datasets", "list", "--json", "-C", str(file)])
    assert listed.exit_code == 0, listed.output
    assert json.loads(listed.stdout)["datasets"][0]["selection"] == {"sample": 3, "holdout": 0.2}
    shown = run.invoke(cli, ["datasets", "list", "-C", str(file)], env={"COLUMNS": "300"}).stdout
    assert "train: train.json; 3 images, seed 0; 20% held out" in shown
    counts = {}
    for split in ([], ["--split", "test"]):
        made = run.invoke(cli, ["datasets", "describe", "fine", "--json", "-C", str(file), *split])
        assert made.exit_code == 0, made.output
        counts[len(split)] = json.loads(made.stdout)["images"]
    assert counts == {0: 3, 2: 2}


def test_tollroad_stretches_share_no_frame(shared: Path, tmp_path: Path) -> None:
    file = tmp_path / "relabel.toml"
    file.write_text(
        f'[datasets.coarse]\nformat = "coco"\nroot = "{shared}/data/tollroad/coarse"\n'
        'train = "train.json"\nholdout = 0.2\nholdout_stretches = 4\nholdout_gap = 5\n'
    )
    entry = load_catalogue(config=file).get("coarse")
    test, train = entry.read("test"), entry.read("train")
    # 386 in parts of 96 and 97; 19 of each; 7 edges of 5 images.
    assert (len(test), len(train)) == (76, 386 - 76 - 35)
    assert not set(names_of(test)) & set(names_of(train))
    number = {n: i for i, n in enumerate(sorted(names_of(test) + names_of(train)))}
    assert len(number) == 351
