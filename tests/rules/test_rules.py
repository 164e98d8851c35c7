"""Learning rules against backprop, against networks of plain NumPy, and against what they promise."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.judges import cast, judge
from support.layers import Tied
from support.selection import choose

from jaxann import autodiff, backprop, check, compare, fit
from jaxann.data import Examples
from jaxann.data.batches import make_lanes
from jaxann.gradcheck.report import ON_PURPOSE
from jaxann.gradients import Stateful
from jaxann.gradients.stateful import as_stateful
from jaxann.nn import (
    Conv,
    Dense,
    Dropout,
    Elementwise,
    Flatten,
    Input,
    Layer,
    LayerNorm,
    MixedPrecision,
    Parallel,
    Residual,
    Sequential,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
    identity,
    mlp,
    softmax,
    sum_examples,
    tanh,
)
from jaxann.nn.hyperparameters import SettingError
from jaxann.rules import (
    RULES,
    ClippedDeltas,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    KolenPollack,
    NoisyDeltas,
    OutputLayerOnly,
    Rule,
    SignSymmetric,
    StraightThrough,
    WithAngles,
    threshold,
)
from jaxann.rules.angles import angle
from jaxann.rules.base import RuledLayer
from jaxann.training import Recipe, optimizer
from jaxann.training.recipe import start, train

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (13, 4))
LABELS = jnp.argmax(X @ jax.random.normal(jax.random.key(2), (4, 3)), axis=1)
T = jnp.sin(X @ jax.random.normal(jax.random.key(3), (4, 3)))
WEIGHTS = jax.random.uniform(jax.random.key(4), (13,), minval=0.1, maxval=2)
LANES = make_lanes(Examples(X, LABELS), 5)
MODEL, LOSS = mlp((4, 6, 5, 3), hidden=tanh), SoftmaxCrossEntropy()
PARAMS = jax.tree.map(
    lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(5), leaf.shape), MODEL.init(jax.random.key(6))
)
SGD = optax.sgd(0.2)
MATRICES = (0, 2, 4)  # the places of Dense in MODEL


def run_fit(gradient, model=MODEL, opt=SGD, loss=LOSS, t=LABELS, **settings):
    return fit(model, loss, opt, X, t, gradient=gradient, **{"key": KEY, "epochs": 3, "batch_size": 5, **settings})


def run_training(gradient, epochs=3, opt=SGD, model=MODEL, **settings):
    """Returns the states before and after a run, and its history."""
    recipe = Recipe(model, LOSS, opt, 5, gradient, **settings)
    before = start(recipe, KEY)
    return before, *train(recipe, before, LANES, epochs)


def compile_gradient(rule, model=MODEL, loss=LOSS, state=None, key=KEY):
    """Returns the compiled gradient function of a rule at a state, by default drawn with `key`, and the state."""
    gradient = rule(model, loss)
    state = gradient.init(key) if state is None else state
    return jax.jit(gradient.bind(state)), state


def by_numpy(params, x, labels, back=None, change=lambda delta: delta):
    """Returns MODEL's gradients by the textbook, with dx = back(place, δ, δ_N) for Wᵀ δ and `change(δ)` for δ."""
    weights, biases = zip(*((np.array(params[i]["W"]), np.array(params[i]["b"])) for i in MATRICES), strict=True)
    h = [np.array(x)]
    for W, b in zip(weights, biases, strict=True):
        h.append(np.tanh(h[-1] @ W.T + b))
    z = h[2] @ weights[2].T + biases[2]
    e = np.exp(z - z.max(axis=1, keepdims=True))
    delta = top = (e / e.sum(axis=1, keepdims=True) - np.eye(3)[np.array(labels)]) / len(x)
    grads = {}
    for layer in (2, 1, 0):
        delta = change(delta)
        grads[2 * layer] = {"W": delta.T @ h[layer], "b": delta.sum(axis=0)}
        if layer:
            dx = delta @ weights[layer] if back is None else back(2 * layer, delta, top)
            delta = (1 - h[layer] ** 2) * dx
    return tuple(grads.get(place, ()) for place in range(6))


def by_hand(params, back, epochs, rate):
    """Trains MODEL in NumPy on batches of 5, 5 and 3 in their order, and returns the parameters."""
    params = jax.tree.map(np.array, params)
    for _ in range(epochs):
        for first in range(0, 13, 5):
            grads = by_numpy(params, X[first : first + 5], LABELS[first : first + 5], back)
            params = jax.tree.map(lambda p, g: p - rate * g, params, grads)
    return params


# The rule that is backprop


CHAINS = {
    "mlp": MODEL,
    "chain in a chain": Sequential((Dense(4, 5), Sequential((tanh, Dense(5, 4), tanh)), Dense(4, 3))),
    "a matrix used twice": Sequential((Dense(4, 5), Tied(5, 4), Dense(5, 3))),
    "no chain": Dense(4, 3),
    "dropout": mlp((4, 6, 3), hidden=tanh, dropout=0.4),
    "skip connections and parallel layers": Sequential(
        (Residual(mlp((4, 5, 4), hidden=tanh)), Parallel((Dense(4, 2), LayerNorm(4)), "concatenation"), Dense(6, 3))
    ),
}


@pytest.mark.parametrize("name", choose(sorted(CHAINS), 3))
def test_a_rule_that_changes_nothing_is_backprop(name):
    model = CHAINS[name]
    params = model.init(KEY)

    @jax.jit
    def both(*args, **options):
        return Rule()(model, LOSS)(params, *args, **options), backprop(model, LOSS)(params, *args, **options)

    judge(*both(X, LABELS), X.dtype)
    judge(*both(X, LABELS, WEIGHTS.at[3].set(0), key=jax.random.key(7)), X.dtype)


@pytest.mark.slow
def test_a_rule_that_changes_nothing_trains_as_backprop_does():
    model = Sequential((Dense(4, 5), Sequential((Tied(5, 4), Dropout(0.3))), Dense(5, 3)))
    (params, history), (expected, reference) = (run_fit(g, model, weights=WEIGHTS) for g in (Rule(), backprop))
    np.testing.assert_allclose(history.step_loss, reference.step_loss, rtol=1e-11)
    assert compare(params, expected).error < 1e-11  # nine steps' roundings
    assert history.metrics == {}


@pytest.mark.slow
def test_a_rule_is_without_jit_what_it_is_with_it():
    compiled, state = compile_gradient(FeedbackAlignment())
    plain = FeedbackAlignment()(MODEL, LOSS).bind(state)
    judge(compiled(PARAMS, X, LABELS, WEIGHTS), plain(PARAMS, X, LABELS, WEIGHTS), X.dtype)


# Other weights on the way back


def feedback_alignment(feedback):
    B = {place: np.array(feedback[place]["W"]) for place in MATRICES}
    return lambda place, delta, top: delta @ B[place]


def direct_feedback_alignment(feedback):
    B = {int(path): np.array(matrix) for path, matrix in feedback.items()}
    return lambda place, delta, top: top @ B[place].T


@pytest.mark.parametrize("back", [feedback_alignment, direct_feedback_alignment], ids=lambda back: back.__name__)
def test_feedback_alignment_is_the_loop_that_one_would_write(back):
    before, after, _ = run_training(RULES[back.__name__], shuffle=False)
    expected = by_hand(before.params, back(before.gradient_state), 3, 0.2)
    assert compare(after.params, expected).error < 1e-12
    assert compare(after.params, by_hand(before.params, None, 3, 0.2)).error > 1e-2  # backprop gives other parameters
    assert compare(after.gradient_state, before.gradient_state).error == 0


def test_feedback_alignment_with_the_weights_for_feedback_is_backprop():
    model, key = Sequential((Dense(4, 5), Tied(5, 4), Dropout(0.3), Dense(5, 3))), jax.random.key(8)
    params = model.init(KEY)
    gradient, _ = compile_gradient(FeedbackAlignment(), model, state=params)
    expected = jax.jit(backprop(model, LOSS))(params, X, LABELS, WEIGHTS, key)
    judge(gradient(params, X, LABELS, WEIGHTS, key), expected, X.dtype)


def test_feedback_alignment_takes_a_tied_matrix_s_feedback_at_each_of_its_uses():
    layer = Tied(4, 3)
    params, t = layer.init(KEY), jax.random.normal(jax.random.key(9), (13, 4))
    gradient, feedback = compile_gradient(FeedbackAlignment(), layer, SquaredError(), key=jax.random.key(8))
    W, B, x, t = (np.array(a) for a in (params["W"], feedback["W"], X, t))
    h = np.tanh(x @ W.T)
    error = (h @ W - t) / 13
    judge(gradient(params, X, t)[1], {"W": h.T @ error + ((1 - h**2) * (error @ B.T)).T @ x}, X.dtype)


@pytest.mark.parametrize("magnitudes", choose(["batchwise", "fixed", "uniform"], 3))
def test_sign_symmetric_sees_the_signs_of_w_and_other_magnitudes(magnitudes):
    rule = SignSymmetric(magnitudes)
    gradient, feedback = compile_gradient(rule, key=jax.random.key(8))
    backward_params = rule.backward_params(PARAMS, feedback)
    _, weights = compile_gradient(FeedbackAlignment(), key=jax.random.key(8))  # drawn with the same key
    for place in MATRICES:
        W, S = np.array(PARAMS[place]["W"]), np.array(backward_params[place]["W"])
        np.testing.assert_array_equal(np.sign(S), np.sign(W))
        np.testing.assert_array_equal(backward_params[place]["b"], PARAMS[place]["b"])
        assert abs(np.corrcoef(abs(S.ravel()), abs(W.ravel()))[0, 1] if magnitudes != "uniform" else 0) < 0.9
        assert len(np.unique(abs(S))) == (1 if magnitudes == "uniform" else W.size)
        np.testing.assert_allclose(abs(S).mean(), abs(np.array(weights[place]["W"])).mean(), rtol=1e-12)
    expected = by_numpy(PARAMS, X, LABELS, lambda place, delta, top: delta @ np.array(backward_params[place]["W"]))
    judge(gradient(PARAMS, X, LABELS)[1], expected, X.dtype)
    again = rule(MODEL, LOSS).step(PARAMS, feedback, X, LABELS, None, jax.random.key(9))[2]
    stays = [bool(jnp.all(a["W"] == b["W"])) for a, b in zip(again, feedback, strict=True) if a]
    assert stays == [magnitudes != "batchwise"] * 3


@pytest.mark.slow
def test_batchwise_magnitudes_change_at_every_step_of_a_run():
    rule, magnitudes = SignSymmetric("batchwise"), []

    def spying(model, loss):
        gradient = rule(model, loss)

        def step(params, state, *args, **options):
            jax.debug.callback(lambda M: magnitudes.append(float(M)), state[2]["W"][0, 0], ordered=True)
            return gradient.step(params, state, *args, **options)

        return Stateful(step, gradient.init, gradient.random)

    run_training(spying, epochs=2)
    jax.effects_barrier()
    assert len(set(magnitudes)) == len(magnitudes) == 6


OPTIMIZERS = {
    "sgd": lambda decay: optimizer("sgd", 0.1, weight_decay=decay),
    "momentum": lambda decay: optimizer("momentum", 0.1, weight_decay=decay),
    "adam": lambda decay: optimizer("adam", 0.1, weight_decay=decay),
    "optax": lambda decay: optax.chain(optax.add_decayed_weights(decay), optax.sgd(0.1)),
}


@pytest.mark.parametrize(
    ("name", "decay"),
    choose([("adam", 0.2), ("momentum", 0.0), ("momentum", 0.2), ("optax", 0.2), ("sgd", 0.2)], 2),
)
def test_what_w_and_its_kolen_pollack_feedback_began_with_decays_at_the_rate_of_the_weight_decay(name, decay):
    opt = OPTIMIZERS[name](decay)
    before, after, _ = run_training(KolenPollack(opt), opt=opt)
    for place in MATRICES:
        first, last = (s.params[place]["W"] - s.gradient_state.weights[place]["W"] for s in (before, after))
        np.testing.assert_allclose(last, (1 - 0.1 * decay) ** 9 * first, atol=1e-14)  # nine steps' roundings
        assert jnp.abs(first).max() > 0.1
        assert jnp.abs(after.params[place]["W"] - before.params[place]["W"]).max() > 0.01


def test_with_weight_decay_kolen_pollack_s_feedback_becomes_w():
    opt = OPTIMIZERS["sgd"](0.1)
    _, history = run_fit(WithAngles(KolenPollack(opt)), opt=opt, epochs=500)
    for place in MATRICES:
        angles = history.metrics[f"feedback angle {place}.W"]
        assert angles[0] > 45
        assert angles[-1] < 0.1
        assert history.metrics[f"gradient angle {place}.W"][-1] < 0.1


@pytest.mark.parametrize("name", ["direct_feedback_alignment", "feedback_alignment"])
def test_feedback_is_no_parameter_which_weight_decay_would_find(name):
    before, after, _ = run_training(RULES[name], opt=optimizer("adam", 0.1, weight_decay=0.5))
    assert compare(after.gradient_state, before.gradient_state).error == 0
    shapes = jax.tree.map(jnp.shape, PARAMS)
    _, grads = jax.eval_shape(RULES[name](MODEL, LOSS), PARAMS, X, LABELS)
    for same in (grads, before.params, after.params, after.opt_state[0][0].mu):  # Adam's first moments
        assert jax.tree.map(jnp.shape, same) == shapes


# Direct feedback


@pytest.mark.parametrize("end", ["Dense", "softmax"])
def test_only_the_last_layer_with_parameters_learns(end):
    model = Sequential((Dense(4, 6), tanh, Sequential((Dense(6, 5), tanh)), Dense(5, 3), *[softmax] * (end != "Dense")))
    params, t = model.init(KEY), T
    loss = SquaredError()
    gradient, _ = compile_gradient(OutputLayerOnly(), model, loss)
    value, grads = gradient(params, X, t, WEIGHTS)
    expected, full = jax.jit(backprop(model, loss))(params, X, t, WEIGHTS)
    judge((value, grads[3]), (expected, full[3]), X.dtype)
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(grads[:3]))
    assert all(jnp.any(leaf) for leaf in jax.tree.leaves(full[:3]))
    assert jax.tree.structure(grads) == jax.tree.structure(params)


def test_only_the_last_layer_learns_where_a_skip_connection_passes_it():
    model = Sequential((Dense(4, 3), tanh, Residual(Sequential((Dense(3, 3), tanh)))))
    params = model.init(KEY)
    _, grads = compile_gradient(OutputLayerOnly(), model, SquaredError())[0](params, X, T)
    full = jax.jit(backprop(model, SquaredError()))(params, X, T)[1]
    assert compare(grads[2], full[2]).error < 1e-12
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(grads[:2]))
    ruled = RuledLayer(model, OutputLayerOnly())
    y, saved = ruled.forward((params, ()), X[0])
    assert not jnp.any(ruled.backward((params, ()), saved, y)[1])


def test_direct_feedback_reaches_the_layers_beside_a_skip_connection():
    """What arrives at the output of the skip connection comes from a random matrix, too, and is added."""
    model = Sequential((Dense(4, 5), Residual(Sequential((tanh, Dense(5, 5)))), Dense(5, 3)))
    params = model.init(KEY)
    gradient, feedback = compile_gradient(DirectFeedbackAlignment(), model, SquaredError())
    assert {path: B.shape for path, B in feedback.items()} == {"1.1": (5, 3), "2": (5, 3)}
    grads = gradient(params, X, T)[1]
    y, saved = jax.vmap(model.forward, (None, 0))(params, X)
    h, error = np.array(saved[1][0][1]), np.array(y - T) / 13
    direct = error @ np.array(feedback["2"]).T
    np.testing.assert_allclose(grads[1][1]["W"], direct.T @ h, rtol=1e-11, atol=1e-15)
    below = direct + (1 - h**2) * (error @ np.array(feedback["1.1"]).T)
    np.testing.assert_allclose(grads[0]["W"], below.T @ np.array(X), rtol=1e-11, atol=1e-15)


def test_a_threshold_inside_a_skip_connection_passes_the_error_straight_through():
    model = Sequential((Dense(4, 5), Residual(threshold), Dense(5, 3)))
    params = model.init(KEY)
    _, grads = compile_gradient(StraightThrough(), model, SquaredError())[0](params, X, T)
    doubled = Sequential((Dense(4, 5), Residual(identity), Dense(5, 3)))  # dx = dy + dy
    y, saved = jax.vmap(model.forward, (None, 0))(params, X)
    expected = jax.vmap(doubled.backward, (None, 0, 0))(
        params, (saved[0], (saved[1][0], saved[1][0]), saved[2]), (y - T) / 13
    )
    assert compare(grads, sum_examples(expected[0])).error < 1e-12


def test_direct_feedback_reaches_into_chains_and_past_what_has_no_parameters():
    model = Sequential((tanh, Sequential((Dense(4, 6), Sequential((tanh, Dense(6, 5))), tanh)), Dense(5, 3), softmax))
    params = model.init(KEY)
    gradient, feedback = compile_gradient(DirectFeedbackAlignment(), model, SquaredError(), key=jax.random.key(8))
    assert {path: B.shape for path, B in feedback.items()} == {"1.1.1": (6, 3), "2": (5, 3)}
    grads = gradient(params, X, T)[1]
    y, saved = jax.jit(jax.vmap(model.forward, (None, 0)))(params, X)
    h1, h2 = (np.array(saved[1][1][0][1]), np.array(saved[1][2][1]))
    error = np.array(y - T) / 13
    logits = np.array(y) * (error - np.sum(np.array(y) * error, axis=1, keepdims=True))
    delta2 = (1 - h2**2) * (error @ np.array(feedback["2"]).T)
    delta1 = (1 - h1**2) * (error @ np.array(feedback["1.1.1"]).T)
    np.testing.assert_allclose(grads[2]["b"], logits.sum(axis=0), rtol=1e-11)
    np.testing.assert_allclose(grads[1][1][1]["W"], delta2.T @ h1, rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(grads[1][0]["W"], delta1.T @ np.tanh(np.array(X)), rtol=1e-11, atol=1e-15)


def test_direct_feedback_gives_every_place_of_a_feature_map_an_error_of_its_own():
    layers = (Input((4, 3, 2)), Conv(2, 3, (2, 2)), tanh, Residual(Conv(3, 3, (1, 1))), Flatten(), Dense(18, 2))
    model, x, t = Sequential(layers), jax.random.normal(KEY, (5, 4, 3, 2)), jnp.ones((5, 2))
    params = model.init(KEY)
    gradient, feedback = compile_gradient(DirectFeedbackAlignment(), model, SquaredError())
    assert {path: B.shape for path, B in feedback.items()} == {"3": (3, 2, 3, 2), "5": (18, 2)}
    grads = gradient(params, x, t)[1]
    y, saved = jax.vmap(model.forward, (None, 0))(params, x)
    error = (y - t) / 5
    above = (error @ feedback["5"].T).reshape(5, 3, 2, 3)  # what the skip connection passes on
    delta = (1 - saved[2][1] ** 2) * (above + jnp.einsum("hwcm,bm->bhwc", feedback["3"], error))
    expected = jax.vmap(layers[1].backward, (None, 0, 0))(params[1], x, delta)[0]
    assert compare(grads[1], sum_examples(expected)).error < 1e-12
    without = Sequential((Conv(2, 3, (2, 2)), tanh, Conv(3, 3, (1, 1)), Flatten(), Dense(18, 2)))
    sentence = (
        r"^expected a model that begins with an Input for DirectFeedbackAlignment, because Conv\(3, 3, .*\(3, 2, 3\)"
    )
    with pytest.raises(ValueError, match=sentence):
        compile_gradient(DirectFeedbackAlignment(), without, SquaredError())[0](without.init(KEY), x, t)


# Other deltas


@pytest.mark.parametrize("within", [1.0, np.inf])
def test_straight_through_passes_at_a_threshold_what_the_identity_passes(within):
    def surrogate(x):  # it has the threshold's values, and for autodiff the window's derivative
        window = jnp.clip(x, -within, within)
        return window + jax.lax.stop_gradient(threshold.function(x) - window)

    model, other = (mlp((4, 6, 5, 3), hidden=h) for h in (threshold, Elementwise("surrogate", surrogate, jnp.multiply)))
    gradient, _ = compile_gradient(StraightThrough(within), model)
    expected = jax.jit(autodiff(other, LOSS))(PARAMS, X, LABELS, WEIGHTS)
    judge(gradient(PARAMS, X, LABELS, WEIGHTS), expected, X.dtype)
    both = jax.jit(lambda *args: [true(model, LOSS)(*args)[1] for true in (autodiff, backprop)])
    for grads in both(PARAMS, X, LABELS, WEIGHTS):
        assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(grads[:4]))
        assert jnp.any(grads[4]["W"])


def test_the_two_windows_of_straight_through_differ():
    model = mlp((4, 6, 5, 3), hidden=threshold)
    narrow, wide = (
        compile_gradient(StraightThrough(within), model)[0](PARAMS, X, LABELS)[1] for within in (1.0, np.inf)
    )
    assert compare(narrow, wide).error > 0.1


@pytest.mark.slow
def test_a_network_of_thresholds_learns_xor_only_straight_through():
    model, x, t = (
        mlp((2, 4, 1), hidden=threshold),
        jnp.array([[0, 0], [0, 1], [1, 0], [1, 1.0]]),
        jnp.array([0, 1, 1, 0]),
    )
    keys = jax.random.split(KEY, 20)

    def losses(gradient):
        def run(key):
            settings = {"epochs": 300, "batch_size": 4, "gradient": gradient}
            return fit(model, SigmoidCrossEntropy(), optax.adam(0.03), x, t[:, None], key=key, **settings)[1].loss[-1]

        return jax.jit(jax.vmap(run))(keys)

    with_rule, without = losses(StraightThrough(1.0)), losses(backprop)
    assert jnp.sum(with_rule < 0.1) > jnp.sum(without < 0.1) + 5, (with_rule, without)


@pytest.mark.parametrize("max_norm", [1e-3, 0.4, 1e3])
def test_each_example_s_deltas_are_clipped_whatever_the_batch(max_norm):
    gradient, _ = compile_gradient(ClippedDeltas(max_norm))

    def clip(delta):
        return delta * min(1, max_norm / np.linalg.norm(delta))

    example_grads = [by_numpy(PARAMS, X[i : i + 1], LABELS[i : i + 1], change=clip) for i in range(13)]
    share = np.array(WEIGHTS / WEIGHTS.sum())
    expected = jax.tree.map(lambda *g: sum(s * g for s, g in zip(share, g, strict=True)), *example_grads)
    judge(gradient(PARAMS, X, LABELS, WEIGHTS)[1], expected, X.dtype)
    judge(gradient(PARAMS, X[:1], LABELS[:1])[1], example_grads[0], X.dtype)


@pytest.mark.slow
def test_noisy_deltas_are_right_in_the_mean():
    draws, s = 4000, 0.5
    gradient = NoisyDeltas(s)(MODEL, LOSS)
    run = jax.jit(jax.vmap(lambda key: gradient(PARAMS, X, LABELS, WEIGHTS, key)[1]))
    drawn = run(jax.random.split(KEY, draws))
    example_grads = [by_numpy(PARAMS, X[i : i + 1], LABELS[i : i + 1]) for i in range(13)]
    share = np.array(WEIGHTS / WEIGHTS.sum())
    true = jax.tree.map(lambda *g: sum(s * g for s, g in zip(share, g, strict=True)), *example_grads)
    # Five standard errors: one of 91 normal means is further off with a probability of 91 x 6e-7.
    for g, w in zip(jax.tree.leaves(jax.tree.map(np.array, drawn)), jax.tree.leaves(true), strict=True):
        assert (abs(g.mean(axis=0) - w) < 5 * g.std(axis=0) / draws**0.5).all()
    # The last bias's gradient is Σ_i s_i δ_i with noise of s rms(δ_i) on each entry.
    rms = np.array([np.sqrt(np.mean(g[4]["b"] ** 2)) for g in example_grads])
    spread = s * np.linalg.norm(share * rms)
    actual = np.array(drawn[4]["b"]).std(axis=0)
    np.testing.assert_allclose(actual, spread, rtol=5 / (2 * draws) ** 0.5)  # five standard errors


def test_noise_needs_a_key_and_differs_between_keys():
    gradient, _ = compile_gradient(NoisyDeltas(0.5))
    one, two = (gradient(PARAMS, X, LABELS, key=jax.random.key(seed))[1] for seed in (1, 2))
    assert compare(one, gradient(PARAMS, X, LABELS, key=jax.random.key(1))[1]).error == 0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert jnp.all(a != b)
    judge(gradient(PARAMS, X, LABELS)[1], by_numpy(PARAMS, X, LABELS), X.dtype)


@pytest.mark.slow
def test_training_draws_noise_anew_at_each_step():
    metrics = run_fit(WithAngles(NoisyDeltas(0.5)), opt=optax.sgd(0.0), epochs=4, batch_size=13)[1].metrics
    angles = np.array(metrics["gradient angle 0.W"])  # parameters and batch are the same in all four steps
    assert len(np.unique(angles.round(6))) == 4
    assert angles.min() > 1


# Angles


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("radians", [0.0, 1e-9, 1e-4, np.pi / 3, np.pi / 2, 3.0, np.pi])
def test_the_angle_between_two_arrays(radians, dtype):
    a = jnp.array([[2.5, 0.0], [0.0, 0.0]], dtype)
    b = 0.3 * jnp.array([[np.cos(radians), 0.0], [np.sin(radians), 0.0]], dtype)
    actual, back = jax.jit(lambda a, b: (angle(a, b), angle(b, a)))(a, b)
    assert actual.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)  # rounding a unit vector turns it by about this many radians
    np.testing.assert_allclose([actual, back], np.degrees(radians), rtol=4 * eps, atol=np.degrees(eps))


def test_the_angle_of_arrays_of_any_direction_and_of_zeros():
    a, b = (jax.random.normal(jax.random.key(seed), (3, 4)) for seed in (1, 2))
    cosine = jnp.sum(a * b) / jnp.sqrt(jnp.sum(a * a) * jnp.sum(b * b))
    np.testing.assert_allclose(angle(a, 7 * b), np.degrees(np.arccos(cosine)), rtol=1e-12)
    np.testing.assert_allclose(angle(a, 1e-3 * a), 0, atol=1e-13)
    np.testing.assert_allclose(angle(a, -a), 180, rtol=1e-15)
    assert angle(a, 0 * a) == angle(0 * a, a) == 90
    assert angle(0 * a, 0 * a) == 0


@pytest.mark.parametrize(("dtype", "size"), [("float32", 1e-25), ("float32", 1e25), ("float64", 1e-200)])
def test_the_angle_of_arrays_of_any_size(dtype, size):
    a, b = (jax.random.normal(jax.random.key(seed), (3, 4), dtype) for seed in (1, 2))
    actual = jax.jit(angle)(jnp.asarray(size, dtype) * a, b)
    np.testing.assert_allclose(actual, by_cosine(a, b), rtol=1e-5 if dtype == "float32" else 1e-12)


def test_angles_are_means_over_an_epoch_s_steps_named_by_their_matrices():
    (params, history), (plain, _) = (run_fit(rule) for rule in (WithAngles(FeedbackAlignment()), FeedbackAlignment()))
    names = [f"{what} angle {place}.W" for what in ("gradient", "feedback") for place in MATRICES]
    assert sorted(history.metrics) == sorted(names)
    assert {metric.shape for metric in history.metrics.values()} == {(3,)}
    assert compare(params, plain).error < 1e-12  # measuring angles changes no step
    before, after, one = run_training(WithAngles(FeedbackAlignment()), epochs=1, shuffle=False)
    B, angles = feedback_alignment(before.gradient_state), []
    params = before.params
    for first in range(0, 13, 5):
        batch = X[first : first + 5], LABELS[first : first + 5]
        actual, true = by_numpy(params, *batch, B), by_numpy(params, *batch)
        feedback_angle = by_cosine(params[2]["W"], before.gradient_state[2]["W"])
        angles.append([by_cosine(actual[0]["W"], true[0]["W"]), feedback_angle])
        params = jax.tree.map(lambda p, g: p - 0.2 * g, params, actual)
    expected = np.mean(angles, axis=0)
    np.testing.assert_allclose(one.metrics["gradient angle 0.W"], expected[:1], rtol=1e-9)
    np.testing.assert_allclose(one.metrics["feedback angle 2.W"], expected[1:], rtol=1e-9)
    np.testing.assert_allclose(one.metrics["gradient angle 4.W"], 0, atol=1e-9)  # no feedback acts above the last layer
    assert compare(after.gradient_state, before.gradient_state).error == 0


def by_cosine(a, b):
    a, b = np.ravel(a), np.ravel(b)
    return np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))


def test_only_rules_that_see_other_weights_have_feedback_angles():
    for rule in (Rule(), DirectFeedbackAlignment(), OutputLayerOnly()):
        metrics = jax.eval_shape(lambda rule=rule: run_training(WithAngles(rule), epochs=1)[2]).metrics
        assert sorted(metrics) == [f"gradient angle {place}.W" for place in MATRICES]


@pytest.mark.slow
def test_weights_come_to_align_with_their_random_feedback():
    x = jax.random.normal(jax.random.key(1), (100, 10))
    t = x @ jax.random.normal(jax.random.key(2), (10, 4))
    model = mlp((10, 20, 4), hidden=tanh)

    def run(key):
        settings = {"epochs": 60, "batch_size": 20, "gradient": WithAngles(FeedbackAlignment())}
        return fit(model, SquaredError(), optax.sgd(0.02), x, t, key=key, **settings)[1].metrics

    metrics = jax.jit(jax.vmap(run))(jax.random.split(KEY, 5))
    for name in ("feedback angle 2.W", "gradient angle 0.W"):
        assert metrics[name][:, 0].mean() > 75
        assert metrics[name][:, -1].mean() < 60
        # The angle of two random matrices of 4 x 20 entries is 90 degrees, with a standard deviation of 6.4.
        assert jnp.all(metrics[name][:, -1] < 70), metrics[name][:, -1]


# In training, and with the other layers


def counting(model, loss):
    """Returns a gradient function that counts its steps, with its count and a number drawn with its key as metrics."""

    def step(params, count, x, t, weights=None, key=None):
        metrics = {"count": 1.0 * count, "draw": jax.random.uniform(key)}
        return *backprop(model, loss)(params, x, t, weights), count + 1, metrics

    return Stateful(step, lambda key: jnp.zeros((), int), random=True)


def test_a_stateful_gradient_s_state_goes_from_step_to_step_and_its_metrics_into_the_history():
    before, after, history = run_training(counting, shuffle=False)
    assert (before.gradient_state, after.gradient_state) == (0, 9)
    np.testing.assert_array_equal(history.metrics["count"], [1, 4, 7])
    assert len(np.unique(history.metrics["draw"])) == 3
    assert compare(after.params, by_hand(before.params, None, 3, 0.2)).error < 1e-12


def test_an_optimizer_that_asks_for_the_loss_gets_it_at_the_state_of_the_step():
    def shifted(model, loss):
        def step(params, count, x, t, weights=None):
            value, grads = backprop(model, loss)(params, x, t, weights)
            return value + count, grads, count + 1, {}

        return Stateful(step, lambda key: jnp.zeros(()))

    def update(grads, largest, params, *, value, value_fn, **options):
        return grads, jnp.maximum(largest, jnp.abs(value - value_fn(params)))

    asking = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)
    _, after, history = run_training(shifted, opt=optax.chain(asking, SGD))
    assert after.opt_state[0] < 1e-12
    assert history.step_loss[-1, -1] > 7


def test_a_plain_gradient_function_keeps_no_state():
    gradient = as_stateful(backprop(MODEL, LOSS))
    value, grads, state, metrics = gradient.step(PARAMS, (), X, LABELS, WEIGHTS)
    assert compare((value, grads), backprop(MODEL, LOSS)(PARAMS, X, LABELS, WEIGHTS)).error == 0
    assert (state, metrics, gradient.random) == ((), {}, False)
    assert as_stateful(gradient) is gradient


def test_called_it_has_the_state_that_it_draws_with_key_0():
    gradient = FeedbackAlignment()(MODEL, LOSS)

    @jax.jit
    def three(*args):
        first, second = (gradient.bind(gradient.init(jax.random.key(seed)))(*args) for seed in (0, 1))
        return gradient(*args[:3], weights=args[3]), first, second

    called, first, second = three(PARAMS, X, LABELS, WEIGHTS)
    assert compare(called, first).error == 0
    assert compare(called, second).error > 0.01


PIECES = {
    "angles": WithAngles(SignSymmetric("batchwise")),
    "kolen_pollack": KolenPollack(OPTIMIZERS["adam"](0.1)),
}


@pytest.mark.parametrize("name", sorted(PIECES))
@pytest.mark.slow
def test_a_run_in_pieces_is_the_run(name):
    recipe = Recipe(mlp((4, 6, 3), hidden=tanh, dropout=0.2), LOSS, OPTIMIZERS["adam"](0.1), 5, PIECES[name])
    final, history = train(recipe, start(recipe, KEY), LANES, 2)
    state, histories = start(recipe, KEY), []
    for _ in range(2):
        state, piece = train(recipe, state, LANES, 1)
        histories.append(piece)
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *histories)
    for a, b in zip(jax.tree.leaves((state, joined)), jax.tree.leaves((final, history)), strict=True):
        np.testing.assert_array_equal(*(jax.random.key_data(c) if c.dtype == state.key.dtype else c for c in (a, b)))


@pytest.mark.slow
def test_runs_under_vmap_are_the_runs():
    gradient, keys = WithAngles(KolenPollack(OPTIMIZERS["momentum"](0.1))), jax.random.split(KEY, 3)

    def run(key):
        return run_fit(gradient, opt=OPTIMIZERS["momentum"](0.1), key=key)

    together = jax.jit(jax.vmap(run))(keys)
    for i, key in enumerate(keys):
        params, history = run(key)
        one = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        assert compare(one[0], params).error < 1e-11  # batched products round differently
        for name in history.metrics:
            np.testing.assert_allclose(one[1].metrics[name], history.metrics[name], rtol=1e-9, atol=1e-5)


@pytest.mark.parametrize("name", choose(["feedback_alignment", "direct_feedback_alignment"], 2))
def test_the_check_takes_a_rule_that_is_declared(name):
    model = mlp((4, 5, 3), hidden=tanh)
    args = model, LOSS, model.init(jax.random.key(6)), X, LABELS
    below = ["gradient.0", "gradient.weighted.0"]
    report = check(*args, gradient=RULES[name], on_purpose=below, examples=5)
    report.raise_if_wrong()
    assert {row.path for row in report.rows if row.verdict == ON_PURPOSE} == {
        f"{p}.{leaf}" for p in below for leaf in "Wb"
    }
    assert "degrees from the true gradient" in report["gradient.0.W"].diagnosis


@pytest.mark.slow
def test_feedback_goes_through_lower_precision_and_dropout_too():
    inner = mlp((4, 6, 5, 3), hidden=tanh, dropout=0.3)
    key, params, state = jax.random.key(7), inner.init(jax.random.key(6)), inner.init(jax.random.key(8))
    exact, _ = compile_gradient(FeedbackAlignment(), inner, state=state)
    rounded, _ = compile_gradient(FeedbackAlignment(), MixedPrecision(inner), state=state)
    actual, expected = (gradient(params, X, LABELS, WEIGHTS, key)[1] for gradient in (rounded, exact))
    assert 1e-6 < compare(actual, expected).error < 0.05  # bfloat16 has 8 bits
    params, history = run_fit(FeedbackAlignment(), MixedPrecision(inner), epochs=40)
    assert history.loss[-1] < 0.8 * history.loss[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float64")}


def test_a_new_rule_takes_ten_lines():
    @dataclass(frozen=True)
    class SignOfTheError(Rule):
        def backward(self, altered, params, feedback, saved, dy):
            return altered.backward(params, saved, jnp.sign(dy))

    _, grads = compile_gradient(SignOfTheError())[0](PARAMS, X, LABELS)
    top = []

    def sign_at_the_top(delta):
        top.append(delta)
        return np.sign(delta) / 13 if len(top) == 1 else delta

    judge(grads, by_numpy(PARAMS, X, LABELS, change=sign_at_the_top), X.dtype)
    assert run_fit(SignOfTheError(), opt=optax.sgd(0.05), epochs=40)[1].loss[-1] < 0.3  # larger steps overshoot


# The keys of the feedback


def test_feedback_is_drawn_independently_of_all_weights():
    model = Sequential((Dense(4, 4), Sequential((Dense(4, 4), Dense(4, 3)))))
    before = start(Recipe(model, LOSS, SGD, 5, FeedbackAlignment()), KEY)
    assert jnp.all(before.gradient_state[0]["W"] != before.params[1][0]["W"])


def test_feedback_of_a_call_is_not_the_weights_that_key_0_draws():
    params = MODEL.init(jax.random.key(0))
    actual = jax.jit(FeedbackAlignment()(MODEL, LOSS))(params, X, LABELS)[1]
    assert compare(actual, by_numpy(params, X, LABELS)).error > 0.01


# Bad input


@dataclass(frozen=True)
class Scale(Layer):
    """y = w x, for x of any size."""

    def init(self, key):
        return jax.random.normal(key, ())

    def forward(self, params, x, key=None):
        return params * x, x

    def backward(self, params, saved, dy):
        return saved @ dy, params * dy


class Shift(Layer):
    """y = x + 1, a layer that states nothing about its shapes."""

    def forward(self, params, x, key=None):
        return x + 1, ()

    def backward(self, params, saved, dy):
        return (), dy


def test_a_model_that_does_not_fit_a_rule_is_refused_in_a_sentence():
    for rule in (DirectFeedbackAlignment(), OutputLayerOnly(), ClippedDeltas(1.0), NoisyDeltas(1.0)):
        name = str(rule).replace("(", r"\(").replace(")", r"\)")
        with pytest.raises(ValueError, match=rf"^expected a Sequential for {name}, got Dense\(4, 3\)$"):
            rule(Dense(4, 3), LOSS)
        with pytest.raises(ValueError, match=rf"^expected a model with parameters for {name}, got Sequential\(.*tanh"):
            rule(Sequential((tanh, softmax)), LOSS)
    sentence = r"^expected layer 1 to have an input size for DirectFeedbackAlignment\(\), got Scale\(\)$"
    with pytest.raises(ValueError, match=sentence):
        DirectFeedbackAlignment()(Sequential((Dense(4, 3), Scale())), LOSS).init(KEY)
    sentence = r"^expected a model with an output size for DirectFeedbackAlignment\(\), got Sequential\("
    with pytest.raises(ValueError, match=sentence):
        DirectFeedbackAlignment()(Sequential((Dense(4, 3), Dense(3, 2), Shift())), LOSS).init(KEY)
    sentence = r"^expected a model with a threshold for StraightThrough\(within=1\.0\), got Sequential\("
    with pytest.raises(ValueError, match=sentence):
        StraightThrough(1.0)(MODEL, LOSS)


def test_a_threshold_is_0_at_0():
    x = jnp.array([-jnp.inf, -2, -0.0, 0, 1e-300, jnp.inf])
    np.testing.assert_array_equal(threshold.forward((), x)[0], [0, 0, 0, 0, 1, 1])


def test_a_threshold_lets_a_nan_out():
    assert jnp.isnan(threshold.forward((), jnp.array([jnp.nan]))[0]).all()


def test_a_run_by_a_rule_that_stops_being_finite_says_where():
    with pytest.raises(FloatingPointError, match=r"epoch \d+, step \d: the first value that is not finite is in"):
        run_fit(FeedbackAlignment(), opt=optax.sgd(1e9), loss=SquaredError(), t=T, epochs=20)


def test_a_window_that_is_not_above_0_is_refused_in_a_sentence():
    for bad, expectation in ((np.nan, "to be a finite number"), (-1.0, "above 0"), (0.0, "above 0")):
        with pytest.raises(ValueError, match=f"^expected within {expectation}, got {bad}$"):
            StraightThrough(bad)


def test_unknown_magnitudes_are_refused_in_a_sentence():
    rule = SignSymmetric()
    object.__setattr__(rule, "magnitudes", "random")  # the type checker of the tests refuses SignSymmetric("random")
    with pytest.raises(SettingError, match=r"^expected magnitudes to be fixed, batchwise or uniform, got 'random'$"):
        rule.__post_init__()


def test_numbers_out_of_range_are_refused_in_a_sentence():
    for rule, name, expectation, values in (
        (ClippedDeltas, "max_norm", "above 0", (0.0, -1.0)),
        (ClippedDeltas, "max_norm", "to be a finite number", (np.nan, np.inf)),
        (NoisyDeltas, "noise", "of at least 0", (-1.0,)),
        (NoisyDeltas, "noise", "to be a finite number", (np.nan, np.inf)),
    ):
        for bad in values:
            with pytest.raises(ValueError, match=f"^expected {name} {expectation}, got {bad}$"):
                rule(bad)


@pytest.mark.parametrize("name", choose(sorted(RULES), 3))
def test_gradients_have_the_precision_of_the_parameters_not_of_the_feedback(name):
    model, loss = mlp((4, 6, 3), hidden=tanh), SoftmaxCrossEntropy()
    params = cast(model.init(jax.random.key(1)), jnp.float32)  # the feedback is drawn in float64
    x, t = jax.random.normal(jax.random.key(2), (5, 4), jnp.float32), jnp.arange(5) % 3
    _, grads = RULES[name](model, loss)(params, x, t, key=jax.random.key(3))
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype(jnp.float32)}
