"""From the uses of a parameter to one reading of its axes, or to the reason why there is none."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from initax._model._reason import Why
from initax._trace._coverage import apart, inputs, refused, uneven, unused, with_whole_axes
from initax._trace._factors import Factor
from initax._trace._sums import as_inputs
from initax._trace._uses import CONSTANT_FIRST, Part, Parts, Use

USED_AS = {
    "weight": ("weight", "Linear"),
    "conv": ("weight", "Conv"),
    "transposed": ("weight", "ConvTranspose"),
    "embedding": ("embedding", "Embedding"),
    "scale": ("scale", "Norm"),
    "bias": ("bias", ""),
}
"""As what a parameter is used → its role, and the kind of layer that uses one so."""

LETTERS = {"in": "i", "out": "o", "along": "o", "field": "...", "batch": "stack"}
WORDS = {"in": "an input", "out": "an output", "batch": "a batch axis", "field": "a receptive axis", "along": "its own"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one parameter is in a forward pass.

    Attributes:
        pattern: its axes; `None` where they can't be told.
        sizes: sizes of the axes that are merged in the pattern.
        role: its role; `None` where the axes can't be told.
        kind: the kind of layer that uses a parameter so; empty for a bias.
        strides: by how much strides divide the effective fan_in and fan_out.
        partners: for a bias, the parameters to whose outputs it is added, in the order of the forward pass.
        fans: for a bias, the fans of the use to whose outputs it is added.
        reason: why its axes can't be told.
        why: the kind of that reason.
        paired: it is one of two real arrays that are a complex weight together.
        uneven: output axes of which parts of unequal size are used one by one.
        notes: what users should know about the reading.
        lines: the lines of the forward pass that use the parameter.
    """

    pattern: str | None = None
    sizes: Mapping[str, int] | None = None
    role: str | None = None
    kind: str = ""
    strides: tuple[float, float] = (1, 1)
    partners: tuple[int, ...] = ()
    fans: tuple[int, int] | None = None
    reason: str | None = None
    why: Why = Why.UNREADABLE
    paired: bool = False
    uneven: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


class _UnreadableError(Exception):
    """The axes of a parameter can't be told.

    Args:
        reason: why.
        why: the kind of reason.
    """

    def __init__(self, reason: str, why: Why = Why.UNREADABLE) -> None:
        super().__init__(reason)
        self.why = why


def read(shape: Sequence[int], uses: Sequence[Use], names: Sequence[str]) -> Reading:
    """Return the one reading that all uses of a parameter agree on.

    Args:
        shape: its stored shape.
        uses: its uses, in the order of the forward pass.
        names: paths of all parameters, for notes.
    """
    lines = tuple(dict.fromkeys(use.line for use in uses if use.line))
    try:
        return replace(_agreed_on(shape, uses, names, next(iter(lines), "")), lines=lines)
    except _UnreadableError as error:
        return Reading(reason=str(error), why=error.why, lines=lines)


def _agreed_on(shape: Sequence[int], uses: Sequence[Use], names: Sequence[str], line: str) -> Reading:
    """Return the reading without its lines, of which the first is known.

    Raises:
        _UnreadableError: there is none.
    """
    uses = _readable_uses(shape, uses, line)
    _check_roles(shape, uses)
    summed = as_inputs(uses)
    if isinstance(summed, str):
        raise _UnreadableError(_at(summed, line))
    used_in_parts = inputs(shape, summed)
    refusals = (_at(reason, use.line) for use in summed if (reason := refused(use)))
    for reason in filter(None, (*refusals, *used_in_parts.values())):
        raise _UnreadableError(_at(reason, line))
    several, uneven_axes = _several(shape, summed), tuple(uneven(shape, summed, used_in_parts))
    uses = _with_whole_rows(with_whole_axes(shape, _with_common_gates(summed), used_in_parts))
    cells = _cells(shape, uses)
    parts = _agreed(cells, uses, several)
    if reason := _why_not_scale(cells, parts, uses):
        raise _UnreadableError(_at(reason, line))
    pattern, sizes = _written(shape, cells, parts, uses, line)
    if _role(uses[0]) not in ("weight", "embedding"):
        uneven_axes = ()
    leading = next((use for use in uses if use.what == "embedding"), uses[0])
    role, kind = USED_AS[leading.what]
    return Reading(
        pattern=pattern,
        sizes=sizes,
        role=role,
        kind=kind,
        strides=leading.strides if all(use.strides == leading.strides for use in uses) else (1, 1),
        partners=tuple(dict.fromkeys(partner for use in uses for partner in use.partners)),
        fans=next((biased.fans() for use in uses for biased in reversed(use.biased) if not biased.goes_back), None),
        paired=_is_paired(uses),
        uneven=uneven_axes,
        notes=(
            *unused(shape, uses),
            *_notes(uses, names),
            *_note_on_gated_stack(shape, cells, parts, uses, names),
            *(f"parts of its axis {axis} are of unequal size; its fan_out counts all of them" for axis in uneven_axes),
        ),
    )


def _readable_uses(shape: Sequence[int], uses: Sequence[Use], line: str) -> list[Use]:
    """Return the uses to read: not those behind `stop_gradient`, nor those for a first state of zeros beside others.

    Raises:
        _UnreadableError: there are none, or one of them can't be read.
    """
    if 0 in shape:
        raise _UnreadableError(f"shape {tuple(shape)} has no entries")
    if not uses:
        raise _UnreadableError("the forward pass does not use it", Why.UNUSED)
    if all(use.goes_back for use in uses):
        raise _UnreadableError(_at("it meets nothing but cotangents, on the way back of a gradient", line))
    uses = [use for use in uses if use.stop is None or use.stop.why is not Why.NOT_TRAINABLE]
    if not uses:
        raise _UnreadableError("no gradient reaches it: it stands behind stop_gradient", Why.NOT_TRAINABLE)
    if any(use.stop is None and not use.is_of_a_constant for use in uses):
        uses = [use for use in uses if use.stop is None or use.stop.reason != CONSTANT_FIRST]
        uses = [use for use in uses if use.stop is not None or not use.is_of_a_constant]
    whys = {None if use.stop is None else use.stop.why for use in uses}
    for use in uses:
        if use.stop is not None:
            is_more = use.stop.why is Why.SIGNAL and len(whys) > 1
            raise _UnreadableError(_at(str(use.stop), use.line), Why.UNREADABLE if is_more else use.stop.why)
    return uses


def _check_roles(shape: Sequence[int], uses: Sequence[Use]) -> None:
    """Check that all uses have one role, or are those of an embedding that is a head, too.

    Raises:
        _UnreadableError: they have several roles.
    """
    roles = {_role(use) for use in uses}
    if len(roles - {"embedding"}) > 1 or (roles > {"embedding"} and not _is_tied(shape, uses, roles)):
        lines = {_role(use): use.line for use in uses}
        words = ", ".join(_at(f"a {role}", line) for role, line in lines.items())
        raise _UnreadableError(f"{_several(shape, uses)} disagree: it is {words}")


def _role(use: Use) -> str:
    return USED_AS[use.what][0]


def _with_common_gates(uses: Sequence[Use]) -> Sequence[Use]:
    """Return the uses with the entries that any of them takes of its outputs, where each makes one of several gates.

    They do the same with the parameter, as the products of `(x @ w)[:, :n]` and `(x @ w)[:, n:]` do.
    """
    outputs = [use.outputs for use in uses]
    common = set.intersection(*({factor for factor, _ in output.entries} for output in outputs))
    if not common or any(use.parts != uses[0].parts for use in uses):
        return uses
    entries = {entry for output in outputs for entry in output.entries if entry[0] in common}
    uneven = set[Factor]().union(*(output.uneven for output in outputs))
    rejoined = set[Factor]().union(*(output.rejoined for output in outputs))
    return [
        replace(use, outputs=replace(output, entries=output.entries | entries, uneven=uneven, rejoined=rejoined))
        for use, output in zip(uses, outputs, strict=True)
    ]


def _with_whole_rows(uses: Sequence[Use]) -> list[Use]:
    """Return the uses with looked-up rows as whole ones where parts of the rows are never used."""
    digits: dict[Factor, set[int]] = {}
    for view in (use.view for use in uses if use.view.looked):
        for factor, digit in view.fixed[view.before :]:
            if not any(map(factor.is_inside, view.tables)):
                digits.setdefault(factor, set()).add(digit)
    inputs: Parts = {factor: "in" for factor, used in digits.items() if len(used) < factor.size}
    return [replace(use, parts={**use.parts, **inputs}) for use in uses] if inputs else list(uses)


def _is_tied(shape: Sequence[int], uses: Sequence[Use], roles: set[str]) -> bool:
    """Return whether an embedding is also the weight of a head: both use some of the same entries."""
    looked_up = [use for use in uses if _role(use) == "embedding"]
    heads = [use for use in uses if _role(use) != "embedding"]
    return roles == {"embedding", "weight"} and any(
        not apart(shape, [table, head]) for table in looked_up for head in heads
    )


def _why_not_scale(cells: Sequence[Factor], parts: Sequence[Part | None], uses: Sequence[Use]) -> str:
    """Return why an array that is multiplied with the signal is not a scale, which is a vector; empty where it is."""
    products = [use for use in uses if use.product and use.what == "scale"]
    if any(part == "out" and factor.size > 1 for use in products for factor, part in use.parts.items()):
        return "it is multiplied with a signal that is the same along it: the weight of one input, or a scale"
    along = {cell.axis for cell, part in zip(cells, parts, strict=True) if cell.size > 1 and part in ("along", "out")}
    if _role(uses[0]) != "scale" or len(along) < 2:
        return ""
    return f"it is multiplied with the signal entry by entry along {len(along)} of its axes: a weight or a scale"


def _is_paired(uses: Sequence[Use]) -> bool:
    """Return whether every use is of one part of a complex weight."""
    return all(use.view.paired for use in uses)


def _notes(uses: Sequence[Use], names: Sequence[str]) -> tuple[str, ...]:
    """Return notes on how an array is used before it is combined with the signal."""
    notes = []
    if any(use.normalized for use in uses):
        notes.append(
            "it is combined with a function of itself before it is used, as weight norm does; see that its scale counts"
        )
    if any(use.view.quantized for use in uses):
        notes.append("it is quantized on the way, past its gradient; what is drawn is what the gradient changes")
    if _is_paired(uses):
        notes.append("its entries are parts of a complex weight, real or imaginary; each has half of its variance")
    if any(use.makes_weights for use in uses):
        notes.append(
            "its outputs are weights of another signal: its fans are those of the layer that makes them, not of the "
            "weights that are made; where the data mix a stack of weights, restate its axes"
        )
    through = sorted({names[param] for use in uses for param in use.through})
    if through:
        notes.append(f"it is contracted with {', '.join(through)} before it meets the signal, and read in that order")
    return tuple(notes)


def _note_on_gated_stack(
    shape: Sequence[int],
    cells: Sequence[Factor],
    parts: Sequence[Part | None],
    uses: Sequence[Use],
    names: Sequence[str],
) -> tuple[str, ...]:
    """Return a note where a factor of the signal may weight the outputs of a stack before they are added up."""
    gated = frozenset.intersection(*(use.gated for use in uses))
    members = [any(cell.is_inside(factor) for factor in gated) for cell in cells]
    stack: list[Part | None] = [
        "batch" if member and part == "in" else part for member, part in zip(members, parts, strict=True)
    ]
    if stack == list(parts):
        return ()
    try:
        pattern, sizes = _written(shape, cells, stack, uses)
    except _UnreadableError:
        return ()
    axes = ", ".join(str(cell.axis) for cell, member in zip(cells, members, strict=True) if member and cell.size > 1)
    line = f'axes={{"{names[uses[0].param].rpartition(".")[2]}": "{pattern}"}}'
    shown = f", sizes={dict(sizes)}" if sizes else ""
    return (
        f"a factor of the signal gates what it is summed over along axis {axes}; if that is a stack whose outputs are "
        f"weighted, restate the axes: ix.Scheme(..., {line}{shown})",
    )


def _at(text: str, line: str) -> str:
    return f"{text} ({line})" if line and not text.endswith(")") else text


def _cells(shape: Sequence[int], uses: Sequence[Use]) -> list[Factor]:
    """Return the coarsest split of the stored axes that fits all uses, outermost first.

    Raises:
        _UnreadableError: there is none.
    """
    cells = []
    for axis, size in enumerate(shape):
        borders = {1, size}
        for use in uses:
            for factor in (*use.parts, *use.gates()):
                if factor.axis == axis:
                    borders |= {factor.inner, factor.inner * factor.size}
        order = sorted(borders)
        if any(outer % inner for inner, outer in itertools.pairwise(order)):
            raise _UnreadableError(f"axis {axis} of size {size} is cut in ways that don't fit each other")
        pairs = list(itertools.pairwise(order)) or [(1, 1)]
        cells += [Factor(axis, inner, outer // inner) for inner, outer in reversed(pairs)]
    return cells


def _several(shape: Sequence[int], uses: Sequence[Use]) -> str:
    return "its parts" if apart(shape, uses) else "its uses"


def _agreed(cells: Sequence[Factor], uses: Sequence[Use], several: str) -> list[Part | None]:
    """Return what each part of the axes does, on which all uses must agree.

    Args:
        cells: the parts of the axes.
        uses: the uses.
        several: what the uses are called in the reason.

    Raises:
        _UnreadableError: they disagree.
    """
    agreed: list[Part | None] = []
    for cell in cells:
        lines: dict[Part, str] = {}
        for use in uses:
            part = _part_of(cell, use)
            if part is not None:
                lines.setdefault(part, use.line)
        if len(lines) > 1 and cell.size > 1:
            words = ", ".join(_at(WORDS[part], line) for part, line in lines.items())
            raise _UnreadableError(f"{several} disagree: axis {cell.axis} is {words}")
        if not lines and cell.size > 1:
            raise _UnreadableError(f"what its axis {cell.axis} of size {cell.size} does can't be told")
        agreed.append(next(iter(lines), None))
    return agreed


def _part_of(cell: Factor, use: Use) -> Part | None:
    """Return what a part of an axis does in a use."""
    part = next((part for factor, part in use.parts.items() if cell.is_inside(factor)), None)
    if part == "out" and any(cell.is_inside(factor) for factor in use.gates()):
        return "batch"
    if part == "along" and _role(use) == "weight":
        return "batch"
    return part


def _written(
    shape: Sequence[int], cells: Sequence[Factor], parts: Sequence[Part | None], uses: Sequence[Use], line: str = ""
) -> tuple[str, dict[str, int]]:
    """Return the pattern and the sizes of axes merged in it.

    Raises:
        _UnreadableError: it can't be written.
    """
    axes: list[list[tuple[str, int]]] = []
    for axis, size in enumerate(shape):
        letters = [
            (LETTERS[part], cell.size)
            for cell, part in zip(cells, parts, strict=True)
            if cell.axis == axis and part is not None
        ]
        fields = _merged(letters)
        if _role(uses[0]) in ("scale", "bias") and size == 1 < max(shape):
            fields = []  # an axis for broadcasting
        is_merged = len(fields) > 1
        axes.append([("group" if name == "stack" and is_merged else name, entries) for name, entries in fields])
    receptive = [index for index, fields in enumerate(axes) if any(name == "..." for name, _ in fields)]
    is_contiguous = not receptive or receptive == list(range(receptive[0], receptive[-1] + 1))
    if any(len(axes[index]) > 1 for index in receptive) or not is_contiguous:
        raise _UnreadableError(_at("the axes of its receptive field do not stand together", line))
    return _numbered(axes)


def _numbered(axes: Sequence[Sequence[tuple[str, int]]]) -> tuple[str, dict[str, int]]:
    """Return a pattern in which equal names are numbered, and the sizes of axes merged in it.

    Args:
        axes: for each stored axis the names and sizes of the axes merged in it.
    """
    counts = Counter(name for fields in axes for name, _ in fields)
    seen: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    words: list[str] = []
    for fields in axes:
        names = []
        for name, entries in fields:
            seen[name] += 1
            is_unnumbered = counts[name] == 1 or (seen[name] == 1 and name in ("stack", "group")) or name == "..."
            names.append(name if is_unnumbered else f"{name}{seen[name]}")
            if len(fields) > 1:
                sizes[names[-1]] = entries
        if names == ["..."] and words[-1:] == ["..."]:
            continue
        words.append(names[0] if len(names) == 1 else f"({' '.join(names)})" if names else "1")
    return " ".join(words), sizes


def _merged(axis: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the parts of an axis with neighbors of one name put together, without those of size one."""
    result: list[tuple[str, int]] = []
    for name, size in axis:
        if result and result[-1][0] == name:
            result[-1] = (name, result[-1][1] * size)
        elif size > 1 or len(axis) == 1:
            result.append((name, size))
    return result or axis[:1]
