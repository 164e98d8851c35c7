"""The multilayer perceptron as a classifier of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels

from jaxann.interop.estimator_data import read_weights
from jaxann.interop.estimator_network import accuracy, subset_accuracy
from jaxann.interop.estimators import Perceptron
from jaxann.nn.hyperparameters import SettingError
from jaxann.nn.loss import Loss
from jaxann.nn.losses import SigmoidCrossEntropy, SoftmaxCrossEntropy


class MLPClassifier(ClassifierMixin, Perceptron):
    """Multilayer perceptron for classes, with the settings and attributes of scikit-learn's `MLPClassifier`.

    The loss is the cross-entropy of the softmax over the classes, or of the sigmoid of one output for two classes and
    for each label of a multilabel target. A fit is one compiled program in JAX's default precision and on its default
    device, and stops as scikit-learn's does: once the training loss, or under early stopping the validation score, has
    not improved by `tol` for more than `n_iter_no_change` epochs in succession.

    Args:
        hidden_layer_sizes: The number of neurons of each hidden layer.
        activation: The activation of the hidden layers: a name of `jaxann.nn.ACTIVATIONS`, "logistic" or a layer, or
            one for each hidden layer.
        solver: "adam", "sgd" with `momentum`, "adamw", "lamb", "lion", "nadam", "radam", "rmsprop" or "adagrad".
        alpha: The factor α of the penalty (α / 2) Σ ‖W‖² / B of a batch of B examples. For adamw, lamb and lion it is
            the factor of their decoupled weight decay.
        batch_size: The number of examples in a batch; "auto" is 200. It is never larger than the number of examples.
        learning_rate_init: The learning rate, above 0.
        max_iter: The most epochs of a fit.
        shuffle: Whether every epoch takes the examples in a new order.
        random_state: A seed or a `RandomState`, from which a fit draws its parameters, orders, dropout and split.
        tol: By how much the loss or the score must improve.
        verbose: Whether to print a line for each epoch.
        warm_start: Whether `fit` starts from the parameters of the last fit.
        momentum: The momentum of "sgd", between 0 and 1.
        nesterovs_momentum: Whether the momentum of "sgd" is Nesterov's.
        early_stopping: Whether the score on validation examples decides when to stop, and the best parameters are kept.
        validation_fraction: The share of the examples that is held out under early stopping, unless `fit` is given
            validation examples.
        beta_1: The decay of the first moment in adam, adamw, lamb, lion, nadam and radam.
        beta_2: The decay of the second moment in the same solvers.
        epsilon: The number that is added to the denominator in the same solvers except lion.
        n_iter_no_change: How many epochs without improvement are allowed; `inf` never stops early.
        dropout: The rate of dropout after each hidden activation, at least 0 and below 1.
        gradient: "backprop", "autodiff", the name of a learning rule in `jaxann.rules.RULES` such as
            "feedback_alignment", or a function (model, loss) that returns a gradient function.
        class_weight: "balanced", or for each class how much its examples count. Multilabel targets take a list.

    Attributes:
        classes_: The classes, in the order of the probabilities.
        coefs_: The matrices of the layers, each [n, m], as NumPy arrays.
        intercepts_: The biases of the layers, each [m].
        loss_: The training loss of the last epoch.
        loss_curve_: The training loss of every epoch, with the penalty.
        best_loss_: The lowest training loss, or None under early stopping.
        validation_loss_curve_: The validation loss after every epoch, [] without validation examples.
        validation_scores_: The validation accuracy after every epoch, [] without validation examples.
        best_validation_score_: The highest validation accuracy under early stopping, otherwise None.
        n_iter_: The epochs of the last fit.
        n_features_in_: The number of features.
        feature_names_in_: The names of the features, if X had names in `fit`.
        n_layers_: The number of layers, counting that of the inputs.
        n_outputs_: The number of outputs.
        out_activation_: "softmax" or "logistic".
        t_: The number of examples that training has gone through, each counted once in every epoch.
    """

    def __init__(
        self,
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
        class_weight: Any = None,
    ) -> None:
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
        self.class_weight = class_weight

    def _encode_targets(self, y: Any, reset: bool, classes: Any) -> np.ndarray:
        check_classification_targets(y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        is_multilabel = y.ndim == 2
        if reset:
            self._is_multilabel = is_multilabel
            self.classes_ = np.arange(y.shape[1]) if is_multilabel else unique_labels(y if classes is None else classes)
        if is_multilabel != self._is_multilabel or (is_multilabel and y.shape[1] != len(self.classes_)):
            expected = f"[N, {len(self.classes_)}]" if self._is_multilabel else "[N], a label for each example"
            raise ValueError(f"expected targets of shape {expected}, as in the first fit, got shape {y.shape}")
        if is_multilabel:
            if type_of_target(y) != "multilabel-indicator":
                raise ValueError(f"expected multilabel targets of 0 and 1, got {type_of_target(y)}")
            return np.asarray(y, np.int32)
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            known = ", ".join(str(label) for label in self.classes_[:10])
            raise ValueError(f"expected labels among the classes of the first fit ({known}), got {unknown[0]}")
        labels = np.searchsorted(self.classes_, y).astype(np.int32)
        return labels[:, None] if len(self.classes_) == 2 else labels

    def _make_loss(self) -> tuple[Loss, Any, int, str]:
        if self._is_multilabel or len(self.classes_) == 2:
            outputs = len(self.classes_) if self._is_multilabel else 1
            return SigmoidCrossEntropy(), subset_accuracy, outputs, "logistic"
        return SoftmaxCrossEntropy(), accuracy, len(self.classes_), "softmax"

    def _weigh(self, y: Any, weights: np.ndarray) -> np.ndarray:
        if self.class_weight is None:
            return weights
        try:
            balanced = compute_sample_weight(self.class_weight, y)
        except (TypeError, ValueError, AttributeError):
            raise SettingError("class_weight", "to be balanced or a number for each class", self.class_weight) from None
        return read_weights(weights * balanced, len(weights), "class_weight")

    def partial_fit(
        self,
        X: Any,
        y: Any,
        classes: Any = None,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> MLPClassifier:
        """Trains for one more epoch on the given examples.

        Under `early_stopping` a share of the examples of each call is held out, unless the call has validation
        examples. Once their score has not improved by `tol` for more than `n_iter_no_change` calls, the estimator takes
        the best parameters so far, and further calls change nothing.

        Args:
            X: [N, n], the features.
            y: [N] or [N, labels], the targets.
            classes: All classes, in the first call; not needed for multilabel targets or if `y` has all of them.
            sample_weight: [N], how much each example counts; ones by default.
            X_val: [V, n], the features of validation examples.
            y_val: [V] or [V, labels], their targets.
            sample_weight_val: [V], how much each validation example counts.

        Returns:
            The estimator itself.

        Raises:
            ValueError: As in `fit`, and if the classes are not those of the first call.
        """
        is_first = not hasattr(self, "classes_")
        if is_first and classes is None and np.ndim(y) < 2:
            raise ValueError("expected classes, the labels of all examples to come, in the first call of partial_fit")
        if not is_first and classes is not None and not np.array_equal(unique_labels(classes), self.classes_):
            raise ValueError(f"expected the classes of the first call, {self.classes_}, got {unique_labels(classes)}")
        return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val), epochs=1, classes=classes)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns the probabilities [N, classes], in the order of `classes_`."""
        y = self._outputs(X)
        if self.out_activation_ == "softmax":
            return softmax(y, axis=1)
        return expit(y) if self._is_multilabel else np.hstack([expit(-y), expit(y)])

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Returns the logarithms of `predict_proba`, without overflow."""
        y = self._outputs(X)
        if self.out_activation_ == "softmax":
            return log_softmax(y, axis=1)
        return log_expit(y) if self._is_multilabel else np.hstack([log_expit(-y), log_expit(y)])

    def predict(self, X: Any) -> np.ndarray:
        """Returns the most probable class [N] of each example, or the labels [N, labels] of 0 and 1."""
        y = self._outputs(X)
        if self._is_multilabel:
            return (y > 0).astype(int)
        labels = y.argmax(axis=1) if self.out_activation_ == "softmax" else (y[:, 0] > 0).astype(int)
        return self.classes_[labels]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
