"""An ablation that takes a few seconds, for a test that kills it: `python ablation_script.py FILE vmap|python`."""

import sys
import time

import equinox as eqx
import jax

import initax as ix

SEEDS = 6
SCHEMES = {name: {"Linear": name} for name in ("lecun_normal", "he_normal", "orthogonal", "glorot_uniform")}
SECONDS = 0.04


def main(path: str, how: str) -> ix.Ablation:
    """Return the ablation; each run takes a while."""
    model = eqx.nn.MLP(3, 2, 4, depth=1, key=jax.random.key(0))

    def run(model, key):
        if how == "python":
            time.sleep(SECONDS)
        else:
            jax.debug.callback(lambda: time.sleep(SECONDS))
        return {"norm": (model.layers[0].weight ** 2).sum(), "curve": model.layers[1].weight.ravel()}

    keys = jax.random.split(jax.random.key(1), SEEDS)
    return ix.ablate(model, SCHEMES, keys, run, path=path, how=how)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
