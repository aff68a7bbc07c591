"""The world of blocks and the detector that the trainings of arms share."""

from __future__ import annotations

from tests.builders.trainings import detector, world

__all__ = ["detector", "world"]
