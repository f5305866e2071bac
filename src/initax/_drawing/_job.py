"""What is to be drawn, and the way in which a group of it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from initax._drawing._program import Arrays, Need, Program, default_device


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
        (home,) = program.shardings
        for each in self.free:
            alike = each.shape == program.shape and each.dtype == program.dtype and not each.is_deleted()
            if alike and (each.sharding == home if home is not None else each.devices() == {default_device()}):
                return each
        return None


Groups = Mapping[Program, list[int]]
Drawn = Iterable[tuple[int, Arrays]]


@dataclass(frozen=True, slots=True)
class Way:
    """How one group is drawn: what it needs compiled, and its rows with their arrays, drawn one after the other."""

    needs: tuple[Need, ...]
    made: Drawn
