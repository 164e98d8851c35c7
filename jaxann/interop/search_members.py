"""The members of a grid search: a network for each candidate, fold and seed, in groups that can be trained together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing

from jaxann.interop.estimator_settings import validate_settings
from jaxann.interop.estimators import Perceptron, Problem, draw_seeds
from jaxann.nn.hyperparameters import SettingError


class Fold(NamedTuple):
    """One fold, after the steps of a pipeline before the network.

    Attributes:
        X: The features to train on.
        y: Their targets.
        weights: [N], their sample weights, or None.
        X_test: The features of the held-out part.
        y_test: Their targets.
    """

    X: Any
    y: Any
    weights: np.ndarray | None
    X_test: Any
    y_test: Any


class Member(NamedTuple):
    """One network of the search.

    Attributes:
        place: Its candidate, fold and seed, each by number.
        estimator: The estimator that is to hold the result.
        problem: What is trained.
        fold: The fold.
        source: What the features depend on: members with the same source share them.
    """

    place: tuple[int, int, int]
    estimator: Perceptron
    problem: Problem
    fold: Fold
    source: tuple[Any, int]


def copy_unfitted(value: Any) -> Any:
    """Returns an estimator with the same settings that is not fitted, or a copy of any other value."""
    return clone(value, safe=False)


def make_members(
    estimator: Any, candidates: list[dict[str, Any]], splits: list[Any], seeds: int, X: Any, y: Any, weights: Any
) -> list[Member]:
    """Returns the networks of a search, with their settings and data checked.

    Args:
        estimator: The estimator of the search.
        candidates: The settings of each candidate by name.
        splits: For each fold the positions of its training part and of its test part.
        seeds: The number of networks for each candidate and fold.
        X: The features.
        y: Their targets.
        weights: [N], their sample weights, or None.

    Raises:
        SettingError: If a setting is out of range, or the estimator is not one of jaxann's. It is a ValueError.
    """
    folds: dict[tuple[Any, int], Fold] = {}
    members = []
    largest = max(len(train_part) for train_part, _ in splits)
    for c, candidate in enumerate(candidates):
        complete = copy_unfitted(estimator).set_params(**{name: copy_unfitted(v) for name, v in candidate.items()})
        network = complete.steps[-1][1] if isinstance(complete, Pipeline) else complete
        if not isinstance(network, Perceptron):
            expectation = "to be an MLPClassifier or MLPRegressor of jaxann, or a Pipeline that ends with one"
            raise SettingError("estimator", expectation, f"{type(network).__module__}.{type(network).__name__}")
        validate_settings(network)
        prefix = f"{complete.steps[-1][0]}__" if isinstance(complete, Pipeline) else ""
        others = tuple(sorted((name, repr(v)) for name, v in candidate.items() if not name.startswith(prefix)))
        for f, (train_part, test_part) in enumerate(splits):
            source = (others, f)
            if source not in folds:
                folds[source] = _make_fold(complete, X, y, weights, train_part, test_part)
            fold = folds[source]
            for s, seed in enumerate(draw_seeds(network.random_state, seeds)):
                own = copy_unfitted(network)
                problem = own._prepare(fold.X, fold.y, fold.weights, seed=seed, floor=largest)
                members.append(Member((c, f, s), own, problem, fold, source))
    return members


def _make_fold(complete: Any, X: Any, y: Any, weights: Any, train_part: np.ndarray, test_part: np.ndarray) -> Fold:
    X, X_test = _safe_indexing(X, train_part), _safe_indexing(X, test_part)
    y, y_test = _safe_indexing(y, train_part), _safe_indexing(y, test_part)
    if isinstance(complete, Pipeline) and len(complete.steps) > 1:
        before = copy_unfitted(complete[:-1])
        X, X_test = before.fit_transform(X, y), before.transform(X_test)
    return Fold(X, y, None if weights is None else weights[train_part], X_test, y_test)


def group_members(members: Sequence[Member]) -> list[list[Member]]:
    """Returns the members in groups, each of which one program can train.

    Args:
        members: The networks of a search. Those of a group have the same compiled settings, shapes and `max_iter`.
    """
    groups: dict[Any, list[Member]] = {}
    for member in members:
        structure, data = member.problem.structure, member.problem.data
        shapes = data.rows.shape, data.validation_rows.shape
        groups.setdefault((structure, *shapes, member.estimator.max_iter), []).append(member)
    return list(groups.values())
