"""The points at which a gradient check evaluates gradients: those of the data, points near them, and random ones."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import PyTree

from jaxann.gradcheck.arguments import Args, is_float
from jaxann.gradcheck.places import Place
from jaxann.nn.base import Layer

SUBSAMPLE = 8  # the most examples that `subsample` returns


def subsample(values: np.ndarray) -> np.ndarray:
    """Returns at most `SUBSAMPLE` of the examples [B, ...], evenly spaced.

    Layers made of layers are checked on these, because their autodiff twin forms the gradient of each example.
    """
    return values[:: -(-len(values) // SUBSAMPLE)]


def repeat_example(layer: Layer, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a batch of `SUBSAMPLE` copies of one example.

    For a layer that couples the examples of a batch, all but the first copy are changed, because the variance of equal
    examples is 0.

    Args:
        layer: The layer that takes the example.
        x: The example.
        rng: The source of the random numbers.
    """
    batch = np.stack([x] * SUBSAMPLE)
    return np.concatenate([batch[:1], draw_near(batch[1:], rng)]) if layer.coupled else batch


def draw_layer_points(place: Place, rng: np.random.Generator) -> Args:
    """Draws five points at which to check a layer.

    The first two are at the parameters and the input of the data: one has the true cotangent, scaled to a maximum of 1,
    and one a random cotangent. The others have parameters near those of the data and random cotangents. The third
    has an input near that of the data, the fourth a random input, and the fifth one with many kinks and ties.

    Args:
        place: The layer with its parameters, input and cotangent in the network.
        rng: The source of the random numbers.
    """
    params, x, dy = place.params, place.x, place.dy
    largest = np.nanmax(np.abs(dy), initial=0)
    cotangents = [dy / largest if 0 < largest < np.inf else dy, *(rng.normal(size=dy.shape) for _ in range(4))]
    seeds = rng.integers(2**31, size=(5, len(x)))
    moved = [_move_params(params, rng) for _ in range(3)]
    inputs = [x, x, draw_near(x, rng), draw_anywhere(x, rng), plant_kinks(draw_anywhere(x, rng), rng)]
    points = zip([params, params, *moved], inputs, seeds, cotangents, strict=True)
    return _stack([Args(*point) for point in points])


def draw_loss_points(y: np.ndarray, t: np.ndarray, rng: np.random.Generator) -> Args:
    """Draws four points at which to check a loss: the true output, one near it, and two random ones.

    At the point near the true output, a fifth of the entries equal the target if both have the same shape.

    Args:
        y: The outputs of the network, [B, ...].
        t: The targets, [B, ...].
        rng: The source of the random numbers.
    """
    near = draw_near(y, rng)
    if t.shape == y.shape:
        near = np.where(rng.random(y.shape) < 0.2, t, near)
    outputs = (y, near, draw_anywhere(y, rng), plant_kinks(draw_anywhere(y, rng), rng))
    return _stack([Args((), output, t, rng.normal(size=len(y))) for output in outputs])


def draw_gradient_points(data: Args, weighted: bool, rng: np.random.Generator) -> Args:
    """Draws two points at which to check a gradient function: the true parameters, and parameters near them.

    Args:
        data: The parameters, the features and, as `aux`, the targets, without an axis of points.
        weighted: Whether each example has a random weight.
        rng: The source of the random numbers.

    Returns:
        The points, with the batch (x, t) or (x, t, weights) as the only example.
    """
    x, t = subsample(data.x), subsample(data.aux)
    points = []
    for params in (data.params, _move_params(data.params, rng)):
        weights = (rng.random(len(x)) + 0.1,) if weighted else ()
        batch = jax.tree.map(lambda leaf: leaf[None], (x, t, *weights))
        points.append(Args(params, (), batch, rng.normal(size=1)))
    return _stack(points)


def draw_near(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws numbers near those of an array; integers stay as they are."""
    return x * np.exp(0.3 * rng.normal(size=x.shape)) if is_float(x) else x


def draw_anywhere(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws numbers of many magnitudes in the shape of an array; integers stay as they are."""
    return rng.normal(size=x.shape) * 10 ** rng.uniform(-1, 1, x.shape) if is_float(x) else x


def plant_kinks(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Puts 0, -0, 1 and -1, at which functions have kinks and ties, in half of the places of an array of floats."""
    if not is_float(x):
        return x
    numbers = np.array(x).ravel()
    places = rng.permutation(x.size)[: max(1, x.size // 2)]
    numbers[places] = np.resize([-0.0, 0.0, 1.0, -1.0], len(places))
    return numbers.reshape(x.shape)


def _move_params(params: PyTree, rng: np.random.Generator) -> PyTree:
    return jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape) if is_float(p) else p, params)


def _stack(points: list[Args]) -> Args:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *points)
