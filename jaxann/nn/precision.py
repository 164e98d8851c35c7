"""The layers of the derivation, an affine map and the chain of layers, and what training puts around them.

Each backward stands below its forward and names the line that it inverts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.base import Wrapper


@dataclass(frozen=True)
class MixedPrecision(Wrapper):
    """y = f(x) with parameters, x and all between rounded to `dtype`, parameters and y themselves staying as they are.

    What it returns for a matrix are factors of `dtype`; sums over examples are taken in float32.
    Source: Micikevicius et al. 2018, section 3.1; bfloat16 needs no loss scaling.
    """

    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        y, saved = self.layer.forward(self._rounded(params), self._rounded(x), key)
        return y.astype(x.dtype), saved

    def backward(self, params: PyTree, saved: Any, dy: Array) -> tuple[PyTree, Array]:
        grads, dx = self.layer.backward(self._rounded(params), saved, self._rounded(dy))  # y, saved = forward(...)
        return grads, dx.astype(dy.dtype)

    def _rounded(self, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda a: a.astype(self.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)
