"""Input-convex networks: `FICNN` and `PICNN` for Equinox, `nnx` for Flax NNX, and `rules` for a model that exists."""

import sys as _sys

import lazy_loader as _lazy_loader

from initax._errors import message as _message

_load, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)

_NEEDS = {"FICNN": "equinox", "PICNN": "equinox", "nnx": "flax"}
"""Name → the framework that it is written in."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'", name=name, obj=_sys.modules[__name__])
    try:
        return _load(name)
    except ModuleNotFoundError as error:
        framework = _NEEDS.get(name)
        if framework is None or (error.name or "").partition(".")[0] != framework:
            raise
        needs = _message(f"ix.convex.{name} needs {framework}.", f'pip install "initax[{framework}]"')
        raise ModuleNotFoundError(needs, name=error.name) from None
