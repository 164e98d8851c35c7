"""Training jobs: a network, its data and its settings, the same for jaxann and for all peers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import ceil
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from measurement import Run
from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler

from jaxann.data import Examples
from jaxann.data.batches import make_lanes
from jaxann.nn import Layer, Loss, SoftmaxCrossEntropy, mlp, relu
from jaxann.training import Recipe
from jaxann.training.recipe import start, train


class Job(NamedTuple):
    """A network, its data and its training by SGD.

    Attributes:
        sizes: The sizes of the input, of the hidden layers and of the output.
        hidden: The activation of the hidden layers.
        rate: The learning rate.
        batch_size: How many examples a step takes.
        epochs: How often training goes through all examples.
        x: [N, n], the features.
        t: [N], integer labels, or [N, m], a distribution for each example.
    """

    sizes: tuple[int, ...]
    hidden: Literal["sigmoid", "relu"]
    rate: float
    batch_size: int
    epochs: int
    x: Any
    t: Any

    @property
    def steps(self) -> int:
        """How many updates all epochs make."""
        return self.epochs * ceil(len(self.x) / self.batch_size)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The pair (inputs n, outputs m) of every matrix."""
        return list(pairwise(self.sizes))


def load_standardized_iris() -> tuple[np.ndarray, np.ndarray]:
    """Returns the features of Iris [150, 4], each of mean 0 and variance 1 over the flowers, and the labels [150]."""
    features, labels = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(features).astype(np.float32), np.asarray(labels)


def make_random_job(rows: int, batch_size: int) -> Job:
    """Returns an epoch of a network of MNIST's size on random data, because the values do not affect the time."""
    generator = np.random.default_rng(0)
    x, t = generator.standard_normal((rows, 784), np.float32), generator.integers(10, size=rows)
    return Job((784, 512, 512, 10), "relu", rate=0.01, batch_size=batch_size, epochs=1, x=x, t=t)


def make_examples(job: Job) -> Examples:
    """Returns the data of a job as JAX arrays."""
    return Examples(jnp.asarray(job.x), jnp.asarray(job.t))


def compile_training(job: Job, model: Layer, loss: Loss) -> Run:
    """Compiles all epochs of a job as one program of jaxann."""
    recipe = Recipe(model, loss, optax.sgd(job.rate), job.batch_size)
    args = start(recipe, jax.random.key(0)), make_lanes(make_examples(job), job.batch_size)
    return partial(train.lower(recipe, *args, job.epochs).compile(), *args)


def step_compiler(route: Callable, job: Job) -> Callable[[], Any]:
    """Returns a function that traces and compiles a training step on all data of a job, anew at every call."""
    model, optimizer = mlp(job.sizes, relu), optax.sgd(job.rate)
    params = model.init(jax.random.key(0))
    args = params, optimizer.init(params), jnp.asarray(job.x), jnp.asarray(job.t)

    def compile_step() -> Any:
        step = make_step(route(model, SoftmaxCrossEntropy()), optimizer, optax.apply_updates)
        return partial(jax.jit(step).lower(*args).compile(), *args)

    return compile_step


def make_step(gradient: Callable, optimizer: optax.GradientTransformation, apply_updates: Callable) -> Callable:
    """Returns the function (params, opt_state, x, t) -> (params, opt_state, loss) of one training step."""

    def step(params, opt_state, x, t):
        loss, grads = gradient(params, x, t)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return apply_updates(params, updates), opt_state, loss

    return step
