"""Weight initialization as model surgery for JAX. What is public, and where it is, stands in `__init__.pyi`."""

import sys as _sys

import lazy_loader as _lazy_loader

__version__ = "0.1.0"

_load, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name in __all__:
        return _load(name)
    from initax.schemes._names import SHIPPED

    text = f"module 'initax' has no attribute '{name}'"
    if name in SHIPPED:
        text += f'; it is a scheme: write ix.reinit(model, {{"Linear": "{name}"}}, key), or ix.schemes.{name}()'
    raise AttributeError(text, name=name, obj=_sys.modules[__name__])
