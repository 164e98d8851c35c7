"""The estimators in scikit-learn's own tools, beside scikit-learn's own networks."""

import copy
import pickle
import threading
from math import inf

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.inspection import permutation_importance
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier as SklearnClassifier
from sklearn.neural_network import MLPRegressor as SklearnRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from jaxann.interop.sklearn import MLPClassifier, MLPRegressor, SweepSearchCV
from jaxann.nn import Dense
from jaxann.rules import RULES

X, LABELS = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
NAMES = np.array(["setosa", "versicolor", "virginica"])[LABELS]
SMALL = {"hidden_layer_sizes": (8,), "batch_size": 50, "random_state": 0, "learning_rate_init": 0.03}
SHORT = {**SMALL, "max_iter": 20, "n_iter_no_change": inf}
ROUNDING = "float32 rounds sums over repeated examples otherwise than products with their weights, by 1e-7"
EXPECTED_FAILURES = {"check_sample_weight_equivalence_on_dense_data": ROUNDING}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def fitted():
    return MLPClassifier(**SHORT).fit(X, NAMES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
def test_check_estimator_passes_but_for_the_rounding_of_float32(estimator):
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        results = check_estimator(estimator(max_iter=100), expected_failed_checks=EXPECTED_FAILURES, on_fail=None)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert failed == {}
    assert sum(result["status"] == "passed" for result in results) > 50


def test_in_double_precision_weights_are_repeated_examples():
    weights = np.random.default_rng(0).integers(0, 3, len(X))
    settings = {**SHORT, "batch_size": 400, "alpha": 0.1}
    one = MLPClassifier(**settings).fit(X, NAMES, sample_weight=weights)
    other = MLPClassifier(**settings).fit(np.repeat(X, weights, axis=0), np.repeat(NAMES, weights))
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X), rtol=1e-9)


def test_a_step_is_that_of_scikit_learn_with_the_same_parameters():
    """Full batches, SGD with Nesterov's momentum and a penalty: from equal parameters, equal parameters follow."""
    settings = {"hidden_layer_sizes": (6,), "activation": "tanh", "solver": "sgd", "alpha": 3.0, "batch_size": 150}
    settings |= {"learning_rate_init": 0.05, "random_state": 0, "warm_start": True, "max_iter": 1}
    ours, theirs = MLPClassifier(**settings).fit(X, NAMES), SklearnClassifier(**settings).fit(X, NAMES)
    theirs.coefs_, theirs.intercepts_ = copy.deepcopy(ours.coefs_), copy.deepcopy(ours.intercepts_)
    for estimator in (ours, theirs):
        estimator.set_params(max_iter=5).fit(X, NAMES)
    for mine, peer in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(mine, peer, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.loss_curve_[-5:], theirs.loss_curve_[-5:], rtol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-9)


def test_it_has_scikit_learns_attributes(fitted):
    theirs = SklearnClassifier(hidden_layer_sizes=(8,), max_iter=20, random_state=0).fit(X, NAMES)
    public = {name for name in vars(theirs) if name.endswith("_") and not name.startswith("_")}
    assert public <= set(vars(fitted))
    assert [a.shape for a in fitted.coefs_] == [a.shape for a in theirs.coefs_]
    assert [a.shape for a in fitted.intercepts_] == [a.shape for a in theirs.intercepts_]
    assert all(type(a) is np.ndarray for a in fitted.coefs_ + fitted.intercepts_)
    assert fitted.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert (fitted.n_iter_, fitted.n_layers_, fitted.n_features_in_, fitted.t_) == (20, 3, 4, 20 * 150)
    assert (fitted.n_outputs_, fitted.out_activation_) == (theirs.n_outputs_, theirs.out_activation_)
    assert fitted.loss_ == fitted.loss_curve_[-1]
    assert fitted.best_loss_ == min(fitted.loss_curve_)
    assert fitted.score(X, NAMES) > 0.95
    np.testing.assert_allclose(np.exp(fitted.predict_log_proba(X)), fitted.predict_proba(X), rtol=1e-12)


def test_scores_are_as_good_as_scikit_learns_on_digits():
    x, labels = load_digits(return_X_y=True)
    x, x_test, t, t_test = train_test_split(x / 16, labels, random_state=0, stratify=labels)
    settings = {"hidden_layer_sizes": (32,), "max_iter": 30, "random_state": 0, "learning_rate_init": 0.01}
    ours, theirs = (kind(**settings).fit(x, t).score(x_test, t_test) for kind in (MLPClassifier, SklearnClassifier))
    assert ours > theirs - 0.015


def test_it_can_be_cloned_pickled_and_copied(fitted):
    for twin in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted), clone(fitted).fit(X, NAMES)):
        np.testing.assert_array_equal(twin.predict_proba(X), fitted.predict_proba(X))
    twin = pickle.loads(pickle.dumps(fitted)).partial_fit(X, NAMES)
    assert twin.n_iter_ == 21


def test_it_works_in_scikit_learns_tools():
    estimator = make_pipeline(StandardScaler(), MLPClassifier(**SHORT))
    assert cross_val_score(estimator, X, NAMES, cv=3).min() > 0.85
    calibrated = CalibratedClassifierCV(MLPClassifier(**SHORT), cv=3).fit(X, NAMES)
    assert log_loss(NAMES, calibrated.predict_proba(X)) < 0.3
    importance = permutation_importance(estimator.fit(X, NAMES), X, NAMES, n_repeats=2, random_state=0)
    assert importance.importances_mean[2:].max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_a_grid_search_in_two_jobs_neither_waits_forever_nor_differs(backend):
    import joblib

    settings = {"estimator": MLPClassifier(**SHORT), "param_grid": {"alpha": [1e-4, 10.0]}, "cv": 3}
    with joblib.parallel_backend(backend, n_jobs=2):
        search = GridSearchCV(**settings, n_jobs=2).fit(X, NAMES)
    with jax.enable_x64(backend == "threading"):  # the processes of loky compute in float32, and draw in it
        alone = GridSearchCV(**settings).fit(X, NAMES)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], atol=0.02)


def test_output_of_pandas_reaches_it_with_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(**SHORT)).set_output(transform="pandas")
    assert pipeline.fit(frame, NAMES)[-1].feature_names_in_.tolist() == list("abcd")


@pytest.mark.parametrize("gradient", [name for name in RULES if name != "backprop"])
@pytest.mark.slow
def test_every_learning_rule_trains_it(gradient):
    estimator = MLPClassifier((10, 10), "tanh", max_iter=60, learning_rate_init=0.02, random_state=0, gradient=gradient)
    least = 0.6 if gradient == "output_layer_only" else 0.85  # the control
    assert estimator.fit(X, NAMES).score(X, NAMES) > least


@pytest.mark.slow
def test_layers_have_activations_of_their_own_dropout_and_a_rule_whose_feedback_stays():
    settings = {**SHORT, "hidden_layer_sizes": (8, 6), "activation": ["tanh", "relu"], "dropout": 0.1}
    estimator = MLPClassifier(**settings, gradient="feedback_alignment").fit(X, NAMES)
    assert estimator.score(X, NAMES) > 0.85
    before = [leaf.copy() for leaf in estimator._gradient_leaves]
    estimator.partial_fit(X, NAMES).set_params(warm_start=True).fit(X, NAMES)
    assert before
    assert all((a == b).all() for a, b in zip(before, estimator._gradient_leaves, strict=True))


def test_class_weights_weigh_the_examples(fitted):
    counts = {"setosa": 1.0, "versicolor": 3.0, "virginica": 0.5}
    weighted = clone(fitted).set_params(class_weight=counts).fit(X, NAMES)
    by_hand = clone(fitted).fit(X, NAMES, sample_weight=[counts[name] for name in NAMES])
    np.testing.assert_allclose(weighted.predict_proba(X), by_hand.predict_proba(X), rtol=1e-9)
    assert np.abs(weighted.predict_proba(X) - fitted.predict_proba(X)).max() > 0.01


@pytest.mark.slow
def test_validation_examples_give_curves_and_early_stopping_keeps_the_best(fitted):
    given = clone(fitted).fit(X, NAMES, X_val=X[::3], y_val=NAMES[::3], sample_weight_val=np.ones(50))
    np.testing.assert_array_equal(given.coefs_[0], fitted.coefs_[0])
    assert given.validation_loss_curve_[-1] == pytest.approx(log_loss(NAMES[::3], given.predict_proba(X[::3])))
    assert given.validation_scores_[-1] == given.score(X[::3], NAMES[::3])
    stopping = MLPClassifier(**SMALL, early_stopping=True, n_iter_no_change=4, validation_fraction=0.2).fit(X, NAMES)
    assert stopping.n_iter_ == len(stopping.validation_scores_) == len(stopping.loss_curve_) < 200
    assert stopping.best_validation_score_ == max(stopping.validation_scores_)
    last = stopping.validation_scores_[-5:]
    assert max(last) < stopping.best_validation_score_ + stopping.tol


def test_the_training_loss_stops_a_run_as_in_scikit_learn():
    estimator = MLPClassifier(**SMALL, tol=0.05, n_iter_no_change=3).fit(X, NAMES)
    best, stale = inf, 0
    for epoch, loss in enumerate(estimator.loss_curve_, start=1):
        stale, best = (stale + 1 if loss > best - 0.05 else 0), min(best, loss)
        assert (stale > 3) == (epoch == estimator.n_iter_)
    with pytest.warns(ConvergenceWarning, match=r"did its 2 epochs \(max_iter\), and its training loss was still"):
        MLPClassifier(**SMALL, max_iter=2).fit(X, NAMES)


def test_calls_of_partial_fit_are_epochs_of_one_fit_and_stop_early(fitted):
    parts = MLPClassifier(**SHORT)
    for _ in range(20):
        parts.partial_fit(X, NAMES, classes=np.unique(NAMES))
    for mine, whole in zip(parts.coefs_, fitted.coefs_, strict=True):
        np.testing.assert_allclose(mine, whole, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(parts.loss_curve_, fitted.loss_curve_, rtol=1e-9)
    stopping = MLPClassifier(**SMALL, early_stopping=True, n_iter_no_change=2)
    for _ in range(40):
        stopping.partial_fit(X, NAMES, classes=np.unique(NAMES))
    assert stopping.n_iter_ < 40
    assert stopping.n_iter_ == len(stopping.validation_scores_)
    assert stopping.best_validation_score_ == max(stopping.validation_scores_)


@pytest.mark.slow
def test_two_classes_and_labels_have_an_output_each_with_a_sigmoid():
    two = MLPClassifier(**SHORT).fit(X, LABELS == 2)
    assert two.coefs_[-1].shape == (8, 1)
    assert two.predict(X).dtype == bool
    assert two.score(X, LABELS == 2) > 0.9
    np.testing.assert_allclose(two.predict_proba(X).sum(axis=1), 1)
    labels = np.stack([LABELS == 0, LABELS > 0], axis=1).astype(int)
    many = MLPClassifier(**SHORT).fit(X, labels)
    assert many.score(X, labels) > 0.9
    assert many.predict_proba(X).shape == (150, 2)


@pytest.mark.slow
def test_the_regressor_fits_numbers_and_counts():
    y = X @ np.array([1.0, -2.0, 0.5, 1.0])
    settings = {**SHORT, "max_iter": 60}
    assert MLPRegressor(**settings).fit(X, y).score(X, y) > 0.95
    assert SklearnRegressor(hidden_layer_sizes=(8,), max_iter=60, learning_rate_init=0.03).fit(X, y).score(X, y) > 0.9
    both = MLPRegressor(**settings, early_stopping=True).fit(X, np.stack([y, -y], axis=1))
    assert both.predict(X).shape == (150, 2)
    kept = both.best_validation_score_
    assert kept == max(both.validation_scores_) > 0.8
    counts = MLPRegressor("poisson", **settings).fit(X, LABELS)
    assert counts.predict(X).min() > 0
    assert counts.score(X, LABELS) > 0.8


def test_it_prints_a_line_for_each_epoch(capsys):
    MLPClassifier(**{**SHORT, "max_iter": 2}, verbose=True).fit(X, NAMES, X_val=X, y_val=NAMES)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1", "epoch 2"]
    assert "validation loss" in lines[0]


REFUSED_SETTINGS = {
    "expected alpha of at least 0, got -1": {"alpha": -1},
    "expected max_iter to be a whole number, got 1.5": {"max_iter": 1.5},
    "expected shuffle to be True or False, got 'no'": {"shuffle": "no"},
    "expected solver to be adam, sgd, adamw, .* or adagrad, got 'lbfgs'": {"solver": "lbfgs"},
    "expected batch_size to be auto or a whole number, got 'all'": {"batch_size": "all"},
    "expected activation among identity, .* and logistic, got 'rely'": {"activation": "rely"},
    r"expected activation among identity, .* and logistic, got \['relu'\]": {"activation": [["relu"]]},
    r"expected activation to be a layer without parameters, got Dense\(4, 4\)": {"activation": Dense(4, 4)},
    "expected activation to be one name, or one for each of 1 hidden layers": {"activation": ["relu", "tanh"]},
    r"expected hidden_layer_sizes\[1\] of at least 1, got 0": {"hidden_layer_sizes": (3, 0)},
    "expected gradient to be a gradient function or among backprop, .*, got 'hebb'": {"gradient": "hebb"},
    "expected dropout between 0 and 1, excluding 1, got 1": {"dropout": 1},
    "expected n_iter_no_change to be a whole number, got 2.5": {"n_iter_no_change": 2.5},
    "expected class_weight to be balanced or a number for each class, got 'even'": {"class_weight": "even"},
    "expected a validation_fraction that leaves at least 2 examples": {
        "early_stopping": True,
        "validation_fraction": 0.001,
    },
}


@pytest.mark.parametrize("sentence", REFUSED_SETTINGS)
def test_a_wrong_setting_is_refused(sentence):
    with pytest.raises(ValueError, match=sentence):
        MLPClassifier(**REFUSED_SETTINGS[sentence]).fit(X, NAMES)


REFUSED_DATA = {
    r"expected sample_weight of shape \(150,\), one for each example, got shape \(3,\)": {"sample_weight": [1, 2, 3]},
    "expected finite numbers of at least 0 in sample_weight, got -1": {"sample_weight": -np.ones(150)},
    "expected an example with a weight above 0 in sample_weight, got only zeros": {"sample_weight": np.zeros(150)},
    "expected numbers in sample_weight, got list with other entries": {"sample_weight": ["heavy"] * 150},
    "expected X_val and y_val together, got only one": {"X_val": X},
    r"expected labels among the classes of the first fit \(setosa, .*\), got rose": {
        "X_val": X[:1],
        "y_val": ["rose"],
    },
}


@pytest.mark.parametrize("sentence", REFUSED_DATA)
def test_wrong_weights_and_validation_examples_are_refused(sentence):
    with pytest.raises(ValueError, match=sentence):
        MLPClassifier(**SHORT).fit(X, NAMES, **REFUSED_DATA[sentence])


def test_what_does_not_fit_the_first_fit_is_refused(fitted):
    again = copy.deepcopy(fitted).set_params(warm_start=True)
    with pytest.raises(ValueError, match="expected labels among the classes of the first fit"):
        again.fit(X, np.where(NAMES == "setosa", "rose", NAMES))
    with pytest.raises(ValueError, match=r"expected the hidden_layer_sizes of the fit before, got \(3,\)"):
        again.set_params(hidden_layer_sizes=(3,)).fit(X, NAMES)
    with pytest.raises(ValueError, match="expected the classes of the first call"):
        fitted.partial_fit(X, NAMES, classes=["rose", "tulip"])
    with pytest.raises(ValueError, match="expected classes, the labels of all examples to come, in the first call"):
        MLPClassifier(**SHORT).partial_fit(X, NAMES)
    with pytest.raises(ValueError, match="expected targets of 0 or more for the loss poisson, got -1"):
        MLPRegressor("poisson", **SHORT).fit(X, LABELS - 1.0)
    with pytest.raises(ValueError, match=r"expected loss to be squared_error, .* or poisson, got 'log_loss'"):
        MLPRegressor("log_loss", **SHORT).fit(X, LABELS)
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match=r"expected features within the range of float32, got 1e\+300"),
    ):
        MLPClassifier(**SHORT).fit(X + 1e300, NAMES)


@pytest.mark.slow
def test_a_diverged_fit_names_the_epoch_the_step_and_the_layer():
    y = X[:, 0] * 1e3
    with pytest.raises(FloatingPointError, match=r"epoch \d+, step \d+: the first value that is not finite is in"):
        MLPRegressor(**{**SHORT, "learning_rate_init": 1e6, "max_iter": 60}, solver="sgd").fit(X, y)


SEARCHED = {"alpha": [1e-4, 3.0], "learning_rate_init": [0.01, 0.1]}


def test_a_sweep_search_is_a_grid_search_of_the_estimators_own_fits():
    estimator = make_pipeline(
        StandardScaler(), MLPClassifier(**{**SMALL, "max_iter": 30}, tol=0.02, n_iter_no_change=2)
    )
    grid = [
        {f"mlpclassifier__{name}": values for name, values in SEARCHED.items()},
        {"standardscaler__with_std": [False]},
    ]
    theirs = GridSearchCV(estimator, grid, cv=3, scoring="neg_log_loss").fit(X, NAMES)
    ours = SweepSearchCV(estimator, grid, cv=3, scoring="neg_log_loss").fit(X, NAMES)
    assert set(theirs.cv_results_) == set(ours.cv_results_)
    for name, column in theirs.cv_results_.items():
        if name.startswith(("split", "mean_test", "std_test")):
            np.testing.assert_allclose(ours.cv_results_[name], column, rtol=1e-6, err_msg=name)
        elif name.startswith("param"):
            assert list(ours.cv_results_[name]) == list(column)
    np.testing.assert_array_equal(ours.cv_results_["rank_test_score"], theirs.cv_results_["rank_test_score"])
    assert ours.best_params_ == theirs.best_params_
    assert ours.best_score_ == pytest.approx(theirs.best_score_, rel=1e-6)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-6, atol=1e-12)
    assert ours.score(X, NAMES) == pytest.approx(theirs.score(X, NAMES), rel=1e-6)
    assert ours.classes_.tolist() == theirs.classes_.tolist()


def test_a_sweep_search_compiles_its_last_fit_once_and_beside_the_search():
    compiled = []

    def listen(event, duration, fun_name="", **_):
        if event.endswith("backend_compile_duration") and fun_name == "jit(_run_piece)":
            compiled.append(threading.current_thread())

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with jax.enable_x64(False):  # a mode of this thread alone
            estimator = MLPClassifier(**SHORT | {"hidden_layer_sizes": (7,)})  # no other test has compiled it
            search = SweepSearchCV(estimator, {"alpha": [0.01, 0.1]}, cv=2).fit(X, NAMES)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert [thread is threading.main_thread() for thread in compiled] == [False]
    assert search.best_estimator_.n_iter_ == 20


@pytest.mark.slow
def test_a_sweep_search_takes_seeds_groups_and_weights():
    estimator = MLPClassifier(**SHORT, early_stopping=True)
    search = SweepSearchCV(estimator, {"alpha": [1e-4, 1e-2]}, cv=GroupKFold(2), seeds=2, refit=False)
    search.fit(X, NAMES, groups=np.arange(150) % 7, sample_weight=np.linspace(0, 1, 150))
    scores = [search.cv_results_[f"split{i}_test_score"] for i in range(4)]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], np.mean(scores, axis=0))
    assert search.best_score_ > 0.8
    assert "split4_test_score" not in search.cv_results_
    assert not hasattr(search, "best_estimator_")


def test_a_diverged_network_of_a_sweep_search_has_the_score_nan():
    y = X @ np.array([1.0, -2.0, 0.5, 1.0])
    estimator = MLPRegressor(**SHORT, solver="sgd")
    with pytest.warns(FitFailedWarning, match="3 of 6 networks diverged, and have the score NaN"):
        search = SweepSearchCV(estimator, {"learning_rate_init": [0.01, 1e9]}, cv=3).fit(X, y)
    assert search.best_params_ == {"learning_rate_init": 0.01}
    with pytest.raises(FloatingPointError, match="expected a network that stays finite, got 3 that all diverged"):
        SweepSearchCV(estimator, {"learning_rate_init": [1e9]}, cv=3).fit(X, y)


REFUSED_SEARCHES = {
    "expected estimator to be an MLPClassifier or MLPRegressor of jaxann, .* got 'sklearn.*MLPClassifier'": {
        "estimator": SklearnClassifier()
    },
    "expected seeds of at least 1, got 0": {"seeds": 0},
    "expected refit to be True or False, got 'accuracy'": {"refit": "accuracy"},
    "expected scoring to be the name of one score or a function": {"scoring": ["accuracy"]},
    "expected alpha of at least 0, got -1": {"param_grid": {"alpha": [1, -1]}},
    "Invalid parameter 'alfa' for estimator MLPClassifier": {"param_grid": {"alfa": [1]}},
}


@pytest.mark.parametrize("sentence", REFUSED_SEARCHES)
def test_a_wrong_sweep_search_is_refused(sentence):
    settings = {"estimator": MLPClassifier(**SHORT), "param_grid": {"alpha": [1]}, **REFUSED_SEARCHES[sentence]}
    with pytest.raises(ValueError, match=sentence):
        SweepSearchCV(**settings).fit(X, NAMES)
