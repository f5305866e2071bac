"""Each framework works where no other is installed: these tests run with whatever there is, and need nothing else."""

import importlib.util
import subprocess
import sys

import pytest

MODELS = {
    "equinox": """
import equinox as eqx
model = eqx.nn.MLP(3, 2, 5, depth=1, key=jax.random.key(0))
new = ix.reinit(model, {"Linear": "he_normal", "layers.1": "zeros"}, jax.random.key(1))
assert float(abs(new.layers[1].weight).sum()) == 0 and new.layers[0].weight is not model.layers[0].weight
""",
    "nnx": """
from flax import nnx
model = nnx.Sequential(nnx.Linear(3, 5, rngs=nnx.Rngs(0)), nnx.Linear(5, 2, rngs=nnx.Rngs(1)))
new = ix.reinit(model, {"Linear": "he_normal", "layers.1": "zeros"}, nnx.Rngs(1))
assert float(abs(new.layers[1].kernel[...]).sum()) == 0
""",
    "linen": """
from flax import linen as nn
module, x = nn.Sequential([nn.Dense(5), nn.Dense(2)]), jnp.ones((4, 3))
variables = module.init(jax.random.key(0), x)
new = ix.reinit(
    variables, {"Linear": "he_normal", "layers_1": "zeros"}, jax.random.key(1), module=module, inputs=x
)
assert float(abs(new["params"]["layers_1"]["kernel"]).sum()) == 0
""",
    "pytree": """
new = ix.reinit({"w": jnp.ones((3, 2)), "b": jnp.ones(2)}, {"*": "he_normal"}, jax.random.key(1))
assert float(abs(new["b"]).sum()) == 0
try:  # the name of a scheme where a role stands is known before its module is loaded
    ix.plan({"w": jnp.ones((3, 2))}, {"*": {"orthogonal": {"gain": 0.5}}})
    raise AssertionError
except ix.SchemeError as error:
    assert '"orthogonal" is a scheme' in str(error)
""",
}
NEEDS = {"equinox": "equinox", "nnx": "flax", "linen": "flax", "pytree": "jax"}
FOREIGN = {
    "equinox": ("flax",),
    "nnx": ("equinox", "initax._adapters._linen", "initax._adapters._equinox"),
    "linen": ("equinox", "initax._adapters._nnx", "initax._adapters._equinox"),
    "pytree": ("equinox", "flax", "initax._adapters._linen", "initax._adapters._nnx", "initax._adapters._equinox"),
}
LATER = (
    "initax._ablation", "initax._planning._rule_file", "initax._trace._walk", "initax._verbs._lsuv", "initax.convex",
    "initax.schemes._structured",
)  # fmt: skip
"""What is loaded when it is first asked for."""
HERE = [name for name in MODELS if importlib.util.find_spec(NEEDS[name]) is not None]


@pytest.mark.parametrize("name", HERE)
@pytest.mark.slow(one_in=4)
def test_a_model_is_re_initialized_and_loads_nothing_of_another_framework(name):
    code = f"""
import sys
import jax
import jax.numpy as jnp
import initax as ix
assert not {{"flax", "equinox", "optax", "matplotlib", "rich"}} & set(sys.modules)
assert not [each for each in {LATER!r} if each in sys.modules]
{MODELS[name]}
assert not [each for each in {FOREIGN[name]!r} if each in sys.modules]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)
