"""Schemes by name: `ix.schemes.he_normal()`, `ix.schemes.get("orthogonal", gain=0.5)`, `ix.schemes.names()`."""

from initax.schemes._auto import auto as auto
from initax.schemes._convex_table import hoedt as hoedt
from initax.schemes._convex_table import icnn as icnn
from initax.schemes._depth import depth_factor as depth_factor
from initax.schemes._irnn import irnn as irnn
from initax.schemes._mup import mup_hidden as mup_hidden
from initax.schemes._mup import mup_readout as mup_readout
from initax.schemes._scaled import scaled as scaled
from initax.schemes._scheme import get as get
from initax.schemes._scheme import names as names
from initax.schemes._scheme import register as register
from initax.schemes._shrink import shrink_perturb as shrink_perturb
from initax.schemes._siren import siren as siren
from initax.schemes._table import SchemeName as SchemeName
from initax.schemes._table import biased_normal as biased_normal
from initax.schemes._table import constant as constant
from initax.schemes._table import default as default
from initax.schemes._table import delta_orthogonal as delta_orthogonal
from initax.schemes._table import dirac as dirac
from initax.schemes._table import flax_default as flax_default
from initax.schemes._table import forget_gate as forget_gate
from initax.schemes._table import glorot_normal as glorot_normal
from initax.schemes._table import glorot_uniform as glorot_uniform
from initax.schemes._table import he_normal as he_normal
from initax.schemes._table import he_uniform as he_uniform
from initax.schemes._table import identity as identity
from initax.schemes._table import lecun_normal as lecun_normal
from initax.schemes._table import lecun_uniform as lecun_uniform
from initax.schemes._table import normal as normal
from initax.schemes._table import ones as ones
from initax.schemes._table import orthogonal as orthogonal
from initax.schemes._table import prior as prior
from initax.schemes._table import sparse as sparse
from initax.schemes._table import torch_default as torch_default
from initax.schemes._table import trunc_normal as trunc_normal
from initax.schemes._table import truncated_normal as truncated_normal
from initax.schemes._table import uniform as uniform
from initax.schemes._table import uniform_fan_in as uniform_fan_in
from initax.schemes._table import variance_scaling as variance_scaling
from initax.schemes._table import zeros as zeros
from initax.schemes._zero_init import zero_init as zero_init

kaiming_normal = he_normal
"""Another name of `he_normal`, and the same function."""
kaiming_uniform = he_uniform
"""Another name of `he_uniform`, and the same function."""
xavier_normal = glorot_normal
"""Another name of `glorot_normal`, and the same function."""
xavier_uniform = glorot_uniform
"""Another name of `glorot_uniform`, and the same function."""
