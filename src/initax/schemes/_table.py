"""The table of schemes: one function, one row. What a name means, its arguments, its source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from initax._errors import SchemeError, message
from initax._model._parameter import FrameworkInit, Layer, Parameter, Role
from initax._model._reason import Reason
from initax.schemes._bias import ForgetGate, Prior
from initax.schemes._callables import Framework
from initax.schemes._distributions import Constant, Normal, TruncatedNormal, Uniform
from initax.schemes._initializer import (
    NO_DEFAULT,
    Fans,
    Initializer,
    Recipe,
    changed,
    choice,
    gain_number,
    number,
)
from initax.schemes._scheme import Scheme, as_initializer, enter, weights_only
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
        for name in names:
            enter(name, factory)
        return factory

    return put


def made(name: str, args: tuple[tuple[str, Any], ...], parts: dict[Role, Initializer | None]) -> Scheme:
    """Return a scheme under its name, with the arguments that differ from the defaults."""
    return Scheme.of(parts, name, dict(args))


def _variance(name: str, scale: float, mode: str, distribution: str, fans: str) -> Scheme:
    choice(name, "fans", fans, ("nominal", "effective"))
    args = changed(fans=(fans, "nominal"))
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
def he_normal(*, fans: Fans = "nominal") -> Scheme:
    """Return truncated normal weights of variance `2 / fan_in`, zero biases; also called `kaiming_normal`.

    PyTorch's `kaiming_normal_` does not truncate; that is `variance_scaling(2.0, "fan_in", "normal")`.

    Args:
        fans: `"nominal"` or `"effective"`.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("he_normal", jax.random.key(0), (64, 32)).shape
        (64, 32)

    References:
        He et al. 2015, arXiv 1502.01852, eq. 10.
    """
    return _variance("he_normal", 2.0, "fan_in", "truncated_normal", fans)


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
def glorot_normal(*, fans: Fans = "nominal") -> Scheme:
    """Return truncated normal weights of variance `2 / (fan_in + fan_out)`, zero biases; also called `xavier_normal`.

    Args:
        fans: `"nominal"` or `"effective"`.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("glorot_normal", jax.random.key(0), (64, 32)).shape
        (64, 32)

    References:
        Glorot & Bengio 2010, AISTATS, eq. 12.
    """
    return _variance("glorot_normal", 1.0, "fan_avg", "truncated_normal", fans)


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
def lecun_normal(*, fans: Fans = "nominal") -> Scheme:
    """Return truncated normal weights of variance `1 / fan_in`, zero biases.

    Args:
        fans: `"nominal"` or `"effective"`.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("lecun_normal", jax.random.key(0), (64, 32)).shape
        (64, 32)

    References:
        LeCun et al. 1998, "Efficient BackProp", eq. 16.
    """
    return _variance("lecun_normal", 1.0, "fan_in", "truncated_normal", fans)


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
def constant(value: float) -> Scheme:
    """Return weights that are all `value`, and zero biases.

    Args:
        value: the value of every weight.

    Raises:
        SchemeError: `value` is no number.

    Examples:
        >>> import initax as ix, jax
        >>> float(ix.draw(("constant", {"value": 0.5}), jax.random.key(0), (4, 2)).sum())
        4.0
    """
    value = number("constant", "value", value)
    args = (("value", value),)
    return made("constant", args, weights_only(Constant("constant", args, value)))


@row("uniform")
def uniform(scale: float = 0.01) -> Scheme:
    """Return weights uniform between zero and `scale`, as `jax.nn.initializers.uniform` has it, and zero biases.

    For an interval around zero use `variance_scaling(..., distribution="uniform")` or `uniform_fan_in`.

    Args:
        scale: upper end of the interval.

    Raises:
        SchemeError: `scale` is no number; when a plan is made, a weight is complex.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw("uniform", jax.random.key(0), (4, 2)).shape
        (4, 2)
    """
    scale = number("uniform", "scale", scale)
    args = changed(scale=(scale, 0.01))
    return made("uniform", args, weights_only(Uniform("uniform", args, scale)))


@row("normal")
def normal(stddev: float = 0.01, mean: float = 0.0) -> Scheme:
    """Return normal weights and zero biases.

    Args:
        stddev: standard deviation; of a complex entry, of its modulus.
        mean: mean.

    Raises:
        SchemeError: `stddev` is negative or no number.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw(ix.schemes.normal(0.02), jax.random.key(0), (4, 2)).shape
        (4, 2)
    """
    stddev, mean = number("normal", "stddev", stddev, least=0.0), number("normal", "mean", mean)
    args = changed(stddev=(stddev, 0.01), mean=(mean, 0.0))
    return made("normal", args, weights_only(Normal("normal", args, stddev, mean)))


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
    return made(name, args, weights_only(TruncatedNormal(name, args, stddev, mean, lower, upper)))


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
def identity(gain: Gain = 1.0, shift: int = 0) -> Scheme:
    """Return identity matrices (for a convolution, at its center tap), and zero biases.

    Args:
        gain: the value on the diagonal; a number, or an activation or its name.
        shift: how far the outputs are rolled: input `c` goes to output `c + shift`, around the end.

    Raises:
        SchemeError: `shift` is no whole number; when a plan is made, a weight has no input or output axis.

    Examples:
        >>> import initax as ix, jax
        >>> ix.draw(ix.schemes.identity(shift=1), jax.random.key(0), (2, 3)).tolist()
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]

    References:
        Le et al. 2015, arXiv 1504.00941, section 2; the shift as in Flux's `identity_init`.
    """
    value = gain_number("identity", gain)
    steps = number("identity", "shift", shift)
    if not steps.is_integer():
        raise SchemeError(message(f"identity: shift must be a whole number, not {shift!r}."))
    args = changed(gain=(value, 1.0), shift=(int(steps), 0))
    return made("identity", args, weights_only(Eye("identity", args, value, int(steps))))


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
def prior(p: float = 0.01) -> Scheme:
    """Return biases of `log(p / (1 - p))`, so that a sigmoid output starts at `p`; weights are kept.

    Args:
        p: the probability, strictly between 0 and 1.

    Raises:
        SchemeError: `p` is out of range.

    Examples:
        >>> import initax as ix
        >>> ix.Scheme("normal", bias=("prior", {"p": 0.1})).parts["bias"].p
        0.1

    References:
        Lin et al. 2017, arXiv 1708.02002, section 4.1.
    """
    p = number("prior", "p", p, least=0.0, most=1.0)
    if p in (0.0, 1.0):
        raise SchemeError(message(f"prior: p must be strictly between 0 and 1, not {p}."))
    args = changed(p=(p, 0.01))
    return made("prior", args, weights_only(None, Prior("prior", args, p)))


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
