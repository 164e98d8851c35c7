"""How a diagnosis speaks of an operation of the forward pass: in words, with the user's source text, file and line."""

from __future__ import annotations

import ast
import linecache
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from jaxann.gradcheck.jaxprs import Position
from jaxann.gradcheck.steps import Program

LONGEST_TEXT = 90  # characters of source text in a sentence

WORDS = {
    "abs": "absolute value",
    "add": "sum",
    "argmax": "argmax",
    "broadcast_in_dim": "broadcast",
    "clamp": "clip",
    "concatenate": "concatenation",
    "conv_general_dilated": "convolution",
    "cos": "cosine",
    "cumlogsumexp": "cumulative logsumexp",
    "cummax": "cumulative maximum",
    "cumprod": "cumulative product",
    "cumsum": "cumulative sum",
    "div": "quotient",
    "dot_general": "matrix product",
    "dynamic_slice": "slice",
    "erf": "error function",
    "exp": "exponential",
    "gather": "indexing",
    "integer_pow": "power",
    "log": "logarithm",
    "logistic": "sigmoid",
    "max": "maximum",
    "min": "minimum",
    "mul": "product",
    "neg": "negation",
    "pow": "power",
    "reduce_max": "maximum",
    "reduce_min": "minimum",
    "reduce_prod": "product",
    "pad": "padding",
    "reduce_sum": "sum",
    "reduce_window_max": "max pooling",
    "reduce_window_min": "min pooling",
    "rev": "reversal",
    "rsqrt": "reciprocal square root",
    "scatter": "indexed assignment",
    "scatter-add": "indexed addition",
    "select_n": "selection",
    "sin": "sine",
    "slice": "slice",
    "sort": "sorting",
    "split": "split",
    "sqrt": "square root",
    "square": "square",
    "squeeze": "indexing",
    "sub": "difference",
    "tanh": "tanh",
    "transpose": "transpose",
}
# The names of functions that are made of several operations and have a word of their own.
FUNCTIONS = {
    "mean": "mean",
    "average": "average",
    "var": "variance",
    "std": "standard deviation",
    "softmax": "softmax",
    "log_softmax": "log-softmax",
    "logsumexp": "logsumexp",
    "norm": "norm",
    "where": "selection",
}
OPERATORS = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.MatMult: "dot_general"}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


@dataclass(frozen=True)
class Source:
    """The source text of an operation.

    Attributes:
        line: The text of its first line.
        expression: The expression that it computes or is a part of; empty if that is not known.
        place: Its file and line, as "lstm.py:33".
        is_result: Whether the expression is everything to the right of an assignment or a `return`.
    """

    line: str
    expression: str
    place: str
    is_result: bool


class StepNames:
    """The names of the operations of a forward pass.

    Args:
        program: The forward pass.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._sources = {step.position: _read_source(step.position) for step in program.steps}
        self.sites: dict[tuple, list[int]] = defaultdict(list)
        for index in range(len(program.steps)):
            self.sites[self.site(index)].append(index)
        self._names: dict[Position | None, set[str]] = defaultdict(set)
        self._callers: dict[Position, set[tuple[str, int]]] = defaultdict(set)
        for step in program.steps:
            self._names[step.position].add(step.name)
            if step.position and step.position.caller:
                self._callers[step.position._replace(caller=None)].add(step.position.caller[:2])

    def site(self, index: int) -> tuple:
        """Returns what operations share that come from the same expression and compute the same primitive."""
        step = self._program.steps[index]
        return step.name, step.position

    def is_result(self, index: int) -> bool:
        """Returns whether an operation is the last one in an expression that a line assigns or returns."""
        steps = self._program.steps
        is_last = index + 1 == len(steps) or steps[index + 1].position != steps[index].position
        return is_last and self._sources[steps[index].position].is_result

    def describe(self, members: Sequence[int], alike: Sequence[int]) -> str:
        """Returns the name of operations that share a primitive and a line, as "the product `f * c` in `...` (...)".

        Args:
            members: The indices of the operations, in order.
            alike: The indices of those of the same expression that could be meant.
        """
        step = self._program.steps[members[0]]
        source, word = self._sources[step.position], self._word(members[0])
        if not source.place:
            count = f"operation {members[0] + 1} of {len(self._program.steps)}"
            return f"the {word} ({count} of the forward pass)"
        if len({self.site(index) for index in members}) > 1:
            return f"every {word} in `{source.line}` ({source.place})"
        name = f"the {word}"
        if source.expression and source.expression != source.line and not source.is_result:
            name += f" `{_shorten(source.expression)}`"
        if len(members) < len(alike):
            name += self._ordinal(members)
        name = f"{name} in `{source.line}` ({source.place})" if source.line else f"{name} in {source.place}"
        if step.position and len(self._callers[step.position._replace(caller=None)]) > 1:
            caller = _read_source(step.position.caller)
            name += f", called by `{caller.line}` ({caller.place})"
        return name

    def expression(self, index: int) -> str:
        """Returns the expression that an operation belongs to, as "`jnp.roll(x, 1)` in `...` (layer.py:12)"."""
        source = self._sources[self._program.steps[index].position]
        if not source.expression or source.is_result or source.expression == source.line:
            return f"`{source.line}` ({source.place})"
        return f"`{_shorten(source.expression)}` in `{source.line}` ({source.place})"

    def result(self, members: Sequence[int], alike: Sequence[int]) -> str:
        """Returns what the operations compute, as "the result of the product ..." or "the mean ...". See `describe`."""
        name = self.describe(members, alike)
        is_value = self._word(members[0]) in FUNCTIONS.values()
        return name if is_value or name.startswith("every") else f"the result of {name}"

    def operand(self, index: int, place: int) -> str:
        """Returns the source text of an operand, as "`f`", or "the first operand" if it is not known."""
        step = self._program.steps[index]
        source = self._sources[step.position]
        text = _read_operand(source.expression, step.name, place)
        return f"`{text}`" if text else f"the {ORDINALS[place]} operand" if place < len(ORDINALS) else "an operand"

    def _word(self, index: int) -> str:
        step = self._program.steps[index]
        expression = self._sources[step.position].expression
        function = expression.partition("(")[0].rpartition(".")[2] if expression.endswith(")") else ""
        if function in FUNCTIONS and (len(self._names[step.position]) > 1 or function == "where"):
            return FUNCTIONS[function]
        word = WORDS.get(step.name, f"operation {step.name}")
        if step.name in ("integer_pow", "pow") and step.equation.params.get("y") == 2:
            return "square"
        return word

    def _ordinal(self, members: Sequence[int]) -> str:
        """Returns " (the second of 3)" where the expression computes the same primitive several times."""
        site = self.sites[self.site(members[0])]
        steps = {b - a for a, b in pairwise(map(site.index, members))}
        period = steps.pop() if len(steps) == 1 else len(site)
        first = site.index(members[0]) % period
        ordinal = ORDINALS[first] if first < len(ORDINALS) else f"{first + 1}th"
        return f" (the {ordinal} of {period})"

    def lines(self, members: Sequence[int]) -> str:
        """Returns the lines that operations come from, as "lines 23 to 31 of lstm.py"."""
        positions = [p for p in (self._program.steps[index].position for index in members) if p]
        if not positions:
            return "the forward pass"
        file = os.path.basename(positions[0].file)
        numbers = [p.line for p in positions if p.file == positions[0].file]
        first, last = min(numbers), max(numbers)
        return f"line {first} of {file}" if first == last else f"lines {first} to {last} of {file}"


def _read_source(position: Position | None) -> Source:
    if position is None:
        return Source("", "", "", False)
    place = f"{os.path.basename(position.file)}:{position.line}"
    lines = [linecache.getline(position.file, line) for line in range(position.line, position.end_line + 1)]
    expression = ""
    if position.column >= 0:
        encoded = [line.encode() for line in lines]
        encoded[-1] = encoded[-1][: position.end_column]
        encoded[0] = encoded[0][position.column :]
        expression = " ".join(b" ".join(encoded).decode(errors="replace").split())
    line = " ".join("".join(lines).split()) if len("".join(lines).split()) < 40 else lines[0].strip()
    right = line.partition(" = ")[2] or line.removeprefix("return ")
    is_result = bool(expression) and right == expression
    return Source(_shorten(line), expression, place, is_result)


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 4]} ..."


def _read_operand(expression: str, primitive: str, place: int) -> str:
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError:
        return ""
    operands: Sequence[ast.expr] = ()
    if isinstance(tree, ast.BinOp) and OPERATORS.get(type(tree.op)) == primitive:
        operands = (tree.left, tree.right)
    elif isinstance(tree, ast.Call) and primitive == "concatenate" and tree.args:
        pieces = tree.args[0]
        operands = pieces.elts if isinstance(pieces, ast.List | ast.Tuple) else ()
    elif isinstance(tree, ast.Call) and primitive == "select_n" and len(tree.args) == 3:
        operands = (tree.args[0], tree.args[2], tree.args[1])  # select_n takes the choice for False first
    elif isinstance(tree, ast.Call) and primitive in ("max", "min", "dot_general") and len(tree.args) == 2:
        operands = tree.args
    return ast.get_source_segment(expression, operands[place]) or "" if place < len(operands) else ""
