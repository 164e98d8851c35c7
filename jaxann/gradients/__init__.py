"""Gradients: two routes to the mean gradient, each example's own gradient, and curvature.

A gradient function is `(params, x, t, weights=None, key=None) -> (loss, grads)`. `jaxann.backprop(model, loss)` makes
one from the handwritten backwards and `jaxann.autodiff(model, loss)` makes one by `jax.grad`. `jaxann.compare` shows
how far two gradients are apart, and training takes any gradient function, as in `fit(..., gradient=autodiff)`.

The backward pass keeps each example's gradient, and keeps the gradient of a matrix as two factors. The module
`per_example` computes norms, clipped means and noise scales from these factors without ever materializing a gradient.
The module `curvature` computes products with second derivatives and Gauss-Newton matrices from the same backward pass:

```python
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_iris

from jaxann import autodiff, backprop, compare, fit
from jaxann.gradients import curvature, per_example
from jaxann.nn import SoftmaxCrossEntropy, mlp, tanh

x, labels = load_iris(return_X_y=True)
x, labels = jnp.asarray((x - x.mean(axis=0)) / x.std(axis=0)), jnp.asarray(labels)
model, loss = mlp((4, 20, 3), hidden=tanh), SoftmaxCrossEntropy()
params = model.init(jax.random.key(0))

_, by_hand = jax.jit(backprop(model, loss))(params, x, labels)  # the chain of backwards
_, automatic = jax.jit(autodiff(model, loss))(params, x, labels)  # jax.grad of the same forward
print(compare(by_hand, automatic))

params, _ = fit(model, loss, optax.sgd(0.1), x, labels, key=jax.random.key(0), epochs=3, batch_size=10)
losses, grads = jax.jit(per_example.gradients(model, loss))(params, x, labels)
print("the flowers with the largest gradients", per_example.norms(grads).argsort()[-3:])
print("noise scale, in examples", jax.jit(per_example.noise_scale)(grads))
print("clipped", jax.tree.map(jnp.shape, per_example.clipped_mean(grads, max_norm=1.0)))
print("tangent kernel", per_example.inner_products(grads).shape)

diagonal = jax.jit(curvature.gauss_newton_diagonal(model, loss))(params, x, labels)
multiply = curvature.hessian_product(model, loss)
sharpness, _ = curvature.eigenvalues(lambda v: multiply(params, v, x, labels), params)
print("largest eigenvalue of the Hessian", sharpness[0])
```

A `Comparison` prints a row for each parameter: max|a - b| / max|b|, the ratio of the two gradients, which is constant
if a factor was forgotten, and the cosine of the angle between them. Near a minimum the examples' gradients cancel, and
fewer digits of their sum are exact, so compare two routes at parameters that have not been trained.

## What it contains

- `per_example`: `gradients`, `mean`, `materialize`, `count_examples`, `norms`, `leaf_norms`, `clipped_mean`,
  `second_moment`, `variance`, `noise_scale`, `inner_products` and `kronecker_factors`. They work for every
  layer, including one whose weights are shared over positions or used twice.
- `per_example.clipped_gradient`: DP-SGD's gradient for `fit`, as
  `gradient=partial(per_example.clipped_gradient, max_norm=1.0, noise=1.1)`. It does not count the privacy budget; use
  dp-accounting or opacus.accountants for that.
- `curvature`: products of the Hessian and of the Gauss-Newton matrix with vectors, the diagonal and the Kronecker
  factors of the Gauss-Newton matrix, exact or sampled, and eigenvalues by Lanczos.
- `Comparison`, which `jaxann.compare` returns.
- `GradientFunction`, the type of a gradient function, and `Stateful`, one with a state of its own such as the feedback
  of a learning rule.

`jaxann.training.kfac` is K-FAC, made of these factors and chained with optax's optimizers:
`optax.chain(kfac(model, loss), optax.sgd(0.1))`. `scripts/per_example.py` finds mislabeled digits by the norms of
their gradients.
"""

from jaxann.gradients import curvature, per_example
from jaxann.gradients.comparison import Comparison
from jaxann.gradients.stateful import GradientFunction, Stateful

__all__ = ["Comparison", "GradientFunction", "Stateful", "curvature", "per_example"]
