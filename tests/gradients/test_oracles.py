"""Per-example quantities and curvature against BackPACK's of the same network in PyTorch, in float64.

The PyTorch losses here are sums over the examples, so BackPACK's quantities are B times ours.
"""

import jax
import numpy as np
import pytest

from jaxann.gradients import per_example
from jaxann.gradients.curvature import gauss_newton_diagonal, gauss_newton_factors
from jaxann.gradients.per_example import Kronecker, leaf_norms, materialize, second_moment, variance
from jaxann.nn import SoftmaxCrossEntropy, SquaredError, mlp, relu, sigmoid, tanh

torch = pytest.importorskip("torch")
backpack = pytest.importorskip("backpack")
extensions = pytest.importorskip("backpack.extensions")

B = 7
ACTIVATIONS = {"relu": (relu, torch.nn.ReLU), "sigmoid": (sigmoid, torch.nn.Sigmoid), "tanh": (tanh, torch.nn.Tanh)}
LOSSES = {  # ours, PyTorch's, and PyTorch's as a multiple of ours: its squared error has no factor ½
    "cross entropy": (SoftmaxCrossEntropy(), torch.nn.CrossEntropyLoss, 1),
    "squared error": (SquaredError(), torch.nn.MSELoss, 2),
}


def draw(activation, loss):
    """Returns a model with its loss, its parameters with a batch, and the same network's parameters in PyTorch.

    PyTorch's are (W, b) of each dense layer after a backward pass, so they carry the quantities that BackPACK computes.
    """
    (hidden, torch_hidden), (ours, torch_loss, _) = ACTIVATIONS[activation], LOSSES[loss]
    keys = jax.random.split(jax.random.key(0), 3)
    model = mlp((4, 6, 5, 3), hidden=hidden)
    params = jax.jit(
        lambda key: jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(key, leaf.shape), model.init(key))
    )(keys[0])
    x = jax.random.normal(keys[1], (B, 4))
    t = jax.random.randint(keys[2], (B,), 0, 3) if loss == "cross entropy" else jax.random.normal(keys[2], (B, 3))

    def tensor(array):
        return torch.tensor(np.asarray(array))

    layers = [torch.nn.Linear(n, m, dtype=torch.float64) for n, m in ((4, 6), (6, 5), (5, 3))]
    for layer, p in zip(layers, params[::2], strict=True):
        layer.weight.data, layer.bias.data = tensor(p["W"]), tensor(p["b"])
    network = torch.nn.Sequential(layers[0], torch_hidden(), layers[1], torch_hidden(), layers[2])
    network, criterion = backpack.extend(network), backpack.extend(torch_loss(reduction="sum"))
    wanted = "BatchGrad", "BatchL2Grad", "SumGradSquared", "Variance", "DiagGGNExact", "KFLR"
    inputs = tensor(x).requires_grad_()  # without this PyTorch warns about BackPACK's hooks
    with backpack.backpack(*(getattr(extensions, name)() for name in wanted)):
        criterion(network(inputs), tensor(t)).backward()
    return (model, ours), (params, x, t), [(layer.weight, layer.bias) for layer in layers]


def close(actual, layers, wanted):
    """Compares W and b of each dense layer with `wanted` of PyTorch's parameter, to 1e-10 of the largest entry."""
    for ours, (W, b) in zip(actual[::2], layers, strict=True):
        for leaf, parameter in ((ours["W"], W), (ours["b"], b)):
            oracle = wanted(parameter).numpy(force=True)
            np.testing.assert_allclose(leaf, oracle, rtol=0, atol=1e-10 * abs(oracle).max())


CASES = pytest.mark.parametrize(
    ("activation", "loss"), [(activation, loss) for activation in sorted(ACTIVATIONS) for loss in sorted(LOSSES)]
)


@CASES
def test_per_example_quantities_are_those_of_backpack(activation, loss):
    (model, ours), args, layers = draw(activation, loss)
    times = LOSSES[loss][2]

    @jax.jit
    def compute(*args):
        _, grads = per_example.gradients(model, ours)(*args)
        return [reduce(grads) for reduce in (materialize, leaf_norms, second_moment, variance)]

    gradients, sizes, moments, variances = compute(*args)
    close(gradients, layers, lambda p: p.grad_batch / times)
    close(sizes, layers, lambda p: p.batch_l2.sqrt() / times)  # BackPACK's norms are squared
    close(moments, layers, lambda p: p.sum_grad_squared / (B * times**2))
    close(variances, layers, lambda p: p.variance / times**2 * B / (B - 1))  # BackPACK divides by B


# Curvature.


@CASES
def test_gauss_newton_diagonal_and_factors_are_those_of_backpack(activation, loss):
    (model, ours), args, layers = draw(activation, loss)
    params, times = args[0], LOSSES[loss][2]
    diagonal, factors = jax.jit(
        lambda *args: [of(model, ours)(*args) for of in (gauss_newton_diagonal, gauss_newton_factors)]
    )(*args)
    close(diagonal, layers, lambda p: p.diag_ggn_exact / (B * times))
    left, right = jax.tree.transpose(*map(jax.tree.structure, (params, Kronecker(0, 0))), factors)
    close(left, layers, lambda p: p.kflr[0] / (B * times))
    # BackPACK's factors of the inputs are means as well. A bias has only one factor there; ours has [[1]] beside it.
    close(right, layers, lambda p: p.kflr[1] if len(p.kflr) > 1 else torch.ones(1, 1))
