"""Wrong backward passes, as people write them: each mutant has one mistake that a check must find and should explain.

`CHOICES` holds backward passes that choose another slope at a kink, which is no mistake. `RIGHT` holds the same parts
without a mistake.
"""

import jax.numpy as jnp
from jax.lax import erfc, logistic
from support.layers import (
    Neurons,
    Positions,
    ReversedGradients,
    ShiftedSaved,
    Tied,
    WrongDropout,
    WrongLayer,
    WrongLayerNorm,
    WrongResidual,
)
from support.mutations import (
    Mutant,
    decay_weights,
    drop_weights,
    insert_layer,
    mutate_activation,
    mutate_chain,
    mutate_dense,
    mutate_gradient,
    mutate_loss,
    mutate_softmax,
    skip_activation,
    skip_normalization,
    sum_batch,
    swap_biases,
    take_first,
    zero_entry,
)

from jaxann.nn import (
    AbsoluteError,
    CrossEntropy,
    Dense,
    Dropout,
    Elementwise,
    Hinge,
    Huber,
    LayerNorm,
    Outer,
    Poisson,
    Residual,
    Sequential,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
    elu,
    gelu,
    hard_tanh,
    identity,
    leaky_relu,
    mlp,
    relu,
    selu,
    sigmoid,
    silu,
    softplus,
    tanh,
)

VALUES = ("gradient.value", "gradient.weighted.value")
WEIGHTS = tuple(f"gradient{weighted}.{place}.W" for weighted in ("", ".weighted") for place in (0, 2))
PLAIN = ("gradient.0.W", "gradient.0.b", "gradient.2.W", "gradient.2.b")
WEIGHTED = tuple(path.replace("gradient", "gradient.weighted") for path in PLAIN)

NOTEBOOK = {  # the four mistakes that keep the notebook's network from learning; its forward has e⁺ˣ too
    "sigmoid: its sign, with e to the +x in forward": mutate_activation(
        Elementwise("sigmoid", lambda x: logistic(-x), sigmoid.derivative), lambda x, y: y * (1 - y), "sign"
    ),
    "softmax: the Jacobian taken at the logits": mutate_softmax(
        lambda x, dy: x * (dy - x @ dy), "wrong argument", saves_input=True
    ),
    "cross-entropy: the binary derivative": mutate_loss(
        CrossEntropy(), lambda y, t: -t / y + (1 - t) / (1 - y), "another derivative"
    ),
    "bias: added instead of subtracted": mutate_dense(
        lambda p, s, dy, g, dx: ({"W": g["W"], "b": -g["b"]}, dx), "2.b", cause="sign"
    ),
}

MUTANTS = NOTEBOOK | {
    "W: transposed": mutate_dense(
        lambda p, x, dy, g, dx: ({"W": Outer(x, dy), "b": g["b"]}, dx), "2.W", cause="transposed"
    ),
    "W: a tenth of a per cent too long": mutate_dense(
        lambda p, x, dy, g, dx: ({"W": Outer(1.001 * dy, x), "b": dy}, dx), "2.W", cause="factor"
    ),
    "W: zero": mutate_dense(lambda p, x, dy, g, dx: ({"W": Outer(0 * dy, x), "b": dy}, dx), "2.W", cause="zero"),
    "W: the product instead of the outer product": mutate_dense(
        lambda p, x, dy, g, dx: ({"W": Outer(dy * x, x), "b": dy}, dx), "2.W", cause="another cotangent"
    ),
    "W: one neuron forgotten": mutate_dense(
        lambda p, x, dy, g, dx: ({"W": Outer(dy.at[4].set(0), x), "b": dy}, dx), "2.W", cause="entries"
    ),
    "b: one entry zero": mutate_dense(zero_entry, "2.b", cause="entries"),
    "b: forgotten": mutate_dense(lambda p, x, dy, g, dx: ({"W": g["W"], "b": 0 * dy}, dx), "2.b", cause="zero"),
    "b: twice": mutate_dense(lambda p, x, dy, g, dx: ({"W": g["W"], "b": 2 * dy}, dx), "2.b", cause="factor"),
    "b: summed over the neurons": mutate_dense(
        lambda p, x, dy, g, dx: ({"W": g["W"], "b": 0 * dy + dy.sum()}, dx), "2.b", cause="axis"
    ),
    "dx: W dy instead of its transpose": mutate_dense(
        lambda p, x, dy, g, dx: (g, p["W"] @ dy), "2.dx", cause="transposed"
    ),
    "dx: passed through": mutate_dense(lambda p, x, dy, g, dx: (g, dy), "2.dx", cause="derivative missing"),
    "dx: zero": mutate_dense(lambda p, x, dy, g, dx: (g, 0 * dx), "2.dx", cause="zero"),
    "W: weight decay that the loss does not have": mutate_dense(
        lambda p, x, dy, g, dx: ({"W": g["W"] + Outer(1e-3 * p["W"].T, jnp.eye(5)), "b": dy}, dx),
        "2.W",
        cause="weight decay",
    ),
    "W and b: in half precision": mutate_dense(
        lambda p, x, dy, g, dx: (
            {"W": Outer(dy.astype("float16").astype(dy.dtype), x), "b": dy.astype("float16").astype(dy.dtype)},
            dx,
        ),
        "2.W",
        "2.b",
        cause="another cotangent",
    ),
    "identity: zero": mutate_activation(identity, lambda x, y: 0 * y, "zero"),
    "tanh: 1 - x²": mutate_activation(tanh, lambda x, y: 1 - x * x, "wrong argument"),
    "tanh: 1 - y": mutate_activation(tanh, lambda x, y: 1 - y, "local derivative"),
    "tanh: sigmoid's": mutate_activation(tanh, lambda x, y: logistic(x) * logistic(-x), "another derivative"),
    "sigmoid: of the output once more": mutate_activation(
        sigmoid, lambda x, y: logistic(y) * logistic(-y), "wrong argument"
    ),
    "sigmoid: left out": mutate_activation(sigmoid, lambda x, y: jnp.ones_like(y), "derivative missing"),
    "relu: the wrong side": mutate_activation(relu, lambda x, y: jnp.where(x < 0, 1, 0), "formula"),
    "relu: everywhere": mutate_activation(relu, lambda x, y: jnp.ones_like(y), "derivative missing"),
    "leaky relu: slope 0.1": mutate_activation(leaky_relu, lambda x, y: jnp.where(x >= 0, 1, 0.1), "path"),
    "elu: y instead of y + 1": mutate_activation(elu, lambda x, y: jnp.where(x > 0, 1, y), "local derivative"),
    "selu: without its scale": mutate_activation(
        selu, lambda x, y: jnp.where(x > 0, 1, 1.6732632423543772 * jnp.exp(jnp.minimum(x, 0))), "factor"
    ),
    "gelu: without x φ(x)": mutate_activation(gelu, lambda x, y: erfc(-x / jnp.sqrt(2)) / 2, "constant"),
    "silu: sigmoid's": mutate_activation(silu, lambda x, y: logistic(x) * (1 - logistic(x)), "another derivative"),
    "softplus: of the output": mutate_activation(softplus, lambda x, y: logistic(y), "wrong argument"),
    "hard tanh: everywhere": mutate_activation(hard_tanh, lambda x, y: jnp.ones_like(y), "derivative missing"),
    "softmax: the diagonal only": mutate_softmax(lambda y, dy: y * (1 - y) * dy, "diagonal"),
    "softmax: without the diagonal": mutate_softmax(lambda y, dy: -y * (y @ dy - y * dy), "diagonal"),
    "softmax: without the sum": mutate_softmax(lambda y, dy: y * dy, "softmax"),
    "softmax: sign": mutate_softmax(lambda y, dy: -y * (dy - y @ dy), "sign"),
    "layer norm: without the mean": insert_layer(WrongLayerNorm(5, wrong="mean"), "1.dx", cause="constant"),
    "layer norm: the variance constant": insert_layer(WrongLayerNorm(5, wrong="variance"), "1.dx", cause="constant"),
    "layer norm: dx without its scale": insert_layer(
        WrongLayerNorm(5, wrong="scale"), "1.dx", cause="argument missing"
    ),
    "layer norm: dy for its scale": insert_layer(
        WrongLayerNorm(5, wrong="scale's"), "1.scale", cause="another gradient"
    ),
    "dropout: without 1 / (1 - rate)": insert_layer(WrongDropout(0.3, "scale"), "1.random.dx", cause="factor"),
    "dropout: without its mask": insert_layer(WrongDropout(0.3, "mask"), "1.random.dx", cause="derivative missing"),
    "positions: b summed over the neurons": Mutant(Positions(4, 3, "axis"), SquaredError(), ("b",), "axis"),
    "positions: b not summed": Mutant(Positions(4, 3, "not summed"), SquaredError(), ("b",), "not summed"),
    "residual: without the skip connection": insert_layer(WrongResidual(tanh, "skip"), "1.dx", cause="residual"),
    "residual: the skip connection alone": insert_layer(
        WrongResidual(tanh, "inner"), "1.dx", cause="derivative missing"
    ),
    "a matrix used twice: its first use forgotten": insert_layer(Tied(5, 4, "first"), "1.W", cause="constant"),
    "neurons: σ' left out": insert_layer(Neurons(5, 5, "derivative"), "1.W", "1.b", "1.dx", cause="derivative missing"),
    "neurons: σ' at the output": insert_layer(Neurons(5, 5, "output"), "1.W", "1.b", "1.dx", cause="local derivative"),
    "squared error: without the half": mutate_loss(SquaredError(), lambda y, t: 2 * (y - t), "factor"),
    "squared error: the mean over outputs": mutate_loss(SquaredError(), lambda y, t: (y - t) / y.size, "factor"),
    "squared error: t - y": mutate_loss(SquaredError(), lambda y, t: t - y, "sign"),
    "absolute error: not its sign": mutate_loss(AbsoluteError(), lambda y, t: y - t, "another derivative"),
    "Huber: not clipped": mutate_loss(Huber(), lambda y, t: y - t, "clipping"),
    "hinge: beyond the margin too": mutate_loss(Hinge(), lambda y, t: -t, "mask"),
    "Poisson: without the count": mutate_loss(Poisson(), lambda y, t: jnp.exp(y), "constant"),
    "cross-entropy: already fused": mutate_loss(CrossEntropy(), lambda y, t: y - t, "another derivative"),
    "cross-entropy: sign": mutate_loss(CrossEntropy(), lambda y, t: t / y, "sign"),
    "fused cross-entropy: y - t of the logits": mutate_loss(
        SoftmaxCrossEntropy(), lambda y, t: y - t, "another derivative"
    ),
    "fused cross-entropy: smoothing forgotten": mutate_loss(
        SoftmaxCrossEntropy(0.2), lambda y, t: jnp.exp(y) / jnp.exp(y).sum() * t.sum() - t, "another derivative"
    ),
    "binary cross-entropy: y - t of the logits": mutate_loss(
        SigmoidCrossEntropy(), lambda y, t: y - t, "another derivative"
    ),
    "chain: two biases' gradients swapped": mutate_chain(
        WrongLayer(mlp((4, 5, 5, 3), hidden=tanh), swap_biases), "0.b", "2.b", cause="another gradient"
    ),
    "chain: an activation skipped": mutate_chain(
        WrongLayer(mlp((4, 5, 5, 3), hidden=tanh), skip_activation), "2.b", cause="derivative missing"
    ),
    "chain: the last bias's gradient forgotten": mutate_chain(
        WrongLayer(mlp((4, 5, 5, 3), hidden=tanh), lambda p, s, dy, g, dx: ((*g[:4], g[4] | {"b": 0 * dy}, g[5]), dx)),
        "4.b",
        cause="zero",
    ),
    "chain: gradients in reverse order": mutate_chain(
        ReversedGradients((Dense(4, 4), Dense(4, 4))),
        "chain.0.W",
        "chain.0.b",
        "chain.1.W",
        "chain.1.b",
        cause="another gradient",
    ),
    "chain: off by one": mutate_chain(ShiftedSaved((tanh, tanh, tanh)), "chain.dx"),
    "batch: the sum, of all": mutate_gradient(sum_batch, *VALUES, cause="factor"),
    "batch: the sum, of the gradients": mutate_gradient(
        lambda gradient: sum_batch(gradient, ("grads",)), *PLAIN, *WEIGHTED, cause="factor"
    ),
    "batch: the first example for all": mutate_gradient(take_first, *VALUES),
    "batch: weights forgotten": mutate_gradient(drop_weights, *WEIGHTED, cause="weights ignored"),
    "batch: weights without their sum": mutate_gradient(skip_normalization, *WEIGHTED, cause="varying factor"),
    "training step: weight decay forgotten": mutate_gradient(
        decay_weights(0), *WEIGHTS, cause="weight decay", on_purpose=VALUES
    ),
    "training step: weight decay doubled": mutate_gradient(
        decay_weights(2), *WEIGHTS, cause="weight decay", on_purpose=VALUES
    ),
}

# Other choices of a slope at a kink than autodiff's: right, and told as what they are.
CHOICES = {
    "relu: one at zero": mutate_activation(relu, lambda x, y: jnp.where(x >= 0, 1, 0), "kink"),
    "relu: one at minus zero": mutate_activation(
        relu, lambda x, y: jnp.where((x > 0) | ((x == 0) & jnp.signbit(x)), 1, 0), "kink"
    ),
    "leaky relu: the lower slope at zero": mutate_activation(
        leaky_relu, lambda x, y: jnp.where(x > 0, 1, 0.01), "kink"
    ),
    "hard tanh: zero at its corners": mutate_activation(hard_tanh, lambda x, y: jnp.where(abs(x) < 1, 1, 0), "kink"),
    "absolute error: zero at the target": mutate_loss(AbsoluteError(), lambda y, t: jnp.sign(y - t), "kink"),
    "hinge: -t at the margin": mutate_loss(Hinge(), lambda y, t: jnp.where(1 - t * y < 0, 0, -t), "kink"),
}

RIGHT = {
    "a layer that reads what its part saved": insert_layer(
        WrongLayer(Dense(5, 5), lambda p, x, dy, g, dx: ({"W": Outer(dy, x), "b": dy}, dx))
    ),
    "dense": mutate_dense(lambda p, x, dy, g, dx: ({"W": Outer(dy, x), "b": dy}, p["W"].T @ dy)),
    "activation": mutate_activation(tanh, lambda x, y: 1 - y * y),
    "output": mutate_softmax(lambda y, dy: y * (dy - y @ dy)),
    "loss": mutate_loss(CrossEntropy(), lambda y, t: -t / y),
    "chain": mutate_chain(WrongLayer(mlp((4, 5, 5, 3), hidden=tanh), lambda p, s, dy, g, dx: (g, dx))),
    "layer norm": insert_layer(LayerNorm(5)),
    "dropout": insert_layer(Dropout(0.3)),
    "positions": Mutant(Positions(4, 3), SquaredError()),
    "residual": insert_layer(Residual(Sequential((Dense(5, 5), tanh)))),
    "a matrix used twice": insert_layer(Tied(5, 4)),
    "neurons": insert_layer(Neurons(5, 5)),
    "weight decay": mutate_gradient(decay_weights(1), on_purpose=VALUES),
}
