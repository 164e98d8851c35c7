"""The batches of a run: the examples lie in B lanes, and every batch takes one example from each lane.

Lane j holds the examples j, B + j, 2B + j, ... and is shuffled by itself. A device that holds a lane therefore holds
all that a batch ever takes from it, and the batches are the same on any number of devices.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, Shaped


class Examples(NamedTuple):
    """Features and targets, in NumPy or JAX arrays, and how much each example counts.

    Attributes:
        x: [N, ...], the features.
        t: [N, ...], the targets.
        weights: [N], above 0. None stands for ones.
    """

    x: Shaped[Array | np.ndarray, "N ..."]
    t: Shaped[Array | np.ndarray, "N ..."]
    weights: Float[Array | np.ndarray, " N"] | None = None


class Lanes(NamedTuple):
    """Examples in B lanes of S positions each, one position for every step of an epoch.

    Attributes:
        x: [S, B, ...], the features.
        t: [S, B, ...], the targets.
        weights: [S, B], how much each example counts; 0 marks a position that holds no example.
    """

    x: Shaped[Array, "S B ..."]
    t: Shaped[Array, "S B ..."]
    weights: Float[Array, "S B"]

    def take(self, positions: Int[Array, " B"]) -> tuple[Array, Array, Array]:
        """Returns x [B, ...], t [B, ...] and weights [B] of a batch: from every lane the example at its position."""
        x, t, weights = (
            jax.vmap(lambda lane, position: lane[position], in_axes=(1, 0))(leaf, positions) for leaf in self
        )
        return x, t, weights


@partial(jax.jit, static_argnames="batch_size", inline=True)
def make_lanes(examples: Examples, batch_size: int) -> Lanes:
    """Lays N examples out in B = `batch_size` lanes of S = ⌈N / B⌉ positions.

    Args:
        examples: The examples, in their order.
        batch_size: B, between 1 and N.

    Returns:
        The lanes, in the default precision. The positions after example N - 1 repeat the first examples, with weight 0.
    """
    count = len(examples.x)
    steps = -(-count // batch_size)
    missing = steps * batch_size - count

    def lay_out(values: Array, **padding: str) -> Array:
        if missing:
            values = jnp.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1), **padding)
        return values.reshape(steps, batch_size, *values.shape[1:])

    x, t, weights = jax.tree.map(jnp.asarray, examples)
    weights = jnp.ones(count) if weights is None else weights
    # Padding repeats examples, where the model is surely defined: a NaN would persist in spite of the weight 0.
    return Lanes(lay_out(x, mode="wrap"), lay_out(t, mode="wrap"), lay_out(weights))


class Batch(NamedTuple):
    """The batch of one step, or of several steps along leading axes.

    Attributes:
        positions: [..., B], the position in each lane of the example that the batch takes.
        key: [...], the key for the random numbers of the step; None if it draws none.
    """

    positions: Int[Array, "*steps B"]
    key: Key[Array, "*steps"] | None


def draw_batches(lanes: Lanes, key: PRNGKeyArray, *, shuffle: bool, random: bool) -> Batch:
    """Draws the batches of an epoch.

    Positions without an example are shuffled like all others, so that no example is in a short batch more often than
    another. So with `shuffle` several batches may each be short by a few examples; without it only the last one is.

    Args:
        lanes: The examples, in B lanes of S positions.
        key: The key of the epoch.
        shuffle: Whether each lane is taken in a new order instead of from front to back.
        random: Whether the steps draw random numbers, and so need keys.

    Returns:
        The S batches in the order of their steps, with positions [S, B] and keys [S].
    """
    steps, width = lanes.weights.shape
    positions = jnp.broadcast_to(jnp.arange(steps, dtype=jnp.uint32), (width, steps))
    bits = jax.random.bits(key, (width, steps))
    if shuffle and steps <= 2**12:  # the lowest bits hold the position: sorting one operand takes half the time
        low = jnp.uint32(2 ** (steps - 1).bit_length() - 1)
        positions = jnp.sort(bits & ~low | positions, axis=1) & low
    elif shuffle:
        _, positions = jax.lax.sort((bits, positions), dimension=1, num_keys=1)
    keys = jax.random.split(jax.random.fold_in(key, 1), steps) if random else None
    return Batch(positions.T.astype(jnp.int32), keys)
