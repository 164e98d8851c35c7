"""The grade of an answer to an exercise, and how it notices autodiff."""

import json
import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.layers import WrongDropout
from support.selection import choose

from jaxann import grade
from jaxann.gradcheck.autodiff_calls import record_autodiff
from jaxann.gradients.autodiff import AutodiffLayer
from jaxann.nn import Dense, Dropout, Elementwise, Layer, Outer, tanh

REFERENCE = Dense(4, 3)
PARAMS = REFERENCE.init(jax.random.key(0))
X = np.random.default_rng(0).normal(size=4)


def forward_affine(params, x):
    return params["W"] @ x + params["b"]


@dataclass(frozen=True)
class Answer(Layer):
    """y = factor (W x + b), with a backward that `spoil` changes, as a student may write it"""

    spoil: object = None
    factor: float = 1.0
    returns_pull: bool = False

    def forward(self, params, x, key=None):
        if self.returns_pull:
            return jax.vjp(forward_affine, params, x)
        return self.factor * forward_affine(params, x), x

    def backward(self, params, saved, dy):
        if self.returns_pull:
            return saved(dy)
        dz = self.factor * dy
        grads, dx = {"W": Outer(dz, saved), "b": dz}, params["W"].T @ dz
        return self.spoil(params, saved, dy, grads, dx) if self.spoil else (grads, dx)


def flip_bias(params, x, dy, grads, dx):
    return {"W": grads["W"], "b": -grads["b"]}, dx


def raising(*args):
    raise KeyError("beta")


def test_a_right_answer_has_every_point():
    result = grade(Answer(), REFERENCE, PARAMS, X, forbid_autodiff=True)
    assert (result.score, result.right, result.wrong) == (1.0, ("forward", "W", "b", "dx"), ())
    assert result.report.ok
    assert str(result).splitlines()[-1] == "score 1.00: 4 of 4 points"


def test_a_wrong_gradient_costs_its_points():
    result = grade(Answer(flip_bias), REFERENCE, PARAMS, X, weights={"b": 2, "dx": 0.5})
    assert result.wrong == ("b",)
    assert result.score == pytest.approx(2.5 / 4.5)
    lines = str(result).splitlines()
    assert lines[0].split() == ["part", "points", "verdict"]
    assert lines[3].split() == ["b", "0", "of", "2", "WRONG"]
    assert lines[5:] == ["b: consistent with a flipped sign", "score 0.56: 2.5 of 4.5 points"]
    read = json.loads(result.to_json())
    assert (read["points"], read["total"], read["wrong"]) == (2.5, 4.5, ["b"])
    assert read["rows"][2] == {
        "path": "b",
        "points": 2.0,
        "verdict": "wrong",
        "cause": "sign",
        "diagnosis": "consistent with a flipped sign",
    }
    assert "consistent with a flipped sign" in result._repr_html_()


def test_without_hints_nothing_says_how_a_gradient_is_wrong():
    result = grade(Answer(flip_bias), REFERENCE, PARAMS, X, hints=False)
    assert result.wrong == ("b",)
    texts = str(result), result.to_json(), result._repr_html_(), str(result.report), result.report.to_json()
    assert not [text for text in texts if "sign" in text or "-1.0" in text]
    unsummed = Answer(lambda p, x, dy, g, dx: ({"W": g["W"], "b": jnp.stack([dy, dy], axis=1)}, dx))
    row = grade(unsummed, REFERENCE, PARAMS, X, hints=False).report["b"]
    assert (row.cause, row.diagnosis) == ("structure", "expected shape (3,), got (3, 2)"), "a student sees the shapes"
    assert grade(Answer(factor=2.0), REFERENCE, PARAMS, X, hints=False).report["forward"].diagnosis == ""


def test_a_wrong_forward_is_told_apart_from_a_backward_that_fits_it():
    result = grade(Answer(factor=2.0), REFERENCE, PARAMS, X)
    assert result.wrong == ("forward", "W", "b", "dx"), "a forward and a backward that agree earn nothing by that"
    y = np.asarray(forward_affine(PARAMS, X))
    place = np.abs(y).argmax()
    sentence = f"expected the output {y[place]:.6g} at [{place}] for the given input, got {2 * y[place]:.6g}"
    assert result.report["forward"].diagnosis == sentence
    assert result.report["dx"].diagnosis == "it is the derivative of the answer's own forward, which is wrong"
    both = grade(Answer(flip_bias, factor=2.0), REFERENCE, PARAMS, X)
    assert both.report["b"].cause == "sign", "the diagnosis compares with the answer's own forward"


def test_a_forward_that_is_wrong_elsewhere_is_wrong():
    clipped = Elementwise(
        "tanh", lambda x: jnp.where(x > 3, x, jnp.tanh(x)), lambda x, y: jnp.where(x > 3, 1, 1 - y**2)
    )
    result = grade(clipped, tanh, (), X / 10)
    assert result.wrong == ("forward", "dx")
    assert " for another input, got " in result.report["forward"].diagnosis


@pytest.mark.parametrize(
    ("answer", "right", "sentence"),
    [
        (Answer(raising), ("forward",), "W, b, dx: it raises KeyError: 'beta'"),
        (
            Elementwise("other", lambda x: x["w"], lambda x, y: y),
            (),
            "forward, W, b, dx: it raises TypeError: .*; the reference's parameters are W (3, 4), b (3,)",
        ),
        (tanh, (), "forward: expected an output of shape (3,), got (4,)"),
        (Answer(lambda p, x, dy, g, dx: ({"W": g["W"]}, dx)), ("forward", "W", "dx"), "b: backward does not return it"),
        (Answer(lambda p, x, dy, g, dx: g), ("forward",), "W, b, dx: it raises TypeError: expected backward to return"),
        (
            Answer(lambda p, x, dy, g, dx: (g | {"c": dy}, dx)),
            ("forward", "W", "b", "dx"),
            "c: backward returns it, but the layer has no such parameter",
        ),
    ],
)
def test_whatever_is_wrong_in_an_answer_becomes_a_row(answer, right, sentence):
    result = grade(answer, REFERENCE, PARAMS, X)
    assert result.right == right
    beginning, _, end = sentence.partition(".*")
    assert [line for line in str(result).splitlines() if line.startswith(beginning) and line.endswith(end)]
    assert {"forward", "W", "b", "dx"} <= {row.path for row in result.report.rows}, "the total is that of other answers"


def test_an_answer_that_is_not_frozen_becomes_rows():
    @dataclass
    class Thawed(Layer):
        def forward(self, params, x, key=None):
            return forward_affine(params, x), x

        def backward(self, params, saved, dy):
            return {"W": Outer(dy, saved), "b": dy}, params["W"].T @ dy

    result = grade(Thawed(), REFERENCE, PARAMS, X)
    assert result.score == 0
    assert result.report["W"].diagnosis.startswith("it raises TypeError: unhashable type: 'Thawed'")


@dataclass(frozen=True)
class Embedding(Layer):
    """y = table[x] for an integer x"""

    shift: int = 0

    def init(self, key):
        return {"table": jax.random.normal(key, (5, 3))}

    def forward(self, params, x, key=None):
        return params["table"][x], x

    def backward(self, params, saved, dy):
        row = jax.nn.one_hot(saved + self.shift, 5)
        return {"table": row[:, None] * dy[None, :]}, jnp.zeros(())


def test_an_input_of_integers_has_no_gradient():
    params = Embedding().init(jax.random.key(0))
    assert grade(Embedding(), Embedding(), params, 2).right == ("forward", "table")
    assert grade(Embedding(shift=1), Embedding(), params, 2).wrong == ("table",)


def test_an_answer_that_draws_is_graded_with_a_key():
    result = grade(WrongDropout(0.3, "mask"), Dropout(0.3), (), X)
    assert result.right == ("forward", "dx", "random.forward")
    assert result.wrong == ("random.dx",)
    assert grade(Elementwise("off", lambda x: x, lambda x, y: jnp.ones_like(x)), Dropout(0.3), (), X).right == (
        "forward",
        "dx",
    )


@pytest.mark.parametrize(
    ("args", "options", "sentence"),
    [
        ((Answer(), Answer, PARAMS, X), {}, "expected reference to be an instance of a Layer, got the class Answer"),
        ((print, REFERENCE, PARAMS, X), {}, "expected answer to be an instance of a Layer, got builtin_function_or"),
        (
            (Answer(), Answer(flip_bias), PARAMS, X),
            {},
            r"expected a right reference, got Answer\(.*\) with a wrong b: consistent with a flipped sign",
        ),
        ((Answer(), REFERENCE, (), X), {}, "expected an input that Dense.* can take, got shape .*: tuple indices"),
        ((Answer(), REFERENCE, PARAMS, []), {}, "expected x to be at least one real number"),
        (
            (Answer(), REFERENCE, PARAMS, X),
            {"weights": {"c": 1}},
            r"expected weights to name parts of the grade \(forward, W, b, dx\), got 'c'",
        ),
        ((Answer(), REFERENCE, PARAMS, X), {"weights": {"W": -1}}, r"expected weights\['W'\] of at least 0, got -1"),
        (
            (Answer(), REFERENCE, PARAMS, X),
            {"weights": dict.fromkeys(["forward", "W", "b", "dx"], 0)},
            "expected weights to give a part of the grade more than 0 points",
        ),
    ],
)
def test_bad_input_of_a_teacher_is_refused(args, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        grade(*args, **options)


# Autodiff.

differentiate = jax.vjp  # imported before, under another name


def by_vjp(params, x, dy, grads, dx):
    _, pull = differentiate(forward_affine, params, x)
    return pull(dy)


@jax.jit
def by_compiled_vjp(params, x, dy, grads, dx):
    return jax.vjp(forward_affine, params, x)[1](dy)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Answer(by_vjp), "autodiff is used in the backward (test_grade.py, line {line}: {source}), which"),
        (Answer(by_compiled_vjp), "autodiff is used in the backward (test_grade.py, line "),
        (Answer(returns_pull=True), "autodiff is used in the forward (test_grade.py, line "),
        (AutodiffLayer(REFERENCE), "autodiff is used in the backward, which this exercise forbids"),
    ],
)
def test_autodiff_is_refused_where_it_is_forbidden(answer, sentence):
    allowed = grade(answer, REFERENCE, PARAMS, X)  # which also traces compiled functions
    assert allowed.score == 1
    result = grade(answer, REFERENCE, PARAMS, X, forbid_autodiff=True)
    assert (result.right, result.wrong) == (("forward",), ("W", "b", "dx"))
    assert {row.verdict for row in result.report.rows[1:]} == {"refused"}
    line = by_vjp.__code__.co_firstlineno + 1
    expected = sentence.format(line=line, source="_, pull = differentiate(forward_affine, params, x)")
    assert any(note.startswith(expected) for note in result.report.notes), result.report.notes
    assert str(result).count("which this exercise forbids") == len(result.report.notes)
    assert grade(answer, REFERENCE, PARAMS, X, forbid_autodiff=True, hints=False).report.notes == result.report.notes


def find_autodiff(function):
    """Records the uses of autodiff in a function that is traced."""
    with record_autodiff() as places:
        jax.make_jaxpr(jax.vmap(function, axis_name=object()))(jnp.ones((1, 3)))
    return places


MATRIX = 2 * jnp.eye(3)
gradient = jax.grad(lambda x: jnp.tanh(x).sum())

DERIVATIVES = {
    "grad": gradient,
    "value_and_grad": jax.value_and_grad(jnp.sum),
    "vjp": lambda x: jax.vjp(jnp.sin, x)[1](x),
    "jvp": lambda x: jax.jvp(jnp.sin, (x,), (x,)),
    "linearize": lambda x: jax.linearize(jnp.sin, x)[1](x),
    "linear_transpose": lambda x: jax.linear_transpose(lambda y: 2 * y, x)(x),
    "jacfwd": jax.jacfwd(jnp.sin),
    "jacrev": jax.jacrev(jnp.sin),
    "hessian": jax.hessian(lambda x: jnp.sum(x**3)),
    "in a scan": lambda x: jax.lax.scan(lambda c, _: (gradient(c), None), x, length=2),
    "in a vmap": lambda x: jax.vmap(jax.grad(jnp.sin))(x),
    "in a compiled function": jax.jit(gradient),
    "in a solver": lambda x: jax.lax.custom_linear_solve(lambda v: MATRIX @ v, x, lambda _, b: gradient(b)),
}


@jax.custom_jvp
def double(x):
    return 2 * x


double.defjvp(lambda primals, tangents: (double(primals[0]), 2 * tangents[0]))

INNOCENT = {
    "custom rules": lambda x: double(jax.nn.relu(jax.nn.softmax(x))) + jax.nn.logsumexp(x),
    "solve": lambda x: jnp.linalg.solve(MATRIX, x) + jnp.linalg.inv(MATRIX + x[:, None]) @ x,
    "control flow": lambda x: jax.lax.scan(lambda c, _: (jnp.sort(c), None), x, length=2),
    "stop_gradient": lambda x: jax.lax.stop_gradient(jax.checkpoint(jnp.tanh)(x)),
    "random numbers": lambda x: x + jax.random.normal(jax.random.key(0), (3,)),
}


@pytest.mark.parametrize("name", choose(DERIVATIVES, 3))
def test_every_way_to_differentiate_is_noticed(name):
    jax.make_jaxpr(DERIVATIVES[name])(jnp.ones(3))  # a trace that JAX could use again
    assert find_autodiff(DERIVATIVES[name])


def test_what_does_not_differentiate_is_not_noticed():
    assert {name: find_autodiff(function) for name, function in INNOCENT.items()} == {name: [] for name in INNOCENT}


def test_code_on_the_host_and_other_libraries_are_noticed():
    with record_autodiff() as places:
        differentiate(jnp.sin, 1.0)
    assert len(places) == 1
    assert places[0].endswith(": differentiate(jnp.sin, 1.0)")
    torch = {"__name__": "torch.autograd"}
    exec("def backward(): pass", torch)
    with record_autodiff() as places:
        torch["backward"]()
    assert len(places) == 1


def test_a_profiler_that_runs_is_kept():
    def profiler(*args):
        pass

    before = sys.getprofile()
    sys.setprofile(profiler)
    try:
        with record_autodiff():
            pass
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(before)


# A pair of functions.

ROWS, WEIGHTS, SHIFT = np.arange(8.0).reshape(2, 4) / 3, np.arange(12.0).reshape(4, 3) / 5, np.ones(3)


def affine(x, w, b):
    return x @ w + b


def affine_with_cache(x, w, b):
    return x @ w + b, (x, w)


def grade_pair(forward, backward, **options):
    return grade((forward, backward), affine, ROWS, WEIGHTS, SHIFT, **options)


def test_a_right_pair_earns_all_points():
    result = grade_pair(affine_with_cache, lambda dy, cache: (dy @ cache[1].T, cache[0].T @ dy, dy.sum(axis=0)))
    assert (result.score, result.right) == (1, ("forward", "x", "w", "b"))


def test_a_wrong_gradient_of_a_pair_is_told():
    result = grade_pair(affine, lambda dy, x, w, b: (dy @ w.T, x.T @ dy, -dy.sum(axis=0)), weights={"b": 2})
    assert (result.score, result.wrong) == (3 / 5, ("b",))
    assert "flipped sign" in str(result)
    assert "flipped sign" not in str(grade_pair(affine, lambda dy, x, w, b: (dy @ w.T, x.T @ dy, -dy[0]), hints=False))


def test_a_pair_that_is_wrong_in_both_passes_earns_little():
    result = grade_pair(
        lambda x, w, b: 2 * (x @ w) + b, lambda dy, x, w, b: (2 * dy @ w.T, 2 * x.T @ dy, dy.sum(axis=0))
    )
    assert result.right == ("b",)
    assert "expected the output" in result.report["forward"].diagnosis


@pytest.mark.parametrize(
    ("forward", "backward", "sentence"),
    [
        (affine, lambda dy, x, w, b: 1 / 0, "ZeroDivisionError"),
        (lambda x, w, b: x[9], lambda dy, x, w, b: dy, "IndexError"),
        (affine, lambda dy, x, w, b: dy, "expected 3 gradients"),
        (lambda x, w, b: (x @ w + b)[0], lambda dy, x, w, b: (x, w, b), "expected an output of shape"),
    ],
)
def test_whatever_a_pair_does_becomes_a_row(forward, backward, sentence):
    result = grade_pair(forward, backward)
    assert result.score < 1
    assert sentence in str(result)
    assert [row.path for row in result.report.rows] == ["forward", "x", "w", "b"]


def test_autodiff_in_a_pair_is_refused():
    def backward(dy, x, w, b):
        return jax.vjp(lambda x, w, b: x @ w + b, x, w, b)[1](jnp.asarray(dy))

    assert grade_pair(affine, backward).score == 1
    result = grade_pair(affine, backward, forbid_autodiff=True)
    assert result.right == ("forward",)
    assert "autodiff is used in the backward" in str(result)
