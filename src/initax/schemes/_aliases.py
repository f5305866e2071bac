"""What other packages call schemes, arguments and roles, and what to write here. Errors ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from initax.schemes._variance import VarianceScaling

KEPT = 'what a rule selects is kept by None, written without quotes; in a file by "keep"'
"""What to write in place of a name that means: draw nothing."""

NAMES_ELSEWHERE = {
    **dict.fromkeys(
        (
            *("none", "None", "null", "keep", "kept", "skip", "leave", "ignore", "off", "no", "nothing"),
            *("false", "False", "freeze", "frozen", "fixed", "unchanged", "same", "as_is"),
        ),
        KEPT,
    ),
    "hoedt_normal": 'in klax; here "hoedt" draws weight and bias together, and "icnn" knows activation and passthrough',
    "hoedt_bias": 'in klax; here "hoedt" draws weight and bias together, the bias with the authors\' sign',
}
"""Names that other packages give to schemes → what to write."""

ARGUMENTS_ELSEWHERE = {
    "corr": "correlation",
    "var": "variance",
    "target_var": "variance",
    "target_corr": "correlation",
    "constrained_weight_init": "weight",
    "constrained_bias_init": "bias",
    "std": "stddev",
    "val": "value",
    "nonlinearity": "gain",
}
"""Arguments in PyTorch, the authors' code and klax → what they are called here."""

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
    if not isinstance(law, VarianceScaling):
        return ""
    said, write = LAWS_ELSEWHERE[argument]
    args = {"scale": str(law.scale), "mode": f'"{law.mode}"', "distribution": f'"{law.distribution}"'}
    args[said] = write(law.scale, f'"{value}"' if isinstance(value, str) else repr(value))
    return 'write ("variance_scaling", {' + ", ".join(f'"{key}": {each}' for key, each in args.items()) + "})"
