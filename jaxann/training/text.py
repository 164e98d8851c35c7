"""Networks for text: their evaluation, whose result is small for any number of tokens, and the drawing of new text."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxann.data.batches import Examples
from jaxann.data.validation import validate_ids
from jaxann.nn.base import Layer
from jaxann.nn.batch import forward_batch
from jaxann.nn.hyperparameters import validate_number
from jaxann.nn.loss import Loss
from jaxann.nn.losses import SoftmaxCrossEntropy
from jaxann.training.fit import map_batches
from jaxann.training.programs import Program
from jaxann.training.recipe import choose_options

AT_ONCE = 64  # sequences that are evaluated at a time, each with a logit for every token at every position


def evaluate_tokens(
    model: Layer, loss: Loss, params: PyTree, examples: Examples
) -> tuple[Float[Array, "N T 2"], Float[Array, ""]]:
    """Evaluates a network that maps tokens [T] to logits [T, m] for the tokens that come next.

    Args:
        model: The network. No random numbers are drawn: layers such as dropout are in evaluation mode.
        loss: The loss between the logits and the next tokens of a sequence.
        params: The parameters of the network.
        examples: N sequences of tokens, and of their next tokens.

    Returns:
        For every position the logarithm of the probability of the next token, and the most likely token; and the mean
        loss over the sequences.
    """

    def evaluate_sequences(batch: tuple[Array, Array]) -> tuple[Array, Array]:
        x, t = batch
        y, _ = forward_batch(model, params, x)
        logits = y.astype(jnp.float32) if y.dtype == jnp.bfloat16 else y
        log_likelihoods = -jax.vmap(jax.vmap(SoftmaxCrossEntropy().value))(logits, t)
        likely = logits.argmax(axis=-1).astype(logits.dtype)
        return jnp.stack([log_likelihoods, likely], axis=-1), jax.vmap(loss.value)(y, t)

    summaries, losses = map_batches(evaluate_sequences, (jnp.asarray(examples.x), jnp.asarray(examples.t)), AT_ONCE)
    return summaries, losses.mean()


def generate(
    model: Layer,
    params: PyTree,
    tokens: Any,
    length: int,
    *,
    context: int,
    temperature: float | int = 1.0,
    key: PRNGKeyArray,
) -> np.ndarray:
    """Continues a sequence of tokens by drawing one token after another.

    p(next token) = softmax(y_T / temperature), where y_T are the logits after the last token. With a temperature of 0
    the most likely token is taken. The network sees the last `context` tokens.

    Args:
        model: A network that maps ids [T] to logits [T, m] for the tokens that come next, each from the tokens up to
            its position alone, such as `transformer` and a `recurrent_network` with every_step=True.
        params: Its parameters.
        tokens: [n], the first tokens as integers, with n from 1 to `context`.
        length: How many tokens to draw, at least 1.
        context: How many tokens the network sees at once, at least 1: for learned positions at most their number.
        temperature: At least 0. Below 1 likely tokens become more likely.
        key: The key to draw with.

    Returns:
        The drawn tokens, [length].

    Raises:
        SettingError: If `length`, `context` or `temperature` is out of range. It is a ValueError.
        ValueError: If there are no first tokens, or more than `context`, or if one has no row in an embedding.
    """
    validate_number("length", length, least=1, integer=True)
    validate_number("context", context, least=1, integer=True)
    validate_number("temperature", temperature, least=0)
    tokens = np.asarray(tokens)
    if tokens.size and tokens.dtype.kind not in "iu":
        raise ValueError(f"expected first tokens that are integers, got an array of dtype {tokens.dtype}")
    if tokens.ndim != 1 or not 1 <= len(tokens) <= context:
        raise ValueError(f"expected 1 to {context} first tokens, got an array of shape {tokens.shape}")
    validate_ids(model, tokens)
    window = np.zeros(context, np.int32)
    window[: len(tokens)] = tokens
    return np.asarray(_draw_tokens(model, length, params, window, len(tokens), float(temperature), key))


def _draw(
    model: Layer, length: int, params: PyTree, window: Any, count: Any, temperature: Any, key: PRNGKeyArray
) -> Array:
    """Returns the tokens [length] that follow the first `count` tokens in a window [context]."""

    def draw(carry: tuple[Array, Array], key: PRNGKeyArray) -> tuple[tuple[Array, Array], Array]:
        window, count = carry
        y, _ = model.forward(params, window)  # what lies behind the first `count` tokens does not act on them
        logits = y[count - 1].astype(float)
        drawn = jax.random.categorical(key, logits / jnp.where(temperature > 0, temperature, 1))
        token = jnp.where(temperature > 0, drawn, logits.argmax()).astype(window.dtype)
        full = count == len(window)
        window = jnp.where(full, jnp.roll(window, -1), window).at[jnp.where(full, count - 1, count)].set(token)
        return (window, jnp.minimum(count + 1, len(window))), token

    carry = jnp.asarray(window), jnp.asarray(count)
    return jax.lax.scan(draw, carry, jax.random.split(key, length))[1]


_draw_tokens = Program(_draw, ("model", "length"), lambda params, **_: choose_options(params))
