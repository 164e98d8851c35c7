"""The mutants as people write them in NumPy: batches, one row for each example, and nothing of jaxann.

Each is a forward with a wrong backward(dy, *args), or a network's loss with a wrong gradient function.
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

# Losses of outputs y, of which the targets are integers, so that they have no gradient.

Y = RNG.normal(size=(4, 3))
COUNTS, SIGNS, CLASSES = (
    RNG.integers(0, 3, (4, 3)),
    2 * RNG.integers(0, 2, (4, 3)) - 1,
    np.eye(3, dtype=int)[[0, 2, 1, 2]],
)


def of_loss(value, slope, t=COUNTS, y=Y):
    return Pair(value, lambda dy, y, t: dy * slope(y, t), (y, t), ("y",))


def squared_error(y, t):
    return ((y - t) ** 2).sum() / 2


def absolute_error(y, t):
    return np.abs(y - t).sum()


def huber(y, t):
    d = np.abs(y - t)
    return np.where(d <= 1, d**2 / 2, d - 1 / 2).sum()


def hinge(y, t):
    return np.maximum(1 - t * y, 0).sum()


def poisson(y, t):
    return (np.exp(y) - t * y).sum()


def cross_entropy(y, t):
    return -(t * np.log(y)).sum()


def log_softmax(y):
    y = y - y.max(axis=1, keepdims=True)
    return y - np.log(np.exp(y).sum(axis=1, keepdims=True))


def softmax_cross_entropy(y, t):
    return -(t * log_softmax(y)).sum()


def smooth_cross_entropy(y, t):
    return -((0.8 * t + 0.2 / 3) * log_softmax(y)).sum()


def sigmoid_cross_entropy(y, t):
    return (np.logaddexp(0, y) - t * y).sum()


P = softmax(Y)
LOSSES = {
    "cross-entropy: the binary derivative": of_loss(cross_entropy, lambda y, t: -t / y + (1 - t) / (1 - y), CLASSES, P),
    "squared error: without the half": of_loss(squared_error, lambda y, t: 2 * (y - t)),
    "squared error: the mean over outputs": of_loss(squared_error, lambda y, t: (y - t) / y.size),
    "squared error: t - y": of_loss(squared_error, lambda y, t: t - y),
    "absolute error: not its sign": of_loss(absolute_error, lambda y, t: y - t),
    "absolute error: zero at the target": of_loss(absolute_error, lambda y, t: np.where(y > t, 1, -1) * (y != t)),
    "Huber: not clipped": of_loss(huber, lambda y, t: y - t),
    "hinge: beyond the margin too": of_loss(hinge, lambda y, t: -t, SIGNS),
    "hinge: -t at the margin": of_loss(hinge, lambda y, t: np.where(1 - t * y < 0, 0, -t), SIGNS),
    "Poisson: without the count": of_loss(poisson, lambda y, t: np.exp(y)),
    "cross-entropy: already fused": of_loss(cross_entropy, lambda y, t: y - t, CLASSES, P),
    "cross-entropy: sign": of_loss(cross_entropy, lambda y, t: t / y, CLASSES, P),
    "fused cross-entropy: y - t of the logits": of_loss(softmax_cross_entropy, lambda y, t: y - t, CLASSES),
    "fused cross-entropy: smoothing forgotten": of_loss(smooth_cross_entropy, lambda y, t: softmax(y) - t, CLASSES),
    "binary cross-entropy: y - t of the logits": of_loss(sigmoid_cross_entropy, lambda y, t: y - t, CLASSES),
}

# A network y = tanh(tanh(x W1 + b1) W2 + b2) W3 + b3.

WEIGHTS = {"W1": SQUARE[:4], "b1": BIAS, "W2": SQUARE.T.copy(), "b2": BIAS[::-1].copy()}
WEIGHTS |= {"W3": SQUARE[:, :3].copy(), "b3": BIAS[:3]}


def network(x, W1, b1, W2, b2, W3, b3):
    return np.tanh(np.tanh(x @ W1 + b1) @ W2 + b2) @ W3 + b3


def network_backward(dy, x, W1, b1, W2, b2, W3, b3, skip=False):
    h1 = np.tanh(x @ W1 + b1)
    h2 = np.tanh(h1 @ W2 + b2)
    d2 = (dy @ W3.T) * (1 - h2**2)
    d1 = (d2 @ W2.T) * (1 - h1**2)
    return {
        "x": d1 @ W1.T,
        "W1": x.T @ d1,
        "b1": d1.sum(axis=0),
        "W2": h1.T @ d2,
        "b2": (dy @ W3.T if skip else d2).sum(axis=0),
        "W3": h2.T @ dy,
        "b3": dy.sum(axis=0),
    }


def of_network(spoil, *wrong):
    def backward(dy, x, W1, b1, W2, b2, W3, b3):
        args = dy, x, W1, b1, W2, b2, W3, b3
        return network_backward(*args) | spoil(network_backward(*args), args)

    return Pair(network, backward, (X[:, :4], *WEIGHTS.values()), wrong)


def of_reversed():
    def forward(x, W1, b1, W2, b2):
        return (x @ W1 + b1) @ W2 + b2

    def backward(dy, x, W1, b1, W2, b2):
        h, d = x @ W1 + b1, dy @ W2.T
        return {"x": d @ W1.T, "W1": h.T @ dy, "b1": dy.sum(axis=0), "W2": x.T @ d, "b2": d.sum(axis=0)}

    args = X[:, :4], SQUARE[:4, :4].copy(), BIAS[:4], SQUARE[1:, 1:].copy(), BIAS[1:]
    return Pair(forward, backward, args, ("W1", "b1", "W2", "b2"))


def of_shifted():
    def forward(x):
        return np.tanh(np.tanh(np.tanh(x)))

    def backward(dy, x):
        y1 = np.tanh(x)
        y2 = np.tanh(y1)
        y3 = np.tanh(y2)
        return dy * (1 - y3**2) * (1 - y3**2) * (1 - y2**2)

    return Pair(forward, backward, (X,), ("x",))


CHAINS = {
    "chain: two biases' gradients swapped": of_network(lambda g, args: {"b1": g["b2"], "b2": g["b1"]}, "b1", "b2"),
    "chain: an activation skipped": of_network(lambda g, args: {"b2": network_backward(*args, skip=True)["b2"]}, "b2"),
    "chain: the last bias's gradient forgotten": of_network(lambda g, args: {"b3": 0 * g["b3"]}, "b3"),
    "chain: gradients in reverse order": of_reversed(),
    "chain: off by one": of_shifted(),
}

# The value and the gradient of the same network's mean loss. A mistake in the value alone is none of the gradient's.

INPUTS, TARGETS, IMPORTANCE = X[:, :4], RNG.normal(size=(6, 3)), RNG.uniform(0.1, 1, 6)


MATRICES = ("W1", "W2", "W3")


def losses(params):
    return ((network(INPUTS, **params) - TARGETS) ** 2).sum(axis=1) / 2


def gradient(params, weights, rows=slice(None)):
    x, dy = INPUTS[rows], network(INPUTS[rows], **params) - TARGETS[rows]
    grads = network_backward(dy * weights[:, None], x, **params)
    return {name: grads[name] for name in params}


def of_batch(wrong):
    return Pair(lambda params: losses(params).mean(), wrong, (WEIGHTS,), tuple(WEIGHTS), True)


def of_weights(share):
    """Takes by how much an example counts in the gradient, as a function of the weights."""

    def backward(dy, params, weights):
        return gradient(params, dy * share(weights)), None

    names = tuple(f"params.{name}" for name in WEIGHTS)
    return Pair(lambda params, weights: np.average(losses(params), weights=weights), backward, (WEIGHTS, IMPORTANCE), names)


def of_decay(decay):
    """Takes the weight decay in the gradient, which is 0.01 in the value."""

    def value(params):
        return losses(params).mean() + 0.005 * sum((params[name] ** 2).sum() for name in MATRICES)

    def wrong(params):
        grads = gradient(params, np.full(6, 1 / 6))
        return {name: g + decay * params[name] if name in MATRICES else g for name, g in grads.items()}

    return Pair(value, wrong, (WEIGHTS,), MATRICES, True)


BATCHES = {
    "batch: the sum, of all": of_batch(lambda params: gradient(params, np.ones(6))),
    "batch: the sum, of the gradients": of_batch(lambda params: (losses(params).mean(), gradient(params, np.ones(6)))),
    "batch: the first example for all": of_batch(lambda params: gradient(params, np.ones(1), slice(1))),
    "batch: weights forgotten": of_weights(lambda weights: np.full(6, 1 / 6)),
    "batch: weights without their sum": of_weights(lambda weights: weights),
    "training step: weight decay forgotten": of_decay(0),
    "training step: weight decay doubled": of_decay(0.02),
}

PAIRS = DENSE | ACTIVATIONS | LAYERS | LOSSES | CHAINS | BATCHES
