"""The automatic route to a gradient: `jax.value_and_grad` of the same forward and the same loss.

It is the reference for the handwritten derivatives. No other module differentiates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.gradients.stateful import GradientFunction
from jaxann.nn.base import InputGradient, Layer, Wrapper
from jaxann.nn.batch import forward_batch
from jaxann.nn.loss import Loss, mean_weights


def autodiff(model: Layer, loss: Loss) -> GradientFunction:
    """Returns the gradient function of a model and a loss that differentiates their forward pass automatically.

    It takes and returns the same as `backprop(model, loss)`, and uses `jax.value_and_grad`.

    Args:
        model: The network, a layer.
        loss: The loss of one example.

    Returns:
        (params, x, t, weights=None, key=None) -> (loss, grads), as `GradientFunction` describes it.
    """
    return jax.value_and_grad(mean_loss(model, loss))


def mean_loss(model: Layer, loss: Loss) -> Callable[..., Float[Array, ""]]:
    """Returns the weighted mean loss of a batch as a function of the parameters.

    E = Σ_i w_i E(y_i, t_i) / Σ_i w_i

    Args:
        model: The network, a layer.
        loss: The loss of one example.

    Returns:
        (params, x, t, weights=None, key=None) -> E, with the arguments of a `GradientFunction`.
    """

    def value(
        params: PyTree,
        x: Shaped[Array, "B ..."],
        t: Shaped[Array, "B ..."],
        weights: Float[Array, " B"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, ""]:
        y, _ = forward_batch(model, params, x, key, weights)
        return mean_weights(weights, len(x)) @ jax.vmap(loss.value)(y, t)

    return value


def vjp(function: Callable, *primals: PyTree) -> tuple[PyTree, Callable[[PyTree], tuple[PyTree, ...]]]:
    """Evaluates a function, and returns its vector-Jacobian product beside the value.

    Args:
        function: The function to differentiate.
        *primals: Its arguments.

    Returns:
        y = function(*primals), and the function dy ↦ the gradient of ⟨dy, function⟩ with respect to each argument.
    """
    return jax.vjp(function, *primals)


def jvp(function: Callable, primals: tuple[PyTree, ...], tangents: tuple[PyTree, ...]) -> tuple[PyTree, PyTree]:
    """Evaluates a function, and returns its derivative along a direction beside the value.

    Args:
        function: The function to differentiate.
        primals: Its arguments.
        tangents: The direction: a tangent for each argument, in its structure and shapes.

    Returns:
        y = function(*primals), and the derivative of y along `tangents`.
    """
    return jax.jvp(function, primals, tangents)


def stop_gradient(x: Array) -> Array:
    """Returns x unchanged, as a constant for every derivative."""
    return jax.lax.stop_gradient(x)


@dataclass(frozen=True)
class AutodiffLayer(Wrapper):
    """A layer whose backward is `jax.vjp` of its forward.

    Attributes:
        layer: The layer that is differentiated.
    """

    def forward(
        self, params: PyTree, x: Array, key: PRNGKeyArray | None = None
    ) -> tuple[Array, tuple[Array, PRNGKeyArray | None]]:
        return self.layer.forward(params, x, key)[0], (x, key)

    def backward(
        self, params: PyTree, saved: tuple[Array, PRNGKeyArray | None], dy: Array
    ) -> tuple[PyTree, InputGradient]:
        x, key = saved
        _, pull = vjp(lambda params, x: self.layer.forward(params, x, key)[0], params, x)
        return pull(dy)


@dataclass(frozen=True)
class AutodiffLoss(Loss):
    """A loss whose gradient is `jax.grad` of its value.

    Attributes:
        loss: The loss that is differentiated.
    """

    loss: Loss

    def value(self, y: Array, t: Array) -> Float[Array, ""]:
        return self.loss.value(y, t)

    def gradient(self, y: Array, t: Array) -> Array:
        return jax.grad(self.loss.value)(y, t)
