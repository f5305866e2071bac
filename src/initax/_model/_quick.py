"""Frozen records by the thousand, without what their own `__init__` costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

Record = TypeVar("Record")


def maker(cls: type[Record]) -> Callable[..., Record]:
    """Return a function from the values of all fields, in their order, to a record.

    The `__init__` of a frozen dataclass takes three times as long, which was a third of a plan: it looks
    `object.__setattr__` up for each field. This one is written as source, too, and sets slots.

    Args:
        cls: a frozen dataclass with slots. Its `__post_init__` is not called.
    """
    return copier(cls, *(field.name for field in fields(cls)))  # type: ignore[arg-type]


def copier(cls: type[Record], *changed: str) -> Callable[..., Record]:
    """Return a function from a record and other values of the changed fields, in this order, to a copy.

    Args:
        cls: as for `maker`.
        changed: names of fields; if these are all there are, the function takes no record.
    """
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    arguments = [*(["_old"] if len(changed) < len(names) else []), *changed]
    values = [name if name in changed else f"_old.{name}" for name in names]
    sets = [f"_set_{name}(_new, {value})" for name, value in zip(names, values, strict=True)]
    lines = [f"def make({', '.join(arguments)}):", "_new = _empty(_cls)", *sets, "return _new"]
    scope: dict[str, Any] = {f"_set_{name}": getattr(cls, name).__set__ for name in names}
    scope |= {"_empty": object.__new__, "_cls": cls}
    exec("\n    ".join(lines), scope)
    return scope["make"]
