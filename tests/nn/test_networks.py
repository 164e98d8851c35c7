"""The networks for images and text: their sizes are those of the papers, and their gradients those of autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.judges import cast, judge, judge_network
from support.unchecked import unchecked

from jaxann import autodiff, backprop
from jaxann.nn import (
    Attention,
    BatchNorm,
    Conv,
    Dense,
    Each,
    Embedding,
    LayerNorm,
    LeanAttention,
    LearnedPositions,
    Residual,
    RMSNorm,
    Sequential,
    SoftmaxCrossEntropy,
    SquaredError,
    SwiGLU,
    lenet,
    resnet,
    tanh,
    transformer,
)
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
        pytest.param(resnet((4, 4, 1), 3, (2, 3), 1, BatchNorm, tanh), marks=pytest.mark.slow),
    ],
    ids=["lenet", "resnet", "resnet, batch norm"],
)
def test_gradients_by_hand_are_automatic_gradients(model, dtype):
    params = cast(model.init(jax.random.key(0)), dtype)
    x = jax.random.normal(jax.random.key(1), (4, *model.input_shape), dtype)
    judge_network(model, SoftmaxCrossEntropy(), params, x, jnp.arange(4) % 3, jnp.array([1.0, 0.5, 2.0, 0.0], dtype))


def test_a_transformer_is_a_plain_chain():
    n, hidden, blocks = 8, 32, 2
    model = transformer(11, 6, n, 2, blocks)
    assert model.layers[:2] == (Embedding(11, n), LearnedPositions(6, n))
    assert model.layers[2] == Residual(Sequential((LayerNorm(n), Attention(n, 2))))
    assert model.layers[-2:] == (LayerNorm(n), Each(Dense(n, 11)))
    block = 4 * n * n + (2 * n * hidden + hidden + n) + 4 * n
    assert count_parameters(model) == 11 * n + 6 * n + blocks * block + 2 * n + (11 * n + 11)
    assert count_parameters(transformer(11, 6, n, 2, blocks, tied=True)) == count_parameters(model) - 11 * n - 11
    dropped = transformer(11, 6, n, 2, 1, dropout=0.1, positions="rotary")
    assert dropped.random
    assert dropped.layers[2].layer.layers[1] == Attention(n, 2, rotary=True, dropout=0.1)


def test_no_position_sees_a_later_token():
    model = transformer(7, 5, 4, 2, 1, positions="sinusoidal", feed_forward=SwiGLU, normalization=RMSNorm)
    params = model.init(jax.random.key(0))
    ids = jnp.array([3, 1, 4, 1, 5])
    run = jax.jit(lambda ids: model.forward(params, ids)[0])
    y = run(ids)
    np.testing.assert_allclose(y[:3], run(ids[:3]), rtol=1e-12)
    assert (jnp.abs(run(ids.at[0].set(6)) - y).max(1) > 1e-6).all()


@pytest.mark.parametrize("dtype", [jnp.float64, pytest.param(jnp.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"tied": True, "positions": "sinusoidal"}, marks=pytest.mark.slow),
        pytest.param(
            {"positions": "rotary", "feed_forward": SwiGLU, "attention": LeanAttention}, marks=pytest.mark.slow
        ),
    ],
    ids=["gpt", "tied", "rotary"],
)
def test_gradients_of_a_transformer_are_automatic_gradients(settings, dtype):
    model = transformer(7, 5, 8, 2, 1, **settings)
    params, loss = cast(model.init(jax.random.key(0)), dtype), SquaredError()
    ids = jax.random.randint(jax.random.key(1), (3, 4), 0, 7)
    t = jax.random.normal(jax.random.key(2), (3, 4, 7), dtype)
    both = jax.jit(lambda *args: [route(model, loss)(*args) for route in (backprop, autodiff)])
    judge(*both(params, ids, t), dtype)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: lenet((28, 28), 10), r"expected shape to be \(height, width, channels\) of sides of at least 4, got"),
        (lambda: lenet((3, 28, 1), 10), r"\(height, width, channels\) of sides of at least 4, got \(3, 28, 1\)"),
        (lambda: lenet((28, 28, 1), 0), "expected outputs of at least 1, got 0"),
        (lambda: resnet((8, 8, 1), 2, widths=()), r"expected widths to be a tuple of at least one whole number"),
        (lambda: resnet((8, 8, 1), 2, blocks=0), "expected blocks of at least 1, got 0"),
        (lambda: resnet((8,), 2), r"expected shape to be \(height, width, channels\), got \(8,\)"),
        (lambda: resnet((8, 8, 1), 2, normalization="group"), "normalization to be a class .*, got 'group'"),
        (lambda: transformer(7, 5, attention="lean"), "attention to be a class of layers or .*, got 'lean'"),
        (lambda: transformer(0, 5), "expected vocabulary of at least 1, got 0"),
        (lambda: transformer(7, 5, blocks=0), "expected blocks of at least 1, got 0"),
        (lambda: transformer(7, 5, 8, 3), "expected heads to divide the 8 features of Attention, got 3"),
        (lambda: transformer(7, 5, positions="none"), "positions to be learned, sinusoidal or rotary, got 'none'"),
        (lambda: transformer(7, 5, dropout=1.0), "expected dropout between 0 and 1, excluding 1, got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(build, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        build()
