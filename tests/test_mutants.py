import jax
import jax.numpy as jnp
import pytest
from judges import cast, judge, judge_network
from mutants import MUTANTS, NOTEBOOK, activation, chain, dense, loss, output

from jaxann import CrossEntropy, Outer, SquaredError, autodiff, backprop, mlp, tanh

SIZE = 6


def batch(dtype):
    x = jax.random.normal(jax.random.key(1), (SIZE, 4))
    return cast((x, 2 * jax.nn.softmax(jax.random.normal(jax.random.key(2), (SIZE, 3)))), dtype)


def params_of(model, dtype):
    return cast(jax.tree.map(lambda leaf: leaf + 0.1, model.init(jax.random.key(0))), dtype)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_backward_is_caught(name, dtype):
    model, loss = MUTANTS[name]
    with pytest.raises(AssertionError, match="max"):
        judge_network(model, loss, params_of(model, dtype), *batch(dtype))


@pytest.mark.parametrize(
    "right",
    [
        dense(lambda p, x, dy, g, dx: ({"W": Outer(dy, x), "b": dy}, p["W"].T @ dy)),
        activation(tanh, lambda x, y: 1 - y * y),
        output(lambda p, y, dy, g, dx: (g, y * (dy - y @ dy))),
        loss(CrossEntropy(), lambda y, t: -t / y),
        chain(lambda p, s, dy, g, dx: (g, dx)),
    ],
)
def test_the_same_done_right_is_not_caught(right):
    model, loss = right
    judge_network(model, loss, params_of(model, jnp.float64), *batch(jnp.float64))


def test_the_notebooks_four_are_among_them():
    assert len(NOTEBOOK) == 4


def summed(gradient):
    """The batch's sum, the 1/B forgotten."""
    return lambda *args: jax.tree.map(lambda leaf: SIZE * leaf, gradient(*args))


def first_only(gradient):
    return lambda params, x, t: gradient(params, x[:1], t[:1])


@pytest.mark.parametrize("spoil", [summed, first_only])
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_a_wrong_reduction_is_caught(spoil, dtype):
    model, loss = mlp((4, 5, 3)), SquaredError()
    params, data = params_of(model, dtype), batch(dtype)
    with pytest.raises(AssertionError, match="max"):
        judge(spoil(backprop(model, loss))(params, *data), autodiff(model, loss)(params, *data), dtype)
