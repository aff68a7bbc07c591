"""The sections of settings: names of ``--set SECTION.KEY=VALUE`` and of the tables of relabel.toml.

Everything that shows or reads settings goes by this table: options, ``relabel settings``, docs.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields
from functools import cached_property
from typing import Any

from relabel.settings import (
    Count,
    Runtime,
    choices_of,
    describe_type,
    field_types,
    range_of,
    setting,
    show_value,
)


@dataclass(frozen=True)
class RuntimeTable(Runtime):
    """[runtime]: how to run, and one seed for all sections that have one."""

    seed: Count | None = setting(None, "Seed of everything random, for every section. [0]")


@dataclass(frozen=True)
class Section:
    """A section: where the dataclass of its settings is, and what it is about."""

    module: str
    name: str
    title: str

    @cached_property
    def cls(self) -> Any:
        """The dataclass; imported only here, so that a command loads what it shows."""
        return getattr(importlib.import_module(f"relabel.{self.module}"), self.name)

    @cached_property
    def fields(self) -> dict[str, Field[Any]]:
        """Every setting's field by name."""
        return {f.name: f for f in fields(self.cls)}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every setting: name, default, what it may be, its bounds and choices, its meaning."""
        for name, hint in field_types(self.cls).items():
            choices = choices_of(hint)
            yield {
                "name": name,
                "default": self.fields[name].default,
                "type": describe_type(hint),
                **range_of(hint),
                **({"choices": list(choices)} if choices else {}),
                "help": self.fields[name].metadata["help"],
            }


SECTIONS: Mapping[str, Section] = {
    "align": Section("align.settings", "AlignSettings", "What align writes"),
    "specialist": Section(
        "detectors.settings",
        "SpecialistSettings",
        "Detectors of single datasets and their training",
    ),
    "semi": Section(
        "detectors.semi.settings",
        "SemiSettings",
        "Specialists that learn from unlabelled images too",
    ),
    "crosslabel": Section(
        "crosslabel.settings", "CrossLabelSettings", "Specialists' labels on other datasets"
    ),
    "lat": Section("lat.settings", "LatSettings", "Label-Aligned Transfer"),
    "sam3": Section("detectors.sam3.settings", "Sam3Settings", "SAM 3, where it labels"),
    "downstream": Section(
        "studies.downstream.settings",
        "DownstreamSettings",
        "The comparison of evaluate downstream",
    ),
    "detector": Section(
        "detectors.settings",
        "DetectorSettings",
        "The detector that is compared; what is not given is [specialist]'s",
    ),
    "maskcut": Section("multilabel.settings", "MaskCutSettings", "Regions of imagenet-multilabel"),
    "label_maps": Section(
        "multilabel.settings", "LabelMapSettings", "Label maps of imagenet-multilabel"
    ),
    "filter": Section(
        "multilabel.settings", "FilterSettings", "Regions that the region classifier learns from"
    ),
    "region_classifier": Section(
        "multilabel.settings", "RegionClassifierSettings", "The classifier of regions"
    ),
    "labels": Section("multilabel.settings", "AggregateSettings", "Labels of an image"),
    "classifier": Section(
        "classifiers.settings", "ClassifierSettings", "Image classifiers and their training"
    ),
    "complete": Section(
        "partial.settings", "CompletionSettings", "The completion of partial labels"
    ),
    "check": Section(
        "suspects.settings", "CheckSettings", "Suspect labels, as relabel check finds them"
    ),
    "runtime": Section(
        "commands._sections",
        "RuntimeTable",
        "How to run; no result depends on it but for the seed",
    ),
}

# Settings that name a network: what a message calls it. A folder is relative to relabel.toml, or
# on the command line to the working folder.
NETWORKS = {
    "specialist.backbone": "backbone",
    "specialist.rtdetr_model": "RT-DETR",
    "detector.backbone": "backbone",
    "detector.rtdetr_model": "RT-DETR",
    "lat.backbone": "backbone",
    "sam3.model": "SAM 3 model",
    "maskcut.backbone": "backbone",
    "label_maps.classifier": "classifier",
    "classifier.model": "classifier",
    "complete.backbone": "backbone",
}


def shown_default(value: Any) -> str:
    """A default as it is typed, ``none`` for an empty one."""
    return "none" if value in (None, "", ()) else show_value(value)
