"""Folding of images: neighbouring places become channels of one place, so that a few channels become more."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Images = Float[Array, "N *places C"]
FoldedImages = Float[Array, "N *blocks rC"]
Kernel = Float[Array, "*window c m"]
FoldedKernel = Float[Array, "*blocks rc rm"]


@dataclass(frozen=True)
class Folding:
    """Folding of the last axis of places, along which a window moves by single places.

    r neighbouring places become one place with r times as many channels, in x and in y. Along this axis a convolution
    is y[o] = Σ_k K[k]ᵀ x[o + k - p]. With o = r i + s and o + k = r (i + u) + v, where s and v are below r, it becomes
    a convolution of the folded images, whose places hold X[i][v] = x[r i + v - p] and Y[i][s] = y[r i + s]:

        Y[i] = Σ_u F[u]ᵀ X[i + u],  where F[u][v, s] = K[r u + v - s], and 0 outside the window of K

    The zeros are multiplied as well, so that a NaN or an infinite number reaches up to r - 1 further outputs. Each step
    is linear, so that gradients take the transposed steps: ∂E/∂K[k] = Σ_s ∂E/∂F[u][v, s] over r u + v - s = k.

    Attributes:
        count: r, the number of neighbouring places that become one.
        size: Length of the window in this axis.
        before: p, the padding before this axis.
        places: Length of this axis in x.
        outputs: Length of this axis in y.
    """

    count: int
    size: int
    before: int
    places: int
    outputs: int

    @property
    def folded_size(self) -> int:
        """Length of the window of F: the number of u."""
        return -(-(self.size + self.count - 1) // self.count)

    @property
    def folded_outputs(self) -> int:
        """Length of the axis in Y."""
        return -(-self.outputs // self.count)

    @property
    def folded_places(self) -> int:
        """Length of the axis in X, which contains the padding."""
        return self.folded_outputs + self.folded_size - 1

    def fold_x(self, x: Images) -> FoldedImages:
        """Returns X, the folded images, from the images x."""
        return _join(_cut(x, -self.before, self.count * self.folded_places), self.count)

    def unfold_x(self, X: FoldedImages) -> Images:
        """Returns dx from dX, as the transpose of `fold_x`."""
        return _cut(_split(X, self.count), self.before, self.places)

    def fold_y(self, y: Images) -> FoldedImages:
        """Returns dY from dy, as the transpose of `unfold_y`."""
        return _join(_cut(y, 0, self.count * self.folded_outputs), self.count)

    def unfold_y(self, Y: FoldedImages) -> Images:
        """Returns y, the images, from the folded images Y."""
        return _cut(_split(Y, self.count), 0, self.outputs)

    def fold_kernel(self, K: Kernel) -> FoldedKernel:
        """Returns F, the folded kernel, from the kernel K."""
        *axes, _, c, m = K.shape
        r, size = self.count, self.folded_size
        shifted = jnp.stack([_cut(K, -s, r * size, axis=-3) for s in range(r)], axis=-2)  # [*axes, (u, v), c, s, m]
        return shifted.reshape(*axes, size, r * c, r * m)

    def unfold_kernel(self, F: FoldedKernel) -> Kernel:
        """Returns dK from dF, as the transpose of `fold_kernel`."""
        *axes, size, c, m = F.shape
        r = self.count
        shifted = F.reshape(*axes, size * r, c // r, r, m // r)
        return reduce(add, [_cut(shifted[..., s, :], s, self.size, axis=-3) for s in range(r)])


def _join(x: Float[Array, "..."], count: int) -> Float[Array, "..."]:
    *axes, n, c = x.shape
    return x.reshape(*axes, n // count, count * c)


def _split(x: Float[Array, "..."], count: int) -> Float[Array, "..."]:
    *axes, n, c = x.shape
    return x.reshape(*axes, n * count, c // count)


def _cut(a: Float[Array, "..."], start: int, length: int, axis: int = -2) -> Float[Array, "..."]:
    """Returns a[start : start + length] along an axis, with zeros where that is outside the array."""
    edges = [(0, 0, 0)] * a.ndim
    edges[axis] = (-start, start + length - a.shape[axis], 0)
    return lax.pad(a, jnp.zeros((), a.dtype), edges)
