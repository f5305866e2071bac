"""Names of a package whose modules are loaded when they are first asked for: most sessions use few of them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def later(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package that loads names when they are first asked for.

    Args:
        package: the package.
        modules: name → the module of the package that it is in, or that it is.
    """
    names = vars(sys.modules[package])

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'", name=name, obj=sys.modules[package])
        module = importlib.import_module(f"{package}.{modules[name]}")
        names[name] = module if name == modules[name] else getattr(module, name)
        return names[name]

    def listed() -> list[str]:
        return sorted({*names, *modules})

    return load, listed, [name for name in listed() if not name.startswith("_")]
