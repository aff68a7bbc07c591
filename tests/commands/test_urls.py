"""Commands with images and outputs in an object store: the same files as on one disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.builders.datasets import write_image
from tests.builders.store import Store
from tests.commands.test_cross_label import command  # noqa: F401 (a fixture)
from tests.commands.test_evaluate import run
from tests.commands.test_imagenet_multilabel import FLAGS, whole, world  # noqa: F401
from tests.workspace.test_mirror import left_behind


def files_of(folder: Path) -> dict[str, bytes]:
    """Contents by name, without locks."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.fixture
def in_store(command: list[str | Path], bucket: Store, tmp_path: Path) -> list[str]:  # noqa: F811
    """`command` for a dataset of relabel.toml, whose images are in the store alone."""
    for path in (tmp_path / "coarse").glob("*.png"):
        bucket.put(f"images/{path.name}", path.read_bytes())
        path.unlink()
    (tmp_path / "relabel.toml").write_text(
        '[datasets.coarse]\nroot = "coarse"\nformat = "coco"\ntrain = "labels.json"\n'
        f'images = "{bucket.url}/images"\n'
    )
    return ["cross-label", "specialist", "coarse", "--device", "cpu", "--json"]


def test_cross_label_from_a_store_into_it(
    command: list[str | Path],  # noqa: F811
    in_store: list[str],
    bucket: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, _ = run(capsys, *in_store, "--out", tmp_path / "local")
    assert code == 0
    url = f"{bucket.url}/runs/coarse"
    code, text, _ = run(capsys, *in_store, "--out", url)
    assert (code, json.loads(text)["out"], json.loads(text)["boxes"]) == (0, url, 12)
    assert bucket.files("runs/coarse") == files_of(tmp_path / "local")
    code, _, told = run(capsys, *in_store, "--out", url)
    assert code == 0 and "Labelled already." in told
    code, _, told = run(capsys, *in_store, "--out", url, "--min-score", "0.6")
    assert code == 1 and f"{url}: stage 'labels on coarse'" in told and "relabel-mirror" not in told
    code, text, _ = run(capsys, *in_store, "--out", url, "--min-score", "0.6", "--overwrite")
    assert (code, json.loads(text)["boxes"]) == (0, 6)
    assert left_behind() == []


def test_cross_label_skips_what_is_missing(
    in_store: list[str], bucket: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.delete("images/1.png")
    url = f"{bucket.url}/runs/coarse"
    code, _, told = run(capsys, *in_store, "--out", url)
    assert code == 1 and f"{bucket.url}/images/1.png" in told and "--skip-bad" in told
    code, text, told = run(capsys, *in_store, "--out", url, "--skip-bad")
    assert (code, json.loads(text)["images"]) == (0, 2)
    assert f"skipped: {bucket.url}/images/1.png: image file does not exist" in told
    known = json.loads(bucket.get("runs/unreadable.json"))
    assert [list(bad) for bad in known.values()] == [["1.png"]]


def test_paths_that_are_needed_are_asked_for(
    in_store: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, told = run(capsys, "check", "coarse", "--out", "s3://bucket/run")
    assert code == 2 and "'s3://bucket/run' is a URL, and a path is needed here" in told
    assert not (tmp_path / "s3:").exists()
    code, _, told = run(capsys, *in_store, "--out", "sftp://host/run")
    assert code == 1 and "sftp://host/run: outputs are not written to sftp://" in told


def test_classify_from_a_store_into_it(
    bucket: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.builders.colours import tiny_resnet

    tiny_resnet(tmp_path / "model")
    for i in range(3):
        write_image(tmp_path / "images" / f"{i}.png", 32, 32)
    url = bucket.put_folder(tmp_path / "images", "images")
    flags = ["classify", tmp_path / "model", "--device", "cpu", "--image-size", "32", "--quiet"]
    out = f"{bucket.url}/scores.tsv"
    code, _, told = run(
        capsys, *flags, "--images", tmp_path / "images", "--out", tmp_path / "s.tsv"
    )
    assert code == 0, told
    code, text, told = run(capsys, *flags, "--images", url, "--out", out)
    assert (code, text) == (0, f"{out}\n"), told
    assert bucket.get("scores.tsv") == (tmp_path / "s.tsv").read_bytes()
    code, _, told = run(capsys, *flags, "--images", url, "--out", out)
    assert code == 1 and f"{out}: is there already" in told


@pytest.mark.slow
def test_imagenet_multilabel_from_a_store_into_it(
    world: Path,  # noqa: F811
    whole: Path,  # noqa: F811
    bucket: Store,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = bucket.put_folder(world / "images", "images")
    out = f"{bucket.url}/labels"
    where = ["--images", images, "--backbone", world / "backbone", "--out", out, "--json"]
    command = ["imagenet-multilabel", *where, *FLAGS]  # noqa: F811
    # Two nodes: what the first has done is in the store when the second starts.
    code, text, told = run(capsys, *command, "--shard", "1/2")
    assert (code, json.loads(text)["waits_for"]) == (0, "regions"), told
    code, text, told = run(capsys, *command)
    assert code == 0, told
    assert json.loads(text)["labels.tsv"] == f"{out}/result/labels.tsv"
    made, local = bucket.files("labels"), files_of(whole)
    assert made.keys() == local.keys()
    same = {name for name, data in made.items() if data == local[name]}
    # Times, and when the report was made.
    assert made.keys() - same <= {"times.json", "result/report.html"}
    code, text, _ = run(capsys, *command)
    assert code == 0 and json.loads(text)["done"]
    assert bucket.files("labels") == made
