"""Right networks of random layers on images and on sequences, with parameters and data that fit them."""

import jax
import numpy as np
from support.cases import LOSSES

from jaxann.nn import (
    ACTIVATIONS,
    GLU,
    GRU,
    LSTM,
    RNN,
    AdaptiveAvgPool,
    Attention,
    AvgPool,
    Conv,
    ConvTransposed,
    Dense,
    Dropout,
    Each,
    FeedForward,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    Input,
    InstanceNorm,
    LastStep,
    LayerNorm,
    LeanAttention,
    LearnedPositions,
    MaxPool,
    Parallel,
    Residual,
    RMSNorm,
    Sequential,
    SinusoidalPositions,
    SwiGLU,
    bidirectional,
    relu,
    softmax,
    tanh,
)
from jaxann.nn.shapes import example_of, output_shape

ELEMENTWISE = [ACTIVATIONS[name] for name in sorted(ACTIVATIONS) if name != "softmax"]


def draw_image_layer(rng, shape):
    """Returns a layer that takes an image of this shape."""
    height, width, n = shape
    m, size = int(rng.integers(1, 4)), tuple(int(min(side, rng.integers(1, 4))) for side in (height, width))
    stride = tuple(int(s) for s in rng.integers(1, 3, size=2))
    same = Conv(n, n, (3, 3), padding="same", groups=int(rng.choice([1, n])))
    layers = [
        Conv(n, m, size, stride, padding=int(rng.integers(2)), bias=bool(rng.integers(2))),
        Conv(n, 2 * n, (1, 2), padding="same", groups=n),
        Conv(n, m, (2, 2), dilation=(2, 1), padding=1),
        ConvTransposed(n, m, size, stride),
        MaxPool(size, stride),
        AvgPool(size, stride),
        AdaptiveAvgPool((2, 3)),
        GroupNorm(n, int(rng.choice([g for g in (1, 2, 3) if n % g == 0]))),
        InstanceNorm(n) if height * width > 1 else GroupNorm(n, 1, scale=False),
        LayerNorm(n) if n > 1 else RMSNorm(2 if n == 2 else n) if n > 1 else relu,
        ELEMENTWISE[rng.integers(len(ELEMENTWISE))],
        Residual(Sequential((same, tanh))),
        Parallel((Conv(n, m, (1, 1)), ELEMENTWISE[rng.integers(len(ELEMENTWISE))]), "concatenation"),
        Dropout(0.3),
    ]
    return layers[rng.integers(len(layers))]


def draw_sequence_layer(rng, shape):
    """Returns a layer that takes a sequence of this shape, whose number of features is even."""
    length, n = shape
    m, heads = int(rng.choice([2, 4])), int(rng.choice([h for h in (1, 2) if n % (2 * h) == 0]))
    cell, attention = (LSTM, GRU, RNN)[rng.integers(3)], (Attention, LeanAttention)[rng.integers(2)]
    settings = {"causal": bool(rng.integers(2)), "rotary": bool(rng.integers(2)), "biases": bool(rng.integers(2))}
    attention = attention(n, heads, key_value_heads=1, **settings)
    if isinstance(attention, LeanAttention):
        attention = LeanAttention(n, heads, key_value_heads=1, block=2, **settings)
    layers = [
        attention,
        Residual(Sequential((LayerNorm(n), attention))),
        Residual(Sequential((RMSNorm(n), FeedForward(n, 3)))),
        (GLU, SwiGLU)[rng.integers(2)](n, 3),
        cell(n, m, reverse=bool(rng.integers(2))),
        bidirectional(cell(n, m)),
        Conv(n, m, (2,), padding=1),
        Each(Dense(n, m)),
        LearnedPositions(length, n),
        SinusoidalPositions(n),
        LayerNorm(n),
        ELEMENTWISE[rng.integers(len(ELEMENTWISE))],
    ]
    return layers[rng.integers(len(layers))]


def draw_network(seed):
    """Returns a model, a loss, parameters, inputs and targets."""
    rng = np.random.default_rng(seed)
    is_image = bool(rng.integers(2))
    if is_image:
        shape = (*map(int, rng.integers(2, 6, size=2)), int(rng.integers(1, 4)))
    else:
        shape = (int(rng.integers(1, 6)), int(rng.choice([2, 4])))
    layers, draw = [Input(shape)], draw_image_layer if is_image else draw_sequence_layer
    for _ in range(rng.integers(1, 4)):
        layers.append(draw(rng, _output(layers)))
    ends = [Flatten(), GlobalAvgPool()] + ([] if is_image else [LastStep()])
    layers.append(ends[rng.integers(len(ends))])
    n, m = _output(layers)[-1], int(rng.choice([1, 3]))
    name = str(rng.choice(sorted(LOSSES)))
    loss, _, target = LOSSES[name]
    model = Sequential((*layers, Dense(n, m), *([softmax] if name.startswith("CrossEntropy") else [])))
    keys, examples = jax.random.split(jax.random.key(seed), 3), int(rng.choice([1, 4]))
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(keys[0], leaf.shape), model.init(keys[0]))
    t = jax.vmap(target, (0, None))(jax.random.split(keys[2], examples), m)
    return model, loss, params, jax.random.normal(keys[1], (examples, *shape)), t


def _output(layers):
    model = Sequential(layers)
    return output_shape(model, *example_of(model, model.input_shape)).shape
