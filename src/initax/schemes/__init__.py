"""Schemes by name: `ix.schemes.he_normal()`, `ix.schemes.get("orthogonal", gain=0.5)`, `ix.schemes.names()`."""

import sys as _sys

import lazy_loader as _lazy_loader

_load, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name in __all__:
        return _load(name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'", name=name, obj=_sys.modules[__name__])
