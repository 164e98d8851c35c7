"""Every public layer, activation and loss, each with data to try it on. Tests in tests/nn check that all are here."""

import jax
from support.layers import Tied

from jaxann.nn import (
    ACTIVATIONS,
    GLU,
    GRU,
    LSTM,
    RNN,
    AbsoluteError,
    AdaptiveAvgPool,
    Affine,
    Attention,
    AvgPool,
    Conv,
    ConvTransposed,
    CrossEntropy,
    Dense,
    Dropout,
    Each,
    FeedForward,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    Hinge,
    Huber,
    Input,
    InstanceNorm,
    LastStep,
    LayerNorm,
    LeanAttention,
    LearnedPositions,
    MaxPool,
    Parallel,
    Poisson,
    Recomputed,
    Repeat,
    Reshape,
    Residual,
    RMSNorm,
    Sequential,
    SigmoidCrossEntropy,
    SinusoidalPositions,
    SoftmaxCrossEntropy,
    SquaredError,
    SwiGLU,
    Wrapper,
    mlp,
    relu,
    softmax,
    tanh,
)
from jaxann.rules import threshold

LAYERS = {  # a layer and the shape of an input for it
    "Dense": (Dense(5, 3), (5,)),
    "Dense from one to one": (Dense(1, 1), (1,)),
    "Sequential": (Sequential((Dense(4, 3), relu, Dense(3, 2))), (4,)),
    "Sequential in Sequential": (Sequential((tanh, Sequential((Dense(4, 3), softmax)), Dense(3, 1))), (4,)),
    "mlp": (mlp((4, 5, 3), output=softmax), (4,)),
    "a matrix used twice": (Tied(4, 3), (4,)),
    **{name: (layer, (7,)) for name, layer in ACTIVATIONS.items()},
    "softmax of one": (softmax, (1,)),
    "threshold": (threshold, (7,)),
    "Wrapper": (Wrapper(Dense(4, 3)), (4,)),
    "Dropout": (Dropout(0.3), (7,)),
    "Dropout in a network": (mlp((4, 5, 3), dropout=0.5), (4,)),
    "LayerNorm": (LayerNorm(5), (5,)),
    "LayerNorm at places, without a shift": (LayerNorm(3, shift=False), (2, 2, 3)),
    "RMSNorm": (RMSNorm(3), (2, 3)),
    "RMSNorm without a scale": (RMSNorm(3, scale=False), (3,)),
    "InstanceNorm": (InstanceNorm(2), (3, 2)),
    "GroupNorm": (GroupNorm(4, 2, epsilon=0.1), (3, 2, 4)),
    "GroupNorm of a vector, without parameters": (GroupNorm(6, 2, scale=False, shift=False), (6,)),
    "Affine": (Affine(3), (2, 3)),
    "Conv": (Conv(2, 3, (3, 2), stride=(2, 1), padding=1), (4, 3, 2)),
    "Conv of a sequence, in groups": (Conv(2, 4, (2,), dilation=2, groups=2, bias=False), (5, 2)),
    "ConvTransposed": (ConvTransposed(2, 3, (2, 2), stride=2, padding=(1, 0), output_padding=1), (2, 2, 2)),
    "MaxPool": (MaxPool((2, 2)), (5, 4, 2)),
    "MaxPool of overlapping windows": (MaxPool((3, 2), stride=(2, 1), padding=(1, (0, 1))), (5, 3, 2)),
    "MaxPool of a sequence, with a stride beyond the window": (MaxPool((2,), stride=3), (6, 2)),
    "AvgPool of a volume": (AvgPool((2, 1, 2)), (2, 2, 3, 2)),
    "AvgPool of overlapping windows": (AvgPool((3,), stride=2, padding=((2, 1),)), (5, 2)),
    "GlobalAvgPool": (GlobalAvgPool(), (3, 2, 2)),
    "AdaptiveAvgPool": (AdaptiveAvgPool((2, 3)), (5, 2, 2)),
    "Input": (Input((2, 3)), (2, 3)),
    "Reshape": (Reshape((2, 6), (3, 2, 2)), (2, 6)),
    "Flatten": (Flatten(), (2, 3)),
    "Residual": (Residual(Sequential((Dense(3, 4), tanh, Dense(4, 3)))), (3,)),
    "Parallel, added": (Parallel((Dense(3, 3), tanh, Residual(Dense(3, 3)))), (3,)),
    "Each": (Each(Dense(3, 2)), (4, 3)),
    "Recomputed": (Recomputed(mlp((3, 2))), (3,)),
    "Repeat": (Repeat(Residual(Dense(3, 3)), 2), (3,)),
    "Parallel, concatenated": (Parallel((Dense(3, 2), tanh, Dense(3, 1)), "concatenation"), (3,)),
    "RNN": (RNN(2, 3), (4, 2)),
    "GRU, reversed": (GRU(2, 3, reverse=True), (3, 2)),
    "LSTM": (LSTM(2, 3), (3, 2)),
    "LSTM of one step": (LSTM(2, 2), (1, 2)),
    "LastStep": (LastStep(), (3, 2)),
    "FeedForward": (FeedForward(3, 5), (2, 3)),
    "GLU": (GLU(3, 4), (3,)),
    "SwiGLU at places": (SwiGLU(3, 4), (2, 2, 3)),
    "LearnedPositions": (LearnedPositions(5, 3), (4, 3)),
    "SinusoidalPositions": (SinusoidalPositions(3), (4, 3)),
    "Attention": (Attention(4, 2), (3, 4)),
    "LeanAttention": (LeanAttention(8, 4, key_value_heads=2, rotary=True, biases=True, block=2), (3, 8)),
}
# The fast tests compare every layer with autodiff in float64, and these layers with nothing else.
BRIEFLY = {
    *ACTIVATIONS.keys() - {"sigmoid", "relu", "softmax", "gelu"},
    "LayerNorm",
    "LayerNorm at places, without a shift",
    "RMSNorm",
    "RMSNorm without a scale",
    "InstanceNorm",
    "GroupNorm",
    "GroupNorm of a vector, without parameters",
    "Affine",
    "Conv",
    "Conv of a sequence, in groups",
    "ConvTransposed",
    "MaxPool",
    "MaxPool of a sequence, with a stride beyond the window",
    "AvgPool of a volume",
    "AvgPool of overlapping windows",
    "GlobalAvgPool",
    "AdaptiveAvgPool",
    "Input",
    "Reshape",
    "Flatten",
    "Residual",
    "Parallel, added",
    "RNN",
    "GRU, reversed",
    "LSTM",
    "LSTM of one step",
    "LastStep",
    "FeedForward",
    "GLU",
    "SwiGLU at places",
    "LearnedPositions",
    "SinusoidalPositions",
    "Attention",
    "LeanAttention",
    "Each",
    "Recomputed",
    "Repeat",
}


def normal(key, m):
    return jax.random.normal(key, (m,))


def distribution(key, m):
    return jax.nn.softmax(jax.random.normal(key, (m,)))


def unnormalized(key, m):
    return jax.random.uniform(key, (m,))


def label(key, m):
    return jax.random.randint(key, (), 0, m)


def sign(key, m):
    return jax.random.rademacher(key, (m,)).astype(float)


def count(key, m):
    return jax.random.poisson(key, 2.0, (m,)).astype(float)


LOSSES = {  # a loss, and the functions that draw an output and a target for it
    "SquaredError": (SquaredError(), normal, normal),
    "AbsoluteError": (AbsoluteError(), normal, normal),
    "Huber": (Huber(), lambda key, m: 3 * normal(key, m), normal),
    "Huber, narrow": (Huber(0.3), normal, normal),
    "Hinge": (Hinge(), normal, sign),
    "Poisson": (Poisson(), normal, count),
    "CrossEntropy": (CrossEntropy(), distribution, distribution),
    "CrossEntropy, targets of any sum": (CrossEntropy(), unnormalized, unnormalized),
    "SoftmaxCrossEntropy": (SoftmaxCrossEntropy(), normal, distribution),
    "SoftmaxCrossEntropy, targets of any sum": (SoftmaxCrossEntropy(), normal, unnormalized),
    "SoftmaxCrossEntropy, labels": (SoftmaxCrossEntropy(), normal, label),
    "SoftmaxCrossEntropy, smoothed": (SoftmaxCrossEntropy(0.1), normal, distribution),
    "SoftmaxCrossEntropy, smoothed labels": (SoftmaxCrossEntropy(0.1), normal, label),
    "SigmoidCrossEntropy": (SigmoidCrossEntropy(), normal, unnormalized),
}
