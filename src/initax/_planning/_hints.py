"""Hints for errors and notes: what a wrong call, rule or layer may have meant, and the line to write."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from initax._errors import count, did_you_mean, listing, meant, message, nearest, shown
from initax._model._kinds import KIND_OF
from initax._model._parameter import ROLES, UNDECLARED, Ancestor, Layer, Parameter
from initax._model._reason import Reason, Why
from initax._model._register import is_plain
from initax._model._residual import PARTS
from initax._planning._array_hints import arrays_meant, is_all_of, path_meant, roles_meant
from initax._planning._declaration_hints import declaration, guess_pattern, is_learned_input
