"""Attention, feed-forward blocks and positions with one term of the backward pass removed or changed.

A mutant is the class of a right layer with a piece of the source of one of its methods replaced, so that each mistake
is a line of a table.
"""

import inspect
import sys
import textwrap
from dataclasses import replace

import jax

from jaxann.nn import Attention, FeedForward, LeanAttention, LearnedPositions, SinusoidalPositions, SwiGLU

GROUPED = Attention(8, 4, key_value_heads=2, rotary=True, biases=True)
LEAN = LeanAttention(8, 4, key_value_heads=2, rotary=True, biases=True, block=2)
DROPPED = Attention(4, 2, dropout=0.5)
RIGHT = {  # the right layers and the shapes of their inputs; every mutant is made of one of them
    "attention": (GROUPED, (3, 8)),
    "lean attention": (LEAN, (3, 8)),
    "attention with dropout": (DROPPED, (3, 4)),
    "lean attention with dropout": (LeanAttention(4, 2, dropout=0.5, block=2), (3, 4)),
    "feed-forward": (FeedForward(3, 4), (2, 3)),
    "gated": (SwiGLU(3, 4), (2, 3)),
    "learned positions": (LearnedPositions(4, 2), (3, 2)),
    "sinusoidal positions": (SinusoidalPositions(2), (3, 2)),
}
ALL = ("W_qkv", "b_qkv", "dx")  # what q, k and v pass their gradients on to
MUTANTS = {  # the right layer, the method, what is replaced in its source, by what, and the gradients that become wrong
    "attention: 1/√d forgotten": ("attention", "scores_backward", "dS / sqrt(self._size)", "dS", ALL),
    "attention: row sum left out": ("attention", "attend_backward", "dP - row_sums", "dP", ALL),
    "attention: P left out of the slope of softmax": ("attention", "attend_backward", "P * (dP", "(dP", ALL),
    "attention: sign of the row sum": ("attention", "attend_backward", "dP - row_sums", "dP + row_sums", ALL),
    "attention: path of v left out": ("attention", "backward", "[dqk, dv]", "[dqk, 0 * dv]", ALL),
    "attention: path of q left out": ("attention", "backward", "[dq.reshape", "[0 * dq.reshape", ALL),
    "attention: path of k left out": ("attention", "backward", "dq.shape[2:]), dk]", "dq.shape[2:]), 0 * dk]", ALL),
    "attention: heads that share keys not summed": (
        "attention",
        "scores_backward",
        'multiply("grts,grtd->gsd", d, q)',
        'multiply("grts,grtd->gsd", d[:, :1], q[:, :1])',
        ALL,
    ),
    "attention: heads that share values not summed": (
        "attention",
        "attend_backward",
        "self.drop(P, kept), do)",
        "self.drop(P, kept)[:, :1], do[:, :1])",
        ALL,
    ),
    "attention: values not transposed": ("attention", "attend_backward", '"grts,grtd->gsd"', '"grts,grsd->gtd"', ALL),
    "attention: keys not transposed": (
        "attention",
        "scores_backward",
        '"grts,grtd->gsd"',
        '"grts,grsd->gtd"',
        ALL,
    ),
    "attention: not turned back": ("attention", "backward", "rotate(dqk, inverse=True)", "dqk", ALL),
    "attention: turned once more": ("attention", "backward", ", inverse=True", "", ALL),
    "attention: W_o left out": ("attention", "backward", 'dy @ params["W_o"]', "dy", ALL),
    "attention: W_o not transposed": ("attention", "backward", 'dy @ params["W_o"]', 'dy @ params["W_o"].T', ALL),
    "attention: W_o gets x in place of o": ("attention", "backward", "Outer(dy, o)", "Outer(dy, x)", ("W_o",)),
    "attention: W_qkv gets o in place of x": ("attention", "backward", "Outer(dz, x)", "Outer(dz, o)", ("W_qkv",)),
    "attention: dx not through W_qkv": ("attention", "backward", 'dz @ params["W_qkv"]', "dz[:, :8]", ("dx",)),
    "attention: b_qkv not summed": ("attention", "backward", "sum_places(dz)", "dz[0]", ("b_qkv",)),
    "attention: b_o averaged": ("attention", "backward", "sum_places(dy)", "dy.mean(0)", ("b_o",)),
    "attention: dropout forgotten on the way to the scores": (
        "attention with dropout",
        "attend_backward",
        'self.drop(multiply("grtd,gsd->grts", do, v), kept)',
        'multiply("grtd,gsd->grts", do, v)',
        ("random.W_qkv", "random.dx"),
    ),
    "attention: dropout forgotten on the way to v": (
        "attention with dropout",
        "attend_backward",
        "self.drop(P, kept)",
        "P",
        ("random.W_qkv", "random.dx"),
    ),
    "lean attention: mask not applied in backward": (
        "lean attention",
        "attend_backward",
        "self.scores(queries, k, positions)",
        "replace(self, causal=False).scores(queries, k, positions)",
        ALL,
    ),
    "lean attention: row sum left out": ("lean attention", "attend_backward", "dP - row_sums", "dP", ALL),
    "lean attention: dk of the last block alone": ("lean attention", "attend_backward", "sums[0] + dk", "dk", ALL),
    "lean attention: dv of the last block alone": ("lean attention", "attend_backward", "sums[1] + dv", "dv", ALL),
    "lean attention: weights not normalized": (
        "lean attention",
        "attend_backward",
        "- M) / Z",
        "- M)",
        ALL,
    ),
    "lean attention: blocks all at the start": (
        "lean attention",
        "attend_backward",
        "self._positions(q.shape[2]), ",
        "0 * self._positions(q.shape[2]), ",
        ALL,
    ),
    "feed-forward: slope left out": (
        "feed-forward",
        "backward",
        'self.activation.backward((), (z, h), dy @ params["W_2"])',
        '(), dy @ params["W_2"]',
        ("W_1", "b_1", "dx"),
    ),
    "feed-forward: slope at the output": ("feed-forward", "backward", "(z, h), dy", "(h, h), dy", ("W_1", "b_1", "dx")),
    "feed-forward: W_2 gets z in place of h": ("feed-forward", "backward", "Outer(dy, h)", "Outer(dy, z)", ("W_2",)),
    "feed-forward: b_2 not summed": ("feed-forward", "backward", "sum_places(dy)", "dy[0]", ("b_2",)),
    "feed-forward: b_1 before the slope": (
        "feed-forward",
        "backward",
        "sum_places(dz)",
        'sum_places(dy @ params["W_2"])',
        ("b_1",),
    ),
    "feed-forward: dx with the wrong sign": (
        "feed-forward",
        "backward",
        'dz @ params["W_1"]',
        '-dz @ params["W_1"]',
        ("dx",),
    ),
    "gated: the gate's slope left out": (
        "gated",
        "backward",
        "self.activation.backward((), (a, gate), b * dh)",
        "(), b * dh",
        ("W_gate", "dx"),
    ),
    "gated: b left out of the gate's gradient": ("gated", "backward", "b * dh", "dh", ("W_gate", "dx")),
    "gated: the gate left out": ("gated", "backward", "db = gate * dh", "db = dh", ("W_in", "dx")),
    "gated: W_out gets the gate alone": ("gated", "backward", "Outer(dy, gate * b)", "Outer(dy, gate)", ("W_out",)),
    "gated: path of the gate left out": ("gated", "backward", 'da @ params["W_gate"] + ', "", ("dx",)),
    "gated: path of W_in left out": ("gated", "backward", ' + db @ params["W_in"]', "", ("dx",)),
    "gated: gradients of gate and W_in exchanged": (
        "gated",
        "backward",
        '"W_gate": Outer(da, x), "W_in": Outer(db, x)',
        '"W_gate": Outer(db, x), "W_in": Outer(da, x)',
        ("W_gate", "W_in"),
    ),
    "learned positions: the last rows instead of the first": (
        "learned positions",
        "backward",
        "((0, self.length - len(dy)), (0, 0))",
        "((self.length - len(dy), 0), (0, 0))",
        ("P",),
    ),
    "learned positions: positions after the sequence get the last gradient": (
        "learned positions",
        "backward",
        "(0, 0)))}",
        '(0, 0)), mode="edge")}',
        ("P",),
    ),
    "learned positions: dx without the path of x": ("learned positions", "backward", "}, dy", "}, 0 * dy", ("dx",)),
    "sinusoidal positions: dx doubled": ("sinusoidal positions", "backward", "(), dy", "(), 2 * dy", ("dx",)),
}


def build_mutant(name):
    """Returns a wrong layer, the shape of an input for it, and the paths of its wrong gradients."""
    right, method, old, new, paths = MUTANTS[name]
    layer, shape = RIGHT[right]
    owner = next(base for base in type(layer).__mro__ if method in vars(base))
    source = textwrap.dedent(inspect.getsource(vars(owner)[method]))
    assert source.count(old) == 1, f"expected {old!r} once in {owner.__name__}.{method}"
    module = vars(sys.modules[owner.__module__]) | {"replace": replace}
    exec(compile(source.replace(old, new), f"<{name}>", "exec"), module)
    wrong = type(f"Wrong{type(layer).__name__}", (type(layer),), {method: module[method]})
    return wrong(**{field: getattr(layer, field) for field in layer.__dataclass_fields__ if field != "_"}), shape, paths


def draw(layer, shape):
    """Returns parameters that all differ from 0, and an input."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(keys[0], leaf.shape), layer.init(keys[1]))
    return params, jax.random.normal(keys[2], shape)
