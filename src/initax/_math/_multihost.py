"""Several processes that draw one model together: do they all mean the same, and are all still there?

A draw itself needs no word between processes: each draws its own shards, from the key and the place of an entry alone.
So what one does differently would go unnoticed, and one that dies would too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import jax
import numpy as np

from initax._errors import DrawError

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def agree(account: Sequence[str]) -> None:
    """Raise, in every process, where they are about to draw different things.

    Args:
        account: what this process is about to draw, one line each.

    Raises:
        DrawError: another process has other lines, or is gone.
    """
    lines = [_ADDRESS.sub("", line) for line in account]
    counts = _gather(np.array([len(lines)]))
    if (counts != counts[0]).any():
        raise DrawError(
            f"the processes were to draw different models: {', '.join(map(str, counts[:, 0] - 1))} arrays.",
            "call initax with the same model, rules and key in every process",
        )
    digests = _gather(np.stack([_digest(line) for line in lines]))
    differs = (digests != digests[0]).any(axis=(0, 2))
    if differs.any():
        index = int(np.argmax(differs))
        raise DrawError(
            "the processes were to draw different things.",
            f"in process {jax.process_index()}: {lines[index]}",
            "call initax with the same model, rules and key in every process",
        )


def meet() -> None:
    """Wait until every process has drawn its part.

    Raises:
        DrawError: one of them is gone.
    """
    _gather(np.array([0]))


def _digest(line: str) -> np.ndarray:
    return np.frombuffer(hashlib.blake2b(line.encode(), digest_size=8).digest(), dtype=np.uint32)


def _gather(words: np.ndarray) -> np.ndarray:
    """The words of every process, process by process."""
    from jax.experimental import multihost_utils  # only where there are several processes

    try:
        return np.asarray(multihost_utils.process_allgather(words, tiled=False))
    except (jax.errors.JaxRuntimeError, RuntimeError) as error:
        raise DrawError(
            f"process {jax.process_index()} of {jax.process_count()} lost another one while they drew a model.",
            str(error).split("\n", maxsplit=1)[0],
            "start all processes again",
        ) from error
