"""muP of a whole model: what initialization and optimizer need at another width, read off a narrow and a wide model."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from initax._errors import ModelError, RuleError, first_of, listing, shown, with_line
from initax._math._axes import Axes
from initax._model._parameter import WEIGHT_ROLES, Ancestor, Layer, Parameter
from initax._model._residual import Unended, unended_texts
from initax._model._survey import Survey, Traced, arrays_of, parameters_by_path, shape_text
from initax._planning._label_rules import decide_labels
from initax._text import path_text
from initax._trace._jaxpr import Place
from initax._trace._signal_products import OTHER, SignalProduct, signal_products
from initax._trace._take_survey import survey
from initax._trace._width_changes import growing_sums
from initax._verbs._labels import read_rules_of
from initax._verbs._muon import matrices_of
from initax._verbs._width import CLOSE, Width
from initax._verbs._width_compared import Compared, Folds, can_take, with_owners
from initax._verbs._width_factors import Optimizer, Pair, decided, glob_of, refuse_odd

QUERY = re.compile(r"(^|[._])(w?q|q(uer(y|ies))?_?\w*|\w*_q)([._]|$)", re.IGNORECASE)
"""Names of what makes queries. Which side of attention's logits takes over their factor is a matter of taste."""

NARROWER = "the model is narrower than the base: the base comes first, ix.mup(base, model)"
SAME = "the two models have the same sizes: nothing grows, and every factor is one"

DECAY = (
    "weight decay: learning rate × decay is the same at every width, so it stands behind the factors: "
    "optax.chain(optax.scale_by_adam(), width.scale_updates(), optax.add_decayed_weights(decay), "
    "optax.scale_by_learning_rate(lr))"
)


@with_line("ix.mup", "write ix.mup(make(64), make(256)): a narrow and a wide model of one function")
def mup(
    base: Any,
    model: Any,
    rules: Any = None,
    *,
    optimizer: Any = "adam",
    depth: float | None = None,
    attention: bool = True,
    inputs: Any = None,
    forward: Callable[..., Any] | None = None,
    module: Any = None,
) -> Width:
    """Return what every array of a model needs so that hyperparameters found on a narrow one are right for it.

    Every axis whose size differs between the two models is a width. From how many times as many inputs and outputs each
    weight has follow factors of its standard deviation and of its learning rate. Nothing in the forward pass changes:
    what muP writes there, 1/d instead of d^-1/2 in attention, is taken over by initialization and learning rate of the
    weights behind it, and what the forward pass itself multiplies by with the width is seen and made up for.

    | weight | standard deviation | Adam | SGD |
    |---|---|---|---|
    | hidden: inputs and outputs grow | m_in^-1/2 | 1 / m_in | 1 |
    | output: only inputs grow | 1 / m_in | 1 / m_in | 1 / m_in |
    | input, embedding, bias, scale | 1 | 1 | m_out |
    | query, where heads grow by m_d | × m_d^-1/2 | × m_d^-1/2 | × 1 / m_d |

    Muon's updates are orthogonal, and the learning rate of a matrix goes with (m_out / m_in)^1/2 over what optax scales
    them by; arrays that Muon leaves to Adam are as above.

    Args:
        base: the narrow model, for which hyperparameters are known. Both models may be abstract, `jax.eval_shape`.
        model: the wide model, of the same structure.
        rules: selector → what an array is, where that can't be told or should be otherwise: `"hidden"`, `"output"`,
            `"input"` (its inputs do not grow), `"query"` (it takes over the factor of attention's logits), `"tied"` (an
            embedding that is read out; the norm before the readout takes over the output's factor), `"fixed"`; or the
            axes of a weight, `"i o"`, `{"axes": "(part o) i", "sizes": {"part": 3}}`. Or the path of a file of these.
        optimizer: `"adam"`, or whatever else divides updates by their size entry by entry; `"adamw"`; `"sgd"`;
            `"muon"`, or `("muon", {"rules": {"head": False}, "consistent_rms": 0.2})` with what `ix.muon` is given.
        depth: where the models have other numbers of residual branches, too, the exponent α of CompleteP: with L times
            as many, what ends a branch gets L^-α, and the learning rates of all that is in one L^(α - 1). The paper's
            is 1. Needs `inputs`, and Adam or Muon.
        attention: whether sums over products of two signals, attention's logits, are to be divided by what they sum
            over. `False` leaves them as the forward pass has them.
        inputs: what both models are called on, abstract or not. Attention, tied embeddings and undeclared arrays
            are read off a trace.
        forward: function of a model and the inputs, where a plain call is not it.
        module: for variables of Flax Linen, the two modules: `(narrow, wide)`.

    Returns:
        The factors; `print` them for a table.

    Raises:
        ModelError: the models have other arrays, a size grows that is not a width, or what an array is can't be told.
        RuleError: a rule is wrong, or the optimizer is another one.
        AxesError: restated axes do not fit.

    Examples:
        >>> import equinox as eqx, jax, initax as ix, optax
        >>> def make(width):
        ...     return eqx.nn.MLP(8, 4, width, depth=2, key=jax.random.key(0))
        >>> width = ix.mup(make(64), make(256))
        >>> [(row.use, row.std, row.learning_rate) for row in width.rows if row.parameter.role == "weight"]
        [('input', 1.0, 1.0), ('hidden', 0.5, 0.25), ('output', 0.25, 0.25)]
        >>> model = ix.reinit(make(256), width.rules({"Linear": "lecun_normal"}), jax.random.key(1))
        >>> optimizer = optax.chain(optax.adam(1e-3), width.scale_updates())

    References:
        Yang et al. 2022, "Tensor Programs V", arXiv 2203.03466, tables 3 and 8, definition 4.1 for attention; Yang,
        Simon and Bernstein 2023, "A Spectral Condition for Feature Learning", arXiv 2310.17813, condition 1, for Muon;
        Dey et al. 2025, "Don't be lazy: CompleteP", arXiv 2505.01618, table 1, for depth.
    """
    steps = Optimizer.read(optimizer)
    first, second = _modules(module)
    before = survey(base, inputs=inputs, forward=forward, module=first)
    after = survey(model, inputs=inputs, forward=forward, module=second)
    deepens = _is_depth(depth, steps, after)
    pairs = _paired(before, after, rules, deepens=deepens)
    _refuse_grown_data(before, after)
    refuse_odd(pairs.values())
    folds, rates, unmade_for = _folded(before, after, pairs, attention=attention, depth=depth)
    matrices = _matrices(before, after, steps, pairs)
    rows = {
        path: decided(pair, folds.get(path, ()), steps, matrices.get(path), rates.get(path, 1.0))
        for path, pair in pairs.items()
    }
    rows = with_owners(rows, pairs)
    is_same = all(row.std == row.learning_rate == 1 and not row.grows for row in rows.values())
    factors = [factor for row in rows.values() for factor in row.grows.values()]
    is_narrower = bool(factors) and all(factor < 1 for factor in factors)
    conditions = ((SAME, is_same), (NARROWER, is_narrower), (DECAY, steps.name == "adamw"))
    notes = [note for note, applies in conditions if applies]
    return Width(before, after, rows.values(), steps, (*notes, *unmade_for))


def _modules(module: Any) -> tuple[Any, Any]:
    if module is None:
        return None, None
    if isinstance(module, tuple | list) and len(module) == 2:
        return module[0], module[1]
    raise ModelError(
        f"mup: two models have two modules, and module= is {shown(module)}.",
        "module=(narrow, wide): the Linen modules that the variables of the base and of the model belong to",
    )


def _is_depth(depth: Any, steps: Optimizer, after: Survey) -> bool:
    """Whether the models may have other depths.

    Raises:
        RuleError: the exponent is not a number, or the optimizer is another one.
        ModelError: the forward pass is not known.
    """
    if depth is None:
        return False
    if isinstance(depth, bool) or not isinstance(depth, int | float) or not 0 <= depth <= 1:
        raise RuleError(f"mup: depth is an exponent from 0 to 1, not {shown(depth)}.", "CompleteP's is depth=1.0")
    if steps.name == "sgd":
        raise RuleError("mup: depth= is for Adam and Muon; for plain gradients no rule is published.")
    if after.traced is None:
        raise ModelError("mup: residual branches are read off the forward pass.", "give inputs=x")
    return True


def _listed(factors: Sequence[float | None]) -> str:
    return listing(dict.fromkeys("?" if factor is None else f"{factor:.4g}" for factor in factors), 4)


def _with_open_number(path: str) -> set[tuple[str, ...]]:
    """The parts of a path with one of its numbers left open, for each number."""
    parts = path.split(".")
    return {(*parts[:index], "*", *parts[index + 1 :]) for index, part in enumerate(parts) if part.isdigit()}


def _block_alike(path: str, others: Iterable[str]) -> str | None:
    """The array at the same place of another block: of the paths that differ in one number alone, the first."""
    patterns = _with_open_number(path)
    return next((other for other in others if patterns & _with_open_number(other)), None)


def _paired(before: Survey, after: Survey, rules: Any, *, deepens: bool) -> dict[str, Pair]:
    """The arrays of the two models, by path; a block that the base does not have goes with one that it has."""
    old = parameters_by_path(before)
    new = {parameter.path: (layer, parameter) for layer, parameter in arrays_of(after)}
    of_base = {path: path for path in old}
    if deepens:
        of_base |= {path: alike for path in new if path not in old and (alike := _block_alike(path, old))}
    more = [path for path in new if path not in of_base]
    less = [path for path in old if path not in new and not (deepens and _block_alike(path, new))]
    if not old and not new:
        raise ModelError(
            "mup: neither the base nor the model holds an array.",
            "both are models, abstract or not: ix.mup(make(64), make(256)), where make(width) returns one",
        )
    if more or less:
        raise ModelError(
            "mup: the base and the model do not have the same arrays.",
            f"only the model has: {listing(more, 4)}" if more else "",
            f"only the base has: {listing(less, 4)}" if less else "",
            "make both by one function, with the same options: ix.mup(make(64), make(256))",
            "" if deepens else "or, where one has more residual branches: depth=1.0",
        )
    labels = {} if rules is None else decide_labels(read_rules_of("mup", rules), after)
    return {
        path: Pair(old[of_base[path]], layer, parameter, labels.get(path), deepens)
        for path, (layer, parameter) in new.items()
    }


def _refuse_grown_data(before: Survey, after: Survey) -> None:
    """Raise where inputs or outputs of the forward pass grow, unless they are a state that goes in and comes out.

    Raises:
        ModelError: an input or an output grows.
    """
    if before.traced is None or after.traced is None:
        return
    (old_in, old_out), (new_in, new_out) = _data(before.traced), _data(after.traced)
    if len(old_in) != len(new_in) or len(old_out) != len(new_out):
        raise ModelError("mup: the forward passes of the base and the model take, or return, other things.")
    goes_in = [pair for pair in zip(old_in, new_in, strict=True) if pair[0].shape != pair[1].shape]
    comes_out = [pair for pair in zip(old_out, new_out, strict=True) if pair[0].shape != pair[1].shape]
    for grown, others, what in ((comes_out, goes_in, "what the model returns"), (goes_in, comes_out, "the input")):
        shapes = {(old.shape, new.shape) for old, new in others}
        for old, new in grown:
            if (old.shape, new.shape) not in shapes:
                line = "where features are returned, say what becomes of them: "
                raise ModelError(
                    f"mup: {what} grows with the width, {shape_text(old)} → {shape_text(new)}.",
                    "a size that is not a width, classes or features of the data, is the same in both models",
                    "" if what == "the input" else f"{line}forward=lambda model, x: model(x).mean(axis=-1)",
                )


def _data(traced: Traced) -> tuple[list[Any], list[Any]]:
    """Types of what a forward pass takes, beside weights, and of what it returns."""
    inputs, outputs = traced.closed.jaxpr.invars[len(traced.paths) :], traced.closed.jaxpr.outvars
    return [variable.aval for variable in inputs], [variable.aval for variable in outputs]


def _matrices(
    before: Survey, after: Survey, steps: Optimizer, pairs: Mapping[str, Pair]
) -> dict[str, tuple[Axes, Axes]]:
    """The axes, in both models, of the arrays whose updates Muon makes orthogonal."""
    if steps.name != "muon":
        return {}
    old = {row.parameter.path: row.value for row in matrices_of("mup", before, steps.rules)}
    matrices = {}
    for row in matrices_of("mup", after, steps.rules):
        path, axes = row.parameter.path, old[pairs[row.parameter.path].base.path]
        if row.value is None or axes is None:
            continue
        if row.parameter.role == "embedding":
            raise RuleError(
                f"mup: Muon gets the embedding {path} {row.parameter.shape}, for which there is no rule of width.",
                f'give it to Adam: optimizer=("muon", {{"rules": {{"{path}": False}}}})',
            )
        matrices[path] = axes, row.value
    return matrices


def _around(path: str) -> Iterator[tuple[str, ...]]:
    """Yield the names in the paths of what is around an array, the innermost first."""
    parts = tuple(path.split("."))
    return (parts[:depth] for depth in range(len(parts) - 1, 0, -1))


def _rates_beside(paths: Iterable[str], weights: Iterable[str], rates: Mapping[str, float]) -> dict[str, float]:
    """The factors of norms' scales and biases, by path: that of the module around one, if all weights there have it."""
    inside: defaultdict[tuple[str, ...], set[float | None]] = defaultdict(set)
    for weight in weights:
        for around in _around(weight):
            inside[around].add(rates.get(weight))
    nearest = {path: next((inside[around] for around in _around(path) if around in inside), set()) for path in paths}
    return {path: rate for path, them in nearest.items() if len(them) == 1 for rate in them if rate is not None}


def _unended(parameters: Iterable[Parameter]) -> tuple[Unended, ...]:
    """What the branches of a forward pass add of which no weight is the end."""
    return next((array.residual.unended for array in parameters if array.residual is not None), ())


def _folded(
    before: Survey, after: Survey, pairs: Mapping[str, Pair], *, attention: bool, depth: float | None
) -> tuple[Folds, Mapping[str, float], list[str]]:
    """The factors of multiplications, attention, tied embeddings and depth, those of learning rates, and notes.

    Raises:
        ModelError: which parameter takes one over can't be told.
    """
    if before.traced is None or after.traced is None:
        _refuse_unseen(after, pairs, attention=attention)
        return {}, {}, []
    folding = _Folding(before.traced, after.traced, pairs)
    folding.multipliers()
    if attention:
        folding.products()
    folding.tied()
    compared = Compared(before=before.traced, after=after.traced, pairs=pairs, attention=attention)
    for path, times in compared.taken_over(folding.folds, folding.new.looked_up).items():
        folding.folds[path].append((1 / times, f"what it multiplies changes {times:.4g} times as much"))
    notes = [*folding.notes, *compared.notes(folding.folds)]
    rates = {} if depth is None else folding.deepened(float(depth))
    return folding.folds, rates, notes


def _refuse_unseen(after: Survey, pairs: Mapping[str, Pair], *, attention: bool) -> None:
    """Raise where the factors depend on the forward pass, which is not known."""
    growing = [pair for pair in pairs.values() if pair.grown.axes]
    modules: list[Ancestor | Layer] = [module for layer in after.layers for module in layer.ancestors]
    modules += after.layers
    heads = [module for module in modules if "attention" in module.cls.__name__.lower()]
    if growing and heads and attention and not any(pair.word == "query" for pair in pairs.values()):
        raise ModelError(
            "mup: whether heads grow is seen in the forward pass, and what the models are called on is not known.",
            f"attention: {path_text(heads[0].path)} ({heads[0].cls.__name__})",
            "give inputs=x; or, where heads keep their size, attention=False",
        )
    is_read = any(pair.grown.inputs != 1 and pair.grown.outputs == 1 for pair in growing)
    tables = [pair for pair in growing if pair.word is None and pair.parameter.role == "embedding"]
    if tables and not is_read:
        raise ModelError(
            f"mup: nothing reads the model out; is {tables[0].text} tied to a head?",
            "give inputs=x, which shows what is read out",
            f'or, where nothing is, say so: rules={{"{tables[0].parameter.path}": "input"}}',
        )


class _Folding:
    """Factors of the forward pass that parameters take over.

    Attributes:
        folds: path of a parameter → the factors, each with what it is.
        notes: what can't be told of them.
    """

    def __init__(self, before: Traced, after: Traced, pairs: Mapping[str, Pair]) -> None:
        self.pairs, self.of_base, self.paths = pairs, before.paths, after.paths
        growing = growing_sums(before, after)
        self.old, self.new = signal_products(before, growing), signal_products(after, growing)
        self.deepens = any(pair.deepens for pair in pairs.values())
        self.folds: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
        self.notes: list[str] = []

    def _fold(self, params: Sequence[str], factor: float, why: str) -> None:
        for path in params:
            self.folds[path].append((factor, why))

    def multipliers(self) -> None:
        """Make up for what the forward pass multiplies with and that goes with the width."""
        at_base = {path: param for param, path in enumerate(self.of_base)}
        for param, factors in self.new.factors.items():
            path = self.paths[param]
            pair = self.pairs[path]
            before = self.old.factors.get(at_base[pair.base.path], [])
            if pair.word == "fixed" or not can_take(pair) or set(factors) == set(before):
                continue
            # Blocks that the base does not have meet a shared array once more.
            pairs = zip(before, factors, strict=True) if len(before) == len(factors) else ()
            ratios = [1.0 if old == new else new / old for old, new in pairs if old and new]
            if not ratios or max(ratios) - min(ratios) > CLOSE:
                if pair.word == "input" and param in self.new.looked_up and param in self.new.read:
                    continue  # a tied table of which the user says that the model itself scales what is read out
                raise ModelError(
                    f"mup: the forward pass multiplies {path} by numbers that go with the width, and not by one alone.",
                    f"in the base: {_listed(before)}; in the model: {_listed(factors)}",
                    "let each use of it have one multiplier, at every width the same; "
                    f'or say that nothing is to be done: rules={{"{path}": "fixed"}}',
                )
            if abs(ratios[0] - 1) > CLOSE:
                self._fold([path], 1 / ratios[0], f"the forward pass multiplies it by {ratios[0]:.4g}")

    def products(self) -> None:
        """Let sums over products of signals be divided by what they sum over."""
        alike = {self._sides(product, place, self.of_base): product for place, product in self.old.by_place.items()}
        sizes: defaultdict[str, set[int]] = defaultdict(set)
        for product in self.old.by_place.values():
            sizes[product.line].add(product.size)
        for place, product in self.new.by_place.items():
            before = alike.get(self._sides(product, place, self.paths))
            if before is None and sizes.get(product.line) == {product.size}:
                continue  # in a block that the base does not have; what it sums over grows nowhere on this line
            if before is None:
                raise ModelError("mup: the forward passes of the base and the model differ.", product.line)
            growth = product.size / before.size
            if growth == 1:
                continue
            if product.factor is None or before.factor is None:
                raise self._unknown(product.line, growth, "what the forward pass multiplies it with")
            factor = before.factor / (growth * product.factor)
            if product.temperatures:
                names = listing([self.paths[param] for param in sorted(product.temperatures)], 3)
                self.notes.append(
                    f"a product of two signals is multiplied by {names} ({product.line}), and is divided by "
                    f"{1 / factor:.4g} all the same: where {names} holds d^-1/2 itself, write attention=False"
                )
            if abs(factor - 1) > CLOSE:
                self._fold(self._side(product, place, growth), factor, "attention: 1/d")

    def _sides(self, product: SignalProduct, place: Place, paths: Sequence[str]) -> Any:
        """What a product is known by in both models: where it stands, or, where depths may differ, what makes it."""
        if not self.deepens:
            return place
        return product.line, tuple(frozenset(glob_of(paths[param]) for param in side) for side in product.sides)

    def deepened(self, exponent: float) -> dict[str, float]:
        """Let what ends a residual branch take over its factor, and return what learning rates are multiplied with.

        Args:
            exponent: the exponent of the factor.

        Raises:
            ModelError: how many branches there are is not known, or the scale of what ends one does not matter.
        """
        self._refuse_unended()
        rates: dict[str, float] = {}
        for path, pair in self.pairs.items():
            old, new = pair.base.residual, pair.parameter.residual
            if new is None or new.part is None or new.own is None or old is None or old.own is None:
                continue
            if new.own.branches is None or old.own.branches is None:
                raise ModelError(f"mup: how many branches {path} is one of is not known: a loop adds them.")
            times = new.own.branches / old.own.branches
            if times == 1:
                continue
            if new.part == "end" and new.normalized:
                raise ModelError(
                    f"mup: a norm stands between {path} and the stream that its branch is added to.",
                    "its scale does not matter there; depth= is for norms at the beginning of a branch",
                )
            # Of a scale behind the weight, a LayerScale, the factor would be a second one.
            if new.part == "end" and pair.parameter.role != "scale":
                self._fold([path], times**-exponent, f"{new}")
            rates[path] = times ** (exponent - 1)
        weights = [path for path, pair in self.pairs.items() if pair.parameter.role in WEIGHT_ROLES]
        vectors = [path for path, pair in self.pairs.items() if pair.parameter.role in ("scale", "bias")]
        return rates | _rates_beside((path for path in vectors if path not in rates), weights, rates)

    def _refuse_unended(self) -> None:
        """Raise where branches that get more add what is a multiple of no weight, which no factor of one can scale."""
        counts: defaultdict[frozenset[str], set[int | None]] = defaultdict(set)
        for each in _unended(pair.base for pair in self.pairs.values()):
            counts[frozenset(map(glob_of, each.weights))].add(each.branches)
        found = [
            each
            for each in _unended(pair.parameter for pair in self.pairs.values())
            if each.branches is None or counts[frozenset(map(glob_of, each.weights))] != {each.branches}
        ]
        if found:
            raise ModelError(
                "mup: what a branch adds to its stream is a multiple of no weight, which could take over the factor.",
                *first_of(unended_texts(found)),
                "depth= is for branches that end in a weight, or in ReLU, a maximum or an absolute value behind one; "
                "for others no rule is published",
            )

    def _side(self, product: SignalProduct, place: Place, growth: float) -> list[str]:
        """The parameters that make one of two signals, and nothing else."""
        sides = product.sides
        paths = [[self.paths[param] for param in sorted(side)] for side in sides]
        named = [side for side in paths if any(self.pairs[path].word == "query" for path in side)]
        if len(named) == 1:
            return named[0]
        makes_nothing_else = [
            side
            and all(self.new.sinks.get(param) == {place} and can_take(self.pairs[self.paths[param]]) for param in side)
            for side in sides
        ]
        alone = list(itertools.compress(paths, makes_nothing_else))
        if sides[0] & sides[1] or not alone:
            raise self._unknown(product.line, growth, "what makes either side, and nothing else,", sides)
        return next((side for side in alone if any(QUERY.search(path) for path in side)), alone[0])

    def _unknown(self, line_of_code: str, growth: float, what: str, sides: Sequence[frozenset[int]] = ()) -> ModelError:
        paths = [[self.paths[param] for param in sorted(side)] for side in sides if side]
        side_texts = [listing(side, 4) for side in paths]
        seen = line = ""
        if len(sides) == 2 and sides[0] & sides[1]:
            seen = f"both sides come out of one array: {side_texts[0]}"
            line = "store queries, keys and values apart, or let heads keep their size and their number grow"
        elif paths:
            seen = f"the sides come from {' and '.join(side_texts)}"
            line = f'say which array takes over the factor: rules={{"{paths[0][0]}": "query"}}'
        return ModelError(
            f"mup: a product of two signals is summed over {growth:.4g} times as many entries.",
            f"{what} can't be told" + (f" ({line_of_code})" if line_of_code else ""),
            seen,
            line,
            "or divide by the size of a head in the forward pass, not by its root, and write attention=False",
        )

    def tied(self) -> None:
        """Refuse arrays that are looked up and read out, unless a rule says what they are."""
        for param in sorted(self.new.looked_up & set(self.new.read)):
            path = self.paths[param]
            pair = self.pairs[path]
            if not pair.grown.axes or pair.word not in (None, "tied"):
                continue
            read = self.new.read[param]
            makers = {maker for by_place in read.values() for maker in by_place}
            whole = all(read.values()) and OTHER not in read
            alone = whole and all(self.new.sinks.get(maker, set()) <= set(read) for maker in makers)
            before = [self.paths[maker] for maker in sorted(makers)]
            times = pair.grown.outputs
            if pair.word == "tied" and alone:
                self._fold(before, 1 / times, f"{path} reads out what it makes")
                continue
            raise ModelError(
                f"mup: {pair.text} is looked up and read out.",
                f"an embedding keeps its standard deviation and learning rate, an output divides both by {times:.4g}",
                f'let {listing(before, 3)} take over the factor: rules={{"{path}": "tied"}}' if alone else "",
                f"{'or ' if alone else ''}divide the outputs by {times:.4g} in the forward pass, and say so: "
                f'rules={{"{path}": "input"}}',
                "or untie them: a head of its own",
            )
