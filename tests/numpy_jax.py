"""The part of JAX that random programs use, in NumPy, which knows where a parameter meets the signal.

A program is source text. `jax.make_jaxpr` sees it with JAX; here the same text runs with `JNP`, `LAX` and `JAX` in the
place of `jax.numpy`, `jax.lax` and `jax`. Every value holds its entries for many parameters and signals at once: along
its first axis the parameter in question changes entry by entry, along its second the entries of the signal that meet it
do. Where a value of the parameter meets one of the signal, what moves the result is seen by subtraction. Nothing of
`initax` is used here.
"""

from __future__ import annotations

import functools
import itertools
import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

TINY = 1e-7


class UnknownError(Exception):
    """The program does what this interpreter can't do."""


@dataclass(slots=True, eq=False)
class Meeting:
    """A value in which outputs of the parameter stand: right where it met the signal, or after sums of such values.

    Attributes:
        kind: `product`, `sum of both`, `look-up`; `sum` of outputs, `contraction of products`, `contraction with a
            constant`.
        moved: for each entry of the value and each entry of the parameter, whether the one moves with the other.
        met: pairs of an entry of the parameter and a number of an entry of the signal, for each entry of the value.
        added: whether an entry of the value moves with one of the parameter, whatever the signal is.
        is_affine: whether it is an affine function of the parameter.
        lenient: padding, strides or masks may have left entries out.
        sources: the meetings whose outputs it holds.
        behind: the meetings that its signal depends on.
    """

    kind: str
    moved: Any
    met: Any
    added: Any
    is_affine: bool
    lenient: bool
    sources: frozenset[int] = frozenset()
    behind: frozenset[int] = frozenset()


@dataclass(slots=True, eq=False)
class World:
    """One run of a program: which parameter is followed, and what was seen.

    Attributes:
        name: the parameter.
        atoms: number of an entry of the signal → its place along the second axis; the first run counts, and has none.
        met: numbers of entries of signals that met the parameter.
        meetings: what was seen.
        flags: what is known to be undecidable, or allows more than one reading.
        quiet: nothing is entered.
        masks: constants that leave entries of the parameter out do so.
        single: of constants that outputs are contracted with, one entry counts along what is summed over.
        apart: meetings whose outputs go on by themselves, whatever else is made of them.
        pieces: entries of the parameter that are in one part of it, or of its outputs.
    """

    name: str = ""
    atoms: dict[int, int] | None = None
    met: dict[int, None] = field(default_factory=dict)
    meetings: list[Meeting] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    memo: dict[Any, int] = field(default_factory=dict)
    count: int = 0
    quiet: int = 0
    width: int = 1
    masks: bool = True
    single: bool = False
    apart: frozenset[int] = frozenset()
    pieces: dict[bytes, Any] = field(default_factory=dict)

    def fresh(self, shape: tuple[int, ...]) -> Any:
        """Return new numbers for the entries of a signal."""
        size = math.prod(shape)
        self.count += size
        return np.arange(self.count - size, self.count).reshape(shape)

    def known(self, name: Any, *numbers: Any) -> Any:
        """Return numbers for a function of entries of signals: the same for the same function of the same entries."""
        shape = np.broadcast_shapes(*(each.shape for each in numbers))
        flat = [np.broadcast_to(each, shape).ravel().tolist() for each in numbers]
        found = []
        for key in zip(*flat, strict=True):
            found.append(self.memo.setdefault((name, *key), self.count))
            self.count += found[-1] == self.count
        return np.array(found, dtype=np.int64).reshape(shape)


W = World()
"""The run in progress."""


def start(world: World) -> None:
    """Make a run the one in progress."""
    global W  # noqa: PLW0603
    W = world


class V:
    """A value: `const`, `data` (signal), `pure` (a function of the parameter alone), or `live` (outputs of it)."""

    __array_priority__ = 1000
    __array_ufunc__ = None

    def __init__(self, arr: Any, kind: str = "const", *, lin: Any = None, **more: Any) -> None:
        self.arr = arr
        self.kind = kind
        self.lin = lin
        self.other: bool = more.get("other", False)  # another parameter is in it
        self.lenient: bool = more.get("lenient", False)
        self.sources: frozenset[int] = more.get("sources", frozenset())
        self.behind: frozenset[int] = more.get("behind", frozenset())
        self.looked: bool = more.get("looked", False)
        self.modulated: bool = more.get("modulated", False)
        self.tables: tuple[Meeting, ...] = more.get("tables", ())

    shape = property(lambda self: self.arr.shape[2:])
    ndim = property(lambda self: self.arr.ndim - 2)
    size = property(lambda self: math.prod(self.shape))
    T = property(lambda self: transpose(self))
    mT = property(lambda self: swapaxes(self, -1, -2))
    dtype = property(lambda self: self.arr.dtype)
    real = property(lambda self: unary("real", np.real, self, linear=True))
    imag = property(lambda self: unary("imag", np.imag, self, linear=True))

    @property
    def at(self) -> Any:
        return At(self)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Any:
        return (self[at] for at in range(self.shape[0]))

    def __int__(self) -> int:
        return int(self.base())

    __index__ = __int__

    def base(self) -> Any:
        return self.arr[0, 0]

    def __getitem__(self, index: Any) -> V:
        return getitem(self, index)

    def __add__(self, other: Any) -> V:
        return binary("add", np.add, self, other)

    def __radd__(self, other: Any) -> V:
        return binary("add", np.add, other, self)

    def __sub__(self, other: Any) -> V:
        return binary("sub", np.subtract, self, other)

    def __rsub__(self, other: Any) -> V:
        return binary("sub", np.subtract, other, self)

    def __mul__(self, other: Any) -> V:
        return binary("mul", np.multiply, self, other)

    def __rmul__(self, other: Any) -> V:
        return binary("mul", np.multiply, other, self)

    def __truediv__(self, other: Any) -> V:
        return binary("div", np.divide, self, other)

    def __rtruediv__(self, other: Any) -> V:
        return binary("div", np.divide, other, self)

    def __pow__(self, other: Any) -> V:
        return binary("pow", np.power, self, other)

    def __gt__(self, other: Any) -> V:
        return binary("gt", np.greater, self, other)

    def __lt__(self, other: Any) -> V:
        return binary("lt", np.less, self, other)

    def __neg__(self) -> V:
        return unary("neg", np.negative, self, linear=True)

    def __matmul__(self, other: Any) -> V:
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> V:
        return matmul(other, self)

    def reshape(self, *shape: Any) -> V:
        return reshape(self, shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape)

    def transpose(self, *axes: Any) -> V:
        return transpose(self, axes or None)

    def sum(self, axis: Any = None) -> V:
        return reduce_sum(self, axis)

    def mean(self, axis: Any = None) -> V:
        return mean(self, axis)

    def max(self, axis: Any = None) -> V:
        return reduced("max", np.max, self, axis)

    def astype(self, dtype: Any) -> V:
        return unary(f"astype {dtype}", lambda a: a, self, linear=True)

    def ravel(self) -> V:
        return self.reshape(-1)


def V_of(value: Any) -> V:
    """Return a value as one of this interpreter."""
    if isinstance(value, V):
        return value
    if isinstance(value, list | tuple) and any(isinstance(each, V) for each in value):
        return stack(value)
    return V(np.asarray(value)[None, None])


def is_input(value: V) -> bool:
    return value.kind in ("data", "live")


def numbers(value: V) -> Any:
    """The numbers of the entries of a value: -1 for what is no signal."""
    return value.lin if value.lin is not None else np.full(value.shape, -1)


def merged(values: Sequence[V]) -> dict[str, Any]:
    """What any of some values is, the result is, too."""
    return {
        "other": any(each.other for each in values),
        "lenient": any(each.lenient for each in values),
        "sources": frozenset().union(*(each.sources for each in values)),
        "behind": frozenset().union(*(each.behind for each in values)),
        "modulated": any(each.modulated for each in values),
    }


def frozen(value: V) -> V:
    """Return outputs as a signal like any other."""
    if value.kind != "live":
        return value
    more = merged([value])
    W.apart |= value.sources
    more["behind"] |= more.pop("sources")
    return V(value.arr[:1, :1], "data", lin=value.lin, **more)


def overlap(one: V, other: V) -> bool:
    """Whether an entry of the parameter moves one entry of two values that are added up."""
    if W.atoms is None or W.quiet:
        return False
    n, moves = W.width - 4, []
    for each in (one, other):
        arr = np.broadcast_to(each.arr, (W.width, *each.arr.shape[1:]))
        moves.append((np.abs(arr[1 : n + 1] - arr[:1]) > TINY).any(1))
    shape = np.broadcast_shapes(*(each.shape[1:] for each in moves))
    first, second = (
        np.broadcast_to(m.reshape(n, *(1,) * (len(shape) - m.ndim + 1), *m.shape[1:]), (n, *shape)) for m in moves
    )
    return bool((first & second).any())


def spread(value: V) -> V:
    """Return a signal that meets the parameter, with its entries changed one after the other along the second axis."""
    value = frozen(value)
    if value.kind != "data":
        return value
    found = np.unique(value.lin)
    for number in found[found >= 0].tolist():
        W.met.setdefault(number)
    if W.atoms is None:
        return value
    arr = np.repeat(value.arr, len(W.atoms) + 1, axis=1)
    if arr.dtype.kind not in "fc":
        return value
    for number in found[found >= 0].tolist():
        arr[:, 1 + W.atoms[number]][:, value.lin == number] += 0.7
    return V(arr, "data", lin=value.lin, **merged([value]))


def pattern(arr: Any) -> tuple[Any, Any, Any, bool]:
    """What moves each entry: entries of the parameter, pairs of them and entries of the signal; is it affine."""
    size = math.prod(arr.shape[2:])
    arr = np.broadcast_to(arr, (W.width, len(W.atoms or ()) + 1, *arr.shape[2:])).reshape(W.width, -1, size)
    n = W.width - 4
    moved = arr[1 : n + 1] - arr[:1]
    tiny = TINY * max(1.0, float(np.abs(arr).max(initial=0)))
    moved_any = (np.abs(moved) > tiny).any(1).T
    met = (np.abs(moved[:, 1:] - moved[:, :1]) > tiny).transpose(2, 0, 1)
    added = (np.abs(moved[:, 0]) > tiny).T & ~met.any(2)
    bent = np.abs(arr[n + 3] - arr[n + 1] - arr[n + 2] + arr[0]) > 10 * tiny
    return moved_any, met, added, not bent.any()


def enter(kind: str, value: V) -> V:
    """Enter a meeting, and return its value as outputs of it."""
    if W.quiet or W.atoms is None:
        number = -1
    else:
        number = len(W.meetings)
        W.meetings.append(Meeting(kind, *pattern(value.arr), value.lenient, value.sources, value.behind))
    value.sources = frozenset({number}) | (value.sources if kind != "sum" else frozenset())
    return value


def settle(value: V) -> V:
    """Return a value of the parameter as a signal: a look-up, or a learned signal."""
    if value.kind != "pure":
        return value
    if value.looked:
        W.flags.add("look-up")
        number: frozenset[Any] = frozenset()
        if not W.quiet:
            number = frozenset(range(len(W.meetings), len(W.meetings) + len(value.tables)))
            W.meetings += value.tables
    else:
        W.flags.add("signal")
        number = frozenset()
    return V(value.arr[:1, :1], "data", lin=W.fresh(value.shape), lenient=value.lenient, behind=number)


LINEAR = {"add", "sub"}


def combine(name: str, function: Callable[..., Any], values: Sequence[V], numbers_of: Callable[..., Any]) -> V:
    """Return a function of several values: where the parameter is in one and the signal in another they meet."""
    pure = [each for each in values if each.kind == "pure"]
    if any(each.looked for each in pure) and name not in ("einsum",):
        values = [settle(each) if each.kind == "pure" and each.looked else each for each in values]
        pure = [each for each in values if each.kind == "pure"]
    inputs = [each for each in values if is_input(each)]
    more = merged(values)
    if pure and not inputs:
        if name not in LINEAR and any(each.other for each in values if each.kind != "pure"):
            W.flags.add("tangled")
        if name == "mul" and not W.masks:
            values = [
                V(np.where(each.arr == 0, 1, each.arr)) if each.kind == "const" and not each.other else each
                for each in values
            ]
        if name == "einsum" and any(each.kind == "const" for each in values):
            W.flags.add("constant")
        more["looked"] = any(each.looked for each in pure)
        more["tables"] = tuple(dict.fromkeys(table for each in pure for table in each.tables))
        made = V(function(*(each.arr for each in values)), "pure", **more)
        if name == "einsum" and any(each.kind == "const" and not each.other for each in values):
            enter("contraction with a constant", V(made.arr, "live", lenient=more["lenient"]))
        return made
    if not pure and not inputs:
        return V(function(*(each.arr for each in values)), "const", other=more["other"], lenient=more["lenient"])
    if pure:
        if len(inputs) > 1:
            W.flags.add("two signals")
        if name == "einsum" and all(each.looked for each in pure):
            W.flags.add("member")
        more["behind"] = more["behind"] | more["sources"]
        more["sources"] = frozenset()
        arr = function(*(each.arr if each.kind == "pure" else spread(each).arr for each in values))
        found = function(*(each.arr[:1, :1] for each in values))
        value = V(arr, "live", lin=W.fresh(found.shape[2:]), **more)
        value.modulated = name == "mul"
        return enter("sum of both" if name in LINEAR else "product", value)
    live = [each for each in values if each.kind == "live"]
    if name in ("einsum", "mul") and len(live) == 1 and len(inputs) > 1:
        gate = next(each for each in inputs if each.kind == "data")
        if not gate.behind & live[0].sources:
            for axis, size in enumerate(live[0].shape):
                for at in range(size):
                    cut(layout(lambda places: np.take(places, at, axis), [live[0]]))  # noqa: B023
    lin = numbers_of(*(numbers(each) for each in values))
    if name == "einsum" and len(live) == 1 and len(inputs) == 2 and live[0].modulated:
        other = [each if each is live[0] else spread(each) for each in values]
        enter("contraction of products", V(function(*(each.arr for each in other)), "live", lin=lin, **merged(live)))
    followed = entrywise_const(name, values) or (W.single and name == "einsum")
    if live and (name in LINEAR or (len(live) == 1 and len(inputs) == 1 and followed)):
        sources = sorted(more["sources"])
        if name in LINEAR and len(live) > 1:
            if any(one in more["behind"] for one in sources):
                W.flags.add("residual")
                arrs = [each.arr[:1, :1] for each in values]
                more["behind"], more["sources"] = more["behind"] | more["sources"], frozenset()
                return V(function(*arrs), "data", lin=lin, **more)
            if live[0].sources != live[1].sources and overlap(*live):
                W.apart |= more["sources"]  # a mean is taken off, say: what is summed is used beside its sum
            return enter("sum", V(function(*(each.arr for each in values)), "live", lin=lin, **more))
        if name in LINEAR:
            # A signal beside the outputs is what it was: only what is behind the outputs themselves counts.
            more["behind"] = live[0].behind
        return V(function(*(each.arr for each in values)), "live", lin=lin, **more)
    W.apart |= more["sources"]
    arrs = [each.arr[:1, :1] for each in values]
    more["behind"], more["sources"] = more["behind"] | more["sources"], frozenset()
    return V(function(*arrs), "data", lin=lin, **more)


def entrywise_const(name: str, values: Sequence[V]) -> bool:
    return name == "mul" or (name == "div" and values[-1].kind != "live")


def binary(name: str, function: Callable[..., Any], left: Any, right: Any) -> V:
    """Return a function of two values, entry by entry."""
    first, second = V_of(left), V_of(right)
    rank = max(first.ndim, second.ndim)

    def aligned(*arrs: Any) -> Any:
        return function(*(a.reshape(*a.shape[:2], *(1,) * (rank - a.ndim + 2), *a.shape[2:]) for a in arrs))

    if name == "div" and first.kind == second.kind == "pure":
        # A weight divided by its norm: the norm is held fixed.
        W.flags.add("normed")
        second = V(second.arr[:1], "pure", **merged([second]))
    if name in ("gt", "lt"):
        value = aligned(*(each.base()[None, None] for each in (first, second)))
        made = "data" if is_input(first) or is_input(second) else "const"
        return V(value, made, lin=W.fresh(value.shape[2:]) if made == "data" else None)
    return combine(name, aligned, [first, second], lambda *each: W.known(name, *each))


def unary(name: str, function: Callable[..., Any], value: Any, *, linear: bool = False) -> V:
    """Return a function of one value, entry by entry."""
    value = V_of(value)
    if value.kind == "pure" and value.looked and not linear:
        value = settle(value)
    if value.kind in ("const", "pure"):
        return V(function(value.arr), value.kind, looked=value.looked, tables=value.tables, **merged([value]))
    if linear:
        return V(function(value.arr), value.kind, lin=value.lin, **merged([value]))
    value = frozen(value)
    return V(function(value.arr), "data", lin=W.known(name, value.lin), **merged([value]))


def layout(move: Callable[..., Any], values: Sequence[Any], *, fill: bool = False) -> V:
    """Return entries of values in other places. `move` says where they go, by moving their numbers; -1 is a zero."""
    values = [V_of(each) for each in values]
    if any(is_input(each) for each in values) and any(each.kind == "pure" for each in values):
        values = [settle(each) for each in values]
    places, offset = [], 0
    for each in values:
        places.append(np.arange(offset, offset + each.size).reshape(each.shape))
        offset += each.size
    at = np.asarray(move(*places))

    def picked(flats: Sequence[Any], zero: Any) -> Any:
        a, b = (max(each.shape[axis] for each in flats) for axis in (0, 1))
        flats = [np.broadcast_to(each, (a, b, each.shape[-1])) for each in flats]
        whole = np.concatenate([*flats, np.full((a, b, 1), zero)], axis=-1)
        return whole[..., at.ravel()].reshape(a, b, *at.shape)

    arr = picked([each.arr.reshape(*each.arr.shape[:2], -1) for each in values], 0)
    kinds = {each.kind for each in values}
    kind = next(each for each in ("live", "data", "pure", "const") if each in kinds)
    lin = None
    more = merged(values)
    if kind in ("live", "data"):
        lin = picked([numbers(each).reshape(1, 1, -1) for each in values], -1)[0, 0]
        # Zeros beside the signal, as padding or the first state of a loop, leave entries out.
        zeros = bool((at < 0).any()) or any(each.kind == "const" and not each.arr.any() for each in values)
        more["lenient"] |= zeros
        W.flags |= {"padded"} if zeros else set()
    if kind == "pure":
        more["looked"] = any(each.looked for each in values)
        more["tables"] = tuple(dict.fromkeys(table for each in values for table in each.tables))
        if more["looked"] and not all(each.looked or each.kind == "const" for each in values):
            raise UnknownError("a look-up beside the parameter")
    return V(arr, kind, lin=lin, **more)


def reshape(value: Any, shape: Any) -> V:
    return layout(lambda at: at.reshape(shape), [value])


def transpose(value: Any, axes: Any = None) -> V:
    return layout(lambda at: np.transpose(at, axes), [value])


def swapaxes(value: Any, one: int, two: int) -> V:
    return layout(lambda at: np.swapaxes(at, one, two), [value])


def concatenate(values: Any, axis: int = 0) -> V:
    return layout(lambda *at: np.concatenate(at, axis), list(values))


def stack(values: Any, axis: int = 0) -> V:
    return layout(lambda *at: np.stack(at, axis), list(values))


def getitem(value: V, index: Any) -> V:
    given = index if isinstance(index, tuple) else (index,)
    if any(isinstance(each, V) and is_input(each) for each in given):
        return looked_up(value, given)
    plain = tuple(each.base() if isinstance(each, V) else each for each in given)
    return cut(layout(lambda at: at[plain], [value]))


def cut(value: V) -> V:
    """Note which entries of the parameter are in a part of something, and return that part."""
    through_sums = any(0 <= each < len(W.meetings) and W.meetings[each].kind == "sum" for each in value.sources)
    if (value.kind == "data" and value.behind) or through_sums:
        W.flags.add("later parts")
    if W.atoms is not None and not W.quiet and value.kind in ("pure", "live") and value.size:
        n = W.width - 4
        arr = np.broadcast_to(value.arr, (W.width, *value.arr.shape[1:]))
        inside = (np.abs(arr[1 : n + 1] - arr[:1]) > TINY).reshape(n, -1).any(1)
        W.pieces.setdefault(inside.tobytes(), inside)
    return value


def looked_up(value: V, given: tuple[Any, ...]) -> V:
    """Return entries of a value that the data pick."""
    base = tuple(each.base() if isinstance(each, V) else each for each in given)
    found = layout(lambda at: at[base], [value])
    if value.kind != "pure":
        value = settle(value)
        made = layout(lambda at: at[base], [value])
        return V(
            made.arr[:1, :1],
            "data",
            lin=W.fresh(made.shape),
            lenient=made.lenient,
            behind=frozen(made).behind | frozenset().union(*(frozen(e).behind for e in given if isinstance(e, V))),
        )
    places = [(at, each) for at, each in enumerate(given) if isinstance(each, V) and is_input(each)]
    choices = list(itertools.product(*(range(value.shape[at]) for at, _ in places)))
    if len(choices) == 1:
        return found
    which = np.zeros((1,), int)
    for _, each in places:
        which = W.known("index", which, each.lin)
    owner = owners(value.shape, base, places, np.arange(which.size))
    names = [[(int(number), choice) for choice in choices] for number in which.ravel()]
    for name in itertools.chain(*names):
        W.met.setdefault(name)
    tables: tuple[Meeting, ...] = ()
    if W.atoms is not None:
        n = W.width - 4
        moved = np.zeros((found.size, n), bool)
        met = np.zeros((found.size, n, len(W.atoms)), bool)
        for at_choice, choice in enumerate(choices):
            other = list(base)
            for (at, each), pick in zip(places, choice, strict=True):
                other[at] = np.full_like(each.base(), pick)
            here = pattern(layout(lambda at: at[tuple(other)], [value]).arr)[0]  # noqa: B023
            moved |= here
            for row, index in enumerate(owner.ravel().tolist()):
                met[row, :, W.atoms[names[index][at_choice]]] |= here[row]
        tables = (Meeting("look-up", moved, met, np.zeros_like(moved), pattern(found.arr)[3], found.lenient),)
    return V(found.arr, "pure", looked=True, tables=tables, **merged([value]))


def owners(shape: tuple[int, ...], base: tuple[Any, ...], places: Sequence[Any], spot: Any) -> Any:
    """For each entry of a look-up's result, the number of the entry of the indices that picked it."""
    at = [each for each, _ in places]
    rest = tuple(np.zeros_like(each) if place in at else each for place, each in enumerate(base))
    shapes = [each if place not in at else spot.size for place, each in enumerate(shape)]
    marks = np.zeros(shapes, int)
    first = at[0]
    marks += np.arange(spot.size).reshape([-1 if place == first else 1 for place in range(len(shapes))])
    index = list(rest)
    index[first] = spot.reshape(np.shape(base[first]))
    return marks[tuple(index)]


def take(value: Any, index: Any, axis: int | None = None, **_: Any) -> V:
    if axis is None:
        return reshape(value, -1)[index]
    rank = V_of(value).ndim
    return V_of(value)[(*(slice(None),) * (axis % rank), index)]


def axes_of(value: V, axis: Any) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(value.ndim))
    return tuple(sorted(each % value.ndim for each in (axis if isinstance(axis, tuple | list) else (axis,))))


def reduce_sum(value: Any, axis: Any = None, keepdims: bool = False) -> V:
    """Return a sum over axes. Over several it is one after the other, the last first."""
    value = V_of(value)
    value = settle(value) if value.looked else value
    axes = axes_of(value, axis)
    if not axes:
        return value
    inside = tuple(each + 2 for each in axes)

    def summed(arr: Any) -> Any:
        return arr.sum(inside, keepdims=keepdims)

    arr = summed(value.arr)
    if value.kind in ("const", "pure"):
        return V(arr, value.kind, **merged([value]))
    if value.kind == "data":
        return V(arr, "data", lin=W.fresh(arr.shape[2:]), **merged([value]))
    return enter("sum", V(arr, "live", lin=W.fresh(arr.shape[2:]), **merged([value])))


def mean(value: Any, axis: Any = None, keepdims: bool = False) -> V:
    value = V_of(value)
    return reduce_sum(value, axis, keepdims) * (1 / math.prod(value.shape[each] for each in axes_of(value, axis)))


def reduced(name: str, function: Callable[..., Any], value: Any, axis: Any = None, keepdims: bool = False) -> V:
    """Return a function of a value over axes that is no sum."""
    value = frozen(V_of(value))
    value = settle(value) if value.looked else value
    inside = tuple(each + 2 for each in axes_of(value, axis))
    arr = function(value.arr, axis=inside, keepdims=keepdims)
    return V(arr, value.kind, lin=None if value.lin is None else W.fresh(arr.shape[2:]), **merged([value]))


def rolled(name: str, function: Callable[..., Any], value: Any) -> V:
    """Return a function of a value that keeps its shape, no entry by itself."""
    value = frozen(V_of(value))
    value = settle(value) if value.looked else value
    arr = function(value.arr)
    return V(arr, value.kind, lin=None if value.lin is None else W.fresh(arr.shape[2:]), **merged([value]))


def cumsum(value: Any, axis: int = 0) -> V:
    rank = V_of(value).ndim
    return rolled("cumsum", lambda a: np.cumsum(a, axis=axis % rank + 2), value)


def softmax(value: Any, axis: int = -1) -> V:
    def function(a: Any) -> Any:
        raised = np.exp(a - a.max(axis, keepdims=True))
        return raised / raised.sum(axis, keepdims=True)

    assert axis < 0
    return rolled("softmax", function, value)


def einsum(equation: str, *operands: Any) -> V:
    values = [V_of(each) for each in operands]
    equation = equation.replace(" ", "")
    if "..." in equation:
        named = [each.replace("...", "") for each in equation.partition("->")[0].split(",")]
        rest = max(value.ndim - len(term) for term, value in zip(named, values, strict=True))
        equation = equation.replace("...", "".join(each for each in "ABCDEFGH" if each not in equation)[:rest])
    left, _, right = equation.partition("->")
    terms = left.split(",")
    spare = [each for each in string.ascii_letters if each not in equation][:2]
    lead = "".join(spare)
    for place, (term, value) in enumerate(zip(terms, values, strict=True)):
        repeated = [letter for letter in dict.fromkeys(term) if term.count(letter) > 1]
        if repeated:
            unique = "".join(dict.fromkeys(term))
            values[place] = layout(lambda at: np.einsum(f"{term}->{unique}", at), [value])  # noqa: B023
            terms[place] = unique
    if len(values) == 1:
        (term,), (value,) = terms, values
        gone = [at for at, letter in enumerate(term) if letter not in right]
        kept = [letter for letter in term if letter in right]
        for at in reversed(gone):
            value = reduce_sum(value, at)
        return transpose(value, [kept.index(letter) for letter in right]) if kept else value
    if len(values) == 2 and sorted(value.kind for value in values) == ["const", "live"]:
        W.flags.add("constant behind")
        if W.single:
            values = [
                each if each.kind == "live" else first_of(each, term, right)
                for each, term in zip(values, terms, strict=True)
            ]
    spoken = ",".join(lead + term for term in terms) + "->" + lead + right
    name = "einsum"
    if len(values) == 2 and not (set(terms[0]) | set(terms[1])) - set(right):
        name = "mul"
    return combine(
        name,
        lambda *arrs: np.einsum(spoken, *arrs),
        values,
        lambda *each: W.fresh(np.einsum(",".join(terms) + "->" + right, *each).shape),
    )


def first_of(value: V, term: str, kept: str) -> V:
    """Return a constant with nothing but the first entry along each axis that is summed over."""
    arr = value.arr.copy()
    for at, letter in enumerate(term):
        if letter not in kept:
            np.moveaxis(arr, at + 2, 0)[1:] = 0
    return V(arr)


def matmul(left: Any, right: Any) -> V:
    left, right = V_of(left), V_of(right)
    a, b = left.ndim, right.ndim
    batch = "abcdefg"[: max(a, b, 2) - 2]
    one = "k" if a == 1 else batch[len(batch) - (a - 2) :] + "mk"
    two = "k" if b == 1 else batch[len(batch) - (b - 2) :] + "kn"

    # Batch axes of size one are broadcast.
    def narrow(value: V, term: str, other: V, term2: str) -> tuple[V, str]:
        for letter in [each for each in term if each in batch]:
            at = term.index(letter)
            if value.shape[at] == 1 and letter in term2 and other.shape[term2.index(letter)] != 1:
                value, term = value[(*(slice(None),) * at, 0)], term.replace(letter, "")
        return value, term

    left, one = narrow(left, one, right, two)
    right, two = narrow(right, two, left, one)
    out = "".join(each for each in batch if each in one + two)
    out += ("m" if a > 1 else "") + ("n" if b > 1 else "")
    return einsum(f"{one},{two}->{out}", left, right)


def dot(left: Any, right: Any) -> V:
    left, right = V_of(left), V_of(right)
    if left.ndim == 0 or right.ndim == 0:
        return left * right
    return tensordot(left, right, ([-1], [-2 if right.ndim > 1 else -1]))


def tensordot(left: Any, right: Any, axes: Any = 2) -> V:
    left, right = V_of(left), V_of(right)
    if isinstance(axes, int):
        axes = (list(range(left.ndim - axes, left.ndim)), list(range(axes)))
    pairs = tuple([each] if isinstance(each, int) else list(each) for each in axes)
    one = list("abcdefgh"[: left.ndim])
    two = list("mnopqrst"[: right.ndim])
    for a, b in zip(*pairs, strict=True):
        two[b] = one[a]
    gone = {one[a] for a in pairs[0]}
    out = [each for each in (*one, *two) if each not in gone]
    return einsum(f"{''.join(one)},{''.join(two)}->{''.join(out)}", left, right)


def dot_general(left: Any, right: Any, dimension_numbers: Any, **_: Any) -> V:
    left, right = V_of(left), V_of(right)
    (sum_left, sum_right), (batch_left, batch_right) = dimension_numbers
    one, two = list("abcdefgh"[: left.ndim]), list("mnopqrst"[: right.ndim])
    for a, b in zip((*sum_left, *batch_left), (*sum_right, *batch_right), strict=True):
        two[b] = one[a]
    out = [one[a] for a in batch_left]
    out += [each for at, each in enumerate(one) if at not in (*sum_left, *batch_left)]
    out += [each for at, each in enumerate(two) if at not in (*sum_right, *batch_right)]
    return einsum(f"{''.join(one)},{''.join(two)}->{''.join(out)}", left, right)


def pad(value: Any, widths: Any, **_: Any) -> V:
    value = V_of(value)
    if value.kind == "data" or value.kind == "live":
        W.flags.add("padded")
    widths = [widths] * value.ndim if isinstance(widths, int) else widths
    return layout(lambda at: np.pad(at, widths, constant_values=-1), [value])


def conv(
    x: Any,
    w: Any,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    **_: Any,
) -> V:
    """A convolution: windows of the signal are taken, then it is one contraction."""
    x, w = V_of(x), V_of(w)
    spatial = x.ndim - 2
    lhs, rhs, out = dimension_numbers or ("NC" + "HWD"[:spatial], "OI" + "HWD"[:spatial], "NC" + "HWD"[:spatial])
    letters = [each for each in rhs if each not in "OI"]
    x = transpose(x, [lhs.index(each) for each in ("N", "C", *letters)])
    w = transpose(w, [rhs.index(each) for each in ("O", "I", *letters)])
    up, apart = lhs_dilation or [1] * spatial, rhs_dilation or [1] * spatial
    window = w.shape[2:]
    if isinstance(padding, str):
        pads = []
        for size, k, s, d in zip(x.shape[2:], window, window_strides, apart, strict=True):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0) if padding == "SAME" else 0
            pads.append((total // 2, total - total // 2))
    else:
        pads = list(padding)
    lenient = any(any(each) for each in pads) or any(each > 1 for each in (*window_strides, *up, *apart))

    def windows(at: Any) -> Any:
        for axis, (many, (low, high)) in enumerate(zip(up, pads, strict=True)):
            size = at.shape[axis + 2]
            wide = np.full((*at.shape[: axis + 2], (size - 1) * many + 1, *at.shape[axis + 3 :]), -1)
            wide[(slice(None),) * (axis + 2) + (slice(None, None, many),)] = at
            at = np.pad(
                wide, [(low, high) if each == axis + 2 else (0, 0) for each in range(at.ndim)], constant_values=-1
            )
        counts = [
            (size - (k - 1) * d - 1) // s + 1
            for size, k, s, d in zip(at.shape[2:], window, window_strides, apart, strict=True)
        ]
        taken = np.empty((*at.shape[:2], *counts, *window), dtype=int)
        for place in itertools.product(*map(range, window)):
            index = tuple(
                slice(p * d, p * d + (n - 1) * s + 1, s)
                for p, d, n, s in zip(place, apart, counts, window_strides, strict=True)
            )
            taken[(slice(None),) * (2 + len(counts)) + place] = at[(slice(None), slice(None), *index)]
        return taken

    seen = layout(windows, [x])
    seen.lenient |= lenient
    if lenient:
        W.flags.add("padded")
    groups = feature_group_count
    seen = reshape(seen, (seen.shape[0], groups, seen.shape[1] // groups, *seen.shape[2:]))
    w = reshape(w, (groups, w.shape[0] // groups, *w.shape[1:]))
    places, offsets = "hwd"[:spatial], "xyz"[:spatial]
    made = einsum(f"bgi{places}{offsets},goi{offsets}->bgo{places}", seen, w)
    made = reshape(made, (made.shape[0], made.shape[1] * made.shape[2], *made.shape[3:]))
    order = ("N", "C", *letters)
    return transpose(made, [order.index(each) for each in out])


def where(which: Any, one: Any, two: Any) -> V:
    which, one, two = V_of(which), V_of(one), V_of(two)
    shape = np.broadcast_shapes(which.shape, one.shape, two.shape)
    mask = np.broadcast_to(which.base(), shape).astype(bool)
    one, two = broadcast_to(one, shape), broadcast_to(two, shape)
    if which.kind == "const":
        if not W.masks and {one.kind, two.kind} == {"pure", "const"}:
            return one if one.kind == "pure" else two
        return layout(lambda a, b: np.where(mask, a, b), [one, two])
    return one * V(mask[None, None].astype(float), "data", lin=W.fresh(shape)) + two * V(
        (~mask)[None, None].astype(float), "data", lin=W.fresh(shape)
    )


def broadcast_to(value: Any, shape: Any) -> V:
    return layout(lambda at: np.broadcast_to(at, shape), [value])


class At:
    """`x.at[index].set(y)`."""

    def __init__(self, value: V, index: Any = None) -> None:
        self.value, self.index = value, index

    def __getitem__(self, index: Any) -> At:
        return At(self.value, index)

    def set(self, what: Any) -> V:

        def move(at: Any, new: Any) -> Any:
            at = at.copy()
            at[self.index] = new
            return at

        return layout(move, [self.value, V_of(what)])

    def add(self, what: Any) -> V:

        def move(at: Any, new: Any) -> Any:
            at = np.full_like(at, -1)
            at[self.index] = new - self.value.size
            return at

        what = V_of(what)
        hole = layout(lambda at: move(np.zeros(self.value.shape, int), at + self.value.size), [what])
        return self.value + hole


def split(value: Any, sections: Any, axis: int = 0) -> list[V]:
    size = V_of(value).shape[axis]
    cuts = [size // sections * each for each in range(1, sections)] if isinstance(sections, int) else list(sections)
    borders = [0, *cuts, size]
    rank = V_of(value).ndim
    lead = (slice(None),) * (axis % rank)
    return [V_of(value)[(*lead, slice(a, b))] for a, b in itertools.pairwise(borders)]


def dynamic_index(value: Any, index: Any, axis: int = 0, keepdims: bool = True) -> V:
    found = take(value, index, axis)
    return expand_dims(found, axis) if keepdims else found


def dynamic_slice_in_dim(value: Any, start: Any, size: int, axis: int = 0) -> V:
    begin = int(V_of(start).base())
    if is_input(V_of(start)):
        raise UnknownError("windows at places that the data pick")
    return V_of(value)[(*(slice(None),) * axis, slice(begin, begin + size))]


def expand_dims(value: Any, axis: Any) -> V:
    return layout(lambda at: np.expand_dims(at, axis), [value])


def tree_map(function: Callable[..., Any], *trees: Any) -> Any:
    if isinstance(trees[0], tuple | list):
        return type(trees[0])(tree_map(function, *each) for each in zip(*trees, strict=True))
    if isinstance(trees[0], dict):
        return {key: tree_map(function, *(each[key] for each in trees)) for key in trees[0]}
    if trees[0] is None:
        return None
    return function(*trees)


def vmap(function: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> Callable[..., Any]:
    def mapped(*args: Any) -> Any:
        axes = in_axes if isinstance(in_axes, tuple | list) else (in_axes,) * len(args)
        number = next(V_of(arg).shape[axis] for arg, axis in zip(args, axes, strict=True) if axis is not None)
        results = [
            function(*(arg if axis is None else take(arg, at, axis) for arg, axis in zip(args, axes, strict=True)))
            for at in range(number)
        ]
        if isinstance(results[0], tuple):
            return tuple(stack(each, out_axes) for each in zip(*results, strict=True))
        rank = V_of(results[0]).ndim + 1
        return stack(results, out_axes % rank)

    return mapped


def scan(body: Callable[..., Any], init: Any, xs: Any, length: int | None = None, reverse: bool = False) -> Any:
    first = xs
    while isinstance(first, tuple | dict):
        first = first[0] if isinstance(first, tuple) else next(iter(first.values()))
    number = length if first is None else V_of(first).shape[0]
    carry, results = init, []
    for at in range(number)[:: -1 if reverse else 1]:
        carry, y = body(carry, tree_map(lambda each: V_of(each)[at], xs))  # noqa: B023
        results.append(y)
    results = results[:: -1 if reverse else 1]
    return carry, None if results[0] is None else tree_map(lambda *each: stack(each), *results)


def fori_loop(lower: int, upper: int, body: Callable[..., Any], init: Any) -> Any:
    for at in range(lower, upper):
        init = body(at, init)
    return init


def while_loop(condition: Callable[..., Any], body: Callable[..., Any], init: Any) -> Any:
    while bool(V_of(condition(init)).base()):
        init = body(init)
    return init


def cond(which: Any, yes: Callable[..., Any], no: Callable[..., Any], *operands: Any) -> Any:
    which = V_of(which)
    both = [yes(*operands), no(*operands)]
    chosen = both[0 if bool(which.base()) else 1]
    if is_input(which):
        behind = frozenset().union(*(frozen(V_of(each)).behind for each in (*both, which)))
        chosen = V_of(chosen)
        return V(chosen.arr[:1, :1], "data", lin=W.fresh(chosen.shape), behind=behind, lenient=chosen.lenient)
    return chosen


def lax_map(function: Callable[..., Any], xs: Any) -> Any:
    return scan(lambda _, x: (None, function(x)), None, xs)[1]


def grad(function: Callable[..., Any]) -> Callable[..., Any]:
    """A gradient by complex steps, exact to rounding. What the parameter is for, the function itself says."""

    def gradient(x: Any, *rest: Any) -> V:
        x = V_of(x)
        made = frozen(V_of(function(x, *rest)))
        W.quiet += 1
        flags = set(W.flags)
        try:
            found = np.zeros(x.shape)
            plain = V(x.arr[:1, :1].astype(complex), x.kind, lin=x.lin)
            args = [V(V_of(e).arr[:1, :1], "const") for e in rest]
            for place in np.ndindex(*x.shape):
                moved = plain.arr.copy()
                moved[(0, 0, *place)] += 1e-30j
                found[place] = function(V(moved, "const"), *args).base().imag / 1e-30
        finally:
            W.quiet -= 1
            W.flags = flags
        return V(found[None, None], "data", lin=W.fresh(x.shape), behind=made.behind | x.behind | x.sources)

    return gradient


def identity(function: Callable[..., Any] | None = None, **_: Any) -> Any:
    return function if function is not None else identity


def custom(function: Callable[..., Any]) -> Any:
    def called(*args: Any) -> Any:
        return function(*args)

    called.defjvp = called.defvjp = lambda *_: None  # type: ignore[attr-defined]
    return called


def switch(which: Any, branches: Any, *operands: Any) -> Any:
    which = V_of(which)
    values = [V_of(each(*operands)) for each in branches]
    chosen = values[min(max(int(which), 0), len(values) - 1)]
    if is_input(which):
        behind = frozenset().union(*(frozen(each).behind for each in (*values, which)))
        return V(chosen.arr[:1, :1], "data", lin=W.fresh(chosen.shape), behind=behind, lenient=chosen.lenient)
    return chosen


def take_along_axis(value: Any, index: Any, axis: int) -> V:
    value, index = V_of(value), V_of(index)
    shape = [index.shape[at] if at == axis % value.ndim else size for at, size in enumerate(value.shape)]
    index = broadcast_to(index, shape)
    places = np.indices(shape)
    given = tuple(index if at == axis % value.ndim else places[at] for at in range(value.ndim))
    return value[given]


def one_hot(index: Any, number: int) -> V:
    index = V_of(index)
    arr = (index.base()[..., None] == np.arange(number)).astype(float)[None, None]
    return V(arr, "data" if is_input(index) else "const", lin=W.fresh(arr.shape[2:]))


def erf(a: Any) -> Any:
    return np.vectorize(math.erf)(a)


def gelu(a: Any) -> Any:
    return 0.5 * a * (1 + np.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3)))


def logistic(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


def softplus(a: Any) -> Any:
    return np.logaddexp(a, 0) if not np.iscomplexobj(a) else np.log1p(np.exp(a))


def entrywise(name: str, function: Callable[..., Any], *, linear: bool = False) -> Callable[..., V]:
    return functools.partial(unary, name, function, linear=linear)


def made(function: Callable[..., Any]) -> Callable[..., V]:
    return lambda *args, **kwargs: V(np.asarray(function(*args, **kwargs))[None, None])


def moved(function: Callable[..., Any]) -> Callable[..., V]:
    return lambda value, *args, **kwargs: layout(lambda at: function(at, *args, **kwargs), [value])


def masked(function: Callable[..., Any]) -> Callable[..., V]:
    def call(value: Any, k: int = 0) -> V:
        return where(function(np.ones(V_of(value).shape), k) > 0, value, 0.0)

    return call


NN = SimpleNamespace(
    relu=entrywise("relu", lambda a: np.where(a.real > 0, a, 0)), gelu=entrywise("gelu", gelu),
    silu=entrywise("silu", lambda a: a * logistic(a)), sigmoid=entrywise("sigmoid", logistic),
    softplus=entrywise("softplus", softplus), softmax=softmax, one_hot=one_hot,
)  # fmt: skip
JNP = SimpleNamespace(
    take_along_axis=take_along_axis, vdot=lambda a, b: einsum("a,a->", V_of(a).ravel(), V_of(b).ravel()),
    diag=lambda v: where(np.eye(V_of(v).size) > 0, V_of(v)[:, None], 0.0),
    einsum=einsum, matmul=matmul, dot=dot, tensordot=tensordot, inner=lambda a, b: tensordot(a, b, ([-1], [-1])),
    reshape=reshape, transpose=transpose, swapaxes=swapaxes, moveaxis=moved(np.moveaxis), concatenate=concatenate,
    stack=stack, split=split, take=take, pad=pad, where=where, broadcast_to=broadcast_to, expand_dims=expand_dims,
    squeeze=moved(np.squeeze), flip=moved(np.flip), roll=moved(np.roll), tile=moved(np.tile), repeat=moved(np.repeat),
    sum=reduce_sum, mean=mean, cumsum=cumsum, tril=masked(np.tril), triu=masked(np.triu), ravel=moved(np.ravel),
    tanh=entrywise("tanh", np.tanh), exp=entrywise("exp", np.exp), sin=entrywise("sin", np.sin),
    abs=entrywise("abs", np.abs), sqrt=entrywise("sqrt", np.sqrt), square=entrywise("square", np.square),
    real=lambda v: V_of(v).real, imag=lambda v: V_of(v).imag, float32=np.float64, bfloat16=np.float64,
    conj=entrywise("conj", np.conj, linear=True),
    max=functools.partial(reduced, "max", np.max), maximum=functools.partial(binary, "maximum", np.maximum),
    multiply=lambda a, b: V_of(a) * b, add=lambda a, b: V_of(a) + b, outer=lambda a, b: einsum("a,b->ab", a, b),
    array=made(np.array), asarray=made(np.asarray), arange=made(np.arange), eye=made(np.eye), ones=made(np.ones),
    zeros=made(np.zeros), zeros_like=lambda v: V(np.zeros((1, 1, *V_of(v).shape))),
    linalg=SimpleNamespace(norm=lambda v, axis=None, keepdims=False: unary(
        "sqrt", np.sqrt, reduce_sum(V_of(v) * v, axis, keepdims))),
)  # fmt: skip
LAX = SimpleNamespace(
    scan=scan, switch=switch, dot=dot,
    fori_loop=fori_loop, while_loop=while_loop, cond=cond, map=lax_map, dot_general=dot_general,
    conv_general_dilated=conv, rev=lambda v, d: layout(lambda at: np.flip(at, d), [v]),
    dynamic_index_in_dim=dynamic_index, dynamic_slice_in_dim=dynamic_slice_in_dim,
    dynamic_update_slice=lambda v, u, s: V_of(v).at[
        tuple(slice(a, a + b) for a, b in zip(s, V_of(u).shape, strict=True))].set(u),
    rsqrt=entrywise("rsqrt", lambda a: 1 / np.sqrt(a)), complex=lambda a, b: V_of(a) + V_of(b) * 1j,
    stop_gradient=lambda v: v,
)  # fmt: skip
JAX = SimpleNamespace(
    numpy=JNP, lax=LAX, nn=NN, vmap=vmap, jit=identity, checkpoint=identity, remat=identity, grad=grad,
    custom_jvp=custom, custom_vjp=custom,
)  # fmt: skip
NAMES = {"jnp": JNP, "lax": LAX, "jax": JAX}
