"""The audit inside what programs are made of: kernels, loops, models of other libraries, and rules of every form."""

import jax
import jax.numpy as jnp
import pytest
from support.audited import PROGRAMS, REPORTS, G, X, make_rule
from support.selection import choose

from jaxann import audit

pytestmark = pytest.mark.filterwarnings("ignore:jax.interpreters")  # older libraries use what JAX deprecates
OTHERS = {"equinox_loss": "equinox", "equinox_model_as_an_argument": "equinox", "nnx_loss": "flax"}
OTHERS |= {"linen_loss_with_scan_and_remat": "flax"}
DIFFERENCES = ("pallas_kernel", "host_callback")


def wrong_functions(report):
    """The names of the functions with a wrong rule."""
    return {row.owner.split(" (")[0] for row in report.rows if row.path in report.wrong}


@pytest.mark.parametrize("name", choose(PROGRAMS, 8))
def test_a_wrong_rule_is_named_and_a_right_one_is_not(name):
    if name in OTHERS:
        pytest.importorskip(OTHERS[name])
    wrong, right = (audit(program, *args) for program, args in map(PROGRAMS[name], (True, False)))
    assert wrong_functions(wrong) == {"rule"}
    assert right.ok, f"\n{right}"
    assert "rule" in {row.owner.split(" (")[0] for row in right.rows}
    alone = [note for note in right.notes if "is judged by differences alone, because only its rule has a der" in note]
    assert len(alone) == (name in DIFFERENCES)


@pytest.mark.parametrize("name", choose(REPORTS, 4))
def test_a_mistake_that_was_reported_in_public_is_named(name):
    wrong, right = (audit(program, *args) for program, args in map(REPORTS[name], (True, False)))
    assert wrong_functions(wrong) == {"rule"}
    assert all("audited.py:" in row.owner for row in wrong.rows if row.path in wrong.wrong)
    assert right.ok, f"\n{right}"


def test_a_missing_gradient_is_wrong_only_where_the_program_needs_it():
    program, args = REPORTS["unsloth#4533"](wrong=True)
    (path,) = audit(program, *args).wrong
    assert audit(program, *args)[path].cause == "zero"
    report = audit(lambda x: program(G, x), X)
    assert report.ok
    assert report.notes[0].startswith("Input 1 of rule (audited.py:")
    assert report.notes[0].endswith("is not judged: its rule gives it no gradient, and it depends on no argument.")
    assert audit(lambda: program(G, X)).wrong == (path,)  # no argument says which inputs need a gradient


def test_a_program_that_differentiates_itself_is_told_to_give_the_function_before():
    equinox = pytest.importorskip("equinox")
    loss = lambda x: jnp.sum(make_rule(wrong=True)(x, G) ** 2)  # noqa: E731
    for program in (jax.grad(loss), jax.jit(jax.value_and_grad(jax.jit(loss))), equinox.filter_value_and_grad(loss)):
        report = audit(program, X[0])
        assert report.rows == ()
        (note,) = report.notes
        assert note.endswith("are not judged: give the function before it is differentiated.")
    assert audit(loss, X[0]).wrong


def test_what_is_not_judged_is_told():
    @jax.custom_vjp
    def square(z):
        return z * z

    square.defvjp(lambda z: (z * z, z), lambda z, dy: (2 * dy * z,))
    (note,) = audit(lambda x: jnp.abs(square(x + 1j)).sum(), X).notes
    assert note.startswith("square (test_audit_programs.py:")
    assert note.endswith(") is not judged, because it is a function of complex numbers.")

    def scale(x, factor):
        @jax.custom_vjp
        def multiply(x):
            return x * factor

        multiply.defvjp(lambda x: (x * factor, None), lambda _, dy: (dy * factor,))
        return multiply(x).sum()

    report = audit(scale, X, 2.5)
    assert report.rows == ()
    assert report.notes[0].endswith(") is not judged, because its rule uses a value of the program that is no input.")


def test_the_solver_of_a_root_is_not_judged_but_is_no_alarm():
    def program(x):
        y = make_rule(wrong=False)(x[0], G)
        return jax.lax.custom_root(lambda z: z - jax.nn.relu(y), y, lambda f, z: z - f(z), lambda f, z: z)

    report = audit(program, X)
    assert report.ok
    assert any("_custom_root" in note or "CustomRoot" in note for note in report.notes)
    assert {row.owner.split(" (")[0] for row in report.rows} >= {"rule"}


def test_kinks_of_a_kernel_are_no_alarm():
    from jax.experimental import pallas

    def kernel(x, y):
        y[...] = jnp.maximum(x[...], 0)

    def forward(x):
        return pallas.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x)

    @jax.custom_vjp
    def relu(x):
        return forward(x)

    relu.defvjp(lambda x: (forward(x), x > 0), lambda positive, dy: (dy * positive,))
    report = audit(lambda x: relu(x).sum(), jnp.array([0.0, 1.0, -2.0, 1e-5]))
    assert report.ok, f"\n{report}"
    assert len(report.rows) == 1
