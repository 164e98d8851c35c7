"""What attention computes, in both forms; the table of cases compares their backward with autodiff."""

from dataclasses import fields
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.draws import draw_array, draw_params
from support.judges import cast, judge, judge_layer

from jaxann import backprop
from jaxann.nn import Attention, LeanAttention, MixedPrecision, Sequential, SquaredError, materialize, sum_examples
from jaxann.nn.positional import rotate

KEY = jax.random.key(0)
SETTINGS = {
    "causal": {},
    "bidirectional": {"causal": False},
    "grouped and rotary, with biases": {"key_value_heads": 2, "rotary": True, "biases": True},
    "one head of keys, bidirectional": {"key_value_heads": 1, "causal": False, "rotary": True},
    "dropout": {"dropout": 0.4, "key_value_heads": 2},
}
FAST = ("bidirectional", "grouped and rotary, with biases")
FEW = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in SETTINGS]


def draw(layer, T, n=8, dtype=jnp.float64):
    """Returns parameters that all differ from 0, an input and a cotangent."""
    return cast((draw_params(layer), draw_array(1, T, n), draw_array(2, T, n)), dtype)


@partial(jax.jit, static_argnums=0)
def run(layer, params, x, dy, key=None):
    """Returns y, the gradients of the parameters, and dx."""
    y, saved = layer.forward(params, x, key)
    grads, dx = layer.backward(params, saved, dy)
    return y, materialize(grads), dx


def lean(layer, block=3):
    return LeanAttention(**{field.name: getattr(layer, field.name) for field in fields(layer)}, block=block)


def attend_by_loops(layer, params, x):
    """Returns y, computed for one head and one query at a time."""
    params, x = jax.tree.map(np.asarray, (params, x))
    T, d = len(x), layer.n // layer.heads
    groups = layer.key_value_heads or layer.heads
    z = x @ params["W_qkv"].T + params.get("b_qkv", 0)
    q, k, v = (a.reshape(T, -1, d) for a in np.split(z, [layer.n, layer.n + groups * d], axis=1))
    if layer.rotary:
        q, k = (np.asarray(rotate(jnp.asarray(a).swapaxes(0, 1)).swapaxes(0, 1)) for a in (q, k))
    o = np.empty((T, layer.heads, d))
    for t, head in np.ndindex(T, layer.heads):
        group, seen = head * groups // layer.heads, slice(0, t + 1 if layer.causal else T)
        weights = np.exp(k[seen, group] @ q[t, head] / np.sqrt(d))
        o[t, head] = weights / weights.sum() @ v[seen, group]
    return o.reshape(T, -1) @ params["W_o"].T + params.get("b_o", 0)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "dropout"])
def test_attention_is_a_weighted_mean_of_values(name):
    layer = Attention(8, 4, **SETTINGS[name])
    params, x, _ = draw(layer, 5)
    expected = attend_by_loops(layer, params, x)
    np.testing.assert_allclose(layer.forward(params, x)[0], expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("T", [7, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_the_lean_form_is_the_same_function_with_the_same_gradients(name, T):
    layer = Attention(8, 4, **SETTINGS[name])
    key = KEY if layer.random else None
    args = draw(layer, T)
    blocked, expected = run(lean(layer), *args, key), run(layer, *args, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), blocked, expected)


@pytest.mark.slow
@pytest.mark.parametrize("form", [Attention, LeanAttention])
@pytest.mark.parametrize("name", SETTINGS)
def test_awkward_sizes_and_all_settings_are_right(name, form):
    settings = SETTINGS[name] | ({"block": 2} if form is LeanAttention else {})
    for n, heads, T in ((8, 4, 5), (8, 4, 1), (4, 2, 2)):
        layer = form(n, heads, **settings)
        params, x, _ = draw(layer, T, n)
        judge_layer(layer, params, x)
        judge_layer(layer, *cast((params, x), jnp.float32))
    for layer in (form(3, 3), form(3, 1), form(1, 1, biases=True)):
        params, x, _ = draw(layer, 4, layer.n)
        judge_layer(layer, params, x)


@pytest.mark.parametrize("form", [Attention, pytest.param(LeanAttention, marks=pytest.mark.slow)])
def test_dropout_has_the_gradient_of_its_masks(form):
    layer = form(4, 2, dropout=0.5)
    params, x, dy = draw(layer, 5, 4)

    @jax.jit
    def both(params, x, key):
        y, saved = layer.forward(params, x, key)
        expected = jax.vjp(lambda params, x: layer.forward(params, x, key)[0], params, x)[1](dy)
        return y, layer.backward(params, saved, dy), expected

    y, gradients, expected = both(params, x, KEY)
    judge(gradients, expected, x.dtype)
    assert layer.random
    assert not form(4, 2).random
    assert (y != both(params, x, jax.random.key(1))[0]).any()
    np.testing.assert_array_equal(layer.forward(params, x)[0], form(4, 2).forward(params, x)[0])


def test_dropout_keeps_the_mean_of_the_weights_and_zeroes_its_share():
    layer = Attention(4, 2, dropout=0.3, causal=False)
    P = jnp.full((2, 1, 100, 100), 0.01)
    kept = layer.draw_kept(KEY, jnp.arange(100), jnp.zeros((2, 100, 2)))
    dropped = layer.drop(P, kept)
    np.testing.assert_allclose((dropped == 0).mean(), 0.3, atol=0.02)
    np.testing.assert_allclose(dropped[kept], 0.01 / 0.7, rtol=1e-14)
    assert len(np.unique(np.asarray(kept).reshape(-1, 100), axis=0)) == 200  # each query and head has its own mask


@pytest.mark.parametrize("form", [Attention, LeanAttention])
def test_padding_at_the_end_changes_nothing_if_its_cotangent_is_zero(form):
    layer = form(8, 4, key_value_heads=2, rotary=True, biases=True, **({"block": 3} if form is LeanAttention else {}))
    params, x, dy = draw(layer, 7)
    padded = jnp.pad(dy[:4], ((0, 3), (0, 0)))
    y, grads, dx = run(layer, params, x, padded)  # the last three of the seven rows of x stand for any padding
    short, expected, short_dx = run(layer, params, x[:4], dy[:4])
    np.testing.assert_allclose(y[:4], short, rtol=1e-11, atol=1e-13)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), grads, expected)
    np.testing.assert_allclose(dx, jnp.pad(short_dx, ((0, 3), (0, 0))), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("form", [Attention, LeanAttention])
def test_large_scores_do_not_overflow(form):
    layer = form(4, 2)
    params, x, dy = draw(layer, 3, 4, jnp.float32)
    results = run(layer, jax.tree.map(lambda leaf: 100 * leaf, params), x, dy)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(results))


@pytest.mark.parametrize("form", [Attention, LeanAttention])
def test_the_softmax_of_bfloat16_is_computed_in_float32(form):
    """With 600 equal scores each weight is 1 / 600, and a sum of ones would stop at 256 in bfloat16."""
    layer = form(2, 1, causal=False)
    params = {"W_qkv": jnp.zeros((6, 2)).at[4:].set(jnp.eye(2)), "W_o": jnp.eye(2)}
    params, x = cast((params, jnp.ones((600, 2))), jnp.bfloat16)
    y, grads, dx = run(layer, params, x, x)
    np.testing.assert_allclose(y.astype(float), 1, rtol=2**-8)
    assert (y.dtype, dx.dtype) == (jnp.bfloat16, jnp.bfloat16)
    np.testing.assert_allclose(grads["W_qkv"][4:], np.full((2, 2), 600.0), rtol=0.02)
    same = MixedPrecision(layer).forward(cast(params, jnp.float32), x.astype(jnp.float32))[0]
    np.testing.assert_array_equal(same, y.astype(jnp.float32))


@pytest.mark.slow
@pytest.mark.parametrize("form", [Attention, LeanAttention])
def test_gradients_of_bfloat16_are_right_up_to_rounding(form):
    layer = form(8, 2, rotary=True, biases=True)
    args = draw(layer, 20)
    exact = run(layer, *args)
    rounded = run(layer, *cast(args, jnp.bfloat16))
    for a, b in zip(jax.tree.leaves(rounded), jax.tree.leaves(exact), strict=True):
        assert jnp.abs(a.astype(float) - b).max() < 0.05 * jnp.abs(b).max()


@pytest.mark.slow
def test_the_lean_form_needs_a_fifth_of_the_memory_for_2048_positions():
    x = jax.ShapeDtypeStruct((1, 2048, 128), jnp.float32)

    def measure(layer):
        params = jax.eval_shape(lambda: cast(layer.init(KEY), jnp.float32))
        step = jax.jit(backprop(layer, SquaredError())).lower(params, x, x)
        return step.compile().memory_analysis().temp_size_in_bytes

    assert measure(LeanAttention(128, 4)) <= measure(Attention(128, 4)) / 5


def test_blocks_are_as_equal_as_possible():
    layer = LeanAttention(4, 2, block=64)
    q = jnp.zeros((2, 1, 65, 2))
    assert layer._cut(q).shape == (2, 2, 1, 33, 2)
    assert layer._cut(q[:, :, :64]).shape == (1, 2, 1, 64, 2)
    assert layer._cut(q[:, :, :1]).shape == (1, 2, 1, 1, 2)


def test_matrices_are_drawn_one_by_one_and_rows_are_those_of_queries_keys_and_values():
    layer = Attention(12, 4, key_value_heads=2, biases=True)
    params = layer.init(KEY)
    assert {name: leaf.shape for name, leaf in params.items()} == {
        "W_qkv": (24, 12),
        "W_o": (12, 12),
        "b_qkv": (24,),
        "b_o": (12,),
    }
    bound = np.sqrt(6 / (12 + 12))  # of Glorot's uniform initializer, for the queries
    assert 0.9 * bound < jnp.abs(params["W_qkv"][:12]).max() <= bound
    assert jnp.abs(params["W_qkv"][12:]).max() > bound  # the keys and values are fewer, so that their bound is larger
    grads, _ = layer.backward(params, layer.forward(params, jnp.ones((5, 12)))[1], jnp.ones((5, 12)))
    assert (grads["W_qkv"].left.shape, grads["W_qkv"].right.shape) == ((5, 24), (5, 12))
    assert (grads["W_o"].left.shape, grads["W_o"].right.shape) == ((5, 12), (5, 12))


@pytest.mark.slow
def test_a_batch_is_a_loop_over_its_sequences_each_with_its_own_mask():
    layer, loss = LeanAttention(4, 2, dropout=0.5, block=2), SquaredError()
    params, x, t = draw(layer, 3, 4)
    x, t = (jnp.stack([a, 2 * a]) for a in (x, t))
    value, grads = jax.jit(backprop(layer, loss))(params, x, t, None, KEY)
    keys = jax.random.split(KEY, 2)
    losses, terms = [], []
    for i in range(2):
        y, saved = layer.forward(params, x[i], keys[i])
        losses.append(loss.value(y, t[i]))
        terms.append(materialize(layer.backward(params, saved, loss.gradient(y, t[i]))[0]))
    np.testing.assert_allclose(value, np.mean(losses), rtol=1e-12)
    expected = jax.tree.map(lambda *leaves: sum_examples(jnp.stack(leaves)) / 2, *terms)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), grads, expected)


def test_pytorch_agrees():
    torch = pytest.importorskip("torch")
    layer = Attention(8, 4, causal=False, biases=True)
    params, x, dy = draw(layer, 5)
    theirs = torch.nn.MultiheadAttention(8, 4, batch_first=True, dtype=torch.float64)
    names = {"W_qkv": "in_proj_weight", "b_qkv": "in_proj_bias", "W_o": "out_proj.weight", "b_o": "out_proj.bias"}
    theirs.load_state_dict({names[name]: torch.tensor(np.asarray(leaf)) for name, leaf in params.items()})
    for causal in (False, True):
        theirs.zero_grad()
        given = torch.tensor(np.asarray(x)[None], requires_grad=True)
        mask = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1) if causal else None
        expected, _ = theirs(given, given, given, attn_mask=mask, need_weights=False)
        expected.backward(torch.tensor(np.asarray(dy)[None]))
        y, grads, dx = run(Attention(8, 4, causal=causal, biases=True), params, x, dy)
        np.testing.assert_allclose(y, expected[0].detach(), rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(dx, given.grad[0], rtol=1e-10, atol=1e-12)
        for name, parameter in theirs.named_parameters():
            ours = grads[next(key for key, value in names.items() if value == name)]
            np.testing.assert_allclose(ours, parameter.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Attention(0, 1), r"expected n of at least 1 \(the features of Attention\), got 0"),
        (lambda: Attention(4, 0), "expected heads of at least 1, got 0"),
        (lambda: Attention(4, 3), "expected heads to divide the 4 features of Attention, got 3"),
        (lambda: Attention(8, 4, key_value_heads=0), "expected key_value_heads of at least 1, got 0"),
        (
            lambda: Attention(8, 4, key_value_heads=3),
            "expected key_value_heads to divide the 4 heads of Attention, got 3",
        ),
        (lambda: LeanAttention(8, 4, key_value_heads=8), "to divide the 4 heads of LeanAttention, got 8"),
        (
            lambda: Attention(6, 2, rotary=True),
            "expected rotary to be False for heads of 3 features, an odd number, got True",
        ),
        (lambda: Attention(4, 2, dropout=1.0), "expected dropout between 0 and 1, excluding 1, got 1.0"),
        (lambda: LeanAttention(4, 2, block=0), r"expected block of at least 1 \(the queries in a block\), got 0"),
        (
            lambda: Attention(4, 2).forward(Attention(4, 2).init(KEY), jnp.ones((0, 4))),
            r"Attention\(4, 2\) expected x of shape \(T, 4\) with T of at least 1, got \(0, 4\)",
        ),
        (
            lambda: LeanAttention(4, 2).forward(LeanAttention(4, 2).init(KEY), jnp.ones((3, 5))),
            r"LeanAttention\(4, 2\) expected x of shape \(T, 4\) with T of at least 1, got \(3, 5\)",
        ),
        (
            lambda: Attention(4, 2).forward(Attention(4, 2).init(KEY), jnp.ones(4)),
            r"expected x of shape \(T, 4\) with T of at least 1, got \(4,\)",
        ),
        (lambda: Sequential((Attention(4, 2), Attention(6, 2))), r"takes the 4 features of Attention\(.*\), got "),
    ],
)
def test_settings_and_sequences_that_do_not_fit_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()
