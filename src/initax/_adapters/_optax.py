"""optax: whatever it makes is an optimizer's state, known by its package; optax is never imported."""

from __future__ import annotations

from typing import Any

from initax._adapters._nodes import Node
from initax._model._reason import OPTIMIZER_STATE


def describe(node: Any) -> Node:
    """Return that a node is an optimizer's state."""
    return Node("state", reason=OPTIMIZER_STATE)
