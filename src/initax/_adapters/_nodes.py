"""What a node of a pytree is: an array or not, whose class it is of, and what it is called by what holds it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from initax._model._reason import Reason

ARRAYS = (jax.Array, np.ndarray, jax.ShapeDtypeStruct)


@dataclass(frozen=True, slots=True)
class Opened:
    """A node that JAX does not flatten the way its framework means it.

    Attributes:
        children: the node's children by name, where it is a module or a container.
        is_module: whether it is a module.
        leaf: where it is a box around one value, that value.
        identity: what makes two boxes the same one.
        state: why the value is never drawn, if it is not.
        unread: where the arrays below can't be read at all, why.
    """

    children: tuple[tuple[str, Any], ...] | None = None
    is_module: bool = False
    leaf: Any = None
    identity: int | None = None
    state: Reason | None = None
    unread: Reason | None = None


def entry_name(entry: Any) -> str:
    """Return the part of a dotted path that a JAX key entry stands for."""
    match entry:
        case GetAttrKey():
            return str(entry.name)
        case SequenceKey():
            return str(entry.idx)
        case DictKey() | FlattenedIndexKey():
            return ".".join(map(str, entry.key)) if isinstance(entry.key, tuple) else str(entry.key)
    return str(entry)


_PACKAGES: weakref.WeakKeyDictionary[type, frozenset[str]] = weakref.WeakKeyDictionary()


def packages_of(cls: type) -> frozenset[str]:
    """The packages that a class and its bases come from, two levels deep."""
    if cls not in _PACKAGES:
        parts = [base.__module__.split(".") for base in cls.__mro__]
        _PACKAGES[cls] = frozenset(".".join(names[:depth]) for names in parts for depth in (1, 2))
    return _PACKAGES[cls]
