"""Gradient functions: the interface that training takes, and gradient functions with a state of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped


@runtime_checkable
class GradientFunction(Protocol):
    """A function from parameters and a batch to the batch's mean loss and its gradient.

    E = Σ_i w_i E(y_i, t_i) / Σ_i w_i, and grads = ∂E/∂params or whatever a learning rule puts in its place.

    `backprop(model, loss)`, `autodiff(model, loss)`, a clipped mean and a learning rule are all of this form, and
    training takes any of them.
    """

    def __call__(
        self,
        params: PyTree,
        x: Shaped[Array, "B ..."],
        t: Shaped[Array, "B ..."],
        weights: Float[Array, " B"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, ""], PyTree]:
        """Returns the weighted mean loss of a batch, and its gradient.

        Args:
            params: The parameters of the model.
            x: [B, ...], the inputs of the batch.
            t: [B, ...], the targets.
            weights: [B], how much each example counts; ones by default.
            key: A random key, split so that every example has its own. Without a key, layers that draw random numbers
                run in evaluation mode.

        Returns:
            The loss, a scalar, and its gradients in the structure and shapes of `params`.
        """
        ...


def _init_nothing(key: PRNGKeyArray) -> PyTree:
    return ()


@dataclass(frozen=True)
class Stateful:
    """A gradient function with a state, such as feedback weights, that is kept apart from the trained parameters.

    Called without a state, it is a `GradientFunction` at the state that `init` draws with key 0.

    Attributes:
        step: (params, state, x, t, weights=None, key=None) -> (loss, grads, state, metrics). The metrics are scalars
            by name, and training averages them over each epoch.
        init: Returns the state before the first step, drawn with a key. By default the state is ().
        random: Whether a step draws random numbers. If it does, training passes a key to every step.
    """

    step: Callable[..., tuple[Float[Array, ""], PyTree, PyTree, dict[str, Float[Array, ""]]]]
    init: Callable[[PRNGKeyArray], PyTree] = _init_nothing
    random: bool = False

    def bind(self, state: PyTree) -> GradientFunction:
        """Returns the gradient function at a fixed state."""
        return lambda params, *batch, **options: self.step(params, state, *batch, **options)[:2]

    def __call__(self, params: PyTree, *batch: Any, **options: Any) -> tuple[Float[Array, ""], PyTree]:
        return self.bind(self.init(jax.random.key(0)))(params, *batch, **options)


def as_stateful(gradient: GradientFunction) -> Stateful:
    """Returns a gradient function as a `Stateful`: unchanged if it is one, otherwise with the empty state ()."""
    if isinstance(gradient, Stateful):
        return gradient
    return Stateful(lambda params, state, *batch, **options: (*gradient(params, *batch, **options), state, {}))
