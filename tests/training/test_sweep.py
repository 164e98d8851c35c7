import re
from functools import cache
from inspect import signature

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.nn import initializers

from jaxann import autodiff, backprop, compare, fit, predict, sweep
from jaxann.data import Examples
from jaxann.nn import CrossEntropy, SoftmaxCrossEntropy, mlp, softmax, tanh
from jaxann.nn.hyperparameters import SettingError
from jaxann.rules import FeedbackAlignment, WithAngles
from jaxann.training import Recipe, combinations, optimizer
from jaxann.training import chunks as chunks_module
from jaxann.training import sweep as module
from jaxann.training.fit import evaluate_batch

X = jax.random.normal(jax.random.key(1), (29, 4))
LABELS = jnp.argmax(X @ jax.random.normal(jax.random.key(2), (4, 3)), axis=1)
DATA = Examples(X, LABELS)
KEEP_PARAMS = {"measure": lambda recipe, params, data: params}
TRACED = ("learning_rate", "dropout", "weight_decay", "smoothing", "scale", "clip")


def make(learning_rate, hidden=5, dropout=0, weight_decay=None, smoothing=0, scale=1, clip=None, batch_size=8, by=None):
    """Makes a recipe of the settings in `TRACED` and of four others."""
    weights = initializers.variance_scaling(scale**2, "fan_avg", "uniform")
    model = mlp((4, hidden, 3), tanh, dropout=dropout, weights=weights)
    update = optimizer("adam", learning_rate, weight_decay=weight_decay, clip=clip)
    return Recipe(model, SoftmaxCrossEntropy(smoothing), update, batch_size, by or backprop)


cached_make = cache(make)  # equal settings have one recipe, and so one compiled program


def fit_alone(seed, epochs=3, data=DATA, **settings):
    recipe = cached_make(**settings)
    options = {"epochs": epochs, "batch_size": recipe.batch_size, "gradient": recipe.gradient, "weights": data.weights}
    return fit(recipe.model, recipe.loss, recipe.optimizer, data.x, data.t, key=jax.random.key(seed), **options)


def judge(members, outcomes, data=DATA, error=1e-12):
    """Asserts that each member is what `fit` alone makes of it."""
    assert sorted(outcome.place for outcome in outcomes) == list(range(len(members)))
    for outcome in outcomes:
        params, history = fit_alone(data=data, **members[outcome.place])
        np.testing.assert_allclose(outcome.loss, history.loss, rtol=error)
        assert outcome.finite
        ours, theirs = (jax.tree.leaves(tree) for tree in (outcome.measured, params))
        assert compare(ours, theirs).error < error


EVERYTHING = {"weight_decay": 0.01, "dropout": 0.2, "scale": 0.7, "smoothing": 0.1, "clip": 0.5}


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": [0.01, 0.03]},
        *(
            pytest.param({"learning_rate": [0.02], name: [value, value / 2]}, marks=pytest.mark.slow)
            for name, value in EVERYTHING.items()
        ),
        {
            "learning_rate": [0.01, 0.03],
            **{name: [value] for name, value in EVERYTHING.items()},
            "by": [autodiff],
        },
    ],
    ids=lambda settings: " ".join(settings),
)
def test_each_member_is_trained_as_it_would_be_alone(settings):
    members = combinations(seed=[0, 3, 2**32 - 1], **settings)
    traced = [name for name in TRACED if name in settings]
    judge(members, list(sweep(make, members, DATA, epochs=3, traced=traced, **KEEP_PARAMS)))


@pytest.mark.slow
def test_settings_that_are_not_traced_make_groups_with_one_compile_each():
    compiled = []

    def count_compiles(**settings):
        if any(isinstance(value, jax.core.Tracer) for value in settings.values()):
            compiled.append(settings["hidden"])
        return make(**settings)

    count_compiles.__signature__ = signature(make)
    members = combinations(seed=range(5), learning_rate=[0.01, 0.02], hidden=[3, 5], batch_size=[8, 29])
    outcomes = list(sweep(count_compiles, members, DATA, epochs=3, traced=["learning_rate"], **KEEP_PARAMS))
    assert sorted(compiled) == [3, 3, 5, 5]
    judge(members, outcomes)


def test_the_type_of_a_number_decides_nothing():
    members = [{"seed": 1, "learning_rate": 0.01, "dropout": dropout} for dropout in (0, 0.0, 0.5, 1 / 2)]
    outcomes = list(sweep(make, members, DATA, epochs=3, traced=["learning_rate", "dropout"]))
    assert [outcome.more for outcome in outcomes] == [3, 2, 1, 0]  # one group, in one chunk
    np.testing.assert_array_equal(outcomes[0].loss, outcomes[1].loss)
    assert np.abs(outcomes[2].loss / outcomes[1].loss - 1).max() > 0.01
    fixed = list(sweep(make, members[:2], DATA, epochs=3))
    assert [outcome.more for outcome in fixed] == [1, 0]
    np.testing.assert_array_equal(fixed[0].loss, fixed[1].loss)
    np.testing.assert_allclose(fixed[0].loss, outcomes[0].loss, rtol=1e-12)  # a rate of 0 drops nothing


def test_a_member_does_not_depend_on_the_others():
    one = {"seed": 5, "learning_rate": 0.02, "dropout": 0.1}
    others = [{"seed": seed, "learning_rate": 0.03, "dropout": 0.2} for seed in range(20)]
    first, *later = [
        next(
            outcome
            for outcome in sweep(make, members, DATA, epochs=3, traced=["learning_rate", "dropout"], **KEEP_PARAMS)
            if members[outcome.place] is one
        )
        for members in ([one], [one, *others], [*others, one], [*others[:7], one, *others[7:]])
    ]
    for outcome in later:
        np.testing.assert_allclose(outcome.loss, first.loss, rtol=1e-13)
        assert compare(jax.tree.leaves(outcome.measured), jax.tree.leaves(first.measured)).error < 1e-13


def test_diverged_members_are_marked_and_do_not_affect_the_others():
    members = [{"seed": seed, "learning_rate": rate} for seed in range(3) for rate in (0.01, 1.7e308)]
    swept = sweep(make, members, DATA, epochs=3, traced=["learning_rate"], **KEEP_PARAMS)
    outcomes = {outcome.place: outcome for outcome in swept}
    assert [outcomes[index].finite for index in range(6)] == [True, False] * 3
    good = [dict(members[index]) for index in (0, 2, 4)]
    judge(good, [outcomes[2 * i]._replace(place=i) for i in range(3)])


def test_members_are_spread_over_any_number_of_devices_with_the_same_result():
    members, traced = combinations(seed=range(7), learning_rate=[0.01]), ("learning_rate",)
    one, three, eight = (
        list(sweep(make, members, DATA, epochs=2, traced=traced, devices=jax.devices()[:n], **KEEP_PARAMS))
        for n in (1, 3, 8)
    )
    for ours, theirs, others in zip(one, three, eight, strict=True):
        for other in (theirs, others):
            np.testing.assert_allclose(other.loss, ours.loss, rtol=1e-13)
    group = module._Group(make, 2, None, jax.make_mesh((8,), ("members",)), (), traced)
    seeds, (rates,) = group.make_arguments(members[:1] * 16)
    assert len(rates.addressable_shards) == len(seeds.addressable_shards) == 8
    assert rates.addressable_shards[0].data.shape == (2,)


def test_chunks_keep_to_the_memory_that_is_left(monkeypatch):
    sizes, chunks, fit_chunk = [], [], module.fit_chunk

    def record_chunk(make_program, *arguments):
        program, size = fit_chunk(lambda size: sizes.append(size) or make_program(size), *arguments)
        needed = program.memory_analysis()
        needed = needed.argument_size_in_bytes + needed.output_size_in_bytes + needed.temp_size_in_bytes
        chunks.append((size, needed))
        return program, size

    monkeypatch.setattr(module, "fit_chunk", record_chunk)
    monkeypatch.setattr(chunks_module, "held_memory", lambda: 1_000_000)
    members = combinations(seed=range(30), learning_rate=[0.01])
    settings = {"epochs": 3, "traced": ["learning_rate"], "devices": jax.devices()[:1]}
    free = list(sweep(make, members, DATA, **settings))
    assert sizes == [30]
    budget = 1_000_000 + chunks[0][1] // 3
    tight = list(sweep(make, members, DATA, **settings, budget=budget))
    assert sizes[1] == 30
    assert chunks[1][0] < 15
    assert chunks[1][1] <= budget - 1_000_000
    for ours, theirs in zip(tight, free, strict=True):
        np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-13)
    sentence = r"a budget that leaves [\d,]+ bytes .* on each of 1 devices, got 1,000,100, of which 100 are left"
    with pytest.raises(ValueError, match=sentence):
        list(sweep(make, members, DATA, **settings, budget=1_000_100))


def test_the_memory_that_is_held_counts_against_the_budget():
    before = chunks_module.held_memory()
    block = np.ones(50_000_000)
    assert before > 1e7
    assert chunks_module.held_memory() >= before + 0.9 * block.nbytes


def test_measurements_and_the_metrics_of_a_gradient_are_returned():
    data, rule = Examples(X[:9] + 0.1, LABELS[:9]), WithAngles(FeedbackAlignment())
    measure = lambda recipe, params, data: evaluate_batch(recipe.model, recipe.loss, params, data)  # noqa: E731
    members = combinations(seed=range(3), learning_rate=[0.01], by=[rule])
    settings = {"epochs": 4, "traced": ["learning_rate"], "measure": measure, "measure_data": data}
    for outcome in sweep(make, members, DATA, **settings):
        params, history = fit_alone(epochs=4, **members[outcome.place])
        y, value = outcome.measured
        model, loss = make(0.01).model, make(0.01).loss
        np.testing.assert_allclose(y, predict(model, params, data.x), rtol=1e-12)
        expected = jnp.mean(jax.vmap(loss.value)(predict(model, params, data.x), data.t))
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        assert outcome.metrics.keys() == history.metrics.keys()
        for name, values in history.metrics.items():  # an angle near 0 is a small difference
            np.testing.assert_allclose(outcome.metrics[name], values, rtol=1e-10, atol=1e-13)


def test_examples_may_have_different_weights():
    data = DATA._replace(weights=jax.random.uniform(jax.random.key(4), (29,), minval=0.5, maxval=2))
    members = combinations(seed=range(2), learning_rate=[0.01])
    judge(members, list(sweep(make, members, data, epochs=3, traced=["learning_rate"], **KEEP_PARAMS)), data)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([], "expected at least one member, got none"),
        ([{"learning_rate": 0.1}], "expected seed to be a whole number, got None"),
        ([{"seed": -1, "learning_rate": 0.1}], "expected seed between 0 and 4294967295 (2³² - 1), got -1"),
        (
            [{"seed": 0, "learning_rate": 0.1, "rate": 0.1}],
            "expected settings among seed, learning_rate, hidden, dropout, weight_decay, smoothing, scale, clip, "
            "batch_size, by, got rate",
        ),
        (
            combinations(seed=[0], learning_rate=[0.1, "fast"]),
            "expected learning_rate to be a number in every member, since it is traced, got 'fast'",
        ),
        (
            [{"seed": 0, "learning_rate": 0.1}, {"seed": 0}],
            "expected learning_rate to be a number in every member, since it is traced, got None",
        ),
        ([{"seed": 0, "learning_rate": -0.1}], "expected learning_rate above 0, got -0.1"),
        ([{"seed": 0, "learning_rate": 0.1, "hidden": [3]}], "expected hidden to be a number or something hashable"),
        (
            combinations(seed=[0], learning_rate=[0.1], batch_size=[8, 64]),
            "expected batch_size between 1 and 29 (the number of examples), got 64",
        ),
    ],
)
def test_bad_settings_are_refused_before_anything_is_compiled(members, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sweep(make, members, DATA, epochs=3, traced=["learning_rate"])


def test_settings_that_make_cannot_take_are_refused_before_anything_is_compiled():
    with pytest.raises(ValueError, match=r"no recipe can be made of \{'seed': 0\}: .*learning_rate"):
        sweep(make, [{"seed": 0}], DATA, epochs=3)


@pytest.mark.parametrize(("name", "value"), [("dropout", 1.5), ("smoothing", 1.0)])
def test_what_make_refuses_is_refused_before_anything_is_compiled(name, value):
    members = combinations(seed=[0], learning_rate=[0.1], **{name: [0.1, value]})
    with pytest.raises(ValueError, match=str(value)):
        sweep(make, members, DATA, epochs=3, traced=["learning_rate", name])


@pytest.mark.parametrize("traced", ["learning_rate", ["seed"]])
def test_traced_is_a_list_of_settings(traced):
    with pytest.raises(SettingError, match="expected traced to be a list of names without seed"):
        sweep(make, combinations(seed=[0], learning_rate=[0.1]), DATA, epochs=3, traced=traced)


@pytest.mark.parametrize("name", ["hidden", "batch_size"])
def test_a_setting_that_cannot_be_traced_is_named(name):
    outcomes = sweep(make, [{"seed": 0, "learning_rate": 0.1, name: 5}], DATA, epochs=3, traced=[name])
    with pytest.raises(ValueError, match=f"the program that traces {name} cannot be made: "):
        next(outcomes)


def test_bad_data_is_refused_as_by_fit():
    members, traced = combinations(seed=[0], learning_rate=[0.1]), ["learning_rate"]
    with pytest.raises(ValueError, match=r"expected finite float64 numbers in features, got nan at \[1, 2\]"):
        sweep(make, members, Examples(X.at[1, 2].set(jnp.nan), LABELS), epochs=3, traced=traced)
    with pytest.raises(ValueError, match="expected epochs of at least 1, got 0"):
        sweep(make, members, DATA, epochs=0, traced=traced)


def test_a_thousand_learn_iris():
    from sklearn.datasets import load_iris

    x, labels = load_iris(return_X_y=True)
    x = jnp.asarray((x - x.mean(axis=0)) / x.std(axis=0))

    def network(learning_rate):
        return Recipe(mlp((4, 10, 3), output=softmax), CrossEntropy(), optax.sgd(learning_rate), 16)

    def accuracy(recipe, params, data):
        return jnp.mean(evaluate_batch(recipe.model, recipe.loss, params, data)[0].argmax(axis=1) == labels)

    t = jnp.where(jnp.eye(3)[labels] > 0, 0.98, 0.01)
    members = combinations(seed=range(200), learning_rate=[0.03, 0.1, 0.3, 1.0, 3.0])
    data, settings = Examples(x, t), {"epochs": 20, "traced": ["learning_rate"], "measure": accuracy}
    outcomes = list(sweep(network, members, data, **settings, measure_data=data))
    means = np.mean([outcome.measured for outcome in outcomes if outcome.finite])
    assert len(outcomes) == 1000
    assert means > 0.85
