"""What a forward pass says of residual streams: which parameters are in which branch of which."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from initax._model._residual import Part, Residual, ResidualStream
from initax._trace._branch_weights import Contents, Inside
from initax._trace._branches import Branch, Search, indices
from initax._trace._flow import flow_of
from initax._trace._flow_graph import Flow

MOST = 10_000
"""Branches of an array that are listed by number."""

ORDER: tuple[Part, ...] = ("end", "inner", "scores")
"""What an array is that is used in several branches of one depth: the first of these that fits."""


@dataclass(slots=True)
class _Seen:
    """One use of an array in a branch."""

    part: Part
    branch: Branch
    layers: int
    normalized: bool = False
    beside: bool = False


def residuals(closed: Any, paths: Sequence[str]) -> dict[str, Residual]:
    """Return what a forward pass says of each array and residual streams.

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
    found = Search(flow).accepted()
    by_sum = {each.sum.number: each for each in found}
    contents = {each.sum.number: Inside(each, by_sum).contents() for each in found}
    _add_late_biases(flow, found, contents)
    seen: dict[int, list[_Seen]] = {}
    for each in found:
        for param, use in _uses(each, contents[each.sum.number]):
            seen.setdefault(param, []).append(use)
    chosen = {param: _chosen(uses) for param, uses in seen.items()}
    kept = _streams_with_ends(found, contents)
    numbered = indices(found)
    numbers = {place: _listed(*each) for place, each in numbered.items()}
    streams = _streams(found, contents, kept, numbered, chosen, paths)
    nothing = Residual(streams=streams)
    every = dict.fromkeys(paths, nothing)
    for param, uses in chosen.items():
        stream = uses[0].branch.stream
        if stream not in kept:
            continue
        own = sorted({index for use in uses for index in numbers[use.branch.sum.place] if use.branch.stream == stream})
        every[paths[param]] = Residual(
            streams=streams,
            part=uses[0].part,
            stream=kept[stream],
            branches=tuple(own),
            layers=max(use.layers for use in uses),
            normalized=any(use.normalized for use in uses),
        )
    return every


def _uses(branch: Branch, contents: Contents) -> Iterable[tuple[int, _Seen]]:
    layers = contents.layers
    for param in contents.ends | contents.vectors:
        yield param, _Seen("end", branch, layers, param in contents.normalized)
    for param in contents.inner | contents.beside:
        part: Part = "scores" if param in contents.scores else "inner"
        yield param, _Seen(part, branch, layers, beside=param in contents.beside)
    for bias, weights in contents.biases.items():
        if bias not in contents.vectors:
            part = "scores" if weights <= contents.scores else "inner"
            yield bias, _Seen(part, branch, layers, beside=weights <= contents.beside)


def _chosen(uses: list[_Seen]) -> list[_Seen]:
    """The uses that say what an array is: those in the innermost branch, and there as the end of one."""
    uses = [use for use in uses if not use.beside] or uses
    depth = max(use.branch.depth for use in uses)
    uses = [use for use in uses if use.branch.depth == depth]
    part = min((use.part for use in uses), key=ORDER.index)
    return [use for use in uses if use.part == part]


def _streams_with_ends(found: Sequence[Branch], contents: Mapping[int, Contents]) -> dict[int, int]:
    """The streams of which some branch ends in a weight → their numbers."""
    with_ends = {each.stream for each in found if contents[each.sum.number].ends}
    return {stream: index for index, stream in enumerate(sorted(with_ends))}


Numbered = tuple[float, list[tuple[float, float]]]
"""The first number of a sum, and for each loop around it how far apart the next ones are and how many there are."""


def _listed(base: float, strides: list[tuple[float, float]]) -> list[int]:
    """The numbers of the branches that one place adds; those of a loop that runs nobody knows how often as one."""
    if not math.isfinite(base):
        return []
    known = [(int(apart), int(count)) for apart, count in strides if math.isfinite(count)]
    if math.prod(count for _, count in known) > MOST:
        return []
    found = [int(base)]
    for apart, count in known:
        found = [index + apart * step for index in found for step in range(count)]
    return sorted(set(found))


def _total(numbered: Iterable[Numbered]) -> int | None:
    """The last number of some sums, `None` where nobody knows it."""
    last = max(base + sum(apart * (count - 1) for apart, count in strides) for base, strides in numbered)
    return int(last) if math.isfinite(last) else None


def _streams(
    found: Sequence[Branch],
    contents: Mapping[int, Contents],
    kept: Mapping[int, int],
    numbered: Mapping[Any, Numbered],
    chosen: Mapping[int, list[_Seen]],
    paths: Sequence[str],
) -> tuple[ResidualStream, ...]:
    made = []
    by_sum = {each.sum.number: each for each in found}
    for stream in kept:
        own = [each for each in found if each.stream == stream]
        reads = {by_sum[index].stream for each in own for index in contents[each.sum.number].reads} - {stream}
        around = {each.within.stream for each in own if each.within is not None}
        ends = {
            param
            for param, uses in chosen.items()
            if uses[0].part == "end" and uses[0].branch.stream == stream
            if any(param in contents[use.branch.sum.number].ends for use in uses)
        }
        made.append(
            ResidualStream(
                branches=_total(numbered[each.sum.place] for each in own),
                reads=tuple(sorted(kept[each] for each in reads if each in kept)),
                inside=min((kept[each] for each in around if each in kept), default=None),
                ends=tuple(paths[param] for param in sorted(ends)),
            )
        )
    return tuple(made)


def _add_late_biases(flow: Flow, found: Sequence[Branch], contents: Mapping[int, Contents]) -> None:
    """Note biases that are added to a sum before anything else sees it: `x + h @ w + b` adds them last."""
    readers: dict[int, list[Any]] = {}
    for node in flow.nodes:
        for operand, _ in node.operands:
            readers.setdefault(operand.number, []).append(node)
    for each in found:
        node = each.sum
        while len(readers.get(node.number, ())) == 1:
            (node,) = readers[node.number]
            vectors = [operand for operand, label in node.operands if label == "add" and operand.plain]
            if len(vectors) != 1:
                break
            contents[each.sum.number].vectors.update(vectors[0].params)
