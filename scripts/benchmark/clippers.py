"""The mean of per-example gradients, each clipped to a norm of 1, as other libraries compute it.

A clipper is a function that takes a `Job` and returns a `Run`, which computes the clipped mean. The clippers in PyTorch
are in `torch_clippers`, and take a `TorchJob` instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jobs import Job
from libraries import prepare_installed
from measurement import Run
from optax.contrib import differentially_private_aggregate
from torch_clippers import TorchJob, prepare_torch_clippers

from jaxann.nn import SoftmaxCrossEntropy, mlp, relu


def prepare_clippers(job: Job) -> dict[str, Run]:
    """Prepares every clipper that is installed, and prints a line for each with its version or its absence."""
    clippers = {
        "vmap(grad)": ("jax", partial(clip_with_vmap, job)),
        "eights in a scan": ("jax", partial(clip_with_scan, job)),
        "optax": ("optax", partial(clip_with_optax, job)),
    }
    return {**prepare_installed(clippers), **prepare_torch_clippers(build_torch_job(job))}


def clip_with_vmap(job: Job) -> Run:
    """Prepares `jax.vmap(jax.grad)` of all examples at once, then norms, then the mean."""
    gradients, args = _vmap_grad(job)

    def clipped_mean(params, x, t):
        return _clipped_mean(gradients(params, x, t), len(x))

    return _compile(clipped_mean, args)


def clip_with_scan(job: Job) -> Run:
    """Prepares a `jax.lax.scan` over chunks of eight examples, each by `vmap(grad)`, so that memory stays small."""
    gradients, args = _vmap_grad(job)

    def clipped_mean(params, x, t):
        def add(total, batch):
            return jax.tree.map(jnp.add, total, _clipped_mean(gradients(params, *batch), len(x))), None

        eights = jax.tree.map(lambda a: a.reshape(-1, 8, *a.shape[1:]), (x, t))
        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), eights)[0]

    return _compile(clipped_mean, args)


def _clipped_mean(grads: Any, count: int) -> Any:
    """Returns the sum of the clipped gradients, divided by `count`."""
    squares = [jnp.sum(g**2, axis=range(1, g.ndim)) for g in jax.tree.leaves(grads)]
    factors = 1 / jnp.maximum(jnp.sqrt(sum(squares)), 1)
    return jax.tree.map(lambda g: jnp.tensordot(factors, g, 1) / count, grads)


def clip_with_optax(job: Job) -> Run:
    """Prepares optax's differentially private aggregate, without noise, of `vmap(grad)`."""
    gradients, args = _vmap_grad(job)
    aggregate = differentially_private_aggregate(l2_norm_clip=1.0, noise_multiplier=0.0, key=0)
    return _compile(lambda params, x, t: aggregate.update(gradients(params, x, t), aggregate.init(params))[0], args)


def build_torch_job(job: Job) -> TorchJob:
    """Returns the job for PyTorch, whose network starts with the parameters of jaxann's."""

    def build() -> Any:
        import torch  # pyright: ignore[reportMissingImports]
        from torch import nn  # pyright: ignore[reportMissingImports]

        layers = [layer for n, m in job.shapes for layer in (nn.Linear(n, m), nn.ReLU())]
        model = nn.Sequential(*layers[:-1])
        _, (params, *_) = _vmap_grad(job)
        for p, value in zip(model.parameters(), jax.tree.leaves(params), strict=True):  # both have W, b, W, b, ...
            p.data = torch.tensor(np.asarray(value))
        return model

    return TorchJob(build, job.x, job.t)


def _vmap_grad(job: Job) -> tuple[Callable, tuple[Any, ...]]:
    """Returns vmap(grad) of the network's own forward and loss, and the arguments to call it with."""
    model, loss = mlp(job.sizes, relu), SoftmaxCrossEntropy()
    gradient = jax.grad(lambda params, x, t: loss.value(model.forward(params, x)[0], t))
    args = model.init(jax.random.key(0)), jnp.asarray(job.x), jnp.asarray(np.asarray(job.t, np.int32))
    return jax.vmap(gradient, in_axes=(None, 0, 0)), args


def _compile(function: Callable, args: tuple[Any, ...]) -> Run:
    program = jax.jit(function).lower(*args).compile()
    return lambda: program(*args)
