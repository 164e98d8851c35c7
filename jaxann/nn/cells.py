"""Cells of recurrent layers: for each one, a step and its handwritten transpose."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax.lax import logistic
from jaxtyping import Array, Float, PRNGKeyArray

from jaxann.nn.hyperparameters import Number, validate_number
from jaxann.nn.recurrent import Gates, Recurrent, State

Vector = Float[Array, " m"]


@dataclass(frozen=True)
class RNN(Recurrent):
    """Simple recurrent layer.

    h_t = tanh(W_x x_t + b + W_h h_(t-1)), so that, with dh_t = dy_t + W_hᵀ dz_(t+1), dz_t = dh_t (1 - h_t²),
    ∂E/∂W_x = Σ_t dz_t x_tᵀ, ∂E/∂W_h = Σ_t dz_t h_(t-1)ᵀ, ∂E/∂b = Σ_t dz_t and dx_t = W_xᵀ dz_t.

    x is [T, n] and y = (h_1, ..., h_T) is [T, m], with h_0 = 0. The parameters are {"Wx": [m, n], "Wh": [m, m],
    "b": [m]}. `Recurrent` states the settings and what is raised.

    Source: Elman 1990.
    """

    def step(self, zx: Gates, zh: Gates, state: State) -> tuple[State, Vector]:
        h = jnp.tanh(zx + zh)
        return (h,), h

    def back(self, saved: Vector, state: State, dstate: State) -> tuple[Gates, Gates, State]:
        h, (dh,) = saved, dstate
        dz = dh * (1 - h * h)  # h = tanh(zx + zh)
        return dz, dz, (jnp.zeros_like(dh),)  # h_(t-1) reaches this step only through zh


@dataclass(frozen=True)
class GRU(Recurrent):
    """Gated recurrent unit, whose reset gate acts after the product with W_h.

    With the blocks xr, xu, xn of W_x x_t + b and hr, hu, hn of W_h h_(t-1), where hn has a bias b_h of its own,

        r = σ(xr + hr)
        u = σ(xu + hu)
        n = tanh(xn + r hn)
        h_t = (1 - u) n + u h_(t-1)

    so that, with dh for the gradient of h_t and dr, du, dn for those of the arguments of σ and tanh,

        dn = dh (1 - u) (1 - n²)
        du = dh (h_(t-1) - n) u (1 - u)
        dr = dn hn r (1 - r)
        dh_(t-1) = dy_(t-1) + W_hᵀ (dr, du, dn r) + dh u

    and ∂E/∂W_x = Σ_t (dr, du, dn) x_tᵀ, ∂E/∂W_h = Σ_t (dr, du, dn r) h_(t-1)ᵀ, ∂E/∂b = Σ_t (dr, du, dn),
    ∂E/∂b_h = Σ_t dn r and dx_t = W_xᵀ (dr, du, dn).

    x is [T, n] and y = (h_1, ..., h_T) is [T, m], with h_0 = 0. The parameters are {"Wx": [3m, n], "Wh": [3m, m],
    "b": [3m], "bh": [m]}, with the gates in the order r, u, n. Only hn needs a bias of its own, because hr and hu are
    added to xr and xu, which have one. PyTorch's layer is the same if the blocks r and u of b are those of `bias_ih`
    plus `bias_hh`, the block n of b is that of `bias_ih`, and b_h is the block n of `bias_hh`. `Recurrent` states the
    settings and what is raised.

    Source: Cho et al. 2014, section 2.3, with r inside as in cuDNN and PyTorch.
    """

    gates: ClassVar[int] = 3
    hidden_biases: ClassVar[int] = 1

    def step(self, zx: Gates, zh: Gates, state: State) -> tuple[State, tuple[Vector, ...]]:
        (xr, xu, xn), (hr, hu, hn), (before,) = jnp.split(zx, 3), jnp.split(zh, 3), state
        r = logistic(xr + hr)
        u = logistic(xu + hu)
        n = jnp.tanh(xn + r * hn)
        h = (1 - u) * n + u * before
        return (h,), (r, u, n, hn)

    def back(self, saved: tuple[Vector, ...], state: State, dstate: State) -> tuple[Gates, Gates, State]:
        (r, u, n, hn), (before,), (dh,) = saved, state, dstate
        dn = dh * (1 - u) * (1 - n * n)  # h = (1 - u) n + u before, n = tanh(xn + r hn)
        du = dh * (before - n) * u * (1 - u)  # h = (1 - u) n + u before, u = σ(xu + hu)
        dr = dn * hn * r * (1 - r)  # n = tanh(xn + r hn), r = σ(xr + hr)
        dzx, dzh = jnp.concatenate([dr, du, dn]), jnp.concatenate([dr, du, dn * r])  # n = tanh(xn + r hn)
        return dzx, dzh, (dh * u,)  # h = (1 - u) n + u before


@dataclass(frozen=True)
class LSTM(Recurrent):
    """Long short-term memory with a forget gate.

    With the blocks z_i, z_f, z_g, z_o of z = W_x x_t + b + W_h h_(t-1),

        i, f, o = σ(z_i), σ(z_f), σ(z_o) and g = tanh(z_g)
        c_t = f c_(t-1) + i g
        h_t = o tanh(c_t)

    so that, with dh for the gradient of h_t, dc for that of c_t, and f' and dc' for those of the next step,

        dc = dc' f' + dh o (1 - tanh²(c_t))
        dz_i = dc g i (1 - i)
        dz_f = dc c_(t-1) f (1 - f)
        dz_g = dc i (1 - g²)
        dz_o = dh tanh(c_t) o (1 - o)
        dh_(t-1) = dy_(t-1) + W_hᵀ dz

    and ∂E/∂W_x = Σ_t dz x_tᵀ, ∂E/∂W_h = Σ_t dz h_(t-1)ᵀ, ∂E/∂b = Σ_t dz and dx_t = W_xᵀ dz.

    x is [T, n] and y = (h_1, ..., h_T) is [T, m], with h_0 = c_0 = 0. The parameters are {"Wx": [4m, n],
    "Wh": [4m, m], "b": [4m]}, with the gates in the order i, f, g, o. PyTorch's layer is the same if b is `bias_ih`
    plus `bias_hh`. `Recurrent` states the settings and what is raised.

    Attributes:
        forget_bias: The number that `init` adds to the biases of f, 1 by default. Then f is near 1 when training
            begins, and c keeps what it holds. PyTorch's initial biases are around 0.

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

    def step(self, zx: Gates, zh: Gates, state: State) -> tuple[State, tuple[Vector, ...]]:
        _, before = state
        i, f, g, o = jnp.split(zx + zh, 4)
        i, f, g, o = logistic(i), logistic(f), jnp.tanh(g), logistic(o)
        c = f * before + i * g
        t = jnp.tanh(c)
        h = o * t
        return (h, c), (i, f, g, o, t)

    def back(self, saved: tuple[Vector, ...], state: State, dstate: State) -> tuple[Gates, Gates, State]:
        (i, f, g, o, t), (_, before), (dh, dc) = saved, state, dstate
        dc = dc + dh * o * (1 - t * t)  # h = o t, t = tanh(c), and c also goes to the next step
        do = dh * t * o * (1 - o)  # h = o t, o = σ(z)
        di = dc * g * i * (1 - i)  # c = f before + i g, i = σ(z)
        df = dc * before * f * (1 - f)  # c = f before + i g, f = σ(z)
        dg = dc * i * (1 - g * g)  # c = f before + i g, g = tanh(z)
        dz = jnp.concatenate([di, df, dg, do])  # z = zx + zh
        return dz, dz, (jnp.zeros_like(dh), dc * f)  # c = f before + i g; h_(t-1) reaches this step only through zh
