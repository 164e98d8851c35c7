"""The trials of a gradient check: at the true inputs, near them, and anywhere."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import PyTree

from jaxann.gradcheck.places import Place
from jaxann.gradcheck.subjects import Args, is_float

SUBSAMPLE = 8


def subsample(values: np.ndarray) -> np.ndarray:
    """Some of the examples, for what is made of layers: its automatic twin forms the gradient of each."""
    return values[:: -(-len(values) // SUBSAMPLE)]


def layer_trials(place: Place, draw: np.random.Generator) -> Args:
    """At the true input: the true cotangent and a random one. Then near the true input, and at a random one."""
    params, x, dy = place.params, place.x, place.dy
    largest = np.nanmax(np.abs(dy), initial=0)
    cotangents = [dy / largest if 0 < largest < np.inf else dy, *(draw.normal(size=dy.shape) for _ in range(3))]
    seeds = draw.integers(2**31, size=(4, len(x)))
    moved = [_shaken(params, draw) for _ in range(2)]
    inputs = [x, x, _near(x, draw), _anywhere(x, draw)]
    return _stacked([Args(*each) for each in zip([params, params, *moved], inputs, seeds, cotangents, strict=True)])


def loss_trials(y: np.ndarray, t: np.ndarray, draw: np.random.Generator) -> Args:
    """At the true output, near it and at the target, and at a random one."""
    near = _near(y, draw)
    if t.shape == y.shape:
        near = np.where(draw.random(y.shape) < 0.2, t, near)
    return _stacked([Args((), each, t, draw.normal(size=len(y))) for each in (y, near, _anywhere(y, draw))])


def gradient_trials(data: Args, weighted: bool, draw: np.random.Generator) -> Args:
    """At the true parameters and near them, each batch an example, without weights or with random ones."""
    x, t = subsample(data.x), subsample(data.aux)
    trials = []
    for params in (data.params, _shaken(data.params, draw)):
        weights = (draw.random(len(x)) + 0.1,) if weighted else ()
        batch = jax.tree.map(lambda leaf: leaf[None], (x, t, *weights))
        trials.append(Args(params, (), batch, draw.normal(size=1)))
    return _stacked(trials)


def _near(x: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    return x * np.exp(0.3 * draw.normal(size=x.shape)) if is_float(x) else x


def _anywhere(x: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Numbers of many sizes, and in half of the places those at which functions have their kinks, all as often."""
    if not is_float(x):
        return x
    numbers = (draw.normal(size=x.shape) * 10 ** draw.uniform(-1, 1, x.shape)).ravel()
    places = draw.permutation(x.size)[: max(1, x.size // 2)]
    numbers[places] = np.resize([-0.0, 0.0, 1.0, -1.0], len(places))
    return numbers.reshape(x.shape)


def _shaken(params: PyTree, draw: np.random.Generator) -> PyTree:
    return jax.tree.map(lambda p: p + 0.1 * draw.normal(size=p.shape) if is_float(p) else p, params)


def _stacked(trials: list[Args]) -> Args:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trials)
