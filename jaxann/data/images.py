"""The reader of IDX files, the format of MNIST's images and labels."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib

import numpy as np

from jaxann.data.files import read_error, require_regular_file


def read_images(folder: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads images and labels from two IDX files, each plain or as .gz.

    Args:
        folder: The folder of the files, which are named as those of MNIST are.
        part: How their names begin: "train" or "t10k".

    Returns:
        Images [N, rows, columns] as float32, and labels [N] as uint8.

    Raises:
        ValueError: If a file is missing or damaged, or if it holds no images or not as many labels as images.
    """
    images = _read_idx_file(folder, f"{part}-images-idx3-ubyte", 3)
    labels = _read_idx_file(folder, f"{part}-labels-idx1-ubyte", 1)
    if len(images) != len(labels) or 0 in images.shape:
        raise ValueError(
            f"expected at least one image, and a label for each, in the {part} files of {folder}, "
            f"got images of shape {images.shape} and {len(labels)} labels"
        )
    return images.astype(np.float32), labels


def _read_idx_file(folder: str, name: str, axes: int) -> np.ndarray:
    """Reads uint8 after a header: bytes 0, 0, 8 (the code of uint8) and `axes`, then each size as big-endian uint32."""
    plain = os.path.join(folder, name)
    path = plain if os.path.exists(plain) else f"{plain}.gz"
    require_regular_file(path)
    try:
        with (open if path == plain else gzip.open)(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise ValueError(f"expected a file {name}, plain or as .gz, in {folder}, got neither") from None
    except (EOFError, zlib.error, OSError) as error:
        raise read_error(path, error) from None
    head, magic = 4 + 4 * axes, int.from_bytes(data[:4], "big")
    if len(data) < head or magic != 0x800 + axes:
        raise ValueError(
            f"expected {path} to begin with the number {0x800 + axes} and to have at least {head} bytes, "
            f"got {magic} and {len(data)} bytes"
        )
    shape = struct.unpack_from(f">{axes}I", data, 4)
    if len(data) != head + math.prod(shape):
        raise ValueError(f"expected {head + math.prod(shape)} bytes in {path}, for shape {shape}, got {len(data)}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
