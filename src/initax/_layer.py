"""A layer and its parameters described without a framework, and the table of declared layer classes.

Adapters make `Layer`s out of models; rules, schemes, plans and draws only ever see these records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from initax._axes import Axes, fit, own_shape, parse, resolve
from initax._constraint import Constraint as Constraint  # noqa: PLC0414  adapters take it from here
from initax._constraint import positive
from initax._errors import AxesError, InitaxError, did_you_mean, listing, message

Role = Literal["weight", "recurrent", "bias", "embedding", "scale", "state"]
ROLES: tuple[Role, ...] = get_args(Role)
WEIGHT_ROLES: tuple[Role, ...] = ("weight", "recurrent", "embedding")
"""Roles whose fans mean something; a bias goes with one of them."""

DefaultSpec = str | tuple[str, Mapping[str, float]]
"""How a layer's own framework initializes a parameter: the name of an initializer, and its arguments if it has any."""


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
        fan_in: inputs of one output, per batch entry, as the field counts them; a bias has its weight's.
        fan_out: outputs of one input, counted likewise.
        effective_fan_in: what one output really sums over, on average.
        effective_fan_out: what one input really reaches, on average.
        sharding: where the array lives, where the user has said so.
        constraint: the map from stored array to effective weight.
        default: what the layer's own framework gives it.
        gates: names of the entries along a gate axis, in stored order.
        kept: why it can never be drawn (`None` where it can): an integer array, tied, state, undeclared, empty.
    """

    path: str
    name: str
    role: Role | None
    shape: tuple[int, ...]
    dtype: Any
    axes: Axes | None = None
    fan_in: float | None = None
    fan_out: float | None = None
    effective_fan_in: float | None = None
    effective_fan_out: float | None = None
    sharding: jax.sharding.Sharding | None = None
    constraint: Constraint | None = None
    default: DefaultSpec | None = None
    gates: tuple[str, ...] = ()
    kept: str | None = None


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
        raise KeyError(name)


UNDECLARED = "Undeclared"
"""Kind of a module whose arrays nobody declared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """How one array field of a layer class is to be read: a row's cell in the table of layers.

    Attributes:
        pattern: the axes of one layer, or a function from the module to them.
        role: what the array is for.
        sizes: sizes of named axes: numbers, attribute names, or a function from the module to a mapping of numbers.
        receptive: name of the attribute that holds the receptive field's sizes.
        of: for a bias, the name of the weight it belongs to.
        default: what the framework gives it, or a function from the module to that.
        gates: names of the entries along a gate axis.
        effective: function from module and axes to effective fan_in and fan_out, where they differ.
        constraint: the map that the layer itself applies to the array, or a function from the module to it.
    """

    pattern: str | Callable[[Any], str]
    role: Role
    sizes: Mapping[str, int | str] | Callable[[Any], Mapping[str, int]] = field(default_factory=dict)
    receptive: str | None = None
    of: str | None = None
    default: DefaultSpec | Callable[[Any], DefaultSpec] | None = None
    gates: tuple[str, ...] = ()
    effective: Callable[[Any, Axes], tuple[float, float]] | None = None
    constraint: Constraint | Callable[[Any], Constraint | None] | None = None

    def pattern_of(self, module: Any) -> str:
        """Return the pattern for this module."""
        return self.pattern(module) if callable(self.pattern) else self.pattern

    def sizes_of(self, module: Any) -> tuple[tuple[str, int], ...]:
        """Return the sizes the module knows, as sorted pairs."""
        if callable(self.sizes):
            return tuple(sorted(self.sizes(module).items()))
        every = {name: getattr(module, size) if isinstance(size, str) else size for name, size in self.sizes.items()}
        return tuple(sorted(every.items()))

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
    """

    kind: str
    fields: Mapping[str, Field]
    static: bool = False


_DECLARED: dict[type, Declaration] = {}


def declare(cls: type, declaration: Declaration) -> None:
    """Enter a row into the table of layers."""
    _DECLARED[cls] = declaration


def declaration_of(cls: type) -> Declaration | None:
    """Return the row of a class or of the nearest of its bases."""
    return next((_DECLARED[base] for base in cls.__mro__ if base in _DECLARED), None)


def register_layer(
    cls: type,
    *,
    kind: str,
    roles: Mapping[str, Role] | None = None,
    sizes: Mapping[str, int | str] | None = None,
    of: Mapping[str, str] | None = None,
    default: Mapping[str, DefaultSpec] | None = None,
    positivity: Mapping[str, str] | None = None,
    **fields: str,
) -> type:
    """Return `cls`, declared: from now on its arrays are found and drawn like those of a built-in layer.

    Args:
        cls: a module class, or any class registered as a pytree. Subclasses inherit the declaration.
        kind: what it is: `"Linear"`, `"Conv"`, `"Norm"`, …, or a word of your own to select it by.
        roles: the role of a field, where it can't be told. A field with an input axis is a `weight`, one named `scale`
            or belonging to a `Norm` is a `scale`, the rest are biases.
        sizes: sizes of named axes, as numbers or names of attributes; needed for merged axes: `{"g": "groups"}`.
        of: the weight each bias belongs to, where there are several: `{"b2": "w2"}`; else such a bias has no fans.
        default: what `"default"` gives a field: the name of an initializer or a pair of name and arguments.
        positivity: the map by which the layer itself makes a field positive: `{"w": "softplus"}`. The effective weight
            then has the scheme's law, and its inverse image is what is stored.
        **fields: axis patterns by field name: `w="i o", b="o"`. A field inside a container is written
            `**{"params.w": "i o"}`.

    Raises:
        AxesError: a pattern is malformed.
        InitaxError: there is no field, or a role, size or bias names something that does not exist.

    Examples:
        >>> import equinox as eqx, jax, jax.numpy as jnp, initax as ix
        >>> class Mixer(eqx.Module):
        ...     w: jax.Array
        ...     b: jax.Array
        >>> _ = ix.register_layer(Mixer, kind="Linear", w="i o", b="o")
        >>> [p.fan_in for p in ix.layers(Mixer(jnp.ones((8, 3)), jnp.ones(3)))[0].parameters]
        [8, 8]
    """
    if not isinstance(cls, type):
        raise InitaxError(
            message(f"register_layer takes a class, not {cls!r}.", "ix.register_layer(MyLayer, kind=..., w=...)")
        )
    if not fields:
        raise InitaxError(
            message(
                f"register_layer({cls.__name__}) declares no array.",
                f'ix.register_layer({cls.__name__}, kind="{kind}", weight="o i", bias="o")',
            )
        )
    named = {"roles": roles or {}, "of": of or {}, "default": default or {}, "positivity": positivity or {}}
    for argument, mapping in named.items():
        for name in mapping:
            if name not in fields:
                raise InitaxError(
                    message(
                        f'register_layer({cls.__name__}): {argument} names the field "{name}", which is not declared.',
                        f"fields: {listing(fields)}",
                        did_you_mean(name, fields),
                    )
                )
    axis_names = {name: {axis for group in parse(pattern) for axis in group} for name, pattern in fields.items()}
    for axis in sizes or {}:
        if not any(axis in names for names in axis_names.values()):
            raise AxesError(
                message(
                    f'register_layer({cls.__name__}): sizes name the axis "{axis}", which no pattern has.',
                    "patterns: " + listing(f'{name}="{pattern}"' for name, pattern in fields.items()),
                )
            )
    given = dict(roles or {})
    role_of = {name: given.get(name) or _guess_role(name, axis_names[name], kind) for name in fields}
    for name, role in role_of.items():
        if role not in ROLES:
            raise InitaxError(
                message(
                    f'register_layer({cls.__name__}): "{role}" is no role (field "{name}").',
                    f"roles: {listing(ROLES)}",
                    did_you_mean(str(role), ROLES),
                )
            )
    weights = [name for name, role in role_of.items() if role in WEIGHT_ROLES]
    maps = positivity or {}
    declare(
        cls,
        Declaration(
            kind=kind,
            fields={
                name: Field(
                    pattern=pattern,
                    role=role_of[name],
                    sizes={axis: size for axis, size in (sizes or {}).items() if axis in axis_names[name]},
                    of=(of or {}).get(name) or (weights[0] if len(weights) == 1 and role_of[name] == "bias" else None),
                    default=(default or {}).get(name),
                    constraint=positive(maps[name]) if name in maps else None,
                )
                for name, pattern in fields.items()
            },
        ),
    )
    return cls


def _guess_role(name: str, axes: set[str], kind: str) -> Role:
    last = name.rpartition(".")[2].lower()
    if any(axis.startswith("i") for axis in axes):
        return "embedding" if kind == "Embedding" else "weight"
    if last in ("scale", "gamma") or (kind == "Norm" and last not in ("bias", "beta", "b")):
        return "scale"
    return "bias"


def why_not_drawable(shape: tuple[int, ...], dtype: Any) -> str | None:
    """Return why an array is never drawn whatever its role, or `None`."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return "a random key"
    if not jnp.issubdtype(dtype, np.inexact):
        return f"{np.dtype(dtype).name}: only floating and complex arrays are drawn"
    if 0 in shape:
        return f"empty: shape {shape} has no entries"
    return None


def placement(array: Any) -> jax.sharding.Sharding | None:
    """Return where an array must stay: its sharding, unless JAX merely put it on the default device."""
    if isinstance(array, jax.core.Tracer) or not getattr(array, "committed", True):
        return None
    sharding = getattr(array, "sharding", None)
    return sharding if isinstance(sharding, jax.sharding.Sharding) else None


def declared_parameters(
    module: Any, declaration: Declaration, arrays: Mapping[str, tuple[str, Any]], structure: Any = None
) -> tuple[Parameter, ...]:
    """Return the parameters of a module of a declared class.

    Args:
        module: the module, for the sizes it knows.
        declaration: its row in the table of layers.
        arrays: name within the layer → (path, array), everything the module itself owns.
        structure: what modules that read alike have in common; their parameters are worked out once.
    """
    if declaration.static and structure is not None:
        reading = _known_reading(module, declaration, arrays, structure)
    else:
        reading = _read(module, declaration, arrays)
    return tuple(_placed(each, *arrays[each.name]) for each in reading)


def _known_reading(
    module: Any, declaration: Declaration, arrays: Mapping[str, tuple[str, Any]], structure: Any
) -> tuple[Parameter, ...]:
    shapes = ((name, each.shape, each.dtype) for name, (_, each) in arrays.items())
    signature = (id(declaration), structure, *shapes)
    try:
        if signature not in _READINGS:
            _READINGS[signature] = _read(module, declaration, arrays)
        return _READINGS[signature]
    except (TypeError, ValueError):  # a static field that can't be hashed or compared, a list or an array say
        return _read(module, declaration, arrays)


_READINGS: dict[Any, tuple[Parameter, ...]] = {}
"""Parameters without their paths, by structure: a model has many layers and few that differ."""


def _placed(reading: Parameter, path: str, array: Any) -> Parameter:
    """A parameter at its path. Written out because `dataclasses.replace` takes longer than the rest of a plan."""
    return Parameter(
        path=path,
        name=reading.name,
        role=reading.role,
        shape=reading.shape,
        dtype=reading.dtype,
        axes=reading.axes,
        fan_in=reading.fan_in,
        fan_out=reading.fan_out,
        effective_fan_in=reading.effective_fan_in,
        effective_fan_out=reading.effective_fan_out,
        sharding=placement(array),
        constraint=reading.constraint,
        default=reading.default,
        gates=reading.gates,
        kept=reading.kept,
    )


def _read(module: Any, declaration: Declaration, arrays: Mapping[str, tuple[str, Any]]) -> tuple[Parameter, ...]:
    rows = declaration.fields
    fitted = {name: _fitted(module, rows[name], array) for name, (_, array) in arrays.items() if name in rows}
    stacks = {
        len(axes.batch_axis) - _own_batch(rows[name], module) for name, axes in fitted.items() if isinstance(axes, Axes)
    }
    found: list[Parameter] = []
    for name, (path, array) in arrays.items():
        row, axes = rows.get(name), fitted.get(name)
        known = axes if isinstance(axes, Axes) else None
        fan_in, fan_out, effective_in, effective_out = _fans(module, declaration, row, known, fitted)
        found.append(
            Parameter(
                path=path,
                name=name,
                role=row.role if row and known is not None else None,
                shape=tuple(array.shape),
                dtype=array.dtype,
                axes=known,
                fan_in=fan_in,
                fan_out=fan_out,
                effective_fan_in=effective_in,
                effective_fan_out=effective_out,
                constraint=row.constraint_of(module) if row else None,
                default=row.default_of(module) if row else None,
                gates=row.gates if row else (),
                kept=_why_kept(row, axes, array, len(stacks) > 1),
            )
        )
    return tuple(found)


def _why_kept(row: Field | None, axes: Axes | str | None, array: Any, uneven: bool) -> str | None:
    """Why an array of a declared layer can't be drawn, or `None`."""
    never = why_not_drawable(tuple(array.shape), array.dtype)
    if never:
        return never
    if row is None:
        return "undeclared"
    if isinstance(axes, str):
        return f"undeclared: {axes}"
    if row.role == "state":
        return "state"
    return "undeclared: the layer's arrays do not have the same stack axes" if uneven else None


def _fitted(module: Any, row: Field, array: Any) -> Axes | str:
    try:
        return fit(row.pattern_of(module), tuple(array.shape), row.sizes_of(module), row.receptive_of(module))
    except AxesError as error:
        return str(error).replace("\n", ";")


def _own_batch(row: Field, module: Any) -> int:
    names = [name for group in parse(row.pattern_of(module)) for name in group]
    return sum(name[0] not in "io." for name in names)


Fans = tuple[float | None, float | None, float | None, float | None]


def _fans(
    module: Any, declaration: Declaration, row: Field | None, axes: Axes | None, fitted: Mapping[str, Axes | str]
) -> Fans:
    if row is None or axes is None:
        return None, None, None, None
    if row.role in WEIGHT_ROLES:
        effective = row.effective(module, axes) if row.effective else (axes.fan_in, axes.fan_out)
        return axes.fan_in, axes.fan_out, *effective
    weight = declaration.fields.get(row.of or "")
    if weight is None:
        return None, None, None, None
    of = fitted.get(row.of or "")
    if not isinstance(of, Axes):
        of = _axes_by_size(module, weight)
    return _fans(module, declaration, weight, of, fitted)


def _axes_by_size(module: Any, row: Field) -> Axes | None:
    """The axes of a weight that is not there (tied elsewhere), from the sizes its module knows."""
    pattern, sizes = row.pattern_of(module), dict(row.sizes_of(module))
    own = own_shape(parse(pattern), sizes, row.receptive_of(module))
    known = tuple(size for size in own if size is not None)
    return resolve(pattern, known, sizes) if len(known) == len(own) else None


def with_axes(layer: Layer, patterns: Mapping[str, str], sizes: Mapping[str, int], where: str) -> Layer:
    """Return the layer with the axes of some parameters restated.

    Args:
        layer: the layer.
        patterns: name within the layer → pattern.
        sizes: sizes of named axes, each used where a pattern has it.
        where: the rule, for errors.

    Raises:
        AxesError: a name is not in the layer, or a pattern does not fit the array.
    """
    names = [parameter.name for parameter in layer.parameters]
    for name in patterns:
        if name not in names:
            raise AxesError(
                message(
                    f'{where}: axes are given for "{name}", which layer "{layer.path}" ({layer.cls.__name__}) lacks.',
                    f"it has: {listing(names)}",
                    did_you_mean(name, names),
                )
            )
    axes = {axis for pattern in patterns.values() for group in parse(pattern) for axis in group} - {"..."}
    for axis in sizes:
        if axis not in axes:
            raise AxesError(
                message(
                    f'{where}: sizes name the axis "{axis}", which no pattern has.',
                    f"axes: {listing(sorted(axes))}",
                    did_you_mean(axis, axes),
                )
            )
    restated = {name: _restated(layer[name], pattern, sizes, layer, where) for name, pattern in patterns.items()}
    weight = next((each for each in restated.values() if each.role in WEIGHT_ROLES), None)
    return replace(
        layer,
        parameters=tuple(
            _following(restated.get(old.name, old), weight, where) if weight else restated.get(old.name, old)
            for old in layer.parameters
        ),
    )


def _following(bias: Parameter, weight: Parameter, where: str) -> Parameter:
    """The parameter, with the fans of the restated weight if it is its bias."""
    if bias.role != "bias" or weight.axes is None:
        return bias
    outputs = math.prod(weight.axes.split[axis] for axis in weight.axes.out_axis)
    if math.prod(bias.shape) not in (outputs, outputs * weight.axes.batch_size):
        raise AxesError(
            message(
                f"{where}: {bias.path} of shape {bias.shape} does not fit {weight.path} "
                f'read as "{weight.axes.pattern}".',
                f"{weight.path} of shape {weight.shape} would have {outputs} outputs",
            )
        )
    return replace(
        bias,
        fan_in=weight.fan_in,
        fan_out=weight.fan_out,
        effective_fan_in=weight.effective_fan_in,
        effective_fan_out=weight.effective_fan_out,
        kept=_unless_undeclared(bias.kept),
    )


def _unless_undeclared(kept: str | None) -> str | None:
    return None if kept and kept.startswith("undeclared") else kept


def _restated(old: Parameter, pattern: str, sizes: Mapping[str, int], layer: Layer, where: str) -> Parameter:
    names = {name for group in parse(pattern) for name in group}
    try:
        axes = resolve(pattern, old.shape, {name: size for name, size in sizes.items() if name in names})
    except AxesError as error:
        raise AxesError(f"{where}: {old.path or '(model)'}: {error}") from None
    role = old.role or _guess_role(old.name, names, layer.kind)
    weighs = role in WEIGHT_ROLES
    return replace(
        old,
        role=role,
        axes=axes,
        fan_in=axes.fan_in if weighs else old.fan_in,
        fan_out=axes.fan_out if weighs else old.fan_out,
        effective_fan_in=axes.fan_in if weighs else old.effective_fan_in,
        effective_fan_out=axes.fan_out if weighs else old.effective_fan_out,
        kept=_unless_undeclared(old.kept),
    )
