"""Attribution on many devices: what ``jax.shard_map`` and explicitly sharded arrays need."""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from igjax._trees import Tree


class NodeSharding(NamedTuple):
    """Devices that share the nodes of one sum.

    Attributes:
      mesh: the mesh of the devices, or None in a ``shard_map`` over ``axes``.
      axes: the names of the axes of the mesh that the nodes are spread over.
    """

    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None
    axes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Returns the number of devices."""
        if self.mesh is None:
            return int(jax.lax.axis_size(self.axes))
        return math.prod(self.mesh.shape[axis] for axis in self.axes)


def spread(
    fun: Callable[[Tree, jax.Array], Tree],
    nodes: Tree,
    weights: jax.Array,
    sharding: NodeSharding | None,
    axis: int = -1,
) -> Tree:
    """Calls ``fun`` on every device with its part of the nodes and of their weights.

    Where a part would be smaller, the last node is repeated at weight zero. What ``fun`` returns
    must be the same on all devices, as what ``add_up`` and ``put_together`` return is.

    Args:
      fun: of a device's nodes and weights.
      nodes: a pytree of arrays, with the nodes along ``axis`` of each.
      weights: an array with the nodes along its last axis.
      sharding: the devices, or None for one alone.
      axis: that of the nodes, the first or the last.
    """
    if sharding is None:
        return fun(nodes, weights)
    count = weights.shape[-1]
    part = -(-count // sharding.size)
    missing = part * sharding.size - count
    at = jnp.minimum(jnp.arange(count + missing), count - 1)  # keys can't be padded, but picked
    nodes = jax.tree.map(lambda leaf: jnp.take(leaf, at, axis=axis) if missing else leaf, nodes)
    weights = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, missing)])

    def own_part(array: jax.Array, axis: int) -> jax.Array:
        start = jax.lax.axis_index(sharding.axes) * part
        return jax.lax.dynamic_slice_in_dim(array, start, part, axis=axis)

    def share(nodes: Tree, weights: jax.Array) -> Tree:
        return fun(jax.tree.map(lambda leaf: own_part(leaf, axis), nodes), own_part(weights, -1))

    if sharding.mesh is None:
        return share(nodes, weights)
    everywhere = PartitionSpec()
    return jax.shard_map(
        share,
        mesh=sharding.mesh,
        in_specs=everywhere,
        out_specs=everywhere,
        axis_names=set(sharding.axes),
    )(nodes, weights)


def put_together(parts: Tree, sharding: NodeSharding | None) -> Tree:
    """Returns what the devices have for their nodes, one behind the other along the first axis."""
    if sharding is None:
        return parts

    def leaf(part: jax.Array) -> jax.Array:
        own = jax.lax.axis_index(sharding.axes) * part.shape[0]
        nothing = jnp.zeros((part.shape[0] * sharding.size, *part.shape[1:]), part.dtype)
        # A sum with what others leave at zero: the same on all devices, and JAX knows that it is.
        placed = jax.lax.dynamic_update_slice_in_dim(vary_like(part, nothing), part, own, axis=0)
        return jax.lax.psum(placed, sharding.axes)

    return jax.tree.map(leaf, parts)


def add_up(shares: Tree, sharding: NodeSharding | None) -> Tree:
    """Returns the sum of what the devices have for their shares."""
    return shares if sharding is None else jax.lax.psum(shares, sharding.axes)


def vary_like(values: Tree, tree: Tree) -> Tree:
    """Returns ``tree``, held by every device for itself where ``values`` differ between devices."""
    return plus_zero(tree, jax.tree.leaves(values)) if in_shard_map() else tree


def plus_zero(tree: Tree, values: list[jax.Array]) -> Tree:
    """Returns ``tree``, of the types that it has once ``values`` are added to it.

    In a ``shard_map`` it varies over the axes that any of them does; on a mesh with explicit axes
    it is on that mesh, as a constant is not.

    Keys are no numbers: they neither count among ``values`` nor are changed.
    """
    zeros = [jnp.sum(jnp.zeros_like(value)) for value in values if is_number(value)]

    def add(leaf: jax.Array, zero: jax.Array) -> jax.Array:
        return leaf + zero.astype(leaf.dtype)

    def plus_zeros(leaf: jax.Array) -> jax.Array:
        return functools.reduce(add, zeros, leaf) if is_number(leaf) else leaf

    return jax.tree.map(plus_zeros, tree)


def is_number(array: Any) -> bool:
    """Returns whether an array is of numbers: what else there is are keys."""
    return not jnp.issubdtype(jax.typeof(array).dtype, jax.dtypes.prng_key)


def node_sharding(sharding: Any) -> NodeSharding | None:
    """Returns what the argument ``sharding`` of a transform means where it is traced.

    Args:
      sharding: a ``NamedSharding`` of an array of nodes, the name of an axis of the mesh in use,
        several, or None.

    Raises:
      TypeError: if it is none of these.
      ValueError: if it shards no axis, or there is no such axis.
    """
    if sharding is None:
        return None
    in_use = jax.sharding.get_abstract_mesh()
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh = in_use
    if isinstance(sharding, jax.sharding.NamedSharding):
        if len(sharding.spec) != 1 or not sharding.spec[0]:
            raise ValueError(
                "sharding must be that of the nodes, an array of one axis, such as "
                f"NamedSharding(mesh, PartitionSpec('nodes')); got {sharding}."
            )
        axes, mesh = _names(sharding.spec[0]), sharding.mesh
    else:
        axes = _names(sharding)
        if unknown := [axis for axis in axes if axis not in in_use.axis_names]:
            raise ValueError(
                f"sharding names the mesh axis {unknown[0]!r}, but the mesh in use has "
                f"{in_use.axis_names or 'no axes'}: set one, with jax.set_mesh(mesh), or give a "
                "NamedSharding, which has its own."
            )
    return NodeSharding(None if set(axes) <= set(in_use.manual_axes) else mesh, axes)


def _names(axes: Any) -> tuple[str, ...]:
    names = (axes,) if isinstance(axes, str) else axes
    if not isinstance(names, tuple) or not names or not all(isinstance(n, str) for n in names):
        raise TypeError(
            "sharding must be a NamedSharding, the name of a mesh axis or a tuple of names; got "
            f"{axes!r}."
        )
    return names


def in_shard_map() -> bool:
    """Returns whether this is part of a ``shard_map``, where devices have values of their own."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def mesh_of(x: Tree) -> contextlib.AbstractContextManager[Any]:
    """Makes a context in which JAX knows the explicit mesh that ``x`` is sharded over, if any.

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
    """Returns ``tree``, of the structure of ``x``, with the explicit shardings that ``x`` has.

    A baseline that does not depend on ``x`` is one for all examples of a ``vmap``. In a mesh with
    explicit axes that is an array of another kind than ``x``, which the function, and JAX's own
    arithmetic, may refuse: a label that is sharded over examples is no index into it, for one.
    """

    def leaf(leaf: jax.Array, x: jax.Array) -> jax.Array:
        mesh = jax.typeof(x).sharding.mesh
        return jnp.where(False, x, leaf) if mesh.explicit_axes or mesh.manual_axes else leaf

    return jax.tree.map(leaf, tree, x)
