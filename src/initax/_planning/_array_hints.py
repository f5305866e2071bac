"""Hints for selectors that end in what an array is called, `Linear.bias`, `head.weights`: which arrays are meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from initax._errors import nearest
from initax._model._parameter import Layer, Parameter
from initax._model._reason import Why
from initax._planning._selectors import class_names, is_glob, read_selector, selects_any

ROLES_OF = {
    "weight": ("weight", "embedding", "scale"),
    "kernel": ("weight",),
    "w": ("weight",),
    "embedding": ("embedding",),
    "recurrent": ("recurrent",),
    "scale": ("scale",),
    "gamma": ("scale",),
    **dict.fromkeys(("bias", "beta", "offset", "b"), ("bias",)),
}
"""What an array is called, in one framework or another → the roles that arrays of that name have, likeliest first."""

MISSPELLED = 0.75
"""How alike a word and what an array is called have to be, of 1, for the one to stand for the other."""


def roles_meant(text: str, layers: Sequence[Layer]) -> tuple[str | None, ...]:
    """Return the roles of the arrays that a selector speaks of by its end; empty where it ends in no array's name."""
    last = text.rpartition(".")[2]
    known = dict.fromkeys(array.role for array in known_arrays(layers) if _last(array) == last)
    return tuple(known) or ROLES_OF.get(_name_meant(last), ())


def _name_meant(word: str) -> str:
    """What an array is called, in the singular and spelled right; the word itself where it is no such name."""
    lower = word.lower()
    if lower in ROLES_OF or not lower.isalpha() or len(lower) < 4:
        return lower
    near = difflib.get_close_matches(
        lower.removesuffix("es" if lower.endswith("ses") else "s"), ROLES_OF, 1, MISSPELLED
    )
    return near[0] if near else lower


def arrays_meant(text: str, layers: Sequence[Layer]) -> str:
    """Return the selector of the arrays that a text means whose end says what an array is called; empty without one.

    All that it selects has a role that the text's end has, and stands in a layer that the text's beginning means.
    """
    module, _, last = text.rpartition(".")
    roles = roles_meant(text, layers)
    for before in _modules_meant(module, layers) if roles else ():
        for inside in (before, f"{before}**."):
            name = _name_in(inside, last, roles, layers)
            if name and {array.role for array in _selected(f"{inside}{name}", layers)} <= {*roles, None}:
                return _as_one_path(f"{inside}{name}", layers)
    return ""


def is_all_of(role: str, selector: str, layers: Sequence[Layer]) -> bool:
    """Return whether a selector is for all arrays of a role, and for no other."""
    paths = {array.path for array in known_arrays(layers) if array.role == role}
    return bool(selector) and paths == {array.path for array in _selected(selector, layers)}


def _as_one_path(selector: str, layers: Sequence[Layer]) -> str:
    """A selector, or the path of the one array that it selects behind a made-up wildcard."""
    paths = [array.path for array in _selected(selector, layers)]
    return paths[0] if len(paths) == 1 and "_*." in selector else selector


def _modules_meant(module: str, layers: Sequence[Layer]) -> Iterable[str]:
    """Beginnings of selectors for the arrays of what a path, a class or a kind means, the surest first."""
    if not module:
        yield "**."
        return
    classes = [cls for layer in layers for cls in (layer.cls, *(around.cls for around in layer.ancestors))]
    words = [word for cls in classes for word in class_names(cls)] + [layer.kind for layer in layers]
    first, dot, rest = module.partition(".")
    if dot and first in words:
        yield f"{first} **.{rest}."
    for name in dict.fromkeys((module, _path_meant(module, layers), *([] if dot else nearest(module, words, 1)))):
        if not name:
            continue
        if selects_any(f"{name}.**", layers):
            yield f"{name}."
        if name in words:
            yield f"{name} **."
        numbered = [
            array.path for array in known_arrays(layers) if re.match(rf"(.*\.)?{re.escape(name)}_\d+\.", array.path)
        ]
        if numbered and len(numbered) == len(_selected(f"**.{name}_*.**", layers)):
            yield f"**.{name}_*."
        if selects_any(f"**.{name}.**", layers):
            yield f"**.{name}."


def _name_in(before: str, last: str, roles: Sequence[str | None], layers: Sequence[Layer]) -> str:
    """The name of the arrays behind the beginning of a selector that have one of some roles; empty if there are two."""
    arrays = [array for array in _selected(f"{before}?*", layers) if array.role in roles]
    names = {_last(array) for array in arrays}
    for name in (last, _name_meant(last)):
        if name in names:
            return name
    first = next((role for role in roles if any(array.role == role for array in arrays)), None)
    names = {_last(array) for array in arrays if array.role == first}
    return names.pop() if len(names) == 1 else ""


def path_meant(text: str, layers: Sequence[Layer]) -> str:
    """Return the path that a text means some of whose parts are misspelled; empty where there is none."""
    path = _path_meant(text, layers)
    return path if selects_any(path, layers) else f"{path}.**" if path else ""


def _path_meant(text: str, layers: Sequence[Layer]) -> str:
    """The path to something in a model with each part of a text as it is spelled there; wildcards and numbers stay."""
    paths = [array.path.split(".") for array in known_arrays(layers)]
    meant: list[str] = []
    for part in text.split("."):
        here = dict.fromkeys(path[len(meant)] for path in paths if len(path) > len(meant))
        free = is_glob(part)
        near = [] if free or re.fullmatch(r"-?\d+", part) else nearest(part, here, 1)
        spelled = part if free or part in here else "".join(near)
        paths = [path for path in paths if len(path) > len(meant) and (free or path[len(meant)] == spelled)]
        if not spelled or not paths:
            return ""
        meant.append(spelled)
    return ".".join(meant)


def _selected(selector: str, layers: Sequence[Layer]) -> list[Parameter]:
    names = read_selector(selector).names
    return [array for layer in layers for array in layer.parameters if names and names(layer, array)]


def known_arrays(layers: Sequence[Layer]) -> Iterable[Parameter]:
    """Return the arrays of a model, without what an optimizer holds."""
    known = (array for layer in layers for array in layer.parameters)
    return (array for array in known if array.excluded is None or array.excluded.why is not Why.OPTIMIZER)


def _last(array: Parameter) -> str:
    return array.path.rpartition(".")[2]
