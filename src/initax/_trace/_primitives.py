"""Every JAX primitive the trace knows: one row for each, with a column for each pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from initax._trace import _elementwise as elementwise
from initax._trace import _equations as equations
from initax._trace import _flow_rules as flow
from initax._trace import _layout as layout
from initax._trace import _quantized as quantized
from initax._trace._contract import convolution, dot_general
from initax._trace._gather import gather
from initax._trace._jaxpr import open_jaxpr
from initax._trace._ragged import ragged_dot_general
from initax._trace._shard_map import on_whole_arrays
from initax._trace._uses import Uses, Value

Rule = Callable[[Any, Sequence[Value], Uses, str], Value | list[Value] | None]
"""From an equation, what its operands hold, the uses so far and its line to what its results hold; `None` where the
rule can't tell."""

Altered = Callable[[Mapping[str, Any]], Iterable[int]]
"""From an equation's parameters to the axes of its first operand that it sums up, reorders or resizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Primitive:
    """What each pass does at the equations of a primitive. The defaults are those of a primitive without a row.

    Attributes:
        calls: whether it calls the one jaxpr among its parameters with the same operands.
        control: for a loop or a branch, which one.
        hands_on: whether its results are its operands, one by one.
        read: the rule for the parameters and signals in its results; without one, parameters are halted here.
        unchanged: whether its one result has the entries of its first operand in the same row-major order.
        moments: how second moments of signals go through it; without it they are not known behind it.

            - `function`: entry by entry, evaluated at the nodes of the quadrature.
            - `layout`: entries are moved or left out; which ones its results hold says `RULES` in `_arrangement.py`.
            - `parts`: the same, with several results.
            - `join`: entries of several operands are joined.
            - `sum`, `largest`: of independent entries.
            - `contraction`: of a weight with a signal.
        flow: the rule that labels its operands in the graph of values, in which residual streams are found.
        units: what becomes of the units of a weight that is followed; without it they are lost.

            - `function`: entry by entry; a weight that takes in the units takes in the other operands, too.
            - `product`: entry by entry; where the units are zero, so is the result.
            - `layout`: they are moved as `read` moves the entries of a weight.
            - `join`, `stack`, `sort`, `contraction`: what the name says.
            - a function that returns the altered axes: along these, entries of different units are mixed.
    """

    calls: bool = False
    control: Literal["scan", "while", "cond"] | None = None
    hands_on: bool = False
    read: Rule | None = None
    unchanged: bool = False
    moments: Literal["function", "layout", "parts", "join", "sum", "largest", "contraction"] | None = None
    flow: flow.FlowRule = flow.reduced
    units: Literal["function", "product", "layout", "join", "stack", "sort", "contraction"] | Altered | None = None


UNKNOWN = Primitive(flow=flow.unknown)
LAYOUT = Primitive(moments="layout", flow=flow.moved, units="layout")
FUNCTION = Primitive(moments="function", flow=flow.entrywise, units="function")
LINEAR = Primitive(read=equations.keep, flow=flow.moved, units="function")
PRODUCT = Primitive(moments="function", flow=flow.entrywise, units="product")
CONTRACTION = Primitive(moments="contraction", flow=flow.contracted)
CALL = Primitive(calls=True)
HANDED_ON = Primitive(hands_on=True)
REDUCTION = Primitive(units=lambda params: params["axes"])
CUMULATIVE = Primitive(units=lambda params: [params["axis"]])


def _windowed(params: Mapping[str, Any]) -> list[int]:
    """Return the axes along which a window holds several entries, or entries are skipped or padded."""
    names = ("padding", "window_dimensions", "window_strides", "base_dilation", "window_dilation")
    axes = enumerate(zip(*(params[name] for name in names), strict=True))
    return [axis for axis, (padding, *sizes) in axes if any(padding) or set(sizes) != {1}]


POOLING = Primitive(units=_windowed)


def _rows(names: Iterable[str], row: Primitive) -> dict[str, Primitive]:
    return dict.fromkeys(names, row)


PRIMITIVES: dict[str, Primitive] = {
    # Calls of another jaxpr.
    **_rows(("jit", "pjit", "call", "closed_call", "remat2", "checkpoint"), CALL),
    **_rows(("custom_jvp_call", "custom_vjp_call", "composite", "custom_partitioning"), CALL),
    **_rows(("custom_dce_call", "custom_vmap_call", "linear_call", "compute_on", "xla_metadata_call"), CALL),
    "shard_map": CALL,  # as a program on whole arrays
    # Loops and branches.
    "scan": Primitive(control="scan"),
    "while": Primitive(control="while"),
    "cond": Primitive(control="cond"),
    # Operands handed on.
    **_rows(("stop_gradient", "optimization_barrier", "device_put", "name", "sharding_constraint"), HANDED_ON),
    **_rows(("layout_constraint", "mesh_cast", "reshard", "pvary", "pcast", "shard_alike"), HANDED_ON),
    **_rows(("announce_jaxpr", "nonbatchable", "nondifferentiable_backward", "nontraceable"), HANDED_ON),  # Equinox's
    # Layout: entries are moved, left out or joined.
    "reshape": replace(LAYOUT, read=equations.reshape, unchanged=True),
    "squeeze": replace(LAYOUT, read=equations.squeeze, unchanged=True),
    "transpose": replace(LAYOUT, read=equations.transpose),
    "broadcast_in_dim": replace(LAYOUT, read=equations.broadcast_in_dim),
    "slice": replace(LAYOUT, read=equations.cut, flow=flow.sliced),
    "dynamic_slice": replace(LAYOUT, read=equations.dynamic_slice, flow=flow.looked_up),
    "gather": replace(LAYOUT, read=gather, flow=flow.looked_up),
    "split": replace(LAYOUT, read=equations.split, moments="parts"),
    "unstack": replace(LAYOUT, read=equations.unstack, moments="parts"),
    "rev": replace(LAYOUT, read=layout.rev, units=lambda params: params["dimensions"]),
    "pad": Primitive(
        read=equations.pad,
        flow=flow.moved,
        units=lambda params: [axis for axis, padding in enumerate(params["padding_config"]) if any(padding)],
    ),
    "concatenate": Primitive(read=equations.concatenate, moments="join", flow=flow.joined, units="join"),
    "stack": Primitive(read=equations.stack, moments="join", flow=flow.joined, units="stack"),
    "dynamic_update_slice": Primitive(read=equations.dynamic_update_slice, flow=flow.written),
    **_rows(("scatter", "scatter-add"), Primitive(read=equations.scatter, flow=flow.written)),
    "tile": Primitive(read=layout.tile, flow=flow.moved),
    "sort": Primitive(units="sort"),
    # Contractions of a parameter with the signal.
    "dot_general": replace(CONTRACTION, read=dot_general, units="contraction"),
    "ragged_dot_general": replace(CONTRACTION, read=ragged_dot_general),
    "conv_general_dilated": replace(CONTRACTION, read=convolution),
    # Entry by entry: sums and products, where biases and scales come in.
    **_rows(("add", "add_any", "sub"), replace(FUNCTION, read=equations.add, flow=flow.added)),
    "mul": replace(PRODUCT, read=equations.mul, flow=flow.multiplied),
    "div": replace(PRODUCT, read=elementwise.div, flow=flow.multiplied),
    "select_n": replace(FUNCTION, read=equations.select, flow=flow.selected),
    "complex": Primitive(read=equations.complex_of, flow=flow.added, units="function"),
    # Entry by entry, and a weight stays a weight.
    "copy": replace(LINEAR, moments="function", unchanged=True),
    "convert_element_type": replace(LINEAR, read=quantized.cast, moments="function", unchanged=True),
    "neg": replace(LINEAR, moments="function"),
    "reduce_precision": replace(LINEAR, moments="layout"),
    **_rows(("real", "imag", "conj"), LINEAR),
    # Other functions entry by entry.
    "abs": replace(FUNCTION, flow=flow.larger),
    "is_finite": FUNCTION,
    **_rows(("ceil", "floor", "round", "sign"), replace(FUNCTION, read=quantized.rounded)),
    "clamp": replace(FUNCTION, read=quantized.clipped),
    **_rows(("max", "min"), replace(FUNCTION, read=quantized.clipped, flow=flow.larger)),
    **_rows(("cbrt", "exp", "exp2", "expm1", "integer_pow", "pow", "rsqrt", "sqrt", "square"), FUNCTION),
    **_rows(("log", "log1p", "log2"), FUNCTION),
    **_rows(("acos", "asin", "atan", "atan2", "cos", "sin", "tan"), FUNCTION),
    **_rows(("acosh", "asinh", "atanh", "cosh", "sinh", "tanh"), FUNCTION),
    **_rows(("bessel_i0e", "bessel_i1e", "erf", "erf_inv", "erfc", "logistic", "one_minus_square"), FUNCTION),
    **_rows(("and", "not", "or", "xor"), FUNCTION),
    **_rows(("digamma", "lgamma", "nextafter", "rem"), Primitive(flow=flow.entrywise, units="function")),
    # Comparisons.
    **_rows(("eq", "ne", "gt", "ge", "lt", "le"), replace(PRODUCT, flow=flow.compared)),
    # Reductions, running reductions and pooling.
    "reduce_sum": replace(REDUCTION, read=equations.reduce_sum, moments="sum", flow=flow.summed),
    "reduce_max": replace(REDUCTION, moments="largest", flow=flow.largest),
    "reduce_min": replace(REDUCTION, flow=flow.largest),
    **_rows(("reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin"), REDUCTION),
    "psum": Primitive(read=equations.psum),
    "cumsum": replace(CUMULATIVE, read=layout.cumsum, flow=flow.mixed),
    **_rows(("cumprod", "cumlogsumexp"), CUMULATIVE),
    **_rows(("cummax", "cummin"), replace(CUMULATIVE, flow=flow.largest)),
    "reduce_window_sum": replace(POOLING, read=equations.pooled, moments="sum", flow=flow.summed),
    "reduce_window_max": replace(POOLING, moments="largest", flow=flow.largest),
    "reduce_window_min": replace(POOLING, flow=flow.largest),
    "reduce_window": POOLING,
    "fft": Primitive(flow=flow.mixed, units=lambda params: range(-len(params["fft_lengths"]), 0)),
}
"""Primitive → its row."""


def row_of(eqn: Any) -> Primitive:
    """Return the row of an equation's primitive, `UNKNOWN` where it has none."""
    return PRIMITIVES.get(eqn.primitive.name, UNKNOWN)


def altered_axes(eqn: Any) -> list[int] | None:
    """Return the axes along which an equation mixes entries, none for a function entry by entry; `None` if unknown."""
    units = row_of(eqn).units
    if callable(units):
        rank = len(eqn.outvars[0].aval.shape)
        return [axis % rank for axis in units(eqn.params)] if rank else []
    return [] if units in ("function", "product") else None


def called(eqn: Any) -> Any:
    """Return the jaxpr, closed or open, that an equation calls with its operands, `None` where it is not a call."""
    if eqn.primitive.name == "shard_map":
        return on_whole_arrays(eqn)
    if not row_of(eqn).calls:
        return None
    jaxprs = [value for value in eqn.params.values() if hasattr(open_jaxpr(value), "eqns")]
    jaxpr = open_jaxpr(jaxprs[0]) if len(jaxprs) == 1 else None
    fits = jaxpr is not None and (len(jaxpr.invars), len(jaxpr.outvars)) == (len(eqn.invars), len(eqn.outvars))
    return jaxprs[0] if fits else None
