"""Attribution to token ids, against integrated gradients of what comes after the look-up."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close, assert_trees_close
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import igjax
from igjax.quadrature import gregory, to_tolerance

RNG = np.random.default_rng(0)
PAD, CLS, SEP = 0, 1, 2
TABLE = jnp.asarray(RNG.normal(size=(20, 5)), jnp.float32)
POSITIONS = jnp.asarray(RNG.normal(size=(6, 5)), jnp.float32)
READOUT = jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32)
IDS = jnp.array([CLS, 7, 11, 4, SEP, PAD])


def after_lookup(h, mask, label):
    h = jnp.tanh((h + POSITIONS) * 1.5) * mask[:, None]
    return jnp.sum(jnp.tanh(h.sum(0) @ READOUT)[label] ** 2)


def score(ids, label):
    return after_lookup(checkpoint_name(TABLE[ids], "embedding"), (ids != PAD).astype("f"), label)


def expected(baseline_ids):
    attribute = igjax.integrated_grad(after_lookup, baseline=TABLE[baseline_ids])
    return attribute(TABLE[IDS], (IDS != PAD).astype("f"), 1)


@pytest.mark.parametrize(
    ("baseline", "special", "ids"),
    [
        (PAD, (), [PAD] * 6),
        (PAD, (CLS, SEP), [CLS, PAD, PAD, PAD, SEP, PAD]),
        (3, (CLS, SEP, PAD), [CLS, 3, 3, 3, SEP, PAD]),
        (jnp.array([9, 8, 7, 6, 5, 4]), (), [9, 8, 7, 6, 5, 4]),
        (np.array([9, 8, 7, 6, 5, 4]), [CLS], [CLS, 8, 7, 6, 5, 4]),
        (lambda ids: ids[::-1], (), [PAD, SEP, 4, 11, 7, CLS]),
    ],
)
def test_baselines_of_ids(baseline, special, ids):
    keywords = {"baseline": baseline, "special": special}
    whole = igjax.token_integrated_grad(score, "embedding", per_token=False, **keywords)(IDS, 1)
    np.testing.assert_allclose(whole, expected(jnp.array(ids)), rtol=1e-5, atol=1e-6)
    summed = igjax.token_integrated_grad(score, "embedding", **keywords)(IDS, 1)
    np.testing.assert_allclose(summed, whole.sum(-1), rtol=1e-5, atol=1e-6)


def test_complete_between_the_embeddings_with_the_input_s_mask():
    attribute = igjax.token_integrated_grad(
        score, "embedding", baseline=3, rule=to_tolerance(1e-3), has_report=True
    )
    attributions, report = jax.jit(attribute)(IDS, 1)
    assert report.converged
    assert_close(report.value, score(IDS, 1))
    start = after_lookup(TABLE[jnp.full(6, 3)], (IDS != PAD).astype("f"), 1)
    np.testing.assert_allclose(report.baseline_value, start, rtol=1e-4)
    np.testing.assert_allclose(attributions.sum(), report.value - start, atol=1e-3)
    assert attributions[-1] == 0.0  # what is masked


def test_batches_of_ids_and_gradients_of_the_table():
    batch = jnp.stack([IDS, IDS[::-1]])
    attribute = igjax.token_integrated_grad(score, "embedding", baseline=PAD, rule=gregory(16))
    together = jax.jit(jax.vmap(attribute, (0, None)))(batch, 1)
    np.testing.assert_allclose(together[1], attribute(batch[1], 1), rtol=1e-5, atol=1e-6)

    def penalty(table):
        fun = lambda ids: jnp.sum(jnp.tanh(checkpoint_name(table[ids], "embedding")) ** 2)
        return jnp.sum(igjax.token_integrated_grad(fun, "embedding", baseline=PAD)(IDS) ** 2)

    step = 1e-2 * jnp.asarray(RNG.normal(size=TABLE.shape), jnp.float32)
    slope = (penalty(TABLE + step) - penalty(TABLE - step)) / 2
    np.testing.assert_allclose(jnp.sum(jax.grad(penalty)(TABLE) * step), slope, rtol=1e-2)


@pytest.mark.versions
def test_devices_and_export():
    batch = jnp.stack([jnp.roll(IDS, i) for i in range(8)])
    attribute = jax.vmap(
        igjax.token_integrated_grad(score, "embedding", baseline=PAD, has_report=True), (0, None)
    )
    expected = attribute(batch, 1)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    sharded = jax.shard_map(attribute, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"))
    exported = jax.export.export(jax.jit(attribute))(batch, 1)
    revived = jax.export.deserialize(exported.serialize())
    for found in (jax.jit(sharded)(batch, 1), revived.call(batch, 1)):
        # The gap is a difference of values.
        assert_trees_close(found, expected, size=float(jnp.max(jnp.abs(expected[1].value))))


def test_integer_input_of_integrated_grad_points_here():
    with pytest.raises(TypeError, match=r"igjax\.token_integrated_grad"):
        igjax.integrated_grad(score)(IDS, 1)


def test_bad_input():
    make = lambda **keywords: igjax.token_integrated_grad(
        score, "embedding", **{"baseline": PAD, **keywords}
    )
    with pytest.raises(TypeError, match=r"argument 0 must be of integers.*float32"):
        make()(jnp.ones(6), 1)
    with pytest.raises(TypeError, match=r"baseline must be of integers.*float32"):
        make(baseline=TABLE[0])(IDS, 1)
    with pytest.raises(ValueError, match=r"the ids' shape \(6,\); got shape \(5,\)"):
        make(baseline=jnp.zeros(5, int))(IDS, 1)
    with pytest.raises(ValueError, match="Did you mean 'embedding'"):
        igjax.token_integrated_grad(score, "embeddings", baseline=PAD)(IDS, 1)
    sums = lambda ids: jnp.sum(checkpoint_name(TABLE[ids].sum(0), "embedding"))
    with pytest.raises(ValueError, match=r"begins with \(6,\); got \(5,\)"):
        igjax.token_integrated_grad(sums, "embedding", baseline=PAD)(IDS)
    with pytest.raises(TypeError, match="takes a function"):
        igjax.token_integrated_grad(None, "embedding", baseline=PAD)
    with pytest.raises(TypeError, match="one array of ids"):
        make()({"ids": IDS}, 1)
    with pytest.raises(TypeError, match=r"baseline must be of integers.*PAD"):
        make(baseline="[PAD]")(IDS, 1)
    with pytest.raises(TypeError, match=r"baseline must be of integers.*None"):
        make(baseline=None)(IDS, 1)
    with pytest.raises(TypeError, match=r"special must be of integers.*1\.5"):
        make(special=[1.5])(IDS, 1)
    for embedding in (3, [], ["embedding", 3]):
        with pytest.raises(TypeError, match="embedding must be the name of an intermediate"):
            igjax.token_integrated_grad(score, embedding, baseline=0)
    with pytest.raises(ValueError, match="batch_size"):
        make(batch_size=0)


def test_ids_of_few_bits():
    ids = IDS.astype(jnp.uint8)
    found = igjax.token_integrated_grad(score, "embedding", baseline=[3] * 6, special=CLS)(ids, 1)
    expected = igjax.token_integrated_grad(score, "embedding", baseline=3, special=[CLS])(IDS, 1)
    assert_close(found, expected)
    for settings in ({"baseline": 300}, {"baseline": -1}, {"baseline": 0, "special": [300]}):
        with pytest.raises(ValueError, match=r"must fit the ids, which are uint8: 0 to 255"):
            igjax.token_integrated_grad(score, "embedding", **settings)(ids, 1)
