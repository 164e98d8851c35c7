"""Some of the mutants as `torch.autograd.Function`, as people write them in PyTorch. Importing this needs PyTorch."""

import numpy as np
import torch

RNG = np.random.default_rng(0)


def tensor(*shape):
    return torch.tensor(RNG.normal(size=shape))


X, W, B = tensor(6, 5), tensor(5, 5), tensor(5)
SPREAD = X * torch.tensor([0.5, 1, 2, 3, 1])


class Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, W, b):
        ctx.save_for_backward(x, W, b)
        return x @ W.T + b

    @staticmethod
    def backward(ctx, dy):
        x, W, _ = ctx.saved_tensors
        return dy @ W, dy.T @ x, dy.sum(0)


def of_dense(**wrong):
    """Replaces one of the gradients of x, W and b by a function of it, of dy and of what was saved."""

    class WrongDense(Dense):
        @staticmethod
        def backward(ctx, dy):
            grads = dict(zip("xWb", Dense.backward(ctx, dy), strict=True))
            spoilt = {name: spoil(grads[name], dy, *ctx.saved_tensors) for name, spoil in wrong.items()}
            return tuple((grads | spoilt).values())

    return WrongDense, (X, W, B), tuple(wrong)


def of_one(function, backward, x=X):
    """Takes a function and its backward as a function of dy, the input and the output."""

    class OfOne(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = function(x)
            ctx.save_for_backward(x, y)
            return y

        @staticmethod
        def backward(ctx, dy):
            return backward(dy, *ctx.saved_tensors)

    return OfOne, (x,), ("x",)


class LayerNorm(torch.autograd.Function):
    """Its backward forgets the mean."""

    @staticmethod
    def forward(ctx, x, scale, shift):
        sd = torch.sqrt(x.var(1, correction=0, keepdim=True) + 1e-5)
        z = (x - x.mean(1, keepdim=True)) / sd
        ctx.save_for_backward(z, sd, scale)
        return scale * z + shift

    @staticmethod
    def backward(ctx, dy):
        z, sd, scale = ctx.saved_tensors
        dz = scale * dy
        return (dz - z * (dz * z).mean(1, keepdim=True)) / sd, (dy * z).sum(0), dy.sum(0)


class SquaredError(torch.autograd.Function):
    """Its backward forgets the half."""

    @staticmethod
    def forward(ctx, y, t):
        ctx.save_for_backward(y, t)
        return ((y - t) ** 2).sum() / 2

    @staticmethod
    def backward(ctx, dy):
        y, t = ctx.saved_tensors
        return dy * 2 * (y - t), None


def softmax(x):
    return torch.softmax(x, 1)


MASK = torch.tensor((np.arange(30).reshape(6, 5) % 3 > 0) / 0.7)
FUNCTIONS = {  # by the name of the mutant: the function, its arguments, and the names of the wrong gradients
    "bias: added instead of subtracted": of_dense(b=lambda g, dy, x, W, b: -g),
    "W: transposed": of_dense(W=lambda g, dy, x, W, b: g.T),
    "W: a tenth of a per cent too long": of_dense(W=lambda g, dy, x, W, b: 1.001 * g),
    "W: zero": of_dense(W=lambda g, dy, x, W, b: torch.zeros_like(W)),
    "W: one neuron forgotten": of_dense(W=lambda g, dy, x, W, b: torch.cat([g[:4], 0 * g[4:]])),
    "b: twice": of_dense(b=lambda g, dy, x, W, b: g + dy.sum(0)),
    "b: summed over the neurons": of_dense(b=lambda g, dy, x, W, b: dy.sum().expand(5)),
    "dx: W dy instead of its transpose": of_dense(x=lambda g, dy, x, W, b: dy @ W.T),
    "dx: passed through": of_dense(x=lambda g, dy, x, W, b: dy),
    "tanh: 1 - x²": of_one(torch.tanh, lambda dy, x, y: dy * (1 - x**2)),
    "tanh: 1 - y": of_one(torch.tanh, lambda dy, x, y: dy * (1 - y)),
    "sigmoid: left out": of_one(torch.sigmoid, lambda dy, x, y: dy),
    "relu: the wrong side": of_one(torch.relu, lambda dy, x, y: dy * (x < 0)),
    "hard tanh: everywhere": of_one(lambda x: x.clamp(-1, 1), lambda dy, x, y: dy, SPREAD),
    "softmax: the diagonal only": of_one(softmax, lambda dy, x, y: y * (1 - y) * dy),
    "softmax: without the sum": of_one(softmax, lambda dy, x, y: y * dy),
    "softmax: sign": of_one(softmax, lambda dy, x, y: -y * (dy - (y * dy).sum(1, keepdim=True))),
    "layer norm: without the mean": (LayerNorm, (X, B + 2, B), ("x",)),
    "dropout: without 1 / (1 - rate)": of_one(lambda x: x * MASK, lambda dy, x, y: dy * (MASK > 0)),
    "squared error: without the half": (SquaredError, (X[:, :3], torch.tensor(RNG.integers(0, 3, (6, 3)))), ("y",)),
}
