"""The names of the schemes initax ships, and the modules they are in."""

from typing import Literal

SchemeName = Literal[
    "auto", "biased_normal", "centered", "constant", "default", "delta_orthogonal", "dirac", "flax_default",
    "forget_gate", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "hoedt", "icnn", "identity", "irnn",
    "kaiming_normal", "kaiming_uniform", "lecun_normal", "lecun_uniform", "mup_hidden", "mup_readout", "normal",
    "ones", "orthogonal", "prior", "scaled", "shrink_perturb", "siren", "sparse", "torch_default", "trunc_normal",
    "truncated_normal", "uniform", "uniform_fan_in", "variance_scaling", "xavier_normal", "xavier_uniform",
    "zero_init", "zeros",
]  # fmt: skip
"""The names of the schemes initax ships, for type checkers."""

MODULES = {
    "auto": "_auto",
    "biased_normal": "_distributions",
    "centered": "_centered",
    "constant": "_distributions",
    "default": "_defaults",
    "delta_orthogonal": "_structured",
    "dirac": "_structured",
    "flax_default": "_defaults",
    "forget_gate": "_bias",
    "glorot_normal": "_variance",
    "glorot_uniform": "_variance",
    "he_normal": "_variance",
    "he_uniform": "_variance",
    "hoedt": "_convex",
    "icnn": "_icnn",
    "identity": "_structured",
    "irnn": "_irnn",
    "kaiming_normal": "_variance",
    "kaiming_uniform": "_variance",
    "lecun_normal": "_variance",
    "lecun_uniform": "_variance",
    "mup_hidden": "_mup",
    "mup_readout": "_mup",
    "normal": "_distributions",
    "ones": "_distributions",
    "orthogonal": "_structured",
    "prior": "_bias",
    "scaled": "_scaled",
    "shrink_perturb": "_shrink",
    "siren": "_siren",
    "sparse": "_structured",
    "torch_default": "_defaults",
    "trunc_normal": "_distributions",
    "truncated_normal": "_distributions",
    "uniform": "_distributions",
    "uniform_fan_in": "_variance",
    "variance_scaling": "_variance",
    "xavier_normal": "_variance",
    "xavier_uniform": "_variance",
    "zero_init": "_zero_init",
    "zeros": "_distributions",
}
"""Name of a scheme → the module of this package that it is in, loaded when the scheme is first asked for."""
