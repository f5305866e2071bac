"""What one does twice, `nox -s` and a name.

`demo`, `test`, `slow`, `lint`, `types`, `docs`, `site`, `bench`, `calibration`, `oldest`, `alone`, `wild`, `peers`,
`mup` and `fuzz`.
"""

import os
import runpy
import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["test", "slow", "lint", "types", "docs", "alone"]

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHON = runpy.run_path(str(Path(__file__).parent / ".ci" / "pythons.py"))["find"](OLDEST := "3.11")
"""Path of the oldest supported Python; `None` where it is not there."""

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def group(name: str) -> list[str]:
    """Return a dependency group of the project."""
    return nox.project.dependency_groups(PROJECT, name)


def floors() -> list[str]:
    """Return the oldest supported versions, which are the bounds that the project states: `jax==0.9.0` and so on.

    Matplotlib's is not among them: 3.9 warns of what current versions of its own dependencies deprecate.
    """
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    stated = [*project["dependencies"], *extras["equinox"], *extras["flax"], *group("optax")]
    return [each.replace(">=", "==") for each in stated]


ALL = ("-n", "2", "--dist", "loadfile", "tests")
KEPT = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000"}
"""Has glibc keep what compilers hand back, for the next program: a fifteenth of the tests' time; others ignore it."""


def run_tests(session: nox.Session, *arguments: str) -> None:
    """Run pytest, with arguments of the command line in place of these, against the built wheel."""
    session.install(".", *group("test"))
    session.run("pytest", *(session.posargs or arguments), env=KEPT)


@nox.session
def test(session: nox.Session) -> None:
    """Pass the tests and doctests on the Python that nox runs on: each law, but not each slow case of it."""
    run_tests(session, "-m", "not slow", *ALL, "--pyargs", "initax")


@nox.session
def slow(session: nox.Session) -> None:
    """Pass the tests that `test` leaves out."""
    run_tests(session, "-m", "slow", *ALL)


@nox.session(python=PYTHON)
def oldest(session: nox.Session) -> None:
    """Pass all tests with the oldest supported versions, on the oldest supported Python."""
    if PYTHON is None:
        session.error(f"no Python {OLDEST} that can make environments, neither on the path nor among pyenv's")
    session.install(".", *group("test"), *floors())
    # As users compile; `test` has LLVM optimize less.
    optimized = {"XLA_FLAGS": "--xla_backend_optimization_level=3"}
    session.run("pytest", *(session.posargs or ALL), env=KEPT | optimized)


@nox.session
@nox.parametrize("framework", ["equinox", "flax"])
def alone(session: nox.Session, framework: str) -> None:
    """Re-initialize models of one framework where no other is installed."""
    session.install(f".[{framework}]", "pytest>=8.3")
    session.run("pytest", *(session.posargs or ["tests/test_alone.py"]))


@nox.session
def demo(session: nox.Session) -> None:
    """Re-initialize two networks under five schemes on real digits; leave a table and a picture."""
    session.install(".", *group("demo"))
    session.run("python", "examples/demo.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types: strictly in the package, and in the tests that what they name is there."""
    session.install(".", *group("types"))
    session.run("mypy")


def build(session: nox.Session, target: str = "") -> Path:
    """Draw the pictures, build the pages in a folder, one of the session's own if none is named, and return it."""
    folder = Path(target).resolve() if target else Path(session.create_tmp()).resolve() / "site"
    session.run("python", "examples/gallery.py", "--output", "docs/pictures")
    session.run("mkdocs", "build", "--strict", "--site-dir", str(folder))
    return folder


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, pictures included; a broken link or a missing name fails. `-- FOLDER` keeps it there."""
    session.install(".", *group("docs"))
    build(session, *session.posargs)


@nox.session
def site(session: nox.Session) -> None:
    """Build the documentation and go through it in headless Chromium, on a wide screen and on a phone's."""
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        session.error(
            f"no Chromium: none of {', '.join(BROWSERS)} is on the path. "
            "apt-get install chromium-headless-shell, or CHROMIUM=/path/to/chromium nox -s site"
        )
    session.install(".", *group("docs"), *group("site"))
    session.run(
        "pytest", "tests/in_browser.py", *session.posargs, env={"CHROMIUM": browser, "SITE": str(build(session))}
    )


@nox.session
@nox.parametrize("jax", ["current", "held"])
def wild(session: nox.Session, jax: str) -> None:
    """Read the models of other people's packages, and hold that against a list gone over by hand.

    With the current JAX, and, in an environment of their own, those whose pins hold JAX back.
    """
    session.install(".", *group("wild" if jax == "current" else "wild-held"))
    if jax == "current":
        session.install("--no-deps", *group("wild-bare"))
    marks = ["-m", "held" if jax == "held" else "not held"]
    session.run("pytest", "-W", "ignore", *marks, *(session.posargs or ["-n", "2", "benchmarks/wild.py"]))


@nox.session
def mup(session: nox.Session) -> None:
    """Hold `ix.mup` against the package `mup` on PyTorch, tensor by tensor."""
    session.install(".", *group("mup"))
    session.run("pytest", *(session.posargs or ["-W", "ignore", "benchmarks/mup_package.py"]))


@nox.session
def fuzz(session: nox.Session) -> None:
    """Read random forward passes and hold that against what is measured; `-- --minutes 30 --seed 7 --workers 2`."""
    session.install(".", *group("test"))
    arguments = session.posargs or ["--programs", "4000", "--workers", "2"]
    session.run("python", "-W", "ignore", "-m", "tests.programs", *arguments)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure initax against its peers; write the table of the docs."""
    session.install(".", *group("bench"))
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def calibration(session: nox.Session) -> None:
    """Measure `auto` and `lsuv` against AnyInit and the PyTorch package; `-- --write` writes the tables of the docs."""
    session.install(".", *group("calibration"))
    for name in ("anyinit", "lsuv"):
        session.run("python", "-m", f"benchmarks.{name}", *session.posargs)
