"""The points at which code from elsewhere is checked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxann.gradcheck.arguments import Args
from jaxann.gradcheck.host_code import HostCode
from jaxann.gradcheck.inputs import draw_anywhere, draw_near, plant_kinks


def draw_points(
    code: HostCode,
    values: OrderedDict[str, np.ndarray],
    without: Sequence[str],
    shape: tuple[int, ...],
    cotangents: int,
    rng: Any,
) -> Args:
    """Draws points: the given arguments with random cotangents, and others at which the code runs.

    Args:
        code: The code.
        values: The given arguments by name.
        without: The names of the arguments without a gradient.
        shape: The shape of the output.
        cotangents: How many points are at the given arguments.
        rng: The source of the random numbers.
    """
    drawn = [values] * cotangents
    for draw in (draw_near, draw_anywhere, lambda x, rng: plant_kinks(draw_anywhere(x, rng), rng)):
        other = OrderedDict((name, np.asarray(draw(value, rng))) for name, value in values.items())
        try:
            with np.errstate(all="ignore"):
                y = code.forward(other)
                code.backward(other, rng.normal(size=shape))
        except Exception:  # the code need not be defined there, nor be finite
            continue
        if np.shape(y) == shape:
            drawn.append(other)
    number = len(shape) == 0 and cotangents == 1  # the cotangent of a value is 1
    shapes = {shape for value in values.values() for shape in (value.shape, value.shape[:-1])}
    others = {name: value for name, value in code.integers.items() if value.shape in shapes}  # such as targets
    points = []
    for value in drawn:
        x = OrderedDict((name, leaf) for name, leaf in value.items() if name not in without)
        aux = others | {name: leaf for name, leaf in value.items() if name in without}
        points.append(Args((), x, aux, np.ones(shape) if number else rng.normal(size=shape)))
    return jax.tree.map(lambda *leaves: np.stack(leaves)[:, None], *points)
