"""A network that does not fit into the free memory is refused before any of it is computed."""

import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax
import pytest
from support.programs import call
from support.selection import choose

from jaxann import autodiff, fit
from jaxann.cli.train import main
from jaxann.data import Examples
from jaxann.data.batches import make_lanes
from jaxann.nn import CrossEntropy, MixedPrecision, SquaredError, gelu, mlp, relu, sigmoid, softmax
from jaxann.training import Recipe, memory
from jaxann.training.devices import make_mesh
from jaxann.training.loop import begin
from jaxann.training.memory import free_memory, validate_memory
from jaxann.training.recipe import start, train

KEY = jax.random.key(0)
X, T = jnp.ones((12, 4)), jnp.full((12, 3), 1 / 3)


def recipe(*hidden, batch_size=12, activation=sigmoid, optimizer=optax.sgd(0.1), wrap=lambda model: model):  # noqa: B008
    return Recipe(wrap(mlp((4, *hidden, 3), activation, softmax)), CrossEntropy(), optimizer, batch_size)


def set_free(monkeypatch, size):
    monkeypatch.setattr(memory, "free_memory", lambda device: size)
    monkeypatch.setattr(memory, "_ALWAYS_ALLOWED", 0)


CASES = {
    "parameters": recipe(700, 800),
    "one example": recipe(700, 800, batch_size=1),
    "optimizer state": recipe(700, 800, activation=relu, optimizer=optax.adam(0.1)),
    "activations": recipe(50_000, activation=gelu, batch_size=100),
    "activations of which only the outputs are needed": recipe(3000, 50, 3000, batch_size=100),
    "bfloat16": recipe(3000, 50, 3000, batch_size=100, wrap=MixedPrecision),
}


@pytest.mark.parametrize("name", choose(CASES, 3))
def test_the_bytes_counted_are_at_most_those_of_the_compiled_program(name, monkeypatch):
    case = CASES[name]
    examples = Examples(jnp.ones((2 * case.batch_size, 4)), jnp.full((2 * case.batch_size, 3), 1 / 3))
    program = train.lower(
        case, jax.eval_shape(partial(start, case), KEY), make_lanes(examples, case.batch_size), 1
    ).compile()
    sizes = program.memory_analysis()
    needed = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
    set_free(monkeypatch, needed)
    validate_memory(case, KEY, (4,))
    set_free(monkeypatch, needed // 6)
    with pytest.raises(ValueError, match="expected a network that trains in the"):
        validate_memory(case, KEY, (4,))


def test_the_sentence_names_the_parts_and_their_sizes(monkeypatch):
    set_free(monkeypatch, 3 * 2**20)
    width = 2**14
    case = recipe(width, optimizer=optax.sgd(0.1, momentum=0.9))
    count = 8 * (4 * width + width + 3 * width + 3)  # bytes of the parameters in float64
    saved = 12 * 8 * (4 + width + 3)  # x, the hidden layer's output, and that of the softmax
    needed = 4 * count + saved
    with pytest.raises(ValueError, match="expected a network that trains in") as error:
        validate_memory(case, KEY, (4,))
    state = f"{2 * count / 2**20:.1f} MiB"
    assert str(error.value) == (
        "expected a network that trains in the 3.0 MiB of free memory, got one that needs at least "
        f"{needed / 2**20:.1f} MiB (parameters before and after an update {state}, optimizer state before and after an "
        f"update {state}, activations of a batch {saved / 2**20:.1f} MiB)"
    )
    set_free(monkeypatch, needed)
    validate_memory(case, KEY, (4,))
    set_free(monkeypatch, needed - 1)
    with pytest.raises(ValueError, match="expected a network that trains in the"):
        validate_memory(case, KEY, (4,))


@pytest.mark.parametrize("hidden", [(10**6, 10**6), (2**31 - 1,)])
def test_no_run_begins_with_a_network_beyond_memory(hidden):
    case = recipe(*hidden)
    sentence = r"trains in the .* of free memory, got one that needs at least [0-9,.]+ GiB \(parameters "
    with pytest.raises(ValueError, match=sentence):
        fit(*case[:3], X, T, key=KEY, epochs=1, batch_size=12)
    for mesh in (None, make_mesh(2, 1)):
        with pytest.raises(ValueError, match=sentence):
            begin(case, KEY, mesh)
    ended = call(main, "--hidden", *hidden, "--epochs", 1)
    assert ended.code == 2
    assert re.search(sentence, ended.sentence)


def test_a_batch_whose_activations_are_beyond_memory_is_refused(monkeypatch):
    case, lanes = recipe(100), make_lanes(Examples(X, T), 12)
    set_free(monkeypatch, 20_000)  # the parameters take twice 6 kB, and the activations of the batch 10 kB
    begin(case, KEY)
    with pytest.raises(ValueError, match=r"activations of a batch 10\.0 KiB\)"):
        begin(case, KEY, lanes=lanes)
    begin(case, KEY, make_mesh(2, 1), lanes)  # two devices share them
    begin(case._replace(gradient=autodiff), KEY, lanes=lanes)


def test_a_traced_or_small_run_is_not_checked(monkeypatch):
    def fail(device):
        raise AssertionError("asked for the free memory")

    monkeypatch.setattr(memory, "free_memory", fail)
    arguments = (mlp((4, 3)), SquaredError(), optax.sgd(0.1), X, T)
    fit(*arguments, key=KEY, epochs=1, batch_size=12)
    monkeypatch.setattr(memory, "_ALWAYS_ALLOWED", 0)
    jax.vmap(lambda key: fit(*arguments, key=key, epochs=1, batch_size=12)[0])(jax.random.split(KEY))


def test_the_default_precision_counts(monkeypatch):
    case = recipe(100)
    for is_double, size in ((True, 16 * 803), (False, 8 * 803)):  # twice 803 parameters
        jax.config.update("jax_enable_x64", is_double)
        set_free(monkeypatch, size + 100)
        validate_memory(case, KEY)
        set_free(monkeypatch, size - 1)
        with pytest.raises(ValueError, match="expected a network that trains in the"):
            validate_memory(case, KEY)


def test_a_device_that_does_not_report_its_memory_refuses_nothing(monkeypatch):
    set_free(monkeypatch, None)
    validate_memory(recipe(10**12), KEY)


def test_the_free_memory_of_an_accelerator_is_its_limit_without_what_is_in_use():
    for stats, free in (({"bytes_limit": 100, "bytes_in_use": 30}, 70), ({"bytes_in_use": 30}, None), (None, None)):
        assert free_memory(SimpleNamespace(platform="gpu", memory_stats=lambda stats=stats: stats)) == free


def write_group(folder, limit, usage, cache, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(names, (str(limit), str(usage), f"anon 5\n{names[3]} {cache}\n"), strict=False):
        (folder / name).write_text(text)


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file")
V2 = ("memory.max", "memory.current", "memory.stat", "inactive_file")


def test_limits_of_control_groups_count(tmp_path):
    memberships = tmp_path / "cgroup"

    def read(text):
        memberships.write_text(text)
        return memory._read_control_groups(memberships, tmp_path)

    assert memory._read_control_groups(tmp_path / "none", tmp_path) == []
    write_group(tmp_path / "outer", 1000, 500, 200, V2)
    write_group(tmp_path / "outer" / "inner", "max", 400, 100, V2)
    write_group(tmp_path / "memory", 800, 700, 0, V1)
    assert read("0::/outer/inner\n") == [700]  # the limit of the group around it; cached files give way
    assert read("12:cpu,cpuacct:/\n9:memory:/docker/7f3a\n0::/\n") == [100]  # the path on the host is not visible
    write_group(tmp_path / "outer", 1000, 1300, 200, V2)
    assert read("0::/outer\n") == [0]


def test_the_free_memory_of_a_cpu_is_that_of_its_smallest_limit(monkeypatch):
    device = jax.devices("cpu")[0]
    monkeypatch.setattr(memory, "_read_control_groups", lambda: [2**62, 12345])
    assert free_memory(device) == 12345
    monkeypatch.setattr(memory, "_read_control_groups", list)
    assert 2**20 < free_memory(device) < 2**62
