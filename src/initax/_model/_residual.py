"""Residual streams: how many branches are added to each, and which of them an array is in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from initax._errors import listing

Part = Literal["end", "inner", "scores"]
"""Where in a residual branch an array stands: `end`, its output is added to the stream; `scores`, nothing but the
weights of an average are made of its output, as of queries and keys; `inner`, all others."""

PARTS: dict[str, str] = {
    "end": "weights whose output is added to a stream",
    "inner": "the other weights of a branch",
    "scores": "those of the inner ones of which nothing but the scores of an attention are made: queries and keys",
}
"""Word behind `residual:` → what it selects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualStream:
    """A value that is carried through the forward pass, and to which branches are added.

    Attributes:
        branches: how many are added to it, one after the other; what is added side by side counts once. `None` where a
            loop adds them and nobody knows how often it runs.
        reads: the streams that its branches read beside it, by number: a decoder reads its encoder.
        inside: the stream in a branch of which it lies, by number; `None` where it lies in none.
        ends: paths of the weights that end its branches.
    """

    branches: int | None
    reads: tuple[int, ...] = ()
    inside: int | None = None
    ends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unended:
    """What a branch adds to a stream and of which no weight is the end: `tanh(w @ x)` is not a multiple of `w`.

    Attributes:
        weights: paths of the last weights before it.
        line: the line of the forward pass, `file.py:12`.
        product: whether it is a product of signals, and not another function.
        branches: how many are added to its stream.
        stream: the number of the stream; `None` where no branch of it has an end.
    """

    weights: tuple[str, ...]
    line: str
    product: bool
    branches: int | None
    stream: int | None


def unended_texts(unended: Iterable[Unended]) -> list[str]:
    """Return a text for each line of the forward pass: the last weights, and what stands behind them."""
    weights: dict[str, dict[str, None]] = {}
    for each in unended:
        what = "a product of signals" if each.product else "a function that is not linear"
        at = f"{what} ({each.line})" if each.line else what
        weights.setdefault(at, {}).update(dict.fromkeys(each.weights))
    return [f"{listing(paths, 4)}: {at}" for at, paths in weights.items()]


class _AskedLater:
    """A record that can be made without its fields: they are asked for when the first of them is needed."""

    __slots__ = ("_ask",)

    if not TYPE_CHECKING:  # a type checker is to know the fields, and that there are no others

        def __getattr__(self, name):
            """Fill in the fields, which are not there yet, and return the one of this name."""
            if name not in self.__dataclass_fields__:
                raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'", name=name, obj=self)
            known = self._ask()
            for field in fields(self):
                object.__setattr__(self, field.name, getattr(known, field.name))
            return object.__getattribute__(self, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual(_AskedLater):
    """What a forward pass says of an array and residual streams.

    Attributes:
        streams: all residual streams of the forward pass, in its order.
        part: where in a branch the array stands; `None` where it is in none.
        stream: the number of its stream.
        branches: the branches that it is in, the first is 1; several for a stack, and for an array that is used again.
        layers: how many weights a signal passes on the longest way through its branch.
        normalized: for an end, whether a norm stands between it and the stream, so that its scale does not matter.
        bent: for an end, whether a function such as ReLU stands between it and the stream, so that positive multiples
            go through it, and the gradient of zeros may not.
        unended: what branches add of which no weight is the end, whatever the array.
    """

    streams: tuple[ResidualStream, ...]
    part: Part | None = None
    stream: int | None = None
    branches: tuple[int, ...] = ()
    layers: int | None = None
    normalized: bool = False
    bent: bool = False
    unended: tuple[Unended, ...] = ()

    @property
    def own(self) -> ResidualStream | None:
        """The stream in a branch of which the array is."""
        return None if self.stream is None else self.streams[self.stream]

    @property
    def without_end(self) -> list[str]:
        """What branches add of which no weight is the end, as texts, without the gates of an LSTM."""
        return unended_texts(each for each in self.unended if each.stream is not None or not each.product)

    @property
    def place(self) -> str:
        """The branches as text: `branch 3 of 24`; nothing for an array that is in none."""
        stream_of_array = self.own
        if stream_of_array is None:
            return ""
        total = "an unknown number" if stream_of_array.branches is None else str(stream_of_array.branches)
        numbers = f"branches {_ranges(self.branches)}" if len(self.branches) > 1 else f"branch {_ranges(self.branches)}"
        stream = f", stream {(self.stream or 0) + 1}" if len(self.streams) > 1 else ""
        return f"{numbers} of {total}{stream}"

    def __str__(self) -> str:
        """Return what it says of the array: `end of branch 3 of 24`."""
        return f"end of {self.place}" if self.part == "end" else self.place


def asked_later(ask: Callable[[], Residual]) -> Residual:
    """Return what a function returns, which is not called before a field of it is needed."""
    residual = object.__new__(Residual)
    object.__setattr__(residual, "_ask", ask)
    return residual


def _ranges(numbers: tuple[int, ...]) -> str:
    """Numbers as text: `1 to 24` and `1, 3, …, 23` where they are evenly spaced, the first few of others."""
    if not numbers:
        return "?"
    steps = {after - before for before, after in itertools.pairwise(numbers)}
    if len(numbers) > 2 and steps == {1}:
        return f"{numbers[0]} to {numbers[-1]}"
    if len(numbers) > 3 and len(steps) == 1:
        return f"{numbers[0]}, {numbers[1]}, …, {numbers[-1]}"
    return ", ".join(map(str, numbers[:4])) + (", …" if len(numbers) > 4 else "")
