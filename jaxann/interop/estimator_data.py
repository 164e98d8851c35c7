"""The examples of an estimator: its weights, its validation part, and its batches."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from sklearn.model_selection import train_test_split

from jaxann.interop.estimator_run import Data


def read_weights(sample_weight: Any, examples: int, name: str = "sample_weight") -> np.ndarray:
    """Returns sample weights as floats, ones if there are none.

    Args:
        sample_weight: [N], numbers of at least 0, or a number for all examples, or None.
        examples: N.
        name: The name of the argument, for messages.

    Raises:
        ValueError: If the weights have another shape, are not finite numbers of at least 0, or are all 0.
    """
    try:
        weights = np.ones(examples) if sample_weight is None else np.asarray(sample_weight, float)
    except (TypeError, ValueError):
        raise ValueError(f"expected numbers in {name}, got {type(sample_weight).__name__} with other entries") from None
    weights = np.full(examples, weights) if weights.ndim == 0 else weights
    if weights.shape != (examples,):
        raise ValueError(f"expected {name} of shape {(examples,)}, one for each example, got shape {weights.shape}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        worst = weights[~(np.isfinite(weights) & (weights >= 0))][0]
        raise ValueError(f"expected finite numbers of at least 0 in {name}, got {worst}")
    if not weights.any():
        raise ValueError(f"expected an example with a weight above 0 in {name}, got only zeros")
    return weights


def to_default_float(name: str, values: Any) -> np.ndarray:
    """Returns numbers in JAX's default precision, float32 unless it was set otherwise.

    Raises:
        ValueError: If a number is too large for it.
    """
    dtype = jnp.result_type(float)
    with np.errstate(over="ignore"):
        converted = np.asarray(values, dtype)
    if not np.isfinite(converted).all():
        worst = np.asarray(values)[~np.isfinite(converted)][0]
        raise ValueError(f"expected {name} within the range of {dtype}, got {worst:g}")
    return converted


def split_validation(t: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the positions of examples into a training and a validation part, stratified by integer labels.

    Args:
        t: [N, ...], the targets.
        fraction: The share of the validation part.
        seed: The seed of the split.

    Returns:
        The positions of the training part and of the validation part, in ascending order. Where a part would be too
        small to hold every class, the split is not stratified.

    Raises:
        ValueError: If the training part would be empty or the validation part would have fewer than 2 examples.
    """
    examples = len(t)
    held_out = int(np.ceil(fraction * examples))
    if held_out < 2 or held_out >= examples:
        raise ValueError(
            f"expected a validation_fraction that leaves at least 2 examples to validate and 1 to train on, "
            f"got {fraction} of {examples} examples"
        )
    labels = t if t.ndim == 1 else t[:, 0]
    counts = np.unique(labels, return_counts=True)[1]
    is_class = t.dtype.kind in "iu" and counts.min() >= 2 and len(counts) <= min(held_out, examples - held_out)
    parts = train_test_split(
        np.arange(examples), test_size=held_out, random_state=seed, stratify=labels if is_class else None
    )
    return np.sort(parts[0]), np.sort(parts[1])


def arrange(
    x: np.ndarray,
    t: np.ndarray,
    weights: np.ndarray,
    rows: np.ndarray,
    validation_rows: np.ndarray,
    batch_size: int | str,
    floor: int = 0,
) -> Data:
    """Lays the training examples of a run out in batches.

    Arrays are filled up to sizes that neighbouring numbers of examples share, so that these share a compiled program.

    Args:
        x: [N, n], the features.
        t: [N, ...], the targets.
        weights: [N], how much each example counts; the examples named in `rows` count more than 0.
        rows: The positions of the training examples.
        validation_rows: The positions of the validation examples.
        batch_size: The number of examples in a batch, or "auto" for 200; all examples if there are fewer.
        floor: A number of examples in a single batch that it is filled up to at least.

    Returns:
        The examples, in NumPy arrays.
    """
    size = min(200 if batch_size == "auto" else int(batch_size), len(rows))
    steps = -(-len(rows) // size)
    if steps == 1:
        size = _round_up(max(size, floor), 8)
    missing = steps * size - len(rows)
    shape, share = (steps, size), jnp.result_type(float)
    unused = _round_up(len(validation_rows), 8) - len(validation_rows)
    fill = _round_up(len(x), 64) - len(x)
    return Data(
        np.pad(x, [(0, fill), (0, 0)]),
        np.pad(t, [(0, fill)] + [(0, 0)] * (t.ndim - 1)),
        np.pad(rows, (0, missing), mode="wrap").astype(np.int32).reshape(shape),
        np.pad(weights[rows], (0, missing)).astype(share).reshape(shape),
        np.pad(validation_rows, (0, unused), mode="edge" if len(validation_rows) else "constant").astype(np.int32),
        np.pad(weights[validation_rows], (0, unused)).astype(share),
    )


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
