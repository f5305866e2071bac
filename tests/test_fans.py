"""Fans against the forward pass: what the layer itself computes decides, not the pattern initax gives it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import initax as ix
from tests.tables import CELLS, WEIGHTED, cases


def with_ones(layer):
    """The layer with every weight one and every bias zero: its Jacobian then counts."""
    layer = eqx.tree_at(lambda each: each.weight, layer, replace_fn=np.ones_like)
    return (
        eqx.tree_at(lambda each: each.bias, layer, replace_fn=np.zeros_like, is_leaf=lambda leaf: leaf is None)
        if layer.bias is not None
        else layer
    )


@pytest.mark.parametrize("case", cases(WEIGHTED))
def test_effective_fans_are_the_row_and_column_sums_of_the_forward_jacobian(case):
    layer = case.filled().model
    weight = ix.layers(layer)[0]["weight"]
    jacobian = jax.jit(jax.jacobian(with_ones(layer)))(np.zeros(case.input, np.float32))
    outputs = int(np.prod(jacobian.shape[: jacobian.ndim - len(case.input)]))
    matrix = np.asarray(jacobian).reshape(outputs, -1)
    # Circular padding makes every position alike, so means are exact.
    assert matrix.sum(axis=1).mean() == pytest.approx(weight.effective_fan_in)
    assert matrix.sum(axis=0).mean() == pytest.approx(weight.effective_fan_out)


def consuming_equation(layer, shape):
    """The equation of the forward pass that multiplies by the weight, with the weight's side of it."""
    jaxpr = jax.make_jaxpr(lambda weight, x: eqx.tree_at(lambda each: each.weight, layer, weight)(x))
    closed = jaxpr(layer.weight, jnp.zeros(shape))

    def find(jaxpr, variable):
        for equation in jaxpr.eqns:
            if variable not in [each for each in equation.invars if not isinstance(each, jax.extend.core.Literal)]:
                continue
            if equation.primitive.name in ("dot_general", "conv_general_dilated"):
                return equation, equation.invars.index(variable)
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", None)
                if inner is not None:
                    found = find(inner, inner.invars[equation.invars.index(variable)])
                    if found:
                        return found
        return None

    return find(closed.jaxpr, closed.jaxpr.invars[0])


@pytest.mark.parametrize("case", cases(WEIGHTED))
def test_nominal_fans_are_those_of_the_traced_equation(case):
    layer = case.filled().model
    weight = ix.layers(layer)[0]["weight"]
    equation, side = consuming_equation(layer, case.input)
    shape = layer.weight.shape
    if equation.primitive.name == "dot_general":
        contracted = equation.params["dimension_numbers"][0][side]
        fan_in = np.prod([shape[axis] for axis in contracted])
        fan_out = np.prod(shape) / fan_in
    else:
        out_axis, in_axis, *spatial = equation.params["dimension_numbers"].rhs_spec
        kernel = np.prod([shape[axis] for axis in spatial])
        fan_in = shape[in_axis] * kernel
        fan_out = shape[out_axis] / equation.params["feature_group_count"] * kernel
    assert (weight.fan_in, weight.fan_out) == (fan_in, fan_out)


@pytest.mark.parametrize("case", cases(CELLS))
def test_gates_are_counted_as_the_cell_splits_them(case):
    cell = case.filled().model
    (layer,) = ix.layers(cell)
    hidden = jnp.zeros(5) if isinstance(cell, eqx.nn.GRUCell) else (jnp.zeros(5), jnp.zeros(5))
    text = str(jax.make_jaxpr(cell)(jnp.zeros(3), hidden))
    gates = max(line.count(":f32[5]") for line in text.splitlines() if "= split[" in line)
    for name, inputs in (("weight_ih", 3), ("weight_hh", 5)):
        parameter = layer[name]
        assert (parameter.fan_in, parameter.fan_out) == (inputs, getattr(cell, name).shape[0] / gates)
        assert parameter.axes.batch_size == gates == len(parameter.gates)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        pytest.param(lambda key: eqx.nn.Linear(64, 512, key=key), (64,), id="linear"),
        pytest.param(lambda key: eqx.nn.Conv2d(16, 512, 3, groups=2, key=key), (16, 3, 3), id="conv2d-groups"),
        pytest.param(lambda key: eqx.nn.ConvTranspose1d(8, 512, 4, key=key), (8, 9), id="transpose1d"),
    ],
)
def test_lecun_normal_keeps_the_variance_of_the_output(make, shape, key):
    layer = ix.reinit(make(key), {"*": "lecun_normal"}, key)
    inputs = jax.random.normal(jax.random.fold_in(key, 1), (400, *shape))
    outputs = jax.vmap(layer)(inputs)
    middle = outputs[..., outputs.shape[-1] // 2] if "Transpose" in type(layer).__name__ else outputs
    # 512 units of 400 examples; the units of one example share its norm, which varies most.
    assert float(jnp.var(middle)) == pytest.approx(1, abs=0.06)


def test_an_embedding_counts_features_and_sums_over_one_row(key):
    (layer,) = ix.layers(eqx.nn.Embedding(11, 5, key=key))
    weight = layer["weight"]
    assert (weight.role, weight.fan_in, weight.fan_out) == ("embedding", 5, 11)
    counts = jax.jacobian(lambda one_hot: one_hot @ jnp.ones((11, 5)))(jnp.zeros(11))
    assert weight.effective_fan_out == counts.sum(axis=0)[0]
    assert weight.effective_fan_in == 1


def test_a_bias_has_the_fans_of_its_weight(key):
    for layer in (eqx.nn.Linear(7, 5, key=key), eqx.nn.Conv2d(6, 15, 3, groups=3, key=key)):
        (found,) = ix.layers(layer)
        assert (found["bias"].fan_in, found["bias"].fan_out) == (found["weight"].fan_in, found["weight"].fan_out)
    (cell,) = ix.layers(eqx.nn.GRUCell(3, 5, key=key))
    assert (cell["bias"].fan_in, cell["bias_n"].fan_in) == (3, 5)


def test_effective_fans_are_used_when_asked_for(key):
    model = eqx.nn.ConvTranspose2d(4, 6, 4, stride=2, key=key)
    nominal = ix.plan(model, {"*": "he_normal"}).draws[0]
    effective = ix.plan(model, {"*": ("he_normal", {"fans": "effective"})}).draws[0]
    assert effective.std == pytest.approx(nominal.std * 2)
    assert "64 (≈16)" in str(ix.plan(model, {"*": "he_normal"}))
