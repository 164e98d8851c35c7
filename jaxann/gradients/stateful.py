"""What training takes for a gradient: a plain function, or one with a state of its own between the steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree


def _nothing(key: PRNGKeyArray) -> PyTree:
    return ()


@dataclass(frozen=True)
class Stateful:
    """A gradient function that keeps a state, such as feedback weights, apart from the trained parameters.

    `step` is (params, state, x, t, weights=None, key=None) -> (loss, grads, state, metrics), its metrics scalars by
    name that training averages over each epoch; `init(key)` is the state before the first step. `random` says that a
    step draws: training then gives it a key.
    """

    step: Callable[..., tuple[Float[Array, ""], PyTree, PyTree, dict[str, Float[Array, ""]]]]
    init: Callable[[PRNGKeyArray], PyTree] = _nothing
    random: bool = False

    def at(self, state: PyTree) -> Callable[..., tuple[Float[Array, ""], PyTree]]:
        """The gradient function (params, x, t, weights=None, key=None) -> (loss, grads) while the state is `state`."""
        return lambda params, *args, **more: self.step(params, state, *args, **more)[:2]

    def __call__(self, *args: PyTree, **more: PyTree) -> tuple[Float[Array, ""], PyTree]:
        """(params, x, t, weights=None, key=None) -> (loss, grads) at the state that `init` draws with key 0."""
        return self.at(self.init(jax.random.key(0)))(*args, **more)


def as_stateful(gradient: Callable) -> Stateful:
    """`gradient` itself if it keeps a state, or as one that keeps none."""
    if isinstance(gradient, Stateful):
        return gradient
    return Stateful(lambda params, state, *args, **more: (*gradient(params, *args, **more), state, {}))
