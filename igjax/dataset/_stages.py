"""Any attribution, in stages that are programs: one that igjax made goes on step by step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from igjax._engine.attribution import steps_of
from igjax._engine.report import Report
from igjax._jaxpr.program import Traced, trace
from igjax._padding import padded
from igjax._trees import Tree


class Stages(NamedTuple):
    """An attribution of examples of one shape, each stage traced once.

    Attributes:
      begin: from what an example is given to the work on it.
      step: from the work to the work one step on.
      done: from the work to whether more steps would change nothing.
      result: from the work to what the attribution returns.
    """

    begin: Traced
    step: Traced
    done: Traced
    result: Traced

    @property
    def work(self) -> Tree:
        """Returns shapes and dtypes of the work."""
        return shapes(self.begin)

    @property
    def returned(self) -> "Returned":
        """Returns shapes and dtypes of what the attribution returns."""
        return as_returned(shapes(self.result))


class Returned(NamedTuple):
    """What an attribution returns.

    Attributes:
      attributions: a pytree of arrays.
      report: on them, or None.
    """

    attributions: Tree
    report: Report | None


def stages(attribution: Callable[..., Any], args: tuple[Tree, ...], masks: Tree) -> Stages:
    """Traces an attribution for examples like one.

    Args:
      attribution: a function of an example.
      args: that one's arguments, arrays or their shapes.
      masks: by keyword, what of the arguments is no padding; none if there is no padding.

    Raises:
      TypeError: if the attribution does not return arrays.
      ValueError: as the attribution does; or if a baseline or a path sees padding.
    """
    parts = steps_of(attribution)
    with padded(bool(masks)):
        begin = trace(lambda given: parts.begin(*given[0], **given[1]), (args, masks))
        _check_arrays(begin)
        work = shapes(begin)
        step, done, result = (trace(f, work) for f in (parts.step, parts.done, parts.result))
        _check_arrays(result)
    return Stages(begin, step, done, result)


def _check_arrays(traced: Traced) -> None:
    if traced.others:
        other = next(iter(traced.others.values()))
        raise TypeError(f"an attribution must return arrays; it returns {other!r} among them.")


def shapes(traced: Traced) -> Tree:
    """Returns shapes and dtypes of what a function returns, all of which are arrays."""
    leaves = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in traced.closed.out_avals]
    return jax.tree.unflatten(traced.result_structure, leaves)


def as_returned(value: Tree) -> Returned:
    """Returns attributions and report of what an attribution returns, arrays or their shapes.

    Raises:
      TypeError: if there is something else, too; or no array that can be stored.
    """
    attributions, report = value, None
    if isinstance(value, tuple) and value and isinstance(value[-1], Report):
        *before, report = value
        if len(before) != 1:
            raise TypeError(
                "an attribution must return attributions, or a pair of them and a Report; it "
                f"returns {len(before)} things and a Report. If one is auxiliary data (has_aux), "
                "make a pytree of it and the attributions, as in ({'x': x, 'aux': aux}, report)."
            )
        (attributions,) = before
    for path, leaf in jax.tree_util.tree_flatten_with_path(attributions)[0]:
        kinds = jnp.floating, jnp.integer, jnp.bool_
        if not any(jnp.issubdtype(leaf.dtype, kind) for kind in kinds):
            where = f"attributions{jax.tree_util.keystr(path)}"
            raise TypeError(f"{where} must be real numbers to be stored; they are {leaf.dtype}.")
    return Returned(attributions, report)
