"""What a run refuses before anything is compiled, each in one sentence: what was found, and what was wanted."""

from __future__ import annotations

from functools import partial
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import is_traced
from jaxann.nn.loss import Loss


def validate(model: Layer, loss: Loss, x: Any, t: Any, params: Any = None) -> tuple[Array, Array]:
    """Features x [N, n] and targets t [N, ...] as arrays of the default precision; integer targets stay integers.

    Without `params` they are taken to be as the model draws them. Raises ValueError for data that is empty, not
    numeric, not finite, of differing lengths, that the model or the loss does not fit, or with targets the loss has no
    meaning for. Inside `jit` or `vmap`, where values cannot be looked at, only shapes and types are judged.
    """
    x, t = _numeric("features", x), _numeric("targets", t, whole=True)
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(f"features have shape {x.shape}, but at least one example, a row each, is wanted")
    if t.ndim == 0 or len(x) != len(t):
        raise ValueError(f"features have {len(x)} rows, but targets have shape {t.shape}")
    n, _ = model.sizes
    if n not in (None, x.shape[-1]):
        raise ValueError(f"features have {x.shape[-1]} columns, but the network takes {n}")
    if params is None:
        params = jax.eval_shape(model.init, jax.random.key(0))
    y = jax.eval_shape(lambda params: model.forward(params, x[0])[0], params)
    try:
        jax.eval_shape(loss.value, y, t[0])
    except ValueError as error:
        raise ValueError(f"targets of shape {t.shape} do not fit: {error}") from None
    m = y.shape[-1]
    good_x, good_t = _valid(loss, m, x, t)
    _refuse("features", x, good_x, f"finite {x.dtype} numbers are wanted")
    _refuse("targets", t, good_t, f"{loss} with {m} outputs wants {loss.expects}")
    return x, t


@partial(jax.jit, static_argnames=("loss", "m"))
def _valid(loss: Loss, m: int, x: Array, t: Array) -> tuple[Array, Array]:
    """Which entries are valid; one program, because that compiles sooner than its pieces."""
    return jnp.isfinite(x), loss.is_valid(t, m)


def validate_features(x: Any) -> Array:
    """Features [N, n] in the default precision. Raises ValueError where they are no finite numbers in it."""
    x = _numeric("features", x)
    _refuse("features", x, jnp.isfinite(x), f"finite {x.dtype} numbers are wanted")
    return x


def validate_weights(weights: Any, examples: int) -> Array | None:
    """Weights [N] of so many examples as an array of the default precision; None stays None.

    Raises ValueError for another shape and for entries that are not finite numbers above 0: a batch of nothing but
    zeros would have no mean, so leave such examples out.
    """
    if weights is None:
        return None
    weights = _numeric("weights", weights)
    if weights.shape != (examples,):
        raise ValueError(f"weights have shape {weights.shape}, but one for each of {examples} examples is wanted")
    _refuse("weights", weights, jnp.isfinite(weights) & (weights > 0), "finite numbers above 0 are wanted")
    return weights


def validate_schedule(examples: int, epochs: Any, batch_size: Any) -> None:
    """Raises ValueError for a batch size outside 1 ... examples, less than one epoch, and what is no whole number."""
    for name, number in {"batch_size": batch_size, "epochs": epochs}.items():
        if not isinstance(number, Integral):
            raise ValueError(f"{name} is {number!r}, but a whole number is wanted")
    if not 1 <= batch_size <= examples:
        raise ValueError(f"batch_size is {batch_size}, but 1 to {examples}, the number of examples, is wanted")
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}, but at least 1 is wanted")


def _numeric(name: str, values: Any, whole: bool = False) -> Array:
    """`values` as an array in the default precision; `whole` lets integers stay integers."""
    if not isinstance(values, jax.Array):
        try:
            values = np.asarray(values)
        except ValueError:
            raise ValueError(f"{name} are ragged, but rows of one length are wanted") from None
    integral = values.dtype.kind in "biu"
    if integral and whole:
        integers = jnp.asarray(values, int if values.dtype.kind == "b" else None)
        if isinstance(values, np.ndarray) and not np.array_equal(values.astype(integers.dtype), values):
            raise ValueError(f"{name} hold integers that do not fit into {integers.dtype}")
        return integers
    if not integral and not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(f"{name} have dtype {values.dtype}, but real numbers are wanted")
    with np.errstate(over="ignore"):  # what the default precision cannot hold becomes infinite, and is refused as such
        return jnp.asarray(values, float)


def _refuse(name: str, values: Array, valid: Array, wanted: str) -> None:
    """Raises ValueError for the first entry of `values` that is not valid, unless they are being traced."""
    if is_traced(valid) or np.all(valid):
        return
    place = np.argwhere(~np.asarray(valid))[0]
    raise ValueError(f"{name}{place.tolist()} is {values[tuple(place)]}, but {wanted}")
