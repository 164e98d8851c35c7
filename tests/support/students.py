"""Wrong backwards as students write them in NumPy: what each got wrong, and what a report should tell them.

Each is a pair of functions with arguments, the wrong gradients, and a pattern for their diagnosis.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Mistake:
    """A right forward with a wrong backward(dy, *args).

    Attributes:
        forward: The forward.
        backward: The backward.
        args: The arguments of the forward.
        wrong: The names of the gradients that are wrong.
        told: A regular expression that their diagnosis matches.
    """

    forward: Any
    backward: Any
    args: tuple[Any, ...]
    wrong: tuple[str, ...]
    told: str


RNG = np.random.default_rng(0)
VECTOR, W, B = np.array([-1.3, 0.4, 0.9, 2.0]), RNG.normal(size=(3, 4)), RNG.normal(size=3)
ROWS = RNG.normal(size=(5, 4))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def relu(x):
    return np.maximum(x, 0)


def dense(x, W, b):
    return W @ x + b


def normalize(x):
    return (x - x.mean()) / x.std()


def elementwise(forward, backward, told):
    return Mistake(forward, lambda dy, x: backward(x, forward(x), dy), (VECTOR,), ("x",), told)


def of_dense(backward, wrong, told):
    return Mistake(dense, backward, (VECTOR, W, B), (wrong,), told)


STUDENTS = {
    "W: dy forgotten": of_dense(
        lambda dy, x, W, b: (W.T @ dy, np.outer(np.ones(3), x), dy), "W", "does not depend on dy"
    ),
    "x: W forgotten": of_dense(lambda dy, x, W, b: (np.full(4, dy.sum()), np.outer(dy, x), dy), "x", "leaves out W"),
    "W: x forgotten": of_dense(lambda dy, x, W, b: (W.T @ dy, np.outer(dy, np.ones(4)), dy), "W", "leaves out x"),
    "W: of the transposed shape": of_dense(
        lambda dy, x, W, b: (W.T @ dy, np.outer(x, dy), dy), "W", r"expected shape \(3, 4\), got \(4, 3\).*transpose"
    ),
    "W: doubled": of_dense(lambda dy, x, W, b: (W.T @ dy, 2 * np.outer(dy, x), dy), "W", "a factor of 2"),
    "b: subtracted": of_dense(lambda dy, x, W, b: (W.T @ dy, np.outer(dy, x), -dy), "b", "a flipped sign"),
    "b: W's place": Mistake(
        lambda a, b: a * b, lambda dy, a, b: (dy * a, dy * b), (VECTOR, VECTOR[::-1] + 1), ("a", "b"), "a and b swapped"
    ),
    "sigmoid: z (1 - z)": elementwise(sigmoid, lambda x, y, dy: dy * x * (1 - x), "at the input x instead of at the"),
    "sigmoid: dy forgotten": elementwise(sigmoid, lambda x, y, dy: y * (1 - y), "does not depend on dy"),
    "sigmoid: 1 - y forgotten": elementwise(sigmoid, lambda x, y, dy: dy * y, r"y instead of y \(1 - y\)"),
    "sigmoid: applied twice": elementwise(
        sigmoid, lambda x, y, dy: dy * sigmoid(y) * (1 - sigmoid(y)), "at the output y instead of at the input x"
    ),
    "tanh: 1 - y": elementwise(np.tanh, lambda x, y, dy: dy * (1 - y), r"1 - y instead of 1 - y²"),
    "tanh: 1 - x²": elementwise(np.tanh, lambda x, y, dy: dy * (1 - x * x), "at the input x instead of at the output"),
    "relu: mask forgotten": elementwise(relu, lambda x, y, dy: dy, "the derivative is left out"),
    "relu: mask of dy": elementwise(relu, lambda x, y, dy: dy * (dy > 0), "not linear in dy"),
    "relu: mask kept, dy forgotten": elementwise(relu, lambda x, y, dy: 1.0 * (x > 0), "does not depend on dy"),
    "softmax: the diagonal": elementwise(softmax, lambda x, y, dy: dy * y * (1 - y), "only the diagonal"),
    "softmax: the sum forgotten": elementwise(softmax, lambda x, y, dy: dy * y, "dot product"),
    "swish: a term of the product rule": elementwise(
        lambda x: x * sigmoid(x),
        lambda x, y, dy: dy * sigmoid(x),
        r"the quotient in `return 1 / .* as a constant",
    ),
    "square: 2 forgotten": elementwise(lambda x: x * x, lambda x, y, dy: dy * x, "a factor of 0.5"),
    "normalize: the deviation forgotten": elementwise(
        normalize, lambda x, y, dy: dy - dy.mean() - y * np.mean(y * dy), "x.std"
    ),
    "normalize: the mean forgotten": elementwise(
        normalize,
        lambda x, y, dy: (dy - y * np.mean(y * dy)) / x.std(),
        r"treats the mean `x.mean\(\)` in .* as a constant",
    ),
    "cumsum: not reversed": elementwise(
        lambda x: np.cumsum(x), lambda x, y, dy: np.cumsum(dy), "J dy instead of Jᵀ dy"
    ),
    "max: to all": elementwise(
        lambda x: x.max() * np.ones_like(x), lambda x, y, dy: dy.sum() * np.ones_like(x), "mask that is forgotten"
    ),
    "mean: 1/n forgotten": Mistake(
        lambda x: x.mean(), lambda dy, x: dy * np.ones_like(x), (VECTOR,), ("x",), "factor of 4, which is the size"
    ),
    "sum: over the wrong axis": Mistake(
        lambda x: x.sum(axis=0),
        lambda dy, x: np.repeat(dy[:, None], 4, axis=1),
        (RNG.normal(size=(4, 4)),),
        ("x",),
        "transpose",
    ),
    "bias of a batch: the first example": Mistake(
        lambda x, b: x + b,
        lambda dy, x, b: (dy, dy[0]),
        (ROWS, ROWS[0]),
        ("b",),
        ".",
    ),
    "bias of a batch: the mean": Mistake(
        lambda x, b: x + b,
        lambda dy, x, b: (dy, dy.mean(axis=0)),
        (ROWS, ROWS[0]),
        ("b",),
        "1 / the size of axis 0 of x",
    ),
    "bias of a batch: not summed": Mistake(
        lambda x, b: x + b,
        lambda dy, x, b: (dy, dy),
        (ROWS, ROWS[0]),
        ("b",),
        "a missing sum over axis 0",
    ),
    "embedding: a word twice": Mistake(
        lambda table: table[[1, 4, 1]],
        lambda dy, table: assign_rows(np.zeros_like(table), [1, 4, 1], dy),
        (RNG.normal(size=(6, 3)),),
        ("table",),
        "assigned where it should be added",
    ),
    "dropout: the mask forgotten": elementwise(
        lambda x: x * np.array([1, 0, 1, 1]) / 0.75, lambda x, y, dy: dy / 0.75, "mask that is forgotten"
    ),
    "an unused argument": Mistake(
        lambda x, b: 2 * x,
        lambda dy, x, b: (2 * dy, dy),
        (VECTOR, VECTOR),
        ("b",),
        "does not use",
    ),
}


def assign_rows(table, indices, rows):
    table[indices] = rows
    return table
