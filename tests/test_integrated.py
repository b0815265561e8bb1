"""``integrated_grad`` and ``integrated_jacobian`` against closed forms, axioms and bad input."""

import inspect
import re
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close, assert_trees_close
from hypothesis import given, settings
from hypothesis import strategies as st

import igjax
from igjax import baselines, paths, quadrature

GL = quadrature.gauss_legendre

# Closed forms: F, x, baseline, the integral of its gradient along the straight line worked out by
# hand, and a rule that is exact for it or nearly.
X, B = np.array([1.5, -2.0, 0.5]), np.array([0.5, 1.0, -1.0])
D = X - B
CLOSED_FORMS = {
    # F = sum c_i x_i: c_i d_i.
    "linear": (lambda x: x @ jnp.asarray([2.0, 3.0, -1.0], x.dtype), D * [2, 3, -1], GL(1)),
    # F = sum x_i^3: separable, so F(x_i) - F(b_i).
    "cubic": (lambda x: jnp.sum(x**3), X**3 - B**3, GL(2)),
    # F = x_0 x_1: d_0 times the mean of x_1 on the line, and the other way round.
    "product": (
        lambda x: x[0] * x[1],
        [D[0] * (X[1] + B[1]) / 2, D[1] * (X[0] + B[0]) / 2, 0.0],
        GL(1),
    ),
    # F = exp(s), s = sum x_i: the gradient is the same for all, so F's difference in parts of d_i.
    "exp": (
        lambda x: jnp.exp(jnp.sum(x)),
        D / D.sum() * (np.exp(X.sum()) - np.exp(B.sum())),
        GL(20),
    ),
    # F = sin(x_0) exp(-x_2): both integrals are elementary; see the test below for quad's opinion.
    "separable": (
        lambda x: jnp.sin(x[0]) + jnp.exp(-x[2]) + x[1],
        [np.sin(X[0]) - np.sin(B[0]), D[1], np.exp(-X[2]) - np.exp(-B[2])],
        GL(20),
    ),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("batch_size", [None, 3])
def test_closed_forms_in_single_precision(name, batch_size):
    fun, expected, rule = CLOSED_FORMS[name]
    x, b = (jnp.asarray(array, jnp.float32) for array in (X, B))
    attributions = igjax.integrated_grad(fun, baseline=b, rule=rule, batch_size=batch_size)(x)
    assert attributions.dtype == jnp.float32
    assert_close(attributions, expected)


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("batch_size", [None, 3])
def test_closed_forms_in_double_precision(name, batch_size):
    fun, expected, rule = CLOSED_FORMS[name]
    with jax.enable_x64(True):
        x, b = jnp.asarray(X), jnp.asarray(B)
        attributions = igjax.integrated_grad(fun, baseline=b, rule=rule, batch_size=batch_size)(x)
        assert attributions.dtype == jnp.float64
    np.testing.assert_allclose(attributions, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_the_default_rule_is_exact_enough_on_smooth_functions(name):
    fun, expected, _ = CLOSED_FORMS[name]
    with jax.enable_x64(True):
        attributions = igjax.integrated_grad(fun, baseline=jnp.asarray(B))(jnp.asarray(X))
    np.testing.assert_allclose(attributions, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [7, 15, 31, 63, 127])
@pytest.mark.parametrize(
    "rule",
    [quadrature.sine, quadrature.gauss_legendre, quadrature.riemann_midpoint, quadrature.trapezoid],
)
def test_kinks_cost_no_more_than_one_panel(rule, n):
    # F = relu(w x - c) has a gradient of one jump, which a rule places wrongly by a node at most.
    fun = lambda x: jax.nn.relu(x[0] + 2 * x[1] - 1) - jax.nn.relu(0.5 - x[2])
    x = jnp.array([0.9, 1.7, 2.0])
    # The first relu is on from alpha = 1 / 4.3, the second off from alpha = 1 / 4.
    expected = np.array([0.9, 3.4, 2.0]) * [1 - 1 / 4.3, 1 - 1 / 4.3, 1 / 4]
    attributions = igjax.integrated_grad(fun, rule=rule(n))(x)
    largest = float(rule(n).weights.max())
    np.testing.assert_array_less(np.abs(attributions - expected), largest * np.array([0.9, 3.4, 2]))


def test_the_paper_example_of_sensitivity():
    # f = 1 - relu(1 - x) at 2: the gradient is 0, the attribution is the whole difference, 1.
    fun = lambda x: 1 - jax.nn.relu(1 - x)
    assert float(jax.grad(fun)(2.0)) == 0.0
    # Half of the equally weighted midpoints are on the slope, so the rule is exact here.
    attribution = igjax.integrated_grad(fun, rule=quadrature.riemann_midpoint(64))(2.0)
    assert_close(attribution, 1.0)


def test_several_arguments_are_one_path():
    fun = lambda a, b, c: a * b * c["scale"]
    attribute = igjax.integrated_grad(fun, argnums=(0, 2), rule=GL(2))
    a, c = attribute(2.0, 3.0, {"scale": 5.0})
    # b a c with a, c both moving: each gets half of 30.
    assert_trees_close((a, c), (15.0, {"scale": 15.0}))
    assert_trees_close(
        igjax.integrated_grad(fun, argnums=[-1, 0], rule=GL(2))(2.0, 3.0, {"scale": 5.0}), (c, a)
    )
    (alone,) = igjax.integrated_grad(fun, argnums=(1,))(2.0, 3.0, {"scale": 5.0})
    assert_close(alone, 30.0)


def test_several_arguments_with_a_joint_baseline():
    fun = lambda a, b: jnp.sum(a) * b
    a, b = jnp.array([1.0, 2.0]), jnp.array(4.0)
    start = (jnp.array([0.0, 1.0]), jnp.array(2.0))
    joint = igjax.integrated_grad(fun, argnums=(0, 1), baseline=start, rule=GL(2))(a, b)
    assert_trees_close(joint, (jnp.array([3.0, 3.0]), jnp.array(4.0)))
    shift = lambda ab: (ab[0] - 1, ab[1] - 2)
    from_function = igjax.integrated_grad(fun, argnums=(0, 1), baseline=shift, rule=GL(2))(a, b)
    assert_trees_close(from_function, joint)


def test_pytrees_of_several_dtypes():
    x = {"half": jnp.ones(2, jnp.bfloat16), "single": (jnp.full((2, 2), 3.0),)}
    fun = lambda x: jnp.sum(x["half"].astype(jnp.float32)) * jnp.sum(x["single"][0])
    attributions, report = igjax.integrated_grad(fun, has_report=True)(x)
    chex.assert_trees_all_equal_shapes_and_dtypes(attributions, x)
    chex.assert_trees_all_close(
        # The points' halves are rounded to 8 bits, alpha and the sums are not.
        attributions,
        {"half": jnp.full(2, 6.0, jnp.bfloat16), "single": (jnp.full((2, 2), 3.0),)},
        rtol=1e-3,
    )
    np.testing.assert_allclose(report.completeness_gap, 0, atol=1e-2)


def test_several_arguments_and_pytrees_in_double_precision():
    with jax.enable_x64(True):
        a, b = {"u": jnp.asarray(X), "v": (jnp.asarray(2.0),)}, jnp.asarray([3.0, 1.0, -2.0])
        fun = lambda a, b: jnp.sum(a["u"] * b) * a["v"][0]
        attributions = igjax.integrated_grad(fun, argnums=(0, 1), rule=GL(2))(a, b)
    # A product of three that all start at 0: each gets a third.
    third = 2 * X * np.array([3.0, 1.0, -2.0]) / 3
    expected = ({"u": third, "v": (third.sum(),)}, third)
    for one, other in zip(*map(jax.tree.leaves, (attributions, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


class Scaled(tuple):
    """A pytree that can be called, as a module can."""

    __slots__ = ()

    def __call__(self, *_):
        raise AssertionError("a baseline's value was called")


jax.tree_util.register_pytree_node(Scaled, lambda s: (list(s), None), lambda _, s: Scaled(s))


def test_a_callable_pytree_is_a_baseline_value():
    x, start = Scaled([jnp.ones(2), jnp.ones(3)]), Scaled([jnp.zeros(2), jnp.ones(3)])
    attributions = igjax.integrated_grad(lambda x: x[0].sum() + x[1].sum(), baseline=start)(x)
    assert_trees_close(attributions, Scaled([jnp.ones(2), jnp.zeros(3)]))


def test_aux_is_taken_at_x_and_keywords_are_passed_through():
    def fun(x, power, *, scale, offset=0.0):
        return scale * jnp.sum(x**power) + offset, {"seen": x, "scale": scale}

    x = jnp.array([1.0, 2.0])
    attributions, aux = igjax.integrated_grad(fun, has_aux=True)(x, 2, scale=3.0, offset=1.0)
    assert_close(attributions, [3, 12])
    chex.assert_trees_all_equal(aux, {"seen": x, "scale": 3.0})
    *_, aux, report = igjax.integrated_grad(fun, has_aux=True, has_report=True)(x, 2, scale=3.0)
    chex.assert_trees_all_equal(aux, {"seen": x, "scale": 3.0})
    assert_close(report.value, 15.0)


def test_the_signature_is_that_of_the_function():
    def fun(image, label, *, temperature=1.0):
        """Score."""
        return image[label] / temperature

    attribute = igjax.integrated_grad(fun)
    assert inspect.signature(attribute) == inspect.signature(fun)
    assert attribute.__name__ == "integrated_grad(fun)"
    assert attribute.__doc__.startswith("Computes the attributions of ``fun`` that")
    static = jax.jit(igjax.integrated_grad(fun), static_argnames="label")
    assert_close(static(jnp.ones(3), label=1), [0, 1, 0])


def test_report_of_a_function_with_known_values():
    fun = lambda x: jnp.sum(jnp.exp(x))
    x, b = jnp.array([1.0, 2.0]), jnp.array([0.5, 0.0])
    rule = quadrature.trapezoid(9)
    attributions, report = igjax.integrated_grad(fun, baseline=b, rule=rule, has_report=True)(x)
    assert isinstance(report, igjax.Report)
    assert_close(report.value, np.exp([1, 2]).sum())
    assert_close(report.baseline_value, np.exp([0.5, 0]).sum())
    gap = float(attributions.sum()) - (np.exp([1, 2]).sum() - np.exp([0.5, 0]).sum())
    np.testing.assert_allclose(report.completeness_gap, gap, rtol=1e-4)
    # The coarser rule is trapezoid(5), by itself. What completeness says comes on top.
    coarse = igjax.integrated_grad(fun, baseline=b, rule=quadrature.trapezoid(5))(x)
    error = (np.abs(attributions - coarse).sum() + abs(gap)) / np.abs(attributions).sum()
    np.testing.assert_allclose(report.error, error, rtol=1e-3)
    truth = np.exp([1, 2]) - np.exp([0.5, 0])
    assert np.abs(attributions - truth).sum() / truth.sum() < error
    assert int(report.num_evals) == 9
    assert bool(report.converged)
    assert report.reason == igjax.Reason.CONVERGED
    not_finite = igjax.integrated_grad(lambda x: jnp.sum(jnp.sqrt(x)), has_report=True)
    _, report = not_finite(-jnp.ones(3))
    assert report.reason == igjax.Reason.NOT_FINITE
    assert not report.converged


def test_a_rule_without_an_embedded_one_has_no_error_bar():
    _, report = igjax.integrated_grad(jnp.sum, rule=GL(4), has_report=True)(jnp.ones(3))
    assert np.isnan(report.error)
    assert not np.isnan(report.completeness_gap)


def test_attributions_of_zero_have_no_error():
    constant = lambda x: jnp.sum(x) * 0 + 1
    attributions, report = igjax.integrated_grad(constant, has_report=True)(jnp.ones(3))
    np.testing.assert_array_equal(attributions, 0)
    assert float(report.error) == 0.0


def test_unmultiplied_attributions_are_the_mean_gradient():
    fun = lambda x: jnp.sum(x**2)
    x, b = jnp.asarray(X, jnp.float32), jnp.asarray(B, jnp.float32)
    attribute = igjax.integrated_grad(fun, baseline=b, multiply_by_inputs=False, has_report=True)
    attributions, report = attribute(x)
    np.testing.assert_allclose(attributions, X + B, rtol=1e-5)
    assert np.isnan(report.completeness_gap)
    along = igjax.integrated_grad(
        fun, baseline=b, multiply_by_inputs=False, path=paths.polyline(jnp.zeros((1, 3))),
        rule=quadrature.composite(GL(2), 2),
    )(x)  # fmt: skip
    np.testing.assert_allclose(along, (X + B) / 2, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_the_straight_line_is_not_differentiated(monkeypatch, batch_size):
    def refused(*_):
        raise AssertionError("jvp of the path")

    monkeypatch.setattr(jax, "jvp", refused)
    attribute = igjax.integrated_grad(lambda x: jnp.sum(x**2), batch_size=batch_size, rule=GL(5))
    assert_close(attribute(jnp.ones(2)), 1.0)
    with pytest.raises(AssertionError, match="jvp of the path"):
        igjax.integrated_grad(jnp.sum, path=lambda b, x, a: x * a)(jnp.ones(2))


def test_the_straight_line_does_not_pay_for_other_paths():
    x = jnp.ones(7)
    general = paths.reparametrize(paths.straight_line, lambda alpha: alpha)
    fun = lambda x: jnp.sum(jnp.sin(x))

    def products_with_nodes_and_features(path):
        jaxpr = jax.make_jaxpr(igjax.integrated_grad(fun, path=path, rule=GL(5)))(x).jaxpr
        return [
            eqn
            for eqn in jaxpr.eqns
            if eqn.primitive.name == "mul" and eqn.outvars[0].aval.shape == (5, 7)
        ]

    # The line's own alpha * d and the cosine's chain rule; the general path multiplies by d again.
    straight = products_with_nodes_and_features(paths.straight_line)
    assert len(products_with_nodes_and_features(general)) > len(straight)
    assert_close(igjax.integrated_grad(fun, path=general)(x), igjax.integrated_grad(fun)(x))


def test_jacobian_is_the_attribution_of_every_output():
    def fun(x, scale):
        return {"outer": scale * jnp.outer(x["a"], x["b"]), "sum": (x["a"].sum() ** 2,)}

    x = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, -1.0, 0.5])}
    jacobian, report = igjax.integrated_jacobian(fun, has_report=True)(x, 2.0)
    assert jacobian["outer"]["a"].shape == (2, 3, 2)
    assert jacobian["outer"]["b"].shape == (2, 3, 3)
    for i in range(2):
        for j in range(3):
            one, row = igjax.integrated_grad(
                lambda x, s, i=i, j=j: fun(x, s)["outer"][i, j], has_report=True
            )(x, 2.0)
            assert_trees_close(
                jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j], jacobian["outer"]), one
            )
            np.testing.assert_allclose(report.error["outer"][i, j], row.error, atol=1e-6)
            np.testing.assert_allclose(report.completeness_gap["outer"][i, j], 0, atol=1e-5)
    # (a_0 + a_1)^2 along a line from 0: a_i (a_0 + a_1).
    assert_close(jacobian["sum"][0]["a"], [3, 6])
    np.testing.assert_array_equal(jacobian["sum"][0]["b"], 0)
    assert_close(report.value["sum"][0], 9.0)


def test_infinity_is_never_hidden():
    inverse = lambda x: jnp.sum(1 / x)  # infinite at the baseline, zeros
    attribute = igjax.integrated_grad(inverse, rule=quadrature.trapezoid(5), has_report=True)
    attributions, report = attribute(jnp.ones(2))
    assert not np.isfinite(attributions).any()
    assert not np.isfinite(report.error)
    assert not np.isfinite(report.completeness_gap)


def test_a_report_makes_no_nan_of_its_own():
    with jax.debug_nans(True):
        igjax.integrated_grad(jnp.sum, has_report=True)(jnp.ones(3))


def test_nan_is_never_hidden():
    bad_at_half = lambda x: jnp.sum(jnp.sqrt(x - 0.5)) + jnp.sum(x)
    attributions, report = igjax.integrated_grad(bad_at_half, has_report=True)(jnp.ones(2))
    assert np.isnan(attributions).all()
    assert np.isnan(report.error)
    assert np.isnan(report.completeness_gap)


def test_numbers_and_numpy_arrays_are_taken():
    attribution, report = igjax.integrated_grad(lambda x: 1.0, has_report=True)(3.0)
    assert (float(attribution), float(report.value), float(report.error)) == (0.0, 1.0, 0.0)
    assert_close(igjax.integrated_grad(lambda x: x**2)(3.0), 9.0)
    assert_close(igjax.integrated_grad(jnp.sum, baseline=np.zeros(2))(np.ones(2, np.float32)), 1.0)


class Graph(NamedTuple):
    nodes: Any
    edges: Any
    senders: Any
    receivers: Any
    count: Any
    has_loops: Any
    key: Any
    globals: Any = None


RULE = quadrature.gregory(4)
GRAPH = Graph(
    jnp.linspace(-1.0, 2.0, 3),
    jnp.array([0.5, 1.5]),
    np.array([1, 2]),
    jnp.array([0, 1]),
    3,
    jnp.array([True, False]),
    jax.random.key(0),
)


def of_graph(graph):
    """A network of a graph, which needs integers, bools and a key to be what they are."""
    assert isinstance(graph.count, int)
    noise = jax.random.uniform(graph.key)
    sent = graph.nodes[graph.senders] * graph.edges + jnp.where(graph.has_loops, noise, 0.0)
    return jnp.tanh(jax.ops.segment_sum(sent, graph.receivers, graph.count)).sum()


def of_floats(floats):
    return of_graph(GRAPH._replace(nodes=floats[0], edges=floats[1]))


def floats_alone(tree):
    """Returns nodes and edges, having looked that there is nothing else."""
    nodes, edges, *others = tree
    assert others == [None] * 6
    return nodes, edges


FLOATS = (GRAPH.nodes, GRAPH.edges)
KEY = jax.random.key(1)
# A baseline of the graph, and the same of its floats alone.
BASELINES_OF_A_GRAPH = {
    "none given": (baselines.zeros, baselines.zeros),
    "value": (GRAPH._replace(nodes=jnp.ones(3), count=7), (jnp.ones(3), GRAPH.edges)),
    "value without the rest": (
        Graph(jnp.ones(3), jnp.ones(2), *[None] * 5),
        (jnp.ones(3), jnp.ones(2)),
    ),
    "function": (
        lambda graph: graph._replace(nodes=graph.nodes[graph.senders].mean() + 0.0 * graph.nodes),
        (jnp.full(3, 1.25), GRAPH.edges),
    ),
    "constant": (baselines.constant(0.5), baselines.constant(0.5)),
    "constants": (
        baselines.constant(GRAPH._replace(nodes=0.5, edges=1.0)),
        baselines.constant((0.5, 1.0)),
    ),
    "uniform": (baselines.uniform(KEY), baselines.uniform(KEY)),
    "gaussian": (baselines.gaussian(KEY, 0.5), baselines.gaussian(KEY, 0.5)),
    "farthest": (baselines.farthest(-1.0, 2.0), baselines.farthest(-1.0, 2.0)),
    "blurred": (baselines.blurred(1.0, (0,)), baselines.blurred(1.0, (0,))),
    "mean_of": (
        baselines.mean_of(Graph(jnp.ones((2, 3)), jnp.ones((2, 2)), *[None] * 5)),
        (jnp.ones(3), jnp.ones(2)),
    ),
    "max_entropy": (
        baselines.max_entropy(lambda x: jnp.stack([of_graph(x), 0.0]), steps=2),
        baselines.max_entropy(lambda x: jnp.stack([of_floats(x), 0.0]), steps=2),
    ),
}


@pytest.mark.parametrize("name", BASELINES_OF_A_GRAPH)
def test_of_a_pytree_the_floats_are_attributed(name):
    whole, alone = BASELINES_OF_A_GRAPH[name]
    found, report = igjax.integrated_grad(of_graph, rule=RULE, baseline=whole, has_report=True)(
        GRAPH
    )
    expected = igjax.integrated_grad(of_floats, rule=RULE, baseline=alone)(FLOATS)
    chex.assert_trees_all_close(floats_alone(found), expected, atol=1e-6)
    assert abs(sum(map(jnp.sum, expected)) - report.value + report.baseline_value) < 0.2
    assert report.value == of_graph(GRAPH)


def test_what_is_not_of_floats_is_mapped_and_compiled_like_any_argument():
    fun = lambda x: jnp.sum(jnp.where(x["mask"], x["a"], 0.0) ** 2) * x["n"].astype(jnp.float32)
    xs = {"a": jnp.ones((2, 3)), "mask": jnp.arange(6).reshape(2, 3) > 1, "n": jnp.arange(2)}
    attribute = igjax.integrated_grad(fun, rule=RULE, batch_size=2)
    found = jax.jit(jax.vmap(attribute))(xs)
    assert found["mask"] is None and found["n"] is None
    assert_close(found["a"], [[0, 0, 0], [1, 1, 1]])
    one = jax.tree.map(lambda leaf: leaf[1], xs)
    jacobian = igjax.integrated_jacobian(
        lambda x: {"y": x["a"][:2] * x["n"].astype(jnp.float32)}, rule=RULE
    )(one)
    assert_close(jacobian["y"]["a"], [[1, 0, 0], [0, 1, 0]])
    slope = jax.grad(lambda a: attribute(one | {"a": a})["a"].sum())(one["a"])
    assert_close(slope, [2, 2, 2])


def test_a_path_goes_through_the_floats_of_a_pytree():
    points = GRAPH._replace(nodes=jnp.ones((1, 3)), edges=jnp.zeros((1, 2)))
    quadratic = lambda b, x, alpha: jax.tree.map(lambda b, x: b + alpha**2 * (x - b), b, x)
    for whole, alone in (
        (paths.polyline(points), paths.polyline((points.nodes, points.edges))),
        (quadratic, quadratic),
    ):
        found = igjax.integrated_grad(of_graph, rule=RULE, path=whole)(GRAPH)
        expected = igjax.integrated_grad(of_floats, rule=RULE, path=alone)(FLOATS)
        chex.assert_trees_all_close(floats_alone(found), expected, atol=1e-6)
        assert paths.check(whole, baselines.zeros, GRAPH).ok


def test_help_shows_the_arguments_not_the_default_rule():
    signature = str(inspect.signature(igjax.integrated_grad))
    assert "= Rule(64 nodes, an embedded rule)" in signature


def test_a_rule_may_be_traced():
    def monte_carlo(key, x):
        nodes = jnp.sort(jax.random.uniform(key, (4000,)))
        rule = quadrature.Rule(nodes, jnp.full(4000, 1 / 4000))
        return igjax.integrated_grad(lambda x: jnp.sum(x**2), rule=rule)(x)

    attributions = jax.jit(monte_carlo)(jax.random.key(0), jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(attributions, [1, 4], rtol=0.05)


# The axioms, on random small networks.


def network(seed: int, width: int = 8, features: int = 4):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(width, features)), rng.normal(size=width)
    bias = rng.normal(size=width)
    with jax.enable_x64(True):
        first, second, bias = (jnp.asarray(array) for array in (first, second, bias))
    return first, bias, second


def apply(weights, x, activation=jnp.tanh):
    first, bias, second = weights
    return second @ activation(first @ x + bias)


seeds = st.integers(0, 2**32 - 1)
vectors = st.lists(st.floats(-2, 2), min_size=4, max_size=4).map(np.array)
activations = st.sampled_from([jnp.tanh, jax.nn.gelu, jax.nn.relu])
properties = settings(max_examples=25, deadline=None, derandomize=True)


def attributions_of(fun, x, baseline, **keywords):
    with jax.enable_x64(True):
        attribute = igjax.integrated_grad(fun, baseline=jnp.asarray(baseline), **keywords)
        return jax.tree.map(np.asarray, attribute(jnp.asarray(x)))


@properties
@given(seeds, vectors, vectors, st.floats(-3, 3), st.floats(-3, 3), activations)
def test_linearity(seed, x, baseline, a, b, activation):
    weights = network(seed)
    f = lambda x: apply(weights, x, activation)
    g = lambda x: apply(network(seed + 1, width=5), x)
    combined = attributions_of(lambda x: a * f(x) + b * g(x), x, baseline)
    of_f, of_g = attributions_of(f, x, baseline), attributions_of(g, x, baseline)
    np.testing.assert_allclose(combined, a * of_f + b * of_g, atol=1e-11)


@properties
@given(seeds, vectors, vectors, st.integers(0, 3), activations)
def test_dummy(seed, x, baseline, ignored, activation):
    first, bias, second = network(seed)
    with jax.enable_x64(True):
        weights = first.at[:, ignored].set(0.0), bias, second
    attributions = attributions_of(lambda x: apply(weights, x, activation), x, baseline)
    assert attributions[ignored] == 0.0


@properties
@given(seeds, vectors, vectors, activations)
def test_symmetry(seed, x, baseline, activation):
    first, bias, second = network(seed)
    with jax.enable_x64(True):
        weights = first.at[:, 1].set(first[:, 0]), bias, second  # treats features 0 and 1 alike
    x[1], baseline[1] = x[0], baseline[0]
    attributions = attributions_of(lambda x: apply(weights, x, activation), x, baseline)
    np.testing.assert_allclose(attributions[0], attributions[1], rtol=1e-12, atol=1e-14)


@properties
@given(seeds, vectors, vectors)
def test_implementation_invariance(seed, x, baseline):
    first, bias, second = network(seed)

    def mirrored(x):  # tanh(a) = -tanh(-a), and 2 sigmoid(2 a) - 1; every unit split into two
        halves = -jnp.tanh(-first @ x - bias) + 2 * jax.nn.sigmoid(2 * (first @ x + bias)) - 1
        return (second / 2) @ halves

    one = attributions_of(lambda x: apply((first, bias, second), x), x, baseline)
    np.testing.assert_allclose(attributions_of(mirrored, x, baseline), one, atol=1e-11)


@properties
@given(seeds, vectors, vectors)
def test_completeness(seed, x, baseline):
    weights = network(seed)
    # tanh networks this wide converge slowly along steep lines: 200 Gauss nodes suffice to 1e-9.
    attributions, report = attributions_of(
        lambda x: apply(weights, x), x, baseline, rule=GL(200), has_report=True
    )
    difference = report.value - report.baseline_value
    np.testing.assert_allclose(attributions.sum(), difference, atol=1e-9)
    np.testing.assert_allclose(report.completeness_gap, attributions.sum() - difference, atol=1e-14)


# Bad input.

ones = np.ones(3, np.float32)
integers = {"ids": np.ones(3, np.int32), "mask": np.ones(3, bool)}
BAD_CALLS = {
    "vector output": (
        lambda: igjax.integrated_grad(lambda x: 2 * x)(ones),
        ValueError,
        "integrated_grad needs a function with a scalar output; got shape (3,). Pick one, as in "
        "lambda x, label: f(x)[label]; of all outputs at once there is integrated_jacobian.",
    ),
    "pytree output": (
        lambda: igjax.integrated_grad(lambda x: (x[0], x[1]))(ones),
        ValueError,
        "integrated_grad needs a function with a scalar output; got PyTreeDef((*, *))",
    ),
    "integer output": (
        lambda: igjax.integrated_grad(jnp.argmax)(ones),
        TypeError,
        "the function's output must be real floating-point to have a gradient; it has dtype int32",
    ),
    "integer output of a jacobian": (
        lambda: igjax.integrated_jacobian(lambda x: {"top": jnp.argmax(x), "x": x})(ones),
        TypeError,
        "the function's output['top'] must be real floating-point",
    ),
    "complex output": (
        lambda: igjax.integrated_grad(lambda x: jax.lax.complex(x[0], x[0]))(ones),
        TypeError,
        "it has dtype complex64",
    ),
    "integer argument": (
        lambda: igjax.integrated_grad(lambda x, y: x[0] * 1.0, argnums=1)(ones, integers),
        TypeError,
        "igjax attributes to arrays of floats, but argument 1['ids'] has dtype int32. Between "
        "integers there is no path. If they are token ids, attribute at their embedding, of which "
        "igjax.token_integrated_grad asks the name.",
    ),
    "bool argument": (
        lambda: igjax.integrated_grad(jnp.sum)(ones > 0),
        TypeError,
        "argument 0 has dtype bool",
    ),
    "complex argument": (
        lambda: igjax.integrated_grad(jnp.sum)(ones * 1j),
        TypeError,
        "argument 0 has dtype complex64. Attribute to the real and imaginary parts",
    ),
    "key": (
        lambda: igjax.integrated_grad(lambda k: 0.0)(jax.random.key(0)),
        TypeError,
        "argument 0 has dtype key<fry>.",
    ),
    "complex number beside floats": (
        lambda: igjax.integrated_grad(lambda x: x["a"])({"a": 1.0, "b": 1j}),
        TypeError,
        "argument 0['b'] has dtype complex64. Attribute to the real and imaginary parts",
    ),
    "text beside floats": (
        lambda: igjax.integrated_grad(lambda x: x["a"])({"a": 1.0, "b": "text"}),
        TypeError,
        "argument 0['b'] is of type str",
    ),
    "time beside floats": (
        lambda: igjax.integrated_grad(lambda x: x["a"])({"a": 1.0, "b": np.timedelta64(1, "D")}),
        TypeError,
        "argument 0['b'] is of type timedelta64",
    ),
    "baseline with None for floats": (
        lambda: igjax.integrated_grad(lambda x: x["a"], baseline={"a": None, "n": 1})(
            {"a": 1.0, "n": 1}
        ),
        ValueError,
        "baseline must be a pytree like the input; got PyTreeDef({'a': None, 'n': *})",
    ),
    "text as output": (
        lambda: igjax.integrated_jacobian(lambda x: {"a": "text"})(ones),
        TypeError,
        "the function's output['a'] must be real floating-point to have a gradient",
    ),
    "no output": (
        lambda: igjax.integrated_jacobian(lambda x: None)(ones),
        TypeError,
        "integrated_jacobian needs a function that returns arrays of floats; it returned None.",
    ),
    "text as baseline": (
        lambda: igjax.integrated_grad(jnp.sum, baseline="zeros")(ones),
        TypeError,
        "baseline is of type str",
    ),
    "no array": (
        lambda: igjax.integrated_grad(lambda x: 0.0)("a photo"),
        TypeError,
        "argument 0 is of type str",
    ),
    "empty argument": (
        lambda: igjax.integrated_grad(lambda x: 0.0)({}),
        ValueError,
        "argument 0 has none: {}",
    ),
    "baseline of another shape": (
        lambda: igjax.integrated_grad(jnp.sum, baseline=np.zeros((1, 3)))(ones),
        ValueError,
        "baseline must have the input's shape (3,); got (1, 3). For one number everywhere use "
        "igjax.baselines.constant(number); for one baseline for each example, map it too",
    ),
    "scalar baseline": (
        lambda: igjax.integrated_grad(jnp.sum, baseline=0.0)(ones),
        ValueError,
        "baseline must have the input's shape (3,); got ()",
    ),
    "baseline of another structure": (
        lambda: igjax.integrated_grad(lambda x: x["a"], baseline={"b": 0.0})({"a": 1.0}),
        ValueError,
        "baseline must be a pytree like the input; got PyTreeDef({'b': *}), input "
        "PyTreeDef({'a': *})",
    ),
    "one baseline for two arguments": (
        lambda: igjax.integrated_grad(jnp.dot, (0, 1), baseline=np.zeros(3))(ones, ones),
        ValueError,
        "baseline must be a pytree like the input; got PyTreeDef(*), input PyTreeDef((*, *))",
    ),
    "integer baseline": (
        lambda: igjax.integrated_grad(
            lambda x: x["a"].sum(), baseline={"a": np.zeros(3, np.uint8)}
        )({"a": ones}),
        TypeError,
        "baseline['a'] must be floating-point, as the input is (float32); got uint8. Convert it "
        "with .astype(jnp.float32)",
    ),
    "path of another shape": (
        lambda: igjax.integrated_grad(jnp.sum, path=lambda b, x, a: x[:2] * a)(ones),
        ValueError,
        "path's point must have the input's shape (3,); got (2,)",
    ),
    "path of another structure": (
        lambda: igjax.integrated_grad(jnp.sum, path=lambda b, x, a: (x * a,))(ones),
        ValueError,
        "path's point must be a pytree like the input",
    ),
    "baseline function not called": (
        lambda: igjax.integrated_grad(jnp.sum, baseline=baselines.constant)(ones),
        TypeError,
        "Was it to be called first, as in igjax.baselines.blurred(10.0)?",
    ),
    "no path": (
        lambda: igjax.integrated_grad(jnp.sum, path="straight"),
        TypeError,
        "path must be a function (baseline, x, alpha) -> point, such as "
        "igjax.paths.straight_line; got 'straight'",
    ),
    "no rule": (
        lambda: igjax.integrated_grad(jnp.sum, rule=50),
        TypeError,
        "rule must be an igjax.quadrature.Rule, such as igjax.quadrature.gregory(64) or "
        "Rule(nodes, weights); got 50",
    ),
    "weightless rule": (
        lambda: igjax.integrated_grad(jnp.sum, rule=(np.array([0.5]), None)),
        ValueError,
        "rule has no weights: give Rule(nodes, weights)",
    ),
    "unsorted rule": (
        lambda: igjax.integrated_grad(jnp.sum, rule=([0.7, 0.2], [0.5, 0.5])),
        ValueError,
        "rule.nodes must be sorted",
    ),
    "no batch": (
        lambda: igjax.integrated_jacobian(jnp.sum, batch_size=0),
        ValueError,
        'batch_size (None for all nodes, "auto" for what fits) must be at least 1; got 0.',
    ),
    "half a batch": (
        lambda: igjax.integrated_grad(jnp.sum, batch_size=2.5),
        TypeError,
        'batch_size (None for all nodes, "auto" for what fits) must be an integer; got 2.5.',
    ),
    "true batch": (
        lambda: igjax.integrated_grad(jnp.sum, batch_size=True),
        TypeError,
        'batch_size (None for all nodes, "auto" for what fits) must be an integer; got True.',
    ),
    "no function": (
        lambda: igjax.integrated_grad(3.0),
        TypeError,
        "integrated_grad takes a function; got 3.0",
    ),
    "argument by keyword": (
        lambda: igjax.integrated_grad(lambda x: x.sum())(x=ones),
        ValueError,
        "integrated_grad: argnums=0 asks for positional argument 0, but the function was called "
        "with 0. Pass the attributed argument(s) by position.",
    ),
    "too large argnums": (
        lambda: igjax.integrated_jacobian(jnp.sum, argnums=(0, 2))(ones),
        ValueError,
        "integrated_jacobian: argnums=(0, 2) asks for positional argument 2",
    ),
    "argument twice": (
        lambda: igjax.integrated_grad(jnp.dot, argnums=(0, -2))(ones, ones),
        ValueError,
        "argnums must name at least one argument, each once; got (0, -2)",
    ),
    "named argument": (
        lambda: igjax.integrated_grad(jnp.dot, argnums="x")(ones, ones),
        TypeError,
        "argnums must be an integer or several; got 'x'",
    ),
    "true argnums": (
        lambda: igjax.integrated_grad(jnp.dot, argnums=True)(ones, ones),
        TypeError,
        "argnums must be an integer or several; got True",
    ),
    "masked argument": (
        lambda: igjax.integrated_grad(jnp.sum)(np.ma.masked_array(ones, mask=[0, 0, 1])),
        TypeError,
        "argument 0 has masked elements: say what they are, by .filled(number).",
    ),
    "masked integers beside floats": (
        lambda: igjax.integrated_grad(lambda x: x["a"])(
            {"a": 1.0, "n": np.ma.masked_array([1, 2], mask=[0, 1])}
        ),
        TypeError,
        "argument 0['n'] has masked elements",
    ),
    "masked baseline": (
        lambda: igjax.integrated_grad(jnp.sum, baseline=np.ma.masked_array(ones, mask=[0, 0, 1]))(
            ones
        ),
        TypeError,
        "baseline has masked elements",
    ),
    "aux without a pair": (
        lambda: igjax.integrated_grad(jnp.sum, has_aux=True)(ones),
        TypeError,
        "with has_aux=True the function must return a pair (value, aux)",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input_is_named(name):
    call, error, message = BAD_CALLS[name]
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.parametrize("flag", ["has_aux", "multiply_by_inputs", "has_report", "affine_prefix"])
def test_a_flag_is_true_or_false(flag):
    for method in (igjax.integrated_grad, igjax.integrated_jacobian):
        for value in ("no", None, 0, jnp.zeros(())):
            with pytest.raises(TypeError, match=f"{flag} must be True or False; got"):
                method(jnp.sum, **{flag: value})
        assert callable(method(jnp.sum, **{flag: np.False_}))


def test_bad_input_is_named_at_trace_time():
    x = jax.ShapeDtypeStruct((3,), jnp.float32)
    with pytest.raises(ValueError, match="needs a function with a scalar output"):
        jax.eval_shape(igjax.integrated_grad(lambda x: x), x)
    with pytest.raises(TypeError, match="argument 0 has dtype int32"):
        jax.jit(igjax.integrated_grad(jnp.sum)).lower(jax.ShapeDtypeStruct((3,), jnp.int32))
