"""What the wrappers of both APIs have in common: names for outputs, and the target."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from igjax._inputs import check_index
from igjax._trees import Tree

Target = int | Callable[[Any], Any] | None


def named(output: Tree, path: Sequence[Any]) -> Tree:
    """Names a submodule's output, all arrays of it, by its path; the model's own has no name."""
    if not path:
        return output
    name = "/".join(map(str, path))

    def leaf(value: Any) -> Any:
        return checkpoint_name(value, name) if isinstance(value, jax.Array) else value

    return jax.tree.map(leaf, output)


def pick(output: Tree, target: Target) -> Tree:
    """Returns what ``target`` asks for of a model's output."""
    if target is None:
        return output
    if callable(target):
        return target(output)
    if not isinstance(output, jax.Array) or output.ndim == 0:
        raise ValueError(
            f"target={target!r} is an index into the last axis of the model's output, which is "
            f"{jax.tree.map(jnp.shape, output)}: give a function of the output."
        )
    check_index(f"target, of an output of shape {output.shape},", target, output.shape[-1])
    return output[..., target]
