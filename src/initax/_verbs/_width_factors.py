"""What each array needs when a model gets wider: factors of its standard deviation and of its learning rate."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from initax._errors import ModelError, RuleError, listing, shown
from initax._math._axes import Axes
from initax._math._axis_names import RECEPTIVE, STACK_NAMES
from initax._model._parameter import Evidence, Layer, Parameter
from initax._model._reason import Why
from initax._planning._label_rules import ArrayLabel
from initax._text import path_text
from initax._verbs._labels import never_trained

OPTIMIZERS = ("adam", "adamw", "sgd", "muon")

ODD = 0.1
"""A size that grows by less than this power of what the others grow by is not a width: 50,257 rows padded to 50,304."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """What takes the steps.

    Attributes:
        name: one of `OPTIMIZERS`.
        rules: for Muon, which arrays it is for, as `ix.muon` takes them.
        consistent_rms: for Muon, whether updates are scaled so that their entries have one size.
    """

    name: str
    rules: Any = None
    consistent_rms: bool = False

    @classmethod
    def read(cls, given: Any) -> Optimizer:
        """Return an optimizer as it is written: its name, or Muon's with options.

        Raises:
            RuleError: it is another one, or has other options.
        """
        name, options = given if isinstance(given, tuple | list) and len(given) == 2 else (given, {})
        known = isinstance(name, str) and name in OPTIMIZERS
        allowed = {"rules", "consistent_rms"} if name == "muon" else set()
        if known and isinstance(options, Mapping) and set(options) <= allowed:
            rms = options.get("consistent_rms")
            return cls(name=name, rules=options.get("rules"), consistent_rms=rms is not None and rms is not False)
        raise RuleError(
            f"mup: optimizer must be one of {listing(OPTIMIZERS)}, not {shown(given)}.",
            'what is updated entry by entry as Adam does, e.g. Lion, is "adam"; plain gradients are "sgd"',
            'Muon with options: ("muon", {"rules": {"head": False}, "consistent_rms": 0.2})',
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        options = {"rules": self.rules, "consistent_rms": self.consistent_rms} if self.name == "muon" else {}
        return {"name": self.name, **options}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """By how much the sizes of one array grow.

    Attributes:
        axes: name of each axis that grows → its factor.
        inputs: how many times as many inputs an output has.
        outputs: how many times as many outputs there are, all batch entries together.
    """

    axes: Mapping[str, float]
    inputs: float = 1.0
    outputs: float = 1.0


def glob_of(path: str) -> str:
    """Return a path with a wildcard for each of its numbers."""
    return ".".join("*" if part.isdigit() else part for part in path.split("."))


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthFactor:
    """What one array needs when the model gets wider.

    Attributes:
        parameter: the array, in the wide model.
        kind: kind of its layer.
        base_path: its path in the base model, another one where that has another depth.
        base_shape: its shape there.
        grows: name of each axis that grows → by how much.
        use: what it is to the network: `"hidden"`, `"output"`, `"input"`, `"vector"`, `"fixed"`.
        std: what its standard deviation is multiplied with, relative to the base model's.
        learning_rate: what its learning rate is multiplied with.
        why: the reason, in words.
    """

    parameter: Parameter
    kind: str
    base_path: str
    base_shape: tuple[int, ...]
    grows: Mapping[str, float]
    use: str
    std: float
    learning_rate: float
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data, as `Width.to_dict` holds it, with its path."""
        parameter = self.parameter
        return {
            "path": parameter.path,
            "kind": self.kind,
            "role": parameter.role,
            "shape": list(parameter.shape),
            "axes": None if parameter.axes is None else parameter.axes.pattern,
            "base_path": self.base_path,
            "base_shape": list(self.base_shape),
            "grows": dict(self.grows),
            **{name: getattr(self, name) for name in ("use", "std", "learning_rate", "why")},
        }


@dataclass(frozen=True)
class Pair:
    """One array in the base model and in the wide one.

    Attributes:
        base: the array in the base model.
        layer: its layer in the wide model.
        parameter: the array there.
        label: the label that a rule gives it.
        deepens: whether the models may have other depths.
    """

    base: Parameter
    layer: Layer
    parameter: Parameter
    label: ArrayLabel | None
    deepens: bool = False

    @property
    def word(self) -> str | None:
        """What a rule says it is to the network."""
        return self.label.value if self.label is not None and isinstance(self.label.value, str) else None

    @property
    def text(self) -> str:
        """The array with both shapes."""
        old, new = self.base.shape, self.parameter.shape
        return f"{path_text(self.parameter.path)} {old}" + (f" → {new}" if old != new else "")

    @functools.cached_property
    def grown(self) -> Grown:
        """By how much its sizes grow.

        Raises:
            ModelError: its axes are not known, differ, or a size grows that is not a width.
            AxesError: restated axes do not fit.
        """
        old, new = self.base, self.parameter
        if old.shape == new.shape:
            return Grown(axes={})
        if len(old.shape) != len(new.shape):
            raise ModelError(f"mup: {self.text} has another number of axes in the two models.")
        asked = self.label if self.label is not None and isinstance(self.label.value, Mapping) else None
        before, after = (array.axes if asked is None else asked.axes("mup", array) for array in (old, new))
        if before is None or after is None:
            return self._without_axes()
        if before.names != after.names:
            raise ModelError(
                f'mup: {self.text} is "{before.pattern}" in the base and "{after.pattern}" in the model.',
                f'say its axes: rules={{"{new.path}": "{after.pattern}"}}',
            )
        if self.word is None:
            self._refuse_no_width(before, after)
        # Entries of the window share a name. Stacks do not count where they are depth.
        names = [f"window {axis}" if name == RECEPTIVE else name for axis, name in enumerate(after.names)]
        ratios = [
            1.0 if self.deepens and name in STACK_NAMES else wide / narrow
            for name, narrow, wide in zip(names, before.split, after.split, strict=True)
        ]
        sides = (after.in_axis, after.out_axis, after.batch_axis)
        inputs, outputs, batch = (math.prod(ratios[axis] for axis in side) for side in sides)
        if new.role == "embedding" and self.word in (None, "input", "tied"):
            # Rows are looked up, along what the pattern calls outputs, and what it calls inputs comes out.
            inputs, outputs = outputs, inputs
        growing = {name: ratio for name, ratio in zip(names, ratios, strict=True) if ratio != 1}
        return Grown(axes=growing, inputs=inputs, outputs=outputs * batch)

    def _without_axes(self) -> Grown:
        """An array whose axes are not known: a vector is one however it is used, and a word may say what it is."""
        old, new = self.base, self.parameter
        ratios = [after / before for before, after in zip(old.shape, new.shape, strict=True)]
        axes = {f"axis {axis}": ratio for axis, ratio in enumerate(ratios) if ratio != 1}
        size = math.prod(axes.values())
        stands = new.excluded is not None and new.excluded.why is Why.SIGNAL and len(axes) == 1
        if self.word in ("input", "fixed") or stands:
            return Grown(axes=axes, outputs=size)
        if self.word in ("hidden", "output") and len(set(axes.values())) == 1:
            growth = next(iter(axes.values()))
            return Grown(axes=axes, inputs=growth, outputs=size / growth)
        say = "" if new.residual is not None else "say what the model is called on, inputs=..."
        raise ModelError(
            f"mup: the axes of {self.text} are not known.", str(new.excluded or ""), say, *self._lines_to_say(len(axes))
        )

    def _lines_to_say(self, growing: int) -> list[str]:
        """Lines that say what an array is: an output if what grows is summed over, an input if it is not."""
        path, rank = self.parameter.path or "*", len(self.parameter.shape)
        pattern = "i o" if rank == 2 else " ".join(["i", *(f"o{axis}" for axis in range(1, rank))])
        if growing == 1:
            line = f'where the forward pass sums over the axis that grows: rules={{"{path}": "output"}}'
        else:
            line = f'say its axes, with i for what the forward pass sums over: rules={{"{path}": "{pattern}"}}'
        return [line, f'where it sums over no such axis, as for positions and biases: rules={{"{path}": "input"}}']

    def _refuse_no_width(self, before: Axes, after: Axes) -> None:
        """Raise where a size grows that is not a width: a window, a stack, rows that are looked up."""
        what = instead = ""
        for axis, (name, old, new) in enumerate(zip(after.names, before.split, after.split, strict=True)):
            if old == new:
                continue
            if axis in after.receptive_axis:
                what = "its window grows"
            elif axis in after.batch_axis and not self._is_group(name):
                what = f'axis "{name}" holds layers of their own, {old} → {new}'
                instead = "hidden"
            elif self.parameter.role == "embedding" and axis in after.out_axis:
                what, instead = f"there are {old} → {new} rows to look up", "input"
        if what:
            raise ModelError(
                f"mup: {self.text}: {what}, which is not a width.",
                "a size that is not a width is the same in both models",
                f'or say what the array is: rules={{"{self.parameter.path}": "{instead}"}}' if instead else "",
            )

    def _is_group(self, name: str) -> bool:
        """Whether an axis is that of the groups of a convolution, whose number may grow with the channels."""
        is_stack = name in STACK_NAMES and self.parameter.evidence is not Evidence.TRACED
        deepens = self.deepens and name in STACK_NAMES and self.parameter.residual is not None
        return deepens or (self.layer.kind.startswith("Conv") and self.label is None and not is_stack)


def decided(
    pair: Pair,
    folds: Iterable[tuple[float, str]],
    optimizer: Optimizer,
    muon: tuple[Axes, Axes] | None,
    depth: float = 1.0,
) -> WidthFactor:
    """Return what an array needs.

    Args:
        pair: the array in both models.
        folds: factors that stand, or should stand, in the forward pass and that it takes over, each with what it is.
        optimizer: what takes the steps.
        muon: its axes in both models, where Muon makes its updates orthogonal.
        depth: what its learning rate is multiplied with because there are more residual branches.
    """
    grown = pair.grown
    use, why = _use(pair)
    std = {"hidden": grown.inputs**-0.5, "output": 1 / grown.inputs}.get(use, 1.0)
    if use == "fixed":
        rate = 1.0
    elif muon is not None:
        rate = _orthogonal(*muon, optimizer)
        why += "; Muon: √(outputs / inputs)"
    elif optimizer.name == "sgd":
        rate = {"hidden": 1.0, "output": 1 / grown.inputs}.get(use, grown.outputs)
    else:
        rate = 1 / grown.inputs if use in ("hidden", "output") else 1.0
    for factor, reason in folds:
        std *= factor
        rate *= factor ** (2 if optimizer.name == "sgd" else 1)
        why += f"; {reason}"
    if depth != 1:
        why += f"; in {pair.parameter.residual or 'a branch'}"
    return WidthFactor(
        parameter=pair.parameter,
        kind=pair.layer.kind,
        base_path=pair.base.path,
        base_shape=pair.base.shape,
        grows=grown.axes,
        use=use,
        std=std,
        learning_rate=rate * depth,
        why=why,
    )


WORDS = {
    "hidden": "hidden: inputs and outputs grow",
    "output": "output: its inputs grow, its outputs do not",
    "input": "input: its inputs do not grow",
    "vector": "vector: an entry for each unit",
}


def _use(pair: Pair) -> tuple[str, str]:
    """What an array is to the network, and why."""
    grown = pair.grown
    if pair.word is not None and pair.label is not None:
        word = {"query": "hidden", "tied": "input"}.get(pair.word, pair.word)
        return word, f'{word}: rule "{pair.label.rule}"'
    if never_trained(pair.parameter):
        return "fixed", str(pair.parameter.excluded)
    if not grown.axes:
        return "fixed", "no axis grows"
    is_vector = pair.parameter.role in ("bias", "scale")
    if pair.parameter.role == "embedding" and grown.inputs == 1:
        return "input", "input: rows are looked up, and what comes out grows"
    use = "vector" if is_vector else "input" if grown.inputs == 1 else "output" if grown.outputs == 1 else "hidden"
    return use, WORDS[use]


def _orthogonal(before: Axes, after: Axes, optimizer: Optimizer) -> float:
    """What the learning rate of an orthogonal update is multiplied with.

    An update of a layer changes its outputs by one size at every width if its spectral norm goes with
    (outputs / inputs)^1/2 (Yang et al. 2023, condition 1). Muon's is that of an orthogonal matrix times what optax
    scales it with: max(1, outputs / inputs)^1/2, or, with `consistent_rms`, max(inputs, outputs)^1/2.
    """

    def wanted_over_given(axes: Axes) -> float:
        *field, inputs, outputs = axes.canonical_shape
        inputs *= math.prod(field)
        given = max(inputs, outputs) if optimizer.consistent_rms else max(1.0, outputs / inputs)
        return math.sqrt(outputs / inputs / given)

    return wanted_over_given(after) / wanted_over_given(before)


def refuse_odd(pairs: Iterable[Pair]) -> None:
    """Raise where a size grows by another order of magnitude than the others, or shrinks where they grow.

    Raises:
        ModelError: such a size grows, or one shrinks.
    """
    ratios = [(pair, name, ratio) for pair in pairs for name, ratio in pair.grown.axes.items()]
    largest = max((math.log(ratio) for _, _, ratio in ratios), key=abs, default=0.0)
    for pair, name, ratio in ratios:
        if pair.word is None and math.log(ratio) / largest < ODD:
            raise ModelError(
                f'mup: {pair.text}: axis "{name}" grows by {ratio:.4g}, others by {math.exp(largest):.4g}.',
                "a size that is not a width is the same in both models",
                f'or say what the array is: rules={{"{pair.parameter.path}": "output"}}',
            )
