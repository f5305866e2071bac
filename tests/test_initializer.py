"""A scheme where a framework asks for an initializer: equal to `ix.draw`, wherever it is called."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import initax as ix
from tests.tables import KEY

P = PartitionSpec
SCHEMES = {
    "he_normal": ("he_normal", {}),
    "glorot_uniform": ("glorot_uniform", {}),
    "normal": (("normal", {"stddev": 0.02}), {}),
    "zeros": ("zeros", {}),
    "orthogonal": ("orthogonal", {}),
    "orthogonal gates": ("orthogonal", {"axes": "i (gate o)", "sizes": {"gate": 4}}),
    "outputs first": ("he_normal", {"axes": "o i"}),
    "identity": ("identity", {}),
    "sparse": ("sparse", {}),
    "scaled": (("scaled", {"scheme": "he_normal", "factor": 0.5}), {}),
    "another initializer": (jax.nn.initializers.lecun_normal(), {}),
}
TYPES = ("float32", "bfloat16", "float16")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.slow(one_in=7)
def test_it_draws_what_draw_draws(name, dtype):
    scheme, given = SCHEMES[name]
    made = ix.schemes.initializer(scheme, **given)(KEY, (8, 16), dtype)
    assert made.dtype == dtype
    np.testing.assert_array_equal(made, ix.draw(scheme, KEY, (8, 16), dtype, **given))


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.slow(one_in=4)
def test_under_jit_and_abstract_it_is_the_same(name):
    scheme, given = SCHEMES[name]
    init = ix.schemes.initializer(scheme, **given)
    there = jax.jit(init, static_argnums=(1, 2))(KEY, (8, 16), jnp.float32)
    np.testing.assert_allclose(there, init(KEY, (8, 16)), rtol=1e-6, atol=1e-7)
    shape = jax.eval_shape(functools.partial(init, shape=(8, 16), dtype=jnp.bfloat16), KEY)
    assert (shape.shape, shape.dtype) == ((8, 16), jnp.bfloat16)


def test_the_axes_left_out_are_those_of_jax():
    init, theirs = ix.schemes.initializer("he_normal"), jax.nn.initializers.he_normal()
    np.testing.assert_array_equal(init(KEY, (3, 3, 4, 8)), theirs(KEY, (3, 3, 4, 8)))


def test_each_gate_is_orthogonal_by_itself():
    init = ix.schemes.initializer("orthogonal", axes="i (gate o)", sizes={"gate": 4})
    for gate in np.split(np.asarray(init(KEY, (8, 32))), 4, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(8), atol=1e-5)


MESHES = {kind: Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"), axis_types=(kind,) * 2) for kind in AxisType}
MESHES.pop(AxisType.Manual)


@pytest.mark.parametrize("kind", MESHES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", ["he_normal", "orthogonal gates", "identity"])
def test_it_lives_where_it_is_told_to(name, kind):
    """Also where JAX's own `orthogonal` knows no `out_sharding`; inside jit the mesh is around, or named."""
    scheme, given = SCHEMES[name]
    init, mesh = ix.schemes.initializer(scheme, **given), MESHES[kind]
    home, alone = NamedSharding(mesh, P("a", "b")), init(KEY, (8, 16))
    made = [init(KEY, (8, 16), jnp.float32, home)]
    with jax.set_mesh(mesh):
        made.append(init(KEY, (8, 16), jnp.float32, P("a", "b")))
        made.append(jax.jit(lambda key: init(key, (8, 16), jnp.float32, P("a", "b")))(KEY))
    for each in made:
        assert each.sharding.is_equivalent_to(home, 2)
        np.testing.assert_allclose(each, alone, rtol=1e-6, atol=1e-7)


def test_layers_of_flax_take_it():
    init = ix.schemes.initializer("orthogonal", axes="i (gate o)", sizes={"gate": 4})
    layer = nnx.Linear(8, 32, kernel_init=init, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(layer.kernel[...], init(nnx.Rngs(0).params(), (8, 32)))
    module = nn.Dense(32, kernel_init=init, bias_init=ix.schemes.initializer("zeros", role="bias"))
    variables = module.init(jax.random.key(0), jnp.ones((1, 8)))["params"]
    gate = variables["kernel"][:, :8]
    np.testing.assert_allclose(gate.T @ gate, np.eye(8), atol=1e-5)
    assert not np.any(variables["bias"])
    apply = jax.jit(nn.Dense.apply, static_argnums=0)
    equal = nn.Dense(
        32,
        kernel_init=ix.schemes.initializer("orthogonal", axes="i (gate o)", sizes={"gate": 4}),
        bias_init=ix.schemes.initializer("zeros", role="bias"),
    )
    assert (equal, hash(equal)) == (module, hash(module))
    np.testing.assert_array_equal(
        apply(module, {"params": variables}, jnp.ones((1, 8))), apply(equal, {"params": variables}, jnp.ones((1, 8)))
    )


def test_it_is_shown_as_it_is_written():
    init = ix.schemes.initializer("orthogonal", axes="i (gate o)", sizes={"gate": 4})
    assert repr(init) == "initializer('orthogonal', axes='i (gate o)', sizes={'gate': 4})"
    own = ix.Scheme("orthogonal", axes="i (gate o)", sizes={"gate": 4})
    assert ix.schemes.initializer(own).axes == "i (gate o)"


ERRORS = {
    "an unknown scheme": (
        lambda: ix.schemes.initializer("he_norml"),
        'SchemeError: no scheme is called "he_norml".',
    ),
    "a role that it does not draw": (
        lambda: ix.schemes.initializer(("he_normal", None), role="bias"),
        "SchemeError: he_normal, bias=None draws no bias.\n  it draws: weight, recurrent, embedding",
    ),
    "a role that is none": (
        lambda: ix.schemes.initializer("zeros", role="kernel"),
        "SchemeError: initializer: role must be one of weight, recurrent, bias, embedding, scale, not 'kernel'.",
    ),
    "sizes without a pattern": (
        lambda: ix.schemes.initializer("orthogonal", sizes={"gate": 4}),
        'AxesError: initializer: sizes name axes of a pattern, and there is none: gate.\n  write axes="i (gate o)"',
    ),
    "a mesh that is not there": (
        lambda: ix.schemes.initializer("orthogonal")(KEY, (8, 16), None, P("a")),
        "AxesError: out_sharding=PartitionSpec('a',) names axes of a mesh, and none is around.\n"
        "  with jax.set_mesh(mesh): ...; or give jax.NamedSharding(mesh, spec)",
    ),
    "a scheme of old arrays": (
        lambda: ix.schemes.initializer(("shrink_perturb", {"shrink": 0.5, "scheme": "he_normal"}))(KEY, (8, 16)),
        "SchemeError: shrink_perturb(shrink=0.5, scheme=he_normal) keeps a part of what an array holds, "
        "and an initializer sees none.\n  draw it anew over the model: ix.reinit(model, rules, key)",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_what_to_write(name):
    call, text = ERRORS[name]
    with pytest.raises(ix.InitaxError) as caught:
        call()
    found = f"{type(caught.value).__name__}: {caught.value}"
    assert found == text or (name == "an unknown scheme" and found.startswith(text))
