"""Learning rules on networks for images and sequences, inside skip connections and behind lazy factors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.judges import judge

from jaxann import backprop, compare, fit
from jaxann.nn import (
    Attention,
    Conv,
    Dense,
    FeedForward,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    Input,
    LayerNorm,
    MaxPool,
    Parallel,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    sum_examples,
    tanh,
)
from jaxann.rules import RULES, ClippedDeltas, NoisyDeltas
from jaxann.training import optimizer

KEY, LOSS = jax.random.key(0), SoftmaxCrossEntropy()
IMAGES = (
    *(Input((5, 4, 2)), Conv(2, 3, (2, 2), bias=False), GroupNorm(3, 1), tanh),
    *(Residual(Sequential((Conv(3, 3, (3, 3), padding="same"), tanh))), MaxPool((2, 1))),
    *(Parallel((Conv(3, 2, (1, 1)), tanh), "concatenation"), Flatten(), Dense(30, 3)),
)
SEQUENCES = (
    *(Input((4, 6)), Residual(Sequential((LayerNorm(6), Attention(6, 2))))),
    *(Residual(Sequential((LayerNorm(6), FeedForward(6, 5)))), GlobalAvgPool(), Dense(6, 3)),
)
NETWORKS = {"images": Sequential(IMAGES), "sequences": Sequential(SEQUENCES)}
LABELS = jnp.array([0, 2, 1, 1])


def draw(name):
    model = NETWORKS[name]
    return model, model.init(KEY), jax.random.normal(jax.random.key(1), (4, *model.input_shape))


@pytest.mark.parametrize("rule", ["feedback_alignment", pytest.param("sign_symmetric", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [pytest.param("images", marks=pytest.mark.slow), "sequences"])
def test_other_weights_take_the_place_of_every_matrix_in_the_backward_pass(name, rule):
    model, params, x = draw(name)
    rule, feedback = RULES[rule], RULES[rule].init(model, jax.random.key(2))
    gradient = rule(model, LOSS)

    @jax.jit
    def compute(params, feedback):
        y, saved = jax.vmap(model.forward, (None, 0))(params, x)
        other = rule.backward_params(params, feedback)
        grads, _ = jax.vmap(model.backward, (None, 0, 0))(other, saved, jax.vmap(LOSS.gradient)(y, LABELS) / 4)
        return gradient.bind(feedback)(params, x, LABELS)[1], sum_examples(grads)

    judge(*compute(params, feedback), x.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rule", [*RULES.values(), ClippedDeltas(0.3), NoisyDeltas(0.1)], ids=str)
def test_every_rule_trains_and_leaves_the_last_layer_its_true_gradient(name, rule):
    model, params, x = draw(name)
    gradient = rule(model, LOSS)
    value, grads = jax.jit(gradient.bind(gradient.init(KEY)))(params, x, LABELS)
    true_value, true = jax.jit(backprop(model, LOSS))(params, x, LABELS)
    np.testing.assert_allclose(value, true_value, rtol=1e-12)
    if not isinstance(rule, (ClippedDeltas, NoisyDeltas)):
        assert compare(grads[-1], true[-1]).error < 1e-12
    _, history = fit(model, LOSS, optimizer("adam", 0.01), x, LABELS, key=KEY, epochs=30, batch_size=2, gradient=rule)
    assert history.loss[-1] < 0.8 * history.loss[0]
