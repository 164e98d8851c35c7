"""Networks of convolutions and of embeddings, whose layers state no sizes, in every function that takes a network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.layers import Average, Conv, Embedding

from jaxann import autodiff, backprop, check, check_layer, compare, fit, predict, sweep
from jaxann.data import Examples
from jaxann.gradients import per_example
from jaxann.nn import AvgPool, Dense, Flatten, MixedPrecision, Sequential, SoftmaxCrossEntropy, mlp, tanh
from jaxann.rules import DirectFeedbackAlignment, OutputLayerOnly
from jaxann.training import Recipe
from jaxann.training.devices import make_mesh, shard_examples
from jaxann.training.loop import begin
from jaxann.training.memory import validate_memory
from jaxann.training.recipe import train

LOSS, SGD, RUN = SoftmaxCrossEntropy(), optax.sgd(0.1), {"key": jax.random.key(0), "epochs": 2, "batch_size": 5}
RNG = np.random.default_rng(0)
IMAGES, WORDS = RNG.normal(size=(12, 5, 5, 1)), RNG.integers(0, 5, (12, 4))
LABELS = np.arange(12) % 3
PICTURES = Sequential((Conv(1, 2, 2), tanh, AvgPool((2, 2)), Flatten(), Dense(8, 3)))
SENTENCES = Sequential((Embedding(5, 4), Average(), Dense(4, 3)))
NETWORKS = pytest.mark.parametrize(
    ("model", "x"),
    [pytest.param(SENTENCES, WORDS, id="words"), pytest.param(PICTURES, IMAGES, id="images", marks=pytest.mark.slow)],
)


@NETWORKS
def test_they_train_predict_and_have_gradients_of_each_example(model, x):
    params, history = fit(model, LOSS, SGD, x, LABELS, **RUN)
    assert history.loss[1] < history.loss[0]
    _, automatic = fit(model, LOSS, SGD, x, LABELS, gradient=autodiff, **RUN)
    np.testing.assert_allclose(history.loss, automatic.loss, rtol=1e-12)
    y = predict(model, params, x)
    np.testing.assert_allclose(y[2], model.forward(params, jnp.asarray(x[2]))[0], rtol=1e-12)

    arguments = params, jnp.asarray(x), jnp.asarray(LABELS)
    (_, by_hand), (_, true) = (route(model, LOSS)(*arguments) for route in (backprop, autodiff))
    assert compare(by_hand, true).error < 1e-12
    _, grads = per_example.gradients(model, LOSS)(*arguments)
    one = jax.tree.map(lambda leaf: leaf[3], per_example.materialize(grads))
    expected = autodiff(model, LOSS)(params, arguments[1][3:4], arguments[2][3:4])[1]
    assert compare(one, expected).error < 1e-12
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(expected)))
    np.testing.assert_allclose(per_example.norms(grads)[3], norm, rtol=1e-12)


@pytest.mark.slow
@NETWORKS
def test_check_judges_them(model, x):
    params = model.init(jax.random.key(1))
    report = check(model, LOSS, params, x, LABELS)
    assert report.ok, str(report)
    assert ("0.dx" in {row.path for row in report.rows}) == (model is PICTURES)  # integers have no gradient


def test_check_layer_finds_what_is_wrong_in_an_embedding():
    embedding = Embedding(5, 3, "assigned")
    params = embedding.init(jax.random.key(0))
    assert check_layer(embedding, params, [1, 2, 4]).ok
    report = check_layer(embedding, params, [1, 2, 1])
    assert report.wrong == ("E",)
    assert "assigned where it should be added" in report["E"].diagnosis


def test_a_sweep_gives_each_group_the_features_that_its_model_takes():
    def make(embeds):
        return Recipe(SENTENCES if embeds else mlp((4, 3)), LOSS, SGD, RUN["batch_size"])

    members = [{"seed": 0, "embeds": embeds} for embeds in (False, True)]
    outcomes = list(sweep(make, members, Examples(WORDS, LABELS), epochs=RUN["epochs"], devices=jax.devices()[:1]))
    for outcome, model in zip(outcomes, (mlp((4, 3)), SENTENCES), strict=True):
        np.testing.assert_allclose(outcome.loss, fit(model, LOSS, SGD, WORDS, LABELS, **RUN)[1].loss, rtol=1e-12)


def test_integer_features_of_a_model_that_takes_floats_train_as_floats_to_the_bit():
    model = mlp((4, 5, 3))
    runs = [fit(model, LOSS, SGD, x, LABELS, **RUN) for x in (WORDS, WORDS.astype(np.uint8), WORDS.astype(float))]
    for run in runs[:2]:
        jax.tree.map(np.testing.assert_array_equal, run, runs[2])


@pytest.mark.parametrize("gradient", [DirectFeedbackAlignment(), OutputLayerOnly()])
def test_rules_take_integers(gradient):
    _, history = fit(SENTENCES, LOSS, SGD, WORDS, LABELS, gradient=gradient, **RUN)
    assert history.loss[1] < history.loss[0]


def test_integers_are_spread_over_devices_and_weights_stay_floats():
    recipe, examples = (
        Recipe(MixedPrecision(SENTENCES), LOSS, SGD, 5),
        Examples(jnp.asarray(WORDS), jnp.asarray(LABELS)),
    )
    mesh = make_mesh(2)
    lanes = shard_examples(examples, 5, mesh)
    assert (lanes.x.dtype, lanes.weights.dtype) == (int, float)
    state, history = train(recipe, begin(recipe, jax.random.key(0), mesh, lanes).state, lanes, 1)
    alone = fit(recipe.model, LOSS, SGD, WORDS, LABELS, **{**RUN, "epochs": 1})
    np.testing.assert_allclose(history.loss, alone[1].loss, rtol=1e-6)
    assert compare(state.params, alone[0]).error < 1e-2  # bfloat16 has 8 bits


def test_memory_is_counted_for_integers(monkeypatch):
    monkeypatch.setattr("jaxann.training.memory._ALWAYS_ALLOWED", 0)
    monkeypatch.setattr("jaxann.training.memory.free_memory", lambda device: 100)
    recipe = Recipe(SENTENCES, LOSS, SGD, 5)
    with pytest.raises(
        ValueError, match=r"expected a network that trains in the 100 bytes of free memory.*activations"
    ):
        validate_memory(recipe, jax.random.key(0), (4,), dtype=jnp.int32)


def test_a_run_of_integers_that_diverges_names_the_layer():
    with pytest.raises(FloatingPointError, match=r"the first value that is not finite is in the .* layer"):
        fit(SENTENCES, LOSS, optax.sgd(1e300), WORDS, LABELS, **RUN)


def test_a_single_integer_for_each_example_is_enough():
    model = Sequential((Embedding(5, 3), Dense(3, 3)))
    params, history = fit(model, LOSS, SGD, WORDS[:, 0], LABELS, **RUN)
    assert history.loss[1] < history.loss[0]
    assert predict(model, params, WORDS[:, 0]).shape == (12, 3)


@pytest.mark.parametrize(
    ("model", "x", "sentence"),
    [
        (
            PICTURES,
            IMAGES[:, :2, :2],
            r"layer 2, AvgPool\(\(2, 2\)\), can take, got shape \(1, 1, 2\) .* from layer 1, tanh: ",
        ),
        (
            PICTURES,
            np.ones((12, 7, 7, 1)),
            r"layer 4, Dense\(8, 3\), can take, got shape \(18,\) and dtype float64 from layer 3, Flatten\(\): Dense",
        ),
        (PICTURES, IMAGES[:, 0], r"layer 0, Conv\(1, .*\), can take, got shape \(5, 1\) and dtype float64: "),
        (
            SENTENCES,
            1.0 * WORDS,
            r"layer 0, Embedding\(.*\), can take, got shape \(4,\) and dtype float64: Indexer must",
        ),
        (
            SENTENCES,
            WORDS[:, :, None],
            r"layer 2, Dense\(4, 3\), can take, got shape \(1, 4\) .* from layer 1, Average\(\): ",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence_by_every_function(model, x, sentence):
    params = model.init(jax.random.key(0))
    for call in (
        lambda: fit(model, LOSS, SGD, x, LABELS, **RUN),
        lambda: check(model, LOSS, params, x, LABELS),
        lambda: check_layer(model, params, x[0]),
        lambda: list(sweep(lambda: Recipe(model, LOSS, SGD, 5), [{"seed": 0}], Examples(x, LABELS), epochs=1)),
        lambda: predict(model, params, x),
        lambda: per_example.gradients(model, LOSS)(params, jnp.asarray(x), jnp.asarray(LABELS)),
    ):
        with pytest.raises(ValueError, match=f"^expected an input that {sentence}") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("x", "shape"), [(WORDS[0], r"\(4,\)"), (np.array(3), r"\(\)")])
def test_one_example_where_several_are_expected_is_told_as_such(x, shape):
    with pytest.raises(ValueError, match=f"features with a row for each of at least one example, got shape {shape}$"):
        fit(SENTENCES, LOSS, SGD, x, LABELS, **RUN)
