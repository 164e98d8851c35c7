"""Cells of recurrent layers: for each one, a step and its handwritten transpose."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax.lax import logistic
from jaxtyping import Array, Float, PRNGKeyArray

from jaxann.nn.hyperparameters import Number, validate_number
from jaxann.nn.recurrent import Recurrent, State, Sums

Vector = Float[Array, " m"]


@dataclass(frozen=True, repr=False)
class RNN(Recurrent):
    """Simple recurrent layer.

    h_t = tanh(W_x x_t + b + W_h h_(t-1)), so that, with dh_t = dy_t + W_hᵀ dz_(t+1), dz_t = dh_t (1 - h_t²),
    ∂E/∂W_x = Σ_t dz_t x_tᵀ, ∂E/∂W_h = Σ_t dz_t h_(t-1)ᵀ, ∂E/∂b = Σ_t dz_t and dx_t = W_xᵀ dz_t.

    x is [T, n] and y = (h_1, ..., h_T) is [T, m], with h_0 = 0. The parameters are {"Wx": [m, n], "Wh": [m, m],
    "b": [m]}. `Recurrent` states the settings and what is raised.

    Source: Elman 1990.
    """

    def step(self, zx: Sums, zh: Sums, state: State) -> tuple[State, Vector]:
        h = jnp.tanh(zx + zh)
        return (h,), h

    def back(self, saved: Vector, state: State, dstate: State) -> tuple[Sums, Sums, State]:
        h, (dh,) = saved, dstate
        dz = dh * (1 - h * h)  # h = tanh(zx + zh)
        return dz, dz, (jnp.zeros_like(dh),)  # h_(t-1) reaches this step only through zh


@dataclass(frozen=True, repr=False)
class GRU(Recurrent):
    """Gated recurrent unit, whose reset gate acts after the product with W_h.

    With the blocks xr, xu, xn of W_x x_t + b and hr, hu, hn of W_h h_(t-1), where hn has a bias b_h of its own,

        r = σ(xr + hr)              dr = dn hn r (1 - r)
        u = σ(xu + hu)              du = dh (h_(t-1) - n) u (1 - u)
        n = tanh(xn + r hn)         dn = dh (1 - u) (1 - n²)
        h_t = (1 - u) n + u h_(t-1)

    The gradients on the right are those of the arguments of σ and tanh, and dh is that of h_t. So dzx = (dr, du, dn)
    and dzh = (dr, du, dn r), from which `Recurrent` has the gradients of the parameters, and dh_(t-1) has a term dh u
    beside W_hᵀ dzh.

    x is [T, n] and y = (h_1, ..., h_T) is [T, m], with h_0 = 0. The parameters are {"Wx": [3m, n], "Wh": [3m, m],
    "b": [3m], "bh": [m]}, with the gates in the order r, u, n. Only n needs b_h, since elsewhere two biases would be
    added: PyTorch's `bias_ih` and `bias_hh` are the same layer with the sum of both in b for r and u. `Recurrent`
    states the settings and what is raised.

    Source: Cho et al. 2014, section 2.3, with r inside as in cuDNN and PyTorch.
    """

    gates: ClassVar[int] = 3
    hidden_biases: ClassVar[int] = 1

    def step(self, zx: Sums, zh: Sums, state: State) -> tuple[State, tuple[Vector, ...]]:
        (xr, xu, xn), (hr, hu, hn), (before,) = jnp.split(zx, 3), jnp.split(zh, 3), state
        r = logistic(xr + hr)
        u = logistic(xu + hu)
        n = jnp.tanh(xn + r * hn)
        h = (1 - u) * n + u * before
        return (h,), (r, u, n, hn)

    def back(self, saved: tuple[Vector, ...], state: State, dstate: State) -> tuple[Sums, Sums, State]:
        (r, u, n, hn), (before,), (dh,) = saved, state, dstate
        dn = dh * (1 - u) * (1 - n * n)  # h = (1 - u) n + u before, n = tanh(xn + r hn)
        du = dh * (before - n) * u * (1 - u)  # h = (1 - u) n + u before, u = σ(xu + hu)
        dr = dn * hn * r * (1 - r)  # n = tanh(xn + r hn), r = σ(xr + hr)
        dzx, dzh = jnp.concatenate([dr, du, dn]), jnp.concatenate([dr, du, dn * r])  # n = tanh(xn + r hn)
        return dzx, dzh, (dh * u,)  # h = (1 - u) n + u before


@dataclass(frozen=True, repr=False)
class LSTM(Recurrent):
    """Long short-term memory with a forget gate.

    With the blocks i, f, g, o of z = W_x x_t + b + W_h h_(t-1),

        i, f, o = σ(i), σ(f), σ(o)      di = dc g, df = dc c_(t-1), do = dh tanh(c_t), each times σ' = σ (1 - σ)
        g = tanh(g)                     dg = dc i (1 - g²)
        c_t = f c_(t-1) + i g           dc_(t-1) = dc f
        h_t = o tanh(c_t)               dc = dc_t + dh o (1 - tanh²(c_t))

    where dh is the gradient of h_t, and dc_t what the next step returns for c_t. Then dz = (di, df, dg, do), from which
    `Recurrent` has the gradients of the parameters.

    x is [T, n] and y = (h_1, ..., h_T) is [T, m], with h_0 = c_0 = 0. The parameters are {"Wx": [4m, n],
    "Wh": [4m, m], "b": [4m]}, with the gates in the order i, f, g, o. PyTorch's `bias_ih` and `bias_hh` are the same
    layer with their sum in b. `Recurrent` states the settings and what is raised.

    Attributes:
        forget_bias: The number that `init` adds to the biases of f; 1 by default, so that the layer remembers from the
            start. PyTorch has 0.

    Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000 for f; Jozefowicz et al. 2015, section 2.2, for its bias.
    """

    _: KW_ONLY
    forget_bias: Number = 1.0

    gates: ClassVar[int] = 4
    states: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        validate_number("forget_bias", self.forget_bias)

    def init(self, key: PRNGKeyArray) -> dict[str, Array]:
        params = super().init(key)
        return params | {"b": params["b"].at[self.m : 2 * self.m].add(self.forget_bias)}

    def step(self, zx: Sums, zh: Sums, state: State) -> tuple[State, tuple[Vector, ...]]:
        _, before = state
        i, f, g, o = jnp.split(zx + zh, 4)
        i, f, g, o = logistic(i), logistic(f), jnp.tanh(g), logistic(o)
        c = f * before + i * g
        t = jnp.tanh(c)
        h = o * t
        return (h, c), (i, f, g, o, t)

    def back(self, saved: tuple[Vector, ...], state: State, dstate: State) -> tuple[Sums, Sums, State]:
        (i, f, g, o, t), (_, before), (dh, dc) = saved, state, dstate
        dc = dc + dh * o * (1 - t * t)  # h = o t, t = tanh(c), and c also goes to the next step
        do = dh * t * o * (1 - o)  # h = o t, o = σ(z)
        di = dc * g * i * (1 - i)  # c = f before + i g, i = σ(z)
        df = dc * before * f * (1 - f)  # c = f before + i g, f = σ(z)
        dg = dc * i * (1 - g * g)  # c = f before + i g, g = tanh(z)
        dz = jnp.concatenate([di, df, dg, do])  # z = zx + zh
        return dz, dz, (jnp.zeros_like(dh), dc * f)  # c = f before + i g; h_(t-1) reaches this step only through zh
