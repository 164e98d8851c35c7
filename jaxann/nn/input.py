"""The layer that states the shape of a network's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.base import Layer
from jaxann.nn.reshape import match_shape, validate_shape


@dataclass(frozen=True)
class Input(Layer):
    """The shape of the input, at the head of a network.

    y = x, so that dx = dy.

    A `Sequential` that begins with an `Input` finds the shapes of all its layers when it is built, and refuses a layer
    that cannot take what the layer before it returns. `print(model)` then shows the shapes.

    x and y have the shape `shape`. The layer has no parameters.

    Attributes:
        shape: The shape of one example, stored as a tuple.

    Raises:
        SettingError: If `shape` is empty, or holds anything but whole numbers of at least 1.
        ValueError: In `forward`, if x does not have the shape `shape`.
    """

    shape: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", validate_shape("shape", self.shape))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.shape)

    @property
    def sizes(self) -> tuple[int, int]:
        return self.shape[-1], self.shape[-1]

    @property
    def keeps_entries(self) -> bool:
        return True

    def forward(
        self, params: PyTree, x: Shaped[Array, "..."], key: PRNGKeyArray | None = None
    ) -> tuple[Shaped[Array, "..."], tuple[()]]:
        match_shape(self, self.shape, x)
        return x, ()

    def backward(self, params: PyTree, saved: tuple[()], dy: Float[Array, "..."]) -> tuple[PyTree, Float[Array, "..."]]:
        return (), dy  # y = x
