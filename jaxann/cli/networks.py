"""The networks that the command line offers: how each is built, the data that it takes, and its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any, NamedTuple

from jaxann.cli.network_settings import TEXT_NETWORKS, NetworkSettings
from jaxann.data.files import join_names
from jaxann.data.targets import Targets
from jaxann.nn.activations import ACTIVATIONS, identity, softmax
from jaxann.nn.base import Layer
from jaxann.nn.cells import GRU, LSTM
from jaxann.nn.embedding import Embedding
from jaxann.nn.hyperparameters import Number, SettingError
from jaxann.nn.initializers import Initializer
from jaxann.nn.input import Input
from jaxann.nn.networks import lenet, resnet, transformer
from jaxann.nn.recurrent import Recurrent
from jaxann.nn.reshape import Reshape
from jaxann.nn.sequences import recurrent_network
from jaxann.nn.sequential import Sequential, mlp


class Interface(NamedTuple):
    """The two ends of a network: the examples that it takes, and the targets that its outputs are compared with.

    Attributes:
        features: n, the number of features of an example, or the number of tokens of text that the network sees.
        shape: The shape that the features of an example have, such as (height, width, channels) for an image; () for
            the columns of a table.
        targets: How the targets are encoded for the loss.
    """

    features: int
    shape: tuple[int, ...]
    targets: Targets


Values = Mapping[str, Number]
Build = Callable[[NetworkSettings, Interface, Values], Sequential]


class NetworkKind(NamedTuple):
    """A network of the command line.

    Attributes:
        build: Makes the network from its settings, its interface, and numbers that JAX may trace.
        settings: The names of the settings that have an effect on this network.
        data: The data that it takes, as messages name them.
        axes: How many axes an example may have; () if this is not checked. Text is checked elsewhere.
        preset: The name of its preset. gru and lstm have the preset text when they are trained on text.
    """

    build: Build
    settings: tuple[str, ...]
    data: str
    axes: tuple[int, ...]
    preset: str


def build_mlp(settings: NetworkSettings, interface: Interface, values: Values) -> Sequential:
    """Builds a multilayer perceptron, which takes features [n]."""
    scale = values["init_scale"] ** 2  # Glorot and Bengio's numbers, scaled
    weights = Initializer("variance_scaling", (("distribution", "uniform"), ("mode", "fan_avg"), ("scale", scale)))
    sizes = (interface.features, *settings.hidden, interface.targets.outputs)
    return mlp(sizes, ACTIVATIONS[settings.activation], _choose_output(interface), values["dropout"], weights)


def build_lenet(settings: NetworkSettings, interface: Interface, values: Values) -> Sequential:
    """Builds LeNet-5."""
    return _from_features(
        interface, lenet(interface.shape, interface.targets.outputs, ACTIVATIONS[settings.activation])
    )


def build_resnet(settings: NetworkSettings, interface: Interface, values: Values) -> Sequential:
    """Builds a residual network."""
    blocks, hidden = settings.blocks or 1, ACTIVATIONS[settings.activation]
    outputs = interface.targets.outputs
    return _from_features(interface, resnet(interface.shape, outputs, settings.widths, blocks, hidden=hidden))


def build_recurrent(
    cell: Callable[[int, int], Recurrent], settings: NetworkSettings, interface: Interface, values: Values
) -> Sequential:
    """Builds a network of recurrent layers: for a sequence, or for text, where it has an output for every token."""
    outputs, hidden = interface.targets.outputs, settings.hidden
    if not hidden:
        raise SettingError("hidden", f"to hold at least one size for the network {settings.network}", hidden)
    if interface.targets.kind == "text":
        if settings.bidirectional:
            raise SettingError("bidirectional", "to be left out for text, which is read in one direction", True)
        network = recurrent_network((hidden[0], *hidden, outputs), cell, every_step=True)
        return Sequential((Embedding(outputs, hidden[0]), *network.layers))
    steps, channels = (*interface.shape, 1)[:2]
    sizes = (channels, *hidden, outputs)
    network = recurrent_network(sizes, cell, both_directions=settings.bidirectional)
    return _from_features(interface._replace(shape=(steps, channels)), network)


def build_transformer(settings: NetworkSettings, interface: Interface, values: Values) -> Sequential:
    """Builds a causal transformer."""
    width, heads, blocks = settings.width, settings.heads, settings.blocks or 4
    network = transformer(
        interface.targets.outputs, interface.features, width, heads, blocks, dropout=values["dropout"]
    )
    assert isinstance(network, Sequential)  # it does not tie its embeddings
    return network


IMAGES, SEQUENCES = "images [height, width, channels]", "text or sequences [steps] or [steps, features]"
NETWORKS: dict[str, NetworkKind] = {
    "mlp": NetworkKind(build_mlp, ("hidden", "activation", "init_scale", "dropout"), "features", (), "table"),
    "lenet": NetworkKind(build_lenet, ("activation",), IMAGES, (3,), "images"),
    "resnet": NetworkKind(build_resnet, ("widths", "blocks", "activation"), IMAGES, (3,), "images"),
    **{
        name: NetworkKind(partial(build_recurrent, cell), ("hidden", "bidirectional"), SEQUENCES, (1, 2), "sequences")
        for name, cell in (("gru", GRU), ("lstm", LSTM))
    },
    "transformer": NetworkKind(build_transformer, ("width", "heads", "blocks", "dropout"), "text", (), "text"),
}


def check_network(settings: NetworkSettings, defaults: Mapping[str, set[Any]]) -> None:
    """Checks that the settings are those that the network has.

    Args:
        settings: The settings.
        defaults: For each setting, the values that count as not chosen by the user.

    Raises:
        SettingError: If a setting that the network does not have was chosen by the user.
    """
    own = NETWORKS[settings.network].settings
    for name in dict.fromkeys(name for network in NETWORKS.values() for name in network.settings):
        value = getattr(settings, name)
        if name not in own and value not in defaults[name]:
            names = join_names([key for key, network in NETWORKS.items() if name in network.settings])
            raise SettingError(name, f"only for the networks {names}, not for {settings.network}", value)


def require_fit(settings: NetworkSettings, source: str, interface: Interface) -> None:
    """Checks that the network takes the data.

    Args:
        settings: The settings of the network.
        source: The data, for the message.
        interface: The interface that the network would have.

    Raises:
        SettingError: If it does not.
    """
    network, is_text = NETWORKS[settings.network], interface.targets.kind == "text"
    if is_text:
        if settings.network not in TEXT_NETWORKS:
            raise SettingError("network", f"to be {join_names(TEXT_NETWORKS)} for the text {source}", settings.network)
        return
    shape, takes = interface.shape, network.data
    is_misfit = bool(network.axes) and len(shape) not in network.axes
    if settings.network == "lenet" and not is_misfit and min(shape[:2]) < 4:
        is_misfit, takes = True, "images with sides of at least 4"
    if is_misfit:
        content = f"examples of shape {shape}" if shape else "features"
        raise SettingError(
            "network", f"to fit the {content} of {source} ({settings.network} takes {takes})", settings.network
        )


def build_network(settings: NetworkSettings, interface: Interface, values: Values) -> Layer:
    """Builds the network that the settings describe.

    Args:
        settings: The settings of the network.
        interface: The interface of the network.
        values: The numbers "init_scale" and "dropout", which JAX may trace.

    Raises:
        SettingError: If a setting is out of range.
    """
    return NETWORKS[settings.network].build(settings, interface, values)


def _choose_output(interface: Interface) -> Layer:
    return softmax if interface.targets.loss == "cross_entropy" else identity


def _from_features(interface: Interface, network: Sequential) -> Sequential:
    """Returns a network that takes features [n], as the data hold them, and gives them the shape of an example."""
    shape, output = interface.shape, _choose_output(interface)
    first = () if shape == (interface.features,) else (Reshape((prod(shape),), shape),)
    last = () if output == identity else (output,)
    return Sequential((Input((interface.features,)), *first, *network.layers, *last))
