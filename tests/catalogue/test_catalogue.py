from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from relabel.catalogue.catalogue import load_catalogue
from relabel.errors import ConfigError

MakeSet = Callable[..., Path]
FINE = '[datasets.fine]\nformat = "coco"\nroot = "data/fine"\ntrain = "train.json"\n'


def _write(folder: Path, text: str) -> Path:
    file = folder / "relabel.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_found_upward_and_roots_are_relative_to_the_file(
    tmp_path: Path, coco_set: MakeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_set("fine", ["car", "bus"], 3, folder=tmp_path / "data")
    _write(tmp_path, FINE + "[lat]\nepochs = 3\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    catalogue = load_catalogue()
    assert list(catalogue.entries) == ["fine"] and catalogue.table("lat") == {"epochs": 3}
    dataset = catalogue.get("fine").read("train")
    assert dataset.name == "fine" and dataset.space.name == "fine"
    assert dataset.space.class_names == ["car", "bus"]
    assert len(dataset) == 3 and len(dataset.boxes) == 6
    assert dataset.boxes.xywh[1].tolist() == [14.0, 5.0, 8.0, 6.0]


def test_purposes(tmp_path: Path) -> None:
    _write(tmp_path, FINE + 'val = "val.json"\ntest_split = "test"\n')
    entry = load_catalogue(tmp_path).get("fine")
    assert [entry.has(w) for w in ("train", "val", "test")] == [True, True, True]
    plain = load_catalogue(_write(tmp_path, FINE).parent).get("fine")
    assert not plain.has("val")
    with pytest.raises(ConfigError, match=r"names nothing for val.*val_split"):
        plain.read("val")


def test_data_option_moves_and_adds(tmp_path: Path) -> None:
    _write(tmp_path, FINE)
    other = tmp_path / "with:colon"
    other.mkdir()
    catalogue = load_catalogue(
        tmp_path, [f"fine={tmp_path}/elsewhere", "new=x/y:voc", f"odd={other}:yolo"]
    )
    assert catalogue.get("fine").root == tmp_path / "elsewhere"
    assert catalogue.get("fine").format == "coco"
    assert dict(catalogue.get("fine").files) == {"train": "train.json"}
    assert (catalogue.get("new").root, catalogue.get("new").format) == (Path("x/y"), "voc")
    assert (catalogue.get("odd").root, catalogue.get("odd").format) == (other, "yolo")
    assert load_catalogue(tmp_path, ["j=a/b.json"]).get("j").format == "coco"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[datasets.fine\n", r"not valid TOML.*line 1"),
        ("[dataset.fine]\n", r"unknown table \[dataset\].*Did you mean 'datasets'"),
        (FINE + 'fromat = "x"\n', r"\[datasets\.fine\].*unknown key 'fromat'.*'format'"),
        ('[datasets.fine]\nroot = "x"\n', r"\[datasets\.fine\].*format is missing"),
        ('[datasets.fine]\nformat = "coco"\n', r"\[datasets\.fine\].*root is missing"),
        ('[datasets.fine]\nroot = 3\nformat = "coco"\n', r"root must be a text, not 3"),
        ('[datasets."a/b"]\nroot = "x"\nformat = "coco"\n', r"'a/b' is not usable"),
        ("lat = 3\n", r"'lat' must be a table"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, expected: str) -> None:
    _write(tmp_path, text)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_catalogue(tmp_path)
    assert "relabel.toml" in str(caught.value)


def test_mistakes_in_names(tmp_path: Path) -> None:
    _write(tmp_path, FINE)
    catalogue = load_catalogue(tmp_path)
    with pytest.raises(ConfigError, match=r"'fien'.*Did you mean 'fine'\? Known: fine"):
        catalogue.get("fien")
    with pytest.raises(ConfigError, match="no such file or folder"):
        catalogue.resolve("a/b")
    with pytest.raises(ConfigError, match="--format"):
        catalogue.resolve(tmp_path)
    for text in ("fine", "=x", "new=path"):
        with pytest.raises(ConfigError, match="--data"):
            load_catalogue(tmp_path, [text])
    with pytest.raises(ConfigError, match="no such file"):
        load_catalogue(config=tmp_path / "other.toml")


def test_resolve_prefers_names_and_takes_a_split(tmp_path: Path) -> None:
    _write(tmp_path, FINE)
    catalogue = load_catalogue(tmp_path)
    entry = catalogue.resolve("fine", split="val")
    assert dict(entry.splits) == {"train": "val"} and dict(entry.files) == {}
    (tmp_path / "boxes.json").write_text("{}")
    assert catalogue.resolve(tmp_path / "boxes.json").format == "coco"
    assert catalogue.resolve(tmp_path, format="voc").name == tmp_path.name
