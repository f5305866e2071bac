"""The table of schemes: one function, one row. What a name means, its arguments, its source."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np

from initax._errors import SchemeError, message
from initax._model._parameter import FrameworkInit, Layer, Parameter, Role
from initax._model._reason import Reason
from initax.schemes._bias import ForgetGate, Prior
from initax.schemes._callables import Framework
from initax.schemes._distributions import Constant, Normal, TruncatedNormal, Uniform, warn_of_bounds
from initax.schemes._initializer import (
    NO_DEFAULT,
    Fans,
    Initializer,
    Recipe,
    changed,
    choice,
    entries,
    gain_number,
    number,
    positive_number,
)
from initax.schemes._scheme import Scheme, as_initializer, enter, unknown_argument, weights_only
from initax.schemes._structured import METHODS, DeltaOrthogonal, Eye, Orthogonal, Sparse
from initax.schemes._variance import (
    DISTRIBUTIONS,
    MODES,
    ScaleDefault,
    TorchUniform,
    UniformFanIn,
    VarianceScaling,
)

Factory = TypeVar("Factory", bound=Callable[..., Scheme])
Gain = float | str | Callable[[Any], Any]
ZEROS = Constant("zeros", ())


def row(*names: str) -> Callable[[Factory], Factory]:
    """Enter a factory into the table under these names."""

    def put(factory: Factory) -> Factory:
        signature = inspect.signature(factory)

        @functools.wraps(factory)
        def called(*args: Any, **kwargs: Any) -> Scheme:
            for argument, value in kwargs.items():
                if argument not in signature.parameters:
                    raise SchemeError(unknown_argument(names[0], argument, value))
            return factory(*args, **kwargs)

        for name in names:
            enter(name, called)
        return cast("Factory", called)

    return put


def made(name: str, args: tuple[tuple[str, Any], ...], parts: dict[Role, Initializer | None]) -> Scheme:
    """Return a scheme under its name, with the arguments that differ from the defaults."""
    return Scheme.of(parts, name, dict(args))


def _variance(name: str, scale: float, mode: str, distribution: str | bool, fans: str) -> Scheme:
    choice(name, "fans", fans, ("nominal", "effective"))
    args = changed(fans=(fans, "nominal"))
    if not isinstance(distribution, str):
        if not isinstance(distribution, bool):
            raise SchemeError(message(f"{name}: truncated must be True or False, not {distribution!r}."))
        args += changed(truncated=(distribution, True))
        distribution = "truncated_normal" if distribution else "normal"
    return made(name, args, weights_only(VarianceScaling(name, args, scale, mode, distribution, fans)))


@row("variance_scaling")
def variance_scaling(
    scale: float = 1.0, mode: str = "fan_in", distribution: str = "truncated_normal", *, fans: Fans = "nominal"
) -> Scheme:
    """Return weights of zero mean and variance `scale / n`, zero biases.

    Args:
        scale: multiplies the variance.
        mode: what `n` is: `"fan_in"`, `"fan_out"`, `"fan_avg"` or `"fan_geo_avg"`.
        distribution: `"truncated_normal"` (cut at two standard deviations and corrected for the cut), `"normal"` or
            `"uniform"`; for complex weights the circular normal, the cut modulus and the uniform disk.
        fans: `"nominal"` as the field counts them, or `"effective"`: what an output really sums over.

    Raises:
        SchemeError: an argument is out of range; when a plan is made, a fan is zero or unknown.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw(ix.schemes.variance_scaling(2.0, "fan_out"), jax.random.key(0), (64, 32)).shape
        (64, 32)

    References:
        `jax.nn.initializers.variance_scaling`, with which real draws agree bit for bit. Its complex truncated normal is
        1.87 % too wide in variance; this one is not.
    """
    scale = number("variance_scaling", "scale", scale, least=0.0)
    choice("variance_scaling", "mode", mode, MODES)
    choice("variance_scaling", "distribution", distribution, DISTRIBUTIONS)
    choice("variance_scaling", "fans", fans, ("nominal", "effective"))
    args = changed(
        scale=(scale, 1.0),
        mode=(mode, "fan_in"),
        distribution=(distribution, "truncated_normal"),
        fans=(fans, "nominal"),
    )
    return made(
        "variance_scaling",
        args,
        weights_only(VarianceScaling("variance_scaling", args, scale, mode, distribution, fans)),
    )


@row("he_normal", "kaiming_normal")
def he_normal(*, fans: Fans = "nominal", truncated: bool = True) -> Scheme:
    """Return truncated normal weights of variance `2 / fan_in`, zero biases; also called `kaiming_normal`.

    PyTorch's `kaiming_normal_` does not truncate; that is `truncated=False`.

    Args:
        fans: `"nominal"` or `"effective"`.
        truncated: whether the normal is cut at two standard deviations, and corrected for it.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("he_normal", jax.random.key(0), (64, 32)).shape
        (64, 32)

    References:
        He et al. 2015, arXiv 1502.01852, eq. 10.
    """
    return _variance("he_normal", 2.0, "fan_in", truncated, fans)


@row("he_uniform", "kaiming_uniform")
def he_uniform(*, fans: Fans = "nominal") -> Scheme:
    """Return uniform weights of variance `2 / fan_in`, zero biases; also called `kaiming_uniform`.

    Args:
        fans: `"nominal"` or `"effective"`.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("he_uniform", jax.random.key(0), (3, 3, 16, 32)).shape
        (3, 3, 16, 32)

    References:
        He et al. 2015, arXiv 1502.01852, eq. 10.
    """
    return _variance("he_uniform", 2.0, "fan_in", "uniform", fans)


@row("glorot_normal", "xavier_normal")
def glorot_normal(*, fans: Fans = "nominal", truncated: bool = True) -> Scheme:
    """Return truncated normal weights of variance `2 / (fan_in + fan_out)`, zero biases; also called `xavier_normal`.

    PyTorch's `xavier_normal_` does not truncate; that is `truncated=False`.

    Args:
        fans: `"nominal"` or `"effective"`.
        truncated: whether the normal is cut at two standard deviations, and corrected for it.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("glorot_normal", jax.random.key(0), (64, 32)).shape
        (64, 32)

    References:
        Glorot & Bengio 2010, AISTATS, eq. 12.
    """
    return _variance("glorot_normal", 1.0, "fan_avg", truncated, fans)


@row("glorot_uniform", "xavier_uniform")
def glorot_uniform(*, fans: Fans = "nominal") -> Scheme:
    """Return uniform weights of variance `2 / (fan_in + fan_out)`, zero biases; also called `xavier_uniform`.

    Args:
        fans: `"nominal"` or `"effective"`.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("glorot_uniform", jax.random.key(0), (64, 32)).shape
        (64, 32)

    References:
        Glorot & Bengio 2010, AISTATS, eq. 16.
    """
    return _variance("glorot_uniform", 1.0, "fan_avg", "uniform", fans)


@row("lecun_normal")
def lecun_normal(*, fans: Fans = "nominal", truncated: bool = True) -> Scheme:
    """Return truncated normal weights of variance `1 / fan_in`, zero biases.

    Args:
        fans: `"nominal"` or `"effective"`.
        truncated: whether the normal is cut at two standard deviations, and corrected for it.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("lecun_normal", jax.random.key(0), (64, 32)).shape
        (64, 32)

    References:
        LeCun et al. 1998, "Efficient BackProp", eq. 16.
    """
    return _variance("lecun_normal", 1.0, "fan_in", truncated, fans)


@row("lecun_uniform")
def lecun_uniform(*, fans: Fans = "nominal") -> Scheme:
    """Return uniform weights of variance `1 / fan_in`, zero biases.

    Args:
        fans: `"nominal"` or `"effective"`.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("lecun_uniform", jax.random.key(0), (64, 32)).shape
        (64, 32)

    References:
        LeCun et al. 1998, "Efficient BackProp", eq. 16.
    """
    return _variance("lecun_uniform", 1.0, "fan_in", "uniform", fans)


@row("zeros")
def zeros() -> Scheme:
    """Return zero weights and zero biases.

    Examples:
        >>> import initax as ix, jax
        >>> float(ix.draw("zeros", jax.random.key(0), (4, 2)).sum())
        0.0
    """
    return made("zeros", (), weights_only(ZEROS))


@row("ones")
def ones() -> Scheme:
    """Return weights of one and zero biases.

    Examples:
        >>> import initax as ix, jax
        >>> float(ix.draw("ones", jax.random.key(0), (4, 2)).sum())
        8.0
    """
    return made("ones", (), weights_only(Constant("ones", (), 1.0)))


@row("constant")
def constant(value: Any) -> Scheme:
    """Return weights that are all `value`, and zero biases.

    Args:
        value: a number, complex for complex weights (also as a text, `"1+2j"`), or an array or nested list of them.
            That is broadcast as NumPy does, for weights in the layout `(*receptive, in, out)`: a vector has one entry
            for each output.

    Raises:
        SchemeError: `value` is no number and no array of numbers; when a plan is made, it does not broadcast to an
            array, or is complex where that is real.

    Examples:
        >>> import initax as ix, jax
        >>> float(ix.draw(("constant", {"value": 0.5}), jax.random.key(0), (4, 2)).sum())
        4.0
        >>> ix.draw(("constant", {"value": [1.0, 2.0]}), jax.random.key(0), (3, 2), axes="i o")[0].tolist()
        [1.0, 2.0]
    """
    value = entries("constant", "value", value)
    args = (("value", value),)
    return made("constant", args, weights_only(Constant("constant", args, value)))


@row("uniform")
def uniform(scale: float = 0.01, *, lower: float | None = None, upper: float | None = None) -> Scheme:
    """Return weights uniform between zero and `scale`, as `jax.nn.initializers.uniform` has it, and zero biases.

    With `lower` and `upper` they are uniform between these. Of a complex weight real and imaginary part are drawn
    so. An interval that follows from the fans is `variance_scaling(..., distribution="uniform")` or
    `uniform_fan_in`.

    Args:
        scale: upper end of the interval, which is never reached where it is 1.
        lower: lower end of the interval in place of zero.
        upper: upper end of the interval in place of `scale`.

    Raises:
        SchemeError: an argument is no number, `lower` and `upper` are not in order, or one of them stands alone or
            beside `scale`.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("uniform", jax.random.key(0), (4, 2)).shape
        (4, 2)
        >>> w = ix.draw(("uniform", {"lower": -1.0, "upper": 2.0}), jax.random.key(0), (64, 64))
        >>> bool(w.min() < -0.9), bool(w.max() > 1.9)
        (True, True)
    """
    scale = number("uniform", "scale", scale)
    lower = None if lower is None else number("uniform", "lower", lower)
    upper = None if upper is None else number("uniform", "upper", upper)
    if (lower is None) != (upper is None) or (upper is not None and scale != 0.01):
        raise SchemeError(
            message(
                "uniform takes scale, or lower and upper together.",
                'between two numbers: ("uniform", {"lower": -0.1, "upper": 0.1})',
            )
        )
    if lower is not None and upper is not None and not lower < upper:
        raise SchemeError(message(f"uniform: lower must be below upper, not lower={lower}, upper={upper}."))
    args = changed(scale=(scale, 0.01), lower=(lower, None), upper=(upper, None))
    return made("uniform", args, weights_only(Uniform("uniform", args, scale, lower, upper)))


@row("normal")
def normal(stddev: float = 0.01, mean: float | complex = 0.0) -> Scheme:
    """Return normal weights and zero biases.

    Args:
        stddev: standard deviation; of a complex entry, of its modulus.
        mean: mean; of complex weights it may be complex.

    Raises:
        SchemeError: `stddev` is negative or no number, or `mean` no number; when a plan is made, `mean` is complex and
            a weight real.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw(ix.schemes.normal(0.02), jax.random.key(0), (4, 2)).shape
        (4, 2)
    """
    stddev, mean = number("normal", "stddev", stddev, least=0.0), _mean("normal", mean)
    args = changed(stddev=(stddev, 0.01), mean=(mean, 0.0))
    return made("normal", args, weights_only(Normal("normal", args, stddev, mean)))


def _mean(name: str, value: Any) -> float | complex:
    found: float | complex | tuple[Any, ...] = entries(name, "mean", value)
    if isinstance(found, tuple):
        raise SchemeError(message(f"{name}: mean must be a number, not {value!r}."))
    return found


@row("biased_normal")
def biased_normal(stddev: float = 0.01, mean: float = 0.0) -> Scheme:
    """Return normal weights and normal biases of the same law.

    Args:
        stddev: standard deviation of both.
        mean: mean of both.

    Raises:
        SchemeError: `stddev` is negative or no number.

    Examples:
        >>> import initax as ix
        >>> ix.schemes.biased_normal(0.1).parts["bias"].stddev
        0.1
    """
    stddev, mean = number("biased_normal", "stddev", stddev, least=0.0), number("biased_normal", "mean", mean)
    args = changed(stddev=(stddev, 0.01), mean=(mean, 0.0))
    drawn = Normal("biased_normal", args, stddev, mean)
    return made("biased_normal", args, weights_only(drawn, drawn))


@row("truncated_normal")
def truncated_normal(
    stddev: float = 0.01, mean: float = 0.0, lower: float = -2.0, upper: float = 2.0, *, absolute: bool = False
) -> Scheme:
    """Return normal weights cut at two bounds, and zero biases.

    `stddev` is the standard deviation before the cut, as in JAX, PyTorch and Lux; at the default bounds the draw's own
    is 0.8796 of it.

    Args:
        stddev: standard deviation before the cut.
        mean: mean before the cut.
        lower: lower bound, in standard deviations from the mean.
        upper: upper bound, likewise.
        absolute: bounds are values of the weights instead, as in `torch.nn.init.trunc_normal_` and Lux.

    Raises:
        SchemeError: `stddev` is not positive, or the bounds are not in order; when a plan is made, a weight is complex.

    Warns:
        InitaxWarning: the bounds stand a fourth of a standard deviation apart or less, as values given for standard
            deviations do, or both more than five standard deviations on one side of the mean.

    Examples:
        >>> import initax as ix, jax
        >>> scheme = ix.schemes.truncated_normal(0.02, lower=-0.03, upper=0.03, absolute=True)
        >>> bool(abs(ix.draw(scheme, jax.random.key(0), (64, 32))).max() <= 0.03)
        True
    """
    name = "truncated_normal"
    stddev, mean = number(name, "stddev", stddev, least=0.0), number(name, "mean", mean)
    lower, upper = number(name, "lower", lower), number(name, "upper", upper)
    if not lower < upper:
        raise SchemeError(message(f"{name}: lower must be below upper, not lower={lower}, upper={upper}."))
    args = changed(
        stddev=(stddev, 0.01), mean=(mean, 0.0), lower=(lower, -2.0), upper=(upper, 2.0), absolute=(absolute, False)
    )
    if absolute:
        if stddev == 0:
            raise SchemeError(message(f"{name}: stddev must be positive where bounds are absolute, not 0."))
        lower, upper = (lower - mean) / stddev, (upper - mean) / stddev
    law = TruncatedNormal(name, args, stddev, mean, lower, upper)
    warn_of_bounds(law, are_values=absolute)
    return made(name, args, weights_only(law))


@row("trunc_normal")
def trunc_normal(stddev: float = 1.0, mean: float = 0.0, lower: float = -2.0, upper: float = 2.0) -> Scheme:
    """Return normal weights cut at two values, as `torch.nn.init.trunc_normal_` does, and zero biases.

    With the small `stddev` that one gives it, nothing is cut: 2 is a hundred standard deviations of 0.02. The scheme
    with bounds in standard deviations is `truncated_normal`.

    Args:
        stddev: standard deviation before the cut.
        mean: mean before the cut.
        lower: lowest value.
        upper: highest value.

    Raises:
        SchemeError: `stddev` is not positive, or the bounds are not in order; when a plan is made, a weight is complex.

    Examples:
        >>> import initax as ix, jax
        >>> w = ix.draw(("trunc_normal", {"stddev": 0.02}), jax.random.key(0), (64, 64))
        >>> bool(abs(float(w.std()) / 0.02 - 1) < 0.05)
        True
    """
    name = "trunc_normal"
    stddev, mean = positive_number(name, "stddev", stddev), number(name, "mean", mean)
    lower, upper = number(name, "lower", lower), number(name, "upper", upper)
    if not lower < upper:
        raise SchemeError(message(f"{name}: lower must be below upper, not lower={lower}, upper={upper}."))
    args = changed(stddev=(stddev, 1.0), mean=(mean, 0.0), lower=(lower, -2.0), upper=(upper, 2.0))
    law = TruncatedNormal(name, args, stddev, mean, (lower - mean) / stddev, (upper - mean) / stddev)
    warn_of_bounds(law, are_values=True)
    return made(name, args, weights_only(law))


@row("orthogonal")
def orthogonal(gain: Gain = 1.0, *, method: Literal["auto", "householder", "polar"] = "auto") -> Scheme:
    """Return `gain` times Haar-distributed orthogonal weights, and zero biases; complex weights are unitary.

    A convolution is a matrix `(receptive field * in, out)`; the shorter side is orthonormal. Every group, gate and
    stack entry is orthogonal by itself.

    Args:
        gain: multiplies the standard deviation; a number, or an activation or its name.
        method: `"householder"` multiplies random reflectors out, each matrix on one device; `"polar"` takes the polar
            factor of a Gaussian matrix, ten to thirty times the work, which all devices that share a matrix do
            together; `"auto"` is polar above 2²⁸ entries of one matrix. Both draw the same law, not the same numbers.

    Raises:
        SchemeError: `method` is none of the three; when a plan is made, a weight has no input or output axis.

    Examples:
        >>> import initax as ix, jax, jax.numpy as jnp
        >>> w = ix.draw("orthogonal", jax.random.key(0), (64, 50), axes="o i")
        >>> bool(jnp.allclose(w.T @ w, jnp.eye(50), atol=1e-5))
        True

    References:
        Saxe et al. 2014, arXiv 1312.6120; Stewart 1980, SIAM J. Numer. Anal. 17(3), and Mezzadri 2007, arXiv
        math-ph/0609050, for the uniform distribution.
    """
    value = gain_number("orthogonal", gain)
    choice("orthogonal", "method", method, METHODS)
    args = changed(gain=(value, 1.0), method=(method, "auto"))
    return made("orthogonal", args, weights_only(Orthogonal("orthogonal", args, value, method)))


@row("delta_orthogonal")
def delta_orthogonal(gain: Gain = 1.0) -> Scheme:
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
    value = gain_number("delta_orthogonal", gain)
    args = changed(gain=(value, 1.0))
    return made("delta_orthogonal", args, weights_only(DeltaOrthogonal("delta_orthogonal", args, value)))


@row("dirac")
def dirac(gain: Gain = 1.0) -> Scheme:
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
    value = gain_number("dirac", gain)
    args = changed(gain=(value, 1.0))
    return made("dirac", args, weights_only(Eye("dirac", args, value)))


@row("identity")
def identity(gain: Gain = 1.0, shift: int | tuple[int, ...] = 0) -> Scheme:
    """Return identity matrices (for a convolution, at its center tap), and zero biases.

    Args:
        gain: the value on the diagonal; a number, or an activation or its name.
        shift: how far the outputs are rolled: input `c` goes to output `c + shift`, around the end. Several numbers
            roll each axis of the layout `(*receptive, in, out)`.

    Raises:
        SchemeError: `shift` is no whole number, nor several; when a plan is made, a weight has no input or output axis,
            or another number of axes than there are shifts.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw(ix.schemes.identity(shift=1), jax.random.key(0), (2, 3)).tolist()
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]

    References:
        Le et al. 2015, arXiv 1504.00941, section 2; the shift as in Flux's `identity_init`.
    """
    value = gain_number("identity", gain)
    found = shift if isinstance(shift, tuple | list) else (shift,)
    steps = [number("identity", "shift", each) for each in found]
    if not steps or not all(each.is_integer() for each in steps):
        raise SchemeError(message(f"identity: shift must be a whole number, or one for each axis, not {shift!r}."))
    rolled = tuple(map(int, steps)) if isinstance(shift, tuple | list) else int(steps[0])
    args = changed(gain=(value, 1.0), shift=(rolled, 0))
    return made("identity", args, weights_only(Eye("identity", args, value, rolled)))


@row("sparse")
def sparse(sparsity: float = 0.9, stddev: float = 0.01) -> Scheme:
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
    sparsity = number("sparse", "sparsity", sparsity, least=0.0, most=1.0)
    stddev = number("sparse", "stddev", stddev, least=0.0)
    args = changed(sparsity=(sparsity, 0.9), stddev=(stddev, 0.01))
    return made("sparse", args, weights_only(Sparse("sparse", args, sparsity, stddev)))


@row("uniform_fan_in")
def uniform_fan_in(*, fans: Fans = "nominal", fan: float | None = None) -> Scheme:
    """Return weights and biases uniform between plus and minus `1 / sqrt(fan_in)`.

    As a bias beside other weights: `("he_normal", "uniform_fan_in")`.

    Args:
        fans: `"nominal"` or `"effective"`.
        fan: the number to use in place of fan_in, as PyTorch and Equinox use the hidden size in a recurrent cell.

    Raises:
        SchemeError: when a plan is made, a fan is zero or unknown.

    Examples:
        >>> import initax as ix
        >>> ix.Scheme("he_normal", bias="uniform_fan_in").parts["bias"].name
        'uniform_fan_in'
    """
    choice("uniform_fan_in", "fans", fans, ("nominal", "effective"))
    fan = None if fan is None else number("uniform_fan_in", "fan", fan, least=0.0)
    args = changed(fans=(fans, "nominal"), fan=(fan, None))
    drawn = UniformFanIn("uniform_fan_in", args, fans, fan)
    return made("uniform_fan_in", args, weights_only(drawn, drawn))


@row("prior")
def prior(p: Any = 0.01, *, labels: Any = None, link: Literal["auto", "sigmoid", "softmax"] = "auto") -> Scheme:
    """Return biases with which an output starts at a probability; weights are kept.

    Before a sigmoid that is `log(p / (1 - p))`, before a softmax `log(p)`.

    Args:
        p: the probability, strictly between 0 and 1, or one for each output.
        labels: training labels in place of `p`: classes as whole numbers, of shape (examples,), or zeros and ones of
            shape (examples, outputs). The probabilities are their shares, with one example more of each class (of each
            value), so that none is 0 or 1.
        link: what follows the layer. `"auto"`: a softmax where the probabilities are several and add up to one, or
            labels are classes; else a sigmoid.

    Raises:
        SchemeError: `p` is out of range, or there are labels beside it, or labels are of another kind; when a plan is
            made, there are not as many probabilities as outputs.

    Examples:
        >>> import initax as ix, jax
        >>> ix.Scheme("normal", bias=("prior", {"p": 0.1})).parts["bias"].p
        0.1
        >>> bias = ix.draw(("prior", {"p": [0.7, 0.2, 0.1]}), jax.random.key(0), (3,), role="bias")
        >>> [round(float(each), 4) for each in jax.nn.softmax(bias)]
        [0.7, 0.2, 0.1]
        >>> ix.schemes.prior(labels=[0, 0, 0, 1]).parts["bias"].p
        (0.6666666666666666, 0.3333333333333333)

    References:
        Lin et al. 2017, arXiv 1708.02002, section 4.1.
    """
    choice("prior", "link", link, ("auto", "sigmoid", "softmax"))
    if labels is not None:
        if not isinstance(p, float) or p != 0.01:
            raise SchemeError(message("prior takes p or labels, not both."))
        p, link = _shares(labels, link)
    found = entries("prior", "p", p)
    several = found if isinstance(found, tuple) else (found,)
    if not several or not all(isinstance(each, float) and 0 < each < 1 for each in several):
        raise SchemeError(message(f"prior: p must be strictly between 0 and 1, not {p!r}."))
    is_distribution = isinstance(found, tuple) and math.isclose(sum(found), 1.0, rel_tol=1e-4)
    own = ("softmax" if is_distribution else "sigmoid") if link == "auto" else link
    args = changed(p=(found, 0.01), link=(link, "auto"))
    return made("prior", args, weights_only(None, Prior("prior", args, found, own)))


def _shares(labels: Any, link: Any) -> tuple[tuple[float, ...], Any]:
    """The share of each class among labels, each seen once more, and what follows the layer."""
    found = np.asarray(labels)
    if found.ndim == 1 and found.size and found.dtype.kind in "iu" and found.min() >= 0:
        counts = np.bincount(found) + 1
        return tuple(map(float, counts / counts.sum())), "softmax" if link == "auto" else link
    if found.ndim == 2 and found.size and np.isin(found, (0, 1)).all():
        return tuple(map(float, (found.sum(axis=0) + 1) / (len(found) + 2))), "sigmoid" if link == "auto" else link
    raise SchemeError(
        message(
            f"prior: labels of shape {found.shape} and type {found.dtype} are neither classes nor zeros and ones.",
            "classes are whole numbers from 0 on, of shape (examples,); several labels of an example are zeros and "
            "ones, of shape (examples, outputs)",
        )
    )


@row("forget_gate")
def forget_gate(value: float = 1.0) -> Scheme:
    """Return LSTM biases of `value` for the forget gate and zero for the others; weights are kept.

    Args:
        value: bias of the forget gate.

    Raises:
        SchemeError: `value` is no number; when a plan is made, a layer has no forget gate.

    Examples:
        >>> import initax as ix
        >>> ix.Scheme("orthogonal", bias="forget_gate").parts["bias"].value
        1.0

    References:
        Jozefowicz et al. 2015, "An Empirical Exploration of Recurrent Network Architectures", section 2.2.
    """
    value = number("forget_gate", "value", value)
    args = changed(value=(value, 1.0))
    return made("forget_gate", args, weights_only(None, ForgetGate("forget_gate", args, value)))


@row("torch_default")
def torch_default() -> Scheme:
    """Return what PyTorch gives its layers: `U(-1/sqrt(fan_in), 1/sqrt(fan_in))` for weights and biases alike.

    The hidden size in recurrent cells, a standard normal for embeddings, one and zero in norms, 0.25 for PReLU.
    For a transposed convolution PyTorch counts the outputs as fan_in; this takes the true one, as Equinox does.

    Examples:
        >>> import initax as ix
        >>> ix.schemes.torch_default().parts["scale"].slope
        0.25

    References:
        `torch.nn.Linear.reset_parameters`: `kaiming_uniform_` with `a=sqrt(5)`, which is the bound above.
    """
    drawn = TorchUniform("torch_default", ())
    parts = weights_only(drawn, drawn)
    parts |= {"embedding": Normal("normal", (("stddev", 1.0),), 1.0), "scale": ScaleDefault("torch_default", ())}
    return made("torch_default", (), parts)


@row("flax_default")
def flax_default() -> Scheme:
    """Return what Flax gives its layers: LeCun normal weights, orthogonal recurrent ones, zero biases.

    Embeddings are normal of variance `1 / features`, scales of norms one, a PReLU's slope 0.01.

    Examples:
        >>> import initax as ix
        >>> ix.schemes.flax_default().parts["recurrent"].name
        'orthogonal'
    """
    embedding = changed(distribution=("normal", "truncated_normal"))
    parts = weights_only(VarianceScaling("lecun_normal", ()))
    parts |= {
        "recurrent": Orthogonal("orthogonal", ()),
        "embedding": VarianceScaling("variance_scaling", embedding, 1.0, "fan_in", "normal"),
        "scale": ScaleDefault("flax_default", (), 0.01),
    }
    return made("flax_default", (), parts)


@dataclass(frozen=True, slots=True)
class Default(Initializer):
    """What the layer's own framework gives the parameter."""

    fits_bias: ClassVar[bool] = True
    draws_reserved: ClassVar[bool] = True

    def declines(self, parameter: Parameter) -> Reason | None:
        """Return why it has nothing to say of a parameter: its layer declares no default."""
        return NO_DEFAULT if parameter.default is None else None

    def recipe(self, parameter: Parameter, layer: Layer) -> Recipe:
        """Return the recipe for one parameter."""
        if isinstance(parameter.default, FrameworkInit):
            return Framework(self.name, (), parameter.default).recipe(parameter, layer)
        found = as_initializer(parameter.default, "bias" if parameter.role == "state" else parameter.role or "weight")
        if found is None:
            raise SchemeError(message(f'the default of "{parameter.path}", {parameter.default!r}, draws nothing.'))
        return found.recipe(parameter, layer)


@row("default")
def default() -> Scheme:
    """Return what each layer's own framework gives it, biases and norms included.

    Examples:
        >>> import initax as ix, equinox as eqx, jax
        >>> model = eqx.nn.MLP(2, 3, 8, depth=1, key=jax.random.key(0))
        >>> [draw.initializer.name for draw in ix.plan(model, {"*": "default"}).draws][:2]
        ['default', 'default']
    """
    drawn = Default("default", ())
    return made("default", (), weights_only(drawn, drawn) | {"scale": drawn})


SchemeName = Literal[
    "auto",
    "biased_normal",
    "constant",
    "default",
    "delta_orthogonal",
    "dirac",
    "flax_default",
    "forget_gate",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "hoedt",
    "icnn",
    "identity",
    "irnn",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "mup_hidden",
    "mup_readout",
    "normal",
    "ones",
    "orthogonal",
    "prior",
    "scaled",
    "shrink_perturb",
    "siren",
    "sparse",
    "torch_default",
    "trunc_normal",
    "truncated_normal",
    "uniform",
    "uniform_fan_in",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zero_init",
    "zeros",
]
"""The names of the schemes initax ships, for type checkers."""
