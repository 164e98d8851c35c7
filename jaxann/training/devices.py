"""The devices of a run: a mesh of them, and the examples and parameters of the run laid out over it.

JAX's partitioner inserts the exchanges between devices that a step needs. Devices along the axis "data", over which the
batch is spread, exchange sums of gradients. Devices along the axis "model", over which the outputs of hidden layers are
spread, exchange activations and their cotangents.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxann.data.batches import Examples, Lanes
from jaxann.nn.base import path_name
from jaxann.nn.hyperparameters import validate_number
from jaxann.training.recipe import TrainState


def cpu_devices(count: int) -> None:
    """Makes JAX treat the CPU as several devices, unless the environment variable JAX_NUM_CPU_DEVICES is set.

    The call has no effect after JAX's first computation, which fixes the devices.

    Args:
        count: The number of devices; the number of cores if that is smaller.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with suppress(RuntimeError):  # raised after the first computation
            jax.config.update("jax_num_cpu_devices", min(count, cores))


def make_mesh(data: int, model: int = 1) -> Mesh:
    """Returns a mesh of the first data · model devices, with the axes "data" and "model".

    Args:
        data: The number of devices that every batch is spread over.
        model: For each of those, the number of devices that the outputs of a hidden layer are spread over.

    Returns:
        The mesh.

    Raises:
        SettingError: If `data` or `model` is not a whole number of at least 1.
        ValueError: If JAX has fewer devices.
    """
    validate_number("data", data, least=1, integer=True)
    validate_number("model", model, least=1, integer=True)
    devices = jax.devices()
    if data * model > len(devices):
        hint = f" (JAX_NUM_CPU_DEVICES={data * model} makes a CPU count as {data * model})"
        raise ValueError(
            f"expected at least {data * model} devices for a mesh of {data} x {model}, "
            f"got {len(devices)}{hint if devices[0].platform == 'cpu' else ''}"
        )
    return jax.make_mesh((data, model), ("data", "model"), (AxisType.Auto,) * 2, devices=devices[: data * model])


def shard_examples(examples: Examples, batch_size: int, mesh: Mesh) -> Lanes:
    """Lays examples out in the lanes of `make_lanes`, spread over the axis "data" of a mesh.

    A process puts on its devices only the examples in the lanes of those devices. If the batch does not divide over the
    devices, lanes without examples are added.

    Args:
        examples: All N examples, in every process.
        batch_size: The number of examples in a batch, between 1 and N.
        mesh: The devices.

    Returns:
        The lanes. Their number is `batch_size`, rounded up to a multiple of the number of devices along "data".
    """
    count, data_devices = len(examples.x), mesh.shape["data"]
    steps, width = -(-count // batch_size), -(-batch_size // data_devices) * data_devices
    indices = np.arange(steps)[:, None] * batch_size + np.arange(width)
    is_example = (np.arange(width) < batch_size) & (indices < count)

    def lay_out(values: Any, filling: Any = None) -> jax.Array:
        values = np.asarray(values)

        def shard(index: Any) -> np.ndarray:
            part = values[indices[index[:2]] % count]
            return part if filling is None else np.where(is_example[index[:2]], part, filling)

        sharding = NamedSharding(mesh, PartitionSpec(None, "data"))
        return jax.make_array_from_callback((steps, width, *values.shape[1:]), sharding, shard)

    weights = np.ones(count, jnp.result_type(float)) if examples.weights is None else examples.weights
    return Lanes(lay_out(examples.x), lay_out(examples.t), lay_out(weights, filling=0))


def gather(tree: PyTree) -> PyTree:
    """Returns a tree of arrays that this process can compute with on its own.

    All processes of a run must call it together.

    Args:
        tree: Arrays, each on devices of one or several processes.

    Returns:
        The same arrays, with the parts that other processes hold fetched from there.
    """

    def fetch(leaf: jax.Array) -> jax.Array:
        if leaf.is_fully_addressable:
            return leaf
        return leaf.addressable_data(0) if leaf.is_fully_replicated else process_allgather(leaf, tiled=True)

    return jax.tree.map(fetch, tree)


def shard_state(state: TrainState, mesh: Mesh) -> TrainState:
    """Lays the state of a run out over a mesh.

    Args:
        state: The state, the same in every process.
        mesh: The devices.

    Returns:
        The state on the mesh, with the shardings of `choose_shardings`.

    Raises:
        ValueError: If the outputs of a layer do not divide over the devices.
    """
    return jax.tree.map(_put, state, choose_shardings(state, mesh))


def choose_shardings(state: Any, mesh: Mesh) -> Any:
    """Returns how the state of a run is laid out over a mesh.

    W and b of every layer but the last are spread by the layer's outputs over the axis "model", together with what
    the optimizer keeps in the shape of a parameter, such as its momentum. Every device holds a copy of the rest.

    Args:
        state: A `TrainState`, or the shapes of one.
        mesh: The devices.

    Returns:
        A `TrainState` with a sharding in place of each leaf.

    Raises:
        ValueError: If the outputs of a layer do not divide over the devices.
    """
    shards = mesh.shape["model"]
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    last_layer = leaves[-1][0][:-1] if leaves else ()
    replicated = NamedSharding(mesh, PartitionSpec())

    def choose(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        if shards == 1 or path[:-1] == last_layer or leaf.ndim == 0:
            return replicated
        if leaf.shape[0] % shards:
            raise ValueError(
                f"expected outputs that divide over {shards} model devices, got {leaf.shape[0]} in {path_name(path)}"
            )
        return NamedSharding(mesh, PartitionSpec("model"))

    chosen = [(path, leaf.shape, choose(path, leaf)) for path, leaf in leaves]

    def follow(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        """Returns the sharding of the parameter that a leaf of the optimizer's state belongs to by path and shape."""
        matches = (sharding for end, shape, sharding in chosen if path[-len(end) :] == end and leaf.shape == shape)
        return next(matches, replicated)

    params, opt_state = (jax.tree_util.tree_map_with_path(follow, tree) for tree in (state.params, state.opt_state))
    others = jax.tree.map(lambda _: replicated, (state.key, state.epoch, state.gradient_state))
    return TrainState(params, opt_state, *others)


def _put(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    """Returns a leaf that is the same in every process, on the devices of all of them."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
