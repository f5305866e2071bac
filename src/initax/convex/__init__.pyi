"""What `ix.convex` holds. Each is loaded when it is first asked for; type checkers and editors read this file."""

from . import nnx as nnx
from ._equinox import FICNN as FICNN
from ._equinox import PICNN as PICNN
from ._positive import k_max as k_max
from ._positive import register_positivity as register_positivity
from ._rules import rules as rules
from ._standardize import standardize as standardize
