"""What the classifier and the regressor have in common: their settings, their training and their attributes."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from jaxann.interop.estimator_data import arrange, read_weights, split_validation, to_default_float
from jaxann.interop.estimator_network import Structure, make_network, pack, unpack
from jaxann.interop.estimator_run import Data, Run, diagnose, start, train, wrap_state
from jaxann.interop.estimator_settings import make_structure, read_numbers, validate_settings
from jaxann.nn.activations import ACTIVATIONS
from jaxann.nn.loss import Loss
from jaxann.training.fit import predict

MOST_ROWS = 8192  # of a prediction at a time


class Problem(NamedTuple):
    """What a fit trains: all that its run depends on.

    Attributes:
        structure: The settings that are compiled in.
        numbers: The other settings.
        data: The examples.
        seed: The seed of the run.
    """

    structure: Structure
    numbers: dict[str, np.ndarray]
    data: Data
    seed: int

    def start(self) -> Run:
        """Returns the run before its first epoch."""
        # A seed is at most 2³² - 1, which JAX's default integers do not hold.
        return start(self.structure, self.numbers, np.uint32(self.seed))


class Perceptron(BaseEstimator):
    """Base class of the classifier and the regressor."""

    hidden_layer_sizes: Any
    batch_size: Any
    max_iter: Any
    random_state: Any
    verbose: Any
    warm_start: Any
    early_stopping: Any
    validation_fraction: Any
    n_iter_no_change: Any

    @abstractmethod
    def _encode_targets(self, y: Any, reset: bool, classes: Any) -> np.ndarray:
        """Returns targets [N, ...] as the loss takes them, and learns the classes if `reset` is set."""

    @abstractmethod
    def _make_loss(self) -> tuple[Loss, Any, int, str]:
        """Returns the loss, the score of validation outputs, the number of outputs and their activation."""

    def _weigh(self, y: Any, weights: np.ndarray) -> np.ndarray:
        return weights

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Any:
        """Trains the network, from parameters that are drawn anew unless `warm_start` is set.

        Args:
            X: [N, n], the features, which should be standardized.
            y: [N] or [N, outputs], the targets.
            sample_weight: [N], how much each example counts, at least 0; ones by default.
            X_val: [V, n], the features of validation examples. Their loss and score are recorded after every epoch. By
                default a share of the examples is held out if `early_stopping` is set.
            y_val: [V] or [V, outputs], the targets of the validation examples.
            sample_weight_val: [V], how much each validation example counts; ones by default.

        Returns:
            The estimator itself.

        Raises:
            ValueError: If a setting, the data or the weights are not what they should be.
            FloatingPointError: If the loss or the parameters stop being finite; the message names the epoch, the step
                and the layer.
        """
        return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val))

    def _fit(
        self, X: Any, y: Any, weights: Any, validation: Any, epochs: int | None = None, classes: Any = None
    ) -> Any:
        """Trains for at most `epochs` more epochs, or if that is None as `fit` does."""
        validate_settings(self)
        is_partial, is_first = epochs is not None, not hasattr(self, "coefs_")
        is_first = is_first or not (self.warm_start or is_partial)
        problem = self._prepare(X, y, weights, validation, reset=is_first, classes=classes, is_partial=is_partial)
        if is_first:
            self._forget()
            run = problem.start()
        else:
            run = self._continue(problem, is_partial)
        if not run.stopped:
            run, curves = train(
                problem.structure, problem.numbers, run, problem.data, epochs or self.max_iter, self._report(problem)
            )
            self._store(problem, run, curves, is_partial)
        if not is_partial and not run.stopped and np.isfinite(self.n_iter_no_change):
            warnings.warn(
                f"the run did its {self.max_iter} epochs (max_iter), and its "
                f"{'validation score' if self.early_stopping else 'training loss'} was still improving",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def _prepare(
        self,
        X: Any,
        y: Any,
        weights: Any,
        validation: Any = (None, None, None),
        *,
        reset: bool = True,
        classes: Any = None,
        is_partial: bool = False,
        seed: int | None = None,
        floor: int = 0,
    ) -> Problem:
        """Returns the problem of a fit, and learns the features and the classes of the data if `reset` is set."""
        X, y = self._validate_data(X, y, reset)
        x, t = to_default_float("features", X), self._encode_targets(y, reset, classes)
        weights = self._weigh(y, read_weights(weights, len(x)))
        if seed is None:
            seed = self._seed if is_partial and not reset else draw_seeds(self.random_state, 1)[0]
        used = np.flatnonzero(weights)  # the mean of a batch of examples of weight 0 would not be defined
        X_val, y_val, weights_val = validation
        if (X_val is None) != (y_val is None) or (X_val is None and weights_val is not None):
            raise ValueError("expected X_val and y_val together, got only one of the validation arguments")
        rows, validation_rows = used, np.zeros(0, int)
        if X_val is not None:
            X_val, y_val = self._validate_data(X_val, y_val, reset=False)
            t_val = self._encode_targets(y_val, False, None)
            weights_val = self._weigh(y_val, read_weights(weights_val, len(X_val), "sample_weight_val"))
            validation_rows = np.arange(len(x), len(x) + len(X_val))
            x, t = np.concatenate([x, to_default_float("features", X_val)]), np.concatenate([t, t_val])
            weights = np.concatenate([weights, weights_val])
        elif self.early_stopping:
            parts = split_validation(t[used], self.validation_fraction, seed)
            rows, validation_rows = used[parts[0]], used[parts[1]]
        # The program divides the penalty by the sum of a batch's weights, which therefore are kept near 1.
        scale = float(weights[rows].mean())
        loss, score, outputs, _ = self._make_loss()
        structure = make_structure(self, x.shape[1], outputs, loss, score)
        numbers = read_numbers(self, scale)
        data = arrange(x, t, weights / scale, rows, validation_rows, self.batch_size, floor)
        return Problem(structure, numbers, data, seed)

    def _validate_data(self, X: Any, y: Any, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        numeric = {"y_numeric": True} if self.__sklearn_tags__().estimator_type == "regressor" else {}
        X, y = validate_data(self, X, y, multi_output=True, dtype=(np.float64, np.float32), reset=reset, **numeric)
        return X, y

    def _forget(self) -> None:
        """Sets the attributes of a run before its first epoch."""
        self.loss_curve_, self.validation_loss_curve_, self.validation_scores_ = [], [], []
        self.n_iter_ = self.t_ = self._epoch = 0

    def _continue(self, problem: Problem, is_partial: bool) -> Run:
        """Returns a run from the parameters so far: one that goes on in `partial_fit`, a new one in a warm start."""
        structure = problem.structure
        fresh = problem.start()
        params = jax.device_put(pack(self.coefs_, self.intercepts_, structure.drops))
        if [leaf.shape for leaf in jax.tree.leaves(params)] != [a.shape for a in jax.tree.leaves(fresh.state.params)]:
            raise ValueError(f"expected the hidden_layer_sizes of the fit before, got {self.hidden_layer_sizes}")
        state = fresh.state._replace(params=params, epoch=jnp.asarray(self._epoch, int))
        state = state._replace(gradient_state=_restore(fresh.state.gradient_state, self._gradient_leaves))
        run = wrap_state(structure, state)
        if is_partial:
            run = run._replace(state=state._replace(opt_state=_restore(state.opt_state, self._optimizer_leaves)))
            run = run._replace(stale=jnp.int32(self._stale), stopped=jnp.asarray(self._stopped))
            run = run._replace(best_value=jnp.asarray(self._best_value, float))
            if structure.early_stopping and self._best is not None:
                run = run._replace(best=jax.device_put(pack(*self._best, structure.drops)))
        return run

    def _report(self, problem: Problem) -> Any:
        """Returns the function that is called after each piece of a run."""

        def report(before: Run, after: Run, curves: dict[str, np.ndarray]) -> None:
            first = int(before.state.epoch)
            ran = {name: curve[: int(after.state.epoch) - first] for name, curve in curves.items()}
            diagnose(problem.structure, problem.numbers, before, after, problem.data, ran.pop("step_loss"))
            for i in range(len(ran["loss"]) if self.verbose else 0):
                values = ", ".join(f"{name.replace('_', ' ')} {curve[i]:.6g}" for name, curve in ran.items())
                print(f"epoch {first + i + 1}: {values}")

        return report

    def _store(self, problem: Problem, run: Run, curves: dict[str, np.ndarray], is_partial: bool = False) -> None:
        """Takes the result of a run of one network into the attributes, as NumPy arrays."""
        structure, epochs = problem.structure, int(run.state.epoch) - self._epoch
        self.loss_curve_ = [*self.loss_curve_, *_column(curves, "loss", epochs)]
        self.validation_loss_curve_ = [*self.validation_loss_curve_, *_column(curves, "validation_loss", epochs)]
        self.validation_scores_ = [*self.validation_scores_, *_column(curves, "validation_score", epochs)]
        self.loss_, self.n_iter_ = self.loss_curve_[-1], epochs + (self.n_iter_ if is_partial else 0)
        self.t_ += epochs * int(np.count_nonzero(problem.data.weights))
        best = (float(run.best_value), None) if structure.early_stopping else (None, -float(run.best_value))
        self.best_validation_score_, self.best_loss_ = best
        *_, self.n_outputs_, self.out_activation_ = self._make_loss()
        self.n_layers_ = len(structure.sizes)
        self._best = unpack(run.best) if structure.early_stopping else None
        # In partial_fit the best parameters are taken once the score has stopped improving, since the run goes on.
        takes_best = structure.early_stopping and (bool(run.stopped) or not is_partial)
        self.coefs_, self.intercepts_ = unpack(run.best if takes_best else run.state.params)
        self._epoch, self._stale, self._stopped = int(run.state.epoch), int(run.stale), bool(run.stopped)
        self._best_value, self._seed = float(run.best_value), problem.seed
        self._optimizer_leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(run.state.opt_state)]
        self._gradient_leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(run.state.gradient_state)]
        # By name, so that a pickle holds no functions.
        self._activations = [str(a) if ACTIVATIONS.get(str(a)) == a else a for a in structure.activations]

    def _outputs(self, X: Any) -> np.ndarray:
        """Returns the outputs [N, m] of the network, in double precision."""
        check_is_fitted(self, "coefs_")
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        x, outputs = to_default_float("features", X), []
        activations = [ACTIVATIONS[a] if isinstance(a, str) else a for a in self._activations]
        sizes = [len(self.coefs_[0]), *(len(b) for b in self.intercepts_)]
        model, params = make_network(sizes, activations), pack(self.coefs_, self.intercepts_)
        for first in range(0, len(x), MOST_ROWS):
            part = x[first : first + MOST_ROWS]
            size = max(64, 1 << (len(part) - 1).bit_length())  # few sizes, so that few programs are compiled
            padded = np.pad(part, [(0, size - len(part)), (0, 0)])
            outputs.append(np.asarray(predict(model, params, padded), float)[: len(part)])
        return np.concatenate(outputs)


def draw_seeds(random_state: Any, count: int) -> list[int]:
    """Returns `count` seeds of runs; the first is the one that a fit with this `random_state` takes."""
    return check_random_state(random_state).randint(np.iinfo(np.int32).max, size=count).tolist()


def _column(curves: dict[str, np.ndarray], name: str, epochs: int) -> list[float]:
    return curves[name][:epochs].tolist() if name in curves else []


def _restore(like: Any, leaves: list[np.ndarray]) -> Any:
    """Returns a state of the structure of `like` with stored leaves, or `like` if the settings have changed it."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(like)]
    if [leaf.shape for leaf in leaves] != shapes:
        return like
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(leaf) for leaf in leaves])
