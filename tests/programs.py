"""Random forward passes as text, and a command that reads them and holds the readings against what is measured.

`python -m tests.programs --programs 4000 --seed 1 2 3 4 5 --workers 2` prints what came of each, and the smallest
program of every kind of fault. A generator draws every choice from one function, so `random` and hypothesis can both
make the choices, and a program that fails is made small by making its choices small.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import math
import multiprocessing
import random
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests import numpy_jax
from tests.numpy_jax import NAMES, V, World
from tests.truth import Program, right, run, truth_of, verdict

Choose = Callable[[int], int]
"""A number below another one. Small numbers make simple programs."""


class Writer:
    """Writes a program line by line, and knows the shape of everything in it, as each line is run once in NumPy."""

    def __init__(self, choose: Choose) -> None:
        self.choose = choose
        self.lines: list[str] = []
        self.truth: list[str] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.picks: dict[str, int] = {}
        self.kinds: list[str] = []
        self.space: dict[str, Any] = {**NAMES, "p": {}}
        self.count = 0
        numpy_jax.start(World())

    def pick(self, options: Sequence[Any]) -> Any:
        return options[self.choose(len(options))]

    def chance(self, among: int) -> bool:
        """Return `True` one time in so many."""
        return self.choose(among) == among - 1

    def sizes(self, rank: int) -> tuple[int, ...]:
        """Return sizes of axes, mostly different ones."""
        found: list[int] = []
        for _ in range(rank):
            options = [3, 2, 4, 5, 6] if rank < 3 else [3, 2, 4] if rank < 4 else [2, 3]
            left = [each for each in options if each not in found] or options
            found.append(self.pick(left if not self.chance(6) else options))
        return tuple(found)

    def parameter(self, shape: Sequence[int], name: str = "") -> str:
        name = name or f"w{len(self.shapes)}" if self.shapes else "w"
        self.shapes[name] = tuple(shape)
        self.space["p"][name] = V(np.random.default_rng(len(name)).normal(size=tuple(shape))[None, None], "pure")
        return f'p["{name}"]'

    def signal(self, shape: Sequence[int]) -> str:
        name = f"x{len(self.inputs)}" if self.inputs else "x"
        self.inputs[name] = tuple(shape)
        arr = np.random.default_rng(5).normal(size=tuple(shape))[None, None]
        self.space[name] = V(arr, "data", lin=numpy_jax.W.fresh(tuple(shape)))
        return name

    def numbers(self, shape: Sequence[int], below: int) -> str:
        name = self.signal(shape)
        self.picks[name] = below
        self.space[name].arr = np.zeros((1, 1, *shape), int)
        return name

    def value(self, text: str, truth: str = "", prefix: str = "v") -> str:
        """Write a line that gives a new value, and return its name."""
        made = numpy_jax.V_of(eval(text, self.space))
        if not 0 < made.size <= 400 or not np.isfinite(made.arr).all():
            raise TooLargeError
        name = f"{prefix}{self.count}"
        self.count += 1
        self.space[name] = made
        self.lines.append(f"{name} = {text}")
        self.truth.append(f"{name} = {truth or text}")
        return name

    def line(self, text: str) -> None:
        """Write a line that gives several values, or none."""
        exec(text, self.space)
        self.lines.append(text)
        self.truth.append(text)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(eval(name, self.space).shape)

    def note(self, kind: str) -> None:
        self.kinds.append(kind)

    def done(self, result: str) -> Program:
        truth = (*self.truth, f"return {result}")
        lines = (*self.lines, f"return {result}")
        return Program(
            lines=lines, shapes=self.shapes, inputs=self.inputs, picks=self.picks,
            truth=truth if truth != lines else (), kinds=tuple(self.kinds),
        )  # fmt: skip


class TooLargeError(Exception):
    """A program grew too large to be checked quickly, or its numbers did, or nothing is left."""


def order(w: Writer, rank: int) -> list[int]:
    """Return the axes of a value in another order."""
    left = list(range(rank))
    return [left.pop(w.choose(len(left))) for _ in range(rank)]


def some_axis(w: Writer, value: str, least: int = 2) -> int | None:
    """Return an axis with at least so many entries."""
    axes = [at for at, size in enumerate(w.shape(value)) if size >= least]
    return w.pick(axes) if axes else None


def constant(shape: Sequence[int], seed: int = 0) -> str:
    """Return the text of a dense constant."""
    numbers = np.random.default_rng(seed + sum(shape)).integers(1, 5, size=shape) / 2
    return f"jnp.array({numbers.tolist()})"


def at_axis(axis: int, index: str) -> str:
    return "[" + ":, " * axis + index + "]"


# What happens to a parameter before it meets the signal.


def transposed(w: Writer, a: str) -> str | None:
    rank = len(w.shape(a))
    if rank < 2:
        return None
    ways = [
        f"{a}.T",
        f"jnp.transpose({a}, {order(w, rank)})",
        f"jnp.swapaxes({a}, 0, {rank - 1})",
        f"jnp.moveaxis({a}, 0, {w.choose(rank)})",
    ]
    return w.pick(ways)


def split_axis(w: Writer, a: str) -> str | None:
    shape = list(w.shape(a))
    axes = [at for at, size in enumerate(shape) if size in (4, 6, 8, 9)]
    if not axes or len(shape) > 3:
        return None
    axis = w.pick(axes)
    first = w.pick([n for n in range(2, shape[axis]) if shape[axis] % n == 0])
    shape[axis : axis + 1] = [first, shape[axis] // first]
    return f"{a}.reshape({', '.join(map(str, shape))})"


def merge_axes(w: Writer, a: str) -> str | None:
    shape = list(w.shape(a))
    if len(shape) < 2:
        return None
    axis = w.choose(len(shape) - 1)
    shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
    return f"{a}.reshape({', '.join(map(str, shape))})" if len(shape) > 1 else f"{a}.reshape(-1)"


def entry(w: Writer, a: str) -> str | None:
    axis = some_axis(w, a)
    if axis is None or len(w.shape(a)) < 2:
        return None
    k = w.choose(w.shape(a)[axis])
    return w.pick(
        [
            a + at_axis(axis, str(k)),
            f"jnp.take({a}, {k}, axis={axis})",
            f"lax.dynamic_index_in_dim({a}, {k}, {axis}, keepdims=False)",
        ]
    )


def sliced(w: Writer, a: str) -> str | None:
    axis = some_axis(w, a)
    if axis is None:
        return None
    size = w.shape(a)[axis]
    ways = [f":{max(1, size // 2)}", "1:", ":-1", "::2", "1::2", "::-1"]
    text = a + at_axis(axis, w.pick(ways))
    return text if not w.chance(6) else f"lax.dynamic_slice_in_dim({a}, 1, {size - 1}, {axis})"


def turned(w: Writer, a: str) -> str | None:
    axis = some_axis(w, a)
    if axis is None:
        return None
    size = w.shape(a)[axis]
    return w.pick(
        [
            f"jnp.flip({a}, {axis})",
            f"jnp.roll({a}, 1, {axis})",
            f"lax.rev({a}, ({axis},))",
            f"jnp.roll({a}, {size - 1}, {axis})",
        ]
    )


def taken(w: Writer, a: str) -> str | None:
    axis = some_axis(w, a)
    if axis is None:
        return None
    size = w.shape(a)[axis]
    rows = w.pick([order(w, size), list(range(size))[::-1], [w.choose(size) for _ in range(size)], [0, size - 1]])
    return w.pick([f"jnp.take({a}, jnp.array({rows}), axis={axis})", a + at_axis(axis, f"jnp.array({rows})")])


def padded(w: Writer, a: str) -> str | None:
    shape = w.shape(a)
    axis = some_axis(w, a)
    if axis is None:
        return None
    pads = [[0, 0] for _ in shape]
    pads[axis] = w.pick([[1, 0], [0, 2], [1, 1]])
    return f"jnp.pad({a}, {pads})"


def repeated(w: Writer, a: str) -> str | None:
    axis = some_axis(w, a, 1)
    if axis is None:
        return None
    times = [1] * len(w.shape(a))
    times[axis] = 2
    return w.pick([f"jnp.repeat({a}, 2, {axis})", f"jnp.tile({a}, {tuple(times)})"])


def parts_joined(w: Writer, a: str) -> str | None:
    axis = some_axis(w, a)
    if axis is None:
        return None
    first, second = a + at_axis(axis, ":1"), a + at_axis(axis, "1:")
    zeros = list(w.shape(a))
    zeros[axis] = 2
    return w.pick([
        f"jnp.concatenate([{second}, {first}], {axis})",
        f"jnp.concatenate([{a}, jnp.zeros({tuple(zeros)})], {axis})",
        f"jnp.stack([{', '.join(a + at_axis(axis, str(k)) for k in range(w.shape(a)[axis]))}], {axis})",
        f"jnp.concatenate(jnp.split({a}, [1], {axis}), {axis})",
    ])  # fmt: skip


def masked(w: Writer, a: str) -> str | None:
    shape = w.shape(a)
    if len(shape) < 2:
        return None
    mask = (np.random.default_rng(3).random(shape) < 0.6).astype(float).tolist()
    ways = [
        f"jnp.tril({a})",
        f"{a} * jnp.array({mask})",
        f"jnp.where(jnp.array({mask}) > 0, {a}, 0.0)",
        f"jnp.triu({a}, 1)",
    ]
    return w.pick(ways)


def constant_scale(w: Writer, a: str) -> str | None:
    shape = w.shape(a)
    return w.pick(
        [
            f"{a} * 2.0",
            f"{a} / 3.0",
            f"-{a}",
            f"{a} * {constant(shape[-1:])}",
            f"{a}.astype(jnp.bfloat16).astype(jnp.float32)",
            f"0.5 * ({a} * 1.5)",
        ]
    )


def constant_matrix(w: Writer, a: str) -> str | None:
    shape = w.shape(a)
    if not shape:
        return None
    if len(shape) == 1:
        return f"{constant((w.pick([2, 3]), shape[0]))} @ {a}"
    return w.pick(
        [f"{a} @ {constant((shape[-1], shape[-1]))}", f"jnp.tensordot({constant((shape[0], shape[0]))}, {a}, 1)"]
    )


def own_sum(w: Writer, a: str) -> str | None:
    axis = some_axis(w, a)
    if axis is None or len(w.shape(a)) < 2:
        return None
    letters = "abcde"[: len(w.shape(a))]
    return w.pick(
        [f"{a}.sum({axis})", f"{a}.mean({axis})", f'jnp.einsum("{letters}->{letters.replace(letters[axis], "")}", {a})']
    )


def own_cumsum(w: Writer, a: str) -> str | None:
    axis = some_axis(w, a)
    return None if axis is None else f"jnp.cumsum({a}, {axis})"


def placed(w: Writer, a: str) -> str | None:
    shape = w.shape(a)
    axis = some_axis(w, a)
    if axis is None:
        return None
    wide = list(shape)
    wide[axis] += 2
    index = at_axis(axis, f"1:{1 + shape[axis]}")
    starts = [0] * len(shape)
    starts[axis] = 1
    return w.pick(
        [
            f"jnp.zeros({tuple(wide)}).at{index}.set({a})",
            f"jnp.zeros({tuple(wide)}).at{index}.add({a})",
            f"lax.dynamic_update_slice(jnp.zeros({tuple(wide)}), {a}, {tuple(starts)})",
        ]
    )


def new_axis(w: Writer, a: str) -> str | None:
    return w.pick(
        [
            f"jnp.expand_dims({a}, 0)",
            f"{a}[..., None]",
            f"jnp.squeeze({a}[None], 0)",
            f"jnp.broadcast_to({a}, {(2, *w.shape(a))})",
        ]
    )


def nonlinear(w: Writer, a: str) -> str | None:
    return w.pick(
        [
            f"jnp.exp({a})",
            f"jnp.tanh({a})",
            f"jax.nn.softplus({a})",
            f"jnp.abs({a})",
            f"{a} * {a}",
            f"jax.nn.softmax({a}, -1)",
        ]
    )


def shifted(w: Writer, a: str) -> str | None:
    return w.pick([f"{a} + 1.0", f"1.0 - {a}", f"{a} + {constant(w.shape(a)[-1:])}"])


def normed(w: Writer, a: str) -> str | None:
    return w.pick([f"{a} / (jnp.linalg.norm({a}) + 0.1)", f"{a} / (jnp.linalg.norm({a}, axis=0, keepdims=True) + 0.1)"])


def mapped(w: Writer, a: str) -> str | None:
    rank = len(w.shape(a))
    if rank < 2:
        return None
    ways = [
        f"jax.vmap(lambda b: b.T)({a})",
        f"jax.vmap(lambda b: b, in_axes={rank - 1}, out_axes=0)({a})",
        f"jax.vmap(lambda b: b, out_axes={rank - 1})({a})",
        f"lax.map(lambda b: b.T, {a})",
        f"lax.scan(lambda c, b: (c, b * 2.0), 0.0, {a})[1]",
        f"jax.jit(lambda b: b.T)({a})",
        f"jax.checkpoint(lambda b: b[::-1])({a})",
    ]
    return w.pick(ways)


LAYOUTS: list[Callable[[Writer, str], str | None]] = [
    transposed, split_axis, merge_axes, entry, sliced, turned, taken, padded, parts_joined, constant_scale,
    placed, new_axis, masked, own_sum, mapped, repeated, constant_matrix, own_cumsum, nonlinear, shifted, normed,
]  # fmt: skip
"""What may happen to a parameter first."""
RARE = frozenset({nonlinear, shifted, normed, own_cumsum, repeated, constant_matrix})


def prepared(w: Writer, a: str, most: int = 3) -> str:
    """Write some lines that do something to a parameter, and return what it is then."""
    for _ in range(w.pick([0, 1, 1, 2, most])):
        way = w.pick(LAYOUTS)
        if way in RARE and not w.chance(3):
            continue
        text = way(w, a)
        if text is None:
            continue
        a = w.value(text, prefix="a")
        w.note(way.__name__)
        if len(w.shape(a)) > 4:
            break
    return a


# What a signal comes from.


def signal(w: Writer, shape: Sequence[int]) -> str:
    """Write lines that make a signal of a shape."""
    shape = tuple(shape)
    way = w.choose(12)
    if way == 1:
        return w.value(f"jnp.tanh({w.signal(shape)})", prefix="s")
    if way == 2 and len(shape) > 1:
        return w.value(f"{w.signal(shape[::-1])}.T", prefix="s")
    if way == 3 and shape:
        axis = w.choose(len(shape))
        wide = list(shape)
        wide[axis] += 1
        return w.value(w.signal(wide) + at_axis(axis, "1:"), prefix="s")
    if way == 4 and shape:
        return w.value(f"{w.signal((math.prod(shape),))}.reshape({shape})", prefix="s")
    if way == 5 and shape:
        x = w.signal(shape)
        return w.value(f"({x} - {x}.mean(-1)[..., None]) * 2.0", prefix="s")
    if way == 6 and shape:
        return w.value(f"{w.signal(shape)} @ {constant((shape[-1], shape[-1]))}", prefix="s")
    if way == 7 and shape:
        return w.value(f"{w.signal(shape)} * {w.signal(shape[-1:])}", prefix="s")
    if way == 8 and shape and shape[-1] > 1:
        parts = f"{w.signal((*shape[:-1], shape[-1] - 1))}, {w.signal((*shape[:-1], 1))}"
        return w.value(f"jnp.concatenate([{parts}], -1)", prefix="s")
    return w.signal(shape)


# Where a parameter meets the signal.


def by_einsum(w: Writer, a: str) -> str:
    shape = w.shape(a)
    own = "abcdef"[: len(shape)]
    parts = [w.pick("ioibo") for _ in own]
    if "i" not in parts and own:
        parts[w.choose(len(parts))] = "i"
    extra = "tu"[: w.choose(3)]
    sizes = dict(zip(own, shape, strict=True)) | {"t": 5, "u": 2}
    term = [each for each, part in zip(own, parts, strict=True) if part in "ib"] + list(extra)
    term = [term[at] for at in order(w, len(term))]
    out = [each for each, part in zip(own, parts, strict=True) if part in "bo"] + list(extra)
    out = [out[at] for at in order(w, len(out))]
    x = signal(w, [sizes[each] for each in term])
    second = ""
    if w.chance(8) and len(term) > 0:
        gate = "".join(term[:2])
        second, x = f",{gate}", f"{x}, {w.signal([sizes[each] for each in gate])}"
    first = w.choose(2)
    if first:
        return w.value(f'jnp.einsum("{own},{"".join(term)}{second}->{"".join(out)}", {a}, {x})')
    return w.value(f'jnp.einsum("{"".join(term)}{second},{own}->{"".join(out)}", {x}, {a})')


def by_matmul(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) == 0:
        return by_product(w, a)
    if len(shape) == 1:
        return w.value(
            w.pick(["{x} @ {a}", "jnp.dot({x}, {a})", "jnp.inner({x}, {a})"]).format(x=signal(w, (4, shape[0])), a=a)
        )
    way = w.choose(6)
    if way == 0:
        lead = shape[:-2] if w.choose(2) else ()
        return w.value(f"{signal(w, (*lead, 4, shape[-2]))} @ {a}")
    if way == 1:
        return w.value(f"{a} @ {signal(w, (*shape[:-2], shape[-1], 4))}")
    if way == 2 and len(shape) == 2:
        return w.value(f"{a} @ {signal(w, (shape[-1],))}")
    if way == 3:
        number = 1 + w.choose(len(shape))
        return w.value(f"jnp.tensordot({signal(w, (5, *shape[:number]))}, {a}, {number})")
    if way == 4:
        axis = w.choose(len(shape))
        return w.value(f"jnp.tensordot({a}, {signal(w, (5, shape[axis]))}, ([{axis}], [1]))")
    axes = order(w, len(shape))
    if len(axes) > 2:
        numbers = f"((({axes[0]},), (2,)), (({axes[1]},), (0,)))"
        return w.value(f"lax.dot_general({a}, {signal(w, (shape[axes[1]], 5, shape[axes[0]]))}, {numbers})")
    return w.value(f"lax.dot_general({a}, {signal(w, (5, shape[axes[0]]))}, ((({axes[0]},), (1,)), ((), ())))")


def by_vmap(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) < 2:
        return by_matmul(w, a)
    axis = w.choose(len(shape))
    rest = [size for at, size in enumerate(shape) if at != axis]
    shared = w.chance(4)
    many = shape[axis]
    if len(rest) == 1:
        body, own = "a @ b", (rest[0],) if w.choose(2) else (4, rest[0])
    elif len(rest) == 2:
        body, own = ("a @ b", (4, rest[0])) if w.choose(2) else ("b @ a", (rest[1], 4))
    elif len(rest) == 3:
        body, own = 'jnp.einsum("abc,ac->ab", b, a)', (rest[0], rest[2])
    else:
        return by_matmul(w, a)
    place = w.choose(len(own) + 1)
    x = signal(w, own if shared else (*own[:place], many, *own[place:]))
    out = w.choose(2) if len(own) + len(rest) > 2 else 0
    y = w.value(
        f"jax.vmap(lambda a, b: {body}, in_axes=({None if shared else place}, {axis}), out_axes={out})({x}, {a})"
    )
    if w.chance(4):
        y = w.value(f"{y}.sum({out})")
        w.note("summed")
    return y


def by_convolution(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) not in (3, 4) or max(shape) > 8:
        return by_einsum(w, a)
    spatial = len(shape) - 2
    places = "HW"[:spatial]
    letters = [*places, "I", "O"]
    rhs = "".join(letters[at] for at in order(w, len(letters)))
    sizes = dict(zip(rhs, shape, strict=True))
    lhs = w.pick([f"N{places}C", f"NC{places}"])
    out = w.pick([f"N{places}C", f"NC{places}"])
    groups = w.pick([1, 1, *(g for g in (2, 3, sizes["O"]) if sizes["O"] % g == 0)])
    lengths = {each: sizes[each] + 2 + w.choose(2) for each in places}
    x = signal(w, [{"N": 1, "C": sizes["I"] * groups, **lengths}[each] for each in lhs])
    strides = tuple(w.pick([1, 1, 2]) for _ in places)
    padding = w.pick(["'VALID'", "'SAME'", str([(1, 1)] * spatial)])
    more = ""
    if w.chance(4):
        more += f", lhs_dilation={(2,) * spatial}"
        padding = str([(1, 1)] * spatial)
    elif w.chance(4):
        more += f", rhs_dilation={(2,) * spatial}"
        padding = str([(2, 2)] * spatial)
    if groups > 1:
        more += f", feature_group_count={groups}"
    return w.value(
        f"lax.conv_general_dilated({x}, {a}, {strides}, {padding}{more}, dimension_numbers=('{lhs}', '{rhs}', '{out}'))"
    )


def by_product(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if not shape:
        return w.value(f"{signal(w, (4, 3))} * {a}")
    own = [w.pick("ibo") for _ in shape]
    if "i" not in own:
        own[0] = "i"
    lead = w.choose(2)
    x = signal(w, (*(5,) * lead, *(size for size, part in zip(shape, own, strict=True) if part != "o")))
    index = ", ".join([":"] * lead + ["None" if part == "o" else ":" for part in own])
    axes = tuple(lead + at for at, part in enumerate(own) if part == "i")
    product = w.value(w.pick([f"{x}[{index}] * {a}", f"{a} * {x}[{index}]", f"jnp.multiply({x}[{index}], {a})"]))
    return w.value(f"{product}.sum({axes if len(axes) > 1 else axes[0]})")


def by_shifts(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) < 2 or shape[0] > 5:
        return by_matmul(w, a)
    k = shape[0]
    x = w.value(f"jnp.tanh({w.signal((4 + k - 1, *shape[1:-1]))})", prefix="s")
    if len(shape) == 2:
        x = w.signal((4 + k - 1, shape[1]))
        return w.value(f"sum({x}[k:k + 4] * {a}[k] for k in range({k}))")
    rank = len(shape) - 2
    body = f"{x}[k:k + 4] @ {a}[k]" if rank == 1 else f"jnp.tensordot({x}[k:k + 4], {a}[k], {rank})"
    return w.value(f"sum({body} for k in range({k}))")


def by_loop(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) < 3 or shape[-1] != shape[-2] or len(shape) > 3:
        if len(shape) != 3:
            return by_vmap(w, a)
        x = signal(w, (shape[0], 4, shape[1]))
        way = w.choose(4)
        if way == 0:
            return w.value(f"lax.scan(lambda c, xw: (c, xw[0] @ xw[1]), 0.0, ({x}, {a}))[1]")
        if way == 1:
            return w.value(
                f"lax.scan(lambda c, xw: (c + xw[0] @ xw[1], None), jnp.zeros((4, {shape[2]})), ({x}, {a}))[0]"
            )
        if way == 2:
            return w.value(f"lax.map(lambda xw: jnp.tanh(xw[0] @ xw[1]), ({x}, {a}))")
        return w.value(f"lax.fori_loop(0, {shape[0]}, lambda n, c: c + {x}[n] @ {a}[n], jnp.zeros((4, {shape[2]})))")
    x = signal(w, (4, shape[1]))
    bodies = ["jnp.tanh({c} @ {w})", "{c} + jnp.tanh({c} @ {w})", "{c} + {c} @ {w}", "jnp.tanh({w} @ {c}.T).T"]
    body = w.pick(bodies)
    way = w.choose(4)
    if way == 0:
        return w.value(f"lax.scan(lambda c, w: ({body.format(c='c', w='w')}, None), {x}, {a})[0]")
    if way == 1:
        return w.value(f"lax.fori_loop(0, {shape[0]}, lambda n, c: {body.format(c='c', w=f'{a}[n]')}, {x})")
    if way == 2:
        step = f"lambda nc: (nc[0] + 1, {body.format(c='nc[1]', w=f'{a}[nc[0]]')})"
        return w.value(f"lax.while_loop(lambda nc: nc[0] < {shape[0]}, {step}, (0, {x}))[1]")
    for n in range(shape[0]):
        x = w.value(body.format(c=x, w=f"{a}[{n}]"))
    return x


def by_counter(w: Writer, a: str) -> str:
    """Write a loop that takes entries by a counter, and adds up or collects what comes of them."""
    shape = w.shape(a)
    if len(shape) != 3:
        return by_matmul(w, a)
    size = shape[0]
    x = signal(w, (size, 4, shape[1]))
    steps = w.pick([size, size, max(size - 1, 1)])
    which = w.pick(["n", "n", f"{size - 1} - n", f"n * 0 + {size - 1}", "0"])
    body, zeros = f"{x}[n] @ {a}[{which}]", f"jnp.zeros((4, {shape[2]}))"
    way = w.choose(6)
    if way == 0:
        return w.value(f"lax.map(lambda n: {body}, jnp.arange({steps}))")
    if way == 1:
        return w.value(f"lax.fori_loop(0, {steps}, lambda n, c: c + {body}, {zeros})")
    if way == 2:
        return w.value(f"lax.scan(lambda c, n: (c + {body}, c), {zeros}, jnp.arange({steps}))[{w.choose(2)}]")
    if way == 3:
        return w.value(
            f"lax.scan(lambda c, n: (c + {body}, None), {zeros}, jnp.array({[0] * (steps - 1) + [size - 1]}))[0]"
        )
    if way == 4:
        inside = f"lax.fori_loop(0, {steps}, lambda n, c: c + {body}, {zeros})"
        return w.value(f"lax.fori_loop(0, 2, lambda k, d: d + {inside}, {zeros})")
    inside = f"lax.fori_loop(0, {size}, lambda k, d: d + {x}[k] @ {a}[{which}], {zeros})"
    return w.value(f"lax.fori_loop(0, {steps}, lambda n, c: c + {inside}, {zeros})")


def by_list(w: Writer, a: str) -> str:
    """Write a list of outputs of entries, which are joined or added up."""
    shape = w.shape(a)
    if len(shape) != 3:
        return by_einsum(w, a)
    x = signal(w, (shape[0], 4, shape[1]))
    count = w.pick([shape[0], shape[0], max(shape[0] - 1, 1)])
    one = w.pick(["{x}[k] @ {a}[k]", "jnp.tanh({x}[k] @ {a}[k])", "{x}[0] @ {a}[k]", "{x}[k] @ {a}[k] / 2"])
    every = f"[{one.format(x=x, a=a)} for k in range({count})]"
    way = w.choose(6)
    if way < 2:
        return w.value(f"jnp.stack({every}, {w.choose(3)})")
    if way == 2:
        return w.value(f"jnp.concatenate({every}, {w.choose(2)})")
    if way == 3:
        return w.value(f"sum({every})")
    if way == 4:
        return w.value(f"jnp.concatenate({every}, 1).reshape(4, {count}, {shape[2]}).sum(1)")
    return w.value(f"jnp.concatenate({every}, 0).reshape({count}, 4, {shape[2]}).mean(0)")


def by_recurrence(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) != 2:
        return by_matmul(w, a)
    x = signal(w, (3, 2, shape[0]))
    if shape[0] != shape[1]:
        return w.value(f"lax.scan(lambda c, x: (jnp.tanh(c + x @ {a}), None), jnp.zeros((2, {shape[1]})), {x})[0]")
    return w.value(f"lax.scan(lambda c, x: (jnp.tanh(c @ {a} + x), c), jnp.zeros((2, {shape[1]})), {x})[0]")


def by_look_up(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if not shape:
        return by_product(w, a)
    axis = w.choose(len(shape))
    index = w.numbers(w.pick([(4,), (), (2, 3)]), shape[axis])
    way = w.choose(4)
    if way == 1:
        return w.value(f"jnp.take({a}, {index}, axis={axis})")
    if way == 2:
        rest = [size for at, size in enumerate(shape) if at != axis]
        if w.shape(index) and rest:
            return w.value(f"jnp.tensordot(jax.nn.one_hot({index}, {shape[axis]}), {a}, ([-1], [{axis}]))")
    if way == 3 and len(shape) > 1:
        other = (axis + 1) % len(shape)
        index = w.numbers((shape[other], 3), shape[axis])
        inner = axis - (axis > other)
        return w.value(f"jax.vmap(lambda a, i: jnp.take(a, i, axis={inner}), in_axes=({other}, 0))({a}, {index})")
    return w.value(a + at_axis(axis, index))


def by_scale(w: Writer, a: str) -> str:
    shape = w.shape(a)
    x = signal(w, (4, *shape))
    if w.chance(3):
        x = w.value(f"({x} - {x}.mean(-1)[..., None]) * lax.rsqrt(jnp.square({x}).mean(-1)[..., None] + 1.0)")
    return w.value(w.pick([f"{x} * {a}", f"{a} * {x}", f"{x} * ({a} * 2.0)"]))


def by_bias(w: Writer, a: str) -> str:
    shape = w.shape(a)
    x = signal(w, (4, *shape))
    return w.value(w.pick([f"{x} + {a}", f"{a} + {x}", f"jnp.tanh({x}) + {a}"]))


def by_cond(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) != 2:
        return by_matmul(w, a)
    x = signal(w, (4, shape[0]))
    if w.choose(2):
        return w.value(f"lax.cond({x}[0, 0] > 0, lambda x: x @ {a}, lambda x: jnp.tanh(x @ {a}), {x})")
    return w.value(f"lax.cond({x}[0, 0] > 0, lambda x: x @ {a}, lambda x: jnp.zeros((4, {shape[1]})), {x})")


def by_wrapped(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) != 2:
        return by_matmul(w, a)
    x = signal(w, (4, shape[0]))
    around = w.pick(["jax.jit", "jax.checkpoint"])
    body = w.pick(["x @ w", "jnp.tanh(x @ w)"])
    return w.value(f"{around}(lambda x, w: {body})({x}, {a})")


def by_gradient(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) != 2:
        return by_matmul(w, a)
    x = signal(w, w.pick([(shape[0],), (4, shape[0])]))
    energy = w.pick(["jnp.tanh(y @ {a})", "jnp.square(y @ {a})", "jax.nn.softplus(y @ {a})"]).format(a=a)
    return w.value(f"jax.grad(lambda y: jnp.sum({energy}))({x})")


def by_experts(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) != 3:
        return by_vmap(w, a)
    e, i, _ = shape
    g = w.value(f"jax.nn.softmax({w.signal((5, e))}, -1)", prefix="g")
    way = w.choose(3)
    if way == 0:
        y = w.value(f'jnp.einsum("ti,eio->teo", {signal(w, (5, i))}, {a})')
    elif way == 1:
        y = w.value(f'jnp.einsum("tei,eio->teo", {signal(w, (5, e, i))}, {a})')
    else:
        return w.value(f'jnp.einsum("te,tei,eio->to", {g}, {signal(w, (5, e, i))}, {a})')
    return w.value(w.pick([f'jnp.einsum("te,teo->to", {g}, {y})', f"({g}[:, :, None] * {y}).sum(1)"]))


def by_attention(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) != 2:
        return by_einsum(w, a)
    y = w.value(f"{signal(w, (4, shape[0]))} @ {a}")
    if shape[1] % 3 == 0:
        w.line(f"q, k, u = jnp.split({y}, 3, -1)")
        return w.value("jax.nn.softmax(q @ k.T, -1) @ u")
    if shape[1] % 2 == 0:
        half = shape[1] // 2
        return w.value(
            w.pick([f"{y}[:, :{half}] * jax.nn.sigmoid({y}[:, {half}:])", f"{y}[:, ::2] * jnp.tanh({y}[:, 1::2])"])
        )
    return w.value(f"jax.nn.softmax({y} @ {y}.T, -1) @ {y}")


def by_halves(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) != 2 or shape[0] < 2:
        return by_matmul(w, a)
    cut = w.pick([shape[0] // 2, 1])
    x, y = w.signal((4, cut)), w.signal((4, shape[0] - cut))
    if w.choose(2):
        return w.value(f"{x} @ {a}[:{cut}] + {y} @ {a}[{cut}:]")
    return w.value(f"jnp.concatenate([{x} @ {a}[:{cut}], {y} @ {a}[{cut}:]], -1)")


def by_both_ways(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) != 2:
        return by_einsum(w, a)
    x = signal(w, (4, shape[0]))
    y = w.value(f"jnp.tanh({x} @ {a})")
    if w.choose(2) and shape[0] == shape[1]:
        return w.value(f"{y} @ {a}")
    return w.value(f"{y} @ {a}.T")


def by_twice(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) != 2:
        return by_einsum(w, a)
    x, y = signal(w, (4, shape[0])), signal(w, (4, shape[0]))
    return w.value(
        w.pick([f"{x} @ {a} + {y} @ {a}", f"({x} @ {a}) * ({y} @ {a})", f"jnp.concatenate([{x} @ {a}, {y} @ {a}], 0)"])
    )


def by_closure(w: Writer, a: str) -> str:
    """The parameter is used inside a function that is mapped over the signal."""
    shape = w.shape(a)
    if len(shape) == 1:
        body = w.pick(["x @ {a}", "jnp.vdot({a}, x)", "x * {a}"]).format(a=a)
        return w.value(f"jax.vmap(lambda x: {body})({signal(w, (4, shape[0]))})")
    if len(shape) == 2:
        body, own = w.pick([(f"x @ {a}", (shape[0],)), (f"{a} @ x", (shape[1],)), (f"jnp.dot(x, {a})", (2, shape[0]))])
        text = f"jax.vmap(lambda x: {body})"
        if w.choose(2):
            return w.value(f"jax.vmap({text})({signal(w, (2, 3, *own))})")
        return w.value(f"{text}({signal(w, (4, *own))})")
    if len(shape) == 3:
        body, own = w.pick([
            (f'jnp.einsum("i,iho->ho", x, {a})', (shape[0],)),
            (f'jnp.einsum("hi,hio->ho", x, {a})', shape[:2]),
            (f"jnp.tensordot(x, {a}, 2)", shape[:2]),
            (f"jax.vmap(lambda m: x @ m)({a})", (shape[1],)),
            (f"jax.vmap(lambda y, m: y @ m)(x, {a})", shape[:2]),
        ])  # fmt: skip
        return w.value(f"jax.vmap(lambda x: {body})({signal(w, (4, *own))})")
    return by_einsum(w, a)


def by_ellipsis(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) < 2:
        return by_matmul(w, a)
    own = "abcdef"[: len(shape)]
    number = 1 + w.choose(len(shape) - 1)
    x = signal(w, (*((2, 3) if w.choose(2) else (4,)), *shape[:number]))
    return w.value(f'jnp.einsum("...{own[:number]},{own}->...{own[number:]}", {x}, {a})')


def by_parts(w: Writer, a: str) -> str:
    """Parts of the parameter are used one by one."""
    shape = w.shape(a)
    axes = [at for at, size in enumerate(shape) if size in (2, 4, 6, 3)]
    if len(shape) != 2 or not axes:
        return by_einsum(w, a)
    axis = w.pick(axes)
    number = 3 if shape[axis] % 3 == 0 else 2
    part = [size // number if at == axis else size for at, size in enumerate(shape)]
    names = [f"m{k}" for k in range(number)]
    line = f"{', '.join(names)} = jnp.split({a}, {number}, {axis})"
    w.line(line)
    same = signal(w, (4, part[0])) if w.choose(2) else ""
    outs = [f"{same or signal(w, (4, part[0]))} @ {name}" for name in names]
    joined = (
        " + ".join(outs),
        " * ".join(f"jnp.tanh({each})" for each in outs),
        f"jnp.concatenate([{', '.join(outs)}], -1)",
    )
    return w.value(w.pick([*joined, f"jnp.stack([{', '.join(outs)}])"]))


def by_modulated(w: Writer, a: str) -> str:
    """The data scale the parameter, or the signal before and after it."""
    shape = w.shape(a)
    if len(shape) != 2:
        return by_einsum(w, a)
    x = w.signal((4, shape[0]))
    way = w.choose(5)
    if way == 0:
        return w.value(f"{x} @ ({a} * {w.signal((shape[0],))}[:, None])")
    if way == 1:
        return w.value(f"{x} @ ({a} * jnp.tanh({w.signal((shape[1],))}))")
    if way == 2:
        return w.value(f"({x} * jax.nn.sigmoid({x}.mean(0))) @ {a}")
    if way == 3:
        return w.value(f"({x} @ {a}) * jax.nn.sigmoid({w.signal((4, shape[1]))})")
    return w.value(f'jnp.einsum("ti,tio->to", {x}, {a}[None] * {w.signal((4, *shape))})')


def by_powers(w: Writer, a: str) -> str:
    """Entries of the parameter weigh functions of the signal."""
    shape = w.shape(a)
    x = w.signal((4, *shape[1:]))
    if not shape or shape[0] > 4:
        return by_matmul(w, a)
    functions = ["{x}", "jnp.tanh({x})", "jnp.square({x})", "jnp.sin({x})"][: shape[0]]
    basis = [each.format(x=x) for each in functions]
    if w.choose(2):
        return w.value(" + ".join(f"{a}[{k}] * {each}" for k, each in enumerate(basis)))
    return w.value(f"(jnp.stack([{', '.join(basis)}], 1) * {a}).sum(1)")


def by_complex(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) != 3 or shape[-1] != 2:
        return by_matmul(w, a)
    x = signal(w, (4, shape[0]))
    return w.value(f"jnp.abs({x} @ lax.complex({a}[..., 0], {a}[..., 1]))")


def by_custom(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) != 2:
        return by_closure(w, a)
    x = signal(w, (4, shape[0]))
    if w.choose(2):
        w.line("f = jax.custom_jvp(lambda x, w: jnp.tanh(x @ w))")
        w.line("f.defjvp(lambda primals, tangents: (f(*primals), f(*primals)))")
    else:
        w.line("f = jax.custom_vjp(lambda x, w: x @ w)")
        w.line("f.defvjp(lambda x, w: (x @ w, None), lambda kept, g: (g, g))")
    return w.value(f"f({x}, {a})")


def by_switch(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) != 2:
        return by_vmap(w, a)
    x, which = signal(w, (4, shape[0])), w.numbers((), 2)
    return w.value(f"lax.switch({which}, [lambda x: x @ {a}, lambda x: jnp.tanh(x @ {a})], {x})")


def by_expert_index(w: Writer, a: str) -> str:
    """The data pick which entry of a stack is the weight."""
    shape = w.shape(a)
    if len(shape) != 3:
        return by_look_up(w, a)
    which = w.numbers((5,), shape[0])
    way = w.choose(3)
    x = w.signal((5, shape[1]))
    if way == 0:
        return w.value(f'jnp.einsum("ti,tio->to", {x}, {a}[{which}])')
    if way == 1:
        return w.value(f"jax.vmap(lambda x, n: x @ {a}[n])({x}, {which})")
    return w.value(f"jnp.take_along_axis({x} @ {a}, {which}[None, :, None], 0)[0]")


def by_cell(w: Writer, a: str) -> str:
    """A cell of gates, run over time."""
    shape = w.shape(a)
    if len(shape) != 2 or shape[1] % 2 or shape[1] > 6:
        return by_recurrence(w, a)
    half = shape[1] // 2
    x = w.signal((3, 2, shape[0]))
    body = f"jax.nn.sigmoid((x @ {a})[:, :{half}]) * c + jnp.tanh((x @ {a})[:, {half}:])"
    return w.value(f"lax.scan(lambda c, x: ({body}, c), jnp.zeros((2, {half})), {x})[{w.choose(2)}]")


def by_patches(w: Writer, a: str) -> str:
    shape = w.shape(a)
    if len(shape) != 2 or shape[0] not in (4, 6, 8):
        return by_matmul(w, a)
    c = shape[0] // 2
    x = w.signal((6, c))
    return w.value(f"{x}.reshape(3, 2, {c}).reshape(3, {shape[0]}) @ {a}")


MEETINGS: list[Callable[[Writer, str], str]] = [
    by_matmul, by_einsum, by_vmap, by_closure, by_convolution, by_product, by_shifts, by_loop, by_recurrence,
    by_look_up, by_scale, by_bias, by_cond, by_wrapped, by_gradient, by_experts, by_attention, by_halves,
    by_both_ways, by_twice, by_ellipsis, by_parts, by_modulated, by_powers, by_complex, by_custom, by_switch,
    by_expert_index, by_cell, by_patches, by_counter, by_list, by_einsum, by_convolution, by_einsum, by_matmul,
]  # fmt: skip
"""Where a parameter meets the signal."""


# What happens to the outputs.


def finished(w: Writer, y: str) -> str:
    """Write some lines that do something to the outputs."""
    for _ in range(w.pick([0, 1, 1, 2, 3])):
        shape = w.shape(y)
        way = w.choose(19)
        last = shape[-1] if shape else 0
        if way == 1:
            y = w.value(f"jnp.tanh({y})")
        elif way == 2 and len(shape) > 1:
            y = w.value(f"jnp.transpose({y}, {order(w, len(shape))})")
        elif way == 3 and shape:
            y = w.value(f"{y} + {w.parameter((last,))}")
        elif way == 4 and shape:
            y = w.value(f"{y} @ {w.parameter((last, 3))}")
        elif way == 5 and len(shape) > 1:
            y = w.value(f"{y}.sum({w.choose(len(shape))})")
        elif way == 6 and shape and last % 2 == 0:
            y = w.value(f"jnp.tanh({y}[..., :{last // 2}]) * {y}[..., {last // 2}:]")
        elif way == 7 and shape:
            y = w.value(f"{y}.reshape(-1)")
        elif way == 8 and shape:
            y = w.value(f"jax.nn.softmax({y}, -1)")
        elif way == 9 and shape:
            y = w.value(f"{y} * {w.signal((last,))}")
        elif way == 10 and shape and "by_product" not in w.kinds:  # what a mean mixes is measured before it, or behind
            y = w.value(f"({y} - {y}.mean(-1)[..., None]) * {w.parameter((last,))}")
        elif way == 11 and shape:
            y = w.value(f"{y} @ {constant((last, last))}")
        elif way == 12:
            y = w.value(f"jax.nn.relu({y})")
        elif way == 13 and shape:
            y = w.value(f"jnp.concatenate([{y}, jnp.tanh({y})], -1)")
        elif way == 14 and shape:
            y = w.value(f"{y}.mean({w.choose(len(shape))})")
        elif way in (15, 17) and np.iscomplexobj(w.space[y].arr):
            continue
        elif way == 15 and len(shape) > 1:
            y = w.value(f"lax.scan(lambda c, y: (c + y, None), jnp.zeros({shape[1:]}), {y})[0]")
        elif way == 16 and len(shape) > 1:
            count = w.pick([shape[0], max(shape[0] - 1, 1)])
            y = w.value(f"sum({y}[k] for k in range({count}))")
        elif way == 17 and len(shape) > 1:
            y = w.value(f"lax.fori_loop(0, {shape[0]}, lambda n, c: c + {y}[n], jnp.zeros({shape[1:]}))")
        elif way == 18 and shape and shape[0] > 1:
            y = w.value(f"{y}[{w.choose(2)}:]")
        else:
            continue
        w.note("after")
    return y


def several(w: Writer) -> str:
    """Write a program with several parameters that meet each other."""
    i, o, r = 4, 3, 2
    way = w.choose(9)
    x = signal(w, (5, i))
    if way == 0:
        a, b = w.parameter((i, r)), w.parameter((r, o))
        return w.value(f"{x} @ ({a} @ {b})", f"({x} @ {a}) @ {b}")
    if way == 1:
        a, b = w.parameter((i, o)), w.parameter((i, o))
        return w.value(f"{x} @ ({a} + {b})")
    if way == 2:
        a, b = w.parameter((i, o)), w.parameter((o,))
        return w.value(f"{x} @ ({a} * {b})", f"({x} @ {a}) * {b}")
    if way == 3:
        a, b = w.parameter((i, o)), w.parameter((i, 2))
        return w.value(f"{x} @ jnp.concatenate([{a}, {b}], 1)")
    if way == 4:
        a, b, c = w.parameter((i, o)), w.parameter((i, r)), w.parameter((r, o))
        return w.value(f"{x} @ ({a} + {b} @ {c})", f"{x} @ {a} + ({x} @ {b}) @ {c}")
    if way == 5:
        a, b = w.parameter((i, o)), w.parameter((i, o))
        return w.value(f"{x} @ lax.complex({a}, {b})") if w.choose(2) else w.value(f"{x} @ ({a} + 1j * {b})")
    if way == 6:
        a, b = w.parameter((i, o)), w.parameter((i, o))
        return w.value(f"jnp.einsum('kti,kio->to', jnp.stack([{x}, jnp.tanh({x})]), jnp.stack([{a}, {b}]))")
    if way == 7:
        a, b, c = w.parameter((i, 6)), w.parameter((6, o)), w.parameter((6,))
        return w.value(f"jnp.tanh({x} @ {a} + {c}) @ {b}")
    a, b = w.parameter((i, o)), w.parameter((2, i))
    y = w.value(f"({x} * {w.value(f'{w.signal((5, 2))} @ {b}')}) @ {a}")
    return w.value(f"{y} + {x} @ {a}")


def program(choose: Choose) -> Program:
    """Return a program made of choices."""
    while True:
        w = Writer(choose)
        try:
            if w.chance(8):
                w.note("several")
                return w.done(finished(w, several(w)))
            meeting = w.pick(MEETINGS)
            if meeting in (by_scale, by_bias):
                rank = w.pick([1, 1, 2])
            elif meeting is by_convolution:
                rank = w.pick([3, 4])
            else:
                rank = w.pick([2, 3, 1, 4, 2, 3])
            shape = w.sizes(rank)
            if meeting in (by_loop, by_both_ways, by_recurrence) and w.choose(2) and rank > 1:
                shape = (*shape[:-1], shape[-2])
            a = prepared(w, w.parameter(shape))
            y = meeting(w, a)
            w.note(meeting.__name__)
            return w.done(finished(w, y))
        except TooLargeError:
            continue


def seeded(seed: int) -> Program:
    """Return the program of a seed."""
    return program(random.Random(seed).randrange)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one array of one program.

    Attributes:
        verdict: `right`, `refused`, `wrong`, `crash`, or `checker` where the checker itself failed.
        why: the reason, the fault, or the error.
        program: the program.
        name: the array.
        valid: it is the first array, and there is one right reading of it.
        said: the reading.
        kind: the reason or fault without its numbers.
    """

    verdict: str
    why: str
    program: Program
    name: str = ""
    valid: bool = False
    said: str = ""
    kind: str = ""

    def is_like(self, other: Result) -> bool:
        """Whether two results are of one kind."""
        return (self.verdict, self.kind, self.valid) == (other.verdict, other.kind, other.valid)

    @property
    def group(self) -> str:
        """The verdict; refusals where there is a right reading are told apart from others."""
        return self.verdict if self.verdict != "refused" else "refused valid" if self.valid else "refused other"


def abstract(program: Program) -> tuple[dict[str, Any], list[Any]]:
    """Return the arrays and the inputs of a program without values."""
    import jax

    arrays = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in program.shapes.items()}
    kinds = [np.int32 if name in program.picks else np.float32 for name in program.inputs]
    return arrays, [
        jax.ShapeDtypeStruct(shape, kind) for shape, kind in zip(program.inputs.values(), kinds, strict=True)
    ]


def read(program: Program) -> dict[str, Any]:
    """Return the readings of the arrays of a program."""
    import jax

    from initax._trace._walk import readings

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return dict(readings(program.function(jax_names()), *abstract(program)))


def jax_names() -> dict[str, Any]:
    """Return what the text of a program calls JAX by."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    return {"jax": jax, "jnp": jnp, "lax": lax}


def check(program: Program) -> list[Result]:
    """Return what the readings of a program are worth."""
    values = program.values()
    try:
        found = read(program)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {str(error)[:80]} ({place.filename.rpartition('/')[2]}:{place.name})"
        return [Result(verdict="crash", why=text, program=program, valid=True, kind=text)]
    results = []
    for name in program.shapes:
        truth = truth_of(program, name, values)
        said, why = verdict(truth, found[name])
        first = "several" in program.kinds or name == next(iter(program.shapes))
        sizes = f" {dict(found[name].sizes)}" if found[name].sizes else ""
        results.append(
            Result(
                verdict=said,
                why=why,
                program=program,
                name=name,
                valid=first and not truth.open and right(truth) is not None,
                said=f"{found[name].role} {found[name].pattern}{sizes}" if found[name].pattern else "",
                kind=re.sub(r"\b\d+\b", "N", re.sub(r" \([^()]*:\d+\)", "", why)),
            )
        )
    return results


def agrees(program: Program) -> str:
    """Return how the results of JAX and of NumPy differ; empty where they don't."""
    import jax

    arrays, inputs = values = program.values()
    name = next(iter(program.shapes))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        found = program.function(jax_names())(
            {each: jax.numpy.asarray(array, jax.numpy.float32) for each, array in arrays.items()},
            *(jax.numpy.asarray(x, jax.numpy.int32 if x.dtype.kind == "i" else jax.numpy.float32) for x in inputs),
        )
    for truth in (False, True):
        _, own = run(program, name, values, truth=truth)
        for one, two in zip(found if isinstance(found, tuple) else (found,), own, strict=True):
            if np.shape(one) != np.shape(two):
                return f"shapes {np.shape(one)} and {np.shape(two)}"
            size = max(1.0, float(np.abs(two).max(initial=0)))
            if not np.allclose(np.asarray(one) / size, two / size, atol=2e-2 if "bfloat16" in program.text() else 1e-4):
                return f"{np.asarray(one).ravel()[:4]} and {np.asarray(two).ravel()[:4]}"
    return ""


class Recorded:
    """Choices that are remembered, or given."""

    def __init__(self, numbers: Sequence[int] = (), source: Callable[[int], int] | None = None) -> None:
        self.numbers, self.source = list(numbers), source
        self.made: list[int] = []

    def __call__(self, below: int) -> int:
        at = len(self.made)
        if at < len(self.numbers):
            number = min(self.numbers[at], below - 1)
        else:
            number = self.source(below) if self.source is not None else 0
        self.made.append(number)
        if len(self.made) > 400:
            raise TooManyError
        return number


class TooManyError(Exception):
    """A program makes too many choices."""


def smallest(seed: int, wanted: Callable[[Program], bool], seconds: float = 4.0) -> Program:
    """Return a small program like the one of a seed, by making its choices fewer and smaller."""
    first = Recorded(source=random.Random(seed).randrange)
    best_program = program(first)
    best = first.made
    end = time.monotonic() + seconds

    def better(numbers: list[int]) -> bool:
        nonlocal best, best_program
        made = Recorded(numbers)
        try:
            found = program(made)
            if not wanted(found):
                return False
        except Exception:
            return False
        if (len(found.text()), sum(made.made)) >= (len(best_program.text()), sum(best)):
            return False
        best, best_program = made.made, found
        return True

    moved = True
    while moved and time.monotonic() < end:
        moved = False
        for size in (8, 4, 2, 1):
            at = 0
            while at < len(best) and time.monotonic() < end:
                if better(best[:at] + best[at + size :]):
                    moved = True
                else:
                    at += 1
        for at in range(len(best)):
            if time.monotonic() > end:
                break
            for number in (0, best[at] // 2 if at < len(best) else 0):
                if at < len(best) and number < best[at] and better([*best[:at], number, *best[at + 1 :]]):
                    moved = True
                    break
    return best_program


def main(arguments: Sequence[str] | None = None) -> int:
    """Read programs, count what comes of them, and show the smallest of each kind of fault."""
    parser = argparse.ArgumentParser(description=str(__doc__))
    parser.add_argument("--programs", type=int, default=0, help="programs of each seed; 2,000 if no minutes are given")
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--agree", type=int, default=50, help="of how many programs one is run with JAX, too")
    parser.add_argument("--show", type=int, default=40, help="how many kinds of refusals are shown with a program")
    given = parser.parse_args(arguments)
    number = given.programs or (10**9 if given.minutes else 2000)
    end = time.monotonic() + given.minutes * 60 if given.minutes else math.inf
    chunks = (
        [seed * 10_000_019 + first + at for at in range(min(CHUNK, number - first))]
        for first in range(0, number, CHUNK)
        for seed in given.seed
    )
    report = Report(seeds=given.seed)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.workers, mp_context=spawn) as workers:
        while time.monotonic() < end and (now := list(itertools.islice(chunks, given.workers))):
            for part in workers.map(checked, now, itertools.repeat(given.agree)):
                report.merge(part)
                print(report.line(), *part.faults(), sep="\n", flush=True)
    report.show(given.show)
    return int(report.failed)


CHUNK = 250
"""How many programs one process checks before it forgets what JAX compiled for them."""


def checked(seeds: Sequence[int], agree: int) -> Report:
    """Return the report on the programs of some seeds."""
    import jax

    report = Report(seeds=seeds)
    for at, seed in enumerate(seeds):
        report.add(seed, with_jax=bool(agree) and at % agree == 0)
    jax.clear_caches()
    return report


class Report:
    """Counts of what came of programs, with the smallest program of each kind."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = seeds
        self.programs = 0
        self.began = time.monotonic()
        self.counts: collections.Counter[str] = collections.Counter()
        self.kinds = collections.defaultdict[str, collections.Counter[str]](collections.Counter)
        self.examples: dict[tuple[str, str], tuple[int, Result]] = {}
        self.differ: list[str] = []

    @property
    def failed(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.differ) or any(self.kinds[each] for each in ("wrong", "crash", "checker"))

    @property
    def read(self) -> float:
        """The share that is read of arrays that can be."""
        valid = sum(self.counts[f"{each} valid"] for each in ("right", "refused", "wrong", "crash"))
        return self.counts["right valid"] / max(valid, 1)

    def add(self, seed: int, *, with_jax: bool) -> None:
        """Check the program of a seed."""
        self.programs += 1
        made = seeded(seed)
        try:
            results = check(made)
            if with_jax and results[0].verdict != "crash" and (text := agrees(made)):
                self.differ.append(f"seed {seed}\n{made.text()}{text}")
        except Exception as error:
            results = [Result(verdict="checker", why=traceback.format_exc(), program=made, kind=repr(error)[:100])]
        for each in results:
            self.counts[f"{each.verdict} {'valid' if each.valid else 'other'}"] += 1
            if each.verdict == "right":
                continue
            self.kinds[each.group][each.kind] += 1
            self.keep(seed, each)

    def keep(self, seed: int, result: Result) -> None:
        """Keep a result as the example of its kind if its program is the shortest of that kind so far."""
        old = self.examples.get((result.group, result.kind))
        if old is None or len(result.program.text()) < len(old[1].program.text()):
            self.examples[result.group, result.kind] = (seed, result)

    def merge(self, other: Report) -> None:
        """Add the counts of another report."""
        self.programs += other.programs
        self.counts += other.counts
        for group, kinds in other.kinds.items():
            self.kinds[group] += kinds
        for seed, result in other.examples.values():
            self.keep(seed, result)
        self.differ += other.differ

    def line(self) -> str:
        """Return how many programs were checked, and what came of them, on one line."""
        faults = {name: sum(self.kinds[name].values()) for name in ("wrong", "crash", "checker")}
        counts = ", ".join(f"{count} {name}" for name, count in faults.items())
        return f"{self.programs:,} programs in {time.monotonic() - self.began:.0f} s: {self.read:.1%} read, {counts}"

    def faults(self) -> list[str]:
        """Return the programs of the faults, as they were generated."""
        return [
            f"{result.verdict}: seed {seed}, {result.name}: {result.said} {result.why}\n{result.program.text()}"
            for (group, _), (seed, result) in self.examples.items()
            if group in ("wrong", "crash", "checker")
        ] + self.differ

    def show(self, most: int) -> None:
        """Print the counts, and a small program of each kind of fault and refusal."""
        import jax

        spent = time.monotonic() - self.began
        print(f"{self.programs} programs in {spent:.0f} s, JAX {jax.__version__}, seeds {list(self.seeds)}")
        for name, count in sorted(self.counts.items()):
            print(f"  {name}: {count}")
        print(f"  read of the valid: {self.read:.1%}")
        for text in self.differ:
            print(f"\nJAX and NumPy differ: {text}")
        for group in ("checker", "crash", "wrong", "refused valid", "refused other"):
            for kind, count in self.kinds[group].most_common(most if "refused" in group else None):
                seed, result = self.examples[group, kind]
                print(f"\n{group} {count} times: {kind}")
                if group == "refused other":
                    continue
                if group == "checker":
                    print(f"seed {seed}\n{result.program.text()}{result.why}")
                    continue
                small = smallest(seed, lambda p: any(each.is_like(result) for each in check(p)))  # noqa: B023
                again = next((each for each in check(small) if each.is_like(result)), result)
                print(f"seed {seed}, {again.name}: {again.said} {again.why}\n{small.text()}")


if __name__ == "__main__":
    sys.exit(main())
