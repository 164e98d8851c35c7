"""Convolutions of few channels, which are folded on a CPU, beside XLA's convolution and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxann.nn.folding import Folding
from jaxann.nn.window import Window
from jaxann.nn.xla import compute_once

CASES = {  # a window, the places of x, the channels of x and y, and the number of places that become one
    "one channel": (Window((5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1)), (7, 9), 1, 6, 4),
    "one output channel": (Window((2, 3), (1, 1), ((0, 0), (0, 0)), (1, 1)), (3, 8), 5, 1, 4),
    "few channels": (Window((3, 5), (1, 1), ((0, 0), (0, 0)), (1, 1)), (4, 10), 6, 16, 2),
    "uneven padding": (Window((3, 4), (1, 1), ((1, 0), (3, 1)), (1, 1)), (5, 7), 3, 2, 2),
    "stride and dilation of the other axis": (Window((3, 2), (2, 1), ((2, 1), (0, 1)), (2, 1)), (8, 5), 2, 3, 2),
    "padding beyond the window": (Window((3,), (1,), ((4, 5),), (1,)), (2,), 1, 2, 4),
    "a sequence": (Window((6,), (1,), ((2, 3),), (1,)), (11,), 1, 3, 4),
    "a volume": (Window((2, 1, 3), (1, 2, 1), ((0, 1), (0, 0), (1, 1)), (1, 1, 1)), (3, 4, 6), 2, 4, 2),
}


def convolve(window, x, K):
    axes = "DHW"[-len(window.size) :]
    layout = f"N{axes}C", f"{axes}IO", f"N{axes}C"
    settings = {"rhs_dilation": window.dilation, "dimension_numbers": layout}
    return lax.conv_general_dilated(x, K, window.stride, window.padding, **settings)


def compute_all(window, x, K, dy):
    """Returns y, dx and dW as the window computes them."""
    transposed = window.convolve_transposed(dy, K, x.shape[1:-1])
    return window.convolve(x, K), transposed, window.kernel_gradient(x, dy)


def differentiate_all(window, x, K, dy):
    """Returns the same by XLA's convolution."""
    y, pull_back = jax.vjp(lambda x, K: convolve(window, x, K), x, K)
    dx, dK = pull_back(dy)
    return y, dx, window.matrix(dK)


def draw(name, dtype):
    window, places, c, m, _ = CASES[name]
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (2, *places, c), (*window.size, c, m), (2, *window.output_places(places), m)
    return [jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_a_folded_convolution_and_its_derivatives_are_those_of_the_convolution(name):
    window, places, c, m, count = CASES[name]
    folding = window.find_folding(places[-1], c, m)
    assert folding is not None
    assert folding.count == count

    @jax.jit
    def compute(*arrays):
        return [[f(window, *a) for f in (compute_all, differentiate_all)] for a in arrays]

    wide, narrow = compute(draw(name, jnp.float64), draw(name, jnp.float32))
    for (ours, theirs), tolerance in ((wide, 1e-13), (narrow, 2e-6)):
        for a, b in zip(ours, theirs, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(abs(b).max()))


def test_a_folded_convolution_of_bfloat16_is_rounded_once():
    x, K, dy = draw("few channels", jnp.bfloat16)
    window = CASES["few channels"][0]
    ours = jax.jit(compute_all, static_argnums=0)(window, x, K, dy.astype(x.dtype))
    exact = differentiate_all(window, *(a.astype(jnp.float32) for a in (x, K, dy)))
    for a, b in zip(ours[:2], exact[:2], strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_any_number_of_places_becomes_one(count):
    window, places, c, m, _ = CASES["uneven padding"]
    x, K, dy = draw("uneven padding", jnp.float64)
    outputs = dy.shape[-2]
    folding = Folding(count, window.size[-1], window.padding[-1][0], places[-1], outputs)
    folded = Window((window.size[0], folding.folded_size), (1, 1), (window.padding[0], (0, 0)), (1, 1))
    X, F, dY = folding.fold_x(x), folding.fold_kernel(K), folding.fold_y(dy)
    assert (X.shape[-1], F.shape[-2:], dY.shape[-1]) == (count * c, (count * c, count * m), count * m)
    y, dX, dF = convolve(folded, X, F), *jax.vjp(lambda X, F: convolve(folded, X, F), X, F)[1](dY)
    ours = folding.unfold_y(y), folding.unfold_x(dX), window.matrix(folding.unfold_kernel(dF))
    for a, b in zip(ours, differentiate_all(window, x, K, dy), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_strides_and_dilation_of_the_last_axis_groups_and_many_channels_are_not_folded():
    plain = {"size": (3, 3), "stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
    assert Window(**plain).find_folding(9, 2, 4) is not None
    for change in ({"stride": (1, 2)}, {"dilation": (1, 2)}, {"groups": 2}, {"size": (3, 1)}):
        assert Window(**plain | change).find_folding(9, 2, 4) is None
    assert Window(**plain).find_folding(9, 16, 16) is None
    assert Window(**plain).find_folding(3, 2, 4) is None  # there is one output place


def test_what_is_computed_once_is_a_call_with_the_same_derivatives():
    def square(x):
        return jnp.where(x > 0, x * x, 0)

    once, x = compute_once(square), jnp.array([-1.0, 2.0])
    program = jax.jit(lambda x: (once(x)[::-1], once(x) + 1)).lower(x).compile()
    calls = [line for line in program.as_text().splitlines() if " call(" in line]
    assert calls
    np.testing.assert_array_equal(jax.vmap(jax.grad(once))(x), [0, 4])
