"""Models whose forward pass runs programs inside it: gradients, other devices' parts, programs with rules of their own.

Rows are written as those of `tests.traced`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from tests.traced import Model, S, tokens

W, B, E, N = "weight", "bias", "embedding", "scale"


def energy(p, x):
    hidden = jnp.tanh(x @ p["w"] + p["b"]) * p["s"]
    return jnp.sum(hidden @ p["v"])


def forces(p, x):
    return -jax.grad(energy, argnums=1)(p, x)


def under_jit(p, x):
    return jax.value_and_grad(jax.jit(energy), argnums=1)(p, x)


def rematerialized(p, x):
    return jax.grad(jax.checkpoint(energy), argnums=1)(p, x)


def forward_mode(p, x):
    return jax.jvp(lambda x: energy(p, x), (x,), (x,))


def linearized(p, x):
    return jax.linearize(lambda x: energy(p, x), x)[1](x)


def pulled_back(p, x):
    out, back = jax.vjp(lambda x: jnp.tanh(x @ p["w"] + p["b"]) * p["s"] @ p["v"], x)
    return back(jnp.ones_like(out))


def mapped(p, x):
    return jax.vmap(jax.grad(energy, argnums=1), (None, 0))(p, x)


def laplacian(p, x):
    return jax.vmap(lambda x: jnp.trace(jax.hessian(lambda x: energy(p, x))(x)))(x)


def back_twice(p, x):
    return jax.vmap(jax.jacrev(jax.grad(lambda x: energy(p, x))))(x)


def relaxed(p, x):
    return lax.scan(lambda x, _: (x + 0.1 * forces(p, x), None), x, length=3)[0]


def through_time(p, x):
    def step(x, _):
        hidden = jnp.tanh(x @ p["w"] + p["b"]) * p["s"]
        return jnp.sum(hidden @ p["v"], axis=-1, keepdims=True) * jnp.ones(3), None

    return jax.grad(lambda x: lax.scan(step, x, length=3)[0].sum())(x)


def train_step(p, x):
    return jax.value_and_grad(energy)(p, x)


def hamiltonian(p, x):
    down = jax.grad(lambda x: jnp.sum(jnp.tanh(x @ p["w"]) @ p["v"]))(x)
    first, second = jnp.split(down, 2, axis=-1)
    return jnp.concatenate([second, -first], axis=-1)


def atoms(p, species, x):
    return jax.grad(lambda x: jnp.sum(jnp.tanh((x @ p["w"]) * p["table"][species]) @ p["v"]))(x)


def image_gradient(p, x):
    def score(x):
        y = lax.conv_general_dilated(x, p["k"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sum(jnp.tanh(y) @ p["v"])

    return jax.grad(score)(x)


def linear_energy(p, x):
    return x - 0.1 * jax.grad(lambda x: (x @ p["w"]).sum())(x)


def tied_in_a_gradient(p, x):
    return jax.grad(lambda x: (jnp.tanh(x @ p["w"]) @ p["w"].T).sum())(x)


def transposed_function(p, y):
    (x,) = jax.linear_transpose(lambda x: x @ p["w"], S(2, 3))(y)
    return x


@jax.custom_vjp
def other_way_back(w, v, x):
    return x @ w


other_way_back.defvjp(lambda w, v, x: (x @ w, v), lambda v, g: (None, None, g @ v))


def feedback_alignment(p, x):
    return jax.grad(lambda x: jnp.sum(other_way_back(p["w"], p["v"], x)))(x)


def as_complex(p, x):
    return x @ (p["re"] + 1j * p["im"]).T


def complex_of_two(p, x):
    return x @ lax.complex(p["re"], p["im"]).T


def complex_of_one(p, x):
    return x @ lax.complex(p["w"][0], p["w"][1])


def parts_of_complex(p, x):
    return x @ p["w"].real - x @ p["w"].imag


def complex_with_an_imaginary_change(p, x):
    return x @ (p["w"] + 1j * p["im"])


def rounded(w):
    return jnp.round(w * 8) / 8


@jax.custom_vjp
def round_straight(w):
    return jnp.round(w)


round_straight.defvjp(lambda w: (jnp.round(w), None), lambda _, g: (g,))


@jax.custom_jvp
def sign_straight(w):
    return jnp.sign(w)


sign_straight.defjvp(lambda primals, tangents: (jnp.sign(*primals), *tangents))


def to_eight_bits(w):
    step = jnp.max(jnp.abs(w), axis=0, keepdims=True) / 127
    return jnp.round(w / step).astype(jnp.int8).astype(w.dtype) * step


def straight_through(p, x):
    """Five ways that are in use."""
    x = x @ (p["a"] + lax.stop_gradient(to_eight_bits(p["a"]) - p["a"]))
    x = x @ (lax.stop_gradient(jnp.sign(p["b"])) + p["b"] - lax.stop_gradient(p["b"]))
    x = x @ (jnp.clip(round_straight(p["c"] * 8), -128, 127) / 8)
    x = x @ sign_straight(p["d"])
    return x @ (p["e"] + lax.stop_gradient(jnp.round(p["e"] / p["step"]) * p["step"] - p["e"]))


def rounded_away(p, x):
    x = x @ jnp.round(p["a"])
    x = x @ p["b"].astype(jnp.int8).astype(x.dtype)
    return jnp.where(p["c"].astype(bool), x, 0) @ jnp.clip(p["d"], -1, 1) @ jax.nn.relu(p["e"])


def states(h, w):
    z = h + jnp.tanh(h) @ w
    return z, z


def recurrence(p, x):
    decay = jnp.broadcast_to(p["a"], (8, 3))
    _, states = lax.associative_scan(lambda one, two: (one[0] * two[0], one[1] * two[0] + two[1]), (decay, x @ p["w"]))
    return states


def depthwise(p, x):
    y = lax.conv_general_dilated(
        x, p["w"], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=4
    )
    return (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-6)


def after_members(function, p, x):
    return function(jax.vmap(jnp.matmul)(x, p["w"]))


def members_and_sum(p, x):
    members = [x[k] @ p["w"][k] for k in range(4)]
    return members, sum(members)


MEMBERS = (W, 5, 3, 4)
SHARED = "outputs of its entries are added up, and used one by one (traced_programs.py:LINE)"


ENERGY = {"w": S(3, 5), "b": S(5), "s": S(5), "v": S(5, 2)}
READ = {"w": (W, 3, 5, 1), "b": (B, None, None, 1), "s": (N, None, None, 1), "v": (W, 5, 2, 1)}

PROGRAMS = (
    *(
        Model(name, forward, ENERGY, (S(2, 3),), READ)
        for name, forward in {
            "forces": forces,
            "an energy under jit and its gradient": under_jit,
            "forces, the energy computed again": rematerialized,
            "a tangent": forward_mode,
            "a linearized function": linearized,
            "a cotangent pulled back": pulled_back,
            "gradients of each example": mapped,
            "the Laplacian of an energy": laplacian,
            "a Jacobian of forces": back_twice,
            "a relaxation along forces": relaxed,
            "the gradient of a loop": through_time,
            "a loss and its gradient": train_step,
        }.items()
    ),
    Model("a Hamiltonian", hamiltonian, {"w": S(4, 5), "v": S(5, 1)}, (S(2, 4),),
          {"w": (W, 4, 5, 1), "v": (W, 5, 1, 1)}),
    Model("forces between species", atoms, {"w": S(3, 5), "table": S(9, 5), "v": S(5, 1)}, (tokens(2), S(2, 3)),
          {"w": (W, 3, 5, 1), "table": (E, 5, 9, 1), "v": (W, 5, 1, 1)}),
    Model("the gradient of an image", image_gradient, {"k": S(3, 3, 2, 5), "v": S(5, 1)}, (S(1, 8, 8, 2),),
          {"k": (W, 18, 45, 1), "v": (W, 5, 1, 1)}),
    Model("the gradient of a linear energy", linear_energy, {"w": S(3, 5)}, (S(2, 3),), {"w": (W, 3, 5, 1)}),
    Model("a tied weight in an energy", tied_in_a_gradient, {"w": S(3, 5)}, (S(2, 3),),
          {"w": "its uses disagree: axis 0 is an input (traced_programs.py:LINE), an output "
                "(traced_programs.py:LINE)"}),
    Model("a function transposed on its own", transposed_function, {"w": S(3, 5)}, (S(2, 5),), {"w": (W, 5, 3, 1)}),
    Model("weights of the way back only", feedback_alignment, {"w": S(3, 5), "v": S(5, 3)}, (S(2, 3),),
          {"w": (W, 3, 5, 1),
           "v": "it meets nothing but cotangents, on the way back of a gradient (traced_programs.py:LINE)"}),
    Model("a complex weight in two arrays", as_complex, {"re": S(5, 3), "im": S(5, 3)}, (S(4, 3),),
          {"re": (W, 3, 5, 1), "im": (W, 3, 5, 1)}),
    Model("a complex weight of two arrays", complex_of_two, {"re": S(5, 3), "im": S(5, 3)}, (S(4, 3),),
          {"re": (W, 3, 5, 1), "im": (W, 3, 5, 1)}),
    Model("a complex weight in one real array", complex_of_one, {"w": S(2, 3, 5)}, (S(4, 3),), {"w": (W, 3, 5, 2)}),
    Model("the parts of a complex weight", parts_of_complex, {"w": S(3, 5, dtype=jnp.complex64)}, (S(4, 3),),
          {"w": (W, 3, 5, 1)}),
    Model("a complex weight and an imaginary one", complex_with_an_imaginary_change,
          {"w": S(3, 5, dtype=jnp.complex64), "im": S(3, 5)}, (S(4, 3),), {"w": (W, 3, 5, 1), "im": (W, 3, 5, 1)}),
    Model("quantized past the gradient", straight_through, {**{name: S(3, 3) for name in "abcde"}, "step": S()},
          (S(4, 3),), {**dict.fromkeys("abcde", (W, 3, 3, 1)),
                       "step": "no gradient reaches it: it stands behind stop_gradient"}),
    Model("rounded for good", rounded_away, {name: S(3, 3) if name != "c" else S(4, 3) for name in "abcde"},
          (S(4, 3),),
          {"a": "round stands between it and the signal (traced_programs.py:LINE)",
           "b": "a cast to int8 stands between it and the signal (traced_programs.py:LINE)",
           "c": "a cast to bool stands between it and the signal (traced_programs.py:LINE)",
           "d": "max stands between it and the signal (traced_programs.py:LINE)",
           "e": "max stands between it and the signal (traced_programs.py:LINE)"}),
    *(
        Model(name, forward, {"w": S(4, 5, 3)}, inputs, {"w": expected})
        for name, (forward, inputs, expected) in {
            "experts chosen by the data": (lambda p, x, n: sum(
                jnp.where(n[:, None] == k, x @ p["w"][k], 0) for k in range(4)), (S(6, 5), tokens(6)), MEMBERS),
            "one of two experts": (lambda p, x: jnp.where(x[:, :1] > 0, x @ p["w"][0], x @ p["w"][1]),
                                   (S(6, 5),), MEMBERS),
            "experts chosen by a branch": (lambda p, x, n: sum(
                lax.cond(n == k, lambda w: x @ w, lambda w: jnp.zeros((6, 3)), p["w"][k]) for k in range(4)),
                (S(6, 5), tokens()), MEMBERS),
            "experts chosen in a loop": (lambda p, x, n: lax.scan(
                lambda sum_, m: (sum_ + jnp.where(n == m[0], x @ m[1], 0), None), jnp.zeros((6, 3)),
                (jnp.arange(4), p["w"]))[0], (S(6, 5), tokens()), MEMBERS),
            **{
                f"members behind {function.__name__}": (
                    lambda p, x, function=function: sum(function(x @ p["w"][k]) for k in range(4)), (S(6, 5),), MEMBERS
                )
                for function in (
                    jax.nn.relu, jax.nn.leaky_relu, jax.nn.elu, jax.nn.selu, jax.nn.softplus, jax.nn.log_sigmoid,
                    jax.nn.hard_tanh, jax.nn.gelu, jax.nn.log_softmax, jax.nn.squareplus, jax.nn.standardize,
                )
            },
            "members behind a function, mapped": (lambda p, x: jax.vmap(
                lambda x, w: jax.nn.leaky_relu(x @ w))(x, p["w"]).mean(0), (S(4, 6, 5),), MEMBERS),
            "members of a residual block": (lambda p, x: after_members(
                lambda h: (h + jnp.sin(h)).mean(0), p, x), (S(4, 6, 5),), MEMBERS),
            "members and their mean": (lambda p, x: after_members(lambda y: (y, y.mean(0)), p, x),
                                       (S(4, 6, 5),), SHARED),
            "members and their sum": (members_and_sum,
                                      (S(4, 6, 5),), SHARED),
            "members, and how far they are from their mean": (lambda p, x: after_members(
                lambda y: y - y.mean(0), p, x), (S(4, 6, 5),), MEMBERS),
            "members beside a function of them, added up": (lambda p, x: after_members(
                lambda y: sum(jnp.concatenate([y, jnp.tanh(y)], -1)), p, x), (S(4, 6, 5),), MEMBERS),
            "members and a norm over all of them": (lambda p, x: after_members(
                lambda y: jax.nn.standardize(jnp.moveaxis(y, 0, 1).reshape(6, 12)), p, x), (S(4, 6, 5),), MEMBERS),
        }.items()
    ),
    Model("a depthwise convolution and a norm", depthwise, {"w": S(3, 1, 4)}, (S(2, 6, 4),), {"w": (W, 3, 3, 4)}),
    Model("the mean of all states", lambda p, x: lax.scan(states, x, p["w"])[1].mean(0), {"w": S(4, 5, 5)}, (S(6, 5),),
          {"w": (W, 5, 5, 4)}),
    Model("a linear recurrence", recurrence, {"a": S(3), "w": S(5, 3)}, (S(8, 5),),
          {"a": "it is multiplied with itself (traced_programs.py:LINE)", "w": (W, 5, 3, 1)}),
    Model("a weight that another one overwrites", lambda p, x: x @ lax.dynamic_update_slice(p["old"], p["new"], (0, 0)),
          {"old": S(5, 3), "new": S(5, 3)}, (S(4, 5),),
          {"old": "the forward pass does not use it", "new": (W, 5, 3, 1)}),
    Model("an output of each row that the data overwrite",
          lambda p, x, at: jax.vmap(lambda row, at: (row @ p["w"]).at[at].set(0))(x, at),
          {"w": S(5, 3)}, (S(4, 5), tokens(4)), {"w": (W, 5, 3, 1)}),
    Model("connections dropped by the data", lambda p, x, kept: x @ lax.select(kept > 0, p["w"], jnp.zeros((5, 3))),
          {"w": S(5, 3)},
          (S(6, 5), S(5, 3)), {"w": "the data choose between it and something else (traced_programs.py:LINE)"}),
    Model("noise on a weight", lambda p, x, e: x @ (p["m"] + p["s"] * e), {"m": S(5, 3), "s": S(5, 3)},
          (S(6, 5), S(5, 3)),
          {"m": "a signal is added to it, and another is contracted with the sum (traced_programs.py:LINE)",
           "s": "it is multiplied with the signal entry by entry along 2 of its axes: a weight or a scale "
                "(traced_programs.py:LINE)"}),
)  # fmt: skip
"""Every row is a model nobody declared."""
