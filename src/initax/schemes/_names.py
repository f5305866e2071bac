"""The names of the schemes initax ships."""

from typing import Literal, get_args

SchemeName = Literal[
    "auto", "biased_normal", "centered", "constant", "default", "delta_orthogonal", "dirac", "flax_default",
    "forget_gate", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "hoedt", "icnn", "identity", "irnn",
    "kaiming_normal", "kaiming_uniform", "lecun_normal", "lecun_uniform", "mup_hidden", "mup_readout", "normal",
    "ones", "orthogonal", "prior", "scaled", "shrink_perturb", "siren", "sparse", "torch_default", "trunc_normal",
    "truncated_normal", "uniform", "uniform_fan_in", "variance_scaling", "xavier_normal", "xavier_uniform",
    "zero_init", "zeros",
]  # fmt: skip
"""The names of the schemes initax ships, for type checkers."""
SHIPPED: frozenset[str] = frozenset(get_args(SchemeName))
"""The same at run time."""
