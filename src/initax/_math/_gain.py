"""The exact gain of an activation: the factor that keeps the second moment of a signal at one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import SchemeError, did_you_mean, listing, message

REACH = 12
NODES_PER_PANEL = 24
"""Gauss-Legendre nodes on each panel of [-12, 12], at first of unit length. Kinks at whole numbers (relu, relu6,
hard_tanh, …) fall on panel borders, where they cost no accuracy; plain Gauss-Hermite is 0.65 % off for relu."""

HALVINGS = 44
"""A panel on which its two halves say something else holds a kink or a jump and is halved, so often at most."""

AGREE = 1e-14
"""Relative to the whole, what a panel and its two halves may differ by."""


def gain(activation: str | Callable[[Any], Any], param: float | None = None) -> float:
    """Return the exact gain of an activation, `1 / sqrt(E[phi(z)^2])` for standard normal `z`.

    A layer of unit-variance pre-activations followed by `activation` and a weight of standard deviation
    `gain / sqrt(fan_in)` has unit-variance pre-activations again (He et al. 2015, eq. 10, for any activation).
    PyTorch's table agrees for relu and leaky_relu and differs for tanh (5/3 there, 1.5925 exactly), sigmoid (1 there,
    1.8462 exactly) and selu (3/4 there, 1 exactly).

    Args:
        activation: a function of one array, or the name of one: `"relu"`, `"tanh"`, any in `jax.nn`; or, as in PyTorch,
            the name of a linear layer, `"conv2d"`, after which nothing is to be made up for.
        param: the activation's own argument, as PyTorch has it: the slope of `"leaky_relu"`, the alpha of `"elu"` and
            `"celu"`.

    Returns:
        The gain; it multiplies a standard deviation.

    Raises:
        SchemeError: no activation has that name, it takes no such argument, or the function is not a finite elementwise
            one.

    Examples:
        >>> round(gain("relu"), 6), round(gain("tanh"), 6)
        (1.414214, 1.592537)
        >>> round(gain("leaky_relu", 0.2), 6)
        1.38675

    References:
        He et al. 2015, arXiv 1502.01852, eq. 10.
    """
    function = named_activation(activation) if isinstance(activation, str) else activation
    if not callable(function):
        raise SchemeError(message(f"gain takes an activation or its name, not {activation!r}.", 'ix.gain("relu")'))
    if param is not None:
        return _gain(_with_argument(activation, function, param))
    return _gain(function)


TAKES_ARGUMENT = {"leaky_relu": "negative_slope", "elu": "alpha", "celu": "alpha"}
"""Activations that take an argument → its name in `jax.nn`."""


def _with_argument(activation: Any, function: Callable[[Any], Any], param: float) -> Callable[[Any], Any]:
    name = activation if isinstance(activation, str) else getattr(activation, "__name__", "")
    if name not in TAKES_ARGUMENT:
        raise SchemeError(
            message(
                f"the activation {name or repr(activation)} takes no argument, {param!r} here.",
                f"those that do: {listing(TAKES_ARGUMENT)}",
                f"of any other give the function: ix.gain(lambda x: f(x, {param!r}))",
            )
        )
    if isinstance(param, bool) or not isinstance(param, int | float):
        raise SchemeError(message(f"gain: param must be a number, not {param!r}.", f'ix.gain("{name}", 0.2)'))
    return _partial(function, TAKES_ARGUMENT[name], float(param))


@functools.lru_cache(maxsize=256)
def _partial(function: Callable[[Any], Any], argument: str, value: float) -> Callable[[Any], Any]:
    """The same function each time, so that its gain is worked out once."""
    return functools.partial(function, **{argument: value})


@functools.lru_cache(maxsize=256)
def _gain(function: Callable[[Any], Any]) -> float:
    name = getattr(function, "__name__", repr(function))
    moment = _second_moment(function, name)
    if not (np.isfinite(moment) and moment > 0):
        raise SchemeError(message(f"the activation {name} has second moment {moment}; its gain is not defined."))
    return float(moment**-0.5)


def _second_moment(function: Callable[[Any], Any], name: str) -> float:
    """The integral of the square under the standard normal, panel by panel, halved where kinks are."""
    starts, width, total = np.arange(-REACH, REACH, dtype=np.float64), 1.0, 0.0
    panels = _integrals(function, name, starts, width)
    scale = float(np.sum(np.abs(panels)))
    for _ in range(HALVINGS):
        left = _integrals(function, name, starts, width / 2)
        right = _integrals(function, name, starts + width / 2, width / 2)
        apart = np.abs(panels - left - right) > AGREE * scale
        total += float(np.sum((left + right)[~apart]))
        if not apart.any():
            return total
        starts = np.concatenate([starts[apart], starts[apart] + width / 2])
        panels = np.concatenate([left[apart], right[apart]])
        width /= 2
    return total + float(np.sum(panels))


def _integrals(function: Callable[[Any], Any], name: str, starts: np.ndarray, width: float) -> np.ndarray:
    """The integral of the square over each panel of this width."""
    panel, weights = _panel()
    nodes = starts[:, None] + (panel + 1) / 2 * width
    try:
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            values = np.asarray(function(jnp.asarray(nodes.ravel())), dtype=np.float64)
    except Exception as error:
        raise SchemeError(
            message(f"the activation {name} can't be applied to an array of reals: {error}".split("\n")[0])
        ) from error
    if values.shape != (nodes.size,):
        raise SchemeError(message(f"the activation {name} is not elementwise: {(nodes.size,)} became {values.shape}."))
    density = np.exp(-(nodes**2) / 2) / np.sqrt(2 * np.pi)
    found: np.ndarray = (values.reshape(nodes.shape) ** 2 * density) @ weights * (width / 2)
    return found


@functools.cache
def _panel() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES_PER_PANEL)
    return nodes, weights


def named_activation(name: str) -> Callable[[Any], Any]:
    """Return the activation of that name: `linear`, `sin`, or a function of `jax.nn`.

    Raises:
        SchemeError: there is none.
    """
    table = _activations()
    if name not in table:
        raise SchemeError(
            message(
                f'no activation is called "{name}".',
                f"activations: {listing(sorted(table), limit=40)}",
                did_you_mean(name, table),
            )
        )
    return table[name]


IN_JAX = frozenset(
    {"celu", "elu", "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "leaky_relu", "log_sigmoid", "mish"}
    | {"relu", "relu6", "selu", "sigmoid", "silu", "soft_sign", "softplus", "sparse_plus", "sparse_sigmoid"}
    | {"squareplus", "swish", "tanh"}
)
"""The elementwise activations of `jax.nn`."""


@functools.cache
def _activations() -> dict[str, Callable[[Any], Any]]:
    linear = ("linear", "identity", *(f"conv{transposed}{n}d" for transposed in ("", "_transpose") for n in (1, 2, 3)))
    own = {**dict.fromkeys(linear, _identity), "sin": jnp.sin, "exp": jnp.exp}
    return {name: getattr(jax.nn, name) for name in IN_JAX if hasattr(jax.nn, name)} | own


def _identity(x: Any) -> Any:
    return x
