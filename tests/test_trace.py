"""Axes read off a trace: models nobody declared, the arithmetic of views, and what a plan says of them."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import initax as ix
from initax._math._axes import resolve
from initax._trace import _factors, _views
from initax._trace._walk import readings
from tests.gates_and_stacks import GATES_AND_STACKS
from tests.moved import MOVED
from tests.tables import KEY
from tests.traced import MODELS, S, transformer
from tests.traced_programs import PROGRAMS


@pytest.fixture
def as_users_write():
    """The models are written as users write them, with implicit broadcasts."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def in_words(reading, shape):
    """A reading as the table writes it."""
    if reading.reason is not None:
        return re.sub(r"\.py:\d+", ".py:LINE", reading.reason)
    axes = resolve(reading.pattern, shape, reading.sizes)
    weighs = reading.role in ("weight", "embedding")
    return reading.role, axes.fan_in if weighs else None, axes.fan_out if weighs else None, axes.batch_size


UNDECLARED = (*MODELS, *PROGRAMS, *GATES_AND_STACKS)


@pytest.mark.parametrize("model", [pytest.param(each, id=each.name.replace(" ", "-")) for each in UNDECLARED])
def test_a_model_nobody_declared_is_read_as_its_mathematics_says(model, as_users_write):
    found = readings(model.forward, model.arrays, list(model.inputs))
    words = {name: in_words(found[name], tuple(array.shape)) for name, array in model.arrays.items()}
    assert words == model.expected


@pytest.mark.parametrize("model", [pytest.param(each, id=each.name.replace(" ", "-")) for each in MOVED])
@pytest.mark.slow(one_in=7)
def test_entries_that_are_moved_are_read_as_a_jacobian_counts_them(model, as_users_write):
    found = readings(model.forward, model.arrays, list(model.inputs))
    said = {name: read.pattern or re.sub(r"\.py:\d+", ".py:LINE", read.reason) for name, read in found.items()}
    assert said == model.expected
    numbers = np.random.default_rng(7)

    def some(each):
        return np.ones(each.shape, np.int32) if each.dtype == jnp.int32 else numbers.normal(size=each.shape)

    arrays = {name: jnp.asarray(some(each), each.dtype) for name, each in model.arrays.items()}
    inputs = [jnp.asarray(some(x), x.dtype) for x in model.inputs]
    for name, reading in found.items():
        if reading.role != "weight":
            continue
        forward = jax.jit(jax.jacobian(lambda array, name=name: model.forward({**arrays, name: array}, *inputs)))
        moves = forward(arrays[name])
        counts = {
            int(count)
            for each in jax.tree.leaves(moves)
            for count in np.count_nonzero(np.reshape(each, (-1, arrays[name].size)), axis=1)
        }
        assert counts - {0} == {resolve(reading.pattern, arrays[name].shape, reading.sizes).fan_in}


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("rows", [(), (4,), (1,)], ids=str)
def test_the_bias_of_a_weight_has_its_fans_however_few_outputs_there_are(rows, outputs, as_users_write):
    arrays = {"w": jnp.ones((7, outputs)), "b": jnp.ones(outputs), "shift": jnp.ones(())}
    survey = ix.survey(arrays, inputs=S(*rows, 7), forward=lambda p, x: x @ p["w"] + p["b"] + p["shift"])
    fans = {each.path: (each.fan_in, each.fan_out) for layer in survey.layers for each in layer.parameters}
    assert fans == {"w": (7, outputs), "b": (7, outputs), "shift": (None, None)}


# The arithmetic of views, against NumPy: follow the indices of the stored entries themselves.


def moved(view, entries, rng):
    """One random step, on the view and on the array of stored indices, -1 for something else; `None` is nothing."""
    shape, axis = entries.shape, int(rng.integers(max(entries.ndim, 1)))
    total = shape[axis]
    match rng.integers(6):
        case 0:
            order = tuple(rng.permutation(entries.ndim))
            return _views.rearranged(view, order, [shape[axis] for axis in order]), entries.transpose(order)
        case 1:
            sizes = [size for size in (2, 3, 2, 3, 5) if rng.random() < 0.5]
            while sizes and entries.size % np.prod(sizes):
                sizes.pop()
            target = (*sizes, entries.size // int(np.prod(sizes, dtype=int)))
            return _views.reshaped(view, target) or view, entries.reshape(target)
        case 2:
            size = int(rng.choice([each for each in range(1, total + 1) if total % each == 0]))
            start = size * int(rng.integers(total // size))
            index = np.arange(start, start + size)
            after = _views.part(view, axis, start, size, 1) or _views.picked(view, axis, index)
        case 3:
            stride = int(rng.choice([each for each in range(1, total + 1) if total % each == 0]))
            start = int(rng.integers(stride))
            index = np.arange(start, total, stride)
            after = _views.part(view, axis, start, total // stride, stride) or _views.picked(view, axis, index)
        case 4:
            index = rng.integers(-1, total, size=int(rng.integers(1, 8)))
            after = _views.picked(view, axis, index)
        case _:
            index = rng.permutation(total)
            cut = int(rng.integers(1, total + 1))
            halves = [np.where((np.arange(total) < cut) == first, index, -1) for first in (True, False)]
            one, other = (_views.picked(view, axis, half) for half in halves)
            after = one if other is None else other if one is None else _views.merged(one, other, axis)
            assert after is not None
    return after, np.where(beside(index, axis, entries.ndim) < 0, -1, np.take(entries, index, axis))


def beside(index, axis, ndim):
    """An array along one axis of several."""
    return np.asarray(index).reshape([-1 if at == axis else 1 for at in range(ndim)])


@pytest.mark.parametrize("seed", range(150))
def test_a_view_knows_which_stored_entry_each_of_its_entries_is(seed):
    rng = np.random.default_rng(seed)
    stored = (12, 5, 6)
    view, entries = _views.whole(0, stored), np.arange(360).reshape(stored)
    for _ in range(6):
        after, entries_after = moved(view, entries, rng)
        if after is None:
            assert (entries_after == -1).all()
            break
        if after is view and entries_after.shape != entries.shape:
            break  # a reshape that can't be told
        view, entries = after, entries_after
    digits = np.zeros((*entries.shape, 3), int)
    gone = np.zeros(entries.shape, bool)
    for factor, digit in view.fixed:
        digits[..., factor.axis] += digit * factor.inner
    for axis, factors in enumerate(view.axes):
        assert np.prod([factor.size for factor in factors]) == entries.shape[axis]
        along = beside(np.arange(entries.shape[axis]), axis, entries.ndim)
        for factor, digit in zip(factors, unravel(along, factors), strict=True):
            pairs: Any = [(factor, digit)] if factor.axis >= 0 else []
            if isinstance(factor, _factors.Slot):
                here = factor.index[digit]
                gone = gone | (here < 0)
                pairs = zip(factor.factors, unravel(np.maximum(here, 0), factor.factors), strict=True)
            for own, number in pairs:
                digits[..., own.axis] += number * own.inner
    found = np.ravel_multi_index(tuple(np.moveaxis(digits, -1, 0)), stored, mode="clip")
    assert np.array_equal(np.where(gone, -1, found), entries)


def unravel(index, factors):
    return np.unravel_index(index, tuple(factor.size for factor in factors)) if factors else ()


# What a plan makes of it


class Mixer(eqx.Module):
    """A layer of one's own: a matrix stored (in, out), a bias, and a vector that goes through an exponential."""

    matrix: jax.Array
    offset: jax.Array
    log_rate: jax.Array
    head: eqx.nn.Linear

    def __call__(self, x):
        return self.head(jnp.tanh(x @ self.matrix + self.offset) * jnp.exp(self.log_rate))


def mixer():
    return Mixer(jnp.ones((7, 5)), jnp.zeros(5), jnp.zeros(5), eqx.nn.Linear(5, 2, key=KEY))


@pytest.mark.filterwarnings("ignore:rule .* selects 1 array it can't draw:initax.InitaxWarning")
def test_undeclared_arrays_get_the_traced_axes_and_others_a_reason(key):
    plan = ix.plan(mixer(), {"*": ("he_normal", "uniform_fan_in")}, inputs=S(7))
    rows = {each.parameter.path: (each.kind, each.parameter.role, each.parameter.fan_in) for each in plan.draws}
    assert rows == {
        "matrix": ("Linear", "weight", 7),
        "offset": ("Linear", "bias", 7),
        "head.weight": ("Linear", "weight", 5),
        "head.bias": ("Linear", "bias", 5),
    }
    ((parameter, reason),) = plan.kept
    assert parameter.path == "log_rate"
    assert re.fullmatch(r"undeclared: exp stands between it and the signal \(test_trace\.py:\d+\)", reason.text)
    drawn = plan.draw(key)
    assert bool(jnp.all(drawn.log_rate == 0))
    assert not bool(jnp.all(drawn.matrix == 1))


class Block(eqx.Module):
    """A norm and a layer in one class."""

    scale: jax.Array
    shift: jax.Array
    w: jax.Array
    b: jax.Array

    def __call__(self, x):
        return jax.nn.relu((x / jnp.std(x) * self.scale + self.shift) @ self.w + self.b)


def test_in_a_class_with_a_norm_the_bias_of_a_weight_goes_with_it():
    block = Block(jnp.ones(7), jnp.zeros(7), jnp.ones((7, 5)), jnp.zeros(5))
    plan = ix.plan(block, {"*": "he_normal"}, inputs=S(7))
    assert [each.parameter.path for each in plan.draws] == ["w", "b"]
    assert {parameter.path: str(reason) for parameter, reason in plan.kept} == {
        "scale": "he_normal says nothing about a scale",
        "shift": "he_normal says nothing about a scale",
    }


@pytest.mark.filterwarnings("ignore:rule .* selects 1 array it can't draw:initax.InitaxWarning")
def test_abstract_models_and_concrete_inputs_are_read_alike():
    rules = {"*": "he_normal"}
    concrete = ix.plan(mixer(), rules, inputs=(jnp.ones(7),))
    abstract = ix.plan(eqx.filter_eval_shape(mixer), rules, inputs=(S(7),))
    assert concrete == abstract
    assert ix.Plan.from_json(concrete.to_json(), mixer(), inputs=S(7)) == concrete


def test_a_trace_overrules_what_a_plain_container_was_guessed_to_be(key):
    params = {"w": S(5, 7), "b": S(5)}
    (layer,) = ix.layers(params, inputs=S(7), forward=lambda p, x: p["w"] @ x + p["b"])
    assert (layer["w"].axes.pattern, layer["w"].fan_in, layer["b"].fan_in) == ("o i", 7, 7)
    (guessed,) = ix.layers(params)
    assert (guessed["w"].axes.pattern, guessed["w"].fan_in) == ("... i o", 5)


def test_draws_of_a_traced_stack_have_the_law_of_their_fans(key):
    params = {"w": jnp.zeros((3, 4, 64, 32))}

    def forward(p, x):
        for layer in range(3):
            x = jnp.tanh(jnp.einsum("gi,goi->go", x, p["w"][layer].swapaxes(-1, -2))).repeat(2, axis=-1)
        return x

    new = ix.reinit(params, {"*": "he_normal"}, key, inputs=S(4, 64), forward=forward)["w"]
    count = new.size
    # The relative error of a variance of n truncated normals has standard deviation sqrt(1.37 / n).
    assert abs(float(jnp.var(new)) * 64 / 2 - 1) < 4.9 * (1.37 / count) ** 0.5


@pytest.mark.parametrize("scheme", ["lecun_normal", "lecun_uniform", "orthogonal"])
def test_a_complex_weight_in_two_real_arrays_keeps_the_length_of_a_signal(scheme, key, as_users_write):
    """Of n truncated normals the variance has a relative standard deviation of sqrt(1.37 / n), of the others less."""
    params = {"re": jnp.zeros((300, 300)), "im": jnp.zeros((300, 300))}
    plan = ix.plan(params, {"*": scheme}, inputs=S(4, 300), forward=lambda p, x: x @ jax.lax.complex(p["re"], p["im"]))
    assert plan.notes == tuple(
        f"{each}: its entries are parts of a complex weight, real or imaginary; each has half of its variance"
        for each in ("im", "re")
    )
    for part in plan.draw(key).values():
        assert abs(2 * 300 * float(jnp.mean(part**2)) - 1) < 4.9 * (1.37 / part.size) ** 0.5


@pytest.mark.parametrize("scheme", ["ones", "identity"])
def test_a_part_of_a_complex_weight_is_no_half_of_a_number(scheme, key, as_users_write):
    params = {"re": jnp.zeros((4, 4)), "im": jnp.zeros((4, 4))}
    called = {"inputs": S(3, 4), "forward": lambda p, x: x @ jax.lax.complex(p["re"], p["im"])}
    with pytest.raises(ix.SchemeError) as caught:
        ix.plan(params, {"*": scheme}, **called)
    assert str(caught.value) == (
        f'rule "*": {scheme} says the values of a whole weight, and "im" is the real or imaginary part of a complex '
        "one.\n"
        '  for both parts: ("variance_scaling", {"distribution": "normal"}), ("normal", {"stddev": ...})\n'
        '  for this array as if it were the weight: {"im": ix.Scheme(..., axes="i o")}'
    )
    rules = {"re": ix.Scheme(scheme, axes="i o"), "im": "zeros"}
    drawn = ix.reinit(params, rules, key, **called)
    np.testing.assert_array_equal(drawn["re"], {"ones": np.ones((4, 4)), "identity": np.eye(4)}[scheme])


def test_fans_a_convolution_really_has_are_read_too():
    def forward(p, x):
        up = jax.lax.conv_transpose(x, p["up"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.lax.conv_general_dilated(up, p["down"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    layers = ix.layers({"up": S(4, 4, 7, 5), "down": S(3, 3, 5, 2)}, inputs=S(1, 6, 6, 7), forward=forward)
    read = {each.path: each for layer in layers for each in layer.parameters}
    assert [layer.kind for layer in layers] == ["Conv", "ConvTranspose"]
    assert (read["up"].fan_in, read["up"].effective_fan_in) == (112, 28)
    assert (read["down"].fan_out, read["down"].effective_fan_out) == (18, 4.5)


def test_a_declaration_stands_against_the_trace_and_the_plan_says_so():
    class Swapped(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return self.w @ x

    ix.register_layer(Swapped, kind="Linear", w="i o")
    with pytest.warns(ix.InitaxWarning, match="the forward pass disagrees"):
        plan = ix.plan(Swapped(jnp.ones((5, 7))), {"*": "he_normal"}, inputs=S(7))
    assert plan.draws[0].parameter.fan_in == 5
    (note,) = plan.notes
    assert re.sub(r"\.py:\d+", ".py:LINE", note) == (
        "the forward pass disagrees with the declared axes of 1 of the arrays; declarations stand:\n"
        '  w (5, 7): declared "i o" (weight, fan_in 5), used as "o i" (weight, fan_in 7) at test_trace.py:LINE'
    )


def test_outputs_split_in_equal_parts_are_noted_for_declared_layers():
    class Gated(eqx.Module):
        linear: eqx.nn.Linear

        def __call__(self, x):
            value, gate = jnp.split(self.linear(x), 2)
            return value * jax.nn.sigmoid(gate)

    plan = ix.plan(Gated(eqx.nn.Linear(7, 10, key=KEY)), {"*": "glorot_normal"}, inputs=S(7))
    assert plan.draws[0].parameter.fan_out == 10
    (note,) = plan.notes
    assert re.sub(r" at \S+$", " at LINE", note, flags=re.MULTILINE) == (
        "outputs that the forward pass splits into equal parts are declared as one axis; declarations stand:\n"
        '  linear.weight (10, 7): declared "o i" (fan_out 10), used as "(group o) i" (fan_out 5) at LINE\n'
        '  to draw each part on its own restate the axes, ix.Scheme(..., axes="...", sizes={...})'
    )


def test_what_one_should_know_of_a_reading_is_noted():
    def forward(p, x):
        return (p["w"] + p["b"] @ p["a"]) @ x

    arrays = {"a": S(2, 7), "b": S(5, 2), "w": S(5, 7)}
    plan = ix.plan(arrays, {"*": "lecun_normal"}, inputs=S(7), forward=forward)
    assert plan.notes == (
        "a: it is contracted with b before it meets the signal, and read in that order",
        "b: it is contracted with a before it meets the signal, and read in that order",
    )


def test_a_factor_of_the_signal_that_gates_an_axis_is_noted():
    """One einsum of a mixture of experts is read as the sum it is; a gate of features alone is none of entries."""
    arrays, inputs = {"experts": S(4, 3, 2), "out": S(2, 5)}, (S(6, 4), S(6, 4, 3), S(6, 2))

    def forward(p, gate, x, y):
        return (jnp.einsum("te,teh,ehd->td", gate, x, p["experts"]) + y) @ p["out"]

    plan = ix.plan(arrays, {"*": "lecun_normal"}, inputs=inputs, forward=forward)
    assert [each.parameter.axes.pattern for each in plan.draws] == ["i1 i2 o", "i o"]
    assert plan.notes == (
        "experts: a factor of the signal gates what it is summed over along axis 0; if that is a stack whose outputs "
        'are weighted, restate the axes: ix.Scheme(..., axes={"experts": "stack i o"})',
    )
    again = ix.plan(
        arrays,
        {"*": "lecun_normal", "experts": ix.Scheme("lecun_normal", axes={"experts": "stack i o"})},
        inputs=inputs,
        forward=forward,
    )
    assert again.draws[0].parameter.fan_in == 3


def test_an_array_that_is_returned_has_no_axes_to_declare(key):
    """A policy returns the logarithms of its deviations beside its means."""
    arrays = {"w": jnp.ones((5, 7)), "log_std": jnp.ones(5)}
    options = {"inputs": S(7), "forward": lambda p, x: (p["w"] @ x, p["log_std"])}
    with pytest.warns(ix.InitaxWarning, match="can't draw"):
        (note,) = ix.plan(arrays, {"*": "he_normal"}, **options).notes
    assert note.splitlines()[1:] == [
        "  log_std (5,) of dict: undeclared: the forward pass returns it, and no signal meets it",
        '  it has no axes to declare; a rule can set it, {"log_std": "zeros"}, or keep it, {"log_std": None}',
    ]
    assert not ix.reinit(arrays, {"*": "he_normal", "log_std": "zeros"}, key, **options)["log_std"].any()
    kept = ix.plan(arrays, {"*": "he_normal", "log_std": None}, **options)
    assert (kept.notes, [each.reason.why for each in kept.kept]) == ((), [ix.Why.RETURNED])


def test_a_bias_whose_layer_holds_no_weight_says_so():
    class Adapted(eqx.Module):
        inner: eqx.nn.Linear
        bias: jax.Array

        def __call__(self, x):
            return self.inner(x) + self.bias

    model = Adapted(eqx.nn.Linear(7, 5, use_bias=False, key=KEY), jnp.zeros(5))
    (kept,) = ix.plan(model, {"*": "he_normal"}, inputs=S(7)).kept
    assert kept.reason.text == "it is a bias, and its layer holds no weight that it goes with"


MASKED = {
    "product": lambda w, mask: w * mask,
    "choice": lambda w, mask: jnp.where(mask > 0, w, 0.0),
    "triangle": lambda w, mask: jnp.tril(w),
}


@pytest.mark.parametrize("name", MASKED)
def test_masks_of_constants_count_in_the_effective_fans(name):
    """A lower triangle of four leaves ten of sixteen entries: two and a half inputs of an output, on average."""
    mask = jnp.tril(jnp.ones((4, 4)))
    (layer,) = ix.layers({"w": S(4, 4)}, inputs=S(5, 4), forward=lambda p, x: x @ MASKED[name](p["w"], mask))
    assert (layer["w"].fan_in, layer["w"].effective_fan_in) == (4, 2.5)


def test_keys_among_the_inputs_are_no_signal():
    def forward(p, key, x):
        return (p["mean"] + 0.1 * jax.random.normal(key, (5, 7))) @ x

    (layer,) = ix.layers({"mean": S(5, 7)}, inputs=(jax.random.key(0), S(7)), forward=forward)
    assert layer["mean"].fan_in == 7


def test_a_deep_abstract_transformer_needs_no_memory_and_little_time(as_users_write):
    width, depth = 4096, 48
    arrays = {
        "table": S(50_000, width),
        "final": S(width),
        **{f"norm{at}": S(depth, width) for at in (1, 2)},
        "qkv": S(depth, width, 3 * width),
        "proj": S(depth, width, width),
        "up": S(depth, width, 4 * width),
        "up_b": S(depth, 4 * width),
        "down": S(depth, 4 * width, width),
        "down_b": S(depth, width),
    }
    layers = ix.layers(arrays, inputs=jax.ShapeDtypeStruct((128,), jnp.int32), forward=transformer)
    fans = {each.path: (each.fan_in, each.fan_out) for layer in layers for each in layer.parameters if each.fan_in}
    assert fans["qkv"] == (width, width)
    assert fans["down"] == (4 * width, width)


def test_a_bias_goes_with_the_weight_it_is_added_to_and_a_norm_s_with_none(as_users_write):
    model = next(each for each in MODELS if each.name == "a norm right behind a weight")
    found = readings(model.forward, model.arrays, list(model.inputs))
    assert {name: found[name].partners for name in ("shift", "b")} == {
        "shift": (),
        "b": (list(model.arrays).index("v"),),
    }


# Errors


ERRORS = {
    "forward without inputs": (
        lambda: ix.plan({"w": S(3, 4)}, {"*": "zeros"}, forward=lambda p, x: x),
        "forward= says how the model is called, but not on what.\n"
        "  give inputs=, arrays or jax.ShapeDtypeStruct((8, 3), jnp.float32); () where it takes none",
    ),
    "a model that is no function": (
        lambda: ix.plan({"w": S(3, 4)}, {"*": "zeros"}, inputs=S(4)),
        "inputs= is given, but the model can't be called on them: it is no function.\n"
        "  say how: forward=lambda model, x: ...",
    ),
    "a call that fails": (
        lambda: ix.plan(mixer(), {"*": "zeros"}, inputs=(S(7), S(2, 3), True)),
        "the forward pass fails on these inputs: TypeError: Mixer.__call__() takes 2 positional arguments but 4 were "
        "given\n"
        "  inputs: float32[7], float32[2,3], True\n"
        "  say how the model is called: forward=lambda model, x: ...",
    ),
    "a batch for a model of one example": (
        lambda: ix.plan(Encoder(8, KEY), {"Linear": "zeros"}, inputs=S(5, 7, 8)),
        "the forward pass fails on these inputs: ERROR\n"
        "  inputs: float32[5,7,8]\n"
        "  for a whole batch write forward=lambda model, x: jax.vmap(model)(x)",
    ),
    "batches for a model of two arguments": (
        lambda: ix.plan(eqx.nn.GRUCell(3, 4, key=KEY), {"*": "zeros"}, inputs=(S(5, 3), S(5, 4))),
        "the forward pass fails on these inputs: ERROR\n"
        "  inputs: float32[5,3], float32[5,4]\n"
        "  for a whole batch write forward=lambda model, *x: jax.vmap(model)(*x)",
    ),
    "a list for one argument": (
        lambda: ix.plan(eqx.nn.Linear(3, 4, key=KEY), {"*": "zeros"}, inputs=[S(3)]),
        "the forward pass fails on these inputs: ERROR\n"
        "  inputs: [float32[3]]\n"
        "  a list is one argument, and several are a tuple: inputs=x",
    ),
    "a list for two arguments": (
        lambda: ix.plan(eqx.nn.GRUCell(3, 4, key=KEY), {"*": "zeros"}, inputs=[S(3), S(4)]),
        "the forward pass fails on these inputs: ERROR\n"
        "  inputs: [float32[3], float32[4]]\n"
        "  a list is one argument, and several are a tuple: inputs=(x, y)",
    ),
    "inputs of no shape that fits": (
        lambda: ix.plan(eqx.nn.Linear(3, 4, key=KEY), {"*": "zeros"}, inputs={"x": S(5), "flag": True}),
        "the forward pass fails on these inputs: ERROR\n"
        "  inputs: {'flag': True, 'x': float32[5]}\n"
        "  say how the model is called: forward=lambda model, x: ...",
    ),
    "state of Equinox": (
        lambda: ix.plan(
            eqx.nn.Linear(3, 4, key=KEY),
            {"*": "zeros"},
            inputs=eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "b", mode="ema")[1],
        ),
        "the forward pass fails on these inputs: ERROR\n"
        "  inputs: State(\n"
        "  BatchNorm.ema_first_time_index=bool[],\n"
        "  BatchNorm.ema_state_index=(float32[3], float32[3])\n"
        ")\n"
        "  say how the model is called: forward=lambda model, x: ...",
    ),
    "nothing that can be read": (
        lambda: ix.plan({"a": S(5)}, {"*": "zeros"}, inputs=S(5), forward=lambda p, x: jnp.exp(p["a"]) * x),
        "the model holds no layer that initax knows: dict.\n"
        "  a (5,) of dict: undeclared: exp stands between it and the signal (test_trace.py:LINE)\n"
        '  say what the axes are, in stored order: ix.Scheme(..., axes={"a": "o"})',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_to_write(name):
    run, text = ERRORS[name]
    with pytest.raises(ix.ModelError) as caught:
        run()
    found = re.sub(r"\.py:\d+", ".py:LINE", str(caught.value))
    assert (re.sub("inputs: .*Error: .*", "inputs: ERROR", found) if ": ERROR" in text else found) == text


class Encoder(eqx.Module):
    """A pre-norm transformer block."""

    attention: eqx.nn.MultiheadAttention
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    norms: list

    def __init__(self, width, key):
        keys = jax.random.split(key, 3)
        self.attention = eqx.nn.MultiheadAttention(8, width, key=keys[0])
        self.up = eqx.nn.Linear(width, 4 * width, key=keys[1])
        self.down = eqx.nn.Linear(4 * width, width, key=keys[2])
        self.norms = [eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)]

    def __call__(self, x):
        y = jax.vmap(self.norms[0])(x)
        x = x + self.attention(y, y, y)
        return x + jax.vmap(self.down)(jax.nn.gelu(jax.vmap(self.up)(jax.vmap(self.norms[1])(x))))


def test_tracing_a_transformer_of_forty_eight_layers_makes_no_array():
    """Its weights would take twelve terabytes: one array made of them, and the test runs out of memory."""
    width = 2**16
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 48))
    blocks = eqx.filter_eval_shape(lambda keys: [Encoder(width, keys[at]) for at in range(48)], keys)
    assert sum(each.size * 4 for each in jax.tree.leaves(blocks) if isinstance(each, jax.ShapeDtypeStruct)) > 9e12

    def forward(blocks, x):
        for block in blocks:
            x = block(x)
        return x

    before = {id(each) for each in jax.live_arrays()}
    inputs = jax.ShapeDtypeStruct((16, width), jnp.float32)
    plan = ix.plan(blocks, {"Linear": "lecun_normal"}, inputs=inputs, forward=forward)
    weights = [each.parameter for each in plan.draws if each.parameter.role == "weight"]
    assert len(weights) == 48 * 6
    assert {(each.fan_in, each.fan_out) for each in weights} == {(width, width), (width, 4 * width), (4 * width, width)}
    assert all(each.size < width for each in jax.live_arrays() if id(each) not in before)
