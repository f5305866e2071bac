"""The same experiment under several rule maps, with the same keys for each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from initax._ablation._execute import EXECUTORS, Experiment, Outcome, check_run
from initax._ablation._file import RunFile, header_of
from initax._ablation._models import models_of, plan_data
from initax._ablation._result import Ablation, check_baseline
from initax._ablation._run import Run
from initax._drawing._progress import bar
from initax._errors import InitaxError, KeyTypeError, alternatives, with_line
from initax._math._keys import as_key
from initax._planning._misuse import refuse_permuted


def _line(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The call of `ix.ablate` that may be meant."""
    return f"write ix.ablate(model, schemes, keys, run), with keys = {_split([*args, *kwargs.values()])}"


def _split(arguments: Iterable[Any]) -> str:
    """A line that makes keys: as many as a whole number among the arguments says, else ten."""
    number = next((value for value in arguments if type(value) is int and value > 0), 10)
    return f"jax.random.split(jax.random.key(0), {number})"


@with_line("ix.ablate", _line)
def ablate(
    model: Any,
    schemes: Mapping[str, Mapping[Any, Any]],
    keys: Any,
    run: Experiment,
    *,
    path: str | os.PathLike[str] | None = None,
    how: Literal["vmap", "jit", "python"] = "vmap",
    baseline: str | None = None,
    retry: bool = False,
    progress: bool | None = None,
    inputs: Any = None,
    forward: Callable[..., Any] | None = None,
    module: Any = None,
    default: Any = None,
) -> Ablation:
    """Return what an experiment gives under several rule maps, over the same keys for each.

    The model of a scheme and a key is `ix.reinit(model, schemes[name], key)`, and `run` gets the same key. So for each
    key all schemes start from the same random numbers, and the differences between schemes are paired.

    Args:
        model: the model, as for `ix.reinit`; or a function from a key to one, called with each key, whose arrays stay
            where no rule draws others.
        schemes: name → rules, as for `ix.reinit`.
        keys: an array of JAX keys, `jax.random.split(jax.random.key(0), 10)`, or a list of keys; one for each seed.
        run: function of a model and a key to a mapping from names to numbers or arrays, e.g. one that trains and
            returns `{"loss": losses, "accuracy": accuracy}`.
        path: file to which each finished run is appended, as a line of JSON. Where it holds runs of this ablation
            already, they are not done again.
        how: `"vmap"` compiles `run` once, for all keys at a time; `"jit"` compiles it once and runs it key by key,
            which needs less memory; both serve every scheme with the same program, and take a `run` of pure JAX.
            `"python"` calls any function, once for each run.
        baseline: the scheme that differences are taken from; the first one if left out.
        retry: whether to do runs again that failed, according to the file.
        progress: whether to show a bar; only at a terminal if left out.
        inputs: as for `ix.reinit`.
        forward: as for `ix.reinit`.
        module: as for `ix.reinit`.
        default: as for `ix.reinit`.

    Returns:
        The runs, with means, intervals and differences; `print` it for tables. A run that fails is among them, with
        its error.

    Raises:
        RuleError, SchemeError, AxesError, ModelError: what `ix.plan` raises for one of the schemes, before anything is
            run; or the model has an abstract array that a scheme does not draw.
        KeyTypeError: `keys` are not JAX keys.
        InitaxError: there are no schemes or keys, two keys are the same, `how` or `baseline` is unknown, `path` holds
            another ablation, or `run` can't be called with a model and a key, or traced.

    Examples:
        >>> import equinox as eqx, jax, initax as ix
        >>> model = eqx.nn.MLP(4, "scalar", 32, depth=3, key=jax.random.key(0))
        >>> x = jax.random.normal(jax.random.key(1), (64, 4))
        >>> def run(model, key):
        ...     return {"square": (jax.vmap(model)(x) ** 2).mean()}
        >>> schemes = {name: {"Linear": name} for name in ("lecun_normal", "he_normal")}
        >>> ablation = ix.ablate(model, schemes, jax.random.split(jax.random.key(2), 8), run)
        >>> {name: values.shape for name, values in ablation.values("square").items()}
        {'lecun_normal': (8,), 'he_normal': (8,)}
        >>> bool(ablation.summary("square")[1].difference_low > 0)
        True
    """
    refuse_permuted("ix.ablate", model=model, schemes=schemes, keys=keys, run=run)
    if not isinstance(schemes, Mapping) or not schemes or not all(isinstance(name, str) for name in schemes):
        shown = type(schemes).__name__ if schemes else repr(schemes)
        raise InitaxError(
            f"schemes must be a mapping from names to rules, not {shown}.",
            'write {"he": {"*": "he_normal"}, "orthogonal": {"*": "orthogonal"}}',
        )
    check_run(run)
    if how not in EXECUTORS:
        raise InitaxError(f"how can't be {how!r}.", *alternatives("ways", how, EXECUTORS))
    if baseline is not None:
        check_baseline(baseline, schemes)
    typed = as_keys(keys)
    call = {"inputs": inputs, "forward": forward, "module": module}
    models = models_of(model, schemes, typed, call, default, cache=len(typed) if how == "vmap" else 1)
    plans = {name: plan_data(name, rules, models) for name, rules in schemes.items()}
    words = np.asarray(jax.random.key_data(typed))
    header = header_of(plans, {"implementation": str(jax.random.key_impl(typed)), "data": words.tolist()})
    file = None if path is None else RunFile(path, header)
    header = file.header if file else header
    runs = {(result.scheme, result.seed): result for result in (file.runs if file else ())}
    done = {task for task, result in runs.items() if result.error is None or not retry}
    missing = [(name, seed) for name in schemes for seed in range(len(typed)) if (name, seed) not in done]

    failed = 0
    visible = bool(missing) and (sys.stderr.isatty() if progress is None else progress)
    with bar(len(typed) * len(schemes), shown=visible, done=len(done), counted=True) as step:
        step("ablation", 0)
        for outcomes in EXECUTORS[how](models, run, missing) if missing else ():
            fresh = [_recorded(outcome, words, header["schemes"]) for outcome in outcomes]
            if file:
                file.append(fresh)
            runs |= {(result.scheme, result.seed): result for result in fresh}
            failed += sum(result.error is not None for result in fresh)
            step(fresh[-1].scheme + (f", {failed} failed" if failed else ""), len(fresh))
    return Ablation.of(tuple(runs.values()), header["schemes"], typed, baseline)


def _recorded(outcome: Outcome, words: np.ndarray, plans: Mapping[str, Any]) -> Run:
    """The run of an outcome, with the words of its key and the fingerprint of its plan."""
    (scheme, seed), metrics, error, seconds = outcome
    key, plan = tuple(map(int, words[seed])), plans[scheme]["fingerprint"]
    return Run(scheme=scheme, seed=seed, key=key, plan=plan, metrics=metrics, error=error, seconds=round(seconds, 6))


def as_keys(keys: Any) -> jax.Array:
    """Return keys as an array of typed keys.

    Raises:
        KeyTypeError: one of them is not a JAX key.
        InitaxError: there are no keys, or two are the same.
    """
    line = f"write {_split([keys])}"
    if isinstance(keys, jax.Array) and keys.ndim == 0:
        keys = [keys]
    try:
        typed = [as_key(key) for key in keys]
    except (TypeError, KeyTypeError) as error:
        raise KeyTypeError(f"keys must be an array of JAX random keys: {keys!r}.", line) from error
    if not typed:
        raise InitaxError("an ablation needs at least one key.", line)
    seen: dict[Any, int] = {}
    for index, key in enumerate(typed):
        first = seen.setdefault(np.asarray(jax.random.key_data(key)).tobytes(), index)
        if first != index:
            raise InitaxError(
                f"keys {first} and {index} are the same: a run counted twice narrows the intervals.", line
            )
    return jnp.stack(typed)
