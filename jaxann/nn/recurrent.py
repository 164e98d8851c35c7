"""Recurrent layers: `Recurrent`, which does backpropagation through time for any cell. `cells` has the cells."""

# Annotations are not postponed: they would be looked up again in the modules of subclasses, for the inherited fields.

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from jaxann.nn.base import Layer
from jaxann.nn.factors import accumulation_dtype
from jaxann.nn.hyperparameters import validate_number
from jaxann.nn.initializers import Initializer, draw_array, glorot_uniform
from jaxann.nn.outer import Outer

Gates = Float[Array, " k"]  # m numbers for each gate, so that k = gates · m
State = tuple[Float[Array, " m"], ...]
States = tuple[Float[Array, "T m"], ...]

orthogonal = Initializer("orthogonal")


@dataclass(frozen=True)
class Recurrent(Layer):
    """Base class of recurrent layers, which go through a sequence step by step. A subclass defines one step: its cell.

    With zx_t = W_x x_t + b, zh_t = W_h h_(t-1) and the state s_t, which begins with h_t,

        forward, t = 1 ... T:   s_t, saved_t = step(zx_t, zh_t, s_(t-1)), from s_0 = 0, and y_t = h_t
        backward, t = T ... 1:  dzx_t, dzh_t, ds_(t-1) = back(saved_t, s_(t-1), ds_t), from ds_T = 0

    where backward adds dy_t to the dh_t in ds_t, and W_hᵀ dzh_t to the dh_(t-1) in ds_(t-1). Then
    ∂E/∂W_x = Σ_t dzx_t x_tᵀ, ∂E/∂W_h = Σ_t dzh_t h_(t-1)ᵀ, ∂E/∂b = Σ_t dzx_t and dx_t = W_xᵀ dzx_t. All products with
    W_x and both sums of outer products are taken over all steps at once, outside the loop.

    x is [T, n] with at least one step, and y is [T, m]. The parameters are {"Wx": [k, n], "Wh": [k, m], "b": [k]} with
    k = gates · m: each gate has m rows. States of a lower precision than float32 are kept in float32 from step to step.

    A cell is a subclass with `step` and, below it, `back`, which differentiates the lines of `step` from last to first.
    Neither handles a parameter. `jaxann.check_layer` judges a cell of your own as it judges any layer.

    Attributes:
        n: Number of features of x, at least 1.
        m: Number of features of y, at least 1.
        weights: Initializer of W_x, from `jax.nn.initializers`. It draws an array [n, m] for each gate. Glorot's
            uniform initializer by default.
        hidden_weights: Initializer of W_h, which draws an array [m, m] for each gate; orthogonal by default.
        biases: Initializer of the biases; zeros by default.
        reverse: Whether to go from the last step to the first: t = T ... 1 in forward, from s_(T+1) = 0.
        truncate: A number of steps, at least 1; None by default. With it, backward treats the sequence as pieces of
            that many steps, counted in the direction of the recurrence, and no gradient flows from one piece to the
            piece before it. Forward is the same with and without it. The result is deliberately not the true gradient:
            leaving out how earlier pieces act on later ones keeps products over many steps from growing or vanishing.
        gates: Number of blocks of m rows in W_x, W_h and b, a constant of the cell; 1 by default.
        states: Number of vectors [m] in the state, a constant of the cell; 1 by default, which is h alone.
        hidden_biases: Number of gates, counted from the last one, whose block of zh has a bias of its own, a constant
            of the cell; 0 by default. These biases are the parameter "bh" [hidden_biases · m].

    Raises:
        SettingError: If n, m or `truncate` is not a whole number of at least 1.
        ValueError: In `forward`, if x does not have the shape [T, n] with at least one step.

    Source: Werbos 1990 for backpropagation through time; Williams and Peng 1990, section 3, for its truncation; Saxe et
    al. 2014 for orthogonal weights.
    """

    n: int
    m: int
    _: KW_ONLY
    weights: Callable = field(default_factory=lambda: glorot_uniform)  # as a class attribute it would become a method
    hidden_weights: Callable = field(default_factory=lambda: orthogonal)
    biases: Callable = field(default_factory=lambda: initializers.zeros)
    reverse: bool = False
    truncate: int | None = None

    gates: ClassVar[int] = 1
    states: ClassVar[int] = 1
    hidden_biases: ClassVar[int] = 0

    def __post_init__(self) -> None:
        name = type(self).__name__
        validate_number("n", self.n, least=1, integer=True, note=f"the input features of {name}")
        validate_number("m", self.m, least=1, integer=True, note=f"the output features of {name}")
        if self.truncate is not None:
            validate_number("truncate", self.truncate, least=1, integer=True, note="steps")

    @abstractmethod
    def step(self, zx: Gates, zh: Gates, state: State) -> tuple[State, Any]:
        """Computes one step.

        Args:
            zx: [k], W_x x + b.
            zh: [k], W_h h of the step before, with the biases that `hidden_biases` adds.
            state: The state of the step before, a tuple of arrays [m], the first of them h.

        Returns:
            The new state, in the same form, and `saved`: a pytree of what `back` needs.
        """

    @abstractmethod
    def back(self, saved: Any, state: State, dstate: State) -> tuple[Gates, Gates, State]:
        """Computes the gradients of one step: `step` transposed.

        Args:
            saved: What `step` returned beside the new state.
            state: The state of the step before, as `step` got it.
            dstate: ∂E/∂s for each array s of the new state.

        Returns:
            ∂E/∂zx, ∂E/∂zh and, for each array of the state before, its gradient on every path but the one through zh.
            If the first two are equal, return one array twice, so that it is stored once.
        """

    @property
    def sizes(self) -> tuple[int, int]:
        return self.n, self.m

    def init(self, key: PRNGKeyArray) -> dict[str, Array]:
        wx, wh, b, bh = jax.random.split(key, 4)
        params = {
            "Wx": self._draw(self.weights, wx, self.n),
            "Wh": self._draw(self.hidden_weights, wh, self.m),
            "b": self.biases(b, (self.gates * self.m,)),
        }
        return params | ({"bh": self.biases(bh, (self.hidden_biases * self.m,))} if self.hidden_biases else {})

    def forward(
        self, params: PyTree, x: Float[Array, "T n"], key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "T m"], Any]:
        if x.ndim != 2 or x.shape[1] != self.n or not len(x):
            raise ValueError(f"{self} expected x of shape (T, {self.n}) with at least one step, got {x.shape}")
        Wh, bias = params["Wh"], self._pad(params["bh"]) if self.hidden_biases else 0
        zx = x @ params["Wx"].T + params["b"][None, :]  # one product for all steps
        dtype = accumulation_dtype(zx)

        def step(state, zx):
            zh = state[0].astype(x.dtype) @ Wh.T + bias
            state, saved = self.step(zx.astype(dtype), zh.astype(dtype), state)
            return state, _cast((state, saved), x.dtype)

        _, (states, saved) = lax.scan(step, self._zeros(dtype), zx, reverse=self.reverse)
        return states[0], (x, states, saved)

    def backward(self, params: PyTree, saved: Any, dy: Float[Array, "T m"]) -> tuple[PyTree, Float[Array, "T n"]]:
        x, states, saved = saved
        before, dtype = self._shift(states), accumulation_dtype(dy)

        def back(dstate, step):
            dy, connected, state, saved = step
            dstate = _add_to_first(dstate, dy)  # y = h, and the next step gets h, too
            dzx, dzh, dstate = self.back(_cast(saved, dtype), _cast(state, dtype), dstate)
            dz = _cast((dzx,) if dzx is dzh else (dzx, dzh), dy.dtype)
            dstate = _cast(_add_to_first(dstate, dz[-1] @ params["Wh"]), dtype)  # zh = W_h h + its bias
            if connected is not None:
                dstate = tuple(jnp.where(connected, d, 0) for d in dstate)
            return dstate, dz

        steps = dy, self._connections(len(x)), before, saved
        _, dz = lax.scan(back, self._zeros(dtype), steps, reverse=not self.reverse)
        dzx, dzh = dz[0], dz[-1]
        # zx = W_x x + b and zh = W_h h + its bias, at every step
        grads = {"Wx": Outer(dzx, x), "Wh": Outer(dzh, before[0]), "b": dzx.sum(0, dtype)}
        grads |= {"bh": dzh[:, -self.hidden_biases * self.m :].sum(0, dtype)} if self.hidden_biases else {}
        return grads, (dzx @ params["Wx"]).astype(dy.dtype)  # zx = W_x x + b

    def _draw(self, weights: Callable, key: PRNGKeyArray, n: int) -> Float[Array, "k n"]:
        return jnp.concatenate([draw_array(weights, k, (n, self.m)).T for k in jax.random.split(key, self.gates)])

    def _pad(self, bias: Float[Array, " j"]) -> Gates:
        return jnp.pad(bias, (self.gates * self.m - len(bias), 0))

    def _zeros(self, dtype: Any) -> State:
        return (jnp.zeros(self.m, dtype),) * self.states

    def _shift(self, states: States) -> States:
        """Returns the state before each step, from the states after each step."""
        zeros = [jnp.zeros_like(s[:1]) for s in states]
        pairs = [(s[1:], zero) if self.reverse else (zero, s[:-1]) for s, zero in zip(states, zeros, strict=True)]
        return tuple(map(jnp.concatenate, pairs))

    def _connections(self, steps: int) -> Bool[Array, " T"] | None:
        """Returns for each step whether gradients flow from it to the step before; None if they always do."""
        if self.truncate is None:
            return None
        position = jnp.arange(steps)[::-1] if self.reverse else jnp.arange(steps)
        return position % self.truncate != 0


def _add_to_first(state: State, a: Float[Array, " m"]) -> State:
    return state[0] + a, *state[1:]


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)
