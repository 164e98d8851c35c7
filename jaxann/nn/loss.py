"""The contract of a loss, and the weights of the examples in its mean over a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

Output = Float[Array, "*m"]
Target = Shaped[Array, "..."]
Scalar = Float[Array, ""]


class Loss(ABC):
    """Base class of losses: a function E(y, t) of the output and the target of one example, with its gradient.

    y is a vector [m] or, for the losses that act on each output alone, an array of any shape. t has the shape of y
    unless a loss says otherwise, and y and t are never broadcast against each other. A loss is a sum over the outputs.
    The function that calls it for every example of a batch takes the mean.

    Subclasses are frozen dataclasses, whose fields are settings. A compiled program cannot raise an error that
    depends on the values of targets, so `is_valid` computes beforehand which of them have a meaning.

    Attributes:
        expects: Which targets have a meaning, in words for error messages, such as "0 or more".

    Raises:
        ValueError: In `value`, `gradient` and `hessian_factor`, if the shapes of y and t do not fit.
    """

    expects: str = "finite numbers"

    @abstractmethod
    def value(self, y: Output, t: Target) -> Scalar:
        """Computes E(y, t).

        Args:
            y: [m], the output of the network.
            t: The target, in the shape of y unless the loss says otherwise.

        Returns:
            The loss of this example, a scalar.
        """

    @abstractmethod
    def gradient(self, y: Output, t: Target) -> Output:
        """Computes ∂E/∂y.

        Args:
            y: [m], the output of the network.
            t: The target, as `value` takes it.

        Returns:
            The gradient, in the shape of y.
        """

    def hessian_factor(self, y: Output, t: Target) -> Float[Array, "c *m"]:
        """Computes a factor S of the second derivative: Σ_c s_c s_cᵀ = ∂²E/∂y².

        Gauss-Newton curvature and K-FAC need it. A loss that is not convex in y has no such factor.

        Args:
            y: [m], the output of the network.
            t: The target, as `value` takes it.

        Returns:
            The rows s_c [c, m], each in the shape of y.

        Raises:
            NotImplementedError: If the loss does not define this factor.
        """
        raise NotImplementedError(f"{self} has no hessian_factor, which Gauss-Newton curvature needs")

    def is_valid(self, t: Shaped[Array, "*t"], m: int) -> Bool[Array, "*t"]:
        """Computes which targets have a meaning for this loss; finite ones by default.

        Args:
            t: [N, ...], the targets of N examples.
            m: The number of outputs.

        Returns:
            A boolean for each entry of t.
        """
        return jnp.isfinite(t)

    def match_target(self, y: Output, t: Target) -> Output:
        """Converts a target to the precision of y.

        Args:
            y: The output of the network.
            t: The target, an array of any numeric dtype.

        Returns:
            t in the dtype of y.

        Raises:
            ValueError: If t does not have the shape of y.
        """
        if t.shape != y.shape:
            raise ValueError(
                f"{self} expected a target of the output's shape {y.shape}, got {t.dtype} of shape {t.shape}"
            )
        return t.astype(y.dtype)


def diagonal_factor(y: Output, root: Output) -> Float[Array, "c *m"]:
    """Computes the Hessian factor of a loss that acts on each output alone, so that ∂²E/∂y² is diagonal.

    Args:
        y: The output of the network. Where it is a NaN, so is the diagonal.
        root: The square roots of the diagonal, in the shape of y.

    Returns:
        [c, ...], a row for each entry of y, in the shape of y.
    """
    root = jnp.where(jnp.isnan(y), y, root)
    return jnp.diag(root.ravel()).reshape(-1, *root.shape)


def mean_weights(weights: Float[Array, " B"] | None, examples: int) -> Float[Array, " B"]:
    """Computes the share of each example in the weighted mean over a batch.

    s_i = w_i / Σ w

    Args:
        weights: [B], how much each example counts, of any size; None for ones. If all are zero, the shares are NaN.
        examples: B, the number of examples.

    Returns:
        The shares [B], which sum to 1.

    Raises:
        ValueError: If the weights do not have the shape [B].
    """
    if weights is not None and weights.shape != (examples,):
        raise ValueError(f"expected weights of shape ({examples},), one for each example, got {weights.shape}")
    if weights is None:
        return jnp.full(examples, 1 / examples)
    # The sum of very large weights overflows, and XLA treats very small sums, or their reciprocals, as 0. A factor that
    # is a power of two prevents both and changes no digit of the shares.
    largest = jnp.abs(weights).max()
    scaled = weights * jnp.where(largest > 2.0**64, 2.0**-64, jnp.where(largest < 2.0**-64, 2.0**64, 1.0))
    return scaled / scaled.sum()
