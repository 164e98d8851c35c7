"""A grid search over settings, folds and seeds whose networks are trained together, in few compiled programs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from concurrent.futures import wait
from functools import partial
from math import nan
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from scipy.stats import rankdata
from sklearn.base import is_classifier
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import ParameterGrid, check_cv
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import indexable

from jaxann.interop.estimator_data import read_weights
from jaxann.interop.estimator_run import MEMBER_SPEC, Data, Run, compile_training, make_member_mesh, train
from jaxann.interop.estimators import Perceptron, Problem
from jaxann.interop.search_members import Member, copy_unfitted, group_members, make_members
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.training.chunks import largest_chunk
from jaxann.training.programs import call_in_thread


class SweepSearchCV(BaseSearchCV):
    """Grid search with cross-validation that trains many networks in one program.

    It has the interface of scikit-learn's `GridSearchCV`, and each network is the one that the estimator's own `fit`
    trains, early stopping included, up to rounding. Networks that differ in the fold, the seed or a number, such as
    `alpha`, `learning_rate_init` or `dropout`, are trained together. Other settings, such as `hidden_layer_sizes`,
    split the search into groups with a program each. The networks are spread over all devices of this process; call
    `jaxann.training.cpu_devices(2)` before anything else to use two cores of a CPU.

    Args:
        estimator: An `MLPClassifier` or `MLPRegressor` of jaxann, or a `Pipeline` that ends with one. The steps before
            it are fitted on the training part of each fold.
        param_grid: The values of each setting by name, or a list of such dictionaries, as in `GridSearchCV`.
        cv: The number of folds, a splitter or an iterable of splits, as in `GridSearchCV`.
        seeds: How many networks are trained for each candidate and fold. The first has the seed that the estimator's
            `fit` takes; each seed is a split of `cv_results_`.
        scoring: The name of a score, a function (estimator, X, y), or None for the estimator's own score. In a
            pipeline the function gets the last step, and the features that this step takes.
        refit: Whether the best candidate is trained again on all examples.

    Attributes:
        cv_results_: The results of `GridSearchCV` by name: "params", "param_...", "split0_test_score" and so on,
            "mean_test_score", "std_test_score", "rank_test_score", and the times in seconds.
        best_params_: The settings with the highest mean score.
        best_score_: That score.
        best_index_: The position of the settings in `cv_results_`.
        best_estimator_: The estimator that was trained again; `predict` and `score` use it.
        refit_time_: How long that took, in seconds.
        scorer_: The function that scored.
        n_splits_: The number of folds.

    Raises:
        SettingError: In `fit`, if a setting of the search or of a candidate is out of range. It is a ValueError.
        FloatingPointError: In `fit`, if every candidate diverges. A network that diverges has the score NaN.
    """

    n_jobs, verbose, pre_dispatch, error_score, return_train_score = None, 0, "2*n_jobs", nan, False

    def __init__(
        self,
        estimator: Any,
        param_grid: Any,
        *,
        cv: Any = 5,
        seeds: Any = 1,
        scoring: Any = None,
        refit: Any = True,
    ) -> None:
        self.estimator = estimator
        self.param_grid = param_grid
        self.cv = cv
        self.seeds = seeds
        self.scoring = scoring
        self.refit = refit

    def fit(self, X: Any, y: Any, *, sample_weight: Any = None, groups: Any = None) -> SweepSearchCV:  # pyright: ignore
        """Trains all networks, and the best candidate once more.

        Args:
            X: [N, ...], the features.
            y: [N] or [N, outputs], the targets.
            sample_weight: [N], how much each example counts in training and in the score; ones by default.
            groups: [N], the groups of the examples, for splitters that keep groups together.

        Returns:
            The search itself.
        """
        validate_number("seeds", self.seeds, least=1, integer=True)
        if not isinstance(self.refit, bool | np.bool_):
            raise SettingError("refit", "to be True or False", self.refit)
        if isinstance(self.scoring, Mapping | list | tuple | set):
            raise SettingError("scoring", "to be the name of one score or a function", self.scoring)
        X, y, groups = indexable(X, y, groups)
        weights = None if sample_weight is None else read_weights(sample_weight, len(y))
        scorer: Any = check_scoring(self.estimator, self.scoring)
        self.scorer_, self.multimetric_ = scorer, False
        splitter: Any = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        candidates, splits = list(ParameterGrid(self.param_grid)), list(splitter.split(X, y, groups))
        self.n_splits_ = len(splits)
        scores, fit_times, score_times = np.full((3, len(candidates), len(splits), self.seeds), nan)
        members = make_members(self.estimator, candidates, splits, self.seeds, X, y, weights)
        groups = group_members(members)
        compilations = []
        if self.refit and isinstance(self.estimator, Perceptron) and len(groups) == 1:
            # Every candidate has the same program for the fit on all examples, so another thread compiles it while the
            # folds are trained. If that fails, the fit raises the error.
            problem = copy_unfitted(members[0].estimator)._prepare(X, y, weights, seed=members[0].problem.seed)
            arguments = problem.structure, problem.numbers, problem.start(), problem.data
            compilations.append(call_in_thread(compile_training, *arguments))
        try:
            for group in groups:
                began = time.perf_counter()
                results = _train(group)
                elapsed = (time.perf_counter() - began) / len(group)
                for member, result in zip(group, results, strict=True):
                    began, fit_times[member.place] = time.perf_counter(), elapsed
                    scores[member.place] = self._score(member, result, splits[member.place[1]][1], weights)
                    score_times[member.place] = time.perf_counter() - began
        finally:
            wait(compilations)
        self.cv_results_ = _tabulate(candidates, scores, fit_times, score_times)
        diverged = int(np.isnan(scores).sum())
        if diverged == scores.size:
            raise FloatingPointError(f"expected a network that stays finite, got {diverged} that all diverged")
        if diverged:
            message = f"{diverged} of {scores.size} networks diverged, and have the score NaN"
            warnings.warn(message, FitFailedWarning, stacklevel=2)
        self.best_index_ = int(self.cv_results_["rank_test_score"].argmin())
        self.best_params_ = candidates[self.best_index_]
        self.best_score_ = float(self.cv_results_["mean_test_score"][self.best_index_])
        if self.refit:
            self._refit(X, y, weights)
        return self

    def _score(self, member: Member, result: Any, test: np.ndarray, weights: np.ndarray | None) -> float:
        run, curves = result
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((run.state.params, run.best))):
            return nan
        member.estimator._forget()
        member.estimator._store(member.problem, run, curves)
        options = {} if weights is None else {"sample_weight": weights[test]}
        scorer: Any = self.scorer_
        return float(scorer(member.estimator, member.fold.X_test, member.fold.y_test, **options))

    def _refit(self, X: Any, y: Any, weights: np.ndarray | None) -> None:
        began = time.perf_counter()
        best = copy_unfitted(self.estimator).set_params(**self.best_params_)
        name = f"{best.steps[-1][0]}__sample_weight" if isinstance(best, Pipeline) else "sample_weight"
        self.best_estimator_ = best.fit(X, y, **({} if weights is None else {name: weights}))
        self.refit_time_ = time.perf_counter() - began
        if hasattr(self.best_estimator_, "feature_names_in_"):
            self.feature_names_in_ = self.best_estimator_.feature_names_in_


def _train(group: list[Member]) -> list[Any]:
    """Trains a group in chunks of one size, and returns for each member its run and its curves."""
    sources: dict[Any, Data] = {}
    for member in group:
        sources.setdefault(member.source, member.problem.data)
    first = np.cumsum([0, *(len(data.x) for data in sources.values())])
    offsets = dict(zip(sources, first.tolist(), strict=False))
    x, t = (jax.device_put(np.concatenate([getattr(d, name) for d in sources.values()])) for name in ("x", "t"))
    size = largest_chunk(len(group), jax.local_devices())
    spread = NamedSharding(make_member_mesh(), MEMBER_SPEC)
    results: list[Any] = []
    for begin in range(0, len(group), size):
        chunk = group[begin : begin + size]
        filled = chunk + chunk[-1:] * (size - len(chunk))
        problems = [member.problem for member in filled]
        numbers = {name: np.stack([p.numbers[name] for p in problems]) for name in problems[0].numbers}
        shifts = np.array([offsets[member.source] for member in filled], np.int32)
        data = jax.tree.map(lambda *leaves: np.stack(leaves), *(p.data._replace(x=None, t=None) for p in problems))
        data = data._replace(
            x=x,
            t=t,
            rows=data.rows + shifts[:, None, None],
            validation_rows=data.validation_rows + shifts[:, None],
        )
        starts: dict[Any, Run] = {}
        for problem in problems:
            if (key := _identify_start(problem)) not in starts:
                starts[key] = problem.start()
        runs = jax.tree.map(partial(_stack, spread), *(starts[_identify_start(problem)] for problem in problems))
        run, curves = train(problems[0].structure, numbers, runs, data, chunk[0].estimator.max_iter)
        run = run._replace(state=run.state._replace(key=()))  # a result needs no key, which NumPy has no array for
        trained = jax.tree.map(np.asarray, (run, curves))
        results += [jax.tree.map(lambda leaf, i=i: leaf[i], trained) for i in range(len(chunk))]
    return results


def _identify_start(problem: Problem) -> Any:
    """Returns what distinguishes the starts of the problems in a group."""
    return problem.seed, *(float(number) for number in problem.numbers.values())


def _stack(sharding: NamedSharding, *leaves: Any) -> Any:
    """Returns the leaves of many runs as one array with a sharding. NumPy stacks them, because it compiles nothing."""
    if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
        stacked = _stack(sharding, *map(jax.random.key_data, leaves))
        return jax.random.wrap_key_data(stacked, impl=jax.random.key_impl(leaves[0]))
    return jax.device_put(np.stack(leaves), sharding)


def _tabulate(
    candidates: list[dict[str, Any]], scores: np.ndarray, fit_times: np.ndarray, score_times: np.ndarray
) -> dict[str, Any]:
    """Returns `cv_results_` for scores [candidates, folds, seeds] and times in seconds."""
    table: dict[str, Any] = {}
    for name, times in (("fit_time", fit_times), ("score_time", score_times)):
        flat = times.reshape(len(candidates), -1)
        table |= {f"mean_{name}": flat.mean(axis=1), f"std_{name}": flat.std(axis=1)}
    for name in sorted({name for candidate in candidates for name in candidate}):
        column = np.empty(len(candidates), object)
        for i, candidate in enumerate(candidates):
            column[i] = candidate.get(name)
        table[f"param_{name}"] = np.ma.array(column, mask=[name not in candidate for candidate in candidates])
    table["params"] = candidates
    flat = scores.reshape(len(candidates), -1)
    table |= {f"split{i}_test_score": flat[:, i] for i in range(flat.shape[1])}
    mean = flat.mean(axis=1)
    worst = np.nanmin(mean) - 1 if np.isfinite(mean).any() else 0.0
    ranks = rankdata(-np.nan_to_num(mean, nan=worst), method="min").astype(np.int32)
    return table | {"mean_test_score": mean, "std_test_score": flat.std(axis=1), "rank_test_score": ranks}
