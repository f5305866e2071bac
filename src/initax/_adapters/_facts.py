"""Facts that adapters state about the arrays of a model, by full path, and how they change the parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from initax._adapters._nodes import Awaited, Node, absolute
from initax._errors import ModelError
from initax._model._declared import Declaration, declaration_of
from initax._model._parameter import FROM_KEY, WEIGHT_ROLES, Constraint, Layer, Parameter
from initax._model._reason import Reason, Why, follows, tied
from initax._model._survey import Stream
from initax._text import path_text


@dataclass(slots=True)
class Facts:
    """What is known of the arrays of a model beside their classes: where they are, and what adapters state about them.

    Attributes:
        places: path of each array → indices of the leaves that hold it.
        owners: identity of each array → path at which it was first seen.
        ties: path of an array that another one owns → what owns it.
        aliases: the same of whole modules, too.
        placeholders: path at which a framework left something in place of a tied array → that array's shape and type.
        constraints: path of a weight → what stands between the stored arrays and the effective weight.
        reasons: path of an array that is never drawn alone → why.
        states: path of an array that its framework calls state → why it is kept.
        streams: path of random state that was never made → function from the user's key to it.
        values: the framework's own name for a state → path and value.
        awaited: path of a weight → a constraint that needs one of these values.
        declarations: path of a layer → the row by which it was read, where its node said so.
    """

    places: dict[str, tuple[int, ...]] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    placeholders: dict[str, jax.ShapeDtypeStruct] = field(default_factory=dict)
    constraints: dict[str, Constraint] = field(default_factory=dict)
    reasons: dict[str, Reason] = field(default_factory=dict)
    states: dict[str, Reason] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    values: dict[Any, tuple[str, Any]] = field(default_factory=dict)
    awaited: dict[str, Awaited] = field(default_factory=dict)
    declarations: dict[str, Declaration] = field(default_factory=dict)

    def add(self, node: Node, path: str, cls: type) -> None:
        """Add the facts of the node at a path; `cls` is the class of the object that it describes."""
        if not (node.constraints or node.reasons or node.states or node.awaited or node.streams or node.ties):
            return
        for below, constraint in node.constraints.items():
            self._constrain(absolute(path, below), constraint, path)
        self.reasons |= {absolute(path, below): reason for below, reason in node.reasons.items()}
        self.values |= {marker: (absolute(path, below), value) for marker, (below, value) in node.states.items()}
        self.awaited |= {absolute(path, below): awaited for below, awaited in node.awaited.items()}
        for below, start in node.streams.items():
            self.streams[absolute(path, below)] = functools.partial(start, absolute(path, below))
        for below, tie in node.ties.items():
            alias = absolute(path, below)
            computed = f"what {cls.__name__} at {path_text(path)} computes"
            self.aliases[alias] = computed if tie.owner is None else absolute(path, tie.owner)
            if tie.array is not None:
                self.ties[alias] = self.aliases[alias]
                self.placeholders[alias] = tie.array

    def enter(self, path: str, index: int, identity: int | None, hint: str) -> None:
        """Add an array, which is tied to the one of the same identity that was added before it.

        Args:
            path: its path.
            index: index of the leaf that holds it.
            identity: what makes it the same as another one; `None` where nothing does.
            hint: what to do where another array has that path, for the error.

        Raises:
            ModelError: another array has that path.
        """
        if path in self.places:
            raise ModelError(f'two arrays have the path "{path}".', hint)
        self.places[path] = (index,)
        owner = path if identity is None else self.owners.setdefault(identity, path)
        if owner != path:
            self.places[owner] += (index,)
            self.aliases[path] = self.ties[path] = owner

    def keep(self, path: str, reason: Reason | None) -> None:
        """Add the reason of a framework why an array is never drawn, if there is one: it is state, or not trainable."""
        if reason is not None:
            (self.reasons if reason.why is Why.NOT_TRAINABLE else self.states)[path] = reason

    def _constrain(self, weight: str, constraint: Constraint, base: str) -> None:
        """Add a constraint whose companions are paths below `base`; they are set with the weight."""
        companions = tuple(absolute(base, companion) for companion in constraint.companions)
        self.constraints[weight] = constraint.at(weight, companions)
        self.reasons |= dict.fromkeys(companions, follows(weight))

    def complete(self) -> None:
        """Add the constraints that waited for states, once the whole model has been visited."""
        for weight, awaited in self.awaited.items():
            if awaited.marker in self.values:
                base, value = self.values[awaited.marker]
                self._constrain(weight, awaited.constraint(value), base)
            else:
                self._constrain(weight, awaited.otherwise, "")

    def applied(self, layer: Layer, leaf_at: Callable[[str], Any] = lambda path: None) -> Layer:
        """Return a layer with the facts about its arrays.

        Args:
            layer: the layer, as its class or its names read.
            leaf_at: function from a path to the leaf there; asked for state alone.
        """
        known = [facts for facts in (self.ties, self.constraints, self.reasons, self.states) if facts]
        if not known or not any(array.path in facts for array in layer.parameters for facts in known):
            return layer
        return replace(layer, parameters=tuple(self._applied(array, layer, leaf_at) for array in layer.parameters))

    def _applied(self, parameter: Parameter, layer: Layer, leaf_at: Callable[[str], Any]) -> Parameter:
        """The parameter, and behind a mask the effective fans that this leaves its weight; a bias has its weight's."""
        path = parameter.path
        if path in self.ties:
            parameter = replace(parameter, excluded=tied(self.ties[path]))
        elif path in self.streams:
            parameter = replace(parameter, role="state", default=FROM_KEY, excluded=None)
        elif path in self.states and path not in self.reasons:
            parameter = kept_state(replace(parameter, excluded=self.states[path]), leaf_at(path))
        elif path in self.reasons:
            parameter = replace(parameter, excluded=self.reasons[path])
        elif path in self.constraints:
            parameter = replace(parameter, constraint=self.constraints[path])
        weight = parameter.name if parameter.role in WEIGHT_ROLES else self._weight_beside(parameter, layer)
        mask = next((self.constraints.get(array.path) for array in layer.parameters if array.name == weight), None)
        return parameter if parameter.fans is None else replace(parameter, fans=parameter.fans.masked(mask))

    def _weight_beside(self, bias: Parameter, layer: Layer) -> str | None:
        """The name of the weight that a bias goes with, as it is declared, or as there is only one."""
        declaration = self.declarations.get(layer.path) or declaration_of(layer.cls)
        if declaration is not None:
            row = declaration.fields.get(bias.name)
            return row.of if row is not None else None
        weights = [array.name for array in layer.parameters if array.role in WEIGHT_ROLES]
        return weights[0] if len(weights) == 1 else None


def kept_state(parameter: Parameter, leaf: Any) -> Parameter:
    """Return an excluded parameter as state.

    State that was never made takes the value its framework starts it with, once a rule selects its layer.
    """
    starts = parameter.default is not None and isinstance(leaf, jax.ShapeDtypeStruct)
    return replace(parameter, role="state", excluded=None if starts else parameter.excluded)
