"""Embeddings: what they compute, which ids they take, and what is computed from their gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.judges import cast, judge
from support.layers import Average, Positions, WrongLayer

from jaxann import check, check_layer, fit, predict, sweep
from jaxann.cli.own_code import draw_input
from jaxann.data import Examples
from jaxann.gradients import per_example
from jaxann.nn import (
    Dense,
    Embedding,
    Flatten,
    Input,
    MixedPrecision,
    Outer,
    Parallel,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    TiedEmbedding,
    materialize,
    tanh,
)
from jaxann.nn.factors import OneHot
from jaxann.rules import FeedbackAlignment
from jaxann.rules.base import RuledLayer
from jaxann.training import Recipe

KEY = jax.random.key(0)
IDS = jnp.array([3, 1, 3, 0])
EMBEDDING = Embedding(10, 4)
TIED = TiedEmbedding(Embedding(5, 3), Sequential((Positions(3, 4), tanh, Positions(4, 3))))
WORDS = Sequential((EMBEDDING, Flatten(), Dense(12, 3)))
X, LABELS = jnp.array([[1, 2, 3], [0, 9, 9]]), jnp.array([0, 1])


@pytest.mark.parametrize("ids", [IDS, jnp.array(2), jnp.array([[1, 1], [9, 0]], jnp.uint8)])
def test_an_id_selects_its_row(ids):
    params = EMBEDDING.init(KEY)
    y, saved = EMBEDDING.forward(params, ids)
    np.testing.assert_array_equal(y, np.asarray(params["W"])[np.asarray(ids)])
    grads, dx = EMBEDDING.backward(params, saved, y)
    expected = np.zeros((10, 4))
    np.add.at(expected, np.asarray(ids), np.asarray(y))
    np.testing.assert_allclose(grads["W"].sum(), expected, rtol=1e-14)
    assert dx is None


def test_rows_have_norms_near_one():
    assert abs(jnp.linalg.norm(Embedding(100, 64).init(KEY)["W"], axis=1).mean() - 1) < 0.02


def test_pytorch_agrees():
    torch = pytest.importorskip("torch")
    params = EMBEDDING.init(KEY)
    y, saved = EMBEDDING.forward(params, IDS)
    W = torch.tensor(np.array(params["W"]), requires_grad=True)
    theirs = torch.nn.functional.embedding(torch.tensor(np.array(IDS)), W)
    np.testing.assert_array_equal(y, theirs.detach())
    theirs.backward(torch.tensor(np.array(jnp.sin(y))))
    np.testing.assert_allclose(materialize(EMBEDDING.backward(params, saved, jnp.sin(y))[0])["W"], W.grad, rtol=1e-14)


def test_a_tied_embedding_uses_its_matrix_twice():
    params = TIED.init(KEY)
    y, _ = TIED.forward(params, IDS)
    W = params["embedding"]["W"]
    h, _ = TIED.body.forward(params["body"], W[IDS])
    np.testing.assert_allclose(y, h @ W.T, rtol=1e-14)
    assert TIED.sizes == (None, 5)
    scalar = TiedEmbedding(Embedding(5, 3), Dense(3, 3))
    judge_ids(scalar, scalar.init(KEY), jnp.array(2))
    for dtype in (jnp.float64, jnp.float32):
        judge_ids(TIED, cast(params, dtype), IDS)


def judge_ids(layer, params, ids):
    """Compares the gradients of the parameters with those of autodiff."""

    @jax.jit
    def both(params):
        y, pull = jax.vjp(lambda params: layer.forward(params, ids)[0], params)
        dy = jax.random.normal(jax.random.key(9), y.shape, y.dtype)
        grads, dx = layer.backward(params, layer.forward(params, ids)[1], dy)
        assert dx is None
        return materialize(grads), pull(dy)[0]

    judge(*both(params), jax.tree.leaves(params)[0].dtype)


FIT = partial(fit, loss=SoftmaxCrossEntropy(), optimizer=optax.sgd(0.1), t=LABELS, key=KEY, epochs=1, batch_size=2)
DOORS = {  # where ids come from the user, each as a function of a model of X
    "fit": lambda model, x: FIT(model, x=x),
    "predict": lambda model, x: predict(model, model.init(KEY), x),
    "sweep": lambda model, x: sweep(
        lambda: Recipe(model, SoftmaxCrossEntropy(), optax.sgd(0.1), 2), [{"seed": 0}], Examples(x, LABELS), epochs=1
    ),
    "check": lambda model, x: check(model, SoftmaxCrossEntropy(), model.init(KEY), x, LABELS),
    "check_layer": lambda model, x: check_layer(model, model.init(KEY), x[1]),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("wrong", [10, -1])
def test_ids_out_of_range_are_refused_where_they_come_in(door, wrong):
    with pytest.raises(ValueError, match=rf"^expected ids between 0 and 9 for Embedding\(10, 4\), got {wrong} at \["):
        DOORS[door](WORDS, np.array(X.at[1, 2].set(wrong)))


SMALLER = Embedding(7, 4)


@pytest.mark.parametrize(
    ("layer", "vocabularies"),
    [
        (EMBEDDING, {"Embedding(10, 4)": 10}),
        (WORDS, {"Embedding(10, 4)": 10}),
        (Sequential((Input((2, 3)), Flatten((2, 3)), MixedPrecision(EMBEDDING))), {"Embedding(10, 4)": 10}),
        (Residual(WORDS), {"Embedding(10, 4)": 10}),
        (Parallel((EMBEDDING, Sequential((SMALLER,)))), {"Embedding(10, 4)": 10, "Embedding(7, 4)": 7}),
        (TIED, {"Embedding(5, 3)": 5}),
        (RuledLayer(WORDS, FeedbackAlignment()), {"Embedding(10, 4)": 10}),
        (Sequential((tanh, EMBEDDING)), {}),
        (Dense(4, 3), {}),
    ],
)
def test_a_model_hands_on_the_ranges_of_its_ids(layer, vocabularies):
    assert layer.vocabularies == vocabularies


def test_inside_a_program_ids_pass():
    params = WORDS.init(KEY)
    assert jax.jit(partial(predict, WORDS))(params, X + 20).shape == (2, 3)


def test_inputs_that_are_drawn_are_ids():
    layer = Embedding(1, 2)
    np.testing.assert_array_equal(draw_input(layer, layer.init(KEY), None, (20,), KEY), 0)


def test_a_single_id_may_be_refused():
    with pytest.raises(ValueError, match=r"^expected ids between 0 and 9 for Embedding\(10, 4\), got 12$"):
        check_layer(EMBEDDING, EMBEDDING.init(KEY), 12)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Embedding(0, 4), r"expected size of at least 1 \(the ids of Embedding\), got 0"),
        (lambda: Embedding(4, 0), r"expected n of at least 1 \(the features of Embedding\), got 0"),
        (
            lambda: EMBEDDING.forward({}, jnp.ones(3)),
            r"Embedding\(10, 4\) expected integers, got x of dtype float64",
        ),
        (lambda: EMBEDDING.forward({}, jnp.ones(3, bool)), "expected integers, got x of dtype bool"),
        (
            lambda: TiedEmbedding(EMBEDDING, Dense(3, 4)),
            r"expected a body in TiedEmbedding that takes 4 features, got Dense\(3, 4\), which takes 3",
        ),
        (
            lambda: TiedEmbedding(EMBEDDING, Dense(4, 3)),
            r"expected a body in TiedEmbedding that returns 4 features, got Dense\(4, 3\), which returns 3",
        ),
        (
            lambda: TiedEmbedding(EMBEDDING, Flatten()).forward({"embedding": EMBEDDING.init(KEY), "body": ()}, X[0]),
            r"expected h of shape \(..., 4\) in TiedEmbedding, got \(12,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


def test_kronecker_factors_of_many_ids_are_refused():
    model = TiedEmbedding(Embedding(4097, 2), tanh)
    gradients = per_example.gradients(model, SoftmaxCrossEntropy())
    sentence = "expected embedding.W to have at most 4096 rows, because one of its Kronecker factors has"
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(lambda key: per_example.kronecker_factors(gradients(model.init(key), IDS, IDS)[1]), KEY)


def test_mixed_precision_rounds_rows_and_sums_in_float32():
    layer = MixedPrecision(Embedding(2, 1))
    y, saved = layer.forward({"W": jnp.array([[1 / 3], [1.0]])}, jnp.zeros(1000, int))
    np.testing.assert_array_equal(y, jnp.full((1000, 1), 1 / 3, jnp.bfloat16).astype(y.dtype))
    grads, dx = layer.backward(layer.init(KEY), saved, jnp.ones((1000, 1)))
    assert (grads["W"].right.dtype, dx) == (jnp.bfloat16, None)
    np.testing.assert_array_equal(grads["W"].sum(), [[1000], [0]])  # bfloat16 has no 257, so a sum would stop at 256


MISTAKES = {  # what is done to the gradients of a tied embedding, and which of them are wrong then
    "the last use alone": (
        lambda p, saved, dy, grads, dx: (grads | {"embedding": {"W": Outer(dy, saved[2])}}, dx),
        {"embedding.W"},
    ),
    "the first use alone": (
        lambda p, saved, dy, grads, dx: (grads | {"embedding": {"W": grads["embedding"]["W"].terms[0]}}, dx),
        {"embedding.W"},
    ),
    "ids of the next position": (
        lambda p, saved, dy, grads, dx: (
            grads | {"embedding": {"W": Outer(dy, saved[2]) + _shift(grads["embedding"]["W"].terms[0])}},
            dx,
        ),
        {"embedding.W"},
    ),
}


def _shift(first):
    return Outer(OneHot(jnp.roll(first.left.ids, 1), first.left.size), first.right)


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_term_is_found_in_the_gradient_that_has_it(name):
    spoil, wrong = MISTAKES[name]
    assert set(check_layer(WrongLayer(TIED, spoil), TIED.init(KEY), IDS).wrong) == wrong


@pytest.mark.slow
def test_right_embeddings_are_judged_right():
    for layer in (EMBEDDING, TIED):
        assert check_layer(layer, layer.init(KEY), IDS).wrong == ()
    model = Sequential((EMBEDDING, Average(), Dense(4, 3)))
    assert check(model, SoftmaxCrossEntropy(), model.init(KEY), X, LABELS).ok
