"""Networks for text: their evaluation beside NumPy, and the tokens that they draw."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxann.data import Examples
from jaxann.nn import EachLoss, SoftmaxCrossEntropy, transformer
from jaxann.nn.hyperparameters import SettingError
from jaxann.training import generate
from jaxann.training import text as text_module
from jaxann.training.text import evaluate_tokens

SIZE, CONTEXT = 5, 4


@pytest.fixture(scope="module")
def network():
    """A network whose logits are large, so that its draws are far from uniform."""
    model = transformer(SIZE, CONTEXT, n=8, heads=2, blocks=1)
    return model, jax.tree.map(lambda a: 3 * a, model.init(jax.random.key(0)))


def test_an_evaluation_is_that_of_all_logits_however_many_are_computed_at_a_time(network, monkeypatch):
    model, params = network
    draw = np.random.default_rng(0)
    x, t = draw.integers(0, SIZE, (7, CONTEXT)), draw.integers(0, SIZE, (7, CONTEXT))
    y = np.asarray(jax.vmap(lambda row: model.forward(params, row)[0])(jnp.asarray(x)))
    log_p = y - np.log(np.exp(y).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_p, t[..., None], -1)[..., 0]
    loss = EachLoss(SoftmaxCrossEntropy(0.1))
    expected = -np.mean(0.9 * chosen + 0.1 * log_p.mean(-1))
    for at_once in (64, 3):
        monkeypatch.setattr(text_module, "AT_ONCE", at_once)
        summaries, value = evaluate_tokens(model, loss, params, Examples(x, t))
        np.testing.assert_allclose(summaries[..., 0], chosen, rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(summaries[..., 1], y.argmax(-1))
        np.testing.assert_allclose(value, expected, rtol=1e-12)


def continue_by_hand(model, params, tokens, length):
    """The most likely tokens, each from the last tokens before it, without a window of fixed length."""
    tokens = list(tokens)
    for _ in range(length):
        y, _ = model.forward(params, jnp.asarray(tokens[-CONTEXT:]))
        tokens.append(int(y[-1].argmax()))
    return tokens[-length:]


def test_without_temperature_the_most_likely_token_follows_the_last_ones(network):
    for first in ([0], [1, 2, 3, 4]):
        drawn = generate(*network, first, 5, context=CONTEXT, temperature=0, key=jax.random.key(0))
        assert drawn.tolist() == continue_by_hand(*network, first, 5)


def test_tokens_are_drawn_by_their_probabilities_at_a_temperature(network):
    y, _ = network[0].forward(network[1], jnp.asarray([3, 1]))
    for temperature in (1.0, 2.0):
        p = np.exp(y[-1] / temperature) / np.exp(y[-1] / temperature).sum()
        options = {"context": CONTEXT, "temperature": temperature}
        drawn = [generate(*network, [3, 1], 1, key=jax.random.key(i), **options)[0] for i in range(300)]
        shares = np.bincount(drawn, minlength=SIZE) / 300
        assert np.all(np.abs(shares - p) < 5 * np.sqrt(p * (1 - p) / 300) + 1e-3)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"tokens": []}, r"expected 1 to 4 first tokens, got an array of shape \(0,\)"),
        ({"tokens": [0] * 5}, r"expected 1 to 4 first tokens, got an array of shape \(5,\)"),
        ({"tokens": [5]}, r"expected ids between 0 and 4 for Embedding\(5, 8\), got 5 at \[0\]"),
        ({"length": 0}, "expected length of at least 1, got 0"),
        ({"context": 0}, "expected context of at least 1, got 0"),
        ({"temperature": -1.0}, "expected temperature of at least 0, got -1.0"),
    ],
)
def test_bad_input_gets_a_sentence(network, changed, sentence):
    arguments = {"tokens": [0], "length": 3, "context": CONTEXT, "key": jax.random.key(0)} | changed
    with pytest.raises((ValueError, SettingError)) as caught:
        generate(*network, **arguments)
    assert re.match(sentence, str(caught.value)), str(caught.value)
