"""What both plans are made of: an integration that begins, goes on step by step, and ends.

A fixed rule is the plan whose tiles of nodes are known; a tolerance is the plan that decides as it
goes. Calling an attribution is ``run``; who drives many examples from outside of a program, as a
dataset run does, calls the parts.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

from igjax._engine.chunks import fold
from igjax._engine.integrand import Integrand
from igjax._engine.report import Account, l1_norm
from igjax._sharding import NodeSharding, spread
from igjax._trees import Tree, map_parts

# Of attributions: that of a bfloat16 MiniLM was 1.3 to 2.1 %, of roundings of 0.8 %.
ROUNDINGS = 3


class Problem(NamedTuple):
    """What is to be integrated for an input, and by what the attributions are judged.

    Attributes:
      integrand: along the path.
      x: the input.
      judged: from what is like the input to the part of it that errors are of.
      values: F(x) and F(x'), if the attributions are meant to sum to their difference, else None.
        The gap is a second opinion: a sum of errors, so that their L1 norm is no smaller.
      rounding: the distance from 1 to the next number, in the coarsest arithmetic of F.
    """

    integrand: Integrand
    x: Tree
    judged: Callable[[Tree], Tree]
    values: tuple[Tree, Tree] | None
    rounding: float

    @property
    def floor(self) -> float:
        """Returns the error of attributions that no number of nodes lowers, of their L1 norm."""
        return ROUNDINGS * self.rounding

    def norm(self, attributions: Tree) -> Tree:
        """Returns the L1 norm of attributions, for each output: errors are measured by it."""
        return l1_norm(self.judged(self.x), map_parts(self.judged, self.x, attributions))


class Integration(NamedTuple):
    """The parts of an integration. What they pass on is a pytree of arrays.

    Attributes:
      begin: makes what there is before the first of ``tiles``.
      look: from that to the same, once it was seen how good it is.
      tiles: what a step is told: a pytree of arrays, a leading axis for the steps.
      step: from what there is, and what is told of the next tile, to what there is then. Part of a
        loop in a program: where it has stopped, it does nothing, and in its first step it does what
        ``look`` does.
      go_on: likewise, after ``look``, for those who stop by themselves.
      stopped: from what there is to whether that is enough.
      result: from what there is to the attributions, in the precision of sums, and their account.
    """

    begin: Callable[[], Tree]
    look: Callable[[Tree], Tree]
    tiles: Tree
    step: Callable[[Tree, Tree], Tree]
    go_on: Callable[[Tree, Tree], Tree]
    stopped: Callable[[Tree], jax.Array]
    result: Callable[[Tree], tuple[Tree, Account]]

    @property
    def steps(self) -> int:
        """Returns how many there are."""
        return len(jax.tree.leaves(self.tiles)[0])

    def tile(self, number: jax.Array) -> Tree:
        """Returns what is told of the tile of that number."""
        return jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False), self.tiles
        )


class Plan(NamedTuple):
    """How a rule is gone through.

    Attributes:
      nodes: all of them; the last axis is spread over devices.
      weights: theirs, likewise.
      integration: of a problem, with a device's part of nodes and weights, and the sharding.
    """

    nodes: jax.Array
    weights: jax.Array
    integration: Callable[[Problem, jax.Array, jax.Array, NodeSharding | None], Integration]

    def alone(self, problem: Problem) -> Integration:
        """Returns the integration on one device."""
        return self.integration(problem, self.nodes, self.weights, None)


def run(
    plan: Plan, problem_at: Callable[[jax.Array], Problem], sharding: NodeSharding | None
) -> tuple[Tree, Account]:
    """Integrates: the loop over all steps.

    Args:
      plan: how.
      problem_at: from nodes to the problem where they are: on many devices, each has its own.
      sharding: the devices that share the nodes, or None.
    """

    def on_device(nodes: jax.Array, weights: jax.Array) -> tuple[Tree, Account]:
        parts = plan.integration(problem_at(nodes), nodes, weights, sharding)
        return parts.result(fold(parts.step, parts.begin(), parts.tiles))

    return spread(on_device, plan.nodes, plan.weights, sharding)


class Planner(NamedTuple):
    """A rule, ready to be planned for an input.

    Attributes:
      at_once: how many nodes are evaluated at once unless something else is asked for.
      loops: whether it goes by tiles even then.
      plan: from the number of nodes that a device evaluates at once (None: ``at_once``), the number
        of devices, and the dtype to follow the path in, to the plan.
    """

    at_once: int
    loops: bool
    plan: Callable[[int | None, int, jax.typing.DTypeLike], Plan]
