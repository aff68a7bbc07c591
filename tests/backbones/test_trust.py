"""Published networks from strangers: none runs code, and what is damaged is one line."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from relabel.backbones.extractor import FeatureExtractor, resolve_backbone
from relabel.backbones.views import published_view, transformers_classifier
from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.rt_detr.build import FAMILY
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import ConfigError, DataError, RelabelError
from tests.builders.blocks import tiny_backbone

CODE = "from pathlib import Path\nPath({mark!r}).touch()\nclass Config: pass\nclass Net: pass\n"


def use_backbone(folder: Path) -> None:
    FeatureExtractor(resolve_backbone(str(folder)), str(folder))


def use_classifier(folder: Path) -> None:
    net, _ = transformers_classifier(str(folder), True, 0, 0.0)
    published_view(str(folder), "transformers", net)


def use_rt_detr(folder: Path) -> None:
    settings = SpecialistSettings(detector="rt-detr", rtdetr_model=str(folder))
    FAMILY.trainable(LabelSpace.from_names("x", ["a"]), settings)


USES = [use_backbone, use_classifier, use_rt_detr]


def edit(file: Path, **more: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))


@pytest.mark.parametrize("use", USES)
def test_a_checkpoint_with_code_of_its_own_is_refused_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[Path], None]
) -> None:
    folder = tiny_backbone(tmp_path / "net")
    mark = tmp_path / "ran"
    (folder / "code.py").write_text(CODE.format(mark=str(mark)))
    names = ("AutoConfig", "AutoModel", "AutoModelForImageClassification")
    auto = {name: "code.Config" if name == "AutoConfig" else "code.Net" for name in names}
    edit(folder / "config.json", model_type="of-its-own", auto_map=auto)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\ny\n"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    with pytest.raises(ConfigError, match="wants to run code of its own"):
        use(folder)
    assert not mark.exists()


def test_a_processor_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = tiny_backbone(tmp_path / "net")
    (folder / "code.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    processor = {"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "code.Net"}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ConfigError, match="wants to run code of its own"):
        resolve_backbone(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b"3"),
        ("config.json", b""),
        ("config.json", b"[" * 100_000),
        ("config.json", b'{"model_type": "resnet", "hidden_sizes": "many"}'),
        ("config.json", b'{"model_type": "resnet", "num_channels": ' + b"9" * 5000 + b"}"),
        ("config.json", b'{"model_type": 7}'),
        ("model.safetensors", b""),
        ("model.safetensors", b"\xff" * 8 + b"{}"),
        ("model.safetensors", (1 << 40).to_bytes(8, "little") + b"{}"),
        ("model.safetensors", (2).to_bytes(8, "little") + b"[]"),
        ("preprocessor_config.json", b"{"),
        ("preprocessor_config.json", b"[]"),
    ],
)
def test_a_damaged_network_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    folder = tiny_backbone(tmp_path / "net")
    (folder / name).write_bytes(content)
    with pytest.raises((ConfigError, DataError)) as caught:
        use_backbone(folder)
    assert "net" in str(caught.value) and caught.value.remedy
    assert len(str(caught.value)) < 1000


# torch warns of the layer without channels; the error alone is to be seen.
def test_a_network_without_channels_is_one_line(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder = tiny_backbone(tmp_path / "net")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_channels": 0}))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        use_backbone(folder)
    assert not [w for w in recwarn if "zero-element" in str(w.message)]


@pytest.mark.parametrize("mean", ["[1]", '["a", "b", "c"]', "[0.5, 0.5, NaN]"])
def test_a_mean_that_is_none_is_refused(tmp_path: Path, mean: str) -> None:
    folder = tiny_backbone(tmp_path / "net")
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "BitImageProcessor", "image_std": [1, 1, 1], "image_mean": '
        + mean
        + "}"
    )
    with pytest.raises(RelabelError):
        use_backbone(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_pipes_do_not_hang(tmp_path: Path, name: str) -> None:
    folder = tiny_backbone(tmp_path / "net")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises((ConfigError, DataError)):
        use_backbone(folder)
