"""Random containers of known models: bare, wrapped, and as checkpoints with an optimizer's state beside them.

`python -m tests.containers --cases 20000 --seed 7` prints what a plan draws wrongly, grouped by kind, each with its
smallest example. Run it in the root of the repository, where initax is installed.
"""

import argparse
import collections
import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from random import Random
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from flax.training.train_state import TrainState

import initax as ix
from tests.container_models import FAMILIES, Leaf, is_leaf, map_leaves, names_of, pick, state, weight

RULES: dict[str, dict[str, Any]] = {
    "one scheme": {"*": "he_normal"},
    "by role": {"*": {"weight": "he_normal", "scale": "ones", "bias": "zeros"}},
    "every role": {
        "*": {
            "weight": "glorot_uniform",
            "recurrent": "orthogonal",
            "embedding": "he_normal",
            "scale": "ones",
            "bias": "zeros",
        }
    },
}
"""Rule maps, by what they say."""

OPTIMIZERS = {
    "adam": lambda: optax.adam(1e-3),
    "adamw": lambda: optax.adamw(1e-3),
    "adamw, clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
    "adam of a schedule": lambda: optax.adam(optax.cosine_decay_schedule(1e-3, 100)),
    "adam, injected": lambda: optax.inject_hyperparams(optax.adam)(1e-3),
    "amsgrad": lambda: optax.amsgrad(1e-3),
    "momentum": lambda: optax.sgd(1e-2, momentum=0.9),
    "nesterov": lambda: optax.sgd(optax.constant_schedule(1e-2), momentum=0.9, nesterov=True),
    "rmsprop": lambda: optax.rmsprop(1e-3),
    "rmsprop, centered": lambda: optax.rmsprop(1e-3, centered=True, momentum=0.9),
    "adagrad": lambda: optax.adagrad(1e-2),
    "adadelta": lambda: optax.adadelta(1e-2),
    "adabelief": lambda: optax.adabelief(1e-3),
    "adamax": lambda: optax.adamax(1e-3),
    "nadam": lambda: optax.nadam(1e-3),
    "lion": lambda: optax.lion(1e-3),
    "adafactor": lambda: optax.adafactor(1e-3, min_dim_size_to_factor=8),
    "lamb": lambda: optax.lamb(1e-3),
    "lars": lambda: optax.lars(1e-3),
    "sm3": lambda: optax.sm3(1e-2),
    "yogi": lambda: optax.yogi(1e-3),
    "novograd": lambda: optax.novograd(1e-3),
    "accumulated adam": lambda: optax.MultiSteps(optax.adam(1e-3), every_k_schedule=4),
}
"""Optimizers of optax."""

BY_HAND = ("m, v, t", "m, v, step in a tuple", "velocity")
"""States of optimizers that people write themselves."""


class Case(NamedTuple):
    """A container, and how it came about.

    Attributes:
        tree: nested containers of leaves.
        form: how it was made, in words.
    """

    tree: Any
    form: str


class Violation(NamedTuple):
    """What a plan does that it must not.

    Attributes:
        kind: whose array it is and what is wrong, for grouping.
        text: where, and the numbers.
    """

    kind: str
    text: str


# Making cases


def trainable(tree: Any) -> Any:
    """Return a tree without the state in it, as optimizers are given it."""
    if isinstance(tree, dict):
        kept = {name: trainable(child) for name, child in tree.items()}
        return {name: child for name, child in kept.items() if child is not None}
    return None if isinstance(tree, Leaf) and tree.role == "state" else tree


def moments(name: str, params: Any) -> Any:
    """Return the state of an optimizer of optax as leaves that are state."""
    shapes = map_leaves(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    found = jax.eval_shape(OPTIMIZERS[name]().init, shapes)
    return jax.tree.map(lambda array: state(f"state of {name}", array.shape, dtype=array.dtype), found)


def moments_by_hand(name: str, params: Any) -> Any:
    """Return the state of a hand-written optimizer."""
    copies = [map_leaves(lambda leaf: leaf.as_state(f"hand-written optimizer: {name}"), params) for _ in range(2)]
    count = state("count", (), dtype=jnp.int32)
    if name == "m, v, t":
        return {"m": copies[0], "v": copies[1], "t": count}
    return (*copies, count) if name == "m, v, step in a tuple" else {"velocity": copies[0]}


def restored(tree: Any, style: str) -> Any:
    """Return a tree as it comes back without its target: classes are dicts, lists may be, too."""
    if isinstance(tree, Leaf):
        return tree
    if isinstance(tree, dict):
        return {str(name): restored(child, style) for name, child in tree.items()}
    fields = getattr(tree, "_fields", None)
    if fields is None and dataclasses.is_dataclass(tree):
        fields = tuple(each.name for each in dataclasses.fields(tree))
    if fields is not None:
        children = {name: restored(getattr(tree, name), style) for name in fields}
        return children or (None if style == "lists" else {})
    if isinstance(tree, list | tuple):
        every = [restored(child, style) for child in tree]
        return every if style == "lists" else {str(number): child for number, child in enumerate(every)}
    return tree


def relabelled(tree: Any, form: str) -> Any:
    """Return an optimizer's state whose kinds say in which form it comes."""
    return map_leaves(
        lambda leaf: dataclasses.replace(leaf, kind=f"{leaf.kind}, {form}") if leaf.kind != "count" else leaf, tree
    )


def wrapped(rng: Random, tree: Any) -> tuple[Any, str]:
    """Return a tree inside up to two more containers."""
    words = []
    for _ in range(pick(rng, (0, 0, 1, 1, 2))):
        match word := pick(rng, ("value", "params", "state", "model", "net", "list", "tuple", "0", "beside a matrix")):
            case "list":
                tree = [tree]
            case "tuple":
                tree = (tree,)
            case "beside a matrix":
                tree = [tree, weight("loose matrix", (8, 3), 8, 3)]
            case _:
                tree = {word: tree}
        words.append(word)
    return tree, f", in {' in '.join(words)}" if words else ""


def flattened(rng: Random, params: Any) -> tuple[Any, str]:
    """Return nested dicts as one dict with joined names."""
    sep = pick(rng, (None, "/", "."))
    return traverse_util.flatten_dict(params, sep=sep), f", flattened by {sep!r}"


def bare(rng: Random, family: str, size: int) -> Case:
    """Return a model by itself, wrapped at random."""
    model = FAMILIES[family](rng, size)
    tree, form = model.params, family
    if family in ("linen", "lifted") and rng.random() < 0.15:
        tree, more = flattened(rng, tree)
        form += more
    elif family in ("linen", "lifted") and rng.random() < 0.4:
        tree = {"params": tree} | ({"batch_stats": model.stats} if model.stats else {})
        form += " variables"
    elif rng.random() < 0.1:
        tree, form = {"q1": tree, "q2": FAMILIES[family](rng, size).params}, f"{form} twins"
    tree, more = wrapped(rng, tree) if rng.random() < 0.5 else (tree, "")
    return Case(tree, form + more)


def checkpoint(rng: Random, family: str, size: int) -> Case:
    """Return a model with an optimizer's state, statistics, an average of its parameters or counters beside it."""
    model = FAMILIES[family](rng, size)
    params = model.params
    learned = trainable(params) if isinstance(params, dict) else params
    form = family
    hand = rng.random() < 0.15
    name = pick(rng, BY_HAND if hand else tuple(OPTIMIZERS))
    opt = moments_by_hand(name, learned) if hand else moments(name, learned)
    style = pick(rng, ("as it is", "lists", "numbers")) if not hand else "as it is"
    opt = relabelled(opt, "restored raw" if style != "as it is" else "as it is") if not hand else opt
    parts: dict[str, Any] = {pick(rng, ("params", "model", "state")): params}
    parts[pick(rng, ("opt", "opt_state", "optimizer"))] = [opt] if style != "as it is" and rng.random() < 0.3 else opt
    form += f", {name} ({style})"
    if model.stats is not None:
        parts["batch_stats" if isinstance(model.stats, dict) else "non_trainable"] = model.stats
    if rng.random() < 0.25:
        ema = pick(rng, ("ema_params", "ema", "params_ema"))
        parts[ema] = map_leaves(lambda leaf: leaf.as_state("moving average of the parameters"), params)
        form += f", {ema}"
    if rng.random() < 0.5:
        parts["step"] = state("count", (), dtype=pick(rng, (jnp.int32, jnp.float32)))
    tree: Any = parts
    if len(parts) == 2 and rng.random() < 0.3:
        tree = pick(rng, (tuple, list))(parts.values())
    elif style == "as it is" and family in ("linen", "lifted") and rng.random() < 0.3:
        step = state("count", (), dtype=jnp.int32)
        tree = TrainState(step=step, apply_fn=None, params=params, tx=None, opt_state=opt)  # type: ignore[arg-type]
        form += ", TrainState"
    if style != "as it is":
        tree = restored(tree, style)
    tree, more = wrapped(rng, tree) if rng.random() < 0.3 else (tree, "")
    return Case(tree, form + more)


def case(family: str, seed: int, *, with_optimizer: bool, size: int | None = None) -> Case:
    """Return the case of a seed.

    Args:
        family: name of the family of models.
        seed: what it is made from.
        with_optimizer: whether it is a checkpoint.
        size: how many pieces the model has; up to four, at random, where it is `None`.
    """
    rng = Random(f"{family} {seed} {with_optimizer}")
    pieces = rng.randint(1, 4) if size is None else size
    return (checkpoint if with_optimizer else bare)(rng, family, pieces)


def arrays(tree: Any, kind: str = "abstract") -> Any:
    """Return the container with arrays in place of its leaves: abstract, of NumPy or of JAX."""

    def array(leaf: Leaf) -> Any:
        if kind == "abstract":
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        zeros = np.zeros(leaf.shape, leaf.dtype)
        return zeros if kind == "numpy" else jax.device_put(zeros)

    return map_leaves(array, tree)


# Judging plans


def short(path: str) -> str:
    """Return a dotted path without the names that only wrap: variables of Flax are read by what is inside."""
    return ".".join(name for name in path.replace("/", ".").split(".") if name not in ("params", "value"))


def truths(tree: Any) -> dict[str, Leaf]:
    """Return the leaves of a container by their dotted paths."""
    found = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]
    return {".".join(_names(path)): leaf for path, leaf in found if isinstance(leaf, Leaf)}


def _names(path: Iterable[Any]) -> Iterable[str]:
    for entry in path:
        key = getattr(entry, "key", None)
        yield from map(str, key) if isinstance(key, tuple) else names_of((entry,))


def truth_of(path: str, every: Mapping[str, Leaf]) -> Leaf | None:
    """Return the leaf that a plan's path stands for; `None` where it is not one alone."""
    alike = [leaf for name, leaf in every.items() if name.replace("/", ".") == path.replace("/", ".")]
    alike = alike or [leaf for name, leaf in every.items() if short(name) == short(path)]
    return alike[0] if len(alike) == 1 else None


WEIGHTS = ("weight", "recurrent", "embedding")


def fault(leaf: Leaf, draw: Any, notes: Iterable[str], *, abstract: bool = True) -> str | None:
    """Return what is wrong with the draw of an array; `None` where nothing is.

    Statistics that were never made, in an abstract model, may start with what their framework gives them.
    """
    parameter = draw.parameter
    role = parameter.role
    fans = (parameter.fan_in, parameter.fan_out)
    if tuple(parameter.shape) != leaf.shape:
        return "another shape"
    if leaf.role == "state":
        start = parameter.default if str(draw.initializer) == "default" else str(draw.initializer)
        return None if abstract and role == "state" and start == leaf.start is not None else "drawn"
    told = ((leaf.role, leaf.fan_in, leaf.fan_out), *leaf.also)
    readings = [each for each in told if (role in WEIGHTS) == (each[0] in WEIGHTS)]
    if role in WEIGHTS:
        if not readings:
            return f"drawn as {role}"
        if any(fans == each[1:] for each in readings):
            return None
        if fans == (leaf.fan_in, leaf.grouped) and any("groups can't be told" in note for note in notes):
            return None
        return "wrong fan_out" if any(fans[0] == each[1] for each in readings) else "wrong fan_in"
    if role != leaf.role:
        return f"drawn as {role}"
    if role == "bias" and None not in (fans[0], leaf.fan_in) and not any(fans[0] == each[1] for each in readings):
        return "fan_in of another weight"
    return None


def violations(tree: Any, plan: Any, *, abstract: bool = True) -> list[Violation]:
    """Return what a plan draws that it must not, or otherwise than is true."""
    every = truths(tree)
    found = []
    for draw in plan.draws:
        parameter = draw.parameter
        leaf = truth_of(parameter.path, every)
        if leaf is None:
            found.append(Violation("a path that no array has", parameter.path))
            continue
        wrong = fault(leaf, draw, plan.notes, abstract=abstract)
        if wrong is not None:
            text = f"{parameter.path} {leaf.shape}: {parameter.role}, fans {parameter.fan_in}, {parameter.fan_out}"
            text += f"; really {leaf.role}, {leaf.fan_in}, {leaf.fan_out}"
            found.append(Violation(f"{leaf.kind}: {wrong}", text))
    return found


def planned(model: Any, rules: Mapping[Any, Any]) -> Any:
    """Return the plan, or `None` where initax refuses the model because there is nothing to draw."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ix.InitaxWarning)
        try:
            return ix.plan(model, rules)
        except (ix.ModelError, ix.RuleError):
            return None


def judged(tree: Any, rules: Mapping[Any, Any], kind: str = "abstract") -> list[Violation]:
    """Return what is wrong with the plan of a container; nothing where it is refused."""
    try:
        plan = planned(arrays(tree, kind), rules)
    except Exception as error:
        return [Violation(f"raises {type(error).__name__}", str(error).partition("\n")[0])]
    return [] if plan is None else violations(tree, plan, abstract=kind == "abstract")


def share_drawn(trees: Iterable[Any], rules: Mapping[Any, Any]) -> float:
    """Return the share of all weights and embeddings that are drawn, and with the true fans."""
    drawn = total = 0
    for tree in trees:
        every = truths(tree)
        total += sum(leaf.role in WEIGHTS for leaf in every.values())
        plan = planned(arrays(tree), rules)
        for draw in plan.draws if plan is not None else ():
            leaf = truth_of(draw.parameter.path, every)
            right = leaf is not None and leaf.role in WEIGHTS and fault(leaf, draw, plan.notes) is None
            drawn += right
    return drawn / max(total, 1)


# By hand


def text_of(tree: Any) -> str:
    """Return a container with shapes in place of its leaves, as one may paste it."""
    return str(map_leaves(lambda leaf: _Shape(leaf.shape), tree))


class _Shape:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __repr__(self) -> str:
        return f"Z{self.shape}"


class Found(NamedTuple):
    """The smallest example of a kind so far."""

    leaves: int
    where: str
    text: str
    tree: str


def search(
    cases: int, seed: int, families: Iterable[str] = tuple(FAMILIES)
) -> tuple[dict[str, Found], collections.Counter[str]]:
    """Return the smallest example of each kind of violation among so many cases, and how many cases show it."""
    smallest: dict[str, Found] = {}
    seen: collections.Counter[str] = collections.Counter()
    names = tuple(families)
    for number in range(cases):
        family = names[number % len(names)]
        own = seed * 10_000_000 + number
        with_optimizer = number // len(names) % 2 == 1
        made = case(family, own, with_optimizer=with_optimizer)
        which = tuple(RULES)[number // len(names) % 3]
        wrong = judged(made.tree, RULES[which])
        size = len(truths(made.tree))
        for kind in {each.kind for each in wrong}:
            seen[kind] += 1
            if kind not in smallest or size < smallest[kind].leaves:
                texts = [each.text for each in wrong if each.kind == kind]
                where = f"{family} {own}{' with optimizer' if with_optimizer else ''}, {which}: {made.form}"
                smallest[kind] = Found(size, where, texts[0], text_of(made.tree))
    return smallest, seen


def main() -> None:
    """Search for violations and print them grouped by kind, the most frequent first."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--family", action="append", choices=tuple(FAMILIES))
    parser.add_argument("--width", type=int, default=600, help="characters of an example")
    arguments = parser.parse_args()
    smallest, seen = search(arguments.cases, arguments.seed, arguments.family or tuple(FAMILIES))
    print(f"{arguments.cases} cases, {len(smallest)} kinds of violations")
    for kind, count in seen.most_common():
        found = smallest[kind]
        print(f"\n{count:6} {kind}\n       {found.text}\n       {found.where}\n       {found.tree[: arguments.width]}")


if __name__ == "__main__":
    main()
