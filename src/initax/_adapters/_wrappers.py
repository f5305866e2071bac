"""Wrappers that stand in a weight's place, of packages that are never imported: known by package and class name.

paramax and klax put a node where an array would be, and `unwrap` turns it into the effective weight. The node is opened
here: which array below it is the weight's own, which further ones must change with it, and how effective weights
become stored ones. Wrappers may stand inside one another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from initax._adapters._nodes import Node, absolute, join, leaves_below, once_a_class
from initax._math._positivity import Map, map_of
from initax._model._constraint import STORED, Constraint, behind, masked, weight_norm
from initax._model._reason import Reason, Why, undeclared

ARRAYS = (jax.Array, jax.ShapeDtypeStruct)


def _upper(effective: Any) -> Any:
    """The symmetric matrix of which this one's upper triangle is half."""
    return jnp.triu(effective) + jnp.matrix_transpose(jnp.triu(effective, 1))


def _skew(effective: Any) -> Any:
    return jnp.triu(effective, 1) - jnp.matrix_transpose(jnp.triu(effective, 1))


def _symmetric(stored: Any) -> Any:
    return (stored + jnp.matrix_transpose(stored)) / 2


def _skew_symmetric(stored: Any) -> Any:
    return (stored - jnp.matrix_transpose(stored)) / 2


NON_NEGATIVE = Map("non-negative", jnp.positive, jnp.positive)
SYMMETRIC = Map("symmetric", _symmetric, _upper, positive=False)
SKEW_SYMMETRIC = Map("skew-symmetric", _skew_symmetric, _skew, positive=False)


@dataclass(frozen=True, slots=True)
class Opened:
    """What a wrapper holds.

    Attributes:
        array: path below the wrapper to the array that is the weight's own; `None` where a whole module is wrapped.
        constraint: what stands between that array and the effective weight; companions are paths below the wrapper.
        kept: why the array is never drawn.
    """

    array: str | None = None
    constraint: Constraint = STORED
    kept: Reason | None = None

    def but(self, reason: Reason) -> Opened:
        """Return what is never drawn, for a reason, unless there is one already."""
        return Opened(self.array, kept=self.kept or reason)

    def within(self, outer: Constraint) -> Opened:
        """Return what a wrapper around this one holds."""
        return Opened(self.array, outer.then(self.constraint), self.kept)


def describe(node: Any) -> Node | None:
    """Return what a wrapper means for the arrays below it; nothing where the node is not a wrapper."""
    opened = _open(node)
    if opened is None:
        return None
    if opened.array is None:
        reason = opened.kept or Reason(Why.FROZEN, f"inside {type(node).__name__}")
        return Node("module", reasons={path: reason for path, _ in leaves_below(node)})
    if opened.kept is not None:
        return Node("wrapper", array=opened.array, reasons={opened.array: opened.kept}, reason=opened.kept)
    return Node("wrapper", array=opened.array, constraints={opened.array: opened.constraint})


Handler = Callable[[Any], Opened]


def _open(node: Any) -> Opened | None:
    handler = _handler(type(node))
    return handler(node) if handler is not None else None


@once_a_class
def _handler(cls: type) -> Handler | None:
    names = [f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in cls.__mro__]
    return next((WRAPPERS[name] for name in names if name in WRAPPERS), None)


def _below(child: Any, name: str) -> Opened:
    """What stands below a wrapper, at a name: an array, a wrapper, or something else."""
    if isinstance(child, ARRAYS):
        return Opened(name)
    inner = _open(child)
    if inner is None or inner.array is None:
        return Opened(kept=inner.kept if inner else None)
    companions = tuple(join(name, companion) for companion in inner.constraint.companions)
    return Opened(absolute(name, inner.array), replace(inner.constraint, companions=companions), inner.kept)


def _mapped(inner: Opened, outer: Map) -> Opened:
    mapped = inner.within(behind(outer))
    if inner.constraint.positive and not outer.reaches_zero:
        # softplus of exp has no value below softplus(0) = 0.69: it is not a map onto the positive numbers.
        return inner.but(undeclared(f"behind {mapped.constraint.name}, which can't be near zero"))
    return mapped


def _parameterize(node: Any) -> Opened:
    mapping = map_of(node.fn)
    if len(node.args) == 1 and not node.kwargs and mapping is not None:
        return _mapped(_below(node.args[0], "args.0"), mapping)
    if node.fn is jnp.where and not node.kwargs and _is_mask(node.args):
        inner = _below(node.args[1], "args.1").within(masked(node.args[0]))
        return replace(inner, constraint=replace(inner.constraint, reaches_zero=True))
    arguments = (_below(argument, f"args.{index}") for index, argument in enumerate(node.args))
    inner = next((opened for opened in arguments if opened.array is not None), Opened())
    called = getattr(node.fn, "__name__", type(node.fn).__name__)
    line = f'ix.convex.register_positivity("{called}", {called}, inverse=...)'
    return inner.but(undeclared(f"behind Parameterize({called}), whose inverse is not known; {line}", hint=line))


def _is_mask(args: tuple[Any, ...]) -> bool:
    """Whether these arguments of `jnp.where` are a mask, a weight and zero."""
    if len(args) != 3 or not isinstance(args[0], ARRAYS) or args[0].dtype != jnp.bool_:
        return False
    return isinstance(args[2], int | float) and args[2] == 0


def _weight_normalization(node: Any) -> Opened:
    inner, scale = _below(node.weight, "weight"), _below(node.scale, "scale")
    if inner.array is None or scale.array is None or scale.constraint.companions:
        return inner.but(undeclared("behind WeightNormalization of something else than arrays"))
    if scale.kept is not None:
        return inner.but(Reason(scale.kept.why, f"its scale is kept: {scale.kept}"))
    opened = inner.within(weight_norm((-1,), scale.array, magnitude=scale.constraint))
    positive = inner.constraint.positive and scale.constraint.positive
    return replace(opened, constraint=replace(opened.constraint, positive=positive))


def _non_trainable(node: Any) -> Opened:
    return _below(node.tree, "tree").but(Reason(Why.FROZEN, "frozen by NonTrainable"))


def _parameter_behind(outer: Map) -> Handler:
    return lambda node: _mapped(_below(node.parameter, "parameter"), outer)


def _unknown(node: Any) -> Opened:
    """A wrapper nobody described: the first array it holds stands for it, and is kept."""
    arrays = [path for path, leaf in leaves_below(node) if isinstance(leaf, ARRAYS)]
    reason = undeclared(f"behind {type(node).__name__}, whose inverse is not known")
    return Opened(arrays[0] if arrays else None, kept=reason)


WRAPPERS: dict[str, Handler] = {
    "paramax.Parameterize": _parameterize,
    "klax.Parameterize": _parameterize,
    "paramax.WeightNormalization": _weight_normalization,
    "paramax.NonTrainable": _non_trainable,
    "klax.NonTrainable": _non_trainable,
    "klax.NonNegative": _parameter_behind(NON_NEGATIVE),
    "klax.Symmetric": _parameter_behind(SYMMETRIC),
    "klax.SkewSymmetric": _parameter_behind(SKEW_SYMMETRIC),
    "paramax.AbstractUnwrappable": _unknown,
    "klax.Unwrappable": _unknown,
}
"""Wrappers by package and class name; a class is looked up along its bases."""
