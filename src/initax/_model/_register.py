"""`register_layer`, with which users declare the layers of their own classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Final

from initax._errors import AxesError, InitaxError, alternatives, listing, with_line
from initax._math._axes import names_in, refuse_unsided
from initax._model._constraint import behind
from initax._model._declared import Declaration, Field, declare
from initax._model._kinds import KINDS
from initax._model._parameter import ROLES, WEIGHT_ROLES, DefaultSpec, Role
from initax._text import mapping_text

ARGUMENTS: Final = frozenset({"kind", "roles", "sizes", "of", "default", "positivity"})
"""Keywords of `register_layer`; a field of such a name goes into its mapping."""


@with_line("ix.register_layer", 'write ix.register_layer(MyLayer, kind="Linear", weight="o i", bias="o")')
def register_layer(
    cls: type,
    axes: Mapping[str, str] | None = None,
    /,
    *,
    kind: str,
    roles: Mapping[str, Role] | None = None,
    sizes: Mapping[str, int | str] | None = None,
    of: Mapping[str, str] | None = None,
    default: Mapping[str, DefaultSpec] | None = None,
    positivity: Mapping[str, str] | None = None,
    **fields: str,
) -> type:
    """Return `cls`, declared: from now on its arrays are found and drawn like those of a built-in layer.

    Args:
        cls: a module class, or any class registered as a pytree. Subclasses inherit the declaration.
        axes: axis patterns by field name, for fields whose names can't be keywords: `{"params.w": "i o", "kind": "o"}`.
        kind: what it is: `"Linear"`, `"Conv"`, `"Norm"`, …, or a word of your own to select it by.
        roles: the role of a field, where it can't be told. A field with an input axis is a `weight`, one named `scale`
            or belonging to a `Norm` is a `scale`, those of an `Embedding` are embeddings, the rest are biases.
        sizes: sizes of named axes, as numbers or names of attributes; needed for merged axes: `{"g": "groups"}`.
        of: the weight each bias belongs to, where there are several: `{"b2": "w2"}`; else such a bias has no fans.
        default: what `"default"` gives a field: the name of an initializer or a pair of name and arguments.
        positivity: the map by which the layer itself makes a field positive: `{"w": "softplus"}`. The effective weight
            then has the scheme's law, and its inverse image is what is stored.
        **fields: axis patterns by field name: `w="i o", b="o"`.

    Raises:
        AxesError: a pattern is malformed.
        InitaxError: the class is a container of any model's, such as `dict`; there is no field, or one the class does
            not have; a role, size or bias names something that does not exist; or a kind differs from one of initax by
            upper and lower case alone.

    Examples:
        >>> import equinox as eqx, jax, jax.numpy as jnp, initax as ix
        >>> class Mixer(eqx.Module):
        ...     w: jax.Array
        ...     b: jax.Array
        >>> _ = ix.register_layer(Mixer, kind="Linear", w="i o", b="o")
        >>> [p.fan_in for p in ix.layers(Mixer(jnp.ones((8, 3)), jnp.ones(3)))[0].parameters]
        [8, 8]
    """
    if not isinstance(cls, type):
        raise InitaxError(f"register_layer takes a class, not {cls!r}.", "ix.register_layer(MyLayer, kind=..., w=...)")
    fields = {**(axes or {}), **fields}
    if is_plain(cls):
        patterns = mapping_text({name: f'"{pattern}"' for name, pattern in (fields or {"w": "i o", "b": "o"}).items()})
        raise InitaxError(
            f"register_layer takes a class of your own; what is in a {cls.__name__} differs from model to model.",
            f'say it in the rule for one: {{"path.of.it": ix.Scheme("he_normal", axes={patterns})}}',
        )
    if not fields:
        raise InitaxError(
            f"register_layer({cls.__name__}) declares no array.",
            f'ix.register_layer({cls.__name__}, kind="{kind}", weight="o i", bias="o")',
        )
    _refuse_unknown(cls, kind, fields)
    given: dict[str, Mapping[str, Any]]
    given = {"roles": roles or {}, "of": of or {}, "default": default or {}, "positivity": positivity or {}}
    for argument, mapping in given.items():
        for name in mapping:
            _require(name, fields, cls, f'{argument} names the field "{name}", which is not declared.')
    declare(cls, _declaration(cls, kind, fields, sizes or {}, given))
    return cls


def is_plain(cls: type) -> bool:
    """Return whether a class is a container or an array that any model may hold, such as `dict`, and not a layer."""
    return cls.__module__.partition(".")[0] in ("builtins", "collections", "types", "numpy", "jax", "jaxlib")


def _declaration(
    cls: type, kind: str, fields: Mapping[str, str], sizes: Mapping[str, int | str], given: Mapping[str, Any]
) -> Declaration:
    """The row of a class in the table of layers.

    Args:
        cls: the class.
        kind: its kind.
        fields: axis patterns by field name.
        sizes: sizes of named axes.
        given: name of a further argument → what it says of single fields.
    """
    axis_names = {name: names_in(pattern) for name, pattern in fields.items()}
    for axis in sizes:
        if not any(axis in names for names in axis_names.values()):
            raise AxesError(
                f'register_layer({cls.__name__}): sizes name the axis "{axis}", which no pattern has.',
                "patterns: " + listing(f'{name}="{pattern}"' for name, pattern in fields.items()),
            )
    role_of = {name: given["roles"].get(name) or guess_role(name, axis_names[name], kind) for name in fields}
    for name, role in role_of.items():
        _require(str(role), ROLES, cls, f'"{role}" is not a role (field "{name}").', "roles")
    for name, pattern in fields.items():
        if role_of[name] in WEIGHT_ROLES or (name not in given["roles"] and len(axis_names[name]) > 1):
            refuse_unsided(pattern)
    weights = [name for name, role in role_of.items() if role in WEIGHT_ROLES]
    only = weights[0] if len(weights) == 1 else None
    maps = given["positivity"]
    rows = {
        name: Field(
            pattern=pattern,
            role=role_of[name],
            sizes=sizes,
            of=given["of"].get(name) or (only if role_of[name] == "bias" else None),
            default=given["default"].get(name),
            constraint=behind(maps[name]) if name in maps else None,
        )
        for name, pattern in fields.items()
    }
    return Declaration(kind=kind, fields=rows)


def _refuse_unknown(cls: type, kind: str, fields: Mapping[str, str]) -> None:
    """Raise where a kind or a field is misspelled, as far as a class can tell."""
    for known in KINDS:
        if kind != known and kind.lower() == known.lower():
            raise InitaxError(
                f'register_layer({cls.__name__}): the kind "{kind}" is written "{known}".', f'kind="{known}"'
            )
    has = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
    if not has or "parent" in has:  # the fields of a Linen module are its settings, not its arrays
        return
    for name in fields:
        if not hasattr(cls, name):
            _require(name.partition(".")[0], has, cls, f'{cls.__name__} has no field "{name}".')


def _require(name: str, options: Collection[str], cls: type, head: str, known: str = "fields") -> None:
    """Raise unless a name is one of the options, which are known by a word."""
    if name not in options:
        raise InitaxError(f"register_layer({cls.__name__}): {head}", *alternatives(known, name, options))


BIASES = ("bias", "beta", "b")
"""Names that a bias has in any layer."""


def guess_role(name: str, axes: Collection[str], kind: str) -> Role:
    """Return the role of a field by its name, the names of its axes and the kind of its layer."""
    last = name.rpartition(".")[2].lower()
    if kind == "Embedding" and last not in BIASES:
        return "embedding"
    if any(axis.startswith("i") for axis in axes):
        return "weight"
    if last in ("scale", "gamma") or (kind == "Norm" and last not in BIASES):
        return "scale"
    return "bias"
