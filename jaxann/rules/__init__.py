"""Learning rules: backward passes that differ from backprop on purpose.

A rule changes one part of backprop: the parameters that the backward pass uses (`backward_params`), the layers
(`alter`), the backward pass of the network (`backward`), or its own feedback after each step (`update`). A rule takes
about ten lines, and `fit` trains with it:

```python
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_iris

from jaxann import fit, predict
from jaxann.nn import SoftmaxCrossEntropy, mlp, tanh
from jaxann.rules import Rule, WithAngles


@dataclass(frozen=True)
class RandomSigns(Rule):
    \"\"\"dx = (|W| ∘ S)ᵀ dy: the magnitudes of W, with random signs S that never change.\"\"\"

    def init(self, model, key):
        return jax.tree.map(jnp.sign, model.init(key))

    def backward_params(self, params, feedback):
        return jax.tree.map(lambda W, S: jnp.abs(W) * S, params, feedback)


x, labels = load_iris(return_X_y=True)
x, labels = jnp.asarray((x - x.mean(axis=0)) / x.std(axis=0)), jnp.asarray(labels)
model, loss = mlp((4, 20, 3), hidden=tanh), SoftmaxCrossEntropy()
rule = WithAngles(RandomSigns())  # measures the angle between the rule's gradients and the true ones at each step
params, history = fit(
    model, loss, optax.sgd(0.1), x, labels, key=jax.random.key(0), epochs=100, batch_size=10, gradient=rule
)
print("learned by random signs", jnp.mean(predict(model, params, x).argmax(axis=1) == labels))
print("degrees from the true gradient", history.metrics["gradient angle 0.W"][jnp.array([0, -1])])
```

The feedback, here S, is a state of the gradient function, drawn from the run's key. It is never among the parameters,
so no weight decay reaches it.

## What it contains

- `FeedbackAlignment`: fixed random weights in the backward pass.
- `SignSymmetric`: in the backward pass, the signs of W with magnitudes that are "fixed", "batchwise" or "uniform".
- `KolenPollack`: weights in the backward pass that take the same steps as W, and so approach W.
- `DirectFeedbackAlignment`: the error at the output goes to each layer directly, through a random matrix.
- `OutputLayerOnly`: only the last layer learns. It is the control: a rule is worth what it gains over
  this one.
- `StraightThrough`: the error passes a `threshold`, whose derivative is 0, as if the threshold were the identity.
- `ClippedDeltas` and `NoisyDeltas`: each example's deltas are clipped to a norm, or get normal noise.
- `WithAngles`, which measures the angle between a rule and backprop while a network learns.
- `Rule`, the base class for your own, which is backprop itself.
- `RULES`, a dictionary from names to the rules that need no settings, including backprop.

`scripts/rules.py` compares them on digits.
"""

from jaxann.rules.angles import WithAngles
from jaxann.rules.base import Rule
from jaxann.rules.deltas import ClippedDeltas, NoisyDeltas, StraightThrough, threshold
from jaxann.rules.direct import DirectFeedbackAlignment, OutputLayerOnly
from jaxann.rules.feedback import FeedbackAlignment, KolenPollack, SignSymmetric
from jaxann.rules.registry import RULES

__all__ = [
    "RULES",
    "ClippedDeltas",
    "DirectFeedbackAlignment",
    "FeedbackAlignment",
    "KolenPollack",
    "NoisyDeltas",
    "OutputLayerOnly",
    "Rule",
    "SignSymmetric",
    "StraightThrough",
    "WithAngles",
    "threshold",
]
