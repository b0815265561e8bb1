"""What is peculiar to linen: traces that it keeps, methods that it intercepts, its errors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import igjax
from igjax.flax import linen

KEY, X = jax.random.key(0), jnp.arange(1.0, 5.0)
KEYS = {"params": KEY, "dropout": KEY}
IDS = jnp.array([3, 1, 2])


class Embedder(nn.Module):
    def setup(self):
        self.table = self.param("table", nn.initializers.normal(), (10, 4))

    def encode(self, ids):
        return self._looked_up(ids)

    def decode(self, x):
        return x @ self.table.T

    def positions(self, length):
        return self.table[:length]

    def whole(self, ids):
        return {"table": self.table, "length": len(ids)}

    def _looked_up(self, ids):
        return self.table[ids]


class Scaled(Embedder):
    def encode(self, ids):
        return 2 * super().encode(ids)


class Language(nn.Module):
    def setup(self):
        self.embedder = Scaled()

    def __call__(self, ids):
        x = self.own(self.embedder.encode(ids) + self.embedder.positions(len(ids)))
        x, _ = nn.scan(
            lambda module, x, _: (jnp.tanh(x), None), variable_broadcast="params", length=2
        )(self.embedder, x, None)
        return self.embedder.decode(x)[-1, 3] + self.embedder.whole(ids)["table"][0, 0]

    def own(self, x):
        return x + 1


def test_methods_other_than_call_have_names():
    model = Language()
    variables = model.init(KEY, IDS)
    fun = linen.function(model)
    # Not what is private, what is made of no array, and parameters themselves.
    assert list(igjax.layer_names(fun, variables, IDS)) == [
        "embedder.encode",
        "own",
        "embedder.decode",
    ]
    h = igjax.split_at(fun, "embedder.encode")[0](variables, IDS)
    np.testing.assert_array_equal(h, 2 * variables["params"]["embedder"]["table"][IDS])
    attribute = igjax.token_integrated_grad(fun, "embedder.encode", 1, baseline=0)
    assert jax.eval_shape(attribute, variables, IDS).shape == IDS.shape


def test_kernels_are_no_layers():
    model = nn.RNN(nn.OptimizedLSTMCell(2, name="cell"))
    x = jnp.ones((1, 1, 2))
    variables = model.init(KEY, x)
    points = igjax.layer_names(linen.function(model), variables, x)
    assert list(points) == [("cell", 0), ("cell", 1), ("cell", 2)]  # c, h and the output


class Outer(nn.Module):
    """Has a module of its own without variables, not bound to it."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(Double(parent=None)(x))


class Double(nn.Module):
    def __call__(self, x):
        return 2 * x


def test_modules_that_are_not_bound():
    variables = Outer().init(KEY, X)
    fun = linen.function(Outer())
    assert list(igjax.layer_names(fun, variables, X)) == ["Dense_0"]
    np.testing.assert_array_equal(fun(variables, X), Outer().apply(variables, X))
