"""Weight initialization as model surgery for JAX."""

from initax import convex as convex
from initax import schemes as schemes
from initax._ablation._ablate import ablate as ablate
from initax._ablation._result import Ablation as Ablation
from initax._ablation._run import Run as Run
from initax._ablation._summary import Summary as Summary
from initax._adapters import register_adapter as register_adapter
from initax._adapters._nodes import Node as Node
from initax._errors import AxesError as AxesError
from initax._errors import DrawError as DrawError
from initax._errors import InitaxError as InitaxError
from initax._errors import InitaxWarning as InitaxWarning
from initax._errors import KeyTypeError as KeyTypeError
from initax._errors import ModelError as ModelError
from initax._errors import PlanError as PlanError
from initax._errors import RuleError as RuleError
from initax._errors import SchemeError as SchemeError
from initax._math._axes import Axes as Axes
from initax._math._gain import gain as gain
from initax._math._keys import parameter_key as parameter_key
from initax._model._parameter import Evidence as Evidence
from initax._model._parameter import Field as Field
from initax._model._parameter import Layer as Layer
from initax._model._parameter import Parameter as Parameter
from initax._model._reason import Reason as Reason
from initax._model._reason import Why as Why
from initax._model._register import register_layer as register_layer
from initax._planning._decide import Draw as Draw
from initax._planning._decide import Kept as Kept
from initax._planning._plan import Plan as Plan
from initax._planning._plan import plan as plan
from initax._planning._rule_file import load_rules as load_rules
from initax._verbs._lsuv import Calibrated as Calibrated
from initax._verbs._lsuv import LsuvReport as LsuvReport
from initax._verbs._lsuv import lsuv as lsuv
from initax._verbs._optimizer import reset_optimizer as reset_optimizer
from initax._verbs._propagation import Signal as Signal
from initax._verbs._propagation import SignalReport as SignalReport
from initax._verbs._propagation import signal_propagation as signal_propagation
from initax._verbs._reinit import draw as draw
from initax._verbs._reinit import layers as layers
from initax._verbs._reinit import reinit as reinit
from initax._verbs._units import reset_units as reset_units
from initax.schemes._scheme import Scheme as Scheme

__version__ = "0.1.0"
