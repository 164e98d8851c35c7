"""Learning rules by name, each a gradient function for the same model and the one thing that it does otherwise.

Other weights on the way back, another way for the error, or other deltas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxann.activations import Elementwise
from jaxann.layer import Layer, Wrapped, parts
from jaxann.layers import Sequential, exchanged, glorot_uniform, leaves
from jaxann.rule import Rule, trained_layers
from jaxann.validate import validate_number

if TYPE_CHECKING:
    from jaxtyping import Array, PRNGKeyArray, PyTree


# Other weights on the way back.


@dataclass(frozen=True)
class FeedbackAlignment(Rule):
    """dx = Bᵀ dy where y = W x + b, with B drawn as W is and kept. Source: Lillicrap et al. 2016, equation 2."""

    def init(self, model: Layer, key: PRNGKeyArray) -> PyTree:
        return model.init(key)

    def seen(self, params: PyTree, feedback: PyTree) -> PyTree:
        return _matrices(lambda W, B: B, params, feedback)


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

    def seen(self, params: PyTree, feedback: PyTree) -> PyTree:
        return _matrices(lambda W, M: M * jnp.sign(W), params, feedback)

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

    def seen(self, params: PyTree, feedback: Learned) -> PyTree:
        return _matrices(lambda W, B: B, params, feedback.weights)

    def update(
        self, model: Layer, params: PyTree, feedback: Learned, grads: PyTree, key: PRNGKeyArray | None
    ) -> Learned:
        steps, opt_state = self.optimizer.update(grads, feedback.opt_state, feedback.weights)
        return Learned(jax.tree.map(jnp.add, feedback.weights, steps), opt_state)


def _matrices(seen: Callable[[Array, Array], Array], params: PyTree, feedback: PyTree) -> PyTree:
    return jax.tree.map(lambda W, B: seen(W, B).astype(W.dtype) if W.ndim > 1 else W, params, feedback)


# Another way for the error.


@dataclass(frozen=True)
class DirectFeedbackAlignment(Rule):
    """dx = B δ at every layer with parameters but the first, δ = ∂E/∂y of the whole network: no way back through W.

    B [n, m] is drawn as `Dense` draws W and kept. Raises ValueError for a model that is no chain, a `Sequential`, and
    for layers with parameters whose sizes it cannot tell. Source: Nøkland 2016, equation 8.
    """

    def alter(self, model: Layer) -> Layer:
        later = _later(self, model)
        return exchanged(model, lambda path, layer: Told(layer) if path in later else layer)

    def init(self, model: Layer, key: PRNGKeyArray) -> dict[str, Array]:
        later, (_, m) = _later(self, model), model.sizes
        for path, layer in later.items():
            if m is None or layer.sizes[0] is None:
                raise ValueError(
                    f"{self} needs the sizes of layer {path}, {layer}, and of the network, but one has none"
                )
        keys = jax.random.split(key, len(later) + 1)[1:]
        return {
            path: glorot_uniform(key, (m, layer.sizes[0])).T
            for (path, layer), key in zip(later.items(), keys, strict=True)
        }

    def backward(
        self, altered: Layer, params: PyTree, feedback: dict[str, Array], saved: Any, dy: Array
    ) -> tuple[PyTree, Array]:
        def told(layer: Layer, params: PyTree, path: str = "") -> PyTree:
            if isinstance(layer, Told):
                return params, feedback[path].astype(dy.dtype) @ dy
            if not isinstance(layer, Sequential):
                return params
            below = parts(layer).items()
            return tuple(
                told(part, p, f"{path}.{name}".lstrip(".")) for (name, part), p in zip(below, params, strict=True)
            )

        return altered.backward(told(altered, params), saved, dy)


def _later(rule: Rule, model: Layer) -> dict[str, Layer]:
    """The leaves with parameters but the first."""
    return dict(list(trained_layers(rule, model).items())[1:])


@dataclass(frozen=True)
class Told(Wrapped):
    """Goes backward with the pair (params, dx), and gives that dx."""

    def backward(self, params: tuple[PyTree, Array], saved: Any, dy: Array) -> tuple[PyTree, Array]:
        params, dx = params
        return self.layer.backward(params, saved, dy)[0], dx


@dataclass(frozen=True)
class OutputLayerOnly(Rule):
    """dx = 0 at the last layer with parameters, so that it alone learns: the control for rules that claim to do more.

    Raises ValueError for a model that is no chain, a `Sequential`.
    """

    def alter(self, model: Layer) -> Layer:
        *_, last = trained_layers(self, model)
        return exchanged(model, lambda path, layer: Last(layer) if path == last else layer)


@dataclass(frozen=True)
class Last(Wrapped):
    """Tells nothing to what is below: dx = 0."""

    def backward(self, params: PyTree, saved: Any, dy: Array) -> tuple[PyTree, Array]:
        grads, dx = self.layer.backward(params, saved, dy)
        return grads, jnp.zeros_like(dx)


# Other deltas.


threshold = Elementwise(
    "threshold", lambda x: jnp.where(x > 0, 1, jnp.where(x <= 0, 0, x)), lambda x, y: jnp.zeros_like(x)
)
"""1 where x > 0, else 0; its derivative is 0, and nothing below it learns but by `StraightThrough`."""


@dataclass(frozen=True)
class StraightThrough(Rule):
    """dx = dy at a `threshold`, as if it were y = x, where |x| <= `within`; 0 beyond.

    Raises ValueError for a model without a threshold.
    Sources: Bengio et al. 2013, section 4; with `within` = 1, Hubara et al. 2016, equation 4.
    """

    within: float = inf

    def __post_init__(self) -> None:
        if not self.within > 0:
            raise ValueError(f"within is {self.within}, but a number above 0 is wanted")

    def alter(self, model: Layer) -> Layer:
        passing = replace(threshold, derivative=lambda x, y: jnp.where(jnp.abs(x) <= self.within, 1, 0))
        if threshold not in leaves(model).values():
            raise ValueError(f"{self} needs a threshold in the chain of {model}, but there is none")
        return exchanged(model, lambda path, layer: passing if layer == threshold else layer)


@dataclass(frozen=True)
class ClippedDeltas(Rule):
    """δ ← min(1, C / ‖δ‖) δ for C = `max_norm`, at each layer with parameters and for each example, δ = ∂E/∂(W x + b).

    Raises ValueError for a `max_norm` that is no finite number above 0.
    """

    max_norm: float

    def __post_init__(self) -> None:
        validate_number("max_norm", self.max_norm, above=0)

    def alter(self, model: Layer) -> Layer:
        layers = trained_layers(self, model)
        return exchanged(model, lambda path, layer: Clipped(layer, self.max_norm) if path in layers else layer)


@dataclass(frozen=True)
class Clipped(Wrapped):
    """dy is first scaled down to a norm of at most `max_norm`."""

    max_norm: float

    def backward(self, params: PyTree, saved: Any, dy: Array) -> tuple[PyTree, Array]:
        size = jnp.sqrt(jnp.sum(dy * dy))
        return self.layer.backward(params, saved, dy * (self.max_norm / jnp.maximum(size, self.max_norm)))


@dataclass(frozen=True)
class NoisyDeltas(Rule):
    """δ ← δ + s rms(δ) ξ for s = `noise` and ξ standard normal, at each layer with parameters and for each example.

    Without a key there is no noise. Raises ValueError for a `noise` that is no finite number from 0.
    """

    noise: float

    def __post_init__(self) -> None:
        validate_number("noise", self.noise, least=0)

    def alter(self, model: Layer) -> Layer:
        layers = trained_layers(self, model)
        return exchanged(model, lambda path, layer: Noisy(layer, self.noise) if path in layers else layer)


@dataclass(frozen=True)
class Noisy(Wrapped):
    """dy gets normal noise of `noise` times its root mean square first, drawn with a key that forward keeps."""

    noise: float

    @property
    def random(self) -> bool:
        return True

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        kept, key = (None, None) if key is None else jax.random.split(key)
        y, saved = self.layer.forward(params, x, key)
        return y, (saved, kept)

    def backward(self, params: PyTree, saved: Any, dy: Array) -> tuple[PyTree, Array]:
        saved, key = saved
        if key is not None:
            dy = dy + self.noise * jnp.sqrt(jnp.mean(dy * dy)) * jax.random.normal(key, dy.shape, dy.dtype)
        return self.layer.backward(params, saved, dy)


RULES: dict[str, Rule] = {
    "backprop": Rule(),
    "feedback_alignment": FeedbackAlignment(),
    "direct_feedback_alignment": DirectFeedbackAlignment(),
    "sign_symmetric": SignSymmetric(),
    "sign_symmetric_batchwise": SignSymmetric("batchwise"),
    "sign_symmetric_uniform": SignSymmetric("uniform"),
    "output_layer_only": OutputLayerOnly(),
}
"""Those that need nothing else, by name. `KolenPollack` needs the optimiser, others a number or a `threshold`."""
