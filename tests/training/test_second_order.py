"""K-FAC, compared with dense matrices in place of its blocks and with least squares, and in whole runs."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_iris
from support.curvature import SHARING, Concave
from support.judges import cast, judge

from jaxann import backprop, compare, fit
from jaxann.data import Examples
from jaxann.data.batches import make_lanes
from jaxann.gradients.curvature import gauss_newton_factors
from jaxann.gradients.probe import is_finite
from jaxann.nn import (
    Conv,
    Dense,
    Flatten,
    Layer,
    LearnedPositions,
    MixedPrecision,
    Sequential,
    SoftmaxCrossEntropy,
    SquaredError,
    mlp,
    relu,
    tanh,
)
from jaxann.rules import FeedbackAlignment
from jaxann.training import Recipe, kfac
from jaxann.training.loop import Plan, begin, train_in_pieces
from jaxann.training.recipe import start, train

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (23, 3))
LABELS = jnp.argmax(X @ jax.random.normal(jax.random.key(2), (3, 2)), axis=1)
MODEL, LOSS = mlp((3, 4, 2), hidden=tanh), SoftmaxCrossEntropy()
WEIGHTS = jax.random.uniform(jax.random.key(3), (23,), minval=0.1, maxval=2)
DAMPING = 0.02


def batches(count, x=X):
    """Returns `count` batches (x, t, weights); the first has an example of weight 0."""
    return [(x[i : i + 5], LABELS[i : i + 5], WEIGHTS[i : i + 5].at[2].set(i)) for i in range(count)]


def draw(tree, seed):
    """Returns a random tree shaped like `tree`."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(
        structure, [jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
    )


def run(model, steps, **settings):
    """Returns for each step the update, the random gradients and the factors that it came from, and the new state."""
    transformation = kfac(model, LOSS, damping=DAMPING, **settings)
    params = model.init(KEY)
    state, update = transformation.init(params), jax.jit(transformation.update)
    factors_of = jax.jit(gauss_newton_factors(model, LOSS))
    results = []
    for step, batch in enumerate(steps):
        params, g = draw(params, step), draw(params, 100 + step)
        updates, state = update(g, state, params, batch=batch)
        results.append((updates, g, factors_of(params, *batch), state))
    return results


def solve(factors, g):
    """Returns (left ⊗ right + λ I)⁻¹ vec(g) for each leaf, from dense matrices."""

    def solve_leaf(g, block):
        G = np.kron(*block)
        return np.linalg.solve(G + DAMPING * np.eye(len(G)), np.ravel(g)).reshape(g.shape)

    return jax.tree.map(solve_leaf, g, factors)


@pytest.mark.parametrize("model", [MODEL, SHARING], ids=["mlp", "shared over positions"])
def test_the_first_update_is_the_damped_inverse_of_its_blocks(model):
    x = X if model is MODEL else jax.random.normal(KEY, (23, 5, 2))
    ((updates, g, factors, _),) = run(model, batches(1, x))
    judge(updates, solve(factors, g), x.dtype)
    assert compare(updates, g).error > 0.1


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_later_updates_divide_by_unbiased_running_means(decay):
    results, old = run(MODEL, batches(4), decay=decay), None
    for steps, (updates, g, factors, _) in enumerate(results, 1):
        old = jax.tree.map(jnp.zeros_like, factors) if old is None else old
        old = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, old, factors)
        judge(updates, solve(jax.tree.map(lambda a, n=steps: a / (1 - decay**n), old), g), jnp.float64)


def test_eigenvectors_are_computed_again_only_at_their_interval():
    results, always = run(MODEL, batches(5), every=3), run(MODEL, batches(5))
    bases = [state.bases for *_, state in results]
    for kept in (1, 2):
        assert compare(bases[kept], bases[0]).error == 0
    assert compare(bases[4], bases[3]).error == 0
    fresh = [state.bases for *_, state in always]
    judge((bases[0], bases[3]), (fresh[0], fresh[3]), jnp.float64)  # the running means went on in between
    assert compare(bases[3], bases[0]).error > 1e-3
    judge([results[4][3].factors], [always[4][3].factors], jnp.float64)
    assert results[4][3].step == 5


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_one_step_solves_linear_least_squares_where_features_have_mean_zero(weights):
    """There G couples no W with b and left is I, so the step is a Newton step, exact up to the damping."""
    share = np.full(23, 1 / 23) if weights is None else np.array(weights / weights.sum())
    x = np.array(X) - share @ np.array(X)
    t = np.sin(3 * x[:, :2]) + x[:, 1:] + 1
    optimizer = optax.chain(kfac(Dense(3, 2), SquaredError(), damping=1e-10), optax.sgd(1.0))
    params, _ = fit(Dense(3, 2), SquaredError(), optimizer, x, t, key=KEY, epochs=1, batch_size=23, weights=weights)
    root = np.sqrt(share)[:, None]
    design = root * np.column_stack([x, np.ones(23)])
    expected = np.linalg.lstsq(design, root * t, rcond=None)[0].T
    np.testing.assert_allclose(params["W"], expected[:, :3], atol=1e-8)
    np.testing.assert_allclose(params["b"], expected[:, 3], atol=1e-8)


@pytest.mark.slow
def test_iris_is_learned_in_fewer_epochs_than_by_sgd_of_any_learning_rate():
    x, labels = load_iris(return_X_y=True)
    x, labels, model = (x - x.mean(0)) / x.std(0), jnp.asarray(labels), mlp((4, 8, 3), hidden=tanh)

    def last(optimizer):
        _, history = fit(model, LOSS, optimizer, x, labels, key=KEY, epochs=10, batch_size=50)
        return history.loss[-1]

    by_sgd = jax.jit(jax.vmap(lambda rate: last(optax.sgd(rate))))(jnp.array([0.03, 0.1, 0.3, 1.0, 3.0, 10.0]))
    assert last(optax.chain(kfac(model, LOSS, damping=0.01), optax.sgd(0.3))) < 0.7 * by_sgd.min()


@pytest.mark.slow
def test_a_short_last_batch_is_filled_with_examples_of_weight_zero():
    settings = {"key": KEY, "epochs": 1, "shuffle": False}
    optimizer = optax.chain(kfac(MODEL, LOSS, damping=0.1), optax.sgd(0.1))
    params, _ = fit(MODEL, LOSS, optimizer, X, LABELS, batch_size=15, **settings)
    looped = start(Recipe(MODEL, LOSS, optimizer, 15), KEY).params
    state = optimizer.init(looped)

    @jax.jit
    def step(params, state, *batch):
        updates, state = optimizer.update(backprop(MODEL, LOSS)(params, *batch)[1], state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    for part in (slice(0, 15), slice(15, 23)):
        looped, state = step(looped, state, X[part], LABELS[part])
    assert compare(params, looped).error < 1e-11


CHAINS = {
    "momentum": lambda k: optax.chain(k, optax.sgd(0.1, momentum=0.9)),
    "clipping": lambda k: optax.chain(k, optax.clip_by_global_norm(1.0), optax.scale(-0.1)),
    "weight decay": lambda k: optax.chain(optax.add_decayed_weights(1e-3), k, optax.sgd(0.1)),
    "line search": lambda k: optax.chain(k, optax.scale(-1.0), optax.scale_by_backtracking_linesearch(8)),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.slow
def test_it_is_chained_with_others(name):
    optimizer = CHAINS[name](kfac(MODEL, LOSS, damping=0.1))
    batch_size = 23 if name == "line search" else 12  # a line search on half of the examples goes up and down
    _, history = fit(MODEL, LOSS, optimizer, X, LABELS, key=KEY, epochs=8, batch_size=batch_size)
    assert history.loss[-1] < 0.6 * history.loss[0]


@pytest.mark.parametrize(
    ("model", "gradient"), [(MODEL, FeedbackAlignment()), (MixedPrecision(MODEL), backprop)], ids=["rule", "bfloat16"]
)
@pytest.mark.slow
def test_it_takes_the_gradients_of_a_rule_and_of_mixed_precision(model, gradient):
    optimizer = optax.chain(kfac(model, LOSS, damping=0.1), optax.sgd(0.1))
    _, history = fit(model, LOSS, optimizer, X, LABELS, key=KEY, epochs=8, batch_size=12, gradient=gradient)
    assert history.loss[-1] < 0.6 * history.loss[0]


@pytest.mark.slow
def test_a_run_in_pieces_is_the_run_to_the_bit_and_its_state_is_finite():
    model = mlp((3, 4, 2), hidden=tanh, dropout=0.3)
    optimizer = optax.chain(kfac(model, LOSS, damping=0.1, every=3), optax.sgd(0.1))
    recipe, lanes = Recipe(model, LOSS, optimizer, 5), make_lanes(Examples(X, LABELS, WEIGHTS), 5)
    progress = begin(recipe, KEY)
    assert is_finite(progress.state.opt_state)
    # With the flags of conftest.py, XLA rounds the same operations differently in programs of different lengths.
    options = {"xla_backend_optimization_level": "3", "xla_cpu_use_fusion_emitters": True}  # XLA's own defaults
    programs = {length: train.lower(recipe, progress.state, lanes, length).compile(options) for length in (1, 2, 5)}
    uncut, history = programs[5](progress.state, lanes)
    pieces = list(train_in_pieces(recipe, lanes, Plan(5, piece=2, every=2), progress, None, programs))
    np.testing.assert_array_equal([row["loss"] for _, rows in pieces for row in rows], history.loss)
    last, _ = pieces[-1]
    assert compare((last.state.params, last.state.opt_state), (uncut.params, uncut.opt_state)).error == 0
    assert is_finite(uncut.opt_state)
    assert uncut.opt_state[0].step == 25


def test_damping_and_decay_may_be_traced():
    def last(damping, decay):
        optimizer = optax.chain(kfac(MODEL, LOSS, damping=damping, decay=decay), optax.sgd(0.1))
        return fit(MODEL, LOSS, optimizer, X, LABELS, key=KEY, epochs=2, batch_size=12)[1].loss

    many = jax.jit(jax.vmap(last))(jnp.array([0.1, 1.0]), jnp.array([0.5, 0.9]))
    np.testing.assert_allclose(many[1], last(1.0, 0.9), rtol=1e-11)
    assert abs(many[0, 1] - many[1, 1]) > 1e-3


@pytest.mark.parametrize("compiled", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_updates_keep_the_precision_of_the_gradient_and_factors_have_float32_or_better(dtype, compiled):
    params, (x, t, weights) = cast((MODEL.init(KEY), batches(1)[0]), dtype)
    transformation = kfac(MODEL, LOSS)
    update = jax.jit(transformation.update) if compiled else transformation.update
    for batch in ((x, t), (x, t, weights), (x, t, weights.astype(float))):
        updates, state = update(params, transformation.init(params), params, batch=batch)
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
        assert {leaf.dtype for leaf in jax.tree.leaves((state.factors, state.bases))} == {jnp.dtype("float32")}


@dataclass(frozen=True)
class Plain(Layer):
    """y = W x, with a gradient of W that is a matrix and not an `Outer`."""

    n: int
    m: int

    def init(self, key):
        return {"W": jax.random.normal(key, (self.m, self.n))}

    def forward(self, params, x, key=None):
        return params["W"] @ x, x

    def backward(self, params, saved, dy):
        return {"W": jnp.outer(dy, saved)}, params["W"].T @ dy


def test_a_matrix_whose_gradient_is_no_outer_has_two_factors():
    model = Sequential((Dense(3, 4), tanh, Plain(4, 2)))
    ((updates, g, factors, _),) = run(model, batches(1))
    judge(updates, solve(factors, g), jnp.float64)
    assert jax.tree.map(jnp.shape, factors[2]["W"]) == ((2, 2), (4, 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["learned positions", "a grouped convolution"])
def test_it_trains_layers_whose_gradients_are_arrays(name):
    layers = {
        "learned positions": (LearnedPositions(6, 3), Flatten(), Dense(18, 2)),
        "a grouped convolution": (Conv(3, 6, (3,), groups=3), relu, Flatten(), Dense(24, 2)),
    }
    model, x = Sequential(layers[name]), jax.random.normal(KEY, (60, 6, 3))
    labels = (x[:, 1:4, :2].sum((1, 2)) > 0).astype(int)
    optimizer = optax.chain(kfac(model, LOSS, damping=0.1), optax.sgd(0.1))
    _, history = fit(model, LOSS, optimizer, x, labels, key=KEY, epochs=8, batch_size=20)
    assert history.loss[-1] < 0.5 * history.loss[0]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"damping": 0}, "expected damping above 0, got 0"),
        ({"damping": -1.0}, "expected damping above 0, got -1.0"),
        ({"damping": np.inf}, "expected damping to be a finite number, got inf"),
        ({"decay": 1}, "expected decay between 0 and 1, excluding 1, got 1"),
        ({"decay": -0.1}, "expected decay between 0 and 1, excluding 1, got -0.1"),
        ({"decay": np.nan}, "expected decay to be a finite number, got nan"),
        ({"every": 0}, "expected every of at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        kfac(MODEL, LOSS, **settings)


def test_an_update_without_a_batch_or_parameters_is_refused():
    transformation, params = kfac(MODEL, LOSS), MODEL.init(KEY)
    state = transformation.init(params)
    for missing in ({"params": params}, {"batch": (X, LABELS)}):
        with pytest.raises(ValueError, match=r"expected params and batch=\(x, t, weights\) in the update of kfac"):
            transformation.update(params, state, **missing)


def test_a_loss_without_hessian_factor_is_refused():
    transformation, params = kfac(MODEL, Concave()), MODEL.init(KEY)
    with pytest.raises(NotImplementedError, match="has no hessian_factor"):
        transformation.update(params, transformation.init(params), params, batch=(X, jnp.zeros((23, 2))))
