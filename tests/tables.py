"""The tables the laws are held against: every layer of Equinox, and every scheme."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

nn = eqx.nn
KEY = jax.random.key(7)


@dataclass(frozen=True)
class Built:
    """A model of any framework, with what initax must be told of it and how it is called."""

    model: Any
    call: Callable[[Any, Any], Any]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A layer of any framework.

    Attributes:
        name: its name in the tables.
        make: makes it, with the weights its framework gives it.
        input: shape of what it is called on; `None` where a plain call says nothing about fans.
        shapes: makes the same with shapes in place of arrays.
    """

    name: str
    make: Callable[[], Any]
    input: tuple[int, ...] | None = None
    shapes: Callable[[], Built] | None = None

    def abstract(self) -> Built:
        """Return the model with shapes in place of arrays."""
        if self.shapes is not None:
            return self.shapes()
        return Built(eqx.filter_eval_shape(self.make), lambda model, x: model(x))

    def filled(self) -> Built:
        """Return the model with normal numbers in place of its own, for which nothing is compiled."""
        built = self.abstract()
        return replace(built, model=filled(built.model))


def filled(model: Any) -> Any:
    """Return a model with normal numbers in place of its shapes, for which nothing is compiled."""
    return jax.tree.map(_array, model)


def _array(leaf: Any) -> Any:
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    return jnp.asarray(np.random.default_rng([7, *leaf.shape]).normal(size=leaf.shape).astype(leaf.dtype))


def conv(cls: Any, *args: Any, **kwargs: Any) -> Callable[[], Any]:
    return lambda: cls(*args, padding="SAME", padding_mode="CIRCULAR", key=KEY, **kwargs)


# Prime sizes, so that no two axes can be confused.
WEIGHTED = (
    Case("linear", lambda: nn.Linear(7, 5, key=KEY), (7,)),
    Case("linear-nobias", lambda: nn.Linear(7, 5, use_bias=False, key=KEY), (7,)),
    Case("linear-scalar-in", lambda: nn.Linear("scalar", 5, key=KEY), ()),
    Case("linear-scalar-out", lambda: nn.Linear(7, "scalar", key=KEY), (7,)),
    Case("conv1d", conv(nn.Conv1d, 3, 5, 3), (3, 12)),
    Case("conv1d-even", conv(nn.Conv1d, 3, 5, 4), (3, 12)),
    Case("conv2d", conv(nn.Conv2d, 3, 5, (3, 2)), (3, 6, 6)),
    Case("conv2d-groups", conv(nn.Conv2d, 6, 15, 3, groups=3), (6, 6, 6)),
    Case("conv2d-depthwise", conv(nn.Conv2d, 5, 10, 3, groups=5), (5, 6, 6)),
    Case("conv2d-stride", conv(nn.Conv2d, 3, 5, 3, stride=2), (3, 8, 8)),
    Case("conv2d-dilation", conv(nn.Conv2d, 3, 5, 3, dilation=2), (3, 8, 8)),
    Case("conv3d", conv(nn.Conv3d, 2, 3, 3), (2, 4, 4, 4)),
    Case("conv-general", lambda: nn.Conv(1, 3, 5, 3, padding="SAME", padding_mode="CIRCULAR", key=KEY), (3, 12)),
    Case("transpose1d", conv(nn.ConvTranspose1d, 3, 5, 3), (3, 12)),
    Case("transpose2d-stride", conv(nn.ConvTranspose2d, 3, 5, 4, stride=2), (3, 6, 6)),
    Case("transpose2d-groups", conv(nn.ConvTranspose2d, 6, 15, 3, groups=3), (6, 6, 6)),
    Case("transpose2d-dilation", conv(nn.ConvTranspose2d, 3, 5, 3, dilation=2), (3, 8, 8)),
    Case("transpose3d", conv(nn.ConvTranspose3d, 2, 3, 2, stride=2), (2, 3, 3, 3)),
)
CELLS = (
    Case("gru", lambda: nn.GRUCell(3, 5, key=KEY)),
    Case("gru-nobias", lambda: nn.GRUCell(3, 5, use_bias=False, key=KEY)),
    Case("lstm", lambda: nn.LSTMCell(3, 5, key=KEY)),
)
NORMS = (
    Case("layernorm", lambda: nn.LayerNorm(5)),
    Case("layernorm-2d", lambda: nn.LayerNorm((3, 5))),
    Case("rmsnorm", lambda: nn.RMSNorm(5)),
    Case("groupnorm", lambda: nn.GroupNorm(2, 6)),
    Case("batchnorm", lambda: nn.BatchNorm(5, "batch", mode="batch")),
    Case("prelu", lambda: nn.PReLU()),
    Case("prelu-channels", lambda: nn.PReLU(jnp.full(5, 0.1))),
)
NESTED = (
    Case("embedding", lambda: nn.Embedding(11, 5, key=KEY)),
    Case("attention", lambda: nn.MultiheadAttention(2, 6, use_query_bias=True, key=KEY)),
    Case("mlp", lambda: nn.MLP(3, 2, 5, depth=2, key=KEY)),
    Case("mlp-scan", lambda: nn.MLP(3, 2, 5, depth=3, scan=True, key=KEY)),
    Case("mlp-scan-empty", lambda: nn.MLP(3, 2, 5, depth=1, scan=True, key=KEY)),
    Case("mlp-prelu", lambda: nn.MLP(3, 2, 5, depth=2, activation=nn.PReLU(), key=KEY)),
    Case("sequential", lambda: nn.Sequential([nn.Linear(3, 5, key=KEY), nn.Lambda(jax.nn.relu), nn.LayerNorm(5)])),
    Case("stacked", lambda: eqx.filter_vmap(lambda key: nn.Linear(7, 5, key=key))(jax.random.split(KEY, 3))),
    Case(
        "stacked-conv",
        lambda: eqx.filter_vmap(lambda key: nn.Conv2d(4, 6, 3, groups=2, key=key))(jax.random.split(KEY, 3)),
    ),
    Case("weightnorm", lambda: nn.WeightNorm(nn.Linear(7, 5, key=KEY))),
    Case("weightnorm-conv", lambda: nn.WeightNorm(nn.Conv2d(4, 6, 3, key=KEY))),
    Case("spectralnorm", lambda: nn.SpectralNorm(nn.Linear(7, 5, key=KEY), "weight", key=KEY)),
    Case("shared", lambda: tied()),
)
EVERY = WEIGHTED + CELLS + NORMS + NESTED


def tied():
    """An embedding whose table is also the weight of the output layer."""
    pair = (nn.Embedding(11, 5, key=KEY), nn.Linear(5, 11, key=KEY))
    return nn.Shared(pair, lambda pair: pair[1].weight, lambda pair: pair[0].weight)


def cases(*groups: Iterable[Any]) -> list[Any]:
    """Return pytest parameters with readable ids."""
    import pytest

    return [pytest.param(case, id=case.name) for group in groups for case in group]


SMALL_SCHEMES = (
    "default",
    "torch_default",
    "flax_default",
    "he_normal",
    "glorot_uniform",
    ("variance_scaling", {"mode": "fan_out", "distribution": "normal"}),
    "zeros",
    ("normal", {"stddev": 0.02}),
    ("biased_normal", {"stddev": 0.1}),
    "orthogonal",
    "identity",
    "zero_init",
    ("sparse", {"sparsity": 0.5}),
    ("hoedt", {"bias": "elsewhere"}),
    ("scaled", {"scheme": "glorot_normal", "factor": 0.5}),
    ("centered", {"scheme": "he_normal"}),
)
"""Schemes that serve every weighted layer, but for `centered`; one of each way to draw."""


def refused(scheme: Any, parameters: Iterable[Any]) -> bool:
    """Whether a scheme refuses one of these parameters: what is centered needs inputs to take a mean over."""
    return scheme_id(scheme) == "centered" and any(
        each.fan_in < 8 or each.constraint is not None or (each.axes.receptive_axis and each.axes.split[-3] == 1)
        for each in parameters
        if each.role in ("weight", "recurrent") and each.excluded is None
    )


def scheme_id(scheme: Any) -> str:
    """Return a scheme's name."""
    return scheme if isinstance(scheme, str) else scheme[0]


def arrays(tree: Any) -> list[jax.Array]:
    """Return the array leaves of a tree."""
    return [leaf for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)]


def compilations(function: Callable[[], Any]) -> int:
    """Return how many programs XLA compiles while a function runs."""
    seen = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        function()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return len(seen)
