"""How many nodes to evaluate at once, from what one needs of a device's memory."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from igjax._engine.chunks import weighted_sum
from igjax._engine.integrand import Integrand
from igjax._jaxpr.program import trace
from igjax._precision import tree_dtype
from igjax._trees import Tree

_SHARE = 0.5  # of the free memory: the rest is for what the program around it holds
_PROBED = 8  # nodes in the program whose memory is looked at
# More at once do not make a CPU faster, for they leave its caches (a CNN of 4 layers, 2 cores: 50
# nodes at once took up to twice as long as 5 chunks of 10).
_MOST_ON_CPU = 16


class Capacity(NamedTuple):
    """What a device holds.

    Attributes:
      free: memory, in bytes.
      nodes: so many at once are worth it, or None.
    """

    free: int
    nodes: int | None


def capacity(device: jax.Device) -> Capacity:
    """Returns what a device holds."""
    return Capacity(free_memory(device), _MOST_ON_CPU if device.platform == "cpu" else None)


def fitting_batch_size(
    integrand_at: Callable[[jax.Array], Integrand],
    x: Tree,
    most: int,
    holds: Capacity | None = None,
) -> int:
    """Returns the number of nodes that fit in memory at once, from 1 to ``most``.

    The program for a few nodes is compiled, for the default device, to read how much it needs.

    Args:
      integrand_at: from nodes to what is to be evaluated there.
      x: the input. If ``jax.vmap`` maps over it, as many examples are in memory together.
      most: the number of nodes there are.
      holds: what the device holds; None: what the default device does.

    Raises:
      ValueError: where the program can't be compiled by itself: in a ``shard_map``, say.
    """
    holds = holds or capacity(_device())
    most = min(most, holds.nodes or most)
    probed = min(_PROBED, most)
    nodes = jax.ShapeDtypeStruct((probed,), tree_dtype(x))

    def total(nodes: jax.Array) -> Tree:
        integrand = integrand_at(nodes)
        contribution = lambda alpha: integrand.at(alpha).contribution
        return weighted_sum(contribution, nodes, jnp.ones_like(nodes), integrand.zero)

    traced = trace(total, nodes)
    constants = [jax.typeof(constant) for constant in traced.constants]
    try:
        compiled = jax.jit(traced.given).lower(constants, nodes).compile()
    except Exception as error:
        raise ValueError(
            'batch_size="auto" compiles a part of the program by itself, which failed here (in a '
            "shard_map or jax.export with open shapes it can't be done): give a number."
        ) from error
    analysis: Any = compiled.memory_analysis()
    needed = analysis.temp_size_in_bytes * _examples(x) / probed
    return int(max(1, min(most, _SHARE * holds.free // max(needed, 1))))


def _device() -> jax.Device:
    config: Any = jax.config
    default = config.jax_default_device
    return default if isinstance(default, jax.Device) else jax.local_devices(backend=default)[0]


def free_memory(device: jax.Device) -> int:
    """Returns the free memory of a device, in bytes; for a CPU all that the machine has."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _examples(x: Tree) -> int:
    """Returns how many examples ``jax.vmap`` maps over, as far as ``x`` shows.

    JAX has no public word for it: the tracers of ``vmap``, and those of derivatives around them,
    are known by what they carry.
    """

    def examples(leaf: Any) -> int:
        if hasattr(leaf, "batch_dim"):
            own = 1 if leaf.batch_dim is None else leaf.val.shape[leaf.batch_dim]
            return int(own) * examples(leaf.val)
        return examples(leaf.primal) if hasattr(leaf, "primal") else 1

    return max(map(examples, jax.tree.leaves(x)))
