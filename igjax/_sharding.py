"""Attribution on many devices: what ``jax.shard_map`` and explicitly sharded arrays need."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def per_device(x: Tree, fun: Callable[[Tree], Tree]) -> Tree:
    """``x``, held by every device for itself wherever ``fun(x)`` differs between devices.

    In a ``shard_map`` the gradient with respect to an input that devices share is the sum over
    devices. The attributions of one device's ``fun``, with its own labels, say, are not: they must
    be those that ``vmap`` gives, and complete. Outside of ``shard_map`` nothing is done.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return x
    # Zeros like a value vary over the axes that it varies over. The value itself is not used.
    zeros = [jnp.sum(jnp.zeros_like(value)) for value in jax.tree.leaves(fun(x))]

    def add(leaf: jax.Array, zero: jax.Array) -> jax.Array:
        return leaf + zero.astype(leaf.dtype)

    return jax.tree.map(lambda leaf: functools.reduce(add, zeros, leaf), x)


def mesh_of(x: Tree) -> contextlib.AbstractContextManager[Any]:
    """A context in which JAX knows the explicit mesh that ``x`` is sharded over, if it is over one.

    What comes to ``jax.jit`` may be sharded over a mesh that nobody has set with ``jax.set_mesh``.
    JAX then fails to combine it with arrays made on the way. (Outside of ``jit`` JAX asks for
    ``jax.set_mesh``, for ``jax.grad`` too.)
    """
    traced = [leaf for leaf in jax.tree.leaves(x) if isinstance(leaf, jax.core.Tracer)]
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in traced]
    explicit = [mesh for mesh in meshes if mesh.explicit_axes]
    if explicit and jax.sharding.get_abstract_mesh().empty:
        return jax.sharding.use_abstract_mesh(explicit[0])
    return contextlib.nullcontext()


def laid_out_like(tree: Tree, x: Tree) -> Tree:
    """``tree``, of the structure of ``x``, with the explicit shardings that ``x`` has.

    A baseline that does not depend on ``x`` is one for all examples of a ``vmap``. In a mesh with
    explicit axes that is an array of another kind than ``x``, which the function, and JAX's own
    arithmetic, may refuse: a label that is sharded over examples is no index into it, for one.
    """

    def leaf(leaf: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(False, x, leaf) if jax.typeof(x).sharding.mesh.explicit_axes else leaf

    return jax.tree.map(leaf, tree, x)
