"""The mutants of layers as people write them in NumPy: batches, one row for each example, and nothing of jaxann.

Each is a forward with a wrong backward(dy, *args).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Pair:
    """A right forward with a wrong backward.

    Attributes:
        forward: The forward, or the value of a network's loss as a function of its parameters.
        backward: A backward(dy, *args), or the gradient as a function of the parameters.
        args: The arguments of the forward.
        wrong: The names of the gradients that are wrong.
        is_gradient: Whether the pair is a value with its gradient.
    """

    forward: Any
    backward: Any
    args: tuple[Any, ...]
    wrong: tuple[str, ...]
    is_gradient: bool = False


RNG = np.random.default_rng(0)
X, SQUARE, BIAS = RNG.normal(size=(6, 5)), RNG.normal(size=(5, 5)), RNG.normal(size=5)
MASK = (np.arange(30).reshape(6, 5) % 3 > 0).astype(float)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def row_sum(x):
    return x.sum(axis=1, keepdims=True)


# A dense layer, y = x W + b.


def dense(x, W, b):
    return x @ W + b


def dense_backward(dy, x, W, b):
    return {"x": dy @ W.T, "W": x.T @ dy, "b": dy.sum(axis=0)}


def of_dense(**wrong):
    """Replaces some of the formulas for the gradients of x, W and b."""

    def backward(dy, x, W, b):
        return dense_backward(dy, x, W, b) | {name: formula(dy, x, W, b) for name, formula in wrong.items()}

    return Pair(dense, backward, (X, SQUARE, BIAS), tuple(wrong))


def half(dy):
    return dy.astype(np.float16).astype(float)


DENSE = {
    "bias: added instead of subtracted": of_dense(b=lambda dy, x, W, b: -dy.sum(axis=0)),
    "W: transposed": of_dense(W=lambda dy, x, W, b: dy.T @ x),
    "W: a tenth of a per cent too long": of_dense(W=lambda dy, x, W, b: 1.001 * x.T @ dy),
    "W: zero": of_dense(W=lambda dy, x, W, b: np.zeros_like(W)),
    "W: the product instead of the outer product": of_dense(W=lambda dy, x, W, b: x.T @ (dy * x)),
    "W: one neuron forgotten": of_dense(W=lambda dy, x, W, b: x.T @ (dy * np.array([1, 1, 1, 1, 0]))),
    "b: one entry zero": of_dense(b=lambda dy, x, W, b: dy.sum(axis=0) * np.array([1, 0, 1, 1, 1])),
    "b: forgotten": of_dense(b=lambda dy, x, W, b: np.zeros_like(b)),
    "b: twice": of_dense(b=lambda dy, x, W, b: 2 * dy.sum(axis=0)),
    "b: summed over the neurons": of_dense(b=lambda dy, x, W, b: np.full(5, dy.sum())),
    "dx: W dy instead of its transpose": of_dense(x=lambda dy, x, W, b: dy @ W),
    "dx: passed through": of_dense(x=lambda dy, x, W, b: dy),
    "dx: zero": of_dense(x=lambda dy, x, W, b: np.zeros_like(x)),
    "W: weight decay that the loss does not have": of_dense(W=lambda dy, x, W, b: x.T @ dy + 1e-3 * W),
    "W and b: in half precision": of_dense(
        W=lambda dy, x, W, b: x.T @ half(dy), b=lambda dy, x, W, b: half(dy).sum(axis=0)
    ),
}

# Activations and other layers of one argument.


def elementwise(forward, slope):
    """Takes a slope as a function of the input and the output."""
    return Pair(forward, lambda dy, x: dy * slope(x, forward(x)), (X,), ("x",))


def of_one(forward, backward):
    return Pair(forward, lambda dy, x: backward(x, forward(x), dy), (X,), ("x",))


def identity(x):
    return x + 0


def relu(x):
    return np.maximum(x, 0)


def leaky_relu(x):
    return np.where(x >= 0, x, 0.01 * x)


def elu(x):
    return np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)


ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805


def selu(x):
    return SCALE * np.where(x > 0, x, ALPHA * (np.exp(np.minimum(x, 0)) - 1))


def normal_cdf(x):
    """Φ(x), by the usual approximation of GELU with a tanh."""
    return (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def gelu(x):
    return x * normal_cdf(x)


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def hard_tanh(x):
    return np.clip(x, -1, 1)


def flipped_sigmoid(x):
    return 1 / (1 + np.exp(x))


def ones(x, y):
    return np.ones_like(x)


def sigmoid_slope(x):
    return sigmoid(x) * (1 - sigmoid(x))


ACTIVATIONS = {
    "sigmoid: its sign, with e to the +x in forward": elementwise(flipped_sigmoid, lambda x, y: y * (1 - y)),
    "identity: zero": elementwise(identity, lambda x, y: np.zeros_like(x)),
    "tanh: 1 - x²": elementwise(np.tanh, lambda x, y: 1 - x**2),
    "tanh: 1 - y": elementwise(np.tanh, lambda x, y: 1 - y),
    "tanh: sigmoid's": elementwise(np.tanh, lambda x, y: sigmoid_slope(x)),
    "sigmoid: of the output once more": elementwise(sigmoid, lambda x, y: sigmoid_slope(y)),
    "sigmoid: left out": elementwise(sigmoid, ones),
    "relu: the wrong side": elementwise(relu, lambda x, y: x < 0),
    "relu: everywhere": elementwise(relu, ones),
    "relu: one at zero": elementwise(relu, lambda x, y: x >= 0),
    "relu: one at minus zero": elementwise(relu, lambda x, y: (x > 0) | ((x == 0) & np.signbit(x))),
    "leaky relu: slope 0.1": elementwise(leaky_relu, lambda x, y: np.where(x >= 0, 1, 0.1)),
    "leaky relu: the lower slope at zero": elementwise(leaky_relu, lambda x, y: np.where(x > 0, 1, 0.01)),
    "elu: y instead of y + 1": elementwise(elu, lambda x, y: np.where(x > 0, 1, y)),
    "selu: without its scale": elementwise(selu, lambda x, y: np.where(x > 0, 1, ALPHA * np.exp(np.minimum(x, 0)))),
    "gelu: without x φ(x)": elementwise(gelu, lambda x, y: normal_cdf(x)),
    "silu: sigmoid's": elementwise(silu, lambda x, y: sigmoid_slope(x)),
    "softplus: of the output": elementwise(softplus, lambda x, y: sigmoid(y)),
    "hard tanh: everywhere": elementwise(hard_tanh, ones),
    "hard tanh: zero at its corners": elementwise(hard_tanh, lambda x, y: np.abs(x) < 1),
    "softmax: the Jacobian taken at the logits": of_one(softmax, lambda x, y, dy: x * (dy - row_sum(x * dy))),
    "softmax: the diagonal only": of_one(softmax, lambda x, y, dy: y * (1 - y) * dy),
    "softmax: without the diagonal": of_one(softmax, lambda x, y, dy: -y * (row_sum(y * dy) - y * dy)),
    "softmax: without the sum": of_one(softmax, lambda x, y, dy: y * dy),
    "softmax: sign": of_one(softmax, lambda x, y, dy: -y * (dy - row_sum(y * dy))),
    "dropout: without 1 / (1 - rate)": of_one(lambda x: x * MASK / 0.7, lambda x, y, dy: dy * MASK),
    "dropout: without its mask": of_one(lambda x: x * MASK / 0.7, lambda x, y, dy: dy),
    "residual: without the skip connection": of_one(
        lambda x: x + np.tanh(x), lambda x, y, dy: dy * (1 - np.tanh(x) ** 2)
    ),
    "residual: the skip connection alone": of_one(lambda x: x + np.tanh(x), lambda x, y, dy: dy),
}

# Layers with parameters of their own.


def layer_norm(x, scale, shift):
    z = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    return scale * z + shift


def of_layer_norm(mistake, *wrong):
    def backward(dy, x, scale, shift):
        sd = np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
        z = (x - x.mean(axis=1, keepdims=True)) / sd
        dz = dy if mistake == "scale" else scale * dy
        mean = 0 if mistake == "mean" else dz.mean(axis=1, keepdims=True)
        along = 0 if mistake == "variance" else z * (dz * z).mean(axis=1, keepdims=True)
        dscale = dy if mistake == "scale's" else z * dy
        return (dz - mean - along) / sd, dscale.sum(axis=0), dy.sum(axis=0)

    return Pair(layer_norm, backward, (X, BIAS + 2, BIAS[::-1].copy()), wrong)


def of_tied():
    def forward(x, W):
        return np.tanh(x @ W) @ W.T

    def backward(dy, x, W):
        h = np.tanh(x @ W)
        dz = (1 - h**2) * (dy @ W)
        return dz @ W.T, dy.T @ h

    return Pair(forward, backward, (X, SQUARE[:, :4]), ("W",))


def of_neurons(mistake):
    def forward(x, W, b):
        return sigmoid(x @ W + b)

    def backward(dy, x, W, b):
        y = forward(x, W, b)
        y = sigmoid(y) if mistake == "output" else y
        dz = dy if mistake == "derivative" else y * (1 - y) * dy
        return dz @ W.T, x.T @ dz, dz.sum(axis=0)

    return Pair(forward, backward, (X, SQUARE, BIAS), ("x", "W", "b"))


def of_positions(b):
    def backward(dy, x, W, bias):
        return dy @ W.T, x.T @ dy, b(dy)

    def forward(x, W, b):
        return x @ W + b

    return Pair(forward, backward, (X[:3, :4], SQUARE[:4, :3], BIAS[:3]), ("b",))


LAYERS = {
    "layer norm: without the mean": of_layer_norm("mean", "x"),
    "layer norm: the variance constant": of_layer_norm("variance", "x"),
    "layer norm: dx without its scale": of_layer_norm("scale", "x"),
    "layer norm: dy for its scale": of_layer_norm("scale's", "scale"),
    "positions: b summed over the neurons": of_positions(lambda dy: dy.sum(axis=1)),
    "positions: b not summed": of_positions(lambda dy: dy),
    "a matrix used twice: its first use forgotten": of_tied(),
    "neurons: σ' left out": of_neurons("derivative"),
    "neurons: σ' at the output": of_neurons("output"),
}
