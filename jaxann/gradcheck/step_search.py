"""The search for what a wrong backward pass does differently, among many changes of the true backward pass.

Each change concerns one operation of the forward pass, or all operations that come from one line of the user's code,
such as those of a loop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxann.gradcheck.arguments import Args, by_name
from jaxann.gradcheck.step_changes import FACTOR, Candidate, list_candidates, scale_path
from jaxann.gradcheck.step_names import StepNames
from jaxann.gradcheck.step_points import (
    Change,
    Findings,
    Wrong,
    choose_points,
    flatten_leaves,
    name_variables,
    round_off,
)
from jaxann.gradcheck.step_sweep import Edit, OutOfTimeError, Overwrite, Sweep
from jaxann.gradcheck.steps import TooManyStepsError, list_steps

EXAMPLES = 2  # of the batch at each point
ROUNDS = 3  # how many mistakes that affect the same gradient are found
BASES = 6  # the most changes to which another one is added in a round
FITTED = 128  # the most factors that are tried in a round


def find_changes(
    function: Callable[[Any, Any, Any], Any],
    args: Args,
    wrong: dict[str, Wrong],
    handwritten: Callable[[Args], dict[str, Any]],
    deadline: float,
) -> Findings:
    """Finds changes of the true backward pass that give wrong gradients.

    If one change explains all of them, every gradient gets that change. Precision must be double, as it is inside
    `compilation.precision("float64")`.

    Args:
        function: The forward pass of one example, (params, x, aux) -> y with an array y.
        args: Its arguments at R points.
        wrong: The wrong gradients, by name.
        handwritten: A function that returns the handwritten gradients by name at other arguments.
        deadline: The value of `time.monotonic()` at which the search ends.
    """
    with np.errstate(all="ignore"):
        reason = ""
        for enter_custom in (True, False):
            try:
                search = _Search(function, args, wrong, handwritten, deadline, enter_custom)
            except OutOfTimeError:
                return Findings({}, OUT_OF_TIME)
            except TooManyStepsError as error:
                return Findings({}, str(error))
            except Exception as error:  # a user's function may compute what JAX cannot differentiate step by step
                reason = f"its operations cannot be differentiated one by one: {str(error).partition('. ')[0]}"
                continue
            if search.points.any():
                return search.run()
            reason = "the derivatives of its operations do not give the true gradient"
        return Findings({}, reason)


OUT_OF_TIME = "the time for the search was too short to try every change"


class _Match(NamedTuple):
    """A candidate that explains wrong gradients.

    Attributes:
        candidate: The candidate.
        names: The names of the gradients that it explains.
        is_harmless: Whether it leaves the right gradients as they are.
    """

    candidate: Candidate
    names: frozenset[str]
    is_harmless: bool

    @property
    def order(self) -> tuple:
        """What is small for a change that is preferred."""
        return self.candidate.rank[0] == FACTOR, -len(self.names), not self.is_harmless, self.candidate.rank


class _Search:
    """A search at some of the points and examples. The arguments are those of `find_changes`."""

    def __init__(
        self,
        function: Any,
        args: Args,
        wrong: dict[str, Wrong],
        handwritten: Any,
        deadline: float,
        enter_custom: bool,
    ) -> None:
        self._is_late = False
        one = jax.tree.map(jnp.asarray, args.first_example())
        self._program = list_steps(function, (one.params, one.x, one.aux), enter_custom)
        self._variables = name_variables(self._program, one)
        self._parameters = set(by_name(one.params, ()))
        chosen = choose_points(wrong)
        few = args.select(chosen).select_examples(slice(EXAMPLES))
        is_subset = args.dy.shape[1] > EXAMPLES
        handwritten_few = handwritten(few) if is_subset else {}
        self._wrong: dict[str, Wrong] = {}
        for name, (a, b, tolerance) in wrong.items():
            a, b, tolerance = a[chosen], b[chosen], tolerance[chosen]
            if name not in self._parameters:
                a, b = a[:, :EXAMPLES], b[:, :EXAMPLES]
            elif is_subset:
                a = np.asarray(handwritten_few[name])
            self._wrong[name] = Wrong(a, b, tolerance)
        self._shape = np.shape(few.dy)[:2]
        self._dy = np.reshape(few.dy, (-1, *np.shape(few.dy)[2:]))
        self._sweep = Sweep(self._program, flatten_leaves(few), set(self._variables.values()), deadline)
        self._names = StepNames(self._program)
        self._true = {name: g[0] for name, g in self._evaluate([()]).items()}
        self._tolerance = {name: round_off(b) for name, b in self._true.items()}
        self._tolerance |= {name: tolerance for name, (_, _, tolerance) in self._wrong.items()}
        compared = [name for name in self._wrong if not (is_subset and name in self._parameters)]
        agree = [self._agree(name, self._true[name], self._wrong[name].b) for name in compared]
        # A point where the operations have another derivative than the function does not count, such as a tie.
        self.points = np.all(agree, axis=0) if agree else np.ones(self._shape[0], bool)

    def run(self) -> Findings:
        """Returns the changes that explain the wrong gradients, at most `ROUNDS` of them for each."""
        found: dict[str, tuple[Candidate, ...]] = {}
        bases: dict[tuple[Candidate, ...], frozenset[str]] = {(): frozenset()}
        try:
            candidates = list_candidates(self._sweep, self._names)
            for _ in range(ROUNDS):
                extended: dict[tuple[Candidate, ...], frozenset[str]] = {}
                for base, names in bases.items():
                    best, others = self._search(candidates, base, set(self._wrong) - set(found))
                    if best:  # another mistake on top of the base explains gradients: the base is not mistaken
                        found |= dict.fromkeys(names, base)
                    for match in best:
                        found |= dict.fromkeys(match.names, (*base, match.candidate))
                    extended |= {(*base, match.candidate): match.names for match in [*best, *others]}
                bases = dict(list(extended.items())[:BASES])
                if len(found) == len(self._wrong):
                    break
        except OutOfTimeError:
            self._is_late = True
        changes = {name: self._tell(found[name]) for name in self._wrong if name in found}
        return Findings(changes, OUT_OF_TIME if self._is_late else "")

    def _tell(self, candidates: Sequence[Candidate]) -> Change:
        cause = " + ".join(dict.fromkeys(candidate.cause for candidate in candidates))
        sentences = [candidate.tell(self._names) for candidate in candidates]
        if len(sentences) == 1:
            return Change(cause, sentences[0])
        return Change(cause, f"{len(sentences)} mistakes together: {'; and '.join(sentences)}")

    def _search(
        self, candidates: list[Candidate], base: Sequence[Candidate], names: set[str]
    ) -> tuple[list[_Match], list[_Match]]:
        """Returns matches that together explain as many gradients as can be explained, and others of another kind."""
        if not names:
            return [], []
        parts = tuple(part for candidate in base for part in candidate.parts)
        before = {name: g[0] for name, g in self._evaluate([parts]).items()}
        matches, fitted = [], []
        try:
            for chunk in self._split(candidates):
                gradients = self._evaluate([(*parts, *candidate.parts) for candidate in chunk])
                matches += self._match(chunk, gradients, names)
                fitted += self._fit(chunk, gradients, before, names)
                if any(match.names == names and match.is_harmless for match in matches):
                    break
            else:
                fitted = sorted(fitted, key=lambda candidate: candidate.rank)[:FITTED]
                for chunk in self._split(fitted):
                    gradients = self._evaluate([(*parts, *candidate.parts) for candidate in chunk])
                    matches += self._match(chunk, gradients, names)
        except OutOfTimeError:
            self._is_late = True
        chosen: list[_Match] = []
        while True:
            rest = names.difference(*(match.names for match in chosen))
            left = [match._replace(names=match.names & rest) for match in matches if match.names & rest]
            if not left:
                break
            chosen.append(min(left, key=lambda match: match.order))
        kinds = {(match.names, match.candidate.rank[0]) for match in chosen}
        others = []
        for match in sorted(matches, key=lambda match: match.order):
            kind = match.names, match.candidate.rank[0]
            if kind not in kinds:
                kinds.add(kind)
                others.append(match)
        return chosen, others

    def _split(self, candidates: Sequence[Candidate]) -> Iterator[Sequence[Candidate]]:
        size = self._sweep.chunk
        for begin in range(0, len(candidates), size):
            yield candidates[begin : begin + size]

    def _evaluate(self, changes: Sequence[Sequence[Edit | Overwrite]]) -> dict[str, np.ndarray]:
        """Returns the gradients of changed backward passes by name, [c, R, ...]."""
        pulled = self._sweep.pull({self._program.output: self._dy}, changes)
        gradients = {}
        for name, number in self._variables.items():
            shape = (self._sweep.chunk, *self._shape, *np.shape(self._sweep.values[number])[1:])
            gradient = pulled[number].reshape(shape) if number in pulled else np.zeros(shape)
            gradients[name] = (gradient.sum(axis=2) if name in self._parameters else gradient)[: len(changes)]
        return gradients

    def _agree(self, name: str, gradient: np.ndarray, other: np.ndarray) -> Any:
        """Returns whether two gradients are equal at each point, [..., R]."""
        close = np.abs(gradient - other) <= self._tolerance[name]
        axes = np.ndim(self._tolerance[name]) - 1
        return close.reshape(*close.shape[: close.ndim - axes], -1).all(axis=-1)

    def _match(
        self, candidates: Sequence[Candidate], gradients: dict[str, np.ndarray], names: set[str]
    ) -> list[_Match]:
        explained = {name: self._holds(name, gradients[name], self._wrong[name].a) for name in names}
        right = [name for name in gradients if name not in self._wrong]
        harmless = np.all([self._holds(name, gradients[name], self._true[name]) for name in right], axis=0)
        matches = []
        for c, candidate in enumerate(candidates):
            which = frozenset(name for name in names if explained[name][c])
            if which:
                matches.append(_Match(candidate, which, bool(np.broadcast_to(harmless, len(candidates))[c])))
        return matches

    def _holds(self, name: str, gradient: np.ndarray, other: np.ndarray) -> Any:
        """Returns for each changed backward pass whether a gradient is equal at all points that count, [c]."""
        return self._agree(name, gradient, other)[..., self.points].all(axis=-1)

    def _fit(
        self,
        candidates: Sequence[Candidate],
        gradients: dict[str, np.ndarray],
        before: dict[str, np.ndarray],
        names: set[str],
    ) -> list[Candidate]:
        """Returns the changes by which a factor on a path explains gradients.

        The gradient is linear in the factor f of one path: a - b = (f - 1) c, where c is what the path contributes.
        """
        factors: dict[int, set[float]] = defaultdict(set)
        for name in names:
            share = (before[name] - gradients[name])[:, self.points]
            missing = (self._wrong[name].a - before[name])[self.points]
            axes = tuple(range(1, share.ndim))
            factor = 1 + (share * missing).sum(axis=axes) / (share**2).sum(axis=axes)
            f = factor.reshape(-1, *(1,) * (share.ndim - 1))
            close = np.abs((f - 1) * share - missing) <= 2 * self._tolerance[name][self.points]
            for c in np.flatnonzero(close.all(axis=axes) & np.isfinite(factor)):
                factors[int(c)].add(float(factor[c]))
        fitted = []
        for c, values in factors.items():
            if candidates[c].operands:
                for factor in {round(value, 6): value for value in values if abs(value) > 1e-6}.values():
                    fitted.append(scale_path(candidates[c], self._sweep, factor))
        return fitted
