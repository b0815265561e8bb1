"""EfficientNet-Lite0 against the labels of real photos and against XLA's own convolution."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from slowly import all_slow_but

import igjax
from examples.models import efficientnet_lite0 as net


@pytest.fixture(scope="module")
def params():
    return net.load()


@pytest.fixture(scope="module")
def batch():
    photos = net.photos()
    images = np.stack([net.preprocess(pixels) for _, pixels, _ in photos])
    return jnp.asarray(images), np.asarray([label for _, _, label in photos])


@pytest.fixture(scope="module")
def scores(params, batch):
    return np.asarray(jax.jit(jax.vmap(net.logits, in_axes=(None, 0)))(params, batch[0]))


def test_accuracy_on_the_photos(scores, batch):
    labels = batch[1][:, None]
    best_first = np.argsort(-scores, axis=1)
    assert scores.shape == (20, 1000)
    assert (best_first[:, :1] == labels).any(axis=1).sum() == 18
    assert (best_first[:, :5] == labels).any(axis=1).sum() == 19


def test_vmap_agrees_with_one_image(params, batch, scores):
    single = jax.jit(net.logits)(params, batch[0][0])
    assert single.shape == (1000,) and single.dtype == jnp.float32
    assert_close(single, scores[0])
    np.testing.assert_array_equal(single, jax.jit(net.logits)(params, batch[0][0]))


def test_the_dtype_of_the_weights_is_kept(params):
    half = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16), params)
    image = jax.ShapeDtypeStruct((net.SIZE, net.SIZE, 3), jnp.bfloat16)
    assert jax.eval_shape(net.logits, half, image).dtype == jnp.bfloat16


SHAPES = [pytest.param((9, 12, 4), id="odd"), pytest.param((14, 14, 6), id="even")]


@pytest.mark.parametrize("kernel_size", all_slow_but([3], [3, 5]))
@pytest.mark.parametrize("stride", all_slow_but([2], [1, 2]))
@pytest.mark.parametrize("shape", all_slow_but(["odd"], SHAPES))
def test_depthwise_and_its_gradients_equal_a_grouped_convolution(kernel_size, stride, shape):
    def grouped(x, kernel):
        (maps,) = jax.lax.conv_general_dilated(
            x[None],
            kernel[:, :, None],
            window_strides=(stride, stride),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=shape[-1],
            precision="highest",
        )
        return maps

    def depthwise(x, kernel):
        return net.depthwise(x, kernel, stride)

    def second(fun):  # a gradient of the gradient, as a penalty on attributions takes
        gradient = jax.grad(lambda x, kernel: jnp.sum(jnp.sin(fun(x, kernel))))
        return jax.grad(lambda x, kernel: jnp.sum(gradient(x, kernel) ** 2), (0, 1))

    key_x, key_kernel = jax.random.split(jax.random.key(0))
    x = jax.random.normal(key_x, shape)
    kernel = jax.random.normal(key_kernel, (kernel_size, kernel_size, shape[-1]))
    value, pull_back = jax.vjp(depthwise, x, kernel)
    expected, expected_pull_back = jax.vjp(grouped, x, kernel)
    assert_close(value, expected)
    for mine, theirs in zip(
        (*pull_back(jnp.sin(value)), *jax.jit(second(depthwise))(x, kernel)),
        (*expected_pull_back(jnp.sin(expected)), *jax.jit(second(grouped))(x, kernel)),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, atol=2e-5 * float(jnp.max(jnp.abs(theirs))))


LAYERS = ["stem", *(f"block_{i}" for i in range(16)), "head"]


def test_the_names_of_the_layers(params, batch):
    points = igjax.layer_names(net.logits, params, batch[0][0])
    assert [*points] == LAYERS
    assert [points[name].shape for name in ("stem", "block_15", "head")] == [
        (112, 112, 32),
        (7, 7, 320),
        (7, 7, 1280),
    ]


@pytest.fixture(scope="module")
def explain(params, batch):
    """A function of a transform and its arguments, to what it makes of a photo."""
    fun = lambda image, params: net.logits(params, image)[batch[1][14]]
    rule = igjax.quadrature.gregory(64)
    return lambda method, *args: jax.jit(
        method(fun, *args, rule=rule, batch_size=16, has_report=True)
    )(batch[0][14], params)


@pytest.fixture(scope="module")
def attributed(explain):
    return explain(igjax.integrated_grad)


@pytest.mark.slow
@pytest.mark.parametrize("name", [LAYERS[0], LAYERS[8], LAYERS[17]])
def test_attributions_are_complete_at_layers(explain, attributed, name):
    whole, report = attributed
    change = float(report.value - report.baseline_value)
    # Node by node what flows through a layer is what the input gets, up to rounding: that of the
    # path too, which decides on what side of a kink it is.
    conductances, _ = explain(igjax.layer_conductance, name)
    np.testing.assert_allclose(conductances.sum(), whole.sum(), atol=1e-3 * abs(change))
    attributions, report = explain(igjax.layer_integrated_grad, name)
    assert attributions.shape == conductances.shape
    assert abs(report.completeness_gap) < 0.1 * abs(change)
    np.testing.assert_allclose(
        report.completeness_gap, attributions.sum() - change, atol=1e-3 * abs(change)
    )


def test_preprocess_scales_the_centre_and_to_pixels_undoes_it():
    # A short side of 256 is not resized, so the crop must come back exactly.
    pixels = np.random.default_rng(0).integers(0, 256, (256, 300, 3), dtype=np.uint8)
    image = net.preprocess(pixels)
    assert image.shape == (224, 224, 3) and image.dtype == np.float32
    assert image.min() >= -1 and image.max() <= 1
    np.testing.assert_array_equal(net.to_pixels(image), pixels[16:240, 38:262])


def test_to_pixels_clips():
    np.testing.assert_array_equal(net.to_pixels(np.asarray([-9.0, 0.0, 9.0])), [0, 127, 255])


def test_photos_come_with_the_label_of_their_name():
    photos = net.photos()
    assert len(photos) == 20
    name, pixels, label = photos[0]
    assert (name, label) == ("imagenet_00_243.jpg", 243)
    assert pixels.dtype == np.uint8 and pixels.shape[-1] == 3


def test_class_name():
    assert net.class_name(388) == "giant panda"


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'foolbox.*pip install "igjax\[examples\]"'):
        net.photos()
