"""Networks that state the shape of their input: they check themselves when they are built, and print their shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxann import backprop, predict
from jaxann.nn import (
    Conv,
    Dense,
    Flatten,
    Input,
    MaxPool,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    mlp,
    relu,
)
from jaxann.nn.shapes import InputError

BLOCK = Residual(Sequential((Conv(6, 6, (3, 3), padding="same"), relu)))
NETWORK = Sequential((Input((9, 8, 1)), Conv(1, 6, (2, 1)), BLOCK, MaxPool((2, 2)), Flatten(), Dense(96, 10)))
TABLE = """\
layer                                                output     parameters
0      Input((9, 8, 1))                              [9, 8, 1]
1      Conv(1, 6, (2, 1))                            [8, 8, 6]          18
2.0    Conv(6, 6, (3, 3), padding=((1, 1), (1, 1)))  [8, 8, 6]         330
2.1    relu                                          [8, 8, 6]
3      MaxPool((2, 2))                               [4, 4, 6]
4      Flatten()                                     [96]
5      Dense(96, 10)                                 [10]              970
       total                                                         1,318"""


def test_a_network_prints_its_layers_with_shapes_and_numbers_of_parameters():
    assert str(NETWORK) == TABLE
    html = NETWORK._repr_html_()
    assert all(cell in html for cell in ("[4, 4, 6]", "Dense(96, 10)", "1,318"))
    assert str(mlp((4, 3))).splitlines()[1:] == [
        "0      Dense(4, 3)  ?               15",
        "1      identity     ?",
        "       total                        15",
    ]


def test_in_a_message_a_network_is_one_line():
    assert f"{NETWORK}" == repr(NETWORK) == f"{NETWORK!r}"
    assert "\n" not in f"{NETWORK}"


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        (
            (Input((9, 8, 1)), Conv(1, 6, (2, 1)), Flatten(), Dense(96, 10)),
            r"^expected an input that layer 3, Dense\(96, 10\), can take, got shape \(384,\) and dtype float64 "
            r"from layer 2, Flatten\(\): Dense\(96, 10\) expected x of shape \(96,\), got \(384,\)(\n|$)",
        ),
        (
            (Input((9, 8, 1)), BLOCK),
            r"layer 1.0, Conv\(6, 6, .*\), can take, got shape \(9, 8, 1\) and dtype float64 from layer 0, Input\(",
        ),
        (
            (Sequential((Input((4,)), Dense(4, 3))), Residual(Sequential((relu, MaxPool((1,)))))),
            r"layer 1.1, MaxPool\(.*\), can take, got shape \(3,\) and dtype float64 from layer 1.0, relu: ",
        ),
    ],
)
def test_layers_that_do_not_fit_are_named_when_the_network_is_built(layers, sentence):
    with pytest.raises(InputError, match=sentence):
        Sequential(layers)


def test_without_an_input_the_same_sentence_comes_when_data_is_given():
    model = Sequential((Conv(1, 6, (2, 1)), Flatten(), Dense(96, 10)))
    with pytest.raises(
        InputError, match=r"layer 2, Dense\(96, 10\), can take, got shape \(384,\) .* from layer 1, Flat"
    ):
        predict(model, model.init(jax.random.key(0)), np.zeros((5, 9, 8, 1)))


def test_an_input_changes_nothing_but_the_tuple_of_parameters():
    x, t = jax.random.normal(jax.random.key(1), (12, 4)), jnp.arange(12) % 3
    plain, stated = mlp((4, 5, 3)), Sequential((Input((4,)), *mlp((4, 5, 3)).layers))
    params, loss = plain.init(jax.random.key(0)), SoftmaxCrossEntropy()
    value, grads = backprop(plain, loss)(params, x, t)
    same, others = backprop(stated, loss)(((), *params), x, t)
    assert (value == same, len(others)) == (True, 5)
    assert all(map(jnp.array_equal, jax.tree.leaves(grads), jax.tree.leaves(others)))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Input(()), r"expected shape to be a tuple of at least one whole number, got \(\)"),
        (lambda: Input((3, 0)), r"expected shape\[1\] of at least 1, got 0"),
        (lambda: Input((3,)).forward((), jnp.ones(4)), r"Input\(\(3,\)\) expected x of shape \(3,\), got \(4,\)"),
    ],
)
def test_bad_shapes_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()
