"""Self-attention by hand, and what handwritten ones get wrong (public case 07).

Facts from HomericIntelligence/Odyssey#2134, pocketpy/cTensor#31 and AlphaGPU/leetgpu-challenges#302.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxann.nn import Layer, Outer


@dataclass(frozen=True)
class Attention(Layer):
    """y = softmax(Q Kᵀ / √m) V for x [T, n], where Q, K and V [T, m] are x times a matrix (Vaswani et al. 2017)."""

    n: int
    m: int
    wrong: str = ""

    def init(self, key):
        matrices = 0.7 * jax.random.normal(key, (3, self.n, self.m))
        return dict(zip("QKV", matrices, strict=True))

    def forward(self, params, x, key=None):
        q, k, v = x @ params["Q"], x @ params["K"], x @ params["V"]
        scores = q @ k.T / jnp.sqrt(self.m)
        p = jax.nn.softmax(scores, axis=1)
        return p @ v, (x, q, k, v, p)

    def backward(self, params, saved, dy):
        x, q, k, v, p = saved
        dp = dy @ v.T
        axis = 0 if self.wrong == "dot product over the wrong axis" else 1
        dscores = {
            "no dot product": p * dp,
            "diagonal": p * (1 - p) * dp,
        }.get(self.wrong, p * (dp - (p * dp).sum(axis=axis, keepdims=True)))
        if self.wrong != "no scale":
            dscores /= jnp.sqrt(self.m)
        dq, dv = dscores @ k, p.T @ dy
        dk = (dscores if self.wrong == "not transposed" else dscores.T) @ q
        dx = dq @ params["Q"].T + dv @ params["V"].T
        if self.wrong != "path of K lost":
            dx += dk @ params["K"].T
        return {"Q": Outer(x, dq), "K": Outer(x, dk), "V": Outer(x, dv)}, dx
