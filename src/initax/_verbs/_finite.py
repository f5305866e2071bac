"""Numbers that are measured: in which type, and errors that say which entry is not finite."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initax._errors import InitaxError, first_of
from initax._model._survey import Survey
from initax._text import path_text


def widened(array: Any) -> jax.Array:
    """Return an array in single precision, real or complex, in which statistics are taken."""
    return array.astype(jnp.complex64 if jnp.iscomplexobj(array) else jnp.float32)


def refuse_not_finite(verb: str, survey: Survey, inputs: Any, drawn: Collection[str] = ()) -> None:
    """Raise where an array of a model or of its inputs holds nan or inf.

    Asked only where something that was measured is not finite: a mask of minus infinities is not a fault.

    Args:
        verb: the function that measured.
        survey: the model.
        inputs: what it was called on.
        drawn: paths of arrays that were drawn before anything was measured.

    Raises:
        InitaxError: there is such an array; the message names the first ones, and the first entry.
    """
    model = list(_lines((path, survey.at(path)) for path in survey.places if path not in drawn))
    leaves = jax.tree_util.tree_flatten_with_path(inputs)[0]
    data = list(_lines((f"inputs{jax.tree_util.keystr(path)}", leaf) for path, leaf in leaves))
    if not model and not data:
        return
    line = "leave these examples out: x[jnp.isfinite(x).reshape(len(x), -1).all(axis=1)]"
    if not data:
        line = f'draw it anew: ix.reinit(model, {{"{model[0][0] or "*"}": "he_normal"}}, key)'
    first = first_of((text for _, text in (*data, *model)), 6)
    raise InitaxError(f"{verb} measures on data that is not finite.", *first, line)


def _lines(arrays: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield the name of each array that holds nan or inf, and a line with its first entry that is not finite."""
    for name, array in arrays:
        if not isinstance(array, jax.Array | np.ndarray | float) or isinstance(array, jax.core.Tracer):
            continue
        if not jnp.issubdtype(jnp.result_type(array), np.inexact):
            continue
        faulty = np.asarray(~jnp.isfinite(array))
        if not faulty.any():
            continue
        index = tuple(map(int, np.argwhere(faulty)[0]))
        value = np.asarray(array)[index]
        shown = f"{path_text(name)} {jnp.result_type(array)}{list(faulty.shape)}"
        yield name, f"{shown}: {int(faulty.sum()):,} of {faulty.size:,} entries, the first {value} at {list(index)}"
