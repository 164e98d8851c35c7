"""The clipped mean and the norms of per-example gradients as the libraries for PyTorch compute them.

Every function takes a `TorchJob` and returns a `Run`. It imports its library when it is called, because the library may
be missing. Losses are summed, so that no gradient carries the factor 1 / B before it is clipped to a norm of 1.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from libraries import prepare_installed
from measurement import Run


class TorchJob(NamedTuple):
    """A network in PyTorch and a batch of examples.

    Attributes:
        build: Builds the network, a new one at every call, because the libraries add hooks to it.
        x: [B, ...], the inputs.
        t: [B], the labels.
    """

    build: Callable[[], Any]
    x: np.ndarray
    t: np.ndarray

    def tensors(self) -> tuple[Any, Any]:
        """Returns x and t as tensors, and lets PyTorch compute with every core."""
        import torch  # pyright: ignore[reportMissingImports]

        torch.set_num_threads(os.cpu_count() or 1)
        return torch.tensor(self.x), torch.tensor(self.t, dtype=torch.long)


def prepare_torch_clippers(job: TorchJob) -> dict[str, Run]:
    """Prepares the clipped mean by every library that is installed, in each of its modes."""
    return _prepare(
        job,
        {
            "opacus": clip_with_opacus,
            "opacus, ghost": clip_with_opacus_ghost,
            "book-keeping on opacus": clip_with_opacus_book_keeping,
            "backpack": clip_with_backpack,
            "backpack, ghost": clip_with_backpack_ghost,
        },
    )


def prepare_torch_norms(job: TorchJob) -> dict[str, Run]:
    """Prepares the norms beside the mean gradient by every library that is installed."""
    return _prepare(job, {"opacus": compute_norms_with_opacus, "backpack": compute_norms_with_backpack})


def _prepare(job: TorchJob, functions: dict[str, Callable[[TorchJob], Run]]) -> dict[str, Run]:
    warnings.filterwarnings("ignore", "Full backward hook is firing")  # no gradient of x is needed

    def name_packages(name: str) -> str:
        return "opacus torch" if "opacus" in name else "backpack-for-pytorch torch"

    return prepare_installed({name: (name_packages(name), partial(f, job)) for name, f in functions.items()})


def clip_with_opacus(job: TorchJob) -> Run:
    """Prepares Opacus's hooks, which keep every example's gradient."""
    from opacus import GradSampleModule  # pyright: ignore[reportMissingImports]

    return _clip_kept(job, partial(GradSampleModule, loss_reduction="sum"), lambda p: p.grad_sample)


def clip_with_backpack(job: TorchJob) -> Run:
    """Prepares BackPACK's BatchGrad, which keeps every example's gradient."""
    from backpack import backpack, extend  # pyright: ignore[reportMissingImports]
    from backpack.extensions import BatchGrad  # pyright: ignore[reportMissingImports]

    return _clip_kept(job, extend, lambda p: p.grad_batch, lambda: backpack(BatchGrad()))


def _clip_kept(job: TorchJob, extend: Callable, gradients: Callable, context: Callable[[], Any] = nullcontext) -> Run:
    """Prepares a backward pass, after which `gradients(p)` has every example's gradient of p, and the clipped mean."""
    import torch  # pyright: ignore[reportMissingImports]

    model, (x, t) = extend(job.build()), job.tensors()

    def run() -> list[Any]:
        model.zero_grad()
        with context():
            torch.nn.functional.cross_entropy(model(x), t, reduction="sum").backward()
        with torch.no_grad():
            grads = [gradients(p) for p in model.parameters()]
            squares = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0)
            factors = 1 / squares.sqrt().clamp(min=1)
            return [torch.tensordot(factors, g, 1) / len(x) for g in grads]

    return run


def clip_with_opacus_ghost(job: TorchJob) -> Run:
    """Prepares Opacus's ghost clipping: a backward pass for the norms, and a second one of the weighted losses."""
    import torch  # pyright: ignore[reportMissingImports]
    from opacus.optimizers import DPOptimizerFastGradientClipping  # pyright: ignore[reportMissingImports]
    from opacus.utils.fast_gradient_clipping_utils import (  # pyright: ignore[reportMissingImports]
        DPLossFastGradientClipping,
    )

    model, (x, t) = _extend_for_norms(job), job.tensors()
    sgd, settings = torch.optim.SGD(model.parameters()), {"max_grad_norm": 1.0, "loss_reduction": "sum"}
    optimizer = DPOptimizerFastGradientClipping(sgd, noise_multiplier=0.0, expected_batch_size=None, **settings)
    loss = DPLossFastGradientClipping(model, optimizer, torch.nn.CrossEntropyLoss(reduction="sum"), "sum")

    def run() -> list[Any]:
        optimizer.zero_grad()
        loss(model(x), t).backward()
        return [p.grad / len(x) for p in model.parameters()]

    return run


def clip_with_opacus_book_keeping(job: TorchJob) -> Run:
    """Prepares book-keeping on Opacus's hooks and norms: a backward pass, whose dy are weighted by the factors.

    Opacus 1.6 has no such mode. The backward pass computes no gradient of a weight; the factors come from the norms.
    Each layer's gradients are then computed once, from dy weighted by the factors.

    Source: Bu et al. 2023, "Differentially private optimization on large model at small cost", algorithm 1.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from opacus.grad_sample import GradSampleModuleFastGradientClipping  # pyright: ignore[reportMissingImports]

    all_y: dict[Any, Any] = {}
    all_dy: dict[Any, Any] = {}

    class BookKeeping(GradSampleModuleFastGradientClipping):
        def capture_activations_hook(self, module: Any, x: Any, y: Any) -> None:
            all_y[module] = y
            super().capture_activations_hook(module, x, y)

        def rearrange_grad_samples(self, *, module: Any, backprops: Any, **settings: Any) -> Any:
            all_dy[module] = backprops
            return super().rearrange_grad_samples(module=module, backprops=backprops, **settings)

    model, (x, t) = BookKeeping(job.build(), loss_reduction="sum", max_grad_norm=1.0), job.tensors()
    _, bias, *_ = model.parameters()

    def run() -> list[Any]:
        loss = torch.nn.functional.cross_entropy(model(x), t, reduction="sum")
        torch.autograd.grad(loss, bias, retain_graph=True)  # reaches the first layer, and so computes every dy
        factors, grads = model.get_clipping_coef() / len(x), []
        for layer, y in all_y.items():
            dy = torch.einsum("n,n...->n...", factors, all_dy[layer])
            grads += torch.autograd.grad(y, list(layer.parameters()), dy)
        return grads

    return run


def clip_with_backpack_ghost(job: TorchJob) -> Run:
    """Prepares a backward pass with BackPACK's BatchL2Grad for the norms, and a second one of the weighted losses."""
    import torch  # pyright: ignore[reportMissingImports]
    from backpack import backpack, extend  # pyright: ignore[reportMissingImports]
    from backpack.extensions import BatchL2Grad  # pyright: ignore[reportMissingImports]

    model, (x, t) = extend(job.build()), job.tensors()
    params = list(model.parameters())

    def run() -> Any:
        losses = torch.nn.functional.cross_entropy(model(x), t, reduction="none")
        with backpack(BatchL2Grad()):
            torch.autograd.grad(losses.sum(), params[1], retain_graph=True)  # computes no gradient of W
        factors = 1 / torch.stack([p.batch_l2 for p in params]).sum(0).sqrt().clamp(min=1)
        return torch.autograd.grad(factors @ losses / len(x), params)

    return run


def compute_norms_with_opacus(job: TorchJob) -> Run:
    """Prepares the first backward pass of ghost clipping, which has the gradient beside the norms."""
    import torch  # pyright: ignore[reportMissingImports]

    model, (x, t) = _extend_for_norms(job), job.tensors()

    def run() -> tuple[list[Any], Any]:
        model.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(x), t, reduction="sum").backward()
        return [p.grad / len(x) for p in model.parameters()], model.get_norm_sample()

    return run


def compute_norms_with_backpack(job: TorchJob) -> Run:
    """Prepares a backward pass with BackPACK's BatchL2Grad, which has the squared norms of every parameter's part."""
    import torch  # pyright: ignore[reportMissingImports]
    from backpack import backpack, extend  # pyright: ignore[reportMissingImports]
    from backpack.extensions import BatchL2Grad  # pyright: ignore[reportMissingImports]

    model, (x, t) = extend(job.build()), job.tensors()

    def run() -> tuple[list[Any], Any]:
        model.zero_grad()
        with backpack(BatchL2Grad()):
            torch.nn.functional.cross_entropy(model(x), t, reduction="sum").backward()
        squares = torch.stack([p.batch_l2 for p in model.parameters()]).sum(0)
        return [p.grad / len(x) for p in model.parameters()], squares.sqrt()

    return run


def _extend_for_norms(job: TorchJob) -> Any:
    """Returns the network with the hooks of Opacus that compute norms and keep no gradient."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping  # pyright: ignore[reportMissingImports]

    return GradSampleModuleFastGradientClipping(job.build(), loss_reduction="sum", max_grad_norm=1.0)
