"""Run examples one after another in one process: `python run_examples.py FOLDER 'SCRIPT [OPTION ...]' ...`.

Each leaves its files in `FOLDER/NAME` and what it prints in `FOLDER/NAME.out`; one that fails leaves its traceback in
`FOLDER/NAME.error`.
"""

import contextlib
import os
import runpy
import shlex
import sys
import traceback
from pathlib import Path


def run(script, options, folder):
    """Run a script in an empty folder, as Python does when it is called with these options."""
    place = folder / script.stem
    place.mkdir()
    os.chdir(place)
    sys.argv, sys.path[0] = [str(script), *options], str(script.parent)
    error = folder / f"{script.stem}.error"
    with (folder / f"{script.stem}.out").open("w", encoding="utf-8") as printed, contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except (Exception, SystemExit):
            error.write_text(traceback.format_exc(), "utf-8")


def main(folder, *scripts):
    for script in scripts:
        name, *options = shlex.split(script)
        run(Path(name), options, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
