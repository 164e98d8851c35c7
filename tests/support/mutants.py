"""Backward passes wrong on purpose, each as people write them, with what they are to be pinned on, and the story.

Every one is right but for one thing. `RIGHT` holds the same parts with nothing wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import erfc, logistic

from jaxann import backprop
from jaxann.nn import (
    AbsoluteError,
    CrossEntropy,
    Dense,
    Dropout,
    Elementwise,
    Hinge,
    Huber,
    Layer,
    Loss,
    Outer,
    Poisson,
    Sequential,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
    elu,
    gelu,
    hard_tanh,
    identity,
    leaky_relu,
    mlp,
    relu,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)


@dataclass(frozen=True)
class Mutant:
    """What is checked, the paths that it must be pinned on, and the story to be told."""

    model: Layer
    loss: Loss
    wrong: tuple[str, ...] = ()
    cause: str = ""
    gradient: Callable = backprop
    on_purpose: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wrong(Layer):
    """`layer` with `spoil` done to what its backward gives."""

    layer: Layer
    spoil: Callable[..., Any]

    def init(self, key):
        return self.layer.init(key)

    def forward(self, params, x, key=None):
        return self.layer.forward(params, x, key)

    def backward(self, params, saved, dy):
        return self.spoil(params, saved, dy, *self.layer.backward(params, saved, dy))


# Layers of kinds that jaxann does not have, each with a `wrong` that its backward may look at.


@dataclass(frozen=True)
class LayerNorm(Layer):
    """y = scale (x - mean x) / sd + shift (Ba et al. 2016)"""

    n: int
    wrong: str = ""

    @property
    def sizes(self):
        return self.n, self.n

    def init(self, key):
        return {"scale": jax.random.normal(key, (self.n,)), "shift": jnp.zeros(self.n)}

    def forward(self, params, x, key=None):
        sd = jnp.sqrt(jnp.var(x) + 1e-5)
        z = (x - x.mean()) / sd
        return params["scale"] * z + params["shift"], (z, sd)

    def backward(self, params, saved, dy):
        z, sd = saved
        dz = dy if self.wrong == "scale" else params["scale"] * dy
        mean = 0 if self.wrong == "mean" else dz.mean()
        along = 0 if self.wrong == "variance" else z * jnp.mean(dz * z)
        return {"scale": dy if self.wrong == "scale's" else z * dy, "shift": dy}, (dz - mean - along) / sd


@dataclass(frozen=True)
class WrongDropout(Dropout):
    """The package's, with a wrong backward."""

    wrong: str

    def backward(self, params, saved, dy):
        mask = {"scale": jnp.sign(saved), "mask": jnp.ones_like(saved)}[self.wrong]
        return (), mask * dy


@dataclass(frozen=True)
class Positions(Layer):
    """y_t = W x_t + b for every position t of x [T, n]"""

    n: int
    m: int
    wrong: str = ""

    @property
    def sizes(self):
        return self.n, self.m

    def init(self, key):
        return {"W": jax.random.normal(key, (self.m, self.n)), "b": jnp.zeros(self.m)}

    def forward(self, params, x, key=None):
        return x @ params["W"].T + jnp.broadcast_to(params["b"], (len(x), self.m)), x

    def backward(self, params, saved, dy):
        x = saved
        b = {"axis": lambda: dy.sum(axis=1), "not summed": lambda: dy}.get(self.wrong, lambda: dy.sum(axis=0))()
        return {"W": Outer(dy, x), "b": b}, dy @ params["W"]


@dataclass(frozen=True)
class Residual(Layer):
    """y = x + f(x) (He et al. 2016)"""

    inner: Layer
    wrong: str = ""

    def init(self, key):
        return self.inner.init(key)

    def forward(self, params, x, key=None):
        y, saved = self.inner.forward(params, x, key)
        return x + y, saved

    def backward(self, params, saved, dy):
        grads, dx = self.inner.backward(params, saved, dy)
        return grads, {"skip": dx, "inner": dy}.get(self.wrong, dx + dy)


@dataclass(frozen=True)
class Tied(Layer):
    """y = Wᵀ tanh(W x): one matrix used twice"""

    n: int
    m: int
    wrong: str = ""

    @property
    def sizes(self):
        return self.n, self.n

    def init(self, key):
        return {"W": jax.random.normal(key, (self.m, self.n))}

    def forward(self, params, x, key=None):
        h = jnp.tanh(params["W"] @ x)
        return params["W"].T @ h, (x, h)

    def backward(self, params, saved, dy):
        x, h = saved
        dz = (1 - h * h) * (params["W"] @ dy)
        first, second = Outer(dz, x), Outer(h, dy)
        return {"W": second if self.wrong == "first" else first + second}, params["W"].T @ dz


@dataclass(frozen=True)
class Neurons(Layer):
    """y = sigmoid(W x + b) in one piece, as the derivation's f_i"""

    n: int
    m: int
    wrong: str = ""

    @property
    def sizes(self):
        return self.n, self.m

    def init(self, key):
        return {"W": jax.random.normal(key, (self.m, self.n)), "b": jnp.zeros(self.m)}

    def forward(self, params, x, key=None):
        z = params["W"] @ x + params["b"]
        return logistic(z), (x, logistic(z))

    def backward(self, params, saved, dy):
        x, y = saved
        y = {"output": logistic(y)}.get(self.wrong, y)
        dz = dy if self.wrong == "derivative" else y * (1 - y) * dy
        return {"W": Outer(dz, x), "b": dz}, params["W"].T @ dz


class Backwards(Sequential):
    """The chain with its gradients left in the order in which they were found."""

    def backward(self, params, saved, dy):
        grads, dx = super().backward(params, saved, dy)
        return grads[::-1], dx


class OffByOne(Sequential):
    """The chain in which every layer gets what the one above it saved."""

    def backward(self, params, saved, dy):
        return super().backward(params, (*saved[1:], saved[-1]), dy)


def dense(spoil, *culprits, cause="none"):
    """A network of which the middle layer, square so that no shape betrays it, is spoilt."""

    class WrongDense(Dense):
        def backward(self, params, saved, dy):
            return spoil(params, saved, dy, *super().backward(params, saved, dy))

    return Mutant(Sequential((Dense(4, 5), tanh, WrongDense(5, 5), tanh, Dense(5, 3))), SquaredError(), culprits, cause)


def activation(right, derivative, cause="none"):
    """A network with another derivative for its activation."""
    wrong = Elementwise(right.name, right.function, derivative)
    return Mutant(Sequential((Dense(4, 5), wrong, Dense(5, 3))), SquaredError(), ("1.dx",), cause)


def inside(layer, *culprits, cause="none", n=5):
    """A network with `layer` in its middle."""
    return Mutant(Sequential((Dense(4, n), layer, Dense(n, 3))), SquaredError(), culprits, cause)


def output(backward, cause="none", saves_input=False):
    """A network that ends in a softmax with that backward, of its output or its input, and dy."""

    class Softmax(type(softmax)):
        def forward(self, params, x, key=None):
            y, _ = super().forward(params, x, key)
            return y, x if saves_input else y

        def backward(self, params, saved, dy):
            return (), backward(saved, dy)

    return Mutant(mlp((4, 5, 3), hidden=tanh, output=Softmax()), CrossEntropy(), ("3.dx",), cause)


def loss(right, gradient, cause="none"):
    """A network with another gradient for its loss, which keeps its value."""
    wrong = type("Wrong" + type(right).__name__, (type(right),), {"gradient": lambda self, y, t: gradient(y, t)})
    settings = {name: getattr(right, name) for name in getattr(right, "__dataclass_fields__", {})}
    end = softmax if isinstance(right, CrossEntropy) else identity
    return Mutant(mlp((4, 5, 3), hidden=tanh, output=end), wrong(**settings), ("loss",), cause)


def chain(model, *culprits, cause="none"):
    return Mutant(model, SquaredError(), culprits, cause)


def seam(spoil, *culprits, cause="none", on_purpose=()):
    """A gradient function, spoilt: `spoil` makes of backprop(model, loss) another."""

    def gradient(model, loss):
        return spoil(backprop(model, loss))

    return Mutant(mlp((4, 5, 3), hidden=tanh), SquaredError(), culprits, cause, gradient, on_purpose)


def entry_zeroed(p, s, dy, g, dx):
    return {"W": g["W"], "b": g["b"].at[1].set(0)}, dx


def swapped(p, s, dy, g, dx):
    return (g[0] | {"b": g[2]["b"]}, g[1], g[2] | {"b": g[0]["b"]}, *g[3:]), dx


def elsewhere(p, s, dy, g, dx):
    """The activation above the middle layer skipped."""
    return (*g[:2], g[2] | {"b": p[4]["W"].T @ dy}, *g[3:]), dx


class Summed:
    """The batch's sum in place of its mean."""

    def __new__(cls, gradient, what=("value", "grads")):
        def summed(params, x, t, weights=None):
            value, grads = gradient(params, x, t, weights)
            times = {part: len(x) if part in what else 1 for part in ("value", "grads")}
            return times["value"] * value, jax.tree.map(lambda leaf: times["grads"] * leaf, grads)

        return summed


def first_only(gradient):
    return lambda params, x, t, weights=None: gradient(params, x[:1], t[:1], None if weights is None else weights[:1])


def unweighted(gradient):
    """Weights that reach the value, not the gradients."""

    def wrong(params, x, t, weights=None):
        return gradient(params, x, t, weights)[0], gradient(params, x, t)[1]

    return wrong


def not_normalised(gradient):
    """Gradients weighted by w instead of w / Σw."""

    def wrong(params, x, t, weights=None):
        value, grads = gradient(params, x, t, weights)
        total = 1 if weights is None else weights.sum()
        return value, jax.tree.map(lambda leaf: total * leaf, grads)

    return wrong


def decayed(times):
    """E + ½ 0.01 Σ|W|², whose gradient has the decay `times` times."""

    def spoil(gradient):
        def wrong(params, x, t, weights=None):
            value, grads = gradient(params, x, t, weights)
            matrices = [layer["W"] for layer in params if layer]
            value = value + 0.005 * sum(jnp.sum(W * W) for W in matrices)
            return value, jax.tree.map(lambda g, p: g + times * 0.01 * p if p.ndim == 2 else g, grads, params)

        return wrong

    return spoil


VALUES = ("gradient.value", "gradient.weighted.value")
WEIGHTS = tuple(f"gradient{weighted}.{place}.W" for weighted in ("", ".weighted") for place in (0, 2))
PLAIN = ("gradient.0.W", "gradient.0.b", "gradient.2.W", "gradient.2.b")
WEIGHTED = tuple(path.replace("gradient", "gradient.weighted") for path in PLAIN)

NOTEBOOK = {  # the four that keep the derivation's own network from learning, 1 + e⁺ˣ being also its forward
    "sigmoid: its sign, the forward having e to the +x": activation(
        Elementwise("sigmoid", lambda x: logistic(-x), sigmoid.derivative), lambda x, y: y * (1 - y), "sign"
    ),
    "softmax: the Jacobian taken at the logits": output(
        lambda x, dy: x * (dy - x @ dy), "taken elsewhere", saves_input=True
    ),
    "cross-entropy: the binary derivative": loss(
        CrossEntropy(), lambda y, t: -t / y + (1 - t) / (1 - y), "another derivative"
    ),
    "bias: added instead of subtracted": dense(
        lambda p, s, dy, g, dx: ({"W": g["W"], "b": -g["b"]}, dx), "2.b", cause="sign"
    ),
}

MUTANTS = NOTEBOOK | {
    "W: transposed": dense(lambda p, x, dy, g, dx: ({"W": Outer(x, dy), "b": g["b"]}, dx), "2.W", cause="transposed"),
    "W: a tenth of a per cent too long": dense(
        lambda p, x, dy, g, dx: ({"W": Outer(1.001 * dy, x), "b": dy}, dx), "2.W", cause="factor"
    ),
    "W: zero": dense(lambda p, x, dy, g, dx: ({"W": Outer(0 * dy, x), "b": dy}, dx), "2.W", cause="zero"),
    "W: the product instead of the outer product": dense(
        lambda p, x, dy, g, dx: ({"W": Outer(dy * x, x), "b": dy}, dx), "2.W"
    ),
    "W: one neuron forgotten": dense(
        lambda p, x, dy, g, dx: ({"W": Outer(dy.at[4].set(0), x), "b": dy}, dx), "2.W", cause="entries"
    ),
    "b: one entry zero": dense(entry_zeroed, "2.b", cause="entries"),
    "b: forgotten": dense(lambda p, x, dy, g, dx: ({"W": g["W"], "b": 0 * dy}, dx), "2.b", cause="zero"),
    "b: twice": dense(lambda p, x, dy, g, dx: ({"W": g["W"], "b": 2 * dy}, dx), "2.b", cause="factor"),
    "b: summed over the neurons": dense(
        lambda p, x, dy, g, dx: ({"W": g["W"], "b": 0 * dy + dy.sum()}, dx), "2.b", cause="axis"
    ),
    "dx: W dy instead of its transpose": dense(lambda p, x, dy, g, dx: (g, p["W"] @ dy), "2.dx", cause="transposed"),
    "dx: passed through": dense(lambda p, x, dy, g, dx: (g, dy), "2.dx", cause="derivative missing"),
    "dx: zero": dense(lambda p, x, dy, g, dx: (g, 0 * dx), "2.dx", cause="zero"),
    "W: weight decay that the loss does not have": dense(
        lambda p, x, dy, g, dx: ({"W": g["W"] + Outer(1e-3 * p["W"].T, jnp.eye(5)), "b": dy}, dx),
        "2.W",
        cause="weight decay",
    ),
    "W and b: in half precision": dense(
        lambda p, x, dy, g, dx: (
            {"W": Outer(dy.astype("float16").astype(dy.dtype), x), "b": dy.astype("float16").astype(dy.dtype)},
            dx,
        ),
        "2.W",
        "2.b",
    ),
    "identity: zero": activation(identity, lambda x, y: 0 * y, "zero"),
    "tanh: 1 - x²": activation(tanh, lambda x, y: 1 - x * x, "taken elsewhere"),
    "tanh: 1 - y": activation(tanh, lambda x, y: 1 - y),
    "tanh: sigmoid's": activation(tanh, lambda x, y: logistic(x) * logistic(-x), "another derivative"),
    "sigmoid: of the output once more": activation(sigmoid, lambda x, y: logistic(y) * logistic(-y), "taken elsewhere"),
    "sigmoid: left out": activation(sigmoid, lambda x, y: jnp.ones_like(y), "derivative missing"),
    "relu: the wrong side": activation(relu, lambda x, y: jnp.where(x < 0, 1, 0)),
    "relu: everywhere": activation(relu, lambda x, y: jnp.ones_like(y), "derivative missing"),
    "relu: one at zero": activation(relu, lambda x, y: jnp.where(x >= 0, 1, 0), "kink"),
    "relu: one at minus zero": activation(
        relu, lambda x, y: jnp.where((x > 0) | ((x == 0) & jnp.signbit(x)), 1, 0), "kink"
    ),
    "leaky relu: slope 0.1": activation(leaky_relu, lambda x, y: jnp.where(x >= 0, 1, 0.1)),
    "leaky relu: the lower slope at zero": activation(leaky_relu, lambda x, y: jnp.where(x > 0, 1, 0.01), "kink"),
    "elu: y instead of y + 1": activation(elu, lambda x, y: jnp.where(x > 0, 1, y)),
    "selu: without its scale": activation(
        selu, lambda x, y: jnp.where(x > 0, 1, 1.6732632423543772 * jnp.exp(jnp.minimum(x, 0))), "factor"
    ),
    "gelu: without x φ(x)": activation(gelu, lambda x, y: erfc(-x / jnp.sqrt(2)) / 2, "step"),
    "silu: sigmoid's": activation(silu, lambda x, y: logistic(x) * (1 - logistic(x)), "another derivative"),
    "softplus: of the output": activation(softplus, lambda x, y: logistic(y), "taken elsewhere"),
    "hard tanh: everywhere": activation(hard_tanh, lambda x, y: jnp.ones_like(y), "derivative missing"),
    "hard tanh: zero at its corners": activation(hard_tanh, lambda x, y: jnp.where(abs(x) < 1, 1, 0), "kink"),
    "softmax: the diagonal only": output(lambda y, dy: y * (1 - y) * dy, "diagonal"),
    "softmax: without the diagonal": output(lambda y, dy: -y * (y @ dy - y * dy), "diagonal"),
    "softmax: without the sum": output(lambda y, dy: y * dy, "missing term"),
    "softmax: sign": output(lambda y, dy: -y * (dy - y @ dy), "sign"),
    "layer norm: without the mean": inside(LayerNorm(5, "mean"), "1.dx", cause="missing term"),
    "layer norm: the variance constant": inside(LayerNorm(5, "variance"), "1.dx", cause="missing term"),
    "layer norm: dx without its scale": inside(LayerNorm(5, "scale"), "1.dx", cause="step"),
    "layer norm: dy for its scale": inside(LayerNorm(5, "scale's"), "1.scale", cause="another gradient"),
    "dropout: without 1 / (1 - rate)": inside(WrongDropout(0.3, "scale"), "1.random.dx", cause="factor"),
    "dropout: without its mask": inside(WrongDropout(0.3, "mask"), "1.random.dx", cause="derivative missing"),
    "positions: b summed over the neurons": Mutant(Positions(4, 3, "axis"), SquaredError(), ("b",), "axis"),
    "positions: b not summed": Mutant(Positions(4, 3, "not summed"), SquaredError(), ("b",), "not summed"),
    "residual: without the skip connection": inside(Residual(tanh, "skip"), "1.dx", cause="residual"),
    "residual: the skip connection alone": inside(Residual(tanh, "inner"), "1.dx", cause="derivative missing"),
    "a matrix used twice: its first use forgotten": inside(Tied(5, 4, "first"), "1.W", cause="step"),
    "neurons: σ' left out": inside(Neurons(5, 5, "derivative"), "1.W", "1.b", "1.dx", cause="step"),
    "neurons: σ' at the output": inside(Neurons(5, 5, "output"), "1.W", "1.b", "1.dx", cause="step"),
    "squared error: without the half": loss(SquaredError(), lambda y, t: 2 * (y - t), "factor"),
    "squared error: the mean over outputs": loss(SquaredError(), lambda y, t: (y - t) / y.size, "factor"),
    "squared error: t - y": loss(SquaredError(), lambda y, t: t - y, "sign"),
    "absolute error: not its sign": loss(AbsoluteError(), lambda y, t: y - t, "another derivative"),
    "absolute error: zero at the target": loss(AbsoluteError(), lambda y, t: jnp.sign(y - t), "kink"),
    "Huber: not clipped": loss(Huber(), lambda y, t: y - t, "clipping"),
    "hinge: beyond the margin too": loss(Hinge(), lambda y, t: -t, "step"),
    "hinge: -t at the margin": loss(Hinge(), lambda y, t: jnp.where(1 - t * y < 0, 0, -t), "kink"),
    "Poisson: without the count": loss(Poisson(), lambda y, t: jnp.exp(y), "step"),
    "cross-entropy: already fused": loss(CrossEntropy(), lambda y, t: y - t, "another derivative"),
    "cross-entropy: sign": loss(CrossEntropy(), lambda y, t: t / y, "sign"),
    "fused cross-entropy: y - t of the logits": loss(SoftmaxCrossEntropy(), lambda y, t: y - t, "another derivative"),
    "fused cross-entropy: smoothing forgotten": loss(
        SoftmaxCrossEntropy(0.2), lambda y, t: jnp.exp(y) / jnp.exp(y).sum() * t.sum() - t, "another derivative"
    ),
    "binary cross-entropy: y - t of the logits": loss(SigmoidCrossEntropy(), lambda y, t: y - t, "another derivative"),
    "chain: two biases' gradients swapped": chain(
        Wrong(mlp((4, 5, 5, 3), hidden=tanh), swapped), "0.b", "2.b", cause="another gradient"
    ),
    "chain: an activation skipped": chain(Wrong(mlp((4, 5, 5, 3), hidden=tanh), elsewhere), "2.b", cause="step"),
    "chain: the last bias's gradient forgotten": chain(
        Wrong(mlp((4, 5, 5, 3), hidden=tanh), lambda p, s, dy, g, dx: ((*g[:4], g[4] | {"b": 0 * dy}, g[5]), dx)),
        "4.b",
        cause="zero",
    ),
    "chain: gradients not turned round": chain(
        Backwards((Dense(4, 4), Dense(4, 4))),
        "chain.0.W",
        "chain.0.b",
        "chain.1.W",
        "chain.1.b",
        cause="another gradient",
    ),
    "chain: off by one": chain(OffByOne((tanh, tanh, tanh)), "chain.dx"),
    "batch: the sum, of all": seam(Summed, *VALUES, cause="factor"),
    "batch: the sum, of the gradients": seam(
        lambda gradient: Summed(gradient, ("grads",)), *PLAIN, *WEIGHTED, cause="factor"
    ),
    "batch: the first example for all": seam(first_only, *VALUES),
    "batch: weights forgotten": seam(unweighted, *WEIGHTED),
    "batch: weights without their sum": seam(not_normalised, *WEIGHTED, cause="varying factor"),
    "training step: weight decay forgotten": seam(decayed(0), *WEIGHTS, cause="weight decay", on_purpose=VALUES),
    "training step: weight decay doubled": seam(decayed(2), *WEIGHTS, cause="weight decay", on_purpose=VALUES),
}

RIGHT = {
    "a layer that looks at what its part saves": inside(
        Wrong(Dense(5, 5), lambda p, x, dy, g, dx: ({"W": Outer(dy, x), "b": dy}, dx))
    ),
    "dense": dense(lambda p, x, dy, g, dx: ({"W": Outer(dy, x), "b": dy}, p["W"].T @ dy)),
    "activation": activation(tanh, lambda x, y: 1 - y * y),
    "output": output(lambda y, dy: y * (dy - y @ dy)),
    "loss": loss(CrossEntropy(), lambda y, t: -t / y),
    "chain": chain(Wrong(mlp((4, 5, 5, 3), hidden=tanh), lambda p, s, dy, g, dx: (g, dx))),
    "layer norm": inside(LayerNorm(5)),
    "dropout": inside(Dropout(0.3)),
    "positions": Mutant(Positions(4, 3), SquaredError()),
    "residual": inside(Residual(Sequential((Dense(5, 5), tanh)))),
    "a matrix used twice": inside(Tied(5, 4)),
    "neurons": inside(Neurons(5, 5)),
    "weight decay": seam(decayed(1), on_purpose=VALUES),
}


@dataclass(frozen=True)
class Twice(Layer):
    """A layer that reads the gradients of the one it is made of."""

    inner: Dense

    def init(self, key):
        return self.inner.init(key)

    def forward(self, params, x, key=None):
        h, below = self.inner.forward(params, x)
        y, above = self.inner.forward(params, h)
        return y, (below, above)

    def backward(self, params, saved, dy):
        above, dh = self.inner.backward(params, saved[1], dy)
        below, dx = self.inner.backward(params, saved[0], dh)
        return {"W": above["W"] + below["W"], "b": above["b"] + below["b"]}, dx
