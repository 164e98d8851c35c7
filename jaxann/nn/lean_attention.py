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

    The forward pass goes through the queries in blocks, and saves M_t = max_s S_ts and Z_t = Σ_s exp(S_ts - M_t) beside
    o. The backward pass makes P = exp(S - M) / Z of each block again, and replaces Σ_s dP_ts P_ts by <do_t, o_t>, which
    needs no weights: dS = P ∘ (dP - <do, o>). Parameters, results and gradients are those of `Attention` up to
    rounding, and so is dropout for the same key. (The logarithm M + log Z alone would lose the digits of Z where M is
    large.)

    Memory grows with block · T in place of T², and the backward pass computes S twice. A block covers all T keys, also
    those that a causal mask hides from it. For few positions, `Attention` is faster.

    Attributes:
        n: Number of features: the length of the last axis of x, at least 1.
        heads: Number of heads, which divides n.
        block: Number of queries in a block, at least 1. It need not divide T: blocks are as equal as possible, and the
            last one is padded with queries that are dropped again.
        causal: Whether position t sees only the positions s ≤ t. Otherwise it sees all of them.
        key_value_heads: Number of heads of the keys and of the values, which divides `heads`. Each serves
            heads / key_value_heads neighbouring heads of the queries. As many as `heads` by default.
        rotary: Whether queries and keys are turned by their positions, as `rotate` in `jaxann.nn.positional` does; d
            must then be even.
        biases: Whether there are parameters {"b_qkv": [...], "b_o": [n]}, drawn as zeros, as in GPT-2.
        dropout: The probability that a weight in P is set to 0 for a forward pass with a key, at least 0 and below 1.
            The others are multiplied by 1 / (1 - dropout).
        weights: Initializer of the matrices of the queries, keys, values and of W_o, from `jax.nn.initializers`. It
            draws arrays [inputs, outputs], and `init` transposes them. Glorot's uniform initializer by default.

    Raises:
        SettingError: If a setting is out of range.
        ValueError: In `forward`, if x does not have the shape [T, n] with T of at least 1.

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
