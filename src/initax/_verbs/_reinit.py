"""`reinit` plans and draws a model, `layers` lists its layers, `draw` draws a single array."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from initax._adapters import check_key, key_of
from initax._drawing._draw import draw_one
from initax._drawing._program import Program
from initax._errors import with_line
from initax._model._parameter import Layer, Role
from initax._planning._misuse import refuse_permuted
from initax._planning._plan import plan
from initax._text import mapping_text
from initax._trace._take_survey import survey
from initax.schemes._alone import alone

Model = TypeVar("Model")


def _reinit_line(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    if len(args) > 3:
        return "what follows the key goes by name: ix.reinit(model, rules, key, inputs=x)"
    return 'write ix.reinit(model, {"Linear": "he_normal"}, jax.random.key(0))'


@with_line("ix.reinit", _reinit_line)
def reinit(
    model: Model,
    rules: Mapping[Any, Any],
    key: Any,
    *,
    inputs: Any = None,
    forward: Callable[..., Any] | None = None,
    module: Any = None,
    default: Any = None,
    donate: bool = False,
    progress: bool = False,
) -> Model:
    """Return the model with other initial weights, and everything else exactly as it was.

    Args:
        model: an Equinox or NNX module, Linen variables, or any pytree of arrays, `jax.ShapeDtypeStruct`s or
            shape tuples.
        rules: selector → scheme. A selector is a class, a name (`"Linear"`), a path (`"blocks.*.attn.query_proj"`,
            `"*"` for every layer), names in sequence (`"MultiheadAttention Linear"`) or a function of a `Layer`. A
            scheme is a name, a pair of name and arguments, a pair of weight and bias, a mapping of roles, an
            initializer, an `ix.Scheme`, or `None` to keep the layer. The last rule that matches a layer decides it.
        key: a JAX random key, or an `nnx.Rngs`, whose next key it takes. A draw depends on the key, the path, the
            shape and the scheme of its parameter only.
        inputs: what the model is called on, a tuple of arguments or one argument, abstract or not. The
            axes of arrays nobody declared are then read off a trace of the call, in which nothing is computed.
        forward: function of the model and the inputs, where a plain call `model(*inputs)` is not it; for Linen, of the
            module and the inputs.
        module: where the model is variables of Flax Linen, the module they belong to.
        default: the scheme of layers no rule selects; `None` keeps them, `"error"` refuses a model with any.
        donate: whether each old array may be deleted as soon as its successor is there. The old model is lost then, and
            no more memory is needed than for the model and its largest array, and a few megabytes.
        progress: whether to show a bar, on the standard error stream.

    Returns:
        A new model of the same structure. Arrays that no rule redraws are the same objects as before.

    Raises:
        RuleError: the rules are not a mapping, select nothing, draw nothing, or leave something uncovered.
        SchemeError: a scheme is unknown or can't serve a parameter it was chosen for.
        AxesError: restated axes do not fit.
        KeyTypeError: `key` is not one JAX key.
        ModelError: the model holds no layer initax knows, or its forward pass fails.
        DrawError: there is not enough memory for an array, or processes were to draw different things.

    Examples:
        >>> import equinox as eqx, jax, initax as ix
        >>> model = eqx.nn.MLP(4, 2, 8, depth=2, key=jax.random.key(0))
        >>> model = ix.reinit(model, {"Linear": "he_normal", "layers.2": "zeros"}, jax.random.key(1))
        >>> float(model.layers[2].weight.sum())
        0.0
    """
    refuse_permuted("ix.reinit", model=model, rules=rules, key=key)
    check_key(key)
    planned = plan(model, rules, inputs=inputs, forward=forward, module=module, default=default)
    result: Model = planned.draw(key, donate=donate, progress=progress)
    return result


@with_line("ix.layers", "write ix.layers(model), or ix.layers(model, inputs=x)")
def layers(
    model: Any, *, inputs: Any = None, forward: Callable[..., Any] | None = None, module: Any = None
) -> tuple[Layer, ...]:
    """Return the layers initax finds in a model, with their parameters, axes and fans.

    Args:
        model: an Equinox or NNX module, Linen variables, or any pytree of arrays, `jax.ShapeDtypeStruct`s or
            shape tuples.
        inputs: what the model is called on, a tuple of arguments or one argument, abstract or not. The
            axes of arrays nobody declared are then read off a trace of the call, in which nothing is computed.
        forward: function of the model and the inputs, where a plain call `model(*inputs)` is not it; for Linen, of the
            module and the inputs.
        module: where the model is variables of Flax Linen, the module they belong to.

    Raises:
        ModelError: two arrays have the same dotted path, or the forward pass fails.

    Examples:
        >>> import equinox as eqx, jax, initax as ix
        >>> (layer,) = ix.layers(eqx.nn.Conv2d(4, 8, 3, groups=2, key=jax.random.key(0)))
        >>> layer.kind, layer["weight"].axes.pattern, layer["weight"].fan_in, layer["weight"].fan_out
        ('Conv', '(g o) i ...', 18, 36)
    """
    return survey(model, inputs=inputs, forward=forward, module=module).layers


def _draw_line(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    scheme = args[0] if args else kwargs.get("scheme")
    of_scheme = {name: value for name, value in kwargs.items() if name not in inspect.signature(draw).parameters}
    if any(name.endswith("_axis") for name in of_scheme):
        return f'the axes are said by a pattern: ix.draw("{scheme}", key, shape, axes="o i")'
    if of_scheme and isinstance(scheme, str):
        texts = {
            name: repr(value) if isinstance(value, int | float | str) else "..." for name, value in of_scheme.items()
        }
        return f'arguments of a scheme go with its name: ix.draw(("{scheme}", {mapping_text(texts)}), key, shape)'
    return 'write ix.draw("he_normal", jax.random.key(0), (64, 32), axes="i o")'


@with_line("ix.draw", _draw_line)
def draw(
    scheme: Any,
    key: Any,
    shape: tuple[int, ...],
    dtype: Any = None,
    *,
    axes: str | None = None,
    sizes: Mapping[str, int] | None = None,
    role: Role = "weight",
    fan_in: float | None = None,
    fan_out: float | None = None,
) -> jax.Array:
    """Return one array drawn by a scheme.

    Args:
        scheme: anything a rule accepts.
        key: a JAX random key, used as it is.
        shape: shape of the array.
        dtype: its type; JAX's default float if left out.
        axes: the array's axes; `"... i o"` for weights and `"o"` for a bias or scale of one axis if left out, and for a
            weight of one axis where the scheme asks for no inputs (`normal`, `constant` and the like).
        sizes: sizes of named axes, where a merged axis can't be told apart.
        role: which role of the scheme draws it.
        fan_in: for a bias, the fan_in of its weight.
        fan_out: for a bias, the fan_out of its weight; no scheme of initax asks for it.

    Raises:
        SchemeError: the scheme is unknown, has no initializer for the role, or can't serve the array.
        AxesError: the axes do not fit the shape.
        KeyTypeError: `key` is not one JAX key.

    Examples:
        >>> import initax as ix, jax, jax.numpy as jnp
        >>> ix.draw("orthogonal", jax.random.key(0), (64, 50), jnp.float16, axes="o i").dtype
        dtype('float16')
    """
    refuse_permuted("ix.draw", scheme=scheme, key=key, shape=shape, **({} if dtype is None else {"dtype": dtype}))
    check_key(key)
    recipe, shape, dtype = alone(
        scheme, shape, dtype, axes=axes, sizes=sizes, role=role, fan_in=fan_in, fan_out=fan_out
    )
    return draw_one(Program(recipe.kernel, shape, dtype), recipe.numbers, key_of(key))
