"""Programs with a custom derivative that is right or has a planted mistake, inside what JAX programs are made of."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

X = jax.random.normal(jax.random.key(0), (5, 4))
G = jnp.linspace(0.5, 2.0, 4)

PROGRAMS = {}  # by name: a function of whether the derivative is wrong, which returns the program and its arguments


def register(make):
    PROGRAMS[make.__name__] = make
    return make


def normalize(x, g):
    return x * jax.lax.rsqrt(jnp.mean(x * x) + 1e-6) * g


def make_rule(wrong, forward=normalize, reference=normalize):
    """Returns a function called "rule": its gradient is that of `reference`, with another sign for x if wrong."""

    @jax.custom_vjp
    def rule(x, g):
        return forward(x, g)

    def backward(saved, dy):
        dx, dg = jax.vjp(reference, *saved)[1](dy)
        return -dx if wrong else dx, dg

    rule.defvjp(lambda x, g: (forward(x, g), (x, g)), backward)
    return rule


def make_rows_rule(wrong):
    """Returns the same as a function of all rows of x."""
    return jax.vmap(make_rule(wrong), (0, None))


@register
def pallas_kernel(wrong):
    from jax.experimental import pallas

    def kernel(x, g, y):
        y[...] = x[...] * jax.lax.rsqrt(jnp.mean(x[...] ** 2, axis=1, keepdims=True) + 1e-6) * g[...][None]

    def forward(x, g):
        row = pallas.BlockSpec((1, 4), lambda i: (i, 0))
        specs = [row, pallas.BlockSpec((4,), lambda i: (0,))]
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        call = pallas.pallas_call(kernel, grid=(5,), in_specs=specs, out_specs=row, out_shape=shape, interpret=True)
        return call(x, g)

    rule = make_rule(wrong, forward, jax.vmap(normalize, (0, None)))
    return lambda x, g: jnp.sum(jax.jit(rule)(x, g) ** 2), (X, G)


@register
def host_callback(wrong):
    def forward(x, g):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        run = lambda x, g: np.asarray(x) ** 2 * np.asarray(g)  # noqa: E731
        return jax.pure_callback(run, shape, x, g, vmap_method="sequential")

    rule = make_rule(wrong, forward, lambda x, g: x**2 * g)
    return lambda x, g: rule(x, g).sum(), (X[0], G)


@register
def nested_rules(wrong):
    inner = make_rule(wrong)

    @jax.custom_vjp
    def outer(x):
        return jnp.sum(inner(x, G) ** 2)

    outer.defvjp(lambda x: (outer(x), x), lambda x, dy: (dy * jax.grad(lambda x: jnp.sum(normalize(x, G) ** 2))(x),))
    return outer, (X[0],)


@register
def static_arguments_of_a_vjp(wrong):
    @partial(jax.custom_vjp, nondiff_argnums=(0, 2))
    def rule(function, x, factor):
        return function(x) * factor

    rule.defvjp(
        lambda function, x, factor: (function(x) * factor, x),
        lambda function, factor, x, dy: ((1 if wrong else factor) * dy * jnp.cos(x),),
    )
    return lambda x: rule(jnp.sin, x, 3).sum(), (X,)


@register
def static_arguments_of_a_jvp(wrong):
    @partial(jax.custom_jvp, nondiff_argnums=(1,))
    def rule(x, n):
        return x**n

    rule.defjvp(lambda n, x, dx: (x[0] ** n, (1 if wrong else n) * x[0] ** (n - 1) * dx[0]))
    return lambda x: rule(x, 3).sum(), (X,)


@register
def pytrees(wrong):
    @jax.custom_vjp
    def rule(params, x):
        return {"y": x @ params["W"] + params["b"][None], "sums": (x.sum(),)}

    def backward(saved, dy):
        params, x = saved
        db = dy["y"][0] if wrong else dy["y"].sum(0)
        return {"W": x.T @ dy["y"], "b": db}, dy["y"] @ params["W"].T + dy["sums"][0]

    rule.defvjp(lambda params, x: (rule(params, x), (params, x)), backward)
    params = {"W": 0.3 * jnp.ones((4, 3)), "b": jnp.ones(3)}
    return lambda params, x: jnp.sum(jnp.sin(rule(params, x)["y"])), (params, X)


@register
def indices_and_a_mask_without_a_cotangent(wrong):
    @jax.custom_vjp
    def rule(x, indices, mask):
        return x[indices] * mask

    def backward(saved, dy):
        x, indices, mask = saved
        rows = jnp.zeros_like(x).at[indices]
        return rows.set(dy * mask) if wrong else rows.add(dy * mask), None, None

    rule.defvjp(lambda *inputs: (rule(*inputs), inputs), backward)
    return lambda x: rule(x, jnp.array([0, 2, 2]), jnp.ones((3, 4))).sum(), (X,)


@register
def key_as_an_input(wrong):
    @jax.custom_vjp
    def rule(x, key):
        return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0)

    def backward(key, dy):
        return dy if wrong else jnp.where(jax.random.bernoulli(key, 0.5, dy.shape), dy, 0), None

    rule.defvjp(lambda x, key: (rule(x, key), key), backward)
    return lambda x, key: rule(x, key).sum(), (X, jax.random.key(1))


@register
def mapped(wrong):
    return lambda x: jax.lax.map(lambda x: make_rule(wrong)(x, G), x), (X,)


@register
def associative_scan(wrong):
    @jax.custom_vjp
    def rule(a, b):
        return a * b

    rule.defvjp(lambda a, b: (a * b, (a, b)), lambda s, dy: (dy * (s[0] if wrong else s[1]), dy * s[0]))
    return lambda x: jax.lax.associative_scan(rule, x), (X,)


@register
def fori_loop(wrong):
    return lambda x, n: jax.lax.fori_loop(0, n, lambda i, x: make_rule(wrong)(x, G), x[0]), (X, jnp.asarray(3))


@register
def batched_while_loop(wrong):
    def run(x):
        step = lambda carry: (carry[0] + 1, make_rule(wrong)(carry[1], G))  # noqa: E731
        return jax.lax.while_loop(lambda carry: carry[0] < 2 + (x[0] > 0), step, (0, x))[1]

    return jax.vmap(run), (X,)


@register
def linear_solve(wrong):
    A = 3 * jnp.eye(4) + jnp.ones((4, 4))
    return lambda x: jax.scipy.sparse.linalg.cg(lambda v: A @ v, make_rule(wrong)(x[0], G))[0], (X,)


@register
def linear_transpose(wrong):
    return lambda x: jax.linear_transpose(lambda y: 2 * y, x[0])(make_rule(wrong)(x[0], G))[0], (X,)


@register
def checkpoint_with_a_policy(wrong):
    policy = jax.checkpoint_policies.dots_saveable
    return lambda x: jax.checkpoint(lambda x: make_rule(wrong)(jnp.sin(x), G), policy=policy)(x[0]).sum(), (X,)


@register
def equinox_loss(wrong):
    import equinox as eqx

    class Model(eqx.Module):
        linear: eqx.nn.Linear
        g: jax.Array

        def __call__(self, x):
            return make_rule(wrong)(self.linear(x), self.g)

    model = Model(eqx.nn.Linear(4, 4, key=jax.random.key(1)), G)
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    loss = eqx.filter_jit(lambda model, x: jnp.mean(jax.vmap(model)(x) ** 2))
    return lambda arrays, x: loss(eqx.combine(arrays, rest), x), (arrays, X)


@register
def equinox_model_as_an_argument(wrong):
    import equinox as eqx

    mlp = eqx.nn.MLP(4, 4, 8, 1, activation=lambda x: make_rule(wrong)(x, 1.0), key=jax.random.key(1))
    return lambda model, x: jnp.mean(jax.vmap(model)(x) ** 2), (mlp, X)


@register
def nnx_loss(wrong):
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.linear, self.g = nnx.Linear(4, 4, rngs=rngs), nnx.Param(G)

        def __call__(self, x):
            return make_rows_rule(wrong)(self.linear(x), self.g[...])

    graph, state = nnx.split(Model(nnx.Rngs(0)))
    return lambda state, x: jnp.mean(nnx.merge(graph, state)(x) ** 2), (state, X)


@register
def linen_loss_with_scan_and_remat(wrong):
    from flax import linen

    class Cell(linen.Module):
        @linen.compact
        def __call__(self, h, _):
            return make_rows_rule(wrong)(linen.Dense(4)(h), G), None

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            layers = linen.scan(linen.remat(Cell), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
            return layers()(x, None)[0]

    params = Model().init(jax.random.key(0), X)
    return lambda params, x: jnp.mean(Model().apply(params, x) ** 2), (params, X)


REPORTS = {}  # like `PROGRAMS`, by the public report of such a mistake; the programs themselves are written here


def report(name):
    def register(make):
        REPORTS[name] = make
        return make

    return register


@report("unsloth#4533")
def weight_of_a_norm_without_gradient(wrong):
    """The forward pass is right, but the weight of an RMS norm is never trained."""

    @jax.custom_vjp
    def rule(x, g):
        return normalize(x, g)

    def backward(saved, dy):
        dx, dg = jax.vjp(normalize, *saved)[1](dy)
        return dx, None if wrong else dg

    rule.defvjp(lambda x, g: (normalize(x, g), (x, g)), backward)
    return lambda g, x: jnp.mean(jax.vmap(rule, (0, None))(x, g) ** 3), (G, X)


@report("Liger-Kernel#1375")
def group_norm_of_images(wrong):
    """The backward pass averages over the last axis of an image where the forward pass averages over all axes."""

    def statistics(x):
        axes = (1, 2)
        mean = x.mean(axes, keepdims=True)
        return mean, jax.lax.rsqrt(((x - mean) ** 2).mean(axes, keepdims=True) + 1e-5)

    def forward(x, w, b):
        mean, r = statistics(x)
        return (x - mean) * r * w[:, None, None] + b[:, None, None]

    @jax.custom_vjp
    def rule(x, w, b):
        return forward(x, w, b)

    def backward(saved, dy):
        x, w, _ = saved
        mean, r = statistics(x)
        n, d = (x - mean) * r, dy * w[:, None, None]
        axes = (2,) if wrong else (1, 2)
        dx = r * (d - d.mean(axes, keepdims=True) - n * (d * n).mean(axes, keepdims=True))
        return dx, (dy * n).sum((1, 2)), dy.sum((1, 2))

    rule.defvjp(lambda *inputs: (forward(*inputs), inputs), backward)
    x = jax.random.normal(jax.random.key(2), (2, 2, 3))
    return lambda x, w, b: jnp.sum(jnp.tanh(jax.jit(rule)(x, w, b))), (x, jnp.ones(2), jnp.zeros(2))


@report("mlstm_kernels#16")
def recurrence_in_chunks(wrong):
    """The gradient of the values is right; that of queries, keys and gates misses the state at a chunk's beginning."""

    def chunk(state, inputs):
        def step(state, inputs):
            q, k, v, f = inputs
            state = jax.nn.sigmoid(f) * state + jnp.outer(k, v)
            return state, q @ state

        return jax.lax.scan(step, state, inputs)

    @jax.custom_vjp
    def rule(state, inputs):
        return chunk(state, inputs)

    def backward(saved, dy):
        state, inputs = saved
        d_state, (dq, dk, dv, df) = jax.vjp(chunk, state, inputs)[1](dy)
        if wrong:
            _, (dq, dk, _, df) = jax.vjp(chunk, jnp.zeros_like(state), inputs)[1](dy)
        return d_state, (dq, dk, dv, df)

    rule.defvjp(lambda state, inputs: (chunk(state, inputs), (state, inputs)), backward)

    def program(inputs):
        return jnp.mean(jax.lax.scan(rule, jnp.zeros((2, 2)), inputs)[1] ** 2)

    keys = jax.random.split(jax.random.key(3), 4)
    shapes = ((3, 2, 2), (3, 2, 2), (3, 2, 2), (3, 2))  # three chunks of two steps
    return program, (tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)),)


@report("braintrace#126")
def convolution_with_a_product_of_sums(wrong):
    """The gradient of a kernel is a product of two sums over positions where the sum of products is right."""

    def forward(x, w):
        return jnp.convolve(x, w[::-1], mode="valid")

    @jax.custom_vjp
    def rule(x, w):
        return forward(x, w)

    def backward(saved, dy):
        x, w = saved
        windows = jnp.stack([x[i : i + len(dy)] for i in range(len(w))])
        dw = windows.sum(1) * dy.sum() / len(dy) if wrong else windows @ dy
        return jnp.convolve(dy, w, mode="full"), dw

    rule.defvjp(lambda x, w: (forward(x, w), (x, w)), backward)
    x = jax.random.normal(jax.random.key(4), (8,))
    return lambda x, w: jnp.sum(jax.nn.softplus(jax.jit(rule)(x, w))), (x, jnp.array([0.3, -0.5, 0.8]))
