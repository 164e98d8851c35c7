"""The reader of OpenML, which scikit-learn fetches once, into its cache."""

from __future__ import annotations

import warnings
from math import prod
from typing import Any

import numpy as np

from jaxann.data import files

# The shapes (height, width, channels) of the images, whose last 10,000 are the test part by convention.
IMAGES = {"mnist_784": (28, 28, 1), "Fashion-MNIST": (28, 28, 1), "CIFAR_10": (32, 32, 3)}
TEST = 10_000


def fetch(source: str) -> Any:
    """Fetches a dataset.

    Args:
        source: A name in `IMAGES`, or "openml:NAME".

    Returns:
        The answer of scikit-learn's `fetch_openml`, with arrays for images and otherwise with a DataFrame.

    Raises:
        ValueError: If the dataset cannot be fetched.
    """
    from sklearn.datasets import fetch_openml

    name = source.removeprefix("openml:")
    options: Any = {"version": "active", "as_frame": True, "parser": "pandas"}
    if name in IMAGES:
        options = {"version": 1, "as_frame": False, "parser": "liac-arff"}
    try:
        with warnings.catch_warnings():  # scikit-learn warns and tries again; if that fails too, it raises
            warnings.filterwarnings("ignore", "A network error|Invalid cache")
            return fetch_openml(name, **options, n_retries=1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{source} cannot be fetched from OpenML: {files.describe_error(error)}") from None


def read_pixels(source: str, answer: Any) -> tuple[np.ndarray, tuple[str, ...], tuple[int, ...]]:
    """Reads the images of a dataset.

    Args:
        source: A name in `IMAGES`, or the same after "openml:".
        answer: What `fetch` returned for it.

    Returns:
        Images [N, n] as float32, the channels of a pixel side by side; the names of the n features; and the shape
        (height, width, channels) of an image, or () if n is another number than that of its entries.

    Raises:
        ValueError: If the dataset holds anything but finite numbers, or has no examples beside those of its test part.
    """
    names = np.array(answer.feature_names)
    x = files.require_finite(source, "x", answer.data.astype(np.float32))  # float32 holds every pixel's value
    if len(x) <= TEST:
        raise ValueError(
            f"expected more than {TEST} examples in {source}, the last of which are its test part, got {len(x)}"
        )
    shape = height, width, channels = IMAGES[source.removeprefix("openml:")]
    if x.shape[1] != prod(shape):
        return x, tuple(names.tolist()), ()
    x, names = (  # OpenML has the pixels of each channel together
        np.moveaxis(values.reshape(-1, channels, height, width), 1, -1).reshape(-1, prod(shape))
        for values in (x, names)
    )
    return x, tuple(names[0].tolist()), shape
