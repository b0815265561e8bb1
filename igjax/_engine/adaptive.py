"""Integration to a tolerance: nested rules of Gregory, one after the other, until one is enough.

The rules of 1, 2, 4, 8 … nodes contain one another. Their nodes are visited rule by rule, and the
sums that belong to all the rules are kept side by side: a node adds to every rule that has it. Of
the nodes themselves no more is kept than a few numbers: ``notes``.

It begins with a pilot: 16 nodes, and two observers just inside the ends of the path, which belong
to no rule. If that is not enough, there are three ways to go on. Where a panel between two nodes
may hide much of the whole (``panels``), up to four rounds of nodes look closer there, and then the
rules begin anew with placed nodes, whose share of each panel is what it needs. If no panel stands
out, but the integrand does not look smooth, they begin anew with nodes that are dense where the
gradient was seen to change (``density``). Otherwise they go on with equal steps.

The error is estimated from four things that a rule knows:

- the change of the attributions, in the L1 norm, in the step to it: ``d1``. With ``q = d1 / d2``,
  of the change in the step before, the changes to come are ``d1 q, d1 q^2, …``. In a ReLU network
  the gradient jumps at many places of the path, so that they have little to do with one another,
  and add up as their squares do, to ``d1 q / sqrt(1 - q^2)``. Where the integrand is smooth, they
  are much smaller than that.
- the completeness gap.
- the changes of F from node to node, less what its slopes say: there nothing cancels.
- how different the contributions at the observers are from what the outermost nodes let expect.

What it can't see is what none of them shows: a spike between two nodes whose ends look alike, and
which leaves F as it was.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.custom_batching
import jax.numpy as jnp
import numpy as np

from igjax._engine import density, panels, placement, values
from igjax._engine.chunks import contract, no_sum
from igjax._engine.integration import Integration, Plan, Planner, Problem
from igjax._engine.nested import Nested, shift
from igjax._engine.notes import (
    BUCKETS,
    KNOWN,
    SLOPE,
    VALUE,
    flat,
    length,
    like_outputs,
    of_node,
    sketch,
)
from igjax._engine.observers import ALARM, ALARM_OF_WHOLE, BETWEEN_OBSERVER, DISTANCE
from igjax._engine.panels import Areas, Panels
from igjax._engine.report import Account, Reason, relative
from igjax._jaxpr.convolutions import with_fast_convolutions
from igjax._precision import as_sums, tree_dtype
from igjax._quadrature import gregory
from igjax._sharding import NodeSharding, add_up, plus_zero, put_together, vary_like
from igjax._trees import Tree
from igjax.quadrature import Tolerance

PILOT = 16  # nodes, to look at the error for the first time, and to see where more are needed
OBSERVERS = 2

# What follows was chosen on 1,206 attributions of 67 kinds of small functions (12 draws of each,
# and rtol 0.1, 0.03, 0.01): networks of all kinds, and functions that are steep, cancel or alias
# on purpose. ``python -m benchmarks --only families`` tries it on others.

# How the change from one rule to the next may shrink. On ReLU networks it halves on the whole, but
# now and then it is far below the half by chance: a small ratio is not taken at its word. That of a
# few nodes less so, unless they are equally far apart and look smooth: the change before theirs is
# that of a rule too coarse to tell anything.
RATIOS = (0.5, 0.9)
FEW, RATIO_OF_FEW = 32, 0.7
SAFETY = 1.25
SMOOTH = 0.3  # a ratio of changes: what shrinks faster is smooth, and goes on with equal steps
# Where a panel stood out, the integrand is steep, and no part of the error makes up for another.
# Its changes are then less regular too: the one before counts by this much.
SAFETY_IF_STEEP, PREVIOUS_IF_STEEP = 1.8, 0.5

# A panel stands out that may hide this share of the whole.
STANDS_OUT = 0.15
ROUNDS = 4  # of closer looks, of as many nodes as the pilot has

_PILOT, _CLOSER, _RULES = range(3)  # stages


class Sums(NamedTuple):
    """What is added up over the nodes, in the precision of sums.

    Attributes:
      rules: for each rule, an axis in front of the integrand's.
      observed: at the two observers.
      outermost: at the nodes that are nearest to them, and at the two that are next to these, or
        were outermost before.
    """

    rules: Tree
    observed: Tree
    outermost: Tree


class Seen(NamedTuple):
    """What was seen so far. Constants to derivatives.

    Attributes:
      outermost: where these nodes are, ``(4,)``.
      panels: what the pilot and the closer looks saw.
      known: of the nodes of the rules, by rank; the derivatives are those by t.
      scale: of sketches, for each output, to make L1 norms of them.
    """

    outermost: jax.Array
    panels: Panels
    known: jax.Array
    scale: jax.Array


class Course(NamedTuple):
    """How far it has come, and how it goes on. Constants to derivatives.

    Attributes:
      num_evals: at how many nodes.
      stopped: whether it is enough.
      reason: why.
      stage: what tiles are of: the pilot, a closer look, or the rules.
      tile: the number of the next one.
      rounds: of closer looks.
      placed: whether the nodes of the rules are placed.
      placement: where nodes go.
      level: of the last rule that was looked at.
      error: of that, for each output.
      size: its L1 norm, likewise.
    """

    num_evals: jax.Array
    stopped: jax.Array
    reason: jax.Array
    stage: jax.Array
    tile: jax.Array
    rounds: jax.Array
    placed: jax.Array
    placement: jax.Array
    level: jax.Array
    error: jax.Array
    size: jax.Array


Carry = tuple[Sums, Seen, Course]


def planner(tolerance: Tolerance) -> Planner:
    """Returns the planner of a sound tolerance."""
    return Planner(PILOT + OBSERVERS, True, functools.partial(_plan, tolerance))


def _plan(
    tolerance: Tolerance, batch_size: int | None, devices: int, dtype: jax.typing.DTypeLike
) -> Plan:
    most = tolerance.max_evals - OBSERVERS
    at_once = batch_size or PILOT + OBSERVERS
    nested = Nested(
        # No more than the pilot, however many there could be: so the answer is always the same.
        _power_of_two(min(at_once * devices, PILOT)),
        _power_of_two(most).bit_length(),
    )
    # One for each device, to tell them apart: they work out their nodes themselves.
    ones = jnp.ones((devices,), dtype)

    def integration(
        problem: Problem, own: jax.Array, _: jax.Array, sharding: NodeSharding | None
    ) -> Integration:
        return _way(tolerance, nested, at_once, problem, own, sharding).parts()

    return Plan(ones, ones, integration)


def _power_of_two(n: int) -> int:
    """Returns ``n``, rounded down."""
    return int(2 ** (n.bit_length() - 1))


class _Way(NamedTuple):
    """The way that an integration takes.

    Attributes:
      tolerance: how good, and how many.
      nested: the rules.
      at_once: how many nodes a device evaluates at once.
      problem: what is integrated.
      own: an array that varies over devices.
      sharding: the devices that share the nodes, or None.
      outputs: the shapes of what there is for each output.
      ends: F(x') and F(x), for each output; zeros where they say nothing.
    """

    tolerance: Tolerance
    nested: Nested
    at_once: int
    problem: Problem
    own: jax.Array
    sharding: NodeSharding | None
    outputs: Tree
    ends: tuple[jax.Array, jax.Array]

    def parts(self) -> Integration:
        """Returns the integration."""
        # Once more than there are tiles: the first step is a look at the pilot.
        steps = 1 + (ROUNDS * PILOT + self.nested.nodes) // self.nested.size
        return Integration(
            begin=self.begin,
            look=self.look,
            tiles=jnp.arange(steps, dtype=jnp.int32),
            step=self.step,
            go_on=self.go_on,
            stopped=lambda carry: carry[2].stopped,
            result=self.result,
        )

    @property
    def dtype(self) -> Any:
        """Returns the dtype of the path."""
        return tree_dtype(self.problem.x)

    @property
    def devices(self) -> int:
        """Returns how many share the nodes."""
        return 1 if self.sharding is None else self.sharding.size

    # What is evaluated.

    def begin(self) -> Carry:
        """Evaluates the pilot and the observers."""
        nested, dtype = self.nested, self.dtype
        level = PILOT.bit_length() - 1
        ranks = nested.first(level) + nested.step(level) * np.arange(PILOT, dtype=np.int32)
        ranks = jnp.asarray(ranks)
        inner = nested.places(ranks, dtype)
        ends = jnp.array([DISTANCE, 1.0 - DISTANCE], dtype)
        alpha = jnp.concatenate([ends[:1], inner, ends[1:]])
        one = jnp.eye(PILOT + OBSERVERS, dtype=dtype)
        of_rules = jnp.pad(nested.weights(ranks, dtype), [(0, 0), (1, 1)])
        rows, notes, lengths = self._all_at(
            alpha, jnp.concatenate([of_rules, one[np.array([0, -1, 1, -2, 2, -3])]])
        )
        split = functools.partial(_rows, rows)
        sums = Sums(split(0, -6), split(-6, -4), split(-4, None))

        total = jnp.sum(jnp.abs(notes[KNOWN:]), axis=(0, 2))
        scale = jnp.sum(lengths, axis=0) / jnp.where(total == 0.0, 1.0, total)
        known = jnp.zeros((KNOWN, len(scale), nested.nodes), dtype)
        seen = Seen(
            outermost=inner[np.array([0, -1, 1, -2])],
            panels=panels.of_nodes(alpha, _scaled(notes, scale), self.ends, ROUNDS * PILOT),
            known=known.at[..., ranks].set(notes[:KNOWN, :, 1:-1]),
            scale=scale,
        )
        none, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        course = Course(
            num_evals=jnp.asarray(PILOT + OBSERVERS, jnp.int32),
            stopped=no,
            reason=none,
            stage=jnp.asarray(_PILOT, jnp.int32),
            tile=none,
            rounds=none,
            placed=no,
            placement=placement.even(len(seen.panels.alpha), dtype),
            level=none,
            error=jnp.zeros_like(scale),
            size=jnp.zeros_like(scale),
        )
        told = (notes, self.tolerance.rtol, self.tolerance.atol, self.ends)
        arrays = [leaf for leaf in jax.tree.leaves(told) if isinstance(leaf, jax.Array)]
        # Of the types that they will have: in a shard_map, and on a mesh with explicit axes.
        return sums, *_constant(plus_zero((seen, course), arrays))

    def _all_at(self, alpha: jax.Array, weights: jax.Array) -> tuple[Tree, jax.Array, jax.Array]:
        """Returns sums over the nodes by each row of weights, their notes, and their lengths.

        A device evaluates its share, no more than ``at_once`` of them at once.
        """
        count = len(alpha)
        chunks = -(-count // (self.at_once * self.devices))
        share = -(-count // (chunks * self.devices))
        lanes = self._lanes(chunks * share)
        held = (lanes < count).astype(weights.dtype)
        lanes = jnp.minimum(lanes, count - 1)
        own = alpha[lanes].reshape(chunks, share)
        rows = (weights[:, lanes] * held[None]).reshape(-1, chunks, share).swapaxes(0, 1)
        problem = self.problem

        @jax.checkpoint
        @with_fast_convolutions
        def chunk(alpha: jax.Array, weights: jax.Array) -> tuple[Tree, Any]:
            seen = jax.vmap(problem.integrand.at)(alpha)
            still = jax.lax.stop_gradient(seen)
            known = jax.vmap(functools.partial(of_node, problem))(still)
            sketches = jax.vmap(functools.partial(sketch, problem))(still.contribution)
            lengths = jax.vmap(functools.partial(length, problem))(still.contribution)
            notes = jnp.concatenate([known, sketches], axis=1)
            return contract(weights, seen.contribution), (notes, lengths)

        if chunks == 1:
            sums, seen = chunk(own[0], rows[0])
        else:

            def add(sums: Tree, told: tuple[jax.Array, jax.Array]) -> tuple[Tree, Any]:
                more, seen = chunk(*told)
                return jax.tree.map(jnp.add, sums, more), seen

            nothing = no_sum(problem.integrand.zero(), rows[0])
            sums, seen = jax.lax.scan(add, nothing, (own, rows))
            seen = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), seen)
        notes, lengths = put_together(_constant(seen), self.sharding)
        return sums, jnp.moveaxis(notes[:count], 0, 2), lengths[:count]

    def _lanes(self, share: int) -> jax.Array:
        """Returns the numbers of this device's nodes, if each has so many."""
        lanes = jnp.arange(share, dtype=jnp.int32)
        if self.sharding is None:
            return lanes
        return lanes + jax.lax.axis_index(self.sharding.axes).astype(jnp.int32) * share

    def step(self, carry: Carry, _: jax.Array) -> Carry:
        """Visits a tile if that is needed, and looks how good it is."""
        course = carry[2]
        idle = course.stopped | (course.stage == _PILOT)
        closer = ~idle & (course.stage == _CLOSER)
        evaluate = functools.partial(self._evaluate_if, ~_all(idle), ~_all(~closer))
        return self.look(self._visit(carry, idle, evaluate))

    def go_on(self, carry: Carry, _: jax.Array) -> Carry:
        """Does the same, where nobody is idle."""
        evaluate = functools.partial(self._evaluate, ~_all(carry[2].stage != _CLOSER))
        return self.look(self._visit(carry, carry[2].stopped, evaluate))

    def _evaluate(
        self, closer: jax.Array, alpha: jax.Array, weights: jax.Array
    ) -> tuple[Tree, jax.Array]:
        """Returns sums over a tile's nodes, and notes node by node, with sketches if closer."""
        problem = self.problem

        @with_fast_convolutions
        def evaluate(alpha: jax.Array, weights: jax.Array) -> tuple[Tree, Any]:
            seen = jax.vmap(problem.integrand.at)(alpha)
            return contract(weights, seen.contribution), _constant(seen)

        sums, seen = evaluate(alpha, weights)
        known = jax.vmap(functools.partial(of_node, problem))(seen)
        sketches = jax.lax.cond(
            closer,
            jax.vmap(functools.partial(sketch, problem)),
            lambda _: self._unseen(len(alpha))[:, KNOWN:],
            seen.contribution,
        )
        return sums, jnp.concatenate([known, sketches], axis=1)

    def _unseen(self, count: int) -> jax.Array:
        """Returns the notes of nodes that nobody looked at, node by node."""
        zeros = jnp.zeros((count, KNOWN + BUCKETS, len(self.ends[0])), self.dtype)
        unseen: jax.Array = vary_like((self.own, self.problem.x, self.ends), zeros)
        return unseen

    def _evaluate_if(
        self, running: jax.Array, closer: jax.Array, alpha: jax.Array, weights: jax.Array
    ) -> tuple[Tree, jax.Array]:
        """Does so if anything is running."""
        nothing = no_sum(self.problem.integrand.zero(), weights), self._unseen(len(alpha))

        # Outside of the branch: so that only a flag is kept for reverse mode, and not what the
        # branch closes over (all the weights of a network, once for every tile).
        @jax.checkpoint
        def evaluate_if(running: jax.Array, *told: jax.Array) -> tuple[Tree, jax.Array]:
            return jax.lax.cond(running, self._evaluate, lambda *_: nothing, *told)

        return evaluate_if(running, closer, alpha, weights)

    def _visit(
        self, carry: Carry, idle: jax.Array, evaluate: Callable[..., tuple[Tree, jax.Array]]
    ) -> Carry:
        """Visits the next tile, unless idle."""
        sums, seen, course = carry
        nested, size = self.nested, self.nested.size
        closer = course.stage == _CLOSER
        lanes = self._lanes(-(-size // self.devices))
        inside, lanes = lanes < size, jnp.minimum(lanes, size - 1)
        tile = jnp.where(closer, 0, course.tile)
        ranks = nested.ranks(tile, lanes)
        even = nested.places(ranks, self.dtype)
        of_round = (course.tile * size + lanes).astype(self.dtype) + 0.5
        alpha, stretch = placement.place(
            course.placement, jnp.where(closer, of_round / PILOT, even)
        )
        placed = closer | course.placed
        alpha, stretch = jnp.where(placed, alpha, even), jnp.where(placed, stretch, 1.0)

        of_rules = nested.weights(ranks, self.dtype) * stretch[None]
        outer = np.array([0, size - 1, min(1, size - 1), max(size - 2, 0)], np.int32)
        of_outer = (lanes[None] == outer[:, None]).astype(self.dtype)
        rows = jnp.where(inside[None] & ~closer, jnp.concatenate([of_rules, of_outer]), 0.0)
        fresh, notes = evaluate(alpha, rows)
        notes, alpha, stretch = put_together((_constant(notes), alpha, stretch), self.sharding)
        notes, alpha = jnp.moveaxis(notes[:size], 0, 2), alpha[:size]
        by_t = jnp.stack([notes[VALUE], notes[SLOPE] * stretch[None, :size]])

        counts = ~idle & ~closer
        afresh = counts & (tile == 0)
        further = jnp.stack([alpha[0] < seen.outermost[0], alpha[-1] > seen.outermost[1]])

        def now_outermost(old: jax.Array, new: jax.Array) -> jax.Array:
            """Returns rows of the outermost nodes: in a first tile, of its own."""
            moved = further.reshape(2, *[1] * (old.ndim - 1))
            nearest = jnp.where(moved, new[:2], old[:2])
            next_to = jnp.where(moved, old[:2], old[2:])
            moved_up = jnp.concatenate([nearest, next_to])
            return jax.lax.select_n(counts, old, jax.lax.select_n(afresh, moved_up, new))

        def added(old: jax.Array, new: jax.Array) -> jax.Array:
            return jax.lax.select_n(counts, old, jax.lax.select_n(afresh, old + new, new))

        sums = Sums(
            jax.tree.map(added, sums.rules, _rows(fresh, 0, -4)),
            sums.observed,
            jax.tree.map(now_outermost, sums.outermost, _rows(fresh, -4, None)),
        )
        every = nested.ranks(tile, jnp.arange(size, dtype=jnp.int32))
        known = seen.known.at[..., every].set(by_t)
        more = (~idle).astype(jnp.int32)
        seen = seen._replace(
            outermost=now_outermost(seen.outermost, alpha[outer]),
            panels=panels.with_nodes(
                seen.panels, alpha, _scaled(notes, seen.scale), ~idle & closer
            ),
            known=jnp.where(counts, known, seen.known),
        )
        course = course._replace(tile=course.tile + more, num_evals=course.num_evals + more * size)
        return sums, seen, course

    # What is decided.

    def look(self, carry: Carry) -> Carry:
        """Looks how good it is, where a rule or a round is complete, and decides how to go on."""
        sums, seen, course = carry
        nodes = course.tile * self.nested.size
        least = jnp.where(course.rounds > 0, 2 * PILOT, PILOT)
        rule = (course.stage == _RULES) & (nodes & (nodes - 1) == 0) & (nodes >= least)
        closer = (course.stage == _CLOSER) & (nodes == PILOT)
        due = ~course.stopped & (rule | closer | (course.stage == _PILOT))

        # Who is not due is in the branch for the others' sake.
        def decide(carry: Carry) -> Course:
            old = carry[2]
            new = jax.tree.map(functools.partial(jax.lax.select_n, due), old, self._decide(*carry))
            varying: Course = vary_like(old, new)
            return varying

        kept = jax.lax.cond(~_all(~due), decide, lambda carry: carry[2], _constant(carry))
        return sums, seen, kept

    def _decide(self, sums: Sums, seen: Seen, course: Course) -> Course:
        """Returns what is made of what is seen now."""
        nested, most = self.nested, self.tolerance.max_evals
        of_rules, of_pilot = course.stage == _RULES, course.stage == _PILOT
        nodes = jnp.where(of_rules, course.tile * nested.size, PILOT)
        level = 31 - jax.lax.clz(nodes)
        error, size, smooth = self._error(sums, seen, course, level)
        atol, rtol = (
            jnp.asarray(t, self.dtype) for t in (self.tolerance.atol, self.tolerance.rtol)
        )
        asked, floor = atol + rtol * size, self.problem.floor * size
        # More nodes don't mend the rounding. Where it leaves hardly anything to them, an error as
        # small as the rounding is as good as it gets.
        good = jnp.all(error <= jnp.where(asked > 1.5 * floor, asked - floor, floor))
        exact = jnp.all(error + floor <= asked)
        finite = jnp.all(jnp.isfinite(error))

        complete = self.problem.values is not None
        found = panels.areas(seen.panels, complete=complete)
        alarm = of_pilot & _alarm(found)
        stands_out = jnp.any(found.areas > STANDS_OUT * found.whole[:, None]) | alarm
        # Enough has to be left for the rules.
        more = (course.rounds < ROUNDS) & (course.num_evals + PILOT + 4 * PILOT <= most)
        closer = ~of_rules & stands_out & more
        anew = ~of_pilot | (~smooth & (course.num_evals + 2 * PILOT <= most))
        anew = ~of_rules & ~closer & anew
        straight = of_pilot & ~closer & ~anew
        another = (course.num_evals + nodes <= most) & (level < nested.levels - 1)
        judged = of_pilot | of_rules
        enough = (good & ~alarm) | ~finite | ((of_rules | straight) & ~another)
        short = jnp.where(good & ~alarm, int(Reason.PRECISION), int(Reason.MAX_EVALS))
        reason = jnp.where(exact & ~alarm, int(Reason.CONVERGED), short)
        reason = jnp.where(finite, reason, int(Reason.NOT_FINITE))
        by_panel = (course.rounds > 0) | closer
        placed = self._placement(found, by_panel, ~closer)
        decided = Course(
            num_evals=course.num_evals,
            stopped=judged & enough,
            reason=jnp.where(judged, reason, course.reason),
            stage=jnp.where(closer, _CLOSER, _RULES),
            tile=jnp.where(of_rules, course.tile, jnp.where(straight, PILOT // nested.size, 0)),
            rounds=course.rounds + closer.astype(jnp.int32),
            placed=course.placed | anew,
            placement=jnp.where(of_rules, course.placement, placed),
            level=jnp.where(judged, level, course.level),
            error=jnp.where(judged, error + floor, course.error),
            size=jnp.where(judged, size, course.size),
        )
        # Under jax_enable_x64 what is chosen from numbers of Python's would be of 64 bits.
        return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), decided, course)

    def _placement(self, found: Areas, by_panel: jax.Array, smooth: jax.Array) -> jax.Array:
        """Returns where nodes go: by panels, or else by the density."""
        points = len(found.ends)
        # If there was no closer look, these are the changes from node to node of the pilot.
        spread = density.masses(found.changes[:, 2 : PILOT + 1], gregory.rule(PILOT)[0], points - 1)
        even = placement.even(points, self.dtype)[0]
        return placement.through(
            jnp.where(by_panel, found.ends, even),
            jnp.where(by_panel, panels.masses(found, smooth), spread),
        )

    def _error(
        self, sums: Sums, seen: Seen, course: Course, level: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Estimates the error of a level's rule, for each output.

        Returns:
          It; the L1 norm of the attributions; and whether the integrand looks smooth.
        """
        steep = course.rounds > 0

        nearest, next_to = jnp.split(seen.outermost, 2)
        ways = jnp.stack([nearest[0] - DISTANCE, 1.0 - DISTANCE - nearest[1]])
        ways = jnp.maximum(ways, 0.0)
        apart = jnp.abs(next_to - nearest)
        further = ways / jnp.where(apart == 0.0, jnp.inf, apart)

        def compared(rules: jax.Array, observed: jax.Array, outermost: jax.Array) -> jax.Array:
            """Returns, in rows, of what the L1 norms are needed."""
            three = jax.lax.dynamic_slice_in_dim(rules, level - 2, 3)
            nearest, next_to = jnp.split(outermost, 2)
            by = further.astype(rules.dtype).reshape(2, *[1] * (nearest.ndim - 1))
            expected = nearest + by * (nearest - next_to)
            return jnp.concatenate([three[2:], jnp.diff(three, axis=0), observed - expected])

        rows = jax.vmap(self.problem.integrand.attributions)(jax.tree.map(compared, *sums))
        norms = jax.vmap(self.problem.norm)(add_up(rows, self.sharding))
        size, before, last, *differ = jax.vmap(lambda n: flat(n, self.dtype))(norms)
        smooth = jnp.all(last <= SMOOTH * before)
        few = ((1 << level) <= FEW) & (course.placed | ~smooth)
        change = _extrapolated(last, before, few, steep)
        beyond = BETWEEN_OBSERVER * (ways[0] * differ[0] + ways[1] * differ[1])
        if self.problem.values is None:
            return change + beyond, size, smooth

        known = seen.known[..., self.nested.slots(level)]
        first = jnp.where(level & 1 == 1, shift(1), shift(0)).astype(self.dtype)
        between = values.between_nodes(self.problem, known, 1 << level, first)
        newest = jax.tree.map(lambda leaf: leaf[0], rows)
        gap = values.gap(self.problem, add_up(newest, self.sharding))
        together = jnp.sqrt(change**2 + between**2 + gap**2)
        error = jnp.where(steep, change + between + gap, together)
        return error + beyond, size, smooth

    def result(self, carry: Carry) -> tuple[Tree, Account]:
        """Returns the attributions of the last rule that was looked at, and its account."""
        sums, _, course = carry
        row = jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, course.level, keepdims=False),
            sums.rules,
        )
        attributions = add_up(self.problem.integrand.attributions(row), self.sharding)
        error = like_outputs(relative(course.error, course.size), self.outputs)
        return attributions, Account(error, course.num_evals, course.reason)


def _way(
    tolerance: Tolerance,
    nested: Nested,
    at_once: int,
    problem: Problem,
    own: jax.Array,
    sharding: NodeSharding | None,
) -> _Way:
    """Returns the way that an integration takes."""
    integrand, dtype = problem.integrand, tree_dtype(problem.x)
    outputs = jax.eval_shape(
        lambda: problem.norm(integrand.attributions(as_sums(integrand.zero())))
    )
    nothing = jnp.zeros((sum(leaf.size for leaf in jax.tree.leaves(outputs)),), dtype)
    ends = (nothing, nothing) if problem.values is None else values.at_ends(problem)
    return _Way(tolerance, nested, at_once, problem, own, sharding, outputs, ends)


def _extrapolated(
    last: jax.Array, before: jax.Array, few: jax.Array, steep: jax.Array
) -> jax.Array:
    """Estimates the error of what changed by ``last``, after it had changed by ``before``."""
    # One ratio is not to be trusted when it promises much, or nothing at all.
    least = jnp.where(few, RATIO_OF_FEW, RATIOS[0])
    ratio = jnp.clip(last / jnp.where(before == 0.0, last, before), least, RATIOS[1])
    ratio = jnp.where(last == 0.0, least, ratio)
    change = jnp.where(steep, jnp.maximum(last, PREVIOUS_IF_STEEP * before), last)
    safety = jnp.where(steep, SAFETY_IF_STEEP, SAFETY)
    return safety * change * ratio / jnp.sqrt(1.0 - ratio**2)


def _alarm(found: Areas) -> jax.Array:
    """Returns whether an observer sees what none of the pilot's nodes does."""
    ends = found.changes[:, 1 : PILOT + 2 : PILOT]
    next_to = found.changes[:, 2 : PILOT + 1 : PILOT - 2]
    return jnp.any((ends > ALARM * next_to) & (ends > ALARM_OF_WHOLE * found.whole[:, None]))


def _scaled(notes: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns notes, with their sketches made as long as what they sketch."""
    return jnp.concatenate([notes[:KNOWN], notes[KNOWN:] * scale[None, :, None]])


def _constant(tree: Any) -> Any:
    return jax.lax.stop_gradient(tree)


def _rows(tree: Tree, start: int, end: int | None) -> Tree:
    return jax.tree.map(lambda leaf: leaf[start:end], tree)


@jax.custom_batching.custom_vmap
def _all(flag: jax.Array) -> jax.Array:
    return flag


@_all.def_vmap
def _all_of_batch(axis_size: int, in_batched: list[bool], flag: jax.Array) -> tuple[Any, bool]:
    """Makes one flag for a whole batch: a branch on it stays one, and is not taken both ways."""
    del axis_size
    return (_all(jnp.all(flag, axis=0)) if in_batched[0] else _all(flag)), False
