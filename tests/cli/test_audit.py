"""The program audit as its user meets it."""

import json
import sys

import pytest
from support.programs import call

from jaxann.cli import audit

PROGRAM = """
import jax
import jax.numpy as jnp
import numpy as np

@jax.custom_vjp
def double(x):
    return 2 * x

double.defvjp(lambda x: (2 * x, None), lambda _, dy: (3 * dy,))
x = jnp.array([0.3, -0.2, 0.5])
args = (jnp.ones((2, 3)), x)

def loss(w, x):
    return jnp.sum(jax.nn.softplus(double(w @ x)))

def program():
    return loss(*args)

def make_args():
    return list(args)

def plain(x):
    return x

def host(x):
    return np.sin(np.asarray(x))

def stop(x):
    raise SystemExit(0)
"""


@pytest.fixture
def call_audit(monkeypatch, tmp_path):
    """Calls the program in a folder with a module of the user's own."""
    (tmp_path / "own.py").write_text(PROGRAM)
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own", raising=False)
    return lambda *arguments: call(audit.main, *arguments, name="audit.py", folder=tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ("own:loss", "--shapes", "2,3", "3", "--seed", 1),
        ("own:loss", "--args", "own:args"),
        ("own:loss", "--args", "own:make_args"),
        ("own:program",),
    ],
)
def test_arguments_are_drawn_or_come_from_a_module_or_are_in_the_program(call_audit, arguments):
    code, out, err = call_audit(*arguments)
    assert (code, err) == (1, "")
    assert "double.0: consistent with a factor of 1.5" in out
    assert "double (own.py:6)" in out
    assert call_audit(*arguments, "--on-purpose", "double").code == 0


def test_json_is_the_report_itself(call_audit):
    code, out, _ = call_audit("own:double", "--shapes", "()", "--json")
    report = json.loads(out)
    assert (code, report["wrong"], report["rows"][0]["shape"]) == (1, ["double.0"], [])


def test_a_right_program_and_one_without_rules_have_exit_code_0(call_audit):
    code, out, _ = call_audit("jax.nn:softplus", "--shapes", "3,")
    assert (code, "logaddexp.0" in out) == (0, True)
    code, out, _ = call_audit("own:plain", "--shapes", "3x2")
    assert code == 0
    assert "No function with a custom derivative is called." in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("own",), "expected the function to be module:function, got 'own'"),
        (("own:double(3)",), "expected the function to be module:function, got 'own:double(3)'"),
        (("own:x",), "expected the function to name a function, not the object of type ArrayImpl, got 'own:x'"),
        (
            ("own:los",),
            "the function 'own:los' cannot be imported: AttributeError: module 'own' has no attribute 'los'",
        ),
        (("broken:a",), "the function 'broken:a' cannot be imported: ZeroDivisionError: division by zero"),
        (
            ("own:loss",),
            "expected --args to give the arguments of own:loss (missing a required argument: 'w'), got None",
        ),
        (
            ("own:loss", "--shapes", "2,3"),
            "expected --shapes to give the arguments of own:loss (missing a required argument: 'x'), got '2,3'",
        ),
        (
            ("own:plain", "--args", "own:args"),
            "expected --args to give the arguments of own:plain (too many positional arguments), got 'own:args'",
        ),
        (("own:plain", "--args", "own"), "expected --args to be module:tuple or module:function, got 'own'"),
        (("own:plain", "--args", "own:y"), "the tuple 'own:y' cannot be imported: AttributeError: module 'own' has no"),
        (
            ("own:plain", "--args", "own:x"),
            "expected --args to stand for a tuple of arguments, not the object of type ArrayImpl, got 'own:x'",
        ),
        (("own:plain", "--args", "own:loss"), "the function 'own:loss' cannot be called: TypeError: loss() missing 2"),
        (("own:plain", "--args", "own:args", "--shapes", 3), "expected --shapes only without args, got '3'"),
        (("own:plain", "--shapes", "a"), "expected --shapes to be sizes with commas, such as 3,4, got 'a'"),
        (("own:plain", "--shapes", "3,,4"), "expected --shapes to be sizes with commas, such as 3,4, got '3,,4'"),
        (("own:plain", "--shapes", "3,0"), "expected --shapes to have sizes of at least 1, got '3,0'"),
        (("own:plain", "--shapes", 3, "--seed", -1), "expected --seed of at least 0, got -1"),
        (("own:double", "--shapes", 3, "--on-purpose", "a"), "expected --on-purpose to name gradients of the report ("),
        (("own:loss", "--shapes", "2,3", 2), "the function 'own:loss' cannot be audited: TypeError: "),
        (("own:host", "--shapes", 3), "the function 'own:host' cannot be audited: TracerArrayConversionError: "),
        (("own:stop", "--shapes", 3), "the function 'own:stop' cannot be audited: SystemExit: 0"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(call_audit, arguments, sentence):
    code, out, err = call_audit(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"audit.py: {sentence}"), err
    assert len(err.splitlines()) == 1
