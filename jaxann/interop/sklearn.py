"""Estimators with the interface of scikit-learn: `MLPClassifier`, `MLPRegressor` and `SweepSearchCV`."""

from jaxann.interop.classifier import MLPClassifier
from jaxann.interop.regressor import MLPRegressor
from jaxann.interop.sweep_search import SweepSearchCV

__all__ = ["MLPClassifier", "MLPRegressor", "SweepSearchCV"]
