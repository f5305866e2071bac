"""Why an array is not drawn: an enum for code to ask, a text for people to read, a line for them to write."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Why(enum.StrEnum):
    """Kinds of reasons why an array is kept.

    Members:
        KEY: it is a random key.
        NOT_FLOATING: it is not floating or complex.
        EMPTY: it has no entries.
        STATE: it is state: running statistics, caches, random state.
        STATISTICS: it is a running statistic, which belongs to the weights that it was measured with.
        OPTIMIZER: it is an optimizer's state.
        NOT_TRAINABLE: no optimizer changes it.
        CONSTANT: its framework treats it as a constant, and nobody declared it to be something else.
        FROZEN: a wrapper freezes it.
        TIED: another path owns it.
        FOLLOWS: it is set together with another array, e.g. weight norm's magnitude.
        RESERVED: only the scheme `default` draws it, e.g. LoRA's zero matrix.
        UNDECLARED: nothing tells its axes.
        MISFIT: what tells its axes does not fit its shape.
        CONTRADICTED: what tells its axes is contradicted by something else in the model.
        SIGNAL: the forward pass uses it where a signal stands, e.g. learned positions.
        RETURNED: the forward pass returns it, and no signal meets it, e.g. the logarithms of a policy's deviations.
        UNUSED: the forward pass does not use it.
        UNREADABLE: the forward pass does with it what can't be read.
        TRANSFORMED: the forward pass applies a function to it before anything else.
        NO_RULE: no rule selects it.
        RULE: a rule keeps it.
        SILENT: the scheme says nothing about its role.
        NORM: the scheme says nothing about the scale of the norm that it belongs to.
        WEIGHT_KEPT: it is a bias whose weight is not drawn, or is not in its layer.
        DECLINED: the initializer has nothing to say of it.
        NO_DEFAULT: the scheme is `default`, and its layer declares none.
    """

    KEY = enum.auto()
    NOT_FLOATING = enum.auto()
    EMPTY = enum.auto()
    STATE = enum.auto()
    STATISTICS = enum.auto()
    OPTIMIZER = enum.auto()
    NOT_TRAINABLE = enum.auto()
    CONSTANT = enum.auto()
    FROZEN = enum.auto()
    TIED = enum.auto()
    FOLLOWS = enum.auto()
    RESERVED = enum.auto()
    UNDECLARED = enum.auto()
    MISFIT = enum.auto()
    CONTRADICTED = enum.auto()
    SIGNAL = enum.auto()
    RETURNED = enum.auto()
    UNUSED = enum.auto()
    UNREADABLE = enum.auto()
    TRANSFORMED = enum.auto()
    NO_RULE = enum.auto()
    RULE = enum.auto()
    SILENT = enum.auto()
    NORM = enum.auto()
    WEIGHT_KEPT = enum.auto()
    DECLINED = enum.auto()
    NO_DEFAULT = enum.auto()


AXES_UNKNOWN = frozenset(
    {
        Why.UNDECLARED,
        Why.MISFIT,
        Why.CONTRADICTED,
        Why.SIGNAL,
        Why.RETURNED,
        Why.UNUSED,
        Why.UNREADABLE,
        Why.TRANSFORMED,
    }
)
"""Reasons that go once the axes are declared or restated."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an array is not drawn.

    Attributes:
        why: the kind of reason, to ask for: `reason.why is ix.Why.TIED`.
        text: the reason in words.
        owner: path of the array that owns it, where it is tied, or that it follows.
        hint: what to write so that it is drawn, where somebody knows.
    """

    why: Why
    text: str
    owner: str | None = None
    hint: str | None = None

    @property
    def is_about_axes(self) -> bool:
        """Whether the array could be drawn if its axes were known."""
        return self.why in AXES_UNKNOWN

    @property
    def may_be_restated(self) -> bool:
        """Whether a rule that restates the axes of the array draws it."""
        return self.is_about_axes or self.why is Why.CONSTANT

    def __str__(self) -> str:
        """Return the reason in words."""
        return self.text


def undeclared(detail: str = "", why: Why = Why.UNDECLARED, hint: str | None = None) -> Reason:
    """Return the reason why an array whose axes are not known is kept.

    Args:
        detail: what exactly is not known.
        why: the kind of reason.
        hint: what to write.
    """
    return Reason(why, f"undeclared: {detail}" if detail else "undeclared", hint=hint)


def tied(owner: str) -> Reason:
    """Return the reason why an array that stands at another path, too, is kept."""
    return Reason(Why.TIED, f"tied to {owner}", owner=owner)


def follows(owner: str) -> Reason:
    """Return the reason why an array that is set together with another one is not drawn alone."""
    return Reason(Why.FOLLOWS, f"set with {owner}", owner=owner)


def state(what: str = "state") -> Reason:
    """Return the reason why state is kept."""
    return Reason(Why.STATE, what)


OPTIMIZER_STATE = Reason(Why.OPTIMIZER, "optimizer state")


def why_not_drawable(shape: tuple[int, ...], dtype: Any) -> Reason | None:
    """Return why an array is never drawn whatever its role, or `None`."""
    if 0 in shape and _of_type(dtype) is None:
        return Reason(Why.EMPTY, f"empty: shape {shape} has no entries")
    return _of_type(dtype)


@functools.lru_cache(maxsize=256)
def _of_type(dtype: Any) -> Reason | None:
    """Return why no array of a type is ever drawn, or `None`."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return Reason(Why.KEY, "a random key")
    if not jnp.issubdtype(dtype, np.inexact):
        return Reason(Why.NOT_FLOATING, f"{np.dtype(dtype).name}: only floating and complex arrays are drawn")
    if np.finfo(dtype).bits > 64 if isinstance(dtype, np.dtype) and dtype.kind in "fc" else False:
        hint = "convert it: array.astype(np.float64)"
        return Reason(Why.NOT_FLOATING, f"{dtype.name}: JAX has no such type", hint=hint)
    return None
