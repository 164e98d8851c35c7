"""How a right network, loss or gradient function is made wrong: the builders of the mutants."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxann import backprop
from jaxann.nn import (
    CrossEntropy,
    Dense,
    Elementwise,
    Layer,
    Loss,
    Sequential,
    SquaredError,
    identity,
    mlp,
    softmax,
    tanh,
)


@dataclass(frozen=True)
class Mutant:
    """A network, a loss and a gradient function, one of which is wrong.

    Attributes:
        model: The network.
        loss: The loss.
        wrong: The paths of the gradients that a check must find to be wrong.
        cause: The cause that the check should name.
        gradient: Makes a gradient function of the model and the loss.
        on_purpose: The paths that are declared to differ on purpose.
    """

    model: Layer
    loss: Loss
    wrong: tuple[str, ...] = ()
    cause: str = ""
    gradient: Callable = backprop
    on_purpose: tuple[str, ...] = ()


def mutate_dense(spoil, *paths, cause="none"):
    """Spoils the backward of a network's middle layer, which is square so that no shape gives the mistake away."""

    class WrongDense(Dense):
        def backward(self, params, saved, dy):
            return spoil(params, saved, dy, *super().backward(params, saved, dy))

    return Mutant(Sequential((Dense(4, 5), tanh, WrongDense(5, 5), tanh, Dense(5, 3))), SquaredError(), paths, cause)


def mutate_activation(right, derivative, cause="none"):
    """Replaces the derivative of a network's activation."""
    wrong = Elementwise(right.name, right.function, derivative)
    return Mutant(Sequential((Dense(4, 5), wrong, Dense(5, 3))), SquaredError(), ("1.dx",), cause)


def insert_layer(layer, *paths, cause="none", n=5):
    """Puts a layer in the middle of a network."""
    return Mutant(Sequential((Dense(4, n), layer, Dense(n, 3))), SquaredError(), paths, cause)


def mutate_softmax(backward, cause="none", saves_input=False):
    """Replaces the backward of the softmax at a network's end by a function of its output, or its input, and dy."""

    class Softmax(type(softmax)):
        def forward(self, params, x, key=None):
            y, _ = super().forward(params, x, key)
            return y, x if saves_input else y

        def backward(self, params, saved, dy):
            return (), backward(saved, dy)

    return Mutant(mlp((4, 5, 3), hidden=tanh, output=Softmax()), CrossEntropy(), ("3.dx",), cause)


def mutate_loss(right, gradient, cause="none"):
    """Replaces the gradient of a network's loss, and keeps its value."""
    wrong = type("Wrong" + type(right).__name__, (type(right),), {"gradient": lambda self, y, t: gradient(y, t)})
    settings = {name: getattr(right, name) for name in getattr(right, "__dataclass_fields__", {})}
    end = softmax if isinstance(right, CrossEntropy) else identity
    return Mutant(mlp((4, 5, 3), hidden=tanh, output=end), wrong(**settings), ("loss",), cause)


def mutate_chain(model, *paths, cause="none"):
    """Takes a chain that is wrong itself."""
    return Mutant(model, SquaredError(), paths, cause)


def mutate_gradient(spoil, *paths, cause="none", on_purpose=()):
    """Spoils the gradient function backprop(model, loss)."""

    def gradient(model, loss):
        return spoil(backprop(model, loss))

    return Mutant(mlp((4, 5, 3), hidden=tanh), SquaredError(), paths, cause, gradient, on_purpose)


def zero_entry(p, s, dy, g, dx):
    return {"W": g["W"], "b": g["b"].at[1].set(0)}, dx


def swap_biases(p, s, dy, g, dx):
    return (g[0] | {"b": g[2]["b"]}, g[1], g[2] | {"b": g[0]["b"]}, *g[3:]), dx


def skip_activation(p, s, dy, g, dx):
    """Leaves out the activation above the middle layer."""
    return (*g[:2], g[2] | {"b": p[4]["W"].T @ dy}, *g[3:]), dx


def sum_batch(gradient, scaled=("value", "grads")):
    """Returns the sum over the batch in place of its mean."""

    def wrong(params, x, t, weights=None):
        value, grads = gradient(params, x, t, weights)
        times = {name: len(x) if name in scaled else 1 for name in ("value", "grads")}
        return times["value"] * value, jax.tree.map(lambda leaf: times["grads"] * leaf, grads)

    return wrong


def take_first(gradient):
    return lambda params, x, t, weights=None: gradient(params, x[:1], t[:1], None if weights is None else weights[:1])


def drop_weights(gradient):
    """Weights the value, but not the gradients."""

    def wrong(params, x, t, weights=None):
        return gradient(params, x, t, weights)[0], gradient(params, x, t)[1]

    return wrong


def skip_normalization(gradient):
    """Weights the gradients by w instead of w / Σw."""

    def wrong(params, x, t, weights=None):
        value, grads = gradient(params, x, t, weights)
        total = 1 if weights is None else weights.sum()
        return value, jax.tree.map(lambda leaf: total * leaf, grads)

    return wrong


def decay_weights(times):
    """Adds a weight decay, ½ 0.01 Σ|W|², to the value, and `times` its gradient to the gradients."""

    def spoil(gradient):
        def wrong(params, x, t, weights=None):
            value, grads = gradient(params, x, t, weights)
            matrices = [layer["W"] for layer in params if layer]
            value = value + 0.005 * sum(jnp.sum(W * W) for W in matrices)
            return value, jax.tree.map(lambda g, p: g + times * 0.01 * p if p.ndim == 2 else g, grads, params)

        return wrong

    return spoil
