"""Schemes by name: `ix.schemes.he_normal()`, `ix.schemes.get("orthogonal", gain=0.5)`, `ix.schemes.names()`."""

import typing as _typing

from initax._later import later as _later
from initax.schemes._names import MODULES as _MODULES
from initax.schemes._names import SchemeName as SchemeName
from initax.schemes._scheme import get as get
from initax.schemes._scheme import names as names
from initax.schemes._scheme import register as register

if _typing.TYPE_CHECKING:
    from initax.schemes._auto import auto as auto
    from initax.schemes._bias import forget_gate as forget_gate
    from initax.schemes._bias import prior as prior
    from initax.schemes._centered import centered as centered
    from initax.schemes._convex import hoedt as hoedt
    from initax.schemes._defaults import default as default
    from initax.schemes._defaults import flax_default as flax_default
    from initax.schemes._defaults import torch_default as torch_default
    from initax.schemes._depth import depth_factor as depth_factor
    from initax.schemes._distributions import biased_normal as biased_normal
    from initax.schemes._distributions import constant as constant
    from initax.schemes._distributions import normal as normal
    from initax.schemes._distributions import ones as ones
    from initax.schemes._distributions import trunc_normal as trunc_normal
    from initax.schemes._distributions import truncated_normal as truncated_normal
    from initax.schemes._distributions import uniform as uniform
    from initax.schemes._distributions import zeros as zeros
    from initax.schemes._icnn import icnn as icnn
    from initax.schemes._irnn import irnn as irnn
    from initax.schemes._jax_initializer import initializer as initializer
    from initax.schemes._mup import mup_hidden as mup_hidden
    from initax.schemes._mup import mup_readout as mup_readout
    from initax.schemes._scaled import scaled as scaled
    from initax.schemes._shrink import shrink_perturb as shrink_perturb
    from initax.schemes._siren import siren as siren
    from initax.schemes._structured import delta_orthogonal as delta_orthogonal
    from initax.schemes._structured import dirac as dirac
    from initax.schemes._structured import identity as identity
    from initax.schemes._structured import orthogonal as orthogonal
    from initax.schemes._structured import sparse as sparse
    from initax.schemes._variance import glorot_normal as glorot_normal
    from initax.schemes._variance import glorot_uniform as glorot_uniform
    from initax.schemes._variance import he_normal as he_normal
    from initax.schemes._variance import he_uniform as he_uniform
    from initax.schemes._variance import kaiming_normal as kaiming_normal
    from initax.schemes._variance import kaiming_uniform as kaiming_uniform
    from initax.schemes._variance import lecun_normal as lecun_normal
    from initax.schemes._variance import lecun_uniform as lecun_uniform
    from initax.schemes._variance import uniform_fan_in as uniform_fan_in
    from initax.schemes._variance import variance_scaling as variance_scaling
    from initax.schemes._variance import xavier_normal as xavier_normal
    from initax.schemes._variance import xavier_uniform as xavier_uniform
    from initax.schemes._zero_init import zero_init as zero_init

_LATER = _MODULES | {"depth_factor": "_depth", "initializer": "_jax_initializer"}

if not _typing.TYPE_CHECKING:  # a type checker would believe that every name is there
    __getattr__, __dir__, __all__ = _later(__name__, _LATER)
