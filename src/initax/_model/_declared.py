"""The parameters of a module of a declared class: its arrays, read by its row of the table of layers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from initax._errors import AxesError
from initax._math._axes import Axes, fit, other_placements, own_shape, parse, resolve
from initax._math._sharding import placement
from initax._model._parameter import (
    WEIGHT_ROLES,
    Declaration,
    Evidence,
    Fans,
    Field,
    Parameter,
    moved,
    why_not_drawable,
)
from initax._model._reason import Reason, Why, state, undeclared


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
    both = zip(reading, arrays.values(), strict=True)
    return tuple([moved(parameter, path, placement(array)) for parameter, (path, array) in both])


def _read(
    module: Any,
    declaration: Declaration,
    arrays: Mapping[str, tuple[str, Any]],
    stacks_at: Mapping[str, tuple[int, ...]],
) -> tuple[Parameter, ...]:
    rows = declaration.fields
    fitted: dict[str, Axes | str] = {}
    stacks: set[int] = set()
    for name, (_, array) in arrays.items():
        if name in rows:
            pattern = rows[name].pattern_of(module)
            axes = fitted[name] = _fitted(module, rows[name], pattern, array, stacks_at.get(name))
            if isinstance(axes, Axes):
                stacks.add(len(axes.batch_axis) - _own_batch(pattern))
    elsewhere = {
        name: _placements(module, rows[name], arrays[name][1])
        for name, axes in (fitted if any(stacks) else {}).items()
        if isinstance(axes, Axes) and name not in stacks_at
    }
    shared = _shared_placements(elsewhere)
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
                placements=tuple([places for places in elsewhere.get(name, ()) if places[0] in shared]),
                constraint=row.constraint_of(module) if row else None,
                default=row.default_of(module) if row else None,
                gates=row.gates if row else (),
                reserved=row.reserved if row else None,
                excluded=_why_excluded(row, known_axes, array, len(stacks) > 1),
            )
        )
    return tuple(parameters)


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


def _fitted(module: Any, row: Field, pattern: str, array: Any, stacks: tuple[int, ...] | None) -> Axes | str:
    try:
        return fit(pattern, tuple(array.shape), row.sizes_of(module), row.receptive_of(module), stacks)
    except AxesError as error:
        return str(error).replace("\n", ";")


Placements = tuple[tuple[tuple[int, ...], Axes], ...]


def _placements(module: Any, row: Field, array: Any) -> Placements:
    """Return where else the stack axes of an array may stand, by its sizes."""
    if row.role == "state":
        return ()
    return other_placements(row.pattern_of(module), tuple(array.shape), row.sizes_of(module), row.receptive_of(module))


def _shared_placements(elsewhere: Mapping[str, Placements]) -> set[tuple[int, ...]]:
    """Return the places at which the stack axes of every array of a layer may stand."""
    by_array = [{axes for axes, _ in placements} for placements in elsewhere.values()]
    return set.intersection(*by_array) if by_array else set()


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
    own = own_shape(parse(pattern), sizes, row.receptive_of(module))
    known = tuple(size for size in own if size is not None)
    return resolve(pattern, known, sizes) if len(known) == len(own) else None
