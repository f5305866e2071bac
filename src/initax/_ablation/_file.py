"""The file of an ablation: JSON Lines that are only appended to, a header and then one line per run.

A process killed while it writes leaves a last line without an end; that one run is done again. Everything else that
does not fit is refused: another ablation's file is never touched.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from initax._ablation._run import Run
from initax._errors import InitaxError, listing, message
from initax._math._positivity import LIMITS
from initax._text import differing, path_text

FORMAT = 1
"""Version of the file."""

Header = Mapping[str, Any]


def header_of(plans: Mapping[str, Any], keys: Mapping[str, Any]) -> Header:
    """Return the header of a file, which identifies the ablation.

    Args:
        plans: name of each scheme → its plan, plain data with a fingerprint.
        keys: the keys, plain data.
    """
    return json.loads(json.dumps({"initax": "ablation", "format": FORMAT, "schemes": plans, "keys": keys}))


class RunFile:
    """The file of one ablation, open for more runs.

    Args:
        path: where it is; made, with the folders above, if it is not there.
        header: what the ablation is about; then the header of the file, in which what functions draw may differ in its
            last digits.

    Raises:
        InitaxError: the file is not of an ablation, is of another ablation, or damaged.
    """

    def __init__(self, path: str | os.PathLike[str], header: Header) -> None:
        self.path = Path(path)
        first = f"{json.dumps(header, ensure_ascii=False)}\n".encode()
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if not whole and not first.startswith(content):
            raise InitaxError(_foreign(self.path))
        self.header, self.runs = header, tuple[Run, ...]()
        if whole:
            stored, self.runs = _read(self.path, whole)
            if not _is_same(stored, header):
                line = "pass another path, or delete the file"
                raise InitaxError(f"{self.path} holds another ablation.", *_differences(stored, header), line)
            self.header = stored
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        if content != whole:
            os.truncate(self.path, len(whole))
        if not whole:
            self._write(first)

    def append(self, runs: Iterable[Run]) -> None:
        """Append runs; they are written to disk when this returns."""
        self._write(b"".join(f"{run.to_json()}\n".encode() for run in runs))

    def _write(self, content: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def read_file(path: str | os.PathLike[str]) -> tuple[Header, tuple[Run, ...]]:
    """Return the header and the runs of a file; an incomplete last line is ignored.

    Raises:
        InitaxError: the file is not of an ablation, or damaged.
        FileNotFoundError: there is no such file.
    """
    content = Path(path).read_bytes()
    return _read(Path(path), content[: content.rfind(b"\n") + 1])


def _foreign(path: Path) -> str:
    return message(f"{path} is not a file of an ablation.", "it is left as it is; pass another path")


def _read(path: Path, content: bytes) -> tuple[Header, tuple[Run, ...]]:
    first, *lines = content.split(b"\n")
    try:
        header = json.loads(first)
        known = header["initax"] == "ablation" and {"schemes", "keys"} <= set(header)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise InitaxError(_foreign(path))
    if header.get("format") != FORMAT:
        raise InitaxError(f"{path} is in format {header.get('format')!r}, this initax reads {FORMAT}.")
    runs: dict[tuple[str, int], Run] = {}
    for number, line in enumerate(lines[:-1], 2):
        try:
            run = Run.from_json(line.decode())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InitaxError(
                f"{path}, line {number} is not a run: {type(error).__name__}: {error}", "mend or delete the line"
            ) from error
        runs[run.scheme, run.seed] = run  # what was run again stands further down
    return header, tuple(runs.values())


def _is_same(stored: Header, current: Header) -> bool:
    """Whether two headers are of one ablation."""
    old, new = stored["schemes"], current["schemes"]
    rest = [{**header, "schemes": list(header["schemes"])} for header in (stored, current)]
    return rest[0] == rest[1] and all(_is_same_plan(old[name], new[name]) for name in new)


def _is_same_plan(old: Any, new: Any) -> bool:
    """Whether two plans of a scheme are the same."""
    return old["rules"] == new["rules"] and not _changed(old["decisions"], new["decisions"])


def _changed(old: Any, new: Any) -> list[str]:
    """The paths of which two plans decide differently."""
    return [path for path in differing(old, new) if path not in old or path not in new or _rows(old[path], new[path])]


def _rows(old: Any, new: Any) -> list[str]:
    """The entries in which two decisions differ; what a function draws may differ in its last digits."""
    changes = differing(old, new)
    if "drawn" not in old or "drawn" not in new:
        return changes
    if _are_close(old["drawn"], new["drawn"], new["dtype"]):
        return [entry for entry in changes if entry not in ("std", "drawn")]
    others = [entry for entry in changes if entry != "drawn"]
    return others or changes


def _are_close(old: list[str], new: list[str], dtype: str) -> bool:
    """Whether what a function draws is the same but for the last digits, which other machines may round otherwise."""
    before, after = (np.array(numbers, float) for numbers in (old, new))
    if before.shape != after.shape:
        return False
    eps = float(LIMITS(dtype).eps) if jnp.issubdtype(dtype, jnp.inexact) else 0.0
    size = float(np.max(np.abs(before), initial=0, where=np.isfinite(before)))
    return bool(np.allclose(before, after, rtol=0, atol=max(1e-3, 4 * eps) * size, equal_nan=True))


def _differences(stored: Header, current: Header) -> Iterator[str]:
    old, new = stored["schemes"], current["schemes"]
    if set(old) != set(new):
        yield f"its schemes: {listing(old)}; now: {listing(new)}"
    for name in (name for name in new if name in old and not _is_same_plan(old[name], new[name])):
        yield from _changes(name, old[name], new[name])
    if stored["keys"] != current["keys"]:
        old_count, new_count = (len(header["keys"]["data"]) for header in (stored, current))
        is_as_many = old_count == new_count
        changed = f"it has {old_count} keys, now there are {new_count}"
        yield f"its {old_count} keys are not these {new_count}" if is_as_many else changed


def _changes(name: str, old: Any, new: Any) -> Iterator[str]:
    """What differs between two plans of a scheme: its rules, else the first decision that does."""
    before, after = old["rules"], new["rules"]
    for old_rule, new_rule in zip(before, after, strict=False):
        if old_rule != new_rule:
            old_row, new_row = (f'"{selector}": {json.dumps(scheme)}' for selector, scheme in (old_rule, new_rule))
            yield f'scheme "{name}": its rules have {old_row}, now {new_row}'
            return
    if len(before) != len(after):
        yield f'scheme "{name}": it has {len(before)} rules, now there are {len(after)}'
        return
    old, new = old["decisions"], new["decisions"]
    path = _changed(old, new)[0]
    shown = path_text(path)
    if path not in old or path not in new:
        news = "is new" if path in new else "is gone"
        yield f'scheme "{name}": {shown} {tuple({**old, **new}[path]["shape"])} {news}'
        return
    old_row, new_row = old[path], new[path]
    entries = _rows(old_row, new_row)
    if entries == ["drawn"] and "drawn" in new_row:
        drawn = [", ".join(row["drawn"][:3]) for row in (old_row, new_row) if "drawn" in row]
        told = "what its function draws is not in the file, which is of an older initax"
        yield f'scheme "{name}": {shown}: ' + (f"draws {drawn[0]}, … → {drawn[1]}, …" if len(drawn) > 1 else told)
        return
    changes = (f"{entry} {old_row.get(entry)} → {new_row.get(entry)}" for entry in entries)
    yield f'scheme "{name}": {shown}: {", ".join(changes)}'
