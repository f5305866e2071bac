"""A layer and its parameters described without a framework, and the table of declared layer classes.

Adapters make `Layer`s out of models; rules, schemes, plans and draws only ever see these records.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from initax._math._axes import Axes, names_in
from initax._model._constraint import Constraint as Constraint  # noqa: PLC0414  adapters take it from here
from initax._model._quick import copier, maker
from initax._model._reason import Reason, Why
from initax._model._residual import Residual

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


DefaultSpec = str | tuple[str, Mapping[str, float | str]] | FrameworkInit
"""How a layer's own framework initializes a parameter: the name of an initializer, and its arguments if it has any, or
the framework's own function."""

FROM_KEY = "from the key"
"""Default of random state that was never made: nothing draws it, it starts from the user's key."""

LSTM_GATES = ("input", "forget", "cell", "output")
GRU_GATES = ("reset", "update", "new")
"""Gates in the order in which Equinox and Flax store them."""


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
        return Fans(self.nominal, (constraint.masked_fan(self.effective[0]), constraint.masked_fan(self.effective[1])))

    def restated(self, axes: Axes) -> Fans:
        """Return the fans of other axes, of which strides and masks take away the same share as before."""

        def left(fan: float, nominal: float, effective: float | None) -> float | None:
            return None if effective is None else fan * effective / nominal if nominal else fan

        nominal = (axes.fan_in, axes.fan_out)
        both = zip(nominal, self.nominal, self.effective, strict=True)
        fan_in, fan_out = (left(*each) for each in both)
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
        placements: further places at which its stack axes may stand, by their sizes, with the axes that they give.
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
    placements: tuple[tuple[tuple[int, ...], Axes], ...] = ()
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
        arrays = ", ".join(each.name for each in self.parameters)
        raise KeyError(f"{name}: the arrays of {self.path or 'the layer'} are {arrays}")


new_layer = maker(Layer)
"""Function from the fields of a `Layer`, in their order, to the layer."""

UNDECLARED = "Undeclared"
"""Kind of a module whose arrays nobody declared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """How one array field of a layer class is to be read: a row's cell in the table of layers.

    Attributes:
        pattern: the axes of one layer, or a function from the module to them.
        role: what the array is for.
        sizes: sizes of named axes: numbers, attribute names, or a function from the module to a mapping of numbers, of
            which those count that the pattern names.
        receptive: name of the attribute that holds the receptive field's sizes.
        of: for a bias, the name of the weight it belongs to.
        default: what the framework gives it, or a function from the module to that.
        gates: names of the entries along a gate axis, or the one gate of an array that holds no other.
        reserved: why no scheme but `default` draws it.
        effective: function from module and axes to effective fan_in and fan_out, where they differ.
        nominal: function from module and axes to fan_in and fan_out, where the axes alone do not give them.
        constraint: the map that the layer itself applies to the array, or a function from the module to it.
    """

    pattern: str | Callable[[Any], str]
    role: Role
    sizes: Mapping[str, int | str] | Callable[[Any], Mapping[str, int]] = field(default_factory=dict)
    receptive: str | None = None
    of: str | None = None
    default: DefaultSpec | Callable[[Any], DefaultSpec] | None = None
    gates: tuple[str, ...] = ()
    reserved: Reason | None = None
    effective: Callable[[Any, Axes], tuple[float | None, float | None]] | None = None
    nominal: Callable[[Any, Axes], tuple[float, float]] | None = None
    constraint: Constraint | Callable[[Any], Constraint | None] | None = None

    def pattern_of(self, module: Any) -> str:
        """Return the pattern for this module."""
        return self.pattern(module) if callable(self.pattern) else self.pattern

    def sizes_of(self, module: Any) -> tuple[tuple[str, int], ...]:
        """Return the sizes the module knows, as sorted pairs."""
        if callable(self.sizes):
            names = names_in(self.pattern_of(module))
            return tuple(sorted(item for item in self.sizes(module).items() if item[0] in names))
        sizes = {name: getattr(module, size) if isinstance(size, str) else size for name, size in self.sizes.items()}
        return tuple(sorted(sizes.items()))

    def receptive_of(self, module: Any) -> tuple[int, ...] | None:
        """Return the receptive field's sizes, where the module knows them."""
        return tuple(getattr(module, self.receptive)) if self.receptive else None

    def default_of(self, module: Any) -> DefaultSpec | None:
        """Return what the framework gives this field."""
        return self.default(module) if callable(self.default) else self.default

    def constraint_of(self, module: Any) -> Constraint | None:
        """Return what the layer itself puts between the stored array and the effective weight."""
        return self.constraint(module) if callable(self.constraint) else self.constraint


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """A row of the table of layers.

    Attributes:
        kind: framework-free name.
        fields: the array fields, by name.
        static: everything the fields ask of a module is static, so that modules of equal structure read alike.
        inside: names of the modules inside it whose arrays are its own fields.
    """

    kind: str
    fields: Mapping[str, Field]
    static: bool = False
    inside: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Work out which modules inside it it declares the arrays of."""
        inside = frozenset(name.partition(".")[0] for name in self.fields if "." in name)
        object.__setattr__(self, "inside", inside)


def weight(pattern: str | Callable[[Any], str], role: Role = "weight", **further: Any) -> Field:
    """Return the cell of a weight, or of an array of another role that has axes of its own."""
    return Field(pattern=pattern, role=role, **further)


def bias(pattern: str | Callable[[Any], str], of: str | None, **further: Any) -> Field:
    """Return the cell of the bias that goes with a weight."""
    return Field(pattern=pattern, role="bias", of=of, **further)


def row(kind: str, fields: Mapping[str, Field] | None = None, **named: Field) -> Declaration:
    """Return a row: the kind, and the cells by name, in a mapping where names have dots."""
    return Declaration(kind=kind, fields={**(fields or {}), **named})


_DECLARED: dict[type, Declaration] = {}


def declare(cls: type, declaration: Declaration) -> None:
    """Add a row to the table of layers."""
    _DECLARED[cls] = declaration


def declaration_of(cls: type, *, inherited: bool = True) -> Declaration | None:
    """Return the row of a class, or else of the nearest of its bases unless only its own is asked for."""
    own = _DECLARED.get(cls)
    if own is not None or not inherited:
        return own
    return next((_DECLARED[base] for base in cls.__mro__ if base in _DECLARED), None)


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
