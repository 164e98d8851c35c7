"""The settings of the benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Literal, get_args

Section = Literal[
    "notebook", "gradient", "layers", "images", "text", "sweep", "per_example", "script", "check", "folder", "epoch"
]


@dataclass(frozen=True)
class BenchmarkSettings:
    """What to measure, and how thoroughly."""

    sections: tuple[Section, ...] = get_args(Section)
    quick: bool = False
    """A tenth of the rounds and of the epoch's rows: enough to see that it works, too few to draw conclusions."""

    json: Path | None = None
    """New file for all figures and a description of the machine."""
    compare: Path | None = None
    """File of an earlier --json. What became worse since, beyond the quartiles of both, is printed at the end."""

    def rounds(self, full: int) -> int:
        """Returns the number of rounds of a measurement that takes `full` rounds unless it is quick."""
        return ceil(full / 10) if self.quick else full
