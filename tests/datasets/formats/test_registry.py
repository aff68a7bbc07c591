import importlib

import pytest

from relabel.datasets.formats.registry import FORMATS, format_info, read_dataset, write_dataset
from relabel.errors import ConfigError, DataError


def test_every_format_has_the_functions_it_promises():
    for info in FORMATS.values():
        for module, function in ((info.reader, "read"), (info.writer, "write")):
            if module is not None:
                found = importlib.import_module(f"relabel.datasets.formats.{module}")
                assert callable(getattr(found, function)), info.name


def test_unknown_formats_name_near_ones(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'cityscapes'"):
        read_dataset(tmp_path, "citiscapes")
    assert format_info("Waymo-V2").name == "waymo_v2"
    with pytest.raises(ConfigError, match="Writable: coco, voc, yolo, fiftyone"):
        write_dataset(None, "waymo", tmp_path)  # type: ignore[arg-type]


def test_waymo_is_told_by_its_files(tmp_path):
    with pytest.raises(DataError, match="neither Waymo TFRecord nor Parquet"):
        format_info("waymo", tmp_path)
    (tmp_path / "training/camera_box").mkdir(parents=True)
    (tmp_path / "training/camera_box/1.parquet").touch()
    assert format_info("waymo", tmp_path).name == "waymo_v2"
    (tmp_path / "segment-1.tfrecord").touch()
    assert format_info("waymo", tmp_path).name == "waymo_v1"
    assert format_info("waymo", tmp_path / "segment-1.tfrecord").name == "waymo_v1"


def test_paths_that_do_not_exist(tmp_path):
    for name in FORMATS:
        if FORMATS[name].has_reader:
            with pytest.raises(DataError, match="no such file or folder"):
                read_dataset(tmp_path / "nope", name)
