"""A long short-term memory by hand, and what handwritten ones get wrong (public cases 01 and 15).

Facts from github.com/nicklashansen/rnn_lstm_from_scratch#1, CaptainE/RNN-LSTM-in-numpy#1 and apache/mxnet#4057.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from jaxann.nn import Layer, Outer

GATES = ("forget", "input", "output", "cell")


@dataclass(frozen=True)
class LSTM(Layer):
    """The hidden states h [T, m] of a long short-term memory for x [T, n] (Hochreiter & Schmidhuber 1997).

    c_t = f c_(t-1) + i g and h_t = o tanh(c_t), where the gates f, i, o and the candidate g depend on (h_(t-1), x_t).
    """

    n: int
    m: int
    wrong: tuple[str, ...] = ()

    def init(self, key):
        shapes = {f"W_{gate}": (self.m, self.m + self.n) for gate in GATES} | {f"b_{gate}": (self.m,) for gate in GATES}
        keys = jax.random.split(key, len(shapes))
        return {name: 0.6 * jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}

    def forward(self, params, x, key=None):
        h = c = jnp.zeros(self.m)
        states, saved = [], []
        for row in x:
            both = jnp.concatenate([h, row])
            f = sigmoid(params["W_forget"] @ both + params["b_forget"])
            i = sigmoid(params["W_input"] @ both + params["b_input"])
            o = sigmoid(params["W_output"] @ both + params["b_output"])
            g = jnp.tanh(params["W_cell"] @ both + params["b_cell"])
            previous, c = c, f * c + i * g
            h = o * jnp.tanh(c)
            states.append(h)
            saved.append((both, f, i, o, g, previous, c))
        return jnp.stack(states), saved

    def backward(self, params, saved, dy):
        dh, dc = jnp.zeros(self.m), jnp.zeros(self.m)
        errors, inputs, dx = [], [], []
        for (both, f, i, o, g, previous, c), above in zip(reversed(saved), dy[::-1], strict=True):
            dh = above + dh
            t = jnp.tanh(c)
            slope = 1 - (jnp.tanh(t) if "tanh twice" in self.wrong else t) ** 2
            local = dh * o * slope
            dc = local if "cell assigned" in self.wrong else dc + local
            error = {
                "forget": dc * previous * (f if "forget gate" in self.wrong else f * (1 - f)),
                "input": dc * g * i * (1 - i),
                "output": dh * t * o * (1 - o),
                "cell": dc * i * (1 - g**2),
            }
            both_error = sum(params[f"W_{gate}"].T @ error[gate] for gate in GATES)
            errors.append(error)
            inputs.append(both)
            dx.append(both_error[self.m :])
            dh, dc = both_error[: self.m], f * dc
            if "not carried" in self.wrong:
                dh, dc = jnp.zeros(self.m), jnp.zeros(self.m)
        left = {gate: jnp.stack([error[gate] for error in errors]) for gate in GATES}
        weights = {f"W_{gate}": Outer(left[gate], jnp.stack(inputs)) for gate in GATES}
        return weights | {f"b_{gate}": left[gate].sum(axis=0) for gate in GATES}, jnp.stack(dx[::-1])
