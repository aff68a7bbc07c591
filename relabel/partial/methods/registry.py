"""The methods by name."""

from __future__ import annotations

from collections.abc import Mapping

from relabel.partial.methods.base import Method
from relabel.partial.methods.clip_prompt import ClipPrompt
from relabel.partial.methods.curriculum import Curriculum
from relabel.partial.methods.plain import Asl, Bce, Csl
from relabel.partial.methods.saliency import Sr
from relabel.partial.methods.semantic import Hst, Sarb, Sst

METHODS: Mapping[str, type[Method]] = {
    "hst": Hst,
    "bce": Bce,
    "asl": Asl,
    "csl": Csl,
    "curriculum": Curriculum,
    "sst": Sst,
    "sarb": Sarb,
    "sr": Sr,
    "clip-prompt": ClipPrompt,
}
