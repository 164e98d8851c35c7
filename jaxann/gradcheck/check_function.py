"""The check of a backward pass that somebody wrote elsewhere, in NumPy, PyTorch, JAX or anything that takes arrays."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxann.gradcheck.arguments import is_float
from jaxann.gradcheck.compilation import clear_programs, precision
from jaxann.gradcheck.deadline import Deadline
from jaxann.gradcheck.declarations import Declarations, accept_on_purpose, name_check
from jaxann.gradcheck.function_points import draw_points
from jaxann.gradcheck.function_subject import FunctionSubject
from jaxann.gradcheck.host_arguments import is_list_of_numbers, parameter_names, to_array
from jaxann.gradcheck.host_code import HostCode, StructureError
from jaxann.gradcheck.report import RIGHT, WRONG, Report, Row
from jaxann.gradcheck.verdict import judge
from jaxann.nn.base import Layer, path_name
from jaxann.nn.hyperparameters import validate_number


def check_function(
    forward: Any,
    backward: Any,
    *args: Any,
    parameters: Mapping[str, str] | None = None,
    cache: bool | None = None,
    on_purpose: Declarations = (),
    seconds: float | int = 20,
    seed: int = 0,
) -> Report:
    """Checks the handwritten backward pass of any function, and diagnoses the gradients that are wrong.

    The pair may be written in NumPy, PyTorch, JAX, or anything else that takes and returns arrays, for one example or
    for a batch. Its gradients of <dy, forward(*args)> with random dy are compared with central differences in float64,
    at the given arguments and near them, and with `jax.vjp` if JAX can trace the forward.

    Three forms are understood. The first is a function of dy and the arguments:

    ```python
    import numpy as np

    from jaxann import check_function

    rng = np.random.default_rng(0)
    x, W = rng.normal(size=4), rng.normal(size=(3, 4))
    report = check_function(lambda x, W: np.tanh(W @ x), lambda dy, x, W: (W.T @ dy, np.outer(dy, x)), x, W)
    assert report.wrong == ("x", "W")
    ```

    The second is that of many courses, where the forward returns what the backward needs beside its output:

    ```python
    def affine_forward(x, w, b):
        return x @ w + b, (x, w)


    def affine_backward(dout, cache):
        x, w = cache
        return dout @ w.T, x.T @ dout, dout.mean(axis=0)


    x, w, b = rng.normal(size=(5, 4)), rng.normal(size=(4, 3)), rng.normal(size=3)
    report = check_function(affine_forward, affine_backward, x, w, b)
    assert report["b"].diagnosis == "consistent with a factor of 0.2, which is 1 / the size of axis 0 of x"
    ```

    The third is an object with methods, whose attributes hold its parameters and their gradients:

    ```python
    class Affine:
        def __init__(self):
            self.W, self.b = rng.normal(size=(4, 3)), np.zeros(3)

        def forward(self, x):
            self.x = x
            return x @ self.W + self.b

        def backward(self, dy):
            self.dW, self.db = self.x.T @ dy, dy.sum(axis=0)
            return dy @ self.W.T


    layer = Affine()
    check_function(layer.forward, layer.backward, x, parameters={"W": "dW", "b": "db"}).raise_if_wrong()
    ```

    Args:
        forward: The forward pass, a deterministic function of `args`. It returns an array, or several in a tuple.
        backward: The backward pass, in one of the three forms. It returns a gradient for each argument of `forward`
            that holds floats: as a tuple in the order of the arguments, as a dictionary by their names, or bare if
            there is only one. A gradient of None is not judged.
        *args: Arguments of `forward`: arrays, tensors, numbers, or pytrees of them. A list of numbers is given as an
            array. All that are not floats, such as
            indices, stay as they are.
        parameters: For methods of an object, the names of its attributes with parameters, each with the name of the
            attribute that has the gradient after `backward`.
        cache: Whether `forward` returns (y, cache) for `backward(dy, cache)`; by default the arguments of `backward`
            tell.
        on_purpose: The names of gradients that are meant to differ from the true ones, or a mapping from such names
            to the cause that is meant, as in `check`.
        seconds: How many seconds the search for a diagnosis may take.
        seed: The seed of the arguments and the cotangents that are drawn.

    Returns:
        A report with a row for each argument that holds floats, and for each parameter of the object.

    Raises:
        TypeError: If `forward` or `backward` is not callable.
        ValueError: If no argument holds floats, if an argument or the output is not finite, if two calls of `forward`
            differ, or if the form of the pair cannot be told.
        SettingError: If no gradient has a name in `on_purpose`. It is a ValueError.
        Exception: Whatever `forward` or `backward` raises, with a note on the shapes of its arguments.
    """
    if isinstance(forward, Layer) or not callable(forward) or not callable(backward):
        wrong = forward if isinstance(forward, Layer) or not callable(forward) else backward
        raise TypeError(
            f"expected two functions, forward and backward, got {type(wrong).__name__}; {name_check(wrong)}"
        )
    if not args and not parameters:
        raise ValueError("expected at least one argument of forward that holds floats, got no arguments")
    args = tuple(np.asarray(arg) if is_list_of_numbers(arg) else arg for arg in args)
    named = dict(zip(parameter_names(forward, len(args)), args, strict=True))
    code = _call(lambda: HostCode(forward, backward, args, cache, parameters), named)
    return _check_code(code, on_purpose, seconds, seed, cotangents=3)


def check_gradient(
    value: Any,
    gradient: Any,
    params: PyTree,
    *,
    on_purpose: Declarations = (),
    seconds: float | int = 20,
    seed: int = 0,
) -> Report:
    """Checks the gradient of a number, such as the loss of a network, with respect to a pytree of parameters.

    Both functions may be written in NumPy, PyTorch, JAX, or anything else that takes and returns arrays. The data
    belongs into the functions:

    ```python
    import numpy as np

    from jaxann import check_gradient

    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(6, 4)), rng.normal(size=(6, 3))
    params = {"W": rng.normal(size=(4, 3)), "b": np.zeros(3)}


    def loss(params):
        return np.mean((x @ params["W"] + params["b"] - t) ** 2)


    def gradient(params):
        d = 2 * (x @ params["W"] + params["b"] - t) / t.size
        return {"W": x.T @ d, "b": -d.sum(axis=0)}


    report = check_gradient(loss, gradient, params)
    assert report["b"].cause == "sign"
    ```

    Args:
        value: A deterministic function of the parameters that returns one number.
        gradient: A function of the parameters that returns the gradient in their structure, or the pair of the value
            and the gradient.
        params: The parameters: an array, or a pytree of arrays such as a dictionary.
        on_purpose: The paths of gradients that are meant to differ from the true ones, as in `check_function`.
        seconds: How many seconds the search for a diagnosis may take.
        seed: The seed of the parameters that are drawn.

    Returns:
        A report with a row for each leaf of the parameters.

    Raises:
        TypeError: If `value` or `gradient` is not callable.
        ValueError: As `check_function`; also if the value is not one number.
        SettingError: If no gradient has a path in `on_purpose`. It is a ValueError.
        Exception: Whatever the functions raise, with a note on the shapes of the parameters.
    """
    if not callable(value) or not callable(gradient):
        wrong = gradient if callable(value) else value
        raise TypeError(
            f"expected two functions of the parameters, the value and its gradient, got {type(wrong).__name__}; "
            f"{name_check(wrong)}"
        )

    def backward(dy: Any, params: PyTree) -> Any:
        grads = gradient(params)
        if isinstance(grads, tuple) and len(grads) == 2 and np.size(to_array(grads[0])) == 1:
            structures = [jax.tree.structure(tree) for tree in (*grads[1:], params)]
            grads = grads[1] if structures[0] == structures[1] else grads
        return (jax.tree.map(lambda g: float(dy) * g, grads),)

    names = [""] if jax.tree.structure(params) != jax.tree.structure(0) else ["params"]
    code = _call(lambda: HostCode(value, backward, (params,), cache=False, names=names), (params,))
    shape = np.shape(_call(lambda: code.forward({a.name: a.example for a in code.arguments}), (params,)))
    if shape != ():
        raise ValueError(f"expected one number from the value, got an array of shape {shape}")
    return _check_code(code, on_purpose, seconds, seed, cotangents=1)


def _check_code(code: HostCode, on_purpose: Declarations, seconds: float | int, seed: int, cotangents: int) -> Report:
    """Returns the report on a user's code; `cotangents` of the points are at the given arguments."""
    validate_number("seconds", seconds, least=0)
    if not code.arguments:
        raise ValueError(f"expected at least one argument of {code.name} that holds floats, got none")
    values = OrderedDict((a.name, np.asarray(to_array(a.example), float)) for a in code.arguments)
    for name, value in values.items():
        _require_finite(value, f"finite numbers in {name}")
        if not value.size:
            raise ValueError(f"expected at least one number in {name}, got shape {value.shape}")
    first, second = (np.asarray(_call(lambda: code.forward(values), values)) for _ in range(2))
    if not is_float(first):
        raise ValueError(f"expected real floats from {code.name}, which have a gradient, got {first.dtype}")
    _require_finite(first, f"arguments at which the output of {code.name} is finite")
    if first.shape != second.shape or not np.array_equal(first, second):
        raise ValueError(
            f"expected a deterministic forward, but two calls of {code.name} with equal arguments differ; fix its seed"
        )
    rng = np.random.default_rng(seed)
    clear_programs()
    try:
        _call(lambda: code.backward(values, rng.normal(size=first.shape)), values)
    except StructureError as error:
        return Report((Row("backward", code.name, (), WRONG, "structure", str(error)),), 1, 1)
    subject = FunctionSubject("", code, values)
    without = [name for name in values if f"{name}.".startswith(tuple(f"{n}." for n in code.without_gradient))]
    without = without if len(without) < len(values) else []
    points = draw_points(code, values, without, first.shape, cotangents, rng)
    rows = judge(subject, points, cotangents, rng, ("float64",), Deadline(seconds))
    if not subject.is_traceable:
        rows = [_count_kinks(row, subject.kinks.get(row.path, 0)) for row in rows]
    notes = [f"{name} is not judged, because backward returns None for it." for name in without]
    return Report(accept_on_purpose(rows, on_purpose), 1, 1, (*notes, *_describe_subject(subject)))


def _count_kinks(row: Row, count: int) -> Row:
    """Returns a row of differences alone, of which `count` were left out because a kink is within their step."""
    if row.compared and row.compared == count and row.verdict == RIGHT:
        sentence = "nothing could be compared, because the forward has a kink at every entry, or is not smooth"
        row = replace(row, verdict=WRONG, cause="not smooth", diagnosis=sentence)
    return replace(row, compared=row.compared - count if row.compared else 0, nonsmooth=count)


def _require_finite(value: np.ndarray, expected: str) -> None:
    places = np.argwhere(~np.isfinite(value))
    if len(places):
        raise ValueError(f"expected {expected}, got {value[tuple(places[0])]} at {places[0].tolist()}")


def _call(function: Callable[[], Any], args: Any) -> Any:
    """Calls a function; an exception of the user's code gets a note on the shapes of the arguments."""
    try:
        with precision("float64"):
            return function()
    except StructureError:
        raise
    except Exception as error:
        leaves = jax.tree_util.tree_leaves_with_path(args)
        shapes = ", ".join(f"{path_name(path)} {np.shape(to_array(leaf))}" for path, leaf in leaves)
        error.add_note(f"It was raised with arguments of these shapes: {shapes}")
        raise


def _describe_subject(subject: FunctionSubject) -> list[str]:
    """Returns sentences on how the true gradients were found."""
    notes = []
    if not subject.is_traceable:
        notes.append(f"JAX cannot trace {subject.name}, so its gradients are compared with central differences alone.")
        notes += [
            f"Of the {subject.values[name].size} entries of {name}, {len(entries)} are compared, and the slopes along "
            f"{len(subject.directions[name])} random directions."
            for name, entries in subject.entries.items()
        ]
    if subject.eps > 1e-10:
        notes.append(f"{subject.name} computes in less than float64, so differences have an error of about 0.1 %.")
    return notes
