"""Speed, as ratios of two things run in turn in one process: the median of many rounds.

notebook: 4-50-20-10-3 on Iris, batch 2, 500 epochs in one compiled run, against peers stepping it in their usual loop.
gradient: handwritten : autodiff in a training step of 784-512-512-10, in time, memory and time to compile.
sweep: a thousand small networks on Iris in one program, on one and on two devices of a CPU, against scikit-learn's one
by one; the memory that 4,096 larger ones take.
per_example: norms, noise scale and the clipped mean of 512 examples in that network, against the gradient alone.
script: `train.py` without arguments, as a process of its own with nothing cached, against the time it should take.
check: the gradient check in a new process, from the call to its report, against the time it should take.
folder: a run with a folder against one without, Iris whole, and pieces of a second against one program.
epoch: 60,000 x 784 through that network in batches of 128, against a bare matrix product and the peers' epoch.

Peers that are not installed are left out, with a line that says so. A missed target is a finding, not an error.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial, reduce
from io import StringIO
from itertools import count
from math import ceil, floor, inf, log10
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import tyro
from clippers import clippers
from peers import Job, Run, peers, scikit_learn, training_step

if TYPE_CHECKING:
    from jaxann.nn import Layer, Loss

Row = tuple[str, str, str, str, str]
Section = Literal["notebook", "gradient", "sweep", "per_example", "script", "check", "folder", "epoch"]


@dataclass(frozen=True)
class Config:
    """What to measure, and how thoroughly."""

    sections: tuple[Section, ...] = get_args(Section)
    quick: bool = False
    """A tenth of the rounds and of the epoch's rows: enough to see it work, too few to judge by."""

    def rounds(self, full: int) -> int:
        """How often to repeat what a thorough measurement repeats `full` times."""
        return ceil(full / 10) if self.quick else full


def main(config: Config) -> None:
    """Prints the device and a table for each section."""
    import jax

    from jaxann.training import cpu_devices

    cpu_devices(2)  # of which all but the sweep use one
    jax.config.update("jax_enable_compilation_cache", False)  # where it is on, compiling would be a look-up
    device = jax.devices()[0]
    print(f"jax {jax.__version__} on {device.platform} ({device.device_kind})")
    for section in config.sections:
        rows = globals()[section](config)
        table = [(section, "measured", "ratio", "target", ""), *rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        print(flush=True)


def notebook(config: Config) -> list[Row]:
    """The notebook's job as one compiled run, against peers that take its steps one by one."""
    from sklearn.datasets import load_iris
    from sklearn.preprocessing import StandardScaler

    from jaxann.nn import CrossEntropy, mlp, sigmoid, softmax

    features, labels = load_iris(return_X_y=True)
    x = StandardScaler().fit_transform(features).astype(np.float32)
    t = np.where(labels[:, None] == np.arange(3), 0.98, 0.01).astype(np.float32)
    job = Job((4, 50, 20, 10, 3), "sigmoid", rate=0.5, batch_size=2, epochs=500, x=x, t=t)
    short = job._replace(epochs=10)  # for peers: enough to time a step, and 500 would take them 10 s or more
    run = jaxann_run(job, mlp(job.sizes, sigmoid, softmax), CrossEntropy())
    seconds = in_turn({"jaxann": run, **peers(short)}, config.rounds(20))
    ours = seconds.pop("jaxann") / job.steps
    steps = {name: theirs / short.steps for name, theirs in seconds.items()}
    return [
        versus("a step of jaxann : of 10 µs", (ours, np.array(10e-6)), "s", at_most=1),
        *(versus(f"a step of {name} : of jaxann", (step, ours), "s", at_least=30) for name, step in steps.items()),
    ]


def gradient(config: Config) -> list[Row]:
    """The handwritten gradient against autodiff's, each in a whole jitted training step."""
    import jax

    from jaxann import autodiff, backprop

    rows = []
    for batch_size, rounds in (128, 200), (1024, 60):
        job = random_job(batch_size, batch_size)
        compiles = {route.__name__: compiler(route, job) for route in (backprop, autodiff)}
        steps = {name: compiled() for name, compiled in compiles.items()}
        running = in_turn(steps, config.rounds(rounds))
        memory = [np.array(step.func.memory_analysis().temp_size_in_bytes) for step in steps.values()]
        compiling = in_turn(compiles, config.rounds(20), before=jax.clear_caches)
        rows += [
            versus(f"time, batch {batch_size}", running.values(), "s", at_most=1.02),
            versus(f"temporary memory, batch {batch_size}", memory, "B", at_most=1),
            versus(f"time to compile, batch {batch_size}", compiling.values(), "s", at_most=1),
        ]
    return rows


MANY = """
import resource
import jax.numpy as jnp
import numpy as np
import optax
from jaxann import Examples, SoftmaxCrossEntropy, mlp, relu
from jaxann.devices import cpu_devices
from jaxann.sweep import grid, sweep
from jaxann.training import Recipe

cpu_devices(2)
draw = np.random.default_rng(0)
data = Examples(draw.normal(size=(1437, 64)), draw.integers(10, size=1437))
make = lambda rate: Recipe(mlp((64, 128, 128, 10), relu), SoftmaxCrossEntropy(), optax.adam(rate), 128)
members = grid(seed=range({members} // 8), rate=np.geomspace(1e-4, 1e-2, 8).tolist())
kept = lambda recipe, params, given: params
assert all(one.finite for one in sweep(make, members, data, epochs=2, measure=kept, budget=2**31))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def sweep(config: Config) -> list[Row]:
    """A thousand networks, 100 seeds and 10 rates, 50 epochs in batches of 16, in one sweep and one by one.

    One by one a single network is timed, and counted a thousand times.
    """
    import jax
    import jax.numpy as jnp
    import optax
    from sklearn.datasets import load_iris
    from sklearn.preprocessing import StandardScaler

    from jaxann import sweep as swept
    from jaxann.data import Examples
    from jaxann.nn import SoftmaxCrossEntropy, mlp, sigmoid
    from jaxann.training import Recipe, combinations

    features, labels = load_iris(return_X_y=True)
    x, rows = StandardScaler().fit_transform(features).astype(np.float32), []
    members = combinations(seed=range(100), rate=np.linspace(0.1, 1, 10).tolist())
    for sizes, bound in ((4, 20, 3), 100), ((4, 50, 20, 10, 3), 0):
        job = Job(sizes, "sigmoid", rate=0.1, batch_size=16, epochs=50, x=x, t=labels)

        def make(rate: Any, sizes=sizes) -> Recipe:
            return Recipe(mlp(sizes, sigmoid), SoftmaxCrossEntropy(), optax.sgd(rate), 16)

        def together(devices: int, make=make) -> None:
            data = Examples(jnp.asarray(x), jnp.asarray(labels))
            outcomes = list(swept(make, members, data, epochs=50, devices=jax.devices()[:devices]))
            assert all(outcome.finite for outcome in outcomes)

        began = perf_counter()
        together(2)
        first = np.array(perf_counter() - began)
        runs = {"one by one": scikit_learn(job), "two": partial(together, 2), "one": partial(together, 1)}
        seconds = in_turn(runs, config.rounds(20))
        alone, name = len(members) * seconds["one by one"], "-".join(map(str, sizes))
        rows += [
            versus(f"1,000 networks {name}: scikit-learn : a sweep", (alone, seconds["two"]), "s", at_least=bound),
            versus("on one device : on two", (seconds["one"], seconds["two"]), "s", at_least=1.6),
            versus("scikit-learn : the first sweep, which is compiled", (alone, first), "s"),
        ]
    command = [sys.executable, "-c", MANY.format(members=512 if config.quick else 4096)]
    held = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    many = "all that the process holds for 4,096 networks 64-128-128-10 : of 2 GiB"
    return [*rows, versus(many, (np.array(held), np.array(2.0**31)), "B", at_most=1)]


def per_example(config: Config) -> list[Row]:
    """What each example's gradient adds to the time and memory of the mean one, and what it takes by other means."""
    import jax
    import jax.numpy as jnp

    from jaxann import backprop
    from jaxann.gradients import per_example
    from jaxann.gradients.per_example import clipped_mean, mean, noise_scale, norms
    from jaxann.nn import SoftmaxCrossEntropy, mlp, relu

    job = random_job(512, 512)
    model, loss = mlp(job.sizes, relu), SoftmaxCrossEntropy()
    args = model.init(jax.random.key(0)), jnp.asarray(job.x), jnp.asarray(job.t)

    def of_each(reduce: Callable) -> Callable:
        return lambda *args: reduce(per_example.gradients(model, loss)(*args)[1])

    kinds = {
        "gradient": backprop(model, loss),
        "norms and noise scale beside it": of_each(lambda grads: (mean(grads), norms(grads), noise_scale(grads))),
        "clipped mean": of_each(lambda grads: clipped_mean(grads, 1.0)),
    }
    programs: dict[str, Any] = {name: jax.jit(kind).lower(*args).compile() for name, kind in kinds.items()}
    runs = {name: partial(program, *args) for name, program in programs.items()}
    seconds = in_turn(runs, config.rounds(100))
    memory = {name: np.array(program.memory_analysis().temp_size_in_bytes) for name, program in programs.items()}
    alone, *others = kinds
    rows = [
        versus(f"{name} : {alone}", (seconds[name], seconds[alone]), "s", at_most=bound)
        for name, bound in zip(others, (1.25, 1.3), strict=True)
    ]
    rows += [versus(f"memory, {name}", (memory[name], memory[alone]), "B", at_most=2) for name in others]
    rivals = in_turn({"ours": runs["clipped mean"], **clippers(job)}, config.rounds(5))
    ours = rivals.pop("ours")
    return rows + [versus(f"clipped mean by {name} : ours", (theirs, ours), "s") for name, theirs in rivals.items()]


def script(config: Config) -> list[Row]:
    """Iris from the command line: the whole process, and the training that it reports."""
    command = [sys.executable, str(Path(__file__).with_name("train.py"))]
    training, whole = [], []
    for _ in range(config.rounds(5)):
        began = perf_counter()
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        whole.append(perf_counter() - began)
        training.append(float(re.findall(r"steps in ([\d.]+) s", report)[0]))
    return [
        versus("the whole process : of 8 s", (np.array(whole), np.array(8.0)), "s", at_most=1),
        versus("its training : of 0.5 s", (np.array(training), np.array(0.5)), "s", at_most=1),
    ]


CHECK = """
from time import perf_counter
import jax
import numpy as np
from jaxann import CrossEntropy, check, mlp, relu, sigmoid, softmax

model = mlp({sizes}, {hidden}, softmax)
params = model.init(jax.random.key(0))
draw = np.random.default_rng(0)
x, t = draw.normal(size=({examples}, {sizes}[0])), draw.dirichlet(np.ones({sizes}[-1]), {examples})
began = perf_counter()
check(model, CrossEntropy(), params, x, t).raise_if_wrong()
print(perf_counter() - began)
"""


def check(config: Config) -> list[Row]:
    """The gradient check of two networks, cold: all that it runs is compiled for it."""
    rows = []
    iris, mnist = ((4, 50, 20, 10, 3), "sigmoid", 120, 5.0), ((784, 512, 512, 10), "relu", 64, 10.0)
    for sizes, hidden, examples, bound in (iris, mnist):
        command = [sys.executable, "-c", CHECK.format(sizes=sizes, hidden=hidden, examples=examples)]
        runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(config.rounds(5))]
        seconds = np.array([float(run.stdout) for run in runs])
        what = f"{'-'.join(map(str, sizes))} : of {bound:.0f} s"
        rows.append(versus(what, (seconds, np.array(bound)), "s", at_most=1))
    return rows


def folder(config: Config) -> list[Row]:
    """What a run folder costs, with everything in it: the default run, and a large one in pieces of about a second."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxann.cli import train
    from jaxann.cli.settings import Settings as Training
    from jaxann.data import Examples
    from jaxann.nn import SoftmaxCrossEntropy, mlp, relu
    from jaxann.runs.folder import Folder
    from jaxann.runs.record import Record
    from jaxann.training import Recipe
    from jaxann.training.fit import evaluate
    from jaxann.training.loop import Plan, begin, compile_pieces, train_in_pieces

    with TemporaryDirectory() as place:
        numbers = count()

        def iris(**settings) -> None:
            settings = Training(**settings)
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                train.run(train.prepare(settings), settings)

        def new() -> Path:
            return Path(place) / str(next(numbers))

        whole = in_turn({"plain": iris, "folder": lambda: iris(run=new())}, config.rounds(10))
        job = random_job(4_000 if config.quick else 40_000, batch_size=128)
        recipe = Recipe(mlp(job.sizes, relu), SoftmaxCrossEntropy(), optax.adam(0.001), job.batch_size)
        plan, standing = Plan(epochs=10), begin(recipe, jax.random.key(0))
        data = Examples(jnp.asarray(job.x), jnp.asarray(job.t))
        compiled = compile_pieces(recipe, data, plan, standing) | compile_pieces(
            recipe, data, plan._replace(piece=10), standing
        )
        few = Examples(data.x[:1000], data.t[:1000])

        def look(params) -> tuple[float, dict[str, float]]:
            _, loss = evaluate(recipe.model, recipe.loss, params, few)
            return -float(loss), {"validation_loss": float(loss)}

        def recorded() -> None:
            record, now = Record.open(Folder.create(new(), config={}), standing, tensorboard=True, seconds=10)
            for after, rows in train_in_pieces(recipe, data, plan, now, look, compiled):
                record.add(after, rows)

        runs = {"pieces": recorded, "one program": lambda: compiled[10](standing.state, data)}
        seconds = in_turn(runs, config.rounds(5))
    return [
        versus(
            "Iris, what the folder adds : of 1.5 s", (whole["folder"] - whole["plain"], np.array(1.5)), "s", at_most=1
        ),
        versus("ten pieces, with all between : one program", seconds.values(), "s", at_most=1.02),
    ]


def epoch(config: Config) -> list[Row]:
    """An MNIST-sized epoch in operations a second, against a bare matrix product; and the peers' epochs."""
    from jaxann.nn import SoftmaxCrossEntropy, mlp, relu

    job = random_job(6_000 if config.quick else 60_000, batch_size=128)
    run = jaxann_run(job, mlp(job.sizes, relu), SoftmaxCrossEntropy())
    product, product_flops = matrix_products()
    seconds = in_turn({"jaxann": run, "product": product, **peers(job)}, config.rounds(5))
    ours, bare = seconds.pop("jaxann"), product_flops / seconds.pop("product")
    counted = 6 * sum(n * m for n, m in job.matrices) * len(job.x)  # W x, Wᵀ dy and dy xᵀ: 2 for an entry of W each
    computed = counted - 2 * np.prod(job.matrices[0]) * len(job.x)  # nobody needs Wᵀ dy of the first layer
    return [
        versus("6 x weights x rows : bare product", (counted / ours, bare), "FLOP/s", at_least=0.8),
        versus("the same without the first layer's dx", (computed / ours, bare), "FLOP/s"),
        *(versus(f"an epoch of {name} : of jaxann", (theirs, ours), "s") for name, theirs in seconds.items()),
    ]


def in_turn(runs: dict[str, Run], rounds: int, before: Run = lambda: None) -> dict[str, np.ndarray]:
    """Seconds of every run in every round, A B A B ...; a round before the first warms up and is not counted."""
    import jax

    seconds = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            before()
            began = perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(perf_counter() - began)
    return {name: np.array(measured[1:]) for name, measured in seconds.items()}


def versus(what: str, pair: Iterable[np.ndarray], unit: str, *, at_most: float = inf, at_least: float = 0) -> Row:
    """The pair, the median of its rounds' ratios, the bound that the ratio should keep, and whether it does."""
    a, b = pair
    ratio = np.median(a / b)
    target = f"<= {at_most}" if at_most < inf else f">= {at_least}" if at_least else ""
    verdict = "met" if at_least <= ratio <= at_most else "missed"
    return what, f"{quantity(a, unit)} : {quantity(b, unit)}", f"{ratio:.4g}", target, verdict if target else ""


def quantity(values: np.ndarray, unit: str) -> str:
    """The median, in the multiple of the unit that suits it."""
    median = float(np.median(values))
    thousands = floor(log10(median) / 3) if median else 0
    prefix = ("", "k", "M", "G", "T", "µ", "m")[thousands]  # the last two for -2 and -1
    return f"{median / 1000**thousands:.3g} {prefix}{unit}"


def random_job(rows: int, batch_size: int) -> Job:
    """An epoch of the MNIST-sized network on noise: its values do not change the work."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((rows, 784), np.float32), rng.integers(10, size=rows)
    return Job((784, 512, 512, 10), "relu", rate=0.01, batch_size=batch_size, epochs=1, x=x, t=t)


def compiler(route: Callable, job: Job) -> Run:
    """What traces and compiles, anew at every call, a training step on all of the job's data."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxann.nn import SoftmaxCrossEntropy, mlp, relu

    model, optimizer = mlp(job.sizes, relu), optax.sgd(job.rate)
    params = model.init(jax.random.key(0))
    args = params, optimizer.init(params), jnp.asarray(job.x), jnp.asarray(job.t)

    def compiled():
        step = training_step(route(model, SoftmaxCrossEntropy()), optimizer, optax.apply_updates)
        return partial(jax.jit(step).lower(*args).compile(), *args)

    return compiled


def matrix_products(size: int = 2048, times: int = 8) -> tuple[Run, int]:
    """Float32 products in a row, each of the one before so that they cannot overlap; and their operations."""
    import jax
    import jax.numpy as jnp

    a = jax.random.normal(jax.random.key(0), (size, size)) / size**0.5
    multiply = jax.jit(jnp.matmul)
    return lambda: reduce(multiply, [a] * (times + 1)), times * 2 * size**3


def jaxann_run(job: Job, model: Layer, loss: Loss) -> Run:
    """All epochs as one program, compiled here."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxann.data import Examples
    from jaxann.training import Recipe
    from jaxann.training.recipe import start, train

    recipe = Recipe(model, loss, optax.sgd(job.rate), job.batch_size)
    args = start(recipe, jax.random.key(0)), Examples(jnp.asarray(job.x), jnp.asarray(job.t))
    return partial(train.lower(recipe, *args, job.epochs).compile(), *args)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
