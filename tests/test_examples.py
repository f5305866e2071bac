import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
OPTIONS = {
    "ablation": ["--quick"],
    "demo": ["--quick"],
    "ficnn": ["--quick"],
    "gallery": ["--quick"],
    "mup": ["--quick"],
    "redo": ["--quick"],
}
LEFT = {
    "ablation": {"ablation-output/ablation.png", "ablation-output/runs.jsonl", "ablation-output/table.txt"},
    "demo": {"demo-output/initialization.png", "demo-output/table.txt"},
    "ficnn": {"ficnn-output/ficnn.png"},
    "mup": {"mup-output/mup.png"},
    "gallery": {
        f"gallery-output/{picture}-{ground}.svg"
        for picture in ("signal", "spectra", "densities", "by_hand", "calibration", "convex", "training")
        for ground in ("light", "dark")
    },
}
SCHEMES = ["Equinox default", "he_normal", "orthogonal(gain=relu)", "he_normal, small ends", "normal(stddev=1)"]
# Toy sizes cost compilation and little else; XLA compiles twice as fast without its optimizations.
FAST = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"}
UNREAD = "ignore:Error reading persistent compilation cache entry"
"""A program that another process is writing at this moment is compiled again."""

APART = {"sharded"}
"""Examples with a process of their own: this one simulates devices, which has to be said before JAX starts."""


def run(scripts, folder):
    """Run examples in one process: to import Matplotlib, scikit-learn and Optax takes longer than most examples do."""
    runner = Path(__file__).parent / "run_examples.py"
    calls = [shlex.join([str(script), *OPTIONS.get(script.stem, [])]) for script in scripts]
    command = [sys.executable, "-W", "error", "-W", UNREAD, str(runner), str(folder), *calls]
    # The eight fake devices of the other tests are not what a user has.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | FAST
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory):
    """A folder with what the examples that are asked for print and leave."""
    folder = tmp_path_factory.mktemp("examples")
    calls = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    scripts = [call.params["script"] for call in calls if call]
    for chosen in ([each for each in scripts if (each.stem in APART) is apart] for apart in (False, True)):
        if chosen:
            run(chosen, folder)
    return folder


def test_there_are_examples():
    assert {"demo", "quickstart_equinox", "custom_layer", "ficnn", "gpt2_init"} <= {script.stem for script in SCRIPTS}


@pytest.mark.parametrize(
    "script",
    [pytest.param(each, marks=[pytest.mark.slow] if each.stem in OPTIONS else []) for each in SCRIPTS],
    ids=lambda script: script.stem,
)
def test_an_example_runs_and_leaves_its_files(script, folder):
    """An example exits with 0, prints a plan, warns of nothing, and leaves the files it speaks of and no others."""
    error, own = folder / f"{script.stem}.error", folder / script.stem
    assert not error.exists(), error.read_text("utf-8")
    printed = (folder / f"{script.stem}.out").read_text("utf-8")
    assert "drawn: " in printed
    left = {path.relative_to(own).as_posix(): path for path in own.rglob("*") if path.is_file()}
    assert set(left) == LEFT.get(script.stem, set())
    if script.stem == "demo":
        assert left["demo-output/initialization.png"].read_bytes().startswith(b"\x89PNG")
        table = left["demo-output/table.txt"].read_text(encoding="utf-8").splitlines()
        assert [sum(line.strip().startswith(f"{name}  ") for line in table) for name in SCHEMES] == [2] * 5
    if script.stem == "redo":
        shares = [int(share) for share in re.findall(r"dormant at the end: (\d+)%", printed)]
        assert shares[1] < shares[0]
    if script.stem == "gpt2_init":
        pairs = re.findall(r"^(\S+) +std ([\d.]+), wanted ([\d.]+)$", printed, re.MULTILINE)
        # Six weights of four blocks and two tables, the tied head not among them; the narrowest has 2,048 entries.
        assert len(pairs) == 4 * 6 + 2
        assert all(abs(float(std) / float(wanted) - 1) < 4.9 / math.sqrt(2 * 2048) for _, std, wanted in pairs)
        residual = {path: wanted for path, _, wanted in pairs if path.endswith(("output_proj.weight", "down.weight"))}
        assert set(residual.values()) == {f"{0.02 / math.sqrt(8):.5f}"}
        assert "the head is the embedding: True" in printed
