"""What is no array among arguments and results, for programs that take and return arrays alone."""

import dataclasses
from typing import Any

import jax
import numpy as np

from igjax._trees import Tree


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Static:
    """A value that is part of a pytree's structure, such as a flag: another one, another program.

    Attributes:
      kind: its type, since ``1 == True``.
      value: must be hashable.
    """

    kind: type
    value: Any


def with_static(tree: Tree) -> Tree:
    """Returns ``tree`` with all of its leaves that are no arrays made part of its structure."""

    def leaf(value: Any) -> Any:
        return value if isinstance(value, _ARRAYS) else Static(type(value), value)

    return jax.tree.map(leaf, tree)


def without_static(tree: Tree) -> Tree:
    """Returns what ``with_static`` has been given."""
    return jax.tree.map(
        lambda node: node.value if isinstance(node, Static) else node,
        tree,
        is_leaf=lambda node: isinstance(node, Static),
    )


_ARRAYS = (jax.Array, np.ndarray, np.generic)
