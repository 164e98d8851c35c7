"""scikit-learn's tables as a network wants them: a training and a held-out part, features standardised."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import numpy as np

DATASETS = ("iris", "wine", "breast_cancer", "digits", "diabetes")


class Data(NamedTuple):
    """Features [N, n] and targets [N] of a training and a held-out part; `classes` names the labels 0, 1, ...

    Without classes the targets are numbers, in the table's own unit.
    """

    x: np.ndarray
    t: np.ndarray
    x_test: np.ndarray
    t_test: np.ndarray
    classes: tuple[str, ...]


def load(name: str, *, held_out: float = 0.2, seed: int = 0) -> Data:
    """One of `DATASETS`, a share `held_out` of its examples kept apart, of each class alike.

    Every feature has mean 0 and variance 1 over the training part; a feature that is constant there becomes 0.
    Raises ValueError for another name, a seed outside 0 ... 2³² - 1, and a share that leaves a part with fewer examples
    than there are classes, or than two.
    """
    import sklearn.datasets  # late: it takes longer to import than the rest together
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    if name not in DATASETS:
        raise ValueError(f"there is no dataset {name}, only {', '.join(DATASETS)}")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is {held_out}, but a share between 0 and 1 is wanted")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}, but a whole number from 0 to below 2³² is wanted")
    table = getattr(sklearn.datasets, f"load_{name}")()
    classes = tuple(str(label) for label in table.get("target_names", ()))
    examples, least = len(table.target), max(2, len(classes))
    apart = ceil(held_out * examples)
    if min(apart, examples - apart) < least:
        raise ValueError(f"held_out is {held_out}, but each part of {name}'s {examples} examples wants {least} or more")
    parts = train_test_split(
        table.data, table.target, test_size=apart, random_state=seed, stratify=table.target if classes else None
    )
    x, x_test, t, t_test = map(np.asarray, parts)
    scaler = StandardScaler().fit(x)
    return Data(np.asarray(scaler.transform(x)), t, np.asarray(scaler.transform(x_test)), t_test, classes)
