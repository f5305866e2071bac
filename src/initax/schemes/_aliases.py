"""Names of schemes, arguments and roles in other packages → what to write here; for error texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    "UniformScaling": 'here it is called "lecun_uniform", times a factor by ("scaled", {"scheme": ..., "factor": ...})',
    "msra": 'here it is called "he_normal"',
    "hoedt_normal": 'in klax; here "hoedt" draws weight and bias together, and "icnn" knows activation and passthrough',
    "hoedt_bias": 'in klax; here "hoedt" draws weight and bias together, the bias with the authors\' sign',
}
"""Names that other packages give to schemes → what to write."""

ARGUMENTS_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "corr": ("correlation",),
    "var": ("variance",),
    "target_var": ("variance",),
    "target_corr": ("correlation",),
    "constrained_weight_init": ("weight",),
    "constrained_bias_init": ("bias",),
    "std": ("stddev",),
    "val": ("value",),
    "nonlinearity": ("gain",),
    "a": ("lower",),
    "b": ("upper",),
    "low": ("lower",),
    "high": ("upper",),
    "minval": ("lower",),
    "maxval": ("upper",),
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
"""Arguments elsewhere that are none of a scheme here → what to write."""

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


def as_variance_scaling(law: Any, argument: str, value: Any) -> str:
    """Return the line for a scheme of fans and an argument of `LAWS_ELSEWHERE`, empty for any other scheme."""
    if not all(hasattr(law, each) for each in ("scale", "mode", "distribution")):
        return ""
    said, write = LAWS_ELSEWHERE[argument]
    args = {"scale": str(law.scale), "mode": f'"{law.mode}"', "distribution": f'"{law.distribution}"'}
    args[said] = write(law.scale, f'"{value}"' if isinstance(value, str) else repr(value))
    return 'write ("variance_scaling", {' + ", ".join(f'"{key}": {each}' for key, each in args.items()) + "})"
