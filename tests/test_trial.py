"""The registry on trial: for every layer, what the forward pass says of its axes is what its class declares."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from initax._adapters import survey
from initax._model import _declared
from initax._model._parameter import WEIGHT_ROLES
from initax._model._reason import Why
from initax._trace._forward import trace
from initax._trace._infer import compare, read_parameter
from initax._trace._walk import readings_of
from tests.tables import CELLS, EVERY, NESTED, NORMS, WEIGHTED, cases


def S(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def call(model, *inputs):
    return model(*inputs)


def members(model, *inputs):
    """Call an ensemble, each member on its own input."""
    return eqx.filter_vmap(lambda member, *own: member(*own))(model, *inputs)


def with_state(model, x):
    """Call a layer that keeps state, on a batch."""
    layer, state = model
    return jax.vmap(layer, in_axes=(0, None), out_axes=(0, None), axis_name="batch")(x, state)[0]


Trial = tuple[Callable[..., Any], tuple[Any, ...]]
TRIALS: dict[str, Trial] = {
    **{case.name: (call, (S(*case.input),)) for case in WEIGHTED},
    "gru": (call, (S(3), S(5))),
    "gru-nobias": (call, (S(3), S(5))),
    "lstm": (call, (S(3), (S(5), S(5)))),
    "layernorm": (call, (S(5),)),
    "layernorm-2d": (call, (S(3, 5),)),
    "rmsnorm": (call, (S(5),)),
    "groupnorm": (call, (S(6, 4),)),
    "batchnorm": (with_state, (S(4, 5),)),
    "prelu": (call, (S(5),)),
    "prelu-channels": (call, (S(5),)),
    "embedding": (call, (S(dtype=jnp.int32),)),
    "attention": (lambda model, x: model(x, x, x), (S(7, 6),)),
    "mlp": (call, (S(3),)),
    "mlp-scan": (call, (S(3),)),
    "mlp-scan-empty": (call, (S(3),)),
    "mlp-prelu": (call, (S(3),)),
    "sequential": (call, (S(3),)),
    "stacked": (members, (S(3, 7),)),
    "stacked-conv": (members, (S(3, 4, 6, 6),)),
    "weightnorm": (call, (S(7),)),
    "weightnorm-conv": (call, (S(4, 6, 6),)),
    "spectralnorm": (lambda model, x: model[0](x, model[1])[0], (S(7),)),
    "shared": (lambda model, token: model()[1](model()[0](token)), (S(dtype=jnp.int32),)),
}
"""How each layer is called. A layer without a line here has not been tried, and fails."""


def case_is_matrix_scale(parameter: Any) -> bool:
    """Whether it is a scale of several axes, which no trace tells from a weight."""
    return parameter.role == "scale" and sum(size > 1 for size in parameter.shape) > 1


def put_on_trial(model: Any, forward: Callable[..., Any], inputs: tuple[Any, ...], options: Any = None) -> None:
    """Hold every declared array of a model against the trace of its forward pass."""
    found = survey(model, **(options or {}))
    traced = trace(found, inputs, found.call or forward)
    readings = readings_of(traced.closed, traced.paths, traced.constants)
    tried = 0
    for layer in found.layers:
        for parameter in layer.parameters:
            if parameter.role == "state" or (parameter.excluded and parameter.excluded.why is not Why.FOLLOWS):
                continue
            reading = readings[parameter.path]
            if case_is_matrix_scale(parameter):
                continue
            assert reading.pattern is not None, (parameter.path, reading.reason)
            verdict = compare(parameter, reading)
            declared = parameter.axes and parameter.axes.pattern  # what follows another array may have none
            text = f"{parameter.path}: declared {declared!r}, the forward pass says {reading.pattern!r}"
            assert verdict == "agree", f"{text} ({verdict})"
            if parameter.role in WEIGHT_ROLES:
                held_fans = fans_of(parameter, reading)
                assert held_fans == (
                    parameter.fan_in,
                    parameter.fan_out,
                    parameter.effective_fan_in,
                    parameter.effective_fan_out,
                    parameter.axes.batch_size,
                )
            tried += 1
    assert tried


def fans_of(parameter, reading):
    read = read_parameter(parameter, reading)
    return read.fan_in, read.fan_out, read.effective_fan_in, read.effective_fan_out, read.axes.batch_size


@pytest.mark.parametrize("case", cases(EVERY))
def test_the_forward_pass_agrees_with_the_registry(case):
    forward, inputs = TRIALS[case.name]
    stateful = case.name in ("batchnorm", "spectralnorm")
    model = eqx.nn.make_with_state(case.make)() if stateful else case.filled().model
    put_on_trial(model, forward, inputs)


def test_every_layer_of_the_tables_is_tried():
    assert set(TRIALS) == {case.name for case in WEIGHTED + CELLS + NORMS + NESTED}


@pytest.mark.parametrize("name", ["linear", "conv2d-groups", "transpose2d-stride", "lstm"])
def test_a_wrong_row_would_be_found(name, monkeypatch):
    """The trial can fail: with inputs and outputs exchanged in one row it does."""
    case = next(each for each in EVERY if each.name == name)
    cls = type(case.make()) if name in ("linear", "lstm") else type(case.make()).__mro__[1]
    declared = _declared.declaration_of(cls)
    field = "weight_ih" if name == "lstm" else "weight"
    swap = str.maketrans("io", "oi")
    pattern = declared.fields[field].pattern
    wrong = replace(
        declared.fields[field],
        pattern=pattern.translate(swap),
        sizes=lambda module: {
            key.translate(swap): size for key, size in dict(declared.fields[field].sizes_of(module)).items()
        },
    )
    monkeypatch.setitem(
        _declared._DECLARED, cls, replace(declared, fields={**declared.fields, field: wrong}, static=False)
    )
    forward, inputs = TRIALS[name]
    with pytest.raises(AssertionError):
        put_on_trial(case.make(), forward, inputs)
