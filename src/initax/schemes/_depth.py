"""Depth factors: what published recipes multiply the weights of deep networks by, from the number of layers."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable
from typing import Any

from initax._errors import SchemeError, did_you_mean, listing, message

RECIPES: dict[str, Callable[..., float]] = {
    # Radford et al. 2019, section 2.3: 1 / sqrt(N), N the residual sums; a block has two.
    "gpt2": lambda layers: (2 * layers) ** -0.5,
    # Zhang et al. 2019, section 3, rule 2.
    "fixup": lambda branches, branch_layers: branches ** (-1 / (2 * branch_layers - 2)),
    # Huang et al. 2020, section 3.2.
    "t_fixup_encoder": lambda encoder_layers: 0.67 * encoder_layers**-0.25,
    "t_fixup_decoder": lambda decoder_layers: (9 * decoder_layers) ** -0.25,
    # Wang et al. 2022a, figure 2; torchscale multiplies the betas by 1.15, the paper does not.
    "deepnet": lambda layers: (8 * layers) ** -0.25,
    "deepnet_encoder": lambda encoder_layers, decoder_layers: 0.87 * (encoder_layers**4 * decoder_layers) ** (-1 / 16),
    "deepnet_decoder": lambda decoder_layers: (12 * decoder_layers) ** -0.25,
    "deepnet_alpha": lambda layers: (2 * layers) ** 0.25,
    "deepnet_encoder_alpha": lambda encoder_layers, decoder_layers: (
        0.81 * (encoder_layers**4 * decoder_layers) ** (1 / 16)
    ),
    "deepnet_decoder_alpha": lambda decoder_layers: (3 * decoder_layers) ** 0.25,
    # Wang et al. 2022b, figure 2.
    "sub_ln": lambda layers: math.log(2 * layers) ** 0.5,
    "sub_ln_encoder": lambda encoder_layers, decoder_layers: (
        (math.log(3 * decoder_layers) * math.log(2 * encoder_layers) / 3) ** 0.5
    ),
    "sub_ln_decoder": lambda decoder_layers: math.log(3 * decoder_layers) ** 0.5,
}
"""Recipe → its factor, as a function of the sizes it needs."""

LEAST = {"branch_layers": 2}
"""Sizes that have to be more than one: the last layer of a Fixup branch is zero, and another one has to be scaled."""

USUAL = {"layers": 12, "encoder_layers": 6, "decoder_layers": 6, "branches": 8, "branch_layers": 2}
"""What an error writes for a size that is missing."""


def depth_factor(recipe: str, **sizes: int) -> float:
    """Return what a recipe multiplies weights of a deep network by: a factor of the standard deviation.

    It goes with any scheme: `scaled("glorot_normal", depth_factor("gpt2", layers=12))`. Which weights it is for, the
    paper says:

    | recipe | sizes | factor | of |
    |---|---|---|---|
    | `gpt2` | `layers` | (2 N)^-1/2 | projections that end a residual branch |
    | `fixup` | `branches`, `branch_layers` | L^(-1 / (2m - 2)) | a residual branch but its last layer, which is zero |
    | `t_fixup_encoder` | `encoder_layers` | 0.67 N^-1/4 | value, output and feed-forward projections of the encoder |
    | `t_fixup_decoder` | `decoder_layers` | (9 M)^-1/4 | those of the decoder, and all embeddings |
    | `deepnet` | `layers` | (8 N)^-1/4 | value, output and feed-forward projections, encoder or decoder alone |
    | `deepnet_encoder` | `encoder_layers`, `decoder_layers` | 0.87 (N^4 M)^-1/16 | those of an encoder with decoder |
    | `deepnet_decoder` | `decoder_layers` | (12 M)^-1/4 | those of that decoder |
    | `deepnet_alpha` | `layers` | (2 N)^1/4 | the skip connection, in the forward pass |
    | `deepnet_encoder_alpha` | `encoder_layers`, `decoder_layers` | 0.81 (N^4 M)^1/16 | likewise |
    | `deepnet_decoder_alpha` | `decoder_layers` | (3 M)^1/4 | likewise |
    | `sub_ln` | `layers` | (ln 2N)^1/2 | value, output and feed-forward projections, encoder or decoder alone |
    | `sub_ln_encoder` | `encoder_layers`, `decoder_layers` | (ln 3M ln 2N / 3)^1/2 | those of an encoder with decoder |
    | `sub_ln_decoder` | `decoder_layers` | (ln 3M)^1/2 | those of that decoder |

    Args:
        recipe: its name.
        **sizes: the whole numbers it needs. `layers` counts the blocks of an encoder or decoder that stands alone,
            `encoder_layers` and `decoder_layers` those of a pair; `branches` counts a network's residual branches, and
            `branch_layers` the weight layers in one of them.

    Raises:
        SchemeError: the recipe is unknown; a size is missing, not the recipe's, no whole number or too small.

    Examples:
        >>> import initax as ix
        >>> ix.schemes.depth_factor("deepnet", layers=2)
        0.5
        >>> factor = ix.schemes.depth_factor("gpt2", layers=12)
        >>> str(ix.schemes.scaled("glorot_normal", factor).parts["weight"])
        'scaled(glorot_normal, 0.204124)'

    References:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3 (GPT-2); Zhang et al.
        2019, arXiv 1901.09321, section 3 (Fixup); Huang et al. 2020, ICML, section 3.2 (T-Fixup); Wang et al. 2022,
        arXiv 2203.00555, figure 2 (DeepNet); Wang et al. 2022, arXiv 2210.06423, figure 2 (Magneto, Sub-LN).
    """
    if recipe not in RECIPES:
        raise SchemeError(
            message(
                f"depth_factor has no recipe {recipe!r}.",
                did_you_mean(recipe, RECIPES) if isinstance(recipe, str) else "",
                "recipes: " + listing(map(_called, RECIPES), 60),
            )
        )
    needed = tuple(inspect.signature(RECIPES[recipe]).parameters)
    if set(needed) != set(sizes):
        given = f"it was given {listing(sizes)}" if sizes else "it was given none"
        raise SchemeError(
            message(f'the depth factor "{recipe}" needs the sizes {listing(needed)}.', given, f"write {_call(recipe)}")
        )
    return float(RECIPES[recipe](**{name: _whole(recipe, name, sizes[name]) for name in needed}))


def _called(recipe: str) -> str:
    return f"{recipe}({listing(inspect.signature(RECIPES[recipe]).parameters)})"


def _call(recipe: str) -> str:
    sizes = ", ".join(f"{name}={USUAL[name]}" for name in inspect.signature(RECIPES[recipe]).parameters)
    return f'ix.schemes.depth_factor("{recipe}", {sizes})'


def _whole(recipe: str, name: str, value: Any) -> int:
    least = LEAST.get(name, 1)
    try:
        if isinstance(value, bool):
            raise TypeError
        found = operator.index(value)
    except TypeError:
        found = 0
    if found < least:
        raise SchemeError(
            message(
                f'the depth factor "{recipe}": {name} must be a whole number of at least {least}, not {value!r}.',
                f"write {_call(recipe)}",
            )
        )
    return found
