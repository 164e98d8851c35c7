"""The devices of a run: a mesh of them, and a run's examples and parameters laid out over it.

What a step then exchanges, JAX's partitioner adds: with the batch over "data" the sums of its gradients, with the
outputs of the hidden layers over "model" their activations and what comes back through them.
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
from jaxann.training.recipe import TrainState


def cpu_devices(count: int) -> None:
    """Lets a CPU count as `count` devices, at most one a core, where JAX_NUM_CPU_DEVICES has not said how many.

    Only before JAX's first computation: later the devices are what they are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with suppress(RuntimeError):  # it has computed
            jax.config.update("jax_num_cpu_devices", min(count, cores))


def make_mesh(data: int, model: int = 1) -> Mesh:
    """The first data x model devices: a batch is spread over the first axis, a layer's outputs over the second.

    Raises ValueError for fewer than one, and for more than there are.
    """
    if min(data, model) < 1:
        raise ValueError(f"a mesh of {data} x {model} devices is asked for, but at least 1 x 1 is wanted")
    there = jax.devices()
    if data * model > len(there):
        more = f"; JAX_NUM_CPU_DEVICES={data * model} makes as many of a CPU" if there[0].platform == "cpu" else ""
        raise ValueError(f"{data * model} devices are asked for, but there are {len(there)}{more}")
    return jax.make_mesh((data, model), ("data", "model"), (AxisType.Auto,) * 2, devices=there[: data * model])


def shard_examples(data: Examples, batch_size: int, mesh: Mesh) -> Lanes:
    """`data.lanes(batch_size)`, the lanes over "data": a process takes no more of the examples than its devices hold.

    Where the batch does not divide over the devices, lanes of weight 0 make it.
    """
    steps, lanes = -(-len(data.x) // batch_size), -(-batch_size // mesh.shape["data"]) * mesh.shape["data"]
    examples = np.arange(steps)[:, None] * batch_size + np.arange(lanes)
    there = (np.arange(lanes) < batch_size) & (examples < len(data.x))

    def laid_out(values: Any, filling: Any = None) -> jax.Array:
        values = np.asarray(values)

        def part(index: Any) -> np.ndarray:
            here = values[examples[index[:2]] % len(values)]
            return here if filling is None else np.where(there[index[:2]], here, filling)

        sharding = NamedSharding(mesh, PartitionSpec(None, "data"))
        return jax.make_array_from_callback((steps, lanes, *values.shape[1:]), sharding, part)

    weights = np.ones(len(data.x), data.x.dtype) if data.weights is None else data.weights
    return Lanes(laid_out(data.x), laid_out(data.t), laid_out(weights, filling=0))


def gather(tree: PyTree) -> PyTree:
    """`tree` as this process alone can compute with it: what other processes hold parts of, fetched from them."""

    def of(leaf: jax.Array) -> jax.Array:
        if leaf.is_fully_addressable:
            return leaf
        return leaf.addressable_data(0) if leaf.is_fully_replicated else process_allgather(leaf, tiled=True)

    return jax.tree.map(of, tree)


def shard_state(state: TrainState, mesh: Mesh) -> TrainState:
    """`state` on the mesh: W and b of all layers but the last by their outputs over "model", all else everywhere.

    What the optimiser keeps in a parameter's shape, such as its momentum, lies with it. Raises ValueError for a layer
    whose outputs do not divide over the devices.
    """
    shards = mesh.shape["model"]
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    last = leaves[-1][0][:-1] if leaves else ()  # the path of the last layer with parameters

    def of(path: tuple[Any, ...], leaf: jax.Array) -> NamedSharding:
        if shards == 1 or path[:-1] == last or leaf.ndim == 0:
            return everywhere
        if leaf.shape[0] % shards:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(f"{name} has {leaf.shape[0]} outputs, which do not divide over {shards} model devices")
        return NamedSharding(mesh, PartitionSpec("model"))

    everywhere = NamedSharding(mesh, PartitionSpec())
    laid = [(path, leaf.shape, of(path, leaf)) for path, leaf in leaves]

    def kept(path: tuple[Any, ...], leaf: jax.Array) -> NamedSharding:
        return next((at for of, shape, at in laid if path[-len(of) :] == of and leaf.shape == shape), everywhere)

    params, opt_state = (jax.tree_util.tree_map_with_path(kept, tree) for tree in (state.params, state.opt_state))
    rest = jax.tree.map(lambda _: everywhere, (state.key, state.epoch, state.gradient_state))
    return jax.tree.map(_put, state, TrainState(params, opt_state, *rest))


def _put(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    """`leaf` of this process on devices of all, in each of which it is the same."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
