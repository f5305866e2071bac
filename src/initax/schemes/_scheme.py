"""A scheme, an initializer per role, and every way of writing one: names, pairs, mappings, callables."""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

from initax._errors import AxesError, SchemeError, listing, shown, with_line
from initax._math._axes import parse
from initax._model._parameter import ROLES, WEIGHT_ROLES, Role
from initax._text import mapping_text
from initax.schemes._constant import ZEROS
from initax.schemes._hints import (
    needed,
    no_name,
    no_part,
    no_scheme,
    number_beside,
    pairs_text,
    parameters_of,
    unknown_argument,
    unknown_role,
)
from initax.schemes._initializer import Initializer, argument_text, plain
from initax.schemes._names import SHIPPED

UNSET: Final = object()
"""Stands for a role that a scheme has no initializer for; `None` keeps the array as it is."""

Parts = Mapping[Role, Initializer | None]
NAMED: dict[str, Callable[..., Scheme]] = {}
"""Name → the function that makes the scheme: those of users, and those of initax whose modules are loaded."""


class Scheme:
    """How one layer's parameters are drawn together: an initializer per role.

    Whatever is left out follows the weight: `recurrent` and `embedding` are drawn like it, `bias` becomes zeros, and a
    norm's `scale` is kept. `None` keeps the arrays of a role as they are.

    Args:
        weight: the initializer of weights, or a whole scheme whose other roles are taken over too: a name, a pair of
            name and arguments, an initializer, or `None`.
        bias: the initializer of biases.
        recurrent: the initializer of hidden-to-hidden weights.
        embedding: the initializer of embedding tables.
        scale: the initializer of a norm's scale.
        state: `"default"` for running statistics that start anew, as their framework starts them; they are kept else.
        axes: patterns to restate where only the user knows them: a mapping from the parameter's name within the layer,
            or one pattern for the layer's weight.
        sizes: sizes of named axes in these patterns.
        arrays: what single arrays get, by their names within the layer: anything that a rule accepts, or `None` to
            keep one. A scheme of arrays alone leaves the others to earlier rules.

    Raises:
        SchemeError: a name is unknown, an argument wrong, or an initializer does not fit its role.
        AxesError: a pattern is malformed.

    Examples:
        >>> import initax as ix
        >>> ix.Scheme("he_normal", recurrent="orthogonal", bias=("constant", {"value": 0.1}))
        Scheme(weight=he_normal, recurrent=orthogonal, bias=constant(value=0.1), embedding=he_normal)
    """

    __slots__ = ("_name", "_parts", "arrays", "axes", "sizes")

    _name: tuple[str, dict[str, Any]] | None
    _parts: dict[Role, Initializer | None]
    axes: dict[str, str]
    sizes: dict[str, int]
    arrays: dict[str, Scheme | None]

    def __init__(
        self,
        weight: Any = UNSET,
        bias: Any = UNSET,
        *,
        recurrent: Any = UNSET,
        embedding: Any = UNSET,
        scale: Any = UNSET,
        state: Any = UNSET,
        axes: Mapping[str, str] | str | None = None,
        sizes: Mapping[str, int] | None = None,
        arrays: Mapping[str, Any] | None = None,
    ) -> None:
        others: dict[Role, Any] = {"bias": bias, "recurrent": recurrent, "embedding": embedding, "scale": scale}
        is_number = isinstance(bias, int | float) and not isinstance(bias, bool)
        factory = _named(weight) if is_number else None
        if factory is not None and len(needed(factory)) < 2:
            raise SchemeError(number_beside(weight, factory, bias))
        if not arrays and all(value is UNSET for value in (weight, state, *others.values())):
            raise SchemeError("a scheme that names no initializer draws nothing.", 'write ix.Scheme("he_normal", ...)')
        if weight is UNSET or weight is None:
            base = Scheme.of({} if weight is UNSET else dict.fromkeys(WEIGHT_ROLES))
        else:
            base = as_scheme(weight)
        named = {role: as_initializer(value, role) for role, value in others.items() if value is not UNSET}
        if state is not UNSET:
            named["state"] = _for_state(state)
        self._name = None if named else base._name
        self._parts = _in_order(base._parts | named)
        if axes is not None and not isinstance(axes, str | Mapping):
            raise AxesError(
                f"axes are one text, or a mapping from names of arrays to texts, not {shown(axes)}.",
                f'write axes="{" ".join(map(str, axes))}"' if isinstance(axes, list | tuple) else 'write axes="o i"',
            )
        patterns = {"weight": axes} if isinstance(axes, str) else dict(axes or {})
        for pattern in patterns.values():
            parse(pattern)
        self.axes = base.axes | patterns
        self.sizes = base.sizes | dict(sizes or {})
        self.arrays = base.arrays | {str(name): _for_array(str(name), value) for name, value in (arrays or {}).items()}

    @classmethod
    def of(cls, parts: Parts) -> Scheme:
        """Return a scheme made of finished initializers."""
        scheme = cls.__new__(cls)
        scheme._parts, scheme._name = _in_order(parts), None
        scheme.axes, scheme.sizes, scheme.arrays = {}, {}, {}
        return scheme

    def part(self, role: Role) -> Any:
        """Return the initializer of a role, `None` to keep its arrays, or `UNSET` where the scheme has none for it."""
        return self._parts.get(role, UNSET)

    @property
    def parts(self) -> Parts:
        """Role → initializer, `None` where its arrays are kept; roles that the scheme leaves open are missing."""
        return dict(self._parts)

    @property
    def is_named(self) -> bool:
        """Whether it has a name of its own."""
        return self._name is not None

    def called(self, name: str, args: Mapping[str, Any]) -> Scheme:
        """Return the same scheme under a name with arguments."""
        scheme = copy.copy(self)
        scheme._name = (name, dict(args))
        return scheme

    def changed(
        self, of_part: Callable[[Initializer, Role], Initializer], of_array: Callable[[Scheme], Scheme]
    ) -> Scheme:
        """Return a scheme whose parts, and whose schemes of single arrays, are made of these; what is kept stays so.

        Args:
            of_part: from an initializer and its role to the one that stands in its place.
            of_array: from the scheme of an array to the one that stands in its place.
        """
        scheme = copy.copy(self)
        scheme._name = None
        scheme._parts = {role: part and of_part(part, role) for role, part in self._parts.items()}
        scheme.arrays = {name: None if array is None else of_array(array) for name, array in self.arrays.items()}
        return scheme

    def spec(self) -> Any:
        """Return what JSON keeps of the scheme; `as_scheme` reads it back.

        Raises:
            SchemeError: one of its initializers is a callable.
        """
        restated = {name: None if scheme is None else scheme.spec() for name, scheme in self.arrays.items()}
        restated |= {key: dict(value) for key, value in (("axes", self.axes), ("sizes", self.sizes)) if value}
        if self._name is None:
            return {role: None if part is None else part.spec() for role, part in self._parts.items()} | restated
        name, args = self._name
        called = [name, {key: plain(value) for key, value in args.items()}] if args else name
        return {"base": called} | restated if restated else called

    if not TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
            """Raise: a scheme draws the arrays of a layer, and a framework asks for the initializer of one.

            Raises:
                SchemeError: always.
            """
            name, args = self._name or ("scheme", {})
            scheme = f'("{name}", {pairs_text(args)})' if args else f'"{name}"' if self._name else name
            raise SchemeError(
                f"a scheme is not an initializer, and can't be called: {self}.",
                f"where one is asked for write ix.schemes.initializer({scheme})",
                "a single array is ix.draw(scheme, key, shape)",
            )

    def __eq__(self, other: object) -> bool:
        """Whether both draw alike."""
        if not isinstance(other, Scheme):
            return NotImplemented
        fields = ("_parts", "axes", "sizes", "arrays")
        return all(getattr(self, field) == getattr(other, field) for field in fields)

    def __hash__(self) -> int:
        """Return a hash that equal schemes share."""
        return hash((tuple(self._parts), tuple(sorted(self.axes.items())), tuple(sorted(self.arrays))))

    def __str__(self) -> str:
        """Return the scheme as a rule would name it."""
        arrays = [f"{name}={scheme}" for name, scheme in self.arrays.items()]
        if self._name is None:
            weight = self._parts.get("weight")
            follows = weights_only(weight)
            others = {role: part for role, part in self._parts.items() if role not in follows or part != follows[role]}
            shown = [str(weight)] if "weight" in self._parts else []
            return ", ".join([*shown, *(f"{role}={part}" for role, part in others.items()), *arrays])
        name, args = self._name
        inside = ", ".join(
            f"{key}={argument_text(value) if isinstance(value, tuple) else value}" for key, value in args.items()
        )
        return ", ".join([f"{name}({inside})" if inside else name, *arrays])

    def __repr__(self) -> str:
        """Return the scheme, role by role."""
        inside = [f"{role}={part}" for role, part in self._parts.items()]
        fields = {"axes": self.axes, "sizes": self.sizes, "arrays": self.arrays}
        inside += [f"{name}={value}" for name, value in fields.items() if value]
        return f"Scheme({', '.join(inside)})"


def _in_order(parts: Parts) -> dict[Role, Initializer | None]:
    return {role: parts[role] for role in ROLES if role in parts}


def _for_array(name: str, value: Any) -> Scheme | None:
    """The scheme of one array."""
    if name in (*WORDS, "base", "name"):
        raise SchemeError(f'"{name}" is not an array here: it is a word of schemes.', f"write {name}=...")
    try:
        scheme = None if value is None else as_scheme(value)
    except SchemeError as error:
        raise SchemeError(f'array "{name}": {error}') from None
    if scheme is not None and scheme.arrays:
        names = listing(f'"{inner}"' for inner in scheme.arrays)
        raise SchemeError(
            f'array "{name}": a scheme for one array can\'t name others: {names}.',
            f'an array further inside is named by its path: "**.{name}.{next(iter(scheme.arrays))}"',
        )
    return scheme


def weights_only(initializer: Initializer | None, bias: Initializer | None = None) -> dict[Role, Initializer | None]:
    """Return the parts of a scheme that draws every kind of weight alike; biases become zeros unless given."""
    return {
        "weight": initializer,
        "recurrent": initializer,
        "embedding": initializer,
        "bias": ZEROS if bias is None else bias,
    }


def spoken_of(scheme: Scheme) -> tuple[Role, ...]:
    """Return the roles that a scheme speaks of by name, besides weights and what follows them."""
    follows = weights_only(scheme.parts.get("weight"))
    known = {"weight": scheme.parts.get("weight"), "state": scheme.parts.get("state")} | follows
    return tuple(role for role, part in scheme.parts.items() if part is not None and part != known.get(role))


@with_line("ix.schemes.register", 'write ix.schemes.register("my_scheme", initializer)')
def register(name: str, scheme: Any) -> None:
    """Give a scheme of your own a name, for rules and for configuration files.

    A name of your own may be given anew, as happens when a notebook's cell runs twice; those of initax stay.

    Args:
        name: the name.
        scheme: anything a rule accepts, or a function of keyword arguments that returns such a thing.

    Raises:
        SchemeError: the name is one of initax, or no identifier.

    Examples:
        >>> import initax as ix
        >>> ix.schemes.register("doc_gpt2", ("normal", {"stddev": 0.02}))
        >>> ix.schemes.get("doc_gpt2")
        Scheme(weight=normal(stddev=0.02), recurrent=normal(stddev=0.02), bias=zeros, embedding=normal(stddev=0.02))
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise SchemeError(f"a scheme's name is an identifier, not {name!r}.")
    if name in SHIPPED:
        raise SchemeError(f'"{name}" is a scheme of initax and keeps its meaning.', "choose another name")
    if inspect.isfunction(scheme) and not {"key", "shape"} & set(parameters_of(scheme)):
        NAMED[name] = lambda **args: as_scheme(scheme(**args)).called(name, args)
    else:
        finished = as_scheme(scheme).called(name, {})
        NAMED[name] = lambda: finished


@with_line("ix.schemes.names", "write ix.schemes.names()")
def names() -> tuple[str, ...]:
    """Return the names of all schemes, sorted."""
    return tuple(sorted({*SHIPPED, *NAMED}))


def _named(name: Any) -> Callable[..., Scheme] | None:
    """The function that makes the scheme of a name, `None` where there is none."""
    if not isinstance(name, str):
        return None
    if name in SHIPPED and name not in NAMED:
        getattr(importlib.import_module("initax.schemes"), name)  # which imports its module, and so names it
    return NAMED.get(name)


@with_line("ix.schemes.get", 'write ix.schemes.get("normal", stddev=0.02)')
def get(name: str, **args: Any) -> Scheme:
    """Return the scheme of that name.

    Args:
        name: its name, `"he_normal"`.
        **args: its arguments.

    Raises:
        SchemeError: the name is unknown, or it has no such argument, or an argument's value is wrong.

    Examples:
        >>> import initax as ix
        >>> str(ix.schemes.get("orthogonal", gain=0.5))
        'orthogonal(gain=0.5)'
    """
    factory = _named(name)
    if factory is None:
        raise SchemeError(no_name(name, names()))
    parameters = parameters_of(factory)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [argument for argument in args if argument not in parameters and not takes_any]
    if unknown:
        raise SchemeError(unknown_argument(name, factory, unknown[0], args[unknown[0]]))
    missing = [key for key in needed(factory) if key not in args]
    if missing:
        texts = {key: repr(args[key]) if key in args else "..." for key in parameters if key in {*args, *missing}}
        raise SchemeError(f"{name} needs {listing(missing)}.", f'write ("{name}", {mapping_text(texts)})')
    return factory(**args)


def as_scheme(value: Any) -> Scheme:
    """Return the scheme that a rule gives, in whatever form it is written.

    Raises:
        SchemeError: it is not a scheme.
    """
    match value:
        case Scheme():
            return value
        case str():
            return _shipped(value) if value in SHIPPED else get(value)
        case Initializer():
            return Scheme.of(weights_only(value))
        case [str() as name, Mapping() as args] if "name" not in args and "base" not in args:
            return get(name, **args)
        case [weight, bias]:
            return Scheme(weight, bias)
        case Mapping():
            return _from_mapping(value)
    if callable(value) and not isinstance(value, type):
        if value in NAMED.values():
            return as_scheme(value())
        from initax.schemes._callables import from_callable  # few rules hold functions

        return Scheme.of(weights_only(from_callable(value)))
    raise SchemeError(no_scheme(value))


@functools.lru_cache(maxsize=len(SHIPPED))
def _shipped(name: str) -> Scheme:
    """The scheme of initax of that name, made once: it is what most rules are, and costs a tenth of a small plan."""
    return get(name)


def _from_mapping(mapping: Mapping[str, Any]) -> Scheme:
    if "name" in mapping:
        return get(mapping["name"], **{key: value for key, value in mapping.items() if key != "name"})
    arrays = {key: value for key, value in mapping.items() if key not in (*WORDS, "base")}
    for key, value in arrays.items():
        if _is_argument(key, mapping.get("weight")):
            raise SchemeError(unknown_role(str(key), mapping["weight"], value))
        is_scheme = len(mapping) == 1 and isinstance(value, Mapping) and _named(key) is not None
        if is_scheme and all(_is_argument(name, key) for name in value):
            raise SchemeError(
                f'"{key}" is a scheme, and stands where an array\'s name or a role does.',
                f'its arguments stand beside it: ("{key}", {pairs_text(value)})',
            )
        if isinstance(value, int | float) and _is_argument(key, mapping.get("scheme")):
            raise SchemeError(unknown_role(str(key), mapping["scheme"], value))
    rest = {key: value for key, value in mapping.items() if key in WORDS and key != "weight"}
    return Scheme(mapping.get("weight", mapping.get("base", UNSET)), **rest, arrays=arrays)


def _is_argument(key: Any, weight: Any) -> bool:
    """Whether a key beside `weight` is an argument of the scheme that `weight` names."""
    factory = _named(weight)
    return factory is not None and key in parameters_of(factory)


WORDS = (*ROLES, "axes", "sizes")
"""Keys of a mapping that stands for a scheme."""


def _for_state(value: Any) -> Initializer | None:
    """Return whether a scheme restarts state or keeps it, as an initializer or `None`.

    Raises:
        SchemeError: it does neither.
    """
    part = None if value is None else as_scheme(value).part("weight")
    if part is None or (isinstance(part, Initializer) and part.draws_reserved):
        return part
    raise SchemeError(
        f"{value!r} can't draw state.",
        'running statistics start anew as their framework starts them, {"state": "default"}, or are kept: None',
    )


def as_initializer(value: Any, role: Role) -> Initializer | None:
    """Return the initializer of a scheme for one role.

    Raises:
        SchemeError: it is not a scheme, or does not fit the role.
    """
    if value is None or isinstance(value, Initializer):
        return value
    scheme = as_scheme(value)
    part: Initializer | object | None = scheme.part(role)
    weight = scheme.part("weight")
    if role in WEIGHT_ROLES:
        part = weight if part is UNSET else part
    elif isinstance(weight, Initializer) and weight.fits_bias and part in (UNSET, ZEROS):
        part = weight
    elif role == "bias" and part == ZEROS:
        part = UNSET
    if part is None or isinstance(part, Initializer):
        return part
    raise SchemeError(no_part(scheme, role))
