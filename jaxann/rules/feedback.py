"""Learning rules that send the error back through other weights than those of the forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import SettingError
from jaxann.rules.base import Rule


@dataclass(frozen=True)
class FeedbackAlignment(Rule):
    """Feedback alignment: the error goes back through fixed random weights.

    dx = Bᵀ dy where y = W x + b. B is drawn as W is, and never changes.

    Source: Lillicrap et al. 2016, equation 2.
    """

    def init(self, model: Layer, key: PRNGKeyArray) -> PyTree:
        return model.init(key)

    def backward_params(self, params: PyTree, feedback: PyTree) -> PyTree:
        return _map_matrices(lambda W, B: B, params, feedback)


@dataclass(frozen=True)
class SignSymmetric(Rule):
    """Sign-symmetric feedback: the feedback weights have the signs of W, and magnitudes that do not depend on W.

    dx = (M ∘ sign W)ᵀ dy where y = W x + b.

    Attributes:
        magnitudes: How M is made. "fixed" is |B| for a B that is drawn as W is and never changes. "batchwise" draws B
            again after every batch. "uniform" sets all entries to the mean of a fixed |B|.

    Raises:
        SettingError: If `magnitudes` is not one of these three. It is a ValueError.

    Source: Liao et al. 2016, section 2.3, where "fixed" is called frSF, "batchwise" brSF, and "uniform" uSF.
    """

    magnitudes: Literal["fixed", "batchwise", "uniform"] = "fixed"

    def __post_init__(self) -> None:
        if self.magnitudes not in ("fixed", "batchwise", "uniform"):
            raise SettingError("magnitudes", "to be fixed, batchwise or uniform", self.magnitudes)

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


class LearnedFeedback(NamedTuple):
    """Feedback that an optimizer changes.

    Attributes:
        weights: The weights B, in the structure and shapes of the parameters.
        opt_state: The state of the optimizer that changes the weights.
    """

    weights: PyTree
    opt_state: PyTree


@dataclass(frozen=True)
class KolenPollack(Rule):
    """Kolen-Pollack feedback: the feedback weights take the same steps as W, and so approach W.

    dx = Bᵀ dy where y = W x + b, and B ← B - l (∂E/∂W + λ B) with the learning rate l and the weight decay λ of W. Both
    matrices get the same gradient, so weight decay shrinks their difference to 0. Without weight decay the difference
    stays.

    Attributes:
        optimizer: The optax optimizer that updates B. Use the one that trains W.

    Source: Akrout et al. 2019, equations 16 and 17, after Kolen and Pollack 1994.
    """

    optimizer: Any  # an optax.GradientTransformation; only the room `training` imports optax

    def init(self, model: Layer, key: PRNGKeyArray) -> LearnedFeedback:
        weights = model.init(key)
        return LearnedFeedback(weights, self.optimizer.init(weights))

    def backward_params(self, params: PyTree, feedback: LearnedFeedback) -> PyTree:
        return _map_matrices(lambda W, B: B, params, feedback.weights)

    def update(
        self, model: Layer, params: PyTree, feedback: LearnedFeedback, grads: PyTree, key: PRNGKeyArray | None
    ) -> LearnedFeedback:
        steps, opt_state = self.optimizer.update(grads, feedback.opt_state, feedback.weights)
        return LearnedFeedback(jax.tree.map(jnp.add, feedback.weights, steps), opt_state)


def _map_matrices(change: Callable[[Array, Array], Array], params: PyTree, feedback: PyTree) -> PyTree:
    """Returns `params` with `change(W, B)` for each matrix W, in W's precision."""
    return jax.tree.map(lambda W, B: change(W, B).astype(W.dtype) if W.ndim > 1 else W, params, feedback)
