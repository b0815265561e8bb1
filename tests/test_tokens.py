"""Attribution to token ids, against integrated gradients of what comes after the look-up."""

import types

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
from igjax._inputs import is_known
from igjax.quadrature import gregory, to_tolerance

RNG = np.random.default_rng(0)
PAD, CLS, SEP = 0, 1, 2
TABLE = jnp.asarray(RNG.normal(size=(20, 5)), jnp.float32)
POSITIONS = jnp.asarray(RNG.normal(size=(6, 5)), jnp.float32)
READOUT = jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32)
X = jnp.array([0.5])
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


def as_float(ids):
    return ids.astype(jnp.float32)


# Models that move their ids, of which each id has the attributions of its own vectors.
WEIGHTS = jnp.asarray(RNG.normal(size=(7, 5)), jnp.float32)
RULE = gregory(8)
MOVED = {
    "shifted": (lambda ids: jnp.pad(ids, (1, 0))[:-1], [-1, 0, 1, 2, 3, 4]),
    "reversed": (lambda ids: ids[::-1], [5, 4, 3, 2, 1, 0]),
    "with one in front": (lambda ids: jnp.concatenate([jnp.array([CLS]), ids]), [-1, *range(6)]),
    "of a batch": (lambda ids: ids[None], [range(6)]),
    "of two axes more": (lambda ids: ids[None, :, None], [[[i] for i in range(6)]]),
    "twice": (lambda ids: jnp.stack([ids, ids]), [range(6), range(6)]),
}


def moving(move):
    """A model whose lookup is in another order, and is nowhere zero."""

    def model(ids):
        h = jnp.tanh(checkpoint_name(TABLE[move(ids)], "embedding"))
        return jnp.sum(jnp.sin(h.reshape(-1, 5)) * WEIGHTS[: h.size // 5].sum(-1, keepdims=True))

    return model


@pytest.mark.parametrize("case", [case for case in MOVED if case != "twice"])
@pytest.mark.parametrize(
    "baseline", [PAD, igjax.baselines.embedding(0.5)], ids=["an id", "an embedding"]
)
def test_attributions_are_at_the_ids_that_vectors_are_looked_up_by(case, baseline):
    move, order = MOVED[case]
    order, model = np.array(order).reshape(-1), moving(move)
    # Entry by entry the model adds up: so a vector's part is what it is without the others.
    part = lambda h, k: jnp.sum(jnp.sin(jnp.tanh(h))) * WEIGHTS[k].sum()
    start = TABLE[PAD] if baseline == PAD else jnp.full(5, 0.5)
    expected = np.zeros(6)
    for k, i in enumerate(order):
        if i >= 0:
            expected[i] = part(TABLE[IDS[i]], k) - part(start, k)
    attribute = lambda **options: igjax.token_integrated_grad(
        model, "embedding", baseline=baseline, **options
    )(IDS)
    found, report = attribute(has_report=True, special=[])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert abs(report.completeness_gap) < 1e-4
    whole = attribute(per_token=False)
    assert whole.shape == ((6, 1, 5) if case == "of two axes more" else (6, 5))
    np.testing.assert_allclose(whole.reshape(6, -1).sum(-1), found, rtol=1e-4, atol=1e-5)
    if baseline != PAD:
        kept = attribute(special=[7])
        np.testing.assert_allclose(kept, found * as_float(IDS != 7), rtol=1e-4, atol=1e-5)


def test_ids_that_are_moved_on_many_devices():
    def model(ids):
        moved = jnp.roll(ids, 1).at[0].set(CLS)
        return jnp.sum(jnp.tanh(checkpoint_name(TABLE[moved], "embedding")) * WEIGHTS[:3])

    attribute = jax.vmap(
        igjax.token_integrated_grad(model, "embedding", baseline=PAD, rule=gregory(4))
    )
    batch = jnp.stack([jnp.roll(IDS, i)[:3] for i in range(8)])
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    sharded = jax.shard_map(attribute, mesh=mesh, in_specs=P("d"), out_specs=P("d"))
    assert_close(jax.jit(sharded)(batch), attribute(batch))
    assert_close(sharded(batch), attribute(batch))


def test_a_table_that_is_split_over_devices():
    def attribute(table, ids):
        def model(ids):
            row = ids[::-1] - 5 * jax.lax.axis_index("v")
            own = (row >= 0) & (row < 5)
            h = jnp.where(own[:, None], table[jnp.clip(row, 0, 4)], 0)
            return jnp.sum(jnp.tanh(checkpoint_name(jax.lax.psum(h, "v"), "h")))

        return igjax.token_integrated_grad(model, "h", baseline=PAD, rule=RULE)(ids)

    mesh = jax.make_mesh((4,), ("v",), axis_types=(AxisType.Auto,))
    split = jax.shard_map(attribute, mesh=mesh, in_specs=(P("v"), P()), out_specs=P())
    whole = lambda ids: jnp.sum(jnp.tanh(checkpoint_name(TABLE[ids], "h")))
    expected = igjax.token_integrated_grad(whole, "h", baseline=PAD, rule=RULE)(IDS)
    assert_close(jax.jit(split)(TABLE, IDS), expected)


@pytest.mark.parametrize(
    ("ids", "lookup"),
    [
        (jnp.int32(3), lambda i: jnp.stack([TABLE[8], TABLE[i]])),
        (jnp.array([3, 4]), lambda i: jnp.stack([TABLE[8:10], TABLE[i]], 1)),
        (jnp.array([3, 4]), lambda i: jnp.concatenate([TABLE[i], TABLE[8:10]], 1)),
    ],
)
def test_vectors_of_no_id_beside_one_have_no_part(ids, lookup):
    model = lambda ids: jnp.sum(jnp.sin(checkpoint_name(lookup(ids), "h")))
    options = {"baseline": igjax.baselines.embedding(0.0), "rule": RULE}
    attributed = jnp.sin(TABLE[ids]).sum(-1)
    if lookup(ids).shape == (2, 10):  # here they are one vector
        attributed += jnp.sin(TABLE[8:10]).sum(-1)
    found = igjax.token_integrated_grad(model, "h", **options)(ids)
    np.testing.assert_allclose(found, attributed, atol=1e-3)


@pytest.mark.parametrize("count", [4, 5])  # of which one is the length of a vector
def test_the_vector_of_the_first_of_some_ids(count):
    model = lambda ids: jnp.sum(checkpoint_name(TABLE[ids[0]], "h"))
    attribute = igjax.token_integrated_grad(model, "h", baseline=PAD, rule=RULE, per_token=False)
    found = attribute(jnp.arange(3, 3 + count))
    expected = jnp.zeros((count, 5)).at[0].set(TABLE[3] - TABLE[PAD])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_id_that_is_looked_up_twice_has_the_attributions_of_both():
    move, _ = MOVED["twice"]
    model = lambda ids: jnp.sum(jnp.tanh(checkpoint_name(TABLE[move(ids)], "embedding")))
    once = lambda ids: jnp.sum(jnp.tanh(checkpoint_name(TABLE[ids], "embedding")))
    attribute = lambda f, **o: igjax.at_tokens(igjax.integrated_grad, "embedding", **o)(
        f, baseline=PAD, rule=RULE
    )(IDS)
    assert_close(attribute(model), 2 * attribute(once))
    assert_close(attribute(model, per_token=False), 2 * attribute(once, per_token=False))


def test_vectors_along_another_axis_and_outputs_of_several_axes():
    model = lambda ids: jnp.tanh(checkpoint_name(TABLE[ids[::-1]].T, "embedding")).sum(0)
    of_all = igjax.at_tokens(igjax.integrated_jacobian, "embedding", per_token=False)
    found = of_all(model, baseline=PAD, rule=RULE)(IDS)
    assert found.shape == (6, 6, 5)
    rows = jnp.tanh(TABLE[IDS]) - jnp.tanh(TABLE[jnp.full(6, PAD)])
    expected = jnp.eye(6)[::-1, :, None] * rows[None]
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_several_embeddings_of_moved_ids():
    encode = lambda ids: jnp.tanh(checkpoint_name(TABLE[jnp.pad(ids, (1, 0))[:-1]], "e")).sum()
    model = lambda q, r: encode(q) * 2 + encode(r)
    names, pair = [("e", 0), ("e", 1)], (IDS, IDS[:3])
    first, second = igjax.token_integrated_grad(model, names, (0, 1), baseline=PAD)(*pair)
    rows = jnp.sum(jnp.tanh(TABLE[IDS]) - jnp.tanh(TABLE[jnp.full(6, PAD)]), 1)
    np.testing.assert_allclose(first, 2 * rows.at[-1].set(0), atol=1e-4)
    np.testing.assert_allclose(second, rows[:3].at[-1].set(0), atol=1e-4)
    with pytest.raises(ValueError, match=r"every argument .* of shape \(3,\) is not"):
        igjax.token_integrated_grad(model, names[:1], (0, 1), baseline=PAD)(*pair)
    with pytest.raises(ValueError, match=r"\('e', 0\) does not depend on what"):
        igjax.token_integrated_grad(model, names, 1, baseline=PAD)(*pair)
    bag = lambda ids, x: (
        jnp.sum(checkpoint_name(TABLE[ids].mean(0), "bag"))
        * jnp.sum(checkpoint_name(x * 2.0, "number"))
    )
    (found,), _ = igjax.token_integrated_grad(bag, ["bag"], (0, 1), baseline=PAD)(IDS, X)
    np.testing.assert_allclose(found, 0.5 * (TABLE[IDS].mean(0) - TABLE[PAD]).sum(), rtol=1e-4)
    with pytest.raises(ValueError, match="'number' does not depend on the ids"):
        igjax.token_integrated_grad(bag, ["bag", "number"], (0, 1), baseline=PAD)(IDS, X)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        # The two axes of one embedding are no two ids.
        (lambda ids, h: jnp.sum(h(TABLE[ids[0]])) + as_float(ids[1]), "no vector for 5 of"),
        (lambda ids, h: jnp.sum(h(POSITIONS.T[ids[4]])) + as_float(ids[5]), "no vector for 5 of"),
        (lambda ids, h: jnp.sum(h(TABLE[ids[:4]])) * as_float(ids.max()), r"as that at \(4,"),
        (lambda ids, h: jnp.sum(h(TABLE[jnp.sort(ids)])), "of several ids, or in a way"),
        (lambda ids, h: jnp.sum(as_float(ids) * h(TABLE[0]).sum()), "does not depend on"),
    ],
)
def test_numbers_that_are_of_no_id_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        igjax.token_integrated_grad(
            lambda ids: model(ids, lambda h: checkpoint_name(h, "h")), "h", baseline=PAD
        )(IDS)


def test_auxiliary_data_may_have_ids_that_are_looked_up_nowhere():
    model = lambda ids: (jnp.sum(jnp.tanh(checkpoint_name(TABLE[ids[:2]], "h"))), ids)
    found, aux = igjax.token_integrated_grad(model, "h", baseline=PAD, has_aux=True)(IDS)
    assert_close(aux, IDS)
    np.testing.assert_array_equal(found[2:], 0.0)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([1, 2**32 + 3]), r"argument 0 must fit .* int32: .*4294967299"),
        (np.array([1, 2**64 - 1], np.uint64), "argument 0 must fit .* uint32"),
        (jnp.array([1, 20]), "argument 0 must have ids that the table has .* of 20 rows; got 20"),
        (np.array([1, 2**32 - 1], np.uint32), "of 20 rows; got 4294967295"),
        (jnp.array([-1, 3]), "of 20 rows; got -1"),
        (jnp.array([-21, 3]), "of 20 rows; got -21"),
        ([1, 2**70], "argument 0"),
    ],
)
def test_ids_that_no_table_has_are_refused(ids, message):
    model = lambda ids: jnp.sum(checkpoint_name(TABLE[ids], "h"))
    with pytest.raises((ValueError, TypeError), match=message):
        igjax.token_integrated_grad(model, "h", baseline=PAD)(ids)
    if isinstance(ids, jax.Array):
        for baseline in (ids, int(ids[ids != 3][-1])):
            with pytest.raises(ValueError, match=message.replace("argument 0", "baseline")):
                igjax.token_integrated_grad(model, "h", baseline=baseline)(jnp.array([1, 2]))


def test_what_counts_is_the_number_in_the_table():
    model = lambda ids: jnp.sum(checkpoint_name(TABLE[ids + 1], "h") + TABLE[(ids * 7) % 20])
    igjax.token_integrated_grad(model, "h", baseline=-1)(jnp.array([-1, 18]))
    with pytest.raises(ValueError, match="of 20 rows; got 19"):
        igjax.token_integrated_grad(model, "h", baseline=-1)(jnp.array([-1, 19]))


def test_no_ids():
    model = lambda ids: jnp.sum(checkpoint_name(TABLE[ids], "h"))
    none = jnp.zeros(0, int)
    assert igjax.token_integrated_grad(model, "h", baseline=PAD, rule=RULE)(none).shape == (0,)


def test_ids_of_other_processes_are_not_looked_at():
    assert not is_known(types.SimpleNamespace(is_fully_addressable=False))
    assert is_known(IDS) and is_known(3)


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
    with pytest.raises(ValueError, match=r"made of several ids.*in shape \(5,\)"):
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


@pytest.mark.parametrize("dtype", ["int4", "uint4", "int2"])
def test_ids_of_very_few_bits(dtype):
    ids = jnp.array([1, 0, 1], dtype)
    model = lambda ids: jnp.sum(jnp.tanh(checkpoint_name(TABLE[ids], "h")))
    found = igjax.token_integrated_grad(model, "h", baseline=0, rule=RULE)(ids)
    expected = igjax.token_integrated_grad(model, "h", baseline=0, rule=RULE)(ids.astype("int32"))
    assert_close(found, expected)
    with pytest.raises(ValueError, match=f"must fit the ids, which are {dtype}"):
        igjax.token_integrated_grad(model, "h", baseline=20)(ids)


def test_lengths_that_export_leaves_open():
    model = lambda ids: jnp.sum(jnp.tanh(checkpoint_name(TABLE[ids], "h")))
    attribute = igjax.token_integrated_grad(model, "h", baseline=PAD, rule=RULE)
    open_ids = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n"), jnp.int32)
    exported = jax.export.export(jax.jit(attribute))(open_ids)
    np.testing.assert_allclose(exported.call(IDS), attribute(IDS), rtol=1e-5, atol=1e-6)

    in_front = lambda ids: model(jnp.concatenate([jnp.array([CLS], jnp.int32), ids]))
    with pytest.raises(ValueError, match="where lengths are open"):
        jax.export.export(jax.jit(igjax.token_integrated_grad(in_front, "h", baseline=PAD)))(
            open_ids
        )


@pytest.mark.parametrize(
    "lookup", [lambda ids, length: TABLE[ids] * length, lambda ids, _: TABLE[ids[:2]]]
)
def test_lengths_of_another_argument_that_export_leaves_open(lookup):
    def model(ids, context):
        h = checkpoint_name(lookup(ids, context.sum()), "h")
        return jnp.sum(h * as_float(ids[:1, None] != PAD)) * context.sum()

    attribute = igjax.token_integrated_grad(model, "h", baseline=PAD, rule=RULE)
    context = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n"), jnp.float32)
    exported = jax.export.export(jax.jit(attribute))(IDS, context)
    assert_close(exported.call(IDS, jnp.ones(3)), attribute(IDS, jnp.ones(3)))


def test_ids_of_few_bits():
    ids = IDS.astype(jnp.uint8)
    found = igjax.token_integrated_grad(score, "embedding", baseline=[3] * 6, special=CLS)(ids, 1)
    expected = igjax.token_integrated_grad(score, "embedding", baseline=3, special=[CLS])(IDS, 1)
    assert_close(found, expected)
    for settings in ({"baseline": 300}, {"baseline": -1}, {"baseline": 0, "special": [300]}):
        with pytest.raises(ValueError, match=r"must fit the ids, which are uint8: 0 to 255"):
            igjax.token_integrated_grad(score, "embedding", **settings)(ids, 1)


def test_per_token_is_true_or_false():
    with pytest.raises(TypeError, match="per_token must be True or False; got 'no'"):
        igjax.token_integrated_grad(jnp.sum, "e", baseline=0, per_token="no")
