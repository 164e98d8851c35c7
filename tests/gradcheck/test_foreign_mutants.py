"""Every mutant is named in foreign code, too, with the same diagnosis as in a layer.

The NumPy pairs and the PyTorch functions are written as people write them. The functions with a `custom_vjp` are
derived from the mutants of layers, and called in a bare program, an Equinox model or a Flax model, under jit, scan or
vmap in turn. The fast tests have some of each form, and the slow tests have all others.
"""

import pytest
from support.hosts import HOSTS, TRANSFORMATIONS, make_program, make_rule
from support.mutants import CHOICES, MUTANTS
from support.numpy_mutants import PAIRS
from support.selection import choose

from jaxann import audit, check_function, check_gradient
from jaxann.nn.table import format_table

pytestmark = pytest.mark.filterwarnings("ignore:jax.interpreters")  # older libraries use what JAX deprecates

ALL = MUTANTS | CHOICES
PROGRAMS = [(host, transformation) for host in HOSTS for transformation in TRANSFORMATIONS]
PLACES = {name: PROGRAMS[i % len(PROGRAMS)] for i, name in enumerate(ALL)}
TORCH = (
    *("bias: added instead of subtracted", "W: transposed", "W: a tenth of a per cent too long", "W: zero"),
    *("W: one neuron forgotten", "b: twice", "b: summed over the neurons", "dx: W dy instead of its transpose"),
    *("dx: passed through", "tanh: 1 - x²", "tanh: 1 - y", "sigmoid: left out", "relu: the wrong side"),
    *("hard tanh: everywhere", "softmax: the diagonal only", "softmax: without the sum", "softmax: sign"),
    *("layer norm: without the mean", "dropout: without 1 / (1 - rate)", "squared error: without the half"),
)
OTHER_CAUSES = {
    # In a layer the mistake is told as a formula, because it is one at the kink, too.
    ("NumPy", "relu: the wrong side"): "mask",
    ("custom_vjp", "relu: the wrong side"): "mask",
    # The division that is left out has a line of its own. In a program the weights are the same in every call.
    ("NumPy", "batch: weights without their sum"): "factor missing",
    ("custom_vjp", "batch: weights without their sum"): "factor",
    # For one example scale and output have one shape, and an audit tells no parameter from an input.
    ("custom_vjp", "layer norm: dy for its scale"): "derivative missing",
    # JAX itself refuses a gradient of another shape.
    ("custom_vjp", "positions: b not summed"): "raises",
    # JAX cannot trace PyTorch, so that the diagnosis cannot name the mean.
    ("PyTorch", "layer norm: without the mean"): "missing term",
}
CAUSES = {form: {} for form in ("NumPy", "custom_vjp", "PyTorch")}  # by form and mutant: what was found


def assert_named(form, name, report, wrong, expected):
    """Asserts that the expected gradients are wrong for the expected cause, or right but for a choice of a slope."""
    if name in CHOICES:
        assert report.ok, f"\n{report}"
        rows = [row for row in report.rows if row.cause]
        assert rows
        assert all(row.diagnosis.startswith("another choice of slope at a kink") for row in rows)
    else:
        rows = [report[path] for path in report.wrong]
        assert wrong == expected, f"\n{report}"
    CAUSES[form][name] = " + ".join(sorted({row.cause for row in rows}))
    assert CAUSES[form][name] == OTHER_CAUSES.get((form, name), ALL[name].cause), f"\n{report}"


@pytest.mark.parametrize("name", choose(PAIRS, 8))
def test_a_numpy_pair_has_the_diagnosis_of_the_layer(name):
    pair = PAIRS[name]
    check = check_gradient if pair.is_gradient else check_function
    report = check(pair.forward, pair.backward, *pair.args)
    assert_named("NumPy", name, report, set(report.wrong), set(pair.wrong))


@pytest.mark.parametrize("name", choose(ALL, 24))
def test_a_custom_vjp_inside_a_program_has_the_diagnosis_of_the_layer(name):
    host, transformation = PLACES[name]
    if host != "bare":
        pytest.importorskip(host.lower())
    rule = make_rule(ALL[name])
    program, args = make_program(rule, host, transformation)
    report = audit(program, *args)
    paths = rule.paths()
    assert any(row.owner.split(" (")[0] == "rule" for row in report.rows)
    raises = any(row.cause == "raises" for row in report.rows)
    wrong = rule.wrong if raises else {paths[path] for path in report.wrong}
    assert_named("custom_vjp", name, report, wrong, rule.wrong)


@pytest.mark.parametrize("name", choose(TORCH, 5))
def test_a_function_of_pytorch_has_the_diagnosis_of_the_layer(name):
    pytest.importorskip("torch")
    from support.torch_mutants import FUNCTIONS

    from jaxann.interop.torch import torch_pair

    assert set(FUNCTIONS) == set(TORCH)
    function, args, wrong = FUNCTIONS[name]
    report = check_function(*torch_pair(function), *args)
    assert_named("PyTorch", name, report, set(report.wrong), set(wrong))


def test_every_mutant_is_a_numpy_pair_and_a_custom_vjp_and_20_are_functions_of_pytorch():
    assert len(ALL) >= 80
    assert PAIRS.keys() == ALL.keys()
    assert len(set(PLACES.values())) == 9
    assert len(set(TORCH)) == 20
    assert ALL.keys() >= set(TORCH)


def test_the_table_of_the_mutants_and_their_causes_in_every_form(capsys):
    rows = [
        (name, mutant.cause, *(found.get(name, "") for found in CAUSES.values()), " in ".join(PLACES[name][::-1]))
        for name, mutant in ALL.items()
        if any(name in found for found in CAUSES.values())
    ]
    header = "mutant", "layer", *CAUSES, "custom_vjp under"
    with capsys.disabled():
        print(f"\n{format_table([header, *rows])}")
        print(", ".join(f"{form}: {len(found)} mutants named" for form, found in CAUSES.items()))
