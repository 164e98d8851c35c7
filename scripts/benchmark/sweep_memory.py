"""Prints the peak memory in bytes of a sweep over networks 64-128-128-10; the argument is the number of networks."""

import re
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax

from jaxann import sweep
from jaxann.data import Examples
from jaxann.nn import SoftmaxCrossEntropy, mlp, relu
from jaxann.training import Recipe, combinations, cpu_devices


def make_recipe(rate):
    """Returns the recipe of a network that is trained with a learning rate."""
    return Recipe(mlp((64, 128, 128, 10), relu), SoftmaxCrossEntropy(), optax.adam(rate), 128)


def keep_params(recipe, params, data):
    """Returns the parameters, so that the sweep returns all of them as its measurements."""
    return params


if __name__ == "__main__":
    cpu_devices(2)
    generator = np.random.default_rng(0)
    x, t = generator.normal(size=(1437, 64)), generator.integers(10, size=1437)
    examples = Examples(jnp.asarray(x), jnp.asarray(t))
    members = combinations(seed=range(int(sys.argv[1]) // 8), rate=np.geomspace(1e-4, 1e-2, 8).tolist())
    outcomes = sweep(make_recipe, members, examples, epochs=2, traced=["rate"], measure=keep_params, budget=2**31)
    assert all(outcome.finite for outcome in outcomes)
    # What `resource` reports includes the memory of the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024)
