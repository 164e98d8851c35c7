"""The section on many networks: a thousand in one program against one after the other, and the memory of 4,096."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import numpy as np
import optax
from jobs import Job, load_standardized_iris, make_examples
from measurement import Row, compare, time_in_turn
from peers import scikit_learn
from settings import BenchmarkSettings

from jaxann import sweep
from jaxann.nn import SoftmaxCrossEntropy, mlp, sigmoid
from jaxann.training import Recipe, combinations


def measure_sweep(settings: BenchmarkSettings) -> list[Row]:
    """Measures a thousand networks (100 seeds, 10 rates, 50 epochs, batches of 16) in one sweep and one by one.

    For the latter, one network of scikit-learn is timed, and its time is multiplied by a thousand.
    """
    x, labels = load_standardized_iris()
    members = combinations(seed=range(100), rate=np.linspace(0.1, 1, 10).tolist())
    rows = []
    for sizes, bound in ((4, 20, 3), 100), ((4, 50, 20, 10, 3), 0):
        job = Job(sizes, "sigmoid", rate=0.1, batch_size=16, epochs=50, x=x, t=labels)

        def make_recipe(rate: Any, sizes=sizes) -> Recipe:
            return Recipe(mlp(sizes, sigmoid), SoftmaxCrossEntropy(), optax.sgd(rate), 16)

        def run_sweep(devices: int, job=job, make_recipe=make_recipe) -> None:
            examples, devices_used = make_examples(job), jax.devices()[:devices]
            outcomes = sweep(make_recipe, members, examples, epochs=50, traced=["rate"], devices=devices_used)
            assert all(outcome.finite for outcome in list(outcomes))

        start = perf_counter()
        run_sweep(2)
        first = np.array(perf_counter() - start)
        runs = {"one by one": scikit_learn(job), "two": partial(run_sweep, 2), "one": partial(run_sweep, 1)}
        seconds = time_in_turn(runs, settings.rounds(20))
        alone, name = len(members) * seconds["one by one"], "-".join(map(str, sizes))
        rows += [
            compare(f"1,000 networks {name}: scikit-learn : a sweep", (alone, seconds["two"]), "s", at_least=bound),
            compare("on one device : on two", (seconds["one"], seconds["two"]), "s", at_least=1.6),
            compare("scikit-learn : the first sweep, which is compiled", (alone, first), "s"),
        ]
    command = [sys.executable, str(Path(__file__).with_name("sweep_memory.py")), "512" if settings.quick else "4096"]
    held = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    what = "all that the process holds for 4,096 networks 64-128-128-10 : of 2 GiB"
    return [*rows, compare(what, (np.array(held), np.array(2.0**31)), "B", at_most=1)]
