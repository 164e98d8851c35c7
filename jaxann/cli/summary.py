"""Summaries of a sweep: the scores of each combination of settings over its seeds, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxann.cli.grid import format_value
from jaxann.cli.scores import LOSS, Score
from jaxann.nn.table import format_table
from jaxann.runs.files import write_picture
from jaxann.runs.plots import plot_scores

Row = dict[str, Any]


class Summary(NamedTuple):
    """A combination of settings, and the results of its members.

    Attributes:
        settings: The settings that the grid varies.
        scores: The score of each member that has not diverged.
        losses: The loss of each member that has not diverged.
        diverged: The number of members that have diverged.
    """

    settings: Row
    scores: list[float]
    losses: list[float]
    diverged: int

    def rank(self, score: Score) -> tuple[float, float]:
        """Returns a key by which the best summary is sorted first, according to the score and then to the loss."""
        if not self.scores:
            return inf, inf
        return -score.orient(float(np.mean(self.scores))), float(np.mean(self.losses))


def summarize(rows: list[Row], candidates: list[Row], part: str) -> list[Summary]:
    """Summarizes the members of each combination of settings. A combination without members is left out.

    Args:
        rows: A row for each member that has been trained.
        candidates: The combinations of settings.
        part: The part on which the members were scored, "validation" or "test".
    """
    summaries = []
    for settings in candidates:
        members = sorted((row for row in rows if row["settings"] == settings), key=lambda row: row["seed"])
        good = [row for row in members if not row["diverged"]]
        losses = [inf if row[f"{part}_loss"] is None else row[f"{part}_loss"] for row in good]
        if members:
            scores = [row[f"{part}_score"] for row in good]
            summaries.append(Summary(settings, scores, losses, len(members) - len(good)))
    return summaries


def format_summaries(summaries: list[Summary], part: str, score: Score) -> str:
    """Returns a table with a line for each summary: its mean score ± one standard deviation, and its mean loss.

    Args:
        summaries: The summaries, at least one.
        part: The part on which the members were scored, "validation" or "test".
        score: The score. If it is the loss, the table has one column for both.
    """
    columns = [f"{part} {score.name}"] if score is LOSS else [f"{part} {score.name}", f"{part} loss"]
    rows: list[tuple[str, ...]] = [(*summaries[0].settings, *columns, "diverged")]
    for settings, scores, losses, diverged in summaries:
        spread = f" ± {score.format(np.std(scores, ddof=1))}" if len(scores) > 1 else ""
        means = (f"{score.format(np.mean(scores))}{spread}", f"{np.mean(losses):.4f}") if scores else ("", "")
        means = means[: len(columns)]
        note = f"{diverged} of {diverged + len(scores)}" if diverged else ""
        rows.append((*map(format_value, settings.values()), *means, note))
    return format_table(rows)


def plot_summaries(summaries: list[Summary], grid: Mapping[str, list[Any]], path: Path, score: Score) -> None:
    """Draws the validation scores over the setting with the most values, preferably a number, into a file.

    Each combination of the other settings has its own line. If no setting has several values, nothing is drawn.

    Args:
        summaries: The summaries.
        grid: The values of each setting.
        path: The file.
        score: The score.

    Raises:
        OSError: If the file cannot be written.
    """
    several = [name for name, values in grid.items() if len(values) > 1]
    numeric = [name for name in several if all(isinstance(value, (int, float)) for value in grid[name])]
    if not several:
        return
    x, lines = max(several, key=lambda name: (name in numeric, len(grid[name]))), {}
    for settings, scores, *_ in summaries:
        line = ", ".join(f"{name} {format_value(settings[name])}" for name in several if name != x)
        lines.setdefault(line, {})[settings[x] if x in numeric else format_value(settings[x])] = scores
    write_picture(path, plot_scores(lines, x, f"validation {score.name}", lower_is_better=score.lower_is_better))
