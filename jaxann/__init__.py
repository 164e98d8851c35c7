"""Neural networks in JAX whose backward pass is written by hand, as fast as `jax.grad`.

Each layer's backward stands beside its forward, so that it can be read, checked against automatic differentiation,
changed into another learning rule, or asked for more than the mean gradient.

## An example

```python
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_iris

from jaxann import autodiff, backprop, compare, fit, predict
from jaxann.nn import SoftmaxCrossEntropy, mlp, tanh

x, labels = load_iris(return_X_y=True)
x, labels = jnp.asarray((x - x.mean(axis=0)) / x.std(axis=0)), jnp.asarray(labels)

model, loss = mlp((4, 16, 3), hidden=tanh), SoftmaxCrossEntropy()
params, history = fit(model, loss, optax.adam(0.01), x, labels, key=jax.random.key(0), epochs=50, batch_size=10)
accuracy = (predict(model, params, x).argmax(axis=1) == labels).mean()
assert accuracy > 0.95

params = model.init(jax.random.key(1))
value, gradients = jax.jit(backprop(model, loss))(params, x, labels)  # the handwritten backward
same_value, same_gradients = jax.jit(autodiff(model, loss))(params, x, labels)  # jax.grad of the same forward
print(compare(gradients, same_gradients))  # a row for each parameter
```

## The contract

A layer is three pure functions on one example. A network is a layer too, and `jax.vmap` makes batches:

    init(key)                      -> params
    forward(params, x, key=None)   -> (y, saved)
    backward(params, saved, dy)    -> (gradients, dx)

A layer is a frozen dataclass of sizes and settings; its parameters are a plain pytree beside it. `saved` is what the
backward needs of the forward pass. It never holds parameters, so `backward` can be called with other parameters than
`forward` was. The gradient of a matrix for one example stays in its factors, as a `jaxann.nn.Outer`.

A gradient function maps `(params, x, t, weights=None, key=None)` to the weighted mean loss of a batch and its
gradients.
`backprop`, `autodiff`, a clipped mean and every learning rule are gradient functions, and `fit` takes any of them.

## The rooms

| room | contents |
|---|---|
| `jaxann.nn` | layers, activations and losses, each with its handwritten backward |
| `jaxann.gradients` | gradient functions, per-example gradients, curvature |
| `jaxann.data` | tables, splits, targets and batches |
| `jaxann.rules` | learning rules: backward passes that differ from the true one on purpose |
| `jaxann.gradcheck` | the gradient check of any code, which names the wrong formula, and the audit of programs |
| `jaxann.training` | training runs, sweeps, optimizers and devices |
| `jaxann.runs` | the folder of a run: checkpoints, metrics and pictures |
| `jaxann.interop` | handwritten backward passes inside other libraries' models |
| `jaxann.cli` | the command `jaxann` |

A room imports only from the rooms above it.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - a checkout can be imported by a Python that pip would have refused
    message = "jaxann needs Python 3.11 or newer, got " + sys.version.split()[0]
    program = sys.argv[0].replace("\\", "/").rpartition("/")[2]
    by_module = program == "-m" and "jaxann" in getattr(sys, "orig_argv", ["jaxann"])
    if by_module or program in ("jaxann", "jaxann.exe"):  # both programs end with a sentence instead of a traceback
        print(message, file=sys.stderr)
        sys.exit(2)
    raise ImportError(message)

from importlib.metadata import version

from jaxann import cli, data, gradcheck, gradients, interop, nn, rules, runs, training
from jaxann.cli.run_folder import load
from jaxann.gradcheck.audit import audit
from jaxann.gradcheck.check import check, check_layer
from jaxann.gradcheck.check_function import check_function, check_gradient
from jaxann.gradcheck.grade import grade
from jaxann.gradients.autodiff import autodiff
from jaxann.gradients.backprop import backprop
from jaxann.gradients.comparison import compare
from jaxann.interop.differentiable import differentiable
from jaxann.nn.calibration import calibrate
from jaxann.runs.network_file import save
from jaxann.training.fit import fit, predict
from jaxann.training.sweep import sweep

__version__ = version("jaxann")

__all__ = [
    "__version__",
    "audit",
    "autodiff",
    "backprop",
    "calibrate",
    "check",
    "check_function",
    "check_gradient",
    "check_layer",
    "cli",
    "compare",
    "data",
    "differentiable",
    "fit",
    "gradcheck",
    "grade",
    "gradients",
    "interop",
    "load",
    "nn",
    "predict",
    "rules",
    "runs",
    "save",
    "sweep",
    "training",
]
