"""Hints for errors: names in other packages, and what a wrong name, argument or value may have meant."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from initax._errors import did_you_mean, listing, message, shown
from initax._model._parameter import ROLES
from initax._text import mapping_text

KEPT = 'what a rule selects is kept by None, written without quotes; in a file by "keep"'
"""What to write in place of a name that means: draw nothing."""


def _lux(name: str) -> tuple[str, ...]:
    """Return what WeightInitializers.jl calls a constructor in each of its types: `randn16`, `randnC32` and so on."""
    return tuple(f"{name}{kind}{bits}" for kind in ("", "C") for bits in (16, 32, 64))


NAMES_ELSEWHERE = {
    **dict.fromkeys(
        (
            *("none", "None", "null", "keep", "kept", "skip", "leave", "ignore", "off", "no", "nothing"),
            *("false", "False", "freeze", "frozen", "fixed", "unchanged", "same", "as_is"),
        ),
        KEPT,
    ),
    **dict.fromkeys(("zeros_init", "zeros_", *_lux("zeros"), "zero", "Zeros"), 'here it is called "zeros"'),
    **dict.fromkeys(("ones_init", "ones_", *_lux("ones"), "one", "Ones"), 'here it is called "ones"'),
    **dict.fromkeys(("eye", "eye_", "identity_init", "Identity"), 'here it is called "identity"'),
    **dict.fromkeys(("constant_", "constant_init", "full", "fill", "Constant"), 'write ("constant", {"value": ...})'),
    **dict.fromkeys(
        ("randn", *_lux("randn"), "normal_", "RandomNormal", "gaussian"), 'write ("normal", {"stddev": ...})'
    ),
    **dict.fromkeys(
        ("rand", *_lux("rand"), "uniform_", "RandomUniform"),
        'write ("uniform", {"scale": 1.0}) for [0, 1), ("uniform", {"lower": ..., "upper": ...}) for another interval',
    ),
    **dict.fromkeys(("trunc_normal_", "TruncatedNormal"), 'write ("trunc_normal", {"stddev": ...}), cut at values'),
    **dict.fromkeys(("sparse_", "sparse_init"), 'here it is called "sparse"'),
    **dict.fromkeys(("orthogonal_", "ortho", "Orthogonal"), 'here it is called "orthogonal"'),
    **dict.fromkeys(("kaiming_normal_", "HeNormal"), 'here it is called "he_normal", uncut with {"truncated": False}'),
    **dict.fromkeys(("xavier_normal_", "GlorotNormal"), 'here it is "glorot_normal", uncut with {"truncated": False}'),
    **dict.fromkeys(
        ("gpt2", "GPT2", "fixup", "t_fixup", "deepnet", "deepnorm", "sub_ln"),
        'a factor for depth, not a scheme: ("scaled", {"scheme": "normal", "factor": ("gpt2", {"layers": 12})})',
    ),
    **dict.fromkeys(("mup", "muP"), "here it is a scheme for each part: mup_hidden, mup_readout"),
    **dict.fromkeys(("pytorch", "torch", "PyTorch"), 'what PyTorch gives a layer is "torch_default"'),
    **dict.fromkeys(("flax", "linen", "nnx"), 'what Flax gives a layer is "flax_default"'),
    **dict.fromkeys(("keras", "tensorflow", "tf"), 'what Keras gives a layer is "glorot_uniform", with zero biases'),
    **dict.fromkeys(("equinox", "eqx"), 'what its own framework gives a layer is "default"'),
    "UniformScaling": 'here it is called "lecun_uniform", times a factor by ("scaled", {"scheme": ..., "factor": ...})',
    "msra": 'here it is called "he_normal"',
    "hoedt_normal": 'in klax; here "hoedt" draws weight and bias together, and "icnn" knows activation and passthrough',
    "hoedt_bias": 'in klax; here "hoedt" draws weight and bias together, the bias with the authors\' sign',
}
"""Names that other packages give to schemes → what to write."""

ARGUMENTS_ELSEWHERE = {
    **dict.fromkeys(("corr", "target_corr"), "correlation"),
    **dict.fromkeys(("var", "target_var"), "variance"),
    "constrained_weight_init": "weight",
    "constrained_bias_init": "bias",
    "std": "stddev",
    "val": "value",
    "nonlinearity": "gain",
    **dict.fromkeys(("a", "low", "minval"), "lower"),
    **dict.fromkeys(("b", "high", "maxval"), "upper"),
    **dict.fromkeys(("scale", "gain", "multiplier"), "factor"),
}
"""Arguments in PyTorch, NumPy, JAX, Keras, the authors' code and klax → what they may be called here."""

_AXES = (
    "a layer's axes are known; where only you know them they stand beside the scheme: "
    'ix.Scheme("{scheme}", axes="o i"), ix.draw("{scheme}", key, shape, axes="o i")'
)
NOT_ARGUMENTS = {
    **dict.fromkeys(("in_axis", "out_axis", "batch_axis", "column_axis"), _AXES),
    "groups": (
        "a layer's groups are known, and each is drawn alone; of a single array they are said by its axes: "
        'ix.draw("{scheme}", key, shape, axes="(g o) i ...", sizes={{"g": 2}})'
    ),
    "dtype": 'an array keeps its type; a single one is given it: ix.draw("{scheme}", key, shape, jnp.bfloat16)',
    "shape": 'an array keeps its shape; a single one is given it: ix.draw("{scheme}", key, (4, 8))',
    "key": 'the key goes to the verb: ix.reinit(model, {{"*": "{scheme}"}}, key)',
    "seed": 'randomness is a key that goes to the verb: ix.reinit(model, {{"*": "{scheme}"}}, jax.random.key(0))',
}
"""Arguments in other packages that no scheme has here → what to write."""

LAWS_ELSEWHERE: dict[str, tuple[str, Callable[[float, str], str]]] = {
    "mode": ("mode", lambda scale, value: value),
    "distribution": ("distribution", lambda scale, value: value),
    "scale": ("scale", lambda scale, value: value),
    "gain": ("scale", lambda scale, value: f"{scale} * {value}**2"),
    "a": ("scale", lambda scale, value: f"2 / (1 + {value}**2)"),
    "nonlinearity": ("scale", lambda scale, value: f"ix.gain({value})**2"),
}
"""Arguments that a scheme of fans takes elsewhere → the argument of `variance_scaling` that says it, and its value."""


ROLES_ELSEWHERE = {
    "kernel": "weight",
    "w": "weight",
    "b": "bias",
    "beta": "bias",
    "gamma": "scale",
    "hidden": "recurrent",
    "recurrent_kernel": "recurrent",
}
"""What arrays are called in layers → their role."""


@functools.lru_cache(maxsize=512)
def parameters_of(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a function, by name.

    Args:
        factory: the function.
    """
    return inspect.signature(factory).parameters


def needed(factory: Callable[..., Any]) -> list[str]:
    """Return the arguments of a scheme that have no default.

    Args:
        factory: the function that makes it.
    """
    parameters = parameters_of(factory).values()
    return [arg.name for arg in parameters if arg.kind is not arg.VAR_KEYWORD and arg.default is arg.empty]


def pairs_text(args: Mapping[Any, Any]) -> str:
    """Return arguments as they are written beside a scheme's name."""
    return mapping_text({name: repr(value) for name, value in args.items()})


def no_name(name: Any, names: Iterable[str]) -> str:
    """Return the message for something that is not the name of a scheme.

    Args:
        name: what was given.
        names: the names there are.
    """
    if not isinstance(name, str):
        other = 'ix.schemes.get("he_normal", ...); anything else a rule takes is a scheme already'
        return message(f"a scheme's name is a text, not {shown(name)}.", KEPT if name is None else other)
    hint = _as_a_call(name, names) or NAMES_ELSEWHERE.get(name) or did_you_mean(name, names)
    return message(f'no scheme is called "{name}".', hint, f"schemes: {listing(names, 60)}")


def _as_a_call(name: str, names: Iterable[str]) -> str:
    """The pair of name and arguments that a text means, where it is written as a call or as a plan prints it."""
    called = re.fullmatch(r"\s*(?:\w+\.)*(\w+)\((.*)\)\s*", name)
    if called is None or called[1] not in names:
        return ""
    try:
        keywords = ast.parse(f"f({called[2]})", mode="eval").body.keywords  # type: ignore[attr-defined]
        arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in keywords if keyword.arg}
    except SyntaxError:
        arguments = {}
    if called[2] and not arguments:
        return f'arguments stand beside the name, by name: ("{called[1]}", {{...}})'
    return f'write ("{called[1]}", {mapping_text(arguments)})' if arguments else f'write "{called[1]}"'


def unknown_argument(name: str, factory: Callable[..., Any], argument: str, value: Any) -> str:
    """Return the message for an argument that a scheme does not have.

    Args:
        name: the scheme's name.
        factory: the function that makes it.
        argument: the argument.
        value: its value.
    """
    parameters = tuple(parameters_of(factory))
    alias = ARGUMENTS_ELSEWHERE.get(argument)
    hint = f'here it is called "{alias}"' if alias in parameters else did_you_mean(argument, parameters)
    if argument in LAWS_ELSEWHERE and not needed(factory):
        hint = _as_variance_scaling(factory().part("weight"), argument, value) or hint
    if argument == "scale" and "gain" in parameters:
        hint = "a gain multiplies the standard deviation, a scale the variance: write gain=..."
    if argument in NOT_ARGUMENTS:
        hint = NOT_ARGUMENTS[argument].format(scheme=name)
    has = f"arguments: {listing(parameters)}" if parameters else "it has none"
    return message(f'{name} has no argument "{argument}".', has, hint)


def _as_variance_scaling(law: Any, argument: str, value: Any) -> str:
    """The line for a scheme of fans and an argument of `LAWS_ELSEWHERE`, empty for any other scheme."""
    if not all(hasattr(law, name) for name in ("scale", "mode", "distribution")):
        return ""
    alias, write = LAWS_ELSEWHERE[argument]
    args = {"scale": str(law.scale), "mode": f'"{law.mode}"', "distribution": f'"{law.distribution}"'}
    args[alias] = write(law.scale, f'"{value}"' if isinstance(value, str) else repr(value))
    return f'write ("variance_scaling", {mapping_text(args)})'


def number_beside(name: str, factory: Callable[..., Any], value: float) -> str:
    """Return the message for a number beside a scheme's name: it may be meant for its first argument, or for biases."""
    parameters = parameters_of(factory).values()
    by_place = (parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD)
    first = next(by_place, "scheme")
    return message(
        f'{value!r} ({type(value).__name__}) beside "{name}" is not a scheme.',
        "" if first == "scheme" else f'for its {first} write ("{name}", {{"{first}": {value!r}}})',
        "" if needed(factory) else f'for biases of {value!r} write ("{name}", ("constant", {{"value": {value!r}}}))',
    )


def no_scheme(value: Any) -> str:
    """Return the message for a value that is not a scheme, in whatever form."""
    if getattr(value, "shape", ()):
        return message(
            f"an array of shape {tuple(value.shape)} is not a scheme.",
            "pass the initializer, not what it returns: jax.nn.initializers.he_normal(), without (key, shape)",
        )
    hint = (
        'a scheme is a name ("he_normal"), a pair of name and arguments, a pair (weight, bias), a mapping of roles, an '
        "initializer, an ix.Scheme, or None to keep"
    )
    if isinstance(value, int | float):
        hint = KEPT if value is False else f'a fixed value is ("constant", {{"value": {value!r}}})'
    if isinstance(value, tuple | list) and value and isinstance(value[0], str) and len(value) > 2:
        hint = f'arguments stand in a mapping, by name: ("{value[0]}", {{...}})'
    return message(f"{value!r} ({type(value).__name__}) is not a scheme.", hint)


def unknown_role(key: str, scheme: str = "", value: Any = None) -> str:
    """Return the message for a key that is neither a role nor an array's name.

    Args:
        key: the key.
        scheme: the scheme beside it, where that has an argument of this name.
        value: what stands behind it.
    """
    known = ROLES_ELSEWHERE.get(key)
    hint = f'an array "{key}" has the role "{known}"' if known else did_you_mean(key, (*ROLES, "axes", "sizes"))
    if scheme:
        hint = f'an argument goes with its name: ("{scheme}", {{"{key}": {value!r}}})'
    roles = f"roles: {listing(ROLES[:-1])}; also axes, sizes, or name with arguments"
    return message(f'a scheme has no role "{key}".', roles, hint)


def no_role(scheme: Any, role: str) -> str:
    """Return what to say of a scheme that keeps every array of a role, and is asked for one."""
    drawn = [other for other, part in scheme.parts.items() if part is not None]
    line = f'write role="{drawn[0]}"' if len(drawn) == 1 else ""
    return message(f"{scheme} draws no {role}.", f"it draws: {listing(drawn)}" if drawn else "it draws nothing", line)


def no_part(scheme: Any, role: str) -> str:
    """Return the message for a scheme that has no initializer for a role."""
    return message(
        f"{scheme} can't draw a {role}.",
        f'for a {role}: "zeros", "ones", ("constant", {{"value": ...}}), ("normal", {{"stddev": ...}})'
        + (', "uniform_fan_in", ("prior", {"p": ...}), ("forget_gate", {"value": ...})' if role == "bias" else ""),
    )
