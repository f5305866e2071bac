"""Any initializer that is a callable: `(key, shape, dtype) -> array`, or one that also takes `fan_in`.

It sees the canonical layout `(*receptive, in, out)` of one batch entry, so that a `jax.nn.initializers` closure with
its default axes is right on every layer of every framework.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from initax._errors import SchemeError, message
from initax._math._axes import Axes
from initax._math._keys import as_others_know_it, vmap_is_exact
from initax._model._parameter import WEIGHT_ROLES, FrameworkInit, Layer, Parameter
from initax.schemes._initializer import Initializer, Kernel, Recipe, drawing_dtype, known_axes, where


def identity_of(function: Any) -> Any:
    """Return what tells one callable from another: for a closure its code and what it closes over.

    `jax.nn.initializers.he_normal()` is a new closure at each call; without this each would be compiled anew.
    """
    inner: Any
    if isinstance(function, functools.partial):
        inner = (
            identity_of(function.func),
            tuple(map(identity_of, function.args)),
            tuple(sorted(function.keywords.items())),
        )
    elif inspect.isfunction(function):
        cells = tuple(cell.cell_contents for cell in function.__closure__ or ())
        keywords = tuple(sorted((function.__kwdefaults__ or {}).items()))
        inner = (function.__code__, tuple(map(identity_of, cells)), function.__defaults__, keywords)
    else:
        inner = function
    try:
        hash(inner)
    except TypeError:
        return id(function)
    return inner


def _key_for(function: Any, key: jax.Array) -> jax.Array:
    """The key as the function may see it. JAX's own functions only hand it on to samplers, which take any."""
    return key if str(getattr(function, "__module__", "")).startswith("jax.") else as_others_know_it(key)


@dataclass(frozen=True, slots=True)
class ForeignKernel(Kernel):
    """A callable, once per batch entry in the canonical layout."""

    identity: Any
    function: Callable[..., Any] = field(compare=False)
    axes: Axes | None
    entry_shape: tuple[int, ...]
    fan_in: int | float | None
    elementwise: ClassVar[bool] = False

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        keywords = {} if self.fan_in is None else {"fan_in": self.fan_in}
        key = _key_for(self.function, key)

        def one(entry_key: jax.Array) -> jax.Array:
            return jnp.asarray(self.function(entry_key, self.entry_shape, dtype=dtype, **keywords)).astype(dtype)

        if self.axes is None:
            return one(key)
        batch = self.axes.batch_size
        if batch == 1:
            entries = one(key)[None]
        else:
            keys = jax.random.split(key, batch)
            entries = jax.vmap(one)(keys) if vmap_is_exact(key) else lax.map(one, keys)
        made: jax.Array = self.axes.from_canonical(jnp.reshape(entries, (batch, *self.axes.canonical_shape)))
        return made

    def lowest(self, numbers: tuple[float, ...]) -> float:
        """Return the least entry of one array drawn for that purpose: nothing else is known of a callable."""
        keywords = {} if self.fan_in is None else {"fan_in": self.fan_in}
        with jax.ensure_compile_time_eval():
            seen = self.function(jax.random.key(0), self.entry_shape, dtype=np.dtype(np.float32), **keywords)
            return float(np.min(np.asarray(seen), initial=math.inf))

    def above(self, numbers: tuple[float, ...], bound: float) -> float:
        """Return the share in that array."""
        keywords = {} if self.fan_in is None else {"fan_in": self.fan_in}
        with jax.ensure_compile_time_eval():
            seen = self.function(jax.random.key(0), self.entry_shape, dtype=np.dtype(np.float32), **keywords)
            return float(np.mean(np.asarray(seen) >= bound))


@dataclass(frozen=True, slots=True)
class Foreign(Initializer):
    """A callable in place of a name."""

    function: Callable[..., Any]
    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        axes = parameter.axes
        if parameter.role in WEIGHT_ROLES:
            axes = known_axes(self.name, parameter)
            entry = axes.canonical_shape
        elif axes is not None:
            *receptive, _, outputs = axes.canonical_shape
            entry = (*receptive, outputs)
        else:
            entry = parameter.shape
        wants_fan = _takes_fan_in(self.function)
        kernel = ForeignKernel(
            identity=identity_of(self.function),
            function=self.function,
            axes=axes,
            entry_shape=entry,
            fan_in=_whole(parameter.fan_in if parameter.fan_in is not None else math.prod(entry[:-1]))
            if wants_fan
            else None,
        )
        _refuse_misfit(kernel, self.name, parameter)
        return Recipe(kernel, (), None)

    def spec(self) -> Any:
        """Refuse: a callable has no text that JSON could keep."""
        raise SchemeError(
            message(
                f"the initializer {self.name} is a callable and can't be stored.",
                'register it: ix.schemes.register("my_scheme", initializer), and use the name',
            )
        )


@dataclass(frozen=True, slots=True)
class FrameworkKernel(Kernel):
    """A framework's own initializer, called the way the framework calls it, once per stack entry."""

    identity: Any
    function: Callable[..., Any] = field(compare=False)
    call_shape: tuple[int, ...]
    stack_axis: tuple[int, ...]
    elementwise: ClassVar[bool] = False

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        key = _key_for(self.function, key)
        own = tuple(size for axis, size in enumerate(shape) if axis not in self.stack_axis)

        def one(entry_key: jax.Array) -> jax.Array:
            made = jnp.asarray(self.function(entry_key, self.call_shape, dtype)).astype(dtype)
            return jnp.reshape(made, own)

        if not self.stack_axis:
            return one(key)
        stack = tuple(shape[axis] for axis in self.stack_axis)
        keys = jax.random.split(key, math.prod(stack))
        entries = jax.vmap(one)(keys) if vmap_is_exact(key) else lax.map(one, keys)
        return jnp.moveaxis(jnp.reshape(entries, (*stack, *own)), range(len(stack)), self.stack_axis)


@dataclass(frozen=True, slots=True)
class Framework(Initializer):
    """What a framework's own function gives, whatever it takes the axes for."""

    init: FrameworkInit
    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        stack_axis = parameter.axes.stack_axis if parameter.axes else ()
        own = math.prod(size for axis, size in enumerate(parameter.shape) if axis not in stack_axis)
        if own != math.prod(self.init.shape):
            raise SchemeError(
                message(
                    f"the initializer that {layer.cls.__name__} has for {where(parameter)} asks for {self.init.shape}.",
                    f"the array has shape {parameter.shape}",
                )
            )
        function = self.init.function
        return Recipe(FrameworkKernel(identity_of(function), function, self.init.shape, stack_axis), (), None)


def foreign(function: Callable[..., Any]) -> Foreign:
    """Return a callable as an initializer."""
    qualified = getattr(function, "__qualname__", type(function).__name__)
    return Foreign(qualified.split(".<locals>")[0], (), function)


def _whole(fan: float) -> float:
    return int(fan) if float(fan).is_integer() else fan


def _takes_fan_in(function: Callable[..., Any]) -> bool:
    try:
        return "fan_in" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _refuse_misfit(kernel: ForeignKernel, name: str, parameter: Parameter) -> None:
    dtype = drawing_dtype(parameter.dtype)
    try:
        got = _abstract(kernel, dtype)
    except SchemeError:
        raise
    except Exception as error:
        first = str(error).split("\n")[0]
        raise SchemeError(
            message(
                f"the initializer {name} fails on {where(parameter)}: {type(error).__name__}: {first}",
                f"it was called with shape {kernel.entry_shape} and type {dtype}",
                "an initializer takes (key, shape, dtype), and fan_in if it names it",
            )
        ) from error
    if tuple(getattr(got, "shape", ())) != kernel.entry_shape or not hasattr(got, "dtype"):
        raise SchemeError(
            message(
                f"the initializer {name} returned {got} for shape {kernel.entry_shape} ({where(parameter)}).",
                f"is it a factory? write {name}()",
            )
        )


@functools.lru_cache(maxsize=1024)
def _abstract(kernel: ForeignKernel, dtype: Any) -> Any:
    keywords = {} if kernel.fan_in is None else {"fan_in": kernel.fan_in}
    result: list[Any] = []

    def call(key: jax.Array) -> Any:
        made = kernel.function(key, kernel.entry_shape, dtype=dtype, **keywords)
        result.append(made)
        return made if hasattr(made, "dtype") else ()

    key = jax.eval_shape(lambda: jax.random.key(0))
    shaped = jax.eval_shape(call, key)
    return shaped if hasattr(shaped, "dtype") else result[0]
