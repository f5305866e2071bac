"""Arguments of klax's convex networks that ours do not have → what to write here."""

from __future__ import annotations

_DRAWN = (
    "weights and biases of all layers are drawn together, by icnn for the activation",
    "leave it out; for another draw write ix.reinit(model, rules, key) afterwards",
)
_BIASED = ("positive weights shift the mean, and the bias of each layer takes that off", "leave it out")
_GATED = ("gates are relu of a linear function of the context, and start open", "leave it out")


def _called(name: str) -> tuple[str, ...]:
    return (f'here it is called "{name}"',)


ANSWERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("weight_init", "bias_init", "constrained_weight_init", "constrained_bias_init"), _DRAWN),
    **dict.fromkeys(("interconnect_weight_init", "interconnect_bias_init", "activation_yu", "activation_xu"), _GATED),
    **dict.fromkeys(("use_bias", "use_final_bias"), _BIASED),
    "use_passthrough": ("every layer sees the input, which is what lets deep networks train", "leave it out"),
    "x_size": _called("in_size"),
    "p_size": _called("context_size"),
    "activation_y": _called("activation"),
    "activation_u": _called("context_activation"),
    "final_activation_y": ("the output is not activated; apply a convex, non-decreasing function to it yourself",),
}
"""Arguments of klax 0.2.0's `FICNN` and `PICNN` by name → what to write where ours lacks the name."""
