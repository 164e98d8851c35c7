"""The networks for images: their sizes are those of the papers, and their gradients those of autodiff."""

import jax
import jax.numpy as jnp
import pytest
from support.judges import cast, judge_network

from jaxann.nn import Conv, Dense, InstanceNorm, Residual, SoftmaxCrossEntropy, lenet, resnet, tanh
from jaxann.nn.base import leaf_layers


def count_parameters(model):
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda: model.init(jax.random.key(0)))))


def test_lenet_has_the_parameters_of_the_paper_and_full_connections():
    convolutions, dense = (6 * 25 + 6) + (16 * 150 + 16), (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)
    assert count_parameters(lenet((28, 28, 1), 10)) == convolutions + dense == 61_706
    assert lenet((12, 13, 3), 2, hidden=tanh).layers[8] == Dense(16, 120)  # a single place is left


def test_a_residual_network_has_the_layers_of_the_paper():
    model = resnet((32, 32, 3), 10, blocks=3)
    matrices = [layer for layer in leaf_layers(model).values() if isinstance(layer, (Conv, Dense))]
    shortcuts = [layer for layer in matrices if isinstance(layer, Conv) and layer.size == (1, 1)]
    assert (len(matrices) - len(shortcuts), len(shortcuts)) == (20, 2)
    assert sum(isinstance(layer, Residual) for layer in model.layers) == 7
    places = [line.split("[")[1].split(",")[0] for line in str(model).splitlines() if "Conv(" in line]
    assert places == ["32"] * 7 + ["16"] * 7 + ["8"] * 7


@pytest.mark.parametrize("dtype", [jnp.float64, pytest.param(jnp.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "model",
    [
        lenet((12, 12, 1), 3),
        pytest.param(resnet((5, 4, 2), 3, widths=(2, 4), blocks=2), marks=pytest.mark.slow),
        pytest.param(resnet((4, 4, 1), 3, (2, 3), 1, InstanceNorm, tanh), marks=pytest.mark.slow),
    ],
    ids=["lenet", "resnet", "resnet, instance norm"],
)
def test_gradients_by_hand_are_automatic_gradients(model, dtype):
    params = cast(model.init(jax.random.key(0)), dtype)
    x = jax.random.normal(jax.random.key(1), (4, *model.input_shape), dtype)
    judge_network(model, SoftmaxCrossEntropy(), params, x, jnp.arange(4) % 3, jnp.array([1.0, 0.5, 2.0, 0.0], dtype))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: lenet((28, 28), 10), r"expected shape to be \(height, width, channels\) of sides of at least 12, got"),
        (lambda: lenet((11, 28, 1), 10), r"\(height, width, channels\) of sides of at least 12, got \(11, 28, 1\)"),
        (lambda: lenet((28, 28, 1), 0), "expected outputs of at least 1, got 0"),
        (lambda: resnet((8, 8, 1), 2, widths=()), r"expected widths to be a tuple of at least one whole number"),
        (lambda: resnet((8, 8, 1), 2, blocks=0), "expected blocks of at least 1, got 0"),
        (lambda: resnet((8,), 2), r"expected shape to be \(height, width, channels\), got \(8,\)"),
    ],
)
def test_settings_out_of_range_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()
