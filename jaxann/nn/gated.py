"""Feed-forward blocks: two or three matrices with an activation between them, at each place of the input on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.nn.activations import Elementwise, Softmax, gelu, sigmoid, silu
from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.nn.initializers import draw_array, glorot_uniform
from jaxann.nn.names import resolve_layer
from jaxann.nn.outer import Outer
from jaxann.nn.places import Values, expand_places, match_features, sum_places

Hidden = Float[Array, "*places h"]


@dataclass(frozen=True)
class FeedForwardBlock(Layer):
    """Base class of layers that map n features to h hidden ones and back, at each place on its own.

    Attributes:
        n: Number of features: the length of the last axis of x, at least 1.
        hidden: h, the number of hidden features, at least 1.
        activation: An `Elementwise`, or the name of one.
        weights: Initializer of the matrices, from `jax.nn.initializers`.
    """

    n: int
    hidden: int
    _: KW_ONLY
    activation: Elementwise = gelu
    weights: Callable = field(default_factory=lambda: glorot_uniform)  # as a class attribute it would become a method

    def __post_init__(self) -> None:
        name = type(self).__name__
        validate_number("n", self.n, least=1, integer=True, note=f"the features of {name}")
        validate_number("hidden", self.hidden, least=1, integer=True, note=f"the hidden features of {name}")
        object.__setattr__(self, "activation", resolve_layer("activation", self.activation))
        if isinstance(self.activation, Softmax):
            raise SettingError("activation", "to map each entry on its own, as gelu does", self.activation)

    @property
    def sizes(self) -> tuple[int, int]:
        return self.n, self.n


@dataclass(frozen=True)
class FeedForward(FeedForwardBlock):
    """Two affine maps with an activation between them, at each place on its own.

    y = W_2 h + b_2 with h = σ(z) and z = W_1 x + b_1, so that, with dz = σ'(z) ∘ W_2ᵀ dy, ∂E/∂W_2 = Σ dy hᵀ,
    ∂E/∂b_2 = Σ dy, ∂E/∂W_1 = Σ dz xᵀ, ∂E/∂b_1 = Σ dz and dx = W_1ᵀ dz. The sums are over the places.

    x is [n], or [..., n] with any number of axes of places, and y has the same shape. The parameters are
    {"W_1": [h, n], "b_1": [h], "W_2": [n, h], "b_2": [n]}. Biases are drawn as zeros, and their gradients are summed in
    float32 or a higher precision.

    Attributes:
        n: Number of features: the length of the last axis of x, at least 1.
        hidden: h, the number of hidden features, at least 1; often 4 n.
        activation: σ, an `Elementwise` or the name of one; `gelu` by default.
        weights: Initializer of both matrices, from `jax.nn.initializers`. It draws arrays [n, h] and [h, n], the layout
            from which initializers compute fan-in and fan-out, and `init` transposes them. Glorot's uniform
            initializer by default.

    Raises:
        SettingError: If n or `hidden` is not a whole number of at least 1, or if the activation does not map each entry
            on its own, as softmax does not.
        ValueError: In `forward`, if the last axis of x does not have the length n.

    Source: Vaswani et al. 2017, section 3.3, equation 2, with relu; Shazeer 2020, equation 2, with gelu and no biases.
    """

    def init(self, key: PRNGKeyArray) -> dict[str, Array]:
        first, second = jax.random.split(key)
        W_1 = draw_array(self.weights, first, (self.n, self.hidden)).T
        W_2 = draw_array(self.weights, second, (self.hidden, self.n)).T
        return {"W_1": W_1, "b_1": jnp.zeros(self.hidden), "W_2": W_2, "b_2": jnp.zeros(self.n)}

    def forward(
        self, params: PyTree, x: Values, key: PRNGKeyArray | None = None
    ) -> tuple[Values, tuple[Values, Hidden, Hidden]]:
        match_features(self, self.n, x)
        z = x @ params["W_1"].T + expand_places(params["b_1"], x)
        h, _ = self.activation.forward((), z)
        return h @ params["W_2"].T + expand_places(params["b_2"], x), (x, z, h)

    def backward(
        self, params: PyTree, saved: tuple[Values, Hidden, Hidden], dy: Values
    ) -> tuple[dict[str, Outer | Array], Values]:
        x, z, h = saved
        grads = {"W_2": Outer(dy, h), "b_2": sum_places(dy)}  # y = W_2 h + b_2
        _, dz = self.activation.backward((), (z, h), dy @ params["W_2"])  # h = σ(z), where dh = W_2ᵀ dy
        grads |= {"W_1": Outer(dz, x), "b_1": sum_places(dz)}  # z = W_1 x + b_1
        return grads, dz @ params["W_1"]  # z = W_1 x + b_1: ∂E/∂x = W_1ᵀ dz


@dataclass(frozen=True)
class GLU(FeedForwardBlock):
    """Gated linear unit: two linear maps of x, one of which gates the other, and a third one of their product.

    y = W_out h with h = φ(a) ∘ b, a = W_gate x and b = W_in x, so that, with dh = W_outᵀ dy, da = φ'(a) ∘ b ∘ dh and
    db = φ(a) ∘ dh, ∂E/∂W_out = Σ dy hᵀ, ∂E/∂W_gate = Σ da xᵀ, ∂E/∂W_in = Σ db xᵀ and
    dx = W_gateᵀ da + W_inᵀ db. The sums are over the places.

    x is [n], or [..., n] with any number of axes of places, and y has the same shape. The parameters are
    {"W_gate": [h, n], "W_in": [h, n], "W_out": [n, h]}. There are no biases.

    Attributes:
        n: Number of features: the length of the last axis of x, at least 1.
        hidden: h, the number of hidden features, at least 1; often 8 n / 3, which gives as many parameters as a
            `FeedForward` with 4 n.
        activation: φ, an `Elementwise` or the name of one; `sigmoid` by default.
        weights: Initializer of the matrices, from `jax.nn.initializers`. It draws arrays [n, h] and [h, n], the layout
            from which initializers compute fan-in and fan-out, and `init` transposes them. Glorot's uniform
            initializer by default.

    Raises:
        SettingError: If n or `hidden` is not a whole number of at least 1, or if the activation does not map each entry
            on its own, as softmax does not.
        ValueError: In `forward`, if the last axis of x does not have the length n.

    Source: Shazeer 2020, equation 6, its FFN_GLU; Dauphin et al. 2017, section 2, for the gate.
    """

    _: KW_ONLY
    activation: Elementwise = sigmoid

    def init(self, key: PRNGKeyArray) -> dict[str, Array]:
        shapes = {"W_gate": (self.n, self.hidden), "W_in": (self.n, self.hidden), "W_out": (self.hidden, self.n)}
        keys = zip(shapes, jax.random.split(key, len(shapes)), strict=True)
        return {name: draw_array(self.weights, k, shapes[name]).T for name, k in keys}

    def forward(
        self, params: PyTree, x: Values, key: PRNGKeyArray | None = None
    ) -> tuple[Values, tuple[Values, Hidden, Hidden, Hidden]]:
        match_features(self, self.n, x)
        a, b = x @ params["W_gate"].T, x @ params["W_in"].T
        gate, _ = self.activation.forward((), a)
        return (gate * b) @ params["W_out"].T, (x, a, b, gate)

    def backward(
        self, params: PyTree, saved: tuple[Values, Hidden, Hidden, Hidden], dy: Values
    ) -> tuple[dict[str, Outer], Values]:
        x, a, b, gate = saved
        dh = dy @ params["W_out"]  # y = W_out h
        db = gate * dh  # h = φ(a) b
        _, da = self.activation.backward((), (a, gate), b * dh)  # h = φ(a) b, where ∂E/∂φ = b dh
        # a = W_gate x, b = W_in x and y = W_out h
        grads = {"W_gate": Outer(da, x), "W_in": Outer(db, x), "W_out": Outer(dy, gate * b)}
        return grads, da @ params["W_gate"] + db @ params["W_in"]  # a = W_gate x and b = W_in x


@dataclass(frozen=True)
class SwiGLU(GLU):
    """Gated linear unit with `silu` for its gate.

    y = W_out (silu(W_gate x) ∘ W_in x), with the gradients of `GLU`, where silu(a) = a s(a) and
    silu'(a) = s(a) (1 + a s(-a)) with s(a) = 1 / (1 + e⁻ᵃ).

    x is [n], or [..., n] with any number of axes of places, and y has the same shape. The parameters are
    {"W_gate": [h, n], "W_in": [h, n], "W_out": [n, h]}. There are no biases.

    Attributes:
        n: Number of features: the length of the last axis of x, at least 1.
        hidden: h, the number of hidden features, at least 1; often 8 n / 3, which gives as many parameters as a
            `FeedForward` with 4 n.
        activation: φ, an `Elementwise` or the name of one; `silu` by default. With `gelu` this is GEGLU.
        weights: Initializer of the matrices, from `jax.nn.initializers`. It draws arrays [n, h] and [h, n], the layout
            from which initializers compute fan-in and fan-out, and `init` transposes them. Glorot's uniform
            initializer by default.

    Raises:
        SettingError: If n or `hidden` is not a whole number of at least 1, or if the activation does not map each entry
            on its own, as softmax does not.
        ValueError: In `forward`, if the last axis of x does not have the length n.

    Source: Shazeer 2020, equation 6, its FFN_SwiGLU, with β = 1.
    """

    _: KW_ONLY
    activation: Elementwise = silu
