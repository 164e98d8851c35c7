"""The cases of a gradient check: what is judged, layer by layer, and at which points."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxann.gradcheck.arguments import Args
from jaxann.gradcheck.compilation import optimization, precision
from jaxann.gradcheck.gradient_subject import GradientSubject
from jaxann.gradcheck.inputs import (
    draw_gradient_points,
    draw_layer_points,
    draw_loss_points,
    subsample,
)
from jaxann.gradcheck.places import Place, locate_layers
from jaxann.gradcheck.subjects import LayerSubject, LossSubject, Subject, make_layer_subject
from jaxann.gradients.autodiff import AutodiffLayer, AutodiffLoss
from jaxann.gradients.stateful import Stateful
from jaxann.nn.axis import alone
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
    places, y = _locate_layers(model, loss, data)
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
            composites += _composite_cases(place, names, rng)
        else:
            leaves += _leaf_cases(place, rng)
    return leaves + composites, y, tuple(notes)


def _locate_layers(model: Layer, loss: Loss, data: Args) -> tuple[list[Place], np.ndarray]:
    """Returns what `locate_layers` returns, computed in float64, as NumPy arrays.

    Values that are not finite at optimization level 0 are computed again at level 1, as `optimization` explains.
    """
    located: Any = None
    for level in (0, 1):
        with precision("float64"), optimization(level):
            located = jax.tree.map(np.asarray, locate_layers(model, loss, data.params, data.x, data.aux))
        if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(located)):
            break
    return located


def collect_loss_cases(
    model: Layer, loss: Loss, gradient: Callable, data: Args, y: np.ndarray, rng: np.random.Generator
) -> tuple[list[Case], tuple[str, ...]]:
    """Collects the cases of the loss and of the gradient function: without weights, with them, and with a key.

    Args:
        model: The network.
        loss: The loss.
        gradient: A function (model, loss) that returns a gradient function.
        data: The parameters, the features and, as `aux`, the targets, without an axis of points.
        y: The outputs of the network, [B, ...].
        rng: The source of the random numbers.

    Returns:
        The cases, and a note if the network draws random numbers but the gradient function cannot use a key.
    """
    loss_points = draw_loss_points(y, data.aux, rng)
    plain, weighted = (draw_gradient_points(data, weighted, rng) for weighted in (False, True))
    subject = GradientSubject("gradient", gradient, model, loss)
    cases = [
        Case(LossSubject("loss", loss), loss_points, 1),
        Case(subject, plain, 1, composite=True),
        Case(replace(subject, path="gradient.weighted"), weighted, 1, ("float64",), composite=True),
    ]
    if not model.random:
        return cases, ()
    seeds = rng.integers(2**31, size=(len(weighted.dy), 1))
    points, random = (
        weighted._replace(aux=(*weighted.aux, seeds)),
        replace(subject, path="gradient.random", random=True),
    )
    note = _find_unused_key(random, points)
    if note:
        return cases, (note,)
    return [*cases, Case(random, points, 1, ("float64",), composite=True)], ()


def _leaf_cases(place: Place, rng: np.random.Generator) -> list[Case]:
    """Returns the case of a single layer, and another one with a key if the layer draws random numbers."""
    points = draw_layer_points(place, rng)
    return [
        Case(*make_layer_subject(place.path, place.layer, str(place.layer), random, points), 2)
        for random in ((False, True) if uses_key(place) else (False,))
    ]


def _composite_cases(place: Place, names: list[str], rng: np.random.Generator) -> list[Case]:
    """Returns the case of a composite layer, and another one with a key if the layer or a part draws random numbers.

    They have a few examples, and the parts called `names` use autodiff in them.
    """
    points = draw_layer_points(replace(place, x=subsample(place.x), dy=subsample(place.dy)), rng)
    twin = map_parts(place.layer, lambda name, part: AutodiffLayer(part) if name in names else part)
    path = join_path(place.path, "chain") if names[0].isdecimal() else place.path
    cases = []
    for random in (False, True) if uses_key(place) else (False,):
        own, args = make_layer_subject(path, place.layer, type(place.layer).__name__, random, points)
        subject, one = replace(own, layer=twin), args.first_example()
        if _raises(subject, one) and not _raises(own, one):
            subject = own  # its backward reads what its parts save, and autodiff's twins save something else
        cases.append(Case(subject, args, 2, composite=True))
    return cases


def _raises(subject: LayerSubject, one: Args) -> bool:
    """Returns whether the backward of a layer raises for one example."""
    try:
        with precision("float64"):
            jax.eval_shape(alone(lambda one: materialize(subject.backward(*one))), one)
    except Exception:
        return True
    return False


def uses_key(place: Place) -> bool:
    """Returns whether the output of a layer is another function with a key than without one.

    Args:
        place: The layer with its parameters and inputs.
    """

    def forward(key, params, x):
        return place.layer.forward(params, x, key)[0]

    try:
        with precision("float64"):
            return _depends_on_key(lambda key, *one: alone(partial(forward, key))(*one), place.params, place.x[0])
    except Exception:  # the layer takes no key, or a key of another kind
        return False


def _find_unused_key(subject: GradientSubject, points: Args) -> str:
    """Returns a sentence on a gradient function that cannot use a key; "" if it can."""
    one = points.first_example()
    sentence = "gradient: the network draws random numbers, but the gradient function "
    try:
        function = subject.make_gradient(AutodiffLayer(subject.model), AutodiffLoss(subject.loss))
        called = function.step if isinstance(function, Stateful) else function
        takes = inspect.signature(called).parameters.values()
        if not any(p.name == "key" or p.kind is p.VAR_KEYWORD for p in takes):
            return sentence + "takes no key to draw them with"
        with precision("float64"):
            used = _depends_on_key(lambda key, *args: function(*args, key=key), one.params, *one.aux[:-1])
    except Exception:  # whatever a user's code raises becomes a row when the case is judged
        return ""
    return "" if used else sentence + "ignores its key"


def _depends_on_key(function: Callable, *args: Any) -> bool:
    """Returns whether function(key, *args) is another program with a key than without one.

    Whatever has no effect on the result, such as splitting a key for layers that do not draw, is not compared.
    """
    keys = None, jax.random.key(0)
    plain, random = (str(jax.make_jaxpr(partial(function, key))(*args)) for key in keys)
    if plain == random:
        return False
    plain, random = (jax.jit(function).lower(key, *args).as_text() for key in keys)  # without its unused operations
    return plain != random
