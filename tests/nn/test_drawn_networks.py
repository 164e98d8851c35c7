"""Networks of random layers on images and on sequences: their gradients are those of autodiff, and a check says so."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.judges import cast, judge_network
from support.networks import draw_network

from jaxann import check
from jaxann.nn import LearnedPositions


def judge_drawn(seed, dtype):
    model, loss, *data = draw_network(seed)
    try:
        judge_network(model, loss, *cast(data, dtype))
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {model!r}, {loss}{error}") from None


@settings(max_examples=1, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_by_hand_is_automatic_for_any_network(seed):
    judge_drawn(seed, jnp.float64)


@pytest.mark.slow
@pytest.mark.parametrize("hundred", range(10))
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_by_hand_is_automatic_for_a_thousand_networks(dtype, hundred):
    for seed in range(100 * hundred, 100 * hundred + 100):
        judge_drawn(seed, dtype)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_a_wrong_gradient_is_seen_behind_a_normalization_that_amplifies_rounding(monkeypatch, dtype):
    judge_drawn(538, dtype)
    backward = LearnedPositions.backward
    monkeypatch.setattr(LearnedPositions, "backward", lambda *args: jax.tree.map(lambda a: 1.01 * a, backward(*args)))
    with pytest.raises(AssertionError, match="seed 538"):
        judge_drawn(538, dtype)


def test_a_check_takes_no_rounding_error_for_a_wrong_gradient():
    """Behind a normalization of two numbers, at one point autodiff's rounding error happens to be small."""
    model, loss, *data = draw_network(38)
    report = check(model, loss, *data, seed=38)
    assert report.ok, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("twenty", range(50))
def test_a_check_finds_nothing_wrong_in_a_thousand_networks(twenty):
    for seed in range(20 * twenty, 20 * twenty + 20):
        model, loss, *data = draw_network(seed)
        report = check(model, loss, *data, seed=seed)
        assert report.ok, f"seed {seed}: {model!r}, {loss}\n{report}"
