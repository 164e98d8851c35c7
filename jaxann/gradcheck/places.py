"""The layers of a network, each with its own parameters, its true input and its true incoming cotangent.

Inputs and cotangents come from forward passes and autodiff alone, so that a wrong backward affects no other layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree, Shaped

from jaxann.gradcheck.compilation import jit_cheaply
from jaxann.gradients.autodiff import vjp
from jaxann.nn.axis import over_examples
from jaxann.nn.base import Layer, join_path, map_parts, parts
from jaxann.nn.loss import Loss


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Place:
    """A layer at its place in a network, where y = layer.forward(params, x) and dy = ∂E/∂y.

    Attributes:
        path: Its path in the network, as "2"; "" for the network itself.
        layer: The layer.
        params: Its parameters.
        x: Its inputs, [B, ...].
        dy: Its incoming cotangents, [B, ...].
    """

    path: str = field(metadata={"static": True})
    layer: Layer = field(metadata={"static": True})
    params: PyTree
    x: Any
    dy: Any


@dataclass(frozen=True)
class Tap(Layer):
    """A layer that records what passes through it and adds a shift to its output.

    ∂E/∂y is the gradient with respect to the shift. A tap holds arrays, so it serves for one trace only.

    Attributes:
        layer: The layer.
        path: Its path in the network.
        shift: What is added to its output, in the output's shape; None adds nothing.
    """

    layer: Layer
    path: str
    shift: Any

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        return self.layer.sizes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)  # a composite layer may read the settings of its parts

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Seen]:
        y, saved = self.layer.forward(params, x, key)
        if self.shift is not None and self.shift.shape != y.shape:  # y lacks the axis of a vmap or a scan
            raise ValueError(f"expected an output of shape {self.shift.shape} from {self.layer}, got {y.shape}")
        return y if self.shift is None else y + self.shift, Seen(self.path, params, x, y, saved)

    def backward(self, params: PyTree, saved: Seen, dy: Array) -> tuple[PyTree, Array]:
        raise NotImplementedError("a Tap has no backward: it serves for forward passes only")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Seen:
    """What passed through a tap.

    Attributes:
        path: The path of its layer in the network.
        params: The parameters of the layer.
        x: Its input.
        y: Its output, without the shift.
        saved: What the layer saved; it contains the `Seen` of every tap inside the layer.
    """

    path: str = field(metadata={"static": True})
    params: Any
    x: Any
    y: Any
    saved: Any


def locate_layers(
    model: Layer, loss: Loss, params: PyTree, x: Shaped[Array, "B ..."], t: Shaped[Array, "B ..."]
) -> tuple[list[Place], Array]:
    """Finds every layer of a network, with its parameters, inputs and incoming cotangents.

    A composite layer precedes its parts. A layer that is used several times has a place for each use, and each
    place has the sum of the cotangents of all uses. A part has no place of its own if it cannot be observed, because
    the layer around it does not save what the part saves, or runs it inside a `vmap` or a `scan`.

    Args:
        model: The network.
        loss: The loss E.
        params: Its parameters.
        x: Inputs.
        t: Targets.

    Returns:
        The places in order, and the outputs y [B, ...] of the network.
    """
    layers = dict(_list_layers(model))
    composites = [path for path, layer in layers.items() if parts(layer)]
    try:
        owned, seen, dy, y = _trace_once(model, loss, frozenset(composites), params, x, t)
    except Exception:  # a user's layer may do anything with its parts, which then cannot be observed
        entered = _find_observable(model, loss, composites, params, x, t)
        owned, seen, dy, y = _trace_once(model, loss, entered, params, x, t)
    return [Place(p.path, layers[p.path], p.params, s.x, dy[s.path]) for p, s in zip(owned, seen, strict=True)], y


def _list_layers(layer: Layer, path: str = "") -> Iterator[tuple[str, Layer]]:
    """Yields a layer and the layers inside it with their paths, outer ones first."""
    yield path, layer
    for name, part in parts(layer).items():
        yield from _list_layers(part, join_path(path, name))


def _find_observable(
    model: Layer,
    loss: Loss,
    composites: list[str],
    params: PyTree,
    x: Shaped[Array, "B ..."],
    t: Shaped[Array, "B ..."],
) -> frozenset[str]:
    """Returns the paths of the composite layers whose parts can be observed, trying one after the other."""
    reached, entered = {""}, frozenset[str]()
    for path in composites:
        try:
            owned, *_ = jax.eval_shape(partial(_trace, model, loss, entered | {path}), params, x, t)
        except Exception:
            continue
        observed = {seen.path for seen in owned} - reached
        if path in reached and observed:
            reached, entered = reached | observed, entered | {path}
    return entered


def _trace(
    model: Layer,
    loss: Loss,
    entered: frozenset[str],
    params: PyTree,
    x: Shaped[Array, "B ..."],
    t: Shaped[Array, "B ..."],
) -> tuple[list[Seen], list[Seen], dict[str, Array], Array]:
    """Returns the parameters at every tap, its inputs and outputs [B, ...], ∂E/∂y by path, and the network's outputs.

    `entered` has the paths of the layers whose parts have taps.
    """

    def forward(x, shifts):
        y, seen = _add_taps(model, "", entered, shifts).forward(params, x)
        return y, list(_flatten(seen))

    def trace_example(x, t):
        y, seen = forward(x, {})
        shifts = {s.path: jnp.zeros_like(s.y) for s in seen}
        value, pull = vjp(lambda shifts: loss.value(forward(x, shifts)[0], t), shifts)
        (dy,) = pull(jnp.ones_like(value))
        owned = [Seen(s.path, s.params, None, None, None) for s in seen]
        return owned, [Seen(s.path, None, s.x, s.y, None) for s in seen], dy, y

    return over_examples(trace_example, (0, 0), (None, 0, 0, 0))(x, t)


_trace_once = jit_cheaply(_trace, static=3)


def _add_taps(layer: Layer, path: str, entered: frozenset[str], shifts: dict[str, Array]) -> Tap:
    if path in entered:
        layer = map_parts(layer, lambda name, part: _add_taps(part, join_path(path, name), entered, shifts))
    return Tap(layer, path, shifts.get(path))


def _flatten(seen: Seen) -> Iterator[Seen]:
    """Yields what passed through a tap, then through those inside its layer."""
    yield seen
    for inner in jax.tree.leaves(seen.saved, is_leaf=lambda leaf: isinstance(leaf, Seen)):
        if isinstance(inner, Seen):
            yield from _flatten(inner)
