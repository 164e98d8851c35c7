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
from jaxann.rules import FeedbackAlignment, WithAngles
from jaxann.training import Recipe, combinations, optimizer
from jaxann.training import sweep as module
from jaxann.training.fit import evaluate_batch

X = jax.random.normal(jax.random.key(1), (29, 4))
LABELS = jnp.argmax(X @ jax.random.normal(jax.random.key(2), (4, 3)), axis=1)
DATA = Examples(X, LABELS)
KEPT = {"measure": lambda recipe, params, given: params}


def make(learning_rate, hidden=5, dropout=0, weight_decay=None, smoothing=0, scale=1, clip=None, batch_size=8, by=None):
    """All that may be traced, and some that may not."""
    weights = initializers.variance_scaling(scale**2, "fan_avg", "uniform")
    model = mlp((4, hidden, 3), tanh, dropout=dropout, weights=weights)
    update = optimizer("adam", learning_rate, weight_decay=weight_decay, clip=clip)
    return Recipe(model, SoftmaxCrossEntropy(smoothing), update, batch_size, by or backprop)


made = cache(make)  # whose programs then need no second compile


def alone(seed, epochs=3, data=DATA, **settings):
    recipe = made(**settings)
    how = {"epochs": epochs, "batch_size": recipe.batch_size, "gradient": recipe.gradient, "weights": data.weights}
    return fit(recipe.model, recipe.loss, recipe.optimizer, data.x, data.t, key=jax.random.key(seed), **how)


def judge(members, outcomes, data=DATA, error=1e-12):
    """Each is what it would be alone."""
    assert sorted(outcome.place for outcome in outcomes) == list(range(len(members)))
    for outcome in outcomes:
        params, history = alone(data=data, **members[outcome.place])
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
    judge(members, list(sweep(make, members, DATA, epochs=3, **KEPT)))


def test_what_changes_shapes_is_a_group_with_one_compile_each():
    compiled = []

    def counted(**settings):
        if any(isinstance(value, jax.core.Tracer) for value in settings.values()):
            compiled.append(settings["hidden"])
        return make(**settings)

    counted.__signature__ = signature(make)
    members = combinations(seed=range(5), learning_rate=[0.01, 0.02], hidden=[3, 5], batch_size=[8, 29])
    outcomes = list(sweep(counted, members, DATA, epochs=3, **KEPT))
    assert sorted(compiled) == [3, 3, 5, 5]
    judge(members, outcomes)


def test_zero_as_a_whole_number_is_built_without_and_as_a_float_traced():
    members = [{"seed": 1, "learning_rate": 0.01, "dropout": dropout} for dropout in (0, 0.0, 0.5)]
    without, none, half = sweep(make, members, DATA, epochs=3)
    np.testing.assert_allclose(without.loss, none.loss, rtol=1e-12)
    assert np.abs(half.loss / none.loss - 1).max() > 0.01


def test_a_member_does_not_depend_on_who_else_is_there():
    one = {"seed": 5, "learning_rate": 0.02, "dropout": 0.1}
    company = [{"seed": seed, "learning_rate": 0.03, "dropout": 0.2} for seed in range(20)]
    found = [
        next(o for o in sweep(make, members, DATA, epochs=3, **KEPT) if members[o.place] is one)
        for members in ([one], [one, *company], [*company, one], [*company[:7], one, *company[7:]])
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other.loss, found[0].loss, rtol=1e-13)
        assert compare(jax.tree.leaves(other.measured), jax.tree.leaves(found[0].measured)).error < 1e-13


def test_who_diverges_is_marked_and_disturbs_nobody():
    members = [{"seed": seed, "learning_rate": rate} for seed in range(3) for rate in (0.01, 1.7e308)]
    found = {outcome.place: outcome for outcome in sweep(make, members, DATA, epochs=3, **KEPT)}
    assert [found[place].finite for place in range(6)] == [True, False] * 3
    good = [dict(members[place]) for place in (0, 2, 4)]
    judge(good, [found[2 * i]._replace(place=i) for i in range(3)])


def test_members_are_spread_over_the_devices_and_any_number_of_those_gives_the_same():
    members = combinations(seed=range(7), learning_rate=[0.01])
    one, three, eight = (
        list(sweep(make, members, DATA, epochs=2, devices=jax.devices()[:n], **KEPT)) for n in (1, 3, 8)
    )
    for ours, theirs, others in zip(one, three, eight, strict=True):
        for other in (theirs, others):
            np.testing.assert_allclose(other.loss, ours.loss, rtol=1e-13)
    group = module._Program(make, 2, None, jax.make_mesh((8,), ("members",)), (), ("learning_rate",))
    seeds, (rates,) = group.arguments(members[:1] * 16)
    assert len(rates.addressable_shards) == len(seeds.addressable_shards) == 8
    assert rates.addressable_shards[0].data.shape == (2,)


def test_chunks_keep_to_the_memory_that_is_left(monkeypatch):
    sizes = []
    fitting = module._fit_chunk

    def spied(compiled, *rest):
        program, chunk = fitting(lambda n: sizes.append(n) or compiled(n), *rest)
        needed = program.memory_analysis()
        return program, chunk, needed.argument_size_in_bytes + needed.output_size_in_bytes + needed.temp_size_in_bytes

    found = []
    monkeypatch.setattr(module, "_fitting", lambda *args: (found.append(spied(*args)), found[-1][:2])[1])
    monkeypatch.setattr(module, "_held", lambda: 1_000_000)
    members, device = combinations(seed=range(30), learning_rate=[0.01]), jax.devices()[:1]
    free = list(sweep(make, members, DATA, epochs=3, devices=device))
    assert sizes == [30]
    budget = 1_000_000 + found[0][2] // 3
    tight = list(sweep(make, members, DATA, epochs=3, devices=device, budget=budget))
    assert sizes[1] == 30
    assert found[1][1] < 15
    assert found[1][2] <= budget - 1_000_000
    for ours, theirs in zip(tight, free, strict=True):
        np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-13)
    with pytest.raises(
        ValueError, match=r"budget is 1,000,100 bytes, of which 100 are left, but a member for each of 1 "
    ):
        list(sweep(make, members, DATA, epochs=3, devices=device, budget=1_000_100))


def test_what_is_measured_is_handed_on_and_so_are_a_gradients_metrics():
    given, rule = Examples(X[:9] + 0.1, LABELS[:9]), WithAngles(FeedbackAlignment())
    measure = lambda recipe, params, given: evaluate_batch(recipe.model, recipe.loss, params, given)  # noqa: E731
    members = combinations(seed=range(3), learning_rate=[0.01], by=[rule])
    for outcome in sweep(make, members, DATA, epochs=4, measure=measure, given=given):
        settings = members[outcome.place]
        params, history = alone(epochs=4, **settings)
        y, value = outcome.measured
        model, loss = make(0.01).model, make(0.01).loss
        np.testing.assert_allclose(y, predict(model, params, given.x), rtol=1e-12)
        expected = jnp.mean(jax.vmap(loss.value)(predict(model, params, given.x), given.t))
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        assert outcome.metrics.keys() == history.metrics.keys()
        for name, values in history.metrics.items():
            np.testing.assert_allclose(
                outcome.metrics[name], values, rtol=1e-10
            )  # an angle near 0 is a small difference


def test_examples_may_weigh_differently():
    data = DATA._replace(weights=jax.random.uniform(jax.random.key(4), (29,), minval=0.5, maxval=2))
    members = combinations(seed=range(2), learning_rate=[0.01])
    judge(members, list(sweep(make, members, data, epochs=3, **KEPT)), data)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([], "there are no members, but at least one is wanted"),
        ([{"learning_rate": 0.1}], "seed is None, but a whole number from 0 to below 2³² is wanted for each member"),
        ([{"seed": -1, "learning_rate": 0.1}], "seed is -1, but a whole number"),
        ([{"seed": 0, "rate": 0.1}], "there is no setting rate, only seed, learning_rate, hidden"),
        (
            combinations(seed=[0], learning_rate=[0.1, "fast"]),
            "learning_rate is 'fast', but a number is wanted, as in other",
        ),
        ([{"seed": 0, "learning_rate": "fast"}], "no recipe can be made of {'seed': 0, 'learning_rate': 'fast'}"),
        ([{"seed": 0, "learning_rate": -0.1}], "learning_rate is -0.1, but a finite number above 0 is wanted"),
        (
            combinations(seed=[0], learning_rate=[0.1], dropout=[0.1, 1.5]),
            "expected dropout between 0 and 1, excluding 1, got 1.5",
        ),
        (
            combinations(seed=[0], learning_rate=[0.1], smoothing=[1.0]),
            "expected label_smoothing between 0 and 1, excluding 1, got 1.0",
        ),
        ([{"seed": 0, "learning_rate": 0.1, "hidden": [3]}], "hidden is [3], but a number or something hashable"),
        (combinations(seed=[0], learning_rate=[0.1], batch_size=[8, 64]), "batch_size is 64, but 1 to 29"),
        ([{"seed": 0}], "no recipe can be made of {'seed': 0}: "),
    ],
)
def test_bad_settings_are_refused_before_anything_is_compiled(members, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sweep(make, members, DATA, epochs=3)


def test_bad_data_is_refused_as_by_fit():
    with pytest.raises(ValueError, match=r"features\[1, 2\] is nan"):
        sweep(make, combinations(seed=[0], learning_rate=[0.1]), Examples(X.at[1, 2].set(jnp.nan), LABELS), epochs=3)
    with pytest.raises(ValueError, match="epochs is 0, but at least 1 is wanted"):
        sweep(make, combinations(seed=[0], learning_rate=[0.1]), DATA, epochs=0)


def test_a_thousand_learn_iris():
    from sklearn.datasets import load_iris

    x, labels = load_iris(return_X_y=True)
    x = jnp.asarray((x - x.mean(axis=0)) / x.std(axis=0))

    def network(learning_rate):
        return Recipe(mlp((4, 10, 3), output=softmax), CrossEntropy(), optax.sgd(learning_rate), 16)

    def accuracy(recipe, params, given):
        return jnp.mean(evaluate_batch(recipe.model, recipe.loss, params, given)[0].argmax(axis=1) == labels)

    t = jnp.where(jnp.eye(3)[labels] > 0, 0.98, 0.01)
    members = combinations(seed=range(200), learning_rate=[0.03, 0.1, 0.3, 1.0, 3.0])
    found = list(sweep(network, members, Examples(x, t), epochs=20, measure=accuracy, given=Examples(x, t)))
    means = np.mean([outcome.measured for outcome in found if outcome.finite])
    assert len(found) == 1000
    assert means > 0.85
