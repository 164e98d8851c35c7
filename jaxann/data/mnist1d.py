"""MNIST-1D, a small dataset of sequences that the package mnist1d generates."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from jaxann.data.extras import require_packages


def make_mnist1d() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Makes MNIST-1D by the package mnist1d, always from the same random numbers.

    Returns:
        The training part, sequences [4000, 40] as float32 and labels [4000], and likewise the test part of 1000.

    Raises:
        ImportError: If the package mnist1d is missing.

    Source: Greydanus and Kobak 2024, section 2.
    """
    require_packages("MNIST-1D", "mnist1d")
    from mnist1d.data import get_dataset_args, make_dataset  # pyright: ignore[reportMissingImports]

    states = random.getstate(), np.random.get_state()
    try:
        data: Any = make_dataset(get_dataset_args())
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    train, test = ((data[f"x{end}"].astype(np.float32), data[f"y{end}"]) for end in ("", "_test"))
    return train, test
