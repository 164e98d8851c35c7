"""The section on text: a transformer on the documentation of Python, beside the same network in Flax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import log
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from libraries import prepare_installed
from measurement import Row, compare, time_in_turn
from settings import BenchmarkSettings

from jaxann.data.batches import Batch, Examples, Lanes, make_lanes
from jaxann.data.text_parts import TextParts, load_text
from jaxann.nn import EachLoss, SoftmaxCrossEntropy, transformer
from jaxann.training.optimizers import optimizer
from jaxann.training.recipe import Recipe, draw, run_batches, start
from jaxann.training.text import evaluate_tokens

CONTEXT, WIDTH, HEADS, BLOCKS = 128, 128, 4, 4
EPSILON = 1e-5  # of the normalizations
BATCH, STEPS = 32, 10  # the steps that are timed at once


class Trainer(NamedTuple):
    """A network in one of the libraries.

    Attributes:
        train: Trains for the next `STEPS` steps.
        bits: Returns the bits per character of the test part.
    """

    train: Callable[[], Any]
    bits: Callable[[], float]


def measure_text(settings: BenchmarkSettings) -> list[Row]:
    """Measures the steps of both libraries in turn, and what both networks have learned by then."""
    parts = load_text("pydoc", context=CONTEXT)
    model = transformer(parts.tokenizer.size, CONTEXT, WIDTH, HEADS, BLOCKS)
    recipe = Recipe(model, EachLoss(SoftmaxCrossEntropy()), optimizer("adam", 0.001, clip=1.0), BATCH)
    lanes, first = make_lanes(parts.train, BATCH), start(recipe, jax.random.key(0))
    rounds = settings.rounds(60)
    networks = {"jaxann": prepare_jaxann(recipe, first, lanes, parts)}
    networks |= prepare_installed({"Flax": ("flax", partial(prepare_flax, recipe, first, lanes, parts))})
    if len(networks) == 1:
        return []
    seconds = time_in_turn({name: network.train for name, network in networks.items()}, rounds)
    bits = [np.array(network.bits()) for network in networks.values()]
    what = f"transformer of {BLOCKS} blocks, width {WIDTH}, context {CONTEXT}, batch {BATCH}"
    steps, minutes = STEPS * (rounds + 1), seconds["jaxann"].sum() / 60
    return [
        compare(f"{what}, {STEPS} steps: jaxann : Flax", seconds.values(), "s", at_most=0.85),
        compare(
            f"bits per character after {steps} steps ({minutes:.1f} min of jaxann): jaxann : Flax",
            bits,
            "",
            at_most=1.01,
        ),
    ]


def draw_positions(recipe: Recipe, state: Any, lanes: Lanes) -> Iterator[Any]:
    """Yields the positions [STEPS, B] of the batches of a run, without end."""
    while True:
        positions = draw(recipe, state, lanes, 1).positions[0]
        state = state._replace(epoch=state.epoch + 1)
        for i in range(0, len(positions) - STEPS + 1, STEPS):
            yield positions[i : i + STEPS]


def prepare_jaxann(recipe: Recipe, state: Any, lanes: Lanes, parts: TextParts) -> Trainer:
    """Prepares the loop of `fit`."""
    program, batches = jax.jit(run_batches, static_argnames="recipe"), draw_positions(recipe, state, lanes)
    current = [state]

    def train() -> Any:
        current[0], history = program(recipe, current[0], lanes, Batch(next(batches)[None], None))
        return history.loss

    def measure_bits() -> float:
        summaries, _ = jax.jit(evaluate_tokens, static_argnames=("model", "loss"))(
            recipe.model, recipe.loss, current[0].params, parts.test
        )
        return -float(summaries[..., 0].mean()) / log(2)

    return Trainer(train, measure_bits)


def prepare_flax(recipe: Recipe, state: Any, lanes: Lanes, parts: TextParts) -> Trainer:
    """Prepares the usual loop around a `jax.jit` step on a Linen network, which begins with the same parameters."""
    from flax import linen as nn  # pyright: ignore[reportMissingImports]

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            normal = nn.LayerNorm(epsilon=EPSILON)(x)
            x = x + nn.MultiHeadDotProductAttention(HEADS, use_bias=False)(normal, mask=nn.make_causal_mask(x[..., 0]))
            h = nn.Dense(4 * WIDTH)(nn.LayerNorm(epsilon=EPSILON)(x))
            return x + nn.Dense(WIDTH)(nn.gelu(h, approximate=False))

    class Transformer(nn.Module):
        @nn.compact
        def __call__(self, ids):
            x = nn.Embed(parts.tokenizer.size, WIDTH)(ids)
            x = x + self.param("positions", nn.initializers.normal(), (CONTEXT, WIDTH))
            for _ in range(BLOCKS):
                x = Block()(x)
            return nn.Dense(parts.tokenizer.size)(nn.LayerNorm(epsilon=EPSILON)(x))

    update = recipe.optimizer
    apply: Any = Transformer().apply

    def value(params: Any, x: Any, t: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(apply({"params": params}, x), t).mean()

    @jax.jit
    def step(params: Any, opt_state: Any, x: Any, t: Any) -> Any:
        loss, grads = jax.value_and_grad(value)(params, x, t)
        updates, opt_state = update.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    params = convert_params(state.params)
    current, batches = [params, update.init(params)], draw_positions(recipe, state, lanes)
    x, t, lane = np.asarray(lanes.x), np.asarray(lanes.t), np.arange(BATCH)

    def train() -> Any:
        losses = []
        for positions in np.asarray(next(batches)):
            *current[:], loss = step(*current, x[positions, lane], t[positions, lane])
            losses.append(loss)
        return losses

    def measure_bits() -> float:
        pieces = [jax.jit(value)(current[0], x, t) * len(x) for x, t in split(parts.test)]
        return float(np.sum(pieces)) / len(parts.test.x) / log(2)

    return Trainer(train, measure_bits)


def split(part: Examples) -> Iterator[tuple[Any, Any]]:
    """Yields a part in batches."""
    for i in range(0, len(part.x), BATCH):
        yield part.x[i : i + BATCH], part.t[i : i + BATCH]


def convert_params(params: Any) -> dict[str, Any]:
    """Returns the parameters of a `transformer` as those of the network in Flax."""
    embedding, positions, *blocks, last, dense = params

    def norm(p: Any) -> Any:
        return {"scale": p["scale"], "bias": p["shift"]}

    def affine(W: Any, b: Any) -> Any:
        return {"kernel": W.T, "bias": b}

    converted: dict[str, Any] = {"positions": positions["P"], "Embed_0": {"embedding": embedding["W"]}}
    for i in range(BLOCKS):
        (first, attention), (second, forward) = blocks[2 * i : 2 * i + 2]
        names = ("query", "key", "value")
        heads = {
            name: {"kernel": W.T.reshape(WIDTH, HEADS, -1)}
            for name, W in zip(names, jnp.split(attention["W_qkv"], 3), strict=True)
        }
        heads["out"] = {"kernel": attention["W_o"].T.reshape(HEADS, -1, WIDTH)}
        converted[f"Block_{i}"] = {
            "LayerNorm_0": norm(first),
            "MultiHeadDotProductAttention_0": heads,
            "LayerNorm_1": norm(second),
            "Dense_0": affine(forward["W_1"], forward["b_1"]),
            "Dense_1": affine(forward["W_2"], forward["b_2"]),
        }
    return converted | {"LayerNorm_0": norm(last), "Dense_0": affine(dense["W"], dense["b"])}
