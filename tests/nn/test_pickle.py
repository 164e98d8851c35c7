"""Models that are pickled, copied and sent to the workers of joblib."""

import copy
import pickle

import jax
import joblib
import numpy as np
import pytest
from jax.nn import initializers
from support.cases import LAYERS

from jaxann import fit
from jaxann.nn import ACTIVATIONS, LOSSES, Dense, Elementwise, SquaredError, mlp, relu, resnet, transformer
from jaxann.nn.initializers import Initializer, to_initializer

KEY = jax.random.key(3)
MODELS = {
    "mlp": mlp((4, 5, 3), "relu", "softmax", dropout=0.1),
    "resnet": resnet((8, 8, 1), 3, (4,), 1),
    "transformer": transformer(7, 5, 8, 2, 1, tied=True),
}


@pytest.mark.parametrize("model", [*MODELS.values(), *(layer for layer, *_ in LAYERS.values())], ids=[*MODELS, *LAYERS])
def test_a_pickled_model_is_equal_to_the_model(model):
    same = pickle.loads(pickle.dumps(model))
    assert same == model
    assert hash(same) == hash(model)
    assert repr(same) == repr(model)
    assert copy.deepcopy(model) is model


@pytest.mark.parametrize(
    "make",
    [
        *(getattr(initializers, name) for name in ("he_normal", "lecun_uniform", "glorot_normal", "orthogonal")),
        *(getattr(initializers, name) for name in ("normal", "uniform", "truncated_normal")),
        lambda: initializers.variance_scaling(0.3, "fan_in", "normal", in_axis=0, out_axis=1),
        lambda: initializers.constant(2.5),
    ],
)
def test_initializers_of_jax_draw_the_same_after_pickling(make):
    layer = Dense(4, 3, weights=make(), biases=initializers.ones)
    same = pickle.loads(pickle.dumps(layer))
    assert isinstance(same.weights, Initializer)
    assert same == pickle.loads(pickle.dumps(Dense(4, 3, weights=make(), biases=initializers.ones)))
    for ours, theirs in zip(jax.tree.leaves(same.init(KEY)), jax.tree.leaves(layer.init(KEY)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-15)  # the operations are rounded together in one program


def test_what_no_function_of_jax_made_is_left_as_it_is():
    def draw(key, shape):
        def init(key, shape):
            return jax.random.normal(key, shape)

        return init

    for value in (None, 3, initializers.zeros, draw, draw(None, None), Initializer("he_normal")):
        assert to_initializer(value) is value


def test_activations_and_losses_are_what_they_were():
    for activation in ACTIVATIONS.values():
        same = pickle.loads(pickle.dumps(activation))
        assert same is activation or same == activation
    for loss in LOSSES.values():
        assert pickle.loads(pickle.dumps(loss())) == loss()
    own = Elementwise("relu", np.sign, np.sign)  # it has the name of an activation, and other functions
    assert pickle.loads(pickle.dumps(own)) == own != relu


def train(model, seed):
    x = np.random.default_rng(0).normal(size=(12, 4))
    with jax.enable_x64(True):  # as in the process that runs the tests
        return fit(model, SquaredError(), "sgd", x, x[:, :3], key=seed, epochs=2, batch_size=4)[1].loss


@pytest.mark.slow
def test_models_go_to_the_workers_of_joblib():
    model = mlp((4, 5, 3), "tanh")
    losses = joblib.Parallel(n_jobs=2)(joblib.delayed(train)(model, seed) for seed in range(2))
    for seed in range(2):
        np.testing.assert_allclose(losses[seed], train(model, seed), rtol=1e-12)
