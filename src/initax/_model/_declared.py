"""The table of declared classes of layers, and the parameters of a module, read by its row of the table."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from initax._errors import AxesError
from initax._math._axes import Axes, fit, names_in, own_shape, parse, placements_of, resolve
from initax._math._sharding import placement
from initax._model._constraint import Constraint
from initax._model._parameter import (
    UNDECLARED,
    WEIGHT_ROLES,
    DefaultSpec,
    Evidence,
    Fans,
    Parameter,
    Placement,
    Placements,
    Role,
    moved,
)
from initax._model._reason import Reason, Why, state, undeclared, why_not_drawable

LSTM_GATES = ("input", "forget", "cell", "output")
GRU_GATES = ("reset", "update", "new")
"""Gates in the order in which Equinox and Flax store them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """How one array field of a layer class is to be read: a row's cell in the table of layers.

    Attributes:
        pattern: the axes of one layer, or a function from the module to them.
        role: what the array is for.
        sizes: sizes of named axes, of which those count that the pattern names: numbers or attribute names, or a
            function from the module to them.
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
        stated = self.sizes(module) if callable(self.sizes) else self.sizes
        names = names_in(self.pattern_of(module)) if stated else ()
        sizes = {name: getattr(module, size) if isinstance(size, str) else size for name, size in stated.items()}
        return tuple(sorted(item for item in sizes.items() if item[0] in names))

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


NOBODYS = Declaration(kind=UNDECLARED, fields={}, static=True)
"""The row of a class that nobody declared."""

_DECLARED: dict[type, Declaration] = {}


def declare(cls: type, declaration: Declaration) -> None:
    """Add a row to the table of layers."""
    _DECLARED[cls] = declaration


def declaration_of(cls: type, *, inherited: bool = True) -> Declaration | None:
    """Return the row of a class, or else of the nearest of its bases unless only its own is asked for."""
    declaration = _DECLARED.get(cls)
    if declaration is not None or not inherited:
        return declaration
    return next((_DECLARED[base] for base in cls.__mro__ if base in _DECLARED), None)


def declared_parameters(
    module: Any,
    declaration: Declaration,
    arrays: Mapping[str, tuple[str, Any]],
    stacks: Mapping[str, tuple[int, ...]],
    structure: Any = None,
    readings: dict[Any, tuple[Parameter, ...]] | None = None,
) -> tuple[Parameter, ...]:
    """Return the parameters of a module of a declared class.

    Args:
        module: the module, for the sizes it knows.
        declaration: its row in the table of layers.
        arrays: name within the layer → (path, array), everything the module itself owns.
        stacks: name within the layer → where its stack axes stand, if that is known.
        structure: class and static fields of the module, where it has such that tell all that a static row asks.
        readings: structure and shapes → parameters of a module read before, which new readings are added to.
    """
    if structure is None or readings is None or stacks or not declaration.static:
        reading = _read(module, declaration, arrays, stacks)
    else:
        signature = (structure, *[(name, array.shape, array.dtype) for name, (_, array) in arrays.items()])
        try:
            if signature not in readings:
                readings[signature] = _read(module, declaration, arrays, {})
            reading = readings[signature]
        except (TypeError, ValueError):  # a static field that can't be hashed or compared, e.g. a list or an array
            reading = _read(module, declaration, arrays, {})
    pairs = zip(reading, arrays.values(), strict=True)
    return tuple([moved(parameter, path, placement(array)) for parameter, (path, array) in pairs])


def _read(
    module: Any,
    declaration: Declaration,
    arrays: Mapping[str, tuple[str, Any]],
    stacks_at: Mapping[str, tuple[int, ...]],
) -> tuple[Parameter, ...]:
    rows = declaration.fields
    stated: dict[str, Any] = {}
    fitted: dict[str, Axes | str] = {}
    stacks: set[int] = set()
    for name, (_, array) in arrays.items():
        if name in rows:
            cell, shape = rows[name], tuple(array.shape)
            pattern = cell.pattern_of(module)
            try:
                stated[name] = (pattern, shape, cell.sizes_of(module), cell.receptive_of(module))
                axes = fitted[name] = fit(*stated[name], stacks_at.get(name))
                stacks.add(len(axes.batch_axis) - _own_batch(pattern))
            except AxesError as error:
                fitted[name] = str(error).replace("\n", ";")
    placements = _alike(
        {
            name: (stated[name][1], placements_of(*stated[name]))
            for name, axes in (fitted if any(stacks) else {}).items()
            if isinstance(axes, Axes) and name not in stacks_at and rows[name].role != "state"
        }
    )
    fitted |= {name: found[0][1] for name, found in placements.items() if found}
    parameters: list[Parameter] = []
    for name, (path, array) in arrays.items():
        row, known_axes = rows.get(name), fitted.get(name)
        known = known_axes if isinstance(known_axes, Axes) else None
        parameters.append(
            Parameter(
                path=path,
                name=name,
                role=row.role if row and known is not None else None,
                shape=tuple(array.shape),
                dtype=array.dtype,
                axes=known,
                fans=_fans(module, declaration, row, known, fitted),
                evidence=Evidence.DECLARED if known is not None else None,
                placements=placements.get(name, ())[1:],
                constraint=row.constraint_of(module) if row else None,
                default=row.default_of(module) if row else None,
                gates=row.gates if row else (),
                reserved=row.reserved if row else None,
                excluded=_why_excluded(row, known_axes, array, len(stacks) > 1),
            )
        )
    return tuple(parameters)


def _alike(arrays: Mapping[str, tuple[tuple[int, ...], Mapping[Placement, Axes]]]) -> dict[str, Placements]:
    """Return the places of stack axes at which all arrays of a layer may have theirs, and the axes they give each.

    A transform puts them at one place in every array, counted from the first axis or from behind: a stack along -1 is
    axis 2 of the weights and axis 1 of the biases.

    Args:
        arrays: name of an array → its shape, and the indices of axes that may be its stack axes, with the axes.
    """
    of_array = {
        name: {
            place: axes
            for indices, axes in found.items()
            for place in itertools.product(*((index, index - len(shape)) for index in indices))
        }
        for name, (shape, found) in arrays.items()
    }
    shared: dict[tuple[Axes, ...], Placement] = {}
    for place in sorted(set.intersection(*map(set, of_array.values())), key=_from_the_front) if of_array else ():
        shared.setdefault(tuple(found[place] for found in of_array.values()), place)
    return {name: tuple((place, found[place]) for place in shared.values()) for name, found in of_array.items()}


def _from_the_front(place: Placement) -> tuple[bool, Placement]:
    return any(index < 0 for index in place), place


def _why_excluded(row: Field | None, axes: Axes | str | None, array: Any, uneven: bool) -> Reason | None:
    """Why an array of a declared layer can't be drawn, or `None`."""
    never = why_not_drawable(tuple(array.shape), array.dtype)
    if never:
        return never
    if row is None:
        return undeclared()
    if isinstance(axes, str):
        return undeclared(axes, Why.MISFIT)
    if row.role == "state":
        return state()
    return undeclared("the layer's arrays do not have the same stack axes", Why.MISFIT) if uneven else None


@functools.lru_cache(maxsize=1024)
def _own_batch(pattern: str) -> int:
    return sum(name[0] not in "io." for group in parse(pattern) for name in group)


def _fans(
    module: Any, declaration: Declaration, row: Field | None, axes: Axes | None, fitted: Mapping[str, Axes | str]
) -> Fans | None:
    if row is None or axes is None:
        return None
    if row.role in WEIGHT_ROLES:
        nominal = row.nominal(module, axes) if row.nominal else (axes.fan_in, axes.fan_out)
        return Fans(nominal, row.effective(module, axes) if row.effective else nominal)
    weight = declaration.fields.get(row.of or "")
    if weight is None:
        return None
    of = fitted.get(row.of or "")
    if not isinstance(of, Axes):
        of = _axes_by_size(module, weight)
    return _fans(module, declaration, weight, of, fitted)


def _axes_by_size(module: Any, row: Field) -> Axes | None:
    """The axes of a weight that is not there (tied elsewhere), from the sizes its module knows."""
    pattern, sizes = row.pattern_of(module), dict(row.sizes_of(module))
    layer_shape = own_shape(parse(pattern), sizes, row.receptive_of(module))
    known = tuple(size for size in layer_shape if size is not None)
    return resolve(pattern, known, sizes) if len(known) == len(layer_shape) else None
