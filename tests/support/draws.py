"""Parameters and inputs that NumPy draws: JAX compiles its random numbers for each shape, which takes 0.1 s."""

import jax
import jax.numpy as jnp
import numpy as np


def draw_like(shapes, seed, spread=1.0):
    """Returns normal numbers with the standard deviation `spread`, in the structure and shapes of a tree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(spread * rng.normal(size=leaf.shape)), shapes)


def draw_array(seed, *shape):
    """Returns normal numbers of a shape."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def draw_params(layer, seed=7, spread=0.5):
    """Returns parameters in the shapes of `layer.init`. None is zero, where a wrong gradient can go unnoticed."""
    return draw_like(jax.eval_shape(layer.init, jax.random.key(0)), seed, spread)
