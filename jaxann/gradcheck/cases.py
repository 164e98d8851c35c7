"""The cases of a gradient check: what is judged, layer by layer, and at which points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxann.gradcheck.arguments import Args
from jaxann.gradcheck.compilation import precision
from jaxann.gradcheck.inputs import (
    draw_gradient_points,
    draw_layer_points,
    draw_loss_points,
    subsample,
)
from jaxann.gradcheck.places import Place, locate_layers
from jaxann.gradcheck.subjects import GradientSubject, LayerSubject, LossSubject, Subject
from jaxann.gradients.autodiff import AutodiffLayer
from jaxann.nn.base import Layer, join_path, map_parts, parts
from jaxann.nn.loss import Loss
from jaxann.nn.outer import materialize


class Case(NamedTuple):
    """A subject, and the points at which its gradients are judged.

    Attributes:
        subject: A layer, a loss or a gradient function.
        points: The arguments at R points.
        actual: How many points, counted from the first, are at the data; the others were drawn.
        dtypes: The precisions to compare in.
        composite: Whether the subject is a layer made of layers or a gradient function.
    """

    subject: Subject
    points: Args
    actual: int
    dtypes: tuple[str, ...] = ("float32", "float64")
    composite: bool = False


def collect_layer_cases(
    model: Layer, loss: Loss, data: Args, rng: np.random.Generator
) -> tuple[list[Case], np.ndarray, tuple[str, ...]]:
    """Collects a case for every layer of a network.

    Args:
        model: The network.
        loss: The loss from which the true cotangents come.
        data: The parameters, the features and, as `aux`, the targets, without an axis of points.
        rng: The source of the random numbers.

    Returns:
        The cases, single layers before composite ones; the outputs [B, ...] of the network; and a note on each
        composite layer whose parts cannot be observed.
    """
    with precision("float64"):
        arrays = jax.tree.map(jnp.asarray, (data.params, data.x, data.aux))
        places, y = jax.tree.map(np.asarray, locate_layers(model, loss, *arrays))
    paths = [place.path for place in places]
    leaves, composites, notes = [], [], []
    for i, place in enumerate(places):
        inside = parts(place.layer)
        names = [name for name in inside if join_path(place.path, name) in paths]
        if len(names) < len(inside):
            hidden = ", ".join(name for name in inside if name not in names)
            owner = place.path or type(place.layer).__name__
            notes.append(f"{owner}: its parts ({hidden}) cannot be observed, so they are checked only as parts of it")
        use = paths[: i + 1].count(place.path)
        place = replace(place, path=f"{place.path}#{use}") if use > 1 else place
        if names:
            composites.append(_composite_case(place, names, rng))
        else:
            leaves += _leaf_cases(place, rng)
    return leaves + composites, y, tuple(notes)


def collect_loss_cases(
    model: Layer, loss: Loss, gradient: Callable, data: Args, y: np.ndarray, rng: np.random.Generator
) -> list[Case]:
    """Collects the cases of the loss and of the gradient function, without and with weights.

    Args:
        model: The network.
        loss: The loss.
        gradient: A function (model, loss) that returns a gradient function.
        data: The parameters, the features and, as `aux`, the targets, without an axis of points.
        y: The outputs of the network, [B, ...].
        rng: The source of the random numbers.
    """
    loss_points = draw_loss_points(y, data.aux, rng)
    plain, weighted = (draw_gradient_points(data, weighted, rng) for weighted in (False, True))
    return [
        Case(LossSubject("loss", loss), loss_points, 1),
        Case(GradientSubject("gradient", gradient, model, loss), plain, 1, composite=True),
        Case(GradientSubject("gradient.weighted", gradient, model, loss), weighted, 1, ("float64",), composite=True),
    ]


def _leaf_cases(place: Place, rng: np.random.Generator) -> list[Case]:
    """Returns the case of a single layer, and another one with a key if the layer draws random numbers."""
    points = draw_layer_points(place, rng)
    return [
        Case(LayerSubject(place.path, place.layer, str(place.layer), random), points, 2)
        for random in ((False, True) if _uses_key(place) else (False,))
    ]


def _composite_case(place: Place, names: list[str], rng: np.random.Generator) -> Case:
    """Returns the case of a composite layer, on a few examples; the parts called `names` use autodiff in it."""
    points = draw_layer_points(replace(place, x=subsample(place.x), dy=subsample(place.dy)), rng)
    layer = map_parts(place.layer, lambda name, part: AutodiffLayer(part) if name in names else part)
    if _raises(layer, points.first_example()) and not _raises(place.layer, points.first_example()):
        layer = place.layer  # its backward reads what its parts save, and autodiff's twins save something else
    path = join_path(place.path, "chain") if names[0].isdecimal() else place.path
    return Case(LayerSubject(path, layer, type(place.layer).__name__), points, 2, composite=True)


def _raises(layer: Layer, one: Args) -> bool:
    """Returns whether the backward of a layer raises for one example."""

    def backward(params, x, dy):
        return materialize(layer.backward(params, layer.forward(params, x)[1], dy))

    try:
        with precision("float64"):
            jax.eval_shape(backward, one.params, one.x, one.dy)
    except Exception:
        return True
    return False


def _uses_key(place: Place) -> bool:
    """Returns whether the forward pass of a layer is another program with a key than without one."""

    def program(key):
        return str(jax.make_jaxpr(lambda params, x: place.layer.forward(params, x, key)[0])(place.params, place.x[0]))

    try:
        with precision("float64"):
            return program(None) != program(jax.random.key(0))
    except Exception:  # the layer takes no key, or a key of another kind
        return False
