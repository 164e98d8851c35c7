"""Compares `jaxann train` as it is, without a setting, with scikit-learn on a table of people's data.

scikit-learn gets its usual pipeline: numbers imputed and standardized, categories one-hot. All methods learn from the
same rows and are scored on the same others. Scores are means over seeds ± standard deviations. Seconds are of the
clock, and those of jaxann include compiling.

    python tests/support/churn.py customers.csv
    python scripts/tables.py customers.csv --target churn
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import python_version  # noqa: F401 - before jaxann, which an older Python cannot import
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, r2_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import jaxann
from jaxann.cli.presets import find_preset
from jaxann.cli.settings import Settings
from jaxann.cli.task import prepare
from jaxann.cli.train import run
from jaxann.data import load_dataset
from jaxann.data.frames import read_frame
from jaxann.data.splits import Dataset
from jaxann.nn.table import format_table

Predict = Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray | None]]  # to predictions and probabilities


def train_jaxann(settings: Settings, folder: Path) -> Predict:
    """Trains as the command line does, and returns the function that predicts from the run's folder."""
    settings = replace(
        find_preset(settings),
        dataset=settings.dataset,
        target=settings.target,
        seed=settings.seed,
        run=folder,
        plots=False,
        tensorboard=False,
    )
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        run(prepare(settings), settings)
    loaded = jaxann.load(folder)
    assert not isinstance(loaded, tuple)
    return lambda x: (loaded.predict(x), loaded.predict_proba(x) if loaded.classes else None)


def fit_pipeline(model: Any, dense: bool, x: pd.DataFrame, t: np.ndarray) -> Predict:
    """Fits scikit-learn's usual pipeline, and returns the function that predicts."""
    numbers = [name for name in x if x[name].dtype.kind in "iuf"]
    texts = [name for name in x if name not in numbers]
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), numbers),
            (
                "texts",
                OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=0.01, sparse_output=False),
                texts,
            ),
        ]
    )
    pipeline = make_pipeline(columns, model) if dense else model
    fitted = pipeline.fit(x, t)
    return lambda x: (fitted.predict(x), fitted.predict_proba(x) if hasattr(fitted, "predict_proba") else None)


def list_peers(is_classifier: bool, seed: int) -> dict[str, tuple[Any, bool]]:
    """Returns scikit-learn's models by name, and whether each needs the pipeline of numbers."""
    settings: Any = {"hidden_layer_sizes": (64, 64), "early_stopping": True, "max_iter": 300, "random_state": seed}
    if is_classifier:
        network, boosting = MLPClassifier(**settings), HistGradientBoostingClassifier
        baseline = DummyClassifier(strategy="prior")
    else:
        network, boosting, baseline = MLPRegressor(**settings), HistGradientBoostingRegressor, DummyRegressor()
    trees = boosting(categorical_features="from_dtype", random_state=seed)
    return {
        "scikit-learn's MLP": (network, True),
        "scikit-learn's HistGradientBoosting": (trees, False),
        "baseline": (baseline, False),
    }


def score(data: Dataset, t: np.ndarray, predictions: np.ndarray, probabilities: np.ndarray | None) -> dict[str, float]:
    """Returns the scores of predictions for the true targets t."""
    if not data.classes:
        return {"R²": float(r2_score(t, predictions)), "MAE": float(mean_absolute_error(t, predictions))}
    scores = {"accuracy": float(accuracy_score(t, predictions))}
    if probabilities is not None:
        scores["log loss"] = float(log_loss(t, probabilities, labels=data.classes))
        share = probabilities[:, 1] if len(data.classes) == 2 else probabilities
        scores["ROC AUC"] = float(roc_auc_score(t, share, multi_class="ovr"))
    return scores


def compare(table: str, target: str | None, seed: int) -> dict[str, dict[str, float]]:
    """Returns the scores and the seconds of every method, by its name, for the split of one seed."""
    settings = Settings(dataset=table, target=target, seed=seed)
    data = load_dataset(table, target=target, seed=seed)
    frame = read_frame(table).table
    names = [column.name for column in data.encoding.columns]
    typed = pd.read_csv(table)[names]  # as people would read it for scikit-learn
    for column in data.encoding.columns:
        if column.kind == "date":
            typed[column.name] = (pd.to_datetime(typed[column.name]) - pd.Timestamp(0)) / pd.Timedelta(days=1)
    cells = frame[data.target].to_numpy()
    t = cells if data.classes else cells.astype(float)
    size = ceil(0.2 * len(t))  # the split of `load_dataset`
    rows, held_out = train_test_split(
        np.arange(len(t)), test_size=size, random_state=seed, stratify=t if data.classes else None
    )
    truth = t[held_out]
    assert (np.array(data.classes)[data.test.t] == truth).all() if data.classes else (data.test.t == truth).all()
    results = {}

    def measure(name: str, fit: Callable[[], Predict], x: pd.DataFrame) -> None:
        start = time.perf_counter()
        predict = fit()
        seconds = time.perf_counter() - start
        results[name] = score(data, truth, *predict(x)) | {"seconds": seconds}

    with TemporaryDirectory() as folder:
        measure("jaxann train", lambda: train_jaxann(settings, Path(folder) / "run"), frame.iloc[held_out])
    for name, (model, dense) in list_peers(bool(data.classes), seed).items():
        x = typed if dense else typed.astype(dict.fromkeys(typed.select_dtypes(exclude="number"), "category"))
        measure(name, lambda m=model, d=dense, x=x: fit_pipeline(m, d, x.iloc[rows], t[rows]), x.iloc[held_out])
    return results


def main() -> None:
    """Prints a table with a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="a .csv file with named columns, without missing targets")
    parser.add_argument("--target", help="the column to predict, by default the last")
    parser.add_argument("--seeds", type=int, default=5, help="number of splits and of networks")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    runs = [compare(arguments.table, arguments.target, seed) for seed in range(arguments.seeds)]
    scores = list(runs[0]["jaxann train"])
    table = [("method", *scores)]
    for name in runs[0]:
        columns = [np.array([result[name].get(key, np.nan) for result in runs]) for key in scores]
        table.append((name, *(f"{values.mean():.3f} ± {values.std(ddof=len(runs) > 1):.3f}" for values in columns)))
    print(format_table(table, right=range(1, len(scores) + 1)))


if __name__ == "__main__":
    main()
