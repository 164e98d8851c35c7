"""Estimators with the interface of scikit-learn: `MLPClassifier`, `MLPRegressor` and `SweepSearchCV`."""

from jaxann.interop.classifier import MLPClassifier
from jaxann.interop.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
