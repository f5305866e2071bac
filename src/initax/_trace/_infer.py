"""Layers whose axes nobody declared, read off a trace of the forward pass; and declarations held against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import InitaxError, ModelError, listing, message, warn
from initax._math._axes import Axes, resolve
from initax._model._parameter import UNDECLARED, WEIGHT_ROLES, Layer, Parameter, Role, declaration_of, why_not_drawable
from initax._model._survey import Survey
from initax._trace import readings_of
from initax._trace._reading import Reading

CONTAINERS = (Mapping, list, tuple, jax.Array, np.ndarray, jax.ShapeDtypeStruct)
"""Classes nobody declares: initax guesses the axes of what they hold, and a trace knows better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A model's forward pass as a jaxpr, and which of its arguments are which arrays.

    Attributes:
        closed: the closed jaxpr; its arguments are the arrays, then constants, then inputs.
        paths: path of each array that may hold weights, in the order of the arguments.
        constants: how many arguments behind them are arrays that can't be weights, or random keys.
        structure: the structure of what the forward pass returns, arrays only.
    """

    closed: Any
    paths: tuple[str, ...]
    constants: int
    structure: Any

    def readings(self) -> dict[str, Reading]:
        """Return what the forward pass says of each array."""
        return readings_of(self.closed, self.paths, self.constants)


def trace(survey: Survey, inputs: Any, forward: Callable[..., Any] | None) -> Traced:
    """Return the forward pass of a surveyed model on inputs; nothing is computed and no array is made.

    Args:
        survey: the model.
        inputs: a tuple of what the model is called on, arrays or `jax.ShapeDtypeStruct`s; one array alone will do.
        forward: function of the model and the inputs; a plain call if left out.

    Raises:
        ModelError: the model can't be called, or the call fails.
    """
    traced, _ = trace_with_values(survey, inputs, forward)
    return traced


def trace_with_values(survey: Survey, inputs: Any, forward: Callable[..., Any] | None) -> tuple[Traced, list[Any]]:
    """Return the forward pass, and what its arguments are: arrays, constants and inputs."""
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    call = forward or _called
    if forward is None and not callable(survey.rebuild(list(survey.leaves))):
        raise ModelError(
            message(
                "inputs= is given, but the model can't be called on them: it is no function.",
                survey.untold,
                f"{'or ' if survey.untold else ''}say how: forward=lambda model, x: ...",
            )
        )
    arrays = {path: _array(survey.leaves[places[0]]) for path, places in survey.places.items()}
    weights = [path for path, array in arrays.items() if jnp.issubdtype(array.dtype, np.inexact)]
    others = [path for path in arrays if path not in set(weights)]
    given, structure = jax.tree_util.tree_flatten(arguments)
    moving = [at for at, each in enumerate(given) if isinstance(each, jax.Array | np.ndarray | jax.ShapeDtypeStruct)]
    keys = [at for at in moving if jnp.issubdtype(given[at].dtype, jax.dtypes.prng_key)]
    moving = [at for at in moving if at not in keys]

    def run(weight: list[Any], constant: list[Any], moved: list[Any]) -> Any:
        leaves = list(survey.leaves)
        count = len(others)
        for path, value in zip([*weights, *others], [*weight, *constant[:count]], strict=True):
            for place in survey.places[path]:
                leaves[place] = value
        values = list(given)
        for at, value in zip([*keys, *moving], [*constant[count:], *moved], strict=True):
            values[at] = value
        result = call(survey.rebuild(leaves), *jax.tree_util.tree_unflatten(structure, values))
        return jax.tree_util.tree_map(lambda each: each if isinstance(each, jax.Array) else None, result)

    values = (
        [arrays[path] for path in weights],
        [*(arrays[path] for path in others), *(given[at] for at in keys)],
        [given[at] for at in moving],
    )
    try:
        closed, shape = jax.make_jaxpr(run, return_shape=True)(*jax.tree_util.tree_map(_abstract, values))
    except InitaxError:
        raise
    except Exception as error:
        raise ModelError(
            message(
                f"the forward pass fails on these inputs: {type(error).__name__}: {str(error).splitlines()[0]}"
                if str(error)
                else f"the forward pass fails on these inputs: {type(error).__name__}",
                f"inputs: {listing(map(_shown_whole, arguments))}",
                _how_to_call(survey, inputs) if forward is None else "",
            )
        ) from error
    structure = jax.tree_util.tree_structure(shape)
    traced = Traced(closed=closed, paths=tuple(weights), constants=len(values[1]), structure=structure)
    return traced, [*values[0], *values[1], *values[2]]


def _called(model: Any, *inputs: Any) -> Any:
    return model(*inputs)


def _how_to_call(survey: Survey, inputs: Any) -> str:
    """The line that says how the model is called; other ways of calling it are tried out, abstractly."""
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    if isinstance(inputs, list) and _is_traced(survey, tuple(inputs), _called):
        return "a list is one argument, and several are a tuple: inputs=" + ("x" if len(inputs) == 1 else "(x, y)")
    if _is_traced(survey, arguments, lambda model, *given: jax.vmap(model)(*given)):
        x = "x" if len(arguments) == 1 else "*x"
        return f"for a whole batch write forward=lambda model, {x}: jax.vmap(model)({x})"
    return "say how the model is called: forward=lambda model, x: ..."


def _is_traced(survey: Survey, inputs: tuple[Any, ...], forward: Callable[..., Any]) -> bool:
    try:
        trace_with_values(survey, inputs, forward)
    except Exception:
        return False
    return True


def _array(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf, jnp.result_type(float)) if type(leaf) is tuple else leaf


def _abstract(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _shown(leaf: Any) -> str:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return f"{leaf.dtype.name}[{','.join(map(str, leaf.shape))}]"
    return repr(leaf)


@dataclass(frozen=True, slots=True)
class _Word:
    """A text that stands for itself in what holds it."""

    text: str

    def __repr__(self) -> str:
        return self.text


def _shown_whole(argument: Any) -> str:
    """An argument with its lists and mappings: a list of one array is not that array."""
    shown = repr(jax.tree_util.tree_map(lambda leaf: _Word(_shown(leaf)), argument))
    return shown if len(shown) <= 200 else f"{shown[:200]}…"


def traced_survey(
    survey: Survey, inputs: Any, forward: Callable[..., Any] | None
) -> tuple[Survey, tuple[str, ...], Traced | None]:
    """Return the survey as the forward pass completes it, notes, and the trace; as it is where there are no inputs.

    Args:
        survey: the model.
        inputs: what it is called on.
        forward: how.

    Raises:
        ModelError: the model can't be called, the call fails, or `forward` is given without inputs.
    """
    if inputs is None:
        if forward is not None:
            raise ModelError(
                message(
                    "forward= says how the model is called, but not on what.",
                    "give inputs=, arrays or jax.ShapeDtypeStruct((8, 3), jnp.float32); () where it takes none",
                )
            )
        return survey, (), None
    traced = trace(survey, inputs, forward)
    read, notes = with_readings(survey, traced.readings())
    return read, notes, traced


def with_readings(survey: Survey, found: Mapping[str, Reading]) -> tuple[Survey, tuple[str, ...]]:
    """Return the survey with the axes of undeclared arrays read off the trace, and what disagrees with declarations.

    Args:
        survey: the model.
        found: path → reading.
    """
    notes: list[str] = []
    disagree: list[str] = []
    split: list[str] = []
    paths = list(found)
    layers = []
    for layer in survey.layers:
        if _is_open(layer):
            layers.append(_read_layer(layer, found, paths, notes))
            continue
        layers.append(layer)
        for parameter in layer.parameters:
            reading = found.get(parameter.path)
            if reading is not None and reading.pattern is not None:
                _held_against(parameter, reading, disagree, split)
    if disagree:
        text = message(
            f"the forward pass disagrees with the declared axes of {len(disagree)} of the arrays; declarations stand:",
            *disagree[:6],
            f"… {len(disagree) - 6} more" if len(disagree) > 6 else "",
        )
        warn(text)
        notes.append(text)
    if split:
        notes.append(
            message(
                "outputs that the forward pass splits into equal parts are declared as one axis; declarations stand:",
                *split[:6],
                f"… {len(split) - 6} more" if len(split) > 6 else "",
                'to draw each part on its own restate the axes, ix.Scheme(..., axes="...", sizes={...})',
            )
        )
    return replace(survey, layers=tuple(layers)), tuple(notes)


def _is_open(layer: Layer) -> bool:
    """Whether nobody declared the axes of a layer: its class is not known, or it is a plain container."""
    if layer.kind == UNDECLARED:
        return True
    return declaration_of(layer.cls) is None and issubclass(layer.cls, CONTAINERS) and layer.kind != "State"


def _read_layer(layer: Layer, found: Mapping[str, Reading], paths: Sequence[str], notes: list[str]) -> Layer:
    own: dict[str, Parameter] = {}
    for parameter in layer.parameters:
        reading = found.get(parameter.path)
        if reading is None or not _is_readable(parameter):
            own[parameter.path] = parameter
            continue
        own[parameter.path] = read_parameter(parameter, reading)
        notes += [f"{parameter.path or '(model)'}: {note}" for note in reading.notes]
    for path, parameter in own.items():
        if parameter.role == "bias" and path in found and found[path].pattern is not None:
            weight = _weight_of(found[path], own, paths)
            if weight is not None:
                own[path] = _with_fans_of(parameter, weight)
    kinds = [found[path].kind for path, each in own.items() if path in found and each.role in WEIGHT_ROLES]
    scales = [path for path, each in own.items() if path in found and each.role == "scale"]
    kind = next(iter(kinds), "Norm" if scales else UNDECLARED)
    return replace(layer, kind=kind, parameters=tuple(own.values()))


def _is_readable(parameter: Parameter) -> bool:
    if why_not_drawable(parameter.shape, parameter.dtype) is not None:
        return False
    return parameter.kept is None or parameter.kept.startswith("undeclared")


def read_parameter(parameter: Parameter, reading: Reading) -> Parameter:
    """Return the parameter with the axes, role and fans of a reading, or kept for the reason why there is none."""
    if reading.pattern is None:
        return replace(
            parameter,
            role=None,
            axes=None,
            fan_in=None,
            fan_out=None,
            effective_fan_in=None,
            effective_fan_out=None,
            kept=f"undeclared: {reading.reason}",
        )
    axes = resolve(reading.pattern, parameter.shape, reading.sizes)
    role = cast("Role", reading.role)
    effective: tuple[float | None, float | None] = (axes.fan_in / reading.strides[0], axes.fan_out / reading.strides[1])
    if role == "embedding":
        effective = (1.0, float(axes.fan_in))
    if parameter.constraint is not None:
        effective = parameter.constraint.left_of(effective[0]), parameter.constraint.left_of(effective[1])
    weighs = role in WEIGHT_ROLES
    return replace(
        parameter,
        role=role,
        axes=axes,
        fan_in=axes.fan_in if weighs else None,
        fan_out=axes.fan_out if weighs else None,
        effective_fan_in=effective[0] if weighs else None,
        effective_fan_out=effective[1] if weighs else None,
        kept=None,
    )


def _weight_of(reading: Reading, own: Mapping[str, Parameter], paths: Sequence[str]) -> Parameter | None:
    """The weight a bias goes with: of those whose outputs it is added to, the last that its layer owns."""
    for place in reversed(reading.partners):
        weight = own.get(paths[place])
        if weight is not None and weight.role in WEIGHT_ROLES:
            return weight
    return None


def _with_fans_of(bias: Parameter, weight: Parameter) -> Parameter:
    return replace(
        bias,
        fan_in=weight.fan_in,
        fan_out=weight.fan_out,
        effective_fan_in=weight.effective_fan_in,
        effective_fan_out=weight.effective_fan_out,
    )


def _held_against(parameter: Parameter, reading: Reading, disagree: list[str], split: list[str]) -> None:
    """Note where a declaration and the forward pass differ."""
    if parameter.axes is None or parameter.kept or reading.pattern is None:
        return
    traced = resolve(reading.pattern, parameter.shape, reading.sizes)
    verdict = compare(parameter, reading)
    shown = f'{parameter.path or "(model)"} {parameter.shape}: declared "{parameter.axes.pattern}"'
    seen = f" at {reading.where[0]}" if reading.where else ""
    if verdict == "disagree":
        disagree.append(
            f'{shown} ({parameter.role}, fan_in {parameter.fan_in}), used as "{reading.pattern}" '
            f"({reading.role}, fan_in {traced.fan_in}){seen}"
        )
    elif verdict == "split":
        split.append(
            f'{shown} (fan_out {parameter.fan_out}), used as "{reading.pattern}" (fan_out {traced.fan_out}){seen}'
        )


def compare(parameter: Parameter, reading: Reading) -> str:
    """Return whether a declared parameter and a reading `agree`, `disagree`, or the reading finds a finer `split`.

    Inputs must be the same entries of the same axes. Members of an ensemble that all see the same input can't be told
    from outputs, so these may differ; `split` says that the reading is the finer one.
    """
    if parameter.axes is None or reading.pattern is None:
        return "agree"
    if parameter.role == "embedding" and not parameter.axes.in_axis and reading.role == "bias":
        return "agree"  # learned positions are added to a signal, and no bias
    if (parameter.role in WEIGHT_ROLES) != (reading.role in WEIGHT_ROLES):
        return "disagree"
    if parameter.role not in WEIGHT_ROLES:
        return "agree" if parameter.role == reading.role else "disagree"
    traced = resolve(reading.pattern, parameter.shape, reading.sizes)
    if _cells(parameter.axes, parameter.axes.in_axis) != _cells(traced, traced.in_axis):
        return "disagree"
    if _cells(parameter.axes, parameter.axes.receptive_axis) != _cells(traced, traced.receptive_axis):
        return "disagree"
    return "split" if traced.batch_size > parameter.axes.batch_size else "agree"


def _cells(axes: Axes, which: Iterable[int]) -> set[tuple[int, int]]:
    """The stored axes, and the digits along each, that some axes of the split shape are: one pair per prime digit."""
    found: set[tuple[int, int]] = set()
    chosen = set(which)
    stored, left, inner = len(axes.shape) - 1, axes.shape[-1] if axes.shape else 1, 1
    for at in reversed(range(len(axes.split))):
        while left == 1 and axes.split[at] > 1:
            stored -= 1
            left, inner = axes.shape[stored], 1
        size = axes.split[at]
        if at in chosen:
            found |= {(stored, inner * digit) for digit in _chain(size)}
        left //= max(size, 1)
        inner *= size
    return found


def _chain(size: int) -> list[int]:
    """The places of the prime digits of a number up to `size`: 12 → 1, 2, 4."""
    places, place, prime = [], 1, 2
    while size > 1:
        if size % prime:
            prime += 1
            continue
        places.append(place)
        place, size = place * prime, size // prime
    return places
