"""Recurrent layers, beside loops in NumPy and PyTorch's; the table of cases compares their backward with autodiff."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.nn import initializers
from support.draws import draw_params
from support.judges import cast, judge_network
from support.recurrent_mutants import MUTANTS, LeakyRNN
from support.selection import choose
from support.unchecked import unchecked

from jaxann import autodiff, backprop, check_layer, fit, predict
from jaxann.nn import (
    GRU,
    LSTM,
    RNN,
    Dense,
    Each,
    LastStep,
    MixedPrecision,
    Parallel,
    Sequential,
    SoftmaxCrossEntropy,
    SquaredError,
    bidirectional,
    identity,
    materialize,
    recurrent_network,
    softmax,
    tanh,
)

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (7, 2))
DY = jax.random.normal(jax.random.key(2), (7, 3))


def logistic(z):
    return 1 / (1 + np.exp(-z))


def step_rnn(p, x, h):
    return (np.tanh(p["Wx"] @ x + p["b"] + p["Wh"] @ h),)


def step_gru(p, x, h):
    (xr, xu, xn), (hr, hu, hn) = np.split(p["Wx"] @ x + p["b"], 3), np.split(p["Wh"] @ h, 3)
    r, u = logistic(xr + hr), logistic(xu + hu)
    return ((1 - u) * np.tanh(xn + r * (hn + p["bh"])) + u * h,)


def step_lstm(p, x, h, c):
    i, f, g, o = np.split(p["Wx"] @ x + p["b"] + p["Wh"] @ h, 4)
    c = logistic(f) * c + logistic(i) * np.tanh(g)
    return logistic(o) * np.tanh(c), c


def step_leaky(p, x, h):
    return ((h + step_rnn(p, x, h)[0]) / 2,)


@pytest.mark.parametrize(
    ("cell", "step"), [(RNN, step_rnn), (GRU, step_gru), (LSTM, step_lstm), (LeakyRNN, step_leaky)]
)
def test_a_recurrent_layer_goes_through_the_steps_one_by_one(cell, step):
    layer = cell(2, 3)
    params = draw_params(layer)
    arrays, state, ys = jax.tree.map(np.asarray, params), (np.zeros(3),) * cell.states, []
    for x in np.asarray(X):
        state = step(arrays, x, *state)
        ys.append(state[0])
    np.testing.assert_allclose(layer.forward(params, X)[0], ys, rtol=1e-13, atol=1e-14)
    backwards = replace(layer, reverse=True).forward(params, X[::-1])[0]
    np.testing.assert_allclose(backwards, ys[::-1], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("cell", [RNN, GRU, LSTM])
def test_pytorch_agrees_in_both_directions(cell):
    torch = pytest.importorskip("torch")
    peer = getattr(torch.nn, cell.__name__)(2, 3, batch_first=True, bidirectional=True).double()
    x, dy = torch.tensor(np.asarray(X), requires_grad=True), np.random.default_rng(0).normal(size=(7, 6))
    y, _ = peer(x)
    y.backward(torch.tensor(dy))

    def convert(gradients):
        """Returns PyTorch's parameters, or their gradients, in the names of jaxann, for each direction."""
        both = []
        for end in ("_l0", "_l0_reverse"):
            tensors = [getattr(peer, name + end) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            Wx, Wh, bx, bh = (jnp.asarray((t.grad if gradients else t).detach().numpy()) for t in tensors)
            if cell is GRU:
                b = bx if gradients else bx.at[:6].add(bh[:6])
                both.append({"Wx": Wx, "Wh": Wh, "b": b, "bh": bh[6:]})
            else:
                both.append({"Wx": Wx, "Wh": Wh, "b": bx if gradients else bx + bh})
        return tuple(both)

    layer, params = bidirectional(cell(2, 3)), convert(gradients=False)
    ours, saved = layer.forward(params, X)
    np.testing.assert_allclose(ours, y.detach(), rtol=1e-12, atol=1e-13)
    grads, dx = layer.backward(params, saved, jnp.asarray(dy))
    np.testing.assert_allclose(dx, x.grad, rtol=1e-11, atol=1e-12)
    pairs = materialize(grads), convert(gradients=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), *pairs)


@pytest.mark.parametrize(
    "layer",
    [
        LSTM(2, 3, truncate=3, reverse=True),
        *(
            pytest.param(layer, marks=pytest.mark.slow)
            for layer in (LSTM(2, 3, truncate=2), GRU(2, 3, truncate=1), RNN(2, 3, truncate=7), RNN(2, 3, truncate=9))
        ),
    ],
    ids=str,
)
def test_truncated_gradients_stop_at_multiples_of_a_number_of_steps(layer):
    """Seven steps, which neither two nor three divides."""

    @jax.jit
    @jax.grad
    def by_autodiff(args):
        params, x = args
        state, total = (jnp.zeros(3),) * layer.states, 0
        bias = jnp.pad(params.get("bh", jnp.zeros(0)), (3 * layer.gates - 3 * layer.hidden_biases, 0))
        for position in range(7):
            t = 6 - position if layer.reverse else position
            state = jax.lax.stop_gradient(state) if position % layer.truncate == 0 else state
            state, _ = layer.step(params["Wx"] @ x[t] + params["b"], params["Wh"] @ state[0] + bias, state)
            total += DY[t] @ state[0]
        return total

    params = draw_params(layer)
    actual = materialize(layer.backward(params, layer.forward(params, X)[1], DY))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), actual, by_autodiff((params, X)))


@pytest.mark.slow
def test_a_check_accepts_truncation_as_a_purpose():
    layer = LSTM(2, 3, truncate=2)
    report = check_layer(layer, draw_params(layer), X, on_purpose=("Wx", "Wh", "b", "dx"), seconds=0)
    assert report.ok, report


@pytest.mark.parametrize("name", choose(MUTANTS, 32))
def test_a_wrong_term_of_a_backward_is_found(name):
    layer, wrong = MUTANTS[name]
    report = check_layer(layer, draw_params(layer), X[:4], seconds=0)
    assert set(report.wrong) == set(wrong), report


@pytest.mark.parametrize("cell", choose((LeakyRNN, RNN, GRU, LSTM), 4))
def test_right_cells_are_right_one_of_your_own_too(cell):
    for layer in (cell(2, 3), cell(2, 3, reverse=True)) if cell is LSTM else (cell(2, 3),):
        report = check_layer(layer, draw_params(layer), X[:4])
        assert report.ok, report


def test_the_last_step_is_the_first_one_of_a_reversed_sequence():
    for layer, t in ((LastStep(), 6), (LastStep(reverse=True), 0)):
        y, saved = layer.forward((), X)
        np.testing.assert_array_equal(y, X[t])
        _, dx = layer.backward((), saved, y)
        np.testing.assert_array_equal(dx, jnp.zeros((7, 2)).at[t].set(X[t]))
    np.testing.assert_array_equal(LastStep().forward((), jnp.ones((2, 3, 4)))[0], jnp.ones((3, 4)))


def test_both_directions_end_having_seen_every_step():
    every, last = bidirectional(RNN(2, 3)), bidirectional(RNN(2, 3), last=True)
    params = draw_params(every)
    y, _ = every.forward(params, X)
    end, _ = last.forward(tuple((p, ()) for p in params), X)
    np.testing.assert_array_equal(end, jnp.concatenate([y[-1, :3], y[0, 3:]]))
    assert every == Parallel((RNN(2, 3), RNN(2, 3, reverse=True)), "concatenation")
    assert (every.sizes, last.sizes) == ((2, 6), (2, None))


def test_a_recurrent_network_is_a_plain_chain():
    assert recurrent_network((4, 50, 3)) == Sequential((LSTM(4, 50), LastStep(), Dense(50, 3), identity))
    stacked = recurrent_network((4, 5, 6, 3), partial(GRU, truncate=20, reverse=True), softmax)
    layers = GRU(4, 5, truncate=20, reverse=True), GRU(5, 6, truncate=20, reverse=True)
    assert stacked == Sequential((*layers, LastStep(reverse=True), Dense(6, 3), softmax))
    steps = RNN(4, 5), Each(Dense(5, 3)), Each(softmax)
    assert recurrent_network((4, 5, 3), RNN, softmax, every_step=True) == Sequential(steps)
    layers = bidirectional(RNN(4, 5)), bidirectional(RNN(10, 6), last=True), Dense(12, 3), identity
    assert recurrent_network((4, 5, 6, 3), RNN, both_directions=True) == Sequential(layers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "m"),
    [
        (recurrent_network((2, 3, 4, 2), GRU, both_directions=True), (2,)),
        (recurrent_network((2, 3, 2), LSTM, tanh, every_step=True), (5, 2)),
    ],
    ids=["both directions", "every step"],
)
def test_networks_have_the_gradients_of_autodiff(network, m):
    keys = jax.random.split(KEY, 3)
    x, t = jax.random.normal(keys[0], (4, 5, 2)), jax.random.normal(keys[1], (4, *m))
    judge_network(network, SquaredError(), draw_params(network), x, t)
    judge_network(network, SquaredError(), *cast((draw_params(network), x, t), jnp.float32))


@pytest.mark.slow
def test_a_network_learns_what_it_saw_first():
    x = jax.random.normal(KEY, (256, 12, 1))
    t = (x[:, 0, 0] > 0).astype(int)
    network = recurrent_network((1, 12, 2), GRU)
    params, _ = fit(network, SoftmaxCrossEntropy(), optax.adam(0.02), x, t, key=KEY, epochs=60, batch_size=32)
    assert (predict(network, params, x).argmax(1) == t).mean() > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("cell", [RNN, GRU, LSTM])
def test_backprop_needs_no_more_memory_than_autodiff(cell):
    layer = cell(24, 32)
    x, t = jnp.zeros((8, 50, 24)), jnp.zeros((8, 50, 32))

    def measure(route):
        compiled = jax.jit(route(layer, SquaredError())).lower(layer.init(KEY), x, t).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert measure(backprop) <= 1.05 * measure(autodiff)


def test_initial_weights_are_drawn_gate_by_gate_and_the_forget_gate_is_open():
    params = LSTM(2, 3).init(KEY)
    np.testing.assert_array_equal(params["b"], jnp.repeat(jnp.array([0.0, 1, 0, 0]), 3))
    for Wh in jnp.split(params["Wh"], 4):
        np.testing.assert_allclose(Wh @ Wh.T, jnp.eye(3), atol=1e-12)
    assert jnp.abs(params["Wx"]).max() <= (6 / 5) ** 0.5  # Glorot's bound for 2 inputs and the 3 outputs of a gate
    ones = initializers.ones
    params = LSTM(2, 3, weights=ones, hidden_weights=ones, biases=ones, forget_bias=2.0).init(KEY)
    np.testing.assert_array_equal(params["b"], jnp.repeat(jnp.array([1.0, 3, 1, 1]), 3))
    assert {leaf.shape for leaf in jax.tree.leaves(GRU(2, 3).init(KEY))} == {(9, 2), (9, 3), (9,), (3,)}


def test_a_state_of_bfloat16_is_added_up_in_float32():
    """256 is the first whole number whose successor bfloat16 does not have, so a sum of ones would stop there."""
    zeros = {"Wx": jnp.zeros((4, 1)), "Wh": jnp.zeros((4, 1)), "b": jnp.full(4, 100.0)}  # c = c + 1 at every step
    for layer, dtype in ((LSTM(1, 1), jnp.bfloat16), (MixedPrecision(LSTM(1, 1)), jnp.float32)):
        params, x = cast(zeros, dtype), jnp.ones((600, 1), dtype)
        y, saved = layer.forward(params, x)
        assert abs(saved[1][1][-1, 0] - 600) <= 2
        grads, dx = layer.backward(params, saved, y)
        assert (y.dtype, dx.dtype) == (x.dtype, x.dtype)
        assert {leaf.dtype for leaf in (grads["Wx"].left, grads["Wx"].right)} == {jnp.dtype(jnp.bfloat16)}
        assert grads["b"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: LSTM(0, 3), r"expected n of at least 1 \(the input features of LSTM\), got 0"),
        (lambda: GRU(2, 0), r"expected m of at least 1 \(the output features of GRU\), got 0"),
        (lambda: RNN(2, 3, truncate=0), r"expected truncate of at least 1 \(steps\), got 0"),
        (lambda: LSTM(2, 3, forget_bias=float("nan")), "expected forget_bias to be a finite number, got nan"),
        (
            lambda: LSTM(2, 3, reverse=True, truncate=4).forward({}, jnp.ones((0, 2))),
            r"LSTM\(2, 3, reverse=True, truncate=4\) expected x of shape \(T, 2\) with at least one step, got \(0, 2\)",
        ),
        (
            lambda: GRU(2, 3).forward({}, jnp.ones((4, 3))),
            r"GRU\(2, 3\) expected x of shape \(T, 2\) with at least one step, got \(4, 3\)",
        ),
        (
            lambda: LastStep().forward((), jnp.ones((0, 2))),
            r"LastStep\(\) expected x of shape \(T, \.\.\.\) with at least one step, got \(0, 2\)",
        ),
        (
            lambda: recurrent_network((4, 3)),
            r"expected sizes to have an input size, at least one recurrent size and an output size, got \(4, 3\)",
        ),
        (lambda: recurrent_network((4, 0, 3)), r"expected sizes\[1\] of at least 1, got 0"),
        (lambda: recurrent_network(4), r"expected sizes to be a sequence, such as \(4, 50, 3\), got 4"),
        (lambda: recurrent_network((4, 5, 3), "lstm"), "expected cell to be a recurrent layer's class, .*, got 'lstm'"),
        (lambda: bidirectional(Dense(4, 3)), r"expected layer to be a recurrent layer, .*, got Dense\(4, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(build, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        build()
