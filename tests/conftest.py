"""Eight fake CPU devices, so that sharding is tested anywhere; strict promotion, so that nothing is cast unasked."""

import collections
import gc
import os
import sys

os.environ["XLA_FLAGS"] = " ".join(
    ("--xla_backend_optimization_level=1", os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8")
)

import jax
import pytest

from initax._math._positivity import POSITIVITY
from initax.schemes._names import SHIPPED
from initax.schemes._scheme import NAMED

collect_ignore = [] if sys.version_info >= (3, 12) else ["test_haliax.py", "test_klax.py"]  # both packages need it

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)  # also of what a file makes when it is imported
# Lowering programs without the lines of Python they come from, here and in processes of tests, saves 7 % of the time.
jax.config.update("jax_traceback_in_locations_limit", 0)
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"


def pytest_configure(config):
    """Keep compiled programs in the cache of pytest: for the other worker, for processes of tests, for the next run.

    A program is found by itself, the options of XLA and the versions; without the folder everything is compiled.
    """
    if config.pluginmanager.hasplugin("cacheprovider"):
        kept = {
            "jax_compilation_cache_dir": str(config.cache.mkdir("xla")),
            "jax_persistent_cache_min_compile_time_secs": 0,
            "jax_persistent_cache_min_entry_size_bytes": -1,
        }
        for name, value in kept.items():
            os.environ[name.upper()] = str(value)
            jax.config.update(name, value)


OPTIMIZED = frozenset(
    {"test_auto", "test_bits", "test_draws", "test_haar_sharded", "test_scale", "test_threefry"}
    | {"test_ablation_file", "test_processes"}
)
"""Files about bits, memory and collectives, which are those of optimized programs, those that compare with other
processes, and those that draw millions of numbers; all others compile faster.

They are optimized at LLVM's first level, which compiles in about half the time of its third. Of 245 draws, of every
scheme, the two levels differed in the bits of three, orthogonal ones; without optimizations 117 differed, since no
product and sum are fused. A level that is named in `XLA_FLAGS` is used instead.
"""


def is_optimized(file):
    return file.stem in OPTIMIZED


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Run the optimized files first: what is compiled for the others then stays, and the longest are not the last.

    Of a test marked `slow(one_in=7)` the first case of each seven is not slow.
    """
    items.sort(key=lambda item: not is_optimized(item.path))
    cases = collections.Counter()
    for item in items:
        for mark in [mark for mark in item.own_markers if mark.name == "slow" and "one_in" in mark.kwargs]:
            test = item.nodeid.partition("[")[0]
            if cases[test] % mark.kwargs["one_in"] == 0:
                item.own_markers.remove(mark)
            cases[test] += 1


@pytest.fixture(scope="module", autouse=True)
def optimizations(request):
    """Turn XLA's optimizations on or off for a file; programs compiled the other way are dropped."""
    off = not is_optimized(request.path)
    if off != jax.config.read("jax_disable_most_optimizations"):
        jax.config.update("jax_disable_most_optimizations", off)
        jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def traced():
    """Leave what JAX keeps of a file's programs, millions of objects in the end, out of all later garbage collections.

    Pytest collects five times at the end, and Python twice more when it exits.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def named():
    """Forget the schemes and the maps that the tests of a file gave names."""
    before = {*NAMED, *SHIPPED, *POSITIVITY}
    yield
    for registry in (NAMED, POSITIVITY):
        for name in {*registry} - before:
            del registry[name]


@pytest.fixture
def key():
    return jax.random.key(20261121)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def optax_promotes():
    """Allow what optax does and the tests forbid elsewhere: arithmetic between types, and between ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
