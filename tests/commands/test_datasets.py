"""``relabel datasets`` through the root command line."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from relabel.cli import main


def run(capsys: pytest.CaptureFixture[str], *args: Any) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["datasets", *map(str, args)])
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def edit(root: Path, change: Any) -> Path:
    file = root / "train.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    return file


def test_list_names_formats_spaces_and_datasets(capsys, tmp_path, monkeypatch, coco_set):
    coco_set("fine", ["car"])
    (tmp_path / "relabel.toml").write_text(
        '[datasets.fine]\nformat = "coco"\nroot = "fine"\ntrain = "train.json"\n'
    )
    monkeypatch.chdir(tmp_path)
    status, out, _ = run(capsys, "list", "--json")
    found = json.loads(out)
    assert status == 0
    assert [f["name"] for f in found["formats"] if f["write"]] == [
        "coco",
        "voc",
        "yolo",
        "fiftyone",
    ]
    spaces = {s["name"]: len(s["classes"]) for s in found["label_spaces"]}
    assert (spaces["cityscapes"], spaces["waymo"], spaces["coco"]) == (8, 3, 80)
    assert found["datasets"][0]["name"] == "fine"
    status, out, _ = run(capsys, "list")
    assert "nuimages" in out
    assert status == 0


def test_describe_counts_boxes_that_are_not_ignored(capsys, coco_set):
    root = coco_set("a", ["car", "dog", "tram"])

    def change(data):
        data["annotations"][0]["iscrowd"] = 1
        data["categories"].append({"id": 9, "name": "bike"})

    file = edit(root, change)
    for path in (root, file):
        status, out, err = run(capsys, "describe", path, "--format", "coco", "--json")
        assert (status, err) == (0, "")
        assert json.loads(out) == {
            "images": 4,
            "boxes": 11,
            "ignored": 1,
            "categories": {"car": 3, "dog": 4, "tram": 4, "bike": 0},
        }
    status, out, _ = run(capsys, "describe", file, "--format", "coco")
    assert "tram" in out
    assert "11" in out


def test_names_of_relabel_toml_work_in_place_of_paths(capsys, tmp_path, monkeypatch, coco_set):
    root = coco_set("fine", ["car"])
    (root / "late.json").write_text((root / "train.json").read_text().replace('"car"', '"bus"'))
    (tmp_path / "relabel.toml").write_text(
        '[datasets.fine]\nformat = "coco"\nroot = "fine"\n'
        'train = "train.json"\ntest = "late.json"\n'
    )
    monkeypatch.chdir(tmp_path)
    assert json.loads(run(capsys, "describe", "fine", "--json")[1])["categories"] == {"car": 4}
    out = run(capsys, "describe", "fine", "--split", "test", "--json")[1]
    assert json.loads(out)["categories"] == {"bus": 4}
    status, _, err = run(capsys, "describe", "fin", "--json")
    assert status == 1
    assert "'fine'" in err


def test_validate_is_silent_on_a_good_dataset(capsys, coco_set):
    status, out, _ = run(capsys, "validate", coco_set("a", ["car"]), "--format", "coco", "--json")
    assert status == 0
    assert json.loads(out) == {"ok": True, "problems": []}


def test_validate_collects_everything(capsys, coco_set):
    root = coco_set("a", ["car", "dog"])

    def change(data):
        rows = data["annotations"]
        rows[0]["bbox"] = [1, 2, 3]
        rows[1]["image_id"] = 99
        rows[2]["bbox"] = [60, 40, 10, 10]
        data["images"][3]["width"] = 65

    edit(root, change)
    (root / "images/000.png").unlink()
    cut = root / "images/001.png"
    cut.write_bytes(cut.read_bytes()[:-2000])
    status, out, _ = run(capsys, "validate", root, "--format", "coco", "--json")
    result = json.loads(out)
    assert status == 1
    assert result["ok"] is False
    found = [(p["severity"], Path(p["file"]).name, p["record"]) for p in result["problems"]]
    assert sorted(found) == [
        ("error", "000.png", "image 1"),
        ("error", "001.png", "image 2"),
        ("error", "003.png", "image 4"),
        ("error", "train.json", "annotation 1"),
        ("error", "train.json", "annotation 2"),
        ("warning", "a", ""),
    ]
    messages = " ".join(p["message"] for p in result["problems"])
    assert "is 64x48, but the annotations say 65x48" in messages
    assert "1 box partly outside their image: clipped" in messages
    # The header of a truncated image is sound.
    status, out, _ = run(capsys, "validate", root, "--format", "coco", "--no-decode", "--json")
    assert "001.png" not in out


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"images": 3}'])
def test_validate_reports_unreadable_files_without_a_traceback(capsys, tmp_path, text):
    file = tmp_path / "x.json"
    if text is not None:
        file.write_text(text)
    status, out, err = run(capsys, "validate", file, "--format", "coco", "--json")
    assert status == 1
    result = json.loads(out)
    assert [p["severity"] for p in result["problems"]] == ["error"]
    assert result["problems"][0]["file"] == str(file)
    assert "Traceback" not in err


def test_an_annotation_file_alone_is_judged_by_itself(capsys, coco_set, tmp_path):
    file = tmp_path / "alone.json"
    file.write_bytes((coco_set("a", ["car"]) / "train.json").read_bytes())
    status, out, _ = run(capsys, "validate", file, "--format", "coco", "--json")
    assert status == 0
    assert "none of the 4 images was found" in json.loads(out)["problems"][0]["message"]


def test_convert_under_a_map(capsys, coco_set, tmp_path):
    root = coco_set("a", ["car", "dog"])
    (tmp_path / "map.yaml").write_text("car: vehicle\ndog: null\n")
    out_file = tmp_path / "out" / "o.json"
    status, out, err = run(
        capsys, "convert", root, "--format", "coco", "--to", "coco", "--out", out_file,
        "--map", tmp_path / "map.yaml",
    )  # fmt: skip
    assert (status, out) == (0, "")
    assert "4 images and 4 boxes" in err
    data = json.loads(out_file.read_bytes())
    assert data["categories"] == [{"id": 1, "name": "vehicle"}]
    assert [a["bbox"] for a in data["annotations"]] == [[4, 5 + i, 8, 6] for i in range(4)]
    stated = out_file.parent / data["info"]["relabel"]["root"]
    assert all((stated / i["file_name"]).is_file() for i in data["images"])


def test_convert_refuses_in_one_line(capsys, coco_set, tmp_path):
    root = coco_set("a", ["car", "dog"])
    (tmp_path / "map.yaml").write_text("car: vehicle\n")
    out = tmp_path / "o.json"
    common = ["convert", root, "--format", "coco", "--out", out]
    status, _, err = run(capsys, *common, "--to", "coco", "--map", tmp_path / "map.yaml")
    assert status == 1
    assert "does not name 'dog'" in err
    assert err.count("\n") == 1
    status, _, err = run(capsys, *common, "--to", "waymo_v2")
    assert status == 1
    assert "cannot" in err or "not written" in err
    assert not out.exists()
    assert run(capsys, *common)[0] == 2


def test_skip_bad_goes_on_and_lists_what_it_skipped(capsys, coco_set, tmp_path):
    root = coco_set("a", ["car"])

    def change(data):
        data["annotations"][1]["bbox"][2] = -1

    edit(root, change)
    status, _, err = run(capsys, "describe", root, "--format", "coco", "--json")
    assert status == 1
    assert "annotation 2" in err
    status, out, err = run(capsys, "describe", root, "--format", "coco", "--json", "--skip-bad")
    assert status == 0
    assert json.loads(out)["boxes"] == 3
    assert "skipped: " in err
    assert "annotation 2" in err


def test_a_full_disk_is_one_line_and_leaves_nothing(coco_set, tmp_path):
    root = coco_set("a", ["car"])
    out = tmp_path / "full" / "o.json"
    code = (
        "import resource, sys\n"
        "from relabel.cli import main\n"
        "import relabel.datasets.formats.coco.write\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "main(sys.argv[1:])"
    )
    command = [
        sys.executable, "-c", code, "datasets", "convert", str(root), "--format", "coco",
        "--to", "coco", "--out", str(out),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(out.parent.iterdir()) == []


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom relabel.cli import main\n"
        "try:\n    main(['datasets', 'convert', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'numpy', 'torch', 'PIL', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_convert_places_images_from_a_root_that_is_given(capsys, tmp_path, coco_set):
    root = coco_set("a", ["car"])
    status, _, _ = run(
        capsys, "convert", root, "--format", "coco", "--to", "coco",
        "--out", tmp_path / "runs/labels.json",
    )  # fmt: skip
    assert status == 0
    args = ("convert", tmp_path / "runs/labels.json", "--to", "yolo", "--out", tmp_path / "yolo")
    status, _, err = run(capsys, *args)
    assert status == 1
    assert f"--root {root}" in err
    assert not (tmp_path / "yolo").exists()
    status, _, _ = run(capsys, *args, "--root", root)
    assert status == 0
    assert (tmp_path / "yolo/data.yaml").is_file()


def test_a_compressed_json_is_coco_by_its_name(capsys, coco_set):
    root = coco_set("a", ["car", "dog"])
    file = root / "train.json.gz"
    file.write_bytes(gzip.compress((root / "train.json").read_bytes()))
    status, out, _ = run(capsys, "describe", file, "--json")
    assert status == 0
    assert list(json.loads(out)["categories"]) == ["car", "dog"]
