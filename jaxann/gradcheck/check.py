"""The gradient check of a network, and of a single layer."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxann.data.validation import validate, validate_ids
from jaxann.gradcheck.arguments import Args, is_float
from jaxann.gradcheck.cases import Case, collect_layer_cases, collect_loss_cases
from jaxann.gradcheck.compilation import clear_programs, rare_collections
from jaxann.gradcheck.deadline import Deadline
from jaxann.gradcheck.declarations import Declarations, accept_on_purpose, require_layer
from jaxann.gradcheck.inputs import SUBSAMPLE, repeat_example
from jaxann.gradcheck.report import NOT_FINITE, Report, Row
from jaxann.gradcheck.verdict import failure_row, judge
from jaxann.gradients.backprop import backprop
from jaxann.gradients.probe import find_nonfinite
from jaxann.nn.hyperparameters import validate_number
from jaxann.nn.loss import Loss
from jaxann.nn.shapes import InputError, resolve_input


@rare_collections()
def check(
    model: Any,
    loss: Loss,
    params: PyTree,
    x: Any,
    t: Any,
    *,
    gradient: Callable = backprop,
    on_purpose: Declarations = (),
    examples: int = 64,
    seconds: float | int = 20,
    seed: int = 0,
) -> Report:
    """Checks the handwritten gradients of a network and its loss, and diagnoses those that are wrong.

    Each layer is judged alone, in float64 and in float32: at its true input and its true incoming cotangent, then with
    random cotangents, and at other inputs and parameters, kinks among them. The loss is judged in the same way. Layers
    made of layers, and the gradient function, are judged with parts that use autodiff, so that one wrong formula gives
    one wrong row. `jaxann.gradcheck` explains what is compared and what the report says.

    Args:
        model: The network: any layer, composite or not.
        loss: The loss.
        params: The parameters of the network, as `model.init` returns them.
        x: Features [N, ...], a row for each example. Integers are converted to floats unless `forward` rejects floats.
        t: Targets [N, ...], or labels [N], as the loss expects them.
        gradient: A function of (model, loss) that returns a gradient function, which maps (params, x, t, weights) to
            (loss, grads). `backprop` is the chain of backwards; a learning rule may be given instead.
        on_purpose: Paths of gradients that are meant to differ from the true ones, as "2.dx"; a path such as "2" or
            "gradient" stands for all gradients inside it. If such a gradient differs, its row has the angle to the
            true gradient. A mapping from paths to causes, as {"2.dx": "clipping"}, accepts only a difference whose
            diagnosis has that cause.
        examples: The most examples that are used, at least 1. They are drawn at random, with one of each label if the
            targets are integer labels and `examples` is large enough.
        seconds: How many seconds the search for diagnoses may take, at least 0.
        seed: The seed of the examples, the inputs, the cotangents and the directions that are drawn.

    Returns:
        A report with a row for every gradient. A forward or backward that raises has a row, too.

    Raises:
        ValueError: If the data is empty, not numeric, not finite or of differing lengths, or does not fit the model or
            the loss; or if the model, the loss or `gradient` is not hashable, as frozen dataclasses are.
        SettingError: If `examples` is not a whole number of at least 1, or no gradient has a path in `on_purpose`. It
            is a ValueError.

    Example:
        report = check(model, loss, model.init(jax.random.key(0)), x, t)
        print(report)
        report.raise_if_wrong()
    """
    require_layer(model)
    _require_hashable(model, loss, gradient)
    validate_number("seconds", seconds, least=0)
    validate_number("examples", examples, least=1, integer=True)
    try:
        x, t = validate(model, loss, x, t, params)
    except ValueError:
        raise
    except Exception as error:  # the forward pass raised it, so it becomes a row
        return Report((failure_row("forward", repr(model), error),), 0, len(x))
    rng = np.random.default_rng(seed)
    chosen = _choose_examples(np.asarray(t), examples, rng)
    data = Args(params, np.asarray(x)[chosen], np.asarray(t)[chosen], ()).cast("float64")
    clear_programs()
    try:
        cases, y, notes = collect_layer_cases(model, loss, data, rng)
    except Exception as error:
        return Report((failure_row("forward", repr(model), error),), len(chosen), len(x))
    loss_cases, loss_notes = collect_loss_cases(model, loss, gradient, data, y, rng)
    rows = _judge_cases(cases + loss_cases, seed, seconds)
    if any(row.verdict == NOT_FINITE or row.cause == "range" for row in rows):
        place = find_nonfinite(model, loss, params, jnp.asarray(x)[chosen], jnp.asarray(t)[chosen])
        if place:
            sentence = f"the first value that is not finite is in {place}"
            rows.insert(0, Row("values", type(model).__name__, (), NOT_FINITE, "not finite", sentence))
    return Report(accept_on_purpose(rows, on_purpose), len(chosen), len(x), notes + loss_notes)


@rare_collections()
def check_layer(
    layer: Any,
    params: PyTree,
    x: Any,
    *,
    on_purpose: Declarations = (),
    seconds: float | int = 20,
    seed: int = 0,
) -> Report:
    """Checks the handwritten gradients of one layer at one input, and diagnoses those that are wrong.

    The layer is judged as `check` judges each layer of a network, with random cotangents. If it is made of layers,
    those are judged too.

    Args:
        layer: The layer.
        params: Its parameters, as `layer.init` returns them; () for a layer without parameters.
        x: One example, as `layer.forward` takes it. Integers are converted to floats unless `forward` rejects floats.
        on_purpose: Paths of gradients that are meant to differ from the true ones, as "W" or "dx", or a mapping from
            such paths to the cause that is meant, as in `check`.
        seconds: How many seconds the search for diagnoses may take, at least 0.
        seed: The seed of the inputs, the cotangents and the directions that are drawn.

    Returns:
        A report with a row for every gradient. A forward or backward that raises has a row, too.

    Raises:
        ValueError: If `x` is empty or not numeric, if it holds an id that has no row in an embedding, if `forward` does
            not take it, or if the layer is not hashable, as a frozen dataclass is.
        SettingError: If no gradient has a path in `on_purpose`. It is a ValueError.

    Example:
        dense = Dense(4, 3)
        print(check_layer(dense, dense.init(jax.random.key(0)), jnp.arange(4.0)))
    """
    require_layer(layer)
    _require_hashable(layer)
    validate_number("seconds", seconds, least=0)
    x, rng = np.asarray(x), np.random.default_rng(seed)
    if (x.dtype.kind not in "biu" and not is_float(x)) or not x.size:
        raise ValueError(f"expected x to be at least one real number, got shape {x.shape} and dtype {x.dtype}")
    validate_ids(layer, x)
    clear_programs()
    try:
        one, y = resolve_input(layer, params, jax.ShapeDtypeStruct(x.shape, x.dtype))
        x = x.astype(float) if is_float(one) and not is_float(x) else x
        batch = repeat_example(layer, x, rng)
        data = Args(params, batch, rng.normal(size=(SUBSAMPLE, *y.shape)), ()).cast("float64")
        cases, _, notes = collect_layer_cases(layer, _InnerProduct(), data, rng)
    except InputError:
        raise
    except Exception as error:
        return Report((failure_row("forward", repr(layer), error),), 0, 1)
    return Report(accept_on_purpose(_judge_cases(cases, seed, seconds), on_purpose), 1, 1, notes)


def _choose_examples(t: np.ndarray, examples: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the indices of the examples to use: first one of each label, if targets are labels, then random ones."""
    order = rng.permutation(len(t))
    if t.ndim == 1 and not is_float(t):
        _, firsts = np.unique(t[order], return_index=True)
        order = np.concatenate([order[firsts], np.delete(order, firsts)])
    return np.sort(order[:examples])


@dataclass(frozen=True)
class _InnerProduct(Loss):
    """E = <t, y>, whose gradient ∂E/∂y is t."""

    def value(self, y: Array, t: Array) -> Array:
        return jnp.sum(y * t)

    def gradient(self, y: Array, t: Array) -> Array:
        return t


def _judge_cases(cases: list[Case], seed: int, seconds: float | int) -> list[Row]:
    """Returns the rows of all cases in order.

    Each core has two threads: one compiles while the other, which then holds Python's lock, traces.
    """
    deadline = Deadline(seconds)

    def judge_case(i):
        subject, points, actual, dtypes, composite = cases[i]
        rows = judge(subject, points, actual, np.random.default_rng([seed, i]), dtypes, deadline)
        return [replace(row, composite=composite) for row in rows]

    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as threads:
        # Composite cases come last and take longest, so they start first.
        groups = list(threads.map(judge_case, reversed(range(len(cases)))))
    return [row for rows in reversed(groups) for row in rows]


def _require_hashable(*values: Any) -> None:
    for value in values:
        try:
            hash(value)
        except TypeError as error:
            name = type(value).__name__
            raise ValueError(f"expected a hashable object, such as a frozen dataclass, got {name}: {error}") from None
