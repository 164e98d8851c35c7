"""Curvature against dense Hessians, dense JᵀHJ, both by autodiff of the forward pass alone, and loops in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from support.cases import LOSSES
from support.curvature import SHARING, Concave
from support.draws import draw_array, draw_params
from support.judges import judge
from support.layers import Average, Positions, Tied
from support.selection import choose

from jaxann.gradients.curvature import (
    eigenvalues,
    gauss_newton_diagonal,
    gauss_newton_factors,
    gauss_newton_product,
    gauss_newton_vectors,
    hessian_product,
)
from jaxann.gradients.per_example import inner_products, materialize
from jaxann.nn import (
    AvgPool,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GroupNorm,
    LayerNorm,
    LeanAttention,
    Parallel,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    SquaredError,
    SwiGLU,
    mlp,
    softmax,
    tanh,
)

KEY = jax.random.key(0)
WEIGHTS = jnp.array([0.3, 0.0, 1.7, 1.0])


NORMALIZED = Sequential(
    (
        Residual(Sequential((GroupNorm(2, 1), tanh))),
        AvgPool((2,), stride=1),
        Parallel((Flatten(), GlobalAvgPool()), "concatenation"),
        LayerNorm(6),
        Dense(6, 2),
    )
)
MODELS = {  # each model with the shape of x and the key of its calls
    "mlp": (mlp((3, 4, 2), hidden=tanh), (3,), None),
    "matrix used twice": (Sequential((Tied(3, 2), Dense(3, 2))), (3,), None),
    "shared over positions": (SHARING, (5, 2), None),
    "normalized and pooled": (NORMALIZED, (3, 2), None),
    "attention": (Sequential((LeanAttention(2, 1, block=2), SwiGLU(2, 2), Flatten(), Dense(6, 2))), (3, 2), None),
    "Dropout": (mlp((3, 6, 2), hidden=tanh, dropout=0.5), (3,), jax.random.key(7)),
}


def mark_slow(names):
    return [
        pytest.param(name, marks=pytest.mark.slow) if name in ("normalized and pooled", "attention") or i % 2 else name
        for i, name in enumerate(names)
    ]


def draw(model, shape, loss="SoftmaxCrossEntropy, smoothed labels"):
    """Returns a loss, parameters that all differ from 0, and a batch of four."""
    loss, _, target = LOSSES[loss]
    t = jax.vmap(target, (0, None))(jax.random.split(KEY, 4), 2)
    return loss, draw_params(model), draw_array(2, 4, *shape), t


def forward_passes(model, params, x, key):
    """Returns the parameters as a vector θ, the forward pass (θ, x_i, key_i) -> y_i, and a key for each example."""
    flat, unravel = ravel_pytree(params)
    keys = None if key is None else jax.random.split(key, len(x))
    return flat, lambda flat, x, key: model.forward(unravel(flat), x, key)[0], keys


@partial(jax.jit, static_argnames=("model", "loss"))
def dense_hessian(model, loss, params, x, t, weights=None, key=None):
    flat, forward, keys = forward_passes(model, params, x, key)
    weights = jnp.ones(len(x)) if weights is None else weights

    def mean(flat):
        losses = jax.vmap(lambda x, t, key: loss.value(forward(flat, x, key), t))(x, t, keys)
        return losses @ weights / weights.sum()

    return jax.hessian(mean)(flat)


@partial(jax.jit, static_argnames=("model", "loss"))
def dense_gauss_newton(model, loss, params, x, t, weights=None, key=None):
    flat, forward, keys = forward_passes(model, params, x, key)
    weights = jnp.ones(len(x)) if weights is None else weights

    def block(x, t, key):
        J = jax.jacobian(forward)(flat, x, key)
        return J.T @ jax.hessian(loss.value)(forward(flat, x, key), t) @ J

    return jnp.tensordot(weights / weights.sum(), jax.vmap(block)(x, t, keys), 1)


def matrix(product, params):
    """Returns the matrix A of a product v ↦ A v."""
    flat, unravel = ravel_pytree(params)
    return jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0], out_axes=1)(jnp.eye(flat.size))


def judge_products(model, loss, params, x, t, key=None, weights=None):
    @jax.jit
    def both(*batch):
        products = [of(model, loss) for of in (hessian_product, gauss_newton_product)]
        dense = [of(model, loss, params, *batch, key) for of in (dense_hessian, dense_gauss_newton)]
        return [matrix(lambda v, of=of: of(params, v, *batch, key), params) for of in products], dense

    judge(*both(x, t, weights), x.dtype)


@pytest.mark.parametrize("name", mark_slow(MODELS))
def test_products_are_those_with_the_dense_matrices_for_every_kind_of_model(name):
    model, shape, key = MODELS[name]
    judge_products(model, *draw(model, shape), key, WEIGHTS)


@pytest.mark.parametrize("loss", choose(["CrossEntropy", "Huber", "Poisson", "SigmoidCrossEntropy", "SquaredError"], 2))
def test_products_are_those_with_the_dense_matrices_for_every_loss(loss):
    model = mlp((3, 2, 2), hidden=tanh, output=softmax if loss == "CrossEntropy" else tanh)
    judge_products(model, *draw(model, (3,), loss))


@pytest.mark.parametrize("name", mark_slow(sorted(set(MODELS) - {"Dropout"})))
def test_vectors_diagonal_and_kernel_are_those_of_the_dense_matrix(name):
    model, shape, _ = MODELS[name]
    loss, params, x, t = draw(model, shape)

    @jax.jit
    def compute(weights):
        vectors = gauss_newton_vectors(model, loss)(params, x, t)
        rows = jax.vmap(lambda tree: ravel_pytree(tree)[0])(materialize(vectors))
        share = jnp.repeat(weights / weights.sum(), 2) / 2
        diagonal = ravel_pytree(gauss_newton_diagonal(model, loss)(params, x, t, weights))[0]
        return rows.T @ (share[:, None] * rows), diagonal, inner_products(vectors)

    second, diagonal, _ = compute(WEIGHTS)
    expected = dense_gauss_newton(model, loss, params, x, t, WEIGHTS)
    judge((second, diagonal), (expected, jnp.diag(expected)), x.dtype)
    second, diagonal, kernel = compute(jnp.ones(4))
    expected = dense_gauss_newton(model, loss, params, x, t)
    unweighted = ravel_pytree(gauss_newton_diagonal(model, loss)(params, x, t))[0]
    judge((second, diagonal, unweighted), (expected, jnp.diag(expected), jnp.diag(expected)), x.dtype)
    ours, theirs = np.linalg.eigvalsh(kernel / len(kernel)), np.linalg.eigvalsh(expected)
    np.testing.assert_allclose(ours, theirs[-len(kernel) :], atol=1e-12 * theirs[-1])
    np.testing.assert_allclose(theirs[: -len(kernel)], 0, atol=1e-12 * theirs[-1])


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.slow
def test_sampled_vectors_and_diagonal_are_right_on_average(samples):
    model = mlp((2, 2))
    loss, params, x, t = draw(model, (2,), "SoftmaxCrossEntropy, targets of any sum")
    vectors, diagonal = (of(model, loss, samples) for of in (gauss_newton_vectors, gauss_newton_diagonal))

    @jax.jit
    @jax.vmap
    def sample(key):
        rows = jax.vmap(lambda tree: ravel_pytree(tree)[0])(materialize(vectors(params, x, t, key)))
        return rows.T @ rows / len(rows), ravel_pytree(diagonal(params, x, t, WEIGHTS, key))[0]

    second_moments, diagonals = sample(jax.random.split(KEY, 4000))
    expected = dense_gauss_newton(model, loss, params, x, t)
    weighted = jnp.diag(dense_gauss_newton(model, loss, params, x, t, WEIGHTS))
    for draws, right in [(second_moments, expected), (diagonals, weighted)]:
        error = draws.std(axis=0) / np.sqrt(len(draws))
        assert error.max() < 0.02 * right.max()  # small enough for the next line to detect a wrong factor
        assert (jnp.abs(draws.mean(axis=0) - right) <= 5 * error + 1e-12).all()


def test_the_same_key_samples_the_same_vectors_as_many_as_asked_for_each_example():
    model, shape, _ = MODELS["mlp"]
    loss, params, x, t = draw(model, shape)
    sampled = jax.jit(gauss_newton_vectors(model, loss, samples=3))
    one, same, other = (ravel_pytree(materialize(sampled(params, x, t, jax.random.key(k))))[0] for k in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert sampled(params, x, t, KEY)[0]["b"].shape == (12, 4)


def test_factors_are_their_definition_in_loops():
    model = mlp((3, 4, 2), hidden=tanh)
    loss, params, x, t = draw(model, (3,))
    actual = jax.jit(gauss_newton_factors(model, loss))(params, x, t, WEIGHTS)
    first, _, last, _ = params
    left, right, outer, inner = np.zeros((4, 4)), np.zeros((3, 3)), np.zeros((2, 2)), np.zeros((4, 4))
    for share, example, target in zip(WEIGHTS / 3, x, t, strict=True):
        h = np.tanh(first["W"] @ example + first["b"])
        H = jax.hessian(loss.value)(last["W"] @ h + last["b"], target)  # Σ_c δ_c δ_cᵀ at the output
        slopes = np.array(last["W"]) * (1 - h * h)
        left += share * slopes.T @ H @ slopes
        right += share * np.outer(example, example)
        outer += share * H
        inner += share * np.outer(h, h)
    one = np.ones((1, 1))
    expected = ({"W": (left, right), "b": (left, one)}, (), {"W": (outer, inner), "b": (outer, one)}, ())
    judge(jax.tree.leaves(actual), jax.tree.leaves(expected), x.dtype)


def test_factors_of_a_matrix_shared_over_positions_are_their_definition_in_loops():
    model, loss = Sequential((Positions(2, 3), tanh, Average())), SquaredError()
    _, params, x, _ = draw(model, (5, 2))
    actual = jax.jit(gauss_newton_factors(model, loss))(params, x, jnp.zeros((4, 3)))[0]["W"]
    left, right = np.zeros((3, 3)), np.zeros((2, 2))
    for example in x:
        for position in example:
            slope = (1 - np.tanh(params[0]["W"] @ position + params[0]["b"]) ** 2) / 5
            left += np.diag(slope * slope) / 4  # the Hessian of ½ d² is I
            right += np.outer(position, position) / 5 / 4
    judge(list(actual), [left, right], x.dtype)


def test_factors_are_exact_for_biases_and_for_a_linear_layer_with_squared_error():
    for model, loss in [(mlp((3, 4, 2), hidden=tanh), "Poisson"), (Dense(3, 2), "SquaredError")]:
        loss, params, x, t = draw(model, (3,), loss)
        actual = jax.jit(gauss_newton_factors(model, loss))(params, x, t, WEIGHTS)
        G = dense_gauss_newton(model, loss, params, x, t, WEIGHTS)
        _, unravel = ravel_pytree(params)
        place = unravel(jnp.arange(len(G)))  # the row of G that each parameter has
        if isinstance(model, Dense):
            rows = place["W"].ravel().astype(int)
            judge(jnp.kron(*actual["W"]), G[rows][:, rows], x.dtype)
            actual, place = [actual], [place]
        for layer, rows in zip(actual, place, strict=True):
            if layer:
                rows = rows["b"].astype(int)
                judge(layer["b"].left, G[rows][:, rows], x.dtype)
                assert layer["b"].right == 1


def test_sampled_factors_are_those_of_the_sampled_vectors():
    model, shape, _ = MODELS["mlp"]
    loss, params, x, t = draw(model, shape)
    rows = materialize(gauss_newton_vectors(model, loss, samples=2)(params, x, t, KEY))[2]["b"]
    actual = gauss_newton_factors(model, loss, samples=2)(params, x, t, WEIGHTS, KEY)[2]
    left = rows.T @ (jnp.repeat(WEIGHTS, 2)[:, None] * rows) / 6
    judge([actual["b"].left, actual["W"].left], [left, left], x.dtype)


def test_the_diagonal_evaluates_layers_that_draw():
    dropping, shape, _ = MODELS["Dropout"]
    plain = mlp((3, 6, 2), hidden=tanh)
    loss, params, x, t = draw(dropping, shape)
    (first, _, last, _), actual = params, gauss_newton_diagonal(dropping, loss)(params, x, t)
    expected = gauss_newton_diagonal(plain, loss)((first, (), last, ()), x, t)
    judge(jax.tree.leaves(actual), jax.tree.leaves(expected), x.dtype)
    assert isinstance(dropping.layers[1].layers[1], Dropout)


def symmetric(size):
    """Returns a symmetric matrix A with large eigenvalues of both signs, a pytree v, and the product v ↦ A v."""
    A = np.array(jax.random.normal(KEY, (size, size)))
    A = A + A.T
    like = {"a": jnp.zeros((3, 2)), "b": jnp.zeros(size - 6)}
    flat, unravel = ravel_pytree(like)
    return A, like, lambda v: unravel(jnp.asarray(A, flat.dtype) @ ravel_pytree(v)[0])


@pytest.mark.parametrize(("x64", "tolerance"), [(True, 1e-12), (False, 1e-5)])
def test_eigenvalues_of_either_sign_are_those_of_numpy(x64, tolerance):
    with jax.enable_x64(x64):
        A, like, product = symmetric(12)
        values, vectors = eigenvalues(product, like, 4)
        expected = np.linalg.eigvalsh(A)
        expected = expected[np.argsort(-abs(expected))][:4]
        assert len(set(np.sign(expected))) == 2
        np.testing.assert_allclose(values, expected, rtol=tolerance)
        for value, vector in zip(values, vectors, strict=True):
            assert jax.tree.map(jnp.shape, vector) == {"a": (3, 2), "b": (6,)}
            v = np.array(ravel_pytree(vector)[0])
            assert v.dtype == (np.float64 if x64 else np.float32)
            np.testing.assert_allclose(A @ v, value * v, atol=tolerance * abs(expected[0]))
            np.testing.assert_allclose(v @ v, 1, rtol=tolerance)
        again, _ = eigenvalues(product, like, 4)
        np.testing.assert_array_equal(values, again)


@pytest.mark.slow
def test_eigenvalues_of_a_network_are_those_of_its_dense_matrices():
    model, shape, _ = MODELS["shared over positions"]
    loss, params, x, t = draw(model, shape)
    for of, dense in [(hessian_product, dense_hessian), (gauss_newton_product, dense_gauss_newton)]:
        values, _ = eigenvalues(lambda v, of=of: of(model, loss)(params, v, x, t), params, 3)
        expected = np.linalg.eigvalsh(dense(model, loss, params, x, t))
        np.testing.assert_allclose(values, expected[np.argsort(-abs(expected))][:3], rtol=1e-10)


@pytest.mark.parametrize("k", [-1, 0, 12, 13])
def test_a_number_of_eigenvalues_that_is_out_of_range_is_refused(k):
    _, like, product = symmetric(12)
    with pytest.raises(
        ValueError, match=rf"expected k between 1 and 11 \(one less than the number of entries\), got {k}$"
    ):
        eigenvalues(product, like, k)


@pytest.mark.parametrize("of", [gauss_newton_vectors, gauss_newton_diagonal, gauss_newton_factors])
def test_bad_samples_are_refused(of):
    model, shape, _ = MODELS["mlp"]
    loss, params, x, t = draw(model, shape)
    with pytest.raises(ValueError, match=r"expected samples of at least 1, got 0"):
        of(model, loss, samples=0)
    with pytest.raises(ValueError, match=r"expected a key to draw 2 samples with, got None"):
        of(model, loss, samples=2)(params, x, t)


def test_a_loss_without_hessian_factor_has_a_hessian_but_no_gauss_newton_matrix():
    model, shape, _ = MODELS["mlp"]
    _, params, x, _ = draw(model, shape)
    t, loss = jnp.zeros((4, 2)), Concave()
    actual = jax.jit(lambda: matrix(lambda v: hessian_product(model, loss)(params, v, x, t), params))()
    judge(actual, dense_hessian(model, loss, params, x, t), x.dtype)
    for call in (
        lambda: gauss_newton_product(model, loss)(params, params, x, t),
        lambda: gauss_newton_vectors(model, loss)(params, x, t),
        lambda: gauss_newton_diagonal(model, loss)(params, x, t),
        lambda: gauss_newton_factors(model, loss)(params, x, t),
    ):
        with pytest.raises(NotImplementedError, match=r"Concave\(\) has no hessian_factor, which Gauss-Newton"):
            call()


def test_the_curvature_of_a_batch_of_one_without_weights_is_its_own():
    model, shape, _ = MODELS["mlp"]
    _, params, x, _ = draw(model, shape)
    loss, labels = SoftmaxCrossEntropy(), jnp.array([1])
    actual = ravel_pytree(gauss_newton_diagonal(model, loss)(params, x[:1], labels))[0]
    judge(actual, jnp.diag(dense_gauss_newton(model, loss, params, x[:1], labels)), x.dtype)
