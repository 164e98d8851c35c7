"""Compares the estimators with scikit-learn's own on digits: scores and times of a fit and of a grid search.

The times are in seconds of the clock and of all processors together. The first row of jaxann includes the time to
compile, and the second one is the same call again.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import python_version  # noqa: F401 - before jaxann, which an older Python cannot import
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier as Peer

from jaxann.interop.sklearn import MLPClassifier, SweepSearchCV
from jaxann.nn.table import format_table
from jaxann.training import cpu_devices

GRID = {"learning_rate_init": [0.0003, 0.001, 0.003, 0.01], "alpha": [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0]}


def measure(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Returns what a call returns, its seconds of the clock, and the processor seconds of it and its workers."""
    wall, before = time.perf_counter(), _processor_seconds()
    result = call()
    return result, time.perf_counter() - wall, _processor_seconds() - before


def _processor_seconds() -> float:
    process = psutil.Process()
    return sum(sum(part.cpu_times()[:2]) for part in (process, *process.children(recursive=True)))


def main() -> None:
    """Prints a table of fits and one of grid searches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="processes of scikit-learn, and devices of jaxann")
    parser.add_argument("--epochs", type=int, default=50, help="epochs of every network")
    parser.add_argument("--hidden", type=int, default=64, help="neurons of the hidden layer")
    parser.add_argument("--batch-size", type=int, default=32, help="examples in a batch")
    arguments = parser.parse_args()
    cpu_devices(arguments.jobs)
    os.environ["PYTHONWARNINGS"] = "ignore"  # also in the processes of the grid search
    warnings.simplefilter("ignore", ConvergenceWarning)
    x, labels = load_digits(return_X_y=True)
    x, x_test, t, t_test = train_test_split(x / 16, labels, random_state=0, stratify=labels)
    settings: Any = {"hidden_layer_sizes": (arguments.hidden,), "batch_size": arguments.batch_size, "random_state": 0}
    settings |= {"max_iter": arguments.epochs, "n_iter_no_change": arguments.epochs}  # all of them in every fit

    def row(name: str, call: Callable[[], Any], base: tuple[float, float] | None) -> tuple[list[str], Any]:
        fitted, wall, cpu = measure(call)
        ratios = ["", ""] if base is None else [f"{base[0] / wall:.1f}", f"{base[1] / cpu:.1f}"]
        best = getattr(fitted, "best_score_", None)
        scores = [f"{fitted.score(x_test, t_test):.3f}", "" if best is None else f"{best:.3f}"]
        return [name, *scores, f"{wall:.2f}", f"{cpu:.2f}", *ratios], (wall, cpu)

    header = ["", "held out", "best of the grid", "clock", "processor", "times faster", "by processor"]
    fits: list[tuple[str, str, Callable[[], Any]]] = [
        ("a fit", "scikit-learn", lambda: Peer(**settings).fit(x, t)),
        ("a fit", "jaxann", lambda: MLPClassifier(**settings).fit(x, t)),
        ("a fit", "jaxann, again", lambda: MLPClassifier(**settings).fit(x, t)),
    ]
    jobs, size = arguments.jobs, int(np.prod([len(values) for values in GRID.values()]))
    name = f"{size} settings, 5 folds"
    fits += [
        (name, "scikit-learn", lambda: GridSearchCV(Peer(**settings), GRID, cv=5, n_jobs=jobs).fit(x, t)),
        (name, "jaxann", lambda: SweepSearchCV(MLPClassifier(**settings), GRID, cv=5).fit(x, t)),
        (name, "jaxann, again", lambda: SweepSearchCV(MLPClassifier(**settings), GRID, cv=5).fit(x, t)),
    ]
    rows, base = [header], None
    for what, who, call in fits:
        cells, times = row(f"{what}: {who}", call, None if who == "scikit-learn" else base)
        base = times if who == "scikit-learn" else base
        rows.append(cells)
        print(f"{what}: {who}", flush=True)
    print(format_table(rows))


if __name__ == "__main__":
    main()
