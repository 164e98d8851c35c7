"""Factors of an `Outer` that are not arrays, because their rows would repeat entries or be mostly zeros.

A factor has rows [..., k]. Its leading axes are places, and a batch of factors has one axis more, as with arrays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer


class Factor(ABC):
    """Base class of factors that an `Outer` may hold in place of an array [..., k].

    Subclasses are frozen dataclasses, and pytrees whose leaves are arrays.
    """

    @property
    @abstractmethod
    def features(self) -> int:
        """The length k of a row."""

    @property
    def cost(self) -> int:
        """How many multiplications the inner product of two rows takes; by default, as many as a row has entries."""
        return self.features

    @abstractmethod
    def rows(self) -> Float[Array, "*t k"]:
        """Computes the rows."""

    @abstractmethod
    def multiply(self, other: Float[Array, "*t n"]) -> Float[Array, "k n"]:
        """Computes Σ_t row_t other_tᵀ, summed over all places in the dtype of `other`."""


Rows: TypeAlias = Float[Array, "..."] | Factor


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OneHot(Factor):
    """Rows of the unit matrix: row t is 1 at the index id_t and 0 elsewhere.

    Attributes:
        ids: [...], an index for each place, at least 0 and below `size`.
        size: The length of a row.
    """

    ids: Integer[Array, "*t"]
    size: int = field(metadata={"static": True})

    @property
    def features(self) -> int:
        return self.size

    @property
    def cost(self) -> int:
        return 1

    def rows(self) -> Float[Array, "*t k"]:
        columns = jnp.arange(self.size).reshape(*[1] * self.ids.ndim, self.size)
        return (self.ids[..., None] == columns).astype(jnp.float32)

    def multiply(self, other: Float[Array, "*t n"]) -> Float[Array, "k n"]:
        n = other.shape[-1]
        return jnp.zeros((self.size, n), other.dtype).at[self.ids.reshape(-1)].add(other.reshape(-1, n))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Joined(Factor):
    """The rows of several factors, one factor after the other.

    Attributes:
        parts: The factors, arrays or `Factor`s, whose rows have the same length.
    """

    parts: tuple[Rows, ...]

    @property
    def features(self) -> int:
        return count_features(self.parts[0])

    @property
    def cost(self) -> int:
        return max(map(row_cost, self.parts))

    def rows(self) -> Float[Array, "*t k"]:
        return jnp.concatenate([flatten_rows(part) for part in self.parts])

    def multiply(self, other: Float[Array, "*t n"]) -> Float[Array, "k n"]:
        return self.rows().T.astype(other.dtype) @ other


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Blocks(Factor):
    """The rows of equal blocks that lie below one another in one matrix, each 0 at the entries of all other blocks.

    Attributes:
        factor: The rows of the blocks, an array or a `Factor` with an axis [..., count, ...] of blocks. Row t of block
            i, of length k, stands for a row that holds it at the entries from i k to (i + 1) k.
        places: The number of axes that follow the axis of blocks in the arrays of `factor`.
    """

    factor: Rows
    places: int = field(metadata={"static": True})

    @property
    def axis(self) -> int:
        """The position of the axis of blocks in the arrays of `factor`."""
        return jax.tree.leaves(self.factor)[0].ndim - 1 - self.places

    @property
    def features(self) -> int:
        return jax.tree.leaves(self.factor)[0].shape[self.axis] * count_features(self.factor)

    def rows(self) -> Float[Array, "*t k"]:
        rows = as_array(self.factor)
        count = rows.shape[self.axis]
        places = [1] * (rows.ndim - self.axis - 2)
        is_own = jnp.eye(count, dtype=bool).reshape(*[1] * self.axis, count, *places, count, 1)
        return jnp.where(is_own, jnp.expand_dims(rows, -2), 0).reshape(*rows.shape[:-1], self.features)

    def multiply(self, other: Float[Array, "*t n"]) -> Float[Array, "k n"]:
        return self.rows().reshape(-1, self.features).T.astype(other.dtype) @ other.reshape(-1, other.shape[-1])


def accumulation_dtype(*terms: Array) -> jnp.dtype:
    """Returns the dtype in which to sum many terms like these: their own, but at least float32."""
    return jnp.result_type(jnp.float32, *terms)


def as_array(factor: Rows) -> Float[Array, "*t k"]:
    """Returns a factor as an array of its rows."""
    return factor.rows() if isinstance(factor, Factor) else factor


def flatten_rows(factor: Rows) -> Float[Array, "T k"]:
    """Returns the rows of a factor with all axes of places made one, in float32 or a higher precision."""
    rows = as_array(factor)
    return rows.reshape(-1, rows.shape[-1]).astype(accumulation_dtype(rows))


def gram(left: Rows, right: Rows) -> Float[Array, "T S"]:
    """Computes the inner products of every row of one factor with every row of another."""
    if isinstance(left, Joined):
        return jnp.concatenate([gram(part, right) for part in left.parts])
    if isinstance(left, OneHot) and isinstance(right, OneHot):
        return (left.ids.reshape(-1, 1) == right.ids.reshape(1, -1)).astype(jnp.float32)
    if isinstance(left, OneHot) and not isinstance(right, Joined):
        return flatten_rows(right).T[left.ids.reshape(-1)]
    if isinstance(right, (Joined, OneHot)):
        return gram(right, left).T
    return flatten_rows(left) @ flatten_rows(right).T


def count_features(factor: Rows) -> int:
    """Returns the length k of a factor's rows."""
    return factor.features if isinstance(factor, Factor) else factor.shape[-1]


def row_cost(factor: Rows) -> int:
    """Returns how many multiplications the inner product of two rows of a factor takes."""
    return factor.cost if isinstance(factor, Factor) else factor.shape[-1]
