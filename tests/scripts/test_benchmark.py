"""`scripts/benchmark`: the lines of its tables, and that it starts from any folder."""

import importlib
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from benchmark.measurement import compare, format_quantity, time_in_turn
from support.paths import ENVIRONMENT, SCRIPTS


def benchmark(folder, *arguments):
    command = [sys.executable, SCRIPTS / "benchmark", *arguments]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00329, "3.29 ms"), (7.25e-6, "7.25 µs"), (100, "100 s"), (2.15e9, "2.15 Gs"), (0, "0 s"), (-0.02, "-20 ms")],
)
def test_quantities_have_a_prefix_of_their_unit(value, text):
    assert format_quantity(value, "s") == text


def test_the_ratio_is_the_median_of_the_rounds():
    pair = np.array([1.0, 2.0, 90.0]), np.array([2.0, 2.0, 3.0])
    row = compare("a : b", pair, "s", at_most=1.02)
    assert row.cells() == ("a : b", "2 s : 2 s", "1", "0.75 to 15.5", "<= 1.02", "met")
    assert compare("a : b", pair, "s", at_least=30).cells()[4:] == (">= 30", "missed")
    assert compare("a : b", pair, "s").cells()[4:] == ("", "")


@pytest.mark.parametrize(
    ("target", "is_worse"),
    [({"at_most": 2}, {0.5: False, 1.0: False, 3.0: True}), ({"at_least": 2}, {0.5: True, 1.0: False, 3.0: False})],
)
def test_a_figure_is_worse_if_its_quartiles_lie_beyond_the_earlier_ones(target, is_worse):
    noise, one = np.linspace(0.9, 1.1, 9), np.ones(9)
    before = compare("a : b", (noise, one), "s", **target)
    for factor, expected in is_worse.items():
        assert compare("a : b", (factor * noise, one), "s", **target).worsens(before) == expected


@pytest.mark.slow
def test_figures_are_written_and_compared(tmp_path):
    """The figures of a file, made worse by hand, and those that are measured anew."""
    benchmark(tmp_path, "--quick", "--sections", "gradient", "--json", "new.json")
    content = json.loads((tmp_path / "new.json").read_text())
    assert {"jax", "python", "cores", "device"} <= content["machine"].keys()
    (row, *_) = content["sections"]["gradient"]
    assert row["low"] <= row["ratio"] <= row["high"]
    for name in ("low", "ratio", "high"):
        row[name] /= 10
    (tmp_path / "old.json").write_text(json.dumps(content))
    text = benchmark(tmp_path, "--quick", "--sections", "gradient", "--compare", "old.json")
    assert f"worse: gradient: {row['what']}: " in text


def test_runs_take_turns_and_the_first_round_is_not_counted():
    order = []
    seconds = time_in_turn({name: lambda name=name: order.append(name) for name in "ab"}, 2, lambda: order.append("-"))
    assert "".join(order) == "-a-b" * 3
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_it_starts_from_any_folder(tmp_path):
    text = benchmark(tmp_path, "--help")
    assert "--sections" in text
    assert "per_example: norms, noise scale and clipped mean" in text


@pytest.mark.slow
def test_sections_print_their_tables(tmp_path):
    text = benchmark(tmp_path, "--quick", "--sections", "gradient", "script", "check", "folder")
    heads = [line.split()[:3] for line in text.splitlines() if "measured" in line]
    assert heads == [[section, "measured", "ratio"] for section in ("gradient", "script", "check", "folder")]


# Clippers.


@pytest.fixture
def load_module(monkeypatch):
    """Returns a function that imports a module of the benchmark by the bare name that the other modules use."""
    monkeypatch.syspath_prepend(SCRIPTS / "benchmark")
    return importlib.import_module


def draw_labelled(*shape):
    """Returns examples [B, ...], a few of which have gradients of norms below 1, and their labels below 3."""
    generator = np.random.default_rng(0)
    scales = np.linspace(0.01, 4, shape[0]).reshape(-1, *(1 for _ in shape[1:]))
    return scales * generator.standard_normal(shape), generator.integers(3, size=shape[0])


def assert_same(actual, expected):
    """Compares every part to 2e-6 of its largest entry, because Opacus adds 1e-6 to each norm."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=2e-6 * np.abs(np.asarray(b)).max())


@pytest.mark.filterwarnings("ignore")  # of the libraries
def test_clippers_return_the_same_mean(load_module, capsys):
    job = load_module("jobs").make_random_job(16, 16)._replace(sizes=(6, 5, 7, 3))
    x, t = draw_labelled(16, 6)
    runs = load_module("clippers").prepare_clippers(job._replace(x=x, t=t))
    expected = runs.pop("vmap(grad)")()
    assert {"eights in a scan", "optax"} <= runs.keys()
    for run in runs.values():
        for _ in range(2):  # state of the first run must not change the second one
            assert_same(run(), expected)
    lines = capsys.readouterr().out
    assert f"vmap(grad): jax {jax.__version__}\n" in lines
    assert ("opacus: opacus " in lines) == ("opacus" in runs)


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("library", ["opacus", "backpack"])
def test_clippers_in_pytorch_take_convolutions(load_module, library):
    torch = pytest.importorskip("torch")
    pytest.importorskip(library)
    clippers, nn = load_module("torch_clippers"), torch.nn

    def build():
        torch.manual_seed(0)
        pool = nn.ReLU(), nn.MaxPool2d(2)
        layers = nn.Conv2d(1, 2, 3, padding=1), *pool, nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 3)
        return nn.Sequential(*layers).to(torch.float64)

    x, t = draw_labelled(9, 1, 6, 6)
    job, model = clippers.TorchJob(build, x, t), build()
    losses = nn.functional.cross_entropy(model(torch.tensor(x)), torch.tensor(t), reduction="none")
    grads = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in losses]
    norms = torch.stack([torch.stack([g.square().sum() for g in grad]).sum().sqrt() for grad in grads])
    assert norms.min() < 1 < norms.max()
    factors = 1 / norms.clamp(min=1)
    mean = [torch.stack(parts).mean(0) for parts in zip(*grads, strict=True)]
    clipped = [torch.tensordot(factors, torch.stack(parts), 1) / 9 for parts in zip(*grads, strict=True)]
    for prepare, expected in (
        (clippers.prepare_torch_clippers, clipped),
        (clippers.prepare_torch_norms, (mean, norms)),
    ):
        runs = {name: run for name, run in prepare(job).items() if library in name}
        assert runs
        for run in runs.values():
            for _ in range(2):
                assert_same([part.detach() for part in jax.tree.leaves(run())], expected)
