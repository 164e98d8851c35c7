"""The handwritten backward of PyTorch code as a pair of functions that `jaxann.check_function` takes."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from jaxann.data.extras import require_packages


def torch_pair(code: Any) -> tuple[Callable, Callable]:
    """Returns the forward and the backward of a `torch.autograd.Function` or a `torch.nn.Module`.

    The backward runs PyTorch's engine, which calls the handwritten backward of the function, or that of every
    `torch.autograd.Function` inside the module.

        check_function(*torch_pair(MyFunction), x)
        check_function(*torch_pair(module), dict(module.named_parameters()), x)

    Args:
        code: A subclass of `torch.autograd.Function`, whose arguments are tensors; or a module.

    Returns:
        `forward(*args)` and `backward(dy, *args)`. For a module the first of the arguments is the dictionary of its
        parameters. A copy of the module in double precision computes, so the module stays as it is.

    Raises:
        TypeError: If `code` is neither.
        ImportError: If PyTorch is missing.
    """
    require_packages("PyTorch code", "torch")
    torch: Any = importlib.import_module("torch")
    trees: Any = importlib.import_module("torch.utils._pytree")
    if isinstance(code, type) and issubclass(code, torch.autograd.Function):
        apply = code.apply
    elif isinstance(code, torch.nn.Module):
        module = copy.deepcopy(code).double()

        def apply(params: Any, *inputs: Any) -> Any:
            return torch.func.functional_call(module, params, inputs)
    else:
        raise TypeError(
            f"expected a subclass of torch.autograd.Function or a torch.nn.Module, got {type(code).__name__}"
        )

    def forward(*args: Any) -> Any:
        with torch.no_grad():
            return apply(*args)

    def backward(dy: Any, *args: Any) -> Any:
        leaves, structure = trees.tree_flatten(args)
        leaves = [leaf.detach().requires_grad_() if _is_float(leaf) else leaf for leaf in leaves]
        with torch.enable_grad():
            y = apply(*trees.tree_unflatten(leaves, structure))
        pairs = [
            pair
            for pair in zip(trees.tree_flatten(y)[0], trees.tree_flatten(dy)[0], strict=True)
            if pair[0].requires_grad
        ]
        outputs, cotangents = zip(*pairs, strict=True)
        inputs = [leaf for leaf in leaves if _is_float(leaf)]
        gradients = iter(torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True, materialize_grads=True))
        return trees.tree_unflatten([next(gradients) if _is_float(leaf) else None for leaf in leaves], structure)

    parameters = [*inspect.signature(code.forward).parameters.values()]
    if isinstance(code, type):
        has_context = code.setup_context is torch.autograd.Function.setup_context
        parameters = parameters[1:] if has_context else parameters
    else:
        parameters.insert(0, inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD))
    forward.__signature__ = inspect.Signature([p.replace(default=p.empty) for p in parameters])
    forward.__qualname__ = backward.__qualname__ = getattr(code, "__name__", type(code).__name__)
    return forward, backward


def _is_float(leaf: Any) -> bool:
    return hasattr(leaf, "is_floating_point") and leaf.is_floating_point()
