"""Parameters of Flax Linen read by their names alone: `Dense_0/kernel`. What names don't tell is not guessed."""

from __future__ import annotations

import functools
import re
from typing import Any

from initax._adapters._plain import Arrays, of_array
from initax._math._axes import Axes, resolve
from initax._math._sharding import placement
from initax._model._kinds import LINEN_KINDS
from initax._model._parameter import UNDECLARED, WEIGHT_ROLES, Evidence, Fans, Parameter, Role, moved
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


def read_by_name(names: tuple[str, ...], arrays: Arrays, hint: str, known: Named) -> tuple[str, tuple[Parameter, ...]]:
    """Return the kind and the parameters that a module's name and the names and ranks of its arrays suggest.

    Args:
        names: the module's name, behind those of the modules around it.
        arrays: its arrays.
        hint: what to pass where names do not tell.
        known: what was read before, with this hint; what is read now is added.
    """
    words = tuple(map(_word, names[-2:]))
    likeness = (words, *((name, array.shape, array.dtype) for name, (_, array) in arrays.items()))
    if likeness not in known:
        kind = _kind(names, arrays)
        parameters = tuple(_parameter(name, names, kind, arrays, hint) for name in arrays)
        known[likeness] = (UNDECLARED if all(array.role is None for array in parameters) else kind), parameters
    kind, alike = known[likeness]
    pairs = zip(alike, arrays.values(), strict=True)
    return kind, tuple([moved(parameter, path, placement(array)) for parameter, (path, array) in pairs])


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
    match = AUTOMATIC.fullmatch(name)
    return match["cls"] if match else ""


def _kind(names: tuple[str, ...], arrays: Arrays) -> str:
    known = LINEN_KINDS.get(_class(names[-1])) if names else None
    if known is not None and known != "Attention":
        return known
    if "embedding" in arrays:
        return "Embedding"
    if "scale" in arrays and "kernel" not in arrays:
        return "Norm"
    if "kernel" in arrays:
        return "Linear" if len(arrays["kernel"][1].shape) == 2 or _is_projection(names, arrays) else UNDECLARED
    return UNDECLARED


def _is_projection(names: tuple[str, ...], arrays: Arrays) -> bool:
    """Return whether a module is a projection of attention: by the name of the module around it, or by its shapes."""
    if not names or names[-1] not in ATTENTION:
        return False
    if len(names) > 1 and LINEN_KINDS.get(_class(names[-2])) == "Attention":
        return True
    shape = tuple(arrays["kernel"][1].shape)
    if len(shape) != 3:
        return False
    bias = tuple(arrays["bias"][1].shape) if "bias" in arrays else None
    if names[-1] == "out":
        return bool(shape[0] * shape[1] == shape[2])
    return bool(shape[0] == shape[1] * shape[2]) if bias is None else bias == shape[1:]


def _parameter(name: str, names: tuple[str, ...], kind: str, arrays: Arrays, hint: str) -> Parameter:
    path, array = arrays[name]
    reading = _reading(name, names, kind, arrays)
    if reading is None:
        return of_array(path, name, array, undeclared(UNNAMED, hint=hint))
    role, pattern = reading
    axes = resolve(pattern, tuple(array.shape))
    weight = axes if role in WEIGHT_ROLES else _weight_axes(name, names, kind, arrays)
    fans = Fans.of(weight) if weight is not None else None
    if fans is not None and role == "embedding":
        fans = Fans(fans.nominal, (1, fans.nominal[0]))
    return of_array(path, name, array, None, role, axes=axes, fans=fans, evidence=Evidence.NAMED)


def _weight_axes(bias: str, names: tuple[str, ...], kind: str, arrays: Arrays) -> Axes | None:
    """The axes of the weight that a bias goes with; in a cell, of the input's where both sides share one bias."""
    weight = bias.removesuffix("bias") + "kernel"
    inner = f"i{weight[1:]}"
    if kind == "RNNCell" and f"{inner.removesuffix('kernel')}bias" not in arrays:
        weight = inner
    if kind == "Norm" or weight not in arrays:
        return None
    reading = _reading(weight, names, kind, arrays)
    return None if reading is None else resolve(reading[1], tuple(arrays[weight][1].shape))


def _reading(name: str, names: tuple[str, ...], kind: str, arrays: Arrays) -> tuple[Role, str] | None:
    """The role and axes that names and rank tell, or nothing."""
    rank = len(arrays[name][1].shape)
    if kind == "RNNCell":
        if name.endswith("kernel") and rank == 2:
            return "recurrent" if name.startswith("h") else "weight", "i o"
        return ("bias", "o") if name.endswith("bias") and rank == 1 else None
    if name == "kernel":
        pattern = _kernel_pattern(names, kind, arrays)
        return ("weight", pattern) if pattern else None
    if name == "embedding":
        return ("embedding", "o i") if rank == 2 else None
    if name == "negative_slope":
        return "scale", "..."
    if name == "scale" or (name == "bias" and kind == "Norm"):
        return "scale" if name == "scale" else "bias", "o" if rank == 1 else "..."
    if name == "bias" and "kernel" in arrays:
        pattern = _kernel_pattern(names, kind, arrays)
        outputs = [axis for axis in (pattern or "").split() if axis.startswith("o")]
        if pattern and len(outputs) == rank:
            return "bias", " ".join(outputs)
    return None


def _kernel_pattern(names: tuple[str, ...], kind: str, arrays: Arrays) -> str | None:
    """The axes of a layer's kernel, where its name tells them."""
    cls, shape = _class(names[-1]) if names else "", arrays["kernel"][1].shape
    rank = len(shape)
    if _is_projection(names, arrays):
        return ATTENTION[names[-1]] if rank == 3 else None
    if (cls in ("DenseGeneral", "Einsum") and rank > 2) or (names and names[-1] in PACKED):
        return None
    if cls == "Einsum" and "bias" not in arrays and len(set(shape)) != 1:  # its outputs may come first
        return None
    if kind == "Linear" and rank == 2:
        return "i o"
    return "... i o" if kind == "Conv" and rank > 2 else None
