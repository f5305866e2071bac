"""Any initializer that is a callable: `(key, shape, dtype) -> array`, or one that also takes `fan_in`.

It sees the canonical layout `(*receptive, in, out)` of one batch entry, so that a `jax.nn.initializers` closure with
its default axes is right on every layer of every framework. One that was made with axes of its own sees the layout in
which the array is stored, which is what these count in.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from initax._errors import SchemeError
from initax._math._axes import Axes
from initax._math._keys import as_others_know_it, vmap_is_exact
from initax._model._parameter import WEIGHT_ROLES, FrameworkInit, Layer, Parameter
from initax.schemes._initializer import Initializer, Kernel, Recipe, array_name, drawing_dtype
from initax.schemes._jax_closures import OwnAxes, fit, moments, own_axes


def identity_of(function: Any) -> Any:
    """Return what identifies a callable: for a closure its code and what it closes over.

    `jax.nn.initializers.he_normal()` is a new closure at each call; without this each would be compiled anew.
    """
    inner: Any
    if isinstance(function, functools.partial):
        args, keywords = tuple(map(identity_of, function.args)), tuple(sorted(function.keywords.items()))
        inner = (identity_of(function.func), args, keywords)
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


def _of_entry(shape: tuple[int, ...], stack_axis: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one entry of a stack."""
    return tuple(size for axis, size in enumerate(shape) if axis not in stack_axis)


@dataclass(frozen=True, slots=True)
class CallingKernel(Kernel):
    """A callable that is called with one shape.

    Attributes:
        identity: what tells it from another one.
        function: the callable.
        entry_shape: the shape it is called with.
        fan_in: the number it is given, where it asks for one.
    """

    identity: Any
    function: Callable[..., Any] = field(compare=False)
    entry_shape: tuple[int, ...]
    fan_in: int | float | None
    elementwise: ClassVar[bool] = False

    def called(self, key: Any, dtype: Any) -> Any:
        """Return what the callable returns, without the axis names that Flax may have put around it."""
        keywords = {} if self.fan_in is None else {"fan_in": self.fan_in}
        if _takes_dtype_by_name(self.function):
            return _opened(self.function(key, self.entry_shape, dtype=dtype, **keywords))
        return _opened(self.function(key, self.entry_shape, dtype, **keywords))

    def entries(self, key: jax.Array, count: int, dtype: Any) -> jax.Array:
        """Return several arrays along a new first axis, each from a key of its own; one alone has the key itself."""

        def entry(key: jax.Array) -> jax.Array:
            return jnp.asarray(self.called(key, dtype)).astype(dtype)

        # JAX's own functions only hand the key on to samplers, which take any.
        if not str(getattr(self.function, "__module__", "")).startswith("jax."):
            key = as_others_know_it(key)
        if count == 1:
            return entry(key)[None]
        keys = jax.random.split(key, count)
        return jax.vmap(entry)(keys) if vmap_is_exact(key) else lax.map(entry, keys)

    def lowest(self, numbers: tuple[float, ...]) -> float:
        """Return the least entry of one array drawn for that purpose: nothing else is known of a callable."""
        return float(np.min(self._seen(), initial=math.inf))

    def above(self, numbers: tuple[float, ...], bound: float) -> float:
        """Return the share in that array."""
        return float(np.mean(self._seen() >= bound))

    def moments(self, numbers: tuple[float, ...], std: float | None) -> tuple[float, float] | None:
        """Return them for one of JAX's initializers."""
        return moments(self.function, self.entry_shape)

    def _seen(self) -> np.ndarray:
        with jax.ensure_compile_time_eval():
            return np.asarray(self.called(jax.random.key(0), np.dtype(np.float32)))


@dataclass(frozen=True, slots=True)
class CanonicalKernel(CallingKernel):
    """A callable, once per batch entry in the canonical layout."""

    axes: Axes | None

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        if self.axes is None:
            return self.entries(key, 1, dtype)[0]
        batch = self.axes.batch_size
        entries = jnp.reshape(self.entries(key, batch, dtype), (batch, *self.axes.canonical_shape))
        return self.axes.from_canonical(entries)


@dataclass(frozen=True, slots=True)
class StoredKernel(CallingKernel):
    """A callable with axes of its own or of its framework, once per entry of a stack, in the order that is stored."""

    stack_axis: tuple[int, ...]

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        stack = tuple(shape[axis] for axis in self.stack_axis)
        entries = self.entries(key, math.prod(stack), dtype)
        split = jnp.reshape(entries, (*stack, *_of_entry(shape, self.stack_axis)))
        return jnp.moveaxis(split, range(len(stack)), self.stack_axis)


@dataclass(frozen=True, slots=True)
class CallableInitializer(Initializer):
    """Any callable, called with the fan_in where it asks for one."""

    function: Callable[..., Any]
    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        axes = parameter.axes
        if parameter.role in WEIGHT_ROLES:
            axes = self.known_axes(parameter)
            entry_shape = axes.canonical_shape
        elif axes is not None:
            *receptive, _, outputs = axes.canonical_shape
            entry_shape = (*receptive, outputs)
        else:
            entry_shape = parameter.shape
        identity, fan = identity_of(self.function), None
        if "fan_in" in (_parameters(self.function) or ()):
            fan = parameter.fan_in if parameter.fan_in is not None else math.prod(entry_shape[:-1])
            fan = int(fan) if float(fan).is_integer() else fan
        assumed_axes = own_axes(self.function)
        kernel: CallingKernel
        if assumed_axes is None:
            kernel = CanonicalKernel(identity, self.function, entry_shape, fan, axes)
        else:
            stack_axis = _stack_axis(assumed_axes, parameter)
            kernel = StoredKernel(identity, self.function, _of_entry(parameter.shape, stack_axis), fan, stack_axis)
        _refuse_other_result(kernel, self.name, parameter)
        return Recipe(kernel, (), None)

    def spec(self) -> Any:
        """Refuse: a callable has no text that JSON could keep."""
        raise SchemeError(
            f"the initializer {self.name} is a callable and can't be stored.",
            'register it: ix.schemes.register("my_scheme", initializer), and use the name',
        )


@dataclass(frozen=True, slots=True)
class Framework(Initializer):
    """A framework's own initializer, whatever axes it assumes."""

    init: FrameworkInit
    fits_bias: ClassVar[bool] = True

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        stack_axis = parameter.axes.stack_axis if parameter.axes else ()
        if math.prod(_of_entry(parameter.shape, stack_axis)) != math.prod(self.init.shape):
            raise SchemeError(
                f"the initializer that {layer.cls.__name__} has for {array_name(parameter)} asks for "
                f"{self.init.shape}.",
                f"the array has shape {parameter.shape}",
            )
        function = self.init.function
        return Recipe(StoredKernel(identity_of(function), function, self.init.shape, None, stack_axis), (), None)


def from_callable(function: Callable[..., Any]) -> CallableInitializer:
    """Return a callable as an initializer."""
    qualified = getattr(function, "__qualname__", type(function).__name__)
    return CallableInitializer(function, name=qualified.split(".<locals>")[0])


def _parameters(function: Callable[..., Any], *, follow_wrapped: bool = True) -> Mapping[str, inspect.Parameter] | None:
    """The parameters of a callable, `None` where Python does not tell them."""
    try:
        return inspect.signature(function, follow_wrapped=follow_wrapped).parameters
    except (TypeError, ValueError):
        return None


def _takes_dtype_by_name(function: Callable[..., Any]) -> bool:
    """Whether `dtype=` may be written: NNX's wrappers of initializers hand on positions, and no names."""
    parameters = _parameters(function, follow_wrapped=False)
    if parameters is None or "dtype" in parameters:
        return True
    kinds = {parameter.kind for parameter in parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds or inspect.Parameter.VAR_POSITIONAL not in kinds


def _opened(returned: Any) -> Any:
    """The array in a box of metadata, e.g. Flax's axis names, and anything else as it is."""
    if hasattr(returned, "dtype"):
        return returned
    inner = next((getattr(returned, name) for name in ("raw_value", "value") if hasattr(returned, name)), None)
    if inner is None and hasattr(returned, "unbox"):
        inner = returned.unbox()
    return inner if hasattr(inner, "dtype") else returned


def _stack_axis(assumed: OwnAxes, parameter: Parameter) -> tuple[int, ...]:
    """The stack axes that an initializer with axes of its own does not see.

    It is called once per entry, which is how it was written, unless its axes are those of the whole stack.
    """
    stack = parameter.axes.stack_axis if parameter.axes else ()
    rank = len(parameter.shape)
    return () if not fit(assumed, rank - len(stack)) and fit(assumed, rank) else stack


def _refuse_other_result(kernel: CallingKernel, name: str, parameter: Parameter) -> None:
    dtype = drawing_dtype(parameter.dtype)
    try:
        returned = _abstract(kernel, dtype)
    except SchemeError:
        raise
    except Exception as error:
        first = str(error).split("\n")[0]
        raise SchemeError(
            f"the initializer {name} fails on {array_name(parameter)}: {type(error).__name__}: {first}",
            f"it was called with shape {kernel.entry_shape} and type {dtype}",
            "an initializer takes (key, shape, dtype), and fan_in if it names it",
        ) from error
    if tuple(getattr(returned, "shape", ())) != kernel.entry_shape or not hasattr(returned, "dtype"):
        is_array = hasattr(returned, "dtype")
        shape = f"an array of shape {tuple(returned.shape)}" if is_array else returned
        raise SchemeError(
            f"the initializer {name} returned {shape} for shape {kernel.entry_shape} ({array_name(parameter)}).",
            "it is called with the shape (*receptive, in, out), and has to return an array of it"
            if is_array
            else f"is it a factory? write {name}()",
        )


@functools.lru_cache(maxsize=1024)
def _abstract(kernel: CallingKernel, dtype: Any) -> Any:
    result: list[Any] = []

    def call(key: jax.Array) -> Any:
        result.append(kernel.called(key, dtype))
        return result[0] if hasattr(result[0], "dtype") else ()

    key = jax.eval_shape(lambda: jax.random.key(0))
    shaped = jax.eval_shape(call, key)
    return shaped if hasattr(shaped, "dtype") else result[0]
