"""`Job`, one array to be drawn, and `Strategy`, how a group of jobs is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from initax._drawing._program import Arrays, Compilation, Program, default_device


@dataclass(slots=True, eq=False)
class Job:
    """One array to be drawn.

    Attributes:
        paths: its path, and those its companions are stored at.
        program: what draws it.
        numbers: the program's run-time numbers.
        old: the array stored there now, where the program sees it.
        free: arrays that nothing needs once it is drawn.
        here: what is stored there now, an array or a shape.
    """

    paths: tuple[str, ...]
    program: Program
    numbers: tuple[Any, ...]
    old: Any = None
    free: tuple[Any, ...] = ()
    here: Any = None

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What the program is called on after key and numbers."""
        return () if self.old is None else (self.old,)

    @property
    def donor(self) -> Any:
        """An old array whose memory the new one can take, `None` where there is none."""
        if not self.free or len(self.paths) > 1:
            return None
        program = self.program
        (sharding,) = program.shardings
        for old in self.free:
            alike = old.shape == program.shape and old.dtype == program.dtype and not old.is_deleted()
            if alike and (old.sharding == sharding if sharding is not None else old.devices() == {default_device()}):
                return old
        return None


Groups = Mapping[Program, list[int]]
"""Programs, each with its jobs by their index."""
Drawn = Iterable[tuple[int, Arrays]]
"""Index of each job with its arrays."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """How one group is drawn.

    Attributes:
        compilations: what has to be compiled for it.
        drawn: index of each job with its arrays, which are drawn when they are asked for.
    """

    compilations: tuple[Compilation, ...]
    drawn: Drawn
