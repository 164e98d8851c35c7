"""The section on training with images: images per second of loops, against autodiff and against other libraries."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from layers import build_networks
from libraries import prepare_installed
from measurement import Row, Run, compare, time_in_turn
from peers import cross_entropy
from settings import BenchmarkSettings

from jaxann import autodiff, backprop
from jaxann.data.batches import Examples, make_lanes
from jaxann.nn import Layer, SoftmaxCrossEntropy
from jaxann.training import Recipe
from jaxann.training.recipe import start, train

BATCH, RATE = 128, 1e-3
STEPS, SLOW_STEPS = 12, 2  # of a loop; autodiff's takes up to 20 times as long


class Architecture(NamedTuple):
    """A network for images of 28 by 28 places, as every library builds it, with the ratios of images per second.

    Attributes:
        channels: The numbers of channels of the convolutions, from that of the image on.
        size: The length of both sides of their windows.
        padded: Whether each convolution keeps the places of its input. Each is followed by ReLU and a pool of 2 by 2.
        features: The number of features after the last pool, and those of the dense layers, with ReLU in between.
        targets: The least ratios of jaxann to autodiff and to each peer.
    """

    channels: tuple[int, ...]
    size: int
    padded: tuple[bool, ...]
    features: tuple[int, ...]
    targets: dict[str, float]


ARCHITECTURES = {
    "LeNet": Architecture(
        (1, 6, 16), 5, (True, False), (400, 120, 84, 10), {"autodiff": 4, "Flax": 1.25, "PyTorch": 1}
    ),
    "CNN 32-64": Architecture((1, 32, 64), 3, (True, True), (3136, 10), {"autodiff": 10, "Flax": 2, "PyTorch": 0.8}),
}


def measure_images(settings: BenchmarkSettings) -> list[Row]:
    """Measures how many images per second each network trains on with Adam, in loops over batches of 128."""
    generator, rows = np.random.default_rng(0), []
    x = generator.standard_normal((STEPS * BATCH, 28, 28, 1), np.float32)
    t = generator.integers(10, size=len(x), dtype=np.int32)
    slow = slice(SLOW_STEPS * BATCH)
    for name, architecture in ARCHITECTURES.items():
        model = build_networks()[name].model
        runs = {
            "jaxann": compile_run(backprop, model, x, t),
            "autodiff": compile_run(autodiff, model, x[slow], t[slow]),
            **prepare_peers(architecture, x, t),
        }
        seconds = time_in_turn(runs, settings.rounds(8))
        speeds = {key: (SLOW_STEPS if key == "autodiff" else STEPS) * BATCH / values for key, values in seconds.items()}
        rows += [
            compare(
                f"{name}: jaxann : {key}", (speeds["jaxann"], speed), "images/s", at_least=architecture.targets[key]
            )
            for key, speed in speeds.items()
            if key != "jaxann"
        ]
    return rows


def compile_run(route: Callable, model: Layer, x: np.ndarray, t: np.ndarray) -> Run:
    """Compiles an epoch as `jaxann train` runs it, with all its steps in one program."""
    recipe = Recipe(model, SoftmaxCrossEntropy(), optax.adam(RATE), BATCH, gradient=route)
    args = start(recipe, jax.random.key(0)), make_lanes(Examples(jnp.asarray(x), jnp.asarray(t)), BATCH)
    return partial(train.lower(recipe, *args, 1).compile(), *args)


def prepare_peers(architecture: Architecture, x: np.ndarray, t: np.ndarray) -> dict[str, Run]:
    """Prepares an epoch of every peer that is installed, and prints a line for each with its version or its absence."""
    peers = {"Flax": ("flax", prepare_flax), "PyTorch": ("torch", prepare_pytorch)}
    return prepare_installed({name: (package, partial(f, architecture, x, t)) for name, (package, f) in peers.items()})


def prepare_flax(architecture: Architecture, x: np.ndarray, t: np.ndarray) -> Run:
    """Prepares a loop around a `jax.jit` step on a Linen network."""
    from flax import linen as nn  # pyright: ignore[reportMissingImports]

    layers: list[Any] = []
    size = (architecture.size, architecture.size)
    for m, padded in zip(architecture.channels[1:], architecture.padded, strict=True):
        layers += [nn.Conv(m, size, padding="SAME" if padded else "VALID"), nn.relu]
        layers += [partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))]
    layers += [lambda x: x.reshape(len(x), -1)]
    layers += [layer for m in architecture.features[1:] for layer in (nn.Dense(m), nn.relu)][:-1]
    model, optimizer = nn.Sequential(layers), optax.adam(RATE)
    params = model.init(jax.random.key(0), x[:1])
    gradient = jax.value_and_grad(lambda params, x, t: cross_entropy(model.apply(params, x), t))

    @jax.jit
    def step(params: Any, state: Any, x: Any, t: Any) -> Any:
        loss, grads = gradient(params, x, t)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    generator, first = np.random.default_rng(0), optimizer.init(params)

    def run() -> Any:
        current = params, first
        for batch in generator.permutation(len(x)).reshape(-1, BATCH):
            *current, _ = step(*current, x[batch], t[batch])
        return current

    return run


def prepare_pytorch(architecture: Architecture, x: np.ndarray, t: np.ndarray) -> Run:
    """Prepares a loop over tensors in PyTorch's faster settings.

    Channels in the last axis of memory and the fused Adam are faster than the defaults; `torch.compile` is not used.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(os.cpu_count() or 1)
    model = build_torch_network(architecture).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), RATE, fused=True)
    images = torch.tensor(np.moveaxis(x, -1, 1)).contiguous(memory_format=torch.channels_last)
    labels = torch.tensor(t, dtype=torch.long)

    def run() -> None:
        loss = torch.zeros(())
        for batch in torch.randperm(len(images)).reshape(-1, BATCH):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()  # waits for the last step

    return run


def build_torch_network(architecture: Architecture) -> Any:
    """Returns the network in PyTorch, for images [B, channels, height, width]."""
    from torch import nn  # pyright: ignore[reportMissingImports]

    layers: list[Any] = []
    for (n, m), padded in zip(pairwise(architecture.channels), architecture.padded, strict=True):
        layers += [nn.Conv2d(n, m, architecture.size, padding=architecture.size // 2 if padded else 0), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    layers += [nn.Flatten()]
    layers += [layer for n, m in pairwise(architecture.features) for layer in (nn.Linear(n, m), nn.ReLU())][:-1]
    return nn.Sequential(*layers)
