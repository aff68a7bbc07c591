"""What is damaged: small healthy inputs of every kind, and the commands that read them."""

from __future__ import annotations

from tests.fuzz.subjects.base import Subject
from tests.fuzz.subjects.detection import DETECTION
from tests.fuzz.subjects.labels import LABELS
from tests.fuzz.subjects.models import MODELS
from tests.fuzz.subjects.settings import SETTINGS

SUBJECTS: tuple[Subject, ...] = (*DETECTION, *LABELS, *SETTINGS, *MODELS)
