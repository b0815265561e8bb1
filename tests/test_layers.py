"""Any method at a layer, a neuron, an embedding: igjax's and one's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import igjax
from igjax.quadrature import gauss_legendre, to_tolerance

RNG = np.random.default_rng(0)
FIRST, SECOND = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in [(6, 4), (3, 6)])
X = jnp.asarray(RNG.normal(size=4), jnp.float32)
RULE = gauss_legendre(12)


def logits(x: jax.Array) -> jax.Array:
    return SECOND @ jnp.tanh(checkpoint_name(FIRST @ x, "hidden"))


def score(x: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(logits(x))


def input_x_gradient(fun):
    """A method of one's own."""
    return lambda x, *rest: x * jax.grad(fun)(x, *rest)


def tail(h: jax.Array) -> jax.Array:
    return SECOND @ jnp.tanh(h)


def close(found, expected, rtol=2e-5):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)


def test_igjax_s_methods_at_a_layer():
    h = FIRST @ X
    found = igjax.at_layer(igjax.integrated_grad, "hidden")(score, rule=RULE)(X)
    close(found, igjax.integrated_grad(lambda h: jax.nn.logsumexp(tail(h)), rule=RULE)(h))
    close(found, igjax.layer_integrated_grad(score, "hidden", rule=RULE)(X))
    found = igjax.at_layer(igjax.integrated_jacobian, "hidden")(logits, rule=RULE)(X)
    assert found.shape == (3, 6)
    close(found, igjax.integrated_jacobian(tail, rule=RULE)(h))
    again = igjax.at_layer(igjax.at_layer(igjax.integrated_grad, "hidden"), "hidden")
    with pytest.raises(ValueError, match="no intermediate"):  # the layer is cut off by then
        again(score)(X)


def test_one_s_own_method_at_a_layer_a_neuron_and_an_embedding():
    h = FIRST @ X
    found = igjax.at_layer(input_x_gradient, "hidden")(score)(X)
    close(found, h * jax.grad(lambda h: jax.nn.logsumexp(tail(h)))(h))
    found = jax.jit(jax.vmap(igjax.at_layer(input_x_gradient, "hidden")(score)))(X[None])
    close(found[0], h * jax.grad(lambda h: jax.nn.logsumexp(tail(h)))(h))
    close(igjax.at_neuron(input_x_gradient, "hidden", 2)(score)(X), X * FIRST[2])

    table = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)
    text = lambda ids: score(checkpoint_name(table[ids], "embedding").mean(0))
    ids = jnp.array([3, 1, 1])
    own = igjax.at_tokens(input_x_gradient, "embedding")(text)(ids)
    slope = jax.grad(lambda e: score(e.mean(0)))(table[ids])
    close(own, jnp.sum(table[ids] * slope, axis=1))


def test_a_neuron_by_igjax_s_methods():
    found = igjax.at_neuron(igjax.integrated_grad, "hidden", 2)(score, rule=RULE)(X)
    close(found, X * FIRST[2])
    sums = igjax.at_neuron(igjax.integrated_grad, "hidden", lambda h: h[1:3].sum())
    close(sums(score, rule=RULE)(X), X * (FIRST[1] + FIRST[2]))


def test_the_baseline_of_a_layer_is_that_of_the_input():
    start = 0.5 * X
    found, report = igjax.at_layer(igjax.integrated_grad, "hidden")(
        score, baseline=start, rule=RULE, has_report=True
    )(X)
    close(found.sum(), score(X) - score(start))
    close(report.baseline_value, score(start))


def test_steps_loops_and_reports_go_with_the_method():
    rule = to_tolerance(1e-3, max_evals=80)
    attribution = igjax.at_layer(igjax.integrated_grad, "hidden")(score, rule=rule, has_report=True)
    assert attribution.steps is not None
    work = attribution.steps.begin(X)
    while not attribution.steps.done(work):
        work = attribution.steps.step(work)
    found, report = attribution.steps.result(work)
    expected, _ = attribution(X)
    close(found, expected)
    assert report.converged
    assert igjax.at_layer(input_x_gradient, "hidden")(score).steps is None


def test_bad_options_are_refused_when_the_method_is_applied():
    method = igjax.at_layer(igjax.integrated_grad, "hidden")
    with pytest.raises(TypeError, match="rule must be"):
        method(score, rule=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'baselin'"):
        method(score, baselin=3)
    with pytest.raises(TypeError, match=r"layer_conductance knows no keyword 'baselin'.*baseline,"):
        igjax.layer_conductance(score, "hidden", baselin=0)
    with pytest.raises(TypeError, match="takes a function"):
        igjax.at_layer("integrated_grad", "hidden")


def test_a_layer_that_does_not_depend_on_the_argument_is_refused():
    beside = lambda x, y: jnp.sum(checkpoint_name(2 * x, "x") * checkpoint_name(3 * y, "y"))
    refused = pytest.raises(ValueError, match="'x' does not depend on what is attributed")
    with refused:
        igjax.at_layer(igjax.integrated_grad, "x")(beside, 1)(X, X)
    for given in ({"argnums": 1}, {"argnums": (1,)}):
        with refused:
            igjax.at_neuron(igjax.integrated_grad, "x", 0)(beside, **given)(X, X)
    with refused:
        igjax.at_neuron(igjax.integrated_grad, "x", 0)(beside, 1)(X, X)
    # A method that names no argument may attribute to any.
    close(igjax.at_neuron(lambda f: jax.grad(f, 1), "y", 0)(beside)(X, X), [3, 0, 0, 0])
    constant = lambda x: jnp.sum(x * checkpoint_name(jnp.ones(4), "x"))
    for method in (igjax.at_layer(input_x_gradient, "x"), igjax.at_neuron(jax.grad, "x", 0)):
        with refused:
            method(constant)(X)
    close(igjax.at_layer(input_x_gradient, "hidden")(score)(np.asarray(X)).shape, (6,))


@pytest.mark.parametrize("kind", [jnp.asarray, np.asarray])
def test_a_layer_that_depends_on_integers_alone_is_refused(kind):
    nodes = {"kinds": kind([2, 0]), "x": X}
    fun = lambda nodes: (
        jnp.sum(checkpoint_name(FIRST[nodes["kinds"]], "kinds"))
        * jnp.sum(checkpoint_name(FIRST[nodes["kinds"]] @ nodes["x"], "both"))
    )
    for method in (igjax.layer_integrated_grad, igjax.layer_conductance):
        with pytest.raises(ValueError, match="'kinds' does not depend on what is attributed"):
            method(fun, "kinds")(nodes)
    found = igjax.layer_gradient_x_activation(fun, "kinds")(nodes)  # which names no argument
    assert found.shape == (2, 4)
    found = igjax.layer_integrated_grad(fun, "both", rule=RULE)(nodes)
    close(found.sum(), fun(nodes))


def test_a_function_of_no_arguments_has_no_layer():
    constant = lambda: jnp.sum(checkpoint_name(FIRST, "x"))
    with pytest.raises(ValueError, match="'x' does not depend on what is attributed"):
        igjax.at_layer(input_x_gradient, "x")(constant)()


def test_aux_of_a_layer():
    fun = lambda x: (score(x), {"x": x})
    for method in (igjax.layer_integrated_grad, igjax.layer_conductance):
        found, aux, report = method(fun, "hidden", rule=RULE, has_aux=True, has_report=True)(X)
        close(found, method(score, "hidden", rule=RULE)(X))
        close(aux["x"], X)
        close(report.value, score(X))


# A tabular model: two columns of categories, each with a table of its own, and two numbers.
TABLES = [jnp.asarray(RNG.normal(size=s), jnp.float32) for s in [(4, 2), (7, 3)]]


def tabular(categories: jax.Array, numbers: jax.Array) -> jax.Array:
    columns = [
        checkpoint_name(table[categories[k]], f"column{k}") for k, table in enumerate(TABLES)
    ]
    return jnp.sin(jnp.sum(jnp.concatenate([*columns, numbers]) ** 2))


CATEGORIES, NUMBERS = jnp.array([2, 5]), jnp.array([0.5, -0.2])
COLUMNS = ["column0", "column1"]


def by_hand(start):
    inner = lambda a, b, n: jnp.sin(jnp.sum(jnp.concatenate([a, b, n]) ** 2))
    point = TABLES[0][2], TABLES[1][5], NUMBERS
    found = igjax.integrated_grad(inner, (0, 1, 2), baseline=start, rule=RULE)(*point)
    return found[0].sum(), found[1].sum(), found[2]


@pytest.mark.parametrize(
    ("baseline", "start"),
    [
        ((0, igjax.baselines.constant(0.1)), (TABLES[0][0], TABLES[1][0], jnp.full(2, 0.1))),
        (jnp.array([1, 2]), (TABLES[0][1], TABLES[1][2], jnp.zeros(2))),
        (igjax.baselines.embedding(0.0), (jnp.zeros(2), jnp.zeros(3), jnp.zeros(2))),
        (
            (igjax.baselines.embedding(tuple(t.mean(0) for t in TABLES)), NUMBERS),
            (TABLES[0].mean(0), TABLES[1].mean(0), NUMBERS),
        ),
    ],
)
def test_several_embeddings_with_numbers_beside_them(baseline, start):
    attribution = igjax.token_integrated_grad(
        tabular, COLUMNS, (0, 1), baseline=baseline, rule=RULE, has_report=True
    )
    (columns, numbers), report = attribution(CATEGORIES, NUMBERS)
    first, second, third = by_hand(start)
    close(columns[0], first)
    close(columns[1], second)
    close(numbers, third)
    assert abs(report.completeness_gap) < 1e-4


def test_several_arguments_of_ids():
    table = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)
    encode = lambda ids: jnp.tanh(checkpoint_name(table[ids], "emb")).mean(0)
    similarity = lambda q, r: encode(q) @ encode(r)
    q, r = jnp.array([1, 2, 3]), jnp.array([4, 5])
    names = [("emb", 0), ("emb", 1)]
    found = igjax.token_integrated_grad(similarity, names, (0, 1), baseline=(0, 5), rule=RULE)(q, r)
    plain = lambda a, b: jnp.tanh(a).mean(0) @ jnp.tanh(b).mean(0)
    start = jnp.stack([table[0]] * 3), jnp.stack([table[5]] * 2)
    expected = igjax.integrated_grad(plain, (0, 1), baseline=start, rule=RULE)(table[q], table[r])
    close(found[0], expected[0].sum(1))
    close(found[1], expected[1].sum(1))
    with pytest.raises(ValueError, match="several arguments of ids have an embedding each"):
        igjax.token_integrated_grad(similarity, ("emb", 0), (0, 1), baseline=0)(q, r)
    with pytest.raises(ValueError, match="one for each of 2 arguments; got 3"):
        igjax.token_integrated_grad(similarity, names, (0, 1), baseline=(0, 0, 0))(q, r)


def test_special_ids_keep_their_embedding():
    table = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)
    text = lambda ids: jnp.tanh(checkpoint_name(table[ids], "emb")).sum()
    ids = jnp.array([1, 4, 2])
    zero = igjax.baselines.embedding(0.0)
    found = igjax.token_integrated_grad(text, "emb", baseline=zero, special=[1, 2], rule=RULE)(ids)
    close(found, [0.0, jnp.tanh(table[4]).sum(), 0.0])


def test_all_outputs_of_a_model_of_tokens():
    table = jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32)
    text = lambda ids: logits(checkpoint_name(table[ids], "emb").mean(0))
    ids = jnp.array([1, 4, 2])
    found = igjax.at_tokens(igjax.integrated_jacobian, "emb")(text, baseline=0, rule=RULE)(ids)
    assert found.shape == (3, 3)
    close(found.sum(1), text(ids) - text(jnp.zeros(3, int)))
    assert igjax.at_tokens(igjax.integrated_grad, "emb", per_token=False)(
        lambda ids: text(ids)[0], baseline=0, rule=RULE
    )(ids).shape == (3, 4)


@pytest.mark.parametrize("given", ["text", None, object()])
def test_a_layer_of_no_array_is_refused(given):
    for call in (
        igjax.layer_gradient_x_activation(score, "hidden"),
        igjax.grad_cam(score, "hidden"),
        igjax.split_at(score, "hidden")[0],
        functools.partial(igjax.layer_names, score),
    ):
        with pytest.raises(TypeError, match="must be called with an array among its arguments"):
            call(given)


@pytest.mark.parametrize("made", [3, None])
def test_a_method_that_makes_no_function_is_refused(made):
    with pytest.raises(TypeError, match="at_layer takes a method that returns a function"):
        igjax.at_layer(lambda f: made, "hidden")(score)
    with pytest.raises(TypeError, match="at_neuron takes a method that returns a function"):
        igjax.at_neuron(lambda f: made, "hidden", 0)(score)
    with pytest.raises(TypeError, match="at_tokens takes a method that returns a function"):
        igjax.at_tokens(lambda f, **_: made, "hidden")(score, baseline=0)


@pytest.mark.parametrize(
    "call",
    [
        lambda f: igjax.integrated_grad(f)(jnp.ones(2), True),
        lambda f: igjax.layer_conductance(f, "h")(jnp.ones(2), True),
        lambda f: igjax.neuron_integrated_grad(f, "h", neuron=0)(jnp.ones(2), True),
        lambda f: igjax.layer_gradient_x_activation(f, "h")(jnp.ones(2), True),
        lambda f: igjax.layer_names(f, jnp.ones(2), True),
    ],
)
def test_messages_of_jax_name_the_users_function(call):
    def decides_by_value(x, flag):
        h = checkpoint_name(x, "h")
        return h.sum() if flag and h[0] > 0 else h.prod()

    with pytest.raises(jax.errors.TracerBoolConversionError) as raised:
        call(decides_by_value)
    place = f"decides_by_value at {__file__}:{decides_by_value.__code__.co_firstlineno}"
    assert f"the function {place}" in str(raised.value)
