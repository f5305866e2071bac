"""Weight initialization as model surgery for JAX."""

import typing as _typing

from initax import schemes as schemes
from initax._adapters import register_adapter as register_adapter
from initax._adapters._nodes import Node as Node
from initax._errors import ArgumentError as ArgumentError
from initax._errors import AxesError as AxesError
from initax._errors import DrawError as DrawError
from initax._errors import InitaxError as InitaxError
from initax._errors import InitaxWarning as InitaxWarning
from initax._errors import KeyTypeError as KeyTypeError
from initax._errors import ModelError as ModelError
from initax._errors import PlanError as PlanError
from initax._errors import RuleError as RuleError
from initax._errors import SchemeError as SchemeError
from initax._later import later as _later
from initax._math._axes import Axes as Axes
from initax._math._gaussian import gain as gain
from initax._math._keys import parameter_key as parameter_key
from initax._model._declared import Field as Field
from initax._model._parameter import Evidence as Evidence
from initax._model._parameter import Layer as Layer
from initax._model._parameter import Parameter as Parameter
from initax._model._reason import Reason as Reason
from initax._model._reason import Why as Why
from initax._model._register import register_layer as register_layer
from initax._model._residual import Residual as Residual
from initax._model._residual import ResidualStream as ResidualStream
from initax._model._survey import Survey as Survey
from initax._planning._plan import Plan as Plan
from initax._planning._plan import plan as plan
from initax._planning._records import Draw as Draw
from initax._planning._records import Kept as Kept
from initax._trace._take_survey import survey as survey
from initax._verbs._reinit import draw as draw
from initax._verbs._reinit import layers as layers
from initax._verbs._reinit import reinit as reinit
from initax.schemes._scheme import Scheme as Scheme

if _typing.TYPE_CHECKING:
    from initax import convex as convex
    from initax._ablation._ablate import ablate as ablate
    from initax._ablation._result import Ablation as Ablation
    from initax._ablation._run import Run as Run
    from initax._ablation._summary import Summary as Summary
    from initax._planning._rule_file import load_rules as load_rules
    from initax._verbs._coordinate_report import Coordinate as Coordinate
    from initax._verbs._coordinate_report import CoordinateCheck as CoordinateCheck
    from initax._verbs._coordinates import coordinate_check as coordinate_check
    from initax._verbs._labels import Label as Label
    from initax._verbs._labels import Labels as Labels
    from initax._verbs._labels import labels as labels
    from initax._verbs._labels import mask as mask
    from initax._verbs._lsuv import Calibrated as Calibrated
    from initax._verbs._lsuv import LsuvReport as LsuvReport
    from initax._verbs._lsuv import lsuv as lsuv
    from initax._verbs._muon import muon as muon
    from initax._verbs._muon import muon_dimensions as muon_dimensions
    from initax._verbs._mup import mup as mup
    from initax._verbs._optimizer import reset_optimizer as reset_optimizer
    from initax._verbs._propagation import signal_propagation as signal_propagation
    from initax._verbs._reset_units import reset_units as reset_units
    from initax._verbs._signal_report import Signal as Signal
    from initax._verbs._signal_report import SignalComparison as SignalComparison
    from initax._verbs._signal_report import SignalReport as SignalReport
    from initax._verbs._width import Width as Width
    from initax._verbs._width_factors import WidthFactor as WidthFactor

__version__ = "0.1.0"

_LATER = {
    "convex": "convex",
    "ablate": "_ablation._ablate",
    "Ablation": "_ablation._result",
    "Run": "_ablation._run",
    "Summary": "_ablation._summary",
    "load_rules": "_planning._rule_file",
    "Coordinate": "_verbs._coordinate_report",
    "CoordinateCheck": "_verbs._coordinate_report",
    "coordinate_check": "_verbs._coordinates",
    "Label": "_verbs._labels",
    "Labels": "_verbs._labels",
    "labels": "_verbs._labels",
    "mask": "_verbs._labels",
    "Calibrated": "_verbs._lsuv",
    "LsuvReport": "_verbs._lsuv",
    "lsuv": "_verbs._lsuv",
    "muon": "_verbs._muon",
    "muon_dimensions": "_verbs._muon",
    "mup": "_verbs._mup",
    "reset_optimizer": "_verbs._optimizer",
    "signal_propagation": "_verbs._propagation",
    "Signal": "_verbs._signal_report",
    "SignalComparison": "_verbs._signal_report",
    "SignalReport": "_verbs._signal_report",
    "reset_units": "_verbs._reset_units",
    "Width": "_verbs._width",
    "WidthFactor": "_verbs._width_factors",
}
"""Name → its module, of what `reinit` does without."""

if not _typing.TYPE_CHECKING:  # a type checker would believe that every name is there
    __getattr__, __dir__, __all__ = _later(__name__, _LATER)
