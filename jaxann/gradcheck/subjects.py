"""What a gradient check judges alone: a layer, a loss, a gradient function, each as one pair (forward, backward).

What a subject is made of is replaced by its automatic twin, so that only its own handwriting is on trial.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.gradcheck.places import join_path
from jaxann.gradients.autodiff import AutodiffLayer, AutodiffLoss, mean_loss, vjp
from jaxann.gradients.stateful import Stateful
from jaxann.nn.base import Layer
from jaxann.nn.loss import Loss
from jaxann.nn.outer import materialize, sum_examples


@dataclass(frozen=True)
class Subject(ABC):
    """y = forward(params, x, aux) of one example, and by hand (grads, dx) = backward(params, x, aux, dy).

    `aux` is what no gradient is taken to: a target, a random seed.
    """

    path: str = field(compare=False)  # equal layers in two places are one program

    @abstractmethod
    def forward(self, params: PyTree, x: PyTree, aux: PyTree) -> Any:
        """y = f(x; params)."""

    @abstractmethod
    def backward(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[PyTree, PyTree]:
        """The gradient of <dy, y> with respect to params and x."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in a report."""

    def leaf(self, name: str) -> str:
        """The path of one of its gradients in a report."""
        return join_path(self.path, name)

    def handwritten(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> dict[str, Array]:
        """The handwritten gradients for a batch x, aux, dy [B, ...], summed but for dx, by name."""
        grads, dx = jax.vmap(self.backward, (None, 0, 0, 0))(params, x, aux, dy)
        return by_name(sum_examples(grads), dx)

    def automatic(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[Any, dict[str, Array]]:
        """y and the automatic gradients for a batch, as `by_hand` gives them."""
        batch = jax.vmap(self.forward, (None, 0, 0))
        y, pull = vjp(lambda params, x: batch(params, x, aux), params, x)
        return y, {name: leaf for name, leaf in by_name(*pull(dy)).items() if leaf.dtype != jax.dtypes.float0}


@dataclass(frozen=True)
class LayerSubject(Subject):
    """A layer. With `random`, aux seeds the key that it draws from."""

    layer: Layer
    title: str
    random: bool = False

    @property
    def name(self) -> str:
        return f"{self.title}, with a key" if self.random else self.title

    def leaf(self, name: str) -> str:
        return join_path(join_path(self.path, "random") if self.random else self.path, name)

    def _forward(self, params: PyTree, x: PyTree, aux: PyTree) -> tuple[Any, Any]:
        return self.layer.forward(params, x, jax.random.key(aux) if self.random else None)

    def forward(self, params: PyTree, x: PyTree, aux: PyTree) -> Any:
        return self._forward(params, x, aux)[0]

    def backward(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> Any:
        pair = self.layer.backward(params, self._forward(params, x, aux)[1], dy)
        return jax.tree.map(lambda leaf: None if getattr(leaf, "dtype", None) == jax.dtypes.float0 else leaf, pair)


@dataclass(frozen=True)
class LossSubject(Subject):
    """A loss: x is the network's output y, aux the target."""

    loss: Loss

    @property
    def name(self) -> str:
        return str(self.loss)

    def leaf(self, name: str) -> str:
        return self.path

    def forward(self, params: PyTree, x: PyTree, aux: PyTree) -> Float[Array, ""]:
        return self.loss.value(x, aux)

    def backward(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[PyTree, PyTree]:
        return (), dy * self.loss.gradient(x, aux)


@dataclass(frozen=True)
class GradientSubject(Subject):
    """A gradient function, given an automatic model and loss: one example is a batch aux = (x, t, weights).

    Its grads are judged by the derivative of the value that it gives itself, and that value by the mean loss.
    """

    gradient: Callable[[Layer, Loss], Callable]
    model: Layer
    loss: Loss

    @property
    def name(self) -> str:
        return getattr(self.gradient, "__name__", str(self.gradient))

    def forward(self, params: PyTree, x: PyTree, aux: PyTree) -> Float[Array, ""]:
        return self.made(_ZeroBackward(self.model), _ZeroGradient(self.loss))(params, *aux)[0]

    def backward(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[PyTree, PyTree]:
        _, grads = self.made(AutodiffLayer(self.model), AutodiffLoss(self.loss))(params, *aux)
        return jax.tree.map(lambda leaf: dy * leaf, grads), ()

    def made(self, model: Layer, loss: Loss) -> Callable:
        """The gradient function of these; a learning rule, which looks into its model, that of the true ones."""
        gradient = self.gradient(self.model, self.loss)
        return gradient if isinstance(gradient, Stateful) else self.gradient(model, loss)

    def handwritten(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> dict[str, Array]:
        gradient = self.made(AutodiffLayer(self.model), AutodiffLoss(self.loss))
        value, grads = jax.vmap(lambda aux: gradient(params, *aux))(aux)
        weighted = jax.tree.map(lambda leaf: jnp.tensordot(dy, leaf, 1), grads)
        return by_name(weighted, ()) | {"value": dy * value}

    def automatic(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[Any, dict[str, Array]]:
        y, grads = super().automatic(params, x, aux, dy)
        mean = jax.vmap(lambda aux: mean_loss(self.model, self.loss)(params, *aux))(aux)
        return y, grads | {"value": dy * mean}


@dataclass(frozen=True)
class _ZeroBackward(Layer):
    """`layer` with zeros for gradients: where only the value counts, and its derivative is to be taken cheaply."""

    layer: Layer

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Array]:
        return self.layer.forward(params, x, key)[0], x

    def backward(self, params: PyTree, saved: Array, dy: Array) -> tuple[PyTree, Array]:
        return jax.tree.map(jnp.zeros_like, (params, saved))


@dataclass(frozen=True)
class _ZeroGradient(Loss):
    """`loss` with zeros for a gradient."""

    loss: Loss

    def value(self, y: Array, t: Array) -> Float[Array, ""]:
        return self.loss.value(y, t)

    def gradient(self, y: Array, t: Array) -> Array:
        return jnp.zeros_like(y)


class Args(NamedTuple):
    """What a subject is called with, in R trials of B examples: params [R, ...]; x, aux and dy [R, B, ...]."""

    params: PyTree
    x: PyTree
    aux: PyTree
    dy: Any

    def cast(self, dtype: str) -> Args:
        """With floats in `dtype`, and integers of its width, whatever the default precision is."""
        whole = dtype.replace("float", "int")
        return jax.tree.map(lambda leaf: np.asarray(leaf, dtype if is_float(leaf) else whole), self)

    def perturbed(self, share: float, draw: np.random.Generator) -> Args:
        """With every float but aux off by about that share of itself, unless it lies where a kink may be."""

        def wiggle(leaf):
            if not is_float(leaf):
                return leaf
            kink = np.isin(leaf, (-1, 1))
            if isinstance(self.aux, np.ndarray) and self.aux.shape == leaf.shape:
                kink |= leaf == self.aux
            return np.where(kink, leaf, leaf * (1 + share * draw.normal(size=leaf.shape)))

        params, x, dy = jax.tree.map(wiggle, (self.params, self.x, self.dy))
        return Args(params, x, self.aux, dy)

    def example(self) -> Args:
        """The first example of the first trial."""
        first = self.at(0)
        return first._replace(**{k: jax.tree.map(lambda leaf: leaf[0], getattr(first, k)) for k in ("x", "aux", "dy")})

    def at(self, trials: Any) -> Args:
        """Some of the trials."""
        return jax.tree.map(lambda leaf: leaf[trials], self)


def by_name(grads: PyTree, dx: PyTree) -> dict[str, Any]:
    """The leaves of params' gradients by their paths, and dx."""
    leaves = jax.tree_util.tree_leaves_with_path(materialize(grads))
    found = {jax.tree_util.keystr(path, simple=True, separator=".") or "params": leaf for path, leaf in leaves}
    if len(found) < len(leaves) or "dx" in found:
        raise ValueError(f"among the parameters {', '.join(found)} two have one name, or one is called dx")
    return found if jax.tree.leaves(dx) == [] else found | {"dx": dx}


def is_float(leaf: Any) -> bool:
    """Whether it is of floating point."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
