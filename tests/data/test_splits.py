"""The parts of a table: their sizes, their classes, their scaling, and the sentences about settings that do not fit."""

import inspect
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from jaxann.data import load_dataset
from jaxann.data.scaling import BATCH, Scaling
from jaxann.data.tables import SETS, read_table
from jaxann.nn.hyperparameters import SettingError


@pytest.fixture
def npz(tmp_path):
    def save(**arrays):
        path = tmp_path / "table.npz"
        np.savez(path, **arrays)
        return str(path)

    return save


def classes(examples=40, features=3, seed=0):
    draw = np.random.default_rng(seed)
    return draw.normal(5, 3, (examples, features)), np.arange(examples) % 2


def parts(data):
    assert data.validation
    return data.train, data.validation, data.test


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(("settings", "held_out", "seed"), [({}, 0.2, 0), ({"held_out": 0.3, "seed": 7}, 0.3, 7)])
def test_without_validation_the_parts_are_scikit_learns_to_the_bit(name, settings, held_out, seed):
    data, table = load_dataset(name, **settings), read_table(name)
    apart = int(np.ceil(held_out * len(table.t)))
    stratify = table.t if table.classes else None
    x, x_test, t, t_test = train_test_split(table.x, table.t, test_size=apart, random_state=seed, stratify=stratify)
    scaler = StandardScaler().fit(x)
    for actual, expected in (
        (data.train.x, scaler.transform(x)),
        (data.train.t, t),
        (data.test.x, scaler.transform(x_test)),
        (data.test.t, t_test),
    ):
        np.testing.assert_array_equal(actual, expected, strict=True)
    assert data.validation is data.train.weights is data.test.weights is None


def test_iris_and_diabetes_are_split_as_in_the_first_version():
    iris, diabetes = load_dataset("iris"), load_dataset("diabetes")
    assert iris.test.t[:12].tolist() == [0, 1, 0, 2, 0, 1, 2, 0, 0, 1, 2, 1]
    assert diabetes.test.t[:6].tolist() == [321, 215, 127, 64, 175, 275]
    first = [-0.4198787456685784, 1.0127481951850976, -1.3809335178638145, -1.319284998946758]
    np.testing.assert_allclose(iris.test.x[0], first, rtol=1e-12)
    last = [-1.1245703467906711, -1.2336433652994034, 0.41601148674379185, 0.6449110292618151]
    np.testing.assert_allclose(iris.train.x[-1], last, rtol=1e-12)


@pytest.mark.parametrize("name", SETS)
def test_features_are_standardized_over_the_training_part_alone(name):
    data = load_dataset(name, held_out=0.3, validation=0.2, seed=1)
    varying = data.train.x.std(axis=0) > 0
    np.testing.assert_allclose(data.train.x.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(data.train.x[:, varying].std(axis=0), 1, rtol=1e-10)
    assert not data.train.x[:, ~varying].any()
    for part in parts(data)[1:]:
        assert np.abs(part.x.mean(axis=0)).max() > 1e-3
        assert len(part.x) == len(part.t)


def test_the_parts_make_up_the_table():
    data, table = load_dataset("wine", held_out=0.3, validation=0.2, seed=1), read_table("wine")
    assert [len(part.t) for part in parts(data)] == [99, 25, 54]
    x = np.concatenate([part.x for part in parts(data)])
    t = np.concatenate([part.t for part in parts(data)])
    rows, expected = np.column_stack([x, t]), np.column_stack([data.scaling(table.x), table.t])
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])
    assert (data.classes, data.columns, data.target) == (table.classes, table.columns, table.target)


def test_validation_leaves_the_test_part_as_it_is():
    without, with_it = load_dataset("iris"), load_dataset("iris", validation=0.25)
    np.testing.assert_array_equal(without.test.t, with_it.test.t)
    assert [len(part.t) for part in parts(with_it)] == [90, 30, 30]


@pytest.mark.parametrize("name", SETS[:-1])
def test_every_part_has_the_classes_in_the_same_proportions(name):
    data = load_dataset(name, held_out=0.25, validation=0.25)
    shares = [np.bincount(part.t) / len(part.t) for part in parts(data)]
    assert len(shares[0]) == len(data.classes)
    for share, part in zip(shares[1:], parts(data)[1:], strict=True):
        np.testing.assert_allclose(share, shares[0], atol=2 / len(part.t))


def test_the_seed_draws_both_splits():
    drawn = (parts(load_dataset("iris", validation=0.2, seed=seed)) for seed in (0, 0, 1))
    for first, again, second in zip(*drawn, strict=True):
        np.testing.assert_array_equal(first.x, again.x)
        assert not np.array_equal(first.x, second.x)


def test_the_sources_own_test_part_is_the_test_part(npz):
    x, t = classes()
    path = npz(x_train=x, y_train=t, x_test=x[:6] + 1, y_test=t[:6])
    data = load_dataset(path, validation=0.25)
    assert [len(part.t) for part in parts(data)] == [30, 10, 6]
    np.testing.assert_allclose(data.test.x * data.scaling.sd + data.scaling.mean, x[:6] + 1)
    np.testing.assert_array_equal(load_dataset(path).train.t, t)
    sentence = r"^expected held_out to be None for .*table.npz, because it has a test part of its own, got 0.2$"
    with pytest.raises(SettingError, match=sentence):
        load_dataset(path, held_out=0.2)


def test_all_features_are_scaled_as_one(npz):
    x, t = classes()
    data = load_dataset(npz(x=x * [1, 10, 100], t=t), scaling="all")
    assert data.scaling.mean.shape == data.scaling.sd.shape == (3,)
    np.testing.assert_allclose(data.train.x.mean(), 0, atol=1e-12)
    np.testing.assert_allclose(data.train.x.std(), 1)
    assert data.train.x[:, 2].std() > 10 * data.train.x[:, 0].std()


def test_features_may_be_left_as_they_are(npz):
    x, t = classes()
    data = load_dataset(npz(x=x, t=t), scaling="none")
    assert set(map(tuple, data.train.x)) < set(map(tuple, x))
    np.testing.assert_array_equal(data.scaling(x), x)


@pytest.mark.parametrize("scaling", ["feature", "all"])
def test_what_is_constant_becomes_zero(npz, scaling):
    x, t = classes()
    x[:, 1 if scaling == "feature" else slice(None)] = 0.1
    data = load_dataset(npz(x=x, t=t), scaling=scaling)
    np.testing.assert_allclose(data.train.x[:, 1], 0, atol=1e-12)
    np.testing.assert_allclose(data.test.x[:, 1], 0, atol=1e-12)


@pytest.mark.parametrize("scaling", ["feature", "all"])
def test_float32_stays_float32_and_is_scaled_as_precisely(npz, scaling):
    """The features are far from 0, and there are more examples than the scaling is fitted on at a time."""
    x, t = classes(2 * BATCH, 2)
    x = (x + 1000).astype(np.float32)
    data = load_dataset(npz(x=x, t=t), held_out=0.1, scaling=scaling)
    assert data.train.x.dtype == data.test.x.dtype == np.float32
    axis = 0 if scaling == "feature" else None
    np.testing.assert_allclose(data.train.x.mean(axis, dtype=float), 0, atol=1e-6)
    np.testing.assert_allclose(data.train.x.std(axis, dtype=float), 1, rtol=1e-6)


def test_a_scaling_does_not_change_its_argument_and_takes_integers():
    scaling, x = Scaling(np.array([1.0, 2.0]), np.array([2.0, 4.0])), np.array([[1, 4], [2, 2]])
    np.testing.assert_array_equal(scaling(x), [[0, 0.5], [0.5, 0]])
    np.testing.assert_array_equal(x, [[1, 4], [2, 2]])
    assert scaling(x.astype(np.float32)).dtype == np.float32


def test_weights_go_with_their_examples(npz):
    x, t = classes()
    data = load_dataset(
        npz(x=x, t=t, weights=x[:, 0] - x[:, 0].min() + 1), held_out=0.25, validation=0.25, scaling="none"
    )
    for part in parts(data):
        assert part.weights is not None
        np.testing.assert_allclose(part.weights, part.x[:, 0] - x[:, 0].min() + 1)


def test_examples_of_weight_0_are_left_out(npz):
    x, t = classes()
    weights = np.ones(40)
    weights[:10], x[:10] = 0, 1000
    data = load_dataset(npz(x=x, t=t, weights=weights), held_out=0.25, validation=0.25)
    parts = (data.train, data.validation, data.test)
    for part in parts:
        assert part is not None
        assert (part.weights == 1).all()
    assert sum(len(part.t) for part in parts if part is not None) == 30


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"held_out": 1.5}, "expected held_out between 0 and 1, excluding 0 and 1, got 1.5"),
        ({"held_out": 0.0}, "expected held_out between 0 and 1, excluding 0 and 1, got 0.0"),
        ({"held_out": float("nan")}, "expected held_out to be a finite number, got nan"),
        ({"held_out": 0.99}, "expected held_out to leave at least 3 of iris's 150 examples in each part, got 0.99"),
        ({"held_out": 0.01}, "expected held_out to leave at least 3 of iris's 150 examples in each part, got 0.01"),
        ({"validation": 1.0}, "expected validation between 0 and 1, excluding 1, got 1.0"),
        ({"validation": -0.1}, "expected validation between 0 and 1, excluding 1, got -0.1"),
        (
            {"validation": 0.99},
            "expected validation to leave at least 3 of iris's 120 training examples in each part, got 0.99",
        ),
        ({"seed": -1}, "expected seed between 0 and 4294967295, got -1"),
        ({"seed": 2**32}, "expected seed between 0 and 4294967295, got 4294967296"),
        ({"scaling": "z"}, "expected scaling to be feature, all or none, got 'z'"),
        (
            {"target": "species"},
            "expected target to be left out for iris, which has no named columns, got 'species'",
        ),
    ],
)
def test_bad_settings_get_a_sentence(settings, sentence):
    with pytest.raises(SettingError, match=f"^{sentence}$"):
        inspect.unwrap(load_dataset)("iris", **settings)


def test_parts_of_too_few_get_a_sentence(npz):
    x, t = classes()
    single = np.where(np.arange(40) == 3, 2, t)
    with pytest.raises(
        ValueError, match=r"^expected at least 2 of class 2 among .*.npz's 40 examples to split, got 1$"
    ):
        load_dataset(npz(x=x, t=single))
    data = npz(x_train=x, y_train=single, x_test=x, y_test=t)
    assert len(load_dataset(data).train.t) == 40
    with pytest.raises(ValueError, match=r"at least 2 of class 2 among .*.npz's 40 training examples to split, got 1$"):
        load_dataset(data, validation=0.2)
    with pytest.raises(ValueError, match=r"held_out to leave at least 2 of .*.npz's 3 examples in each part, got 0.2$"):
        load_dataset(npz(x=x[:3], t=t[:3] + 0.5))
    with pytest.raises(ValueError, match=r"held_out to leave at least 2 of .*.npz's 0 examples in each part, got 0.2$"):
        load_dataset(npz(x=x, t=t, weights=np.zeros(40)))
    with pytest.raises(ValueError, match=r"a weight above 0 of every class in .*table.npz, got none of class 1$"):
        load_dataset(npz(x=x, t=t, weights=1 - t))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scaling", ["feature", "all"])
def test_features_of_any_size_are_standardized_alike(npz, dtype, scaling):
    """Powers of two change no digit, even if squares overflow or vanish. A constant 0.1 or 1e300 becomes 0."""
    x, t = classes()
    x = x.astype(dtype)
    ordinary = load_dataset(npz(x=x, t=t), validation=0.25, scaling=scaling)
    for exponent in (-100, 20, 120) if dtype == np.float32 else (-1000, -600, 20, 600, 1018):
        scaled = load_dataset(npz(x=np.ldexp(x, exponent), t=t), validation=0.25, scaling=scaling)
        for part, expected in zip(parts(scaled), parts(ordinary), strict=True):
            np.testing.assert_array_equal(part.x, expected.x, strict=True)
        np.testing.assert_array_equal(scaled.scaling.sd, np.ldexp(ordinary.scaling.sd, exponent))
    if dtype == np.float64 and scaling == "feature":
        constant = x * [1, 0, 0] + [0, 0.1, 1e300]
        scaled = load_dataset(npz(x=constant, t=t))
        np.testing.assert_array_equal(scaled.train.x[:, 1:], 0)
        np.testing.assert_array_equal(scaled.scaling.sd[1:], 1)


def test_the_largest_numbers_and_those_next_to_0_are_standardized(npz):
    t = np.arange(40) // 2 % 2
    signs, subnormal = np.where(np.arange(40) % 2, 1.0, -1.0)[:, None], np.finfo(np.float32).smallest_subnormal
    for x in (1.7e308 * signs, 3e38 * signs.astype(np.float32), subnormal * (3 + 2 * signs).astype(np.float32)):
        data = load_dataset(npz(x_train=x, y_train=t, x_test=x, y_test=t))
        np.testing.assert_allclose(data.train.x, signs, rtol=1e-6)
        np.testing.assert_array_equal(data.test.x, data.train.x, strict=True)
    sentence = r"a standard deviation of at least 2.22507e-308 in .*table.npz, got 1e-310 in column x_0$"
    with pytest.raises(ValueError, match=sentence):
        load_dataset(npz(x_train=1e-310 * signs, y_train=t, x_test=signs, y_test=t))


@pytest.mark.parametrize("clash", ["a is missing", "b=x", "b=(rare)"])
def test_a_column_named_like_a_feature_of_another_one_gets_a_sentence(tmp_path, clash):
    texts = ["x"] * 200 + ["y"] * 199 + ["z"]
    frame = pd.DataFrame({"a": [None, *range(399)], "b": texts, clash: range(400), "t": np.arange(400) % 2})
    frame.to_csv(tmp_path / "t.csv", index=False)
    sentence = (
        rf"^expected a name of its own for each feature of .*t.csv, got the name '{re.escape(clash)}' for 2 of them$"
    )
    with pytest.raises(ValueError, match=sentence):
        load_dataset(str(tmp_path / "t.csv"), held_out=0.01)


def test_a_column_without_a_value_in_the_training_part_has_no_features(tmp_path):
    path = str(tmp_path / "t.csv")
    test = load_dataset(write(path, {"a": range(40), "t": np.arange(40) % 2})).test.x[:, 0]
    first = load_dataset(path).scaling
    rows = np.round(test * first.sd + first.mean).astype(int)
    cells = np.where(np.isin(np.arange(40), rows[:4]), "x", "")
    data = load_dataset(write(path, {"a": range(40), "b": cells, "t": np.arange(40) % 2}))
    assert data.columns == ("a",)
    with pytest.raises(ValueError, match=r"^expected a column with values in the training part of .*t.csv, got none$"):
        load_dataset(write(path, {"b": cells, "t": np.arange(40) % 2}))


def write(path, columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return path
