"""Initializers with structure across entries: orthogonal, delta-orthogonal, Dirac, identity, sparse.

They are made in the canonical layout `(batch entries, *receptive, in, out)` and put back, which makes them right per
group, gate and stack entry in every framework's layout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from initax._errors import SchemeError
from initax._math._axes import Axes, resolve
from initax._math._haar import haar
from initax._math._polar import polar
from initax._math._sharding import Split, split_of
from initax._model._parameter import Layer, Parameter
from initax.schemes._constant import ZEROS
from initax.schemes._initializer import Initializer, Kernel, Recipe, array_name, number
from initax.schemes._named import Gain, NonNegative, Share, scheme
from initax.schemes._scheme import Parts, weights_only

Method = Literal["auto", "householder", "polar"]
LARGEST = 2**28
"""Entries of the largest matrix that a device is asked to draw alone: 16,384 x 16,384, 1 GiB in float32. The draw's
temporaries take five times that. It depends on no device, mesh or backend, and neither do the values."""


@dataclass(frozen=True, slots=True)
class Structured(Kernel):
    """A kernel that has to see an array as a whole.

    Attributes:
        axes: the axes of the array.
    """

    axes: Axes
    elementwise: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class HaarKernel(Structured):
    """Haar-distributed (semi-)orthogonal matrices `(receptive * in, out)`, one per batch entry.

    Attributes:
        is_polar: whether they are polar factors, made by all devices together.
        split: where they live.
    """

    is_polar: bool = False
    split: Split | None = None

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        context = jax.sharding.get_abstract_mesh()
        # Inside the user's own shard_map there is no mesh left to spread over.
        split = None if context.manual_axes else self.split
        if split is None or not context.explicit_axes:
            return self._drawn(key, numbers[0], dtype, split)
        # Where the user's mesh wants shardings in types, the draw keeps to itself how it spreads.
        spread = jax.sharding.auto_axes(
            lambda key, gain: self._drawn(key, gain, dtype, split), out_sharding=split.stored
        )
        return spread(key, numbers[0])

    @property
    def may_round(self) -> bool:  # type: ignore[override]
        """Reflectors may; the polar iteration says by NaN that it has failed."""
        return not self.is_polar

    def mean(self, numbers: tuple[float, ...]) -> float:
        """Return zero."""
        return 0.0

    def anywhere(self) -> HaarKernel:
        """Return the kernel without a mesh."""
        return replace(self, split=None)

    def core(self) -> tuple[Kernel, tuple[int, ...]] | None:
        """Return what draws the matrices with their longer side first."""
        *stack, rows, columns = self._matrices_shape
        shape = (*stack, max(rows, columns), min(rows, columns))
        axes = resolve(" ".join([*(f"b{axis}" for axis in range(len(stack))), "i o"]), shape)
        is_core = (axes.pattern, axes.shape) == (self.axes.pattern, self.axes.shape)
        if self.is_polar or self.split is not None or is_core:
            return None
        return HaarKernel(axes), shape

    def laid_out(self, drawn: jax.Array) -> jax.Array:
        """Return the matrices in the stored layout, from those with their longer side first."""
        *_, rows, columns = self._matrices_shape
        return self._stored(jnp.swapaxes(drawn, -1, -2) if rows < columns else drawn)

    @property
    def _matrices_shape(self) -> tuple[int, ...]:
        *receptive, inputs, outputs = self.axes.canonical_shape
        stack = (self.axes.split[axis] for axis in self.axes.batch_axis)
        return (*stack, math.prod(receptive) * inputs, outputs)

    def _drawn(self, key: jax.Array, gain: Any, dtype: Any, split: Split | None) -> jax.Array:
        matrices = (polar if self.is_polar else haar)(key, self._matrices_shape, dtype, split)
        return self._stored(matrices * jnp.asarray(gain, dtype))

    def _stored(self, matrices: jax.Array) -> jax.Array:
        return self.axes.from_canonical(jnp.reshape(matrices, (self.axes.batch_size, *self.axes.canonical_shape)))


@dataclass(frozen=True, slots=True)
class DeltaHaarKernel(HaarKernel):
    """Zero but for the center tap, which is a Haar-distributed matrix `(in, out)`."""

    @property
    def _matrices_shape(self) -> tuple[int, ...]:
        *_, inputs, outputs = self.axes.canonical_shape
        return (*(self.axes.split[axis] for axis in self.axes.batch_axis), inputs, outputs)

    def _stored(self, matrices: jax.Array) -> jax.Array:
        taps = jnp.reshape(matrices, (self.axes.batch_size, *self._matrices_shape[-2:]))
        return self.axes.from_canonical(at_center(self.axes, taps))


@dataclass(frozen=True, slots=True)
class EyeKernel(Structured):
    """The identity from inputs to outputs at the center tap, then rolled along the axes of the canonical layout."""

    shift: tuple[int, ...]
    random: ClassVar[bool] = False

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        *_, inputs, outputs = self.axes.canonical_shape
        eye = jnp.eye(inputs, outputs, dtype=dtype) * jnp.asarray(numbers[0], dtype)
        kernels = at_center(self.axes, eye)
        return self.axes.from_canonical(jnp.roll(kernels, self.shift, axis=range(1, kernels.ndim)))

    def lowest(self, numbers: tuple[float, ...]) -> float:
        """Return zero, or the tap where that is negative."""
        return min(numbers[0], 0.0)


@dataclass(frozen=True, slots=True)
class SparseKernel(Structured):
    """Normal with `zeros` of the incoming weights of every unit set to zero, chosen at random."""

    zeros: int = 0

    def __call__(self, key: jax.Array, numbers: tuple[Any, ...], shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Return the array."""
        canonical = (self.axes.batch_size, *self.axes.canonical_shape)
        for_values, for_places = jax.random.split(key)
        values = jax.random.normal(for_values, canonical, dtype) * jnp.asarray(numbers[0], dtype)
        flat = (canonical[0], math.prod(canonical[1:-1]), canonical[-1])
        rank = jnp.argsort(jnp.argsort(jax.random.bits(for_places, flat), axis=1), axis=1)
        return self.axes.from_canonical(jnp.where(jnp.reshape(rank, canonical) < self.zeros, 0, values))

    def mean(self, numbers: tuple[float, ...]) -> float:
        """Return zero."""
        return 0.0


def at_center(axes: Axes, taps: jax.Array) -> jax.Array:
    """Return kernels that are zero but for their center taps.

    Args:
        axes: the axes of the array.
        taps: the matrices at the center, of shape `(batch entries, in, out)`, or one `(in, out)` for all of them.

    Returns:
        The kernels in the canonical layout, `(batch entries, *receptive, in, out)`.
    """
    kernels = jnp.zeros((axes.batch_size, *axes.canonical_shape), taps.dtype)
    return kernels.at[(slice(None), *((size - 1) // 2 for size in axes.canonical_shape[:-2]))].set(taps)


@dataclass(frozen=True, slots=True)
class OfMatrix(Initializer):
    """What draws a matrix from inputs to outputs, or a convolution of such; an array without entries is zeros."""

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        axes = self.known_axes(parameter)
        seen = f'shape {parameter.shape}, axes "{axes.pattern}"'
        if not (axes.in_axis and axes.out_axis):
            head = f"{self.name} needs input and output axes; {array_name(parameter)} has {seen}."
            raise SchemeError(head, 'for a vector use "normal" or "zeros"')
        if self.name in ("dirac", "delta_orthogonal") and not axes.receptive_axis:
            line = 'for a matrix use "identity"' if self.name == "dirac" else 'for a matrix use "orthogonal"'
            raise SchemeError(f"{self.name} needs a receptive field; {array_name(parameter)} has {seen}.", line)
        return self.of_matrix(axes, parameter) if 0 not in parameter.shape else ZEROS.recipe(parameter, layer)

    def of_matrix(self, axes: Axes, parameter: Parameter) -> Recipe:
        """Return the recipe for a parameter that has entries, inputs and outputs."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Orthogonal(OfMatrix):
    """`gain` times a uniformly distributed (semi-)orthogonal matrix."""

    gain: float = 1.0
    method: str = "auto"

    def of_matrix(self, axes: Axes, parameter: Parameter) -> Recipe:
        """Return the recipe for a parameter that has entries, inputs and outputs."""
        entries = math.prod(axes.canonical_shape)
        is_polar = self.method == "polar" or (self.method == "auto" and entries > LARGEST)
        kernel = HaarKernel(axes, is_polar, split_of(axes, parameter.sharding))
        longer = max(axes.fan_in, axes.canonical_shape[-1])
        return Recipe(kernel, (self.gain,), abs(self.gain) / math.sqrt(longer))


@dataclass(frozen=True, slots=True)
class DeltaOrthogonal(OfMatrix):
    """`gain` times an orthogonal matrix at the center tap of a convolution."""

    gain: float = 1.0

    def of_matrix(self, axes: Axes, parameter: Parameter) -> Recipe:
        """Return the recipe for a parameter that has entries, inputs and outputs."""
        *receptive, inputs, outputs = axes.canonical_shape
        if inputs > outputs:
            raise SchemeError(
                f"delta_orthogonal needs at least as many outputs as inputs; {array_name(parameter)} has {inputs} "
                f"inputs and {outputs} outputs per group.",
                f'shape {parameter.shape}, axes "{axes.pattern}"',
                'a convolution that narrows can\'t preserve norms: use "orthogonal"',
            )
        kernel = DeltaHaarKernel(axes, split=split_of(axes, parameter.sharding))
        return Recipe(kernel, (self.gain,), abs(self.gain) / math.sqrt(outputs * math.prod(receptive)))


@dataclass(frozen=True, slots=True)
class Eye(OfMatrix):
    """The identity from inputs to outputs, at the center tap of a convolution."""

    gain: float = 1.0
    shift: int | tuple[int, ...] = 0

    def of_matrix(self, axes: Axes, parameter: Parameter) -> Recipe:
        """Return the recipe for a parameter that has entries, inputs and outputs."""
        rank = len(axes.canonical_shape)
        shift = self.shift if isinstance(self.shift, tuple) else (*[0] * (rank - 1), self.shift)
        if len(shift) != rank:
            raise SchemeError(
                f"identity has {len(shift)} shifts, one for each axis, and {array_name(parameter)} has "
                f"{rank} axes in the layout (*receptive, in, out).",
                f'shape {parameter.shape}, axes "{axes.pattern}"',
                "a single number shifts the outputs",
            )
        return Recipe(EyeKernel(axes, shift), (self.gain,), 0.0)


@dataclass(frozen=True, slots=True)
class Sparse(OfMatrix):
    """Normal, with the same number of zeros among the incoming weights of every unit."""

    sparsity: float = 0.9
    stddev: float = 0.01

    def of_matrix(self, axes: Axes, parameter: Parameter) -> Recipe:
        """Return the recipe for a parameter that has entries, inputs and outputs."""
        # Rounded up as in PyTorch, but without rounding errors of the product: 28 % of 25 is 7, and 8 in PyTorch.
        zeros = math.ceil(self.sparsity * axes.fan_in - 1e-9)
        kept = 1 - zeros / axes.fan_in
        return Recipe(SparseKernel(axes, zeros), (self.stddev,), self.stddev * math.sqrt(kept))


@scheme("orthogonal")
def orthogonal(gain: Gain = 1.0, *, method: Method = "auto") -> Parts:
    """Return `gain` times Haar-distributed orthogonal weights, and zero biases; complex weights are unitary.

    A convolution is a matrix `(receptive field * in, out)`; the shorter side is orthonormal. Every group, gate and
    stack entry is orthogonal on its own.

    Args:
        gain: multiplies the standard deviation; a number, or an activation or its name.
        method: `"householder"` multiplies random reflectors out, each matrix on one device; `"polar"` takes the polar
            factor of a Gaussian matrix, ten to thirty times the work, which all devices that share a matrix do
            together; `"auto"` is polar above 2²⁸ entries of one matrix. Both draw the same law, not the same numbers.

    Raises:
        SchemeError: `method` is another word; when a plan is made, a weight has no input or output axis.

    Examples:
        >>> import initax as ix, jax, jax.numpy as jnp
        >>> w = ix.draw("orthogonal", jax.random.key(0), (64, 50), axes="o i")
        >>> bool(jnp.allclose(w.T @ w, jnp.eye(50), atol=1e-5))
        True

    References:
        Saxe et al. 2014, arXiv 1312.6120; Stewart 1980, SIAM J. Numer. Anal. 17(3), and Mezzadri 2007, arXiv
        math-ph/0609050, for the uniform distribution.
    """
    return weights_only(Orthogonal(gain, method))


@scheme("delta_orthogonal")
def delta_orthogonal(gain: Gain = 1.0) -> Parts:
    """Return convolutions that are zero but for an orthogonal center tap, and zero biases.

    Args:
        gain: multiplies the standard deviation; a number, or an activation or its name.

    Raises:
        SchemeError: when a plan is made, a weight has no receptive field, or fewer outputs than inputs.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("delta_orthogonal", jax.random.key(0), (3, 3, 4, 8)).shape
        (3, 3, 4, 8)

    References:
        Xiao et al. 2018, arXiv 1806.05393, algorithm 2.
    """
    return weights_only(DeltaOrthogonal(gain))


@scheme("dirac")
def dirac(gain: Gain = 1.0) -> Parts:
    """Return convolutions that pass their channels on, per group, and zero biases.

    The tap is `(k - 1) // 2`, so that a SAME convolution is the identity for even `k` too. PyTorch's `dirac_` taps
    `k // 2`, which shifts the signal by one there.

    Args:
        gain: the value of the tap; a number, or an activation or its name.

    Raises:
        SchemeError: when a plan is made, a weight has no receptive field.

    Examples:
        >>> import initax as ix, jax
        >>> float(ix.draw("dirac", jax.random.key(0), (3, 3, 4, 8)).sum())
        4.0

    References:
        Zagoruyko & Komodakis 2017, arXiv 1706.00388; `torch.nn.init.dirac_`.
    """
    return weights_only(Eye(gain))


def _shift(name: str, argument: str, value: Any) -> int | tuple[int, ...]:
    several = value if isinstance(value, tuple | list) else (value,)
    steps = [number(name, argument, step) for step in several]
    if not steps or not all(step.is_integer() for step in steps):
        raise SchemeError(f"{name}: {argument} must be a whole number, or one for each axis, not {value!r}.")
    return tuple(map(int, steps)) if isinstance(value, tuple | list) else int(steps[0])


Shift = Annotated[Any, _shift]
"""By how much the outputs are rolled, or each axis."""


@scheme("identity")
def identity(gain: Gain = 1.0, shift: Shift = 0) -> Parts:
    """Return identity matrices (for a convolution, at its center tap), and zero biases.

    Args:
        gain: the value on the diagonal; a number, or an activation or its name.
        shift: how far the outputs are rolled: input `c` goes to output `c + shift`, around the end. Several numbers
            roll each axis of the layout `(*receptive, in, out)`.

    Raises:
        SchemeError: `shift` is neither a whole number nor several; when a plan is made, a weight has no input or output
            axis, or another number of axes than there are shifts.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw(ix.schemes.identity(shift=1), jax.random.key(0), (2, 3)).tolist()
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]

    References:
        Le et al. 2015, arXiv 1504.00941, section 2; the shift as in Flux's `identity_init`.
    """
    return weights_only(Eye(gain, shift))


@scheme("sparse")
def sparse(sparsity: Share = 0.9, stddev: NonNegative = 0.01) -> Parts:
    """Return normal weights with equally many zeros among the incoming weights of every unit, and zero biases.

    PyTorch's `sparse_` and Flux's `sparse_init` zero outgoing weights instead.

    Args:
        sparsity: share of zeros, between 0 and 1; `ceil(sparsity * fan_in)` of them.
        stddev: standard deviation of the others.

    Raises:
        SchemeError: an argument is out of range; when a plan is made, a weight has no input or output axis.

    Examples:
        >>> import initax as ix, jax
        >>> w = ix.draw(ix.schemes.sparse(0.75), jax.random.key(0), (20, 6), axes="i o")
        >>> (w == 0).sum(axis=0).tolist()
        [15, 15, 15, 15, 15, 15]

    References:
        Martens 2010, "Deep learning via Hessian-free optimization", section 5.
    """
    return weights_only(Sparse(sparsity, stddev))
