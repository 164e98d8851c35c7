"""Programs: what is compiled once, and what is compiled anew because code has changed."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Barrier, Event
from time import sleep
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxann import fit, predict, sweep
from jaxann.data import Examples
from jaxann.nn import Dense, Layer, Sequential, SoftmaxCrossEntropy, mlp
from jaxann.training import Recipe
from jaxann.training.programs import Program, RecentValues, compile_ahead, find_parts

COMPILED = "/jax/core/compile/backend_compile_duration"
X, T = jax.random.normal(jax.random.key(0), (12, 3)), jnp.arange(12) % 2


@pytest.fixture
def compiled(monkeypatch):
    """Counts the programs that XLA has compiled."""
    count = []

    def listen(event, duration, **_):
        if event == COMPILED:
            count.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield count
    jax.monitoring.unregister_event_duration_listener(listen)


def train(optimizer=None, model=None):
    optimizer = optax.adam(0.01) if optimizer is None else optimizer
    model = mlp((3, 4, 2)) if model is None else model
    return fit(model, SoftmaxCrossEntropy(), optimizer, X, T, key=0, epochs=2, batch_size=4)[0]


def test_a_second_fit_with_equal_settings_compiles_nothing(compiled):
    first = train()
    count = len(compiled)
    assert count
    again = train(optax.adam(0.01), mlp((3, 4, 2)))
    assert len(compiled) == count
    jax.tree.map(np.testing.assert_array_equal, first, again)
    other = train(optax.adam(0.02))
    assert len(compiled) > count
    assert np.any(other[0]["W"] != first[0]["W"])


@dataclass(frozen=True)
class Scaled(Layer):
    """y = a x for a number a."""

    a: float

    def forward(self, params, x, key=None):
        return self.a * x, ()

    def backward(self, params, saved, dy):
        return (), self.a * dy


def test_an_edited_method_is_seen_by_the_next_fit_predict_and_sweep(monkeypatch):
    model = Sequential((Dense(3, 4), Scaled(2.0), Dense(4, 2)))
    params = model.init(jax.random.key(1))

    def make(rate):
        return Recipe(model, SoftmaxCrossEntropy(), optax.sgd(rate), 4)

    def measure(recipe, params, data):
        return params

    def run_all():
        outcomes = sweep(make, [{"seed": 0, "rate": 0.1}], Examples(X, T), epochs=2, traced=("rate",), measure=measure)
        return train(model=model), predict(model, params, X), next(iter(outcomes)).measured

    before = run_all()
    jax.tree.map(np.testing.assert_array_equal, run_all(), before)
    monkeypatch.setattr(Scaled, "backward", lambda self, params, saved, dy: ((), 0 * dy))
    trained, predicted, swept = run_all()
    np.testing.assert_array_equal(predicted, before[1])
    for edited, original in ((trained, before[0]), (swept, before[2])):
        np.testing.assert_array_equal(np.ravel(edited[0]["b"]), 0)  # no gradient reaches the first layer
        assert np.any(original[0]["b"] != 0)
    monkeypatch.undo()
    jax.tree.map(np.testing.assert_array_equal, run_all(), before)

    def double(self, params, x, key=None):
        return 2 * self.a * x, ()

    monkeypatch.setattr(Scaled.forward, "__code__", double.__code__)  # as a module that is loaded again does
    assert np.any(run_all()[1] != before[1])


def test_a_program_is_its_function_in_other_programs_and_with_other_arguments():
    program = Program(lambda x, n, y=1.0: n * x + y, ("n",), {})
    assert program(2.0, 3) == 7
    assert program(np.arange(3.0), n=3, y=2.0).tolist() == [2, 5, 8]
    assert jax.vmap(lambda x: program(x, 3))(jnp.arange(3.0)).tolist() == [1, 4, 7]
    options = {"xla_backend_optimization_level": "1"}  # which only the outermost program may have
    inner = Program(lambda x, n: n * x, ("n",), options)
    assert jax.jit(lambda: inner(2.0, 3))() == inner(2.0, 3) == 6
    with jax.enable_x64(False):
        assert program(np.float64(2), 3).dtype == np.float32
    assert program(np.float64(2), 3).dtype == np.float64
    with pytest.raises(TypeError, match="unhashable"):
        program(2.0, [3])


def test_a_program_whose_shapes_are_known_is_not_traced_again():
    traced = []
    program = Program(lambda x, n: traced.append(n) or n * x, ("n",), {})
    assert program.eval_shape(jnp.arange(3.0), 2) == jax.ShapeDtypeStruct((3,), jnp.float64)
    assert program(jnp.arange(3.0), 2).tolist() == [0, 2, 4]
    assert program.lower(jnp.arange(3.0), 2).compile()(jnp.ones(3)).tolist() == [2, 2, 2]
    assert traced == [2]


def test_threads_that_ask_at_once_get_one_value():
    def make():
        made.append(1)
        sleep(0.05)
        return len(made)

    made, values = [], RecentValues()
    with ThreadPoolExecutor(4) as threads:
        assert {*threads.map(lambda _: values.get_or_make("key", make), range(4))} == {1}


def test_a_method_with_other_values_in_its_closure_is_another_one(monkeypatch):
    model = Sequential((Scaled(1.0), Dense(3, 2)))
    params = model.init(jax.random.key(1))

    def scale(factor):
        return lambda self, params, x, key=None: (factor * x, ())

    outputs = []
    for factor in (1.0, 5.0):
        monkeypatch.setattr(Scaled, "forward", scale(factor))
        outputs.append(predict(model, params, X))
    assert np.any(outputs[0] != outputs[1])


def test_programs_that_call_python_are_not_shared():
    def compute(factor):
        def multiply(x):
            return jax.pure_callback(lambda x: factor * np.asarray(x), jax.typeof(x), x)

        return Program(lambda x, f: f(x), ("f",), {})(jnp.arange(3.0), multiply)

    assert [compute(factor).tolist() for factor in (1, 3)] == [[0, 1, 2], [0, 3, 6]]


def test_a_program_keeps_no_arguments():
    x = jnp.arange(7.0)
    Program(lambda x, n: n * x, ("n",), {})(x, 2)
    reference = weakref.ref(x)
    del x
    gc.collect()
    assert reference() is None


def test_functions_and_traced_numbers_are_found_wherever_they_are():
    def function():
        return later

    model = Sequential((Dense(3, 4), Scaled(2.0)))
    containers = {"model": (model, [partial(function, 1)]), "bound": model.forward}
    parts = find_parts(containers)
    for method in (Dense.forward, Dense.backward, Scaled.backward, Sequential.backward, function):
        assert method in parts
    later = 1.0  # has no value when it is looked for
    found = []

    def collect(rate):
        found.extend(find_parts(container) for container in ({"rate": rate}, partial(function, rate), [rate]))
        return rate

    jax.vmap(collect)(jnp.array([0.1, 0.2]))
    assert all(any(isinstance(part, jax.core.Tracer) for part in parts) for parts in found)


def test_numbers_inside_any_optimizer_are_mapped_over():
    def run(rate):
        optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=rate)
        return fit(mlp((3, 4, 2)), SoftmaxCrossEntropy(), optimizer, X, T, key=0, epochs=2, batch_size=4)[1].loss

    for _ in range(2):
        losses = jax.vmap(run)(jnp.array([0.1, 0.5]))
        assert losses[0, -1] != losses[1, -1]


def lowering(make):
    return lambda: SimpleNamespace(compile=make)


def test_programs_are_compiled_side_by_side_and_come_in_order():
    both, events = Barrier(2, timeout=20), [Event() for _ in range(3)]

    def compile_first():
        both.wait()
        assert events[1].wait(20)
        return "first"

    def compile_second():
        both.wait()
        events[1].set()
        return "second"

    programs = compile_ahead([lowering(compile_first), lowering(compile_second), lowering(lambda: "third")], 2)
    assert [future.result() for future in programs] == ["first", "second", "third"]


def test_what_goes_wrong_is_raised_when_it_is_the_programs_turn():
    def fail():
        raise ValueError("no such program")

    programs = compile_ahead([lowering(lambda: 0), fail, lowering(fail), lowering(lambda: 3)], 2)
    assert next(programs).result() == 0
    for _ in range(2):
        with pytest.raises(ValueError, match="no such program"):
            next(programs).result()
    assert next(programs).result() == 3
    assert list(programs) == []


@pytest.mark.parametrize("ahead", [0, 2])
def test_only_so_many_programs_are_compiled_ahead_and_none_after_the_end(ahead):
    lowered, end = [], Event()
    compiled = SimpleNamespace(compile=lambda: end.wait(20))
    programs = compile_ahead([lambda i=i: lowered.append(i) or compiled for i in range(9)], ahead)
    next(programs)
    assert lowered == list(range(ahead + 1))
    programs.close()  # does not wait for what is being compiled
    assert lowered == list(range(ahead + 1))
    end.set()
