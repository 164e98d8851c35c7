"""Mixed precision: a layer that computes in bfloat16 while its parameters stay in a higher precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.base import InputGradient, Wrapper, drop_float0
from jaxann.nn.hyperparameters import SettingError
from jaxann.nn.names import resolve_layer


@dataclass(frozen=True)
class MixedPrecision(Wrapper):
    """Layer or network that computes in a lower precision than its parameters have.

    y = f(x; params), with x, the parameters and all intermediate values rounded to `dtype`. The parameters themselves
    keep their precision, y has that of x, and dx has that of dy. Where x holds integers, y has the precision that the
    layer inside returns without rounding, and there is no dx.

    The factors of matrix gradients have the precision `dtype`, and sums over examples are taken in float32. Shapes are
    those of the layer inside.

    Attributes:
        layer: The layer or network to compute in `dtype`, or the name of an activation.
        dtype: "bfloat16" or "float32".

    Raises:
        SettingError: If `dtype` is neither of the two, or `layer` is neither a layer nor the name of an activation.

    Source: Micikevicius et al. 2018, section 3.1. Loss scaling, their section 3.2, is left out because bfloat16 has the
    range of float32.
    """

    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    exposes_parts = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", resolve_layer("layer", self.layer))
        if self.dtype not in ("bfloat16", "float32"):
            raise SettingError("dtype", "to be bfloat16 or float32", self.dtype)

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        y, saved = self.layer.forward(self._round(params), self._round(x), key)
        return y.astype(self._find_dtype(params, x, key)), saved

    def backward(self, params: PyTree, saved: Any, dy: Array) -> tuple[PyTree, InputGradient]:
        grads, dx = self.layer.backward(self._round(params), saved, self._round(dy))  # y, saved = forward(...)
        floats = drop_float0(dx)
        return grads, dx if floats is None else floats.astype(dy.dtype)

    def _find_dtype(self, params: PyTree, x: Array, key: PRNGKeyArray | None) -> Any:
        if jnp.issubdtype(x.dtype, jnp.floating):
            return x.dtype
        return jax.eval_shape(lambda *args: self.layer.forward(*args)[0], params, x, key).dtype

    def _round(self, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda a: a.astype(self.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)
