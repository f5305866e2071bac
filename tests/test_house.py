"""The house: what is public, what is named, and that imports go down."""

import ast
import dataclasses
import functools
import graphlib
import importlib
import importlib.util
from pathlib import Path
from typing import get_args

import equinox as eqx
import pytest

import initax as ix
from initax._adapters._equinox import LAYERS

PACKAGE = Path(importlib.util.find_spec("initax").origin).parent

PUBLIC = {
    "ArgumentError",
    "Ablation", "Axes", "AxesError", "Calibrated", "Draw", "DrawError", "Evidence", "InitaxError", "InitaxWarning",
    "Kept", "KeyTypeError", "Layer", "LsuvReport", "ModelError", "Parameter", "Plan", "PlanError", "Reason",
    "RuleError", "Run", "Scheme", "SchemeError", "Signal", "SignalReport", "Summary", "Survey", "Why", "ablate",
    "convex", "draw", "gain", "layers", "load_rules", "lsuv", "parameter_key", "plan", "register_layer", "reinit",
    "reset_optimizer", "reset_units", "schemes", "signal_propagation", "survey",
    "Field", "Node", "register_adapter", "SignalComparison", "Residual", "ResidualStream", "Unended",
    "Label", "Labels", "labels", "mask", "muon", "muon_dimensions", "Width", "WidthFactor", "mup",
    "Coordinate", "CoordinateCheck", "coordinate_check",
}  # fmt: skip

FLOORS = (
    "_errors", "_text", "_math", "_model", "schemes", "_drawing", "_adapters", "_trace", "_planning",
    "_verbs", "_ablation", "convex", "__init__",
)  # fmt: skip
"""Folders, and modules at the top, lowest first: each knows those below it alone."""


@functools.cache
def modules():
    return {
        str(path.relative_to(PACKAGE).with_suffix("")): path
        for path in PACKAGE.rglob("*.py")
        if "__pycache__" not in path.parts
    }


def test_the_public_names_are_exactly_the_public_names():
    exported = {name for name in dir(ix) if not name.startswith("_")}
    assert exported == PUBLIC
    assert all(getattr(ix, name) is not None for name in PUBLIC)


@pytest.mark.parametrize("package", [ix, ix.schemes, ix.convex])
def test_every_name_of_a_stub_is_there_when_it_is_asked_for(package):
    stub = ast.parse(Path(package.__file__).with_suffix(".pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    modules_of = {alias.name: node.module for node in imports for alias in node.names}
    assert set(modules_of) == set(dir(package)) == set(package.__all__)
    for name, module in modules_of.items():
        if module is None:
            assert getattr(package, name) is importlib.import_module(f"{package.__name__}.{name}")
        else:
            assert getattr(package, name) is getattr(importlib.import_module(f"{package.__name__}.{module}"), name)
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'he_norml'"):
        getattr(package, "he_norml")  # noqa: B009  as a user writes it


def test_a_scheme_in_the_place_of_a_function_is_answered_with_the_line():
    with pytest.raises(AttributeError) as caught:
        getattr(ix, "he_normal")  # noqa: B009  as a user writes it
    assert str(caught.value) == (
        "module 'initax' has no attribute 'he_normal'; it is a scheme: "
        'write ix.reinit(model, {"Linear": "he_normal"}, key), or ix.schemes.he_normal()'
    )


@functools.cache
def imports_of(name):
    """The modules of initax that a module imports."""
    return tuple(_imports_of(name))


def _imports_of(name):
    every = modules()
    for node in ast.walk(ast.parse(every[name].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "initax":
            target = "/".join(node.module.split(".")[1:])
            for alias in node.names:
                inside = f"{target}/{alias.name}" if target else alias.name
                yield next(
                    each for each in (inside, target, f"{target}/__init__", f"{inside}/__init__") if each in every
                )


@pytest.mark.parametrize("name", modules())
def test_imports_go_down(name):
    floor = FLOORS.index(name.partition("/")[0])
    assert all(FLOORS.index(each.partition("/")[0]) <= floor for each in imports_of(name))


def test_no_module_imports_itself_in_a_circle():
    graphlib.TopologicalSorter({name: set(imports_of(name)) for name in modules()}).prepare()


FRAMEWORKS = {
    "_adapters/_bridges",
    "_adapters/_equinox", "_adapters/_haliax", "_adapters/_klax", "_adapters/_nnx", "_adapters/_linen",
    "_adapters/_linen_boxes", "_adapters/_linen_run", "_adapters/_optax_transforms",
    "convex/_equinox", "convex/nnx",
}  # fmt: skip
"""Modules that are there for one framework, and loaded when it is asked for."""


@pytest.mark.parametrize("name", [name for name in modules() if name not in FRAMEWORKS])
def test_only_an_adapter_names_its_framework(name):
    imported = {
        alias.name
        for node in ast.walk(ast.parse(modules()[name].read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {node.module for node in ast.walk(ast.parse(modules()[name].read_text())) if isinstance(node, ast.ImportFrom)}
    assert not {each.partition(".")[0] for each in imported if each} & {
        "equinox",
        "flax",
        "haliax",
        "klax",
        "optax",
        "paramax",
        "torch",
    }


def test_the_names_for_type_checkers_are_the_names():
    shipped = set(get_args(ix.schemes.SchemeName))
    assert shipped == set(vars(ix.schemes)["__all__"]) - {
        "depth_factor",
        "get",
        "initializer",
        "names",
        "register",
        "SchemeName",
    }
    assert shipped <= set(ix.schemes.names())
    assert {name for name in ix.schemes.names() if not name.startswith(("test_", "doc_"))} == shipped


def test_every_scheme_is_a_documented_function_with_an_example():
    for name in get_args(ix.schemes.SchemeName):
        function = getattr(ix.schemes, name)
        assert ">>>" in function.__doc__, name
        assert "Returns:" in function.__doc__ or function.__doc__.startswith("Return"), name


def test_every_class_of_equinox_that_owns_arrays_has_a_row():
    """A new Equinox with a new layer fails here, not in a user's experiment."""
    holds_none = {
        "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d",
        "AdaptiveMaxPool3d", "AdaptivePool", "AvgPool1d", "AvgPool2d", "AvgPool3d", "MaxPool1d", "MaxPool2d",
        "MaxPool3d", "Pool", "Dropout", "Identity", "Lambda", "RotaryPositionalEmbedding", "StatefulLayer",
    }  # fmt: skip
    only_holds_layers = {"MLP", "MultiheadAttention", "Sequential", "Shared", "SpectralNorm"}
    state = {"State", "StateIndex"}
    classes = {name for name, each in vars(eqx.nn).items() if isinstance(each, type)}
    rows = {name for name in classes if any(issubclass(getattr(eqx.nn, name), row) for row in LAYERS)}
    assert classes - rows == holds_none | only_holds_layers | state


@pytest.mark.parametrize("name", modules())
def test_files_stay_small(name):
    lines = len(modules()[name].read_text().splitlines())
    assert lines <= 560, "one file, one idea"


def _is_text_of_a_reason(node):
    """Whether an expression is the text of a reason: `kept.reason.text`, `excluded.text`, `str(reason)`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str" and node.args:
        return _is_reason(node.args[0])
    return isinstance(node, ast.Attribute) and node.attr == "text" and _is_reason(node.value)


def _is_reason(node):
    names = ("reason", "excluded", "reserved")
    return (isinstance(node, ast.Name) and node.id in names) or (isinstance(node, ast.Attribute) and node.attr in names)


CUTS = {
    "startswith", "endswith", "removeprefix", "removesuffix", "split", "rsplit", "partition", "rpartition", "find",
    "index", "replace", "splitlines", "count",
}  # fmt: skip
MATCHES = {"match", "search", "fullmatch", "findall", "finditer", "split", "sub"}


def readings_of_reasons(source):
    """The lines at which the text of a reason is compared, searched or cut."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            reads = any(map(_is_text_of_a_reason, (node.left, *node.comparators)))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            reads = (node.func.attr in CUTS and _is_text_of_a_reason(node.func.value)) or (
                node.func.attr in MATCHES and any(map(_is_text_of_a_reason, node.args))
            )
        elif isinstance(node, ast.Subscript):
            reads = _is_text_of_a_reason(node.value)
        elif isinstance(node, ast.Match):
            reads = _is_text_of_a_reason(node.subject)
        else:
            continue
        if reads:
            yield node.lineno


@pytest.mark.parametrize("name", modules())
def test_code_asks_a_reason_for_its_kind_and_never_reads_its_text(name):
    assert list(readings_of_reasons(modules()[name].read_text())) == []


READS = (
    'kept.reason.text.startswith("tied")', 'parameter.excluded.text == "state"', '"tied" in reason.text',
    'str(reason).partition(":")', "each.reason.text[:4]", 're.match("tied", kept.reason.text)',
    "reason.text != other", 'str(each.excluded).removeprefix("undeclared: ")', 'reason.text.find("x")',
    'excluded.text.split(" ")',
)  # fmt: skip
SHOWS = (
    "reason.text",
    "message(kept.reason.text)",
    'f"{reason}"',
    "reason.why is Why.TIED",
    "str(reason)",
    "x.text == y",
)


@pytest.mark.parametrize("source", READS)
def test_reading_the_text_of_a_reason_would_be_found(source):
    assert list(readings_of_reasons(source)) == [1]


@pytest.mark.parametrize("source", SHOWS)
def test_showing_it_is_no_reading(source):
    assert list(readings_of_reasons(source)) == []


def test_fans_are_one_field_of_a_parameter():
    fields = {each.name for each in dataclasses.fields(ix.Parameter)}
    assert "fans" in fields
    assert not fields & {"fan_in", "fan_out", "effective_fan_in", "effective_fan_out"}
