"""Backward passes that are wrong on purpose, each as people write them: (model, loss) with one thing changed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from jax.lax import logistic

from jaxann import (
    CrossEntropy,
    Elementwise,
    Huber,
    Layer,
    Outer,
    SoftmaxCrossEntropy,
    SquaredError,
    elu,
    gelu,
    identity,
    leaky_relu,
    mlp,
    relu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)


@dataclass(frozen=True)
class Wrong(Layer):
    """`layer` with `spoil` done to what its backward gives."""

    layer: Layer
    spoil: Callable[..., Any]

    def init(self, key):
        return self.layer.init(key)

    def forward(self, params, x, key=None):
        return self.layer.forward(params, x, key)

    def backward(self, params, saved, dy):
        return self.spoil(params, saved, dy, *self.layer.backward(params, saved, dy))


def dense(spoil):
    """A network of which the middle layer, square so that no shape betrays it, is spoilt."""
    model = mlp((4, 5, 5, 3), hidden=tanh)
    layers = list(model.layers)
    layers[2] = Wrong(layers[2], spoil)
    return replace(model, layers=layers), SquaredError()


def activation(right, derivative):
    """A network with another derivative for its activation."""
    return mlp((4, 5, 5, 3), hidden=Elementwise(right.name, right.function, derivative)), SquaredError()


def output(spoil):
    return mlp((4, 5, 3), hidden=tanh, output=Wrong(softmax, spoil)), CrossEntropy()


def loss(right, gradient):
    """A network with another gradient for its loss, which keeps its value."""
    wrong = type("Wrong" + type(right).__name__, (type(right),), {"gradient": lambda self, y, t: gradient(y, t)})
    return mlp((4, 5, 3), hidden=tanh, output=softmax if isinstance(right, CrossEntropy) else identity), wrong()


def chain(spoil):
    """A network whose chain of backwards is spoilt."""
    return Wrong(mlp((4, 5, 5, 3), hidden=tanh), spoil), SquaredError()


def bias_entry_zeroed(p, s, dy, g, dx):
    return {"W": g["W"], "b": g["b"].at[1].set(0)}, dx


def swapped(p, s, dy, g, dx):
    return (*g[:2], g[2] | {"b": g[0]["b"]}, g[3], g[4], g[5]), dx


def elsewhere(p, s, dy, g, dx):
    """The chain with its activations skipped: dy reaches the middle layer as it left the last."""
    return (*g[:2], g[2] | {"b": p[4]["W"].T @ dy}, g[3], g[4], g[5]), dx


NOTEBOOK = {  # the four that keep the derivation's own network from learning, 1 + e⁺ˣ being also its forward
    "sigmoid: its sign, the forward having e to the +x": activation(
        Elementwise("sigmoid", lambda x: logistic(-x), sigmoid.derivative), lambda x, y: y * (1 - y)
    ),
    "softmax: the Jacobian taken at the logits": output(
        lambda p, y, dy, g, dx: (g, jnp.log(y) * (dy - jnp.log(y) @ dy)),
    ),
    "cross-entropy: the binary derivative": loss(CrossEntropy(), lambda y, t: -t / y + (1 - t) / (1 - y)),
    "bias: added instead of subtracted": dense(lambda p, s, dy, g, dx: ({"W": g["W"], "b": -g["b"]}, dx)),
}

MUTANTS = NOTEBOOK | {
    "W: transposed": dense(lambda p, x, dy, g, dx: ({"W": Outer(x, dy), "b": g["b"]}, dx)),
    "W: a tenth of a per cent too long": dense(lambda p, x, dy, g, dx: ({"W": Outer(1.001 * dy, x), "b": dy}, dx)),
    "W: zero": dense(lambda p, x, dy, g, dx: ({"W": Outer(0 * dy, x), "b": dy}, dx)),
    "W: the product instead of the outer product": dense(
        lambda p, x, dy, g, dx: ({"W": Outer(dy * x, x), "b": dy}, dx)
    ),
    "b: one entry zero": dense(bias_entry_zeroed),
    "b: summed over the neurons": dense(lambda p, x, dy, g, dx: ({"W": g["W"], "b": dy * 0 + dy.sum()}, dx)),
    "dx: W dy instead of its transpose": dense(lambda p, x, dy, g, dx: (g, p["W"] @ dy)),
    "dx: passed through": dense(lambda p, x, dy, g, dx: (g, dy)),
    "dx: zero": dense(lambda p, x, dy, g, dx: (g, 0 * dx)),
    "weight decay that the loss does not have": dense(
        lambda p, x, dy, g, dx: ({"W": g["W"] + Outer(1e-3 * p["W"], jnp.eye(5)), "b": dy}, dx)
    ),
    "tanh: 1 - x²": activation(tanh, lambda x, y: 1 - x * x),
    "tanh: 1 - y": activation(tanh, lambda x, y: 1 - y),
    "sigmoid: of the output once more": activation(sigmoid, lambda x, y: logistic(y) * (1 - logistic(y))),
    "sigmoid: left out": activation(sigmoid, lambda x, y: jnp.ones_like(y)),
    "relu: the wrong side": activation(relu, lambda x, y: jnp.where(x < 0, 1, 0)),
    "relu: everywhere": activation(relu, lambda x, y: jnp.ones_like(y)),
    "leaky relu: slope 0.1": activation(leaky_relu, lambda x, y: jnp.where(x >= 0, 1, 0.1)),
    "elu: y instead of y + 1": activation(elu, lambda x, y: jnp.where(x > 0, 1, y)),
    "gelu: without x φ(x)": activation(gelu, lambda x, y: y / x),
    "silu: sigmoid's": activation(silu, lambda x, y: logistic(x) * (1 - logistic(x))),
    "softplus: of the output": activation(softplus, lambda x, y: logistic(y)),
    "softmax: the diagonal only": output(lambda p, y, dy, g, dx: (g, y * (1 - y) * dy)),
    "softmax: without the diagonal": output(lambda p, y, dy, g, dx: (g, -y * (y @ dy))),
    "squared error: without the half": loss(SquaredError(), lambda y, t: 2 * (y - t)),
    "squared error: the mean over outputs": loss(SquaredError(), lambda y, t: (y - t) / y.size),
    "squared error: t - y": loss(SquaredError(), lambda y, t: t - y),
    "cross-entropy: already fused": loss(CrossEntropy(), lambda y, t: y - t),
    "fused cross-entropy: y - t of the logits": loss(SoftmaxCrossEntropy(), lambda y, t: y - t),
    "Huber: not clipped": loss(Huber(), lambda y, t: y - t),
    "chain: two biases' gradients swapped": chain(swapped),
    "chain: the activations skipped": chain(elsewhere),
}
