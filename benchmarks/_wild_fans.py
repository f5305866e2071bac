"""Fans of other people's models, written from the code of their packages: a weight's shape, and what multiplies it."""

from benchmarks import _wild_models as models

SWIN = {
    "features.layers.0.layers.0.weight": (3 * 16, 8 * 16),
    **{
        f"features.layers.{stage}.layers.*.{name}.weight": fans
        for stage, width in {1: 8, 3: 16}.items()
        for name, fans in {
            "attn.qkv": (width, 3 * width),
            "attn.proj": (width, width),
            "mlp.layers.0": (width, 4 * width),
            "mlp.layers.3": (4 * width, width),
        }.items()
    },
    "features.layers.2.reduction.weight": (4 * 8, 16),
    "head.weight": (16, 5),
}

LEVELS = {"down_0": 8, "down_1": 8, "middle": 16, "up_0": 16, "up_1": 8}
BLOCKS = {
    "down_0_residual_0": (8, 8),
    "down_1_residual_0": (8, 8),
    "middle_res1_0": (8, 16),
    "middle_res2_0": (16, 16),
    "up_0_residual_0": (24, 16),
    "up_1_residual_0": (16, 8),
    "final_residual": (16, 8),
}
"""Levels and blocks of flaxdiff's U-Net: widths, inputs and outputs."""

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
        "blocks.proj_out.weight": (16, 12),  # a shift and a logarithm of a scale
    },
    # equimo/core/layers/mamba.py: eqx.nn.Linear to gate and x of 2 dim, B and C of 128, a step for each head of 16;
    # eqx.nn.Conv with a group for each channel; vision/layers: a stem of 8, 64, 16; downsampling through 8 dim
    models.equimo_vssd: {
        "patch_embed.conv1.conv.weight": (3 * 9, 8 * 9),
        "patch_embed.conv2.*.conv.weight": (8 * 9, 8 * 9),
        "patch_embed.conv3.layers.0.conv.weight": (8 * 9, 64 * 9),
        "patch_embed.conv3.layers.1.conv.weight": (64, 16),
        "*.cpe?.weight": (9, 9),
        "*.attn.conv.weight": (4, 4),
        **{f"blocks.{at}.*.in_proj.weight": (16 * 2**at, 64 * 2**at + 256 + 2 * 2**at) for at in range(3)},
        **{f"blocks.{at}.*.out_proj.weight": (32 * 2**at, 16 * 2**at) for at in range(3)},
        "blocks.3.*.attn.qkv.weight": (128, 3 * 128),
        "blocks.3.*.attn.proj.weight": (128, 128),
        **{f"blocks.{at}.*.mlp.fc1.weight": (16 * 2**at, 64 * 2**at) for at in range(4)},
        **{f"blocks.{at}.*.mlp.fc2.weight": (64 * 2**at, 16 * 2**at) for at in range(4)},
        **{f"blocks.{at}.downsample.conv1.conv.weight": (16 * 2**at, 128 * 2**at) for at in range(3)},
        "*.downsample.conv2.conv.weight": (9, 9),
        **{f"blocks.{at}.downsample.conv3.conv.weight": (128 * 2**at, 32 * 2**at) for at in range(3)},
        "head.weight": (128, 10),
    },
    # jaxonmodels/models/swin_transformer.py: eqx.nn.Linear, and jaxonlayers' BatchedLinear, x @ weight.T
    models.jaxonmodels: SWIN,
    # the same, and cpb_mlp: two coordinates to 512 to a number for each of two heads
    models.jaxonmodels_v2: SWIN | {"*.cpb_mlp_ln1.weight": (2, 512), "*.cpb_mlp_ln2.weight": (512, 2)},
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
    # mamba2_jax/modeling.py: nnx.Linear to 2 * (32 + 6) + 4 outputs, in unequal parts; nnx.Conv of one input a group
    models.mamba2: {
        "backbone.embedder.embedding": (16, 29),
        "*.in_proj.kernel": (16, 80),
        "*.conv1d.conv.kernel": (4, 4),
        "*.out_proj.kernel": (32, 16),
        "lm_head.kernel": (16, 29),
    },
    # memax/equinox/semigroups/lru.py: lax.complex(B_re, B_im) @ x and the same of C, each (out, in)
    models.memax_lru: {"[BC]_*": (5, 5)},
    # memax/equinox/semigroups/ffm.py: eqx.nn.Linear; mix takes real and imaginary parts of four traces by three lengths
    models.memax_ffm: {
        "pre.weight": (5, 4),
        "gate_in.linear.weight": (5, 4),
        "gate_out.linear.weight": (5, 5),
        "mix.weight": (2 * 4 * 3, 5),
    },
    # noxton/nn/sequential.py: a (head, out, in) for each gate; xlstm.py turns (head, in, gate, out) into outputs by in
    models.noxton: {
        "conv1d.conv.weight": (4, 4),
        "?gate.weight": (6, 6),
        "slstm_cell.recurrent_kernel": (6, 6),
    },
    # eqx_zoo/layers: eqx.nn.Linear; experts (expert, out, in), turned round for ragged_dot; heads of six, four and two
    models.eqx_zoo: {
        "model.embed_tokens.weight": (16, 29),
        "*.q_proj.weight": (16, 24),
        "*.[kv]_proj.weight": (16, 12),
        "*.o_proj.weight": (24, 16),
        "*.layers.0.mlp.gate_proj.weight": (16, 20),
        "*.layers.0.mlp.up_proj.weight": (16, 20),
        "*.layers.0.mlp.down_proj.weight": (20, 16),
        "*.mlp.gate.weight": (16, 3),
        "*.experts.gate_proj.weight": (16, 12),
        "*.experts.up_proj.weight": (16, 12),
        "*.experts.down_proj.weight": (12, 16),
        "lm_head.weight": (16, 29),
    },
    # nequix/model.py: jnp.dot(x, weights); e3nn_jax/_src/linear.py: multiplicities in by multiplicities out, for each
    # species where it is indexed. The last radial weight goes to 3 scalars and 3 vectors, in layer 1 to 11 scalars
    models.nequix: {
        "*.radial_mlp.layers.0.weights": (4, 9),
        "*.radial_mlp.layers.1.weights": (9, 9),
        "layers.0.radial_mlp.layers.2.weights": (9, 3),
        "layers.1.radial_mlp.layers.2.weights": (9, 11),
        "layers.0.linear_1.*": (3, 3),
        "layers.0.linear_2.*11x0e": (3, 11),
        "layers.0.linear_2.*5x1o": (3, 5),
        "layers.0.skip.*": (3, 11),
        "layers.1.linear_1.*6x0e": (6, 6),
        "layers.1.linear_1.*5x1o": (5, 5),
        "layers.1.linear_2.*": (11, 6),
        "layers.1.skip.*": (6, 6),
        "readout.*": (6, 1),
    },
    # e3x/nn/modules.py: flax.linen.Dense along features, one for each degree and parity; the embedding is (n, 1, 1, 6)
    models.e3x: {
        "*Embed_0.embedding": (6, 9),
        "*.filter.*.kernel": (5, 6),
        "*relative_positional_encoding.kernel": (5, 24),
        "*Dense_4.kernel": (6, 1),
        "*Dense_?.*.kernel": (6, 6),
        "*SelfAttention_0.*.kernel": (6, 6),
    },
    # jraphx/nn/conv/gat_conv.py, transformer_conv.py: flax.nnx.Linear; three heads of four
    models.jraphx_attention: {"lin.kernel": (5, 12), "lin_edge.kernel": (2, 12), "res.kernel": (5, 12)},
    models.jraphx_transformer: {
        "lin_qkv.kernel": (5, 36),
        "lin_edge.kernel": (2, 12),
        "lin_skip.kernel": (5, 12),
        "lin_beta.kernel": (36, 1),
    },
    # norax/layers.py: "...i,ji->...j", and "oiab,abi->abo" for each mode
    models.norax: {
        "lift.hidden_layers.0.weight": (3, 10),
        "lift.output_layer.weight": (10, 5),
        "project.hidden_layers.0.weight": (5, 10),
        "project.output_layer.weight": (10, 2),
        "*.spectral.weights_*": (5, 5),
        "*.linear.weight": (5, 5),
    },
    # neojax/nn/mlp.py: weights (out, in); tensor/tucker_tensor.py: a factor (out, rank), the next (in, rank), for each
    # of two corners; fno_blocks.py: eqx.nn.Conv1d of size one
    models.neojax: {
        "*.lifting.weights.0": (3, 12),
        "*.lifting.weights.1": (12, 6),
        "*.factor_matrices.[04]": (3, 6),
        "*.factor_matrices.[15]": (6, 3),
        "*.local_operator.conv.weight": (6, 6),
        "*.channel_mlps.?.weights.0": (6, 3),
        "*.channel_mlps.?.weights.1": (3, 6),
        "*.projection.weights.0": (6, 12),
        "*.projection.weights.1": (12, 2),
    },
    # jaxkan/layers/Spline.py: matmul with (5, 3 * 7).T; "ij,ijk->ik" for 15 edges of 7, added up over 3 for each node
    models.jaxkan_splines: {"c_basis": (3 * 7, 5), "c_res": (3, 5)},
    models.jaxkan_edges: {"c_basis": (3 * 7, 1)},
    models.jaxkan_weighted: {"c_res": (3, 5)},
    # jaxkan/layers/Fourier.py: "ijk,ikm->ijm" for each of three inputs and four waves, added up
    models.jaxkan_fourier: {"c_*": (3 * 4, 5)},
    # flaxdiff/models/simple_dit.py, vit_common.py: flax.linen's Dense, DenseGeneral and Conv
    models.flaxdiff: {
        "*patch_embed.Conv_0.kernel": (3 * 16, 16 * 16),
        "*time_embed.layers_1.DenseGeneral_0.kernel": (16, 64),
        "*time_embed.layers_1.DenseGeneral_1.kernel": (64, 64),
        "*time_embed.layers_2.kernel": (64, 16),
        "*text_context_proj.kernel": (12, 16),
        "*.ada_proj.kernel": (16, 6 * 16),
        "*.attention.to_*.kernel": (16, 16),
        "*.mlp.layers_0.kernel": (16, 64),
        "*.mlp.layers_2.kernel": (64, 16),
        "*final_proj.kernel": (16, 3 * 16),
    },
    # flaxdiff/models/simple_unet.py: levels of 8 and 16; on the way up what was kept is joined to what comes
    models.flaxdiff_unet: {
        "*TimeProjection_0.*.kernel": (16, 16),
        "*down_0_downsample.*.kernel": (8 * 9, 8 * 9),
        "*up_0_upsample.*.kernel": (16 * 9, 8 * 9),
        "*ConvLayer_0.conv.kernel": (3 * 9, 8 * 9),
        "*ConvLayer_1.conv.kernel": (8 * 9, 8 * 9),
        "*ConvLayer_2.conv.kernel": (8 * 9, 3 * 9),
        **{f"*{level}_attention_0.*.to_[kv].kernel": (12, width) for level, width in LEVELS.items()},
        **{f"*{level}_attention_0.*.kernel": (width, width) for level, width in LEVELS.items()},
        **{
            f"*{block}.{name}.kernel": fans
            for block, (inputs, outputs) in BLOCKS.items()
            for name, fans in {
                "conv1.conv": (9 * inputs, 9 * outputs),
                "conv2.conv": (9 * outputs, 9 * outputs),
                "temb_projection": (16, outputs),
                "residual_conv.conv": (inputs, outputs),
            }.items()
            if name != "residual_conv.conv" or inputs != outputs
        },
    },
    models.evosax: {"*Dense_0.kernel": (5, 8), "*Dense_1.kernel": (8, 8), "*Dense_2.kernel": (8, 3)},
}
"""For each model: path → fan_in and fan_out of every weight that is drawn; the first that matches holds."""
