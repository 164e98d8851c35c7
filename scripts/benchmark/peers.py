"""The benchmark's job in other libraries, each with the loop over batches that its users write.

A peer is a function that takes a `Job` and returns a `Run`, which trains. It imports its library when it is called,
because the library may be missing.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jobs import Job, make_step
from libraries import prepare_installed
from measurement import Run
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier


def prepare_peers(job: Job) -> dict[str, Run]:
    """Prepares every peer that is installed, and prints a line for each with its version or its absence."""
    packages = {
        scikit_learn: "scikit-learn",
        pytorch: "torch",
        flax_nnx: "flax",
        flax_linen: "flax",
        equinox: "equinox",
    }
    return prepare_installed({peer.__name__: (name, partial(peer, job)) for peer, name in packages.items()})


def scikit_learn(job: Job) -> Run:
    """Prepares `MLPClassifier.fit`, which has its own loop."""
    warnings.simplefilter("ignore", ConvergenceWarning)  # training is stopped early on purpose
    settings: dict[str, Any] = {"max_iter": job.epochs, "batch_size": job.batch_size, "learning_rate_init": job.rate}
    hidden = "logistic" if job.hidden == "sigmoid" else job.hidden
    network = MLPClassifier(job.sizes[1:-1], hidden, solver="sgd", momentum=0, alpha=0, **settings)
    labels = job.t.argmax(axis=1) if job.t.ndim == 2 else job.t
    return lambda: network.fit(job.x, labels)


def pytorch(job: Job) -> Run:
    """Prepares a loop over PyTorch tensors."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(
        1 if max(job.sizes) < 100 else os.cpu_count() or 1
    )  # with so little to do, more threads only wait
    device = "cuda" if torch.cuda.is_available() else "cpu"
    hidden = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}[job.hidden]
    layers = [layer for n, m in job.shapes for layer in (nn.Linear(n, m), hidden())]
    model = nn.Sequential(*layers[:-1]).to(device)
    optimizer = torch.optim.SGD(model.parameters(), job.rate)

    def step(x, t):
        loss = nn.functional.cross_entropy(model(x), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return (loss.item(),)  # `item` waits for the device

    return loop_over_batches(
        job._replace(x=torch.tensor(job.x, device=device), t=torch.tensor(job.t, device=device)), step
    )


def flax_nnx(job: Job) -> Run:
    """Prepares a loop around an `nnx.jit` step that changes model and optimizer in place."""
    from flax import nnx  # pyright: ignore[reportMissingImports]

    rngs = nnx.Rngs(0)
    layers = [layer for n, m in job.shapes for layer in (nnx.Linear(n, m, rngs=rngs), getattr(nnx, job.hidden))]
    model = nnx.Sequential(*layers[:-1])
    optimizer = nnx.Optimizer(model, optax.sgd(job.rate), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x, t):
        loss, grads = nnx.value_and_grad(lambda model: cross_entropy(model(x), t))(model)
        optimizer.update(model, grads)
        return loss

    return loop_over_batches(job, lambda x, t: (step(model, optimizer, x, t),))


def flax_linen(job: Job) -> Run:
    """Prepares a loop around a `jax.jit` step on a Linen network."""
    from flax import linen as nn  # pyright: ignore[reportMissingImports]

    layers = [layer for _, m in job.shapes for layer in (nn.Dense(m), getattr(nn, job.hidden))]
    model, optimizer = nn.Sequential(layers[:-1]), optax.sgd(job.rate)
    gradient = jax.value_and_grad(lambda params, x, t: cross_entropy(model.apply(params, x), t))
    params = model.init(jax.random.key(0), job.x[:1])
    step = jax.jit(make_step(gradient, optimizer, optax.apply_updates))
    return loop_over_batches(job, step, params, optimizer.init(params))


def equinox(job: Job) -> Run:
    """Prepares a loop around an `eqx.filter_jit` step on an Equinox network."""
    import equinox as eqx  # pyright: ignore[reportMissingImports]

    key, hidden = jax.random.key(0), eqx.nn.Lambda(getattr(jax.nn, job.hidden))
    layers = [layer for n, m in job.shapes for layer in (eqx.nn.Linear(n, m, key=key), hidden)]
    model, optimizer = eqx.nn.Sequential(layers[:-1]), optax.sgd(job.rate)
    gradient = eqx.filter_value_and_grad(lambda model, x, t: cross_entropy(jax.vmap(model)(x), t))
    step = eqx.filter_jit(make_step(gradient, optimizer, eqx.apply_updates))
    return loop_over_batches(job, step, model, optimizer.init(eqx.filter(model, eqx.is_array)))


def loop_over_batches(job: Job, step: Callable, *state: Any) -> Run:
    """Prepares a loop over the batches of reshuffled epochs; each `step` gets the state that the last one returned."""
    generator, n = np.random.default_rng(0), len(job.x)

    def run():
        current, losses = state, []
        for _ in range(job.epochs):
            for batch in np.split(generator.permutation(n), range(job.batch_size, n, job.batch_size)):
                *current, loss = step(*current, job.x[batch], job.t[batch])
                losses.append(loss)
        return current, losses

    return run


def cross_entropy(y: Any, t: Any) -> Any:
    """Returns the mean cross-entropy over a batch of logits, for targets that are labels or distributions."""
    integer = optax.softmax_cross_entropy_with_integer_labels
    losses = integer(y, t) if t.ndim == 1 else optax.softmax_cross_entropy(y, t)
    return losses.mean()
