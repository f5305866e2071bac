"""Adapters: a model of some framework → layers, and new arrays → a model. Nothing else in initax names a framework.

An adapter is loaded when its framework already is, and a model can only be of a framework that is loaded: nobody pays
for what they don't use.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from initax._adapters._pytree import Describe, Survey
from initax._adapters._pytree import survey as _survey

ADAPTERS = {"equinox": "initax._adapters._equinox", "klax": "initax._adapters._klax"}
"""Framework → the module that describes its nodes."""


def survey(model: Any) -> Survey:
    """Return what initax finds in a model: its layers, and how to write arrays back."""
    return _survey(model, _describers())


def _describers() -> tuple[Describe, ...]:
    found: list[Describe] = []
    for framework, adapter in ADAPTERS.items():
        if framework in sys.modules:
            found.append(importlib.import_module(adapter).describe)
    return tuple(found)
