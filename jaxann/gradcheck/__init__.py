"""Which handwritten gradient is wrong, and how.

`jaxann.check` judges every handwritten gradient of a network, and `jaxann.check_layer` those of a single layer.
`jaxann.check_function` and `jaxann.check_gradient` judge code as it was written elsewhere, in NumPy, PyTorch or JAX;
`jaxann.audit` judges the custom derivatives inside any JAX program, and `jaxann.grade` the answer to an exercise.
Training does not reveal a wrong gradient: with most wrong backward passes a network still learns something. Here the
derivative of tanh is written as 1 - x², where 1 - y² is right:

```python
import jax
import jax.numpy as jnp

from jaxann import check, check_layer
from jaxann.nn import Dense, Elementwise, Sequential, SoftmaxCrossEntropy

wrong_tanh = Elementwise("tanh", jnp.tanh, lambda x, y: 1 - x**2)
model, loss = Sequential((Dense(4, 8), wrong_tanh, Dense(8, 3))), SoftmaxCrossEntropy()
x, labels = jax.random.normal(jax.random.key(0), (30, 4)), jnp.arange(30) % 3

report = check(model, loss, model.init(jax.random.key(1)), x, labels)
print(report)
assert report.wrong == ("1.dx",)
```

The report has a row for each gradient, then a sentence for each wrong one, and ends with these lines:

    1.dx: consistent with a derivative evaluated at the input x instead of at the output y
    1 of 23 gradients is wrong, checked on 30 of 30 examples

## Where a gradient is

Every row has a path. "2.b" is the gradient of the bias of layer 2, "2.dx" that of the input of layer 2, and "loss" that
of the loss. "chain.2.b" is the gradient of the same bias as the chain of backwards returns it, "gradient.2.b" as the
gradient function of a batch returns it, and "gradient.weighted.2.b" the same with weights. "2.random.dx" is computed
with a key, for a layer that draws random numbers; "chain.random.2.b" and "gradient.random.2.b" are computed with a key
as well. "2#2.dx" belongs to the second use of a layer that is used twice.

## What is judged

Each layer is judged alone, at several points. The first ones have the true input, with its true incoming cotangent and
with random cotangents; these come from forward passes and autodiff, so that a wrong backward elsewhere does not affect
them. The other points have parameters near the true ones, and inputs near the true ones or drawn at random, at one of
the points with 0, -0 and ±1 among them. The loss is judged in the same way.

A composite layer (a chain, or a residual connection of yours: any dataclass with layers as fields) and the gradient
function are judged with parts that use autodiff and are therefore right. So one wrong formula gives one wrong row.
Parts that run inside a `vmap` or a `scan` of yours cannot be observed. The report has a note on them, and the layer
that contains them is judged with its parts as they are.

## Three sources of a gradient

The handwritten backward is compared with `jax.vjp` of the forward, and both with central differences in float64. Where
autodiff is misled, as by a `stop_gradient`, the differences at the true input decide. A difference whose step crosses
a kink does not count: "9 of 11" in the report means that two of eleven were left out. Differences are computed for all
entries of a small array, for some entries of a large one, and for some random directions.

## Numbers and tolerances

The columns float32 and float64 are max|a - b| / max|b| of the handwritten gradient a and autodiff's b, at the point
where that is worst. The tolerances of these two columns are 1e-5 and 1e-12. They grow where a gradient is the small
difference of large terms, as at a minimum, because b is no more accurate there. The column differences has the largest
relative difference between a and the central differences; its tolerance is 1e-5.

## The diagnosis

A diagnosis is the first in a list of simple mistakes that explains the difference up to rounding at every point: a
flipped sign, a factor, zeros, a transpose, a forgotten mask, a derivative that is left out or evaluated at the wrong
argument, only the diagonal of a Jacobian, contributions that are assigned instead of added, a sum over the wrong axes,
the gradient of another parameter, the derivative of another activation, and others. Then every operation of the forward
pass is tried as one that backward treats as a constant or differentiates wrongly, alone and together with the others
of its line, as in a loop. Operations are named by the file, the line and the text of your code.

"Consistent with" is all that a diagnosis claims. One mistake that explains several gradients is told once. If nothing
explains the difference, the diagnosis says so and gives the size of the difference. The search ends after 20 seconds;
`seconds=` sets another limit.

A gradient of the wrong shape, a missing one, and an exception inside forward or backward are rows of the report too.

## Gradients that differ on purpose

A backward that differs on purpose is declared and then reported with its angle to the true gradient:

```python
report = check_layer(wrong_tanh, (), x[0], on_purpose=["dx"])
assert report.ok
print(report["dx"].diagnosis)
```

In a network the path includes the layer, as in `on_purpose=["1.dx"]`. If the value of a gradient function is more than
the mean loss, such as by a weight decay, declare "gradient.value" and "gradient.weighted.value".

A mapping declares the cause as well. With `on_purpose={"1.dx": "clipping"}` a clipped gradient is accepted, and any
other mistake is still found.

At a kink or a tie, every choice of a slope is right, such as that of a maximum which gives the gradient to the first of
equal entries. Where a gradient differs from autodiff's only there, as differences show, its row is right and says so.

## Code from elsewhere

`jaxann.check_function(forward, backward, *args)` takes a pair of functions as they stand: `backward(dy, *args)`,
`backward(dout, cache)` of what the forward returned beside its output, or the methods of an object. Its docstring has
an example of each. `jaxann.check_gradient(value, gradient, params)` takes the loss of a network and its gradient with
respect to a dictionary of arrays or any pytree. NumPy code is traced like JAX code if it keeps to NumPy's functions.
Everything else, such as PyTorch, is compared with central differences of the forward: in all entries if the function
is fast enough, otherwise in some. Rows are named by the arguments of the forward.

This backward of a normalization takes the standard deviation for a constant, and the report names the expression:

```python
import numpy as np

from jaxann import check_function


def normalize(x):
    return (x - x.mean()) / x.std()


report = check_function(normalize, lambda dy, x: (dy - dy.mean()) / x.std(), np.arange(5.0) ** 2)
print(report)
assert report["x"].cause == "constant"
```

`jaxann.interop.torch_pair` makes such a pair of a `torch.autograd.Function` or a `torch.nn.Module`.

## Custom derivatives inside a program

`jaxann.audit` takes any function that JAX can trace, finds every `jax.custom_vjp` and `jax.custom_jvp` that it calls,
and judges each alone, at its true input. This rule of a straight-through estimator differs from the derivative, which
is 0:

```python
from jaxann import audit


@jax.custom_vjp
def ste(x):
    return jnp.round(x)


ste.defvjp(lambda x: (jnp.round(x), None), lambda _, dy: (dy,))


def program(x):
    return jax.jit(jax.vmap(lambda x: jax.nn.softplus(ste(x)).sum()))(x)


report = audit(program, x)
assert report.wrong == ("ste.0",)
assert audit(program, x, on_purpose="ste").ok
```

The path is the name of the function and the position of the input. The owner also says in which file and line the
function is defined. A program that differentiates itself, as a training step does, no longer calls these functions, so
give the loss. What JAX cannot differentiate without its rule, such as a Pallas kernel, is compared with differences
alone. Whatever is not judged has a note.

## For teachers

`jaxann.grade` compares a student's layer with a right one: the outputs, and each gradient. In this exercise students
write y = W x + b with its backward, and may not use autodiff:

```python
from dataclasses import dataclass

from jaxann import grade
from jaxann.nn import Layer


@dataclass(frozen=True)
class Answer(Layer):
    def forward(self, params, x, key=None):
        return params["W"] @ x + params["b"], x

    def backward(self, params, saved, dy):
        return {"W": jnp.outer(dy, saved), "b": dy}, params["W"] @ dy


reference = Dense(4, 4)
params, points = reference.init(jax.random.key(0)), {"dx": 2}
result = grade(Answer(), reference, params, x[0], weights=points, forbid_autodiff=True)
print(result)
assert (result.score, result.wrong) == (0.6, ("dx",))
```

With `hints=False` the grade does not say how dx is wrong. `result.to_dict()` has all that a grading program needs.
Whatever the answer raises is part of its grade. `grade((forward, backward), right_forward, *args)` grades functions.

## For programs and tests

`report.ok` is true if every gradient is right or differs on purpose; `report.wrong` has the paths of the others.
`report["2.b"]` is a `Row` with the numbers, the `verdict`, the `cause` in a word, and both gradients as arrays.
`report.to_dict()` and `report.to_json()` return everything except the arrays. `report.raise_if_wrong()` is the last
line of a test, and `jaxann.gradcheck.plots.plot_report(report)` draws the errors (`pip install 'jaxann[plots]'`).
Jupyter shows reports and grades as tables, with each diagnosis beneath its row.

On the command line, `jaxann gradcheck` checks the network that `jaxann train` trains with the same settings, with
`--after 5` once more after five epochs, or with `--layer "module:Class(5)"` a layer of your own, and with
`--function module:forward,backward` a pair of functions. `jaxann audit module:loss --args module:args` audits a program
of yours. `--json` prints the report as JSON, and `--plot check.png` saves the picture of a check. The exit code is 0 if
every gradient is right, 1 if one is wrong, and 2 for bad input.

## What is in the room

- `check`: `check` and `check_layer`.
- `check_function`: `check_function` and `check_gradient`. `function_subject` and `function_points` say how and where
  code from elsewhere is judged, `host_code` and `host_arguments` how it is called, `numpy_tracer` how JAX traces NumPy.
- `declarations`: what a user declares to be wrong on purpose.
- `audit`, `custom_rules`, `evaluation`, `jaxprs`: `audit`, the calls with custom derivatives inside a program, the
  evaluation that finds them, and what versions of JAX say of them.
- `grade`, `answers`, `function_answers`, `autodiff_calls`: `grade`, how an answer is judged, and whether it uses
  autodiff.
- `report`, `plots`, `style`: the report, its picture, and how pictures look.
- `cases`: what is judged in a network, and at which points.
- `subjects`, `gradient_subject`: a layer, a loss or a gradient function as a pair of functions, forward and backward.
- `places`: every layer of a network with its true input and its true incoming cotangent.
- `arguments`, `inputs`: the arguments at several points, and how the points are drawn.
- `verdict`, `leaf`, `structure`: the verdict on each gradient, what it depends on, and gradients that are missing or
  have the wrong shape.
- `differences`, `kinks`: central differences, and where they estimate nothing.
- `evidence`, `deadline`: what a diagnosis knows about a wrong gradient, and how long it may take.
- `diagnoses`: the diagnoses in order; `simple_diagnoses` compare gradients as they stand, `rerun_diagnoses` evaluate
  the subject again, and `jacobian_diagnoses` form its Jacobian.
- `step_search`: the search for a wrong step of the forward pass. `steps` lists its operations, `step_names` names them,
  `step_changes`, `step_derivatives`, `step_slopes`, `step_assignments`, `step_patterns`, `step_windows` and
  `step_recognition` say what may be wrong with each, and `step_sweep`, `step_programs` and `step_points` evaluate the
  changes.
- `compilation`: the precision of a check, and its programs, which are cheap to compile.
"""

from jaxann.gradcheck.grade import Grade
from jaxann.gradcheck.report import Report, Row

__all__ = ["Grade", "Report", "Row"]
