"""The mutants as `jax.custom_vjp` functions inside programs: bare ones, an Equinox model or a Flax model.

All of it is derived from the mutants of layers: a rule calls the forward and the backward of the layer that is wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from support.layers import Positions
from support.mutations import Mutant

from jaxann import backprop
from jaxann.gradcheck.arguments import by_name
from jaxann.nn import CrossEntropy, Dropout, Hinge, Sequential
from jaxann.nn.batch import forward_batch
from jaxann.nn.outer import materialize

KINKS = -0.0, 0.0, 1.0, -1.0  # of activations


@dataclass(frozen=True)
class Rule:
    """A function with a wrong custom derivative.

    Attributes:
        function: The function of its parameters, its input, and further arguments without a gradient.
        params: Its parameters.
        inputs: Inputs and further arguments for several calls, leaves [B, ...].
        wrong: The names of the wrong gradients, as `by_name` gives them.
        is_probability: Whether the input should be probabilities.
        is_first: Whether the input is data, so that no layer is below.
    """

    function: Callable
    params: Any
    inputs: tuple[Any, ...]
    wrong: frozenset[str]
    is_probability: bool = False
    is_first: bool = False

    def paths(self) -> dict[str, str]:
        """Returns the name of each gradient by its path in an audit."""
        names = list(by_name(self.params, self.inputs[0]))
        return {f"{rule}.{i}": name for rule in ("rule", "rule#2") for i, name in enumerate(names)}


def make_rule(mutant: Mutant) -> Rule:
    """Returns what is wrong in a mutant as a function with a custom derivative; a choice of a slope is at its kinks."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.1, mutant.model.init(jax.random.key(0)))
    positions = (3,) if isinstance(mutant.model, Positions) else ()
    x = rng.normal(size=(6, *positions, mutant.model.sizes[0] or 4))
    place, _, _ = mutant.wrong[0].partition(".")
    is_choice = mutant.cause == "kink"
    if place == "loss":
        return _make_loss_rule(mutant, x, rng)
    if place == "gradient":
        return _make_gradient_rule(mutant, params, x, rng)
    layer = mutant.model
    if type(layer) is Sequential and place.isdecimal():
        k = int(place)
        x = forward_batch(Sequential(layer.layers[:k]), params[:k], jnp.asarray(x))[0] if k else x
        x = np.array(3 * x)  # beyond the kinks of its activation
        x[:, :4] = KINKS if is_choice else x[:, :4]
        layer, params = layer.layers[k], params[k]
        wrong = [path.partition(".")[2].removeprefix("random.") for path in mutant.wrong]
    else:
        wrong = [path.removeprefix("chain.") for path in mutant.wrong]
    key = jax.random.key(1) if isinstance(layer, Dropout) else None

    @jax.custom_vjp
    def rule(params, x, key):
        return layer.forward(params, x, key)[0]

    def forward(params, x, key):
        y, saved = layer.forward(params, x, key)
        return y, (params, saved)

    def backward(saved, dy):
        grads, dx = layer.backward(*saved, dy)
        return materialize(grads), dx, None

    rule.defvjp(forward, backward)
    return Rule(lambda params, x: rule(params, x, key), params, (x,), frozenset(wrong), is_first=is_choice)


def _make_loss_rule(mutant: Mutant, x: np.ndarray, rng: np.random.Generator) -> Rule:
    @jax.custom_vjp
    def rule(y, t):
        return mutant.loss.value(y, t)

    def backward(saved, dy):
        return dy * mutant.loss.gradient(*saved), None

    rule.defvjp(lambda y, t: (mutant.loss.value(y, t), (y, t)), backward)
    t = rng.uniform(size=(6, 3))
    t = np.sign(t - 0.5) if isinstance(mutant.loss, Hinge) else t
    is_probability, is_choice = isinstance(mutant.loss, CrossEntropy), mutant.cause == "kink"
    y = t * np.array([1, 2, 1]) if is_choice else x[:, :3] * np.array([0.5, 2, 6])
    return Rule(lambda params, y, t: rule(y, t), (), (y, t), frozenset(["dx"]), is_probability)


def _make_gradient_rule(mutant: Mutant, params: Any, x: np.ndarray, rng: np.random.Generator) -> Rule:
    """Returns the gradient function as the rule of its value, or of the right one if the value itself is wrong."""
    gradient = mutant.gradient(mutant.model, mutant.loss)
    is_value = mutant.wrong[0].endswith("value")
    value = backprop(mutant.model, mutant.loss) if is_value else gradient
    weighted = all(path.startswith("gradient.weighted.") for path in mutant.wrong)

    @jax.custom_vjp
    def rule(params, x, t, weights):
        return value(params, x, t, weights)[0]

    def forward(*args):
        return rule(*args), gradient(*args)[1]

    def backward(grads, dy):
        return jax.tree.map(lambda g: dy * g, materialize(grads)), None, None, None

    rule.defvjp(forward, backward)
    wrong = {path.removeprefix("gradient.").removeprefix("weighted.") for path in mutant.wrong}
    wrong = by_name(params, ()) if is_value else wrong
    weights = np.stack([rng.uniform(0.1, 1, size=6)] * 2) if weighted else None
    batches = np.stack([x, 2 * x]), rng.uniform(size=(2, 6, 3)), weights
    return Rule(rule, params, batches, frozenset(wrong), is_first=True)


# A host makes a model of a rule, with its parameters and one more layer below it. It returns the weights of the model,
# and the model as a function of the weights and of the inputs of one call.


def host_bare(rule, params, is_first, x, *others):
    def model(weights, x, *others):
        return rule(weights["params"], x if is_first else x @ weights["kernel"], *others)

    return {"kernel": jnp.eye(x.shape[-1]), "params": params}, model


def host_equinox(rule, params, is_first, x, *others):
    import equinox

    class Model(equinox.Module):
        linear: equinox.nn.Linear
        params: Any

        def __call__(self, x, *others):
            linear = jax.vmap(self.linear) if x.ndim > 1 else self.linear
            return rule(self.params, x if is_first else linear(x), *others)

    linear = equinox.nn.Linear(x.shape[-1], x.shape[-1], use_bias=False, key=jax.random.key(1))
    linear = equinox.tree_at(lambda linear: linear.weight, linear, jnp.eye(x.shape[-1]))
    return Model(linear, params), lambda model, *inputs: model(*inputs)


def host_flax(rule, params, is_first, x, *others):
    from flax import linen

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x, *others):
            x = x if is_first else linen.Dense(x.shape[-1], kernel_init=lambda key, shape, dtype: jnp.eye(*shape))(x)
            return rule(self.param("rule", lambda key: params), x, *others)

    return Model().init(jax.random.key(1), x, *others), Model().apply


HOSTS = {"bare": host_bare, "Equinox": host_equinox, "Flax": host_flax}
TRANSFORMATIONS = ("jit", "scan", "vmap")


def make_program(rule: Rule, host: str, transformation: str) -> tuple[Callable, tuple[Any, ...]]:
    """Returns a program that calls a rule, and the arguments of the program.

    Args:
        rule: The rule.
        host: A key of `HOSTS`.
        transformation: One of `TRANSFORMATIONS`: one call under jit, or a call for each of the inputs.
    """

    def call(params, x, *others):
        if rule.is_probability:
            x = jnp.exp(x) / jnp.exp(x).sum()
        return rule.function(params, x, *others)

    x, *others = jax.tree.map(jnp.asarray, rule.inputs)
    first = jax.tree.map(lambda leaf: leaf[0], (x, *others))
    weights, model = HOSTS[host](call, rule.params, rule.is_first, *first)

    def loss(weights, *inputs):
        return jnp.sum(jnp.sin(model(weights, *inputs)))

    def program(weights, *x):
        inputs = (*(x or inputs_of_calls[:1]), *inputs_of_calls[1:])
        if transformation == "jit":
            return jax.jit(loss)(weights, *inputs)
        if transformation == "vmap":
            return jax.vmap(loss, (None, *(0 for _ in inputs)))(weights, *inputs).sum()
        return jax.lax.scan(lambda total, inputs: (total + loss(weights, *inputs), None), 0.0, inputs)[0]

    inputs_of_calls = first if transformation == "jit" else (x, *others)
    return program, (weights,) if rule.is_first else (weights, inputs_of_calls[0])
