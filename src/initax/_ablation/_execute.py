"""Executors of runs: all seeds of a scheme in one compiled call, one seed per call, or plain Python.

Compiled runs take the arrays of the model as arguments, so that one program serves every scheme.
"""

from __future__ import annotations

import inspect
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from initax._ablation._models import Arrays, Models
from initax._ablation._run import Metric, check_metrics, read_metrics
from initax._errors import InitaxError, shown

Experiment = Callable[[Any, jax.Array], Mapping[str, Any]]
Task = tuple[str, int]
"""Scheme and seed."""
Outcome = tuple[Task, dict[str, Metric], str | None, float]
"""Which run, what it measured, why it failed, and the seconds it took."""


BY_SEED = operator.itemgetter(1)
"""Order of runs: an ablation that is cut short has as many of one scheme as of another."""

CALL = 'write def run(model, key): ... return {"loss": loss}'


def check_run(run: Any) -> None:
    """Raise where a function can't be called with a model and a key, as far as its signature says.

    Raises:
        InitaxError: it can't be, or it is not a function.
    """
    if not callable(run):
        raise InitaxError(f"run must be a function of a model and a key, not {shown(run)}.", CALL)
    function = getattr(run, "__wrapped__", run) if isinstance(run, jax.stages.Wrapped) else run
    # A decorator may pass arguments of its own to what it wraps.
    if misfit := _misfit(function, follow_wrapped=False):
        raise InitaxError(f"run is called as run(model, key), and can't be: {misfit[0]}.", misfit[1], CALL)


def _takes_key_first(function: Any) -> bool:
    """Whether a function's first argument is called as keys are."""
    try:
        return next(iter(inspect.signature(function).parameters), "") in ("key", "rng", "rngs", "seed")
    except (TypeError, ValueError):
        return False


def _misfit(function: Any, *, follow_wrapped: bool) -> tuple[str, str] | None:
    """Why a function can't be called with a model and a key, and its signature; nothing where it can, or has none."""
    try:
        signature = inspect.signature(function, follow_wrapped=follow_wrapped)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind("model", "key")
    except TypeError as error:
        return str(error), f"it is {getattr(function, '__name__', type(function).__name__)}{signature}"
    return None


def in_python(models: Models, run: Experiment, missing: Sequence[Task]) -> Iterator[list[Outcome]]:
    """Yield the outcomes of a function of a model and a key that is called for one run after the other."""

    def prepare(task: Task) -> tuple[Any, jax.Array]:
        # What no rule draws is shared by all runs, and a run may donate it or change it in place: it gets copies.
        arrays = {path: array.copy() for path, array in models.arrays(*task).items()}
        return models.write(arrays), models.keys[task[1]]

    return ([_tried(task, prepare, run)] for task in sorted(missing, key=BY_SEED))


def in_jit(models: Models, run: Experiment, missing: Sequence[Task]) -> Iterator[list[Outcome]]:
    """Yield the outcomes of a function of a model and a key that is compiled once, and called run by run."""
    compiled = Compiled(models, run)

    def prepare(task: Task) -> Any:
        return compiled.place(models.arrays(*task), models.keys[task[1]])

    return ([_tried(task, prepare, compiled)] for task in sorted(missing, key=BY_SEED))


def in_vmap(models: Models, run: Experiment, missing: Sequence[Task]) -> Iterator[list[Outcome]]:
    """Yield the outcomes of a function of a model and a key that is compiled for all seeds, and called for each scheme.

    Where a call fails its seeds are run one at a time, by a second program, so that those that can go through do.
    """
    number = len(models.keys)
    together = Compiled(models, run, number)

    def batch(scheme: str) -> tuple[list[dict[str, Metric]], float]:
        of_seeds = [models.arrays(scheme, seed) for seed in range(number)]
        stacks = {
            path: jnp.stack([arrays[path] for arrays in of_seeds]) if path in models.varying else array
            for path, array in of_seeds[0].items()
        }
        arguments = together.place(stacks, models.keys)
        began = time.perf_counter()
        metrics = {name: np.asarray(array) for name, array in together(*arguments).items()}
        seconds = (time.perf_counter() - began) / number
        return [read_metrics({name: array[seed] for name, array in metrics.items()}) for seed in range(number)], seconds

    for scheme in dict.fromkeys(scheme for scheme, _ in missing):
        tasks = [task for task in missing if task[0] == scheme]
        try:
            metrics, seconds = batch(scheme)
        except Exception:
            yield from in_jit(models, run, tasks)
            continue
        # A part of the seeds would be another program: all are run again, and what is known already is dropped.
        yield [(task, metrics[task[1]], None, seconds) for task in tasks]


EXECUTORS: dict[str, Callable[[Models, Experiment, Sequence[Task]], Iterator[list[Outcome]]]] = {
    "vmap": in_vmap,
    "jit": in_jit,
    "python": in_python,
}


def _tried(task: Task, prepare: Callable[[Task], tuple[Any, ...]], call: Callable[..., Any]) -> Outcome:
    began = time.perf_counter()
    try:
        arguments = prepare(task)
        began = time.perf_counter()
        metrics = read_metrics(call(*arguments))
    except Exception as error:
        return task, {}, f"{type(error).__name__}: {error}", time.perf_counter() - began
    return task, metrics, None, time.perf_counter() - began


class Compiled:
    """A function of every array and a key, compiled once; for several seeds, for all of them at a time.

    Args:
        models: the models it is for.
        run: the function of a model and a key.
        seeds: how many at a time; one alone, without an axis for it, if left out.

    Raises:
        InitaxError: the function can't be traced or compiled, or does not return metrics.
    """

    def __init__(self, models: Models, run: Experiment, seeds: int | None = None) -> None:
        self._names: tuple[str, ...] = ()

        def ablated(arrays: Arrays, key: jax.Array) -> dict[str, Any]:
            returned = run(models.write(arrays), key)
            check_metrics(returned)
            self._names = tuple(returned)  # JAX sorts the names
            return {name: jnp.asarray(value) for name, value in returned.items()}

        base = models.base(0)
        axes = {path: 0 if path in models.varying else None for path in base}
        arrays = {path: _abstract(array, None if axes[path] is None else seeds) for path, array in base.items()}
        function = ablated if seeds is None else jax.vmap(ablated, in_axes=(axes, 0))
        try:
            self._compiled = jax.jit(function).lower(arrays, _abstract(models.keys[0], seeds)).compile()
        except InitaxError:
            raise
        except Exception as error:
            first = str(error).strip().splitlines()[:1]
            impure = 'if it is not a pure JAX function, write how="python"'
            raise InitaxError(
                f"run fails while JAX traces and compiles it: {': '.join([type(error).__name__, *first])}",
                CALL if _misfit(run, follow_wrapped=True) or _takes_key_first(run) else impure,
            ) from error

    def place(self, arrays: Arrays, key: jax.Array) -> tuple[Any, ...]:
        """Return the arguments on the devices for which the program was compiled."""
        strong = {path: _strong(array) for path, array in arrays.items()}
        return jax.device_put((strong, key), self._compiled.input_shardings[0])

    def __call__(self, *arguments: Any) -> dict[str, Any]:
        """Return the metrics, once they are computed."""
        metrics = jax.block_until_ready(self._compiled(*arguments))
        return {name: metrics[name] for name in self._names}


def _abstract(leaf: Any, seeds: int | None) -> jax.ShapeDtypeStruct:
    shape, dtype = (leaf, jnp.result_type(float)) if type(leaf) is tuple else (leaf.shape, leaf.dtype)
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        sharding = None
    elif seeds is not None:
        sharding = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
    whole = shape if seeds is None else (seeds, *shape)
    canonical = jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
    return jax.ShapeDtypeStruct(whole, canonical, sharding=sharding)


def _strong(array: Any) -> Any:
    """The array as a JAX array without a weak type."""
    array = jnp.asarray(array)
    return array.astype(array.dtype) if getattr(array, "weak_type", False) else array
