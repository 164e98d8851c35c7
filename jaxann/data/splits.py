"""A table as a network wants it: parts to train, to validate and to test on, features standardised.

The split is drawn by a seed, of each class alike, and the scaling is fitted on the training part alone.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxann.data import tables
from jaxann.data.tables import Table

BATCH = 8192  # examples that the scaling is fitted on at a time, since each time makes copies in float64


class Part(NamedTuple):
    """Standardised features x [N, n], targets t [N], and how much each example counts, weights [N]."""

    x: np.ndarray
    t: np.ndarray
    weights: np.ndarray | None = None


class Scaling(NamedTuple):
    """mean [n] and sd [n] of the training part's features, and the map that standardises with them."""

    mean: np.ndarray
    sd: np.ndarray

    def __call__(self, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """(x - mean) / sd [N, n] of x [N, n], in x's precision where it has one; into `out` where given."""
        if out is None:
            out = np.empty(x.shape, np.result_type(x.dtype, np.float32))
        np.subtract(x, self.mean, out=out, casting="same_kind")
        return np.divide(out, self.sd, out=out, casting="same_kind")


class Dataset(NamedTuple):
    """The parts of a table, and its names; without `classes` targets are numbers, in the table's own unit."""

    train: Part
    validation: Part | None
    test: Part
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    target: str
    scaling: Scaling


def load(
    source: str,
    *,
    held_out: float | None = None,
    validation: float = 0.0,
    seed: int = 0,
    scaling: Literal["feature", "all", "none"] = "feature",
    target: str | None = None,
    weights: str | None = None,
    kind: Literal["classes", "numbers"] | None = None,
) -> Dataset:
    """The table that `tables.read` finds, a share `held_out` kept apart, and of the rest a share `validation`.

    Without `held_out` the test part is the source's own, or else a share of 0.2. Examples of weight 0 are left out.
    `scaling` gives mean 0 and variance 1 over the training part to every feature, one that is constant there
    becoming 0; or to all features together; or leaves them be. Raises ValueError as `tables.read` does, and for
    settings out of range and parts with fewer examples than there are classes, or than two.
    """
    if held_out is not None and not 0 < held_out < 1:
        raise ValueError(f"held_out is {held_out}, but a share between 0 and 1 is wanted")
    if not 0 <= validation < 1:
        raise ValueError(f"validation is {validation}, but a share from 0 to below 1 is wanted")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}, but a whole number from 0 to below 2³² is wanted")
    if scaling not in ("feature", "all", "none"):
        raise ValueError(f"scaling is {scaling!r}, but feature, all or none is wanted")
    table = tables.read_table(source, target=target, weights=weights, kind=kind)
    if table.test is not None and held_out is not None:
        raise ValueError(f"held_out is {held_out}, but {source} has a test part of its own")
    rows, apart = np.arange(len(table.t)) if table.weights is None else np.flatnonzero(table.weights > 0), None
    if table.test is None:
        share = 0.2 if held_out is None else held_out
        rows, test_rows = _split(table, rows, share, seed, "held_out", f"{source}'s {len(rows)} examples")
        test = _part(table, test_rows)
    else:
        test = Part(*table.test)
    if validation:
        whose = f"{source}'s {len(rows)} training examples"
        rows, apart = _split(table, rows, validation, seed, "validation", whose)
    _refuse_too_few(source, table, rows)
    train, valid = _part(table, rows), None if apart is None else _part(table, apart)
    fitted = _fit(source, train.x, table.columns, scaling)
    for part in filter(None, (train, valid, test)):
        fitted(part.x, out=part.x)  # the table is this function's own, and may be large
    return Dataset(train, valid, test, table.classes, table.columns, table.target, fitted)


def _split(
    table: Table, rows: np.ndarray, share: float, seed: int, name: str, whose: str
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are kept and those that are set apart."""
    from sklearn.model_selection import train_test_split

    size, least, t = ceil(share * len(rows)), _least(table), table.t[rows]
    if min(size, len(rows) - size) < least:
        raise ValueError(f"{name} is {share}, but each part of {whose} wants {least} or more")
    if table.classes:
        for label in np.flatnonzero(np.bincount(t) == 1):
            raise ValueError(f"{whose} hold a single one of class {table.classes[label]}, but 2 are wanted to split")
    stratify = t if table.classes else None
    kept, apart = train_test_split(rows, test_size=size, random_state=seed, stratify=stratify)
    return np.asarray(kept), np.asarray(apart)


def _refuse_too_few(source: str, table: Table, rows: np.ndarray) -> None:
    """Raises ValueError where the training part's rows are not enough."""
    if len(rows) < _least(table):
        raise ValueError(f"{source} leaves {len(rows)} examples that count to train on, but {_least(table)} are wanted")
    if table.classes:
        for label in np.setdiff1d(table.t, table.t[rows]):
            raise ValueError(f"{source} leaves no example that counts of class {table.classes[label]} to train on")


def _least(table: Table) -> int:
    return max(2, len(table.classes))


def _part(table: Table, rows: np.ndarray) -> Part:
    if len(rows) == len(table.t):  # all, as they lie: no copy
        return Part(table.x, table.t, table.weights)
    return Part(table.x[rows], table.t[rows], None if table.weights is None else table.weights[rows])


def _fit(source: str, x: np.ndarray, columns: tuple[str, ...], how: str) -> Scaling:
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils import gen_batches

    n = x.shape[1]
    if how == "none":
        return Scaling(np.zeros(n), np.ones(n))
    scaler: Any = StandardScaler()  # its attributes' types are None before it is fitted
    with np.errstate(over="ignore", invalid="ignore"):  # said below
        for rows in gen_batches(len(x), BATCH):
            scaler.partial_fit(x[rows] if how == "feature" else x[rows].reshape(-1, 1))
    if not np.isfinite(scaler.var_).all():
        widest = columns[np.abs(x).max(axis=0).argmax()]
        raise ValueError(f"{source}: column {widest} is too large to scale, its variance not being finite")
    return Scaling(*(np.broadcast_to(value, n).copy() for value in (scaler.mean_, scaler.scale_)))
