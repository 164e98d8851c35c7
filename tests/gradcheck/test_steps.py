"""The search for a wrong step, called directly with handwritten gradients that are wrong."""

import time
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.selection import choose

from jaxann.gradcheck.arguments import Args, by_name
from jaxann.gradcheck.compilation import clear_programs, precision
from jaxann.gradcheck.step_points import Wrong
from jaxann.gradcheck.step_search import find_changes
from jaxann.gradcheck.steps import list_steps
from jaxann.nn import gelu

POINTS = 4
WORD = lambda value: value if isinstance(value, str) and len(value) < 25 else ""  # noqa: E731


def draw(key, shapes):
    keys = jax.random.split(jax.random.key(key), len(shapes))
    return {name: jax.random.normal(k, (POINTS, *shape)) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}


def sum_parameters(grads):
    """Sums the gradients of parameters over the batch."""
    return {name: g if name == "dx" else g.sum(1) for name, g in grads.items()}


@cache
def differentiate(forward):
    """The program of the true gradients of a forward pass."""

    def one(params, x, dy):
        _, pull = jax.vjp(lambda params: forward(params, x)[0], params)
        grads, dx = pull(dy)[0], ()
        if jnp.issubdtype(x.dtype, jnp.floating):
            dx = jax.vjp(lambda x: forward(params, x)[0], x)[1](dy)[0]
        return by_name(grads, dx)

    return jax.jit(lambda args: sum_parameters(jax.vmap(jax.vmap(one, (None, 0, 0)))(args.params, args.x, args.dy)))


def search(forward, backward, params, x, seconds=60.0, examples=1, aux=()):
    """Finds the changes for a pair forward(params, x) -> (y, saved), backward(params, saved, dy) -> (grads, dx)."""

    @jax.jit
    def backward_batch(args):
        def one(params, x, dy):
            return by_name(*backward(params, forward(params, x)[1], dy))

        return sum_parameters(jax.vmap(jax.vmap(one, (None, 0, 0)))(args.params, args.x, args.dy))

    x = x if x.ndim and examples > 1 else x[:, None]
    y = jax.eval_shape(lambda p, x: forward(p, x)[0], jax.tree.map(lambda p: p[0], params), x[0, 0])
    dy = jax.random.normal(jax.random.key(9), (POINTS, x.shape[1], *y.shape))
    args = jax.tree.map(np.asarray, Args(params, x, aux, dy))
    with precision("float64"):
        true, handwritten = (
            jax.tree.map(np.asarray, batch(args)) for batch in (differentiate(forward), backward_batch)
        )
        wrong = {}
        for name, b in true.items():
            size = np.abs(b).max(axis=tuple(range(1, b.ndim)), keepdims=True)
            if (np.abs(handwritten[name] - b) > 1e-9 * size).any():
                wrong[name] = Wrong(handwritten[name], b, 1e-9 * size)
        assert wrong, "the backward pass is right"
        found = find_changes(
            lambda params, x, aux: forward(params, x)[0], args, wrong, backward_batch, time.monotonic() + seconds
        )
    return found, set(wrong)


def told(*args, **kwargs):
    """The one change that explains every wrong gradient."""
    found, wrong = search(*args, **kwargs)
    assert set(found.changes) == wrong, found
    (change,) = set(found.changes.values())
    assert found.reason == ""
    return change


GATES = "figo"


def lstm_params(n=3, m=2):
    return {
        k: 0.5 * p for k, p in draw(0, {f"W{g}": (m, m + n) for g in GATES} | {f"b{g}": (m,) for g in GATES}).items()
    }


def lstm_loop(params, x):
    m = params["bf"].size
    h, c, saved, out = jnp.zeros(m), jnp.zeros(m), [], []
    for xt in x:
        z = jnp.concatenate([h, xt])
        a = {g: params["W" + g] @ z + params["b" + g] for g in GATES}
        f, i, o = (jax.nn.sigmoid(a[k]) for k in "fio")
        g, before = jnp.tanh(a["g"]), c
        c = f * c + i * g
        h = o * jnp.tanh(c)
        saved.append((z, f, i, g, o, before, c))
        out.append(h)
    return jnp.stack(out), saved


def lstm_scan(params, x):
    def iterate(carry, xt):
        h, before = carry
        z = jnp.concatenate([h, xt])
        f = jax.nn.sigmoid(params["Wf"] @ z + params["bf"])
        i = jax.nn.sigmoid(params["Wi"] @ z + params["bi"])
        o = jax.nn.sigmoid(params["Wo"] @ z + params["bo"])
        g = jnp.tanh(params["Wg"] @ z + params["bg"])
        c = f * before + i * g
        h = o * jnp.tanh(c)
        return (h, c), (h, (z, f, i, g, o, before, c))

    zeros = jnp.zeros_like(params["bf"])
    _, (y, saved) = jax.lax.scan(iterate, (zeros, zeros), x)
    return y, [tuple(leaf[t] for leaf in saved) for t in range(len(x))]


def lstm_backward(wrong, params, saved, dy):
    m = dy.shape[-1]
    dh_next = dc_next = jnp.zeros(m)
    grads, dx = {f"{k}{g}": 0.0 for k in "Wb" for g in GATES}, []
    for (z, f, i, g, o, before, c), d in zip(saved[::-1], dy[::-1], strict=True):
        dh = d + dh_next
        tanh_c = jnp.tanh(c)
        dc = dh * o * (1 - (jnp.tanh(tanh_c) if "tanh twice" in wrong else tanh_c) ** 2)
        if "dc not accumulated" not in wrong:
            dc = dc + dc_next
        da = {
            "o": dh * tanh_c * o * (1 - o),
            "g": dc * i * (1 - g if "1 - y" in wrong else 1 - g**2),
            "i": dc * g * i * (1 - i),
            "f": dc * before * (f if "forget slope" in wrong else f * (1 - f)),
        }
        dz = sum(params["W" + k].T @ da[k] for k in GATES)
        if "not carried" not in wrong:
            dh_next, dc_next = dz[:m], f * dc
        dx.append(dz[m:])
        for k in GATES:
            grads["W" + k] += jnp.outer(da[k], z)
            grads["b" + k] += da[k]
    return grads, jnp.stack(dx[::-1])


LSTM_SENTENCES = {
    "tanh twice": "a backward that evaluates the derivative of the tanh `jnp.tanh(c)` in `h = o * jnp.tanh(c)` ({}) at "
    "its output instead of at its input",
    "1 - y": "a derivative of the tanh{} that is 1 - y instead of 1 - y²",
    "forget slope": "a derivative of the sigmoid{} that is y instead of y (1 - y)",
    "not carried": "a backward that passes no gradient from an iteration of the loop to the one before ({})",
    "dc not accumulated": "a backward that treats the operand `{}` of the product `f * {}` in `c = f * {} + i * g` "
    "({}) as a constant",
}


@pytest.mark.parametrize(
    ("forward", "steps", "wrong"),
    choose(
        [
            *((lstm_loop, 1, wrong) for wrong in ("tanh twice", "1 - y")),
            *((lstm_loop, steps, wrong) for steps in (2, 4) for wrong in LSTM_SENTENCES),
            *((lstm_scan, 4, wrong) for wrong in LSTM_SENTENCES),
        ],
        12,
    ),
)
def test_a_wrong_line_of_a_recurrence_is_named(forward, steps, wrong):
    clear_programs()
    x = jax.random.normal(jax.random.key(1), (POINTS, steps, 3))
    change = told(forward, partial(lstm_backward, (wrong,)), lstm_params(), x)
    begin, *_, end = LSTM_SENTENCES[wrong].split("{}")
    assert change.sentence.startswith(begin), change
    assert change.sentence.endswith(end), change
    assert "test_steps.py" in change.sentence
    if wrong == "forget slope":
        line = {
            lstm_loop: '(the first of 3) in `f, i, o = (jax.nn.sigmoid(a[k]) for k in "fio")`',
            lstm_scan: "in `f = jax",
        }
        assert line[forward] in change.sentence


def test_three_mistakes_together_are_told_one_by_one():
    x = jax.random.normal(jax.random.key(1), (POINTS, 2, 3))
    wrong = ("forget slope", "tanh twice", "not carried")
    found, names = search(lstm_loop, partial(lstm_backward, wrong), lstm_params(), x)
    assert set(found.changes) == names
    assert found.changes["Wo"].cause == "recurrence"
    assert found.changes["Wg"].sentence.startswith("2 mistakes together: a backward that passes no gradient")
    assert found.changes["Wf"].sentence.startswith("3 mistakes together: a backward that passes no gradient")
    assert "that is y instead of y (1 - y)" in found.changes["Wf"].sentence


def batch_norm(params, x):
    mu = x.mean(axis=0)
    sd = jnp.sqrt(((x - mu) ** 2).mean(axis=0) + 1e-5)
    hat = (x - mu) / sd
    return params["gamma"] * hat + params["beta"], (x - mu, hat, sd)


def batch_norm_backward(wrong, params, saved, dy):
    centred, hat, sd = saved
    n = len(dy)
    dhat = dy if wrong == "no gamma" else dy * params["gamma"]
    dvar = jnp.sum(dhat * centred, axis=0) * -0.5 / sd**3
    dmu = -jnp.sum(dhat, axis=0) / sd
    dmu = {"extra mean term": dmu + dmu / n, "no mean path": 0 * dmu, "statistics": 0 * dmu}.get(wrong, dmu)
    dvar = 0 * dvar if wrong in ("no variance path", "statistics") else dvar
    dx = dhat / sd + dvar * 2 * centred / n + dmu / n
    if wrong == "wrong axis":
        dx = (dhat - dhat.mean(1, keepdims=True) - hat * (dhat * hat).mean(1, keepdims=True)) / sd
    return {"gamma": jnp.sum(dy * hat, axis=0), "beta": jnp.sum(dy, axis=0)}, dx


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    {
        "extra mean term": "a backward that gives the path through the mean in `mu = x.mean(axis=0)` (test_steps.py:",
        "no gamma": 'a backward that leaves out the factor `params["gamma"]` of the product `params["gamma"] * hat`',
        "no variance path": "a backward that treats the result of the square root in `sd = jnp.sqrt(((x - mu) ** 2)",
        "no mean path": "a backward that treats the mean in `mu = x.mean(axis=0)` (test_steps.py:",
        "statistics": "a backward that treats the mean and the standard deviation as constants, for the normalized",
        "wrong axis": "a backward that takes means over axis 1 instead of axis 0, for the normalized values",
    }.items(),
    ids=WORD,
)
def test_a_wrong_path_of_batch_normalization_is_named(wrong, sentence):
    params = draw(2, {"gamma": (4,), "beta": (4,)})
    x = 3 + 2 * jax.random.normal(jax.random.key(1), (POINTS, 6, 4))
    with jax.numpy_rank_promotion("allow"):
        change = told(batch_norm, partial(batch_norm_backward, wrong), params, x)
    assert change.sentence.startswith(sentence)
    if wrong == "extra mean term":
        assert change.sentence.endswith("the factor 1 + 1/6 instead of 1")


def attention(softmax, params, x):
    q, k, v = (x @ params[name].T for name in "QKV")
    p = softmax(q @ k.T / jnp.sqrt(4.0))
    return p @ v, (x, q, k, v, p)


def own_softmax(x):
    e = jnp.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention_backward(wrong, params, saved, dy):
    x, q, k, v, p = saved
    dv, dp = p.T @ dy, dy @ v.T
    ds = {
        "no dot product": p * dp,
        "diagonal": p * (1 - p) * dp,
        "wrong axis": p * (dp - (dp * p).sum(axis=0, keepdims=True)),
    }.get(wrong, p * (dp - (dp * p).sum(axis=1, keepdims=True)))
    if wrong != "no scale":
        ds = ds / jnp.sqrt(4.0)
    dq, dk = ds @ k, ds @ q if wrong == "not transposed" else ds.T @ q
    dx = dq @ params["Q"] + dk @ params["K"] + dv @ params["V"]
    if wrong == "a path of dx forgotten":
        dx = dq @ params["Q"] + dv @ params["V"]
    return {"Q": dq.T @ x, "K": dk.T @ x, "V": dv.T @ x}, dx


@pytest.mark.parametrize(
    ("wrong", "cause", "sentence"),
    [
        (
            "no dot product",
            "softmax",
            "a backward that has p dy, without the dot product pᵀ dy, instead of",
        ),
        ("diagonal", "softmax", "a backward that has p (1 - p) dy, from the diagonal of the Jacobian only, instead of"),
        (
            "wrong axis",
            "axis",
            "a backward that sums over axis 0 instead of axis 1 for the dot product in the",
        ),
        ("no scale", "factor missing", "a backward that leaves out the division by `jnp.sqrt(4.0)` of the quotient"),
        ("not transposed", "transposed", "a backward that uses the incoming gradient of the matrix product `q @ k.T`"),
        (
            "a path of dx forgotten",
            "constant",
            "a backward that treats the operand `x` of the matrix product `x",
        ),
    ],
    ids=WORD,
)
@pytest.mark.parametrize("softmax", [jax.nn.softmax, own_softmax])
def test_a_wrong_line_of_attention_is_named(softmax, wrong, cause, sentence):
    params = {name: 0.6 * W for name, W in draw(3, dict.fromkeys("QKV", (4, 3))).items()}
    x = jax.random.normal(jax.random.key(1), (POINTS, 5, 3))
    change = told(partial(attention, softmax), partial(attention_backward, wrong), params, x)
    assert change.cause == cause
    assert change.sentence.startswith(sentence)


def diamond(params, x):
    a = params["W"] @ x
    b = jnp.tanh(a)
    return a * b + b, (x, a, b)


def diamond_backward(wrong, params, saved, dy):
    x, a, b = saved
    db = dy if wrong == "last path only" else dy * a + dy
    da = dy * b + {"twice": 2, "sign": -1, "half": 0.5}.get(wrong, 1) * db * (1 - b**2)
    return {"W": jnp.outer(da, x)}, params["W"].T @ da


@pytest.mark.parametrize("examples", [1, 5])
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    {
        "twice": "a backward that counts the path through the result of the tanh in `b = jnp.tanh(a)` "
        "(test_steps.py:{}) twice",
        "sign": "a backward that has the wrong sign on the path through the result of the tanh in `b = jnp.tanh(a)` (",
        "half": "a backward that gives the path through the result of the tanh in `b = jnp.tanh(a)` (test_steps.py:{}) "
        "the factor 1/2 instead of 1",
        "last path only": "a backward that treats the operand `b` of the product `a * b` in `return a * b + b",
    }.items(),
    ids=WORD,
)
def test_a_path_with_a_wrong_factor_is_named(wrong, sentence, examples):
    shape = (POINTS, 3) if examples == 1 else (POINTS, examples, 3)
    x = jax.random.normal(jax.random.key(1), shape)
    change = told(diamond, partial(diamond_backward, wrong), draw(4, {"W": (3, 3)}), x, examples=examples)
    line = diamond.__code__.co_firstlineno + 2
    assert change.sentence.startswith(sentence.format(line))


def fused(params, x):
    a = params["W"] @ x + params["b"]
    return jnp.where(a > 0, a, 0), (x, a)


def fused_backward(wrong, params, saved, dy):
    x, a = saved
    da = jnp.where(a > 0, dy, 0)
    own = dy if wrong in ("parameters", "all") else da
    return {"W": jnp.outer(own, x), "b": own}, params["W"].T @ (dy if wrong == "all" else da)


@pytest.mark.parametrize("wrong", ["parameters", "all"])
def test_a_forgotten_mask_is_named(wrong):
    params, x = draw(5, {"W": (4, 3), "b": (4,)}), jax.random.normal(jax.random.key(1), (POINTS, 3))
    change = told(fused, partial(fused_backward, wrong), params, x)
    assert change.cause == "mask"
    assert "the mask of the selection `jnp.where(a > 0, a, 0)`" in change.sentence


def test_a_forgotten_random_mask_is_named():
    def forward(params, x):
        mask = jax.random.bernoulli(jax.random.key(0), 0.6, x.shape)
        return x * mask / 0.6, ()

    x = jax.random.normal(jax.random.key(1), (POINTS, 6))
    change = told(forward, lambda params, saved, dy: ((), dy / 0.6), (), x)
    assert change.sentence.startswith(
        "a backward that forgets the mask of the product `x * mask` in `return x * mask / 0.6"
    )


def test_forward_in_place_of_its_transpose_is_named():
    def forward(params, x):
        return jnp.cumsum(x), ()

    x = jax.random.normal(jax.random.key(1), (POINTS, 4))
    change = told(forward, lambda params, saved, dy: ((), jnp.cumsum(dy)), (), x)
    assert change.cause == "transposed"
    assert change.sentence.startswith("a backward that applies the cumulative sum `jnp.cumsum(x)`")


def test_rows_of_an_embedding_that_are_assigned_are_named():
    def forward(params, x):
        return params["E"][x], x

    def backward(params, x, dy):
        return {"E": jnp.zeros_like(params["E"]).at[x].set(dy)}, ()

    x = jnp.array([[2, 0, 2, 4]] * POINTS)
    change = told(forward, backward, draw(6, {"E": (5, 3)}), x)
    assert change.cause == "assigned"
    assert change.sentence.endswith("takes several times, where it should add them, so that only the last one counts")


def pooling_backward(params, x, dy):
    dx = jnp.zeros_like(x)
    for i in range(3):
        for j in range(3):
            window = x[i : i + 3, j : j + 3]
            r, c = jnp.unravel_index(window.argmax(), window.shape)
            dx = dx.at[i + r, j + c].set(dy[i, j])
    return (), dx


def pool_by_slices(params, x):
    return jnp.array([[x[i:, j:][:3, :3].max() for j in range(3)] for i in range(3)]), x


def pool_by_windows(params, x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (3, 3), (1, 1), "VALID"), x


@pytest.mark.parametrize("forward", [pool_by_slices, pool_by_windows])
def test_windows_that_overlap_and_are_assigned_are_named(forward):
    x = jax.random.normal(jax.random.key(1), (POINTS, 5, 5))
    change = told(forward, pooling_backward, (), x)
    assert change.cause == "assigned"
    assert "add them, so that only the last one counts" in change.sentence


X = jax.random.normal(jax.random.key(7), (POINTS, 4, 3))


def centre(x):
    m = x.mean(axis=1, keepdims=True)
    return (x - m) * x


@pytest.mark.parametrize(
    ("forward", "dx", "sentence"),
    [
        (jax.nn.sigmoid, lambda x, y, dy: dy * x * (1 - x), "that is x (1 - x) instead of y (1 - y)"),
        (jax.nn.sigmoid, lambda x, y, dy: y * (1 - y), "a backward that leaves out dy, the incoming gradient"),
        (jnp.tanh, lambda x, y, dy: dy * (1 - x * x), "that is 1 - x² instead of 1 - y²"),
        (jnp.tanh, lambda x, y, dy: dy, "a backward that leaves out the derivative of the tanh"),
        (jax.nn.relu, lambda x, y, dy: dy, "a backward that forgets the mask of the maximum"),
        (
            lambda x: 1 / (1 + jnp.exp(-x)),
            lambda x, y, dy: dy * y,
            "sigmoid that is y instead of y (1 - y), where",
        ),
        (lambda x: x**2, lambda x, y, dy: dy * x, "that is x, without the factor 2, instead of 2 x"),
        (lambda x: x * x, lambda x, y, dy: dy * x, "that is x, without the factor 2, instead of 2 x"),
        (lambda x: x**3, lambda x, y, dy: 3 * dy * x**3, "that is 3 x^3 instead of 3 x^2"),
        (lambda x: x * jax.nn.sigmoid(x), lambda x, y, dy: dy * jax.nn.sigmoid(x), "the result of the sigmoid"),
        (lambda x: jnp.exp(x), lambda x, y, dy: dy * jnp.exp(y), "at its output instead of at its input"),
        (lambda x: jnp.sqrt(x * x + 1), lambda x, y, dy: 2 * dy * x / y, "that is 1 / √x instead of 1 / (2 √x)"),
        (lambda x: jnp.roll(x, 1, 0), lambda x, y, dy: jnp.roll(dy, 1, 0), "itself where its transpose is meant"),
        (lambda x: x.max() * x, lambda x, y, dy: dy * x.max() + (dy * x).sum(), "passes the gradient to every entry"),
        (jax.nn.gelu, lambda x, y, dy: dy, "a backward that leaves out the derivative of `forward(x)"),
        (
            centre,
            lambda x, y, dy: 2 * dy * x - dy * x.mean(1, keepdims=True) - (dy * x).mean(0),
            "averages over axis 0",
        ),
        (jax.nn.log_softmax, lambda x, y, dy: dy - jnp.exp(y), "without the factor Σ dy, instead of the log-softmax's"),
    ],
    ids=WORD,
)
def test_a_wrong_derivative_is_named(forward, dx, sentence):
    def run(params, x):
        y = 1 * forward(x)
        return y, (x, y)

    with jax.numpy_rank_promotion("allow"):
        change = told(run, lambda params, saved, dy: ((), dx(*saved, dy)), (), X)
    assert sentence in change.sentence


def dense_over_time(params, x):
    a = x @ params["W"].T + params["b"]
    return jnp.tanh(a), (x, jnp.tanh(a))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    {
        "last": "a backward that takes only the last entry along axis 0 where it should sum, in the gradient of",
        "mean": 'gives the path through the operand `params["b"]` of the sum in `a = x @ params["W"].T',
        "no x": "a backward that leaves out the factor `x` of the matrix product",
        "no W": 'a backward that leaves out the factor `params["W"].T` of the matrix product',
        "transposed": 'a backward that uses `params["W"].T` where its transpose is meant, or the reverse',
    }.items(),
    ids=WORD,
)
def test_a_wrong_gradient_of_a_dense_layer_over_time_is_named(wrong, sentence):
    def backward(params, saved, dy):
        x, y = saved
        da = dy * (1 - y**2)
        b = {"last": da[-1], "mean": da.mean(0)}.get(wrong, da.sum(0))
        dx = {"no W": da @ jnp.ones((3, 3)), "transposed": da @ params["W"].T}.get(wrong, da @ params["W"])
        return {"W": da.T @ (jnp.ones_like(x) if wrong == "no x" else x), "b": b}, dx

    with jax.numpy_rank_promotion("allow"):
        params = draw(8, {"W": (3, 3), "b": (3,)})
        change = told(dense_over_time, backward, params, X)
    assert sentence in change.sentence


def test_a_search_without_time_says_so():
    x = jax.random.normal(jax.random.key(1), (POINTS, 2, 3))
    found, _ = search(lstm_loop, partial(lstm_backward, ("1 - y",)), lstm_params(), x, seconds=-1)
    assert found == ({}, "the time for the search was too short to try every change")


def test_a_forward_pass_of_too_many_operations_is_not_searched():
    def forward(params, x):
        for _ in range(401):
            x = jnp.sin(x)
        return x, x

    found, _ = search(forward, lambda params, saved, dy: ((), dy), (), X[:, 0])
    assert found == ({}, "its forward pass has 401 operations, more than 400")


def test_a_step_is_at_the_line_that_calls_a_function_of_jax():
    def forward(x):
        y = jax.nn.sigmoid(x)
        z = jax.nn.sigmoid(y)  # JAX has traced the function of this shape before
        return jax.jit(lambda z: jnp.where(z > 0, z, 0))(z)

    program = list_steps(forward, (jnp.ones(3),))
    first = forward.__code__.co_firstlineno
    lines = {step.name: step.position.line - first for step in program.steps[1:]}
    assert program.steps[0].position.line == first + 1
    assert lines["logistic"] == 2
    assert lines["select_n"] == 3


def test_a_short_scan_is_listed_as_its_iterations():
    def forward(x):
        return jax.lax.scan(lambda c, x: (c * x, c + x), jnp.ones(()), x, reverse=True)[1]

    names = [step.name for step in list_steps(forward, (jnp.ones(3),)).steps]
    assert names.count("mul") == 2  # nothing depends on the last one
    assert names.count("add") == 3
    assert "scan" in [step.name for step in list_steps(forward, (jnp.ones(17),)).steps]


def test_a_choice_by_platform_is_listed_as_what_it_computes():
    names = [step.name for step in list_steps(lambda x: gelu.forward((), x)[0], (jnp.ones(3),)).steps]
    assert names == ["neg", "div", "erfc", "div", "mul"]
