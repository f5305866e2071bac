"""What one process measured, and how it comes back to the parent: one line of JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one process is asked to measure.

    Attributes:
        case: the name of a case, a key of `CASES`.
        method: the name of a method, a key of `METHODS`.
        quick: toy sizes.
        limit: seconds after which the first call is given up.
        calls: number of later calls.
        is_lean: whether one more call is watched in place of those that are timed.
    """

    case: str
    method: str
    quick: bool
    limit: int
    calls: int
    is_lean: bool = False

    def to_json(self) -> str:
        """Return the line that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Task:
        """Return the task of one line."""
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one process found; seconds and bytes.

    Attributes:
        imported: importing what the method needs beyond JAX and Equinox.
        first: the first call, until its arrays are ready.
        warm: median of the later calls, each with another key.
        peak: largest resident memory of the process until the first call has ended.
        rise: `peak` above what was resident when the model had been built.
        rise_again: largest resident memory during one more call, above what was resident before it; only where it is
            compared with something.
        drawn: bytes of the weights and biases that are drawn.
        arrays: how many they are.
        one: bytes of the largest of them and of what its draw needs beside it; only where the method is initax.
        compilations: programs XLA compiled in the first call.
        plan: median of `ix.plan`, per layer; only where the method is initax.
        platform: where it ran, `"cpu"`.
    """

    imported: float
    first: float
    warm: float
    peak: int
    rise: int
    rise_again: int | None
    drawn: int
    arrays: int
    one: int | None
    compilations: int
    plan: float | None
    platform: str

    @property
    def cold(self) -> float:
        """The first call with the import it needs."""
        return self.imported + self.first

    @property
    def preparation(self) -> float:
        """What `cold` holds beyond a call: importing, deciding, tracing, compiling."""
        return self.cold - self.warm

    def to_json(self) -> str:
        """Return the line that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Measurement:
        """Return the measurement of one line."""
        return cls(**json.loads(line))
