"""What layers state about their shapes, what a forward decides, and inputs that hold integers."""

import pickle
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.layers import Average, Conv, Embedding

from jaxann import backprop, compare
from jaxann.gradients.autodiff import AutodiffLayer
from jaxann.nn import (
    AvgPool,
    Dense,
    Dropout,
    Elementwise,
    Flatten,
    Layer,
    MixedPrecision,
    Residual,
    Sequential,
    SquaredError,
    mlp,
    relu,
    tanh,
)
from jaxann.nn.hyperparameters import SettingError
from jaxann.nn.shapes import InputError, output_shape, resolve_input

KEY = jax.random.key(0)


def example(*shape, dtype=float):
    return jax.ShapeDtypeStruct(shape, jnp.result_type(dtype))


def shapes_of(model):
    return jax.eval_shape(model.init, KEY)


# What layers state.


@pytest.mark.parametrize(
    ("layers", "sizes", "keeps_shape"),
    [
        ((relu, Dropout(0.5), Sequential((tanh,))), (None, None), True),
        ((tanh, Dense(4, 5), relu), (4, 5), False),
        ((Flatten(), Dense(4, 5)), (None, 5), False),
        ((Dense(4, 5), Flatten()), (4, None), False),
        ((Embedding(5, 3), Average(), Dense(3, 2), Average()), (None, None), False),
        ((MixedPrecision(tanh), mlp((4, 5, 3))), (4, 3), False),
    ],
)
def test_only_layers_that_keep_the_shape_are_looked_past(layers, sizes, keeps_shape):
    assert Sequential(layers).sizes == sizes
    assert Sequential(layers).keeps_shape == keeps_shape


def test_layers_with_an_activation_between_them_must_fit_and_others_may_fit():
    with pytest.raises(ValueError, match=r"takes the 5 features of Dense\(4, 5\), got Dense\(6, 3\), which takes 6"):
        Sequential((Dense(4, 5), MixedPrecision(Sequential((tanh, Dropout(0.1)))), Dense(6, 3)))
    assert Sequential((Dense(4, 5), Flatten(), Dense(6, 3))).sizes == (4, 3)


# What a forward decides.

NETWORK = Sequential((Conv(2, 3, 3), relu, Flatten(), Sequential((tanh, Dense(27, 3)))))


def test_the_shape_of_an_output_comes_from_the_forward():
    assert output_shape(NETWORK, shapes_of(NETWORK), example(5, 5, 2)) == example(3)
    assert output_shape(AvgPool((2, 2)), (), example(4, 6, 1)) == example(2, 3, 1)


@dataclass(frozen=True)
class Picky(Layer):
    """A layer that refuses any part but a `Dense`, so that nothing can be put around its part."""

    inner: Layer

    def __post_init__(self):
        if not isinstance(self.inner, Dense):
            raise TypeError("a Dense, please")

    def init(self, key):
        return self.inner.init(key)

    def forward(self, params, x, key=None):
        return self.inner.forward(params, x)

    def backward(self, params, saved, dy):
        return self.inner.backward(params, saved, dy)


@pytest.mark.parametrize(
    ("model", "shape", "sentence"),
    [
        (
            NETWORK,
            (6, 6, 2),
            r"layer 3.1, Dense\(27, 3\), can take, got shape \(48,\) .* from layer 3.0, tanh: Dense\(27, 3\) ",
        ),
        (NETWORK, (5, 5), r"layer 0, Conv\(2, .*\), can take, got shape \(5, 5\) and dtype float64: .*shape"),
        (Conv(2, 3, 3), (5, 5, 1), r"Conv\(.*\) can take, got shape \(5, 5, 1\) and dtype float64: "),
        (
            MixedPrecision(NETWORK),
            (6, 6, 2),
            r"layer 3.1, Dense\(27, 3\), can take, got shape \(48,\) and dtype bfloat16",
        ),
        (Sequential((tanh, Residual(Dense(4, 4)))), (5,), r"layer 1, Dense\(4, 4\), can take, got shape \(5,\)"),
        (Sequential((tanh, Residual(Flatten()))), (2, 2), r"layer 1, Residual\(.*\), can take, got shape \(2, 2\)"),
        (Picky(Dense(4, 3)), (5,), r"Picky\(Dense\(4, 3\)\) can take, got shape \(5,\)"),
        (
            Sequential((tanh, Embedding(5, 3))),
            (2,),
            r"layer 1, Embedding\(.*\), can take, .* dtype float64 from layer 0, tanh: Indexer must",
        ),
    ],
)
def test_an_input_that_does_not_fit_is_told_with_the_innermost_layer_that_refuses_it(model, shape, sentence):
    with pytest.raises(InputError, match=f"^expected an input that {sentence}") as caught:
        output_shape(model, shapes_of(model), example(*shape))
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_what_is_no_fault_of_the_input_is_raised_as_it_is():
    def refuse(x):
        raise SettingError("rate", "to be positive", -1)

    for function, error in (
        (lambda x: x.nothing, AttributeError),
        (lambda x: x if x[0] > 0 else -x, jax.errors.TracerBoolConversionError),
        (np.tanh, jax.errors.TracerArrayConversionError),
        (refuse, SettingError),
    ):
        with pytest.raises(error) as caught:
            output_shape(Elementwise("odd", function, function), (), example(3))
        assert not isinstance(caught.value, InputError)


def test_a_forward_without_an_array_y_is_told():
    class Twofold(Layer):
        def forward(self, params, x, key=None):
            return (x, x), ()

        def backward(self, params, saved, dy):
            return (), dy

    with pytest.raises(
        TypeError, match=r"^expected forward of .*Twofold.* to return the pair \(y, saved\) with an array y"
    ):
        resolve_input(Twofold(), (), example(3, dtype=int))


def test_integers_become_floats_unless_the_forward_rejects_floats():
    dense, words = Dense(4, 3), Sequential((Embedding(5, 3), Dense(3, 2)))
    for dtype in (np.int32, np.uint8, bool):
        assert resolve_input(dense, shapes_of(dense), jax.ShapeDtypeStruct((4,), dtype)) == (example(4), example(3))
    for dtype, kept in ((np.int32, np.int32), (np.uint8, np.uint8), (bool, int)):
        x, y = resolve_input(words, shapes_of(words), jax.ShapeDtypeStruct((), dtype))
        assert (x, y) == (example(dtype=kept), example(2))
    with pytest.raises(
        InputError, match=r"layer 0, Embedding\(.*got shape \(4,\) and dtype float64: Indexer must have"
    ):
        resolve_input(words, shapes_of(words), example(4))


def test_of_two_refusals_the_one_that_came_further_is_told():
    model = Sequential((Embedding(5, 3), Dense(4, 2)))
    with pytest.raises(InputError, match=r"layer 1, Dense\(4, 2\), can take, got shape \(3,\) and dtype float64"):
        resolve_input(model, shapes_of(model), example(dtype=int))
    dense = Dense(4, 2)
    with pytest.raises(InputError, match=r"that Dense\(4, 2\) can take, got shape \(3,\) and dtype float64"):
        resolve_input(dense, shapes_of(dense), example(3, dtype=int))


# Integers have no gradient.


class Rounded(Layer):
    """y = the integer nearest to x, which stops every gradient"""

    def forward(self, params, x, key=None):
        return jnp.round(x).astype(int), x

    def backward(self, params, saved, dy):
        raise NotImplementedError


@dataclass(frozen=True)
class Float0(Embedding):
    """An embedding that states the missing gradient of its input as JAX does."""

    def backward(self, params, saved, dy):
        return super().backward(params, saved, dy)[0], np.zeros(saved.shape, jax.dtypes.float0)


@pytest.mark.parametrize("first", [Embedding(5, 3), Float0(5, 3), AutodiffLayer(Embedding(5, 3))])
@pytest.mark.parametrize("wrap", [lambda model: model, MixedPrecision], ids=["plain", "mixed"])
def test_a_chain_that_begins_with_integers_has_gradients_of_its_parameters_only(first, wrap):
    chain = Sequential((first, Average(), Dense(3, 2)))
    model, x, t = wrap(chain), jnp.array([[0, 2, 2], [4, 0, 1]]), jnp.ones((2, 2))
    params = chain.init(KEY)
    value, grads = backprop(model, SquaredError())(params, x, t)
    y = jax.vmap(lambda x: params[0]["E"][x].mean(axis=0))(x) @ params[2]["W"].T
    expected = jax.grad(lambda E: jnp.sum((E[x].mean(axis=1) @ params[2]["W"].T - t) ** 2) / 4)(params[0]["E"])
    assert value.dtype == float
    assert compare(grads[0], {"E": expected}).error < (1e-12 if wrap is not MixedPrecision else 0.02)
    output, saved = model.forward(params, x[0])
    assert output.dtype == float
    np.testing.assert_allclose(output, y[0], rtol=1e-12 if wrap is not MixedPrecision else 0.05)
    dx = model.backward(params, saved, output)[1]
    assert dx is None or dx.dtype == jax.dtypes.float0


def test_no_gradient_passes_a_layer_that_takes_integers():
    chain = Sequential((Dense(4, 3), Rounded(), Float0(5, 2)))
    params = chain.init(KEY)
    y, saved = chain.forward(params, jnp.ones(4))
    grads, dx = chain.backward(params, saved, jnp.ones_like(y))
    assert (dx.dtype, grads[1]) == (jax.dtypes.float0, ())
    jax.tree.map(lambda g, p: np.testing.assert_array_equal(g, jnp.zeros_like(p)), grads[0], params[0])


def test_a_dx_that_layers_with_parameters_need_must_not_be_forgotten():
    def run(*layers):
        chain = Sequential(layers)
        params = chain.init(KEY)
        y, saved = chain.forward(params, jnp.ones(4))
        return chain.backward(params, saved, jnp.ones_like(y))

    forgetful = Sequential((Rounded(), Embedding(5, 4)))
    sentence = r"^expected dx from layer 1, Sequential\(.*\), for Dense\(4, 4\) before it, got None$"
    with pytest.raises(ValueError, match=sentence):
        run(Dense(4, 4), forgetful, Average(), Dense(4, 2))
    grads, dx = run(tanh, forgetful, Average(), Dense(4, 2))  # no layer before it has parameters
    assert (grads[0], dx) == ((), None)
