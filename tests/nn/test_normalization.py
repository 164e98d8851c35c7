"""What the normalizations compute, beside PyTorch's; the table of cases compares their backward with autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.judges import cast
from support.unchecked import unchecked

from jaxann import autodiff, backprop, predict
from jaxann.nn import (
    Dense,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    MixedPrecision,
    RMSNorm,
    Sequential,
    SquaredError,
)

X = np.random.default_rng(0).normal(2, 3, size=(4, 3, 6))  # an image [height, width, features]
NORMALIZED_TOGETHER = {  # the entries of X that get mean 0 and variance 1 together, as rows
    "LayerNorm": (LayerNorm(6), lambda y: y.reshape(12, 6)),
    "InstanceNorm": (InstanceNorm(6), lambda y: y.reshape(12, 6).T),
    "GroupNorm": (GroupNorm(6, 2), lambda y: y.reshape(12, 2, 3).swapaxes(0, 1).reshape(2, 36)),
    "one group": (GroupNorm(6, 1), lambda y: y.reshape(1, 72)),
    "a group for each feature": (GroupNorm(6, 6), lambda y: y.reshape(12, 6).T),
}


@pytest.mark.parametrize("name", NORMALIZED_TOGETHER)
def test_entries_that_are_normalized_together_have_mean_0_and_variance_1(name):
    layer, split = NORMALIZED_TOGETHER[name]
    rows = split(np.asarray(layer.forward(layer.init(jax.random.key(0)), jnp.asarray(X))[0]))
    variance = split(X).var(axis=1)
    np.testing.assert_allclose(rows.mean(axis=1), 0, atol=1e-14)
    np.testing.assert_allclose(rows.var(axis=1), variance / (variance + 1e-5), rtol=1e-12)


def test_an_rms_norm_gives_mean_square_1_and_does_not_shift():
    y, _ = RMSNorm(6).forward(RMSNorm(6).init(jax.random.key(0)), jnp.asarray(X))
    np.testing.assert_allclose(y, X / np.sqrt((X**2).mean(-1, keepdims=True) + 1e-5), rtol=1e-14)


@pytest.mark.parametrize(("scale", "shift"), [(True, False), (False, True), (False, False)])
def test_scale_and_shift_are_settings(scale, shift):
    layer = GroupNorm(6, 3, scale=scale, shift=shift)
    params = layer.init(jax.random.key(0))
    assert set(params) == {name for name, given in (("scale", scale), ("shift", shift)) if given}
    y, saved = layer.forward(params, jnp.asarray(X))
    full = GroupNorm(6, 3)
    np.testing.assert_array_equal(y, full.forward(full.init(jax.random.key(0)), jnp.asarray(X))[0])
    assert jax.tree.structure(layer.backward(params, saved, y)[0]) == jax.tree.structure(params)


def test_statistics_of_bfloat16_are_summed_in_float32():
    """256 is the first whole number whose successor bfloat16 does not have, so a sum of ones would stop there."""
    x = jnp.tile(jnp.array([[1.0], [3.0]], jnp.float32), (2000, 1))
    for layer in (InstanceNorm(1), MixedPrecision(InstanceNorm(1))):
        y, saved = layer.forward(cast(layer.init(jax.random.key(0)), jnp.float32), x)
        np.testing.assert_allclose(y, x - 2, atol=1e-2)
        assert (y.dtype, saved[1].dtype) == (jnp.float32, jnp.float32)
        grads, dx = layer.backward(cast(layer.init(jax.random.key(0)), jnp.float32), saved, y)
        np.testing.assert_allclose([grads["scale"][0], grads["shift"][0]], [4000, 0], rtol=1e-2, atol=1)
        np.testing.assert_allclose(dx, 0, atol=1e-2)
    rounded = x.astype(jnp.bfloat16)
    assert InstanceNorm(1).forward({"scale": jnp.ones(1), "shift": jnp.ones(1)}, rounded)[0].dtype == jnp.bfloat16


def test_pytorch_agrees():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    scale, shift = (np.random.default_rng(seed).normal(size=6) for seed in (1, 2))
    dy = np.random.default_rng(3).normal(size=X.shape)
    theirs = {  # PyTorch has the features in front of the places, except where it normalizes over the features alone
        LayerNorm(6, epsilon=0.1): lambda x, *p: functional.layer_norm(x, (6,), *p, eps=0.1),
        RMSNorm(6, epsilon=0.1): lambda x, scale, _: functional.rms_norm(x, (6,), scale, eps=0.1),
        GroupNorm(6, 2): lambda x, *p: functional.group_norm(x.movedim(-1, 0)[None], 2, *p)[0].movedim(0, -1),
        InstanceNorm(6): lambda x, scale, shift: functional.instance_norm(
            x.movedim(-1, 0)[None], weight=scale, bias=shift
        )[0].movedim(0, -1),
    }
    for layer, forward in theirs.items():
        arrays = [torch.tensor(array, requires_grad=True) for array in (X, scale, shift)]
        y = forward(*arrays)
        y.backward(torch.tensor(dy))
        params = {"scale": jnp.asarray(scale), "shift": jnp.asarray(shift)}
        ours, saved = layer.forward(params, jnp.asarray(X))
        grads, dx = layer.backward(params, saved, jnp.asarray(dy))
        np.testing.assert_allclose(ours, y.detach(), rtol=1e-12, atol=1e-12)
        for a, b in zip((dx, grads["scale"], grads.get("shift")), arrays, strict=True):
            if a is not None:
                np.testing.assert_allclose(a, b.grad, rtol=1e-11, atol=1e-12)


def test_integers_are_not_rounded_after_they_are_normalized():
    model, loss, x = Sequential((LayerNorm(4), Dense(4, 3))), SquaredError(), np.array([[1, 5, 2, 9], [0, 3, 3, 1]])
    params, floats, t = model.init(jax.random.key(0)), x.astype(float), jnp.zeros((2, 3))
    with unchecked():
        np.testing.assert_array_equal(predict(model, params, x), predict(model, params, floats))
        for route in (backprop, autodiff):
            gradient = route(model, loss)
            np.testing.assert_array_equal(gradient(params, jnp.asarray(x), t)[0], gradient(params, floats, t)[0])


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: LayerNorm(1), r"expected n of at least 2 \(the features of LayerNorm\), got 1"),
        (lambda: RMSNorm(1), r"expected n of at least 2 \(the features of RMSNorm\), got 1"),
        (lambda: InstanceNorm(0), r"expected n of at least 1 \(the features of InstanceNorm\), got 0"),
        (lambda: GroupNorm(6, 0), "expected groups of at least 1, got 0"),
        (lambda: GroupNorm(6, 4), "expected groups to divide the 6 features of GroupNorm, got 4"),
        (lambda: LayerNorm(3, epsilon=0.0), "expected epsilon above 0, got 0.0"),
        (
            lambda: LayerNorm(3).forward(LayerNorm(3).init(jax.random.key(0)), jnp.ones((4, 2))),
            r"LayerNorm\(3\) expected x of shape \(\.\.\., 3\), got \(4, 2\)",
        ),
        (
            lambda: RMSNorm(3).forward(RMSNorm(3).init(jax.random.key(0)), jnp.ones(2)),
            r"RMSNorm\(3\) expected x of shape \(\.\.\., 3\), got \(2,\)",
        ),
        (
            lambda: InstanceNorm(3).forward(InstanceNorm(3).init(jax.random.key(0)), jnp.ones((1, 3))),
            r"InstanceNorm\(.*\) expected x with at least two numbers to normalize together, got \(1, 3\)",
        ),
        (
            lambda: GroupNorm(3, 3).forward(GroupNorm(3, 3).init(jax.random.key(0)), jnp.ones(3)),
            r"GroupNorm\(.*\) expected x with at least two numbers to normalize together, got \(3,\)",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()
