"""Models of other people's packages, with random weights.

Functions that return a model, inputs and how to call it; for Flax Linen, the module fourth.
"""

import jax
import jax.numpy as jnp

KEY = jax.random.key(0)


def f32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def i32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def boolean(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.bool_)


def initialized(module, inputs):
    """Variables of a Linen module, inputs, no way of calling it but its own, and the module."""
    variables = jax.jit(module.init)(KEY, *(jnp.zeros(each.shape, each.dtype) for each in inputs))
    return variables, inputs, None, module


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
    from equimo.vision.models import VisionTransformer

    model = VisionTransformer(
        img_size=32, in_channels=3, dim=24, patch_size=8, num_heads=[3], depths=[2], num_classes=10, key=KEY
    )
    return model, (f32(3, 32, 32), KEY), lambda model, x, key: model(x, key=key)


def equimo_convnext():
    """ConvNeXt, with norms and layer scales of the package's own."""
    from equimo.vision.models import ConvNeXt

    model = ConvNeXt(in_channels=3, dims=[8, 16, 32, 64], depths=[1, 1, 1, 1], num_classes=10, key=KEY)
    return model, (f32(3, 64, 64), KEY), lambda model, x, key: model(x, key=key)


def transformer_flows():
    """Transformer flows: linear layers of the package's own, under two nested scans."""
    from transformer_flows.transformer_flow import TransformerFlow

    return TransformerFlow(3, 8, 2, 16, 2, 2, head_dim=8, key=KEY), (f32(3, 8, 8),), lambda t, x: t.forward(x, None)


def equimo_vssd():
    """A vision model of four stages, three with state spaces and one with attention."""
    from equimo.vision.models import Vssd

    model = Vssd(64, 3, dim=16, depths=[1, 1, 1, 1], num_heads=[2, 4, 8, 16], num_classes=10, key=KEY)
    return model, (f32(3, 64, 64), KEY), lambda model, x, key: model(x, key=key)


def jaxonmodels():
    """A Swin transformer: shifted windows, a table of relative positions, linear layers of the package's own."""
    from jaxonmodels.models import swin_transformer as swin

    kinds = (swin.SwinTransformerBlock, swin.PatchMerging, swin.ShiftedWindowAttention)
    model, state = swin._swin_transformer(KEY, True, 5, [4, 4], 8, [2, 1], [2, 2], [2, 2], 0.0, *kinds)
    return model, (f32(3, 32, 32),), lambda model, x: model(x, state, KEY)[0]


def jaxonmodels_v2():
    """Swin V2, whose tables of relative positions come out of two linear layers."""
    from jaxonmodels.models import swin_transformer as swin

    kinds = (swin.SwinTransformerBlockV2, swin.PatchMergingV2, swin.ShiftedWindowAttentionV2)
    model, state = swin._swin_transformer(KEY, True, 5, [4, 4], 8, [2, 1], [2, 2], [2, 2], 0.0, *kinds)
    return model, (f32(3, 32, 32),), lambda model, x: model(x, state, KEY)[0]


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


def mamba2():
    """Mamba 2 in NNX: parts of unequal size in one projection, a convolution written tap by tap."""
    from flax import nnx
    from mamba2_jax import Mamba2Config, Mamba2ForCausalLM

    config = Mamba2Config(
        vocab_size=29, hidden_size=16, state_size=6, head_dim=8, chunk_size=4, num_hidden_layers=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = Mamba2ForCausalLM(config, rngs=nnx.Rngs(0))
    return model, (i32(2, 8),), lambda model, tokens: model(tokens)["logits"]


def memax_lru():
    """A linear recurrent unit: complex weights in two arrays, an associative scan."""
    from memax.equinox.semigroups.lru import LRU

    model = LRU(5, 5, KEY)
    return model, (f32(7, 5), boolean(7)), lambda model, x, start: model(model.initialize_carry(), (x, start))


def memax_ffm():
    """Fast and forgetful memory: traces of several lengths."""
    from memax.equinox.semigroups.ffm import FFM

    model = FFM(5, 4, 3, KEY)
    return model, (f32(7, 5), boolean(7)), lambda model, x, start: model(model.initialize_carry(), (x, start))


def noxton():
    """The layer of an sLSTM: a weight for each head and gate in one array of four axes."""
    from noxton.nn.xlstm import sLSTMLayer

    return sLSTMLayer(12, 2, 4, 0.0, key=KEY, inference=True), (f32(7, 12),), None


def eqx_zoo():
    """A language model with grouped queries and, in its second layer, three experts in ragged products."""
    from eqx_zoo.models.causal_lm import config, model

    own = config.Config(
        architecture="Qwen3MoeForCausalLM", vocab_size=29, hidden_size=16, intermediate_size=20, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=6, rms_norm_eps=1e-6, rope_theta=1e4,
        tie_word_embeddings=False, attention_bias=False, qk_norm=True, rope_scaling=None, num_experts=3,
        num_experts_per_tok=2, moe_intermediate_size=12, norm_topk_prob=True, moe_layers=(1,),
    )  # fmt: skip
    return model.CausalLM(own, key=KEY), (i32(7),), None


def nequix():
    """An equivariant potential, called for its forces: radial weights, weights of irreps, weights for each species."""
    from nequix.model import Nequix

    model = Nequix(
        KEY, 3, lmax=1, hidden_irreps="6x0e + 5x1o", n_layers=2, radial_basis_size=4, radial_mlp_size=9,
        radial_mlp_layers=2, layer_norm=True,
    )  # fmt: skip

    def forces(model, positions, species, senders, receivers):
        def energy(positions):
            apart = positions[senders] - positions[receivers]
            return model.node_energies(apart, species, senders, receivers).sum()

        return jax.grad(energy)(positions)

    return model, (f32(4, 3), i32(4), i32(7), i32(7)), forces


def e3x():
    """Messages and attention between atoms, in Linen; tensor products are weighted for each pair of degrees."""
    import e3x
    from flax import linen as nn

    class Network(nn.Module):
        @nn.compact
        def __call__(self, species, apart, receivers, senders):
            basis = e3x.nn.basis(apart, num=5, max_degree=2, radial_fn=e3x.nn.reciprocal_bernstein)
            x = e3x.nn.Embed(9, 6)(species)
            edges = {"dst_idx": receivers, "src_idx": senders, "num_segments": 4}
            for _ in range(2):
                y = e3x.nn.add(x, e3x.nn.MessagePass(max_degree=1)(x, basis, **edges))
                x = e3x.nn.add(x, e3x.nn.Dense(6)(e3x.nn.silu(e3x.nn.Dense(6)(y))))
            x = e3x.nn.SelfAttention(max_degree=0, num_heads=2)(x, basis, **edges)
            return nn.Dense(1)(x[:, 0, 0])

    return initialized(Network(), (i32(4), f32(7, 3), i32(7), i32(7)))


def jraphx_attention():
    """Graph attention in NNX, with features of edges."""
    from flax import nnx
    from jraphx.nn.conv import GATConv

    model = GATConv(5, 4, heads=3, edge_dim=2, residual=True, rngs=nnx.Rngs(0))
    return model, (f32(6, 5), i32(2, 9), f32(9, 2)), None


def jraphx_transformer():
    """A transformer over a graph in NNX, gated."""
    from flax import nnx
    from jraphx.nn.conv import TransformerConv

    model = TransformerConv(5, 4, heads=3, edge_dim=2, beta=True, rngs=nnx.Rngs(0))
    return model, (f32(6, 5), i32(2, 9), f32(9, 2)), None


def norax():
    """A Fourier neural operator with channels last and linear layers of its own."""
    from norax.models import FNO

    return FNO(KEY, 3, 2, (3, 4), width=5, depth=2), (f32(12, 16, 3),), None


def neojax():
    """A Fourier neural operator whose spectral weights are Tucker tensors, complex."""
    from neojax.models.tfno import TFNO

    return TFNO(KEY, 3, 2, 6, 2, (4, 3), ranks=3), (f32(3, 16, 16),), None


def jaxkan_splines():
    """A layer of splines on edges, all in one contraction."""
    from jaxkan.layers.Spline import SplineLayer

    return SplineLayer(3, 5, 3, 4, external_weights=False), (f32(7, 3),), None


def jaxkan_edges():
    """The same with an array row for each edge, whose outputs are added up for each node."""
    from jaxkan.layers.Spline import BaseLayer

    return BaseLayer(3, 5, 3, 4, external_weights=False), (f32(7, 3),), None


def jaxkan_weighted():
    """Splines that are scaled by another parameter before they meet the signal."""
    from jaxkan.layers.Spline import SplineLayer

    return SplineLayer(3, 5, 3, 4), (f32(7, 3),), None


def jaxkan_fourier():
    """A layer of sines and cosines on edges."""
    from jaxkan.layers.Fourier import FourierLayer

    return FourierLayer(3, 5, 4), (f32(7, 3),), None


def flaxdiff():
    """A diffusion transformer in Linen, conditioned by time and text."""
    from flaxdiff.models.simple_dit import SimpleDiT

    module = SimpleDiT(patch_size=4, emb_features=16, num_layers=1, num_heads=2)
    return initialized(module, (f32(1, 16, 16, 3), f32(1), f32(1, 7, 12)))


def flaxdiff_unet():
    """A U-Net for diffusion in Linen, with attention to a text at each level."""
    from flaxdiff.models.simple_unet import Unet

    attention = ({"heads": 2}, {"heads": 2})
    module = Unet(
        emb_features=16, feature_depths=(8, 16), attention_configs=attention, num_res_blocks=1, norm_groups=4
    )  # fmt: skip
    return initialized(module, (f32(1, 16, 16, 3), f32(1), f32(1, 7, 12)))
