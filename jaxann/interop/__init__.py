"""Interoperation: the handwritten backward in other people's code.

`jaxann.differentiable(model)` is a network as a plain function, and `jax.grad` of it runs the handwritten backward
instead of differentiating the forward pass. With a learning rule, `jax.grad` returns the rule's gradients, so a rule
can train a network inside somebody else's code:

```python
import jax
import jax.numpy as jnp

from jaxann import autodiff, compare, differentiable
from jaxann.nn import SquaredError, mlp, tanh
from jaxann.rules import FeedbackAlignment

model = mlp((4, 20, 3), hidden=tanh)
params, x = model.init(jax.random.key(1)), jax.random.normal(jax.random.key(2), (10, 4))
t = jnp.zeros((10, 3))


def mean_loss(function):
    return lambda params: jnp.mean(jnp.sum((function(params, x) - t) ** 2, axis=1)) / 2


by_hand = differentiable(model, batched=True)  # (params, x) -> y, differentiated by the handwritten backward
gradient = jax.jit(jax.grad(mean_loss(by_hand)))(params)
print(compare(gradient, autodiff(model, SquaredError())(params, x, t)[1]))

by_rule = differentiable(model, FeedbackAlignment(), batched=True)  # differentiated by a learning rule
print(compare(jax.grad(mean_loss(by_rule))(params), gradient))
```

The function's derivative is registered with JAX, so the function can be part of an Equinox or a Flax model, and works
under `jit`, `vmap`, `jax.grad`, `jax.jvp` and `jax.hessian`. Forward mode uses the transposed backward.

The other way round, `torch_pair` makes a forward and a backward of a `torch.autograd.Function` or a `torch.nn.Module`,
which `jaxann.check_function` judges (`pip install 'jaxann[oracles]'`):

    report = check_function(*torch_pair(MyFunction), torch.randn(5, 4))

`differentiable` is exported at the top level of the package, `torch_pair` here.
"""

from jaxann.interop.torch import torch_pair

__all__ = ["torch_pair"]
