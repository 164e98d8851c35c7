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

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Rule:
    """A function with a wrong custom derivative.

    Attributes:
        function: The function of its parameters, its input, and further arguments without a gradient.
        params: Its parameters.
        inputs: Inputs and further arguments for several calls, leaves [B, ...].
        wrong: The names of the wrong gradients, as `by_name` gives them.
        is_probability: Whether the input should be probabilities.
    """

    function: Callable
    params: Any
    inputs: tuple[Any, ...]
    wrong: frozenset[str]
    is_probability: bool = False

    def paths(self) -> dict[str, str]:
        """Returns the name of each gradient by its path in an audit."""
        return {f"rule.{i}": name for i, name in enumerate(by_name(self.params, self.inputs[0]))}


def make_rule(mutant: Mutant) -> Rule:
    """Returns what is wrong in a mutant as a function with a custom derivative."""
    params = jax.tree.map(lambda leaf: leaf + 0.1, mutant.model.init(jax.random.key(0)))
    positions = (3,) if isinstance(mutant.model, Positions) else ()
    x = RNG.normal(size=(6, *positions, mutant.model.sizes[0] or 4))
    place, _, rest = mutant.wrong[0].partition(".")
    if place == "loss":
        return _make_loss_rule(mutant, x)
    if place == "gradient":
        return _make_gradient_rule(mutant, params, x)
    layer = mutant.model
    if type(layer) is Sequential and place.isdecimal():
        k = int(place)
        x, _ = forward_batch(Sequential(layer.layers[:k]), params[:k], x)
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
    return Rule(lambda params, x: rule(params, x, key), params, (x,), frozenset(wrong))


def _make_loss_rule(mutant: Mutant, x: np.ndarray) -> Rule:
    @jax.custom_vjp
    def rule(y, t):
        return mutant.loss.value(y, t)

    def backward(saved, dy):
        return dy * mutant.loss.gradient(*saved), None

    rule.defvjp(lambda y, t: (mutant.loss.value(y, t), (y, t)), backward)
    t = RNG.uniform(size=(6, 3))
    t = np.sign(t - 0.5) if isinstance(mutant.loss, Hinge) else t
    is_probability = isinstance(mutant.loss, CrossEntropy)
    return Rule(lambda params, y, t: rule(y, t), (), (3 * x[:, :3], t), frozenset(["dx"]), is_probability)


def _make_gradient_rule(mutant: Mutant, params: Any, x: np.ndarray) -> Rule:
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
    batches = np.stack([x, 2 * x]), RNG.uniform(size=(2, 6, 3)), RNG.uniform(0.1, 1, size=(2, 6)) if weighted else None
    return Rule(rule, params, batches, frozenset(wrong))


# A host makes a model of a rule, with its parameters and one more layer below it. It returns the weights of the model,
# and the model as a function of the weights and of the inputs of one call.


def host_bare(rule, params, x, *others):
    def model(weights, x, *others):
        return rule(weights["params"], x @ weights["kernel"], *others)

    return {"kernel": jnp.eye(x.shape[-1]) + 0.1, "params": params}, model


def host_equinox(rule, params, x, *others):
    import equinox

    class Model(equinox.Module):
        linear: equinox.nn.Linear
        params: Any

        def __call__(self, x, *others):
            linear = jax.vmap(self.linear) if x.ndim > 1 else self.linear
            return rule(self.params, linear(x), *others)

    linear = equinox.nn.Linear(x.shape[-1], x.shape[-1], key=jax.random.key(1))
    return Model(linear, params), lambda model, *inputs: model(*inputs)


def host_flax(rule, params, x, *others):
    from flax import linen

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x, *others):
            return rule(self.param("rule", lambda key: params), linen.Dense(x.shape[-1])(x), *others)

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
    weights, model = HOSTS[host](call, rule.params, *first)

    def loss(weights, *inputs):
        return jnp.sum(jnp.sin(model(weights, *inputs)))

    if transformation == "jit":
        return lambda weights, x: jax.jit(loss)(weights, x, *first[1:]), (weights, first[0])
    if transformation == "vmap":
        batched = jax.vmap(loss, (None, *(0 for _ in rule.inputs)))
        return lambda weights, x: batched(weights, x, *others).sum(), (weights, x)

    def scan(weights, x):
        return jax.lax.scan(lambda total, inputs: (total + loss(weights, *inputs), None), 0.0, (x, *others))[0]

    return scan, (weights, x)
