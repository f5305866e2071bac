"""Depth factors: what published recipes multiply the weights of deep networks by, from the number of layers."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

from initax._errors import SchemeError, did_you_mean, first_of, listing, with_line
from initax._model._parameter import Parameter
from initax._model._residual import Part, Residual, ResidualStream, unended_texts
from initax._text import mapping_text, path_text

RECIPES: dict[str, Callable[..., float]] = {
    # Radford et al. 2019, section 2.3: 1 / sqrt(N), N the residual sums; a block has two.
    "gpt2": lambda layers: (2 * layers) ** -0.5,
    # Zhang et al. 2019, section 3, rule 2.
    "fixup": lambda branches, branch_layers: branches ** (-1 / (2 * branch_layers - 2)),
    # Huang et al. 2020, section 3.2.
    "t_fixup_encoder": lambda encoder_layers: 0.67 * encoder_layers**-0.25,
    "t_fixup_decoder": lambda decoder_layers: (9 * decoder_layers) ** -0.25,
    # Wang et al. 2022a, figure 2; torchscale has 1.15 = 1 / 0.87 in the encoder of a pair, an inverted constant.
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
    # Dey et al. 2025, table 1, with alpha = 1.
    "complete_p": lambda branches, base_branches: base_branches / branches,
}
"""Recipe → its factor, as a function of the sizes it needs."""

BY_STREAM: dict[str, tuple[str, str, str]] = {
    "deepnet": ("deepnet", "deepnet_encoder", "deepnet_decoder"),
    "t_fixup": ("t_fixup_encoder", "t_fixup_encoder", "t_fixup_decoder"),
    "sub_ln": ("sub_ln", "sub_ln_encoder", "sub_ln_decoder"),
}
"""Recipe without sizes → what it is for a stream alone, for one that another reads, and for one that reads another."""

FORWARD = ("deepnet_alpha", "deepnet_encoder_alpha", "deepnet_decoder_alpha")
"""Recipes for the forward pass, which is there before any trace."""

ENDS: frozenset[Part] = frozenset({"end"})
ALL: frozenset[Part] = frozenset({"end", "inner", "scores"})
PARTS: dict[str, frozenset[Part]] = {"gpt2": ENDS, "complete_p": ENDS}
"""Recipe → what it multiplies of residual branches; anything in one where it is not said."""

LEAST = {"branch_layers": 2}
"""Sizes that have to be more than one: the last layer of a Fixup branch is zero, and another one has to be scaled."""

GIVEN = frozenset({"base_branches"})
"""Sizes that no forward pass tells."""

USUAL = {
    "layers": 12, "encoder_layers": 6, "decoder_layers": 6, "branches": 8, "branch_layers": 2, "base_branches": 4,
}  # fmt: skip
"""What an error writes for a size that is missing."""


def _sizes(recipe: str) -> tuple[str, ...]:
    """The sizes that a recipe needs."""
    return tuple(inspect.signature(RECIPES[recipe]).parameters)


def parts_of(recipe: str) -> frozenset[Part]:
    """Return what a recipe multiplies of residual branches."""
    return PARTS.get(recipe, ALL)


class KnownFactor(float):
    """A depth factor as a number, which knows its recipe.

    Attributes:
        recipe: the recipe.
    """

    recipe: str


@dataclass(frozen=True, slots=True)
class DepthFactor:
    """A depth factor whose sizes a forward pass tells, for each array those of its residual stream.

    Attributes:
        recipe: the recipe.
        sizes: the sizes that are given.
    """

    recipe: str
    sizes: tuple[tuple[str, int], ...] = ()

    def of(self, parameter: Parameter) -> float:
        """Return the factor for one array.

        Raises:
            SchemeError: the forward pass is not known, or does not tell the sizes.
        """
        residual, path = parameter.residual, path_text(parameter.path)
        if residual is None:
            raise self._error(
                "takes the number of residual branches from the forward pass, which is not known.",
                "say what the model is called on, inputs=...",
            )
        if not residual.streams:
            raise self._error(
                "takes the number of residual branches from the forward pass, which has none"
                + (" with a weight as its end:" if residual.unended else "."),
                *first_of(unended_texts(residual.unended)),
            )
        number = self._decoder(residual) if residual.stream is None else residual.stream
        if number is None:
            raise self._error(
                f'takes the number of residual branches from the stream of an array, and "{path}" is in none.',
                'select what is in one: "residual:end", "residual:inner"',
            )
        stream, recipe = residual.streams[number], self.recipe
        readers = [reader for reader in residual.streams if number in reader.reads]
        encoders = [residual.streams[encoder] for encoder in stream.reads]
        if recipe in BY_STREAM:
            recipe = BY_STREAM[recipe][2 if stream.reads else 1 if readers else 0]
        # Two branches are a layer, three where they read another stream.
        counted: dict[str, tuple[ResidualStream | None, int]] = {
            "branches": (stream, 1),
            "layers": (stream, 2),
            "encoder_layers": (_only(encoders) if stream.reads else stream, 2),
            "decoder_layers": (stream if stream.reads else _only(readers), 3),
        }
        sizes: dict[str, float] = dict(self.sizes)
        for name in (name for name in _sizes(recipe) if name not in sizes):
            if name == "branch_layers":
                if residual.layers is None or residual.layers < LEAST[name]:
                    raise self._error(f'needs two weights in a branch, and that of "{path}" has one.')
                sizes[name] = float(residual.layers)
            else:
                sizes[name] = self._branches(name, path, counted[name][0]) / counted[name][1]
        return float(RECIPES[recipe](**sizes))

    def _decoder(self, residual: Residual) -> int | None:
        """The stream that T-Fixup's embeddings go by, which are in no branch: the decoder's."""
        reading = [number for number, stream in enumerate(residual.streams) if stream.reads]
        return reading[0] if self.recipe.startswith("t_fixup") and len(reading) == 1 else None

    def _branches(self, size: str, path: str, stream: ResidualStream | None) -> float:
        """The branches of the stream that a size is counted on."""
        if stream is None:
            which = "an encoder" if size == "encoder_layers" else "a decoder"
            raise self._error(f'needs the stream of {which}, and none goes with that of "{path}".')
        if stream.branches is None:
            raise self._error(
                "needs the number of residual branches, and how often the loop that adds them runs is not known."
            )
        return stream.branches

    def _error(self, what: str, *lines: str) -> SchemeError:
        recipe = BY_STREAM[self.recipe][0] if self.recipe not in RECIPES else self.recipe
        sizes = mapping_text({name: str(USUAL[name]) for name in _sizes(recipe)})
        line = f'or write the sizes: ("{recipe}", {sizes})'
        return SchemeError(f'the depth factor "{self.recipe}" {what}', *lines, line)

    def spec(self) -> Any:
        """Return what JSON keeps of it."""
        return [self.recipe, dict(self.sizes)]

    def __str__(self) -> str:
        """Return the factor as a call: recipe and sizes."""
        inside = ", ".join(f"{name}={value}" for name, value in self.sizes)
        return f"{self.recipe}({inside})" if inside else self.recipe


@overload
def depth_factor(recipe: str) -> DepthFactor: ...
@overload
def depth_factor(recipe: str, **sizes: int) -> float: ...


@with_line("ix.schemes.depth_factor", 'write ix.schemes.depth_factor("gpt2", layers=12)')
def depth_factor(recipe: str, **sizes: int) -> float | DepthFactor:
    """Return what a recipe multiplies weights of a deep network by: a factor of the standard deviation.

    It goes with any scheme: `scaled("glorot_normal", depth_factor("gpt2", layers=12))`. Without sizes it is not a
    number yet: a plan takes them from the forward pass, for each array those of the residual stream that it is in. Two
    branches are a block then, three where the stream reads another one; `deepnet`, `t_fixup` and `sub_ln` are those of
    an encoder or a decoder where there are both. Which weights it is for, the paper says:

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
    | `deepnet_encoder_alpha` | `encoder_layers`, `decoder_layers` | 0.81 (N^4 M)^1/16 | that of a paired encoder |
    | `deepnet_decoder_alpha` | `decoder_layers` | (3 M)^1/4 | that of its decoder |
    | `sub_ln` | `layers` | (ln 2N)^1/2 | value, output and feed-forward projections, encoder or decoder alone |
    | `sub_ln_encoder` | `encoder_layers`, `decoder_layers` | (ln 3M ln 2N / 3)^1/2 | those of an encoder with decoder |
    | `sub_ln_decoder` | `decoder_layers` | (ln 3M)^1/2 | those of that decoder |
    | `complete_p` | `branches`, `base_branches` | base / L | projections that end a residual branch |

    Args:
        recipe: its name.
        **sizes: the whole numbers it needs. `layers` counts the blocks of an encoder or decoder that stands alone,
            `encoder_layers` and `decoder_layers` those of a pair; `branches` counts a network's residual branches, and
            `branch_layers` the weight layers in one of them; `base_branches` counts those of the model whose learning
            rate is taken over.

    Returns:
        The factor; or, without sizes, what a plan makes it of.

    Raises:
        SchemeError: the recipe is unknown; a size is missing, not the recipe's, no whole number or too small.

    Examples:
        >>> import initax as ix
        >>> ix.schemes.depth_factor("deepnet", layers=2)
        0.5
        >>> factor = ix.schemes.depth_factor("gpt2", layers=12)
        >>> str(ix.schemes.scaled("glorot_normal", factor).parts["weight"])
        'scaled(glorot_normal, 0.204124)'
        >>> str(ix.schemes.scaled("glorot_normal", ix.schemes.depth_factor("gpt2")).parts["weight"])
        'scaled(glorot_normal, gpt2)'

    References:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3 (GPT-2); Zhang et al.
        2019, arXiv 1901.09321, section 3 (Fixup); Huang et al. 2020, ICML, section 3.2 (T-Fixup); Wang et al. 2022,
        arXiv 2203.00555, figure 2 (DeepNet); Wang et al. 2022, arXiv 2210.06423, figure 2 (Magneto, Sub-LN); Dey et al.
        2025, arXiv 2505.01618, table 1 (CompleteP; the multiplier of its branches, as a factor of what ends them).
    """
    if not isinstance(recipe, str) or recipe not in (*RECIPES, *BY_STREAM):
        raise SchemeError(
            f"depth_factor has no recipe {recipe!r}.",
            did_you_mean(recipe, (*RECIPES, *BY_STREAM)) if isinstance(recipe, str) else "",
            "recipes: " + listing((f"{name}({listing(_sizes(name))})" for name in RECIPES), 60),
        )
    untraced = GIVEN & set(_sizes(recipe)) if recipe in RECIPES else set()
    if recipe not in FORWARD and set(sizes) == untraced:
        return DepthFactor(recipe, tuple((name, _whole(recipe, name, size)) for name, size in sizes.items()))
    if recipe not in RECIPES:
        raise SchemeError(
            f'the depth factor "{recipe}" takes its sizes from the forward pass; it was given {listing(sizes)}.',
            "write " + " or ".join(map(_call, dict.fromkeys(BY_STREAM[recipe]))),
        )
    needed = _sizes(recipe)
    if set(needed) != set(sizes):
        given = f"it was given {listing(sizes)}" if sizes else "it was given none"
        raise SchemeError(
            f'the depth factor "{recipe}" needs the sizes {listing(needed)}.', given, f"write {_call(recipe)}"
        )
    factor = KnownFactor(RECIPES[recipe](**{name: _whole(recipe, name, sizes[name]) for name in needed}))
    factor.recipe = recipe
    return factor


def _only(streams: list[ResidualStream]) -> ResidualStream | None:
    """A stream that has none beside it."""
    return streams[0] if len(streams) == 1 else None


def _call(recipe: str) -> str:
    sizes = ", ".join(f"{name}={USUAL[name]}" for name in _sizes(recipe))
    return f'ix.schemes.depth_factor("{recipe}", {sizes})'


def _whole(recipe: str, name: str, value: Any) -> int:
    least = LEAST.get(name, 1)
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < least:
        raise SchemeError(
            f'the depth factor "{recipe}": {name} must be a whole number of at least {least}, not {value!r}.',
            f"write {_call(recipe)}",
        )
    return number
