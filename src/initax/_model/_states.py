"""Optimizers' states and copies of the parameters, known by their form where their classes are lost.

A checkpoint that is restored without its target is a tree of dicts and lists. An optimizer's state in it has trees that
mirror the parameters, path by path and shape by shape, beside a count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from initax._model._reason import Reason, Why

Parts = tuple[str, ...]

OPTIMIZERS = re.compile(r"(.*_)?(opt|optim|optimizer|tx)(_?states?)?(_?\d+)?|opt_?states?", re.IGNORECASE)
"""Names under which checkpoints keep an optimizer's state."""

MOMENTS = frozenset(
    {
        "mu", "nu", "nu_max", "mu_nesterov", "trace", "momentum", "momentums", "velocity", "m", "v", "v_row", "v_col",
        "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum_of_squares", "sum_of_grads",
        "acc_grads", "grad_acc", "e_g", "e_x", "prev_updates", "prev_grads", "updates", "accumulator", "slots",
    }
)  # fmt: skip
"""Names that optimizers give their trees."""

SHORT = frozenset({"mu", "nu", "m", "v", "updates", "slots"})
"""Those of them that a layer may have, too: the mean that a variational encoder puts out is often called mu."""

COPIES = re.compile(r"(.*_)?(ema|shadow|polyak|averaged?)(_.*)?", re.IGNORECASE)
"""Names of running averages of the parameters."""

PARAMETERS = frozenset({"params", "parameters", "model", "weights", "net", "network", "variables", "module"})
"""Names under which checkpoints keep the parameters themselves."""

BOXES = ("value", "raw_value")
"""Names that a restored box around an array adds to the array's own."""


def parts_of(path: str) -> Parts:
    """Return the names in a path, joined ones apart, without those of boxes around an array."""
    parts = tuple(re.split(r"[./]", path))
    return parts[:-1] if len(parts) > 1 and parts[-1] in BOXES else parts


def states_by_form(leaves: Mapping[str, Any]) -> dict[str, Reason]:
    """Return the arrays that are an optimizer's state or a copy of parameters, each with the reason.

    Args:
        leaves: path → leaf, arrays and numbers alike.
    """
    shapes: dict[Parts, tuple[int, ...]] = {}
    paths: dict[Parts, str] = {}
    counted: set[Parts] = set()
    for path, leaf in leaves.items():
        parts = parts_of(path)
        if _is_count(leaf):
            counted.add(parts[:-1])
        elif getattr(leaf, "shape", None) is not None:
            shapes[parts] = tuple(leaf.shape)
            paths[parts] = path
    below: dict[Parts, dict[Parts, tuple[int, ...]]] = {}
    for parts, shape in shapes.items():
        for depth in range(1, len(parts) + 1):
            below.setdefault(parts[:depth], {})[parts[depth:]] = shape
    found: dict[str, Reason] = {}
    for root, own in below.items():
        reason = _reason(root, own, shapes, counted, below)
        if reason is not None:
            for inside in own:
                found.setdefault(paths[(*root, *inside)], reason)
    return found


def _reason(
    root: Parts,
    own: Mapping[Parts, tuple[int, ...]],
    shapes: Mapping[Parts, tuple[int, ...]],
    counted: set[Parts],
    below: Mapping[Parts, Mapping[Parts, tuple[int, ...]]],
) -> Reason | None:
    """Return why everything below a path is state, or `None`."""
    name = root[-1]
    if OPTIMIZERS.fullmatch(name) and () not in own:
        return Reason(Why.OPTIMIZER, "optimizer state")
    if root[:-1] in counted and name in MOMENTS:
        return Reason(Why.OPTIMIZER, f"optimizer state: {name} beside a count")
    if () in own or name in PARAMETERS:
        return None
    if COPIES.fullmatch(name) and any(_mirrored(root, own, shapes)):
        return Reason(Why.STATE, "a copy of the parameters, by its name and form")
    is_deep = name not in SHORT or len(own) > 2 or min(map(len, own)) > 1
    if name in MOMENTS and is_deep and any(_mirrored(root, own, shapes)):
        return Reason(Why.OPTIMIZER, f"optimizer state: {name} mirrors the parameters")
    for depth in range(len(root)):
        around = root[:depth]
        if around not in counted:
            continue
        for other in _mirrored(root, own, shapes):
            inside = other[: len(around)] == around
            if not inside and not _are_twins(root, other, below):
                return Reason(
                    Why.OPTIMIZER, f"optimizer state: it mirrors {'.'.join(other) or 'the model'} beside a count"
                )
    return None


def _mirrored(
    root: Parts, own: Mapping[Parts, tuple[int, ...]], shapes: Mapping[Parts, tuple[int, ...]]
) -> Iterator[Parts]:
    """Yield the paths elsewhere below which the same names hold arrays of the same shapes."""
    first = max(own, key=len)
    for parts in shapes:
        if len(parts) >= len(first) and parts[len(parts) - len(first) :] == first:
            other = parts[: len(parts) - len(first)]
            if other == root or other[: len(root)] == root:
                continue
            if all(shapes.get((*other, *inside)) == shape for inside, shape in own.items()):
                yield other


def _are_twins(one: Parts, other: Parts, below: Mapping[Parts, Mapping[Parts, tuple[int, ...]]]) -> bool:
    """Return whether two paths mirror each other only because what is around them does."""
    return bool(one[:-1] and other[:-1]) and one[-1] == other[-1] and below[one[:-1]] == below.get(other[:-1])


def _is_count(leaf: Any) -> bool:
    """Return whether a leaf is one whole number, in an array or not."""
    if isinstance(leaf, bool):
        return False
    if isinstance(leaf, int | np.integer):
        return True
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and getattr(leaf, "shape", None) == () and getattr(dtype, "kind", "") in "iu"
