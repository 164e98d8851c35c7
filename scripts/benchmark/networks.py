"""Sections on the training of one network: steps of a small one and of a large one, and an epoch."""

from __future__ import annotations

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jobs import Job, compile_training, load_standardized_iris, make_random_job, step_compiler
from measurement import Row, Run, compare, time_in_turn
from peers import prepare_peers
from settings import BenchmarkSettings

from jaxann import autodiff, backprop
from jaxann.nn import CrossEntropy, SoftmaxCrossEntropy, mlp, relu, sigmoid, softmax


def measure_notebook(settings: BenchmarkSettings) -> list[Row]:
    """Measures the notebook's job as one compiled run, against peers that take its steps one by one."""
    x, labels = load_standardized_iris()
    t = np.where(labels[:, None] == np.arange(3), 0.98, 0.01).astype(np.float32)
    job = Job((4, 50, 20, 10, 3), "sigmoid", rate=0.5, batch_size=2, epochs=500, x=x, t=t)
    short = job._replace(epochs=10)  # enough to time a step of a peer; 500 epochs would take 10 s or more
    run = compile_training(job, mlp(job.sizes, sigmoid, softmax), CrossEntropy())
    seconds = time_in_turn({"jaxann": run, **prepare_peers(short)}, settings.rounds(20))
    jaxann = seconds.pop("jaxann") / job.steps
    steps = {name: values / short.steps for name, values in seconds.items()}
    return [
        compare("a step of jaxann : of 3.5 µs", (jaxann, np.array(3.5e-6)), "s", at_most=1),
        *(
            compare(f"a step of {name} : of jaxann", (step, jaxann), "s", at_least=13 if name == "flax_linen" else 30)
            for name, step in steps.items()
        ),
    ]


def measure_gradient(settings: BenchmarkSettings) -> list[Row]:
    """Measures the handwritten gradient against autodiff's, each in a jitted training step."""
    rows = []
    for batch_size, rounds in (128, 200), (1024, 60):
        job = make_random_job(batch_size, batch_size)
        compilers = {route.__name__: step_compiler(route, job) for route in (backprop, autodiff)}
        steps = {name: compile_step() for name, compile_step in compilers.items()}
        running = time_in_turn(steps, settings.rounds(rounds))
        memory = [np.array(step.func.memory_analysis().temp_size_in_bytes) for step in steps.values()]
        compiling = time_in_turn(compilers, settings.rounds(20), before=jax.clear_caches)
        rows += [
            compare(f"time, batch {batch_size}", running.values(), "s", at_most=1.02),
            compare(f"temporary memory, batch {batch_size}", memory, "B", at_most=1),
            compare(f"time to compile, batch {batch_size}", compiling.values(), "s", at_most=1),
        ]
    return rows


def measure_epoch(settings: BenchmarkSettings) -> list[Row]:
    """Measures an epoch of MNIST's size in operations per second against a matrix product and in time against peers."""
    job = make_random_job(6_000 if settings.quick else 60_000, batch_size=128)
    run = compile_training(job, mlp(job.sizes, relu), SoftmaxCrossEntropy())
    product, product_operations = prepare_products()
    runs = {"jaxann": run, "product": product, "step products": prepare_step_products(job), **prepare_peers(job)}
    seconds = time_in_turn(runs, settings.rounds(5))
    jaxann, products_alone = seconds.pop("jaxann"), seconds.pop("step products")
    bare = product_operations / seconds.pop("product")
    counted = 6 * sum(n * m for n, m in job.shapes) * len(job.x)  # W x, Wᵀ dy and dy xᵀ: each takes 2 for an entry of W
    computed = counted - 2 * np.prod(job.shapes[0]) * len(job.x)  # nothing needs Wᵀ dy of the first layer
    return [
        compare("6 x weights x rows : bare product", (counted / jaxann, bare), "FLOP/s", at_least=0.8),
        compare("the same without the first layer's dx", (computed / jaxann, bare), "FLOP/s", at_least=0.87),
        compare("the products of the steps alone : bare product", (computed / products_alone, bare), "FLOP/s"),
        *(compare(f"an epoch of {name} : of jaxann", (values, jaxann), "s") for name, values in seconds.items()),
    ]


def prepare_step_products(job: Job) -> Run:
    """Returns a run of only the matrix products of a job's steps: W x, dy xᵀ and, except in the first layer, Wᵀ dy."""
    generator = np.random.default_rng(0)
    weights = [generator.standard_normal((m, n), np.float32) / n**0.5 for n, m in job.shapes]
    inputs = [generator.standard_normal((job.batch_size, n), np.float32) for n in job.sizes]
    arrays = [*map(jnp.asarray, (*weights, *inputs))]

    @jax.jit
    def multiply(dy: Any, arrays: list[Any]) -> tuple[Any, list[Any]]:
        weights, inputs = arrays[: len(job.shapes)], arrays[len(job.shapes) : -1]
        # The next layer's input stands in for dy, which has its shape. All results are returned, so that XLA removes no
        # product.
        cotangents = [*inputs[1:], dy]
        outputs = [x @ W.T for W, x in zip(weights, inputs, strict=True)]
        grads = [dy.T @ x for dy, x in zip(cotangents, inputs, strict=True)]
        return outputs[-1], [*outputs, *grads, *(dy @ W for W, dy in zip(weights[1:], cotangents[1:], strict=True))]

    return lambda: reduce(lambda dy, _: multiply(dy, arrays)[0], range(job.steps), arrays[-1])


def prepare_products(size: int = 2048, times: int = 8) -> tuple[Run, int]:
    """Returns a run of float32 matrix products, each with the last one's result, and the number of their operations."""
    a = jax.random.normal(jax.random.key(0), (size, size)) / size**0.5
    multiply = jax.jit(jnp.matmul)
    return lambda: reduce(multiply, [a] * (times + 1)), times * 2 * size**3
