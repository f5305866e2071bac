"""The registry on trial for Flax: for every layer, the forward pass says of its axes what its class declares."""

import jax
import jax.numpy as jnp
import pytest

from initax._adapters import survey
from initax._trace._forward import trace
from initax._trace._infer import compare
from initax._trace._walk import readings_of
from tests.flax_tables import FLAX_EVERY
from tests.tables import cases
from tests.test_trial import put_on_trial

pytestmark = pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated:DeprecationWarning")

BLIND = {
    "nnx-conv2d-mask": "the mask is an array of the module like the kernel it multiplies",
    "linen-conv2d-mask": "a mask's entries are numbers, and the trace sees none",
    "linen-local": "that patches overlap is not seen in their product with the kernel",
    "linen-local2d-stride": "that patches overlap is not seen in their product with the kernel",
    "nnx-spectralnorm": "its sigma is written, not read",
    "linen-batchnorm": "the scale meets the running statistics before the signal",
    "linen-layernorm-2d": "its bias has two axes and no weight before it",
    "linen-lifted": "members that all see the same input can't be told from outputs",
}
"""Layers of which the forward pass tells less than the class declares, and why."""


def called(case):
    built = case.filled()
    dtype = jnp.int32 if "embed" in case.name else jnp.float32
    shape = built.options["inputs"].shape if built.options else case.input
    return built, (jax.ShapeDtypeStruct(shape, dtype),)


@pytest.mark.parametrize("case", cases([case for case in FLAX_EVERY if case.name not in BLIND]))
def test_the_forward_pass_agrees_with_the_registry(case):
    built, inputs = called(case)
    put_on_trial(built.model, built.call, inputs, built.options)


@pytest.mark.parametrize("case", cases([case for case in FLAX_EVERY if case.name in BLIND]))
def test_where_the_forward_pass_tells_less_it_tells_nothing_else(case):
    built, inputs = called(case)
    found = survey(built.model, **built.options)
    traced = trace(found, inputs, found.call or built.call)
    readings = readings_of(traced.closed, traced.paths, traced.constants)
    for layer in found.layers:
        for parameter in layer.parameters:
            reading = readings.get(parameter.path)
            if reading is not None and not parameter.excluded:
                assert compare(parameter, reading) == "agree", (parameter.path, reading)
