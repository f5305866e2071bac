"""Other initial weights for a Flax Linen model: the module tells what its variables can't."""

import jax
import jax.numpy as jnp
from flax import linen as nn

import initax as ix


class Classifier(nn.Module):
    """A small convolutional network with grouped convolutions and batch norm."""

    @nn.compact
    def __call__(self, x, train: bool):
        for features in (32, 64):
            x = nn.Conv(features, (3, 3), feature_group_count=4, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(10, name="head")(x.mean(axis=(1, 2)))


module, x = Classifier(), jnp.ones((8, 16, 16, 4))
variables = module.init(jax.random.key(0), x, train=True)

rules = {"Conv": ("variance_scaling", {"scale": 2.0, "mode": "fan_out"}), "head": "zeros"}
plan = ix.plan(variables, rules, module=module, inputs=(x, False))
print(plan)
variables = plan.draw(jax.random.key(1))
print("every class is equally likely:", bool((module.apply(variables, x, train=False) == 0).all()))
