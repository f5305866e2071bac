"""Models in which outputs are told to be gates, or members of a stack, far behind the weight that makes them.

Rows are written as those of `tests.traced`. What stands in between leaves the features where they are, so it changes
nothing of what the weight is.
"""

import jax
import jax.numpy as jnp
from jax import lax

from tests.traced import Model, S, tokens

W, B, E = "weight", "bias", "embedding"

BETWEEN = {
    "nothing": lambda z, a: z,
    "relu": lambda z, a: jax.nn.relu(z),
    "tanh": lambda z, a: jnp.tanh(z),
    "a square": lambda z, a: z**2,
    "a bound": lambda z, a: jnp.clip(z, -8, 8),
    "two functions": lambda z, a: jnp.where(jnp.arange(12) < 8, jax.nn.sigmoid(z), jnp.tanh(z)),
    "an average over neighbors": lambda z, a: a @ z,
    "messages": lambda z, a: jax.ops.segment_sum(z, jnp.array([0, 1, 1, 2, 4]), 5),
    "a running sum over tokens": lambda z, a: jnp.cumsum(z, 0),
    "a shift of tokens": lambda z, a: jnp.roll(z, 1, 0),
    "a shift with zeros": lambda z, a: jnp.concatenate([jnp.zeros((1, 12)), z[:-1]]),
    "sorted tokens": lambda z, a: z[jnp.argsort(a[:, 0])],
    "a Fourier transform over tokens": lambda z, a: jnp.real(jnp.fft.fft(z, axis=0)),
    "a look-up of tokens": lambda z, a: z[jnp.argmax(a, 1)],
}


def three_ways(between, p, x, a):
    query, key, value = jnp.split(between(x @ p["w"], a), 3, -1)
    return jax.nn.softmax(query @ key.T) @ value


def halves(z):
    one, two = jnp.split(z, 2, -1)
    return jnp.concatenate([one * 2 - two * 3, one * 3 + two], -1)


def rotated_half(z):
    one, two = jnp.split(z, 2, -1)
    return z * 2 + 3 * jnp.concatenate([-two, one], -1)


def interleaved(z):
    one, two = z[..., ::2], z[..., 1::2]
    return jnp.stack([one * 2 - two, one + two * 2], -1).reshape(z.shape)


def rotary(turn, p, x):
    query, key, value = jnp.split(x @ p["w"], 3, -1)
    return jax.nn.softmax(turn(query) @ turn(key).T) @ value


def rotary_heads(turn, p, x):
    query, key, value = jnp.moveaxis((x @ p["w"]).reshape(-1, 3, 2, 4), 1, 0)
    scores = jax.nn.softmax(jnp.einsum("thd,shd->hts", turn(query), turn(key)))
    return jnp.einsum("hts,shd->thd", scores, value)


def members(function, p, x):
    return jax.vmap(lambda w, b, v: function(x @ w + b) @ v)(p["w"], p["b"], p["v"])


def one_expert(p, x, number):
    return jnp.einsum("bi,bio->bo", x, p["w"][number]) + p["b"][number]


def two_experts(p, x):
    weights, number = lax.top_k(jax.nn.softmax(x @ p["router"]), 2)
    hidden = jax.nn.silu(jnp.einsum("bi,bkio->bko", x, p["up"][number]) + p["b"][number])
    return jnp.einsum("bki,bk->bi", jnp.einsum("bko,bkoi->bki", hidden, p["down"][number]), weights)


def another_table(p, x, number, place):
    return jnp.einsum("bi,bio->bo", x, p["w"][number]) + p["b"][place]


def parts(go_on, p, x):
    return go_on(*jnp.split(x @ p["w"], 3, -1))


def gates_apart(gate, p, x):
    return gate(*((x @ p["w"] + p["b"])[:, 4 * number : 4 * number + 4] for number in range(3)))


def attention(query, key, value):
    return jax.nn.softmax(query @ key.T) @ value


def joined_tokens(query, key, value):
    both = jnp.concatenate([query * 0.5, key])
    return attention(both[:5], both[5:], value)


TOGETHER = {
    "a cache": lambda q, k, v: (attention(q, k, v), jnp.stack([k, v])),
    "a cache that is read": lambda q, k, v: attention(
        q, *jnp.concatenate([jnp.zeros((2, 5, 4)), jnp.stack([k, v])], 1)
    ),
    "a shift within one": lambda q, k, v: attention(jnp.roll(q, 1, -1), k, v),
    "joined tokens": joined_tokens,
}


def picked_network(p, x, number):
    own = jax.tree.map(lambda each: each[number], p)
    hidden = jax.nn.standardize(x) * own["g"] + own["b"]
    return jax.nn.relu(hidden @ own["w1"] + own["b1"]) @ own["w2"] + own["b2"]


def scaled_expert(p, x, number):
    return x @ (p["w"][number] * p["s"][number])


def normalized_expert(p, x, number):
    w = p["w"][number]
    return x @ (w / jnp.sqrt((w**2).sum(0)))


NETWORKS = {"g": S(3, 6), "b": S(3, 6), "w1": S(3, 6, 8), "b1": S(3, 8), "w2": S(3, 8, 4), "b2": S(3, 4)}
OF_EACH = {
    "g": ("scale", None, None, 3), "b": (B, None, None, 3), "w1": (W, 6, 8, 3), "b1": (B, None, None, 3),
    "w2": (W, 8, 4, 3), "b2": (B, None, None, 3),
}  # fmt: skip
CHANGED = "the data pick a matrix of it that is changed before it meets the signal: a member of a stack or a row"


def monarch(p, x):
    y = jnp.einsum("nbi,bij->nbj", x.reshape(4, 2, 3), p["b1"]).transpose(0, 2, 1)
    return jnp.einsum("nbi,bij->nbj", y, p["b2"])


def butterfly(p, x):
    for level in range(3):
        size = 2**level
        w = p["w"][level].reshape(4 // size, size, 2, 2)
        x = jnp.einsum("naib,abij->najb", x.reshape(-1, 4 // size, 2, size), w).reshape(-1, 8)
    return x


def relative_keys(p, x):
    query = (x @ p["query"]).reshape(5, 2, 3)
    return jnp.einsum("thd,shd->hts", query, p["keys"].reshape(6, 2, 3))


def routed(loop, p, x):
    votes = jnp.einsum("nid,ide->nie", x, p["w"])

    def routing(logits, _):
        total = (jax.nn.softmax(logits)[..., None] * votes).sum(1)
        return logits + (votes * total[:, None]).sum(-1), total

    return loop(routing, jnp.zeros((2, 4)))


ROUTING = {
    "a scan": lambda step, start: lax.scan(step, start, None, length=3)[1][-1],
    "a loop": lambda step, start: lax.fori_loop(0, 3, lambda _, logits: step(logits, None)[0], start),
}

GATES_AND_STACKS = (
    *(
        Model(
            f"three parts behind {name}",
            lambda p, x, a, between=between: three_ways(between, p, x, a),
            {"w": S(7, 12)},
            (S(5, 7), S(5, 5)),
            {"w": (W, 7, 4, 3)},
        )
        for name, between in BETWEEN.items()
    ),
    Model(
        "three parts behind a running sum of features",
        lambda p, x, a: three_ways(lambda z, _: jnp.cumsum(z, 1), p, x, a),
        {"w": S(7, 12)},
        (S(5, 7), S(5, 5)),
        {"w": (W, 7, 12, 1)},
    ),
    *(
        Model(f"{kind} embeddings", lambda p, x, turn=turn: rotary(turn, p, x), {"w": S(7, 12)}, (S(5, 7),),
              {"w": (W, 7, 4, 3)})
        for kind, turn in {"rotary": halves, "half-rotated": rotated_half, "interleaved": interleaved}.items()
    ),
    Model(
        "rotary embeddings of heads",
        lambda p, x: rotary_heads(halves, p, x),
        {"w": S(7, 24)},
        (S(5, 7),),
        {"w": (W, 7, 8, 3)},
    ),
    *(
        Model(
            f"an ensemble with {function.__name__}",
            lambda p, x, function=function: members(function, p, x),
            {"w": S(3, 6, 7), "b": S(3, 7), "v": S(3, 7, 4)},
            (S(5, 6),),
            {"w": (W, 6, 7, 3), "b": (B, None, None, 3), "v": (W, 7, 4, 3)},
        )
        for function in (jax.nn.relu, jnp.tanh, jax.nn.softplus, jax.nn.gelu, jax.nn.silu)
    ),
    Model("an expert and its bias", one_expert, {"w": S(4, 6, 5), "b": S(4, 5)}, (S(7, 6), tokens(7)),
          {"w": (W, 6, 5, 4), "b": (B, None, None, 4)}),
    Model("an expert and its bias, mapped",
          lambda p, x, number: jax.vmap(lambda x, n: x @ p["w"][n] + p["b"][n])(x, number),
          {"w": S(4, 6, 5), "b": S(4, 5)}, (S(7, 6), tokens(7)), {"w": (W, 6, 5, 4), "b": (B, None, None, 4)}),
    Model("two experts and their biases", two_experts,
          {"router": S(6, 4), "up": S(4, 6, 5), "b": S(4, 5), "down": S(4, 5, 6)}, (S(7, 6),),
          {"router": (W, 6, 4, 1), "up": (W, 6, 5, 4), "b": (B, None, None, 4), "down": (W, 5, 6, 4)}),
    Model("an expert and a row of another table", another_table, {"w": S(4, 6, 5), "b": S(4, 5)},
          (S(7, 6), tokens(7), tokens(7)), {"w": (W, 6, 5, 4), "b": (E, 5, 4, 1)}),
    Model("an expert and the row of another number",
          lambda p, x, number: another_table(p, x, number, number % 3), {"w": S(4, 6, 5), "b": S(3, 5)},
          (S(7, 6), tokens(7)), {"w": (W, 6, 5, 4), "b": (E, 5, 3, 1)}),
    *(
        Model(f"three parts and {name}", lambda p, x, go_on=go_on: parts(go_on, p, x), {"w": S(7, 12)}, (S(5, 7),),
              {"w": (W, 7, 4, 3)})
        for name, go_on in TOGETHER.items()
    ),
    Model("three parts that come together", lambda p, x: parts(lambda *each: jnp.concatenate(each, -1) * 2, p, x),
          {"w": S(7, 12)}, (S(5, 7),), {"w": (W, 7, 12, 1)}),
    Model("gates, each of a product of its own",
          lambda p, x: gates_apart(lambda one, two, three: jnp.tanh(one) * two + jax.nn.sigmoid(three), p, x),
          {"w": S(7, 12), "b": S(12)}, (S(5, 7),), {"w": (W, 7, 4, 3), "b": (B, None, None, 3)}),
    Model("parts, each of a product of its own, that come together",
          lambda p, x: gates_apart(lambda *each: jnp.concatenate(each, -1) * 2, p, x),
          {"w": S(7, 12), "b": S(12)}, (S(5, 7),), {"w": (W, 7, 12, 1), "b": (B, None, None, 1)}),
    Model("a network picked by the data", picked_network, NETWORKS, (S(5, 6), tokens()), OF_EACH),
    Model("networks picked by the data, mapped", jax.vmap(picked_network, (None, 0, 0)),
          NETWORKS, (S(5, 6), tokens(5)), OF_EACH),
    Model("an expert that is scaled first", scaled_expert, {"w": S(3, 6, 7), "s": S(3, 7)}, (S(5, 6), tokens()),
          {"w": f"{CHANGED} (gates_and_stacks.py:LINE)",
           "s": "the data pick a row of it and a member of a weight by one number; what the row is can't be told "
                "(gates_and_stacks.py:LINE)"}),
    Model("an expert with a norm", normalized_expert, {"w": S(3, 6, 7)}, (S(5, 6), tokens()),
          {"w": f"{CHANGED} (gates_and_stacks.py:LINE)"}),
    Model("a table for each level", lambda p, x: sum(p["table"][level, x] for level in range(3)),
          {"table": S(3, 11, 6)}, (tokens(4),), {"table": (E, 6, 11, 3)}),
    Model("a Monarch matrix", monarch, {"b1": S(2, 3, 3), "b2": S(3, 2, 2)}, (S(4, 6),),
          {"b1": (W, 3, 3, 2), "b2": (W, 2, 2, 3)}),
    Model("a butterfly matrix", butterfly, {"w": S(3, 4, 2, 2)}, (S(5, 8),), {"w": (W, 2, 2, 12)}),
    Model("keys of relative positions", relative_keys, {"query": S(6, 6), "keys": S(6, 6)}, (S(5, 6),),
          {"query": (W, 6, 6, 1), "keys": (W, 3, 6, 2)}),
    *(
        Model(f"capsules routed by {name}", lambda p, x, loop=loop: routed(loop, p, x), {"w": S(4, 5, 6)},
              (S(2, 4, 5),), {"w": (W, 5, 6, 4)})
        for name, loop in ROUTING.items()
    ),
    Model("a constant matrix over features, and a sum over members",
          lambda p, x: (jnp.einsum("kni,kio->kno", x, p["w"]) @ jnp.ones((2, 3))).sum(0), {"w": S(3, 4, 2)},
          (S(3, 5, 4),), {"w": (W, 12, 2, 1)}),
    Model("a penalty", lambda p, x: ((x @ p["w"]) ** 2).mean() + 1e-3 * jnp.vdot(p["w"], p["w"]), {"w": S(6, 7)},
          (S(4, 6),), {"w": (W, 6, 7, 1)}),
)  # fmt: skip
"""Every row is a model nobody declared."""
