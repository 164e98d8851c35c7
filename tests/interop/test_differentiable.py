"""The handwritten backward in other people's code, against `jax.grad` of the plain forward and their own layers."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.judges import judge
from support.layers import Tied
from support.mutants import MUTANTS
from support.selection import choose

from jaxann import compare, differentiable
from jaxann.nn import (
    Conv,
    Dense,
    Flatten,
    Layer,
    LayerNorm,
    MaxPool,
    MixedPrecision,
    Outer,
    Sequential,
    SoftmaxCrossEntropy,
    SquaredError,
    mlp,
    softmax,
    tanh,
)
from jaxann.rules import (
    ClippedDeltas,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    KolenPollack,
    NoisyDeltas,
    SignSymmetric,
)

KEY = jax.random.key(0)
MODEL, LOSS = mlp((3, 4, 2), hidden=tanh), SquaredError()
PARAMS = jax.tree.map(lambda leaf: leaf + 0.1, MODEL.init(KEY))
X = jax.random.normal(jax.random.key(1), (5, 3))
C = jax.random.normal(jax.random.key(2), (5, 2))  # Σ C y has the cotangents C

MODELS = {
    "mlp": (MODEL, None),
    "matrix used twice": (Sequential((Tied(3, 2), Dense(3, 2))), None),
    "Dropout": (mlp((3, 8, 2), hidden=tanh, dropout=0.5), jax.random.key(3)),
    "Dropout without a key": (mlp((3, 8, 2), hidden=tanh, dropout=0.5), None),
}


def keys_of(key):
    return None if key is None else jax.random.split(key, len(X))


def plain(model):
    """Returns the model as a function (params, x, key) -> y of a batch, which JAX differentiates automatically."""

    def forward(params, x, key=None):
        return jax.vmap(lambda x, key: model.forward(params, x, key)[0])(x, keys_of(key))

    return forward


def by_vmap(model, *rule):
    """Returns the same function made by `differentiable`, with the batch made by `vmap`."""
    function = differentiable(model, *rule)
    return lambda params, x, key=None: jax.vmap(lambda x, key: function(params, x, key))(x, keys_of(key))


def gradients(function, *args):
    """Returns the value of Σ C f(params, x, ...) and its gradients with respect to params and x, in one program."""
    objective = jax.value_and_grad(lambda params, x, *rest: jnp.sum(C * function(params, x, *rest)), (0, 1))
    return jax.jit(objective)(*args)


@pytest.mark.parametrize("name", MODELS)
def test_its_gradient_is_that_of_the_plain_forward_by_vmap_and_batched(name):
    model, key = MODELS[name]
    params = model.init(KEY)
    expected = gradients(plain(model), params, X, key)
    judge(gradients(by_vmap(model), params, X, key), expected, X.dtype)
    judge(gradients(differentiable(model, batched=True), params, X, key), expected, X.dtype)


def test_its_value_without_differentiating_is_the_forward_pass():
    model, key = MODELS["Dropout"]
    params = model.init(KEY)
    actual = differentiable(model, batched=True)(params, X, key)
    np.testing.assert_array_equal(actual, plain(model)(params, X, key))
    assert (actual != differentiable(model, batched=True)(params, X)).any()


@pytest.mark.parametrize("batched", choose([True, False], 2))
def test_the_handwritten_backward_is_what_runs(batched):
    mutant = MUTANTS["b: twice"]
    params, x = mutant.model.init(KEY), jax.random.normal(KEY, (5, 4))
    function = differentiable(mutant.model, batched=True) if batched else by_vmap(mutant.model)
    actual, right = (
        jax.grad(lambda params, f=f: jnp.sum(f(params, x) ** 2))(params) for f in (function, plain(mutant.model))
    )
    errors = {leaf.path: (leaf.error, leaf.ratio) for leaf in compare(actual, right).leaves}
    np.testing.assert_allclose(errors.pop("2.b"), (1, 2), rtol=1e-12)
    assert max(error for error, _ in errors.values()) < 1e-12


@pytest.mark.slow
def test_it_goes_under_vmap_over_params_and_inside_scan():
    function, forward = differentiable(MODEL, batched=True), plain(MODEL)

    def of(f):
        def objective(params, x, c):
            return jnp.sum(c * f(params, x) ** 2)

        def step(params, scale):
            value, g = jax.value_and_grad(objective)(params, X, scale * C)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, g), value

        many = jax.vmap(jax.grad(objective), (0, None, None))(jax.vmap(MODEL.init)(jax.random.split(KEY, 3)), X, C)

        def through(params):  # differentiated with the scan in it
            y, _ = jax.lax.scan(lambda x, _: (jnp.tile(f(params, x), (1, 2))[:, :3], None), X, None, length=3)
            return jnp.sum(y**2)

        scales = jnp.array([0.5, 1.0, 2.0])
        return many, jax.lax.scan(step, PARAMS, scales), jax.value_and_grad(through)(PARAMS)

    judge(*jax.jit(lambda: (of(function), of(forward)))(), X.dtype)


def test_optax_trains_by_it_as_by_autodiff():
    model, key = MODELS["Dropout"]
    optimizer = optax.adam(0.05)

    def train(f):
        def step(carry, key):
            params, state = carry
            value, g = jax.value_and_grad(lambda params: jnp.mean((f(params, X, key) - C) ** 2))(params)
            updates, state = optimizer.update(g, state, params)
            return (optax.apply_updates(params, updates), state), value

        params = model.init(KEY)
        (params, _), values = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, 8))
        return params, values

    by_hand, automatic = jax.jit(lambda: (train(differentiable(model, batched=True)), train(plain(model))))()
    assert compare(by_hand, automatic).error < 1e-10


RULES = [FeedbackAlignment(), DirectFeedbackAlignment(), SignSymmetric(), SignSymmetric("uniform")]


@pytest.mark.parametrize("rule", choose(RULES, 2), ids=str)
@pytest.mark.parametrize("model", [MODEL, mlp((3, 4, 4, 2), hidden=tanh)], ids=["one hidden", "two hidden"])
def test_with_a_rule_its_gradient_is_the_rules(rule, model):
    params, labels = model.init(KEY), jnp.array([0, 1, 1, 0, 1])
    loss = SoftmaxCrossEntropy()
    single, batched = differentiable(model, rule), differentiable(model, rule, batched=True)

    @jax.jit
    def three(feedback):
        explicit = rule.init(model, jax.random.key(0)) if feedback is None else feedback

        def mean(y):
            return jnp.mean(jax.vmap(loss.value)(y, labels))

        by_batch = jax.value_and_grad(lambda params: mean(batched(params, X, feedback=feedback)))(params)
        by_vmap = jax.value_and_grad(lambda params: mean(jax.vmap(lambda x: single(params, x, feedback=feedback))(X)))
        return by_batch, by_vmap(params), rule(model, loss).bind(explicit)(params, X, labels)

    results = [three(feedback) for feedback in (None, rule.init(model, jax.random.key(8)))]
    for by_batch, by_vmap, expected in results:
        judge(by_batch, expected, X.dtype)
        judge(by_vmap, expected, X.dtype)
    assert compare(results[0][0][1], results[1][0][1]).error > 1e-2 or rule == SignSymmetric("uniform")


def test_noise_is_drawn_with_the_key_of_each_call():
    rule = NoisyDeltas(0.5)
    function = jax.jit(
        jax.grad(lambda params, key: jnp.sum(C * differentiable(MODEL, rule, batched=True)(params, X, key)))
    )
    one, same, other, quiet = (function(PARAMS, key) for key in (KEY, KEY, jax.random.key(1), None))
    assert compare(one, same).error == 0
    assert compare(one, other).error > 1e-2
    judge(quiet, gradients(plain(MODEL), PARAMS, X)[1][0], X.dtype)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("rule", [FeedbackAlignment(), KolenPollack(optax.adam(0.1))], ids=["fixed", "learned"])
def test_feedback_gets_no_gradient(rule, batched):
    function, feedback = differentiable(MODEL, rule, batched=batched), rule.init(MODEL, jax.random.key(8))
    x = X if batched else X[0]
    y, pull = jax.vjp(lambda params, feedback: function(params, x, None, feedback), PARAMS, feedback)
    grads, none = pull(jnp.ones_like(y))
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(grads))
    assert jax.tree.structure(none) == jax.tree.structure(feedback)
    for zero, leaf in zip(jax.tree.leaves(none), jax.tree.leaves(feedback), strict=True):
        assert zero.shape == leaf.shape
        assert zero.dtype == jax.dtypes.float0 or not jnp.any(zero)


@pytest.mark.parametrize("dtype", choose(["float32", "bfloat16"], 2))
@pytest.mark.parametrize("model", [MODEL, MixedPrecision(MODEL)], ids=["plain", "mixed"])
@pytest.mark.parametrize("batched", choose([True, False], 2))
def test_gradients_have_the_precision_of_what_they_are_gradients_of(dtype, model, batched):
    function = differentiable(model, batched=batched)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    x = X if batched else X[0]
    for features in (x, x.astype(dtype)):
        y, pull = jax.vjp(function, params, features)
        grads, dx = pull(jnp.ones_like(y))
        assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype(dtype)}
        assert dx.dtype == features.dtype
        expected = jax.grad(lambda params: jnp.sum(plain(MODEL)(params, jnp.atleast_2d(x))))(PARAMS)
        grads = jax.tree.map(lambda leaf: leaf.astype(float), grads)
        assert compare(grads, expected).error < 0.03  # bfloat16 has 8 bits


@dataclass(frozen=True)
class Embedding(Layer):
    """y = W_x for an integer x, a row of W [k, m]; the parameter `uses` holds integers."""

    k: int
    m: int

    def init(self, key):
        return {"W": jax.random.normal(key, (self.k, self.m)), "uses": jnp.arange(self.k)}

    def forward(self, params, x, key=None):
        return params["W"][x], x

    def backward(self, params, saved, dy):
        return {"W": Outer(jax.nn.one_hot(saved, self.k), dy), "uses": jnp.zeros(self.k)}, jnp.zeros(())


def test_integers_get_a_gradient_of_type_float0():
    model, tokens = Sequential((Embedding(4, 3), tanh, Dense(3, 2))), jnp.array([0, 3, 3, 1, 0])
    params = model.init(KEY)

    def objective(f):
        return lambda params, x: jnp.sum(C * f(params, x))

    expected = jax.jit(jax.grad(objective(plain(model)), (0, 1), allow_int=True))(params, tokens)
    for function in (by_vmap(model), differentiable(model, batched=True)):
        actual, dx = jax.jit(jax.grad(objective(function), (0, 1), allow_int=True))(params, tokens)
        assert actual[0].pop("uses").dtype == dx.dtype == jax.dtypes.float0
        judge(actual, ({"W": expected[0][0]["W"]}, *expected[0][1:]), X.dtype)


def test_parameters_may_be_none():
    class Unbiased(Dense):
        def init(self, key):
            return super().init(key) | {"b": None}

        def forward(self, params, x, key=None):
            return params["W"] @ x, x

        def backward(self, params, saved, dy):
            return super().backward(params, saved, dy)[0] | {"b": None}, params["W"].T @ dy

    model = Sequential((Unbiased(3, 4), tanh, Dense(4, 2)))
    params = model.init(KEY)
    judge(gradients(differentiable(model, batched=True), params, X), gradients(plain(model), params, X), X.dtype)


def test_forward_mode_is_the_transposed_backward():
    function, forward = differentiable(MODEL), lambda params, x: MODEL.forward(params, x)[0]
    tangents = jax.tree.map(jnp.cos, (PARAMS, X[0]))
    compute = jax.jit(
        lambda f: (jax.jvp(f, (PARAMS, X[0]), tangents), jax.jacfwd(f, 1)(PARAMS, X[0])), static_argnums=0
    )
    judge(compute(function), compute(forward), X.dtype)
    many = jax.jit(lambda f: jax.jvp(lambda x: f(PARAMS, x), (X,), (jnp.sin(X),)), static_argnums=0)
    judge(many(differentiable(MODEL, batched=True)), many(plain(MODEL)), X.dtype)


@pytest.mark.slow
def test_the_hessian_by_forward_over_reverse_is_that_of_autodiff():
    model = Sequential((Conv(1, 2, (2, 2)), tanh, MaxPool((2, 1)), Flatten(), Dense(8, 3), LayerNorm(3), softmax))
    params, x = model.init(KEY), jax.random.normal(KEY, (5, 3, 1))
    by_hand, expected = (
        jax.jit(jax.hessian(lambda params, f=f: jnp.sum(jnp.sin(f(params, x)))))(params)
        for f in (differentiable(model), lambda params, x: model.forward(params, x)[0])
    )
    judge(by_hand, expected, x.dtype)


def test_forward_mode_uses_the_weights_of_a_rule():
    function = differentiable(MODEL, FeedbackAlignment())
    feedback = FeedbackAlignment().init(MODEL, jax.random.key(4))
    forward, reverse = (
        jax.jit(jacobian(lambda x: function(PARAMS, x, None, feedback)))(X[0]) for jacobian in (jax.jacfwd, jax.jacrev)
    )
    np.testing.assert_allclose(forward, reverse, rtol=1e-12)
    assert compare(forward, jax.jacfwd(lambda x: MODEL.forward(PARAMS, x)[0])(X[0])).error > 0.1


def test_what_is_not_linear_in_dy_has_no_forward_mode():
    function = differentiable(MODEL, ClippedDeltas(0.1))
    with pytest.raises(TypeError, match=r"forward-mode .* to a custom_vjp function"):
        jax.jvp(lambda params: function(params, X[0]), (PARAMS,), (PARAMS,))

    class Squared(Layer):
        def forward(self, params, x, key=None):
            return x, ()

        def backward(self, params, saved, dy):
            return (), dy * dy

    with pytest.raises(ValueError, match=r"^expected a backward that is linear in dy for .*Squared"):
        jax.grad(lambda x: differentiable(Squared())((), x).sum())(X[0])


def test_the_backward_can_itself_be_differentiated():
    function = differentiable(MODEL)

    @jax.jit
    def second(x):
        by_hand, forward = (
            lambda x, f=f: jnp.sum(f(x) ** 2)
            for f in (lambda x: function(PARAMS, x), lambda x: MODEL.forward(PARAMS, x)[0])
        )
        return [jax.jacrev(jax.grad(by_hand))(x), jax.hessian(by_hand)(x)], [jax.hessian(forward)(x)] * 2

    judge(*second(X[0]), X.dtype)


# Other libraries: a network of their layers and a handwritten one start from the same parameters and train alike.

STEPS, T = 5, jnp.sin(C)
OPTIMIZER = optax.adam(0.05)


def test_an_equinox_module_trains_by_it_as_by_its_own_layers():
    eqx = pytest.importorskip("equinox")

    class ByHand(eqx.Module):
        params: tuple
        function: object = eqx.field(static=True)
        batched: bool = eqx.field(static=True)

        def __call__(self, x):
            return self.function(self.params, x) if self.batched else jax.vmap(self.function, (None, 0))(self.params, x)

    class Own(eqx.Module):
        net: eqx.nn.MLP

        def __call__(self, x):
            return jax.vmap(self.net)(x)

    def train(module):
        state = OPTIMIZER.init(eqx.filter(module, eqx.is_inexact_array))

        @eqx.filter_jit
        def step(module, state):
            g = eqx.filter_grad(lambda module: jnp.mean((module(X) - T) ** 2))(module)
            updates, state = OPTIMIZER.update(g, state)
            return eqx.apply_updates(module, updates), state

        for _ in range(STEPS):
            module, state = step(module, state)
        return module

    def params(net):
        first, last = ({"W": layer.weight, "b": layer.bias} for layer in net.layers)
        return first, (), last, ()

    net = eqx.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=KEY)
    expected = params(train(Own(net)).net)
    assert compare(expected, params(net)).error > 1e-2
    for batched in (False, True):
        module = train(ByHand(params(net), differentiable(MODEL, batched=batched), batched))
        assert compare(module.params, expected).error < 1e-10


def flax_params(first, last):
    return {"W": first["kernel"].T, "b": first["bias"]}, (), {"W": last["kernel"].T, "b": last["bias"]}, ()


def test_a_linen_module_trains_by_it_as_by_its_own_layers():
    pytest.importorskip("flax")
    from flax import linen

    class ByHand(linen.Module):
        @linen.compact
        def __call__(self, x):
            return differentiable(MODEL, batched=True)(self.param("network", MODEL.init), x)

    def train(module, variables):
        @jax.jit
        def step(variables, state):
            g = jax.grad(lambda variables: jnp.mean((module.apply(variables, X) - T) ** 2))(variables)
            updates, state = OPTIMIZER.update(g, state)
            return optax.apply_updates(variables, updates), state

        state = OPTIMIZER.init(variables)
        for _ in range(STEPS):
            variables, state = step(variables, state)
        return variables["params"]

    own = linen.Sequential([linen.Dense(4, param_dtype=float), linen.tanh, linen.Dense(2, param_dtype=float)])
    variables = own.init(KEY, X)
    initial = flax_params(variables["params"]["layers_0"], variables["params"]["layers_2"])
    after = train(own, variables)
    expected = flax_params(after["layers_0"], after["layers_2"])
    assert jax.tree.structure(ByHand().init(KEY, X)["params"]["network"]) == jax.tree.structure(initial)
    assert compare(expected, initial).error > 1e-2
    assert compare(train(ByHand(), {"params": {"network": initial}})["network"], expected).error < 1e-10


def test_an_nnx_module_trains_by_it_as_by_its_own_layers():
    pytest.importorskip("flax")
    from flax import nnx

    class Own(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.first, self.last = (nnx.Linear(n, m, param_dtype=float, rngs=rngs) for n, m in ((3, 4), (4, 2)))

        def __call__(self, x):
            return self.last(jnp.tanh(self.first(x)))

    class ByHand(nnx.Module):
        def __init__(self, params):
            self.params = nnx.data(jax.tree.map(nnx.Param, params))

        def values(self):
            return jax.tree.map(nnx.Param.get_value, self.params, is_leaf=lambda leaf: isinstance(leaf, nnx.Param))

        def __call__(self, x):
            return differentiable(MODEL, batched=True)(self.values(), x)

    def train(module):
        optimizer = nnx.Optimizer(module, OPTIMIZER, wrt=nnx.Param)

        @nnx.jit
        def step(module, optimizer):
            optimizer.update(module, nnx.grad(lambda module: jnp.mean((module(X) - T) ** 2))(module))

        for _ in range(STEPS):
            step(module, optimizer)
        return module

    def params(own):
        return flax_params(*({"kernel": part.kernel[...], "bias": part.bias[...]} for part in (own.first, own.last)))

    own = Own()
    initial = params(own)
    expected = params(train(own))
    assert compare(expected, initial).error > 1e-2
    assert compare(train(ByHand(initial)).values(), expected).error < 1e-10
