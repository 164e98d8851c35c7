"""Networks for images and text: functions that build `lenet`, `resnet` and `transformer` as plain chains of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxann.nn.activations import relu
from jaxann.nn.attention import Attention
from jaxann.nn.base import Layer
from jaxann.nn.convolution import Conv
from jaxann.nn.dense import Dense
from jaxann.nn.dropout import Dropout
from jaxann.nn.each import Each
from jaxann.nn.embedding import Embedding, TiedEmbedding
from jaxann.nn.gated import FeedForward
from jaxann.nn.hyperparameters import Number, SettingError, is_traced, validate_number
from jaxann.nn.input import Input
from jaxann.nn.names import resolve_layer
from jaxann.nn.normalization import GroupNorm, LayerNorm
from jaxann.nn.pooling import GlobalAvgPool, MaxPool
from jaxann.nn.positional import LearnedPositions, SinusoidalPositions
from jaxann.nn.reshape import Flatten, validate_shape
from jaxann.nn.residual import Parallel, Residual
from jaxann.nn.sequential import Sequential


def lenet(shape: Sequence[int], outputs: int, hidden: Layer | type[Layer] | str = relu) -> Sequential:
    """Builds LeNet-5: two convolutions with pooling, and three `Dense` layers.

    The first convolution keeps the places of the image, and so does the second one if a side is below 12; otherwise it
    has no padding. Each is followed by the activation and by the maximum of 2 by 2 places. The `Dense` layers have 120,
    84 and `outputs` neurons.

    Args:
        shape: The shape [height, width, channels] of an image; its sides are at least 4.
        outputs: The number of outputs, which have no activation.
        hidden: The activation after every layer but the last, or its name.

    Returns:
        The network, which maps x [height, width, channels] to y [outputs].

    Raises:
        SettingError: If `shape` is not (height, width, channels) with sides of at least 4, or `outputs` is not a whole
            number of at least 1.

    Source: LeCun et al. 1998, section 2.B, with ReLU, maxima and full connections in place of the scaled hyperbolic
    tangent, the trained means and the table of connections.
    """
    height, width, channels = _validate_image(shape, least=4)
    hidden = resolve_layer("hidden", hidden)
    validate_number("outputs", outputs, least=1, integer=True)
    margin = 2 if min(height, width) < 12 else 0  # of the second convolution, which sees 5 by 5 places
    features = 16 * ((height // 2 + 2 * margin - 4) // 2) * ((width // 2 + 2 * margin - 4) // 2)
    return Sequential(
        (
            Input((height, width, channels)),
            *(Conv(channels, 6, (5, 5), padding="same"), hidden, MaxPool((2, 2))),
            *(Conv(6, 16, (5, 5), padding=margin), hidden, MaxPool((2, 2))),
            *(Flatten(), Dense(features, 120), hidden, Dense(120, 84), hidden, Dense(84, outputs)),
        )
    )


def normalize_groups(n: int) -> Layer:
    """Returns a `GroupNorm` of n channels with 8 groups, or as many as divide n evenly below that."""
    return GroupNorm(n, next(groups for groups in range(8, 0, -1) if n % groups == 0))


def resnet(
    shape: Sequence[int],
    outputs: int,
    widths: Sequence[int] = (16, 32, 64),
    blocks: int = 3,
    normalization: Callable[[int], Layer] = normalize_groups,
    hidden: Layer | type[Layer] | str = relu,
) -> Sequential:
    """Builds a residual network for small images.

    A convolution is followed by a stage of residual blocks for each width, by the mean over all places, and by a
    `Dense` layer. A block adds to its input two convolutions of 3 by 3 places with normalizations, the first of them
    with an activation. From one stage to the next the first block has a stride of 2, and a convolution of one place
    instead of the plain skip connection. There are 2 · len(widths) · blocks + 2 layers with matrices on the main path.

    Args:
        shape: The shape [height, width, channels] of an image.
        outputs: The number of outputs, which have no activation.
        widths: The numbers of channels of the stages.
        blocks: The number of blocks in each stage.
        normalization: Maps a number of channels to the layer that normalizes them.
        hidden: The activation, or its name.

    Returns:
        The network, which maps x [height, width, channels] to y [outputs].

    Raises:
        SettingError: If `shape` is not (height, width, channels), `widths` is empty, a number is not a whole number of
            at least 1, or `normalization` is not a function.

    Source: He et al. 2016 (CVPR), section 4.2 and, for the skip connection with a convolution, section 3.3, option B.
    """
    image = _validate_image(shape, least=1)
    _require_functions(normalization=normalization)
    hidden = resolve_layer("hidden", hidden)
    widths = validate_shape("widths", widths)
    for name, value in (("outputs", outputs), ("blocks", blocks)):
        validate_number(name, value, least=1, integer=True)

    def convolve(n: int, m: int, size: int, stride: int = 1) -> Sequential:
        conv = Conv(n, m, (size, size), stride=stride, padding="same", bias=False)  # the normalization has a shift
        return Sequential((conv, normalization(m)))

    def block(n: int, m: int, stride: int) -> Sequential:
        path = Sequential((*convolve(n, m, 3, stride).layers, hidden, *convolve(m, m, 3).layers))
        skipped = Residual(path) if (n, stride) == (m, 1) else Parallel((convolve(n, m, 1, stride), path))
        return Sequential((skipped, hidden))

    layers, n = [Input(image), *convolve(image[-1], widths[0], 3).layers, hidden], widths[0]
    for stage, m in enumerate(widths):
        for position in range(blocks):
            layers += block(n, m, 2 if stage and not position else 1).layers
            n = m
    return Sequential((*layers, GlobalAvgPool(), Dense(n, outputs)))


def transformer(
    vocabulary: int,
    length: int,
    n: int = 128,
    heads: int = 4,
    blocks: int = 4,
    *,
    hidden: int | None = None,
    positions: str = "learned",
    normalization: Callable[[int], Layer] = LayerNorm,
    feed_forward: Callable[[int, int], Layer] = FeedForward,
    attention: Callable[..., Layer] = Attention,
    dropout: Number = 0.0,
    tied: bool = False,
) -> Sequential | TiedEmbedding:
    """Builds a causal transformer, as GPT is one: at every position, logits for the token that comes next.

    Token embeddings and positions are followed by blocks, by a normalization, and by a `Dense` layer at each position,
    with an output for each token. A block adds to its input self-attention of the normalized input, and to the result a
    feed-forward block of the normalized result.

    Args:
        vocabulary: The number of tokens.
        length: The largest length of a sequence, for learned positions.
        n: The number of features of a token.
        heads: The number of attention heads, which divides n.
        blocks: The number of blocks.
        hidden: The number of hidden features of a feed-forward block; 4 n by default.
        positions: "learned", "sinusoidal" or "rotary". Rotary positions turn the queries and keys in the attention.
        normalization: Maps a number of features to the layer that normalizes them, such as `RMSNorm`.
        feed_forward: Maps n and `hidden` to the feed-forward block, such as `SwiGLU`.
        attention: The class of the attention layers, such as `LeanAttention`, or a function with its arguments.
        dropout: The rate of a `Dropout` after the embeddings and at the end of each path of a block, and that of the
            attention weights, at least 0 and below 1.
        tied: Whether the last layer shares the matrix of the embedding. The network then is a `TiedEmbedding`, whose
            body is the chain between the two.

    Returns:
        The network, which maps ids x [T] to logits y [T, vocabulary].

    Raises:
        SettingError: If a setting is out of range.

    Source: Vaswani et al. 2017, section 3; Radford et al. 2019, section 2.3, for the normalizations before the layers.
    """
    for name, value in (("vocabulary", vocabulary), ("length", length), ("blocks", blocks)):
        validate_number(name, value, least=1, integer=True)
    validate_number("dropout", dropout, least=0, below=1)
    _require_functions(normalization=normalization, feed_forward=feed_forward, attention=attention)
    additions: dict[str, list[Layer]] = {
        "learned": [LearnedPositions(length, n)],
        "sinusoidal": [SinusoidalPositions(n)],
        "rotary": [],
    }
    if positions not in additions:
        raise SettingError("positions", "to be learned, sinusoidal or rotary", positions)
    dropped: list[Layer] = [Dropout(dropout)] if is_traced(dropout) or dropout else []

    def add(layer: Layer) -> Layer:
        return Residual(Sequential((normalization(n), layer, *dropped)))

    body = [*additions[positions], *dropped]
    for _ in range(blocks):
        body.append(add(attention(n, heads, rotary=positions == "rotary", dropout=dropout)))
        body.append(add(feed_forward(n, 4 * n if hidden is None else hidden)))
    body.append(normalization(n))
    if tied:
        return TiedEmbedding(Embedding(vocabulary, n), Sequential(body))
    return Sequential((Embedding(vocabulary, n), *body, Each(Dense(n, vocabulary))))


def _require_functions(**settings: Any) -> None:
    for name, value in settings.items():
        if not callable(value):
            raise SettingError(name, "to be a class of layers or a function that returns a layer", value)


def _validate_image(shape: Sequence[int], least: int) -> tuple[int, ...]:
    shape = validate_shape("shape", shape)
    if len(shape) != 3 or min(shape[:2]) < least:
        sides = f" of sides of at least {least}" if least > 1 else ""
        raise SettingError("shape", f"to be (height, width, channels){sides}", shape)
    return shape
