"""The rows of a plan: what is drawn, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from initax._model._parameter import Parameter
from initax._model._quick import maker
from initax._model._reason import Reason
from initax.schemes._initializer import Initializer, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One row of a plan: a parameter that will be drawn.

    Attributes:
        parameter: the parameter, with the axes the draw uses.
        kind: kind of its layer.
        scheme: the scheme the rule names, in words.
        rule: the selector that decided.
        initializer: what draws it; `None` for an array that is set with another one, as weight norm's magnitude is.
        recipe: what will run; `None` for an array that is set with another one.
        follows: path of the parameter it is set with.
    """

    parameter: Parameter
    kind: str
    scheme: str
    rule: str
    initializer: Initializer | None = None
    recipe: Recipe | None = None
    follows: str | None = None

    @property
    def std(self) -> float | None:
        """Standard deviation of one entry of the effective weight over draws; `None` where it is not known."""
        return None if self.recipe is None else self.recipe.std

    @property
    def how(self) -> str:
        """What draws it, in words: the initializer, or the parameter that it is set with."""
        return str(self.initializer) if self.initializer else f"with {self.follows}"

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data, as `Plan.to_json` stores it, with its path."""
        parameter = self.parameter
        return {
            "path": parameter.path,
            "kind": self.kind,
            "role": parameter.role,
            "shape": list(parameter.shape),
            "dtype": parameter.dtype_name,
            "axes": parameter.axes.pattern if parameter.axes else "",
            "evidence": None if parameter.evidence is None else str(parameter.evidence),
            "fan_in": parameter.fan_in,
            "fan_out": parameter.fan_out,
            "scheme": self.scheme,
            "initializer": self.how,
            "std": self.std,
            "rule": self.rule,
            **({"residual": str(parameter.residual)} if str(parameter.residual or "") else {}),
        }


new_draw = maker(Draw)
"""Function from the fields of a `Draw`, in their order, to the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One array that stays as it is.

    Attributes:
        parameter: the parameter.
        kind: kind of its layer.
        reason: why it is kept.
        rule: the selector that decided it; `None` where none did.
    """

    parameter: Parameter
    kind: str
    reason: Reason
    rule: str | None = None

    def __iter__(self) -> Iterator[Any]:
        """Yield parameter and reason, so that `for parameter, reason in plan.kept` works."""
        return iter((self.parameter, self.reason))

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data, as `Plan.to_json` stores it, with its path."""
        return {
            "path": self.parameter.path,
            "kind": self.kind,
            "shape": list(self.parameter.shape),
            "dtype": self.parameter.dtype_name,
            "kept": self.reason.text,
        }


@dataclass(frozen=True, slots=True)
class Decisions:
    """The rows of a plan, and what the user may not have meant."""

    draws: tuple[Draw, ...]
    kept: tuple[Kept, ...]
    notes: tuple[str, ...]
