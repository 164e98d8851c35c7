"""Prints the seconds that a gradient check takes in a new process.

The arguments are the sizes of the network, its activation and the number of examples, for instance 4-50-3 sigmoid 120.
"""

import sys
from time import perf_counter

import jax
import numpy as np

from jaxann import check
from jaxann.nn import CrossEntropy, mlp, softmax
from jaxann.nn.activations import ACTIVATIONS

if __name__ == "__main__":
    sizes, hidden, examples = tuple(map(int, sys.argv[1].split("-"))), ACTIVATIONS[sys.argv[2]], int(sys.argv[3])
    model = mlp(sizes, hidden, softmax)
    params = model.init(jax.random.key(0))
    generator = np.random.default_rng(0)
    x, t = generator.normal(size=(examples, sizes[0])), generator.dirichlet(np.ones(sizes[-1]), examples)
    start = perf_counter()
    check(model, CrossEntropy(), params, x, t).raise_if_wrong()
    print(perf_counter() - start)
