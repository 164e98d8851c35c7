"""jaxann: neural networks in JAX whose backward pass is written by hand, and shown equal to `jax.grad`."""

from jaxann.activations import (
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
from jaxann.autodiff import autodiff
from jaxann.backprop import backprop
from jaxann.batches import Examples
from jaxann.check import check, check_layer
from jaxann.compare import Comparison, compare
from jaxann.differentiable import differentiable
from jaxann.layer import Layer, Outer, formed, sum_examples
from jaxann.layers import Dense, Dropout, MixedPrecision, Sequential, mlp
from jaxann.losses import (
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
from jaxann.per_example import clipped, per_example
from jaxann.report import Report, Row
from jaxann.rule import Angles, Rule
from jaxann.rules import (
    RULES,
    ClippedDeltas,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    KolenPollack,
    NoisyDeltas,
    OutputLayerOnly,
    SignSymmetric,
    StraightThrough,
    threshold,
)
from jaxann.training import History, fit, predict
