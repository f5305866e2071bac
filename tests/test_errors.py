"""Every error as a user reads it: the whole text, from what failed to the line to paste."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

import initax as ix
from tests.tables import KEY

nn = eqx.nn


class Mixer(eqx.Module):
    """A user's layer that nobody declared."""

    w: jax.Array
    b: jax.Array

    def __init__(self):
        self.w = jnp.ones((8, 3))
        self.b = jnp.ones(3)


class Counted(eqx.Module):
    """Beside a parameter an integer, which is none."""

    w: jax.Array
    steps: jax.Array

    def __init__(self):
        self.w, self.steps = jnp.ones((8, 3)), jnp.zeros((), int)


def stack():
    """Three layers in one."""
    return eqx.filter_vmap(lambda key: nn.Linear(4, 4, key=key))(jax.random.split(KEY, 3))


class Attention(eqx.Module):
    """A user's attention, and what no trace and no rank can tell of it."""

    wq: jax.Array
    wo: jax.Array
    pos: jax.Array

    def __init__(self):
        self.wq, self.wo, self.pos = jnp.ones((4, 8, 2)), jnp.ones((4, 2, 8)), jnp.ones((3, 8))


class Tokens(eqx.Module):
    """What stands in the place of a signal, beside a layer."""

    pos: jax.Array
    cls: jax.Array
    head: nn.Linear

    def __init__(self):
        self.pos, self.cls, self.head = jnp.ones((5, 8)), jnp.ones(8), nn.Linear(8, 3, key=KEY)


class Registers(Tokens):
    """The same, declared as biases."""


ix.register_layer(Registers, kind="Tokens", pos="n o", cls="o")


class Net(eqx.Module):
    mlp: nn.MLP
    conv: nn.Conv2d
    norm: nn.LayerNorm
    blocks: list[nn.MultiheadAttention]
    mixer: Mixer

    def __init__(self):
        self.mlp = nn.MLP(3, 2, 5, 1, key=KEY)
        self.conv = nn.Conv2d(8, 4, 3, key=KEY)
        self.norm = nn.LayerNorm(5)
        self.blocks = [nn.MultiheadAttention(2, 6, key=KEY)]
        self.mixer = Mixer()


def traced_stddev(key):
    return jax.jit(lambda stddev: ix.reinit(nn.Linear(2, 3, key=KEY), {"*": ("normal", {"stddev": stddev})}, key))(0.1)


def planned(rules, model=None, **kwargs):
    return lambda key: ix.plan(Net() if model is None else model(), rules, **kwargs)


SCHEMES = "<every scheme>"

# name → what is done, the error, its whole text
ERRORS = {
    "misspelled selector": (
        planned({"Conv2D": "he_normal"}),
        ix.RuleError,
        """\
selector "Conv2D" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  did you mean "Conv2d" or "Conv"?
  write {"Conv2d": "he_normal"}""",
    ),
    "misspelled class of a container": (
        planned({"MLPP": "he_normal"}),
        ix.RuleError,
        """\
selector "MLPP" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  did you mean "MLP"?
  write {"MLP *": "he_normal"}""",
    ),
    "misspelled selector among others": (
        planned({nn.Linear: ("orthogonal", {"gain": 0.5}), "mlp.layer.1": {"weight": "zeros", "bias": None}}),
        ix.RuleError,
        """\
selector "mlp.layer.1" matches no layer and no array.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  arrays: weight, bias, w, b
  did you mean "mlp.layers.1"?
  write {"Linear": ("orthogonal", {"gain": 0.5}), "mlp.layers.1": {"weight": "zeros", "bias": None}}""",
    ),
    "misspelled selector beside the right one": (
        planned({"Conv2d": "he_normal", "Conv2D": ix.Scheme("zeros")}),
        ix.RuleError,
        """\
selector "Conv2D" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  did you mean "Conv2d" or "Conv"?
  write {"Conv2d": ...} in its place""",
    ),
    "misspelled selector beside a function": (
        planned({(lambda layer: True): "he_normal", "Conv2D": "zeros"}),
        ix.RuleError,
        """\
selector "Conv2D" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  did you mean "Conv2d" or "Conv"?
  write {"Conv2d": "zeros"} in its place""",
    ),
    "misspelled selector among many": (
        planned(
            {"*": "he_normal", "Conv2D": "zeros"}
            | {f"mlp.layers.{i}.{name}": "lecun_normal" for i in (0, 1) for name in ("weight", "bias")}
        ),
        ix.RuleError,
        """\
selector "Conv2D" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  did you mean "Conv2d" or "Conv"?
  write {"Conv2d": "zeros"} in its place""",
    ),
    "role as a selector": (
        planned({"recurrent": "orthogonal"}, lambda: nn.GRUCell(2, 3, key=KEY)),
        ix.RuleError,
        """\
selector "recurrent" matches no layer.
  layers: GRUCell (1)
  "recurrent" is a role of arrays, which a scheme speaks of: {"*": {"weight": ..., "recurrent": ...}}""",
    ),
    "role that is nearly a kind": (
        planned({"embedding": "zeros"}, lambda: [nn.Embedding(2, 3, key=KEY)]),
        ix.RuleError,
        """\
selector "embedding" matches no layer.
  layers: Embedding (1)
  did you mean "Embedding"?
  "embedding" is a role of arrays, which a scheme speaks of: {"*": {"weight": ..., "embedding": ...}}""",
    ),
    "weight as a selector": (
        planned({"weight": "he_normal"}, lambda: [nn.Linear(2, 3, key=KEY)]),
        ix.RuleError,
        """\
selector "weight" matches no layer.
  layers: Linear (1)
  "weight" is a role of arrays, which a scheme speaks of: {"*": {"weight": ...}}""",
    ),
    "name of arrays": (
        planned({"w": "zeros"}),
        ix.RuleError,
        """\
selector "w" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  write "**.w", which selects mixer.w""",
    ),
    "name of arrays, misspelled": (
        planned({"weigth": "zeros"}),
        ix.RuleError,
        """\
selector "weigth" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  did you mean "**.weight"?
  write {"**.weight": "zeros"}""",
    ),
    "name of arrays in a sequence": (
        planned({"Mixer w": "zeros"}),
        ix.RuleError,
        """\
selector "Mixer w" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  for arrays of that name write "Mixer **.w\"""",
    ),
    "path of an array, misspelled": (
        planned({"mlp.layers.0.wieght": "zeros"}),
        ix.RuleError,
        """\
selector "mlp.layers.0.wieght" matches no layer and no array.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  arrays: weight, bias, w, b
  did you mean "mlp.layers.0.weight"?
  write {"mlp.layers.0.weight": "zeros"}""",
    ),
    "glob of arrays, misspelled": (
        planned({"mlp.layers.*.wieght": "zeros"}),
        ix.RuleError,
        """\
selector "mlp.layers.*.wieght" matches no layer and no array.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  arrays: weight, bias, w, b
  did you mean "mlp.layers.*.weight"?
  write {"mlp.layers.*.weight": "zeros"}""",
    ),
    "array that needs axes": (
        planned({"**.w": "he_normal"}),
        ix.RuleError,
        """\
rule "**.w": he_normal draws nothing in the 1 array it decides.
  mixer.w (8, 3) of Mixer: undeclared
  let a trace find the axes: inputs=x, what the model is called on
  or declare it, axes in stored order: ix.register_layer(Mixer, kind="Linear", w="i o", b="o")
  or restate its axes in the rule: ix.Scheme(..., axes="i o")""",
    ),
    "array that an initializer of JAX can't read": (
        planned({"**.w": jax.nn.initializers.he_normal()}),
        ix.SchemeError,
        """\
rule "**.w": variance_scaling needs the axes of "mixer.w", and they are not declared.
  let a trace find the axes: inputs=x, what the model is called on
  or declare it, axes in stored order: ix.register_layer(Mixer, kind="Linear", w="i o", b="o")
  or restate its axes in the rule: ix.Scheme(..., axes="i o")""",
    ),
    "weight scheme for a bias by its path": (
        planned({"conv.bias": "he_normal"}),
        ix.SchemeError,
        """\
rule "conv.bias": he_normal can't draw a bias.
  for a bias: "zeros", "ones", ("constant", {"value": ...}), ("normal", {"stddev": ...}), "uniform_fan_in", \
("prior", {"p": ...}), ("forget_gate", {"value": ...})""",
    ),
    "weight scheme for a norm among others": (
        planned({"**.weight": "he_normal"}),
        ix.SchemeError,
        """\
rule "**.weight", "norm.weight": he_normal can't draw a scale.
  for a scale: "zeros", "ones", ("constant", {"value": ...}), ("normal", {"stddev": ...})
  to keep norms add a later rule: {"Norm": None}""",
    ),
    "array of no layer that is selected": (
        planned({"Linear": {"wo": "zeros"}, "Mixer": {"v": "zeros"}}),
        ix.SchemeError,
        """\
rule "Linear": "wo" is neither a role nor an array of what the rule selects.
  arrays: weight, bias
  roles: weight, recurrent, bias, embedding, scale; also axes, sizes, base, or name with arguments""",
    ),
    "array that is never drawn": (
        planned({"steps": "zeros"}, lambda: {"steps": jnp.arange(3), "layer": nn.Linear(2, 2, key=KEY)}),
        ix.RuleError,
        """\
rule "steps": it names an array that no scheme draws.
  steps (3,) of dict: int32: only floating and complex arrays are drawn""",
    ),
    "array of a key that is never drawn": (
        planned({"Counted": {"w": "zeros", "steps": "zeros"}}, lambda: [Counted(), Counted()]),
        ix.RuleError,
        """\
rule "Counted": {"steps": ...} names arrays that no scheme draws.
  0.steps () of Counted: int32: only floating and complex arrays are drawn
  1.steps () of Counted: int32: only floating and complex arrays are drawn""",
    ),
    "array that is tied": (
        planned({"1.weight": "zeros"}, lambda: [(layer := nn.Linear(2, 2, key=KEY)), layer]),
        ix.RuleError,
        """\
rule "1.weight": it names an array that no scheme draws.
  1.weight (2, 2) of Linear: tied to 0.weight
  name the array that owns it: "0.weight\"""",
    ),
    "array inside an array": (
        planned({"mixer": {"w": {"v": "zeros"}}}),
        ix.SchemeError,
        """\
rule "mixer": array "w": a scheme for one array can't name others: "v".
  an array further inside is named by its path: "**.w.v\"""",
    ),
    "array that is a role": (
        lambda key: ix.Scheme("he_normal", arrays={"bias": "ones"}),
        ix.SchemeError,
        '"bias" is not an array here: it is a word of schemes.\n  write bias=...',
    ),
    "unknown scheme of an array": (
        planned({"mixer": {"w": "he_nromal"}}),
        ix.SchemeError,
        f"""\
rule "mixer": array "w": no scheme is called "he_nromal".
  did you mean "he_normal" or "normal" or "lecun_normal"?
  schemes: {SCHEMES}""",
    ),
    "axes of another array": (
        planned({"mixer.w": ix.Scheme("he_normal", axes={"b": "o"})}),
        ix.AxesError,
        """\
rule "mixer.w": axes are given for "b", and the rule names "mixer.w".
  one pattern is for the array itself: axes="o\"""",
    ),
    "entry of a stack": (
        planned({"blocks.0.weight": "zeros"}, lambda: {"blocks": stack()}),
        ix.RuleError,
        """\
selector "blocks.0.weight" matches no layer and no array.
  "blocks" is one stack of 3 layers, and a rule decides all of them
  write "blocks.weight", which selects blocks.weight
  for a factor per layer: ("scaled", {"scheme": "he_normal", "factor": [..., ...]}), 3 numbers""",
    ),
    "entries of a stack": (
        planned({"blocks.*.attn.*": "zeros"}, lambda: {"blocks": {"attn": {"wq": stack(), "wo": stack()}}}),
        ix.RuleError,
        """\
selector "blocks.*.attn.*" matches no layer and no array.
  "blocks" is one stack of 3 layers, and a rule decides all of them
  write "blocks.attn.*", which selects blocks.attn.wo, blocks.attn.wq
  for a factor per layer: ("scaled", {"scheme": "he_normal", "factor": [..., ...]}), 3 numbers""",
    ),
    "one layer of a stack": (
        planned({"blocks.-1": "zeros", "blocks.2": "zeros"}, lambda: {"blocks": stack(), "head": Net().mlp}),
        ix.RuleError,
        """\
selector "blocks.-1" matches no layer and no array.
  "blocks" is one stack of 3 layers, and a rule decides all of them
  write "blocks.**", which selects blocks.weight, blocks.bias
  for a factor per layer: ("scaled", {"scheme": "he_normal", "factor": [..., ...]}), 3 numbers""",
    ),
    "index behind a list of stacks": (
        planned({"blocks.2.weight": "zeros"}, lambda: {"blocks": [stack(), stack()]}),
        ix.RuleError,
        """\
selector "blocks.2.weight" matches no layer and no array.
  layers: Linear (2)
  arrays: weight, bias
  paths: blocks.0, blocks.1""",
    ),
    "path in a wrapped model": (
        planned({"mixer": "he_normal"}, lambda: {"inner": Net()}),
        ix.RuleError,
        """\
selector "mixer" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  write "**.mixer", which selects inner.mixer""",
    ),
    "container in a wrapped model": (
        planned({"blocks.*": "he_normal"}, lambda: {"inner": Net()}),
        ix.RuleError,
        """\
selector "blocks.*" matches no layer and no array.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  write "**.blocks.**", which selects inner.blocks.0.query_proj, inner.blocks.0.key_proj, \
inner.blocks.0.value_proj, … (1 more)""",
    ),
    "glob that stops a level short": (
        planned({"*.*": "he_normal"}, lambda: [Net().mlp]),
        ix.RuleError,
        """\
selector "*.*" matches no layer and no array.
  layers: Linear (2)
  write "*.**", which selects 0.layers.0, 0.layers.1""",
    ),
    "index from the end": (
        planned({"mlp.layers.-1": "zeros"}),
        ix.RuleError,
        """\
selector "mlp.layers.-1" matches no layer and no array.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  write "mlp.layers.1", which selects mlp.layers.1""",
    ),
    "index from the end behind a glob": (
        planned({"*.layers.-2": "zeros"}, lambda: [Net().mlp, Net().mlp]),
        ix.RuleError,
        """\
selector "*.layers.-2" matches no layer and no array.
  layers: Linear (4)
  write "*.layers.0", which selects 0.layers.0, 1.layers.0""",
    ),
    "index from the end of a list of modules": (
        planned({"-1": "zeros"}, lambda: [Net().mlp, Net().mlp]),
        ix.RuleError,
        """\
selector "-1" matches no layer.
  layers: Linear (4)
  write "1.**", which selects 1.layers.0, 1.layers.1""",
    ),
    "index from the end of lists of different lengths": (
        planned({"q.*.-1": "zeros"}, lambda: {"q": [[nn.Linear(2, 2, key=KEY) for _ in range(n)] for n in (1, 2)]}),
        ix.RuleError,
        """\
selector "q.*.-1" matches no layer and no array.
  layers: Linear (3)
  arrays: weight, bias
  paths: q.0.0, q.1.0, q.1.1""",
    ),
    "path that leads nowhere": (
        planned({"decoder.*": "zeros"}, lambda: [nn.Linear(2, 2, key=KEY) for _ in range(8)]),
        ix.RuleError,
        """\
selector "decoder.*" matches no layer and no array.
  layers: Linear (8)
  arrays: weight, bias
  paths: 0, 1, 2, 3, 4, 5, … (2 more)""",
    ),
    "class of another framework": (
        planned({nnx.Linear: "he_normal"}),
        ix.RuleError,
        """\
selector "Linear" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  it is flax.nnx.nn.linear.Linear, and "mlp.layers.0" is equinox.nn.Linear; write "Linear\"""",
    ),
    "class of another framework and another name": (
        planned({linen.Conv: "he_normal"}),
        ix.RuleError,
        """\
selector "Conv" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  it is flax.linen.linear.Conv, and "conv" is equinox.nn.Conv2d; write "Conv\"""",
    ),
    "class of another framework by its name": (
        planned({"Dense": "he_normal"}),
        ix.RuleError,
        """\
selector "Dense" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  did you mean the kind "Linear"?
  write {"Linear": "he_normal"}""",
    ),
    "class of the same framework that is not there": (
        planned({nn.BatchNorm: "zeros"}),
        ix.RuleError,
        """\
selector "BatchNorm" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  did you mean "Norm"?
  write {"Norm": "zeros"}""",
    ),
    "container by name": (
        planned({"MultiheadAttention": "he_normal"}),
        ix.RuleError,
        """\
selector "MultiheadAttention" matches no layer.
  "MultiheadAttention" holds 4 layers but owns no array itself; for all of them write "MultiheadAttention *\"""",
    ),
    "container by class": (
        planned({nn.MLP: "he_normal"}),
        ix.RuleError,
        """\
selector "MLP" matches no layer.
  "MLP" holds 2 layers but owns no array itself; for all of them write "MLP *\"""",
    ),
    "container by path": (
        planned({"blocks": "he_normal"}),
        ix.RuleError,
        """\
selector "blocks" matches no layer.
  "blocks" holds 4 layers but owns no array itself; for all of them write "blocks.**\"""",
    ),
    "sequence with a misspelled word": (
        planned({"MultiheadAtention Linear": "zeros"}),
        ix.RuleError,
        """\
selector "MultiheadAtention Linear" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  nothing in the model is "MultiheadAtention"; did you mean "MultiheadAttention"?""",
    ),
    "sequence that is not nested": (
        planned({"MLP Conv": "zeros"}),
        ix.RuleError,
        """\
selector "MLP Conv" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  each word names something, but there is no "Conv" inside a "MLP\"""",
    ),
    "selector of no kind": (
        planned({3: "zeros"}),
        ix.RuleError,
        """\
a selector can't be 3 (int).
  it is a class (eqx.nn.Linear), a name ("Linear"), a path ("layers.*.attn"), names in sequence for nesting
  ("MultiheadAttention Linear"), or a function of a layer""",
    ),
    "selector that fails": (
        planned({lambda layer: layer.width: "zeros"}),
        ix.RuleError,
        """\
the selector <lambda> failed on layer "mlp.layers.0": AttributeError: 'Layer' object has no attribute 'width'
  a selector function takes an ix.Layer and returns whether it is selected""",
    ),
    "rules that are a scheme": (
        planned("he_normal"),
        ix.RuleError,
        """\
rules must be a mapping from selectors to schemes, not 'he_normal' (str).
  for every layer write {"*": "he_normal"}""",
    ),
    "rules that are a file": (
        planned("rules.toml"),
        ix.RuleError,
        """\
rules must be a mapping from selectors to schemes, not 'rules.toml' (str).
  write ix.load_rules("rules.toml")""",
    ),
    "rules that are a list": (
        planned([("Linear", "zeros")]),
        ix.RuleError,
        """\
rules must be a mapping from selectors to schemes, not [('Linear', 'zeros')] (list).
  write dict(rules)""",
    ),
    "rules that are nothing": (
        planned(None),
        ix.RuleError,
        """\
rules must be a mapping from selectors to schemes, not None (NoneType).
  write {"Linear": "he_normal"}, or {"*": "he_normal"} for every layer""",
    ),
    "unknown scheme": (
        planned({"Linear": "he_norml"}),
        ix.SchemeError,
        f"""\
rule "Linear": no scheme is called "he_norml".
  did you mean "he_normal" or "he_uniform" or "normal"?
  schemes: {SCHEMES}""",
    ),
    "get": (
        lambda key: ix.schemes.get("orthogonl"),
        ix.SchemeError,
        f"""\
no scheme is called "orthogonl".
  did you mean "orthogonal" or "delta_orthogonal"?
  schemes: {SCHEMES}""",
    ),
    "scale for gain": (
        planned({"Linear": ("orthogonal", {"scale": 0.1})}),
        ix.SchemeError,
        """\
rule "Linear": orthogonal has no argument "scale".
  arguments: gain, method
  a gain multiplies the standard deviation, a scale the variance: write gain=...""",
    ),
    "gain for the end of an interval": (
        planned({"Linear": ("uniform", {"gain": 2})}),
        ix.SchemeError,
        """\
rule "Linear": uniform has no argument "gain".
  arguments: scale, lower, upper""",
    ),
    "misspelled argument": (
        planned({"Linear": ("normal", {"stdev": 0.1})}),
        ix.SchemeError,
        """\
rule "Linear": normal has no argument "stdev".
  arguments: stddev, mean
  did you mean "stddev"?""",
    ),
    "missing argument": (
        planned({"Linear": ("scaled", {"factor": 0.1})}),
        ix.SchemeError,
        """\
rule "Linear": scaled needs scheme.
  write ("scaled", {"scheme": ..., "factor": 0.1})""",
    ),
    "argument of the wrong type": (
        planned({"Linear": ("normal", {"stddev": "0.1"})}),
        ix.SchemeError,
        """rule "Linear": normal: stddev must be a number, not '0.1'.""",
    ),
    "argument out of range": (
        lambda key: ix.schemes.sparse(1.5),
        ix.SchemeError,
        "sparse: sparsity must be between 0 and 1, not 1.5.",
    ),
    "number for a scheme": (
        planned({"Linear": 0.5}),
        ix.SchemeError,
        """\
rule "Linear": 0.5 (float) is not a scheme.
  a fixed value is ("constant", {"value": 0.5})""",
    ),
    "unknown role": (
        planned({"Linear": {"wieght": "zeros"}}),
        ix.SchemeError,
        """\
rule "Linear": "wieght" is neither a role nor an array of what the rule selects.
  did you mean "weight"?
  arrays: weight, bias
  roles: weight, recurrent, bias, embedding, scale; also axes, sizes, base, or name with arguments""",
    ),
    "number beside a name": (
        planned({"Linear": ("normal", 0.02)}),
        ix.SchemeError,
        """\
rule "Linear": 0.02 (float) beside "normal" is not a scheme.
  for its stddev write ("normal", {"stddev": 0.02})
  for biases of 0.02 write ("normal", ("constant", {"value": 0.02}))""",
    ),
    "number beside a name in a scheme": (
        lambda key: ix.Scheme("constant", 1),
        ix.SchemeError,
        """\
1 (int) beside "constant" is not a scheme.
  for its value write ("constant", {"value": 1})""",
    ),
    "number beside a name that takes none": (
        planned({"Linear": ("he_normal", 0)}),
        ix.SchemeError,
        """\
rule "Linear": 0 (int) beside "he_normal" is not a scheme.
  for biases of 0 write ("he_normal", ("constant", {"value": 0}))""",
    ),
    "number beside a name that needs more": (
        planned({"Linear": ("scaled", 0.1)}),
        ix.SchemeError,
        """\
rule "Linear": scaled needs scheme, factor.
  write ("scaled", {"scheme": ..., "factor": ...})""",
    ),
    "argument beside a name": (
        lambda key: ix.schemes.get("scaled", scheme={"weight": "normal", "stddev": 0.02}, factor=2),
        ix.SchemeError,
        """\
a scheme has no role "stddev".
  roles: weight, recurrent, bias, embedding, scale; also axes, sizes, or name with arguments
  an argument goes with its name: ("normal", {"stddev": 0.02})""",
    ),
    "mode of PyTorch": (
        planned({"Linear": ("he_normal", {"mode": "fan_out"})}),
        ix.SchemeError,
        """\
rule "Linear": he_normal has no argument "mode".
  arguments: fans, truncated
  write ("variance_scaling", {"scale": 2.0, "mode": "fan_out", "distribution": "truncated_normal"})""",
    ),
    "nonlinearity of PyTorch": (
        planned({"Linear": ("kaiming_normal", {"nonlinearity": "tanh"})}),
        ix.SchemeError,
        """\
rule "Linear": kaiming_normal has no argument "nonlinearity".
  arguments: fans, truncated
  write ("variance_scaling", {"scale": ix.gain("tanh")**2, "mode": "fan_in", "distribution": "truncated_normal"})""",
    ),
    "a of PyTorch": (
        planned({"Linear": ("kaiming_uniform", {"a": 0.2})}),
        ix.SchemeError,
        """\
rule "Linear": kaiming_uniform has no argument "a".
  arguments: fans
  write ("variance_scaling", {"scale": 2 / (1 + 0.2**2), "mode": "fan_in", "distribution": "uniform"})""",
    ),
    "gain of PyTorch": (
        planned({"Linear": ("xavier_uniform", {"gain": 1.5})}),
        ix.SchemeError,
        """\
rule "Linear": xavier_uniform has no argument "gain".
  arguments: fans
  write ("variance_scaling", {"scale": 1.0 * 1.5**2, "mode": "fan_avg", "distribution": "uniform"})""",
    ),
    "std": (
        planned({"Linear": ("normal", {"std": 0.1})}),
        ix.SchemeError,
        """\
rule "Linear": normal has no argument "std".
  arguments: stddev, mean
  here it is called "stddev\"""",
    ),
    "initializer that was called": (
        planned({"Linear": jax.nn.initializers.he_normal()(KEY, (2, 3))}),
        ix.SchemeError,
        """\
rule "Linear": an array of shape (2, 3) is not a scheme.
  pass the initializer, not what it returns: jax.nn.initializers.he_normal(), without (key, shape)""",
    ),
    "beginning of a name": (
        planned({"Linear": "he"}),
        ix.SchemeError,
        f"""\
rule "Linear": no scheme is called "he".
  did you mean "he_normal" or "he_uniform"?
  schemes: {SCHEMES}""",
    ),
    "array for a role": (
        planned({"Linear": {"kernel": "zeros"}}),
        ix.SchemeError,
        """\
rule "Linear": "kernel" is neither a role nor an array of what the rule selects.
  an array "kernel" has the role "weight"
  arrays: weight, bias
  roles: weight, recurrent, bias, embedding, scale; also axes, sizes, base, or name with arguments""",
    ),
    "weight scheme for a bias": (
        planned({"Linear": ("he_normal", "orthogonal")}),
        ix.SchemeError,
        """\
rule "Linear": orthogonal can't draw a bias.
  for a bias: "zeros", "ones", ("constant", {"value": ...}), ("normal", {"stddev": ...}), "uniform_fan_in", \
("prior", {"p": ...}), ("forget_gate", {"value": ...})""",
    ),
    "factory of JAX": (
        planned({"mlp.**": jax.nn.initializers.he_normal}),
        ix.SchemeError,
        None,  # the text holds an address
    ),
    "initializer that fails": (
        planned({"mlp.**": lambda key, shape: jnp.zeros(shape)}),
        ix.SchemeError,
        """\
rule "mlp.**": the initializer <lambda> fails on "mlp.layers.0.weight": TypeError: <lambda>() got an unexpected \
keyword argument 'dtype'
  it was called with shape (3, 5) and type float32
  an initializer takes (key, shape, dtype), and fan_in if it names it""",
    ),
    "initializer of the wrong shape": (
        planned({"mlp.**": lambda key, shape, dtype: jnp.zeros((2, 2), dtype)}),
        ix.SchemeError,
        """\
rule "mlp.**": the initializer <lambda> returned an array of shape (2, 2) for shape (3, 5) ("mlp.layers.0.weight").
  it is called with the shape (*receptive, in, out), and has to return an array of it""",
    ),
    "traced argument": (
        traced_stddev,
        ix.SchemeError,
        """\
rule "*": normal: stddev is a traced value (float32[]).
  a plan is made of numbers known before anything runs
  pass a Python number, or mark the argument static: jax.jit(..., static_argnames="stddev")""",
    ),
    "weight scheme for a norm": (
        planned({"norm": "he_normal"}),
        ix.RuleError,
        """\
rule "norm": he_normal draws nothing in the 1 layer it decides.
  norm.weight: he_normal says nothing about a scale
  norm.bias: he_normal says nothing about a scale
  write {"norm": {"scale": "ones", "bias": "zeros"}}, or "default\"""",
    ),
    "undeclared layer": (
        planned({"mixer": "he_normal"}),
        ix.RuleError,
        """\
rule "mixer": he_normal draws nothing in the 1 layer it decides.
  mixer.w (8, 3) of Mixer: undeclared
  mixer.b (3,) of Mixer: undeclared
  let a trace find the axes: inputs=x, what the model is called on
  or declare it, axes in stored order: ix.register_layer(Mixer, kind="Linear", w="i o", b="o")""",
    ),
    "undeclared layer of more axes than two": (
        planned({"*": "he_normal"}, Attention),
        ix.ModelError,
        """\
the model holds no layer that initax knows: Attention.
  wq (4, 8, 2) of Attention: undeclared
  wo (4, 2, 8) of Attention: undeclared
  pos (3, 8) of Attention: undeclared
  let a trace find the axes: inputs=x, what the model is called on
  or declare it, axes in stored order, each ? filled in: ix.register_layer(Attention, kind="Linear", \
roles={"pos": "embedding"}, wq="? ? ?", wo="? ? ?", pos="n o")""",
    ),
    "undeclared positions": (
        planned({"Tokens": ("normal", {"stddev": 0.02})}, Tokens),
        ix.RuleError,
        """\
rule "Tokens": normal(stddev=0.02) draws nothing in the 1 layer it decides.
  pos (5, 8) of Tokens: undeclared
  cls (8,) of Tokens: undeclared
  declare it, axes in stored order: ix.register_layer(Tokens, kind="Embedding", pos="n o", cls="o")
  or draw them by rules that name them: {"pos": ("normal", {"stddev": 0.02}), "cls": ("normal", {"stddev": 0.02})}""",
    ),
    "positions declared as biases": (
        planned({"Registers": ("normal", {"stddev": 0.02})}, Registers),
        ix.RuleError,
        """\
rule "Registers": normal(stddev=0.02) draws nothing in the 1 layer it decides.
  pos: it is a bias, and its layer holds no weight that it goes with
  cls: it is a bias, and its layer holds no weight that it goes with
  learned positions and tokens are no biases: ix.register_layer(..., roles={"pos": "embedding", "cls": "embedding"})""",
    ),
    "tied layer": (
        planned({"1": "he_normal"}, lambda: [(layer := nn.Linear(2, 2, key=KEY)), layer]),
        ix.RuleError,
        """\
rule "1": he_normal draws nothing in the 1 layer it decides.
  1.weight: tied to 0.weight
  1.bias: tied to 0.bias
  select the layer that owns it: "0\"""",
    ),
    "not covered": (
        planned({"Linear": "he_normal", "norm": "default"}, default="error"),
        ix.RuleError,
        """\
no rule covers 4 arrays, and default="error" asks for all of them.
  conv.weight (4, 8, 3, 3) of Conv2d: no rule selects it
  conv.bias (4, 1, 1) of Conv2d: no rule selects it
  mixer.w (8, 3) of Mixer: undeclared
  mixer.b (3,) of Mixer: undeclared
  add a rule for them, or {"*": None} in front to keep what the others do not select""",
    ),
    "delta_orthogonal that narrows": (
        planned({"conv": "delta_orthogonal"}),
        ix.SchemeError,
        """\
rule "conv": delta_orthogonal needs at least as many outputs as inputs; "conv.weight" has 8 inputs and 4 outputs \
per group.
  shape (4, 8, 3, 3), axes "(g o) i ..."
  a convolution that narrows can't preserve norms: use "orthogonal\"""",
    ),
    "dirac on a matrix": (
        planned({"mlp.**": "dirac"}),
        ix.SchemeError,
        """\
rule "mlp.**": dirac needs a receptive field; "mlp.layers.0.weight" has shape (5, 3), axes "o i".
  for a matrix use "identity\"""",
    ),
    "forget gate of a GRU": (
        planned({"*": "forget_gate"}, lambda: nn.GRUCell(2, 3, key=KEY)),
        ix.SchemeError,
        """\
rule "*": forget_gate needs a forget gate; "bias" of GRUCell has none.
  its gates: reset, update, new
  no layer of this model has a forget gate
  for values of your own: {"bias": ("constant", {"value": [...]})}, 9 numbers""",
    ),
    "real scheme for complex weights": (
        planned({"*": "truncated_normal"}, lambda: nn.Linear(2, 3, dtype=jnp.complex64, key=KEY)),
        ix.SchemeError,
        """\
rule "*": truncated_normal is defined for real arrays; "weight" is complex64.
  a cut modulus is ("variance_scaling", {"distribution": "truncated_normal", ...})""",
    ),
    "zero-sized axis": (
        lambda key: ix.draw("he_normal", key, (0, 7)),
        ix.SchemeError,
        """\
he_normal divides by fan_in, which is 0 for the array.
  shape (0, 7), axes ... i o
  an array with a zero-sized axis has nothing to scale by: use "zeros" or leave it out""",
    ),
    "orthogonal on a vector": (
        lambda key: ix.draw("orthogonal", key, (5,)),
        ix.SchemeError,
        """\
a weight of shape (5,) has no input and output axis.
  say what its axes are, axes="o"; or draw it as a bias, role="bias\"""",
    ),
    "orthogonal without inputs": (
        lambda key: ix.draw("orthogonal", key, (5,), axes="o"),
        ix.SchemeError,
        """\
orthogonal needs input and output axes; the array has shape (5,), axes "o".
  for a vector use "normal" or "zeros\"""",
    ),
    "integer array": (
        lambda key: ix.draw("zeros", key, (5, 5), jnp.int32),
        ix.SchemeError,
        "only floating and complex arrays are drawn, not int32.",
    ),
    "seed for a key": (
        lambda key: ix.reinit(Net(), {"Linear": "zeros"}, 42),
        ix.KeyTypeError,
        """\
key must be a JAX random key, not 42 (int).
  write jax.random.key(42)""",
    ),
    "batch of keys": (
        lambda key: ix.reinit(Net(), {"Linear": "zeros"}, jax.random.split(key, 3)),
        ix.KeyTypeError,
        """\
key must be one key, not an array of keys of shape (3,).
  for an ensemble write eqx.filter_vmap(lambda key: ix.reinit(model, rules, key))(keys)
  or the same with jax.vmap where the model is a plain pytree of arrays""",
    ),
    "array for a key": (
        lambda key: ix.plan(Net(), {"Linear": "zeros"}).draw(jnp.ones(2)),
        ix.KeyTypeError,
        """\
key must be a JAX random key, not an array of shape (2,) and type float32.
  write jax.random.key(0)""",
    ),
    "model without a known layer": (
        planned({"*": "zeros"}, Mixer),
        ix.ModelError,
        """\
the model holds no layer that initax knows: Mixer.
  w (8, 3) of Mixer: undeclared
  b (3,) of Mixer: undeclared
  let a trace find the axes: inputs=x, what the model is called on
  or declare it, axes in stored order: ix.register_layer(Mixer, kind="Linear", w="i o", b="o")""",
    ),
    "model without an array": (
        planned({"*": "zeros"}, lambda: jax.nn.relu),
        ix.ModelError,
        """\
the model is a function, relu, and holds no array.
  pass the module or the arrays that it takes; forward= says how they are called""",
    ),
    "single vector": (
        planned({"*": "zeros"}, lambda: jnp.ones(3)),
        ix.ModelError,
        """\
the model holds no layer that initax knows: ArrayImpl.
  (model) (3,) of ArrayImpl: undeclared: not a matrix
  for a single array write ix.draw(scheme, key, shape)""",
    ),
    "two arrays of one path": (
        planned({"*": "zeros"}, lambda: {"a.b": jnp.ones((2, 2)), "a": {"b": jnp.ones((2, 2))}}),
        ix.ModelError,
        """\
two arrays have the path "a.b".
  a mapping key that holds a dot reads like a nested one; rename one of them""",
    ),
    "transposed plain weight": (
        planned({"*": "he_normal"}, lambda: {"w": jnp.ones((10, 256)), "b": jnp.ones(10)}),
        ix.RuleError,
        """\
rule "*": he_normal draws nothing in the 1 layer it decides.
  w (10, 256) of dict: undeclared: b (10,) does not fit w (10, 256) read as "... i o"
  b (10,) of dict: undeclared: b (10,) does not fit w (10, 256) read as "... i o"
  say what the axes are, in stored order: ix.Scheme(..., axes={"w": "o i", "b": "o"})""",
    ),
    "restated axes that contradict the bias": (
        planned({"*": ix.Scheme("he_normal", axes="i o")}, lambda: {"w": jnp.ones((10, 256)), "b": jnp.ones(10)}),
        ix.AxesError,
        """\
rule "*": b of shape (10,) does not fit w read as "i o".
  w of shape (10, 256) would have 256 outputs""",
    ),
    "restated axes of nothing": (
        planned({"mlp.**": ix.Scheme("zeros", axes={"wieght": "o i"})}),
        ix.AxesError,
        """\
rule "mlp.**": axes are given for "wieght", which layer "mlp.layers.0" (Linear) lacks.
  it has: weight, bias
  did you mean "weight"?""",
    ),
    "restated size of nothing": (
        planned({"mlp.**": ix.Scheme("zeros", axes="(three o) i", sizes={"thre": 1})}),
        ix.AxesError,
        """\
rule "mlp.**": sizes name the axis "thre", which no pattern has.
  axes: i, o, three
  did you mean "three"?""",
    ),
    "restated axes of the wrong rank": (
        planned({"mlp.**": ix.Scheme("zeros", axes="stack o i")}),
        ix.AxesError,
        """\
rule "mlp.**": mlp.layers.0.weight: pattern "stack o i" has 3 axes, the array of shape (5, 3) has 2.""",
    ),
    "scheme without initializer": (
        lambda key: ix.Scheme(axes="o i"),
        ix.SchemeError,
        """\
a scheme that names no initializer draws nothing.
  write ix.Scheme("he_normal", ...)""",
    ),
    "wrong rank": (
        lambda key: ix.draw("he_normal", key, (3, 4, 5), axes="o i"),
        ix.AxesError,
        """\
pattern "o i" has 2 axes, the array of shape (3, 4, 5) has 3.
  a receptive field is written "...": "o i ..."; a stack is named: "stack o i\"""",
    ),
    "receptive axes named": (
        lambda key: ix.draw("he_normal", key, (3, 3, 4, 5), axes="kh kw i o"),
        ix.AxesError,
        """\
axis pattern "kh kw i o" names the axis "kh".
  axes of a receptive field are written "..."; any other name is a batch axis, outside the fans
  write "... i o", or give a batch axis another name""",
    ),
    "heads named like a receptive axis": (
        lambda key: ix.draw("he_normal", key, (4, 8, 2), axes="h i o"),
        ix.AxesError,
        """\
axis pattern "h i o" names the axis "h".
  axes of a receptive field are written "..."; any other name is a batch axis, outside the fans
  write "... i o" for a convolution; heads are outputs, "i o1 o2", or inputs, "i1 i2 o\"""",
    ),
    "axes left open": (
        lambda key: ix.register_layer(Attention, kind="Linear", wq="? ? ?"),
        ix.AxesError,
        """\
axis pattern "? ? ?" leaves an axis open.
  write "i" for an axis one output sums over, "o" for outputs, "..." for the receptive field of a convolution,
  and any other name for a batch axis: "i o1 o2" for heads, "expert i o\"""",
    ),
    "batch axis that reads like an input": (
        lambda key: ix.draw("he_normal", key, (3, 4, 5), axes="instance o i"),
        ix.AxesError,
        """\
axis pattern "instance o i" names the axis "instance", and names with "i" are for inputs.
  if it is one, write "i" or "i1"; a batch axis needs another first letter""",
    ),
    "number for an axis": (
        lambda key: ix.draw("he_normal", key, (3, 4, 5), axes="3 o i"),
        ix.AxesError,
        """\
axis pattern "3 o i" has a number for an axis.
  axes have names, "stack o i"; their sizes are read off the array, or given: sizes={"stack": 3}""",
    ),
    "capital letters": (
        lambda key: ix.draw("he_normal", key, (4, 5), axes="O I"),
        ix.AxesError,
        """\
axis pattern "O I" names the axis "O", and names with "o" are for outputs.
  if it is one, write "o" or "o1"; a batch axis needs another first letter""",
    ),
    "merged axis untold": (
        lambda key: ix.draw("he_normal", key, (30, 5), axes="(g o) i"),
        ix.AxesError,
        """\
axis 0 of shape (30, 5), "(g o)" in pattern "(g o) i", can't be told apart.
  its size 30 is the product of g, o
  give all but one: sizes={"g": ...}""",
    ),
    "size that does not divide": (
        lambda key: ix.draw("he_normal", key, (30, 5), axes="(g o) i", sizes={"g": 7}),
        ix.AxesError,
        """\
axis 0 of shape (30, 5), "(g o)" in pattern "(g o) i", has size 30, which 7 does not divide.
  sizes given: {'g': 7}""",
    ),
    "unknown size": (
        lambda key: ix.draw("he_normal", key, (30, 5), axes="(groups o) i", sizes={"group": 3}),
        ix.AxesError,
        """\
sizes name the axis "group", which pattern "(groups o) i" does not have.
  axes: groups, o, i
  did you mean "groups"?""",
    ),
    "malformed pattern": (
        lambda key: ix.draw("he_normal", key, (30, 5), axes="(g o i"),
        ix.AxesError,
        """\
axis pattern "(g o i" is malformed: Imbalanced parentheses in expression: "(g o i"
  write it as in "o i", "(g o) i ..." or "... i o\"""",
    ),
    "unknown activation": (
        lambda key: ix.schemes.orthogonal("rleu"),
        ix.SchemeError,
        None,  # lists what this JAX has
    ),
    "activation that reduces": (
        lambda key: ix.gain(lambda x: x.sum()),
        ix.SchemeError,
        "the activation <lambda> is not elementwise: (576,) became ().",
    ),
    "taken scheme name": (
        lambda key: ix.schemes.register("he_normal", "zeros"),
        ix.SchemeError,
        """\
"he_normal" is a scheme of initax and keeps its meaning.
  choose another name""",
    ),
    "ends of an interval in the wrong order": (
        lambda key: ix.schemes.uniform(lower=1.0, upper=0.5),
        ix.SchemeError,
        "uniform: lower must be below upper, not lower=1.0, upper=0.5.",
    ),
    "cuts in the wrong order": (
        lambda key: ix.schemes.truncated_normal(lower=2.0, upper=1.0),
        ix.SchemeError,
        "truncated_normal: lower must be below upper, not lower=2.0, upper=1.0.",
    ),
    "absolute cuts of a constant": (
        lambda key: ix.schemes.truncated_normal(0.0, absolute=True),
        ix.SchemeError,
        "truncated_normal: stddev must be positive where bounds are absolute, not 0.",
    ),
    "several means": (
        lambda key: ix.schemes.normal(mean=(1.0, 2.0)),
        ix.SchemeError,
        "normal: mean must be a number, not (1.0, 2.0).",
    ),
    "a share and labels": (
        lambda key: ix.schemes.prior(0.1, labels=[0, 1, 1]),
        ix.SchemeError,
        "prior takes p or labels, not both.",
    ),
    "a share that is none": (
        lambda key: ix.schemes.prior(1.5),
        ix.SchemeError,
        "prior: p must be strictly between 0 and 1, not 1.5.",
    ),
    "a truth value for a constant": (
        lambda key: ix.schemes.constant(True),
        ix.SchemeError,
        "constant: value must be a number or an array of numbers, not True.",
    ),
    "a constant with text": (
        lambda key: ix.schemes.constant([1, "a"]),
        ix.SchemeError,
        "constant: value must be a number or an array of numbers, not [1, 'a'].",
    ),
    "a constant that is no number": (
        lambda key: ix.schemes.constant(float("nan")),
        ix.SchemeError,
        "constant: value must be a finite number, not nan.",
    ),
    "a traced constant": (
        lambda key: jax.make_jaxpr(ix.schemes.constant)(0.5),
        ix.SchemeError,
        """\
constant: value is a traced value (float32[]).
  a plan is made of numbers known before anything runs
  pass a Python number, or mark the argument static: jax.jit(..., static_argnames="value")""",
    ),
    "a word that is no option": (
        lambda key: ix.schemes.variance_scaling(1.0, distribution="cauchy"),
        ix.SchemeError,
        "variance_scaling: distribution must be one of 'truncated_normal', 'normal', 'uniform', not 'cauchy'.",
    ),
    "no shift of an identity": (
        lambda key: ix.schemes.identity(shift=0.5),
        ix.SchemeError,
        "identity: shift must be a whole number, or one for each axis, not 0.5.",
    ),
    "a name that is no identifier": (
        lambda key: ix.schemes.register("my scheme", "zeros"),
        ix.SchemeError,
        "a scheme's name is an identifier, not 'my scheme'.",
    ),
    "a recipe of depth with a truth value": (
        lambda key: ix.schemes.depth_factor("gpt2", layers=True),
        ix.SchemeError,
        """\
the depth factor "gpt2": layers must be a whole number of at least 1, not True.
  write ix.schemes.depth_factor("gpt2", layers=12)""",
    ),
    "gain of a number": (
        lambda key: ix.gain(3),
        ix.SchemeError,
        """\
gain takes an activation or its name, not 3.
  ix.gain("relu")""",
    ),
    "gain with a truth value": (
        lambda key: ix.gain("leaky_relu", True),
        ix.SchemeError,
        """\
gain: param must be a number, not True.
  ix.gain("leaky_relu", 0.2)""",
    ),
    "an activation that fails": (
        lambda key: ix.gain(lambda x: int("x")),
        ix.SchemeError,
        "the activation <lambda> can't be applied to an array of reals: invalid literal for int() with base 10: 'x'",
    ),
    "a pattern that is no text": (
        lambda key: ix.draw("he_normal", key, (4, 5), axes=3),
        ix.AxesError,
        'an axis pattern is a string such as "o i", not 3.',
    ),
    "a receptive field in parentheses": (
        lambda key: ix.draw("he_normal", key, (4, 5), axes="(o ...) i"),
        ix.AxesError,
        """\
axis pattern "(o ...) i" has "..." inside parentheses.
  write "..." on its own""",
    ),
    "a size that is no number": (
        lambda key: ix.draw("he_normal", key, (4, 5), axes="(g o) i", sizes={"g": 2.0}),
        ix.AxesError,
        'the size of axis "g" must be a whole number, not 2.0.',
    ),
    "no class to register": (
        lambda key: ix.register_layer(Mixer(), kind="Linear", w="o i"),
        ix.InitaxError,
        """\
register_layer takes a class, not Mixer(w=f32[8,3], b=f32[3]).
  ix.register_layer(MyLayer, kind=..., w=...)""",
    ),
    "a size of an axis that no pattern has": (
        lambda key: ix.register_layer(Mixer, kind="Linear", w="o i", sizes={"g": 2}),
        ix.AxesError,
        """\
register_layer(Mixer): sizes name the axis "g", which no pattern has.
  patterns: w="o i\"""",
    ),
    "a model without arrays": (
        lambda key: ix.plan(nn.Dropout(0.5), {"*": "zeros"}),
        ix.ModelError,
        """\
the model holds no array: Dropout.
  a model is an Equinox module, or a pytree of arrays, jax.ShapeDtypeStruct or shape tuples""",
    ),
    "a function that selects nothing": (
        planned({(lambda layer: False): "zeros"}),
        ix.RuleError,
        """\
selector "<lambda>" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)""",
    ),
    "declaration without arrays": (
        lambda key: ix.register_layer(Mixer, kind="Linear"),
        ix.InitaxError,
        """\
register_layer(Mixer) declares no array.
  ix.register_layer(Mixer, kind="Linear", weight="o i", bias="o")""",
    ),
    "declaration of an unknown field": (
        lambda key: ix.register_layer(Mixer, kind="Linear", w="i o", bias="o"),
        ix.InitaxError,
        """\
register_layer(Mixer): Mixer has no field "bias".
  fields: w, b""",
    ),
    "declaration of a kind in small letters": (
        lambda key: ix.register_layer(Mixer, kind="linear", w="i o", b="o"),
        ix.InitaxError,
        """\
register_layer(Mixer): the kind "linear" is written "Linear".
  kind="Linear\"""",
    ),
    "declaration of an unknown role": (
        lambda key: ix.register_layer(Mixer, kind="Linear", w="i o", roles={"w": "wieght"}),
        ix.InitaxError,
        """\
register_layer(Mixer): "wieght" is not a role (field "w").
  roles: weight, recurrent, bias, embedding, scale, state
  did you mean "weight"?""",
    ),
    "stored function": (
        lambda key: ix.plan(Net(), {lambda layer: layer.kind == "Conv": "zeros"}).to_json(),
        ix.PlanError,
        """\
a plan with the function <lambda> for a selector can't be stored.
  select by class, name or path instead: {"Linear": ...}""",
    ),
    "stored callable": (
        lambda key: ix.plan(Net(), {"Linear": jax.nn.initializers.zeros}).to_json(),
        ix.PlanError,
        """\
rule "Linear": the initializer zeros is a callable and can't be stored.
  register it: ix.schemes.register("my_scheme", initializer), and use the name""",
    ),
    "stored plan of another model": (
        lambda key: ix.Plan.from_json(
            ix.plan([nn.Linear(2, 3, use_bias=False, key=KEY)], {"Linear": "zeros"}).to_json(),
            [nn.Linear(2, 4, use_bias=False, key=KEY)],
        ),
        ix.PlanError,
        """\
the stored plan decides otherwise on this model.
  ~ 0.weight: shape [3, 2] → [4, 2], fan_out 3 → 4""",
    ),
    "path as JAX writes it": (
        planned({"['mlp'].layers[0].weight": "zeros"}),
        ix.RuleError,
        """\
selector "['mlp'].layers[0].weight" matches no layer and no array.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  write "mlp.layers.0.weight", which selects mlp.layers.0.weight""",
    ),
    "path with slashes below params": (
        planned({"params/mlp/layers/0": "zeros"}),
        ix.RuleError,
        """\
selector "params/mlp/layers/0" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  write "mlp.layers.0", which selects mlp.layers.0""",
    ),
    "several selectors in one": (
        planned({"Linear|mixer": "zeros"}),
        ix.RuleError,
        """\
selector "Linear|mixer" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  each has a rule of its own: {"Linear": ..., "mixer": ...}""",
    ),
    "regular expression": (
        planned({r"blocks\.\d+\.query_proj": "zeros"}),
        ix.RuleError,
        """\
selector "blocks\\.\\d+\\.query_proj" matches no layer and no array.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  a selector is a glob and not a regular expression: "blocks.*.attn", "**.bias\"""",
    ),
    "array of another framework's name": (
        planned({"mlp.layers.*.kernel": "zeros"}),
        ix.RuleError,
        """\
selector "mlp.layers.*.kernel" matches no layer and no array.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  arrays: weight, bias, w, b
  did you mean "mlp.layers.*.weight"?
  write {"mlp.layers.*.weight": "zeros"}""",
    ),
    "name near nothing": (
        planned({"head": "zeros"}, lambda: nn.MLP(3, 2, 5, 1, key=KEY)),
        ix.RuleError,
        """\
selector "head" matches no layer.
  layers: Linear (2)
  paths: layers.0, layers.1""",
    ),
    "residual without its part": (
        planned({"residual": "zeros"}),
        ix.RuleError,
        """\
selector "residual" matches no layer.
  layers: Linear (6), Conv2d (1), LayerNorm (1), Mixer (1)
  write residual:end, residual:inner, residual:scores""",
    ),
    "zeros for a norm": (
        planned({"Norm": "zeros"}, lambda: [nn.LayerNorm(5), nn.Linear(2, 3, key=KEY)]),
        ix.RuleError,
        """\
rule "Norm": zeros draws nothing in the 1 layer it decides.
  0.weight: zeros says nothing about a scale
  0.bias: zeros says nothing about a scale
  write {"Norm": {"scale": "zeros"}}; norms start with {"scale": "ones", "bias": "zeros"}""",
    ),
    "scheme as a plan prints it": (
        planned({"Linear": "normal(stddev=0.02)"}),
        ix.SchemeError,
        """\
rule "Linear": no scheme is called "normal(stddev=0.02)".
  write ("normal", {"stddev": 0.02})
  schemes: <every scheme>""",
    ),
    "scheme written as a call": (
        planned({"Linear": "normal(0.02)"}),
        ix.SchemeError,
        """\
rule "Linear": no scheme is called "normal(0.02)".
  arguments stand beside the name, by name: ("normal", {...})
  schemes: <every scheme>""",
    ),
    "initializer written as a text": (
        planned({"Linear": "jax.nn.initializers.he_normal()"}),
        ix.SchemeError,
        """\
rule "Linear": no scheme is called "jax.nn.initializers.he_normal()".
  write "he_normal"
  schemes: <every scheme>""",
    ),
    "name of a framework": (
        planned({"Linear": "pytorch"}),
        ix.SchemeError,
        """\
rule "Linear": no scheme is called "pytorch".
  what PyTorch gives a layer is "torch_default"
  schemes: <every scheme>""",
    ),
    "arguments in a row": (
        planned({"Linear": ("normal", 0.0, 0.02)}),
        ix.SchemeError,
        """\
rule "Linear": ('normal', 0.0, 0.02) (tuple) is not a scheme.
  arguments stand in a mapping, by name: ("normal", {...})""",
    ),
    "name as the key of its arguments": (
        planned({"Linear": {"normal": {"stddev": 0.02}}}),
        ix.SchemeError,
        """\
rule "Linear": "normal" is a scheme, and stands where an array's name or a role does.
  its arguments stand beside it: ("normal", {"stddev": 0.02})""",
    ),
    "arguments beside the name": (
        planned({"Linear": {"scheme": "normal", "stddev": 0.02}}),
        ix.SchemeError,
        """\
rule "Linear": a scheme has no role "stddev".
  roles: weight, recurrent, bias, embedding, scale; also axes, sizes, or name with arguments
  an argument goes with its name: ("normal", {"stddev": 0.02})""",
    ),
    "scheme for an initializer": (
        lambda key: nnx.Linear(2, 3, kernel_init=ix.schemes.orthogonal(gain=2.0), rngs=nnx.Rngs(0)),
        ix.SchemeError,
        """\
a scheme is not an initializer, and can't be called: orthogonal(gain=2.0).
  where one is asked for write ix.schemes.initializer(("orthogonal", {"gain": 2.0}))
  a single array is ix.draw(scheme, key, shape)""",
    ),
    "scheme without a name for an initializer": (
        lambda key: linen.Dense(3, kernel_init=ix.Scheme("he_normal", recurrent="zeros")).init(key, jnp.ones((1, 2))),
        ix.SchemeError,
        """\
a scheme is not an initializer, and can't be called: he_normal, recurrent=zeros.
  where one is asked for write ix.schemes.initializer(scheme)
  a single array is ix.draw(scheme, key, shape)""",
    ),
    "axes one by one": (
        lambda key: ix.Scheme("he_normal", axes=("e", "i", "o")),
        ix.AxesError,
        """\
axes are one text, or a mapping from names of arrays to texts, not ('e', 'i', 'o') (tuple).
  write axes="e i o\"""",
    ),
    "prior as a weight": (
        lambda key: ix.draw(("prior", {"p": 0.1}), key, (3,), axes="o"),
        ix.SchemeError,
        """\
prior(p=0.1) draws no weight.
  it draws: bias
  write role="bias\"""",
    ),
    "streams of keys for a model": (
        lambda key: ix.reinit(nnx.Rngs(0), {"*": "zeros"}, key),
        ix.ModelError,
        None,
    ),
    "inputs in front of the model": (
        planned(
            {"Linear": "auto"},
            lambda: nn.MLP(3, 2, 5, 1, key=KEY),
            inputs=jnp.ones((2, 3)),
            forward=lambda x, model: model(x),
        ),
        ix.ModelError,
        """\
the forward pass fails on these inputs: TypeError: 'DynamicJaxprTracer' object is not callable
  inputs: float32[2,3]
  forward takes the model, then the inputs: forward=lambda model, x: ...""",
    ),
    "shape for inputs": (
        planned({"Linear": "auto"}, lambda: nn.MLP(3, 2, 5, 1, key=KEY), inputs=(2, 3)),
        ix.ModelError,
        """\
the forward pass fails on these inputs: TypeError: MLP.__call__() takes 2 positional arguments but 3 were given
  inputs: 2, 3
  a shape is written jax.ShapeDtypeStruct((2, 3), jnp.float32)""",
    ),
    "shape in front of the key": (
        lambda key: ix.schemes.initializer("he_normal")((3, 3), key),
        ix.AxesError,
        """\
a shape is a tuple, not a random key.
  the key stands in front of it: (key, shape, dtype)""",
    ),
    "text for a variance": (
        lambda key: ix.lsuv(nn.Linear(2, 3, key=KEY), jnp.ones((4, 2)), target="1"),
        ix.InitaxError,
        "lsuv: target is a variance and must be positive, not '1'.",
    ),
    "text for a tolerance": (
        lambda key: ix.lsuv(nn.Linear(2, 3, key=KEY), jnp.ones((4, 2)), tolerance="1"),
        ix.InitaxError,
        "lsuv: tolerance is a share of the target and must be at least 0, not '1'.",
    ),
    "selector of an array that not every layer has": (
        planned({lambda layer: (layer["weight"].fan_in or 0) > 3: "zeros"}),
        ix.RuleError,
        """\
the selector <lambda> failed on layer "mixer": KeyError: 'weight: the arrays of mixer are w, b'
  a selector function takes an ix.Layer and returns whether it is selected""",
    ),
    "layer of a mask": (
        lambda key: ix.mask(nn.MLP(3, 2, 5, 1, key=KEY), "layers.1")["layers.1"],
        ix.ModelError,
        """\
"layers.1" is not an array, and mask[...] takes the path of one.
  it holds: layers.1.weight, layers.1.bias""",
    ),
    "class for a function that makes models": (
        lambda key: ix.ablate(nn.Linear, {"he": {"*": "he_normal"}}, jax.random.split(key), lambda model, key: {}),
        ix.ModelError,
        """\
the model is the class Linear, and Linear(key) fails: Linear.__init__() missing 1 required positional argument: \
'out_features'
  write model = Linear(...), or lambda key: Linear(..., key=key)""",
    ),
    "experiment that takes the key first": (
        lambda key: ix.ablate(
            nn.Linear(2, 3, key=KEY),
            {"he": {"*": "he_normal"}},
            jax.random.split(key),
            lambda key, model: {"sum": model(jnp.ones(2)).sum()},
        ),
        ix.InitaxError,
        """\
run fails while JAX traces and compiles it: TypeError: 'BatchTracer' object is not callable
  write def run(model, key): ... return {"loss": loss}""",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_says_what_was_wrong_and_what_to_write(name, key):
    do, error, text = ERRORS[name]
    with pytest.raises(error) as caught:
        do(key)
    assert type(caught.value) is error
    if text is not None:
        assert str(caught.value) == text.replace(SCHEMES, ", ".join(ix.schemes.names()))


@pytest.mark.parametrize(
    ("scheme", "line"),
    [
        (("he_normal", {"mode": "fan_out"}), 'write ("variance_scaling", {'),
        (("xavier_uniform", {"gain": 1.5}), 'write ("variance_scaling", {'),
        (("kaiming_uniform", {"a": 5**0.5}), 'write ("variance_scaling", {'),
        (("kaiming_normal", {"nonlinearity": "relu"}), 'write ("variance_scaling", {'),
        (("orthogonal", 0.5), "for its gain write ("),
    ],
)
def test_the_line_to_paste_draws_what_was_meant(scheme, line):
    with pytest.raises(ix.SchemeError) as caught:
        ix.plan(Net(), {"Linear": scheme})
    (text,) = (each.strip() for each in str(caught.value).splitlines() if each.strip().startswith(line))
    pasted = eval(text.partition("write ")[2], {"ix": ix})
    meant = {  # for conv-free layers of 3 inputs and 5 outputs
        "he_normal": (2 / 5) ** 0.5,
        "xavier_uniform": 1.5 * (2 / 8) ** 0.5,
        "kaiming_uniform": (1 / 3 / 3) ** 0.5,
        "kaiming_normal": (2 / 3) ** 0.5,
        "orthogonal": 0.5 / 5**0.5,
    }
    (weight,) = (each for each in ix.plan(Net(), {"mlp.layers.0": pasted}).draws if each.parameter.role == "weight")
    assert weight.std == pytest.approx(meant[scheme[0]], rel=1e-6)


def test_a_factory_in_place_of_an_initializer_is_named(key):
    with pytest.raises(ix.SchemeError, match=r"is it a factory\? write he_normal\(\)"):
        ix.plan(Net(), {"Linear": jax.nn.initializers.he_normal})


def test_an_unknown_activation_is_answered_with_the_nearest():
    with pytest.raises(ix.SchemeError, match='no activation is called "rleu"') as caught:
        ix.gain("rleu")
    assert 'did you mean "relu"' in str(caught.value)


def test_undeclared_arrays_are_warned_of_and_kept(key):
    net = Net()
    with pytest.warns(ix.InitaxWarning) as caught:
        new = ix.reinit(net, {"*": "he_normal"}, key)
    assert new.mixer.w is net.mixer.w
    assert caught[0].filename == __file__
    assert (
        str(caught[0].message)
        == """\
rule "*" selects 2 arrays it can't draw; kept as they are:
  mixer.w (8, 3) of Mixer: undeclared
  mixer.b (3,) of Mixer: undeclared
  let a trace find the axes: inputs=x, what the model is called on
  or declare it, axes in stored order: ix.register_layer(Mixer, kind="Linear", w="i o", b="o")"""
    )


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ix.AxesError, ValueError),
        (ix.ArgumentError, TypeError),
        (ix.KeyTypeError, TypeError),
        (ix.SchemeError, ValueError),
        (ix.RuleError, ValueError),
        (ix.ModelError, ValueError),
        (ix.PlanError, ValueError),
    ],
)
def test_every_error_is_also_the_fitting_builtin(error, builtin):
    assert issubclass(error, ix.InitaxError)
    assert issubclass(error, builtin)
