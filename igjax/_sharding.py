"""Attribution on many devices: what ``jax.shard_map`` and explicitly sharded arrays need."""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

Tree = Any


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
        """The number of devices."""
        if self.mesh is None:
            return int(jax.lax.axis_size(self.axes))
        return math.prod(self.mesh.shape[axis] for axis in self.axes)


def spread(
    fun: Callable[[jax.Array, jax.Array], Tree],
    nodes: jax.Array,
    weights: jax.Array,
    sharding: NodeSharding | None,
) -> Tree:
    """Calls ``fun`` on every device with its part of the last axes of ``nodes`` and ``weights``.

    Where a part would be smaller, the last node is repeated at weight zero. What ``fun`` returns
    must be the same on all devices, as what ``add_up`` returns is.
    """
    if sharding is None:
        return fun(nodes, weights)
    missing = -nodes.shape[-1] % sharding.size
    nodes, weights = (
        jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)], mode)
        for array, mode in ((nodes, "edge"), (weights, "constant"))
    )

    def own_part(array: jax.Array) -> jax.Array:
        size = array.shape[-1] // sharding.size
        start = jax.lax.axis_index(sharding.axes) * size
        return jax.lax.dynamic_slice_in_dim(array, start, size, axis=-1)

    def share(nodes: jax.Array, weights: jax.Array) -> Tree:
        return fun(own_part(nodes), own_part(weights))

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


def add_up(shares: Tree, sharding: NodeSharding | None) -> Tree:
    """The sum of what the devices have for their shares."""
    return shares if sharding is None else jax.lax.psum(shares, sharding.axes)


def vary_like(values: Tree, tree: Tree) -> Tree:
    """``tree``, held by every device for itself wherever ``values`` differ between devices."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    return _plus_zero(tree, jax.tree.leaves(values))


def _plus_zero(tree: Tree, values: list[jax.Array]) -> Tree:
    """``tree``, which in a ``shard_map`` then varies over the axes that any of ``values`` does.

    Keys are no numbers: they neither count among ``values`` nor are changed.
    """
    zeros = [jnp.sum(jnp.zeros_like(value)) for value in values if is_number(value)]

    def add(leaf: jax.Array, zero: jax.Array) -> jax.Array:
        return leaf + zero.astype(leaf.dtype)

    def plus_zeros(leaf: jax.Array) -> jax.Array:
        return functools.reduce(add, zeros, leaf) if is_number(leaf) else leaf

    return jax.tree.map(plus_zeros, tree)


def is_number(array: Any) -> bool:
    """Whether an array is of numbers: what else there is are keys."""
    return not jnp.issubdtype(jax.typeof(array).dtype, jax.dtypes.prng_key)


def node_sharding(sharding: Any) -> NodeSharding | None:
    """What the argument ``sharding`` of a transform means where it is traced.

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


def per_device(x: Tree, fun: Callable[[Tree], Tree]) -> Tree:
    """``x``, held by every device for itself wherever ``fun(x)`` differs between devices.

    In a ``shard_map`` the gradient with respect to an input that devices share is the sum over
    devices. The attributions of one device's ``fun``, with its own labels, say, are not: they must
    be those that ``vmap`` gives, and complete. Outside of ``shard_map`` nothing is done.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return x
    return _plus_zero(x, jax.tree.leaves(fun(x)))  # the values themselves are not used


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
        mesh = jax.typeof(x).sharding.mesh
        return jnp.where(False, x, leaf) if mesh.explicit_axes or mesh.manual_axes else leaf

    return jax.tree.map(leaf, tree, x)
