"""Wrong backwards after public reports: which gradients a check must call wrong, and what it must say of them.

The layers in this file are too small for files of their own (cases 05, 10, 13 and 14). Facts from
ddbourgin/numpy-ml#94, hunkim/DeepLearningZeroToAll#173, datascience.stackexchange.com/questions/120115,
stats.stackexchange.com/questions/464262, jax-ml/jax#5832 and #4173, EleutherAI/bergson#277 and
wiseodd/natural-gradients#2.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from support.attention import Attention
from support.batch_norm import BatchNorm
from support.convolution import StridedConv
from support.dropped import Dropped
from support.layers import Embedding, Tied, WrongDropout, WrongResidual
from support.pooling import MaxPool
from support.recurrent import LSTM
from support.shared_paths import Diamond, SkipTwice, TiedEncoder

from jaxann.nn import Dense, Dropout, Layer, Outer, Residual, Sequential, tanh


@dataclass(frozen=True)
class Case:
    """A layer with one example.

    Attributes:
        layer: The layer.
        x: The example.
        wrong: The paths of the gradients that are wrong, in words.
        told: A regular expression that the diagnosis of each wrong gradient matches.
    """

    layer: Layer
    x: Any
    wrong: str = ""
    told: str = ""


class MaskForgotten(Dropout):
    """Dropout whose backward divides by 1 - rate and forgets the mask."""

    def backward(self, params, saved, dy):
        return (), dy / (1 - self.rate)


class WeightForInput(Dense):
    """A dense layer that multiplies dy by the weights, in place of the input, for the gradient of the weights."""

    def backward(self, params, saved, dy):
        grads, dx = super().backward(params, saved, dy)
        return grads | {"W": dy[:, None] * params["W"]}, dx


@dataclass(frozen=True)
class Rectified(Dense):
    """y = relu(W x + b), without the slope of relu in the gradients that `wrong` names."""

    wrong: str = ""

    def forward(self, params, x, key=None):
        a = params["W"] @ x + params["b"]
        return jnp.where(a > 0, a, 0), (x, a)

    def backward(self, params, saved, dy):
        x, a = saved
        masked = jnp.where(a > 0, dy, 0)
        below = dy if self.wrong == "all" else masked
        own = dy if self.wrong else masked
        return {"W": Outer(own, x), "b": own}, params["W"].T @ below


class NoBias(Dense):
    """y = W x, whose parameters are the matrix itself."""

    def init(self, key):
        return super().init(key)["W"]

    def forward(self, params, x, key=None):
        return params @ x, x

    def backward(self, params, saved, dy):
        return Outer(dy, saved), params.T @ dy


@jax.custom_vjp
def triple(x):
    """2 x, with a rule that says that its derivative is 3."""
    return 2 * x


triple.defvjp(lambda x: (2 * x, None), lambda _, dy: (3 * dy,))


@dataclass(frozen=True)
class Misled(Layer):
    """y = 2 x, by a function whose own rule is wrong."""

    slope: float

    def forward(self, params, x, key=None):
        return triple(x), x

    def backward(self, params, saved, dy):
        return (), self.slope * dy


def draw(*shape):
    return jax.random.normal(jax.random.key(1), shape)


SERIES, VECTOR, BATCH, IMAGE, TOKENS = draw(4, 3), draw(3), 3 + 2 * draw(6, 4), draw(4, 4, 2), jnp.array([2, 0, 2, 4])
SQUARE = draw(5, 5)
BRANCH = Sequential((Dense(3, 3), tanh))
LSTM_ALL = " ".join(f"{kind}_{gate}" for kind in "Wb" for gate in ("cell", "forget", "input", "output")) + " dx"
LSTM_ONE = "W_cell W_input b_cell b_input dx"  # with one step, the forget gate has nothing to forget
FORGET = r"derivative of the sigmoid in `f = sigmoid\(.*\(recurrent.py:\d+\) that is y instead of y \(1 - y\)"
TANH = r"derivative of the tanh.* `jnp.tanh\(c\)` in `h = .*\(recurrent.py:\d+\),? at its output"
CARRY = r"passes no gradient from an iteration of the loop to the one before \(lines \d+ to \d+ of recurrent.py\)"
CELL = r"treats the operand `c` of the product `f \* c` in .*\(recurrent.py:\d+\) as a constant"
MEAN = r"the mean `x.mean\(.*\)` in `centred = x - .*\(batch_norm.py:\d+\)"
ADDED = "assigned where it should be added: .*, only the last remains"
MASK = r"forgets the mask of the selection `jnp.where\(a > 0, a, 0\)` in .*\(cases_public.py:\d+\)"
SOFTMAX = r"where p is the softmax in `p = jax.nn.softmax\(.*\(attention.py:\d+\)"
ALL_DROPPED = "W b dx random.W random.b random.dx"

WRONG = {
    "lstm, 2 steps: forget gate": Case(LSTM(3, 2, ("forget gate",)), SERIES[:2], LSTM_ALL, FORGET),
    "batch norm: swapped": Case(BatchNorm(4, "swapped"), BATCH, "beta gamma", "gradients of beta and gamma swapped"),
    "pooling: assigned, zeros": Case(MaxPool(3, 1, wrong="assigned"), 0 * SQUARE, "dx", ADDED),
    "convolution: stride": Case(
        StridedConv(2, 3, wrong="no stride"),
        IMAGE,
        "W dx",
        r"forgets the stride of 2, and takes the slice `padded\[window\]` in .*\(convolution.py:\d+\) at a stride of 1",
    ),
    "convolution: rest": Case(
        StridedConv(2, 3, wrong="no rest"), IMAGE, "dx", r"expected shape \(4, 4, 2\), got \(3, 3, 2\)"
    ),
    "dropout: scale": Case(WrongDropout(0.25, "scale"), VECTOR, "random.dx", "factor of 0.75, which is 1 - rate"),
    "embedding: assigned": Case(Embedding(5, 3, "assigned"), TOKENS, "E", ADDED),
    "attention: no dot product": Case(
        Attention(3, 4, "no dot product"), SERIES, "K Q dx", rf"has p dy, without the dot product pᵀ dy.*{SOFTMAX}"
    ),
    "dense: weight for input": Case(
        WeightForInput(3, 4), VECTOR, "W", r'multiplies by `params\["W"\]` where it should multiply by `x`'
    ),
    "dense with relu: slope": Case(Rectified(3, 4, wrong="all"), VECTOR, "W b dx", MASK),
    "residual: skip lost": Case(WrongResidual(BRANCH, "skip"), VECTOR, "dx", "a missing term dy"),
    "dropout around a layer: mask and scale": Case(
        Dropped(Dense(3, 4), 0.25, "mask and scale"),
        VECTOR,
        "random.W random.b random.dx",
        r"leaves out the derivative of `y \* mask / \(1 - self.rate\)` in .*\(dropped.py:\d+\)",
    ),
    "residual: branch lost": Case(WrongResidual(BRANCH, "inner"), VECTOR, "dx", "dx = dy: the derivative is left out"),
    "tied: encoder": Case(
        TiedEncoder(3, 4), VECTOR, "W", r'treats the result of the transpose `params\["W"\].T` .* as a constant'
    ),
    "custom rule": Case(
        Misled(3.0), VECTOR, "dx", "forward changes its own derivative, as by stop_gradient or custom_vjp"
    ),
}

WRONG_MORE = {  # those that take long, and others of the same layers
    "lstm: forget gate": Case(LSTM(3, 2, ("forget gate",)), SERIES, LSTM_ALL, FORGET),
    "lstm: tanh twice": Case(LSTM(3, 2, ("tanh twice",)), SERIES, LSTM_ALL, TANH),
    "lstm: not carried": Case(LSTM(3, 2, ("not carried",)), SERIES, LSTM_ALL, CARRY),
    "lstm: cell assigned": Case(LSTM(3, 2, ("cell assigned",)), SERIES, LSTM_ALL, CELL),
    "lstm: three mistakes": Case(
        LSTM(3, 2, ("forget gate", "tanh twice", "not carried")), SERIES, LSTM_ALL, f"{CARRY}$|{CARRY};.*{TANH}"
    ),
    "lstm, 2 steps: tanh twice": Case(LSTM(3, 2, ("tanh twice",)), SERIES[:2], LSTM_ALL, TANH),
    "lstm, 1 step: tanh twice": Case(LSTM(3, 2, ("tanh twice",)), SERIES[:1], LSTM_ONE, TANH),
    "batch norm: variance lost": Case(
        BatchNorm(4, "no variance path"), BATCH, "dx", r"treats the result of the square root in `sd = .* as a constant"
    ),
    "batch norm: mean lost": Case(BatchNorm(4, "no mean path"), BATCH, "dx", f"treats {MEAN} as a constant"),
    "attention: diagonal": Case(
        Attention(3, 4, "diagonal"), SERIES, "K Q dx", rf"has p \(1 - p\) dy, from the diagonal.*{SOFTMAX}"
    ),
    "attention: axis": Case(
        Attention(3, 4, "dot product over the wrong axis"), SERIES, "K Q dx", f"axis 0 instead of axis 1.*{SOFTMAX}"
    ),
    "attention: scale": Case(
        Attention(3, 4, "no scale"),
        SERIES,
        "K Q dx",
        r"leaves out the division by `jnp.sqrt\(self.m\)` of the quotient",
    ),
    "attention: transpose": Case(
        Attention(3, 4, "not transposed"),
        SERIES,
        "K dx",
        r"matrix product `q @ k.T` in .*\(attention.py:\d+\) where its transpose is meant",
    ),
    "dense with relu: slope of its own": Case(Rectified(3, 4, wrong="own"), VECTOR, "W b", MASK),
    "convolution: padding": Case(
        StridedConv(2, 3, wrong="padding cut off at the end"),
        IMAGE,
        "dx",
        r"cuts off as much as the padding in `padded = .*\(convolution.py:\d+\) adds, but all of it at the end",
    ),
    "attention: path of K": Case(
        Attention(3, 4, "path of K lost"),
        SERIES,
        "dx",
        r'treats the operand `x` of the matrix product `x @ params\["K"\]` in .*\(attention.py:\d+\) as a constant',
    ),
    "dropout: mask": Case(MaskForgotten(0.25), VECTOR, "dx random.dx", "factor of 1.33333|a mask that is forgotten"),
    "convolution: bias": Case(
        StridedConv(2, 3, wrong="bias of one row"),
        IMAGE,
        "b",
        "a sum of dy that counts only the first entry along axis 0",
    ),
    "residual: skip twice": Case(SkipTwice(BRANCH), VECTOR, "dx", "an additional term dy"),
    "tied: decoder": Case(
        Tied(3, 4, "first"), VECTOR, "W", r'treats the operand `params\["W"\]` of the matrix product .* as a constant'
    ),
    "diamond: path lost": Case(
        Diamond(3, "one path lost"), VECTOR, "W dx", r"treats the operand `b` of the product `a \* b` .* as a constant"
    ),
    "batch norm: gamma left out": Case(BatchNorm(4, "no gamma"), BATCH, "dx", "leaves out gamma"),
    "batch norm: a share more": Case(
        BatchNorm(4, "mean path and a share more"),
        BATCH,
        "dx",
        rf"path through {MEAN} the factor 1 \+ 1/6 instead of 1",
    ),
    "diamond: path twice": Case(
        Diamond(3, "one path twice"), VECTOR, "W dx", r"counts the path through .*`b = jnp.tanh\(a\)` \(shared_.* twice"
    ),
    "dropout around a layer: mask": Case(
        Dropped(Dense(3, 4), 0.25, "scale"),
        VECTOR,
        ALL_DROPPED,
        r"1 / \(1 - rate\)|forgets the mask of .*dropped.py:\d+",
    ),
    "pooling: assigned": Case(MaxPool(3, 1, wrong="assigned"), SQUARE, "dx", ADDED),
}

RIGHT = {
    "lstm": Case(LSTM(3, 2), SERIES[:2]),
    "batch norm": Case(BatchNorm(4), BATCH),
    "convolution": Case(StridedConv(2, 3), IMAGE),
    "dropout": Case(Dropped(Dense(3, 4), 0.25), VECTOR),
    "embedding": Case(Embedding(5, 3), TOKENS),
    "embedding: assigned, all different": Case(Embedding(5, 3, "assigned"), TOKENS + jnp.array([1, 0, 0, 0])),
    "attention": Case(Attention(3, 4), SERIES),
    "diamond": Case(Diamond(3), VECTOR),
    "residual": Case(Residual(BRANCH), VECTOR),
    "tied": Case(Tied(3, 4), VECTOR),
    "dense with relu": Case(Rectified(3, 4), VECTOR),
    "custom rule": Case(Misled(2.0), VECTOR),
}

TIED = {  # max pooling that is right, which gives a tie to some entry of a window, and an image
    **{f"windows apart, {ties}": Case(MaxPool(2, 2, ties), SQUARE[:4, :4]) for ties in ("first", "last", "shared")},
    **{f"windows that overlap, {ties}": Case(MaxPool(2, 1, ties), SQUARE[:3, :3]) for ties in ("first", "shared")},
    **{f"zeros, {ties}": Case(MaxPool(2, 2, ties), 0 * SQUARE[:4, :4]) for ties in ("first", "last")},
    "windows apart, assigned": Case(MaxPool(2, 2, wrong="assigned"), SQUARE[:4, :4]),
}
