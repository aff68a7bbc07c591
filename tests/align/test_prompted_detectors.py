"""Align with a prompted detector without a dataset, and with folders that targets share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from relabel.align.plan import labels_folder, prepare
from relabel.align.settings import AlignSettings, PipelineSettings, stage_settings
from relabel.catalogue.catalogue import load_catalogue
from relabel.errors import ConfigError, StageError
from relabel.settings import Runtime
from tests.align.test_align import World
from tests.align.test_align import world as world  # a fixture

COARSE = ("--target", "coarse", "--sources", "fine,legacy")
RUNTIME = Runtime(device="cpu", workers=0, quiet=True)


@pytest.fixture
def model(world: World) -> str:
    """A folder that could be SAM 3's; the fakes never read it."""
    folder = world.folder / "sam3"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "sam3"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return str(folder)


def test_sam3_labels_every_dataset_in_the_targets_space(world: World, model: str) -> None:
    options = ("--prompted-detectors", "sam3", "--sam3-model", "./sam3")
    plan = world.run(*options, "--dry-run").stdout
    assert all(f"labels by sam3 on {name}" in plan for name in ("fine", "coarse", "legacy"))
    assert "19 of 19 stages to run" in plan and "specialist sam3" not in plan
    world.run(*options)
    calls = world.calls()
    labelled = [call for call in calls if "sam3" in call and call.startswith("label")]
    assert labelled == [f"label {name} by sam3 as fine" for name in ("fine", "coarse", "legacy")]
    assert calls[-2:] == [
        "transfer coarse with fine,legacy,sam3",
        "transfer legacy with coarse,fine,sam3",
    ]
    out = world.folder / "runs" / "fine"
    lat = json.loads((out / "3_lat" / "lat.json").read_text())
    assert lat["prompted_detectors"] == {"sam3": ["car", "bus"]}
    assert {"sam3 on fine: 6", "sam3 on coarse: 4", "sam3 on legacy: 3"} < set(lat["labels"])
    manifest = json.loads((out / "result" / "manifest.json").read_text())
    assert manifest["settings"]["sam3"]["model"].startswith("sam3@")
    assert str(world.folder) not in json.dumps(manifest)
    samples = json.loads((out / "result" / "coarse" / "fiftyone" / "samples.json").read_text())
    assert "pseudo_sam3" in samples["samples"][0]
    world.run(*options)
    assert world.calls() == []
    assert "inputs.prompts" not in world.run(*options, "--set", "sam3.threshold=0.1").stderr
    changed = world.run(*options, "--set", "sam3.image_size=504", status=1).stderr
    assert "settings.sam3.image_size: 0 → 504" in changed


def test_a_workspace_gets_a_labeller_without_redoing_the_rest(world: World, model: str) -> None:
    world.run()
    world.calls()
    options = ("--prompted-detectors", "sam3", "--sam3-model", model)
    world.run(*options, "--out", "with_sam3", "--shared", "runs/fine")
    assert [call.split(" with")[0] for call in world.calls()] == [
        "label fine by sam3 as fine",
        "label coarse by sam3 as fine",
        "label legacy by sam3 as fine",
        "lat fine",
        "transfer coarse",
        "transfer legacy",
    ]
    world.run()
    assert world.calls() == []  # the one without is as it was


def test_nothing_of_labellers_stands_in_a_plan_without_them(world: World) -> None:
    world.run()
    out = world.folder / "runs" / "fine"
    stages = [json.loads(file.read_text()) for file in out.rglob("stage.json")]
    assert len(stages) == 16
    keys = {key for stage in stages for key in (*stage["settings"], *stage["inputs"])}
    assert not {"prompted_detectors", "sam3", "prompts"} & keys
    manifest = json.loads((out / "result" / "manifest.json").read_text())
    assert "sam3" not in manifest["settings"]
    assert set(manifest["settings"]["align"]) == {"formats", "pictures", "pseudo_score"}
    assert stage_settings(AlignSettings(prompted_detectors=("sam3",)))["prompted_detectors"] == [
        "sam3"
    ]


def test_missing_weights_are_told_before_any_training(world: World, model: str) -> None:
    (Path(model) / "model.safetensors").unlink()
    options = ("--prompted-detectors", "sam3", "--sam3-model", model)
    assert "to do" in world.run(*options, "--dry-run").stdout
    error = world.run(*options, status=1).stderr
    assert "the folder has no safetensors weights" in error and "hf auth login" in error
    assert world.calls() == []
    error = world.run("--prompted-detectors", "sam3", "--sam3-model", "./gone", status=1).stderr
    assert "no such SAM 3 model folder" in error


def test_unknown_labellers_and_names_in_conflict(world: World, model: str) -> None:
    assert "'sam2' is not" in world.run("--prompted-detectors", "sam2", status=2).stderr
    with pytest.raises(ConfigError, match=r"prompted_detectors is \['sam2'\] and must be .*sam3"):
        AlignSettings(prompted_detectors=("sam2",))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="named twice"):
        AlignSettings(prompted_detectors=("sam3", "sam3"))
    text = (world.folder / "relabel.toml").read_text()
    (world.folder / "relabel.toml").write_text(text.replace("datasets.legacy", "datasets.sam3"))
    error = world.run("--sources", "coarse,sam3", "--prompted-detectors", "sam3", status=1).stderr
    assert "'sam3' is both a dataset and a prompted detector" in error


def test_a_second_target_takes_the_specialists_and_labels_of_the_first(
    world: World, model: str
) -> None:
    options = ("--shared", "pool", "--prompted-detectors", "sam3", "--sam3-model", model)
    world.run("--out", "a", *options)
    assert len(world.calls()) == 5 + 8 + 3 + 3
    assert not (world.folder / "a" / "1_specialists").exists()
    plan = world.run("--out", "b", *COARSE, *options, "--dry-run").stdout
    assert "specialist fine                        done" in plan
    world.run("--out", "b", *COARSE, *options)
    assert world.calls() == [
        "train coarse 2",
        "train coarse 2",
        "label coarse by coarse",
        "label coarse by coarse",
        # Every target's own ensemble labels its sources, and single specialists the target.
        "label coarse by fine",
        "label fine by coarse and 2 more",
        "label legacy by coarse and 2 more",
        "label legacy by fine",
        "label coarse by sam3 as coarse",
        "label fine by sam3 as coarse",
        "label legacy by sam3 as coarse",
        "lat coarse",
        "transfer fine with coarse,legacy,sam3",
        "transfer legacy with coarse,fine,sam3",
    ]
    for out, target in (("a", ()), ("b", COARSE)):
        world.run("--out", out, *target, *options)
        assert world.calls() == []


def settings() -> PipelineSettings:
    made = PipelineSettings()
    return replace(made, lat=replace(made.lat, folds=2))


def test_what_another_process_made_meanwhile_is_not_made_again(world: World) -> None:
    catalogue = load_catalogue()
    pool = Path("pool")
    plans = {
        target: prepare(catalogue, target, sources, Path(target), settings(), RUNTIME, shared=pool)
        for target, sources in (("fine", ["coarse"]), ("coarse", ["fine"]))
    }
    first = plans["fine"].run()
    world.calls()
    second = plans["coarse"].run()  # planned when nothing was there
    assert "specialist fine" in first.ran and "specialist fine" not in second.ran
    assert [call for call in world.calls() if call.startswith("train")] == ["train coarse 2"] * 2


def test_shared_stages_changed_under_a_plan_are_noticed(world: World) -> None:
    catalogue = load_catalogue()
    prepare(catalogue, "fine", ["coarse"], Path("a"), settings(), RUNTIME, shared=Path("p")).run()
    plan = prepare(catalogue, "fine", ["coarse"], Path("b"), settings(), RUNTIME, shared=Path("p"))
    stage = Path("p") / "2_crosslabels" / "fine_ensemble_on_coarse" / "stage.json"
    stage.write_text(stage.read_text().replace('"done"', '"running"'))
    with pytest.raises(StageError, match="'labels by fine on coarse' was changed by another"):
        plan.run()


def test_two_processes_do_not_work_in_a_shared_folder_at_once(world: World) -> None:
    process = world.start("--out", "a", "--shared", "pool", delay=30)
    try:
        assert process.stderr is not None
        while "running" not in process.stderr.readline():
            assert process.poll() is None
        error = world.run("--out", "b", *COARSE, "--shared", "pool", status=1).stderr
        assert f"another process (pid {process.pid}) is working on the shared" in error
    finally:
        process.kill()
        process.wait()
    world.run("--out", "b", *COARSE, "--shared", "pool")


def test_another_targets_ensemble_is_not_taken_for_the_single_specialist(tmp_path: Path) -> None:
    work = tmp_path / "2_crosslabels"
    for name in ("fine_ensemble_on_coarse", "fine_on_coarse", "fine_ensemble_on_legacy"):
        (work / name).mkdir(parents=True)
    assert labels_folder(tmp_path, "fine", "coarse", "fine") == work / "fine_ensemble_on_coarse"
    assert labels_folder(tmp_path, "fine", "coarse", "coarse") == work / "fine_on_coarse"
    assert labels_folder(tmp_path, "fine", "legacy", "x") == work / "fine_ensemble_on_legacy"
    assert labels_folder(tmp_path, "coarse", "fine", "fine") == work / "coarse_on_fine"
