"""Integration to a tolerance against references of many nodes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from jax.test_util import check_grads
from slowly import all_slow_but

import igjax
from igjax import quadrature
from igjax._engine.nested import shift
from igjax._quadrature.gregory import rule as gregory_rule
from igjax.quadrature import gauss_legendre, gregory, to_tolerance


def random(*shape: int, seed: int = 0) -> jax.Array:
    rng = np.random.default_rng(seed + sum(shape))
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


HIDDEN, OUTPUT, BIAS = random(40, 64) / 3, random(64) / 8, random(64)


def smooth(x):
    return jax.nn.sigmoid(jnp.tanh(x @ HIDDEN + BIAS) @ OUTPUT)


def kinked(x):
    return jax.nn.relu(x @ HIDDEN + BIAS) @ OUTPUT


def steep(x):
    """A probability that saturates: most of the change is on a small part of the path."""
    return jax.nn.sigmoid(4.0 * (kinked(x) - kinked(0.7 * x)))


@functools.partial(jax.jit, static_argnums=0)
def reference(fun, x):
    return igjax.integrated_grad(fun, rule=gauss_legendre(4000))(x)


def compiled(fun, rule, batch_size=None):
    return jax.jit(igjax.integrated_grad(fun, rule=rule, batch_size=batch_size, has_report=True))


def attribute(fun, x, rule, batch_size=None):
    return compiled(fun, rule, batch_size)(x)


def relative_error(attributions, truth) -> float:
    return float(jnp.sum(jnp.abs(attributions - truth)) / jnp.sum(jnp.abs(truth)))


def nested(n: int) -> quadrature.Rule:
    """The rule of ``n`` nodes that the tolerance uses, if it goes on with equal steps."""
    return quadrature.Rule(*gregory_rule(n, shift(n.bit_length() - 1)))


@pytest.mark.parametrize("rtol", all_slow_but([0.01], [0.1, 0.03, 0.01, 0.003]))
@pytest.mark.parametrize("fun", [smooth, kinked, steep])
def test_what_converged_is_as_good_as_asked_for(fun, rtol):
    counts, errors = [], []
    to_rtol = compiled(fun, to_tolerance(rtol))
    for seed in range(8):
        x = random(40, seed=seed)
        attributions, report = to_rtol(x)
        counts.append(int(report.num_evals))
        if report.converged:
            assert report.error <= rtol
            errors.append(relative_error(attributions, reference(fun, x)))
        else:
            assert report.error > rtol
            assert report.num_evals >= 514
    assert rtol < 0.01 or min(counts) < 514
    # It is an estimate. These functions are harder than real networks, for they have few kinks.
    assert sum(error > rtol for error in errors) <= 2
    assert max(errors, default=0.0) <= 1.5 * rtol


def test_few_gradients_for_smooth_functions_and_more_for_tighter_tolerances():
    x = random(40)
    counts = [
        int(attribute(smooth, x, to_tolerance(rtol), 8)[1].num_evals) for rtol in (0.3, 1e-2, 1e-5)
    ]
    assert counts[0] == 18
    assert counts == sorted(counts)
    assert counts[2] <= 130


def test_the_answer_is_that_of_the_rule_it_stopped_at():
    for fun, batch_size in ((smooth, None), (smooth, 4), (smooth, 100)):
        x = random(40)
        attributions, report = attribute(fun, x, to_tolerance(1e-4), batch_size)
        rule = nested(int(report.num_evals) - 2)
        expected, fixed = attribute(fun, x, rule)
        np.testing.assert_allclose(attributions, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(report.completeness_gap, fixed.completeness_gap, atol=1e-5)


def test_evaluates_the_nodes_of_the_rule_and_no_others():
    seen = []

    def watched(x):
        jax.debug.callback(lambda x: seen.extend(np.ravel(x).tolist()), x)
        return jnp.sum(jnp.sin(3 * x))

    _, report = jax.jit(
        igjax.integrated_grad(watched, rule=to_tolerance(1e-6), batch_size=4, has_report=True)
    )(jnp.float32(1.0))
    jax.effects_barrier()
    nodes = np.unique([x for x in seen if 0 < x < 1])  # the ends are looked at for the gap
    np.testing.assert_allclose(nodes[[0, -1]], [2.0**-16, 1 - 2.0**-16])  # the observers
    assert_close(np.float32(nodes[1:-1]), nested(int(report.num_evals) - 2).nodes)


def walks(seed: int):
    """A sum of functions of one variable, whose slopes are random walks, busiest in 0.6 … 0.8.

    Returns the function, and its attributions from 0 to 1.
    """
    rng = np.random.default_rng(seed)
    knots = np.where(rng.random((40, 400)) < 0.995, rng.uniform(0.6, 0.8, (40, 400)), 0.0)
    knots = np.sort(np.where(knots == 0.0, rng.uniform(0.0, 1.0, (40, 400)), knots), axis=1)
    knots[:, [0, -1]] = 0.0, 1.0
    slopes = np.cumsum(rng.normal(size=(40, 399)), axis=1)
    values = np.pad(np.cumsum(slopes * np.diff(knots), axis=1), ((0, 0), (1, 0)))
    knots, heights = jnp.asarray(knots, jnp.float32), jnp.asarray(values, jnp.float32)
    return lambda x: jnp.sum(jax.vmap(jnp.interp)(x, knots, heights)), values[:, -1]


def test_nodes_are_placed_where_the_gradient_changes():
    fun, _ = walks(0)
    seen = []

    def watched(x):
        jax.debug.callback(lambda x: seen.extend(np.ravel(x[..., 0]).tolist()), x)
        return fun(x)

    rule = to_tolerance(1e-6, max_evals=18 + 64)
    _, report = jax.jit(igjax.integrated_grad(watched, rule=rule, has_report=True))(jnp.ones(40))
    jax.effects_barrier()
    assert report.num_evals == 82
    nodes = np.sort([x for x in seen if 0 < x < 1])
    assert nodes.size == 82
    assert max(np.abs(nodes - t).min() for t in gregory(16).nodes) < 1e-6  # the pilot
    assert np.mean((nodes > 0.55) & (nodes < 0.85)) > 0.4
    assert np.diff(nodes).max() < 1.01 / 16  # nowhere is nobody looking


@pytest.mark.slow
def test_placed_nodes_are_better_than_as_many_in_equal_steps():
    placed, equal = [], []
    for seed in range(8):
        fun, truth = walks(seed)
        attributions, report = attribute(fun, jnp.ones(40), to_tolerance(1e-9, max_evals=82))
        assert report.num_evals == 82
        placed.append(relative_error(attributions, truth))
        equal.append(relative_error(attribute(fun, jnp.ones(40), gregory(82))[0], truth))
    assert np.mean(placed) < 0.6 * np.mean(equal)


def test_max_evals_is_kept_and_told():
    x = random(40)
    for max_evals, num_evals in ((100, 82), (81, 50), (49, 34), (33, 18), (18, 18)):
        rule = to_tolerance(1e-6, max_evals=max_evals)
        attributions, report = attribute(kinked, x, rule)
        assert report.num_evals == num_evals
        assert not report.converged
        assert report.reason == igjax.Reason.MAX_EVALS
        assert relative_error(attributions, reference(kinked, x)) < 1.0 / num_evals
    assert_close(attributions, attribute(kinked, x, gregory(16))[0])


def test_an_absolute_tolerance():
    x = random(40)
    attributions, report = attribute(kinked, x, to_tolerance(0.0, atol=0.05))
    assert report.converged
    assert float(jnp.sum(jnp.abs(attributions - reference(kinked, x)))) <= 1.5 * 0.05
    assert attribute(kinked, x, to_tolerance(0.0, atol=50.0))[1].num_evals == 18


@pytest.mark.parametrize("multiply_by_inputs", [True, False])
def test_half_precision_is_looked_at_in_single(multiply_by_inputs):
    attribute = igjax.integrated_grad(
        lambda x: jnp.sum(jnp.tanh(x) ** 2),
        rule=to_tolerance(0.05),  # its rounding makes 2 %
        multiply_by_inputs=multiply_by_inputs,
        has_report=True,
    )
    attributions, report = attribute(jnp.ones(3, jnp.bfloat16))
    assert attributions.dtype == jnp.bfloat16
    assert report.error.dtype == jnp.float32
    assert report.converged


def test_a_traced_tolerance():
    x = random(40)

    @jax.jit
    def counts(rtols):
        count = lambda rtol: (
            igjax.integrated_grad(smooth, rule=to_tolerance(rtol), batch_size=1, has_report=True)(
                x
            )[1].num_evals
        )
        return jax.vmap(count)(rtols)

    found = [*map(int, counts(jnp.array([0.3, 1e-2, 1e-5])))]
    assert found == [
        int(attribute(smooth, x, to_tolerance(rtol), 1)[1].num_evals) for rtol in (0.3, 1e-2, 1e-5)
    ]


def test_each_example_of_a_batch_stops_by_itself():
    xs = jnp.stack([random(40) * scale for scale in (0.0, 0.5, 1.0, 4.0)])
    rule = to_tolerance(4.2e-3, max_evals=82)
    attribution = igjax.integrated_grad(kinked, rule=rule, batch_size=4, has_report=True)
    together, report = jax.jit(jax.vmap(attribution))(xs)
    assert report.num_evals.tolist() == [18, 66, 82, 82]
    assert report.converged.tolist() == [True, True, False, True]
    for x, row, evals, converged, error in zip(
        xs, together, report.num_evals, report.converged, report.error, strict=True
    ):
        alone, own = jax.jit(attribution)(x)
        np.testing.assert_allclose(row, alone, atol=1e-5 * float(jnp.abs(alone).max()) + 1e-9)
        assert own.num_evals == evals
        assert own.converged == converged
        np.testing.assert_allclose(own.error, error, rtol=2e-3)  # of differences


def test_completeness_is_a_second_opinion():
    # The gradient is 0 wherever one looks, and the value rises all the same.
    attributions, report = attribute(
        lambda x: jnp.sum(jnp.round(x)), random(40) + 3, to_tolerance()
    )
    assert not jnp.any(attributions)
    assert not report.converged
    assert report.num_evals > 400
    # Without a sum to compare with there is nobody to tell.
    gradient = igjax.integrated_grad(
        lambda x: jnp.sum(jnp.round(x)),
        rule=to_tolerance(),
        multiply_by_inputs=False,
        has_report=True,
    )
    assert gradient(random(40))[1].converged


def test_a_narrow_peak_between_the_nodes_is_not_taken_for_nothing():
    # Of a thousandth of the path's length, at a place where the first rules do not look.
    step = lambda x: jax.nn.sigmoid((x - 0.3217) * 8000.0)
    for max_evals in (18, 82, 594):
        found, report = attribute(step, jnp.float32(1.0), to_tolerance(0.01, max_evals=max_evals))
        assert not report.converged or abs(found - 1.0) <= 0.01
    assert report.converged  # nodes were put there, for F rises there and nowhere else


def test_the_rounding_of_large_values_is_no_gap():
    # ΔF is 1 of 10,000: its rounding is 1e-3.
    fun = lambda x: jnp.sum(jnp.sin(x)) + 1e4
    _, report = attribute(fun, random(40) / 40, to_tolerance(1e-4))
    assert report.converged


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_what_is_not_finite_ends_it_and_is_told(bad):
    fun = lambda x: jnp.sum(jnp.where(x > 0.5, x * bad, x))
    attributions, report = attribute(fun, jnp.ones(3), to_tolerance())
    assert not np.isfinite(attributions).any()
    assert not report.converged
    assert report.reason == igjax.Reason.NOT_FINITE
    assert report.num_evals == 18


def test_a_constant_function_converges_at_once():
    attributions, report = attribute(lambda x: jnp.sum(x * 0), jnp.ones(3), to_tolerance())
    assert not attributions.any()
    assert report.converged
    assert report.error == 0


def test_all_outputs_of_a_jacobian_meet_it():
    outputs = lambda x: {"easy": smooth(x), "hard": jnp.stack([kinked(x), kinked(2 * x)])}
    x = random(40)
    attribution = igjax.integrated_jacobian(outputs, rule=to_tolerance(0.02), has_report=True)
    attributions, report = jax.jit(attribution)(x)
    assert report.converged
    assert report.error["hard"].shape == (2,)
    for fun, row, error in (
        (smooth, attributions["easy"], report.error["easy"]),
        (lambda x: kinked(2 * x), attributions["hard"][1], report.error["hard"][1]),
    ):
        assert relative_error(row, reference(fun, x)) <= 0.02
        assert error <= 0.02


def test_derivatives_are_those_of_the_rule_arrived_at():
    x = random(6)
    small = lambda x: jnp.tanh(x @ HIDDEN[:6] + BIAS) @ OUTPUT
    to = compiled(small, to_tolerance(1e-3), 4)
    fixed = jax.jit(igjax.integrated_grad(small, rule=nested(int(to(x)[1].num_evals) - 2)))
    loss = lambda attribution: lambda x: jnp.sum(attribution(x) ** 2)
    np.testing.assert_allclose(
        jax.grad(loss(lambda x: to(x)[0]))(x), jax.grad(loss(fixed))(x), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        jax.jvp(fixed, (x,), (x,))[1], jax.jvp(lambda x: to(x)[0], (x,), (x,))[1], atol=1e-5
    )
    with jax.enable_x64():
        x64 = np.asarray(x, np.float64)
        weights = [np.asarray(w, np.float64) for w in (HIDDEN[:6], BIAS, OUTPUT)]
        fun = lambda x: jnp.tanh(x @ weights[0] + weights[1]) @ weights[2]
        attribution = igjax.integrated_grad(fun, rule=to_tolerance(1e-9), batch_size=8)
        check_grads(jax.jit(attribution), (jnp.asarray(x64),), order=1, modes=["fwd", "rev"])


def memory(max_evals: int, transform=lambda f: f) -> int:
    matrix = random(256, 256) / 16

    def fun(x):
        return jnp.sum(jnp.tanh(matrix @ jnp.tanh(matrix @ jnp.tanh(matrix @ x))))

    rule = to_tolerance(0.0, atol=1e-30, max_evals=max_evals)
    attribution = transform(igjax.integrated_grad(fun, rule=rule, batch_size=8))
    compiled = jax.jit(attribution).lower(jnp.ones(256)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_number_of_evaluations():
    own = 256 * 4 * (12 - 6)  # a sum more for each level
    assert memory(4096) <= 1.05 * memory(64) + 20 * own


@pytest.mark.slow
def test_memory_of_the_gradient_is_that_of_a_tile():
    loss = lambda f: jax.grad(lambda x: jnp.sum(f(x) ** 2))
    assert memory(4096, loss) <= 1.3 * memory(64, loss) + 4096 * 64


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"rtol": -1.0}, ValueError, "rtol must be at least 0"),
        ({"rtol": float("nan")}, ValueError, "rtol must be at least 0"),
        ({"atol": -1.0}, ValueError, "atol must be at least 0"),
        ({"rtol": 0.0}, ValueError, "rtol or atol must be above 0"),
        ({"rtol": "tight"}, TypeError, "rtol must be a number"),
        ({"rtol": [0.1, 0.2]}, TypeError, "rtol must be a number"),
        ({"max_evals": 17}, ValueError, "max_evals must be at least 18"),
        ({"max_evals": 63.0}, TypeError, "max_evals must be an integer"),
        ({"max_evals": True}, TypeError, "max_evals must be an integer"),
        ({"max_evals": None}, TypeError, "max_evals must be an integer"),
        ({"max_evals": -5}, ValueError, "max_evals must be at least 18"),
        ({"max_evals": 2**31}, ValueError, "max_evals must be at most 2147483647"),
        ({"rtol": float("inf")}, ValueError, "rtol must be at least 0 and finite"),
        ({"atol": float("nan")}, ValueError, "atol must be at least 0 and finite"),
        ({"atol": None}, TypeError, "atol must be a number"),
        ({"rtol": True}, TypeError, "rtol must be a number"),
        ({"rtol": 1j}, TypeError, "rtol must be a number"),
        ({"rtol": np.timedelta64(1, "D")}, TypeError, "rtol must be a number"),
    ],
)
def test_bad_tolerances(arguments, error, match):
    with pytest.raises(error, match=match):
        to_tolerance(**arguments)
    by_hand = quadrature.Tolerance(**{"rtol": 0.01, "atol": 0.0, "max_evals": 594} | arguments)
    with pytest.raises(error, match=match):
        igjax.integrated_grad(jnp.sum, rule=by_hand)


def test_a_tolerance_made_by_hand_may_be_traced():
    by_hand = lambda rtol: quadrature.Tolerance(rtol, jnp.float32(0), np.int64(18))
    attribute = lambda x, rtol: igjax.integrated_grad(jnp.sum, rule=by_hand(rtol))(x)
    np.testing.assert_allclose(jax.jit(attribute)(jnp.ones(2), 0.1), 1.0, rtol=1e-6)


def test_a_tolerance_is_no_part_of_a_composite():
    with pytest.raises(TypeError, match="a fixed rule"):
        quadrature.composite(to_tolerance(), 2)
