"""Imports of a package that wait until their names are first asked for: most sessions use few of them."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

Names = Mapping[str, object] | None


class _Import(NamedTuple):
    """`from module import name`, which has not happened yet."""

    module: str
    name: str


@contextlib.contextmanager
def later(package: dict[str, Any]) -> Iterator[None]:
    """Let the imports in the body of a `with` wait, each until its name is first asked for.

    Type checkers and editors read the body as the imports that it holds, so the names stand in one list. The package
    gets a `__getattr__` that imports a name, and a `__dir__` and an `__all__` that hold all of them (PEP 562).

    Args:
        package: the package's `globals()`.
    """
    of_python = builtins.__import__

    def wait(name: str, globals: Names = None, locals: Names = None, fromlist: Any = (), level: int = 0) -> ModuleType:
        if globals is not package:  # another thread imports something
            return of_python(name, globals, locals, fromlist, level)
        module = ModuleType(name)
        vars(module).update({each: _Import(name, each) for each in fromlist})
        return module

    builtins.__import__ = wait
    try:
        yield
    finally:
        builtins.__import__ = of_python
    itself = package["__name__"]
    waiting = {name: package.pop(name) for name, value in [*package.items()] if isinstance(value, _Import)}

    def load(name: str) -> Any:
        if name not in waiting:
            raise AttributeError(f"module '{itself}' has no attribute '{name}'", name=name, obj=sys.modules[itself])
        module, inside = waiting[name]
        if module == itself:
            package[name] = importlib.import_module(f"{module}.{inside}")
        else:
            package[name] = getattr(importlib.import_module(module), inside)
        return package[name]

    def listed() -> list[str]:
        return sorted({*package, *waiting})

    public = [name for name in listed() if not name.startswith("_")]
    package.update(__getattr__=load, __dir__=listed, __all__=public)
