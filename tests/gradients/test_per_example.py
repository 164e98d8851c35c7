"""Per-example gradients against `vmap(jax.grad)`, and what is computed from them against plain NumPy."""

from dataclasses import dataclass
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.draws import draw_array, draw_params
from support.judges import cast
from support.layers import Tied
from support.selection import choose

from jaxann import autodiff, backprop, fit
from jaxann.data import Examples
from jaxann.data.batches import make_lanes
from jaxann.gradients import Stateful, leaves, moments, per_example
from jaxann.gradients.per_example import (
    Kronecker,
    clipped_gradient,
    clipped_mean,
    inner_products,
    kronecker_factors,
    leaf_norms,
    materialize,
    mean,
    noise_scale,
    norms,
    second_moment,
    variance,
)
from jaxann.nn import (
    GRU,
    LSTM,
    Attention,
    Conv,
    ConvTransposed,
    Dense,
    Each,
    Embedding,
    FeedForward,
    Flatten,
    GroupNorm,
    Layer,
    LayerNorm,
    LeanAttention,
    LearnedPositions,
    MaxPool,
    MixedPrecision,
    Outer,
    Parallel,
    Repeat,
    Residual,
    RMSNorm,
    Sequential,
    SoftmaxCrossEntropy,
    SquaredError,
    SwiGLU,
    TiedEmbedding,
    mlp,
    recurrent_network,
    relu,
    tanh,
)
from jaxann.training import Recipe
from jaxann.training.recipe import start, train

B, C = 7, 4
WEIGHTS = {
    "no weights": None,
    "weights": jax.random.uniform(jax.random.key(1), (B,), minval=0.1, maxval=2),
    "some weights 0": jnp.array([0.7, 0, 2.1, 0, 0, 1.3, 0.4]),
}

SMALL, SMALL_LOSS = mlp((3, 2, 2), hidden=tanh), SquaredError()
SMALL_X, SMALL_T = jax.random.normal(jax.random.key(1), (13, 3)), jax.random.normal(jax.random.key(2), (13, 2))
SMALL_PARAMS = SMALL.init(jax.random.key(3))
SGD = optax.sgd(0.2)


@dataclass(frozen=True)
class Shared(Layer):
    """y_t = W x_t, one matrix at every place t of x [*t, n]"""

    n: int
    m: int

    @property
    def sizes(self):
        return self.n, self.m

    def init(self, key):
        return {"W": jax.random.normal(key, (self.m, self.n)) / self.n**0.5}

    def forward(self, params, x, key=None):
        return x @ params["W"].T, x

    def backward(self, params, saved, dy):
        return {"W": Outer(dy, saved)}, dy @ params["W"]


@dataclass(frozen=True)
class Amplified(Layer):
    """y = a W x for a number a, by an author who returns W's gradient as an array instead of an `Outer`."""

    n: int
    m: int

    def init(self, key):
        return {"W": jax.random.normal(key, (self.m, self.n)), "a": jnp.array(0.7)}

    def forward(self, params, x, key=None):
        z = params["W"] @ x
        return params["a"] * z, (x, z)

    def backward(self, params, saved, dy):
        x, z = saved
        dz = params["a"] * dy
        return {"W": jnp.outer(dz, x), "a": dy @ z}, params["W"].T @ dz


def shared_chain(n, m):
    return Sequential((Shared(n, m), tanh, Shared(m, n)))


CONVOLUTIONS = Sequential(
    (
        Conv(2, 3, (2, 2), stride=(2, 1), padding=1),
        tanh,
        ConvTransposed(3, 2, (2, 2), padding=1, bias=False),
        Conv(2, 4, (2, 1), groups=2),
        Flatten(),
        Dense(12, 3),
    )
)
IMAGE_NETWORK = Sequential(
    (
        Residual(Sequential((GroupNorm(2, 1), Shared(2, 3), tanh, Shared(3, 2)))),
        MaxPool((2, 2), stride=(2, 1)),
        Parallel((Shared(2, 2), RMSNorm(2)), "concatenation"),
        Flatten(),
        Dense(16, 3),
    )
)
TRANSFORMER = Sequential(
    (
        LearnedPositions(5, 4),
        Residual(Attention(4, 2, key_value_heads=1, biases=True)),
        Residual(FeedForward(4, 3)),
        LeanAttention(4, 2, rotary=True, block=2),
        SwiGLU(4, 3),
    )
)


def network_of_ids(size, n):
    blocks = Repeat(Residual(Sequential((Shared(n, n), tanh))), 2)
    return Sequential((TiedEmbedding(Embedding(size, n), Sequential((blocks, Each(Dense(n, n))))), Flatten()))


NETWORKS = {  # each model with its loss and the shapes of an input and of a target; () is a label
    "mlp": (mlp((4, 6, 5, 3), hidden=tanh), SoftmaxCrossEntropy(), (4,), ()),
    "a matrix used twice": (Sequential((Dense(4, 5), tanh, Tied(5, 4), Dense(5, 3))), SquaredError(), (4,), (3,)),
    "few places of a wide matrix": (shared_chain(9, 10), SquaredError(), (2, 9), (2, 9)),
    "many places of a narrow matrix": (shared_chain(2, 3), SquaredError(), (6, 2), (6, 2)),
    "places of an image": (shared_chain(3, 2), SquaredError(), (2, 3, 3), (2, 3, 3)),
    "full matrices and a number": (Sequential((Amplified(4, 5), tanh, Dense(5, 3))), SquaredError(), (4,), (3,)),
    "a scale and a shift": (Sequential((LayerNorm(4), Dense(4, 3))), SquaredError(), (4,), (3,)),
    "convolutions": (CONVOLUTIONS, SoftmaxCrossEntropy(), (4, 3, 2), ()),
    "few ids": (network_of_ids(5, 3), SquaredError(), (2,), (10,)),
    "many ids": (network_of_ids(40, 6), SquaredError(), (2,), (80,)),
    "images": (IMAGE_NETWORK, SoftmaxCrossEntropy(), (4, 3, 2), ()),
    "sequences": (Sequential((LSTM(2, 2), *recurrent_network((2, 2, 3), GRU).layers)), SquaredError(), (4, 2), (3,)),
    "transformer": (TRANSFORMER, SquaredError(), (3, 4), (3, 4)),
}


def draw(name, size=B, seed=0, dtype=jnp.float64):
    """Returns parameters, inputs and targets for a network."""
    model, _, x, t = NETWORKS[name]
    rng = np.random.default_rng(seed)
    t = draw_array(seed + 1, size, *t) if t else jnp.asarray(rng.integers(0, model.sizes[1], size))
    ids = min(model.vocabularies.values(), default=0)
    x = jnp.asarray(rng.integers(0, ids, (size, *x))) if ids else draw_array(seed + 2, size, *x)
    return cast((draw_params(model, seed), x, t), dtype)


def by_autodiff(model, loss):
    """Returns the function that computes each example's loss and gradient by `vmap(jax.grad)` of the same forward."""
    return jax.jit(
        jax.vmap(
            jax.value_and_grad(lambda params, x, t: loss.value(model.forward(params, x)[0], t)), in_axes=(None, 0, 0)
        )
    )


def rows(grads):
    """Returns gradients [B, ...] as NumPy matrices [B, entries] in float64."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, float).reshape(len(leaf), -1), grads)


def concatenate(grads):
    """Returns all leaves of `rows` side by side."""
    return np.concatenate(jax.tree.leaves(grads), axis=1)


def choose_max_norm(g):
    """Returns a max_norm that clips some, but not all, of the examples with these `rows`."""
    return float(np.quantile(np.linalg.norm(concatenate(g), axis=1), 0.6))


def shares(weights, size=B):
    return np.full(size, 1 / size) if weights is None else np.asarray(weights / weights.sum(), float)


def close(actual, expected, tolerance=1e-10):
    """Compares leaf by leaf by max|a-b| / max|b|; the expected leaves may have other shapes."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for (path, _), (a, b) in zip(jax.tree_util.tree_leaves_with_path(actual), pairs, strict=True):
        a, b = np.asarray(a, float), np.asarray(b, float)
        np.testing.assert_allclose(
            a, b.reshape(a.shape), rtol=0, atol=tolerance * abs(b).max(), err_msg=jax.tree_util.keystr(path)
        )


def quantities(grads, others, weights, max_norm):
    """Returns everything that `per_example` computes from gradients, by name."""
    return {
        "materialized": materialize(grads),
        "mean": mean(grads, weights),
        "norms": norms(grads),
        "leaf norms": leaf_norms(grads),
        "clipped mean": clipped_mean(grads, max_norm, weights),
        "second moment": second_moment(grads, weights),
        "variance": variance(grads, weights),
        "noise scale": noise_scale(grads, weights),
        "inner products": inner_products(grads),
        "inner products with others": inner_products(grads, others),
        "Kronecker factors": kronecker_factors(grads, weights),
    }


def by_definition(g, h, weights, max_norm):
    """Returns the same from `rows`, as the docstrings define it, except the Kronecker factors, which need `Outer`s."""
    s, all_g = shares(weights), concatenate(g)
    sizes = np.linalg.norm(all_g, axis=1)
    shrinking = np.minimum(1, max_norm / sizes)

    def spread(g):
        return s @ (g - s @ g) ** 2 / (1 - s @ s)

    true_square = np.sum((s @ all_g) ** 2) - spread(all_g).sum() * (s @ s)  # E‖ḡ‖² = ‖G‖² + tr Σ Σ_i s_i²
    return {
        "materialized": g,
        "mean": jax.tree.map(lambda g: s @ g, g),
        "norms": sizes,
        "leaf norms": jax.tree.map(lambda g: np.linalg.norm(g, axis=1), g),
        "clipped mean": jax.tree.map(lambda g: (s * shrinking) @ g, g),
        "second moment": jax.tree.map(lambda g: s @ g**2, g),
        "variance": jax.tree.map(spread, g),
        "noise scale": spread(all_g).sum() / true_square if true_square > 0 else np.inf,
        "inner products": all_g @ all_g.T,
        "inner products with others": all_g @ concatenate(h).T,
    }


def kronecker_by_loops(grads, s):
    """Returns Kronecker factors, added up term by term."""

    def moments(terms, times=1.0):
        return sum(s[i] * np.outer(row, row) * times for i in range(B) for row in terms[i].reshape(-1, terms.shape[-1]))

    def factors(leaf):
        if isinstance(leaf, Outer):
            left, right = map(np.asarray, jax.vmap(Outer.rows)(leaf))
            return Kronecker(moments(left), moments(right, 1 / left[0, ..., 0].size))
        leaf = np.asarray(leaf)
        if leaf.ndim == 3:
            left, right = moments(leaf.swapaxes(1, 2)), moments(leaf)
            return Kronecker(left, right / np.trace(left) if np.trace(left) else np.eye(len(right)) / len(right))
        return Kronecker(moments(leaf.reshape(B, -1)), np.eye(1))

    return jax.tree.map(factors, grads, is_leaf=lambda leaf: isinstance(leaf, Outer))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow)
        if n in ("images", "places of an image", "sequences", "transformer", "mlp", "few ids", "many ids")
        else n
        for n in sorted(NETWORKS)
    ],
)
def test_every_quantity_is_its_definition_on_the_gradients_of_autodiff(name):
    model, loss, *_ = NETWORKS[name]
    params, x, t = draw(name)
    other = draw(name, C, seed=1)[1:]
    losses, g = by_autodiff(model, loss)(params, x, t)
    _, h = by_autodiff(model, loss)(params, *other)

    max_norm = choose_max_norm(rows(g))

    @jax.jit
    def compute(params, weights):
        losses, grads = per_example.gradients(model, loss)(params, x, t)
        _, others = per_example.gradients(model, loss)(params, *other)
        return losses, grads, [quantities(grads, others, w, max_norm) for w in (None, weights)]

    for weights in (WEIGHTS["weights"], WEIGHTS["some weights 0"]):
        by_hand, grads, reduced = compute(params, weights)
        close(by_hand, losses)
        for given, of_them in zip((None, weights), reduced, strict=True):
            close(of_them.pop("Kronecker factors"), kronecker_by_loops(grads, shares(given)))
            close(of_them, by_definition(rows(g), rows(h), given, max_norm))
            assert {leaf.dtype for leaf in jax.tree.leaves(of_them)} == {jnp.dtype(jnp.float64)}
    assert jax.tree.map(jnp.shape, reduced[0]["mean"]) == jax.tree.map(jnp.shape, params)


@pytest.mark.slow
def test_eager_is_jit():
    model, loss = Sequential((Tied(4, 3), LayerNorm(4))), SquaredError()
    _, x, _ = draw("mlp")

    def compute(x):
        losses, grads = per_example.gradients(model, loss)(model.init(jax.random.key(0)), x, jnp.sin(x))
        return losses, quantities(grads, grads, WEIGHTS["weights"], 2.0)

    close(compute(x), jax.jit(compute)(x))


def test_both_ways_of_reducing_a_shared_matrix_are_taken(monkeypatch):
    """Sizes alone decide whether matrices are formed, and the networks of the tests above cover both cases."""
    calls, original = [], leaves.materialize_places
    for module in (leaves, moments, per_example):
        monkeypatch.setattr(module, "materialize_places", lambda leaf: calls.append(1) or original(leaf))

    def forms(name, reduce):
        calls.clear()
        model, loss, *_ = NETWORKS[name]
        jax.eval_shape(lambda *args: reduce(per_example.gradients(model, loss)(*args)[1]), *draw(name))
        return bool(calls)

    for reduce in (norms, second_moment, inner_products):
        assert forms("many places of a narrow matrix", reduce), reduce
        assert not forms("few places of a wide matrix", reduce), reduce


@pytest.mark.parametrize("few", [2, 5])
@pytest.mark.slow
def test_others_may_have_another_number_of_places(few):
    model, loss = shared_chain(3, 2), SquaredError()
    keys = jax.random.split(jax.random.key(0), 5)
    params = model.init(keys[0])
    one, two = ([jax.random.normal(k, (B, T, 3)) for k in keys[i : i + 2]] for i, T in ((1, 4), (3, few)))
    (_, g), (_, h) = (by_autodiff(model, loss)(params, *data) for data in (one, two))

    @jax.jit
    def compute(params):
        return inner_products(*(per_example.gradients(model, loss)(params, *data)[1] for data in (one, two)))

    close(compute(params), concatenate(rows(g)) @ concatenate(rows(h)).T)


@pytest.mark.parametrize("name", choose(["few places of a wide matrix", "mlp"], 2))
def test_weight_0_drops_an_example(name):
    model, loss, *_ = NETWORKS[name]
    params, x, t = draw(name)
    weights = WEIGHTS["some weights 0"]
    kept = jnp.flatnonzero(weights)

    @jax.jit
    def both(params):
        def reduced(x, t, weights):
            grads = per_example.gradients(model, loss)(params, x, t)[1]
            means = mean, partial(clipped_mean, max_norm=2.0), second_moment, variance, noise_scale
            return [reduce(grads, weights=weights) for reduce in (*means, kronecker_factors)]

        return reduced(x.at[1].mul(3), t, weights), reduced(x[kept], t[kept], weights[kept])

    close(*both(params))


@pytest.mark.parametrize("name", ["a matrix used twice", "few places of a wide matrix", "mlp"])
@pytest.mark.slow
def test_float32_stays_float32(name):
    model, loss, *_ = NETWORKS[name]
    _, g = by_autodiff(model, loss)(*draw(name))
    weights, max_norm = WEIGHTS["weights"], choose_max_norm(rows(g))

    @jax.jit
    def compute(params, x, t, weights):
        losses, grads = per_example.gradients(model, loss)(params, x, t)
        return losses, grads, quantities(grads, grads, weights, max_norm)

    losses, grads, reduced = compute(*draw(name, dtype=jnp.float32), weights.astype(jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves((losses, grads, reduced))} == {jnp.dtype(jnp.float32)}
    close(reduced.pop("Kronecker factors"), kronecker_by_loops(cast(grads, float), shares(weights)), 1e-5)
    close(reduced, by_definition(rows(g), rows(g), weights, max_norm), 1e-5)


@pytest.mark.parametrize("weights", [None, cast(WEIGHTS["weights"], jnp.float32)], ids=["no weights", "weights"])
@pytest.mark.parametrize("name", ["a matrix used twice", "mlp", "full matrices and a number"])
@pytest.mark.slow
def test_what_layers_give_in_bfloat16_is_summed_in_float32(name, weights):
    model, loss, *_ = NETWORKS[name]
    params, x, t = draw(name, dtype=jnp.float32)
    # Two programs, because within one XLA may omit roundings to bfloat16.
    losses, grads = jax.jit(per_example.gradients(MixedPrecision(model), loss))(params, x, t)
    reduced = jax.jit(lambda grads: quantities(grads, grads, weights, 2.0))(grads)
    kept, exact = reduced.pop("materialized"), cast(grads, float)  # `materialize` keeps an array's precision
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves((losses, reduced))} == {jnp.dtype(jnp.float32)}
    close(reduced.pop("Kronecker factors"), kronecker_by_loops(exact, shares(weights)), 1e-5)
    g = rows(materialize(exact))  # from the rounded factors
    close(reduced | {"materialized": kept}, by_definition(g, g, weights, 2.0), 1e-5)
    # bfloat16 keeps 8 bits, so each of a network's few roundings is off by up to 1 in 256.
    close(reduced["norms"], np.linalg.norm(concatenate(rows(by_autodiff(model, loss)(params, x, t)[1])), axis=1), 0.05)


# Noise scale.


@pytest.mark.slow
def test_noise_scale_is_made_of_two_unbiased_estimates():
    """Averaged over all batches of three from five examples, both estimates are the values for the five examples."""
    keys = jax.random.split(jax.random.key(0), 3)
    left, right, b = (jax.random.normal(k, (5, 1, m)) for k, m in zip(keys, (2, 3, 4), strict=True))
    population = {"W": Outer(1 + 0.2 * left, 1 + 0.2 * right), "b": 1 + 0.2 * b[:, 0]}
    g = concatenate(rows(materialize(population)))
    draws = np.array(list(product(range(5), repeat=3)))

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def estimates(draw, weights):
        grads = jax.tree.map(lambda leaf: leaf[draw], population)
        noise = sum(leaf.sum() for leaf in jax.tree.leaves(variance(grads, weights)))
        return noise, noise_scale(grads, weights), sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(mean(grads)))

    for weights in (None, jnp.array([0.3, 1.1, 2.0])):
        noise, ratio, of_mean = (np.asarray(e) for e in estimates(draws, weights))
        assert np.isfinite(ratio).all()
        differ = draws.min(axis=1) < draws.max(axis=1)
        signal = of_mean.copy()  # for a batch of one example three times, which has no noise
        signal[differ] = noise[differ] / ratio[differ]
        np.testing.assert_allclose(noise.mean(), g.var(axis=0).sum(), rtol=1e-10)
        np.testing.assert_allclose(signal.mean(), np.sum(g.mean(axis=0) ** 2), rtol=1e-10)


def test_noise_scale_is_infinite_where_the_mean_is_lost_in_noise():
    one = jax.random.normal(jax.random.key(0), (6, 5))
    assert noise_scale([jnp.concatenate([one, -one])]) == jnp.inf
    assert noise_scale([1000 + one]) < 1e-3


def test_variance_is_never_negative():
    """For equal examples, E g² - ḡ² is a rounding error of either sign."""
    for seed in range(5):
        g = jnp.broadcast_to(jax.random.normal(jax.random.key(seed), (50,)), (7, 50))
        actual = variance([g], WEIGHTS["weights"])[0]
        assert jnp.all((actual >= 0) & (actual < 1e-14))
        assert noise_scale([g], WEIGHTS["weights"]) < 1e-14


# Kronecker factors.


def test_the_factors_of_a_network_are_moments_of_its_deltas_and_inputs():
    """The deltas are autodiff's gradients of the biases, and the inputs are computed in NumPy."""
    model, loss, *_ = NETWORKS["mlp"]
    params, x, t = draw("mlp")
    weights = WEIGHTS["some weights 0"]
    _, g = by_autodiff(model, loss)(params, x, t)
    actual = jax.jit(lambda: kronecker_factors(per_example.gradients(model, loss)(params, x, t)[1], weights))()
    a, s = np.asarray(x), shares(weights)
    for i in (0, 2, 4):
        deltas = sum(share * np.outer(d, d) for share, d in zip(s, np.asarray(g[i]["b"]), strict=True))
        inputs = sum(share * np.outer(r, r) for share, r in zip(s, a, strict=True))
        close(actual[i], {"W": Kronecker(deltas, inputs), "b": Kronecker(deltas, np.eye(1))})
        a = np.tanh(a @ np.asarray(params[i]["W"]).T + np.asarray(params[i]["b"]))


def test_for_one_example_and_one_place_the_kronecker_product_is_the_matrix_of_second_moments():
    model, loss, *_ = NETWORKS["mlp"]
    params, x, t = draw("mlp", 1)
    g = rows(by_autodiff(model, loss)(params, x, t)[1])
    for weights in (None, jnp.array([0.3])):
        actual = jax.jit(
            lambda weights: kronecker_factors(per_example.gradients(model, loss)(params, x, t)[1], weights)
        )(weights)
        products = jax.tree.map(lambda f: np.kron(*f), actual, is_leaf=lambda leaf: isinstance(leaf, Kronecker))
        close(products, jax.tree.map(lambda g: g.T @ g, g))


def test_the_factors_of_a_matrix_that_is_no_outer_are_near_its_second_moments():
    """Their product has the trace of the second moments, and is nearer to them than that of the mean gradient."""
    left, right = (
        jax.random.normal(k, (40, n)) for k, n in zip(jax.random.split(jax.random.key(0)), (3, 4), strict=True)
    )
    g = left[:, :, None] * right[:, None] + 0.3 * jax.random.normal(jax.random.key(1), (40, 3, 4))
    (product,) = (np.kron(*block) for block in kronecker_factors([g]))
    moments, mean_g = np.einsum("bi,bj->ij", *[g.reshape(40, -1)] * 2) / 40, g.mean(0)
    np.testing.assert_allclose(np.trace(product), np.trace(moments), rtol=1e-12)
    nearest = np.linalg.svd(moments.reshape(3, 4, 3, 4).transpose(0, 2, 1, 3).reshape(9, 16))[1]
    error = np.linalg.norm(product - moments)
    assert error < 1.2 * np.sqrt(np.sum(nearest[1:] ** 2))  # Van Loan and Pitsianis 1993: the least error of a product
    assert error < 0.5 * np.linalg.norm(np.kron(mean_g @ mean_g.T, mean_g.T @ mean_g) - moments)
    np.testing.assert_array_equal(kronecker_factors([0 * g])[0].right, np.eye(4) / 4)


# Clipping.


def test_a_clipped_gradient_is_its_definition():
    model, loss, *_ = NETWORKS["mlp"]
    params, x, t = draw("mlp")
    losses, g = by_autodiff(model, loss)(params, x, t)
    sizes = np.linalg.norm(concatenate(rows(g)), axis=1)
    bounds = [float(bound) for bound in (sizes.min() / 2, np.median(sizes), 2 * sizes.max())]
    compute = jax.jit(lambda weights: [clipped_gradient(model, loss, bound)(params, x, t, weights) for bound in bounds])
    for weights in WEIGHTS.values():
        s = shares(weights)
        by_bound = compute(weights)
        for bound, one in zip(bounds, by_bound, strict=True):
            share = s * np.minimum(1, bound / sizes)
            close(one, (s @ np.asarray(losses), [share @ leaf for leaf in jax.tree.leaves(rows(g))]))
        close(by_bound[-1], backprop(model, loss)(params, x, t, weights))  # the last bound is above all norms


def test_max_norm_and_noise_may_be_traced():
    """A sweep over `max_norm` and `noise` is a `vmap`."""
    bounds, key = jnp.array([0.1, 0.3, 9.0]), jax.random.key(0)

    def noisy(max_norm, noise):
        return clipped_gradient(SMALL, SMALL_LOSS, max_norm, noise)(SMALL_PARAMS, SMALL_X, SMALL_T, None, key)[1]

    swept = jax.jit(jax.vmap(noisy))(bounds, bounds / 2)
    single = jax.jit(lambda: [noisy(bound, bound / 2) for bound in (0.1, 0.3, 9.0)])()
    close(swept, jax.tree.map(lambda *leaves: jnp.stack(leaves), *single))


def test_no_example_counts_for_more_than_its_share_of_max_norm():
    model, loss, *_ = NETWORKS["full matrices and a number"]
    params, x, t = draw("full matrices and a number")
    weights = WEIGHTS["weights"]
    _, grads = jax.jit(per_example.gradients(model, loss))(params, x, t * jnp.logspace(-3, 6, B)[:, None])
    summed = jax.jit(lambda w: jax.tree.map(lambda g: g * w.sum(), clipped_mean(grads, 0.8, w)))
    sizes = jax.jit(norms)(grads)
    for i in range(B):
        parts = jax.tree.map(jnp.subtract, summed(weights), summed(weights.at[i].set(0)))
        size = np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(parts)])) / weights[i]
        np.testing.assert_allclose(size, min(0.8, sizes[i]), rtol=1e-10)
    assert jnp.all(sizes[-3:] > 10 * 0.8)


def flat(grads):
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(grads)])


@pytest.mark.parametrize("weights", [None, jnp.linspace(0.2, 1.4, 13)], ids=["no weights", "weights"])
def test_noise_has_its_standard_deviation_and_is_independent_everywhere(weights):
    gradient = clipped_gradient(SMALL, SMALL_LOSS, max_norm=0.3, noise=1.7)
    draws = 20_000
    keys = jax.random.split(jax.random.key(0), draws)
    noisy = jax.jit(jax.vmap(lambda key: flat(gradient(SMALL_PARAMS, SMALL_X, SMALL_T, weights, key)[1])))(keys)
    _, exact = jax.jit(clipped_gradient(SMALL, SMALL_LOSS, max_norm=0.3))(SMALL_PARAMS, SMALL_X, SMALL_T, weights)
    ξ = (np.asarray(noisy) - np.asarray(flat(exact))) / (shares(weights, 13).max() * 0.3 * 1.7)
    # A mean or a covariance has a standard error of 1 / √draws, a variance √2 times that. By chance none of the
    # 14 + 105 values would be off by 6 standard errors.
    np.testing.assert_allclose(ξ.mean(axis=0), 0, atol=6 / draws**0.5)
    np.testing.assert_allclose(ξ.T @ ξ / draws, np.eye(14), atol=6 * (2 / draws) ** 0.5)
    np.testing.assert_allclose(np.mean(ξ**4), 3, atol=0.1)  # the fourth moment of a normal distribution


def test_the_same_key_draws_the_same_noise():
    gradient = jax.jit(clipped_gradient(SMALL, SMALL_LOSS, max_norm=0.3, noise=1.7))
    one, again, other = (gradient(SMALL_PARAMS, SMALL_X, SMALL_T, None, jax.random.key(seed)) for seed in (0, 0, 1))
    assert jnp.all(flat(one[1]) == flat(again[1]))
    assert jnp.all(flat(one[1]) != flat(other[1]))
    assert one[0] == other[0]  # the loss has no noise


def recorder(steps):
    """Returns an optimizer that stores its gradients in its state and changes no parameter."""

    def init(params):
        return jnp.zeros((), int), jnp.zeros((steps, flat(params).size))

    def update(grads, state, params=None):
        step, kept = state
        return jax.tree.map(jnp.zeros_like, grads), (step + 1, kept.at[step].set(flat(grads)))

    return optax.GradientTransformation(init, update)


@pytest.mark.slow
def test_training_draws_new_noise_at_every_step():
    epochs, batch_size = 100, 5
    steps = 3 * epochs  # 13 examples: some batches of an epoch are filled up with examples of weight 0

    def private(model, loss):
        """Returns the clipped gradient, with the number of examples in each batch as its state."""
        gradient = clipped_gradient(model, loss, max_norm=0.3, noise=1.7)

        def step(params, counts, x, t, weights, key):
            value, grads, _, metrics = gradient.step(params, (), x, t, weights, key)
            return value, grads, jnp.append(counts[1:], jnp.sum(weights > 0)), metrics

        return Stateful(step, lambda key: jnp.zeros(steps, int), random=True)

    recipe = Recipe(SMALL, SMALL_LOSS, recorder(steps), batch_size, private)
    x, t = jnp.tile(SMALL_X[:1], (13, 1)), jnp.tile(SMALL_T[:1], (13, 1))  # only the noise differs
    state, _ = train(recipe, start(recipe, jax.random.key(0)), make_lanes(Examples(x, t), batch_size), epochs)
    _, exact = jax.jit(clipped_gradient(SMALL, SMALL_LOSS, max_norm=0.3))(state.params, x, t)
    recorded, counts = np.asarray(state.opt_state[1]), np.asarray(state.gradient_state)
    assert len(np.unique(recorded, axis=0)) == steps
    assert counts.sum() == 13 * epochs
    ξ = (recorded - np.asarray(flat(exact))) / (0.3 * 1.7 / counts[:, None])
    assert len(np.unique(counts)) > 1
    for count in np.unique(counts):
        of_count = ξ[counts == count]
        np.testing.assert_allclose(of_count.std(), 1, atol=6 / (2 * of_count.size) ** 0.5)


@pytest.mark.slow
def test_training_with_noise_is_reproducible():
    private = partial(clipped_gradient, max_norm=0.3, noise=1.7)

    def run(key, gradient):
        return fit(
            SMALL, SMALL_LOSS, SGD, SMALL_X, SMALL_T, key=key, epochs=3, batch_size=5, gradient=gradient, shuffle=False
        )[0]

    key = jax.random.key(0)
    one, again, quiet = (flat(run(key, g)) for g in (private, private, partial(clipped_gradient, max_norm=0.3)))
    assert jnp.all(one == again)
    assert jnp.all(one != quiet)


@pytest.mark.parametrize("weights", [None, jnp.linspace(0.2, 1.4, 13)], ids=["no weights", "weights"])
def test_training_without_noise_is_a_plain_clipped_loop(weights):
    private, key = partial(clipped_gradient, max_norm=0.3), jax.random.key(0)
    actual, history = fit(
        SMALL,
        SMALL_LOSS,
        SGD,
        SMALL_X,
        SMALL_T,
        key=key,
        epochs=4,
        batch_size=5,
        gradient=private,
        shuffle=False,
        weights=weights,
    )
    params = start(Recipe(SMALL, SMALL_LOSS, SGD, 5, private), key).params
    w = np.ones(13) if weights is None else np.asarray(weights)
    each = by_autodiff(SMALL, SMALL_LOSS)
    hit = []
    for step in range(4 * 3):
        batch = slice(5 * (step % 3), 5 * (step % 3) + 5)
        losses, g = each(params, SMALL_X[batch], SMALL_T[batch])
        s = w[batch] / w[batch].sum()
        sizes = np.linalg.norm(concatenate(rows(g)), axis=1)
        hit += list(sizes > 0.3)
        shrinking = jnp.asarray(s * np.minimum(1, 0.3 / sizes))
        params = jax.tree.map(lambda p, g: p - 0.2 * jnp.tensordot(shrinking, g, 1), params, g)  # noqa: B023
        np.testing.assert_allclose(history.step_loss.ravel()[step], s @ np.asarray(losses), rtol=1e-10)
    close(actual, params)
    assert 0 < sum(hit) < len(hit)


# Randomness.


def test_dropout_has_the_masks_of_backprop_with_that_key():
    model, loss, key = mlp((4, 8, 6, 3), hidden=relu, dropout=0.5), SquaredError(), jax.random.key(7)
    params = model.init(jax.random.key(0))
    x, t = jax.random.normal(jax.random.key(1), (B, 4)), jax.random.normal(jax.random.key(2), (B, 3))
    weights = WEIGHTS["weights"]

    @jax.jit
    def compute(key):
        losses, grads = per_example.gradients(model, loss)(params, x, t, key)
        routes = [route(model, loss)(params, x, t, weights, key) for route in (backprop, autodiff)]
        quiet = clipped_gradient(model, loss, 1e9)(params, x, t, weights, key)
        return losses, materialize(grads), (weights / weights.sum() @ losses, mean(grads, weights)), quiet, routes

    losses, grads, by_hand, quiet, routes = compute(key)
    for route in routes:
        close(by_hand, route)
        close(quiet, route)
    assert not np.allclose(losses, compute(jax.random.key(8))[0])

    def one(params, i):  # with this example's key
        return loss.value(model.forward(params, x[i], jax.random.split(key, B)[i])[0], t[i])

    close(grads, jax.jit(jax.vmap(jax.grad(one), (None, 0)))(params, jnp.arange(B)))


def test_noise_leaves_dropout_its_masks():
    model, keys = mlp((3, 8, 2), hidden=tanh, dropout=0.5), jax.random.split(jax.random.key(0), 20)
    gradient, params = clipped_gradient(model, SMALL_LOSS, max_norm=0.3, noise=1.7), model.init(jax.random.key(1))
    losses = jax.jit(jax.vmap(lambda key: gradient(params, SMALL_X, SMALL_T, None, key)[0]))(keys)
    assert len(np.unique(losses)) == 20  # noise changes no loss, so the keys' masks differ


# Memory.


def test_gradients_are_never_formed():
    model, loss, examples = mlp((64, 64, 64), hidden=tanh), SquaredError(), 256
    params = model.init(jax.random.key(0))
    x, t = jax.random.normal(jax.random.key(1), (examples, 64)), jax.random.normal(jax.random.key(2), (examples, 64))
    all_gradients = examples * sum(leaf.nbytes for leaf in jax.tree.leaves(params))

    def temporary(reduce):
        program = jax.jit(lambda params: reduce(per_example.gradients(model, loss)(params, x, t)[1]))
        return program.lower(params).compile().memory_analysis().temp_size_in_bytes

    def forming(grads):
        g = jax.vmap(flat)(materialize(grads))
        return jnp.minimum(1, 1 / jnp.linalg.norm(g, axis=1)) @ g / examples

    assert temporary(forming) > all_gradients / 2  # so that the next lines can fail
    assert temporary(lambda grads: (norms(grads), clipped_mean(grads, 1.0))) < all_gradients / 10
    for reduce in (second_moment, variance, noise_scale, kronecker_factors):
        assert temporary(reduce) < all_gradients / 10, reduce
    # inner_products needs a matrix [B, B] for each leaf, whatever the number of parameters.
    assert temporary(inner_products) < 6 * examples**2 * 8


# Bad input.


@dataclass(frozen=True)
class Bias(Layer):
    """y = x + b"""

    n: int

    def init(self, key):
        return {"b": jnp.zeros(self.n)}

    def forward(self, params, x, key=None):
        return x + params["b"], ()

    def backward(self, params, saved, dy):
        return {"b": dy}, dy


@pytest.mark.parametrize("reduce", [kronecker_factors, mean, noise_scale, second_moment, variance])
@pytest.mark.parametrize("count", [1, 8])
def test_weights_are_one_for_each_example(reduce, count):
    grads = {"W": Outer(jnp.ones((13, 3)), jnp.ones((13, 2))), "b": jnp.ones((13, 3))}
    sentence = rf"expected weights of shape \(13,\), one for each example, got \({count},\)"
    with pytest.raises(ValueError, match=sentence):
        reduce(grads, jnp.ones(count))
    with pytest.raises(ValueError, match=sentence):
        clipped_mean(grads, 1.0, jnp.ones(count))


@pytest.mark.parametrize("reduce", [noise_scale, variance])
def test_one_example_has_no_variance(reduce):
    with pytest.raises(ValueError, match=r"expected at least 2 examples for a variance, got 1"):
        reduce({"W": Outer(jnp.ones((1, 3)), jnp.ones((1, 2))), "b": jnp.ones((1, 3))})


@pytest.mark.parametrize("bad", [0.0, -1.0, jnp.nan, jnp.inf])
def test_a_max_norm_is_a_finite_number_above_0(bad):
    expectation = "above 0" if jnp.isfinite(bad) else "to be a finite number"
    sentence = f"^expected max_norm {expectation}, got {bad}$"
    with pytest.raises(ValueError, match=sentence):
        clipped_gradient(SMALL, SMALL_LOSS, max_norm=bad)
    with pytest.raises(ValueError, match=sentence):
        clipped_mean([jnp.ones((3, 2))], bad)


@pytest.mark.parametrize("bad", [-0.1, jnp.nan, jnp.inf])
def test_noise_is_a_finite_number_from_0(bad):
    expectation = "of at least 0" if jnp.isfinite(bad) else "to be a finite number"
    with pytest.raises(ValueError, match=f"^expected noise {expectation}, got {bad}$"):
        clipped_gradient(SMALL, SMALL_LOSS, max_norm=1.0, noise=bad)


def test_noise_needs_a_key():
    gradient = clipped_gradient(SMALL, SMALL_LOSS, max_norm=1.0, noise=1.7)
    with pytest.raises(ValueError, match=r"expected a key to draw the gradient's noise of 1\.7 with, got None"):
        gradient(SMALL_PARAMS, SMALL_X, SMALL_T)


def test_an_array_too_large_for_its_second_moments_is_named():
    model = Sequential((Dense(3, 4097), Bias(4097)))
    args = model.init(jax.random.key(0)), SMALL_X, jnp.zeros((13, 4097))
    why = "because one of its Kronecker factors has a row and a column for each, got 4097"
    sentence = rf"^expected 0\.b to have at most 4096 entries, {why}"
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(lambda *args: kronecker_factors(per_example.gradients(model, SquaredError())(*args)[1]), *args)
    for unit, shape in (("rows", (2, 4097, 2)), ("columns", (2, 2, 4097))):
        with pytest.raises(ValueError, match=rf"^expected full\.1 to have at most 4096 {unit}, {why}$"):
            kronecker_factors({"full": (jnp.ones((2, 65, 64)), jnp.ones(shape))})


@pytest.mark.parametrize(
    "reduce",
    [
        inner_products,
        kronecker_factors,
        mean,
        noise_scale,
        norms,
        partial(clipped_mean, max_norm=1.0),
        second_moment,
        variance,
    ],
)
def test_a_model_without_parameters_has_no_gradients(reduce):
    model = Sequential((tanh,))
    _, grads = per_example.gradients(model, SquaredError())(((),), SMALL_T, SMALL_T)
    with pytest.raises(ValueError, match=r"expected gradients of a model with parameters, got none"):
        reduce(grads)
