"""Learning rules: backward passes that differ from backprop on purpose.

A rule changes one thing of backprop: the parameters that the backward pass uses (`backward_params`), the layers
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

The feedback is a state of the gradient function, drawn from the run's key. It is never among the parameters, so no
weight decay reaches it.

| rule | what it changes |
|---|---|
| `FeedbackAlignment` | fixed random weights on the way back |
| `SignSymmetric` | the signs of W with other magnitudes: "fixed", "batchwise" or "uniform" |
| `KolenPollack` | weights on the way back that learn, and become W |
| `DirectFeedbackAlignment` | the error of the output goes to each layer directly, through a random matrix |
| `OutputLayerOnly` | only the last layer learns: the control |
| `StraightThrough` | the error passes a `threshold`, whose derivative is 0, as if it were the identity |
| `ClippedDeltas` | each example's deltas are clipped to a norm |
| `NoisyDeltas` | each example's deltas get normal noise |

`RULES` has by name the rules that need no settings, backprop among them. `WithAngles(rule)` measures a rule while it
learns, and a subclass of `Rule` is a rule of your own.

`scripts/rules.py` compares rules on digits, with a network 64-64-64-10 of tanh and 20 seeds of a rule in one program:

| rule | held-out accuracy | degrees from the true gradient, by layer | degrees from W to its feedback, by layer |
|---|---|---|---|
| backprop | 0.975 ± 0.007 | 0, 0, 0 | |
| feedback alignment | 0.970 ± 0.007 | 49, 37, 0 | unused, 78, 43 |
| direct feedback alignment | 0.972 ± 0.005 | 43, 38, 0 | |
| sign-symmetric, fixed magnitudes | 0.972 ± 0.007 | 29, 25, 0 | unused, 41, 29 |
| sign-symmetric, batchwise magnitudes | 0.971 ± 0.008 | 36, 35, 0 | unused, 43, 38 |
| sign-symmetric, uniform magnitudes | 0.972 ± 0.007 | 23, 22, 0 | unused, 32, 25 |
| Kolen-Pollack | 0.973 ± 0.006 | 26, 26, 0 | unused, 57, 29 |
| output layer only, the control | 0.921 ± 0.011 | 90, 90, 0 | |

A rule is worth what it gains over the control. On this task most differences between the other rules are smaller than
their noise, and none is above 0.005.
"""

from jaxann.rules.angles import WithAngles
from jaxann.rules.base import Rule
from jaxann.rules.deltas import ClippedDeltas, NoisyDeltas, StraightThrough, threshold
from jaxann.rules.direct import DirectFeedbackAlignment, OutputLayerOnly
from jaxann.rules.feedback import FeedbackAlignment, KolenPollack, SignSymmetric

RULES: dict[str, Rule] = {
    "backprop": Rule(),
    "feedback_alignment": FeedbackAlignment(),
    "direct_feedback_alignment": DirectFeedbackAlignment(),
    "sign_symmetric": SignSymmetric(),
    "sign_symmetric_batchwise": SignSymmetric("batchwise"),
    "sign_symmetric_uniform": SignSymmetric("uniform"),
    "output_layer_only": OutputLayerOnly(),
}
"""The rules that need no settings, by name. `KolenPollack` needs an optimiser, others a number or a `threshold`."""


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
