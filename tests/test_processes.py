"""Several processes draw one model: the bits of one, and no disagreement goes unnoticed."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import initax as ix
from tests.process import DEVICES, RULES, model, shards

LIMIT = 120
"""Seconds after which a process that still runs is one that hangs."""


def together(what, folder, count=2):
    """Return exit code, written lines and noise of each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES // count}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")))),
    }
    files = [folder / str(rank) for rank in range(count)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.process", str(rank), str(count), str(port), what, str(file)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, file in enumerate(files)
    ]
    try:
        noise = [process.communicate(timeout=LIMIT)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    lines = [file.read_text().splitlines() if file.exists() else [] for file in files]
    return [process.returncode for process in running], lines, noise


def test_two_processes_draw_the_bits_of_one(tmp_path):
    codes, lines, noise = together("the same", tmp_path)
    assert codes == [0, 0], noise
    assert all(lines)
    alone = list(shards(ix.reinit(model(), RULES, jax.random.key(0))))
    assert sorted(set(lines[0] + lines[1])) == sorted(set(alone))


@pytest.mark.parametrize(
    ("what", "found"),
    {
        "another key": "in process 1: key threefry2x32 [0, 1]",
        "another scheme": "in process 1: ('a.w',) UniformKernel(lower=-1.0, below=None) (64, 32) float32 "
        "(0.3061862289905548,)",
        "another model": "the processes were to draw different models: 5, 4 arrays.",
    }.items(),
)
@pytest.mark.slow
def test_processes_that_mean_different_things_all_say_so(what, found, tmp_path):
    codes, lines, noise = together(what, tmp_path)
    assert codes == [3, 3], noise
    assert lines[0][0].startswith("DrawError: the processes were to draw different")
    assert found in lines[1][1].strip() or found in lines[1][0]
    assert lines[1][-1] == "  call initax with the same model, rules and key in every process"


@pytest.mark.slow
def test_where_one_process_dies_the_other_ends_with_an_error(tmp_path):
    codes, lines, _ = together("dies", tmp_path)
    assert codes[1] == 9
    assert codes[0] == 3
    assert lines[0][0] == "DrawError: process 0 of 2 lost another one while they drew a model."
    assert lines[0][-1] == "  start all processes again"
