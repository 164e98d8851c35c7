"""Learning rules by name, each a gradient function for the same model and the one thing that it does otherwise.

Other weights on the way back, another way for the error, or other deltas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer
from jaxann.rules.base import Rule

# Other weights on the way back.


@dataclass(frozen=True)
class FeedbackAlignment(Rule):
    """dx = Bᵀ dy where y = W x + b, with B drawn as W is and kept. Source: Lillicrap et al. 2016, equation 2."""

    def init(self, model: Layer, key: PRNGKeyArray) -> PyTree:
        return model.init(key)

    def backward_params(self, params: PyTree, feedback: PyTree) -> PyTree:
        return _map_matrices(lambda W, B: B, params, feedback)


@dataclass(frozen=True)
class SignSymmetric(Rule):
    """dx = (M ∘ sign W)ᵀ dy where y = W x + b: the signs of W, and magnitudes M that know nothing of it.

    M is |B| for a B drawn as W is and kept ("fixed") or drawn anew after every batch ("batchwise"), or everywhere the
    mean of that |B| ("uniform"). Source: Liao et al. 2016, section 2.3: frSF, brSF and uSF.
    """

    magnitudes: Literal["fixed", "batchwise", "uniform"] = "fixed"

    def __post_init__(self) -> None:
        if self.magnitudes not in (known := ("fixed", "batchwise", "uniform")):
            raise ValueError(f"magnitudes are {self.magnitudes!r}, but one of {', '.join(known)} is wanted")

    @property
    def random(self) -> bool:
        return self.magnitudes == "batchwise"

    def init(self, model: Layer, key: PRNGKeyArray) -> PyTree:
        sizes = jax.tree.map(jnp.abs, model.init(key))
        return jax.tree.map(lambda B: jnp.full_like(B, B.mean()), sizes) if self.magnitudes == "uniform" else sizes

    def backward_params(self, params: PyTree, feedback: PyTree) -> PyTree:
        return _map_matrices(lambda W, M: M * jnp.sign(W), params, feedback)

    def update(self, model: Layer, params: PyTree, feedback: PyTree, grads: PyTree, key: PRNGKeyArray | None) -> PyTree:
        return self.init(model, key) if self.random and key is not None else feedback


class Learned(NamedTuple):
    """Feedback that learns: the weights, and where their optimiser stands."""

    weights: PyTree
    opt_state: PyTree


@dataclass(frozen=True)
class KolenPollack(Rule):
    """dx = Bᵀ dy where y = W x + b, and B takes the same steps as W, B ← B - l (∂E/∂W + λ B).

    `optimizer` makes B's steps: give it the one that trains W. What W and B began with then decays by the weight decay
    and what they learn is common, so B becomes W; without weight decay it does not.
    Source: Akrout et al. 2019, equations 16 and 17, after Kolen and Pollack 1994.
    """

    optimizer: Any  # optax's

    def init(self, model: Layer, key: PRNGKeyArray) -> Learned:
        weights = model.init(key)
        return Learned(weights, self.optimizer.init(weights))

    def backward_params(self, params: PyTree, feedback: Learned) -> PyTree:
        return _map_matrices(lambda W, B: B, params, feedback.weights)

    def update(
        self, model: Layer, params: PyTree, feedback: Learned, grads: PyTree, key: PRNGKeyArray | None
    ) -> Learned:
        steps, opt_state = self.optimizer.update(grads, feedback.opt_state, feedback.weights)
        return Learned(jax.tree.map(jnp.add, feedback.weights, steps), opt_state)


def _map_matrices(seen: Callable[[Array, Array], Array], params: PyTree, feedback: PyTree) -> PyTree:
    return jax.tree.map(lambda W, B: seen(W, B).astype(W.dtype) if W.ndim > 1 else W, params, feedback)
