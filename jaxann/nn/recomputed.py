"""The layer that computes its forward pass a second time in backward instead of keeping what that pass saves."""

from __future__ import annotations

from dataclasses import dataclass

import jax
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.base import InputGradient, Layer, Wrapper, map_parts
from jaxann.nn.names import resolve_layer

Saved = tuple[Array, PRNGKeyArray | None]


@dataclass(frozen=True)
class Recomputed(Wrapper):
    """A layer whose backward first computes the forward pass again, so that only its input is saved.

    y = f(x), so that dx = b(dy), where b is the backward of f.

    It saves x and the key, from which the same random numbers are drawn again. Inside the loop of a `Repeat` this
    saves memory: `Repeat(Recomputed(f), count)` keeps one x for each block. Elsewhere XLA may recognize both passes as
    the same computation on a CPU, and then saves no memory.

    The second forward pass uses the parameters that `backward` is called with, so these must be the ones that `forward`
    was called with. A learning rule calls `backward` with others. Therefore rules replace this layer by f.

    Shapes and parameters are those of f.

    Attributes:
        layer: f, a layer or network, or the name of an activation.

    Raises:
        SettingError: If f is neither a layer nor the name of an activation.

    Source: Chen et al. 2016, section 4.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", resolve_layer("layer", self.layer))

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Saved]:
        return self.layer.forward(params, x, key)[0], (x, key)

    def backward(self, params: PyTree, saved: Saved, dy: Array) -> tuple[PyTree, InputGradient]:
        x, key = saved
        x, dy = jax.lax.optimization_barrier((x, dy))  # otherwise XLA would keep what the first forward pass computed
        _, inner = self.layer.forward(params, x, key)
        return self.layer.backward(params, inner, dy)  # y = f(x)


def remove_recomputation(model: Layer) -> Layer:
    """Replaces every `Recomputed` in a model by the layer inside, which has the same parameters, outputs and gradients.

    Args:
        model: The layer or network.

    Returns:
        A copy of the model whose layers save what they need of the forward pass.
    """
    model = map_parts(model, lambda name, part: remove_recomputation(part))
    return model.layer if isinstance(model, Recomputed) else model
