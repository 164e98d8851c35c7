"""The gradient check: which handwritten gradient is wrong, and how.

Every layer, loss and gradient function is judged alone by three voices: its own backward, `jax.vjp` of its forward,
and central differences.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxann.data.validation import validate
from jaxann.gradcheck.compilation import clear_programs, precision
from jaxann.gradcheck.inputs import SUBSAMPLE, gradient_trials, layer_trials, loss_trials, subsample
from jaxann.gradcheck.places import Place, join_path, locate_layers
from jaxann.gradcheck.report import NOT_FINITE, ON_PURPOSE, WRONG, Report, Row
from jaxann.gradcheck.subjects import Args, GradientSubject, LayerSubject, LossSubject, Subject, is_float
from jaxann.gradcheck.verdict import failure_row, judge
from jaxann.gradients.autodiff import AutodiffLayer
from jaxann.gradients.backprop import backprop
from jaxann.gradients.probe import find_nonfinite
from jaxann.nn.base import Layer, map_parts, parts
from jaxann.nn.loss import Loss
from jaxann.nn.outer import materialize


def check(
    model: Layer,
    loss: Loss,
    params: PyTree,
    x: Any,
    t: Any,
    *,
    gradient: Callable = backprop,
    on_purpose: Sequence[str] | str = (),
    examples: int = 64,
    seed: int = 0,
) -> Report:
    """Which gradients of `model` and `loss` are wrong, and how, for features x [N, n] and targets t [N, ...].

    Each layer is judged at its true input and true incoming cotangent, for random cotangents, and at inputs and
    parameters near the true ones and drawn at random, kinks among them; all in float64 and in float32. Networks made of
    layers, and `gradient(model, loss)`, are judged with right parts, so that a wrong formula is named once.

    A gradient whose path is in `on_purpose`, or inside one that is, may differ, and is reported with its angle to the
    true one. At most `examples` are looked at, of every label one; `seed` draws them, and all that is random.

    Raises ValueError for data that does not fit, as `validate` does, for a model or a loss that is not hashable, and
    for a path in `on_purpose` that no gradient has. What is wrong with a forward or backward is a row of the report.
    """
    _hashable(model, loss, gradient)
    if not isinstance(examples, Integral) or examples < 1:
        raise ValueError(f"examples is {examples}, but a whole number of at least 1 is wanted")
    try:
        x, t = validate(model, loss, x, t, params)
    except ValueError:
        raise
    except Exception as error:  # forward's own: a row, never a traceback
        return Report((failure_row("forward", str(model), error),), 0, len(x))
    draw = np.random.default_rng(seed)
    chosen = _chosen(np.asarray(t), examples, draw)
    data = Args(params, np.asarray(x)[chosen], np.asarray(t)[chosen], ()).cast("float64")
    clear_programs()
    try:
        cases, y, notes = _network(model, loss, data, draw)
    except Exception as error:
        return Report((failure_row("forward", str(model), error),), len(chosen), len(x))
    cases.append(Case(LossSubject("loss", loss), loss_trials(y, data.aux, draw), 1))
    plain, weighted = (gradient_trials(data, weighted, draw) for weighted in (False, True))
    cases.append(Case(GradientSubject("gradient", gradient, model, loss), plain, 1, whole=True))
    cases.append(
        Case(GradientSubject("gradient.weighted", gradient, model, loss), weighted, 1, ("float64",), whole=True)
    )
    rows = _rows(cases, seed)
    if any(row.verdict == NOT_FINITE or row.cause == "range" for row in rows):
        found = find_nonfinite(model, loss, params, jnp.asarray(x)[chosen], jnp.asarray(t)[chosen])
        if found:
            sentence = f"the first value that is not finite is in {found}"
            rows.insert(0, Row("values", type(model).__name__, (), NOT_FINITE, "not finite", sentence))
    return Report(_declared(rows, on_purpose), len(chosen), len(x), notes)


def check_layer(layer: Layer, params: PyTree, x: Any, *, on_purpose: Sequence[str] | str = (), seed: int = 0) -> Report:
    """`check` for one layer and one example x, as its `forward` takes it, with random cotangents.

    Whole numbers are taken for real ones unless `forward` refuses those. Raises ValueError as `check` does, and for an
    x that is empty or not numeric.
    """
    _hashable(layer)
    x, draw = np.asarray(x), np.random.default_rng(seed)
    if (x.dtype.kind not in "biu" and not is_float(x)) or not x.size:
        raise ValueError(f"x is of shape {x.shape} and dtype {x.dtype}, but real numbers, at least one, are wanted")
    clear_programs()
    try:
        y, x = _as_taken(layer, params, x)
        batch = np.stack([x] * SUBSAMPLE)
        data = Args(params, batch, draw.normal(size=(SUBSAMPLE, *y.shape)), ()).cast("float64")
        cases, _, notes = _network(layer, _Pairing(), data, draw)
    except Exception as error:
        return Report((failure_row("forward", str(layer), error),), 0, 1)
    return Report(_declared(_rows(cases, seed), on_purpose), 1, 1, notes)


def _as_taken(layer: Layer, params: PyTree, x: np.ndarray) -> tuple[Any, np.ndarray]:
    """The form of the output for x as real numbers, and those; for x as it is where `forward` refuses them."""

    def output(x):
        return jax.eval_shape(lambda params, x: layer.forward(params, x)[0], params, x)

    try:
        numbers = x if is_float(x) else x.astype(float)
        return output(numbers), numbers
    except Exception:
        return output(x), x


def _chosen(t: np.ndarray, examples: int, draw: np.random.Generator) -> np.ndarray:
    """Which examples to look at: one of each label where targets are labels, and others at random."""
    order = draw.permutation(len(t))
    if t.ndim == 1 and not is_float(t):
        _, firsts = np.unique(t[order], return_index=True)
        order = np.concatenate([order[firsts], np.delete(order, firsts)])
    return np.sort(order[:examples])


@dataclass(frozen=True)
class _Pairing(Loss):
    """E = <t, y>, so that ∂E/∂y = t."""

    def value(self, y: Array, t: Array) -> Array:
        return jnp.sum(y * t)

    def gradient(self, y: Array, t: Array) -> Array:
        return t


class Case(NamedTuple):
    """A subject and its trials, of which the first `given` are at its true inputs."""

    subject: Subject
    trials: Args
    given: int
    dtypes: tuple[str, ...] = ("float32", "float64")
    whole: bool = False


def _rows(cases: list[Case], seed: int) -> list[Row]:
    """The rows of every case, in order: on as many threads as there are cores, since most of the time is compiling."""

    def rows(i):
        subject, trials, given, dtypes, whole = cases[i]
        found = judge(subject, trials, given, np.random.default_rng([seed, i]), dtypes)
        return [replace(row, whole=whole) for row in found]

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(threads.map(rows, reversed(range(len(cases)))))  # the whole ones, which take longest, first
    return [row for rows in reversed(found) for row in rows]


def _network(
    model: Layer, loss: Loss, data: Args, draw: np.random.Generator
) -> tuple[list[Case], np.ndarray, tuple[str, ...]]:
    """A case for every layer in `model`, in order, then for what is made of layers; the outputs; and notes."""
    with precision("float64"):
        given = jax.tree.map(jnp.asarray, (data.params, data.x, data.aux))
        places, y = jax.tree.map(np.asarray, locate_layers(model, loss, *given))
    paths = [place.path for place in places]
    leaves, wholes, notes = [], [], []
    for i, place in enumerate(places):
        inside = parts(place.layer)
        names = [name for name in inside if join_path(place.path, name) in paths]
        if len(names) < len(inside):
            unseen = ", ".join(name for name in inside if name not in names)
            notes.append(f"{place.path or type(place.layer).__name__}: its parts {unseen} are not judged alone")
        use = paths[: i + 1].count(place.path)
        place = replace(place, path=f"{place.path}#{use}") if use > 1 else place
        if names:
            wholes.append(_whole(place, names, draw))
        else:
            leaves += _leaf(place, draw)
    return leaves + wholes, y, tuple(notes)


def _leaf(place: Place, draw: np.random.Generator) -> list[Case]:
    """A layer as it stands, and once more with a key where it draws from one."""
    trials = layer_trials(place, draw)
    return [
        Case(LayerSubject(place.path, place.layer, str(place.layer), random), trials, 2)
        for random in ((False, True) if _draws(place) else (False,))
    ]


def _whole(place: Place, names: list[str], draw: np.random.Generator) -> Case:
    """A layer made of layers, on a few examples, those of its parts automatic that are judged alone."""
    trials = layer_trials(replace(place, x=subsample(place.x), dy=subsample(place.dy)), draw)
    layer = map_parts(place.layer, lambda name, part: AutodiffLayer(part) if name in names else part)
    if _raises(layer, trials.example()) and not _raises(place.layer, trials.example()):
        layer = place.layer  # it looks at what its parts save
    path = join_path(place.path, "chain") if names[0].isdecimal() else place.path
    return Case(LayerSubject(path, layer, type(place.layer).__name__), trials, 2, whole=True)


def _raises(layer: Layer, one: Args) -> bool:
    """Whether its backward raises."""

    def backward(params, x, dy):
        return materialize(layer.backward(params, layer.forward(params, x)[1], dy))

    try:
        with precision("float64"):
            jax.eval_shape(backward, one.params, one.x, one.dy)
    except Exception:
        return True
    return False


def _draws(place: Place) -> bool:
    """Whether the layer's forward pass changes with a key."""

    def program(key):
        return str(jax.make_jaxpr(lambda params, x: place.layer.forward(params, x, key)[0])(place.params, place.x[0]))

    try:
        with precision("float64"):
            return program(None) != program(jax.random.key(0))
    except Exception:  # it takes no key, or none of this kind
        return False


def _hashable(*things: Any) -> None:
    for thing in things:
        try:
            hash(thing)
        except TypeError as error:
            name = type(thing).__name__
            raise ValueError(f"{name} is not hashable ({error}): a layer or loss is a frozen dataclass") from None


def _declared(rows: list[Row], on_purpose: Sequence[str] | str) -> tuple[Row, ...]:
    """The rows, those whose paths are in `on_purpose` or inside one that is no longer wrong."""
    declared = (on_purpose,) if isinstance(on_purpose, str) else on_purpose
    lone = [path for path in declared if not any(f"{row.path}.".startswith(f"{path}.") for row in rows)]
    if lone:
        known = ", ".join(row.path for row in rows)
        raise ValueError(f"on_purpose has {lone[0]!r}, but the gradients are {known}")

    def meant(row):
        inside = f"{row.path}.".startswith(tuple(f"{path}." for path in declared))
        return inside and row.verdict == WRONG and row.handwritten.size and np.isfinite(row.handwritten).all()

    def angle(row):
        known = np.isfinite(row.degrees)
        return f"{row.degrees:.1f} degrees from the true gradient" if known else "it or the true gradient is zero"

    return tuple(replace(row, verdict=ON_PURPOSE, diagnosis=angle(row)) if meant(row) else row for row in rows)
