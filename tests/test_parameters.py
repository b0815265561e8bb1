"""Functions of parameters and inputs, attributed to the one or the other."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import checkpoint_name

import igjax
from igjax._parameters import mark


def network(params, x):
    return jnp.sum(checkpoint_name(jnp.tanh(params["w"] * x), "hidden"))


PARAMS, X = {"w": jnp.ones(3)}, jnp.arange(3.0)
marked = mark(lambda params, x: network(params, 1 * x), lambda p: isinstance(p, dict))


@pytest.mark.parametrize(
    "attribute",
    [
        igjax.integrated_grad(marked),
        igjax.integrated_grad(marked, -2),
        igjax.integrated_grad(marked, (1, 0)),
        igjax.integrated_jacobian(marked),
        igjax.layer_integrated_grad(marked, "hidden"),
        igjax.layer_conductance(marked, "hidden"),
        igjax.neuron_integrated_grad(marked, "hidden", neuron=0),
        igjax.token_integrated_grad(marked, "hidden", baseline=0),
        igjax.integrated_grad(jax.jit(marked)),
        igjax.integrated_jacobian(jax.vmap(marked, (None, 0))),
        jax.jit(igjax.integrated_grad(marked)),
    ],
)
def test_parameters_are_not_taken_for_the_input(attribute):
    with pytest.raises(ValueError, match=r"argument 0 is the model's parameters.*argnums=1"):
        attribute(PARAMS, X)


@pytest.mark.parametrize(
    ("attribute", "args", "like"),
    [
        (igjax.integrated_grad(marked, 1), (PARAMS, X), X),
        (igjax.integrated_grad(lambda params, x: 2 * marked(params, x)), (PARAMS, X), PARAMS),
        (igjax.integrated_grad(functools.partial(marked, PARAMS)), (X,), X),
        (igjax.integrated_grad(functools.wraps(marked)(lambda x: marked(PARAMS, x))), (X,), X),
        (
            igjax.integrated_grad(mark(lambda p, x: network(x, p["w"]), lambda p: True), 1),
            (PARAMS, PARAMS),  # an input that is like the parameters
            PARAMS,
        ),
    ],
)
def test_inputs_are_and_so_is_what_is_meant(attribute, args, like):
    assert jax.tree.map(jnp.shape, jax.eval_shape(attribute, *args)) == jax.tree.map(
        jnp.shape, like
    )
