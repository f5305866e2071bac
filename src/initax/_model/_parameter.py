"""A layer and its parameters, described without a framework.

Adapters make `Layer`s out of models; rules, schemes, plans and draws only ever see these records.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from initax._math._axes import Axes
from initax._model._constraint import Constraint as Constraint  # noqa: PLC0414  adapters take it from here
from initax._model._quick import copier, maker
from initax._model._reason import Reason
from initax._model._residual import Residual
from initax._text import path_text

Role = Literal["weight", "recurrent", "bias", "embedding", "scale", "state"]
ROLES: tuple[Role, ...] = get_args(Role)
WEIGHT_ROLES: tuple[Role, ...] = ("weight", "recurrent", "embedding")
"""Roles whose fans mean something; a bias goes with one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameworkInit:
    """How a framework itself draws a parameter: its own initializer, and the shape with which it is called.

    Attributes:
        function: the initializer, `(key, shape, dtype) -> array`.
        shape: the shape one layer, without stack axes, asks it for; the result is reshaped to what is stored. Its
            default axes may be wrong there; then so is what the framework gives.
    """

    function: Callable[..., Any]
    shape: tuple[int, ...]


Placement = tuple[int, ...]
"""Indices of stack axes, counted from the first axis or, where negative, from behind."""
Placements = tuple[tuple[Placement, Axes], ...]
DefaultSpec = str | tuple[str, Mapping[str, float | str]] | FrameworkInit
"""How a layer's own framework initializes a parameter: the name of an initializer, and its arguments if it has any, or
the framework's own function."""

FROM_KEY = "from the key"
"""Default of random state that was never made: nothing draws it, it starts from the user's key."""

Pair = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Fans:
    """Number of inputs of one output and of outputs of one input, per batch entry.

    Attributes:
        nominal: fan_in and fan_out by the usual definition.
        effective: what one output really sums over and what one input really reaches, on average: a stride, a mask or
            a look-up leave less. `None` behind a mask whose entries are traced or abstract.
    """

    nominal: tuple[float, float]
    effective: Pair

    @classmethod
    def of(cls, axes: Axes) -> Fans:
        """Return the fans that axes give where nothing takes entries away."""
        return cls((axes.fan_in, axes.fan_out), (axes.fan_in, axes.fan_out))

    def masked(self, constraint: Constraint | None) -> Fans:
        """Return the fans that the mask of a constraint leaves."""
        if constraint is None or constraint.share == 1:
            return self
        share = constraint.share
        fan_in, fan_out = (None if fan is None or share is None else fan * share for fan in self.effective)
        return Fans(self.nominal, (fan_in, fan_out))

    def restated(self, axes: Axes) -> Fans:
        """Return the fans of other axes, of which strides and masks take away the same share as before."""

        def left(fan: float, nominal: float, effective: float | None) -> float | None:
            return None if effective is None else fan * effective / nominal if nominal else fan

        nominal = (axes.fan_in, axes.fan_out)
        pairs = zip(nominal, self.nominal, self.effective, strict=True)
        fan_in, fan_out = (left(*fans) for fans in pairs)
        return Fans(nominal, (fan_in, fan_out))


class Evidence(enum.StrEnum):
    """How the axes of an array are known, the strongest first.

    Members:
        RESTATED: a rule restates them.
        DECLARED: its class is declared, by initax or by the user.
        TRACED: the forward pass was read.
        NAMED: its name is one that a framework gives, where no module is there to ask.
        GUESSED: its shape, and what stands beside it, in a plain container.
    """

    RESTATED = enum.auto()
    DECLARED = enum.auto()
    TRACED = enum.auto()
    NAMED = enum.auto()
    GUESSED = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One array of a model.

    Attributes:
        path: dotted path, indices included: `blocks.0.attn.query_proj.weight`.
        name: its name within the layer.
        role: what it is for; `None` where nobody declared it.
        shape: stored shape.
        dtype: stored type.
        axes: in, out, batch and receptive axes; `None` where they are unknown.
        fans: fan_in and fan_out, nominal and effective; a bias has its weight's. `None` where the word has no meaning.
        evidence: how its axes are known; `None` where they are not, or where it has none.
        placements: further places at which its stack axes may stand, by the sizes of the layer's arrays, with the axes
            that they give.
        sharding: where the array lives, where the user has said so.
        constraint: the map from stored array to effective weight.
        default: what the layer's own framework gives it.
        gates: names of the entries along a gate axis, in stored order; the one gate of an array that holds no other.
        reserved: why no scheme but `default` draws it, where that is so, e.g. LoRA's zero matrix.
        excluded: why it can never be drawn (`None` where it can): an integer array, tied, state, undeclared, empty.
        input_second_moment: mean square of what the weight is applied to, where a trace was asked for it and can tell.
        residual: which branch of which residual stream it is in; `None` where the forward pass is not known.
    """

    path: str
    name: str
    role: Role | None
    shape: tuple[int, ...]
    dtype: Any
    axes: Axes | None = None
    fans: Fans | None = None
    evidence: Evidence | None = None
    placements: Placements = ()
    sharding: jax.sharding.Sharding | None = None
    constraint: Constraint | None = None
    default: DefaultSpec | None = None
    gates: tuple[str, ...] = ()
    reserved: Reason | None = None
    excluded: Reason | None = None
    input_second_moment: float | None = None
    residual: Residual | None = None

    @property
    def fan_in(self) -> float | None:
        """Number of inputs of one output, per batch entry, by the usual definition."""
        return None if self.fans is None else self.fans.nominal[0]

    @property
    def fan_out(self) -> float | None:
        """Number of outputs of one input, per batch entry, by the usual definition."""
        return None if self.fans is None else self.fans.nominal[1]

    @property
    def effective_fan_in(self) -> float | None:
        """Number of inputs that one output sums over, on average; `None` behind a mask with unknown entries."""
        return None if self.fans is None else self.fans.effective[0]

    @property
    def effective_fan_out(self) -> float | None:
        """Number of outputs that one input reaches, on average; `None` behind a mask with unknown entries."""
        return None if self.fans is None else self.fans.effective[1]

    @property
    def dtype_name(self) -> str:
        """Name of the type, that of random keys included."""
        is_key = jnp.issubdtype(self.dtype, jax.dtypes.prng_key)
        return str(self.dtype) if is_key else str(jnp.dtype(self.dtype))


def leading_cells(parameter: Parameter, kind: str) -> tuple[str, str, str, str, str]:
    """Return the cells with which a table's row of an array begins: path, kind of its layer, role, shape and axes."""
    axes = "" if parameter.axes is None else parameter.axes.pattern
    return path_text(parameter.path), kind, parameter.role or "", str(parameter.shape), axes


moved = copier(Parameter, "path", "sharding")
"""Function from a parameter, a path and a sharding to the same parameter there."""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A module around a layer."""

    path: str
    cls: type


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One module that owns parameters.

    Attributes:
        path: dotted path; empty where the model itself is the layer.
        kind: framework-free name: `Linear`, `Conv`, `ConvTranspose`, `Embedding`, `RNNCell`, `Norm`, …
        cls: the layer's class.
        parameters: its arrays, in stored order.
        ancestors: the modules around it, outermost first.
    """

    path: str
    kind: str
    cls: type
    parameters: tuple[Parameter, ...]
    ancestors: tuple[Ancestor, ...] = ()

    def __getitem__(self, name: str) -> Parameter:
        """Return the parameter of that name within the layer."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        arrays = ", ".join(parameter.name for parameter in self.parameters)
        raise KeyError(f"{name}: the arrays of {self.path or 'the layer'} are {arrays}")


new_layer = maker(Layer)
"""Function from the fields of a `Layer`, in their order, to the layer."""

UNDECLARED = "Undeclared"
"""Kind of a module whose arrays nobody declared."""
