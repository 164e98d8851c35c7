"""Sequences: the last step, and builders of networks with recurrent layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from jaxann.nn.activations import identity
from jaxann.nn.base import Layer
from jaxann.nn.cells import LSTM
from jaxann.nn.dense import Dense
from jaxann.nn.each import Each
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.nn.names import resolve_layer
from jaxann.nn.recurrent import Recurrent
from jaxann.nn.reshape import save_shape
from jaxann.nn.residual import Parallel
from jaxann.nn.sequential import Sequential


@dataclass(frozen=True)
class LastStep(Layer):
    """The last step of a sequence.

    y = x_T, so that dx_T = dy and dx_t = 0 at every other step.

    x is [T, ...] with at least one step, and y is [...]. The layer has no parameters.

    Attributes:
        reverse: Whether the steps were computed from the last to the first, as a recurrent layer with reverse=True
            does. Then y = x_1.

    Raises:
        ValueError: In `forward`, if x has no axis of steps, or no step.
    """

    reverse: bool = False

    def forward(
        self, params: PyTree, x: Shaped[Array, "T ..."], key: PRNGKeyArray | None = None
    ) -> tuple[Shaped[Array, "..."], Shaped[Array, "0 T ..."]]:
        if not x.ndim or not len(x):
            raise ValueError(f"{self} expected x of shape (T, ...) with at least one step, got {x.shape}")
        return x[self._position], save_shape(x)

    def backward(
        self, params: PyTree, saved: Shaped[Array, "0 T ..."], dy: Float[Array, "..."]
    ) -> tuple[PyTree, Float[Array, "T ..."]]:
        return (), jnp.zeros(saved.shape[1:], dy.dtype).at[self._position].set(dy)  # y = x_T, or x_1

    @property
    def _position(self) -> int:
        return 0 if self.reverse else -1


def bidirectional(layer: Recurrent, *, last: bool = False) -> Parallel:
    """Builds two recurrent layers that go through a sequence in opposite directions, each with its own parameters.

    bidirectional(layer) is Parallel((layer, replace(layer, reverse=True)), "concatenation"). With `last`, each of the
    two is followed by its `LastStep`. A `LastStep` behind the concatenation would take x_T, after which the second
    direction has only begun.

    Args:
        layer: The recurrent layer of the first direction. The other one has the same settings except `reverse`.
        last: Whether y has the last step of each direction instead of every step.

    Returns:
        A layer that maps x [T, n] to the features of both directions: y [T, 2m], or [2m] with `last`.

    Raises:
        SettingError: If `layer` is not a recurrent layer.

    Source: Schuster and Paliwal 1997, section II.C.
    """
    if not isinstance(layer, Recurrent):
        raise SettingError("layer", "to be a recurrent layer, such as LSTM(4, 8)", layer)
    layers = layer, replace(layer, reverse=not layer.reverse)
    return Parallel([Sequential((a, LastStep(a.reverse))) if last else a for a in layers], "concatenation")


def recurrent_network(
    sizes: Sequence[int],
    cell: Callable[[int, int], Recurrent] = LSTM,
    output: Layer | type[Layer] | str = identity,
    *,
    both_directions: bool = False,
    every_step: bool = False,
) -> Sequential:
    """Builds a network of recurrent layers, with a dense layer behind the last step or behind every step.

    recurrent_network((4, 50, 3)) is Sequential((LSTM(4, 50), LastStep(), Dense(50, 3), identity)).

    Args:
        sizes: The numbers of features of the input, of each recurrent layer, and of the output.
        cell: `RNN`, `GRU`, `LSTM`, a cell of your own, or a function of (n, m) that returns one with settings, such as
            `functools.partial(LSTM, truncate=20)`.
        output: The activation after the dense layer, or its name.
        both_directions: Whether each recurrent layer is `bidirectional`. It then returns twice as many features as
            `sizes` says.
        every_step: Whether there is an output for every step instead of one for the sequence. The last two layers are
            then Each(Dense(...)) and Each(output).

    Returns:
        The network, which maps x [T, sizes[0]] to y [sizes[-1]], or to y [T, sizes[-1]] with `every_step`.

    Raises:
        SettingError: If `sizes` has fewer than three entries, if one of them is not a whole number of at least 1, or if
            `cell` or `output` is not what it should be.
    """
    if not isinstance(sizes, Sequence):
        raise SettingError("sizes", "to be a sequence, such as (4, 50, 3)", sizes)
    if not callable(cell):
        raise SettingError("cell", "to be a recurrent layer's class, such as LSTM, or a function of (n, m)", cell)
    if len(sizes) < 3:
        raise SettingError(
            "sizes", "to have an input size, at least one recurrent size and an output size", tuple(sizes)
        )
    for position, size in enumerate(sizes):
        validate_number(f"sizes[{position}]", size, least=1, integer=True)
    n, *widths, m = sizes
    layers: list[Layer] = []
    for i, width in enumerate(widths):
        layer = cell(n, width)
        last = not every_step and i == len(widths) - 1
        if both_directions:
            layers.append(bidirectional(layer, last=last))
        else:
            layers += [layer, LastStep(layer.reverse)] if last else [layer]
        n = 2 * width if both_directions else width
    ends = Dense(n, m), resolve_layer("output", output)
    return Sequential((*layers, *(map(Each, ends) if every_step else ends)))
