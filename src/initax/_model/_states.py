"""Optimizers' states and copies of parameters, recognized by their form where their classes are lost.

A checkpoint that is restored without its target is a tree of dicts and lists. An optimizer's state in it has trees that
mirror the parameters, path by path and shape by shape, beside a count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from initax._model._reason import Reason, Why

Parts = tuple[str, ...]
Shape = tuple[int, ...]

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
    return unboxed(tuple(path.replace("/", ".").split(".")))


def unboxed(names: Parts) -> Parts:
    """Return names without that of a restored box around an array, which is not a name of the array."""
    return names[:-1] if len(names) > 1 and names[-1] in BOXES else names


def states_by_form(leaves: Iterable[tuple[str, Any]]) -> dict[str, Reason]:
    """Return the arrays that are an optimizer's state or a copy of parameters, each with the reason.

    Args:
        leaves: path and leaf, arrays and numbers alike.
    """
    shapes: dict[Parts, Shape] = {}
    paths: dict[Parts, str] = {}
    counted: set[Parts] = set()
    timed: set[Parts] = set()
    for path, leaf in leaves:
        parts = parts_of(path)
        if _is_count(leaf):
            counted.add(parts[:-1])
            continue
        if isinstance(leaf, float) or getattr(leaf, "shape", None) == ():
            timed.add(parts[:-1])
        if getattr(leaf, "shape", None) is not None:
            shapes[parts] = tuple(leaf.shape)
            paths[parts] = path
    if not counted and not timed and not any(map(_is_telling, {name for parts in shapes for name in parts})):
        return {}
    known = _Shapes(shapes, counted, timed)
    reasons: dict[str, Reason] = {}
    for root, shapes_below in known.below.items():
        if paths[(*root, *next(iter(shapes_below)))] in reasons:  # what is around it is state
            continue
        reason = _reason(root, shapes_below, known)
        if reason is not None:
            reasons |= {paths[(*root, *inside)]: reason for inside in shapes_below}
    return reasons


def _is_telling(name: str) -> bool:
    """Return whether a name is one of an optimizer's, or of a copy's."""
    return name in MOMENTS or OPTIMIZERS.fullmatch(name) is not None or COPIES.fullmatch(name) is not None


class _Shapes:
    """The shapes of all arrays of a model.

    Attributes:
        shapes: path → shape.
        below: path of each node → path from there → shape.
        ends: last names of a path and the shape there → what may stand in front of these names.
        counted: paths of nodes that hold a count.
        timed: paths of nodes that hold one number that is not whole, which may be a count all the same.
        outside: what was found of `ends` apart from what is below some path.
    """

    def __init__(self, shapes: Mapping[Parts, Shape], counted: set[Parts], timed: set[Parts]) -> None:
        self.shapes, self.counted, self.timed = shapes, counted, timed
        self.below: dict[Parts, dict[Parts, Shape]] = {}
        self.ends: dict[tuple[Parts, Shape], list[Parts]] = {}
        self.outside: dict[tuple[Parts, Shape, Parts], list[Parts]] = {}
        for parts, shape in shapes.items():
            for depth in range(1, len(parts) + 1):
                self.below.setdefault(parts[:depth], {})[parts[depth:]] = shape
            for depth in range(len(parts)):
                self.ends.setdefault((parts[depth:], shape), []).append(parts[:depth])

    def mirrored(self, root: Parts, around: Parts = ()) -> Iterator[Parts]:
        """Yield the paths elsewhere below which the same names hold arrays of the same shapes.

        Args:
            root: the path.
            around: what they are not to be below.
        """
        shapes = self.below[root]
        deepest = max(shapes, key=len)
        for other in self._ending_in(deepest, shapes[deepest], around):
            if other[: len(root)] == root:
                continue
            if all(self.shapes.get((*other, *inside)) == shape for inside, shape in shapes.items()):
                yield other

    def _ending_in(self, names: Parts, shape: Shape, around: Parts) -> list[Parts]:
        """Return what stands in front of names elsewhere; worked out once for all layers that hold arrays alike."""
        if not around:
            return self.ends[names, shape]
        if (names, shape, around) not in self.outside:
            fronts = self.ends[names, shape]
            self.outside[names, shape, around] = [front for front in fronts if front[: len(around)] != around]
        return self.outside[names, shape, around]


def _reason(root: Parts, shapes: Mapping[Parts, Shape], known: _Shapes) -> Reason | None:
    """Return why everything below a path is state, or `None`."""
    name = root[-1]
    if OPTIMIZERS.fullmatch(name) and () not in shapes:
        return Reason(Why.OPTIMIZER, "optimizer state")
    if root[:-1] in known.counted and name in MOMENTS:
        return Reason(Why.OPTIMIZER, f"optimizer state: {name} beside a count")
    if () in shapes or name in PARAMETERS:
        return None
    if COPIES.fullmatch(name) and any(known.mirrored(root)):
        return Reason(Why.STATE, "a copy of the parameters, by its name and form")
    is_deep = name not in SHORT or len(shapes) > 2 or min(map(len, shapes)) > 1
    if name in MOMENTS and (
        any(known.mirrored(root))
        if is_deep
        else _has_twin_moment(root, known) and any(other[:-1] != root[:-1] for other in known.mirrored(root))
    ):
        return Reason(Why.OPTIMIZER, f"optimizer state: {name} mirrors the parameters")
    for depth in range(1, len(root)):
        around = root[:depth]
        if around not in known.counted:
            continue
        for other in known.mirrored(root, around):
            if not _are_twins(root, other, known.below):
                shown = ".".join(other) or "the model"
                return Reason(Why.OPTIMIZER, f"optimizer state: it mirrors {shown} beside a count")
    if root[:-1] in known.timed and len(root) > 1 and _is_one_of_two_copies(root, known):
        return Reason(Why.OPTIMIZER, "optimizer state: two trees mirror the parameters beside a number")
    return None


def _is_one_of_two_copies(root: Parts, known: _Shapes) -> bool:
    """Return whether a network's form stands at a path, beside it and, under another name, elsewhere: two moments.

    A number that is not whole says less than a count: a temperature stands beside layers, too.
    """
    if min(map(len, known.below[root])) < 2:
        return False
    mirrored = list(known.mirrored(root))
    is_beside = any(other[:-1] == root[:-1] for other in mirrored)
    return is_beside and any(other[: len(root) - 1] != root[:-1] and other[-1:] != root[-1:] for other in mirrored)


def _has_twin_moment(root: Parts, known: _Shapes) -> bool:
    """Return whether an optimizer's other tree, of the same form, stands beside one: `mu` and `nu`."""
    shapes, around = known.below[root], root[:-1]
    return any(known.below.get((*around, other)) == shapes for other in MOMENTS - {root[-1]})


def _are_twins(path: Parts, other: Parts, below: Mapping[Parts, Mapping[Parts, Shape]]) -> bool:
    """Return whether two paths mirror each other only because what is around them does."""
    return bool(path[:-1] and other[:-1]) and path[-1] == other[-1] and below[path[:-1]] == below.get(other[:-1])


def _is_count(leaf: Any) -> bool:
    """Return whether a leaf is one whole number, in an array or not."""
    kind = getattr(getattr(leaf, "dtype", None), "kind", None)
    return type(leaf) is int or (kind in ("i", "u") and getattr(leaf, "shape", None) == ())
