"""The batches of a run: examples lie in B lanes, and a batch takes the next one in the order of each.

Lane j holds the examples j, B + j, 2B + j, ... and is shuffled by itself. So what a batch takes of a lane lies where
the lane does, whichever device that is, and the batches are the same on any number of devices.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, Shaped


class Examples(NamedTuple):
    """Features, targets and, where examples count differently, their weights, all above 0."""

    x: Float[Array, "N ..."]
    t: Shaped[Array, "N ..."]
    weights: Float[Array, " N"] | None = None

    def lanes(self, batch_size: int) -> Lanes:
        """The same in lanes of S = ⌈N / B⌉ places; those after example N - 1 are filled up with weight 0."""
        examples = len(self.x)
        steps = -(-examples // batch_size)
        filling = steps * batch_size - examples

        def laid_out(values: Array) -> Array:
            if filling:  # with examples again, on which a model surely has a value
                values = jnp.pad(values, [(0, filling)] + [(0, 0)] * (values.ndim - 1), mode="wrap")
            return values.reshape(steps, batch_size, *values.shape[1:])

        weights = jnp.ones(examples) if self.weights is None else self.weights
        return Lanes(laid_out(self.x), laid_out(self.t), jnp.pad(weights, (0, filling)).reshape(steps, batch_size))


class Lanes(NamedTuple):
    """Examples in B lanes, a place in them for every step of an epoch; a weight of 0 says that there is none."""

    x: Float[Array, "S B ..."]
    t: Shaped[Array, "S B ..."]
    weights: Float[Array, "S B"]

    def lanes(self, batch_size: int) -> Lanes:
        """Itself."""
        return self

    def at(self, places: Int[Array, " B"]) -> tuple[Array, Array, Array]:
        """x [B, ...], t [B, ...] and weights [B]: of every lane the example at its place."""
        x, t, weights = (jax.vmap(lambda lane, place: lane[place], in_axes=(1, 0))(part, places) for part in self)
        return x, t, weights


class Batch(NamedTuple):
    """A place in each lane, and a key for what the step draws, if it does."""

    places: Int[Array, "*steps B"]
    key: Key[Array, "*steps"] | None


def draw_batches(data: Lanes, key: PRNGKeyArray, *, shuffle: bool, random: bool) -> Batch:
    """An epoch's batches [S, ...], each lane in a new order if `shuffle`, with keys if `random`.

    Empty places are shuffled like all others, so that no example is more often in a short batch than another: without
    `shuffle` the last batch is the short one, with it several may be short by some.
    """
    steps, lanes = data.weights.shape
    places = jnp.broadcast_to(jnp.arange(steps, dtype=jnp.uint32), (lanes, steps))
    bits = jax.random.bits(key, (lanes, steps))
    if shuffle and steps <= 2**12:  # the place itself in the lowest bits: a single operand sorts in half the time
        low = jnp.uint32(2 ** (steps - 1).bit_length() - 1)
        places = jnp.sort(bits & ~low | places, axis=1) & low
    elif shuffle:
        _, places = jax.lax.sort((bits, places), dimension=1, num_keys=1)
    keys = jax.random.split(jax.random.fold_in(key, 1), steps) if random else None
    return Batch(places.T.astype(jnp.int32), keys)
