"""What an input-convex network is made of, and its first arrays: no framework, only sizes, names and the scheme."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from initax._drawing._draw import draw
from initax._drawing._job import Job
from initax._drawing._program import Program
from initax._errors import ModelError, message, warn
from initax._math._axes import resolve
from initax._math._keys import as_key
from initax._math._positivity import Map
from initax._model._constraint import Constraint, positive
from initax._model._parameter import Declaration, Fans, Field, Layer, Parameter
from initax.schemes._positive import refuse_misfit
from initax.schemes._scheme import Scheme

Size = int | Literal["scalar"]

KIND = "ConvexLinear"
"""Kind of a layer that adds what it makes of the layer before, of the network's input and of a context."""
WEIGHTS = ("weight", "passthrough", "context")
DEEP = 10
"""Layers up to which a network without passthrough can be trained; beyond, its input is forgotten."""


def number_of(size: Size) -> int:
    """Return a size as a number, one for a scalar."""
    return 1 if size == "scalar" else size


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of one layer; zero where it has no such weight.

    Attributes:
        hidden: units of the layer before.
        inputs: inputs of the network that the layer sees.
        context: context that the layer sees.
        outputs: units of the layer.
    """

    hidden: int
    inputs: int
    context: int = 0
    outputs: int

    def sizes(self) -> dict[str, int]:
        """Return the inputs of each weight there is."""
        each = dict(zip(WEIGHTS, (self.hidden, self.inputs, self.context), strict=True))
        return {name: size for name, size in each.items() if size}


def _of_weight(module: Any) -> Constraint:
    return positive(module.positivity)


def _of_passthrough(module: Any) -> Constraint | None:
    return positive(module.positivity) if module.non_decreasing else None


def declaration(pattern: str) -> Declaration:
    """Return the row of a layer in the table of layers.

    Args:
        pattern: axes of a weight in the stored layout.
    """
    return Declaration(
        kind=KIND,
        fields={
            "weight": Field(pattern=pattern, role="weight", constraint=_of_weight),
            "passthrough": Field(pattern=pattern, role="weight", constraint=_of_passthrough),
            "context": Field(pattern=pattern, role="weight"),
            "bias": Field(pattern="o", role="bias", of="weight"),
        },
        static=True,
    )


def shapes(
    in_size: Size,
    out_size: Size,
    width_sizes: Sequence[int],
    *,
    use_passthrough: bool,
    contexts: Sequence[int] | None = None,
) -> tuple[Shape, ...]:
    """Return the sizes of the layers of a network, from the first to the last.

    Args:
        in_size: size of the convex input.
        out_size: size of the output.
        width_sizes: sizes of the hidden layers.
        use_passthrough: every layer sees the input, not the first alone.
        contexts: size of the context that each layer sees.

    Raises:
        ModelError: a size is not positive.
    """
    outputs = (*width_sizes, number_of(out_size))
    if min(outputs) < 1 or number_of(in_size) < 1:
        given = f"in_size={in_size!r}, out_size={out_size!r}, width_sizes={list(width_sizes)}"
        raise ModelError(message(f"every size of a convex network must be positive: {given}."))
    before = (0, *width_sizes)
    seen = contexts or (0,) * len(outputs)
    return tuple(
        Shape(
            hidden=hidden,
            inputs=number_of(in_size) if use_passthrough or hidden == 0 else 0,
            context=context,
            outputs=units,
        )
        for hidden, units, context in zip(before, outputs, seen, strict=True)
    )


def warn_if_too_deep(layers: int, *, use_passthrough: bool) -> None:
    """Warn where a network without passthrough is too deep to be trained."""
    if use_passthrough or layers <= DEEP:
        return
    warn(
        message(
            f"an input-convex network of {layers} layers without passthrough forgets its input.",
            "with positive weights alone its units agree ever more, and no initialization has trained it at 20 layers",
            "use_passthrough=True shows every layer the input, and trains at any depth",
            "or put a normalization between the layers",
        )
    )


def initial(
    shape: Shape,
    scheme: Scheme,
    *,
    path: str,
    mapping: Map,
    non_decreasing: bool,
    key: Any,
    dtype: Any,
    pattern: str,
) -> dict[str, jax.Array]:
    """Return the arrays a layer stores at first, by name.

    A parameter's key is that of its path, so that `ix.reinit` with the same key and scheme gives the same arrays.

    Args:
        shape: sizes of the layer.
        scheme: what draws it.
        path: path of the layer in the network.
        mapping: from stored to positive weights.
        non_decreasing: the weights on the input are positive as well.
        key: a JAX random key.
        dtype: type of the arrays; JAX's default float if `None`.
        pattern: axes of a weight in the stored layout.
    """
    as_key(key)
    kind = jnp.dtype(dtype) if dtype is not None else jnp.result_type(float)
    parameters = []
    for name, inputs in shape.sizes().items():
        sides = {"i": inputs, "o": shape.outputs}
        axes = resolve(pattern, tuple(sides[axis] for axis in pattern.split()))
        is_positive = name == "weight" or (name == "passthrough" and non_decreasing)
        parameters.append(
            Parameter(
                path=f"{path}.{name}",
                name=name,
                role="weight",
                shape=axes.shape,
                dtype=kind,
                axes=axes,
                fans=Fans.of(axes),
                constraint=positive(mapping) if is_positive else None,
            )
        )
    outputs = (shape.outputs,)
    bias = Parameter(
        path=f"{path}.bias",
        name="bias",
        role="bias",
        shape=outputs,
        dtype=kind,
        axes=resolve("o", outputs),
        fans=parameters[0].fans,
    )
    layer = Layer(path=path, kind=KIND, cls=Shape, parameters=(*parameters, bias))
    arrays = draw([_job(each, layer, scheme) for each in layer.parameters], key)
    return {each.name: arrays[each.path] for each in layer.parameters}


def _job(parameter: Parameter, layer: Layer, scheme: Scheme) -> Job:
    initializer = scheme.part(parameter.role or "weight")
    recipe = initializer.recipe(parameter, layer)
    constraint = parameter.constraint
    if constraint is not None:
        refuse_misfit(initializer, recipe, parameter, constraint)
    program = Program(
        kernel=recipe.kernel,
        shape=parameter.shape,
        dtype=jax.dtypes.canonicalize_dtype(parameter.dtype),
        preimage=constraint.preimage if constraint else None,
    )
    return Job((parameter.path,), program, recipe.numbers)


def contexts_of(
    context_size: Size, width_sizes: Sequence[int], context_width_sizes: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the size of the context that each layer of a partially convex network sees.

    Raises:
        ModelError: the two paths are not of the same length.
    """
    beside = tuple(context_width_sizes if context_width_sizes is not None else width_sizes)
    if len(beside) != len(width_sizes):
        raise ModelError(
            message(
                f"the context path has {len(beside)} layers, the convex path {len(width_sizes)}.",
                f"context_width_sizes={list(beside)}, width_sizes={list(width_sizes)}",
                "give one size of the context for every hidden layer",
            )
        )
    return (number_of(context_size), *beside)


def context_path(sizes: Sequence[int], activation: Callable[[Any], Any]) -> tuple[tuple[int, int, Any], ...]:
    """Return inputs, outputs and scheme of each layer of a context path; it keeps the mean square of its units.

    Args:
        sizes: size of the context, and of each layer of its path.
        activation: the activation of the path.
    """
    from initax._math._gain import gain

    scale = gain(activation) ** 2
    return tuple(
        (before, after, ("variance_scaling", {"scale": scale, "distribution": "normal"}))
        for before, after in itertools.pairwise(sizes)
    )


GATE = ("zeros", ("constant", {"value": 1.0}))
"""Scheme of a gate: open, whatever the context, until training says otherwise."""
