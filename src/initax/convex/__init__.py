"""Input-convex networks: `FICNN` and `PICNN` for Equinox, `nnx` for Flax NNX, and `rules` for a model that exists.

The networks are loaded when they are asked for, so that `import initax` loads no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from initax._errors import message as _message
from initax._math._positive_moments import k_max as k_max
from initax._math._positivity import register_positivity as register_positivity
from initax.convex._rules import rules as rules
from initax.convex._standardize import standardize as standardize

if TYPE_CHECKING:
    from initax.convex import _nnx as nnx
    from initax.convex._equinox import FICNN as FICNN
    from initax.convex._equinox import PICNN as PICNN

__all__ = ["FICNN", "PICNN", "k_max", "nnx", "register_positivity", "rules", "standardize"]

_LAZY = {"FICNN": ("_equinox", "equinox"), "PICNN": ("_equinox", "equinox"), "nnx": ("_nnx", "flax")}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, extra = _LAZY[name]
    try:
        loaded = importlib.import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != extra:
            raise
        needs = _message(f"ix.convex.{name} needs {extra}.", f'pip install "initax[{extra}]"')
        raise ModuleNotFoundError(needs, name=error.name) from None
    value = loaded if name == module.removeprefix("_") else getattr(loaded, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
