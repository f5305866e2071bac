"""A scheme as an initializer of JAX: `(key, shape, dtype, out_sharding) -> Array`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from initax._errors import AxesError, SchemeError, with_line
from initax._math._axes import parse
from initax._math._keys import CONFIG, as_key
from initax._math._sharding import mesh_around, no_mesh
from initax._model._parameter import ROLES, WEIGHT_ROLES, Role
from initax.schemes._alone import alone, drawn_part
from initax.schemes._initializer import Kernel, drawing_dtype, number_type
from initax.schemes._scheme import Scheme, as_scheme


@dataclass(frozen=True, slots=True, weakref_slot=True)
class JaxInitializer:
    """One role of a scheme as an initializer of JAX. Two that draw alike are equal, as a jitted module needs them.

    Attributes:
        scheme: the scheme.
        axes: the axes of the arrays; `None` for JAX's, `"... i o"`.
        sizes: sizes of named axes, as sorted pairs.
        role: which role draws.
    """

    scheme: Scheme
    axes: str | None
    sizes: tuple[tuple[str, int], ...]
    role: Role

    def __call__(self, key: Any, shape: Any, dtype: Any = None, out_sharding: Any = None) -> jax.Array:
        """Return an array of that shape.

        Args:
            key: a JAX random key, used as it is.
            shape: its shape.
            dtype: its type; JAX's default float if left out.
            out_sharding: where it is to live: a sharding, or a `PartitionSpec` of the mesh around.

        Raises:
            SchemeError: the scheme can't serve the array.
            AxesError: the axes do not fit the shape, or no mesh is around for `out_sharding`.
            KeyTypeError: `key` is not one JAX key.
        """
        recipe, shape, dtype = alone(self.scheme, shape, dtype, axes=self.axes, sizes=dict(self.sizes), role=self.role)
        kernel = recipe.kernel
        if kernel.sees_old:
            raise SchemeError(
                f"{self.scheme} keeps a part of what an array holds, and an initializer sees none.",
                "draw it anew over the model: ix.reinit(model, rules, key)",
            )
        typed = as_key(key)
        numbers = tuple(map(number_type(dtype, bool(CONFIG.jax_enable_x64)), recipe.numbers))
        if isinstance(jax.random.key_data(typed), jax.core.Tracer):
            return _placed(_compiled(kernel, shape, dtype, None)(typed, numbers), out_sharding)
        sharding = _as_sharding(out_sharding)
        with no_mesh():
            return _compiled(kernel, shape, dtype, sharding)(typed, numbers)

    def __repr__(self) -> str:
        """Return it as one would write it."""
        axes = f", axes={self.axes!r}" if self.axes is not None else ""
        sizes = f", sizes={dict(self.sizes)}" if self.sizes else ""
        role = f", role={self.role!r}" if self.role != "weight" else ""
        return f"initializer({str(self.scheme)!r}{axes}{sizes}{role})"


@with_line("ix.schemes.initializer", 'write ix.schemes.initializer("he_normal", axes="i o")')
def initializer(
    scheme: Any, *, axes: str | None = None, sizes: Mapping[str, int] | None = None, role: Role = "weight"
) -> JaxInitializer:
    """Return a scheme as an initializer of JAX, for wherever a framework asks for one.

    What it draws equals `ix.draw(scheme, key, shape, dtype, axes=axes, sizes=sizes)`.

    Args:
        scheme: anything a rule accepts.
        axes: the axes of the arrays, in their stored order, `"i (gate o)"`; JAX's, `"... i o"`, if left out.
        sizes: sizes of named axes, where a merged axis can't be told apart.
        role: which role of the scheme draws: `"weight"`, or `"bias"` for `bias_init=`.

    Returns:
        A function `(key, shape, dtype=None, out_sharding=None) -> Array`. It can be hashed and compared, and called
        under `jit`, `eval_shape` and meshes of any kind.

    Raises:
        SchemeError: the scheme is unknown, or has no initializer for the role.
        AxesError: the pattern is malformed.

    Examples:
        >>> import initax as ix, jax
        >>> from flax import nnx
        >>> init = ix.schemes.initializer("orthogonal", axes="i (gate o)", sizes={"gate": 4})
        >>> layer = nnx.Linear(8, 32, kernel_init=init, rngs=nnx.Rngs(0))
        >>> init(jax.random.key(0), (8, 32)).shape
        (8, 32)
    """
    chosen = as_scheme(scheme)
    if role not in ROLES[:-1]:
        raise SchemeError(f"initializer: role must be one of {', '.join(ROLES[:-1])}, not {role!r}.")
    drawn_part(chosen, role)
    pattern = chosen.axes.get(role) if axes is None and role in WEIGHT_ROLES else axes
    if pattern is not None:
        parse(pattern)
    sizes = {**(chosen.sizes if pattern is not None and axes is None else {}), **(sizes or {})}
    if sizes and pattern is None:
        raise AxesError(
            f"initializer: sizes name axes of a pattern, and there is none: {', '.join(sizes)}.",
            f'write axes="i ({next(iter(sizes))} o)"',
        )
    return JaxInitializer(chosen, pattern, tuple(sorted(sizes.items())), role)


@functools.lru_cache(maxsize=256)
def _compiled(kernel: Kernel, shape: tuple[int, ...], dtype: Any, sharding: Any) -> Any:
    def drawn(key: jax.Array, numbers: tuple[Any, ...]) -> jax.Array:
        return kernel(key, numbers, shape, drawing_dtype(dtype)).astype(dtype)

    return jax.jit(drawn) if sharding is None else jax.jit(drawn, out_shardings=sharding)


def _as_sharding(out_sharding: Any) -> Any:
    """A sharding as a sharding; a `PartitionSpec` as one of the mesh around."""
    if not isinstance(out_sharding, PartitionSpec):
        return out_sharding
    mesh = mesh_around()
    if mesh is None:
        raise AxesError(
            f"out_sharding=PartitionSpec{tuple(out_sharding)} names axes of a mesh, and none is around.",
            "with jax.set_mesh(mesh): ...; or give jax.NamedSharding(mesh, spec)",
        )
    return NamedSharding(mesh, out_sharding)


def _placed(array: jax.Array, out_sharding: Any) -> jax.Array:
    """A traced array where it is to live: by its type where the mesh is explicit, else by a constraint."""
    if out_sharding is None:
        return array
    named = isinstance(out_sharding, NamedSharding)
    mesh = out_sharding.mesh if named else jax.sharding.get_abstract_mesh()
    if not mesh.empty and all(kind == AxisType.Explicit for kind in mesh.axis_types):
        return jax.sharding.reshard(array, out_sharding)
    return lax.with_sharding_constraint(array, out_sharding)
