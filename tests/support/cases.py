"""Every public layer, activation and loss, each with data to try it on. Tests in tests/nn check that all are here."""

import jax
from support.layers import Tied

from jaxann.nn import (
    ACTIVATIONS,
    AbsoluteError,
    CrossEntropy,
    Dense,
    Dropout,
    Hinge,
    Huber,
    Poisson,
    Sequential,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
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
