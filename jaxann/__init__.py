"""jaxann: neural networks in JAX whose backward pass is written by hand, and shown equal to `jax.grad`."""

from importlib.metadata import version

from jaxann import cli, data, gradcheck, gradients, interop, nn, rules, runs, training
from jaxann.gradcheck.check import check, check_layer
from jaxann.gradients.autodiff import autodiff
from jaxann.gradients.backprop import backprop
from jaxann.gradients.comparison import compare
from jaxann.interop.differentiable import differentiable
from jaxann.training.fit import fit, predict
from jaxann.training.sweep import sweep

__version__ = version("jaxann")

__all__ = [
    "__version__",
    "autodiff",
    "backprop",
    "check",
    "check_layer",
    "cli",
    "compare",
    "data",
    "differentiable",
    "fit",
    "gradcheck",
    "gradients",
    "interop",
    "nn",
    "predict",
    "rules",
    "runs",
    "sweep",
    "training",
]
