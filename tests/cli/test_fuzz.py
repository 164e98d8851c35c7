"""Malformed inputs, drawn by seed: a program succeeds or ends with one sentence, and never raises or hangs."""

import random
import re
import shutil
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from support.malformed import (
    NASTY_TABLES,
    WORDS,
    mutate_arrays,
    mutate_bytes,
    mutate_json,
    mutate_table,
    write_images,
    write_table,
)
from support.programs import call

from jaxann.cli import audit, gradcheck, predict, sweep, train

pytestmark = pytest.mark.slow

PROGRAMS = {"train": train, "sweep": sweep, "predict": predict, "gradcheck": gradcheck, "audit": audit}
QUICK = ("--hidden", "2", "--epochs", "1", "--batch-size", "8", "--precision", "float64")
GRID = (*QUICK, "--grid", "learning_rate=0.1,0.2", "--seeds", "1", "--devices", "1", "--no-plots")
MOST_SECONDS = 15  # for one input
LONGEST = 600  # characters of a sentence


class Hang(BaseException):
    """The exception that ends a program that takes too long."""


@contextmanager
def limit_time() -> Iterator[None]:
    def stop(number, frame):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def find_fault(folder, program, *arguments):
    """Calls a program and returns what was wrong with the way in which it ended, or None."""
    try:
        with limit_time(), warnings.catch_warnings():
            warnings.resetwarnings()  # as in a process of its own
            code, _, err = call(PROGRAMS[program].main, *arguments, folder=folder)
    except (Hang, Exception) as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    lines = [line for line in re.split(r"[\r\n]+", err) if line.strip() and not re.search(r"\d+%\||/s[],]", line)]
    if code == 0 or (code == 1 and program in ("gradcheck", "audit")):
        return f"exit code {code}, and stderr has {lines}" if lines else None
    if code != 2:
        return f"exit code {code}"
    if "For full helptext, " in err:  # this is the box of a usage error
        return None if len(err) < 4000 else f"a box of {len(err)} characters"
    is_sentence = len(lines) == 1 and lines[0].startswith("program.py: ") and len(lines[0]) <= LONGEST
    return None if is_sentence else f"stderr has {[line[:300] for line in lines]}"


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """A folder with a valid input of every kind, with which every program succeeds."""
    folder = tmp_path_factory.mktemp("fuzz")
    write_table(folder / "table.csv")
    write_images(folder / "images")
    draw = np.random.default_rng(0)
    np.savez(folder / "table.npz", x=draw.normal(size=(30, 2)), t=np.arange(30) % 3, weights=np.ones(30))
    run = (*QUICK, "--no-plots", "--no-tensorboard", "--dataset", "table.csv", "--run", "run")
    for program, *arguments in (
        ("train", *run),
        ("sweep", *GRID, "--dataset", "table.csv", "--out", "sweep"),
        ("predict", "run", "--input", "table.csv"),
        ("train", *QUICK, "--dataset", "table.npz"),
        ("train", *QUICK, "--dataset", "images"),
    ):
        assert find_fault(folder, program, *arguments) is None
    return folder


@pytest.fixture
def fuzz(valid, tmp_path):
    """A function that calls programs on changed copies of the valid inputs, and asserts that they have no fault.

    Its arguments are the number of inputs, the function `make` and the first seed. For each seed, `make` gets a random
    generator and a copy of the valid folder. It changes files there and returns a program's name and arguments.
    """

    def run(count, make, first=0):
        faults = []
        for seed in range(first, first + count):
            folder = Path(shutil.copytree(valid, tmp_path / str(seed)))
            arguments = make(random.Random(seed), folder)
            fault = find_fault(folder, *arguments)
            if fault:
                faults.append(f"seed {seed}: {' '.join(map(str, arguments))[:300]}\n    {fault}")
            else:
                shutil.rmtree(folder)
        assert not faults, f"{len(faults)} of {count}\n" + "\n".join(faults)

    return run


def change(draw, path, mutate):
    path.write_bytes(mutate(draw, path.read_bytes()))


def test_a_malformed_table_raises_no_traceback(fuzz):
    def make(draw, folder):
        change(draw, folder / "table.csv", mutate_table)
        if draw.random() < 0.6:
            return "predict", "run", "--input", "table.csv"
        return "train", *QUICK, "--dataset", "table.csv"

    fuzz(90, make)


def test_a_malformed_archive_raises_no_traceback(fuzz):
    def make(draw, folder):
        mutate_arrays(draw, folder / "table.npz")
        if draw.random() < 0.4:
            return "predict", "run", "--input", "table.npz"
        return "train", *QUICK, "--dataset", "table.npz"

    fuzz(60, make)


def test_malformed_images_raise_no_traceback(fuzz):
    def make(draw, folder):
        change(draw, draw.choice(sorted((folder / "images").iterdir())), mutate_bytes)
        return "train", *QUICK, "--dataset", "images"

    fuzz(40, make)


def test_malformed_files_of_settings_and_runs_raise_no_traceback(fuzz):
    def make(draw, folder):
        name = draw.choice(["config", "config", "run/config", "run/data", "run/metrics", "sweep"])
        if name == "config":
            shutil.copy(folder / "run" / "config.json", folder / "config.json")
        file = folder / {"run/metrics": "run/metrics.jsonl", "sweep": draw.choice(SWEEP_FILES)}.get(
            name, f"{name}.json"
        )
        change(draw, file, mutate_bytes if file.suffix == ".jsonl" else mutate_json)
        if name == "sweep":
            return "sweep", *GRID, "--dataset", "table.csv", "--out", "sweep"
        if name == "config":
            return "train", "--config", "config.json", "--epochs", "1"
        if draw.random() < 0.5 and name != "run/metrics":
            return "predict", "run", "--input", "table.csv"
        return "train", "--resume", "run", "--epochs", "1"

    fuzz(110, make)


SWEEP_FILES = ("sweep/sweep.json", "sweep/config.json", "sweep/members.jsonl")
FLAGS = {
    "train": "dataset target weights kind held-out validation scaling hidden activation init-scale dropout loss "
    "label-smoothing class-weights optimizer optimizer-settings learning-rate schedule warmup final weight-decay clip "
    "epochs batch-size evaluate-every patience score seed split precision run checkpoint-seconds keep resume "
    "checkpoint devices model-devices config preset",
    "sweep": "grid grid grid seeds top budget out validation seed learning-rate hidden devices score preset",
    "predict": "input output checkpoint",
    "gradcheck": "layer layer layer shape function args shapes on-purpose plot after json hidden loss seed",
    "audit": "args args shapes shapes on-purpose json seed",
}
VALUES = (
    *WORDS,
    *("0", "-1", "1", "3", "0.5", "-0.5", "1e30", str(10**30), "9" * 5000, "none", "true", "[]", "{}", "--", "-h", "*"),
    *("table.csv", "table.npz", "images", "run", ".", "/", "/dev/null", "/dev/zero", "no/such", "run/config.json", "~"),
    *(
        "sys:exit(0)",
        "os:abort",
        "jaxann.nn:Dense(2, 3)",
        "jaxann.nn:relu",
        "3,4",
        "()",
        "jaxann.nn:Dense(-1, 10**9)",
        ":",
        "a:b()",
    ),
    *("learning_rate=", "learning_rate=0,nan,inf", "hidden=-1,0", "loss=hinge,poisson", "epochs=0", "clip=none,-1"),
    *("check.png", "check.xyz", "kind", "p", "openml:", "balanced", "adam", "b1 2", "2-2", "cosine", "1 2 3"),
)


def test_a_random_command_line_raises_no_traceback(fuzz):
    def make(draw, folder):
        program = draw.choice(list(FLAGS))
        arguments = {
            "train": [*QUICK, "--dataset", "table.csv"],
            "sweep": [*GRID, "--dataset", "table.csv"],
            "predict": ["run", "--input", "table.csv"],
            "gradcheck": ["--layer", "jaxann.nn:tanh", "--shape", "2"],
            "audit": [draw.choice(["jax.nn:softplus", "jax.nn:relu", "jax", "a:b"])],
        }[program]
        for _ in range(draw.choice([1, 1, 2])):
            flag = "--" + draw.choice(FLAGS[program].split())
            choices = [value for value in VALUES if program != "audit" or value != "os:abort"]  # an audit calls it
            values = [draw.choice(choices) for _ in range(draw.choice([0, 1, 1, 1, 1, 2]))]
            arguments = [*arguments, flag, *values]
        return program, *arguments

    fuzz(110, make)


INTEGERS = ("0", "-1", "1", "7", "4294967295", "4294967296", str(2**63), str(10**30), "9" * 400)
FLOATS = ("0", "-0.0", "-1", "1", "0.999999999", "1e-300", "5e-324", "1e300", "-1e300", "nan", "inf", "-inf", "9" * 400)
NUMERIC = {
    **dict.fromkeys(("seed", "split", "evaluate-every", "patience", "batch-size", "checkpoint", "devices"), INTEGERS),
    "keep": INTEGERS,
    **dict.fromkeys(
        ("epochs", "hidden", "model-devices", "keep"), ("0", "-1", "1", "7", str(2**63), str(10**30), "9" * 400)
    ),
    **dict.fromkeys(("held-out", "validation", "init-scale", "dropout", "label-smoothing", "learning-rate"), FLOATS),
    **dict.fromkeys(("warmup", "final", "weight-decay", "clip", "checkpoint-seconds", "class-weights"), FLOATS),
}


def test_numbers_out_of_range_raise_no_traceback(fuzz):
    def make(draw, folder):
        flags = draw.sample(list(NUMERIC), draw.choice([1, 2]))
        settings = {f"--{flag}": draw.choice(NUMERIC[flag]) for flag in flags}
        if draw.random() < 0.2:
            name, values = flags[0].replace("-", "_"), ",".join(sorted(set(draw.sample(NUMERIC[flags[0]], 3))))
            return "sweep", *GRID, "--dataset", "table.csv", "--grid", f"{name}={values}", "--seeds", "1"
        if draw.random() < 0.2:
            numbers = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
            values = [numbers.get(value, value) for value in settings.values()]
            pairs = (f'"{flag.replace("-", "_")}": {value}' for flag, value in zip(flags, values, strict=True))
            (folder / "config.json").write_text(f"{{{', '.join(pairs)}}}")
            return "train", *QUICK, "--config", "config.json", "--dataset", "table.csv"
        return "train", *QUICK, "--dataset", "table.csv", *(word for pair in settings.items() for word in pair)

    fuzz(60, make)


@pytest.mark.parametrize("name", NASTY_TABLES)
def test_a_nasty_table_raises_no_traceback(valid, tmp_path, name):
    path = tmp_path / "nasty.csv"
    path.mkdir() if NASTY_TABLES[name] is None else path.write_bytes(NASTY_TABLES[name])
    assert find_fault(tmp_path, "train", *QUICK, "--dataset", "nasty.csv") is None
    assert find_fault(valid, "predict", "run", "--input", path) is None
    assert find_fault(tmp_path, "sweep", *GRID, "--dataset", "nasty.csv") is None
