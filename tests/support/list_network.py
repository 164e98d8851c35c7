"""A network as a notebook has it: layers in NumPy that keep lists of what they saw and change themselves in a step.

Four of its formulas are wrong: the sigmoid's derivative has another sign than its forward, which has e to the +x; the
softmax's Jacobian is taken at the logits; the cross-entropy has the derivative of the binary one; and the bias is added
to where it should be subtracted from.
"""

import math

import numpy as np


def sigmoid(x):
    return np.array([1 / (1 + math.exp(number)) for number in x])


def sigmoid_slope(x):
    return sigmoid(x) * (1 - sigmoid(x))


def softmax(x):
    return np.exp(x) / np.sum(np.exp(x))


def softmax_jacobian(x):
    column = x.reshape(-1, 1)
    return np.diagflat(column) - column @ column.T


def cross_entropy(y, t):
    return -sum(target * math.log(output) for output, target in zip(y, t, strict=True))


def cross_entropy_gradient(y, t):
    return np.array([-b / a + (1 - b) / (1 - a) for a, b in zip(y, t, strict=True)])


class ListLayer:
    """A layer σ(W x + b) of a network, which is a chain of layers that know each other."""

    def __init__(self, n, m, rate, activation, slope, batch, seed):
        self.W, self.b = np.random.default_rng(seed).normal(size=(m, n)) / n, np.zeros(m)
        self.rate, self.batch = rate, batch
        self.activation, self.slope = activation, slope
        self.next = self.previous = None
        self.inputs, self.outputs = [], []

    def propagate(self, x):
        self.inputs.append(x)
        self.outputs.append(self.W @ x + self.b)
        y = self.activation(self.outputs[-1])
        return y if self.next is None else self.next.propagate(y)

    def propagate_back(self, deltas):
        """Takes ∂E/∂y of each example, and changes the parameters of this layer and of those before it."""
        W_step, b_step, below = np.zeros_like(self.W), np.zeros_like(self.b), []
        for x, output, delta in zip(self.inputs, self.outputs, deltas, strict=True):
            slope = self.slope(output)
            d = slope @ delta if slope.ndim == 2 else slope * delta
            W_step += np.outer(d, x)
            b_step += d
            below.append(self.W.T @ d)
        self.W -= self.rate / self.batch * W_step
        self.b += self.rate / self.batch * b_step
        self.inputs, self.outputs = [], []
        if self.previous is not None:
            self.previous.propagate_back(below)
