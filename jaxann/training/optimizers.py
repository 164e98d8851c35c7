"""optax's optimisers and schedules by name, with clipping before them and weight decay after.

Weight decay is decoupled, W ← W - l (step + λ W), and on matrices alone: a bias or a scale has no reason to be small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from jaxann.nn.hyperparameters import validate_number

OPTIMIZERS = ("sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam", "adamw", "nadam", "radam", "lamb", "lion")
SCHEDULES = ("constant", "linear", "cosine", "exponential")
_SGD: dict[str, dict[str, Any]] = {"momentum": {"momentum": 0.9}, "nesterov": {"momentum": 0.9, "nesterov": True}}


def optimizer(
    name: str,
    learning_rate: Any,
    *,
    settings: Mapping[str, Any] | None = None,
    weight_decay: Any = None,
    clip: Any = None,
) -> optax.GradientTransformation:
    """One of `OPTIMIZERS`, momentum and nesterov being SGD's, with a number or a schedule for its learning rate.

    `settings` are optax's own names for the others, as b1 and eps of adam. The gradient is first scaled down to a
    global norm of at most `clip`. `weight_decay` is λ; None is optax's own for those that have one (adamw, lamb, lion)
    and 0 for the others. Raises ValueError for another name, for settings that the optimiser does not have, and for
    numbers that are not finite or too small. Sources: Pascanu et al. 2013, algorithm 1; Loshchilov and Hutter 2019.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"there is no optimizer {name}, only {', '.join(OPTIMIZERS)}")
    if not isinstance(learning_rate, Callable):
        validate_number("learning_rate", learning_rate, above=0)
    if weight_decay is not None:
        validate_number("weight_decay", weight_decay, least=0)
    make: Any = optax.sgd if name in _SGD else getattr(optax, name)
    settings = _SGD.get(name, {}) | dict(settings or {})
    known = [
        known
        for known in signature(make).parameters
        if known not in ("learning_rate", "weight_decay", "mask") and not known.endswith("dtype")
    ]
    for setting, value in settings.items():
        if setting not in known:
            raise ValueError(f"{name} has no setting {setting}, only {', '.join(known)}")
        validate_number(setting, value)
    if "weight_decay" in signature(make).parameters:
        decay = {} if weight_decay is None else {"weight_decay": weight_decay}
        made = make(learning_rate, mask=_matrices, **decay, **settings)
    elif weight_decay is not None:
        rate = learning_rate if isinstance(learning_rate, Callable) else lambda count: learning_rate
        decay = optax.add_decayed_weights(lambda count: -weight_decay * rate(count), _matrices)
        made = optax.chain(make(learning_rate, **settings), decay)
    else:
        made = make(learning_rate, **settings)
    if clip is None:
        return made
    validate_number("clip", clip, above=0)
    return optax.chain(optax.clip_by_global_norm(clip), made)


def schedule(name: str, learning_rate: Any, steps: int, *, warmup: int = 0, final: float = 0.0) -> Any:
    """One of `SCHEDULES`: from `learning_rate` down to the share `final` of it, over a run of so many steps.

    It begins with `warmup` steps that rise from 0 in a line. Raises ValueError for another name, for a warmup that is
    not shorter than the run, for a share outside [0, 1], and for 0 where the schedule is exponential.
    """
    if name not in SCHEDULES:
        raise ValueError(f"there is no schedule {name}, only {', '.join(SCHEDULES)}")
    validate_number("learning_rate", learning_rate, above=0)
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup is {warmup} steps, but 0 to fewer than the run's {steps} are wanted")
    if not 0 <= final <= 1 or (name == "exponential" and final == 0):
        wanted = "above 0 and at most 1" if name == "exponential" else "from 0 to 1"
        raise ValueError(f"final is {final}, but for the schedule {name} a share {wanted} is wanted")
    falling = steps - warmup
    after = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "linear": lambda: optax.linear_schedule(learning_rate, final * learning_rate, falling),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, falling, final),
        "exponential": lambda: optax.exponential_decay(learning_rate, falling, final),
    }[name]()
    if not warmup and name == "constant":
        return learning_rate
    whole = (
        optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), after], [warmup]) if warmup else after
    )
    return lambda count: whole(jnp.asarray(count, float))  # of an int32 optax would take a float32 share


def _matrices(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
