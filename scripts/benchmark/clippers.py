"""The mean of per-example gradients, each clipped to a norm of 1, as other libraries compute it.

A clipper is a function that takes a `Job` and returns a `Run`, which computes the clipped mean. It imports its library
when it is called, because the library may be missing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jobs import Job
from measurement import Run
from optax.contrib import differentially_private_aggregate

from jaxann.nn import SoftmaxCrossEntropy, mlp, relu


def prepare_clippers(job: Job) -> dict[str, Run]:
    """Prepares every clipper that is installed, and prints a line for each that is not."""
    clippers = {
        "vmap(grad)": clip_with_vmap,
        "eights in a scan": clip_with_scan,
        "optax": clip_with_optax,
        "opacus": clip_with_opacus,
        "backpack": clip_with_backpack,
    }
    runs = {}
    for name, prepare in clippers.items():
        try:
            runs[name] = prepare(job)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return runs


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


def clip_with_opacus(job: Job) -> Run:
    """Prepares Opacus's hooks, which keep every example's gradient."""
    from opacus import GradSampleModule  # pyright: ignore[reportMissingImports]

    return _clip_with_torch(job, GradSampleModule, lambda p: p.grad_sample)


def clip_with_backpack(job: Job) -> Run:
    """Prepares BackPACK's BatchGrad, which returns each example's gradient divided by the batch size."""
    from backpack import backpack, extend  # pyright: ignore[reportMissingImports]
    from backpack.extensions import BatchGrad  # pyright: ignore[reportMissingImports]

    def gradients(p: Any) -> Any:
        return p.grad_batch * len(job.x)

    return _clip_with_torch(job, extend, gradients, extend, lambda: backpack(BatchGrad()))


def _clip_with_torch(
    job: Job,
    prepare: Callable,
    gradients: Callable,
    prepare_loss: Callable = lambda loss: loss,
    context: Callable[[], Any] = nullcontext,
) -> Run:
    """Prepares a backward pass, after which `gradients(p)` has every example's gradient of p, and the clipped mean."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    layers = [layer for n, m in job.shapes for layer in (nn.Linear(n, m), nn.ReLU())]
    model, loss = prepare(nn.Sequential(*layers[:-1])), prepare_loss(nn.CrossEntropyLoss())
    x, t = torch.tensor(job.x), torch.tensor(job.t)

    def run() -> list[Any]:
        model.zero_grad()
        with context():
            loss(model(x), t).backward()
        with torch.no_grad():
            grads = [gradients(p) for p in model.parameters()]
            squares = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0)
            factors = 1 / squares.sqrt().clamp(min=1)
            return [torch.tensordot(factors, g, 1).sum().item() / len(x) for g in grads]

    return run


def _vmap_grad(job: Job) -> tuple[Callable, tuple[Any, ...]]:
    """Returns vmap(grad) of the network's own forward and loss, and the arguments to call it with."""
    model, loss = mlp(job.sizes, relu), SoftmaxCrossEntropy()
    gradient = jax.grad(lambda params, x, t: loss.value(model.forward(params, x)[0], t))
    args = model.init(jax.random.key(0)), jnp.asarray(job.x), jnp.asarray(np.asarray(job.t, np.int32))
    return jax.vmap(gradient, in_axes=(None, 0, 0)), args


def _compile(function: Callable, args: tuple[Any, ...]) -> Run:
    program = jax.jit(function).lower(*args).compile()
    return lambda: program(*args)
