"""A gradient function as the subject of a gradient check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.gradcheck.arguments import by_name
from jaxann.gradcheck.subjects import Subject
from jaxann.gradients.autodiff import AutodiffLayer, AutodiffLoss, mean_loss, vjp
from jaxann.gradients.stateful import Stateful
from jaxann.nn.base import Layer, Wrapper
from jaxann.nn.loss import Loss


@dataclass(frozen=True)
class GradientSubject(Subject):
    """A gradient function: one "example" is a batch aux = (x, t) or (x, t, weights).

    The gradients that it returns are compared with the derivative of the value that it returns, and that value with the
    mean loss. The model and the loss that it is given use autodiff.

    Attributes:
        gradient: A function (model, loss) that returns a gradient function, such as `backprop`.
        model: The network.
        loss: The loss.
        random: Whether the gradient function gets a key, which is made from a seed at the end of `aux`. Its value is
            then not compared with the mean loss, because a gradient function may split its key in any way.
    """

    gradient: Callable[[Layer, Loss], Callable]
    model: Layer
    loss: Loss
    random: bool = False

    has_differences: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return getattr(self.gradient, "__name__", str(self.gradient)) + (", with a key" if self.random else "")

    def forward(self, params: PyTree, x: PyTree, aux: PyTree) -> Float[Array, ""]:
        return self._call(self.make_gradient(_ZeroBackward(self.model), _ZeroGradient(self.loss)), params, aux)[0]

    def backward(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[PyTree, PyTree]:
        _, grads = self._call(self.make_gradient(AutodiffLayer(self.model), AutodiffLoss(self.loss)), params, aux)
        return jax.tree.map(lambda leaf: dy * leaf, grads), ()

    def make_gradient(self, model: Layer, loss: Loss) -> Callable:
        """Returns the gradient function of `model` and `loss`.

        A learning rule reads the layers of its model, so it gets the network itself instead of `model`.
        """
        gradient = self.gradient(self.model, self.loss)
        return gradient if isinstance(gradient, Stateful) else self.gradient(model, loss)

    def handwritten_gradients(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> dict[str, Array]:
        gradient = self.make_gradient(AutodiffLayer(self.model), AutodiffLoss(self.loss))
        value, grads = self._call(gradient, params, _only(aux))
        return by_name(jax.tree.map(lambda leaf: dy[0] * leaf, grads), ()) | self._name_value(dy * value)

    def autodiff_gradients(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[Any, dict[str, Array]]:
        y, pull = vjp(lambda params: self.forward(params, (), _only(aux)), params)
        grads = {name: leaf for name, leaf in by_name(pull(dy[0])[0], ()).items() if leaf.dtype != jax.dtypes.float0}
        mean = 0.0 if self.random else mean_loss(self.model, self.loss)(params, *_only(aux))
        return y[None], grads | self._name_value(dy * mean)

    def _name_value(self, value: Array) -> dict[str, Array]:
        return {} if self.random else {"value": value}

    def _call(self, gradient: Callable, params: PyTree, aux: PyTree) -> tuple[Any, PyTree]:
        if not self.random:
            return gradient(params, *aux)
        *batch, seed = aux
        return gradient(params, *batch, key=jax.random.key(seed))


def _only(aux: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[0], aux)  # the only batch


@dataclass(frozen=True)
class _ZeroBackward(Wrapper):
    """A layer whose backward returns zeros, so that differentiating the value of a gradient function is cheap."""

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Array]:
        return self.layer.forward(params, x, key)[0], x

    def backward(self, params: PyTree, saved: Array, dy: Array) -> tuple[PyTree, Array]:
        return jax.tree.map(jnp.zeros_like, (params, saved))


@dataclass(frozen=True)
class _ZeroGradient(Loss):
    """A loss whose gradient is zeros, so that differentiating the value of a gradient function is cheap."""

    loss: Loss

    def value(self, y: Array, t: Array) -> Float[Array, ""]:
        return self.loss.value(y, t)

    def gradient(self, y: Array, t: Array) -> Array:
        return jnp.zeros_like(y)
