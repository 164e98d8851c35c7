"""The changes of a true backward pass that are compared with a wrong one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

from jaxann.gradcheck.step_derivatives import list_mistakes, scale_operands
from jaxann.gradcheck.step_names import StepNames
from jaxann.gradcheck.step_patterns import list_patterns, list_recurrences
from jaxann.gradcheck.step_sweep import Edit, Local, Overwrite, Sweep
from jaxann.gradcheck.step_windows import list_windows

# The order in which changes are preferred that explain the same gradients.
PATTERN, MISTAKE, LOOP, RESULT, CONSTANT, LEFT_OUT, OVERWRITE, SCALE, KNOWN_FACTOR, FACTOR = range(10)


class Candidate(NamedTuple):
    """A change of a backward pass.

    Attributes:
        cause: A key for programs.
        sentence: The mistake as it follows "consistent with"; {step} stands for the name of the operations, and {0},
            {1} and so on for their operands.
        members: The indices of the operations after which the mistake is named.
        parts: What the backward pass does differently.
        rank: Of several changes that explain the same gradients, the one of the lowest rank is preferred. The second
            number is that of the operations of the line for each one that is changed: a line is wrong in every
            iteration of a loop rather than in one.
        operands: If the change treats operands as constants: these, for each member.
        alike: The operations of the same expression that can be changed in the same way.
    """

    cause: str
    sentence: str
    members: tuple[int, ...]
    parts: tuple[Edit | Overwrite, ...]
    rank: tuple[int, ...]
    operands: tuple[tuple[int, ...], ...] = ()
    alike: tuple[int, ...] = ()

    def tell(self, names: StepNames) -> str:
        """Returns the sentence with the names of the operations."""

        def fill(match: re.Match[str]) -> str:
            field, number = match[1], match[2]
            if field == "lines":
                return names.lines(self.members)
            if field == "result":
                return names.result(self.members, self.alike)
            if field == "expression":
                return names.expression(self.members[0])
            if field == "step":
                return names.describe(self.members, self.alike)
            operand = names.operand(self.members[0], int(number))
            return f"the operand {operand}" if field and operand.startswith("`") else operand

        return re.sub(r"\{(lines|result|expression|step|operand )?(\d*)\}", fill, self.sentence)


def list_candidates(sweep: Sweep, names: StepNames) -> list[Candidate]:
    """Lists the changes that are tried, simple ones first.

    Args:
        sweep: The forward pass with its values.
        names: The names of its operations.
    """
    singles: dict[int, dict[object, Candidate]] = defaultdict(dict)
    for pattern in list_patterns(sweep):
        rank = (LEFT_OUT if pattern.cause == "derivative missing" else PATTERN, 0, pattern.edit.step)
        candidate = Candidate(pattern.cause, pattern.sentence, (pattern.named,), (pattern.edit,), rank)
        singles[pattern.named][pattern.sentence] = candidate
    for index in range(len(sweep.program.steps)):
        singles[index].update(_list_single(sweep, names, index))
    alike: dict[object, list[int]] = defaultdict(list)
    for index, found in sorted(singles.items()):
        for key in found:
            alike[names.site(index), key].append(index)
    for index, found in singles.items():
        period = len(names.sites[names.site(index)])
        for key, candidate in found.items():
            rank = (candidate.rank[0], period, *candidate.rank[2:])
            found[key] = candidate._replace(rank=rank, alike=tuple(alike[names.site(index), key]))
    candidates = [candidate for found in singles.values() for candidate in found.values()]
    for period, members in _list_groups(names, [index for index in singles if singles[index]]):
        candidates += _list_group(singles, members, period)
    candidates += [*_list_loops(sweep), *_list_windows(sweep), *_list_overwrites(sweep), *_list_ones(sweep)]
    return sorted(candidates, key=lambda candidate: candidate.rank)


def scale_candidate(candidate: Candidate, factor: float | int, phrase: str, rank: int) -> Candidate:
    """Returns the change that multiplies the gradients by a factor that a candidate sets to zero.

    Args:
        candidate: A change that treats operands as constants.
        factor: The factor.
        phrase: What such a backward does with a path, with the field {path}.
        rank: The first number of its rank.
    """
    edits = tuple(
        Edit(index, scale_operands(factor, operands))
        for index, operands in zip(candidate.members, candidate.operands, strict=True)
    )
    sentence = phrase.replace("{path}", candidate.sentence.removeprefix(_TREATS).removesuffix(_AS_CONSTANT))
    return candidate._replace(
        cause="path", sentence=sentence, parts=edits, rank=(rank, *candidate.rank[1:]), operands=()
    )


_TREATS, _AS_CONSTANT = "a backward that treats ", " as a constant"
TWICE = "a backward that counts the path through {path} twice"
SIGN = "a backward that has the wrong sign on the path through {path}"


def _list_single(sweep: Sweep, names: StepNames, index: int) -> Iterator[tuple[object, Candidate]]:
    """Yields the changes of one operation, each with a key that equal changes of other operations share."""
    step, edges = sweep.program.steps[index], sweep.edges(index)
    if not edges:
        return
    for order, mistake in enumerate(list_mistakes(step, edges)):
        edits = (Edit(index, mistake.change),)
        rank = (LEFT_OUT if mistake.cause == "derivative missing" else MISTAKE, 0, index, order)
        yield mistake.sentence, Candidate(mistake.cause, mistake.sentence, (index,), edits, rank)
    is_result = names.is_result(index)
    choices = [(edges, f"{_TREATS}{{result}}{_AS_CONSTANT}", RESULT if is_result else CONSTANT)]
    if len(step.inputs) > 1:
        choices += [((k,), f"{_TREATS}{{operand {k}}} of {{step}}{_AS_CONSTANT}", CONSTANT) for k in edges]
    for order, (operands, sentence, family) in enumerate(choices):
        edits = (Edit(index, scale_operands(0, operands)),)
        rank = (family, 0, index, order)
        yield sentence, Candidate("constant", sentence, (index,), edits, rank, (operands,))


def _list_groups(names: StepNames, indices: Sequence[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yields operations that share a primitive and a line, or every k-th of those of one expression, each after k."""
    lines: dict[tuple, list[int]] = defaultdict(list)
    sites: dict[tuple, list[int]] = defaultdict(list)
    for index in indices:
        name, position = names.site(index)
        if position is not None:
            sites[name, position].append(index)
            lines[name, position.file, position.line].append(index)
    for (name, position), members in sites.items():
        count = len(names.sites[name, position])
        for period in range(1, count):
            if count % period == 0:
                for first in range(period):
                    some = set(names.sites[name, position][first::period])
                    group = tuple(index for index in members if index in some)
                    if len(group) > 1:
                        yield period, group
        others = lines[name, position.file, position.line]
        if len(others) > len(members) and others[0] == members[0]:
            yield 1, tuple(others)


def _list_group(
    singles: dict[int, dict[object, Candidate]], members: tuple[int, ...], period: int
) -> Iterator[Candidate]:
    """Yields the changes of several operations together."""
    for key in dict.fromkeys(key for index in members for key in singles[index]):
        parts = [singles[index][key] for index in members if key in singles[index]]
        if len(parts) > 1:
            family, _, *order = parts[0].rank
            operands = tuple(operands for part in parts for operands in part.operands)
            edits = tuple(edit for part in parts for edit in part.parts)
            some = tuple(index for part in parts for index in part.members)
            group = parts[0]._replace(members=some, parts=edits, rank=(family, period, *order), operands=operands)
            yield group
            if operands:
                yield scale_candidate(group, 2, TWICE, SCALE)
                yield scale_candidate(group, -1, SIGN, SCALE)


def _list_loops(sweep: Sweep) -> Iterator[Candidate]:
    for order, places in enumerate(list_recurrences(sweep.program)):
        edits = tuple(Edit(index, scale_operands(0, (k,))) for index, k in places if k in sweep.edges(index))
        if edits:
            sentence = "a backward that passes no gradient from an iteration of the loop to the one before ({lines})"
            yield Candidate("recurrence", sentence, tuple(edit.step for edit in edits), edits, (LOOP, order))


def _list_windows(sweep: Sweep) -> Iterator[Candidate]:
    for stride, members, edits in list_windows(sweep):
        sentence = f"a backward that forgets the stride of {stride}, and takes {{step}} at a stride of 1"
        yield Candidate("stride", sentence, members, edits, (PATTERN, 0, members[0]))


def _list_overwrites(sweep: Sweep) -> Iterator[Candidate]:
    pieces: dict[tuple, list[int]] = defaultdict(list)
    for index, step in enumerate(sweep.program.steps):
        position = step.position
        if step.name in ("slice", "dynamic_slice", "gather") and 0 in sweep.edges(index):
            place = (position.file, position.line) if position else None
            pieces[step.inputs[0], place].append(index)
    for (variable, _), members in pieces.items():
        if len(members) > 1:
            for last in (True, False):
                overwrite = Overwrite(variable, frozenset(members), last)
                sentence = (
                    "a backward that assigns the gradients of pieces that overlap, where it should add them, so that "
                    f"only the {'last' if last else 'first'} one counts: {{step}}"
                )
                rank = (OVERWRITE, members[0], last)
                yield Candidate("assigned", sentence, tuple(members), (overwrite,), rank)


def _list_ones(sweep: Sweep) -> Iterator[Candidate]:
    for index, step in enumerate(sweep.program.steps):
        if sweep.program.output in step.outputs and sweep.edges(index):

            def change(local: Local) -> dict:
                pulled = local.pull(local.dy / local.dy)
                return {k: gradient for k, gradient in enumerate(pulled) if gradient is not None}

            sentence = "a backward that leaves out dy, the incoming gradient"
            yield Candidate("cotangent missing", sentence, (index,), (Edit(index, change),), (MISTAKE, 0, -1))


def scale_path(candidate: Candidate, sweep: Sweep, factor: float) -> Candidate:
    """Returns the change that gives a path another factor than 1, where a candidate treats it as a constant.

    Args:
        candidate: The candidate.
        sweep: The forward pass, which has axes whose lengths may explain the factor.
        factor: The factor.
    """
    for number, phrase in ((2, TWICE), (-1, SIGN)):
        if abs(factor - number) < _CLOSE:
            return scale_candidate(candidate, number, phrase, SCALE)
    steps = [sweep.program.steps[index] for index in candidate.members]
    shapes = {shape for step in steps for shape in (*step.shapes, step.shape)}
    lengths = sorted({n for shape in shapes for n in (*shape, prod(shape)) if n > 1})
    known = {0.5: "1/2"}
    for n in lengths:
        known |= {n: f"{n}", 1 / n: f"1/{n}", 1 + 1 / n: f"1 + 1/{n}", 1 - 1 / n: f"1 - 1/{n}"}
        known |= {n**0.5: f"√{n}", n**-0.5: f"1/√{n}", n / (n - 1): f"{n}/{n - 1}"}
    for number, text in known.items():
        for sign in (1, -1):
            if abs(factor - sign * number) < _CLOSE * number:
                text = text if sign == 1 else f"-({text})" if " " in text else f"-{text}"
                phrase = f"a backward that gives the path through {{path}} the factor {text} instead of 1"
                return scale_candidate(candidate, sign * number, phrase, KNOWN_FACTOR)
    phrase = f"a backward that gives the path through {{path}} the factor {factor:.6g} instead of 1"
    return scale_candidate(candidate, factor, phrase, FACTOR)


_CLOSE = 1e-6
