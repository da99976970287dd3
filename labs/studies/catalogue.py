"""List the studies of the book; each stands in a module of its own, as ``EXPERIMENT``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from labs.near_miss import did_you_mean
from labs.studies.experiment import Experiment

STUDIES: Mapping[str, str] = {
    "cascade": "labs.studies.detection.cascade",
    "levels": "labs.studies.detection.levels",
    "neck": "labs.studies.detection.neck",
    "one_to_one": "labs.studies.detection.one_to_one",
    "parts": "labs.studies.detection.parts",
    "transfer": "labs.studies.detection.transfer",
}
"""Of each study, the module that describes it."""


def find(name: str) -> Experiment:
    """Return the study of that name.

    Raises:
        ValueError: When there is none; near misses are listed.
    """
    if name not in STUDIES:
        raise ValueError(
            f"expected a study of {', '.join(STUDIES)}, got {name!r}{did_you_mean(name, STUDIES)}"
        )
    return import_module(STUDIES[name]).EXPERIMENT
