"""A network with a probe around every leaf layer, so that what passes through each can be read.

Forward and backward stay the network's own: a probe is a layer, and what it saw lies in `saved` and `grads`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.base import Layer, Wrapper
from jaxann.nn.batch import split_per_example
from jaxann.nn.loss import Loss
from jaxann.nn.sequential import map_layers


@dataclass(frozen=True)
class Probe(Wrapper):
    """`layer`, found at `path` in its network, with a `Forward` for its saved and a `Backward` for its grads."""

    path: str

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, ForwardRecord]:
        y, saved = self.layer.forward(params, x, key)
        return y, ForwardRecord(self, x, y, saved)

    def backward(self, params: PyTree, saved: ForwardRecord, dy: Array) -> tuple[BackwardRecord, Array]:
        grads, dx = self.layer.backward(params, saved.saved, dy)  # y, saved = layer.forward(params, x)
        return BackwardRecord(self, dy, grads, dx), dx

    def __repr__(self) -> str:
        return f"layer {self.path}, {self.layer}" if self.path else str(self.layer)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ForwardRecord:
    """What passed a layer: y, saved = forward(params, x)."""

    probe: Probe = field(metadata={"static": True})
    x: Any
    y: Any
    saved: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BackwardRecord:
    """What passed a layer on the way back: grads, dx = backward(params, saved, dy)."""

    probe: Probe = field(metadata={"static": True})
    dy: Any
    grads: Any
    dx: Any


def with_probes(model: Layer) -> Layer:
    """`model` with a `Probe` around each layer of its chain, at any depth; same parameters.

    Only a `Sequential` is entered: it hands its layers' grads on unread, which another layer made of layers may not.
    """
    return map_layers(model, lambda path, layer: Probe(layer, path))


@partial(jax.jit, static_argnames=("model", "loss"))
def observe(
    model: Layer,
    loss: Loss,
    params: PyTree,
    x: Shaped[Array, "B ..."],
    t: Shaped[Array, "B ..."],
    key: PRNGKeyArray | None = None,
) -> tuple[list[ForwardRecord], Array, Array, list[BackwardRecord]]:
    """What passes through `model` for a batch, each example's own and none weighted.

    The `Forward`s from first to last, the losses [B], their gradients, and the `Backward`s from last to first.
    """
    watched = with_probes(model)
    y, saved = jax.vmap(watched.forward, in_axes=(None, 0, 0))(params, x, split_per_example(key, len(x)))
    losses, dy = jax.vmap(loss.value)(y, t), jax.vmap(loss.gradient)(y, t)
    grads, _ = jax.vmap(watched.backward, in_axes=(None, 0, 0))(params, saved, dy)
    forwards = jax.tree.leaves(saved, is_leaf=lambda leaf: isinstance(leaf, ForwardRecord))
    backwards = jax.tree.leaves(grads, is_leaf=lambda leaf: isinstance(leaf, BackwardRecord))
    return forwards, losses, dy, backwards[::-1]


def find_nonfinite(
    model: Layer,
    loss: Loss,
    params: PyTree,
    x: Shaped[Array, "B ..."],
    t: Shaped[Array, "B ..."],
    key: PRNGKeyArray | None = None,
) -> str | None:
    """In words, the first thing in a forward and backward pass that is not finite; None where all is."""
    forwards, losses, dy, backwards = observe(model, loss, params, x, t, key)
    in_order = [
        *((f"the output of {record.probe}", record.y) for record in forwards),
        (f"the value of {loss}", losses),
        (f"the gradient of {loss}", dy),
        *((f"the gradient of {record.probe}", (record.grads, record.dx)) for record in backwards),
    ]
    return next((name for name, values in in_order if not is_finite(values)), None)


def is_finite(tree: PyTree) -> bool:
    """Whether every entry of every leaf is finite, wherever it lies: all processes learn the same."""
    return bool(_finite(tree))


@jax.jit
def _finite(tree: PyTree) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)] or [jnp.array(True)]).all()
