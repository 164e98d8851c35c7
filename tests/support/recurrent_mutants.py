"""Recurrent layers with a mistake in each term of their backward, and a cell of a user's own."""

import jax.numpy as jnp
from support.layers import WrongLayer

from jaxann.nn import GRU, LSTM, RNN, Outer, Recurrent

ALL = ("Wx", "Wh", "b", "dx")
ALL_OF_GRU = (*ALL, "bh")


class LeakyRNN(Recurrent):
    """h_t = ½ h_(t-1) + ½ tanh(W_x x_t + b + W_h h_(t-1))"""

    def step(self, zx, zh, state):
        (before,) = state
        y = jnp.tanh(zx + zh)
        return ((before + y) / 2,), y

    def back(self, saved, state, dstate):
        y, (dh,) = saved, dstate
        dz = dh / 2 * (1 - y * y)
        return dz, dz, (dh / 2,)


def mutate_cell(cell, spoil):
    """Replaces `back` by spoil(back, saved, state, dstate), where the first argument is the right one."""

    class Wrong(cell):
        def back(self, saved, state, dstate):
            return spoil(super().back, saved, state, dstate)

    return Wrong(2, 3)


def mutate_gate(cell, gate, change):
    """Replaces the gradient of a gate's argument by change(gradient, saved), before W_h spreads it."""

    def spoil(back, saved, state, dstate):
        dzx, dzh, dbefore = back(saved, state, dstate)
        wrong = []
        for dz in (dzx, dzh):
            blocks = jnp.split(dz, cell.gates)
            blocks[gate] = change(blocks[gate], saved)
            wrong.append(jnp.concatenate(blocks))
        return *wrong, dbefore

    return mutate_cell(cell, spoil)


def swap_first_gates(back, saved, state, dstate):
    first, second, *others = jnp.split(back(saved, state, dstate)[0], 4)
    dz = jnp.concatenate([second, first, *others])
    return dz, dz, back(saved, state, dstate)[2]


def forget_reset(back, saved, state, dstate):
    dzx, _, dbefore = back(saved, state, dstate)
    return dzx, dzx, dbefore


def forget_forgetting(back, saved, state, dstate):
    dzx, dzh, (dh, dc) = back(saved, state, dstate)
    return dzx, dzh, (dh, dc / saved[1])


class UntransposedRNN(RNN):
    def backward(self, params, saved, dy):
        return super().backward(params | {"Wh": params["Wh"].T}, saved, dy)


class MisdirectedGRU(GRU):
    """Goes through the steps in the same direction in both passes."""

    def backward(self, params, saved, dy):
        return GRU(self.n, self.m, reverse=not self.reverse).backward(params, saved, dy)


def mutate_gradients(layer, spoil):
    """Replaces some of the gradients by spoil(saved, grads, dx)."""

    def backward(params, saved, dy, grads, dx):
        changed = spoil(saved, grads, dx)
        return grads | {name: changed[name] for name in changed if name != "dx"}, changed.get("dx", dx)

    return WrongLayer(layer, backward)


MUTANTS = {  # a wrong layer of two features, and the gradients that are wrong
    "LSTM: c's gradient not carried to the step before": (
        mutate_cell(LSTM, lambda back, saved, state, d: (*back(saved, state, d)[:2], (0 * d[0], 0 * d[1]))),
        ALL,
    ),
    "RNN: tanh' left out": (
        mutate_cell(RNN, lambda back, saved, state, d: (d[0], d[0], (0 * d[0],))),
        ALL,
    ),
    "RNN: tanh' at the state before": (
        mutate_cell(RNN, lambda back, saved, state, d: back(state[0], state, d)),
        ALL,
    ),
    "RNN: cut to one step": (RNN(2, 3, truncate=1), ALL),
    "RNN: cut after two steps": (RNN(2, 3, truncate=2), ALL),
    "RNN: W_h not transposed": (UntransposedRNN(2, 3), ALL),
    "RNN: h taken for the h before": (
        mutate_gradients(RNN(2, 3), lambda saved, g, dx: {"Wh": Outer(g["Wh"].left, saved[1][0])}),
        ("Wh",),
    ),
    "RNN: x of the next step": (
        mutate_gradients(RNN(2, 3), lambda saved, g, dx: {"Wx": Outer(g["Wx"].left, jnp.roll(saved[0], -1, 0))}),
        ("Wx",),
    ),
    "RNN: b of the last step alone": (
        mutate_gradients(RNN(2, 3), lambda saved, g, dx: {"b": g["Wx"].left[-1]}),
        ("b",),
    ),
    "RNN: b averaged over the steps": (
        mutate_gradients(RNN(2, 3), lambda saved, g, dx: {"b": g["Wx"].left.mean(0)}),
        ("b",),
    ),
    "RNN: dx in reverse order": (mutate_gradients(RNN(2, 3), lambda saved, g, dx: {"dx": dx[::-1]}), ("dx",)),
    "GRU: the wrong direction": (MisdirectedGRU(2, 3), ALL_OF_GRU),
    "GRU: the path of u h left out": (
        mutate_cell(GRU, lambda back, saved, state, d: (*back(saved, state, d)[:2], (0 * d[0],))),
        ALL_OF_GRU,
    ),
    "GRU: r left out on the way to hn": (mutate_cell(GRU, forget_reset), ALL_OF_GRU),
    "GRU: bh of dn without r": (
        mutate_gradients(GRU(2, 3), lambda saved, g, dx: {"bh": g["Wx"].left[:, -3:].sum(0)}),
        ("bh",),
    ),
    "GRU: h before left out of u": (
        mutate_cell(GRU, lambda back, saved, state, d: back(saved, (0 * state[0],), d)),
        ALL_OF_GRU,
    ),
    "GRU: nothing for r": (mutate_gate(GRU, 0, lambda d, saved: 0 * d), ALL_OF_GRU),
    "GRU: σ' of r left out": (mutate_gate(GRU, 0, lambda d, s: d / (s[0] * (1 - s[0]))), ALL_OF_GRU),
    "GRU: σ' of u halved": (mutate_gate(GRU, 1, lambda d, s: d / (1 - s[1])), ALL_OF_GRU),
    "GRU: 1 - u left out of n": (mutate_gate(GRU, 2, lambda d, s: d / (1 - s[1])), ALL_OF_GRU),
    "GRU: tanh' of n left out": (mutate_gate(GRU, 2, lambda d, s: d / (1 - s[2] ** 2)), ALL_OF_GRU),
    "LSTM: f left out on the way to the c before": (mutate_cell(LSTM, forget_forgetting), ALL),
    "LSTM: no gradient from h to c": (
        mutate_cell(LSTM, lambda back, s, state, d: back(s, state, (d[0], d[1] - d[0] * s[3] * (1 - s[4] ** 2)))),
        ALL,
    ),
    "LSTM: tanh' of c left out": (
        mutate_cell(LSTM, lambda back, s, state, d: back(s, state, (d[0], d[1] + d[0] * s[3] * s[4] ** 2))),
        ALL,
    ),
    "LSTM: c taken for the c before": (
        mutate_cell(LSTM, lambda back, s, state, d: back(s, (state[0], s[1] * state[1] + s[0] * s[2]), d)),
        ALL,
    ),
    "LSTM: i and f swapped": (mutate_cell(LSTM, swap_first_gates), ALL),
    "LSTM: σ' of i halved": (mutate_gate(LSTM, 0, lambda d, s: d / (1 - s[0])), ALL),
    "LSTM: σ' of f left out": (mutate_gate(LSTM, 1, lambda d, s: d / (s[1] * (1 - s[1]))), ALL),
    "LSTM: tanh' of g left out": (mutate_gate(LSTM, 2, lambda d, s: d / (1 - s[2] ** 2)), ALL),
    "LSTM: nothing for o": (mutate_gate(LSTM, 3, lambda d, s: 0 * d), ALL),
    "LSTM: the slope of o left out": (mutate_gate(LSTM, 3, lambda d, s: d / (s[3] * (1 - s[3]))), ALL),
}
