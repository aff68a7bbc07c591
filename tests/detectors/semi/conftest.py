"""A world of blocks and a detector small enough to be trained on it."""

from __future__ import annotations

from tests.builders.trainings import detector, world

__all__ = ["detector", "world"]
