"""Layers and losses, each with its handwritten backward."""

from jaxann.nn.activations import (
    ACTIVATIONS,
    Elementwise,
    Softmax,
    elu,
    gelu,
    hard_tanh,
    identity,
    leaky_relu,
    relu,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from jaxann.nn.base import Layer, Wrapper
from jaxann.nn.dense import Dense
from jaxann.nn.dropout import Dropout
from jaxann.nn.losses import (
    LOSSES,
    AbsoluteError,
    CrossEntropy,
    Hinge,
    Huber,
    Loss,
    Poisson,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
)
from jaxann.nn.outer import Outer, materialize, sum_examples
from jaxann.nn.precision import MixedPrecision
from jaxann.nn.sequential import Sequential, mlp

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "AbsoluteError",
    "CrossEntropy",
    "Dense",
    "Dropout",
    "Elementwise",
    "Hinge",
    "Huber",
    "Layer",
    "Loss",
    "MixedPrecision",
    "Outer",
    "Poisson",
    "Sequential",
    "SigmoidCrossEntropy",
    "Softmax",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "Wrapper",
    "elu",
    "gelu",
    "hard_tanh",
    "identity",
    "leaky_relu",
    "materialize",
    "mlp",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "sum_examples",
    "tanh",
]
