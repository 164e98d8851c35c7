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

## scikit-learn

`jaxann.interop.sklearn` has estimators with the names, settings and attributes of scikit-learn's own networks, which
work in its pipelines, searches and validations. Beyond scikit-learn's, they take an activation for each layer,
`dropout`, `class_weight`, validation examples in `fit`, early stopping in `partial_fit`, and learning rules such as
`gradient="feedback_alignment"`:

```python
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxann.interop.sklearn import MLPClassifier, SweepSearchCV

x, labels = load_iris(return_X_y=True)
classifier = MLPClassifier((16, 8), ["tanh", "relu"], learning_rate_init=0.01, early_stopping=True, random_state=0)
pipeline = make_pipeline(StandardScaler(), classifier).fit(x, labels)
print(f"accuracy {pipeline.score(x, labels):.2f} after {classifier.n_iter_} epochs")
print("validation losses", classifier.validation_loss_curve_[:3])

grid = {"mlpclassifier__alpha": [1e-4, 1e-2], "mlpclassifier__learning_rate_init": [0.003, 0.01]}
search = SweepSearchCV(pipeline, grid, cv=3, seeds=2).fit(x, labels)
print(search.best_params_, search.best_score_)
```

A fit is one compiled program, which later fits reuse if their arrays have about the same sizes and only numbers such as
`alpha` differ. `SweepSearchCV` is `GridSearchCV`, but trains networks that differ in the fold, the seed or such a
number together, in one program. The fitted attributes are NumPy arrays, so estimators can be pickled. In processes of
joblib, use its default backend loky: JAX cannot be used in forked processes. `scripts/estimators.py` measures times and
scores beside scikit-learn's networks.

| module | what is in it |
|---|---|
| `sklearn` | the estimators `MLPClassifier` and `MLPRegressor`, and `SweepSearchCV` |
| `estimators` | what both have in common; `estimator_settings`, `estimator_data`: their settings and examples |
| `estimator_network`, `estimator_run` | their network, and their run as one program that stops by itself |
| `sweep_search`, `search_members` | the grid search, and the networks that it trains |
"""

from jaxann.interop.torch import torch_pair

__all__ = ["torch_pair"]
