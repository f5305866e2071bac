"""Parameters of Flax Linen read by their names alone: `Dense_0/kernel`. What names don't tell is not guessed."""

from __future__ import annotations

import functools
import re
from typing import Any

from initax._adapters._plain import Own, unknown
from initax._math._axes import Axes, resolve
from initax._math._sharding import placement
from initax._model._kinds import LINEN_KINDS
from initax._model._parameter import (
    UNDECLARED,
    WEIGHT_ROLES,
    Ancestor,
    Evidence,
    Fans,
    Layer,
    Parameter,
    Role,
    moved,
    new_layer,
    why_not_drawable,
)
from initax._model._reason import undeclared

AUTOMATIC = re.compile(r"(?P<cls>[A-Za-z]\w*?)_\d+")
"""The names Flax gives modules that have none: the class and a number."""

ATTENTION = {"query": "i o1 o2", "key": "i o1 o2", "value": "i o1 o2", "out": "i1 i2 o"}
"""Projections of an attention module, by name: heads and their features are axes of their own."""

PACKED = frozenset({"dense_i", "dense_h"})
"""Parts of NNX's cells, which hold all gates in one kernel."""

UNNAMED = "its name does not tell its axes"
"""Why an array is kept that another one of Flax's may be called."""


Named = dict[Any, tuple[str, tuple[Parameter, ...]]]
"""What names and shapes tell → the kind of a layer, and its parameters, wherever they are."""


def named_layer(
    path: str, names: tuple[str, ...], own: Own, ancestors: tuple[Ancestor, ...], hint: str, known: Named
) -> Layer:
    """Return the layer that a module's name and the names and ranks of its arrays suggest.

    Args:
        path: its path.
        names: the names that the path is made of.
        own: its arrays.
        ancestors: the modules around it.
        hint: what to pass where names do not tell.
        known: what was read before, with this hint; what is read now is added.
    """
    told = tuple(map(_word, names[-2:]))
    likeness = (told, *((name, array.shape, array.dtype) for name, (_, array) in own.items()))
    if likeness not in known:
        kind = "RNNCell" if _is_cell(names) else _kind(names, own)
        parameters = tuple(_parameter(name, names, kind, own, hint) for name in own)
        known[likeness] = (UNDECLARED if all(each.role is None for each in parameters) else kind), parameters
    kind, alike = known[likeness]
    both = zip(alike, own.values(), strict=True)
    parameters = tuple([moved(parameter, where, placement(array)) for parameter, (where, array) in both])
    return new_layer(path, kind, dict, parameters, ancestors)


@functools.lru_cache(maxsize=4096)
def _word(name: str) -> str:
    """What the name of a module tells of it: the class that Flax named it by, or a word for a part of another one."""
    return _class(name) or (name if name in ATTENTION or name in PACKED else "")


def cell_of(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the names of the cell that a parameter is a gate's of, by its name; `None` where it is none."""
    return names[:-2] if len(names) > 2 and _is_cell(names[:-2]) else None


@functools.lru_cache(maxsize=4096)
def is_automatic(name: str) -> bool:
    """Return whether a name is one that Flax gives a module that has none: `Dense_0`, and no `W_0` or `layer_0`."""
    return AUTOMATIC.fullmatch(name) is not None and name[0].isupper() and name.upper() != name


def _is_cell(names: tuple[str, ...]) -> bool:
    return bool(names) and LINEN_KINDS.get(_class(names[-1])) == "RNNCell"


@functools.lru_cache(maxsize=4096)
def _class(name: str) -> str:
    found = AUTOMATIC.fullmatch(name)
    return found["cls"] if found else ""


def _kind(names: tuple[str, ...], own: Own) -> str:
    known = LINEN_KINDS.get(_class(names[-1])) if names else None
    if known is not None and known != "Attention":
        return known
    if "embedding" in own:
        return "Embedding"
    if "scale" in own and "kernel" not in own:
        return "Norm"
    if "kernel" in own:
        return "Linear" if len(own["kernel"][1].shape) == 2 or _is_projection(names, own) else UNDECLARED
    return UNDECLARED


def _is_projection(names: tuple[str, ...], own: Own) -> bool:
    """Return whether a module is a projection of attention: by the name of the module around it, or by its shapes."""
    if not names or names[-1] not in ATTENTION:
        return False
    if len(names) > 1 and LINEN_KINDS.get(_class(names[-2])) == "Attention":
        return True
    shape = tuple(own["kernel"][1].shape)
    if len(shape) != 3:
        return False
    bias = tuple(own["bias"][1].shape) if "bias" in own else None
    if names[-1] == "out":
        return bool(shape[0] * shape[1] == shape[2])
    return bool(shape[0] == shape[1] * shape[2]) if bias is None else bias == shape[1:]


def _parameter(name: str, names: tuple[str, ...], kind: str, own: Own, hint: str) -> Parameter:
    path, array = own[name]
    shape = tuple(array.shape)
    role, pattern = _reading(name, names, kind, own)
    never = why_not_drawable(shape, array.dtype)
    if role is None:
        return unknown({name: own[name]}, undeclared(UNNAMED, hint=hint))[0]
    axes = resolve(pattern, shape) if pattern is not None else None
    weight = axes if role in WEIGHT_ROLES else _weight_axes(name, names, kind, own)
    fans = Fans.of(weight) if weight is not None else None
    if fans is not None and role == "embedding":
        fans = Fans(fans.nominal, (1, fans.nominal[0]))
    return Parameter(
        path=path,
        name=name,
        role=role,
        shape=shape,
        dtype=array.dtype,
        axes=axes,
        fans=fans,
        evidence=Evidence.NAMED,
        sharding=placement(array),
        excluded=never,
    )


def _weight_axes(bias: str, names: tuple[str, ...], kind: str, own: Own) -> Axes | None:
    """The axes of the weight that a bias goes with; in a cell, of the input's where both sides share one bias."""
    weight = bias.removesuffix("bias") + "kernel"
    inner = f"i{weight[1:]}"
    if kind == "RNNCell" and f"{inner.removesuffix('kernel')}bias" not in own:
        weight = inner
    if kind == "Norm" or weight not in own:
        return None
    role, pattern = _reading(weight, names, kind, own)
    return resolve(pattern, tuple(own[weight][1].shape)) if role and pattern else None


def _reading(name: str, names: tuple[str, ...], kind: str, own: Own) -> tuple[Role | None, str | None]:
    """The role and axes that names and rank tell, or nothing."""
    rank = len(own[name][1].shape)
    if kind == "RNNCell":
        if name.endswith("kernel"):
            role: Role = "recurrent" if name.startswith("h") else "weight"
            return (role, "i o") if rank == 2 else (None, None)
        return ("bias", "o") if name.endswith("bias") and rank == 1 else (None, None)
    if name == "kernel":
        return _kernel(rank, names, kind, own)
    if name == "embedding":
        return ("embedding", "o i") if rank == 2 else (None, None)
    if name == "scale":
        return "scale", "o" if rank == 1 else "..."
    if name == "negative_slope":
        return "scale", "..."
    if name == "bias":
        if kind == "Norm":
            return "bias", "o" if rank == 1 else "..."
        weight, pattern = _kernel(len(own["kernel"][1].shape), names, kind, own) if "kernel" in own else (None, None)
        outputs = [each for each in (pattern or "").split() if each.startswith("o")]
        if weight is not None and len(outputs) == rank:
            return "bias", " ".join(outputs)
    return None, None


def _is_told(own: Own) -> bool:
    """Return whether the shape of an einsum's kernel, or its bias, tells which of its axes are the outputs."""
    shape = own["kernel"][1].shape if "kernel" in own else ()
    return "bias" in own or len(set(shape)) == 1


def _kernel(rank: int, names: tuple[str, ...], kind: str, own: Own) -> tuple[Role | None, str | None]:
    cls = _class(names[-1]) if names else ""
    if "kernel" in own and _is_projection(names, own):
        return ("weight", ATTENTION[names[-1]]) if rank == 3 else (None, None)
    if (
        (cls in ("DenseGeneral", "Einsum") and rank > 2)
        or (cls == "Einsum" and not _is_told(own))
        or (names and names[-1] in PACKED)
    ):
        return None, None
    if kind == "Linear" and rank == 2:
        return "weight", "i o"
    if kind == "Conv" and rank > 2:
        return "weight", "... i o"
    return None, None
