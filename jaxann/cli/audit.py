"""Audits a JAX program: judges every custom derivative inside it, alone and at its true input.

The program is a function that a module holds. The exit code is 0 if all custom derivatives are right or the program
calls none, 1 if one is wrong, which the table describes, and 2 for bad input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from jaxann.cli.own_code import import_function, make_arguments, report_failure
from jaxann.cli.program import run_program
from jaxann.gradcheck.audit import audit
from jaxann.gradcheck.report import Report


@dataclass(frozen=True)
class AuditSettings:
    """The settings of an audit: the program, its arguments, and what differs on purpose."""

    function: Annotated[str, tyro.conf.Positional]
    """Program to audit: module:function, such as the loss of a model, before it is differentiated.
    The module, which may lie in the current folder, is imported, and this runs its code: name only code that you trust.
    """
    args: str | None = None
    """Arguments of the program: module:name of a tuple, or of a function without parameters that returns one.
    By default the program is called without arguments, or with random ones of the given shapes."""
    shapes: tuple[str, ...] = ()
    """Shapes of arguments drawn from the standard normal distribution: 3,4 5 for two arrays, () for a scalar.
    By default no argument is drawn."""
    on_purpose: tuple[str, ...] = ()
    """Names of functions whose custom derivatives differ on purpose, or paths such as ste.0 for one input."""
    seed: int = 0
    """Seed of everything that is drawn: arguments, iterations of loops and cotangents."""
    json: bool = False
    """Whether JSON is printed instead of a table."""


def run_audit(settings: AuditSettings) -> Report:
    """Audits the program that the settings name.

    Raises:
        ValueError: If a setting is out of range, or if the program or its arguments cannot be imported, do not fit
            together or cannot be traced.
    """
    name = settings.function
    function = import_function(name)
    args = make_arguments(name, function, settings.args, settings.shapes, settings.seed)
    with report_failure(name, "audited", "function"):
        return audit(function, *args, on_purpose=settings.on_purpose, seed=settings.seed)


def main() -> int:
    """Runs the audit that the command line asks for, and prints its report.

    Returns:
        The exit code: 0 if all custom derivatives are right or there are none, 1 if one is wrong, or 2 after a sentence
        on stderr for bad input or if the report cannot be printed.
    """

    def work(settings: AuditSettings, spelling: dict[str, str]) -> int:
        spelling["function"] = "the function"
        report = run_audit(settings)
        print(report.to_json() if settings.json else report)
        return 0 if report.ok else 1

    return run_program(AuditSettings, __doc__, work)
