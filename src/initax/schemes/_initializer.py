"""`Initializer`, `Recipe` and `Kernel`: from a parameter to what is compiled and the numbers it runs with.

An `Initializer` looks at a parameter and its layer and answers with a `Recipe`. The recipe's kernel is all that gets
compiled; its numbers are run-time arguments. So `he_normal`, `glorot_normal` and `lecun_normal` share one compiled
program per shape and type, whatever the fans.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import SchemeError
from initax._math._axes import Axes
from initax._math._gaussian import gain as exact_gain
from initax._model._parameter import Layer, Parameter
from initax._model._reason import Reason, Why

FanKind = Literal["nominal", "effective"]
Args = tuple[tuple[str, Any], ...]

NO_DEFAULT = Reason(Why.NO_DEFAULT, "its layer declares no default")
"""Why the scheme `default` keeps an array."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """What is compiled: `(key, numbers, shape, dtype) -> array`. Two equal kernels share one program.

    Attributes:
        elementwise: each entry depends on the key and its own place only, so an array may be drawn in parts.
        random: whether the key is used.
        sees_old: whether what is stored depends on what was: then `blend` says how.
        may_round: whether entries are the same but for rounding from one program to another, with no NaN on the way.
    """

    elementwise: ClassVar[bool] = True
    random: ClassVar[bool] = True
    sees_old: ClassVar[bool] = False
    may_round: ClassVar[bool] = False

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array, in the stored layout."""
        raise NotImplementedError

    def blend(self, old: jax.Array, drawn: jax.Array, numbers: tuple[Any, ...]) -> jax.Array:
        """Return what becomes of the old array and the drawn one."""
        raise NotImplementedError

    def lowest(self, numbers: tuple[float, ...]) -> float:
        """Return a number that no entry is below."""
        return -math.inf

    def above(self, numbers: tuple[float, ...], bound: float) -> float:
        """Return the share of entries expected to be at or above a bound, or more than that."""
        return 1.0

    def mean(self, numbers: tuple[float, ...]) -> float | None:
        """Return the mean of an entry over draws, `None` where it is not known or differs from entry to entry."""
        return None

    def moments(self, numbers: tuple[float, ...], std: float | None) -> tuple[float, float] | None:
        """Return mean and mean square of an entry over draws, where they are known.

        Args:
            numbers: the run-time numbers.
            std: standard deviation of an entry, where it is known.
        """
        mean = self.mean(numbers)
        return None if mean is None or std is None else (mean, std**2 + mean**2)

    def anywhere(self) -> Kernel:
        """Return the kernel that draws the same on one device, wherever the array is to live."""
        return self

    def core(self) -> tuple[Kernel, tuple[int, ...]] | None:
        """Return a kernel and the shape it draws where that has only to be laid out; several kernels may share it."""
        return None

    def laid_out(self, drawn: jax.Array) -> jax.Array:
        """Return what the core drew in the stored layout."""
        raise NotImplementedError

    def on_host(self, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> np.ndarray | None:
        """Return the array made without JAX, where that needs no random numbers and no work; else `None`."""
        return None


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one parameter is drawn.

    Attributes:
        kernel: what is compiled.
        numbers: its run-time numbers, a standard deviation, a bound, a value; a tuple of floats is one array.
        std: standard deviation one entry is expected to have, over draws; `None` where it is not known.
    """

    kernel: Kernel
    numbers: tuple[Any, ...]
    std: float | None

    @property
    def moments(self) -> tuple[float, float] | None:
        """Mean and mean square of an entry over draws, where they are known."""
        return self.kernel.moments(self.numbers, self.std)


@dataclass(frozen=True, slots=True)
class Initializer:
    """How the parameters of one role are drawn.

    Attributes:
        name: what a rule calls it.
        args: the arguments that differ from the defaults, as pairs.
    """

    name: str = field(default="", kw_only=True)
    args: Args = field(default=(), kw_only=True)

    fits_bias: ClassVar[bool] = False
    """Whether it means something for a bias: it needs no axes."""

    draws_reserved: ClassVar[bool] = False
    """Whether it also draws arrays that are reserved for their framework's default."""

    needs_input_second_moment: ClassVar[bool] = False
    """Whether it asks how long the signal is that reaches a weight, which a trace has to be followed for."""

    centers: ClassVar[bool] = False
    """Whether the mean of each output's weights is zero, so that nothing of the mean of a signal comes through."""

    needs_gate: ClassVar[str] = ""
    """The gate without which it can't draw a bias."""

    def declines(self, parameter: Parameter) -> Reason | None:
        """Return why it does not draw a parameter, which is then kept; `None` where it draws it."""
        return None

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter.

        Raises:
            SchemeError: the parameter's shape, type or axes can't be served.
        """
        raise NotImplementedError

    def known_axes(self, parameter: Parameter) -> Axes:
        """Return the axes of a parameter.

        Raises:
            SchemeError: they are not known.
        """
        if parameter.axes is None:
            raise SchemeError(f"{self.name} needs the axes of {array_name(parameter)}, and they are not declared.")
        return parameter.axes

    def fans_of(self, parameter: Parameter, fans: str) -> tuple[float, float]:
        """Return fan_in and fan_out of a parameter, nominal or effective.

        Raises:
            SchemeError: the parameter has no fans, or how much of the effective ones a mask leaves is not known.
        """
        fan_in, fan_out = parameter.fan_in, parameter.fan_out
        if fans == "effective":
            fan_in, fan_out = parameter.effective_fan_in, parameter.effective_fan_out
        if parameter.fan_in is not None and fan_in is None:
            raise SchemeError(
                f"{self.name} needs the effective fans of {array_name(parameter)}, and what its mask lets through "
                "is not known here: the mask is traced or abstract.",
                f"shape {parameter.shape}, nominal fan_in {parameter.fan_in:g}, fan_out {parameter.fan_out:g}",
                "plan where it is an array, outside jax.jit: plan = ix.plan(model, ...); then inside: plan.draw(key)",
            )
        if fan_in is None or fan_out is None:
            line = "a bias takes its weight's; of several it has to be told: ix.register_layer(..., of={bias: weight})"
            if parameter.role == "bias" and not parameter.path:
                line = f'give those of its weight: ix.draw("{self.name}", key, shape, role="bias", fan_in=...)'
            head = f"{self.name} needs the fans of {array_name(parameter)}, and they are not known."
            raise SchemeError(head, f"shape {parameter.shape}, role {parameter.role}", line)
        return float(fan_in), float(fan_out)

    def positive_fan(self, parameter: Parameter, name: str, value: float) -> float:
        """Return a fan used as a divisor.

        Raises:
            SchemeError: it is zero.
        """
        if value <= 0:
            raise SchemeError(
                f"{self.name} divides by {name}, which is 0 for {array_name(parameter)}.",
                f"shape {parameter.shape}, axes {parameter.axes.pattern if parameter.axes else None}",
                'an array with a zero-sized axis has nothing to scale by: use "zeros" or leave it out',
            )
        return value

    def fan_in_of(self, parameter: Parameter, fans: str) -> float:
        """Return the fan_in of a parameter, nominal or effective, as a divisor.

        Raises:
            SchemeError: it is not known, or zero.
        """
        return self.positive_fan(parameter, "fan_in", self.fans_of(parameter, fans)[0])

    @staticmethod
    def without_inputs(parameter: Parameter, fans: str) -> bool:
        """Return whether this is the bias of a weight without inputs, whose fan_in nothing can be divided by."""
        fan_in = parameter.effective_fan_in if fans == "effective" else parameter.fan_in
        return parameter.role == "bias" and fan_in == 0

    def refuse_complex(self, parameter: Parameter, instead: str) -> None:
        """Raise where an initializer is defined for reals only.

        Raises:
            SchemeError: the parameter is complex.
        """
        if is_complex(parameter.dtype):
            raise SchemeError(
                f"{self.name} is defined for real arrays; {array_name(parameter)} is {np.dtype(parameter.dtype).name}.",
                instead,
            )

    def spec(self) -> Any:
        """Return what JSON keeps of it: its name, or its name and arguments."""
        return self.name if not self.args else [self.name, {name: plain(value) for name, value in self.args}]

    def __str__(self) -> str:
        """Return the initializer as a call: name and arguments."""
        inside = ", ".join(f"{name}={_shown(value)}" for name, value in self.args)
        return f"{self.name}({inside})" if inside else self.name


@dataclass(frozen=True, slots=True)
class KernelAround(Kernel):
    """A kernel that changes what another one draws."""

    inner: Kernel

    @property
    def elementwise(self) -> bool:  # type: ignore[override]
        """As the inner kernel."""
        return self.inner.elementwise

    def anywhere(self) -> Kernel:
        """As the inner kernel."""
        return replace(self, inner=self.inner.anywhere())


@dataclass(frozen=True, slots=True)
class InitializerAround(Initializer):
    """An initializer that changes what another one draws."""

    inner: Initializer

    @property
    def needs_input_second_moment(self) -> bool:  # type: ignore[override]
        """As the inner initializer."""
        return self.inner.needs_input_second_moment

    def declines(self, parameter: Parameter) -> Reason | None:
        """As the inner initializer."""
        return self.inner.declines(parameter)

    def inner_recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe of the inner initializer.

        Raises:
            SchemeError: what it makes can't be changed any more, because a part of it is the old array.
        """
        recipe = self.inner.recipe(parameter, layer)
        if recipe.kernel.sees_old:
            raise SchemeError(
                f"{self.name} can't take a scheme that keeps a part of what {array_name(parameter)} holds.",
                'write it the other way around: ("shrink_perturb", {"shrink": ..., "scheme": ("scaled", ...)})',
            )
        return recipe


def _shown(value: Any) -> str:
    if callable(value):
        return str(getattr(value, "__name__", repr(value)))
    return f"{value:.6g}" if isinstance(value, float) else argument_text(value)


def argument_text(value: Any) -> str:
    """Return an argument as one would write it; of many entries their shape."""
    text = repr(plain(value)) if isinstance(value, tuple) else str(value) if isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else f"an array of shape {np.shape(value)}"


def plain(value: Any) -> Any:
    """Return an argument as JSON can keep it: nested tuples as lists, complex numbers as texts.

    Raises:
        SchemeError: it is a function.
    """
    if isinstance(value, tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "spec"):
        return value.spec()
    if callable(value):
        name = getattr(value, "__name__", type(value).__name__)
        raise SchemeError(f"the function {name} among a scheme's arguments can't be stored.", "use a name")
    return str(value).strip("()") if isinstance(value, complex) else value


@functools.lru_cache(maxsize=256)
def drawing_dtype(dtype: Any) -> Any:
    """Return the type to draw in: float32 for every narrower float, the type itself otherwise.

    Drawn in bfloat16 a normal has 128 distinct values and no tail past 2.9 standard deviations.
    """
    narrow = jnp.issubdtype(dtype, np.floating) and np.dtype(dtype).itemsize < 4
    return np.dtype(np.float32) if narrow else dtype


@functools.lru_cache(maxsize=256)
def real_dtype(dtype: Any) -> Any:
    """Return the real type of the numbers that scale an array of type `dtype`."""
    return np.empty(0, drawing_dtype(dtype)).real.dtype


@functools.lru_cache(maxsize=256)
def number_type(dtype: Any, x64: bool) -> Callable[[float], Any]:
    """Return the type in which the numbers that scale an array of type `dtype` are handed over."""
    return np.dtype(jax.dtypes.canonicalize_dtype(real_dtype(dtype))).type


@functools.lru_cache(maxsize=256)
def is_complex(dtype: Any) -> bool:
    """Whether entries are complex."""
    return bool(jnp.issubdtype(dtype, np.complexfloating))


def number(scheme: str, name: str, value: Any, *, least: float = -math.inf, most: float = math.inf) -> float:
    """Return an argument as a Python float.

    Raises:
        SchemeError: it is traced, no number, or out of range.
    """
    if isinstance(value, jax.core.Tracer):
        raise SchemeError(
            f"{scheme}: {name} is a traced value ({value.aval.str_short()}).",
            "a plan is made of numbers known before anything runs",
            f'pass a Python number, or mark the argument static: jax.jit(..., static_argnames="{name}")',
        )
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        result = float(value)
    except (TypeError, ValueError):
        raise SchemeError(f"{scheme}: {name} must be a number, not {value!r}.") from None
    if math.isnan(result) or not least <= result <= most:
        bounds = {(0.0, math.inf): "at least 0", (0.0, 1.0): "between 0 and 1"}.get((least, most), "a finite number")
        raise SchemeError(f"{scheme}: {name} must be {bounds}, not {value!r}.")
    return result


def entries(scheme: str, name: str, value: Any) -> Any:
    """Return an argument as a Python number, or its entries as nested tuples.

    Raises:
        SchemeError: it is traced, or neither a number nor an array of finite numbers.
    """
    if isinstance(value, jax.core.Tracer):
        return number(scheme, name, value)
    try:
        if isinstance(value, bool | bytes) or (isinstance(value, str) and "j" not in value):
            raise TypeError
        array = np.asarray(complex(value) if isinstance(value, str) else value)
        if array.dtype.kind in "UV":  # complex numbers as JSON keeps them, or one of JAX's narrow types
            array = array.astype(complex if array.dtype.kind == "U" else float)
        if array.dtype.kind not in "iufc":
            raise TypeError
    except (TypeError, ValueError):
        raise SchemeError(f"{scheme}: {name} must be a number or an array of numbers, not {value!r}.") from None
    if np.isnan(array).any():
        raise SchemeError(f"{scheme}: {name} must be a finite number, not {value!r}.")
    plain = array.astype(complex if array.dtype.kind == "c" else float).tolist()
    return nested(plain)


def nested(value: Any) -> Any:
    """Return nested lists as nested tuples."""
    return tuple(map(nested, value)) if isinstance(value, list) else value


def positive_number(scheme: str, name: str, value: Any) -> float:
    """Return an argument as a positive, finite Python float.

    Raises:
        SchemeError: it is traced, no number, or not positive and finite.
    """
    result = number(scheme, name, value)
    if not 0 < result < math.inf:
        raise SchemeError(
            f"{scheme}: {name} must be positive, not {value!r}.", f'write ("{scheme}", {{"{name}": 1.0}})'
        )
    return result


def choice(scheme: str, name: str, value: Any, options: tuple[str, ...]) -> str:
    """Return an argument that must be one of a few words.

    Raises:
        SchemeError: it is another one.
    """
    if value not in options:
        raise SchemeError(f"{scheme}: {name} must be one of {', '.join(map(repr, options))}, not {value!r}.")
    return str(value)


def gain_number(scheme: str, name: str, value: float | str | Callable[[Any], Any]) -> float:
    """Return a gain given as a number, an activation or the name of one."""
    if isinstance(value, str) or (callable(value) and not hasattr(value, "dtype")):
        return exact_gain(value)
    return number(scheme, name, value)


def averages(fan_in: float, fan_out: float) -> dict[str, float]:
    """Return mode of a variance scaling → the number of fans that it divides by."""
    return {
        "fan_in": fan_in,
        "fan_out": fan_out,
        "fan_avg": (fan_in + fan_out) / 2,
        "fan_geo_avg": (fan_in * fan_out) ** 0.5,
    }


def array_name(parameter: Parameter) -> str:
    """Return how an error names a parameter."""
    return f'"{parameter.path}"' if parameter.path else "the array"
