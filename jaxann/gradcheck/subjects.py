"""The subjects of a gradient check: a layer, a loss, a gradient function, each as one pair (forward, backward).

The layers and losses inside a subject are replaced by twins that use autodiff, so that only its own handwritten code
is checked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.gradcheck.arguments import by_name
from jaxann.gradients.autodiff import AutodiffLayer, AutodiffLoss, mean_loss, vjp
from jaxann.gradients.stateful import Stateful
from jaxann.nn.base import Layer, Wrapper, join_path
from jaxann.nn.loss import Loss
from jaxann.nn.outer import sum_examples


@dataclass(frozen=True)
class Subject(ABC):
    """A function of one example, y = forward(params, x, aux), and its handwritten backward.

    Attributes:
        path: Where the subject is in the network, as "2"; "" for the network itself. Equal subjects at different
            paths share one compiled program.
    """

    path: str = field(compare=False)

    @abstractmethod
    def forward(self, params: PyTree, x: PyTree, aux: PyTree) -> Any:
        """Returns y = f(x; params). `aux` holds arguments without a gradient, such as a target or a random seed."""

    @abstractmethod
    def backward(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[PyTree, PyTree]:
        """Returns the handwritten gradients (grads, dx) of <dy, y> with respect to params and x."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the subject in a report."""

    @property
    def eps(self) -> float:
        """The rounding error of the least precise numbers that the subject computes with when it is given float64."""
        return float(np.finfo(np.float64).eps)

    def leaf_path(self, name: str) -> str:
        """Returns the path of the gradient called `name` in a report."""
        return join_path(self.path, name)

    def handwritten_gradients(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> dict[str, Array]:
        """Returns the handwritten gradients for a batch x, aux, dy [B, ...] by name.

        Those of parameters are summed over the batch; dx is [B, ...].
        """
        grads, dx = jax.vmap(self.backward, (None, 0, 0, 0))(params, x, aux, dy)
        return by_name(sum_examples(grads), dx)

    def autodiff_gradients(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[Any, dict[str, Array]]:
        """Returns y [B, ...] and autodiff's gradients, named and summed as `handwritten_gradients` returns them."""
        batch = jax.vmap(self.forward, (None, 0, 0))
        y, pull = vjp(lambda params, x: batch(params, x, aux), params, x)
        return y, {name: leaf for name, leaf in by_name(*pull(dy)).items() if leaf.dtype != jax.dtypes.float0}


@dataclass(frozen=True)
class LayerSubject(Subject):
    """A layer.

    Attributes:
        layer: The layer.
        title: Its name in a report.
        random: Whether the layer runs with a key, which is made from the seed in `aux`.
    """

    layer: Layer
    title: str
    random: bool = False

    @property
    def name(self) -> str:
        return f"{self.title}, with a key" if self.random else self.title

    def leaf_path(self, name: str) -> str:
        return join_path(join_path(self.path, "random") if self.random else self.path, name)

    def forward(self, params: PyTree, x: PyTree, aux: PyTree) -> Any:
        return self._forward(params, x, aux)[0]

    def backward(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> Any:
        pair = self.layer.backward(params, self._forward(params, x, aux)[1], dy)
        return jax.tree.map(lambda leaf: None if getattr(leaf, "dtype", None) == jax.dtypes.float0 else leaf, pair)

    def _forward(self, params: PyTree, x: PyTree, aux: PyTree) -> tuple[Any, Any]:
        return self.layer.forward(params, x, jax.random.key(aux) if self.random else None)


@dataclass(frozen=True)
class LossSubject(Subject):
    """A loss, for which x is the output y of the network and aux is the target.

    Attributes:
        loss: The loss.
    """

    loss: Loss

    @property
    def name(self) -> str:
        return str(self.loss)

    def leaf_path(self, name: str) -> str:
        return self.path

    def forward(self, params: PyTree, x: PyTree, aux: PyTree) -> Float[Array, ""]:
        return self.loss.value(x, aux)

    def backward(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[PyTree, PyTree]:
        return (), dy * self.loss.gradient(x, aux)


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

    @property
    def name(self) -> str:
        name = getattr(self.gradient, "__name__", str(self.gradient))
        return f"{name}, with a key" if self.random else name

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
        value, grads = jax.vmap(lambda aux: self._call(gradient, params, aux))(aux)
        weighted = jax.tree.map(lambda leaf: jnp.tensordot(dy, leaf, 1), grads)
        return by_name(weighted, ()) | ({} if self.random else {"value": dy * value})

    def autodiff_gradients(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[Any, dict[str, Array]]:
        y, grads = super().autodiff_gradients(params, x, aux, dy)
        if self.random:
            return y, grads
        mean = jax.vmap(lambda aux: mean_loss(self.model, self.loss)(params, *aux))(aux)
        return y, grads | {"value": dy * mean}

    def _call(self, gradient: Callable, params: PyTree, aux: PyTree) -> tuple[Any, PyTree]:
        if not self.random:
            return gradient(params, *aux)
        *batch, seed = aux
        return gradient(params, *batch, key=jax.random.key(seed))


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
