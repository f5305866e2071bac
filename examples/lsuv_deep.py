"""Fifty layers under a scheme that is wrong for them, before and after one pass of LSUV."""

import equinox as eqx
import jax

import initax as ix

DEPTH, WIDTH, BATCH = 50, 64, 256


def main() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    model = eqx.nn.MLP(WIDTH, WIDTH, WIDTH, DEPTH - 1, activation=jax.nn.silu, scan=True, key=keys[0])
    plan = ix.plan(model, {"Linear": "lecun_normal"})
    print(plan, end="\n\n")
    model = plan.draw(keys[1])
    x = jax.random.normal(keys[2], (BATCH, WIDTH))

    def forward(model, x):
        return jax.vmap(model)(x)

    calibrated, report = ix.lsuv(model, x, forward=forward)
    print(report)
    for name, each in (("before", model), ("after", calibrated)):
        signals = ix.signal_propagation(each, x, forward=forward).signals
        print(
            f"{name}: std of the output of layer 1, 25 and 50:",
            *(f"{float(signals[at].std[0]):.3g}" for at in (0, 24, 49)),
        )


if __name__ == "__main__":
    main()
