"""A user's function with its handwritten backward as the subject of a check, whether JAX can trace it or not."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxann.gradcheck.arguments import Args
from jaxann.gradcheck.compilation import jit_cheaply, precision
from jaxann.gradcheck.differences import STEP, TOLERANCE
from jaxann.gradcheck.host_code import HostCode
from jaxann.gradcheck.numpy_tracer import unwrap, wrap
from jaxann.gradcheck.subjects import Gradients, Subject

BUDGET = 4.0  # seconds that all differences of a function which JAX cannot trace may take at all points
MOST_OPERATIONS = 1000  # of a traced forward, because compiling more takes longer than differences
DIRECTIONS = 3  # random directions in an array that is too large for the differences of all its entries
FEWEST = 32  # entries of an array whose differences are computed however long they take


@dataclass(frozen=True, eq=False)
class FunctionSubject(Subject):
    """A user's function: its float arrays are the inputs of the only example, and it has no parameters.

    Arrays for which backward returns None, and integers, are no inputs but `aux`, by name.

    The true gradients come from autodiff where JAX can trace the forward, and otherwise from central differences.

    Attributes:
        code: The user's code.
        values: The arguments that the user gave, by name.
        truth: The code whose forward is right; the user's own by default.
    """

    path: str = field(compare=False)
    code: HostCode
    values: OrderedDict[str, np.ndarray]
    truth: HostCode | None = None

    is_single: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return self.code.name

    @property
    def has_differences(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.is_traceable

    @property
    def _right_code(self) -> HostCode:
        return self.truth or self.code

    @cached_property
    def eps(self) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        y = self._right_code.forward(self.values)
        return float(np.finfo(y.dtype if np.issubdtype(y.dtype, np.floating) else float).eps)

    @cached_property
    def is_traceable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether JAX can trace the forward, with the same result."""
        moved = OrderedDict((name, value * 1.01) for name, value in self.values.items())
        try:
            with precision("float64"):
                return len(jax.make_jaxpr(self._trace)(self.values).eqns) <= MOST_OPERATIONS and all(
                    np.allclose(jax.jit(self._trace)(values), self._right_code.forward(values), rtol=1e-9, atol=1e-12)
                    for values in (self.values, moved)
                )
        except Exception:
            return False

    @cached_property
    def entries(self) -> dict[str, np.ndarray]:
        """The entries whose differences are computed, by name, for arrays that are too large for all of them."""
        began = time.perf_counter()
        self._right_code.forward(self.values)
        seconds = time.perf_counter() - began
        sizes = {name: value.size for name, value in self.values.items()}
        most = max(FEWEST, int(BUDGET / max(seconds, 1e-6) / 16 / len(sizes)))
        rng = np.random.default_rng(0)
        return {name: np.sort(rng.choice(n, most, replace=False)) for name, n in sizes.items() if n > most}

    @cached_property
    def directions(self) -> dict[str, np.ndarray]:
        """Random directions in the arrays that are too large for all entries, by name, [K, size]."""
        rng = np.random.default_rng(1)
        drawn = {name: rng.normal(size=(DIRECTIONS, self.values[name].size)) for name in self.entries}
        return {name: d / np.linalg.norm(d, axis=1, keepdims=True) for name, d in drawn.items()}

    @cached_property
    def kinks(self) -> dict[str, int]:
        """How many entries and directions were left out at the first point by a kink, by name."""
        return {}

    @cached_property
    def _jacobians(self) -> dict[bytes, dict[str, tuple[np.ndarray, ...]]]:
        return {}

    def forward(self, params: PyTree, x: PyTree, aux: PyTree) -> Any:
        return self._trace({**x, **aux})

    def _trace(self, values: Any) -> Array:
        try:
            return jnp.asarray(self._right_code.forward(values))
        except Exception:  # NumPy's functions refuse tracers, but not arrays that NumPy lets override them
            return jnp.asarray(unwrap(self._right_code.forward({name: wrap(value) for name, value in values.items()})))

    def backward(self, params: PyTree, x: PyTree, aux: PyTree, dy: Any) -> tuple[PyTree, PyTree]:
        return (), self.code.backward({**x, **aux}, dy)

    def trace_backward(self, one: Args) -> dict[str, Any]:
        return self.code.backward({**one.x, **one.aux}, one.dy)

    def evaluate_forward(self, args: Args) -> np.ndarray:
        return np.asarray(self._right_code.forward(_first(args)), float)[None]

    def evaluate_handwritten(self, args: Args) -> dict[str, np.ndarray]:
        with precision("float64"):
            points = [self.code.backward(_first(args.select(r)), args.dy[r, 0]) for r in range(len(args.dy))]
        names = [name for name in self.values if all(name in point for point in points)]
        return {name: self.sample(name, np.stack([np.asarray(p[name], float)[None] for p in points])) for name in names}

    def evaluate(self, args: Args, dtype: str) -> Gradients:
        handwritten = self.evaluate_handwritten(args)
        with precision("float64"):
            y = np.stack([self.evaluate_forward(args.select(r)) for r in range(len(args.dy))])
            if self.is_traceable:
                points = [_differentiate(self, args.select(r)) for r in range(len(args.dy))]
                return Gradients(y, handwritten, jax.tree.map(lambda *g: np.stack(g), *points), {})
            true, error = self._differentiate_numerically(args, handwritten)
        return Gradients(y, handwritten, true, error)

    def perturb(
        self, args: Args, share: float, rng: np.random.Generator, dtypes: Sequence[str]
    ) -> dict[str, dict[str, np.ndarray]]:
        if self.is_traceable:
            return super().perturb(args, share, rng, dtypes)
        true = self.evaluate(args, "float64").autodiff  # differences have an error of their own instead
        return dict.fromkeys(dtypes, true)

    def sample(self, name: str, gradient: np.ndarray) -> np.ndarray:
        """Returns what is compared of a gradient [R, 1, ...]: some entries, and the slopes along the directions.

        A gradient of a wrong shape is left as it is.
        """
        if self.is_traceable or name not in self.entries or gradient.shape[2:] != self.values[name].shape:
            return gradient
        flat = gradient.reshape(*gradient.shape[:2], -1)
        return np.concatenate([flat[..., self.entries[name]], flat @ self.directions[name].T], axis=-1)

    def _differentiate_numerically(self, args: Args, handwritten: dict[str, np.ndarray]) -> tuple[Any, Any]:
        """Returns central differences of all gradients, and their errors.

        Where the function is not smooth, every slope is right, so the handwritten gradient is taken for the true one.
        """
        gradients: dict[str, list[np.ndarray]] = {name: [] for name in args.x}
        errors: dict[str, list[float]] = {name: [] for name in args.x}
        for r in range(len(args.dy)):
            values, dy = _first(args.select(r)), args.dy[r, 0].ravel()
            key = b"".join(value.tobytes() for value in values.values())
            if key not in self._jacobians:
                self._jacobians[key] = {name: self._measure_jacobian(values, name) for name in args.x}
            for name, (J, rough, rounding) in self._jacobians[key].items():
                shape = (-1,) if name in self.entries else values[name].shape
                b = (dy @ J).reshape(shape)
                written = handwritten.get(name)
                kink = (np.abs(dy) @ rough > 0).reshape(shape)
                self.kinks.setdefault(name, int(kink.sum()))
                if written is not None and written.shape[2:] == b.shape:
                    b = np.where(kink, written[r, 0], b)
                gradients[name].append(b[None])
                errors[name].append(float(np.abs(dy) @ rounding + TOLERANCE / 10 * np.abs(b).max(initial=0)))
        return ({name: np.stack(g) for name, g in gradients.items()}, {n: np.array(e) for n, e in errors.items()})

    def _measure_jacobian(self, values: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Measures the slopes of the outputs along entries and directions.

        Returns:
            The slopes [outputs, K], whether they are rough [outputs, K], and the rounding error of each output.
        """
        value, center = values[name], np.ravel(self._right_code.forward(values)).astype(float)
        step = max(STEP, self.eps**0.2)
        columns, rough, rounding = [], [], np.zeros(len(center))
        for direction in self._list_directions(name):
            moved = value.ravel()[direction != 0]
            h = step * float(np.clip(np.abs(moved).max(initial=0), 1e-2, 1))

            def move(share: float | int, direction: Any = direction, h: float = h) -> np.ndarray:
                moved = value + (share * h * direction).reshape(value.shape)
                return np.ravel(self._right_code.forward({**values, name: moved})).astype(float) - center

            far, back, near, near_back = (move(share) for share in (1, -1, 0.5, -0.5))
            columns.append((4 * (near - near_back) / h - (far - back) / (2 * h)) / 3)
            noise = max(1e-15, 4 * self.eps) * np.abs(center) / h
            limit = TOLERANCE * np.abs(columns[-1]).max(initial=0) + 10 * noise
            rough.append(~(np.abs(far + back - 4 * (near + near_back)) / h <= limit))
            rounding = np.maximum(rounding, noise)
        return np.stack(columns, axis=1), np.stack(rough, axis=1), rounding

    def _list_directions(self, name: str) -> Iterator[np.ndarray]:
        """Yields the directions of the differences, flattened: entries, then random ones for a large array."""
        size = self.values[name].size
        for place in self.entries.get(name, np.arange(size)):
            direction = np.zeros(size)
            direction[place] = 1
            yield direction
        yield from self.directions.get(name, ())


def _first(args: Args) -> dict[str, np.ndarray]:
    """Returns the inputs of the only example at one point, and all others, as arrays of float64."""
    return {name: np.asarray(leaf[0], float) for name, leaf in {**args.x, **args.aux}.items()}


@partial(jit_cheaply, static=1)
def _differentiate(subject: FunctionSubject, args: Args) -> dict[str, Array]:
    return subject.autodiff_gradients(*args)[1]
