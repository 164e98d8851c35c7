"""Calibration: it turns a model that normalizes over a batch into one that evaluates each example on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.axis import find_coupled
from jaxann.nn.base import Layer, Wrapper, map_parts, part_path
from jaxann.nn.batch import forward_batch
from jaxann.nn.batch_norm import Affine, BatchNorm
from jaxann.nn.factors import accumulation_dtype
from jaxann.nn.hyperparameters import is_traced
from jaxann.nn.names import resolve_layer


def calibrate(
    model: Layer, params: PyTree, x: Shaped[Array, "N ..."], weights: Float[Array, " N"] | None = None
) -> tuple[Layer, PyTree]:
    """Returns the model and the parameters to evaluate with: each `BatchNorm` becomes an `Affine`.

    γ x̂ + β = γ r x + (β - γ r μ), with μ and r of all examples x, which one forward pass computes. Layers that draw
    random numbers are in evaluation mode. The result computes each example on its own, so it predicts for any number of
    examples. A model without a `BatchNorm` is returned as it is. The function may be called under `jit` and `vmap`.

        evaluated = jaxann.calibrate(model, params, x_train)
        y = jaxann.predict(*evaluated, x_test)

    Args:
        model: The network.
        params: Its parameters, after training.
        x: [N, ...], the features of training examples, as many as one forward pass has memory for.
        weights: [N], how much each example counts in the statistics; ones by default.

    Returns:
        The model, and its parameters.

    Raises:
        SettingError: If `model` is not a layer. It is a ValueError.
        ValueError: If the statistics of a `BatchNorm` cannot be observed, because the layer around it uses it several
            times, or does not pass on what it saves; if `params` do not have its parameters; if another layer couples
            the examples; if the weights are not finite numbers of at least 0, one for each example; or if a layer does
            not take its input.

    Source: Ioffe and Szegedy 2015, algorithm 2, with statistics of the trained network.
    """
    model, norms = resolve_layer("model", model), dict[str, BatchNorm]()

    def replace(path: str, layer: Layer, change: Callable[[str, BatchNorm], Layer]) -> Layer:
        if isinstance(layer, BatchNorm):
            return change(path, layer)
        return map_parts(layer, lambda name, part: replace(part_path(layer, path, name), part, change))

    def fold(path: str, layer: BatchNorm) -> Layer:
        norms[path] = layer
        return Affine(layer.n)

    evaluated = replace("", model, fold)
    if (layer := find_coupled(evaluated)) is not None:
        raise ValueError(f"expected a model in which only BatchNorm couples the examples of a batch, got {layer}")
    if not norms:
        return model, params
    for path, layer in norms.items():
        _replace_params(params, _split_path(path), partial(_match_params, layer, path))
    x = jnp.asarray(x)
    if weights is not None:
        weights = _validate_weights(weights, len(x))
    records = _observe(replace("", model, lambda path, layer: _Observed(layer, path)), params, x, weights)
    for path, layer in norms.items():
        matches = [record for record in records if record.path == path]
        if len(matches) != 1 or matches[0].mean.shape != (1, layer.n):  # another shape has an axis of a loop
            raise ValueError(
                f"expected a BatchNorm that is used once, by layers that keep what it saves, got layer {path or layer}"
            )
        params = _replace_params(params, _split_path(path), partial(_fold, layer, matches[0]))
    return evaluated, params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Record:
    """The statistics μ and r of the `BatchNorm` at a path."""

    path: str = field(metadata={"static": True})
    mean: Any
    r: Any


@dataclass(frozen=True)
class _Observed(Wrapper):
    """A `BatchNorm` that saves its statistics alone."""

    layer: BatchNorm
    path: str

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, _Record]:
        y, (_, r, _) = self.layer.forward(params, x, key)
        mean = self.layer.mean(x.astype(accumulation_dtype(x)))
        return y, _Record(self.path, mean.reshape(-1), r.reshape(-1))


@partial(jax.jit, static_argnames="model")
def _observe(model: Layer, params: PyTree, x: Array, weights: Array | None) -> list[_Record]:
    """Returns the statistics of every observed `BatchNorm`, [1, n]: those of the first example, which all share."""
    _, saved = forward_batch(model, params, x, None, weights)
    leaves = jax.tree.leaves(saved, is_leaf=lambda leaf: isinstance(leaf, _Record))
    return [jax.tree.map(lambda leaf: leaf[:1], leaf) for leaf in leaves if isinstance(leaf, _Record)]


def _fold(layer: BatchNorm, record: _Record, params: PyTree) -> dict[str, Array]:
    mean, r = record.mean[0], record.r[0]
    scale = params["scale"] * r if layer.scale else r
    shift = params["shift"] - scale * mean if layer.shift else -scale * mean
    return {"scale": scale, "shift": shift}


def _validate_weights(weights: Any, examples: int) -> Array:
    weights = weights if is_traced(weights) else np.asarray(weights)
    if weights.shape != (examples,):
        raise ValueError(f"expected weights of shape {(examples,)}, one for each example, got shape {weights.shape}")
    if not is_traced(weights) and not (is_valid := np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"expected finite numbers of at least 0 in weights, got {weights[~is_valid][0]}")
    return jnp.asarray(weights)


def _split_path(path: str) -> list[str]:
    return path.split(".") if path else []


def _match_params(layer: BatchNorm, path: str, params: PyTree) -> PyTree:
    """Checks that parameters have the names of those of a `BatchNorm`, and returns them."""
    expected = [name for name in ("scale", "shift") if getattr(layer, name)]
    names = sorted(params) if isinstance(params, dict) else type(params).__name__
    if names != expected:
        raise ValueError(f"expected parameters with the names {expected} for layer {path or layer}, got {names}")
    return params


def _replace_params(params: PyTree, path: list[str], change: Callable[[PyTree], PyTree]) -> PyTree:
    """Returns the parameters of a model with those at a path changed."""
    if not path:
        return change(params)
    name, *rest = path
    if isinstance(params, dict) and name in params:
        return {**params, name: _replace_params(params[name], rest, change)}
    if isinstance(params, tuple | list) and name.isdecimal() and int(name) < len(params):
        new = [_replace_params(p, rest, change) if i == int(name) else p for i, p in enumerate(params)]
        return type(params)(new)
    raise ValueError(f"expected the parameters of a BatchNorm at {'.'.join(path)}, got {type(params).__name__}")
