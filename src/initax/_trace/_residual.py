"""The residual streams of a forward pass: which parameters are in which branch of which stream."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from initax._model._residual import Part, Residual, ResidualStream, Unended
from initax._trace._branch_weights import Contents, Inside
from initax._trace._branches import Branch, Search, Strided, indices_of
from initax._trace._flow import flow_of
from initax._trace._flow_graph import Flow, Node

MOST = 10_000
"""Branches of an array that are listed by number."""

ORDER: tuple[Part, ...] = ("end", "inner", "scores")
"""What an array is that is used in several branches of one depth: the first of these that fits."""


@dataclass(frozen=True, slots=True)
class _Use:
    """One use of an array in a branch; `beside` where it is a weight of another signal."""

    part: Part
    contents: Contents
    beside: bool = False

    @property
    def branch(self) -> Branch:
        return self.contents.branch


def residuals(closed: Any, paths: Sequence[str]) -> dict[str, Residual]:
    """Return for each array of a forward pass in which branches of which residual stream it is.

    Args:
        closed: its closed jaxpr, whose first arguments are the arrays.
        paths: their paths.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> forward = lambda up, down, x: x + jax.nn.relu(x @ up) @ down
        >>> closed = jax.make_jaxpr(forward)(jnp.ones((3, 5)), jnp.ones((5, 3)), jnp.ones((2, 3)))
        >>> found = residuals(closed, ["up", "down"])
        >>> found["up"].part, found["down"].part, str(found["down"])
        ('inner', 'end', 'end of branch 1 of 1')
    """
    flow = flow_of(closed, len(paths))
    branches = Search(flow).accepted()
    by_sum = {branch.sum.number: branch for branch in branches}
    every_contents = [Inside(branch, by_sum).contents() for branch in branches]
    _add_late_biases(flow, every_contents)
    uses_of: dict[int, list[_Use]] = {}
    for contents in every_contents:
        for param, use in _uses(contents):
            uses_of.setdefault(param, []).append(use)
    chosen = {param: _chosen(uses) for param, uses in uses_of.items()}
    # The streams of which some branch ends in a weight, and their numbers.
    with_ends = sorted({contents.branch.stream for contents in every_contents if contents.ends})
    kept = {stream: number for number, stream in enumerate(with_ends)}
    indices = indices_of(branches)
    listed = {place: _listed(*strided) for place, strided in indices.items()}
    streams = tuple(_stream(stream, kept, every_contents, indices, chosen, paths) for stream in kept)
    unended = tuple(_unended(kept, every_contents, indices, paths))
    residual_of = dict.fromkeys(paths, Residual(streams=streams, unended=unended))
    for param, uses in chosen.items():
        stream = uses[0].branch.stream
        if stream in kept:
            places = {use.branch.sum.place for use in uses if use.branch.stream == stream}
            residual_of[paths[param]] = Residual(
                streams=streams,
                unended=unended,
                part=uses[0].part,
                stream=kept[stream],
                branches=tuple(sorted({index for place in places for index in listed[place]})),
                layers=max(use.contents.layers for use in uses),
                normalized=any(param in use.contents.normalized for use in uses),
                bent=any(param in use.contents.bent for use in uses),
            )
    return residual_of


def _unended(
    kept: Mapping[int, int],
    every_contents: Sequence[Contents],
    indices: Mapping[Any, Strided],
    paths: Sequence[str],
) -> Iterable[Unended]:
    """Yield what is added to a stream and of which no weight is the end, once for each equation and its weights."""
    seen = set()
    for contents in every_contents:
        for node, weights in contents.unended:
            stream = contents.branch.stream
            key = node.place, weights, stream
            if key not in seen:
                seen.add(key)
                yield Unended(
                    weights=tuple(paths[param] for param in sorted(weights)),
                    line=node.line(),
                    product=bool(node.by("gate", "mix")),
                    branches=_count(stream, every_contents, indices),
                    stream=kept.get(stream),
                )


def _uses(contents: Contents) -> Iterable[tuple[int, _Use]]:
    """The uses of all parameters in a branch; a bias is used as its weights are."""
    for param in contents.ends | contents.vectors:
        yield param, _Use("end", contents)
    weights = {param: {param} for param in contents.inner | contents.beside}
    biases = {bias: weights for bias, weights in contents.biases.items() if bias not in contents.vectors}
    for param, weights_of_param in (*weights.items(), *biases.items()):
        part: Part = "scores" if weights_of_param <= contents.scores else "inner"
        yield param, _Use(part, contents, weights_of_param <= contents.beside)


def _chosen(uses: list[_Use]) -> list[_Use]:
    """The uses of an array that its part is taken from: those in the innermost branches, first as an end."""
    uses = [use for use in uses if not use.beside] or uses
    depth = max(use.branch.depth for use in uses)
    uses = [use for use in uses if use.branch.depth == depth]
    part = min((use.part for use in uses), key=ORDER.index)
    return [use for use in uses if use.part == part]


def _listed(start: float, strides: list[tuple[float, float]]) -> list[int]:
    """The numbers of the branches that one equation adds; one number for a loop of which the steps are not known."""
    known = [(int(stride), int(count)) for stride, count in strides if math.isfinite(count)]
    if not math.isfinite(start) or math.prod(count for _, count in known) > MOST:
        return []
    numbers = {int(start)}
    for stride, count in known:
        numbers = {number + stride * step for number in numbers for step in range(count)}
    return sorted(numbers)


def _stream(
    stream: int,
    kept: Mapping[int, int],
    every_contents: Sequence[Contents],
    indices: Mapping[Any, Strided],
    chosen: Mapping[int, list[_Use]],
    paths: Sequence[str],
) -> ResidualStream:
    """The record of a stream.

    Args:
        stream: the stream.
        kept: stream → its number among those that are kept.
        every_contents: the contents of all branches.
        indices: equation of a sum → its numbers.
        chosen: parameter → the uses that its part is taken from.
        paths: the paths of the parameters.
    """
    own_contents = [contents for contents in every_contents if contents.branch.stream == stream]
    reads = {other.stream for contents in own_contents for other in contents.reads} - {stream}
    outer = {contents.branch.within.stream for contents in own_contents if contents.branch.within is not None}
    ends = {
        param
        for param, uses in chosen.items()
        if uses[0].part == "end" and uses[0].branch.stream == stream
        if any(param in use.contents.ends for use in uses)
    }
    return ResidualStream(
        branches=_count(stream, every_contents, indices),
        reads=tuple(sorted(kept[other] for other in reads & kept.keys())),
        inside=min((kept[other] for other in outer & kept.keys()), default=None),
        ends=tuple(paths[param] for param in sorted(ends)),
    )


def _count(stream: int, every_contents: Sequence[Contents], indices: Mapping[Any, Strided]) -> int | None:
    """The number of branches that are added to a stream, `None` where it is not known."""
    places = {contents.branch.sum.place for contents in every_contents if contents.branch.stream == stream}
    last = max(
        start + sum(stride * (count - 1) for stride, count in strides)
        for start, strides in (indices[place] for place in places)
    )
    return int(last) if math.isfinite(last) else None


def _add_late_biases(flow: Flow, every_contents: Sequence[Contents]) -> None:
    """Note biases that are added to a sum before any other equation reads it, as in `x + h @ w + b`."""
    readers: dict[int, list[Node]] = {}
    for node in flow.nodes:
        for operand, _ in node.operands:
            readers.setdefault(operand.number, []).append(node)
    for contents in every_contents:
        node = contents.branch.sum
        while len(readers.get(node.number, ())) == 1:
            (node,) = readers[node.number]
            vectors = [operand for operand in node.by("add") if operand.plain]
            if len(vectors) != 1:
                break
            contents.vectors |= vectors[0].params
