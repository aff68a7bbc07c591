"""Fixtures of trainings: a world of blocks, and a detector small enough to be trained on it."""

from __future__ import annotations

import pytest

from relabel.detectors.settings import SpecialistSettings
from tests.builders.blocks import World, make_world
from tests.builders.detectors import tiny_detector


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> SpecialistSettings:
    return tiny_detector(tmp_path_factory.mktemp("backbone"), steps=8, batch_size=4)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), images=6)
