"""The settings of a run that describe its network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from jaxann.nn.activations import ACTIVATIONS

# The choices are the names in the library's table, which a type checker cannot know.
Activation: TypeAlias = Literal[*ACTIVATIONS]  # pyright: ignore[reportInvalidTypeForm]
TEXT_NETWORKS = ("gru", "lstm", "transformer")
NetworkName: TypeAlias = Literal["mlp", "lenet", "resnet", "gru", "lstm", "transformer"]


@dataclass(frozen=True)
class NetworkSettings:
    """The settings of a run that describe its network."""

    network: NetworkName = "mlp"
    """Network: mlp for all data but text; lenet and resnet for images; gru and lstm for sequences and text;
    transformer for text."""
    hidden: tuple[int, ...] = (50, 20, 10)
    """Number of units of each hidden layer of mlp, or of each recurrent layer of gru and lstm."""
    bidirectional: bool = False
    """Whether the layers of gru and lstm go through a sequence in both directions."""
    widths: tuple[int, ...] = (16, 32, 64)
    """Number of channels in each stage of resnet."""
    width: int = 128
    """Number of features of each token in transformer."""
    heads: int = 4
    """Number of attention heads of transformer, which divides its width."""
    blocks: int | None = None
    """Number of blocks: in each stage of resnet (by default 1), or of transformer (by default 4)."""
    activation: Activation = "sigmoid"
    """Activation of the hidden layers of mlp, lenet and resnet."""
    init_scale: float = 1.0
    """Factor on the initial weights of mlp, which are drawn as Glorot and Bengio do."""
    dropout: float = 0.0
    """Share of each hidden layer's outputs in mlp or transformer that is dropped, drawn anew in every training step."""
