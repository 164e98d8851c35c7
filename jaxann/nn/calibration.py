"""Calibration: the model that evaluates single examples, made of one that normalizes over the examples of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.axis import find_coupled
from jaxann.nn.base import Layer, Wrapper, map_parts, part_path
from jaxann.nn.batch import forward_batch
from jaxann.nn.batch_norm import Affine, BatchNorm
from jaxann.nn.factors import accumulation_dtype


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
        ValueError: If the statistics of a `BatchNorm` cannot be observed, because the layer around it does not save
            what it saves, or uses it several times; if its parameters are not found; if another layer couples the
            examples; or if a layer does not take its input.

    Source: Ioffe and Szegedy 2015, algorithm 2, with statistics of the trained network.
    """
    norms: dict[str, BatchNorm] = {}

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
    records = _observe(replace("", model, lambda path, layer: _Observed(layer, path)), params, jnp.asarray(x), weights)
    for path, layer in norms.items():
        found = [record for record in records if record.path == path]
        if len(found) != 1 or found[0].mean.shape != (1, layer.n):  # another shape has an axis of a loop
            raise ValueError(
                f"expected a BatchNorm that is used once, by layers that keep what it saves, got layer {path or layer}"
            )
        params = _replace_params(params, path.split(".") if path else [], partial(_fold, layer, found[0]))
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
