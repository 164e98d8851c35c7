"""What pooling and changes of shape compute; the table of cases compares their backward with autodiff."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxann.nn import AdaptiveAvgPool, AvgPool, Dense, Flatten, GlobalAvgPool, MaxPool, Reshape, Sequential, tanh
from jaxann.nn.reshape import validate_shape

WINDOWS = {  # a pool's settings and the places of x
    "side by side": (((2, 2),), (4, 6)),
    "a rest that no window covers": (((2, 3),), (5, 5)),
    "overlapping and padded": (((3, 3), 2, 1), (6, 7)),
    "a stride beyond the window": (((1, 2), 3), (4, 8)),
    "padded on one side": (((2,), 1, ((0, 1),)), (5,)),
    "a volume": (((2, 1, 3), (1, 2, 2), (1, 0, 2)), (2, 3, 4)),
    "one window": (((3, 2),), (3, 2)),
    "side by side and padded": (((3, 2), None, ((1, 2), 1)), (5, 7)),
}


def pool_by_loops(pool, x, reduce, fill):
    """Returns reduce(window) for each window of x, a channel at a time."""
    padded = np.pad(x, [*pool.padding, (0, 0)], constant_values=fill)
    places = [(n - k) // s + 1 for n, k, s in zip(padded.shape, pool.size, pool.stride, strict=False)]
    y = np.empty((*places, x.shape[-1]))
    for o in np.ndindex(*places):
        window = tuple(slice(s * i, s * i + k) for i, s, k in zip(o, pool.stride, pool.size, strict=True))
        y[o] = reduce(padded[window].reshape(-1, x.shape[-1]))
    return y


@pytest.mark.parametrize("name", WINDOWS)
def test_a_pool_reduces_each_window(name):
    settings, places = WINDOWS[name]
    x = np.random.default_rng(0).normal(size=(*places, 2))
    pools = MaxPool(*settings), AvgPool(*settings)
    largest, mean = jax.jit(lambda x: [pool.forward((), x)[0] for pool in pools])(x)
    np.testing.assert_array_equal(largest, pool_by_loops(pools[0], x, lambda w: w.max(axis=0), -np.inf))
    expected = pool_by_loops(pools[1], x, lambda w: w.mean(axis=0), 0)
    np.testing.assert_allclose(mean, expected, rtol=1e-13, atol=1e-15)


@partial(jax.jit, static_argnums=0)
def pull_back(layer, x, dy):
    return layer.backward((), layer.forward((), jnp.asarray(x))[1], jnp.asarray(dy))[1]


def test_of_equal_entries_the_first_gets_the_whole_gradient():
    x, dy = np.zeros((2, 4, 1)), np.arange(1.0, 3).reshape(1, 2, 1)
    x[:, 3] = 5
    expected = np.array([[1, 0, 0, 2], [0, 0, 0, 0]])[..., None]
    np.testing.assert_array_equal(pull_back(MaxPool((2, 2)), x, dy), expected)
    pool = MaxPool((2, 2))
    automatic = jax.jit(jax.grad(lambda x: jnp.sum(pool.forward((), x)[0] * dy)))(x)
    np.testing.assert_array_equal(automatic, expected)


@pytest.mark.parametrize("name", WINDOWS)
def test_the_backward_of_ties_and_of_bfloat16_is_that_of_autodiff(name):
    settings, places = WINDOWS[name]
    x = np.random.default_rng(0).integers(3, size=(*places, 3))  # many entries of a window are equal
    for layer in (MaxPool(*settings), AvgPool(*settings)):
        for dtype, tolerance in ((jnp.float64, 1e-14), (jnp.bfloat16, 2**-7)):
            y, pull = jax.vjp(lambda x, layer=layer: layer.forward((), x)[0], jnp.asarray(x, dtype))
            dy = jnp.asarray(np.random.default_rng(1).integers(1, 9, size=y.shape), dtype)
            dx = pull_back(layer, jnp.asarray(x, dtype), dy)
            assert dx.dtype == dtype
            np.testing.assert_allclose(dx.astype(float), pull(dy)[0].astype(float), rtol=tolerance, atol=tolerance)


def test_overlapping_windows_add_what_they_send_to_one_entry():
    x, dy = np.array([0.0, 3, 1])[:, None], np.array([10.0, 100])[:, None]
    np.testing.assert_array_equal(pull_back(MaxPool((2,), 1), x, dy)[:, 0], [0, 110, 0])
    np.testing.assert_array_equal(pull_back(AvgPool((2,), 1), x, dy)[:, 0], [5, 55, 50])


def test_a_nan_in_a_window_is_its_maximum():
    for at in range(3):
        x = jnp.arange(4.0)[:, None].at[at].set(jnp.nan)
        y, _ = MaxPool((3,), 1).forward((), x)
        np.testing.assert_array_equal(jnp.isnan(y[:, 0]), [True, at > 0])


def test_a_window_may_have_more_entries_than_a_byte_counts():
    for length, dtype in ((256, jnp.uint8), (257, jnp.int32)):
        _, (_, first) = jax.eval_shape(MaxPool((length,)).forward, (), jnp.zeros((length, 1)))
        assert first.dtype == dtype


def test_an_adaptive_pool_averages_the_windows_that_pytorch_takes():
    x = np.random.default_rng(0).normal(size=(5, 2, 3))
    y, _ = AdaptiveAvgPool((3, 4)).forward((), jnp.asarray(x))
    rows = np.stack([x[0:2].mean(0), x[1:4].mean(0), x[3:5].mean(0)])
    expected = rows[:, [0, 0, 1, 1]]  # two places become four
    np.testing.assert_allclose(y, expected, rtol=1e-14, atol=1e-15)


def test_pytorch_agrees():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x = np.random.default_rng(0).normal(size=(7, 6, 2))
    theirs = {
        MaxPool((3, 2), (2, 1), 1): lambda x: functional.max_pool2d(x, (3, 2), (2, 1), 1),
        AvgPool((3, 2), (2, 1), 1): lambda x: functional.avg_pool2d(x, (3, 2), (2, 1), 1),
        AdaptiveAvgPool((4, 9)): lambda x: functional.adaptive_avg_pool2d(x, (4, 9)),
        GlobalAvgPool(): lambda x: x.mean((1, 2)),
    }
    for layer, forward in theirs.items():
        inputs = torch.tensor(np.moveaxis(x, -1, 0), requires_grad=True)
        y = forward(inputs)
        ours, saved = layer.forward((), jnp.asarray(x))
        dy = np.random.default_rng(1).normal(size=ours.shape)
        y.backward(torch.tensor(np.moveaxis(dy, -1, 0)))
        np.testing.assert_allclose(np.moveaxis(ours, -1, 0), y.detach(), rtol=1e-13, atol=1e-14)
        dx = layer.backward((), saved, jnp.asarray(dy))[1]
        np.testing.assert_allclose(np.moveaxis(dx, -1, 0), inputs.grad, rtol=1e-13, atol=1e-14)


def test_a_change_of_shape_keeps_the_order():
    x = jnp.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(Reshape((3, 4), (2, 2, 3)).forward((), x)[0], x.reshape(2, 2, 3))
    for layer in (Flatten(), Flatten((3, 4))):
        np.testing.assert_array_equal(layer.forward((), x)[0], jnp.arange(12.0))
    assert Sequential((Reshape((12,), (3, 4)), Dense(4, 5))).sizes == (12, 5)
    assert Sequential((Flatten((3, 4)), tanh, Dense(12, 5))).sizes == (4, 5)
    assert (str(Reshape([4], [2, 2])), str(Flatten()), str(Flatten([2, 3]))) == (
        "Reshape((4,), (2, 2))",
        "Flatten()",
        "Flatten(shape=(2, 3))",
    )


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: MaxPool(()), r"expected size to be a tuple of at least one whole number, got \(\)"),
        (lambda: validate_shape("size", 2), "expected size to be a tuple of at least one whole number, got 2"),
        (lambda: MaxPool((2, 0)), r"expected size\[1\] of at least 1, got 0"),
        (lambda: AvgPool((2, 2), stride=0), r"expected stride\[0\] of at least 1, got 0"),
        (lambda: AvgPool((2, 2), stride=(1,)), r"expected stride to have 2 entries, as size has, got \(1,\)"),
        (
            lambda: MaxPool((2,), padding=2),
            r"expected padding\[0\] between 0 and 2, excluding 2 \(the window's size\), got 2",
        ),
        (lambda: MaxPool((2,), padding=(0, 0)), r"expected padding to have 1 entries, as size has, got \(0, 0\)"),
        (
            lambda: MaxPool((2, 2)).forward((), jnp.ones((4, 4))),
            r"MaxPool\(.*\) expected x of 3 axes, the last for channels, got \(4, 4\)",
        ),
        (
            lambda: AvgPool((2, 3)).forward((), jnp.ones((4, 2, 1))),
            r"AvgPool\(.*\) expected x at least as large as the window when padded, got \(4, 2, 1\)",
        ),
        (lambda: AdaptiveAvgPool((0,)), r"expected shape\[0\] of at least 1, got 0"),
        (
            lambda: AdaptiveAvgPool((2, 2)).forward((), jnp.ones((4, 4))),
            r"AdaptiveAvgPool\(.*\) expected x of 3 axes, the last for channels, got \(4, 4\)",
        ),
        (
            lambda: GlobalAvgPool().forward((), jnp.ones(3)),
            r"GlobalAvgPool\(\) expected x with at least one axis before its channels, got \(3,\)",
        ),
        (lambda: Reshape((2, 3), (5,)), r"expected after to have as many entries as before=\(2, 3\), got \(5,\)"),
        (lambda: validate_shape("shape", (2, 2.5)), r"expected shape\[1\] to be a whole number, got 2.5"),
        (lambda: Reshape((2, 3), (6,)).forward((), jnp.ones((3, 2))), r"expected x of shape \(2, 3\), got \(3, 2\)"),
        (lambda: Flatten((2, 3)).forward((), jnp.ones((3, 2))), r"expected x of shape \(2, 3\), got \(3, 2\)"),
        (
            lambda: Sequential((Flatten((2, 3)), Dense(5, 1))),
            r"takes the 6 features of Flatten\(shape=\(2, 3\)\), got Dense",
        ),
    ],
)
def test_windows_and_shapes_that_do_not_fit_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()
