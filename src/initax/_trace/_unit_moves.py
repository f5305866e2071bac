"""What becomes of the units of a weight in an equation that only reduces, moves or alters axes of their signal.

Each function takes the equation's parameters, the view of the units in its first operand and the shape of its result,
and returns their view in the result, or `None` where several of them are made one. The table in `_primitives.py` says
which primitive goes by which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from initax._trace._entries import marked
from initax._trace._factors import foreign
from initax._trace._views import View

Params = Mapping[str, Any]


def reduced(params: Params, view: View, shape: tuple[int, ...]) -> View | None:
    """Reductions over axes."""
    if set(params["axes"]) & set(marked(view)):
        return None
    return replace(view, axes=tuple(axis for index, axis in enumerate(view.axes) if index not in params["axes"]))


def along(params: Params, view: View, shape: tuple[int, ...]) -> View | None:
    """Running reductions along an axis."""
    return None if params["axis"] in marked(view) else view


def turned(params: Params, view: View, shape: tuple[int, ...]) -> View | None:
    """Entries in reversed order."""
    return None if set(params["dimensions"]) & set(marked(view)) else view


def padded(params: Params, view: View, shape: tuple[int, ...]) -> View | None:
    """Padding."""
    return _resized(view, [index for index, each in enumerate(params["padding_config"]) if any(each)], shape)


def windowed(params: Params, view: View, shape: tuple[int, ...]) -> View | None:
    """Pooling."""
    each = [params["window_dimensions"], params["window_strides"], params["base_dilation"], params["window_dilation"]]
    moved = [index for index, sizes in enumerate(zip(*each, strict=True)) if set(sizes) != {1}]
    return _resized(view, [*moved, *(index for index, pads in enumerate(params["padding"]) if any(pads))], shape)


def transformed(params: Params, view: View, shape: tuple[int, ...]) -> View | None:
    """Fourier transforms of the last axes."""
    return _resized(view, range(len(shape) - len(params["fft_lengths"]), len(shape)), shape)


def _resized(view: View, axes: Iterable[int], shape: tuple[int, ...]) -> View | None:
    """The view of a signal that was altered along some axes."""
    changed = set(axes)
    if changed & set(marked(view)):
        return None
    return replace(
        view, axes=tuple(foreign(shape[index]) if index in changed else axis for index, axis in enumerate(view.axes))
    )
