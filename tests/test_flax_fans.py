"""Fans of Flax layers against the forward pass, and where Flax's own default disagrees with its own forward pass."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import initax as ix
from tests.flax_tables import FLAX_WEIGHTED, of_linen, of_nnx
from tests.tables import cases

KEY = jax.random.key(3)


def first_weight(built):
    layers = ix.layers(built.model, **built.options)
    return next(each for layer in layers for each in layer.parameters if each.role == "weight")


@pytest.mark.parametrize("case", cases(FLAX_WEIGHTED))
@pytest.mark.slow(one_in=3)
def test_effective_fans_are_the_row_and_column_sums_of_the_forward_jacobian(case):
    """With every weight one and every bias zero, the Jacobian counts."""
    built = case.make() if "mask" in case.name else case.filled()  # the numbers of a mask count
    weight = first_weight(built)
    rules: dict[str, Any] = {"*": ix.Scheme("ones", bias="zeros")}
    if case.name == "nnx-lora-linear":
        rules["LoRA"] = {"weight": "zeros"}
    ones = ix.reinit(built.model, rules, KEY, **built.options)
    jacobian = jax.jit(jax.jacobian(lambda x: built.call(ones, x)))(np.zeros(case.input, np.float32))
    outputs = int(np.prod(jacobian.shape[: jacobian.ndim - len(case.input)]))
    matrix = np.asarray(jacobian).reshape(outputs, -1)
    assert matrix.sum(axis=1).mean() == pytest.approx(weight.effective_fan_in)
    assert matrix.sum(axis=0).mean() == pytest.approx(weight.effective_fan_out)


def equations(jaxpr):
    """Every contraction and convolution of a jaxpr, with those inside its inner ones."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from equations(value.jaxpr)


def window_of(equation):
    """How many places a convolution looks at; a contraction looks at one."""
    if equation.primitive.name == "dot_general":
        return 1
    spatial = equation.params["dimension_numbers"].rhs_spec[2:]
    return np.prod([equation.invars[1].aval.shape[axis] for axis in spatial])


@pytest.mark.parametrize("case", cases(FLAX_WEIGHTED))
def test_nominal_fans_are_those_of_the_traced_equation(case):
    """The one contraction of the layer, taken by shapes: what is summed over, what comes out, what is batch."""
    built = case.filled()
    weight = first_weight(built)
    inputs = jax.ShapeDtypeStruct(case.input, jnp.float32)
    found = list(equations(jax.make_jaxpr(lambda x: built.call(built.model, x))(inputs).jaxpr))
    # A local convolution takes its patches with a convolution first, whose window its outputs are counted for, too.
    equation = found[-1] if case.name.startswith("linen-local") else found[0]
    shapes = [each.aval.shape for each in equation.invars]
    if equation.primitive.name == "dot_general":
        contracted, batched = equation.params["dimension_numbers"]
        side = next(side for side, shape in enumerate(shapes) if int(np.prod(shape)) == int(np.prod(weight.shape)))
        fan_in = np.prod([shapes[side][axis] for axis in contracted[side]])
        batch = np.prod([shapes[side][axis] for axis in batched[side]])
        fan_out = np.prod(shapes[side]) / fan_in / batch * window_of(found[0])
    else:
        out_axis, in_axis, *_ = equation.params["dimension_numbers"].rhs_spec
        kernel = window_of(equation)
        groups = equation.params["feature_group_count"]
        fan_in = shapes[1][in_axis] * kernel
        fan_out = shapes[1][out_axis] / groups * kernel
    assert (weight.fan_in, weight.fan_out) == (fan_in, fan_out)


CELLS = (
    ("nnx", of_nnx(nnx.OptimizedLSTMCell, 3, 5), 4),
    ("nnx", of_nnx(nnx.GRUCell, 3, 5), 3),
    ("linen", of_linen(nn.RNN(nn.ConvLSTMCell(5, (3,))), (1, 2, 4, 3)), 4),
)


@pytest.mark.parametrize(("framework", "make", "gates"), CELLS, ids=["lstm", "gru", "conv-lstm"])
def test_packed_gates_are_batch_entries_in_the_order_the_cell_splits_them(framework, make, gates):
    built = make()
    (cell,) = [each for each in ix.layers(built.model, **built.options) if each.kind == "RNNCell"]
    for parameter in cell.parameters:
        assert parameter.axes.batch_size == gates == len(parameter.gates)
        if parameter.role != "bias":
            assert parameter.fan_out % 5 == 0


WRONG = (
    (
        "transpose",
        of_nnx(nnx.ConvTranspose, 64, 8, (3, 3), transpose_kernel=True),
        of_linen(nn.ConvTranspose(8, (3, 3), transpose_kernel=True), (4, 4, 64)),
        8.0,
    ),
    (
        "batch",
        of_nnx(nnx.LinearGeneral, 64, 32, axis=-1, batch_axis={0: 8}),
        of_linen(nn.DenseGeneral(32, batch_dims=(0,)), (8, 64)),
        1 / 8,
    ),
    (
        "einsum",
        of_nnx(nnx.Einsum, "ld,hdk->lhk", (8, 64, 16), None),
        of_linen(nn.Einsum((8, 64, 16), "ld,hdk->lhk", use_bias=False), (2, 64)),
        1 / 8,
    ),
)


@pytest.mark.parametrize("framework", [0, 1], ids=["nnx", "linen"])
@pytest.mark.parametrize(("name", "in_nnx", "in_linen", "ratio"), WRONG, ids=[row[0] for row in WRONG])
@pytest.mark.slow(one_in=3)
def test_defaults_of_flax_are_kept_to_the_letter_and_their_variance_is_wrong_by_this_much(
    framework, name, in_nnx, in_linen, ratio
):
    """`"default"` is what Flax gives; the ratio to the variance that its own forward pass asks for is in the docs."""
    built = (in_nnx, in_linen)[framework]()
    weight = first_weight(built)
    drawn = ix.reinit(built.model, {"*": "default"}, KEY, **built.options)
    own = next(leaf for leaf in jax.tree.leaves(built.model) if leaf.shape == weight.shape)
    ours = next(leaf for leaf in jax.tree.leaves(drawn) if leaf.shape == weight.shape)
    wanted = 1 / weight.fan_in
    entries = own.size
    bound = 4.9 * np.sqrt((2.3655 - 1) / entries)  # truncated at two: kurtosis 2.3655
    assert abs(float(jnp.var(own)) / wanted / ratio - 1) < bound
    assert abs(float(jnp.var(ours)) / wanted / ratio - 1) < bound
    right = ix.reinit(built.model, {"*": "lecun_normal"}, KEY, **built.options)
    ours = next(leaf for leaf in jax.tree.leaves(right) if leaf.shape == weight.shape)
    assert abs(float(jnp.var(ours)) / wanted - 1) < bound


def test_an_optimized_lstm_of_flax_is_not_orthogonal_by_gate_and_ours_is():
    cell = nnx.OptimizedLSTMCell(8, 8, rngs=nnx.Rngs(0))

    def gates(model):
        return model.dense_h.kernel[...].reshape(8, 4, 8)

    def off(gate):
        return float(jnp.abs(gate.T @ gate - jnp.eye(8)).max())

    assert all(off(gates(cell)[:, each]) > 0.3 for each in range(4))
    ours = ix.reinit(cell, {"*": "orthogonal"}, KEY)
    assert all(off(gates(ours)[:, each]) < 1e-5 for each in range(4))


@pytest.mark.parametrize(("cls", "gates"), [(nnx.OptimizedLSTMCell, 4), (nnx.GRUCell, 3)])
def test_packed_recurrent_defaults_are_orthonormal_as_a_whole_and_too_small_by_the_gates(cls, gates):
    cell = cls(8, 8, rngs=nnx.Rngs(0))
    default = ix.reinit(cell, {"*": "default"}, KEY).dense_h.kernel[...]
    ours = ix.reinit(cell, {"*": "orthogonal"}, KEY).dense_h.kernel[...]
    for kernel in (default, cell.dense_h.kernel[...]):
        np.testing.assert_allclose(kernel @ kernel.T, np.eye(8), atol=1e-5)
        assert float(jnp.sum(kernel**2) / jnp.sum(ours**2)) == pytest.approx(1 / gates)
