"""The subjects of a gradient check: a layer, a loss, a gradient function, each as one pair (forward, backward).

The layers and losses inside a subject are replaced by twins that use autodiff, so that only its own handwritten code
is checked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxann.gradcheck.arguments import Args, by_name
from jaxann.gradcheck.compilation import jit_cheaply, optimization, precision
from jaxann.gradients.autodiff import vjp
from jaxann.nn.axis import alone, over_examples
from jaxann.nn.base import Layer, join_path
from jaxann.nn.loss import Loss
from jaxann.nn.outer import sum_examples

FEW, SMALL = 4, 10_000  # the most arrays of a small subject, and the most numbers in them


class Gradients(NamedTuple):
    """The outputs of a subject at R points, and its gradients by name.

    Attributes:
        y: The outputs, [R, B, ...].
        handwritten: The handwritten gradients, [R, ...].
        autodiff: The true gradients, [R, ...]: autodiff's, or central differences where the forward cannot be traced.
        error: How far each true gradient may be from the exact one, [R]; missing if only by rounding.
    """

    y: Any
    handwritten: dict[str, Any]
    autodiff: dict[str, Any]
    error: dict[str, Any]


@dataclass(frozen=True)
class Subject(ABC):
    """A function of one example, y = forward(params, x, aux), and its handwritten backward.

    Attributes:
        path: Where the subject is in the network, as "2"; "" for the network itself. Equal subjects at different
            paths share one compiled program.
    """

    path: str = field(compare=False)

    has_differences: ClassVar[bool] = True  # whether central differences are a further source of its gradients
    is_traceable: ClassVar[bool] = True  # whether JAX can trace its forward
    is_single: ClassVar[bool] = False  # whether there is only one example, so that reports leave out its axis

    @abstractmethod
    def forward(self, params: PyTree, x: PyTree, aux: PyTree) -> Any:
        """Returns y = f(x; params). `aux` holds arguments without a gradient, such as a target or a random seed."""

    @abstractmethod
    def backward(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[PyTree, PyTree]:
        """Returns the handwritten gradients (grads, dx) of <dy, y> with respect to params and x."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the subject in a report."""

    @property
    def eps(self) -> float:
        """The rounding error of the least precise numbers that the subject computes with when it is given float64."""
        return float(np.finfo(np.float64).eps)

    def leaf_path(self, name: str) -> str:
        """Returns the path of the gradient called `name` in a report."""
        return join_path(self.path, name)

    def evaluate(self, args: Args, dtype: str) -> Gradients:
        """Returns the outputs and all gradients at R points, computed in one precision and stored in float64."""
        args = args.cast(dtype)
        with precision(dtype):
            points = [_evaluate(self, args.select(r)) for r in range(len(args.dy))]
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf, np.float64) for leaf in leaves]), *points)

    def perturb(
        self, args: Args, share: float, rng: np.random.Generator, dtypes: Sequence[str]
    ) -> dict[str, dict[str, np.ndarray]]:
        """Returns autodiff's gradients, by precision, at arguments that are changed by about `share` of themselves."""
        args = args.perturb(share, rng)
        return {dtype: self.evaluate(args, dtype).autodiff for dtype in dtypes}

    def evaluate_handwritten(self, args: Args) -> dict[str, np.ndarray]:
        """Returns the handwritten gradients at R points, in float64."""
        with precision("float64"):
            points = [_evaluate_handwritten(self, args.select(r)) for r in range(len(args.dy))]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *points)

    def evaluate_forward(self, args: Args) -> np.ndarray:
        """Returns the outputs [B, ...] at one point, in float64."""
        # Differences call this some fifty times for each array. If the arrays are few and small, all these calls take
        # less time than the compilation of a program without gradients.
        leaves = jax.tree.leaves((args.params, args.x))
        is_small = len(leaves) <= FEW and sum(np.size(leaf) for leaf in leaves) <= SMALL
        with precision("float64"):
            if is_small:
                return np.asarray(_evaluate(self, args).y)
            with optimization(1):
                return np.asarray(_evaluate_forward(self, args))

    def sample(self, name: str, gradient: np.ndarray) -> np.ndarray:
        """Returns what is compared of the gradient called `name`, which is all of it unless it is too large."""
        return gradient

    def trace_backward(self, one: Args) -> dict[str, Any]:
        """Returns what the handwritten backward returns for one example, by name: at least a shape and a dtype each.

        Raises:
            TypeError: If backward does not return a pair (grads, dx).
            Exception: Whatever backward raises.
        """

        def run_backward(one: Args) -> dict[str, Any]:
            pair = self.backward(*one)
            if not (isinstance(pair, tuple) and len(pair) == 2):
                raise TypeError(f"expected backward to return the pair (grads, dx), got {type(pair).__name__}")
            return by_name(*pair)

        with precision("float64"):
            return jax.eval_shape(alone(run_backward), one)

    def handwritten_gradients(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> dict[str, Array]:
        """Returns the handwritten gradients for a batch x, aux, dy [B, ...] by name.

        Those of parameters are summed over the batch; dx is [B, ...].
        """
        grads, dx = over_examples(self.backward, (None, 0, 0, 0))(params, x, aux, dy)
        return by_name(sum_examples(grads), dx)

    def autodiff_gradients(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[Any, dict[str, Array]]:
        """Returns y [B, ...] and autodiff's gradients, named and summed as `handwritten_gradients` returns them."""
        batch = over_examples(self.forward, (None, 0, 0))
        y, pull = vjp(lambda params, x: batch(params, x, aux), params, x)
        return y, {name: leaf for name, leaf in by_name(*pull(dy)).items() if leaf.dtype != jax.dtypes.float0}


@partial(jit_cheaply, static=1)
def _evaluate(subject: Subject, args: Args) -> Gradients:
    y, autodiff = subject.autodiff_gradients(*args)
    return Gradients(y, subject.handwritten_gradients(*args), autodiff, {})


@partial(jit_cheaply, static=1)
def _evaluate_handwritten(subject: Subject, args: Args) -> dict[str, Array]:
    return subject.handwritten_gradients(*args)


@partial(jit_cheaply, static=1)
def _evaluate_forward(subject: Subject, args: Args) -> Array:
    params, x, aux, _ = args
    return over_examples(subject.forward, (None, 0, 0))(params, x, aux)


@dataclass(frozen=True)
class LayerSubject(Subject):
    """A layer.

    Attributes:
        layer: The layer.
        title: Its name in a report.
        random: Whether the layer runs with a key, which is made from the seed in `aux`.
    """

    layer: Layer
    title: str
    random: bool = False

    @property
    def name(self) -> str:
        return f"{self.title}, with a key" if self.random else self.title

    def leaf_path(self, name: str) -> str:
        return join_path(join_path(self.path, "random") if self.random else self.path, name)

    def forward(self, params: PyTree, x: PyTree, aux: PyTree) -> Any:
        return self._forward(params, x, aux)[0]

    def backward(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> Any:
        pair = self.layer.backward(params, self._forward(params, x, aux)[1], dy)
        return jax.tree.map(lambda leaf: None if getattr(leaf, "dtype", None) == jax.dtypes.float0 else leaf, pair)

    def _forward(self, params: PyTree, x: PyTree, aux: PyTree) -> tuple[Any, Any]:
        return self.layer.forward(params, x, jax.random.key(aux) if self.random else None)


@dataclass(frozen=True)
class BatchSubject(LayerSubject):
    """A layer that couples the examples of a batch: one "example" is a batch x [B, ...], with a seed in `aux` for each.

    So the means that the layer takes over the batch are operations of its forward like all others.
    """

    is_single: ClassVar[bool] = True

    def forward(self, params: PyTree, x: PyTree, aux: PyTree) -> Any:
        return over_examples(super().forward, (None, 0, 0))(params, x, aux)

    def backward(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> Any:
        grads, dx = over_examples(super().backward, (None, 0, 0, 0))(params, x, aux, dy)
        return sum_examples(grads), dx


def make_layer_subject(path: str, layer: Layer, title: str, random: bool, points: Args) -> tuple[LayerSubject, Args]:
    """Returns a layer as a subject with its points: a `BatchSubject` if the layer couples the examples of a batch.

    Args:
        path: Where the layer is in the network.
        layer: The layer.
        title: Its name in a report.
        random: Whether the layer runs with a key.
        points: The arguments at R points, with an axis of examples, [R, B, ...].
    """
    if not layer.coupled:
        return LayerSubject(path, layer, title, random), points
    x, aux, dy = jax.tree.map(lambda leaf: leaf[:, None], (points.x, points.aux, points.dy))
    return BatchSubject(path, layer, title, random), Args(points.params, x, aux, dy)


@dataclass(frozen=True)
class LossSubject(Subject):
    """A loss, for which x is the output y of the network and aux is the target.

    Attributes:
        loss: The loss.
    """

    loss: Loss

    @property
    def name(self) -> str:
        return str(self.loss)

    def leaf_path(self, name: str) -> str:
        return self.path

    def forward(self, params: PyTree, x: PyTree, aux: PyTree) -> Float[Array, ""]:
        return self.loss.value(x, aux)

    def backward(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[PyTree, PyTree]:
        return (), dy * self.loss.gradient(x, aux)
