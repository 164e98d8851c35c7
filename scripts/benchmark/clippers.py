"""The mean of a batch's gradients, each clipped to a norm of 1, in the ways that people know: jaxann's rivals in that.

Each is a function from the batch's `Job` to what runs it once; importing its library is left to the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from peers import Job, Run


def clippers(job: Job) -> dict[str, Run]:
    """All that are installed; a line for each that is not."""
    found = {}
    for make in (vmap, microbatches, optax, opacus, backpack):
        try:
            found[make.__name__] = make(job)
        except ImportError as error:
            print(f"without {make.__name__}: {error}")
    return found


def vmap(job: Job) -> Run:
    """`jax.vmap(jax.grad)` of everything at once, then norms, then the mean."""
    import jax
    import jax.numpy as jnp

    gradients, args = _gradients(job)

    def clipped(params, x, t):
        grads = gradients(params, x, t)
        squares = [jnp.sum(g**2, axis=range(1, g.ndim)) for g in jax.tree.leaves(grads)]
        shrinking = 1 / jnp.maximum(jnp.sqrt(sum(squares)), 1)
        return jax.tree.map(lambda g: jnp.tensordot(shrinking, g, 1) / len(x), grads)

    return _compiled(clipped, args)


def microbatches(job: Job) -> Run:
    """`jax.lax.scan` over eights of examples, each by `vmap(grad)`, so that memory stays small."""
    import jax
    import jax.numpy as jnp

    gradients, args = _gradients(job)

    def clipped(params, x, t):
        def add(total, batch):
            grads = gradients(params, *batch)
            squares = [jnp.sum(g**2, axis=range(1, g.ndim)) for g in jax.tree.leaves(grads)]
            shrinking = 1 / jnp.maximum(jnp.sqrt(sum(squares)), 1)
            return jax.tree.map(lambda a, g: a + jnp.tensordot(shrinking, g, 1) / len(x), total, grads), None

        eights = jax.tree.map(lambda a: a.reshape(-1, 8, *a.shape[1:]), (x, t))
        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), eights)[0]

    return _compiled(clipped, args)


def optax(job: Job) -> Run:
    """optax's differentially private aggregate, without noise, of `vmap(grad)`."""
    from optax.contrib import differentially_private_aggregate

    gradients, args = _gradients(job)
    aggregate = differentially_private_aggregate(l2_norm_clip=1.0, noise_multiplier=0.0, key=0)
    return _compiled(lambda params, x, t: aggregate.update(gradients(params, x, t), aggregate.init(params))[0], args)


def opacus(job: Job) -> Run:
    """Opacus's hooks, which keep every example's gradient."""
    from opacus import GradSampleModule  # pyright: ignore[reportMissingImports]

    return _torch(job, GradSampleModule, lambda p: p.grad_sample)


def backpack(job: Job) -> Run:
    """BackPACK's BatchGrad, whose gradients are each example's share of a mean."""
    from backpack import backpack, extend  # pyright: ignore[reportMissingImports]
    from backpack.extensions import BatchGrad  # pyright: ignore[reportMissingImports]

    return _torch(job, extend, lambda p: p.grad_batch * len(job.x), extend, lambda: backpack(BatchGrad()))


def _torch(
    job: Job, prepare: Callable, each: Callable, of_loss: Callable = lambda loss: loss, within: Any = None
) -> Run:
    import contextlib

    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    layers = [layer for n, m in job.matrices for layer in (nn.Linear(n, m), nn.ReLU())]
    model, loss = prepare(nn.Sequential(*layers[:-1])), of_loss(nn.CrossEntropyLoss())
    x, t = torch.tensor(job.x), torch.tensor(job.t)

    def run() -> list[Any]:
        model.zero_grad()
        with within() if within else contextlib.nullcontext():
            loss(model(x), t).backward()
        with torch.no_grad():
            grads = [each(p) for p in model.parameters()]
            squares = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0)
            shrinking = 1 / squares.sqrt().clamp(min=1)
            return [torch.tensordot(shrinking, g, 1).sum().item() / len(x) for g in grads]

    return run


def _gradients(job: Job) -> tuple[Callable, tuple[Any, ...]]:
    """vmap(grad) of the network's own forward and loss, and its arguments."""
    import jax
    import jax.numpy as jnp

    from jaxann.nn import SoftmaxCrossEntropy, mlp, relu

    model, loss = mlp(job.sizes, relu), SoftmaxCrossEntropy()
    gradient = jax.grad(lambda params, x, t: loss.value(model.forward(params, x)[0], t))
    args = model.init(jax.random.key(0)), jnp.asarray(job.x), jnp.asarray(np.asarray(job.t, np.int32))
    return jax.vmap(gradient, in_axes=(None, 0, 0)), args


def _compiled(function: Callable, args: tuple[Any, ...]) -> Run:
    import jax

    program = jax.jit(function).lower(*args).compile()
    return lambda: program(*args)
