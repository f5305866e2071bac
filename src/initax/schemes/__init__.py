"""Schemes by name: `ix.schemes.he_normal()`, `ix.schemes.get("orthogonal", gain=0.5)`, `ix.schemes.names()`."""

import lazy_loader as _lazy_loader

__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)
