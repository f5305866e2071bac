"""Fans of other people's models, written from the code of their packages: a weight's shape, and what multiplies it."""

from benchmarks import _wild_models as models

FANS = {
    # flowjax/bijections/masked_autoregressive.py: eqx.nn.MLP under a mask; five coordinates, two conditions
    models.flowjax: {"*.layers.0.weight.args.1": (7, 17), "*.layers.1.weight.args.1": (17, 10)},
    # flowjax/bijections/coupling.py: eqx.nn.MLP from two of the coordinates to two numbers for each of three
    models.flowjax_coupling: {"*.layers.0.weight": (2, 17), "*.layers.1.weight": (17, 6)},
    # pdequinox/conv/_spectral_conv.py: "i...,oi...->o..." on weights (corner, out, in, mode, mode)
    models.pdequinox: {
        "lifting.weight": (3, 7),
        "*.spectral_conv.weights_*": (7, 7),
        "*.by_pass_conv.weight": (7, 7),
        "projection.weight": (7, 2),
    },
    # pdequinox/conv/_conv.py: convolutions forward and transposed (no swap) are stored (out, in / groups, *kernel)
    models.pdequinox_unet: {
        "lifting.conv_1.weight": (3 * 9, 8 * 9),
        "lifting.conv_2.weight": (8 * 9, 8 * 9),
        "lifting.bypass_conv.weight": (3, 8),
        "down_sampling_blocks.0.weight": (8 * 9, 8 * 9),
        "down_sampling_blocks.1.weight": (16 * 9, 16 * 9),
        "left_arc_blocks.0.0.conv_1.weight": (8 * 9, 16 * 9),
        "left_arc_blocks.0.0.conv_2.weight": (16 * 9, 16 * 9),
        "left_arc_blocks.0.0.bypass_conv.weight": (8, 16),
        "left_arc_blocks.1.0.conv_1.weight": (16 * 9, 32 * 9),
        "left_arc_blocks.1.0.conv_2.weight": (32 * 9, 32 * 9),
        "left_arc_blocks.1.0.bypass_conv.weight": (16, 32),
        "up_sampling_blocks.0.weight": (16 * 9, 8 * 9),
        "up_sampling_blocks.1.weight": (32 * 9, 16 * 9),
        "right_arc_blocks.0.0.conv_1.weight": (16 * 9, 8 * 9),
        "right_arc_blocks.0.0.conv_2.weight": (8 * 9, 8 * 9),
        "right_arc_blocks.0.0.bypass_conv.weight": (16, 8),
        "right_arc_blocks.1.0.conv_1.weight": (32 * 9, 16 * 9),
        "right_arc_blocks.1.0.conv_2.weight": (16 * 9, 16 * 9),
        "right_arc_blocks.1.0.bypass_conv.weight": (32, 16),
        "left_arc_blocks.0.1.conv_?.weight": (16 * 9, 16 * 9),
        "left_arc_blocks.1.1.conv_?.weight": (32 * 9, 32 * 9),
        "right_arc_blocks.0.1.conv_?.weight": (8 * 9, 8 * 9),
        "right_arc_blocks.1.1.conv_?.weight": (16 * 9, 16 * 9),
        "projection.weight": (8, 2),
    },
    # equimo/layers: eqx.nn.Conv2d and eqx.nn.Linear; query, key and value in one Linear
    models.equimo: {
        "patch_embed.proj.weight": (3 * 64, 24 * 64),
        "*.attn.qkv.weight": (24, 3 * 24),
        "*.attn.proj.weight": (24, 24),
        "*.mlp.fc1.weight": (24, 96),
        "*.mlp.fc2.weight": (96, 24),
        "head.weight": (24, 10),
    },
    # equimo/layers: a depthwise convolution, two of size one, a patch of four and then of two for each stage
    models.equimo_convnext: {
        "*.dwconv.weight": (49, 49),
        **{f"blocks.{at}.*.pwconv1.weight": (8 * 2**at, 32 * 2**at) for at in range(4)},
        **{f"blocks.{at}.*.pwconv2.weight": (32 * 2**at, 8 * 2**at) for at in range(4)},
        "blocks.0.downsample.conv.weight": (3 * 16, 8 * 16),
        **{f"blocks.{at}.downsample.conv.weight": (4 * 2**at * 4, 8 * 2**at * 4) for at in range(1, 4)},
        "head.weight": (64, 10),
    },
    # transformer_flows/transformer_flow.py: Linear is (out, in), applied weight @ x, stacked by two nested scans
    models.transformer_flows: {
        "blocks.proj_in.weight": (12, 16),
        "*_proj.weight": (16, 16),
        "*.net.layers.0.weight": (16, 64),
        "*.net.layers.2.weight": (64, 16),
        "blocks.proj_out.weight": (16, 24),
    },
    # jaxonmodels/models/mamba.py, layers/state_space.py: eqx.nn.Linear; eqx.nn.Conv1d with a group for each channel
    models.jaxonmodels: {
        "*.in_proj.weight": (32, 128),
        "*.conv1d.weight": (4, 4),
        "*.ssm.input_proj.weight": (64, 8 + 2 * 64),
        "*.ssm.delta_proj.weight": (8, 64),
        "*.out_proj.weight": (64, 32),
        "shared_emb_lm_head.pytree.0.weight": (32, 16),
    },
    # megalodon_jax/layers/attention.py: eqx.nn.Linear of model 16, z 8, value 24, feed-forward 20
    models.megalodon_jax: {
        "model.embed.weight": (16, 37),
        "lm_head.weight": (16, 37),
        "*.attn.wz.weight": (16, 8),
        "*.attn.w[vr].weight": (16, 24),
        "*.attn.wh1.weight": (16, 16),
        "*.attn.wh2.weight": (24, 16),
        "*.ffn.fc1.weight": (16, 20),
        "*.ffn.fc2.weight": (20, 16),
    },
    # esm2quinox/_layer.py: eqx.nn layers under filter_vmap; the embedding is logit_head.linear2's weight
    models.esm2quinox: {
        "*_proj.weight": (16, 16),
        "layers.linear1.weight": (16, 64),
        "layers.linear2.weight": (64, 16),
        "logit_head.linear1.weight": (16, 16),
        "logit_head.linear2.weight": (16, 33),
    },
    # jraph/_src/models.py: an edge sees 7 + two nodes of 5 + globals 2; a node 5 + edges 6 + 6 + 2; globals 4 + 6 + 2
    models.jraph: {"edge.w": (19, 6), "node.w": (19, 4), "globals.w": (12, 3)},
    # ott/neural/networks/layers/posdef.py: tensordot(x, quad_kernel, (-1, 1)), (potential, data, rank); x @ lin_kernel
    models.ott: {
        "w_xs_0.*_kernel": (3, 8),
        "w_xs_1.*_kernel": (3, 9),
        "w_xs_2.*_kernel": (3, 1),
        "pos_def_potentials.*_kernel": (3, 1),
        "w_zs_0.kernel": (8, 9),
        "w_zs_1.kernel": (9, 1),
    },
    # haiku/_src/conv.py: (*kernel, in, out); later blocks of a group, and second convolutions, keep the width
    models.haiku_resnet: {
        "*~/initial_conv.w": (3 * 49, 64 * 49),
        "*group_0/*conv_?.w": (64 * 9, 64 * 9),
        **{
            f"*group_{at}/~/block_0/~/{name}.w": (32 * 2**at * taps, 64 * 2**at * taps)
            for at in range(1, 4)
            for name, taps in {"conv_0": 9, "shortcut_conv": 1}.items()
        },
        **{f"*group_{at}/*conv_?.w": (64 * 2**at * 9, 64 * 2**at * 9) for at in range(1, 4)},
        "*logits.w": (512, 5),
    },
    # haiku/_src/recurrent.py: Linear(4 * hidden) of input and state joined, split in four
    models.haiku_lstm: {"lstm/linear.w": (3 + 5, 5)},
    # evosax/problems/networks/mlp.py: flax.linen.Dense
    models.evosax: {"*Dense_0.kernel": (5, 8), "*Dense_1.kernel": (8, 8), "*Dense_2.kernel": (8, 3)},
}
"""For each model: path → fan_in and fan_out of every weight that is drawn; the first that matches holds."""
