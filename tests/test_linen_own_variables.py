"""Linen modules that read their own variables, or see others than are stored: each comes out as Flax runs it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core.meta import Partitioned

import initax as ix
from tests.tables import KEY

X = jnp.ones((2, 8))


class Tied(nn.Module):
    """An autoencoder that decodes with the encoder's kernel."""

    @nn.compact
    def __call__(self, x):
        hidden = nn.relu(nn.Dense(4, name="enc")(x))
        return hidden @ self.read().T

    def read(self):
        return self.variables["params"]["enc"]["kernel"]


class ByScope(Tied):
    def read(self):
        return self.scope.variables()["params"]["enc"]["kernel"]


class ByGetVariable(Tied):
    def read(self):
        return self.get_variable("params", "enc")["kernel"]


class ByUnboxing(Tied):
    def read(self):
        return nn.unbox(self.variables["params"])["enc"]["kernel"]


class AsAnArray(Tied):
    """Refuses what is no array."""

    def read(self):
        kernel = self.variables["params"]["enc"]["kernel"]
        assert isinstance(kernel, jax.Array)
        return kernel


class ByChild(nn.Module):
    @nn.compact
    def __call__(self, x):
        enc = nn.Dense(4, name="enc")
        hidden = nn.relu(enc(x))
        return hidden @ enc.variables["params"]["kernel"].T + 0 * enc.get_variable("params", "kernel").sum()


class ApplyingAnother(nn.Module):
    @nn.compact
    def __call__(self, x):
        hidden = nn.relu(nn.Dense(4, name="enc")(x))
        kernel = self.variables["params"]["enc"]["kernel"].T
        return nn.Dense(8, use_bias=False, parent=None).apply({"params": {"kernel": kernel}}, hidden)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="enc")(x)


class SharingScope(nn.Module):
    def setup(self):
        self.inner = Inner()
        nn.share_scope(self, self.inner)

    def __call__(self, x):
        return nn.relu(self.inner(x)) @ self.variables["params"]["enc"]["kernel"].T


READERS = (Tied, ByScope, ByGetVariable, ByUnboxing, AsAnArray, ByChild, ApplyingAnother, SharingScope)


def table(module, x=X, rules=None):
    variables = module.init(KEY, x)
    plan = ix.plan(variables, rules or {"*": "he_normal"}, module=module, inputs=x)
    assert not plan.notes
    return {each.parameter.path: (each.parameter.axes.pattern, each.parameter.fan_in) for each in plan.draws}


@pytest.mark.parametrize("cls", READERS, ids=lambda cls: cls.__name__)
def test_a_module_reads_its_own_variables_as_arrays(cls):
    assert table(cls()) == {"enc.kernel": ("i o", 8), "enc.bias": ("o", 8)}


def test_a_module_that_reads_its_own_variables_has_its_stacks(key):
    class Stacked(nn.Module):
        @nn.compact
        def __call__(self, x):
            scanned = nn.scan(
                lambda module, carry, _: (module(carry), None),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=3,
            )
            return scanned(Tied(name="tied"), x, None)[0]

    expected = {"tied.enc.kernel": ("stack i o", 8), "tied.enc.bias": ("stack o", 8)}
    assert table(Stacked()) == expected
    assert table(nn.remat(Tied)()) == {"enc.kernel": ("i o", 8), "enc.bias": ("o", 8)}


def test_other_boxes_are_read_as_flax_gives_them():
    class Spread(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, None))
            hidden = nn.relu(nn.Dense(4, name="enc", kernel_init=init)(x))
            kernel = self.variables["params"]["enc"]["kernel"]
            return hidden @ nn.unbox(kernel).T

    assert table(Spread()) == {"enc.kernel": ("i o", 8), "enc.bias": ("o", 8)}
    assert isinstance(Spread().init(KEY, X)["params"]["enc"]["kernel"], Partitioned)


def transposed(variables):
    return jax.tree.map(lambda array: array.T, variables)


def by_hand(variables):
    own = dict(variables.get("params", {}))
    return {"params": {**own, "kernel": own["kernel"].T}} if own else variables


def by_numpy(variables):
    own = dict(variables.get("params", {}))
    return {"params": {**own, "kernel": jnp.transpose(own["kernel"])}} if own else variables


def negated(variables):
    own = dict(variables.get("params", {}))
    return {"params": {**own, "kernel": -own["kernel"]}} if own else variables


class Mapped(nn.Module):
    """A layer that sees other variables than are stored."""

    function: object
    outputs: int

    @nn.compact
    def __call__(self, x):
        mapped = nn.map_variables(
            nn.Dense, "params", self.function, self.function, init=self.is_initializing(), mutable=True
        )
        return mapped(self.outputs, name="dense")(x)


MAPS = {"transposed": transposed, "by-hand": by_hand, "by-numpy": by_numpy}


@pytest.mark.parametrize("outputs", [4, 8], ids=["oblong", "square"])
@pytest.mark.parametrize("function", MAPS.values(), ids=MAPS)
def test_variables_that_a_module_sees_transposed_are_read_as_they_are_stored(function, outputs):
    assert table(Mapped(function, outputs)) == {"dense.kernel": ("o i", 8), "dense.bias": ("o", 8)}


def test_variables_that_are_mapped_without_new_axes_keep_theirs():
    assert table(Mapped(negated, 4)) == {"dense.kernel": ("i o", 8), "dense.bias": ("o", 8)}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_scan_over_any_axis_is_no_mapping(axis):
    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x):
            scanned = nn.scan(
                lambda module, carry, _: (module(carry), None),
                variable_axes={"params": axis},
                split_rngs={"params": True},
                length=3,
            )
            return scanned(nn.Dense(8, use_bias=False, name="dense"), x, None)[0]

    plan = ix.plan(Scanned().init(KEY, X), {"*": "he_normal"}, module=Scanned(), inputs=X)
    (drawn,) = plan.draws
    assert drawn.parameter.axes.pattern.split().index("stack") == axis
    assert drawn.parameter.evidence == "declared"


def test_a_tied_autoencoder_is_drawn_and_measured(key):
    x = jax.random.normal(key, (64, 8))
    variables = Tied().init(KEY, x)
    new = ix.reinit(variables, {"*": "he_normal"}, key, module=Tied(), inputs=x)
    expected = jax.nn.initializers.he_normal()(ix.parameter_key(key, "enc.kernel"), (8, 4))
    np.testing.assert_array_equal(new["params"]["enc"]["kernel"], expected)
    report = ix.signal_propagation(new, x, module=Tied())
    assert [signal.path for signal in report.signals] == ["enc.kernel", "enc.kernel"]
    _, calibrated = ix.lsuv(new, x, module=Tied())
    assert [layer.path for layer in calibrated.layers] == ["enc.kernel"]


@pytest.mark.parametrize("verb", [ix.lsuv, ix.signal_propagation], ids=["lsuv", "signal_propagation"])
def test_another_method_is_called_on_the_module(verb):
    x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    variables = Tied().init(KEY, x)
    report = verb(variables, x, module=Tied(), forward=lambda module, x: x @ module.read())
    report = report[1] if isinstance(report, tuple) else report
    assert [each.path for each in getattr(report, "layers", None) or report.signals] == ["enc.kernel"]
