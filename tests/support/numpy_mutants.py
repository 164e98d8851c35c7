"""The mutants of losses and networks in NumPy, and `PAIRS`, which has those of layers, too.

Each is a forward with a wrong backward(dy, *args), or a network's loss with a wrong gradient function.
"""

import numpy as np
from support.numpy_layers import ACTIVATIONS, BIAS, DENSE, LAYERS, RNG, SQUARE, Pair, X, softmax

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
    return Pair(
        lambda params, weights: np.average(losses(params), weights=weights), backward, (WEIGHTS, IMPORTANCE), names
    )


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
