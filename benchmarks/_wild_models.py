"""Models of other people's packages, with random weights: functions that return a model, inputs and how to call it."""

import jax
import jax.numpy as jnp

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
