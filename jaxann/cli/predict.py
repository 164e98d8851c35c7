"""Predict with a run's best parameters: from a .csv's named columns, or an .npz file's x, to a .csv.

A column for the prediction and, where there are classes, one for the probability of each.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxann.cli.settings import Settings
from jaxann.cli.task import DataDescription, make_network


@dataclass(frozen=True)
class Arguments:
    """Whose parameters, and what to predict from."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    input: Path
    """A .csv with the columns that the run was trained on, in any order, or an .npz file with x."""
    output: Path | None = None
    """Where to write; None prints."""
    checkpoint: int | None = None
    """Take what was best at the checkpoint of this epoch instead of the last."""


def predict_rows(arguments: Arguments) -> list[list[Any]]:
    """A row of names, then one for each example. Raises ValueError for what does not fit, ImportError without orbax."""
    import jax
    import numpy as np

    from jaxann.data.splits import Scaling
    from jaxann.data.tables import read_features
    from jaxann.data.targets import Targets
    from jaxann.data.validation import validate_features
    from jaxann.runs.checkpoints import Checkpoints
    from jaxann.runs.folder import Folder
    from jaxann.training.fit import predict

    folder = Folder(arguments.run, reader=True)
    config, known = Settings.from_file(folder.path / "config.json"), DataDescription.read(folder)
    jax.config.update("jax_enable_x64", config.precision == "float64")
    classes, targets = known.classes, Targets(**known.targets)
    x = read_features(str(arguments.input), tuple(known.columns), (known.target, config.weights))
    scaling = Scaling(np.array(known.mean), np.array(known.sd))
    model, _ = make_network(config, len(known.columns), targets)
    like = jax.jit(model.init)(jax.random.key(0))
    params = Checkpoints(folder.path / "checkpoints", reader=True).best(like, arguments.checkpoint)
    y = np.asarray(predict(model, params, validate_features(scaling(x))))
    found, probabilities = targets.decode(y), targets.probabilities(y)
    rows = [[classes[label] if classes else repr(float(label))] for label in found]
    names: list[str] = [known.target]
    if probabilities is not None:
        names += [f"P({name})" for name in classes]
        rows = [row + [repr(float(p)) for p in more] for row, more in zip(rows, probabilities, strict=True)]
    return [names, *rows]


def main() -> int:
    """0; 2 for bad input, after one sentence."""
    arguments = tyro.cli(Arguments, description=__doc__)
    try:
        rows = predict_rows(arguments)
        if arguments.output is None:
            csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
        else:
            with arguments.output.open("x", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)
    except (ValueError, OSError, ImportError) as error:
        print(f"predict.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
