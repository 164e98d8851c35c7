"""What came of a sweep: its combinations of settings with the scores of their members, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxann.cli.grid import format_value

Row = dict[str, Any]


class Summary(NamedTuple):
    """A combination of settings, and what its members came to: those that diverged are only counted."""

    settings: Row
    scores: list[float]
    losses: list[float]
    diverged: int

    def rank(self) -> tuple[float, float]:
        """The less the better."""
        return (-float(np.mean(self.scores)), float(np.mean(self.losses))) if self.scores else (inf, inf)


def summarize(rows: list[Row], combinations: list[Row], part: str) -> list[Summary]:
    """Those of the combinations that have rows."""
    found = []
    for settings in combinations:
        here = sorted((row for row in rows if row["settings"] == settings), key=lambda row: row["seed"])
        good = [row for row in here if not row["diverged"]]
        losses = [inf if row[f"{part}_loss"] is None else row[f"{part}_loss"] for row in good]
        if here:
            found.append(Summary(settings, [row[f"{part}_score"] for row in good], losses, len(here) - len(good)))
    return found


def format_summaries(found: list[Summary], part: str, measure: str) -> str:
    """A row a combination."""
    rows: list[tuple[str, ...]] = [(*found[0].settings, f"{part} {measure}", f"{part} loss", "diverged")]
    for settings, scores, losses, diverged in found:
        spread = f" ± {np.std(scores, ddof=1):.3f}" if len(scores) > 1 else ""
        means = (f"{np.mean(scores):.3f}{spread}", f"{np.mean(losses):.4f}") if scores else ("", "")
        note = f"{diverged} of {diverged + len(scores)}" if diverged else ""
        rows.append((*map(format_value, settings.values()), *means, note))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def plot_summaries(found: list[Summary], swept: Mapping[str, list[Any]], path: Path, measure: str) -> None:
    """The scores over the numeric setting with most values, a line for each combination of the others."""
    from jaxann.runs.plots import plot_scores

    several = [name for name, values in swept.items() if len(values) > 1]
    numeric = [name for name in several if all(isinstance(value, (int, float)) for value in swept[name])]
    if not several:
        return
    x, lines = max(several, key=lambda name: (name in numeric, len(swept[name]))), {}
    for settings, scores, *_ in found:
        line = ", ".join(f"{name} {format_value(settings[name])}" for name in several if name != x)
        lines.setdefault(line, {})[settings[x] if x in numeric else format_value(settings[x])] = scores
    plot_scores(lines, x, f"validation {measure}").savefig(path, dpi=150)
