"""Finds the Pythons of a machine: `python3 .ci/pythons.py 3.13 3.12` prints the first of these versions that is there.

`.ci/run` starts it on whatever `python3` is, which may be older than what it looks for; the noxfile uses `find`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PROBE = "import ensurepip, sys, venv; print('{}.{}'.format(*sys.version_info))"


def find(*versions: str) -> str | None:
    """Return the path of the first of the versions, as in `3.13`, that is there; `None` where none is."""
    return next((path for version in versions for path in candidates(version) if runs(path, version)), None)


def candidates(version: str) -> Iterator[str]:
    """Return what may be a Python of that version: this one, those on the path, and pyenv's, the newest first."""
    yield sys.executable
    for folder in os.get_exec_path():
        found = shutil.which(f"python{version}", path=folder)
        if found:
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv"))
    releases = [each for each in (pyenv / "versions").glob(f"{version}.*") if each.suffix[1:].isdigit()]
    for release in sorted(releases, key=lambda each: int(each.suffix[1:]), reverse=True):
        yield str(release / "bin" / "python")


def runs(path: str, version: str) -> bool:
    """Return whether it is that version and can make environments: pyenv has commands that only say they can't run."""
    try:
        done = subprocess.run([path, "-c", PROBE], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() == version


if __name__ == "__main__":
    path = find(*sys.argv[1:])
    if path is None:
        sys.exit(1)
    print(path)
