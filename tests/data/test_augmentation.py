"""Random crops and flips: what they may make of an image, and how often."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxann import fit
from jaxann.data import Augmentation
from jaxann.nn import SoftmaxCrossEntropy, mlp
from jaxann.nn.hyperparameters import SettingError

SHAPE = (4, 5, 2)


def changes(image, crop, flip):
    """All images that may become of one, each as bytes."""
    padded = [np.pad(a, ((crop, crop), (crop, crop), (0, 0))) for a in (image, image[:, ::-1])[: 1 + flip]]
    places = [(down, right) for down in range(2 * crop + 1) for right in range(2 * crop + 1)]
    return [a[d : d + 4, r : r + 5].tobytes() for a in padded for d, r in places]


@pytest.mark.parametrize(("crop", "flip"), [(0, True), (1, False), (2, True)])
def test_each_image_becomes_any_of_its_crops_and_flips_equally_often(crop, flip):
    image, batch = np.random.default_rng(0).normal(size=SHAPE), 4000
    changed = np.asarray(Augmentation(SHAPE, crop, flip)(jax.random.key(3), jnp.tile(image, (batch, 1, 1, 1))))
    expected = changes(image, crop, flip)
    counts = [sum(other.tobytes() == known for other in changed) for known in expected]
    assert sum(counts) == batch
    share = 1 / len(expected)
    assert np.abs(np.array(counts) / batch - share).max() < 5 * np.sqrt(share * (1 - share) / batch)


def test_features_in_one_row_are_changed_as_images_are_and_another_key_changes_them_otherwise():
    x, augment = jax.random.normal(jax.random.key(0), (6, *SHAPE)), Augmentation(SHAPE, 1, flip=True)
    flat, images = augment(jax.random.key(1), x.reshape(6, -1)), augment(jax.random.key(1), x)
    np.testing.assert_array_equal(flat.reshape(images.shape), images)
    assert np.any(images != augment(jax.random.key(2), x))


def test_fit_computes_each_gradient_of_what_the_function_returns():
    x, t = jax.random.normal(jax.random.key(0), (8, 3)), jnp.arange(8) % 2
    options = {"key": 0, "epochs": 2, "batch_size": 4}
    arguments = mlp((3, 4, 2)), SoftmaxCrossEntropy(), optax.sgd(0.1)
    halved, _ = fit(*arguments, x, t, augment=lambda key, x: x / 2, **options)
    expected, _ = fit(*arguments, x / 2, t, **options)
    jax.tree.map(np.testing.assert_array_equal, halved, expected)
    noisy, _ = fit(*arguments, x, t, augment=lambda key, x: x + jax.random.normal(key, x.shape), **options)
    assert np.any(noisy[0]["W"] != expected[0]["W"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (((4, 5),), r"expected shape to be \(height, width, channels\), got \(4, 5\)"),
        ((SHAPE, 4), r"expected crop between 0 and 4, excluding 4 \(the sides of the images\), got 4"),
    ],
)
def test_bad_settings_get_a_sentence(arguments, sentence):
    with pytest.raises(SettingError) as caught:
        Augmentation(*arguments)
    assert re.match(sentence, str(caught.value)), str(caught.value)
