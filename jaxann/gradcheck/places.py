"""A network taken apart: every layer in it with its own parameters, its true input and its true incoming cotangent.

Only forward passes are used, so that a wrong backward somewhere does not reach the others.
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
from jaxann.nn.base import Layer, map_parts, parts
from jaxann.nn.loss import Loss


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Place:
    """A layer where it stands: y = layer.forward(params, x) for a batch x [B, ...], and dy = ∂E/∂y [B, ...]."""

    path: str = field(metadata={"static": True})
    layer: Layer = field(metadata={"static": True})
    params: PyTree
    x: Any
    dy: Any


@dataclass(frozen=True)
class Tap(Layer):
    """`layer`, with `shift` added to its output and a `Seen` for its saved. It holds arrays: for one trace only."""

    layer: Layer
    path: str
    shift: Any

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        return self.layer.sizes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)  # for a layer that reads its parts' settings

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Seen]:
        y, saved = self.layer.forward(params, x, key)
        return y if self.shift is None else y + self.shift, Seen(self.path, params, x, y, saved)

    def backward(self, params: PyTree, saved: Seen, dy: Array) -> tuple[PyTree, Array]:
        raise NotImplementedError("a tap is for forward passes")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Seen:
    """What a tap saw; `saved` holds what the taps inside its layer saw."""

    path: str = field(metadata={"static": True})
    params: Any
    x: Any
    y: Any
    saved: Any


def locate_layers(
    model: Layer, loss: Loss, params: PyTree, x: Shaped[Array, "B ..."], t: Shaped[Array, "B ..."]
) -> tuple[list[Place], Array]:
    """A `Place` for every layer in `model`, one made of layers before its parts, and the outputs y [B, ...].

    Parts that cannot be watched, because what they save is not handed on or they run inside a `vmap` or a `scan`, have
    no place of their own. One that is used more than once has a place for each use, with the sum of their cotangents.
    """
    layers = {"": model}
    entered = frozenset[str]()
    for path in _composites(model):
        inside = {join_path(path, name): part for name, part in parts(layers[path]).items()} if path in layers else {}
        try:
            found, *_ = jax.eval_shape(partial(_trace, model, loss, entered | {path}), params, x, t)
        except Exception:  # whatever it is that this layer does with its parts: they are not for us to watch
            continue
        watched = {seen.path: inside[seen.path] for seen in found if seen.path in inside}
        if watched:
            layers, entered = layers | watched, entered | {path}
    owned, seen, dy, y = _trace_once(model, loss, entered, params, x, t)
    return [Place(p.path, layers[p.path], p.params, s.x, dy[s.path]) for p, s in zip(owned, seen, strict=True)], y


def join_path(path: str, name: str) -> str:
    """`name` inside `path`: "2.W"; either may be empty."""
    return f"{path}.{name}".strip(".")


def _composites(layer: Layer, path: str = "") -> Iterator[str]:
    """The paths of `layer` and of those in it that are made of layers, outer ones first."""
    inside = parts(layer)
    if inside:
        yield path
    for name, part in inside.items():
        yield from _composites(part, join_path(path, name))


def _trace(
    model: Layer,
    loss: Loss,
    entered: frozenset[str],
    params: PyTree,
    x: Shaped[Array, "B ..."],
    t: Shaped[Array, "B ..."],
) -> tuple[list[Seen], list[Seen], dict[str, Array], Array]:
    """Of every tap its parameters, its input and output [B, ...], and ∂E/∂y by path; then the outputs."""

    def forward(x, shifts):
        y, seen = _with_taps(model, "", entered, shifts).forward(params, x)
        return y, list(_flat(seen))

    def one(x, t):
        y, seen = forward(x, {})
        shifts = {s.path: jnp.zeros_like(s.y) for s in seen}
        value, pull = vjp(lambda shifts: loss.value(forward(x, shifts)[0], t), shifts)
        (dy,) = pull(jnp.ones_like(value))
        owned = [Seen(s.path, s.params, None, None, None) for s in seen]
        return owned, [Seen(s.path, None, s.x, s.y, None) for s in seen], dy, y

    return jax.vmap(one, out_axes=(None, 0, 0, 0))(x, t)


_trace_once = jit_cheaply(_trace, static=3)


def _with_taps(layer: Layer, path: str, entered: frozenset[str], shifts: dict[str, Array]) -> Tap:
    if path in entered:
        layer = map_parts(layer, lambda name, part: _with_taps(part, join_path(path, name), entered, shifts))
    return Tap(layer, path, shifts.get(path))


def _flat(seen: Seen) -> Iterator[Seen]:
    yield seen
    for inner in jax.tree.leaves(seen.saved, is_leaf=lambda leaf: isinstance(leaf, Seen)):
        if isinstance(inner, Seen):
            yield from _flat(inner)
