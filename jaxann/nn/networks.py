"""Networks for images: functions that build the plain chains of layers which `lenet` and `resnet` stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxann.nn.activations import relu
from jaxann.nn.base import Layer
from jaxann.nn.convolution import Conv
from jaxann.nn.dense import Dense
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.nn.input import Input
from jaxann.nn.normalization import GroupNorm
from jaxann.nn.pooling import GlobalAvgPool, MaxPool
from jaxann.nn.reshape import Flatten, validate_shape
from jaxann.nn.residual import Parallel, Residual
from jaxann.nn.sequential import Sequential


def lenet(shape: Sequence[int], outputs: int, hidden: Layer = relu) -> Sequential:
    """Builds LeNet-5: two convolutions with pooling, and three `Dense` layers.

    The first convolution keeps the places of the image, the second one has no padding, and each is followed by the
    activation and by the maximum of 2 by 2 places. The `Dense` layers have 120, 84 and `outputs` neurons.

    Args:
        shape: The shape [height, width, channels] of an image; its sides are at least 12.
        outputs: The number of outputs, which have no activation.
        hidden: The activation after every layer but the last.

    Returns:
        The network, which maps x [height, width, channels] to y [outputs].

    Raises:
        SettingError: If the shape is none of an image that is large enough, or `outputs` is not a whole number of at
            least 1.

    Source: LeCun et al. 1998, section 2.B, with ReLU, maxima and full connections in place of the scaled hyperbolic
    tangent, the trained means and the table of connections.
    """
    height, width, channels = _validate_image(shape, least=12)
    validate_number("outputs", outputs, least=1, integer=True)
    features = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    return Sequential(
        (
            Input((height, width, channels)),
            *(Conv(channels, 6, (5, 5), padding="same"), hidden, MaxPool((2, 2))),
            *(Conv(6, 16, (5, 5)), hidden, MaxPool((2, 2))),
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
    hidden: Layer = relu,
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
        hidden: The activation.

    Returns:
        The network, which maps x [height, width, channels] to y [outputs].

    Raises:
        SettingError: If the shape is none of an image, `widths` is empty, or a number is not a whole number of at
            least 1.

    Source: He et al. 2016 (CVPR), section 4.2 and, for the skip connection with a convolution, section 3.3, option B.
    """
    image = _validate_image(shape, least=1)
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


def _validate_image(shape: Sequence[int], least: int) -> tuple[int, ...]:
    shape = validate_shape("shape", shape)
    if len(shape) != 3 or min(shape[:2]) < least:
        sides = f" of sides of at least {least}" if least > 1 else ""
        raise SettingError("shape", f"to be (height, width, channels){sides}", shape)
    return shape
