"""Checks of the data and the schedule of a run before it is compiled, each with an error of one sentence."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num, PyTree

from jaxann.data.numbers import to_numbers
from jaxann.nn.activations import sigmoid, softmax
from jaxann.nn.base import Layer, path_name
from jaxann.nn.each import Each
from jaxann.nn.each_loss import EachLoss
from jaxann.nn.hyperparameters import is_traced, validate_number
from jaxann.nn.loss import Loss, mean_weights
from jaxann.nn.losses import SigmoidCrossEntropy, SoftmaxCrossEntropy
from jaxann.nn.precision import MixedPrecision
from jaxann.nn.recomputed import Recomputed
from jaxann.nn.sequential import Sequential
from jaxann.nn.shapes import InputError, resolve_input


def validate(
    model: Layer, loss: Loss, x: Any, t: Any, params: Any = None
) -> tuple[Num[Array, "N ..."], Num[Array, "N ..."]]:
    """Checks that features and targets fit a model and a loss, and converts them to arrays.

    Whether features fit is decided by the forward pass, which is traced for one example and not computed. Inside `jit`
    or `vmap`, where arrays have no values yet, only shapes and types are checked.

    Args:
        model: The network.
        loss: The loss between its outputs and the targets.
        x: [N, ...], the features; [N] for a model that takes a single number.
        t: [N, ...], the targets.
        params: The parameters of the network, of which only the shapes matter; None takes the shapes from `init`.

    Returns:
        Features and targets in the default precision. Integer targets stay integers, and so do integer features where
        the model rejects floats, as one that begins with an embedding does.

    Raises:
        ValueError: If the data are empty, not numeric, not finite or of different lengths, if their shapes do not fit
            the model or the loss, if an id has no row in an embedding, or if the loss is not defined for a target. The
            message about features that a layer does not take names the layer.
        Exception: What the model's `forward` raises, unless it is a TypeError, ValueError or IndexError about its
            input.
    """
    x, t = to_numbers("features", x), _to_array("targets", t, keep_integers=True)
    if x.ndim == 0 or 0 in x.shape or (x.ndim == 1 and x.shape != t.shape[:1]):
        raise ValueError(_describe_rows(x))
    if t.ndim == 0 or len(x) != len(t):
        raise ValueError(f"expected targets for {len(x)} rows of features, got shape {t.shape}")
    x, y = _fit_features(model, x, params)
    try:
        jax.eval_shape(loss.value, y, jax.ShapeDtypeStruct(t.shape[1:], t.dtype))
    except ValueError as error:
        raise ValueError(f"targets of shape {t.shape} do not fit: {error}") from None
    validate_ids(model, x)
    m = y.shape[-1] if y.shape else 1
    is_valid_x, is_valid_t = _find_valid(loss, m, x, t)
    _raise_if_invalid(x, is_valid_x, f"finite {x.dtype} numbers in features")
    _raise_if_invalid(t, is_valid_t, f"{loss.expects} in targets of {loss} with {m} outputs")
    return x, t


def _fit_features(model: Layer, x: Any, params: Any) -> tuple[Num[Array, "N ..."], jax.ShapeDtypeStruct]:
    """Returns features as the model takes them, and the shape and dtype of its output for one example."""
    n, _ = model.sizes
    if x.ndim > 1 and n not in (None, x.shape[-1]):
        raise ValueError(f"expected features with {n} columns, which the network takes, got {x.shape[-1]}")
    if params is None:
        params = jax.eval_shape(model.init, jax.random.key(0))
    dtype = x.dtype if x.dtype.kind in "biu" else jnp.result_type(float)
    try:
        one, y = resolve_input(model, params, jax.ShapeDtypeStruct(x.shape[1:], dtype))
    except InputError as error:
        if x.ndim == 1 and not error.depth:  # most likely a single example where several are expected
            raise ValueError(_describe_rows(x)) from None
        raise
    return _to_array("features", x, keep_integers=not jnp.issubdtype(one.dtype, jnp.floating)), y


def _describe_rows(x: Any) -> str:
    return f"expected features with a row for each of at least one example, got shape {x.shape}"


@partial(jax.jit, static_argnames=("loss", "m"))
def _find_valid(loss: Loss, m: int, x: Array, t: Array) -> tuple[Array, Array]:
    """Returns which entries are valid, in one program, because that compiles sooner than one for each operation."""
    return jnp.isfinite(x), loss.is_valid(t, m)


def validate_ids(model: Layer, x: Any) -> None:
    """Checks that every id has a row in the embeddings of a model whose features are ids.

    Compiled programs cannot refuse an id: there JAX takes another row for one that is out of range.

    Args:
        model: The network. Its `vocabularies` say how many ids there are.
        x: [N, ...], the features, or one example.

    Raises:
        ValueError: If an id is negative or too large.
    """
    if not model.vocabularies or is_traced(x) or (ids := np.asarray(x)).dtype.kind not in "iu":
        return
    for name, size in model.vocabularies.items():
        _raise_if_invalid(ids, np.asarray((ids >= 0) & (ids < size)), f"ids between 0 and {size - 1} for {name}")


def validate_features(x: Any) -> Float[Array, "..."]:
    """Checks that features are finite numbers and converts them to an array.

    Args:
        x: [N, ...], the features.

    Returns:
        The features in the default precision.

    Raises:
        ValueError: If the features are not numeric, or not finite in that precision.
    """
    x = _to_array("features", x)
    _raise_if_invalid(x, jnp.isfinite(x), f"finite {x.dtype} numbers in features")
    return x


def validate_weights(weights: Any, examples: int) -> Float[Array, " N"] | None:
    """Checks that weights are finite numbers above 0, one for each example, and converts them to an array.

    Args:
        weights: [N], how much each example counts, or None.
        examples: N.

    Returns:
        The weights, divided by the largest one, in the default precision, or None. Only their ratios matter, and sums
        of weights between 0 and 1 do not overflow.

    Raises:
        ValueError: If the weights have another shape, are not finite numbers above 0, or are too small compared with
            the largest one for the default precision. Examples of weight 0 have to be left out before, because the mean
            over a batch of only such examples is not defined.
    """
    if weights is None:
        return None
    weights = to_numbers("weights", weights)
    if weights.shape != (examples,):
        raise ValueError(f"expected weights of shape {(examples,)}, one for each example, got shape {weights.shape}")
    if is_traced(weights):
        shares = mean_weights(jnp.asarray(weights, float), examples)
        return shares / shares.max()
    with np.errstate(over="ignore"):
        weights = np.asarray(weights).astype(float)
    _raise_if_invalid(weights, np.isfinite(weights) & (weights > 0), "finite numbers above 0 in weights")
    shares, precision = weights / weights.max(), jnp.finfo(jnp.result_type(float))
    # XLA treats numbers below the smallest normal one as 0.
    expected = f"weights of at least {precision.tiny:.1e} times the largest, {weights.max():g}, in {precision.dtype}"
    _raise_if_invalid(weights, shares >= precision.tiny, expected)
    return jnp.asarray(shares, float)


def validate_params(model: Layer, params: PyTree) -> PyTree:
    """Checks that parameters fit a model, and converts them to arrays.

    Args:
        model: The network.
        params: Its parameters. Lists may stand for tuples, and NumPy arrays for those of JAX.

    Returns:
        The parameters, in the structure and the dtypes of those that `model.init` draws.

    Raises:
        ValueError: If a leaf is missing, too many, not numeric or of another shape; the message names its path.
    """
    expected = jax.eval_shape(model.init, jax.random.key(0))
    shapes, treedef = jax.tree_util.tree_flatten_with_path(expected)
    named = {path_name(path): leaf for path, leaf in shapes}
    given = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for name in {**named, **given}:
        label = name or "an array"
        if name not in given:
            raise ValueError(f"expected params with {label} of shape {named[name].shape}, got none")
        if name not in named:
            raise ValueError(f"expected params without {label}, got one of shape {np.shape(given[name])}")
        if np.shape(given[name]) != named[name].shape:
            shape = np.shape(given[name])
            raise ValueError(f"expected params with {label} of shape {named[name].shape}, got shape {shape}")
        to_numbers(f"{label} in params", given[name])
    return treedef.unflatten([jnp.asarray(given[name], leaf.dtype) for name, leaf in named.items()])


def require_logits(model: Layer, loss: Loss) -> None:
    """Checks that a network does not end in the softmax or the sigmoid that the loss applies itself.

    Args:
        model: The network.
        loss: The loss between its outputs and the targets.

    Raises:
        ValueError: If it does. The loss would apply the function to probabilities, whose differences are small, and
            its gradient would be small even for a wrong prediction.
    """
    last = model
    while isinstance(last, Sequential | Each | MixedPrecision | Recomputed):
        last = last.layers[-1] if isinstance(last, Sequential) else last.layer
    while isinstance(loss, EachLoss):
        loss = loss.loss
    advice = {"softmax": "leave it out, or use the loss CrossEntropy", "sigmoid": "leave it out"}
    for activation, kind in ((softmax, SoftmaxCrossEntropy), (sigmoid, SigmoidCrossEntropy)):
        if isinstance(loss, kind) and last == activation:
            raise ValueError(
                f"expected a network that does not end in {activation}, because {kind.__name__} applies {activation} "
                f"to its outputs itself, got {activation} as the last layer ({advice[str(activation)]})"
            )


def validate_schedule(examples: int, epochs: Any, batch_size: Any) -> None:
    """Checks the number of epochs and the batch size of a run.

    Args:
        examples: The number of examples.
        epochs: How many times the run takes every example.
        batch_size: The number of examples in a batch.

    Raises:
        SettingError: If `epochs` or `batch_size` is not a whole number, if `epochs` is below 1, or if `batch_size` is
            not between 1 and the number of examples.
    """
    validate_number("batch_size", batch_size, least=1, most=examples, integer=True, note="the number of examples")
    validate_number("epochs", epochs, least=1, integer=True)


def _to_array(name: str, values: Any, keep_integers: bool = False) -> Num[Array, "..."]:
    """Returns values as an array of the default precision, or of integers if they are to be kept."""
    values = to_numbers(name, values)
    if values.dtype.kind in "biu" and keep_integers:
        dtype = jax.dtypes.canonicalize_dtype(int if values.dtype.kind == "b" else values.dtype)
        if isinstance(values, np.ndarray) and not np.array_equal(values.astype(dtype), values):
            raise ValueError(f"expected {name} that fit into {dtype}, got larger integers")
    else:
        dtype = jnp.result_type(float)
    with np.errstate(over="ignore"):  # a number too large for the default precision becomes infinite, which is refused
        return jnp.asarray(values.astype(dtype), dtype)


def _raise_if_invalid(values: Array | np.ndarray, is_valid: Bool[Array | np.ndarray, "..."], expected: str) -> None:
    """Raises ValueError for the first entry that is not valid, unless the values are being traced."""
    if is_traced(is_valid):
        return
    is_valid = np.asarray(is_valid)  # JAX would compile a program to reduce it
    if is_valid.all():
        return
    place = np.argwhere(~is_valid)[0]
    where = f" at {place.tolist()}" if place.size else ""
    raise ValueError(f"expected {expected}, got {values[tuple(place)]}{where}")
