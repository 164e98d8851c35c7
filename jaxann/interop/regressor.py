"""The multilayer perceptron as a regressor of scikit-learn."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from sklearn.base import RegressorMixin

from jaxann.interop.estimator_data import to_default_float
from jaxann.interop.estimator_network import r2, r2_of_logarithms
from jaxann.interop.estimators import Perceptron
from jaxann.nn.hyperparameters import SettingError
from jaxann.nn.loss import Loss
from jaxann.nn.losses import AbsoluteError, Huber, Poisson, SquaredError

_LOSSES: dict[str, Loss] = {
    "squared_error": SquaredError(),
    "absolute_error": AbsoluteError(),
    "huber": Huber(),
    "poisson": Poisson(),
}


class MLPRegressor(RegressorMixin, Perceptron):
    """Multilayer perceptron for numbers, with the settings and attributes of scikit-learn's `MLPRegressor`.

    `MLPClassifier` describes the settings and attributes that are not listed here. Only `class_weight` and `classes_`
    belong to it alone. A fit is one compiled program, which stops as that of `MLPClassifier` does. The targets should
    be standardized too, for instance by scikit-learn's `TransformedTargetRegressor`.

    Args:
        loss: "squared_error", "absolute_error", "huber" or "poisson", each summed over the outputs. Predictions of
            "poisson", for counts, are the exponentials of the outputs.

    Attributes:
        validation_scores_: R² on the validation examples after every epoch, [] without validation examples.
        out_activation_: "identity", or "exp" for the loss "poisson".
    """

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: Any = 0.0001,
        batch_size: Any = "auto",
        learning_rate_init: Any = 0.001,
        max_iter: Any = 200,
        shuffle: Any = True,
        random_state: Any = None,
        tol: Any = 1e-4,
        verbose: Any = False,
        warm_start: Any = False,
        momentum: Any = 0.9,
        nesterovs_momentum: Any = True,
        early_stopping: Any = False,
        validation_fraction: Any = 0.1,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-8,
        n_iter_no_change: Any = 10,
        dropout: Any = 0.0,
        gradient: Any = "backprop",
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.dropout = dropout
        self.gradient = gradient

    def _encode_targets(self, y: Any, reset: bool, classes: Any) -> np.ndarray:
        if reset:
            self._is_flat, self._outputs_expected = y.ndim == 1, 1 if y.ndim == 1 else y.shape[1]
        t = to_default_float("targets", y).reshape(len(y), -1)
        if t.shape[1] != self._outputs_expected:
            raise ValueError(
                f"expected targets of {self._outputs_expected} outputs, as in the first fit, got {t.shape[1]}"
            )
        loss, *_ = self._make_loss()
        is_valid = np.asarray(loss.is_valid(jnp.asarray(t), t.shape[1]))
        if not is_valid.all():
            raise ValueError(f"expected targets of {loss.expects} for the loss {self.loss}, got {t[~is_valid][0]:g}")
        return t

    def _make_loss(self) -> tuple[Loss, Any, int, str]:
        if not isinstance(self.loss, str) or self.loss not in _LOSSES:
            *names, last = _LOSSES
            raise SettingError("loss", f"to be {', '.join(names)} or {last}", self.loss)
        is_poisson = self.loss == "poisson"
        score, activation = (r2_of_logarithms, "exp") if is_poisson else (r2, "identity")
        return _LOSSES[self.loss], score, self._outputs_expected, activation

    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> MLPRegressor:
        """Trains for one more epoch on the given examples, with early stopping as in `MLPClassifier.partial_fit`.

        Args:
            X: [N, n], the features.
            y: [N] or [N, outputs], the targets.
            sample_weight: [N], how much each example counts; ones by default.
            X_val: [V, n], the features of validation examples.
            y_val: [V] or [V, outputs], their targets.
            sample_weight_val: [V], how much each validation example counts.

        Returns:
            The estimator itself.

        Raises:
            ValueError: As in `fit`.
        """
        return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val), epochs=1)

    def predict(self, X: Any) -> np.ndarray:
        """Returns the predicted numbers, [N] or [N, outputs] as the targets were."""
        y = self._outputs(X)
        y = np.exp(y) if self.out_activation_ == "exp" else y
        return y[:, 0] if self._is_flat else y

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
