"""Probes around the layers of a network, which record what passes through each of them.

A probe is a layer around another one. It runs that layer's own forward and backward, and puts its records into `saved`
and `grads`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.base import InputGradient, Layer, Wrapper, drop_float0, map_parts, part_path
from jaxann.nn.batch import backward_batch, forward_batch
from jaxann.nn.loss import Loss
from jaxann.nn.recomputed import remove_recomputation


@dataclass(frozen=True)
class Probe(Wrapper):
    """A layer whose `saved` is a `ForwardRecord` and whose grads are a `BackwardRecord`.

    Attributes:
        layer: The layer that is observed.
        path: Where it lies in its network, such as "0.2".
    """

    path: str

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, ForwardRecord]:
        y, saved = self.layer.forward(params, x, key)
        return y, ForwardRecord(self, x, y, saved)

    def backward(self, params: PyTree, saved: ForwardRecord, dy: Array) -> tuple[BackwardRecord, InputGradient]:
        grads, dx = self.layer.backward(params, saved.saved, dy)  # y, saved = layer.forward(params, x)
        return BackwardRecord(self, dy, grads, drop_float0(dx)), dx

    def __repr__(self) -> str:
        return f"layer {self.path}, {self.layer}" if self.path else repr(self.layer)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ForwardRecord:
    """What passed through a layer in the forward pass: y, saved = forward(params, x).

    Attributes:
        probe: The probe that recorded it.
        x: The input of the layer.
        y: Its output.
        saved: What the layer saved for its backward.
    """

    probe: Probe = field(metadata={"static": True})
    x: Any
    y: Any
    saved: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BackwardRecord:
    """What passed through a layer in the backward pass: grads, dx = backward(params, saved, dy).

    Attributes:
        probe: The probe that recorded it.
        dy: ∂E/∂y, the gradient that came from the next layer.
        grads: ∂E/∂params.
        dx: ∂E/∂x, the gradient for the layer before; None where x holds integers.
    """

    probe: Probe = field(metadata={"static": True})
    dy: Any
    grads: Any
    dx: Any


def with_probes(model: Layer, path: str = "") -> Layer:
    """Returns a model with a `Probe` around each of its layers, at any depth.

    Layers inside another one get probes of their own if that one `exposes_parts`, as `Sequential`, `Residual` and
    `MixedPrecision` do. Any other layer that is made of layers may change their gradients, so it gets a single probe.

    Args:
        model: The network, a layer.
        path: The path of its parameters inside those of a larger model; empty by default.

    Returns:
        A model with the same parameters and outputs.
    """
    if not model.exposes_parts:
        return Probe(model, path)
    return map_parts(model, lambda name, part: with_probes(part, part_path(model, path, name)))


@partial(jax.jit, static_argnames=("model", "loss"))
def observe(
    model: Layer,
    loss: Loss,
    params: PyTree,
    x: Shaped[Array, "B ..."],
    t: Shaped[Array, "B ..."],
    key: PRNGKeyArray | None = None,
) -> tuple[list[ForwardRecord], Array, Array, list[BackwardRecord]]:
    """Records what passes through each layer of a model for the examples of a batch, without weights.

    Args:
        model: The network.
        loss: The loss of one example.
        params: The parameters of the network.
        x: [B, ...], the inputs.
        t: [B, ...], the targets.
        key: A random key, split so that every example has its own. Without a key, layers that draw random numbers run
            in evaluation mode.

    Returns:
        The `ForwardRecord`s from the first layer to the last, the losses [B], their gradients ∂E/∂y [B, ...], and the
        `BackwardRecord`s from the last layer to the first. Every array in a record has a leading axis of B examples.
    """
    observed = with_probes(remove_recomputation(model))  # so that the layers inside a `Recomputed` have probes
    y, saved = forward_batch(observed, params, x, key)
    losses, dy = jax.vmap(loss.value)(y, t), jax.vmap(loss.gradient)(y, t)
    grads, _ = backward_batch(observed, params, saved, dy)  # y, saved = forward_batch(observed, params, x, key)
    return _collect(ForwardRecord, saved), losses, dy, _collect(BackwardRecord, grads)[::-1]


def _collect(kind: type, tree: PyTree) -> list[Any]:
    """Returns the records in a tree, without what the layers around the probes save or return themselves."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def find_nonfinite(
    model: Layer,
    loss: Loss,
    params: PyTree,
    x: Shaped[Array, "B ..."],
    t: Shaped[Array, "B ..."],
    key: PRNGKeyArray | None = None,
) -> str | None:
    """Names the first value in a forward and backward pass that is not finite.

    Args:
        model: The network.
        loss: The loss of one example.
        params: The parameters of the network.
        x: [B, ...], the inputs.
        t: [B, ...], the targets.
        key: As in `observe`.

    Returns:
        A name such as "the output of layer 1, tanh", or None if all values are finite.
    """
    forwards, losses, dy, backwards = observe(model, loss, params, x, t, key)
    named = [
        *((f"the output of {record.probe}", record.y) for record in forwards),
        (f"the value of {loss}", losses),
        (f"the gradient of {loss}", dy),
        *((f"the gradient of {record.probe}", (record.grads, record.dx)) for record in backwards),
    ]
    return next((name for name, values in named if not is_finite(values)), None)


def is_finite(tree: PyTree) -> bool:
    """Returns whether every entry of every leaf is finite.

    Leaves may be spread over the devices of several processes, and all processes get the same answer.

    Args:
        tree: A pytree of arrays.

    Returns:
        True if all entries are finite, also for a tree without leaves.
    """
    leaves = jax.tree.leaves(tree)
    if jax.default_backend() == "cpu" and all(getattr(leaf, "is_fully_addressable", True) for leaf in leaves):
        return all(np.isfinite(leaf).all() for leaf in leaves)  # NumPy reads them in place, and compiles nothing
    return bool(_all_finite(tree))


@jax.jit
def _all_finite(tree: PyTree) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)] or [jnp.array(True)]).all()
