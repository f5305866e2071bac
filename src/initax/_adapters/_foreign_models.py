"""What is passed in place of a model: an error names it and gives the line to write.

Models and tensors of other packages, functions around a module, optimizers and their states, classes, files. Packages
are known by the names of classes' modules, so that none of them is loaded, or has to be there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from initax._adapters._nodes import ARRAYS, holds_arrays, packages_of
from initax._errors import ModelError, listing, message

ONE_BY_ONE = (
    'draw its arrays one by one, under the JAX backend: layer.kernel.assign(ix.draw("he_normal", key, '
    "layer.kernel.shape))"
)
STATE_DICT = (
    "state = {name: each.detach().cpu().numpy() for name, each in model.state_dict().items()}",
    'state = ix.reinit(state, {"Linear": ix.Scheme("he_normal", axes="o i ...")}, key)',
    "model.load_state_dict({name: torch.as_tensor(each) for name, each in state.items()})",
)
ARRAYS_OF = {
    "torch": ("PyTorch", "each.detach().cpu().numpy()"),
    "tensorflow": ("TensorFlow", "each.numpy()"),
    "cupy": ("CuPy", "each.get()"),
    "mlx": ("MLX", "np.array(each)"),
    "paddle": ("Paddle", "each.numpy()"),
    "mxnet": ("MXNet", "each.asnumpy()"),
}
"""Package of a tensor → what it is called, and what makes a NumPy array of `each`."""

TENSORS = frozenset({"Tensor", "Parameter", "EagerTensor", "ResourceVariable", "Variable", "ndarray", "array", "Var"})
"""Names of classes, or of their bases, of tensors in these packages. Whatever else comes from there is a model."""


def refuse_foreign(model: Any, leaves: Sequence[Any]) -> None:
    """Raise where what was passed for a model is none.

    Args:
        model: what was passed.
        leaves: its leaves, as JAX flattens it.

    Raises:
        ModelError: it is a model, a tensor or an optimizer of another package, a function, a class, a file.
    """
    if isinstance(model, type):
        name = model.__name__
        raise ModelError(f"the model is the class {name}, and no {name} yet.", f"write model = {name}(...)")
    if isinstance(model, str | os.PathLike) or hasattr(type(model), "readline"):
        raise ModelError(
            f"the model is {_file(model)}, and no model yet.",
            "load it first; a model is a module, or a pytree of arrays: "
            "model = eqx.tree_deserialise_leaves(path, like)",
        )
    _refuse_optimizer(model)
    _refuse_call(model, leaves)
    for cls in dict.fromkeys(map(type, [model] if _is_foreign(type(model)) else leaves)):
        if _is_foreign(cls):
            raise ModelError(_foreign(cls, model))


def _file(model: Any) -> str:
    if isinstance(model, str):
        return f"a text, {model!r}" if len(model) < 80 else "a text"
    return f"a path, {os.fspath(model)!r}" if isinstance(model, os.PathLike) else f"an open file ({_name(model)})"


def _name(value: Any) -> str:
    return type(value).__name__


def _is_foreign(cls: type) -> bool:
    return _is_keras(cls) or any(package in ARRAYS_OF for package in packages_of(cls))


def _is_keras(cls: type) -> bool:
    """Whether a class, or a base of it, is of Keras, which comes in packages of its own and in TensorFlow's."""
    modules = (base.__module__.split(".") for base in cls.__mro__)
    return any(
        names[0] in ("keras", "tf_keras") or (names[0] == "tensorflow" and "keras" in names) for names in modules
    )


def _foreign(cls: type, model: Any) -> str:
    """The error for an object of another package: the model itself, or inside it."""
    packages = packages_of(cls)
    inside = "" if type(model) is cls else f", in a {_name(model)}"
    names = {base.__name__ for base in cls.__mro__}
    package = next((name for name in ARRAYS_OF if name in packages), "")
    is_tensor = not names.isdisjoint(TENSORS)
    if _is_keras(cls):
        what = "a variable of Keras" if is_tensor else "a Keras model"
        return message(f"the model is {what}: {cls.__name__}{inside}. Keras models are not supported.", ONE_BY_ONE)
    theirs, as_numpy = ARRAYS_OF[package]
    if not is_tensor:
        lines = STATE_DICT if package == "torch" else ("pass its arrays as a dict of NumPy arrays, name → array",)
        return message(f"the model is a module of {theirs}: {cls.__name__}{inside}.", *lines)
    if isinstance(model, Mapping):
        line = f"model = {{name: {as_numpy} for name, each in model.items()}}"
    elif inside:
        line = f"model = jax.tree.map(lambda each: {as_numpy}, model)"
    else:
        line = f"model = {as_numpy.replace('each', 'model')}"
    return message(
        f"the model is a tensor of {theirs}: {cls.__name__}{inside}. initax takes arrays of JAX and NumPy.",
        line,
        'PyTorch stores outputs first; then write {"Linear": ix.Scheme("he_normal", axes="o i ...")}'
        if package == "torch"
        else "",
    )


def _refuse_optimizer(model: Any) -> None:
    """Raise where the model is an optimizer, or nothing but its state."""
    packages = packages_of(type(model))
    if "optax" in packages and hasattr(model, "init") and hasattr(model, "update"):
        raise ModelError(
            f"the model is an optimizer of optax: {_name(model)}.",
            "pass what it optimizes: params = ix.reinit(params, rules, key), then optimizer.init(params)",
        )
    states = _states(model)
    if states:
        raise ModelError(
            f"the model is an optimizer's state: {listing(states, 3)}.",
            "pass what it optimizes: plan = ix.plan(params, rules); params = plan.draw(key)",
            "what the state remembers of it is forgotten by ix.reset_optimizer(opt_state, plan)",
        )


def _states(model: Any) -> list[str]:
    """The classes of the optimizer's states that a model is made of; none where it is anything else as well."""
    cls = type(model)
    of_nnx = any(base.__name__ == "Optimizer" and base.__module__.startswith("flax.nnx") for base in cls.__mro__)
    if "optax" in packages_of(cls) or (of_nnx and not hasattr(model, "model")):
        return [_name(model)]
    if type(model) not in (tuple, list):
        return []
    states: list[str] = []
    for part in model:
        names = _states(part)
        if not names and not (isinstance(part, tuple) and not part):
            return []
        states += names
    return states


def _refuse_call(model: Any, leaves: Sequence[Any]) -> None:
    """Raise where the model is a function: one around a module, or one of no arrays at all."""
    if "flax.linen" in packages_of(type(model)):
        return
    flattened = hasattr(model, "_dynamic_fun")  # Equinox's filter_jit keeps the arrays of a module without the module
    if not flattened and any(isinstance(leaf, ARRAYS) for leaf in leaves):
        return
    if hasattr(model, "init") and hasattr(model, "apply"):
        raise ModelError(
            f"the model is a pair of functions, init and apply: {_name(model)}.",
            "pass the parameters: params = ix.reinit(model.init(key, x), rules, key)",
        )
    if not callable(model):
        return
    inner = _inside(model)
    if inner is not None:
        raise ModelError(
            f"the model is a function around a module: {_name(model)} of {_name(inner)}.",
            f"pass the {_name(inner)} itself, and wrap what comes back: model = ix.reinit(model, rules, key)",
        )
    named = getattr(model, "__name__", None)
    if named is not None and jax.tree_util.all_leaves([model]):
        raise ModelError(
            f"the model is a function, {named}, and holds no array.",
            "pass the module or the arrays that it takes; forward= says how they are called",
        )


def _inside(function: Any, depth: int = 8) -> Any:
    """The module, or arrays, that a function is around; `None` where there are none."""
    for name in ("__wrapped__", "func", "__self__") if depth else ():
        inner = getattr(function, name, None)
        if inner is None or inner is function:
            continue
        module = inner if holds_arrays(inner) else _inside(inner, depth - 1)
        if module is not None:
            return module
    return None


def refuse_closed(model: Any) -> None:
    """Raise where the model is an object that JAX does not look into, with arrays inside.

    Raises:
        ModelError: it is such an object.
    """
    if isinstance(model, ARRAYS):
        return
    if isinstance(model, Mapping):
        raise ModelError(f"JAX does not look into a {_name(model)}, and sees no array.", "pass dict(model)")
    attributes = getattr(model, "__dict__", {}).items()
    held = [name for name, value in attributes if not name.startswith("__") and holds_arrays(value)]
    if held:
        raise ModelError(
            f"{_name(model)} is not a pytree: JAX sees no array in it.",
            f"it holds: {listing(held)}",
            f"pass these, model.{held[0]}"
            + (", or all of them, vars(model)" if len(held) > 1 else "")
            + f"; or make {_name(model)} a pytree: an eqx.Module, or jax.tree_util.register_dataclass",
        )
