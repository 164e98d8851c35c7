"""Optimizers and schedules by name, compared with optax's own calls, NumPy loops and numbers computed by hand."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.selection import choose

from jaxann import compare, fit
from jaxann.nn import SquaredError, mlp
from jaxann.nn.hyperparameters import SettingError
from jaxann.training import optimizer, schedule
from jaxann.training.optimizers import OPTIMIZERS, SCHEDULES

RANDOM = np.random.default_rng(0)
PARAMS = {"W": RANDOM.normal(size=(2, 3)), "b": RANDOM.normal(size=2)}
GRADIENTS = [{"W": RANDOM.normal(size=(2, 3)), "b": RANDOM.normal(size=2)} for _ in range(4)]
NOTHING = [jax.tree.map(np.zeros_like, PARAMS)] * 4
MATRICES = {"W": True, "b": False}
RATE = 0.01
THEIRS = {
    "sgd": optax.sgd(RATE),
    "momentum": optax.sgd(RATE, momentum=0.9),
    "nesterov": optax.sgd(RATE, momentum=0.9, nesterov=True),
    "rmsprop": optax.rmsprop(RATE),
    "adagrad": optax.adagrad(RATE),
    "adam": optax.adam(RATE),
    "adamw": optax.adamw(RATE, weight_decay=1e-4, mask=MATRICES),
    "nadam": optax.nadam(RATE),
    "radam": optax.radam(RATE),
    "lamb": optax.lamb(RATE, weight_decay=0.0, mask=MATRICES),
    "lion": optax.lion(RATE, weight_decay=1e-3, mask=MATRICES),
}


def run(update, params, gradients):
    """Returns the parameters after each step."""
    state, steps = update.init(params), []
    for grads in gradients:
        updates, state = update.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        steps.append(params)
    return steps


def compile_run(update, params=PARAMS, gradients=GRADIENTS):
    return jax.jit(lambda params, gradients: run(update, params, gradients))(params, gradients)


def run_both(ours, theirs, gradients=GRADIENTS):
    """Runs two optimizers in one program, so that the same operations give the same bits."""
    program = jax.jit(lambda params, gradients: (run(ours, params, gradients), run(theirs, params, gradients)))
    return program(PARAMS, gradients)


def falling_rate(count):
    return 0.1 / (1 + count)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_name_is_the_call_of_optax(name):
    ours, theirs = run_both(optimizer(name, RATE), THEIRS[name])
    assert compare(ours, theirs).error == 0
    assert compare(ours[-1], PARAMS).error > 1e-4


def test_the_names_stand_for_different_optimizers():
    ends = [np.array(compile_run(optimizer(name, RATE))[-1]["W"]) for name in OPTIMIZERS]
    for i, end in enumerate(ends):
        assert all(np.abs(end - other).max() > 1e-8 for other in ends[:i])


@pytest.mark.parametrize(
    ("name", "settings", "theirs"),
    [
        ("sgd", {"momentum": 0.5}, optax.sgd(RATE, momentum=0.5)),
        ("momentum", {"momentum": 0.5}, optax.sgd(RATE, momentum=0.5)),
        ("nesterov", {"momentum": 0.5}, optax.sgd(RATE, momentum=0.5, nesterov=True)),
        ("nesterov", {"nesterov": False}, optax.sgd(RATE, momentum=0.9)),
        ("rmsprop", {"decay": 0.5, "momentum": 0.3}, optax.rmsprop(RATE, decay=0.5, momentum=0.3)),
        ("adam", {"b1": 0.5, "eps": 0.1}, optax.adam(RATE, b1=0.5, eps=0.1)),
        ("adamw", {"b2": 0.5}, optax.adamw(RATE, b2=0.5, mask=MATRICES)),
        ("nadam", {"b1": 0.5}, optax.nadam(RATE, b1=0.5)),
        ("radam", {"b1": 0.5}, optax.radam(RATE, b1=0.5)),
    ],
)
def test_settings_are_those_of_optax(name, settings, theirs):
    ours, theirs = run_both(optimizer(name, RATE, settings=settings), theirs)
    assert compare(ours, theirs).error == 0
    assert compare(ours, compile_run(optimizer(name, RATE))).error > 1e-6


def test_settings_of_one_optimizer_do_not_leak_into_the_next():
    before = compile_run(optimizer("momentum", RATE))
    optimizer("momentum", RATE, settings={"momentum": 0.1})
    assert compare(compile_run(optimizer("momentum", RATE)), before).error == 0


@pytest.mark.parametrize("name", ["momentum", "adam", "adamw", "lion"])
def test_the_learning_rate_may_be_a_schedule(name):
    theirs = {
        "momentum": optax.sgd(falling_rate, momentum=0.9),
        "adam": optax.adam(falling_rate),
        "adamw": optax.adamw(falling_rate, mask=MATRICES),
        "lion": optax.lion(falling_rate, mask=MATRICES),
    }[name]
    ours, theirs = run_both(optimizer(name, falling_rate), theirs)
    assert compare(ours, theirs).error == 0


def sgd_step(memory, g, step):
    return memory, g


def adam_step(memory, g, step):
    m, v = memory
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    return (m, v), m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)


def lion_step(memory, g, step):
    m, v = memory
    return (0.99 * m + 0.01 * g, v), np.sign(0.9 * m + 0.1 * g)


@pytest.mark.parametrize(
    ("name", "step"), [("sgd", sgd_step), ("adam", adam_step), ("adamw", adam_step), ("lion", lion_step)]
)
@pytest.mark.parametrize("rate", [lambda count: 0.1, falling_rate], ids=["constant", "falling"])
def test_weight_decay_is_decoupled_and_spares_biases(name, step, rate):
    """W ← W - l (step + λ W) and b ← b - l step, in a NumPy loop."""
    decay = 0.3
    ours = compile_run(optimizer(name, rate, weight_decay=decay))
    for leaf in PARAMS:
        p, memory = PARAMS[leaf], (0.0, 0.0)
        for count, gradient in enumerate(GRADIENTS):
            memory, direction = step(memory, gradient[leaf], count + 1)
            p = p - rate(count) * (direction + (decay * p if leaf == "W" else 0))
            np.testing.assert_allclose(ours[count][leaf], p, rtol=1e-12, atol=1e-14)


def test_weight_decay_of_lamb_is_scaled_by_its_trust_ratio():
    ours = compile_run(optimizer("lamb", 0.1, weight_decay=0.3))
    for leaf in PARAMS:
        p, m, v = PARAMS[leaf], 0.0, 0.0
        for count, gradient in enumerate(GRADIENTS):
            g, step = gradient[leaf], count + 1
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            u = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-6)  # LAMB's own eps
            u = u + (0.3 * p if leaf == "W" else 0)
            p = p - 0.1 * np.linalg.norm(p) / np.linalg.norm(u) * u
            np.testing.assert_allclose(ours[count][leaf], p, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "lamb"])  # its trust ratio scales the decay
def test_decay_alone_follows_the_schedule(name):
    """Without a gradient W shrinks by 1 - l λ at each step's own l, and the bias stays."""
    ours = compile_run(optimizer(name, falling_rate, weight_decay=0.3), gradients=NOTHING)
    shares = np.cumprod([1 - 0.3 * falling_rate(count) for count in range(4)])
    for params, share in zip(ours, shares, strict=True):
        np.testing.assert_allclose(params["W"], PARAMS["W"] * share, rtol=1e-12)
        np.testing.assert_array_equal(params["b"], PARAMS["b"])


def test_default_decay_is_that_of_optax_and_spares_biases():
    still = {
        name: compile_run(optimizer(name, RATE), gradients=NOTHING)[-1] for name in ("sgd", "adam", "adamw", "lion")
    }
    for name, decay in {"sgd": 0.0, "adam": 0.0, "adamw": 1e-4, "lion": 1e-3}.items():
        np.testing.assert_allclose(still[name]["W"], PARAMS["W"] * (1 - RATE * decay) ** 4, rtol=1e-14)
        np.testing.assert_array_equal(still[name]["b"], PARAMS["b"])


@pytest.mark.parametrize(
    ("name", "settings"), [*((name, {}) for name in OPTIMIZERS), ("rmsprop", {"momentum": 0.5})], ids=str
)
def test_a_decay_of_zero_is_the_optimizer_itself(name, settings):
    """A weight decay of 0 only replaces the default decay of optax, whatever the learning rate does."""
    theirs = {"adamw": optax.adam(falling_rate), "lion": optax.lion(falling_rate, weight_decay=0.0)}
    expected = theirs.get(name, optimizer(name, falling_rate, settings=settings))
    ours, expected = run_both(optimizer(name, falling_rate, settings=settings, weight_decay=0.0), expected)
    assert compare(ours, expected).error < 1e-14


def test_the_gradient_is_clipped_by_its_norm_over_all_leaves():
    params, gradient = {"W": np.zeros((1, 1)), "b": np.zeros(1)}, {"W": np.full((1, 1), 3.0), "b": np.full(1, 4.0)}
    small = jax.tree.map(lambda g: g / 10, gradient)
    first, second = compile_run(optimizer("sgd", 0.5, clip=2.0), params, [gradient, small])
    np.testing.assert_allclose([first["W"][0, 0], first["b"][0]], [-0.6, -0.8], rtol=1e-14)  # half of (3, 4) · 2/5
    np.testing.assert_allclose(
        [second["W"][0, 0], second["b"][0]], [-0.75, -1.0], rtol=1e-14
    )  # the small gradient is not scaled


def test_clipping_comes_before_momentum():
    params, gradient = {"b": np.zeros(2)}, {"b": np.array([3.0, 4.0])}
    steps = compile_run(
        optimizer("momentum", 1.0, clip=1.0, settings={"momentum": 0.5}), params, [gradient, {"b": np.zeros(2)}]
    )
    np.testing.assert_allclose(steps[0]["b"], [-0.6, -0.8], rtol=1e-14)
    np.testing.assert_allclose(steps[1]["b"], [-0.9, -1.2], rtol=1e-14)  # momentum adds half of the clipped gradient


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_clipping_comes_before_weight_decay(name):
    params, gradient = {"W": np.array([[100.0]])}, {"W": np.zeros((1, 1))}
    (after,) = compile_run(optimizer(name, 0.1, clip=1e-3, weight_decay=0.5), params, [gradient])
    np.testing.assert_allclose(after["W"], [[95.0]], rtol=1e-14)


@pytest.mark.parametrize(
    ("name", "warmup", "final"),
    [
        *product(SCHEDULES, [0, 4], [0.1, 1.0]),
        *product(SCHEDULES, [9], [0.25]),
        *product(("constant", "linear", "cosine"), [0, 4], [0.0]),  # an exponential schedule never reaches 0
    ],
)
def test_schedules_have_their_closed_forms(name, warmup, final):
    steps, rate = 10, 0.5
    rates = schedule(name, rate, steps, warmup=warmup, final=final)
    for step in range(steps + 1):
        f = (step - warmup) / (steps - warmup)
        expected = {
            "constant": 1.0,
            "linear": 1 - (1 - final) * f,
            "cosine": final + (1 - final) * (1 + np.cos(np.pi * f)) / 2,
            "exponential": final ** max(f, 0),
        }[name]
        expected = rate * (step / warmup if step < warmup else expected)
        value = rates(jnp.asarray(step, "int32")) if callable(rates) else rates  # optax counts in int32
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-15)


def test_schedules_have_the_values_computed_by_hand():
    at = {name: schedule(name, 0.4, 12, warmup=4, final=0.25) for name in SCHEDULES}
    for rates in at.values():
        np.testing.assert_allclose([rates(step) for step in (0, 1, 4)], [0.0, 0.1, 0.4], rtol=1e-12)
    for name, middle, end in [
        ("constant", 0.4, 0.4),
        ("linear", 0.25, 0.1),
        ("cosine", 0.25, 0.1),
        ("exponential", 0.2, 0.1),
    ]:
        np.testing.assert_allclose([at[name](8), at[name](12)], [middle, end], rtol=1e-12)


def test_a_constant_schedule_without_a_warmup_is_the_number():
    assert schedule("constant", 0.4, 10) == 0.4
    assert schedule("constant", 0.4, 10, final=0.5) == 0.4


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "sgdd"}, f"expected optimizer to be {', '.join(OPTIMIZERS[:-1])} or lion, got 'sgdd'$"),
        ({"learning_rate": 0.0}, "expected learning_rate above 0, got 0.0"),
        ({"learning_rate": -1.0}, "expected learning_rate above 0, got -1.0"),
        ({"learning_rate": np.nan}, "expected learning_rate to be a finite number, got nan"),
        ({"learning_rate": np.inf}, "expected learning_rate to be a finite number, got inf"),
        ({"weight_decay": -0.1}, "expected weight_decay of at least 0, got -0.1"),
        ({"weight_decay": np.inf}, "expected weight_decay to be a finite number, got inf"),
        ({"clip": 0.0}, "expected clip above 0, got 0.0"),
        ({"clip": np.nan}, "expected clip to be a finite number, got nan"),
        ({"settings": {"b3": 0.9}}, "expected settings of adam among b1, b2, eps, eps_root, .*, got 'b3'$"),
        ({"settings": {"b1": np.nan}}, "expected b1 to be a finite number, got nan"),
        ({"settings": {"learning_rate": 0.1}}, "expected settings of adam among b1, .*, got 'learning_rate'$"),
        (
            {"name": "adamw", "settings": {"weight_decay": 0.1}},
            "expected settings of adamw among b1, .*, got 'weight_decay'$",
        ),
        ({"name": "adamw", "settings": {"mask": 0.1}}, "expected settings of adamw among b1, .*, got 'mask'$"),
        ({"name": "sgd", "settings": {"b1": 0.1}}, "expected settings of sgd among momentum, nesterov, got 'b1'$"),
        (
            {"name": "nesterov", "settings": {"eps": 0.1}},
            "expected settings of nesterov among momentum, nesterov, got 'eps'$",
        ),
        ({"settings": {"mu_dtype": 1.0}}, "expected settings of adam among b1, .*, got 'mu_dtype'$"),
    ],
)
def test_bad_settings_of_an_optimizer_are_refused(settings, sentence):
    settings = {"name": "adam", "learning_rate": 0.1, **settings}
    with pytest.raises(SettingError, match=sentence):
        optimizer(settings.pop("name"), settings.pop("learning_rate"), **settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "step"}, "expected schedule to be constant, linear, cosine or exponential, got 'step'$"),
        ({"learning_rate": 0.0}, "expected learning_rate above 0, got 0.0"),
        ({"learning_rate": np.nan}, "expected learning_rate to be a finite number, got nan"),
        ({"warmup": 10}, r"expected warmup between 0 and 9 \(in steps; the run has 10\), got 10"),
        ({"warmup": -1}, r"expected warmup between 0 and 9 \(in steps; the run has 10\), got -1"),
        ({"final": -0.1}, "expected final between 0 and 1, got -0.1"),
        ({"final": 1.1}, "expected final between 0 and 1, got 1.1"),
        ({"final": np.nan}, "expected final to be a finite number, got nan"),
        (
            {"name": "exponential"},
            r"expected final between 0 and 1, excluding 0 \(for an exponential schedule\), got 0.0",
        ),
        (
            {"name": "exponential", "final": 2.0},
            r"between 0 and 1, excluding 0 \(for an exponential schedule\), got 2.0",
        ),
    ],
)
def test_bad_settings_of_a_schedule_are_refused(settings, sentence):
    settings = {"name": "linear", "learning_rate": 0.1, "steps": 10, **settings}
    with pytest.raises(SettingError, match=sentence):
        schedule(settings.pop("name"), settings.pop("learning_rate"), settings.pop("steps"), **settings)


@pytest.mark.parametrize("name", choose(["nesterov", "rmsprop", "adam", "adamw", "lamb", "lion"], 2))
@pytest.mark.parametrize("shape", ["constant", "cosine"])
def test_numbers_that_are_traced_give_what_they_give_one_by_one(name, shape):
    def last(rate, decay, clip):
        rate = schedule(shape, rate, 4, warmup=0 if shape == "constant" else 1, final=0.1)
        return run(optimizer(name, rate, weight_decay=decay, clip=clip), PARAMS, GRADIENTS)[-1]

    numbers = np.array([[0.1, 0.0, 10.0], [0.03, 0.3, 1.0]])
    many = jax.jit(jax.vmap(last))(*numbers.T)
    single = [jax.jit(lambda row=row: last(*map(float, row)))() for row in numbers]
    assert compare(many, jax.tree.map(lambda *leaves: np.stack(leaves), *single)).error < 1e-14
    assert compare(single[0], single[1]).error > 1e-3


def test_settings_may_be_traced():
    def last(b1):
        return run(optimizer("adam", RATE, settings={"b1": b1}), PARAMS, GRADIENTS)[-1]

    many = jax.vmap(last)(np.array([0.5, 0.9]))
    assert compare({k: v[0] for k, v in many.items()}, last(0.5)).error < 1e-14
    assert compare({k: v[1] for k, v in many.items()}, last(0.9)).error < 1e-14


def test_whole_runs_go_under_vmap_over_the_numbers():
    x = RANDOM.normal(size=(6, 2))
    t = x @ RANDOM.normal(size=(2, 1))

    def losses(rate, decay):
        update = optimizer("momentum", schedule("linear", rate, 9), weight_decay=decay, clip=1.0)
        key = jax.random.key(0)
        return fit(mlp((2, 1)), SquaredError(), update, x, t, key=key, epochs=3, batch_size=2)[1].loss

    many = jax.vmap(losses)(jnp.array([0.1, 0.02]), jnp.array([0.0, 0.5]))
    np.testing.assert_allclose(many[0], losses(0.1, 0.0), rtol=1e-12)
    np.testing.assert_allclose(many[1], losses(0.02, 0.5), rtol=1e-12)
