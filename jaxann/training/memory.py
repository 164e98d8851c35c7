"""The check that the free memory is enough to train a network, before any of the network is computed."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import jax.numpy as jnp
import psutil
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.gradients.backprop import backprop
from jaxann.nn.axis import alone
from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import is_traced
from jaxann.training.recipe import Recipe, init_state

# Runs that need fewer bytes are never refused: reading the free memory takes as long as 50 short steps.
_ALWAYS_ALLOWED = 2**26


def validate_memory(
    recipe: Recipe,
    key: PRNGKeyArray,
    shape: tuple[int, ...] | None = None,
    mesh: Mesh | None = None,
    dtype: Any = None,
) -> None:
    """Checks that the free memory of a device is enough to train a network.

    The check counts bytes from shapes alone, and only those that a run of several steps needs at the same time: the
    parameters and the optimizer's state before and after an update, and for `backprop` what the forward pass of a batch
    saves. A run that passes may still need more. Inside `jit` and `vmap` nothing is checked.

    Args:
        recipe: What is trained and how.
        key: The key of the run, which lies on the device.
        shape: The shape of the features of one example. If it is None, what the forward pass saves is not counted.
        mesh: The devices of the run, or None for a single one. With a mesh only the state before the first
            update is counted, because one device initializes it for all, and then they share the work.
        dtype: The dtype of the features, if they are integers. Floats are counted in the default precision.

    Raises:
        ValueError: If the run needs more memory than is free.
    """
    if is_traced(key):
        return
    key_shape = jax.ShapeDtypeStruct(key.shape, key.dtype)
    is_integer = dtype is not None and jnp.issubdtype(dtype, jnp.integer)
    example = None if shape is None else jax.ShapeDtypeStruct(shape, dtype if is_integer else jnp.result_type(float))
    count = partial(_count_needed, recipe, key_shape, example, jnp.result_type(float), mesh is not None)
    if sum(count(exactly=False).values()) < _ALWAYS_ALLOWED:
        return
    free = free_memory(next(iter(key.devices())))
    if free is None or sum(count(exactly=False).values()) <= free:
        return
    sizes = count(exactly=True)
    needed = sum(sizes.values())
    if needed > free:
        listed = ", ".join(f"{name} {_format_size(size)}" for name, size in sizes.items() if size)
        raise ValueError(
            f"expected a network that trains in the {_format_size(free)} of free memory, "
            f"got one that needs at least {_format_size(needed)} ({listed})"
        )


def free_memory(device: Any) -> int | None:
    """Returns how much memory of a device is free.

    Args:
        device: A device of JAX. On a CPU, the memory is that of the machine, or of the control group of this process if
            that is smaller, as it is in a container with a limit.

    Returns:
        The free memory in bytes, or None if the device does not report it.
    """
    if device.platform == "cpu":
        return min([psutil.virtual_memory().available, *_read_control_groups()])
    stats = device.memory_stats() or {}
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else None


def _read_control_groups(
    memberships: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """Returns how many bytes each control group of this process may still take, for those with a limit on Linux."""
    try:
        lines = memberships.read_text().splitlines()
    except OSError:  # another operating system
        return []
    free: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            names = ("memory.max", "memory.current", "inactive_file")  # version 2
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")  # version 1
        else:
            continue
        # A limit holds for all groups below. Inside a container, the path may be the one on the host, which the
        # container does not see; then its own group is the root.
        group = PurePosixPath(path.lstrip("/"))
        for folder in (group, *group.parents):
            free += _read_control_group(root / controllers / folder, *names)
    return free


def _read_control_group(folder: Path, limit: str, usage: str, cache: str) -> list[int]:
    """Returns how many bytes a control group may still take, in a list that is empty if the group has no limit."""
    try:
        most, held = int((folder / limit).read_text()), int((folder / usage).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or a limit of "max"
        return []
    return [max(0, most - held + int(statistics.get(cache, 0)))]  # cached files give way to programs


@lru_cache(maxsize=64)
def _count_needed(
    recipe: Recipe,
    key: jax.ShapeDtypeStruct,
    example: jax.ShapeDtypeStruct | None,
    precision: Any,
    is_spread: bool,
    exactly: bool,
) -> dict[str, int]:
    """Returns the bytes that a run in the default precision, `precision`, needs, by what they hold.

    What the forward pass saves is counted exactly only if `exactly` is set, because that also traces the backward pass.
    Otherwise arrays that the backward pass does not use are counted as well.
    """
    state = jax.eval_shape(partial(init_state, recipe), key)
    parameters, others = _count_bytes(state.params), _count_bytes((state.opt_state, state.gradient_state))
    if is_spread:
        return {"parameters": parameters, "optimizer state": others}
    sizes = {
        "parameters before and after an update": 2 * parameters,
        "optimizer state before and after an update": 2 * others,
    }
    if example is not None and recipe.gradient is backprop:
        _, saved = _forward.eval_shape(recipe.model, state.params, example)
        kept = _find_used(recipe.model, state.params, example) if exactly else saved
        sizes["activations of a batch"] = recipe.batch_size * _count_bytes(kept)
    return sizes


@partial(jax.jit, static_argnames="model")
def _forward(model: Layer, params: PyTree, x: Array) -> tuple[Array, Any]:
    return alone(model.forward)(params, x)


def _find_used(model: Layer, params: PyTree, x: jax.ShapeDtypeStruct) -> list[Any]:
    """Returns the arrays that `forward` saves of an example and `backward` uses, each of them once."""
    y, saved = _forward.eval_shape(model, params, x)
    forward = jax.make_jaxpr(alone(model.forward))(params, x).jaxpr
    backward = jax.make_jaxpr(alone(model.backward))(params, saved, y).jaxpr
    used = {id(variable) for operation in backward.eqns for variable in operation.invars}
    used |= {id(variable) for variable in backward.outvars}
    leaves, first = jax.tree.leaves(saved), len(jax.tree.leaves(params))
    arguments, results = backward.invars[first : first + len(leaves)], forward.outvars[1:]
    triples = zip(results, arguments, leaves, strict=True)
    return list({id(result): leaf for result, argument, leaf in triples if id(argument) in used}.values())


def _count_bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _format_size(size: int) -> str:
    units = ("bytes", "KiB", "MiB", "GiB")
    power = min(max(size.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{size / 2 ** (10 * power):,.{1 if power else 0}f} {units[power]}"
