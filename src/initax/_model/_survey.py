"""`Survey`: the layers of a model, where their arrays are, and how they are written back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from initax._errors import ModelError
from initax._math._sharding import varying_like
from initax._model._parameter import Layer, Parameter, leading_cells
from initax._model._residual import ResidualStream
from initax._text import path_text, table

Stream = Callable[[jax.Array], Any]
"""Function from the user's key to the start of a stream of random numbers."""


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


@dataclass(slots=True)
class Survey:
    """What initax sees of a model; `print` it for a table.

    Attributes:
        layers: the layers, in traversal order.
        places: path of each drawable parameter → leaf indices that hold its array.
        aliases: path at which a layer or array is reached again → path of its owner.
        leaves: the leaves of the model, as JAX flattens it.
        rebuild: function from new leaves to a model.
        notes: what could not be told, for the plan.
        call: function of a model and inputs, where a model of this kind can't be called itself.
        streams: path of random state that was never made → function from the user's key to it.
        hint: where names are all that was read, what to pass for the rest.
        model: the model's class.
        inputs: what the model is called on; `None` where nobody said.
        forward: how it is called, where a plain call is not it.
        traced: its forward pass, where there are inputs.
    """

    layers: tuple[Layer, ...]
    places: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, str]
    leaves: list[Any]
    rebuild: Callable[[list[Any]], Any]
    notes: tuple[str, ...] = ()
    call: Callable[..., Any] | None = None
    streams: Mapping[str, Stream] = field(default_factory=dict)
    hint: str = ""
    model: type = object
    inputs: Any = None
    forward: Callable[..., Any] | None = None
    traced: Traced | None = None

    def __repr__(self) -> str:
        """Return the survey in one line."""
        return f"Survey({self.model.__name__}: {len(self.layers)} layers, {len(arrays_of(self))} arrays)"

    def __str__(self) -> str:
        """Return the survey as a table of arrays, with how the axes of each are known, and notes."""
        return _printed(self)

    @property
    def residual_streams(self) -> tuple[ResidualStream, ...]:
        """The residual streams of the forward pass; none where it is not known."""
        known = (array.residual for _, array in arrays_of(self) if array.residual is not None)
        return next((residual.streams for residual in known), ())

    def write(self, arrays: Mapping[str, Any]) -> Any:
        """Return the model with the arrays at these paths replaced; every other leaf is the same object."""
        leaves = list(self.leaves)
        for path, array in arrays.items():
            converted: dict[Any, np.ndarray] = {}
            for index in self.places[path]:
                old = self.leaves[index]
                if isinstance(old, np.ndarray) and not isinstance(array, jax.core.Tracer):
                    # One array for all places that it is at, which can be written to.
                    leaves[index] = converted.setdefault(old.dtype, np.array(array, old.dtype))
                else:
                    leaves[index] = varying_like(array, old)
        return self.rebuild(leaves)

    def shapes_without(self, drawn: Iterable[str]) -> frozenset[str]:
        """Return the paths that hold a shape in place of an array after these paths are drawn, tied ones included."""
        new = {index for path in drawn for index in self.places[path]}
        return frozenset(
            path
            for path, places in self.places.items()
            if places[0] not in new and isinstance(self.leaves[places[0]], jax.ShapeDtypeStruct | tuple)
        )

    def at(self, path: str) -> Any:
        """Return the array at a path."""
        return self.leaves[self.places[path][0]]

    def replaced(self, drawn: Iterable[str]) -> dict[str, tuple[jax.Array, ...]]:
        """Return the old arrays that nothing needs once new ones are drawn, each by the last path it is at.

        Args:
            drawn: paths that get a new array, in the order in which they get it.
        """
        paths = list(drawn)
        new = {index for path in paths for index in self.places[path]}
        stays = {id(leaf) for index, leaf in enumerate(self.leaves) if index not in new}
        last: dict[int, tuple[str, jax.Array]] = {}
        for path in paths:
            for index in self.places[path]:
                leaf = self.leaves[index]
                if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) and id(leaf) not in stays:
                    last[id(leaf)] = (path, leaf)
        replaced: dict[str, tuple[jax.Array, ...]] = {}
        for path, leaf in last.values():
            replaced[path] = (*replaced.get(path, ()), leaf)
        return replaced

    def refuse_deleted(self, drawn: Iterable[str]) -> None:
        """Raise where an array that would stay is gone: donated to a jitted function, or deleted.

        Args:
            drawn: paths that get a new array, which need no old one.

        Raises:
            ModelError: there is such an array.
        """
        new = {index for path in drawn for index in self.places[path]}
        for path, places in self.places.items():
            leaf = self.leaves[places[0]]
            if places[0] not in new and isinstance(leaf, jax.Array) and _is_gone(leaf):
                raise ModelError(
                    f'the array at "{path_text(path)}" {leaf.shape} is deleted, and no rule draws a new one.',
                    "it was donated to a jitted function or deleted; keep what that function returned instead",
                )


def _is_gone(array: jax.Array) -> bool:
    return not isinstance(array, jax.core.Tracer) and bool(array.is_deleted())


def arrays_of(survey: Survey) -> list[tuple[Layer, Parameter]]:
    """Return the arrays of a model with their layers."""
    return [(layer, array) for layer in survey.layers for array in layer.parameters]


def parameters_by_path(survey: Survey) -> dict[str, Parameter]:
    """Return path of each array → the array."""
    return {array.path: array for _, array in arrays_of(survey)}


COLUMNS = ("array", "kind", "role", "shape", "axes", "fan_in", "fan_out", "residual", "known")


def _printed(survey: Survey) -> str:
    rows = [
        (
            *leading_cells(array, layer.kind),
            fan_text(array.fan_in, array.effective_fan_in),
            fan_text(array.fan_out, array.effective_fan_out),
            str(array.residual or ""),
            str(array.evidence) if array.excluded is None and array.evidence else str(array.excluded or ""),
        )
        for layer, array in arrays_of(survey)
    ]
    lines = [f"tied: {path} is {owner}" for path, owner in survey.aliases.items()]
    if survey.traced is not None:
        inputs = survey.inputs if isinstance(survey.inputs, tuple) else (survey.inputs,)
        texts = ", ".join(str(jax.tree.map(shape_text, argument)) for argument in inputs)
        lines.append(f"called: {'model' if survey.forward is None else 'forward(model, ...)'} on {texts or 'nothing'}")
    lines += [f"note: {note}" for note in survey.notes]
    title = f"{survey.model.__name__}: {len(rows)} arrays"
    shown = table(title, COLUMNS, rows, right=("fan_in", "fan_out"), optional=("residual",))
    return "\n\n".join(filter(None, (shown, "\n".join(lines))))


def shape_text(leaf: Any) -> str:
    """Return an array as its type and shape, `float32[8,3]`, and anything else as it is printed."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return f"{leaf.dtype.name}[{','.join(map(str, leaf.shape))}]"
    return repr(leaf)


def fan_text(nominal: float | None, effective: float | None) -> str:
    """Return a fan as text, with the effective one behind it where that differs."""
    if nominal is None:
        return ""
    if effective is None:
        return f"{nominal:g} (≈?)"
    return f"{nominal:g}" if effective == nominal else f"{nominal:g} (≈{effective:g})"
