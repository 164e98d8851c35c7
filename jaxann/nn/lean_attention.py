"""Self-attention in the memory of a few rows of weights: `LeanAttention`."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer, PRNGKeyArray

from jaxann.nn.attention import Attention, Keys, Queries, RowSums, multiply
from jaxann.nn.hyperparameters import validate_number


@dataclass(frozen=True)
class LeanAttention(Attention):
    """`Attention` that never holds all T² weights of a head at once, only those of a block of queries.

    The forward pass goes through the queries in blocks. Beside o it saves the numbers M_t = max_s S_ts and
    Z_t = Σ_s exp(S_ts - M_t), two for each query. For each block, the backward pass computes P = exp(S - M) / Z from
    them, and then the gradients as `Attention` does. M and Z are saved apart, because M + log Z loses the digits of Z
    where M is large. Results and gradients are those of `Attention` up to rounding, and so is dropout for the same key.

    Memory grows with block · T in place of T², and the backward pass computes S a second time. A block covers all T
    keys, including those that a causal mask hides from it. For few positions, `Attention` is faster.

    `Attention` states the equations, the shapes, the parameters, the other settings and what is raised.

    Attributes:
        block: Number of queries in a block, at least 1. It need not divide T: blocks are as equal as possible, and the
            last one is padded with queries that are dropped again.

    Source: Rabe and Staats 2021, section 3, for blocks; Dao et al. 2022, appendix B.4, for the backward pass.
    """

    _: KW_ONLY
    block: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        validate_number("block", self.block, least=1, integer=True, note="the queries in a block")

    def attend(self, q: Queries, k: Keys, v: Keys, key: PRNGKeyArray | None) -> tuple[Queries, Any]:
        def attend_block(block: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            queries, positions = block
            S = self.scores(queries, k, positions)
            M = S.max(-1, keepdims=True)
            e = jnp.exp(S - M)
            Z = e.sum(-1, keepdims=True)
            P = self.drop((e / Z).astype(q.dtype), self.draw_kept(key, positions, k))
            return multiply("grts,gsd->grtd", P, v).astype(q.dtype), (M, Z)

        o, sums = lax.map(attend_block, (self._cut(q), self._positions(q.shape[2])))
        return _join(o)[:, :, : q.shape[2]], (*sums, key)

    def attend_backward(
        self, q: Queries, k: Keys, v: Keys, saved: Any, do: Queries, row_sums: RowSums
    ) -> tuple[Queries, Keys, Keys]:
        M, Z, key = saved

        def add_block(sums: tuple[Array, Array], block: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
            queries, positions, do, row_sums, M, Z = block
            P = (jnp.exp(self.scores(queries, k, positions) - M) / Z).astype(q.dtype)  # P = softmax(S), once more
            kept = self.draw_kept(key, positions, k)
            dv = multiply("grts,grtd->gsd", self.drop(P, kept), do)  # o = P v
            dP = self.drop(multiply("grtd,gsd->grts", do, v), kept)  # o = P v
            dq, dk = self.scores_backward(queries, k, P * (dP - row_sums))  # P = softmax(S)
            return (sums[0] + dk, sums[1] + dv), dq.astype(q.dtype)

        zeros = jnp.zeros(k.shape, M.dtype)
        blocks = (self._cut(q), self._positions(q.shape[2]), self._cut(do), self._cut(row_sums), M, Z)
        (dk, dv), dq = lax.scan(add_block, (zeros, zeros), blocks)
        return _join(dq)[:, :, : q.shape[2]], dk.astype(k.dtype), dv.astype(v.dtype)

    def _length(self, T: int) -> int:
        """Returns the number of queries in each block: the smallest that needs no more blocks than `block` does."""
        return -(-T // -(-T // self.block))

    def _cut(self, a: Float[Array, "G R T k"]) -> Float[Array, "N G R t k"]:
        """Cuts an array into blocks of queries, with zeros after the last query."""
        G, R, T, d = a.shape
        length = self._length(T)
        padded = jnp.pad(a, ((0, 0), (0, 0), (0, -T % length), (0, 0)))
        return padded.reshape(G, R, -1, length, d).transpose(2, 0, 1, 3, 4)

    def _positions(self, T: int) -> Integer[Array, "N t"]:
        return jnp.arange(T + -T % self._length(T)).reshape(-1, self._length(T))


def _join(a: Float[Array, "N G R t d"]) -> Float[Array, "G R Nt d"]:
    """Puts blocks of queries one after the other, as they were before `_cut`, with the padding."""
    N, G, R, t, d = a.shape
    return a.transpose(1, 2, 0, 3, 4).reshape(G, R, N * t, d)
