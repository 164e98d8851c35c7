"""optax's optimizers and schedules by name, with clipping before the optimizer and weight decay after it.

Weight decay is decoupled, W ← W - l (step + λ W), and applies to arrays of two or more axes only, because nothing is
gained from small biases or scales.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from jaxann.nn.hyperparameters import SettingError, validate_number

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
    """Returns one of optax's optimizers, with clipping and weight decay.

    Args:
        name: One of `OPTIMIZERS`. "momentum" and "nesterov" are SGD with a momentum of 0.9.
        learning_rate: l, a number above 0, or a schedule: a function from the number of steps done to l.
        settings: Other hyperparameters of the optimizer under optax's names, such as b1 and eps for Adam.
        weight_decay: λ, at least 0. None stands for optax's own default for adamw, lamb and lion, and for 0 elsewhere.
        clip: The largest norm, over all leaves, that the gradient may have, a number above 0. A longer gradient is
            scaled down to it first. None never scales it.

    Returns:
        The optimizer, as an optax transformation.

    Raises:
        SettingError: If there is no optimizer of that name, if one of the `settings` is not a setting of the optimizer,
            or if a number is not finite or out of range.

    Source: Pascanu et al. 2013, algorithm 1, for clipping; Loshchilov and Hutter 2019 for weight decay.
    """
    if name not in OPTIMIZERS:
        raise SettingError("optimizer", _describe_choices(OPTIMIZERS), name)
    if not isinstance(learning_rate, Callable):
        validate_number("learning_rate", learning_rate, above=0)
    if weight_decay is not None:
        validate_number("weight_decay", weight_decay, least=0)
    make: Any = optax.sgd if name in _SGD else getattr(optax, name)
    settings = _SGD.get(name, {}) | dict(settings or {})
    parameters = signature(make).parameters
    others = ("learning_rate", "weight_decay", "mask")  # set below, from arguments of their own
    known = [known for known in parameters if known not in others and not known.endswith("dtype")]
    for setting, value in settings.items():
        if setting not in known:
            raise SettingError("settings", f"of {name} among {', '.join(known)}", setting)
        if not isinstance(value, bool):  # `nesterov` is a switch
            validate_number(setting, value)
    if "weight_decay" in parameters:
        decay = {} if weight_decay is None else {"weight_decay": weight_decay}
        update = make(learning_rate, mask=_is_matrix, **decay, **settings)
    elif weight_decay is not None:
        rate = learning_rate if isinstance(learning_rate, Callable) else lambda count: learning_rate
        decay = optax.add_decayed_weights(lambda count: -weight_decay * rate(count), _is_matrix)
        update = optax.chain(make(learning_rate, **settings), decay)
    else:
        update = make(learning_rate, **settings)
    if clip is None:
        return update
    validate_number("clip", clip, above=0)
    return optax.chain(optax.clip_by_global_norm(clip), update)


def resolve_optimizer(value: Any, learning_rate: Any = None) -> optax.GradientTransformation:
    """Returns the optimizer that the setting `optimizer` stands for.

    The same name and learning rate give the same object, so that a program compiled for it serves again.

    Args:
        value: An optax transformation, or one of the names in `OPTIMIZERS`.
        learning_rate: The learning rate or schedule of an optimizer given by name. None stands for 0.01 for "sgd",
            "momentum" and "nesterov", and for 0.001 for all others.

    Raises:
        SettingError: If the value is neither, if the learning rate is out of range, or if there is one beside a
            transformation, which has its own.
    """
    if isinstance(value, str):
        default = 0.01 if value == "sgd" or value in _SGD else 0.001
        rate = default if learning_rate is None else learning_rate
        is_plain = isinstance(rate, float | int) and not isinstance(rate, bool)
        return _make_optimizer(value, float(rate)) if is_plain else optimizer(value, rate)
    if not (hasattr(value, "init") and hasattr(value, "update")):
        expectation = f"to be a transformation of optax, such as optax.adam(0.001), or one of {', '.join(OPTIMIZERS)}"
        raise SettingError("optimizer", expectation, value)
    if learning_rate is not None:
        raise SettingError("learning_rate", "only together with the name of an optimizer", learning_rate)
    return value


_make_optimizer = lru_cache(maxsize=64)(optimizer)


def schedule(name: str, learning_rate: Any, steps: int, *, warmup: int = 0, final: float = 0.0) -> Any:
    """Returns a learning rate that falls over a run.

    The rate first rises linearly from 0 to `learning_rate` over `warmup` steps, then falls to `final · learning_rate`.

    Args:
        name: How it falls, one of `SCHEDULES`.
        learning_rate: The highest rate, a number above 0.
        steps: The length of the run, in steps.
        warmup: The length of the rise, in steps, shorter than the run.
        final: The share of `learning_rate` that is left at the end, between 0 and 1, and above 0 for an exponential
            schedule. It has no effect on a constant schedule.

    Returns:
        A function from the number of steps done to the rate, or `learning_rate` itself if the rate is constant from the
        first step on.

    Raises:
        SettingError: If there is no schedule of that name, or if a number is not finite or out of range.
    """
    if name not in SCHEDULES:
        raise SettingError("schedule", _describe_choices(SCHEDULES), name)
    validate_number("learning_rate", learning_rate, above=0)
    validate_number("warmup", warmup, least=0, most=steps - 1, integer=True, note=f"in steps; the run has {steps}")
    if name == "exponential":
        validate_number("final", final, above=0, most=1, note="for an exponential schedule")
    else:
        validate_number("final", final, least=0, most=1)
    fall_steps = steps - warmup
    fall = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "linear": lambda: optax.linear_schedule(learning_rate, final * learning_rate, fall_steps),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, fall_steps, final),
        "exponential": lambda: optax.exponential_decay(learning_rate, fall_steps, final),
    }[name]()
    if not warmup and name == "constant":
        return learning_rate
    rate = fall
    if warmup:
        rate = optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), fall], [warmup])
    # From an int32 count optax would compute the share of the run in float32 even where the run is in float64.
    return lambda count: rate(jnp.asarray(count, float))


def _is_matrix(params: PyTree) -> PyTree:
    """Returns for each parameter whether it has two or more axes, as a matrix has, unlike a bias or a scale."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _describe_choices(names: tuple[str, ...]) -> str:
    return f"to be {', '.join(names[:-1])} or {names[-1]}"
