"""Bits of draws are the same beside other layers, under transforms and on other devices, and those of JAX."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import initax as ix
from initax._drawing import _rows
from tests.flax_tables import named
from tests.tables import KEY, SMALL_SCHEMES, arrays, filled, scheme_id
from tests.test_laws import LAYERS, chain

NOT_TO_THE_BIT = ("orthogonal", "flax_default", "centered")
"""Schemes with a matrix product or a mean, which is fused differently in another program."""

# Stable keys


def test_a_draw_does_not_depend_on_other_layers_or_rules(key):
    small = ix.reinit({"a": chain(8, 1)}, {"Linear": "he_normal"}, key)
    large = ix.reinit(
        {"0": chain(5, 2), "a": chain(8, 3), "z": eqx.nn.Conv2d(3, 4, 3, key=KEY)},
        {"Conv": "orthogonal", "Linear": "he_normal", "a.2": "zeros"},
        key,
    )
    assert np.array_equal(small["a"][0].weight, large["a"][0].weight)


@pytest.mark.parametrize(
    ("scheme", "implementation"),
    [
        *((each, "threefry2x32") for each in ("he_normal", "glorot_uniform", "normal", "hoedt", "orthogonal", "zeros")),
        ("he_normal", "rbg"),
    ],
)
@pytest.mark.slow(one_in=3)
def test_a_bucket_of_many_equal_layers_equals_the_single_draws(scheme, implementation):
    """As many as are drawn in short rows; the last program that copies them is not full."""
    key = jax.random.key(3, impl=implementation)
    model = [{"w": jnp.ones((6, 5)), "b": jnp.ones(5)} for _ in range(_rows.MIN_SHORT + 11)]
    many = ix.reinit(model, {"*": scheme}, key)
    for place in (0, _rows.MAX_OUTPUTS - 1, _rows.MAX_OUTPUTS, len(model) - 1):
        single = ix.reinit({str(place): model[place]}, {"*": scheme}, key)[str(place)]
        for name in ("w", "b"):
            assert np.array_equal(many[place][name], single[name])


EACH = {scheme_id(scheme): scheme for scheme in SMALL_SCHEMES}
"""One model has a part for every scheme, so that what is compiled for one is there for all that draw alike."""


def assert_equal_draws(one, other):
    for name in EACH:
        for ours, theirs in zip(arrays(one[name]), arrays(other[name]), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 if name in NOT_TO_THE_BIT else 0, err_msg=name)


def test_jit_does_not_change_a_draw(key):
    conv = eqx.filter_eval_shape(lambda: eqx.nn.Conv2d(4, 6, 3, groups=2, key=KEY))
    model = {name: {"a": chain(8, 2), "conv": filled(conv)} for name in EACH}
    rules = {f"{name}.**": scheme for name, scheme in EACH.items()}
    assert_equal_draws(ix.reinit(model, rules, key), eqx.filter_jit(ix.reinit)(model, rules, key))


@pytest.mark.parametrize("name", ["nnx-linear", "nnx-attention", "linen-attention"])
def test_the_jit_of_flax_changes_no_draw(name, key):
    built = LAYERS[name].filled()
    eager = named(ix.reinit(built.model, {"*": "he_normal"}, key, **built.options))
    jit = nnx.jit if isinstance(built.model, nnx.Module) else jax.jit
    new = jit(lambda model, key: ix.reinit(model, {"*": "he_normal"}, key, **built.options))(built.model, key)
    compared = 0
    for path, leaf in named(new).items():
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            assert np.array_equal(leaf, eager[path])
            compared += 1
    assert compared >= 2


def test_sharding_is_kept_and_changes_no_value(key):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
    home = NamedSharding(mesh, PartitionSpec("model", "data"))
    model = {name: eqx.filter_eval_shape(eqx.nn.Linear, 16, 8, key=KEY) for name in EACH}
    model = filled(model)
    rules = dict(EACH)
    spread = eqx.tree_at(
        lambda each: [each[name].weight for name in EACH], model, replace_fn=lambda leaf: jax.device_put(leaf, home)
    )
    new = ix.reinit(spread, rules, key)
    for name in EACH:
        assert new[name].weight.sharding == home
        assert len(new[name].weight.addressable_shards) == 8
        assert new[name].bias.sharding == model[name].bias.sharding
    assert_equal_draws(new, ix.reinit(model, rules, key))


def test_what_goes_with_a_sharded_weight_keeps_its_own_sharding(key):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
    model = eqx.nn.WeightNorm(eqx.nn.Linear(16, 8, key=KEY))
    plain = ix.reinit(model, {"*": "he_normal"}, key)
    homes = (NamedSharding(mesh, PartitionSpec("model", "data")), NamedSharding(mesh, PartitionSpec("model")))
    spread = eqx.tree_at(
        lambda each: (each.layer.weight, each.g),
        model,
        (jax.device_put(model.layer.weight, homes[0]), jax.device_put(model.g, homes[1])),
    )
    new = ix.reinit(spread, {"*": "he_normal"}, key)
    assert (new.layer.weight.sharding, new.g.sharding) == homes
    assert np.array_equal(new.layer.weight, plain.layer.weight)
    np.testing.assert_allclose(new.g, plain.g, rtol=1e-6)


def test_a_parameter_on_another_device_stays_there(key):
    model = jax.device_put({"w": jnp.ones((4, 3)), "b": jnp.ones(3)}, jax.devices()[5])
    new = ix.reinit(model, {"*": "he_normal"}, key)
    assert new["w"].devices() == {jax.devices()[5]} == new["b"].devices()
    plain = ix.reinit({"w": (4, 3), "b": (3,)}, {"*": "he_normal"}, key)
    assert np.array_equal(new["w"], plain["w"])


# Parity

INITIALIZERS = jax.nn.initializers
FAMILY: dict[str, tuple[str, dict[str, Any], Any]] = {
    name: (name, {}, getattr(INITIALIZERS, name))
    for name in (
        "he_normal", "he_uniform", "kaiming_normal", "kaiming_uniform", "glorot_normal", "glorot_uniform",
        "xavier_normal", "xavier_uniform", "lecun_normal", "lecun_uniform",
    )
}  # fmt: skip
MODES = ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")
for mode in MODES:
    for distribution in ("truncated_normal", "normal", "uniform"):

        def build(in_axis, out_axis, batch_axis, mode=mode, distribution=distribution):
            return INITIALIZERS.variance_scaling(
                1.3, mode, distribution, in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis
            )

        arguments = {"scale": 1.3, "mode": mode, "distribution": distribution}
        FAMILY[f"{mode}-{distribution}"] = ("variance_scaling", arguments, build)

PLAIN = {
    "zeros": ("zeros", {}, INITIALIZERS.zeros),
    "ones": ("ones", {}, INITIALIZERS.ones),
    "constant": ("constant", {"value": 0.3}, INITIALIZERS.constant(0.3)),
    "uniform": ("uniform", {"scale": 0.07}, INITIALIZERS.uniform(0.07)),
    "normal": ("normal", {"stddev": 0.037}, INITIALIZERS.normal(0.037)),
    "truncated": ("truncated_normal", {"stddev": 0.37}, INITIALIZERS.truncated_normal(0.37)),
    "truncated-bounds": (
        "truncated_normal",
        {"stddev": 0.37, "lower": -1, "upper": 3},
        INITIALIZERS.truncated_normal(0.37, lower=-1, upper=3),
    ),
}  # fmt: skip

PARITY_LAYERS = {
    "linear": lambda dtype: eqx.nn.Linear(23, 17, dtype=dtype, key=KEY),
    "conv2d-groups": lambda dtype: eqx.nn.Conv2d(6, 15, (3, 2), groups=3, dtype=dtype, key=KEY),
    "lstm": lambda dtype: eqx.nn.LSTMCell(5, 7, dtype=dtype, key=KEY),
    "stack": lambda dtype: eqx.filter_vmap(lambda key: eqx.nn.Linear(5, 7, dtype=dtype, key=key))(
        jax.random.split(KEY, 3)
    ),
    "embedding": lambda dtype: eqx.nn.Embedding(11, 5, dtype=dtype, key=KEY),
}


def check_parity(layer, name, arguments, reference, dtype, key):
    model = eqx.filter_eval_shape(PARITY_LAYERS[layer], dtype)
    plan = ix.plan(model, {"*": (name, arguments)})
    new = plan.arrays(key)
    for each in plan.draws:
        parameter = each.parameter
        if parameter.role == "bias":
            assert not np.any(new[parameter.path])
            continue
        axes = parameter.axes
        own_key = ix.parameter_key(key, parameter.path)
        expected = reference(axes)(own_key, axes.split, dtype).reshape(parameter.shape)
        assert new[parameter.path].dtype == dtype
        if axes.split == parameter.shape:
            assert np.array_equal(new[parameter.path], expected), parameter.path
        else:
            # From 0.12 on JAX's own eager normal differs by an ulp or two between a shape and the same shape split.
            np.testing.assert_array_max_ulp(new[parameter.path], expected, maxulp=2 * SPLIT_ULP)


SPLIT_ULP = int(jax.__version_info__ >= (0, 12))


# Every name where inputs, outputs, groups and window differ; every other layer with each kernel that draws.
KERNELS = ("he_normal", "fan_avg-normal", "glorot_uniform")
ROWS = [("conv2d-groups", row) for row in FAMILY] + [
    (layer, row) for layer in PARITY_LAYERS if layer != "conv2d-groups" for row in KERNELS
]


@pytest.mark.parametrize(("layer", "row"), ROWS)
@pytest.mark.slow(one_in=3)
def test_variance_scaling_has_the_bits_of_jax_with_the_right_axes(layer, row, key):
    name, arguments, build = FAMILY[row]
    check_parity(
        layer,
        name,
        arguments,
        lambda axes: build(in_axis=axes.in_axis, out_axis=axes.out_axis, batch_axis=axes.batch_axis),
        jnp.float32,
        key,
    )


@pytest.mark.parametrize("row", [*KERNELS, *PLAIN])
@pytest.mark.slow(one_in=4)
def test_float64_has_the_bits_of_jax(row, key, x64):
    name, arguments, build = (FAMILY | PLAIN)[row]
    check_parity(
        "conv2d-groups",
        name,
        arguments,
        (lambda axes: build)
        if row in PLAIN
        else lambda axes: build(in_axis=axes.in_axis, out_axis=axes.out_axis, batch_axis=axes.batch_axis),
        jnp.float64,
        key,
    )


@pytest.mark.parametrize("layer", ["conv2d-groups", "stack"])
@pytest.mark.parametrize("row", PLAIN)
@pytest.mark.slow(one_in=3)
def test_plain_distributions_have_the_bits_of_jax(row, layer, key):
    name, arguments, initializer = PLAIN[row]
    check_parity(layer, name, arguments, lambda axes: initializer, jnp.float32, key)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn])
@pytest.mark.parametrize("row", ["he_normal", "glorot_uniform", "fan_in-normal"])
@pytest.mark.slow(one_in=3)
def test_half_precision_is_the_float32_draw_cast_once(row, dtype, key):
    name, arguments, build = FAMILY[row]
    drawn = ix.draw((name, arguments), key, (40, 30), dtype)
    assert drawn.dtype == dtype
    assert np.array_equal(
        drawn, build(in_axis=-2, out_axis=-1, batch_axis=())(key, (40, 30), jnp.float32).astype(dtype)
    )


# Transforms


def test_vmap_over_keys_makes_an_ensemble(key):
    model = filled(eqx.filter_eval_shape(lambda: eqx.nn.MLP(3, 2, 5, depth=2, key=KEY)))
    keys = jax.random.split(key, 4)
    ensemble = eqx.filter_vmap(lambda each: ix.reinit(model, {"Linear": "he_normal"}, each))(keys)
    together = [np.asarray(leaf) for leaf in arrays(ensemble)]
    for place in range(4):
        single = ix.reinit(model, {"Linear": "he_normal"}, keys[place])
        for one, other in zip(arrays(single), together, strict=True):
            assert np.array_equal(one, other[place])


def test_shard_map_draws_the_same_on_every_device(key):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    model = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    everywhere = jax.shard_map(
        lambda each: jax.tree.map(lambda leaf: leaf[None], ix.reinit(model, {"*": "he_normal"}, each)),
        mesh=mesh,
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec("data"),
        check_vma=False,
    )(key)
    expected = ix.reinit(model, {"*": "he_normal"}, key)
    for shard in everywhere["w"]:
        assert np.array_equal(shard, expected["w"])
