"""The house: what is public, what is named, and that imports go down."""

import ast
import importlib.util
from pathlib import Path
from typing import get_args

import equinox as eqx
import pytest

import initax as ix
from initax._adapters._equinox import LAYERS

PACKAGE = Path(importlib.util.find_spec("initax").origin).parent

PUBLIC = {
    "Ablation", "Axes", "AxesError", "Calibrated", "Draw", "DrawError", "InitaxError", "InitaxWarning", "Kept",
    "KeyTypeError", "Layer", "LsuvReport", "ModelError", "Parameter", "Plan", "PlanError", "RuleError", "Run",
    "Scheme", "SchemeError", "Signal", "SignalReport", "Summary", "ablate", "convex", "draw", "gain", "layers",
    "load_rules", "lsuv", "parameter_key", "plan", "register_layer", "reinit", "reset_optimizer",
    "reset_units", "schemes", "signal_propagation",
}  # fmt: skip

FLOORS = [
    ["_errors"],
    ["_axes", "_gain", "_positivity", "_progress", "_threefry"],
    ["_homes", "_keys", "_moments", "_processes"],
    ["_mesh"],
    ["_haar"],
    ["_polar"],
    ["_ensemble"],
    ["_constraint"],
    ["_layer"],
    ["_declared", "_register"],
    ["_restate"],
    ["_trace/_views"],
    ["_trace/_entries", "_trace/_uses"],
    ["_trace/_indices", "_trace/_meet", "_trace/_reading"],
    ["_trace/_layout"],
    ["_trace/_elementwise"],
    ["_trace/_equations"],
    ["_trace/_units"],
    ["_trace/_walk"],
    ["schemes/_initializer", "schemes/_depth"],
    ["schemes/_distributions", "schemes/_foreign"],
    ["schemes/_variance", "schemes/_structured", "schemes/_bias", "schemes/_convex"],
    ["schemes/_elsewhere"],
    ["schemes/_scheme"],
    ["schemes/_icnn", "schemes/_positive"],
    ["schemes/_table"],
    [
        "schemes/_auto", "schemes/_convex_table", "schemes/_irnn", "schemes/_mup", "schemes/_scaled", "schemes/_siren",
        "schemes/_shrink", "schemes/_zero_init",
    ],
    ["schemes/__init__"],
    [
        "_rules", "_report", "_program", "_adapters/_constraints", "_adapters/_nodes", "_adapters/_plain",
        "_adapters/_rows", "_adapters/_survey",
    ],
    ["_table", "_draw", "_adapters/_linen_boxes", "_adapters/_names", "_adapters/_wrappers"],
    ["_adapters/_variables"],
    ["_adapters/_pytree", "_decide"],
    ["_adapters/_linen_run"],
    ["_adapters/_equinox", "_adapters/_klax", "_adapters/_nnx", "_adapters/_linen", "_adapters/__init__"],
    ["_trace/__init__", "_trace/_moments"],
    ["_traced", "_trace/_play"],
    ["_lsuv"],
    ["_plan"],
    ["_optimizer"],
    ["_reinit", "_propagation", "_rule_file", "_units"],
    ["_ablation/_bootstrap", "_ablation/_plot", "_ablation/_run"],
    ["_ablation/_file", "_ablation/_models", "_ablation/_summary"],
    ["_ablation/_execute", "_ablation/_tables"],
    ["_ablation/_result"],
    ["_ablation/__init__", "_ablate"],
    ["convex/_klax_names", "convex/_network"],
    ["convex/_rules", "convex/_standardize", "convex/_equinox", "convex/_nnx"],
    ["convex/__init__"],
    ["__init__"],
]  # fmt: skip
"""Every module on its floor; a module imports from floors below its own."""


def modules():
    return {
        str(path.relative_to(PACKAGE).with_suffix("")): path
        for path in PACKAGE.rglob("*.py")
        if "__pycache__" not in path.parts
    }


def test_the_public_names_are_exactly_the_public_names():
    exported = {name for name in vars(ix) if not name.startswith("_")}
    assert exported == PUBLIC


def test_every_module_stands_on_a_floor():
    assert sorted(modules()) == sorted(name for floor in FLOORS for name in floor)


@pytest.mark.parametrize("name", [name for floor in FLOORS for name in floor])
def test_imports_go_down(name):
    floor_of = {each: place for place, floor in enumerate(FLOORS) for each in floor}
    for node in ast.walk(ast.parse(modules()[name].read_text())):
        if not (isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "initax"):
            continue
        target = "/".join(node.module.split(".")[1:])
        candidates = [f"{target}/{alias.name}" if target else alias.name for alias in node.names]
        for candidate in (target, *candidates, f"{target}/__init__"):
            if candidate in floor_of and candidate != "__init__":
                assert floor_of[candidate] < floor_of[name], f"{name} imports {candidate}"
                break


FRAMEWORKS = {
    "_adapters/_equinox", "_adapters/_klax", "_adapters/_nnx", "_adapters/_linen", "_adapters/_linen_boxes",
    "_adapters/_linen_run", "convex/_equinox", "convex/_nnx",
}  # fmt: skip
"""Modules that are there for one framework, and loaded when it is asked for."""


@pytest.mark.parametrize("name", [name for floor in FLOORS for name in floor if name not in FRAMEWORKS])
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
        "klax",
        "optax",
        "paramax",
        "torch",
    }


def test_the_names_for_type_checkers_are_the_names():
    shipped = set(get_args(ix.schemes.SchemeName))
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
    assert lines <= (800 if name == "schemes/_table" else 560), "one file, one idea"
