"""Models of packages that nobody here wrote: value, completeness, and a layer by its name.

They come with the extra ``foreign``. Weights are random, and small.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import igjax
from igjax.quadrature import gregory

KEY = jax.random.key(0)
X = jnp.linspace(-1.0, 1.0, 6)
RULE = gregory(64)

# The packages' own ways with dtypes and ranks are theirs; and some warn of themselves.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def assert_attributes(fun, x, own_value, *, layer=None):
    """Asserts that the value is the model's own, and that attributions sum to its change."""
    attribute = jax.jit(igjax.integrated_grad(fun, rule=RULE, has_report=True))
    attributions, report = attribute(x)
    np.testing.assert_allclose(report.value, own_value, rtol=1e-5, atol=1e-6)
    scale = abs(report.value - report.baseline_value) + 1e-3
    assert abs(report.completeness_gap) < 0.01 * scale
    if layer is not None:
        assert layer in igjax.layer_names(fun, x)
        at = igjax.layer_integrated_grad(fun, layer, rule=RULE, has_report=True)
        _, of_layer = jax.jit(at)(x)
        assert abs(of_layer.completeness_gap) < 0.01 * scale
    return attributions


def test_equinox():
    eqx = pytest.importorskip("equinox", reason="comes with the extra 'foreign'")
    keys = jax.random.split(KEY, 2)
    first, last = eqx.nn.Linear(6, 8, key=keys[0]), eqx.nn.Linear(8, 3, key=keys[1])

    def score(x):
        return last(checkpoint_name(jnp.tanh(first(x)), "hidden"))[1]

    assert_attributes(score, X, last(jnp.tanh(first(X)))[1], layer="hidden")


def test_a_module_of_equinox_is_a_function():
    eqx = pytest.importorskip("equinox", reason="comes with the extra 'foreign'")
    model = eqx.nn.MLP(6, "scalar", 8, 2, activation=jnp.tanh, key=KEY)
    assert_attributes(model, X, model(X))


def test_haiku():
    hk = pytest.importorskip("haiku", reason="comes with the extra 'foreign'")

    def forward(x):
        hidden = checkpoint_name(jnp.tanh(hk.Linear(8)(x)), "hidden")
        return hk.Linear(3)(hidden)[1]

    model = hk.without_apply_rng(hk.transform(forward))
    params = model.init(KEY, X)

    def score(x):
        return model.apply(params, x)

    assert_attributes(score, X, model.apply(params, X), layer="hidden")


def test_keras():
    keras = pytest.importorskip("keras", reason="comes with the extra 'foreign'")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [layers.Input((6,)), layers.Dense(8, "tanh"), layers.LayerNormalization(), layers.Dense(3)]
    )

    def score(x):
        return model(x[None])[0, 1]

    assert_attributes(score, X, np.asarray(model(np.asarray(X)[None]))[0, 1])


def test_jraph_attributes_to_the_floats_of_a_graph():
    jraph = pytest.importorskip("jraph", reason="comes with the extra 'foreign'")
    weights = jax.random.normal(KEY, (4, 4)) / 2

    graph = jraph.GraphsTuple(
        nodes=jax.random.normal(KEY, (3, 4)),
        edges=jnp.ones((3, 1)),
        senders=jnp.array([0, 1, 2]),
        receivers=jnp.array([1, 2, 0]),
        n_node=jnp.array([3]),
        n_edge=jnp.array([3]),
        globals=None,
    )
    convolve = jraph.GraphConvolution(lambda nodes: jnp.tanh(nodes @ weights))

    def score(graph):
        return jnp.sum(checkpoint_name(convolve(graph).nodes, "convolved") ** 2)

    attributions = assert_attributes(score, graph, score(graph), layer="convolved")
    assert attributions.nodes.shape == (3, 4)
    assert attributions.senders is None


def test_diffrax():
    diffrax = pytest.importorskip("diffrax", reason="comes with the extra 'foreign'")
    weights = jax.random.normal(KEY, (6, 6)) / 3

    def score(x):
        term = diffrax.ODETerm(lambda t, y, args: jnp.tanh(weights @ y))
        solved = diffrax.diffeqsolve(
            term, diffrax.Heun(), 0.0, 1.0, 0.1, x, adjoint=diffrax.RecursiveCheckpointAdjoint()
        )
        return jnp.sum(checkpoint_name(solved.ys[-1], "end") ** 2)

    assert_attributes(score, X, score(X), layer="end")
