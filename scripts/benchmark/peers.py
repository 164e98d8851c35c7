"""The benchmark's job in the libraries that people know: each the loop over batches that its users write.

A peer is a function from a `Job` to what runs it once; importing its library is left to the call.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from optax import GradientTransformation

Run = Callable[[], Any]  # its work has ended when jax.block_until_ready of what it returns has


class Job(NamedTuple):
    """A network, its data and its training by SGD: the same for all that are timed."""

    sizes: tuple[int, ...]
    hidden: Literal["sigmoid", "relu"]
    rate: float
    batch_size: int
    epochs: int
    x: Any
    t: Any  # integer labels, or a distribution a row

    @property
    def steps(self) -> int:
        """How many updates all epochs make."""
        return self.epochs * ceil(len(self.x) / self.batch_size)

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """The numbers of inputs and outputs of every layer."""
        return list(pairwise(self.sizes))


def peers(job: Job) -> dict[str, Run]:
    """Every peer that is installed, ready to run."""
    runs = {}
    for peer in scikit_learn, pytorch, flax_nnx, flax_linen, equinox:
        try:
            runs[peer.__name__] = peer(job)
        except ImportError as error:
            print(f"{peer.__name__} is left out: {error}")
    return runs


def scikit_learn(job: Job) -> Run:
    """`MLPClassifier.fit`, which loops itself."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore", ConvergenceWarning)  # it is stopped on purpose
    settings: dict[str, Any] = {"max_iter": job.epochs, "batch_size": job.batch_size, "learning_rate_init": job.rate}
    hidden = "logistic" if job.hidden == "sigmoid" else job.hidden
    network = MLPClassifier(job.sizes[1:-1], hidden, solver="sgd", momentum=0, alpha=0, **settings)
    labels = job.t.argmax(axis=1) if job.t.ndim == 2 else job.t
    return lambda: network.fit(job.x, labels)


def pytorch(job: Job) -> Run:
    """A loop over tensors."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1 if max(job.sizes) < 100 else os.cpu_count() or 1)  # with so little to do, more only wait
    device = "cuda" if torch.cuda.is_available() else "cpu"
    hidden = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}[job.hidden]
    layers = [layer for n, m in job.matrices for layer in (nn.Linear(n, m), hidden())]
    model = nn.Sequential(*layers[:-1]).to(device)
    optimizer = torch.optim.SGD(model.parameters(), job.rate)

    def step(x, t):
        loss = nn.functional.cross_entropy(model(x), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return (loss.item(),)  # which waits for the device

    return loop(job._replace(x=torch.tensor(job.x, device=device), t=torch.tensor(job.t, device=device)), step)


def flax_nnx(job: Job) -> Run:
    """A loop around an `nnx.jit` step that changes model and optimiser in place."""
    import optax
    from flax import nnx  # pyright: ignore[reportMissingImports]

    rngs = nnx.Rngs(0)
    layers = [layer for n, m in job.matrices for layer in (nnx.Linear(n, m, rngs=rngs), getattr(nnx, job.hidden))]
    model = nnx.Sequential(*layers[:-1])
    optimizer = nnx.Optimizer(model, optax.sgd(job.rate), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x, t):
        loss, grads = nnx.value_and_grad(lambda model: cross_entropy(model(x), t))(model)
        optimizer.update(model, grads)
        return loss

    return loop(job, lambda x, t: (step(model, optimizer, x, t),))


def flax_linen(job: Job) -> Run:
    """A loop around a `jax.jit` step on a Linen network."""
    import jax
    import optax
    from flax import linen as nn  # pyright: ignore[reportMissingImports]

    layers = [layer for _, m in job.matrices for layer in (nn.Dense(m), getattr(nn, job.hidden))]
    model, optimizer = nn.Sequential(layers[:-1]), optax.sgd(job.rate)
    gradient = jax.value_and_grad(lambda params, x, t: cross_entropy(model.apply(params, x), t))
    params = model.init(jax.random.key(0), job.x[:1])
    step = jax.jit(training_step(gradient, optimizer, optax.apply_updates))
    return loop(job, step, params, optimizer.init(params))


def equinox(job: Job) -> Run:
    """A loop around an `eqx.filter_jit` step on an Equinox network."""
    import equinox as eqx  # pyright: ignore[reportMissingImports]
    import jax
    import optax

    key, hidden = jax.random.key(0), eqx.nn.Lambda(getattr(jax.nn, job.hidden))
    layers = [layer for n, m in job.matrices for layer in (eqx.nn.Linear(n, m, key=key), hidden)]
    model, optimizer = eqx.nn.Sequential(layers[:-1]), optax.sgd(job.rate)
    gradient = eqx.filter_value_and_grad(lambda model, x, t: cross_entropy(jax.vmap(model)(x), t))
    step = eqx.filter_jit(training_step(gradient, optimizer, eqx.apply_updates))
    return loop(job, step, model, optimizer.init(eqx.filter(model, eqx.is_array)))


def training_step(gradient: Callable, optimizer: GradientTransformation, apply_updates: Callable) -> Callable:
    """(params, opt_state, x, t) -> the next params and opt_state, and the loss."""

    def step(params, opt_state, x, t):
        loss, grads = gradient(params, x, t)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return apply_updates(params, updates), opt_state, loss

    return step


def loop(job: Job, step: Callable, *state: Any) -> Run:
    """Hands every batch of reshuffled epochs, and the state that the step before left, to `step`; keeps the losses."""
    rng, n = np.random.default_rng(0), len(job.x)

    def run():
        now, losses = state, []
        for _ in range(job.epochs):
            for batch in np.split(rng.permutation(n), range(job.batch_size, n, job.batch_size)):
                *now, loss = step(*now, job.x[batch], job.t[batch])
                losses.append(loss)
        return now, losses

    return run


def cross_entropy(y: Any, t: Any) -> Any:
    """The mean over a batch of logits, for labels or distributions."""
    import optax

    of_each = optax.softmax_cross_entropy_with_integer_labels if t.ndim == 1 else optax.softmax_cross_entropy
    return of_each(y, t).mean()
