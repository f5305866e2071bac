"""Eight fake CPU devices, so that sharding is tested anywhere; strict promotion, so that nothing is cast unasked."""

import os
import sys

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import pytest

collect_ignore = [] if sys.version_info >= (3, 12) else ["test_klax.py"]  # klax needs it

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key():
    return jax.random.key(20261121)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
