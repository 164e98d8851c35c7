"""Progress of a made-up run, and what tests compare of it and of its folder."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from support.paths import ENVIRONMENT, TOP

from jaxann.training.loop import Progress
from jaxann.training.recipe import TrainState

ADAM = optax.adam(0.1)


@functools.cache
def make_progress(epoch, update=ADAM, sizes=(3, 2), score=0.25):
    """Returns where a run could stand after an epoch; that of another epoch differs in every leaf."""
    random = np.random.default_rng(epoch)
    params = {
        "W": jnp.asarray(random.normal(size=sizes)),
        "b": jnp.asarray(random.normal(size=3), jnp.float32),
        "half": jnp.asarray(random.normal(size=3), jnp.bfloat16),
    }
    grads = jax.tree.map(lambda leaf: leaf / 2, params)
    _, state = update.update(grads, update.init(params), params)
    state = TrainState(params, state, jax.random.key(epoch), jnp.asarray(epoch))
    return Progress(state, jax.tree.map(lambda leaf: -leaf, params), score + epoch, min(epoch, max(epoch - 1, 1)))


def bits(tree):
    """Returns the structure of a tree and the bits of its leaves."""

    def leaf_bits(leaf):
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        leaf = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        return str(leaf.dtype), leaf.shape, leaf.tobytes()

    return jax.tree.structure(tree), [leaf_bits(leaf) for leaf in jax.tree.leaves(tree)]


def listing(folder):
    """Returns when each file and folder inside a folder was last changed, and its content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


def start_python(program, *arguments):
    """Starts a process that runs a program, which can import the package and the tests' support."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join([str(TOP), str(TOP / "tests")])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
