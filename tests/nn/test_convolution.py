"""What the convolutions compute, beside the definition and PyTorch; the table of cases compares them with autodiff."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.draws import draw_array, draw_params
from support.judges import judge_layer
from support.layers import WrongLayer

from jaxann import backprop, check_layer
from jaxann.gradcheck.jaxprs import inner_programs
from jaxann.nn import Conv, ConvTransposed, Flatten, Outer, Sequential, SquaredError, materialize, tanh
from jaxann.nn.convolution import Patches

KEY = jax.random.key(0)
AWKWARD = {  # a convolution and the shape of an input, all of whose settings differ from one another
    "one place": (Conv(2, 3, (1, 1)), (1, 1, 2)),
    "one output from padding alone at the corners": (Conv(1, 2, (3, 3), padding=1), (1, 1, 1)),
    "everything": (Conv(4, 6, (3, 2), (2, 3), ((1, 0), 2), (1, 2), groups=2), (7, 6, 4)),
    "a stride beyond the window": (Conv(2, 3, (2,), stride=3), (9, 2)),
    "entries that no window sees": (Conv(2, 3, (2, 2), stride=2, bias=False), (5, 4, 2)),
    "depthwise": (Conv(3, 6, (3, 3), padding="same", groups=3), (4, 3, 3)),
    "a volume": (Conv(2, 2, (2, 1, 2), stride=(1, 2, 1)), (3, 3, 2, 2)),
    "transposed": (ConvTransposed(3, 2, (3,), stride=2, padding=1, output_padding=1), (4, 3)),
    "transposed, everything": (ConvTransposed(4, 6, (3, 2), (2, 3), ((1, 0), 1), (1, 2), groups=2), (3, 2, 4)),
    "transposed, gaps between the windows": (ConvTransposed(1, 2, (2, 2), stride=3, output_padding=2), (2, 1, 1)),
}


def convolve_by_loops(layer, params, x):
    """Computes y[o] = Σ_k W[k] x[s o + d k - p] + b as it stands, for each group on its own."""
    x = np.pad(x, [*layer.padding, (0, 0)])
    W = np.asarray(params["W"]).reshape(layer.m, layer.n // layer.groups, *layer.size)
    spans = [d * (k - 1) + 1 for k, d in zip(layer.size, layer.dilation, strict=True)]
    shape = [(n - span) // s + 1 for n, span, s in zip(x.shape, spans, layer.stride, strict=False)]
    y = np.zeros((*shape, layer.m))
    for o, k, channel in product(np.ndindex(*shape), np.ndindex(*layer.size), range(layer.m)):
        place = tuple(s * i + d * j for i, j, s, d in zip(o, k, layer.stride, layer.dilation, strict=True))
        group = channel * layer.groups // layer.m
        inputs = np.split(x[place], layer.groups)[group]
        y[(*o, channel)] += W[(channel, slice(None), *k)] @ inputs
    return y + np.asarray(params.get("b", 0))


def draw(layer, shape):
    return draw_params(layer), draw_array(1, *shape)


@pytest.mark.parametrize("name", [name for name in AWKWARD if "transposed" not in name])
def test_a_convolution_is_its_definition(name):
    layer, shape = AWKWARD[name]
    params, x = draw(layer, shape)
    y, _ = jax.jit(layer.forward)(params, x)
    np.testing.assert_allclose(y, convolve_by_loops(layer, params, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("everything", "transposed, everything") else pytest.param(name, marks=pytest.mark.slow)
        for name in AWKWARD
    ],
)
def test_backward_is_the_transposed_derivative(name):
    layer, shape = AWKWARD[name]
    judge_layer(layer, *draw(layer, shape))


def test_a_transposed_convolution_is_the_backward_of_a_convolution():
    conv = Conv(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), bias=False)
    transposed = ConvTransposed(3, 2, (3, 2), (2, 1), (1, 0), (1, 2), bias=False, output_padding=(1, 0))
    params, x = draw(conv, (6, 5, 2))
    y, saved = conv.forward(params, x)
    np.testing.assert_allclose(transposed.forward(params, y)[0], conv.backward(params, saved, y)[1], rtol=1e-13)


def test_pytorch_agrees():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    rng = np.random.default_rng(0)
    pads = {"stride": (2, 3), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
    for layer, shape, function in (
        (Conv(4, 6, (3, 2), **pads), (7, 6, 4), functional.conv2d),
        (Conv(2, 3, (3,), 2, 1), (6, 2), functional.conv1d),
        (Conv(2, 3, (2, 2, 1), 2), (4, 3, 2, 2), functional.conv3d),
        (ConvTransposed(4, 6, (3, 2), output_padding=(1, 0), **pads), (4, 3, 4), functional.conv_transpose2d),
    ):
        params, x = draw(layer, shape)
        rows, columns = (layer.n, layer.m) if isinstance(layer, ConvTransposed) else (layer.m, layer.n)
        kernel = np.array(params["W"]).reshape(rows, columns // layer.groups, *layer.size)
        tensors = [
            torch.tensor(np.array(a), requires_grad=True) for a in (np.moveaxis(x, -1, 0)[None], kernel, params["b"])
        ]
        settings = {"stride": layer.stride, "padding": tuple(p for p, _ in layer.padding)}
        settings |= {"dilation": layer.dilation, "groups": layer.groups}
        settings |= {"output_padding": layer.output_padding} if isinstance(layer, ConvTransposed) else {}
        y = function(*tensors, **settings)
        dy = rng.normal(size=y.shape)
        y.backward(torch.tensor(dy))
        ours, saved = layer.forward(params, x)
        np.testing.assert_allclose(ours, np.moveaxis(y.detach().numpy()[0], 0, -1), rtol=1e-12, atol=1e-13)
        grads, dx = layer.backward(params, saved, jnp.moveaxis(dy[0], 0, -1))
        grads = materialize(grads)
        np.testing.assert_allclose(dx, np.moveaxis(tensors[0].grad.numpy()[0], 0, -1), rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(grads["W"], tensors[1].grad.reshape(rows, -1), rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(grads["b"], tensors[2].grad, rtol=1e-11, atol=1e-12)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in inner_programs(equation):
            yield from equations(inner.jaxpr)


def test_every_convolution_of_a_step_has_the_layout_that_is_fast_in_a_loop():
    """Channels last in image, kernel and output: XLA computes any other layout many times slower in a loop on a CPU."""
    model = Sequential(
        (Conv(2, 3, (3, 3)), tanh, ConvTransposed(3, 2, (2, 2)), Conv(2, 4, (2, 2), groups=2), Flatten())
    )
    params, x, t = model.init(KEY), jnp.ones((5, 6, 6, 2)), jnp.ones((5, 64))
    jaxpr = jax.make_jaxpr(backprop(model, SquaredError()))(params, x, t).jaxpr
    found = [e.params["dimension_numbers"] for e in equations(jaxpr) if e.primitive.name == "conv_general_dilated"]
    assert (
        len(found) == 15
    )  # forward, dx and ∂E/∂W of each; those of the layers without groups are also folded, for CPUs
    assert {tuple(map(tuple, numbers)) for numbers in found} == {((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))}


def test_patches_are_not_laid_out_to_sum_their_products():
    layer = Conv(3, 4, (5, 5))
    x, dy = jnp.ones((8, 32, 32, 3)), jnp.ones((8, 28, 28, 4))
    program = jax.jit(lambda x, dy: Outer(dy, Patches(x, layer.window)).sum()).lower(x, dy).compile()
    laid_out = 8 * 28 * 28 * 75 * x.dtype.itemsize
    assert program.memory_analysis().temp_size_in_bytes < laid_out / 4


def test_sums_over_places_of_bfloat16_are_taken_in_float32():
    """256 is the first whole number whose successor bfloat16 does not have, so a sum of ones would stop there."""
    for layer in (Conv(1, 1, (1,)), Conv(2, 2, (1,), groups=2), ConvTransposed(1, 1, (1,))):
        params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), layer.init(KEY))
        x = jnp.ones((1000, layer.n), jnp.bfloat16)
        y, saved = layer.forward(params, x)
        grads, dx = layer.backward(params, saved, jnp.ones_like(y))
        assert (y.dtype, dx.dtype) == (jnp.bfloat16, jnp.bfloat16)
        np.testing.assert_array_equal(materialize(grads)["W"], np.full((layer.m, 1), 1000))
        np.testing.assert_array_equal(grads["b"], np.full(layer.m, 1000))


MISTAKES = {  # what is done to the gradients of a convolution, and which of them are wrong then
    "dx: the kernel is not flipped": (
        lambda p, x, dy, grads, dx: (
            grads,
            Conv(3, 2, (3, 3), padding="same").window.convolve(
                dy[None], jnp.swapaxes(CONV.window.kernel(p["W"]), -1, -2)
            )[0],
        ),
        {"dx"},
    ),
    "dx: one place off": (lambda p, x, dy, grads, dx: (grads, jnp.roll(dx, 1, 0)), {"dx"}),
    "W: one place off": (
        lambda p, x, dy, grads, dx: (grads | {"W": Outer(dy, Patches(jnp.roll(x, 1, 0), CONV.window))}, dx),
        {"W"},
    ),
    "W: channels and window in another order": (
        lambda p, x, dy, grads, dx: (
            grads | {"W": grads["W"].sum().reshape(3, 2, 9).swapaxes(1, 2).reshape(3, 18)},
            dx,
        ),
        {"W"},
    ),
    "b: the mean over places": (lambda p, x, dy, grads, dx: (grads | {"b": dy.mean((0, 1))}, dx), {"b"}),
    "b: one row": (lambda p, x, dy, grads, dx: (grads | {"b": dy[0].sum(0)}, dx), {"b"}),
}
CONV = Conv(2, 3, (3, 3), padding="same")


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_term_is_found_in_the_gradient_that_has_it(name):
    spoil, wrong = MISTAKES[name]
    params, x = draw(CONV, (4, 3, 2))
    assert set(check_layer(WrongLayer(CONV, spoil), params, x).wrong) == wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", AWKWARD)
def test_right_convolutions_are_judged_right(name):
    layer, shape = AWKWARD[name]
    assert check_layer(layer, *draw(layer, shape)).wrong == ()


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Conv(0, 3, (3,)), r"expected n of at least 1 \(the input channels of Conv\), got 0"),
        (lambda: Conv(3, 0, (3,)), r"expected m of at least 1 \(the output channels of Conv\), got 0"),
        (
            lambda: Conv(3, 4, (3, 3), stride=(1, 2, 3)),
            r"expected stride to have 2 entries, as size has, got \(1, 2, 3\)",
        ),
        (lambda: Conv(1, 2, (3, 3, 3, 3)), "expected size to have one length for each of at most 3 axes"),
        (lambda: Conv(3, 4, (3, 3), stride=0), r"expected stride\[0\] of at least 1, got 0"),
        (lambda: Conv(3, 4, (3, 3), dilation=(1, 0)), r"expected dilation\[1\] of at least 1, got 0"),
        (lambda: Conv(3, 4, (3, 3), padding=-1), r"expected padding\[0\] of at least 0, got -1"),
        (
            lambda: Conv(3, 4, (3,), padding="valid"),
            "expected padding to be a number, a number or pair for each axis, or same, got 'valid'",
        ),
        (lambda: Conv(6, 4, (3,), groups=3), "expected groups to divide the 6 input and 4 output channels, got 3"),
        (
            lambda: ConvTransposed(3, 4, (3,), stride=2, output_padding=2),
            r"expected output_padding\[0\] between 0 and 2, excluding 2 \(the larger of stride and dilation\), got 2",
        ),
        (
            lambda: Conv(3, 4, (3, 3)).forward({}, jnp.ones((5, 5, 2))),
            r"Conv\(3, 4, \(3, 3\)\) expected x of 3 axes, the last for 3 channels, got \(5, 5, 2\)",
        ),
        (
            lambda: Conv(3, 4, (3, 3)).forward({}, jnp.ones((2, 5, 5, 3))),
            r"expected x of 3 axes, the last for 3 channels, got \(2, 5, 5, 3\)",
        ),
        (
            lambda: Conv(3, 4, (3, 3), dilation=2).forward({}, jnp.ones((5, 4, 3))),
            r"expected x at least as large as the window when padded, got \(5, 4, 3\)",
        ),
        (
            lambda: ConvTransposed(3, 4, (1,), padding=1).forward({}, jnp.ones((2, 3))),
            r"expected x for which y has at least one place, got \(2, 3\)",
        ),
    ],
)
def test_settings_and_shapes_that_do_not_fit_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()
