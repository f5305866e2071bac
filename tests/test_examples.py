import math
import os
import re
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


def run(script, folder):
    command = [sys.executable, "-W", "error", "-W", UNREAD, str(script), *OPTIONS.get(script.stem, [])]
    # The eight fake devices of the other tests are not what a user has.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | FAST
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_there_are_examples():
    assert {"demo", "quickstart_equinox", "custom_layer", "ficnn", "gpt2_init"} <= {script.stem for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_runs_and_leaves_its_files(script, tmp_path):
    """An example exits with 0, prints a plan, warns of nothing, and leaves the files it speaks of and no others."""
    done = run(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "drawn: " in done.stdout
    left = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if path.is_file()}
    assert set(left) == LEFT.get(script.stem, set())
    if script.stem == "demo":
        assert left["demo-output/initialization.png"].read_bytes().startswith(b"\x89PNG")
        table = left["demo-output/table.txt"].read_text(encoding="utf-8").splitlines()
        assert [sum(line.strip().startswith(f"{name}  ") for line in table) for name in SCHEMES] == [2] * 5
    if script.stem == "redo":
        shares = [int(share) for share in re.findall(r"dormant at the end: (\d+)%", done.stdout)]
        assert shares[1] < shares[0]
    if script.stem == "gpt2_init":
        pairs = re.findall(r"^(\S+) +std ([\d.]+), wanted ([\d.]+)$", done.stdout, re.MULTILINE)
        # Six weights of four blocks and two tables, the tied head not among them; the narrowest has 2,048 entries.
        assert len(pairs) == 4 * 6 + 2
        assert all(abs(float(std) / float(wanted) - 1) < 4.9 / math.sqrt(2 * 2048) for _, std, wanted in pairs)
        residual = {path: wanted for path, _, wanted in pairs if path.endswith(("output_proj.weight", "down.weight"))}
        assert set(residual.values()) == {f"{0.02 / math.sqrt(8):.5f}"}
        assert "the head is the embedding: True" in done.stdout
