"""Models of other people's packages: every floating array is drawn with axes that were checked, or kept for a reason.

`nox -s wild` installs the packages and runs this; nothing is downloaded, weights are random. `CHECKED` was gone over by
hand: for some packages by reading their code, for the others by holding what the trace reads against names and shapes
of the layers. Where a class is declared (Equinox's own, and what subclasses it), declaration and trace
must agree, or the trace may find equal parts that the declaration does not know of.
"""

import re
import warnings
from fnmatch import fnmatch

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import initax as ix
from initax._adapters import survey
from initax._traced import compare, trace

KEY = jax.random.key(0)


def f32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def i32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def flowjax():
    """A masked autoregressive flow; scales and shifts are interleaved parts of one output."""
    from flowjax.distributions import Normal
    from flowjax.flows import masked_autoregressive_flow

    flow = masked_autoregressive_flow(KEY, base_dist=Normal(jnp.zeros(5)), flow_layers=3, nn_width=17, cond_dim=2)
    return flow, (f32(5), f32(2)), lambda flow, x, u: flow.log_prob(x, u)


def flowjax_coupling():
    """A coupling flow."""
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow

    flow = coupling_flow(KEY, base_dist=Normal(jnp.zeros(5)), flow_layers=3, nn_width=17)
    return flow, (f32(5),), lambda flow, x: flow.log_prob(x)


def pdequinox():
    """A Fourier neural operator: weights (corners, out, in, modes, modes), each mode a matrix of its own."""
    from pdequinox.arch import ClassicFNO

    return ClassicFNO(2, 3, 2, hidden_channels=7, num_modes=5, num_blocks=2, key=KEY), (f32(3, 16, 16),), None


def pdequinox_unet():
    """A U-Net whose convolutions are a class of the package's own."""
    from pdequinox.arch import ModernUNet

    return ModernUNet(2, 3, 2, hidden_channels=8, num_levels=2, key=KEY), (f32(3, 16, 16),), None


def equimo():
    """A vision transformer."""
    from equimo.models import VisionTransformer

    model = VisionTransformer(
        img_size=32, in_channels=3, dim=24, patch_size=8, num_heads=[3], depths=[2], num_classes=10, key=KEY
    )
    return model, (f32(3, 32, 32), KEY), lambda model, x, key: model(x, key=key)


def equimo_convnext():
    """ConvNeXt, with norms and layer scales of the package's own."""
    from equimo.models import ConvNeXt

    model = ConvNeXt(in_channels=3, dims=[8, 16, 32, 64], depths=[1, 1, 1, 1], num_classes=10, key=KEY)
    return model, (f32(3, 64, 64), KEY), lambda model, x, key: model(x, key=key)


def transformer_flows():
    """Transformer flows: linear layers of the package's own, under two nested scans."""
    from transformer_flows.transformer_flow import TransformerFlow

    return TransformerFlow(3, 8, 2, 16, 2, 2, head_dim=8, key=KEY), (f32(3, 8, 8),), lambda t, x: t.forward(x, None)


def jaxonmodels():
    """Mamba: a selective state-space model."""
    from jaxonmodels.models.mamba import Mamba

    return Mamba(32, 11, 2, d_state=4, d_inner=24, key=KEY), (i32(6),), None


def megalodon_jax():
    """Megalodon: complex moving averages, scales stored around zero."""
    from megalodon_jax import MegalodonConfig, MegalodonForCausalLM

    config = MegalodonConfig(
        vocab_size=37, model_dim=16, num_layers=2, num_heads=2, z_dim=8, value_dim=24, ffn_hidden_dim=20, cema_ndim=4,
        chunk_size=8, norm_num_groups=4,
    )  # fmt: skip
    return MegalodonForCausalLM(config, key=KEY), (i32(1, 8),), None


def esm2quinox():
    """A protein language model, layers stacked."""
    from esm2quinox import ESM2

    return ESM2(num_layers=2, embed_size=16, num_heads=2, token_dropout=False, key=KEY), (i32(7),), None


def jraph():
    """A graph network over plain parameters."""
    from jraph import GraphNetwork, GraphsTuple, concatenated_args

    params = {
        "edge": {"w": jnp.ones((19, 6)), "b": jnp.ones(6)},
        "node": {"w": jnp.ones((19, 4)), "b": jnp.ones(4)},
        "globals": {"w": jnp.ones((12, 3)), "b": jnp.ones(3)},
    }

    def forward(params, graph):
        def dense(own):
            return concatenated_args(lambda x: jax.nn.relu(x @ own["w"] + own["b"]))

        return GraphNetwork(*(dense(params[each]) for each in ("edge", "node", "globals")))(graph)

    graph = GraphsTuple(
        nodes=f32(4, 5), edges=f32(9, 7), senders=i32(9), receivers=i32(9), globals=f32(1, 2),
        n_node=jnp.array([4]), n_edge=jnp.array([9]),
    )  # fmt: skip
    return params, (graph,), forward


def ott():
    """An input-convex network whose weights are regularized, not constrained; the rectified diagonals are kept."""
    from ott.neural.networks.icnn import ICNN

    module = ICNN(dim_data=3, dim_hidden=[8, 9])
    return module.init(KEY, jnp.ones((4, 3))), (f32(4, 3),), module.apply


def haiku_resnet():
    """A residual network of Haiku: norms of shape (1, 1, 1, channels) that look like kernels."""
    import haiku as hk

    net = hk.transform_with_state(lambda x: hk.nets.ResNet18(5, resnet_v2=True)(x, is_training=True))
    params, state = jax.jit(net.init)(KEY, jnp.ones((2, 32, 32, 3)))
    return params, (f32(2, 32, 32, 3), state), lambda params, x, state: net.apply(params, state, None, x)[0]


def haiku_lstm():
    """Haiku's LSTM: one matrix for input and state, four gates."""
    import haiku as hk

    def run(x):
        core = hk.LSTM(5)
        return hk.dynamic_unroll(core, x, core.initial_state(2))[0]

    net = hk.transform(run)
    return net.init(KEY, jnp.ones((4, 2, 3))), (f32(4, 2, 3),), lambda p, x: net.apply(p, None, x)


def evosax():
    """A policy for reinforcement learning."""
    from evosax.problems.networks import MLP, categorical_output_fn

    module = MLP(layer_sizes=(8, 8, 3), output_fn=categorical_output_fn)
    params = module.init(KEY, jnp.ones(5), KEY)
    return params, (f32(5), KEY), module.apply


BEHIND = "{} stands between it and the signal"
SIGNAL = "it is a signal itself, no weight of one"
CENTERED = "a constant is added to it before it scales the signal"
CHECKED = {
    flowjax: {
        "base_dist.bijection.loc": "it is subtracted, as a running mean would be",
        "base_dist.bijection.scale.args.0": BEHIND.format("max"),
    },
    flowjax_coupling: {
        "base_dist.bijection.loc": "it is subtracted, as a running mean would be",
        "base_dist.bijection.scale.args.0": BEHIND.format("max"),
    },
    pdequinox: {"*.spectral_conv.weights_*": "stack o i stack2 stack3"},
    pdequinox_unet: {"*.weight": "o i ...", "*.bias": "o 1 1"},
    equimo: {
        "*_token*": SIGNAL,
        "global_pos_embed.weight": "it is added to the signal along 2 axes that are no outputs of a weight",
    },
    equimo_convnext: {"*.norm.weight": "o", "*.norm.bias": "o", "*.gamma": "o"},
    transformer_flows: {
        "blocks.pos_embed": "it is added to the signal along 2 axes that are no outputs of a weight",
        "blocks.proj_*.weight": "stack o i",
        "blocks.proj_*.bias": "stack o",
        "*.attn_bias": "stack stack2 1 o",
        "*.net.layers.*.weight": "stack stack2 o i",
        "*.net.layers.*.bias": "stack stack2 o",
    },
    jaxonmodels: {"*.A_log": BEHIND.format("exp"), "*.ssm.D": "o"},
    megalodon_jax: {
        "*.attn.gamma": CENTERED,
        "*.attn.beta": "stack (o group)",
        "*norm.weight": CENTERED,
        "*norm.bias": "o",
        "*rmsnorm.gamma": CENTERED,
        "*.cema.alpha": BEHIND.format("logistic"),
        "*.cema.delta": BEHIND.format("logistic"),
        "*.cema.theta": BEHIND.format("logistic"),
        "*.cema.gamma_*": BEHIND.format("a sum over its axes"),
        "*.cema.omega": "o",
    },
    esm2quinox: {},
    jraph: {"*.w": "i o", "*.b": "o"},
    ott: {
        "*.diag_kernel": BEHIND.format("max"),
        "*.lin_kernel": "i o",
        "*.quad_kernel": "o1 i o2",
        "w_zs_*.kernel": "i o",
        "*.bias": "o",
    },
    haiku_resnet: {
        "*batchnorm*.offset": "1 1 1 o",
        "*batchnorm*.scale": "1 1 1 o",
        "*conv*.w": "... i o",
        "*logits.w": "i o",
        "*.b": "o",
    },
    haiku_lstm: {"lstm/linear.w": "i (group o)", "lstm/linear.b": "(group o)"},
    evosax: {"*.kernel": "i o", "*.bias": "o"},
}
"""For each model: path → the axes of an array that no class declares, or the reason why it is kept; the first that
matches holds."""


@pytest.mark.parametrize("make", CHECKED, ids=lambda make: make.__name__)
def test_every_array_is_read_as_a_person_reads_it(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, inputs, forward = make()
    found = survey(model)
    readings = trace(found, inputs, forward).readings()
    expected, used = CHECKED[make], set()
    for layer in ix.layers(model, inputs=inputs, forward=forward):
        declared = {each.path: each for known in found.layers for each in known.parameters}
        for parameter in layer.parameters:
            reading, before = readings.get(parameter.path), declared[parameter.path]
            if reading is None or parameter.role == "state" or (before.kept and "undeclared" not in before.kept):
                continue
            if before.axes is not None and isinstance(model, eqx.Module):
                assert compare(before, reading) in ("agree", "split"), (parameter.path, reading)
                continue
            rule = next((each for each in expected if fnmatch(parameter.path, each)), None)
            assert rule is not None, f"nobody checked {parameter.path} {parameter.shape}: {reading}"
            used.add(rule)
            seen = reading.pattern or re.sub(r" \([^()]*\.py:\d+\)$", "", reading.reason)
            assert seen == expected[rule], parameter.path
    assert used == set(expected)


@pytest.mark.parametrize("make", CHECKED, ids=lambda make: make.__name__)
def test_the_model_is_drawn_and_runs(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, inputs, forward = make()
        plan = ix.plan(model, {"*": "lecun_normal"}, inputs=inputs, forward=forward)
        new = plan.draw(jax.random.key(1))
    assert plan.draws
    concrete = jax.tree.map(
        lambda each: jnp.zeros(each.shape, each.dtype) if isinstance(each, jax.ShapeDtypeStruct) else each, inputs
    )
    result = (forward or (lambda model, *own: model(*own)))(new, *concrete)
    assert all(bool(jnp.all(jnp.isfinite(each))) for each in jax.tree.leaves(result) if eqx.is_inexact_array(each))
