"""Which id goes to which row, against which rows change when an id does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igjax._jaxpr.origins import NOWHERE, SEVERAL, Origins

TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(10, 3)), jnp.float32)
IDS = jnp.array([3, 1, 4, 2])
ORDER = jnp.array([2, 0, 1, 3])


@jax.custom_vjp
def with_its_own_derivative(ids):
    return TABLE[ids]


with_its_own_derivative.defvjp(lambda ids: (TABLE[ids], None), lambda _, g: (None,))


def iterated(ids, *, reverse=False):
    step = lambda last, i: (i, TABLE[last])
    return jax.lax.scan(step, jnp.int32(0), ids, reverse=reverse)[1]


FOLLOWED = {
    "in place": lambda i: TABLE[i],
    "axes": lambda i: TABLE[i[None, :, None]],
    "padded": lambda i: jnp.take(TABLE, jnp.pad(i, (1, 0))[:-1], axis=0),
    "rolled": lambda i: TABLE[jnp.roll(i, 1).at[0].set(0)],
    "written": lambda i: TABLE[jnp.zeros(4, int).at[1:].set(i[:-1])],
    "where": lambda i: TABLE[jnp.where(jnp.arange(4) < 1, 0, jnp.roll(i, 1))],
    "updated": lambda i: TABLE[jax.lax.dynamic_update_slice(jnp.zeros(6, int), i, (1,))],
    "permuted": lambda i: TABLE[i[ORDER]],
    "rows permuted": lambda i: jnp.flip(TABLE[i], 0)[ORDER],
    "part": lambda i: TABLE[jax.lax.dynamic_slice(i, (1,), (2,))],
    "split": lambda i: jnp.concatenate([TABLE[part] for part in jnp.split(i, 2)][::-1]),
    "one": lambda i: TABLE[i[2]],
    "one hot": lambda i: jax.nn.one_hot(i, 10) @ TABLE,
    "one hot, turned": lambda i: jnp.einsum("vd,tv->dt", TABLE, jax.nn.one_hot(i, 10)),
    "mapped": jax.vmap(lambda i: TABLE[i]),
    "mapped in turn": lambda i: jax.lax.map(lambda i: TABLE[i], i),
    "iterated": iterated,
    "iterated in reverse": lambda i: iterated(i, reverse=True),
    "called": lambda i: jax.jit(jax.checkpoint(with_its_own_derivative))(i[::-1]),
    "halved": lambda i: TABLE[(i >> 1) ^ jax.lax.population_count(i)],
    "hashed": lambda i: TABLE[(i * 7) % 10],
    "normalized": lambda i: jax.nn.standardize(TABLE[i] + jnp.arange(4.0)[:, None]),
    "masked": lambda i: TABLE[i] * (i != 1)[:, None].astype("f"),
    "beside": lambda i: jnp.concatenate([TABLE[i], jnp.ones((4, 2))], 1),
    "in front": lambda i: jnp.concatenate([TABLE[:1], TABLE[i]]),
    "twice": lambda i: TABLE[jnp.stack([i, i[::-1]])],
    "cumulative": lambda i: jnp.cumsum(TABLE[i], axis=1),
    "barrier": lambda i: jax.lax.optimization_barrier((TABLE[i], i))[0],
    "branch of another": lambda i: jnp.where(i[0] < 5, jnp.ones((4, 3)), 0.0),
}


def changed(fun):
    """Which of the ids each entry changes with: their number if one, else NOWHERE or SEVERAL."""
    value = fun(IDS)
    others = [(IDS + shift) % 10 for shift in (1, 3, 6)]
    at = lambda k: [fun(IDS.at[k].set(other[k])) != value for other in others]
    moved = np.stack([np.any(at(k), axis=0) for k in range(4)])
    count = moved.sum(0)
    return np.where(count == 0, NOWHERE, np.where(count > 1, SEVERAL, moved.argmax(0)))


def origins(fun):
    (places,) = Origins.of(jax.make_jaxpr(fun)(IDS), [np.arange(4)]).results
    return places


@pytest.mark.parametrize("case", FOLLOWED)
def test_entries_are_of_the_id_that_they_change_with(case):
    fun = FOLLOWED[case]
    places, expected = origins(fun), changed(fun)
    if case in ("masked", "branch of another", "cumulative"):  # which may leave a value as it is
        expected = np.where(expected == NOWHERE, places, expected)
    np.testing.assert_array_equal(places, expected)


@pytest.mark.parametrize(
    "fun",
    [
        lambda i: TABLE[i].mean(0),
        lambda i: TABLE[jnp.sort(i)],
        lambda i: TABLE[i[i % 4]],
        lambda i: (TABLE * i.sum().astype("f"))[i],
        lambda i: TABLE[i] + jnp.cumsum(i > 1)[:, None].astype("f"),
        lambda i: jnp.zeros((2, 3)).at[i % 2].add(TABLE[i]),
        lambda i: jax.nn.softmax(TABLE[i] @ TABLE[i].T) @ TABLE[i],
        lambda i: jax.lax.while_loop(lambda h: h.sum() < 9, lambda h: h + 1, TABLE[i]),
        lambda i: TABLE[i.at[0].apply(lambda x: x + 1)],
    ],
)
def test_what_is_made_of_several_or_cannot_be_followed(fun):
    assert np.any(origins(fun) == SEVERAL)


def test_lookups_and_their_numbers():
    def fun(ids, order):
        filled = TABLE.at[ids + 7].get(mode="fill", fill_value=0)  # for what is not in the table
        return TABLE[ids + 1], jnp.sum(TABLE[ids[0], 2]), TABLE[order], filled

    found = Origins.of(jax.make_jaxpr(fun)(IDS, ORDER), [np.arange(4), None])
    first, second = found.lookups()
    np.testing.assert_array_equal(first.indices([IDS, ORDER]), [[4], [2], [5], [3]])
    np.testing.assert_array_equal(first.places, [[0], [1], [2], [3]])
    np.testing.assert_array_equal(first.last, [9])
    np.testing.assert_array_equal(second.indices([IDS, ORDER]), [3, 2])
    np.testing.assert_array_equal(second.places, [0, NOWHERE])
    np.testing.assert_array_equal(second.last, [9, 2])


def test_under_transformations_an_order_that_is_not_known_is_not_followed():
    seen = []

    def fun(order):
        places = Origins.of(jax.make_jaxpr(lambda i: TABLE[i[order]])(IDS), [np.arange(4)]).results
        seen.extend(places)
        return order

    fun(ORDER)
    jax.jit(fun)(ORDER)
    np.testing.assert_array_equal(seen[0][:, 0], ORDER)
    assert np.all(seen[1] == SEVERAL)
