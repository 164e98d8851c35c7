"""Self-attention: every position of a sequence takes a weighted mean of what other positions offer."""

# Annotations are not postponed: they would be looked up again in the modules of subclasses, for the inherited fields.

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from math import sqrt
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer
from jaxann.nn.factors import accumulation_dtype
from jaxann.nn.hyperparameters import Number, SettingError, is_traced, validate_number
from jaxann.nn.initializers import draw_array, glorot_uniform
from jaxann.nn.outer import Outer
from jaxann.nn.places import sum_places
from jaxann.nn.positional import rotate

Tokens = Float[Array, "T n"]
Queries = Float[Array, "G R t d"]  # the heads are G groups of R, and those of a group share their keys and values
Keys = Float[Array, "G T d"]
Weights = Float[Array, "G R t T"]  # of T keys, for each of t queries
RowSums = Float[Array, "G R t 1"]
Kept = Bool[Array, "G R t T"]


@dataclass(frozen=True)
class Attention(Layer):
    """Multi-head scaled dot-product self-attention.

    (q, k, v) = z = W_qkv x + b_qkv, S = q kᵀ / √d, or -∞ where a query does not see a key, P = softmax(S) along the
    keys, o = P v for each head, and y = W_o o + b_o. With do = W_oᵀ dy and dP = do vᵀ, the gradients are dv = Pᵀ do,
    dS = P ∘ (dP - Σ_keys dP ∘ P), dq = dS k / √d and dk = dSᵀ q / √d, and with dz = (dq, dk, dv),
    ∂E/∂W_qkv = Σ_t dz_t x_tᵀ, ∂E/∂b_qkv = Σ_t dz_t, ∂E/∂W_o = Σ_t dy_t o_tᵀ, ∂E/∂b_o = Σ_t dy_t and
    dx = W_qkvᵀ dz. The sum over the keys is computed as Σ_keys dP ∘ P = <do, o>, which needs no P.

    With `rotary`, q and k are turned before the scores, and dq and dk are turned back before dz. With dropout,
    o = (D ∘ P) v, dv = (D ∘ P)ᵀ do and dP = D ∘ do vᵀ, where an entry of D is 0 or 1 / (1 - dropout).

    x is [T, n] with T of at least 1, and y has the same shape. A head has d = n / heads features. With
    `key_value_heads`, dk and dv are the sums over the heads that share them. The parameters are
    {"W_qkv": [(heads + 2 key_value_heads) d, n], "W_o": [n, n]}: the rows of W_qkv are those of the queries, head by
    head, then those of the keys and those of the values. Products, the softmax and the sums of a lower precision than
    float32 are computed in float32.

    There are no biases by default. The bias of the keys adds the same number to all scores of a query, which softmax
    ignores, so that without `rotary` its gradient is 0 whatever the data.

    Sequences of different lengths can be padded at their end if attention is causal: no position sees a later one, so
    that outputs are right where there is no padding, and gradients are right if the dy of the padding is 0. Without
    `causal`, every position sees the padding.

    Attributes:
        n: Number of features: the length of the last axis of x, at least 1.
        heads: Number of heads, which divides n.
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

    Source: Vaswani et al. 2017, section 3.2, equation 1; Ainslie et al. 2023, section 2.2, for `key_value_heads`; Su et
    al. 2021, equation 34, for `rotary`.
    """

    n: int
    heads: int
    _: KW_ONLY
    causal: bool = True
    key_value_heads: int | None = None
    rotary: bool = False
    biases: bool = False
    dropout: Number = 0.0
    weights: Callable = field(default_factory=lambda: glorot_uniform)

    def __post_init__(self) -> None:
        name = type(self).__name__
        validate_number("n", self.n, least=1, integer=True, note=f"the features of {name}")
        validate_number("heads", self.heads, least=1, integer=True)
        if self.n % self.heads:
            raise SettingError("heads", f"to divide the {self.n} features of {name}", self.heads)
        validate_number("key_value_heads", self._groups, least=1, integer=True)
        if self.heads % self._groups:
            raise SettingError("key_value_heads", f"to divide the {self.heads} heads of {name}", self.key_value_heads)
        if self.rotary and self._size % 2:
            raise SettingError("rotary", f"to be False for heads of {self._size} features, an odd number", True)
        validate_number("dropout", self.dropout, least=0, below=1)

    @property
    def sizes(self) -> tuple[int, int]:
        return self.n, self.n

    @property
    def random(self) -> bool:
        return is_traced(self.dropout) or bool(self.dropout)

    @property
    def _groups(self) -> int:
        return self.heads if self.key_value_heads is None else self.key_value_heads

    @property
    def _size(self) -> int:
        return self.n // self.heads

    @property
    def _ends(self) -> tuple[int, int]:
        """Where the heads of the queries, and those of the keys, end among the heads of W_qkv x."""
        return self.heads, self.heads + self._groups

    def init(self, key: PRNGKeyArray) -> dict[str, Array]:
        keys = jax.random.split(key, 4)
        sizes = (self.n, self._groups * self._size, self._groups * self._size, self.n)
        *qkv, W_o = [draw_array(self.weights, k, (self.n, m)).T for k, m in zip(keys, sizes, strict=True)]
        biases = {"b_qkv": jnp.zeros(sum(sizes[:3])), "b_o": jnp.zeros(self.n)} if self.biases else {}
        return {"W_qkv": jnp.concatenate(qkv), "W_o": W_o} | biases

    def forward(self, params: PyTree, x: Float[Array, "..."], key: PRNGKeyArray | None = None) -> tuple[Tokens, Any]:
        if x.ndim != 2 or x.shape[1] != self.n or not len(x):
            raise ValueError(f"{self} expected x of shape (T, {self.n}) with T of at least 1, got {x.shape}")
        z = x @ params["W_qkv"].T
        z = z + params["b_qkv"][None] if self.biases else z
        qk, v = jnp.split(_split_heads(z, self._size), self._ends[1:])
        q, k = jnp.split(rotate(qk) if self.rotary else qk, self._ends[:1])
        q = q.reshape(self._groups, -1, *q.shape[1:])
        heads, attended = self.attend(q, k, v, key if self.random else None)
        o = _join_heads(heads.reshape(-1, *heads.shape[2:]))
        y = o @ params["W_o"].T
        return y + params["b_o"][None] if self.biases else y, (x, q, k, v, o, attended)

    def backward(self, params: PyTree, saved: Any, dy: Tokens) -> tuple[dict[str, Outer | Array], Tokens]:
        x, q, k, v, o, attended = saved
        do = dy @ params["W_o"]  # y = W_o o + b_o
        heads = _split_heads(do, self._size).reshape(q.shape)
        dq, dk, dv = self.attend_backward(q, k, v, attended, heads, self._row_sums(do, o))
        dqk = jnp.concatenate([dq.reshape(-1, *dq.shape[2:]), dk])
        dqk = rotate(dqk, inverse=True) if self.rotary else dqk  # q, k = rotate(qk)
        dz = _join_heads(jnp.concatenate([dqk, dv]))
        grads: dict[str, Outer | Array] = {"W_qkv": Outer(dz, x), "W_o": Outer(dy, o)}  # z = W_qkv x, y = W_o o
        if self.biases:
            grads |= {"b_qkv": sum_places(dz), "b_o": sum_places(dy)}  # z = ... + b_qkv and y = ... + b_o
        return grads, dz @ params["W_qkv"]  # z = W_qkv x + b_qkv: ∂E/∂x = W_qkvᵀ dz

    def attend(self, q: Queries, k: Keys, v: Keys, key: PRNGKeyArray | None) -> tuple[Queries, Any]:
        """Computes o = P v for each head, and what `attend_backward` needs, such as the weights P.

        Args:
            q: [G, R, T, d], the queries: G groups of R heads.
            k: [G, T, d], the keys of each group.
            v: [G, T, d], the values of each group.
            key: The key of dropout, or None without dropout.

        Returns:
            o [G, R, T, d], and what is saved.
        """
        positions = jnp.arange(q.shape[2])
        S = self.scores(q, k, positions)
        e = jnp.exp(S - S.max(-1, keepdims=True))
        P = (e / e.sum(-1, keepdims=True)).astype(q.dtype)
        kept = self.draw_kept(key, positions, k)
        return multiply("grts,gsd->grtd", self.drop(P, kept), v).astype(q.dtype), (P, kept)

    def attend_backward(
        self, q: Queries, k: Keys, v: Keys, saved: Any, do: Queries, row_sums: RowSums
    ) -> tuple[Queries, Keys, Keys]:
        """Computes dq, dk and dv.

        Args:
            q: [G, R, T, d], the queries that `attend` was called with.
            k: [G, T, d], its keys.
            v: [G, T, d], its values.
            saved: What `attend` returned beside o.
            do: [G, R, T, d], ∂E/∂o.
            row_sums: [G, R, T, 1], Σ dP ∘ P over the keys, for each query.

        Returns:
            dq, dk and dv, in the shapes and dtypes of q, k and v.
        """
        P, kept = saved
        dv = multiply("grts,grtd->gsd", self.drop(P, kept), do)  # o = P v
        dP = self.drop(multiply("grtd,gsd->grts", do, v), kept)  # o = P v
        dS = P * (dP - row_sums)  # P = softmax(S)
        dq, dk = self.scores_backward(q, k, dS)
        return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)

    def scores(self, q: Queries, k: Keys, positions: Integer[Array, " t"]) -> Weights:
        """Computes S = q kᵀ / √d for queries at some positions, -∞ where a query does not see a key.

        Args:
            q: [G, R, t, d], the queries.
            k: [G, T, d], the keys of all positions.
            positions: [t], the positions of the queries.

        Returns:
            S [G, R, t, T], in float32 or a higher precision.
        """
        S = multiply("grtd,gsd->grts", q, k) / sqrt(self._size)
        if not self.causal:
            return S
        seen = positions[:, None] >= jnp.arange(k.shape[1])[None]
        return jnp.where(jnp.broadcast_to(seen, S.shape), S, -jnp.inf)

    def scores_backward(self, q: Queries, k: Keys, dS: Weights) -> tuple[Queries, Keys]:
        """Computes dq and dk, in float32 or a higher precision, from ∂E/∂S where S = `scores(q, k, ...)`.

        Args:
            q: [G, R, t, d], the queries.
            k: [G, T, d], the keys of all positions.
            dS: [G, R, t, T], which is 0 where a query does not see a key.

        Returns:
            dq [G, R, t, d], and dk [G, T, d], the sum over the queries and over the heads that share a key.
        """
        d = (dS / sqrt(self._size)).astype(q.dtype)
        return multiply("grts,gsd->grtd", d, k), multiply("grts,grtd->gsd", d, q)  # S = q kᵀ / √d

    def draw_kept(self, key: PRNGKeyArray | None, positions: Integer[Array, " t"], k: Keys) -> Kept | None:
        """Draws which weights dropout keeps, from a key of its own for each query; None without a key."""
        if key is None:
            return None
        shape = (self._groups, self.heads // self._groups, k.shape[1])

        def draw(position: Array) -> Array:
            return jax.random.bernoulli(jax.random.fold_in(key, position), 1 - self.dropout, shape)

        return jax.vmap(draw, out_axes=2)(positions)

    def drop(self, P: Weights, kept: Kept | None) -> Weights:
        """Returns D ∘ P, the weights after dropout; D ∘ is its own transpose, so that backward applies it to dP."""
        return P if kept is None else jnp.where(kept, P / (1 - self.dropout), 0).astype(P.dtype)

    def _row_sums(self, do: Tokens, o: Tokens) -> RowSums:
        """Returns Σ_keys dP ∘ P, for each query, without P: it is <do, o>, since o = P v and dP = do vᵀ."""
        dtype = accumulation_dtype(do, o)
        products = (do.astype(dtype) * o.astype(dtype)).reshape(len(o), self.heads, -1)
        return products.sum(-1).T.reshape(self._groups, -1, len(o), 1)


def multiply(spec: str, a: Array, b: Array) -> Array:
    """Returns the einsum of two arrays in float32 or a higher precision, without rounding a lower one in between."""
    return jnp.einsum(spec, a, b, preferred_element_type=accumulation_dtype(a, b))


def _split_heads(a: Float[Array, "T m"], size: int) -> Float[Array, "heads T d"]:
    return a.reshape(len(a), -1, size).swapaxes(0, 1)


def _join_heads(a: Float[Array, "heads T d"]) -> Float[Array, "T m"]:
    return a.swapaxes(0, 1).reshape(a.shape[1], -1)  # the inverse of _split_heads
