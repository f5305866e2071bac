"""Wrappers that stand in a weight's place, of packages that are never imported: known by package and class name.

paramax and klax put a node where an array would be, and `unwrap` turns it into the effective weight. The node is opened
here: which array below it is the weight's own, which further ones must change with it, and how effective weights
become stored ones. Wrappers may stand inside one another.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from initax._adapters._nodes import Node, entry_name
from initax._math._positivity import Map, inverse_softplus, map_of, same
from initax._model._constraint import Constraint, share_of
from initax._model._reason import Reason, Why, undeclared

Preimage = Callable[[jax.Array], tuple[jax.Array, ...]]
ARRAYS = (jax.Array, jax.ShapeDtypeStruct)


@dataclass(frozen=True, slots=True)
class Stored:
    """The innermost: an array is stored as it is."""

    def __call__(self, effective: jax.Array) -> tuple[jax.Array, ...]:
        """Return it."""
        return (effective,)


@dataclass(frozen=True, slots=True)
class Within:
    """A map around whatever else stands below."""

    outer: Map
    inner: Preimage

    def __call__(self, effective: jax.Array) -> tuple[jax.Array, ...]:
        """Return what is stored below the map."""
        return self.inner(self.outer.inverse(effective))


@dataclass(frozen=True, slots=True)
class Normalized:
    """A direction and its norm along the last axis: `w = scale * v / |v|` (Salimans & Kingma 2016, eq. 2)."""

    direction: Preimage
    scale: Preimage

    def __call__(self, effective: jax.Array) -> tuple[jax.Array, ...]:
        """Return the direction, and what goes with it, and the scale."""
        norm = jnp.sqrt(jnp.sum(effective**2, axis=-1, keepdims=True))
        return *self.direction(jnp.where(norm == 0, jnp.ones_like(effective), effective)), *self.scale(norm)


def _upper(effective: Any) -> Any:
    """The symmetric matrix of which this one's upper triangle is half."""
    return jnp.triu(effective) + jnp.matrix_transpose(jnp.triu(effective, 1))


def _skew(effective: Any) -> Any:
    return jnp.triu(effective, 1) - jnp.matrix_transpose(jnp.triu(effective, 1))


def _symmetric(stored: Any) -> Any:
    return (stored + jnp.matrix_transpose(stored)) / 2


def _skew_symmetric(stored: Any) -> Any:
    return (stored - jnp.matrix_transpose(stored)) / 2


NON_NEGATIVE = Map("non-negative", same, same)
SYMMETRIC = Map("symmetric", _symmetric, _upper, positive=False)
SKEW_SYMMETRIC = Map("skew-symmetric", _skew_symmetric, _skew, positive=False)
SOFTPLUS_SCALE = Within(Map("softplus", jax.nn.softplus, inverse_softplus), Stored())


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """What a wrapper holds.

    Attributes:
        array: path below the wrapper to the array that is the weight's own; `None` where a whole module is wrapped.
        names: what the wrappers are called, outermost first.
        preimage: from the effective weight to the arrays to store: the weight's own, then the companions.
        companions: paths below the wrapper to arrays that must change with it.
        positive: no effective weight is negative.
        reaches_zero: an effective weight can be zero.
        most: bound that every effective weight is below.
        share: the share of the entries that a mask lets through; `None` where its entries are not known.
        kept: why the array is never drawn.
    """

    array: str | None
    names: tuple[str, ...] = ()
    preimage: Preimage = Stored()
    companions: tuple[str, ...] = ()
    positive: bool = False
    reaches_zero: bool = True
    most: float = float("inf")
    share: float | None = 1.0
    kept: Reason | None = None

    def constraint(self) -> Constraint:
        """Return the constraint of the array; its companions are paths below the wrapper."""
        return Constraint(
            name=" of ".join(self.names),
            preimage=self.preimage,
            companions=self.companions,
            positive=self.positive,
            reaches_zero=self.reaches_zero,
            most=self.most,
            share=self.share,
            scales=isinstance(self.preimage, Stored),
        )


def describe(node: Any) -> Node | None:
    """Return what a wrapper means for the arrays below it; nothing where the node is no wrapper."""
    wrapper = unwrap(node)
    if wrapper is None:
        return None
    if wrapper.array is None:
        below = (".".join(map(entry_name, keys)) for keys, _ in jax.tree_util.tree_flatten_with_path(node)[0])
        reason = wrapper.kept or Reason(Why.FROZEN, f"inside {type(node).__name__}")
        return Node("module", reasons=dict.fromkeys(below, reason))
    if wrapper.kept is not None:
        return Node("wrapper", array=wrapper.array, reasons={wrapper.array: wrapper.kept}, reason=wrapper.kept)
    return Node("wrapper", array=wrapper.array, constraints={wrapper.array: wrapper.constraint()})


def unwrap(node: Any) -> Wrapped | None:
    """Return what a wrapper holds; `None` where the node is no wrapper."""
    handler = _handler(type(node))
    return handler(node) if handler is not None else None


Handler = Callable[[Any], Wrapped]
_HANDLERS: weakref.WeakKeyDictionary[type, Handler | None] = weakref.WeakKeyDictionary()


def _handler(cls: type) -> Handler | None:
    if cls not in _HANDLERS:
        names = [f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in cls.__mro__]
        _HANDLERS[cls] = next((WRAPPERS[name] for name in names if name in WRAPPERS), None)
    return _HANDLERS[cls]


def _join(*names: str) -> str:
    return ".".join(name for name in names if name)


def _below(child: Any, name: str) -> Wrapped:
    """What stands below a wrapper, at a name: an array, a wrapper, or something else."""
    if isinstance(child, ARRAYS):
        return Wrapped(array=name)
    inner = unwrap(child)
    if inner is None or inner.array is None:
        return Wrapped(array=None, kept=inner.kept if inner else None)
    return Wrapped(
        array=_join(name, inner.array),
        names=inner.names,
        preimage=inner.preimage,
        companions=tuple(_join(name, each) for each in inner.companions),
        positive=inner.positive,
        reaches_zero=inner.reaches_zero,
        most=inner.most,
        share=inner.share,
        kept=inner.kept,
    )


def _mapped(inner: Wrapped, outer: Map) -> Wrapped:
    if inner.positive and not outer.reaches_zero:
        # softplus of exp has no value below softplus(0) = 0.69: it is no map onto the positive numbers.
        nested = " of ".join((outer.name, *inner.names))
        return _kept(inner, undeclared(f"behind {nested}, which can't be near zero"))
    return Wrapped(
        array=inner.array,
        names=(outer.name, *inner.names),
        preimage=Within(outer, inner.preimage),
        companions=inner.companions,
        positive=outer.positive or inner.positive,
        reaches_zero=outer.reaches_zero and inner.reaches_zero,
        most=min(outer.most, inner.most),
        share=inner.share,
        kept=inner.kept,
    )


def _parameterize(node: Any) -> Wrapped:
    found = map_of(node.fn)
    if len(node.args) == 1 and not node.kwargs and found is not None:
        return _mapped(_below(node.args[0], "args.0"), found)
    if node.fn is jnp.where and not node.kwargs and _is_mask(node.args):
        return _masked(_below(node.args[1], "args.1"), node.args[0])
    inner = next(
        (
            each
            for each in (_below(argument, f"args.{place}") for place, argument in enumerate(node.args))
            if each.array is not None
        ),
        Wrapped(array=None),
    )
    called = getattr(node.fn, "__name__", type(node.fn).__name__)
    line = f'ix.convex.register_positivity("{called}", {called}, inverse=...)'
    return _kept(inner, undeclared(f"behind Parameterize({called}), whose inverse is not known; {line}", hint=line))


def _is_mask(args: tuple[Any, ...]) -> bool:
    """Whether these arguments of `jnp.where` are a mask, a weight and zero."""
    if len(args) != 3 or not isinstance(args[0], ARRAYS) or args[0].dtype != jnp.bool_:
        return False
    return isinstance(args[2], int | float) and args[2] == 0


def _masked(inner: Wrapped, mask: Any) -> Wrapped:
    """A weight some of whose entries never count: all are drawn, the mask does the rest."""
    own = share_of(mask)
    share = None if own is None or inner.share is None else inner.share * own
    return replace(inner, names=("mask", *inner.names), reaches_zero=True, share=share)


def _kept(inner: Wrapped, reason: Reason) -> Wrapped:
    return Wrapped(array=inner.array, kept=inner.kept or reason)


def _weight_normalization(node: Any) -> Wrapped:
    inner, scale = _below(node.weight, "weight"), _below(node.scale, "scale")
    if inner.array is None or scale.array is None or scale.companions:
        return _kept(inner, undeclared("behind WeightNormalization of something else than arrays"))
    if scale.kept is not None:
        return _kept(inner, Reason(scale.kept.why, f"its scale is kept: {scale.kept}"))
    return Wrapped(
        array=inner.array,
        names=("weight norm", *inner.names),
        preimage=Normalized(inner.preimage, scale.preimage),
        companions=(*inner.companions, scale.array),
        positive=inner.positive and scale.positive,
        reaches_zero=inner.reaches_zero,
        most=inner.most,
        share=inner.share,
        kept=inner.kept,
    )


def _non_trainable(node: Any) -> Wrapped:
    return _kept(_below(node.tree, "tree"), Reason(Why.FROZEN, "frozen by NonTrainable"))


def _parameter_behind(outer: Map) -> Handler:
    def handler(node: Any) -> Wrapped:
        return _mapped(_below(node.parameter, "parameter"), outer)

    return handler


def _unknown(node: Any) -> Wrapped:
    """A wrapper nobody described: the first array it holds stands for it, and is kept."""
    found, _ = jax.tree_util.tree_flatten_with_path(node)
    arrays = [".".join(map(entry_name, entries)) for entries, leaf in found if isinstance(leaf, ARRAYS)]
    array = arrays[0] if arrays else None
    return Wrapped(array=array, kept=undeclared(f"behind {type(node).__name__}, whose inverse is not known"))


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
