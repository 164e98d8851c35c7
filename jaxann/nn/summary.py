"""The table of a network's layers, with the shape that each returns and the number of its parameters."""

from __future__ import annotations

from math import prod

import jax

from jaxann.nn.base import Layer, leaf_layers
from jaxann.nn.shapes import example_of, layer_shapes
from jaxann.nn.text import shorten

NUMBERS = (3,)  # the columns that are aligned to the right


def list_layers(model: Layer) -> list[list[str]]:
    """Lists the layers of a network as rows of a table, below a header and above a row of totals.

    Args:
        model: The network.

    Returns:
        For each layer its path, the layer, the shape of its output, and the number of its parameters. The shapes are
        "?" unless the network states its `input_shape`.
    """
    shapes = {} if model.input_shape is None else layer_shapes(model, *example_of(model, model.input_shape))
    rows, total = [["layer", "", "output", "parameters"]], 0
    for path, layer in leaf_layers(model).items():
        count = _count_parameters(layer)
        total += count
        shape = list(shapes[path].y) if path in shapes else "?"
        rows.append([path, shorten(repr(layer)), str(shape), f"{count:,}" if count else ""])
    return [*rows, ["", "total", "", f"{total:,}"]]


def _count_parameters(layer: Layer) -> int:
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0)))
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(params))
