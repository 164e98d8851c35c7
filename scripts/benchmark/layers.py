"""The section on convolutional, recurrent and attending networks: handwritten against automatic gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from measurement import Row, compare, time_in_turn
from settings import BenchmarkSettings

from jaxann import autodiff, backprop
from jaxann.gradients import per_example
from jaxann.gradients.per_example import clipped_mean, mean, norms
from jaxann.nn import (
    GRU,
    LSTM,
    BatchNorm,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Input,
    Layer,
    MaxPool,
    Sequential,
    SoftmaxCrossEntropy,
    SwiGLU,
    lenet,
    recurrent_network,
    relu,
    resnet,
    transformer,
)

STEPS = 3  # of the loop


class Network(NamedTuple):
    """A network to measure, with the largest ratios that meet the targets.

    Attributes:
        model: The network.
        x: A batch of inputs.
        time: The largest ratio of handwritten to autodiff for a step.
        in_loop: The largest ratio of a step inside `lax.scan` to the step alone; None without convolutions.
        extraction: The largest ratios of norms beside the mean gradient, and of the clipped mean, to the gradient.
    """

    model: Layer
    x: Any
    time: float
    in_loop: float | None = None
    extraction: tuple[float, float] | None = None


def build_networks() -> dict[str, Network]:
    """Returns the networks of the section, by name."""
    images, colors = jnp.ones((128, 28, 28, 1)), jnp.ones((32, 32, 32, 3))
    ids, steps = jnp.arange(16 * 64).reshape(16, 64) % 96, jnp.ones((32, 50, 128))
    cnn = (
        *(Input((28, 28, 1)), Conv(1, 32, (3, 3), padding="same"), relu, MaxPool((2, 2))),
        *(Conv(32, 64, (3, 3), padding="same"), relu, MaxPool((2, 2)), Flatten(), Dense(3136, 10)),
    )
    return {
        "LeNet": Network(lenet((28, 28, 1), 10), images, 1.02, 1.3, (2, 2.5)),
        "CNN 32-64": Network(Sequential(cnn), images, 1.02, 1.3),
        "ResNet": Network(resnet((32, 32, 3), 10, blocks=1), colors, 1.02, 1.3),
        "ResNet, BatchNorm": Network(resnet((32, 32, 3), 10, blocks=1, normalization=BatchNorm), colors, 1.02, 1.3),
        "transformer": Network(classify(transformer(96, 64)), ids, 0.86, None, (1.5, 2)),
        "rotary, SwiGLU": Network(classify(transformer(96, 64, positions="rotary", feed_forward=SwiGLU)), ids, 0.76),
        "LSTM": Network(recurrent_network((128, 128, 10), LSTM), steps, 0.9),
        "GRU": Network(recurrent_network((128, 128, 10), GRU), steps, 0.82),
    }


def classify(model: Layer) -> Sequential:
    """Returns a network for sequences whose outputs are averaged over the positions, so that one label fits."""
    return Sequential((model, GlobalAvgPool()))


def measure_layers(settings: BenchmarkSettings) -> list[Row]:
    """Measures a training step of each network by hand and by autodiff, alone and in a loop."""
    return [row for name, network in build_networks().items() for row in measure_network(name, network, settings)]


def measure_network(name: str, network: Network, settings: BenchmarkSettings) -> list[Row]:
    """Measures one network."""
    model, loss, x = network.model, SoftmaxCrossEntropy(), draw_like(network.x)
    params = model.init(jax.random.key(0))
    t = jnp.arange(len(x)) % 10

    def step(route: Callable, params: Any) -> Any:
        _, grads = route(model, loss)(params, x, t)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)

    def loop(route: Callable, params: Any) -> Any:
        return jax.lax.scan(lambda p, _: (step(route, p), None), params, None, length=STEPS)[0]

    def compile_function(function: Callable) -> Any:
        return jax.jit(function).lower(params).compile()

    compilers = {route.__name__: partial(compile_function, partial(step, route)) for route in (backprop, autodiff)}
    programs = {route: compiler() for route, compiler in compilers.items()}
    memory = [np.array(program.memory_analysis().temp_size_in_bytes) for program in programs.values()]
    programs |= {"loop": compile_function(partial(loop, backprop))} if network.in_loop is not None else {}
    if network.extraction is not None:
        examples = per_example.gradients(model, loss)
        programs["gradient"] = compile_function(lambda params: backprop(model, loss)(params, x, t))
        programs["norms"] = compile_function(lambda params: [f(examples(params, x, t)[1]) for f in (mean, norms)])
        programs["clipped"] = compile_function(lambda params: clipped_mean(examples(params, x, t)[1], 1.0))
    seconds = time_in_turn({key: partial(program, params) for key, program in programs.items()}, settings.rounds(30))
    compiling = time_in_turn(compilers, settings.rounds(5), before=jax.clear_caches)
    hand, automatic = seconds["backprop"], seconds["autodiff"]
    rows = [
        compare(f"{name}: step, by hand : autodiff", (hand, automatic), "s", at_most=network.time),
        compare(f"{name}: temporary memory", memory, "B", at_most=1.05),
        compare(f"{name}: time to compile", compiling.values(), "s", at_most=1),
    ]
    if network.in_loop is not None:
        in_loop = seconds["loop"] / STEPS
        rows.append(compare(f"{name}: by hand, in a loop : alone", (in_loop, hand), "s", at_most=network.in_loop))
        automatic = compile_function(partial(loop, autodiff))
        runs = {"backprop": partial(programs["loop"], params), "autodiff": partial(automatic, params)}
        loops = time_in_turn(runs, settings.rounds(3))
        rows.append(compare(f"{name}: in a loop, autodiff : by hand", (loops["autodiff"], loops["backprop"]), "s"))
    if network.extraction is not None:
        for key, what, bound in zip(
            ("norms", "clipped"), ("norms and mean", "clipped mean"), network.extraction, strict=True
        ):
            pair = seconds[key], seconds["gradient"]
            rows.append(compare(f"{name}: {what} : gradient", pair, "s", at_most=bound))
    return rows


def draw_like(x: Any) -> Any:
    """Returns random numbers in place of the floats of x."""
    return x if jnp.issubdtype(x.dtype, jnp.integer) else jax.random.normal(jax.random.key(1), x.shape)
