"""The section on per-example gradients: their cost beside the mean gradient, and their cost in other libraries."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clippers import prepare_clippers
from images import ARCHITECTURES, build_torch_network
from jobs import make_random_job
from layers import build_networks
from measurement import Row, compare, time_in_turn
from settings import BenchmarkSettings
from torch_clippers import TorchJob, prepare_torch_clippers, prepare_torch_norms

from jaxann import backprop
from jaxann.gradients import per_example
from jaxann.gradients.per_example import clipped_mean, mean, noise_scale, norms
from jaxann.nn import SoftmaxCrossEntropy, mlp, relu


def measure_per_example(settings: BenchmarkSettings) -> list[Row]:
    """Measures what norms, noise scale and clipped mean add to the time and memory of the mean gradient."""
    job = make_random_job(512, 512)
    model, loss = mlp(job.sizes, relu), SoftmaxCrossEntropy()
    args = model.init(jax.random.key(0)), jnp.asarray(job.x), jnp.asarray(job.t)

    def from_gradients(extract: Callable) -> Callable:
        return lambda *args: extract(per_example.gradients(model, loss)(*args)[1])

    functions = {
        "gradient": backprop(model, loss),
        "norms and noise scale beside it": from_gradients(
            lambda grads: (mean(grads), norms(grads), noise_scale(grads))
        ),
        "clipped mean": from_gradients(lambda grads: clipped_mean(grads, 1.0)),
    }
    programs: dict[str, Any] = {name: jax.jit(function).lower(*args).compile() for name, function in functions.items()}
    runs = {name: partial(program, *args) for name, program in programs.items()}
    seconds = time_in_turn(runs, settings.rounds(100))
    memory = {name: np.array(program.memory_analysis().temp_size_in_bytes) for name, program in programs.items()}
    alone, *others = functions
    rows = [
        compare(f"{name} : {alone}", (seconds[name], seconds[alone]), "s", at_most=bound)
        for name, bound in zip(others, (1.25, 1.3), strict=True)
    ]
    rows += [compare(f"memory, {name}", (memory[name], memory[alone]), "B", at_most=2) for name in others]
    rivals = time_in_turn({"jaxann": runs["clipped mean"], **prepare_clippers(job)}, settings.rounds(5))
    jaxann = rivals.pop("jaxann")
    rows += [compare(f"clipped mean by {name} : jaxann", (s, jaxann), "s") for name, s in rivals.items()]
    return rows + measure_lenet(settings)


def measure_lenet(settings: BenchmarkSettings) -> list[Row]:
    """Measures the norms beside the mean gradient, and the clipped mean, of LeNet against the libraries for PyTorch."""
    generator = np.random.default_rng(0)
    x, t = generator.standard_normal((128, 28, 28, 1), np.float32), generator.integers(10, size=128)
    build = partial(build_torch_network, ARCHITECTURES["LeNet"])
    job = TorchJob(build, np.ascontiguousarray(np.moveaxis(x, -1, 1)), t)
    model = build_networks()["LeNet"].model
    args = model.init(jax.random.key(0)), jnp.asarray(x), jnp.asarray(t)
    gradients, rows = per_example.gradients(model, SoftmaxCrossEntropy()), []
    for what, extract, prepare in (
        ("norms and mean", lambda grads: (mean(grads), norms(grads)), prepare_torch_norms),
        ("clipped mean", lambda grads: clipped_mean(grads, 1.0), prepare_torch_clippers),
    ):
        program: Any = jax.jit(lambda *args, extract=extract: extract(gradients(*args)[1])).lower(*args).compile()
        seconds = time_in_turn({"jaxann": partial(program, *args), **prepare(job)}, settings.rounds(30))
        jaxann = seconds.pop("jaxann")
        rows += [compare(f"LeNet: {what} by {name} : jaxann", (s, jaxann), "s") for name, s in seconds.items()]
    return rows
