"""Layers and losses, each with its backward pass written by hand beside its forward pass.

A layer is three pure functions on one example, and a network is a layer too:

    init(key)                    -> params
    forward(params, x, key=None) -> (y, saved)
    backward(params, saved, dy)  -> (grads, dx)

- A layer is a frozen dataclass of sizes and settings. It holds no arrays: the parameters are a pytree beside it.
- `saved` is what `backward` needs of the forward pass. It never holds parameters, so that `backward` can be called
  with other parameters: feedback alignment is `backward(feedback, saved, dy)`.
- The gradient of a matrix is an `Outer`, which keeps the two factors of Σ left rightᵀ apart. The factors of a batch
  give the mean gradient as one matrix product, and also the norm of each example's gradient. The gradient of any other
  parameter is an array of its shape.
- A loss has a `value(y, t)` and a `gradient(y, t)`, again for one example. `jax.vmap` applies them to a batch.
- At a kink, the slope is the one that `jax.nn` takes: relu'(0) = 0, leaky_relu'(0) = 1, elu'(0) = 1 and
  hard_tanh'(±1) = 1. The slope of |x| at 0 is 1. Of equal entries, the first is the maximum of `MaxPool`.
- The derivative at a NaN is a NaN, also for an `Elementwise` of your own if its function returns NaN there.

One example, forward and backward:

```python
import jax
import jax.numpy as jnp

from jaxann.nn import CrossEntropy, mlp, softmax

model, loss = mlp((4, 8, 3), output=softmax), CrossEntropy()
params = model.init(jax.random.key(0))
x, t = jnp.array([5.1, 3.5, 1.4, 0.2]), jnp.array([0.98, 0.01, 0.01])

y, saved = model.forward(params, x)
grads, dx = model.backward(params, saved, loss.gradient(y, t))
print("loss", loss.value(y, t))
print("∂E/∂W of the first layer has the shape", grads[0]["W"].sum().shape)  # its factors have 8 and 4 entries
```

`jaxann.backprop(model, loss)` does the same for a batch, and `jaxann.fit` trains with it.

## What it contains

- Chains: `Sequential`. A chain that begins with an `Input` knows all its shapes, and checks them when it is built.
- Builders of chains: `mlp`, `lenet`, `resnet`, `transformer`, `recurrent_network`. You can take their networks apart.
- For features [n]: `Dense`. For any shape: `Dropout`, `Reshape`, `Flatten`.
- For sequences [T, C], images [H, W, C] and volumes [D, H, W, C]: `Conv` and `ConvTransposed`, with stride, padding,
  dilation and groups; `MaxPool`, `AvgPool`, `GlobalAvgPool` and `AdaptiveAvgPool`.
- For features at any places, [..., n]: `FeedForward`, and `GLU` and `SwiGLU`, which have a gate; `LayerNorm` and
  `RMSNorm`, which normalize over the features, `InstanceNorm` over the places, and `GroupNorm` over both. `BatchNorm`
  normalizes over the examples of a batch too. For predictions, `jaxann.calibrate` puts an `Affine` in its place.
- For sequences [T, n]: `Attention`, and `LeanAttention`, which needs less memory for many positions;
  `LearnedPositions` and `SinusoidalPositions`, which add the positions to the features; `RNN`, `GRU` and `LSTM`, the
  cells of the base class `Recurrent`; `LastStep`, and `bidirectional`, which builds two directions.
- For ids: `Embedding`. `TiedEmbedding` uses one matrix for the embedding of ids and for the logits of predicted ids.
- Composites: `Residual` adds a skip connection to a layer. `Parallel` gives one input to several layers, and adds or
  concatenates their outputs. `Each` applies a layer at every position of a sequence. `Repeat` is a chain of equal
  layers, compiled once for all of them. `Recomputed` computes a layer's forward pass again in backward, to save memory.
- Activations, which are layers without parameters: `identity`, `sigmoid`, `tanh`, `relu`, `leaky_relu`, `elu`, `selu`,
  `softplus`, `gelu`, `silu`, `hard_tanh` and `softmax`. `ACTIVATIONS` has them by name.
- Losses: `SquaredError`, `AbsoluteError`, `Huber`, `Hinge`, `Poisson`, `CrossEntropy`, `SoftmaxCrossEntropy` and
  `SigmoidCrossEntropy`. `LOSSES` has them by name. `EachLoss` is the mean of a loss over the positions of a sequence.
- `MixedPrecision` computes a layer in bfloat16. It is a `Wrapper`, the base class of layers around another layer.
- `Outer`, with `materialize` and `sum_examples`, which turn the factors in a tree of gradients into matrices.
- `Layer`, `Loss` and `Elementwise`, the base classes for your own.

## Add an activation

An activation is one line: its function, and its derivative as a function of the input x and the output y.

```python
from jaxann.nn import Elementwise

softsign = Elementwise("softsign", lambda x: x / (1 + abs(x)), lambda x, y: 1 / (1 + abs(x)) ** 2)
model = mlp((4, 8, 3), hidden=softsign, output=softmax)
```

## Add a layer

A layer is its forward and, below it, the backward that differentiates its lines from last to first. This one is a
layer norm without scale and shift:

```python
from dataclasses import dataclass

from jaxann.nn import Dense, Layer, Sequential


@dataclass(frozen=True)
class Normalize(Layer):
    \"\"\"y = (x - mean x) / sd, where sd² = var x + 10⁻⁵\"\"\"

    def forward(self, params, x, key=None):
        sd = jnp.sqrt(jnp.var(x) + 1e-5)
        y = (x - x.mean()) / sd
        return y, (y, sd)

    def backward(self, params, saved, dy):
        y, sd = saved
        return (), (dy - dy.mean() - y * jnp.mean(dy * y)) / sd  # y = (x - mean x) / sd


model = Sequential((Dense(4, 8), Normalize(), softsign, Dense(8, 3), softmax))
```

A layer with parameters also has an `init(key)`, as `Dense` does. An input may have any shape, and a layer need not
state its own: whether an input fits is decided by the forward pass, traced for one example, and the error names the
layer that does not take its input. If a layer defines `sizes`, `Sequential` compares them when it is built. It looks
past layers that define `keeps_shape` as True, as activations do.

The axis of the examples has the name "batch". A layer that averages over it, as by `jax.lax.pmean(x, "batch")`, defines
`coupled` as True, so that everything that needs each example's own gradient refuses it.

Integer features stay integers only in a model whose forward rejects floats, as that of `Embedding` does. Integers have
no gradient, so `backward` of such a layer returns None for dx. Its `vocabularies` state how many ids there are.

## Add a recurrent cell

A cell is one step of a recurrence and, below it, the transpose of that step. `Recurrent` multiplies the input and the
state by their matrices, and does backpropagation through time. This cell keeps half of its state:

```python
from jaxann.nn import Recurrent, recurrent_network


class LeakyRNN(Recurrent):
    \"\"\"h_t = ½ h_(t-1) + ½ tanh(W_x x_t + b + W_h h_(t-1))\"\"\"

    def step(self, zx, zh, state):
        (before,) = state
        y = jnp.tanh(zx + zh)
        return ((before + y) / 2,), y

    def back(self, saved, state, dstate):
        y, (dh,) = saved, dstate
        dz = dh / 2 * (1 - y * y)  # h = (before + y) / 2, y = tanh(zx + zh)
        return dz, dz, (dh / 2,)  # h = (before + y) / 2: what reaches h_(t-1) on another path than zh


model = recurrent_network((4, 8, 3), cell=LeakyRNN, output=softmax)
```

## Add a loss

A loss is its value and, below it, its gradient. `match_target` checks the shape of the target.

```python
from jaxann.nn import Loss


@dataclass(frozen=True)
class LogCosh(Loss):
    \"\"\"E = Σ_i log cosh(y_i - t_i)\"\"\"

    def value(self, y, t):
        d = y - self.match_target(y, t)
        return jnp.sum(jnp.logaddexp(d, -d) - jnp.log(2.0))  # log((eᵈ + e⁻ᵈ) / 2), which does not overflow

    def gradient(self, y, t):
        return jnp.tanh(y - self.match_target(y, t))  # log cosh d
```

A convex loss may also define `hessian_factor`, which Gauss-Newton curvature needs. `is_valid` and `expects` state
which targets have a meaning.

`jaxann.check_layer` and `jaxann.check` tell whether a backward pass of your own is right and, if not, what is wrong.
"""

from jaxann.nn.activations import (
    ACTIVATIONS,
    Elementwise,
    Softmax,
    elu,
    gelu,
    hard_tanh,
    identity,
    leaky_relu,
    relu,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from jaxann.nn.attention import Attention
from jaxann.nn.base import Layer, Wrapper
from jaxann.nn.batch_norm import Affine, BatchNorm
from jaxann.nn.cells import GRU, LSTM, RNN
from jaxann.nn.convolution import Conv, ConvTransposed
from jaxann.nn.dense import Dense
from jaxann.nn.dropout import Dropout
from jaxann.nn.each import Each
from jaxann.nn.each_loss import EachLoss
from jaxann.nn.embedding import Embedding, TiedEmbedding
from jaxann.nn.gated import GLU, FeedForward, SwiGLU
from jaxann.nn.input import Input
from jaxann.nn.lean_attention import LeanAttention
from jaxann.nn.loss import Loss
from jaxann.nn.losses import (
    LOSSES,
    AbsoluteError,
    CrossEntropy,
    Hinge,
    Huber,
    Poisson,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
)
from jaxann.nn.networks import lenet, resnet, transformer
from jaxann.nn.normalization import GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from jaxann.nn.outer import Outer, materialize, sum_examples
from jaxann.nn.pooling import AdaptiveAvgPool, AvgPool, GlobalAvgPool, MaxPool
from jaxann.nn.positional import LearnedPositions, SinusoidalPositions
from jaxann.nn.precision import MixedPrecision
from jaxann.nn.recomputed import Recomputed
from jaxann.nn.recurrent import Recurrent
from jaxann.nn.repeat import Repeat
from jaxann.nn.reshape import Flatten, Reshape
from jaxann.nn.residual import Parallel, Residual
from jaxann.nn.sequences import LastStep, bidirectional, recurrent_network
from jaxann.nn.sequential import Sequential, mlp

__all__ = [
    "ACTIVATIONS",
    "GLU",
    "GRU",
    "LOSSES",
    "LSTM",
    "RNN",
    "AbsoluteError",
    "AdaptiveAvgPool",
    "Affine",
    "Attention",
    "AvgPool",
    "BatchNorm",
    "Conv",
    "ConvTransposed",
    "CrossEntropy",
    "Dense",
    "Dropout",
    "Each",
    "EachLoss",
    "Elementwise",
    "Embedding",
    "FeedForward",
    "Flatten",
    "GlobalAvgPool",
    "GroupNorm",
    "Hinge",
    "Huber",
    "Input",
    "InstanceNorm",
    "LastStep",
    "Layer",
    "LayerNorm",
    "LeanAttention",
    "LearnedPositions",
    "Loss",
    "MaxPool",
    "MixedPrecision",
    "Outer",
    "Parallel",
    "Poisson",
    "RMSNorm",
    "Recomputed",
    "Recurrent",
    "Repeat",
    "Reshape",
    "Residual",
    "Sequential",
    "SigmoidCrossEntropy",
    "SinusoidalPositions",
    "Softmax",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "SwiGLU",
    "TiedEmbedding",
    "Wrapper",
    "bidirectional",
    "elu",
    "gelu",
    "hard_tanh",
    "identity",
    "leaky_relu",
    "lenet",
    "materialize",
    "mlp",
    "recurrent_network",
    "relu",
    "resnet",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "sum_examples",
    "tanh",
    "transformer",
]
