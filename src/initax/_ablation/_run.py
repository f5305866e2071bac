"""One run of an ablation, and its line in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import InitaxError, count, first_of, message

Metric = float | np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run: one scheme, one seed.

    Attributes:
        scheme: name of the scheme.
        seed: index of the key among the keys.
        key: the words of the key; the key itself is `ablation.keys[seed]`.
        plan: fingerprint of the plan, as in `ablation.plans[scheme]["fingerprint"]`.
        metrics: name → number, or array of numbers, of double precision; what is not finite is kept as it is. Empty
            where the run failed.
        error: type and text of the exception that ended it; `None` where it went through.
        seconds: how long it took, compilation apart; of a batch of seeds, its share.
    """

    scheme: str
    seed: int
    key: tuple[int, ...]
    plan: str
    metrics: Mapping[str, Metric]
    error: str | None
    seconds: float

    def to_json(self) -> str:
        """Return the run as one line of JSON; `nan`, `inf` and `-inf` are written as strings."""
        metrics = {name: _plain(np.asarray(value).tolist()) for name, value in self.metrics.items()}
        return json.dumps(asdict(self) | {"metrics": metrics}, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Run:
        """Return the run that `to_json` wrote.

        Args:
            line: the line.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is not such a line.
        """
        stored = json.loads(line)
        return cls(
            scheme=str(stored["scheme"]),
            seed=int(stored["seed"]),
            key=tuple(map(int, stored["key"])),
            plan=str(stored["plan"]),
            metrics={name: _number(np.array(value, np.float64)) for name, value in stored["metrics"].items()},
            error=None if stored["error"] is None else str(stored["error"]),
            seconds=float(stored["seconds"]),
        )


FAILURES = 12
"""Failed runs that are listed one by one."""


def failure_list(runs: Sequence[Run]) -> str:
    """Return the failed runs with the first line of each error, or nothing."""
    errors = [f"{run.scheme}, seed {run.seed}: {run.error.splitlines()[0]}" for run in runs if run.error]
    if not errors:
        return ""
    return message(f"failed: {count(len(errors), 'run')}", *first_of(errors, FAILURES))


def read_metrics(returned: Any) -> dict[str, Metric]:
    """Return what a run returned as numbers of double precision.

    Raises:
        InitaxError: it is not a mapping from names to real numbers and arrays of them.
    """
    check_metrics(returned)
    return {name: _number(np.asarray(value).astype(np.float64)) for name, value in returned.items()}


def check_metrics(returned: Any) -> None:
    """Raise unless this is a mapping from names to real numbers and arrays of them; traced ones will do."""
    if not isinstance(returned, Mapping):
        raise InitaxError(
            "run must return a mapping from names to numbers, not "
            + ("an array." if isinstance(returned, jax.Array) else f"{type(returned).__name__}."),
            'return {"loss": loss, "accuracy": accuracy}',
        )
    for name, value in returned.items():
        if not isinstance(name, str):
            raise InitaxError(f"a metric's name is a string, not {name!r} ({type(name).__name__}).")
        if not _is_real(value):
            dtype = getattr(value, "dtype", None)
            shown = type(value).__name__ if dtype is None else f"an array of type {dtype}"
            raise InitaxError(
                f'the metric "{name}" must be a real number or an array of them, not {shown}.',
                "take it apart: one name for each number or array",
            )


def _is_real(value: Any) -> bool:
    try:
        dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    except (TypeError, ValueError):
        return False
    return any(jnp.issubdtype(dtype, kind) for kind in (np.bool_, np.integer, np.floating))


def _number(array: np.ndarray) -> Metric:
    return float(array) if array.ndim == 0 else array


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value if np.isfinite(value) else str(value)
