"""The network of an estimator: the settings that are compiled into its program, and those that the program takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Shaped

from jaxann.gradients.stateful import Stateful, as_stateful
from jaxann.nn.base import Layer
from jaxann.nn.dense import Dense
from jaxann.nn.dropout import Dropout
from jaxann.nn.hyperparameters import Number
from jaxann.nn.loss import Loss
from jaxann.nn.sequential import Sequential
from jaxann.training.optimizers import optimizer
from jaxann.training.recipe import Recipe

SOLVERS = ("adam", "sgd", "adamw", "lamb", "lion", "nadam", "radam", "rmsprop", "adagrad")
DECOUPLED = ("adamw", "lamb", "lion")  # their weight decay is a part of the step instead of the loss
_BETAS = ("adam", "adamw", "lamb", "lion", "nadam", "radam")


class Structure(NamedTuple):
    """The settings that are compiled into the program of an estimator; networks that share them share the program.

    Attributes:
        sizes: The numbers of features of the input, of each hidden layer, and of the output.
        activations: The activation after each hidden layer.
        loss: The loss between the outputs and the targets.
        score: A function of outputs, targets and weights of validation examples to a score, the higher the better.
        solver: One of `SOLVERS`.
        nesterov: Whether the momentum of "sgd" is Nesterov's.
        gradient: A function (model, loss) that returns a gradient function, such as `backprop` or a learning rule.
        drops: Whether a `Dropout` follows each hidden activation.
        shuffle: Whether every epoch takes the examples in a new order.
        early_stopping: Whether the validation score decides when a run stops, instead of the training loss.
    """

    sizes: tuple[int, ...]
    activations: tuple[Layer, ...]
    loss: Loss
    score: Callable
    solver: str
    nesterov: bool
    gradient: Callable
    drops: bool
    shuffle: bool
    early_stopping: bool

    def make_recipe(self, numbers: Mapping[str, Any]) -> Recipe:
        """Returns the recipe of a run, of plain or traced numbers under the names of the estimator's settings."""
        settings: dict[str, Any] = {}
        if self.solver in _BETAS:
            settings = {"b1": numbers["beta_1"], "b2": numbers["beta_2"], "eps": numbers["epsilon"]}
        if self.solver == "lion":
            del settings["eps"]
        if self.solver == "sgd":
            settings = {"momentum": numbers["momentum"], "nesterov": self.nesterov}
        is_decoupled = self.solver in DECOUPLED
        update = optimizer(
            self.solver,
            numbers["learning_rate_init"],
            settings=settings,
            weight_decay=numbers["alpha"] if is_decoupled else None,
        )
        gradient = self.gradient if is_decoupled else Penalized(self.gradient, numbers["alpha"])
        model = make_network(self.sizes, self.activations, numbers["dropout"] if self.drops else None)
        return Recipe(model, self.loss, update, 1, gradient, self.shuffle)  # the lanes have the batch size


def make_network(sizes: Sequence[int], activations: Sequence[Layer], dropout: Number | None = None) -> Sequential:
    """Returns the network: `Dense` layers with activations between them, each with a `Dropout` unless that is None."""
    layers: list[Layer] = []
    for n, m, activation in zip(sizes, sizes[1:], activations, strict=False):
        layers += [Dense(n, m), activation if dropout is None else Sequential((activation, Dropout(dropout)))]
    return Sequential((*layers, Dense(sizes[-2], sizes[-1])))


def pack(coefs: Sequence[Any], intercepts: Sequence[Any], drops: bool = False) -> PyTree:
    """Returns the parameters of a network for matrices [n, m] and biases [m]; `drops` says whether it has dropout.

    They are NumPy arrays in the default precision, which one call moves to the device together.
    """
    params, dtype = list[PyTree](), jnp.result_type(float)
    for W, b in zip(coefs, intercepts, strict=True):
        params += [{"W": np.asarray(W, dtype).T, "b": np.asarray(b, dtype)}, ((), ()) if drops else ()]
    return tuple(params[:-1])


def unpack(params: PyTree) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the matrices [n, m] and the biases [m] of a network's parameters, as NumPy arrays."""
    dense = [part for part in params if isinstance(part, dict)]
    return [np.asarray(p["W"]).T.copy() for p in dense], [np.asarray(p["b"]).copy() for p in dense]


@dataclass(frozen=True)
class Penalized:
    """A gradient with an L2 penalty of the matrices, as scikit-learn's `alpha` has it.

    E + (α / 2) Σ ‖W‖² / Σ_i w_i, with the weights w_i of the examples of the batch.

    Attributes:
        gradient: A function (model, loss) that returns a gradient function.
        alpha: α, at least 0.
    """

    gradient: Callable
    alpha: Number

    def __call__(self, model: Layer, loss: Loss) -> Stateful:
        """Returns the gradient function of a model and a loss."""
        inner = as_stateful(self.gradient(model, loss))

        def step(params: PyTree, state: PyTree, x: Array, t: Array, weights: Array, key: Any = None) -> Any:
            value, grads, state, metrics = inner.step(params, state, x, t, weights, key)
            share = self.alpha / weights.sum()
            matrices = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
            value += share / 2 * sum(jnp.sum(W * W) for W in matrices)
            grads = jax.tree.map(lambda g, W: g + share * W if W.ndim > 1 else g, grads, params)
            return value, grads, state, metrics

        return Stateful(step, inner.init, inner.random)


@dataclass(frozen=True, eq=False)
class Gathered:
    """A gradient whose examples are positions of rows in arrays, so that many runs share the arrays.

    Attributes:
        gradient: A function (model, loss) that returns a gradient function.
        x: [N, n], the features.
        t: [N, ...], the targets.
    """

    gradient: Callable
    x: Float[Array, "N n"]
    t: Shaped[Array, "N ..."]

    def __call__(self, model: Layer, loss: Loss) -> Stateful:
        """Returns the gradient function of a model and a loss."""
        inner = as_stateful(self.gradient(model, loss))

        def step(params: PyTree, state: PyTree, rows: Array, _: Array, weights: Array, key: Any = None) -> Any:
            return inner.step(params, state, self.x[rows], self.t[rows], weights, key)

        return Stateful(step, inner.init, inner.random)


def accuracy(y: Float[Array, "V m"], t: Shaped[Array, " V"], weights: Float[Array, " V"]) -> Float[Array, ""]:
    """Returns the share of examples whose largest output is that of their label."""
    return _mean(jnp.argmax(y, axis=1) == t, weights)


def subset_accuracy(y: Float[Array, "V m"], t: Shaped[Array, "V m"], weights: Float[Array, " V"]) -> Float[Array, ""]:
    """Returns the share of examples with the right sign of every output, positive for targets of 1."""
    return _mean(((y > 0) == (t > 0.5)).all(axis=1), weights)


def r2(y: Float[Array, "V m"], t: Shaped[Array, "V m"], weights: Float[Array, " V"]) -> Float[Array, ""]:
    """Returns R² = 1 - Σ (y - t)² / Σ (t - t̄)², averaged over the outputs."""
    w = weights[:, None]
    center = (w * t).sum(axis=0, keepdims=True) / w.sum()
    residual, total = (w * (y - t) ** 2).sum(axis=0), (w * (t - center) ** 2).sum(axis=0)
    constant = jnp.where(residual == 0, 1.0, 0.0)  # as scikit-learn has it for targets that do not vary
    return jnp.mean(jnp.where(total > 0, 1 - residual / jnp.where(total > 0, total, 1), constant))


def r2_of_logarithms(y: Float[Array, "V m"], t: Shaped[Array, "V m"], weights: Float[Array, " V"]) -> Float[Array, ""]:
    """Returns R² of outputs that are the logarithms of predictions."""
    return r2(jnp.exp(y), t, weights)


def _mean(is_right: Array, weights: Array) -> Array:
    return jnp.sum(weights * is_right) / weights.sum()
