"""Kinds of layers, and which kind a class is of by its name alone, whatever framework it is from."""

from __future__ import annotations

CLASSES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Linear": (("Dense", "DenseGeneral", "Einsum"), ("LinearGeneral",)),
    "Conv": (("Conv",), ("Conv1d", "Conv2d", "Conv3d")),
    "ConvTranspose": (("ConvTranspose",), ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")),
    "ConvLocal": ((), ()),
    "Embedding": (("Embed",), ()),
    "RNNCell": (("LSTMCell", "OptimizedLSTMCell", "GRUCell", "MGUCell", "SimpleCell"), ()),
    "Norm": (("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm"), ()),
    "PReLU": (("PReLU",), ()),
    "Attention": (("SelfAttention", "MultiHeadDotProductAttention", "MultiHeadAttention"), ()),
    "LoRA": ((), ()),
    "WeightNorm": ((), ()),
}
"""Kind → names of classes of Flax Linen, by which it names modules in variables; further names in other frameworks."""

KINDS = tuple(CLASSES)
"""Kinds that the layers of the frameworks have; a declared class may have another."""

LINEN_KINDS = {name: kind for kind, (names, _) in CLASSES.items() for name in names}
"""Class of Flax Linen → its kind."""

KIND_OF = LINEN_KINDS | {name: kind for kind, (_, names) in CLASSES.items() for name in names}
"""Class of any framework → its kind."""
