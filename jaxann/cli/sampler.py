"""Samples of text, by which a reader sees how far a network has come."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxann.cli.task import Task
from jaxann.data.tokens import Tokenizer
from jaxann.nn.base import Layer
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.nn.text import make_printable
from jaxann.training.devices import gather
from jaxann.training.recipe import TrainState
from jaxann.training.text import generate

TEMPERATURE = 0.8
LENGTH = 200  # tokens
PROMPT = 8  # tokens of held-out text that a sample during training continues


def continue_text(
    model: Layer,
    params: Any,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    context: int,
    length: int = LENGTH,
    temperature: float | int = TEMPERATURE,
    seed: int = 0,
) -> str:
    """Continues a text by drawing tokens from a network.

    Args:
        model: The network.
        params: Its parameters.
        tokenizer: The way from text to tokens and back.
        prompt: The beginning of the text, of 1 to `context` tokens.
        context: The number of tokens that the network sees at once.
        length: How many tokens to draw.
        temperature: As for `generate`.
        seed: The number for `jax.random.key`.

    Returns:
        The text after the prompt.

    Raises:
        SettingError: If a setting is out of range, or the prompt is empty or too long. It is a ValueError.
        ValueError: If the prompt has a character that the tokenizer does not know.
    """
    if not isinstance(prompt, str):
        raise SettingError("prompt", "to be a text", prompt)
    try:
        tokens = tokenizer.encode(prompt)
    except ValueError as error:
        raise ValueError(f"in the prompt, {error}") from None
    if not 1 <= len(tokens) <= context:
        raise SettingError("prompt", f"to have 1 to {context} tokens, the context of the network", len(tokens))
    return continue_tokens(model, params, tokenizer, tokens, context, length, temperature, seed)


def continue_tokens(
    model: Layer,
    params: Any,
    tokenizer: Tokenizer,
    tokens: np.ndarray,
    context: int,
    length: int = LENGTH,
    temperature: float | int = TEMPERATURE,
    seed: int = 0,
) -> str:
    """Returns the text after 1 to `context` tokens. The arguments are those of `continue_text`."""
    validate_number("seed", seed, least=0, most=2**32 - 1, integer=True)
    options: Any = {"context": context, "temperature": temperature, "key": jax.random.key(seed)}
    drawn = generate(model, params, tokens, length, **options)
    # A token may end in the middle of a character, so that only all tokens together are text.
    return tokenizer.decode(np.concatenate([tokens, drawn]))[len(tokenizer.decode(tokens)) :]


def describe_sample(task: Task, state: TrainState) -> str:
    """Returns a sample of the network during training, which continues the beginning of held-out text.

    Every process of a run must call it.
    """
    tokenizer, part = task.data.tokenizer, task.data.validation or task.data.test
    assert tokenizer is not None
    params, context = gather(state.params), task.data.shape[0]
    tokens = np.asarray(part.x[0][:PROMPT])
    text = tokenizer.decode(tokens) + continue_tokens(task.recipe.model, params, tokenizer, tokens, context)
    lines = [f"| {make_printable(line)}" for line in text.split("\n")]
    return "\n".join([f"sample after epoch {int(state.epoch)}:", *lines])
