"""A model and its parameters in one file: an .npz file with the arrays, and the layers as JSON.

The file holds no pickle. Reading it imports the modules that it names for layers of your own, and nothing else.
"""

from __future__ import annotations

import json
import zipfile
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxann.data.files import require_regular_file
from jaxann.data.validation import validate_params
from jaxann.nn.base import Layer, path_name
from jaxann.nn.encoding import decode, encode
from jaxann.nn.names import resolve_layer
from jaxann.nn.text import describe_value
from jaxann.runs.files import parse_json, write_file

FORMAT = 1
DESCRIPTION = "jaxann"  # the array with the JSON; the others are named "params/0.W"


class Network(NamedTuple):
    """A model and its parameters.

    Attributes:
        model: The model.
        params: Its parameters.
    """

    model: Layer
    params: PyTree


def save(path: Path | str, model: Layer, params: PyTree) -> None:
    """Stores a model and its parameters in one file, which `jaxann.load` reads in any process.

    An older file is replaced at once: whatever happens, the file is the old or the new one.

    Args:
        path: The file. It is an .npz file whatever its name ends in.
        model: The model. Layers of `jaxann.nn` are stored by name with their settings, and your own as module:Class.
        params: Its parameters.

    Raises:
        SettingError: If `model` is not a layer. It is a ValueError.
        ValueError: If the parameters do not fit the model, or if a layer or a function in it is not defined by name in
            a module, as a lambda.
        OSError: If the file cannot be written.
    """
    model = resolve_layer("model", model)
    description = {"format": FORMAT, "version": version("jaxann"), "model": encode(model)}
    validate_params(model, params)
    leaves = {path_name(place): np.asarray(leaf) for place, leaf in jax.tree_util.tree_leaves_with_path(params)}
    description["dtypes"] = {name: str(leaf.dtype) for name, leaf in leaves.items()}
    # NumPy's files have no bfloat16, so that its bits are stored.
    arrays: Any = {
        f"params/{name}": a.view(f"u{a.itemsize}") if a.dtype.kind == "V" else a for name, a in leaves.items()
    }
    content = BytesIO()
    arrays[DESCRIPTION] = np.array(json.dumps(description))
    np.savez(content, **arrays)
    write_file(path, content.getvalue())


def read_network(path: Path | str) -> Network:
    """Reads a file that `save` wrote.

    Args:
        path: The file.

    Returns:
        The model, equal to the stored one, and its parameters to the bit, except that float64 becomes float32 where
        JAX's `jax_enable_x64` is off.

    Raises:
        ValueError: If the file does not exist, is damaged, is of another kind or of a newer version of jaxann, names a
            layer that cannot be imported, or has parameters that do not fit the model.
    """
    path = Path(path)
    require_regular_file(path)
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)  # a plain array if the file is not an .npz file
            arrays = {name: file[name] for name in file.files} if isinstance(file, np.lib.npyio.NpzFile) else {}
    except FileNotFoundError:
        raise ValueError(f"no such file or folder: {path}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise ValueError(f"{path} is damaged or not a file of jaxann.save: {error}") from None
    if DESCRIPTION not in arrays:
        raise ValueError(f"expected a file that jaxann.save wrote, or the folder of a run, got {path}")
    try:
        description = parse_json(str(arrays.pop(DESCRIPTION)))
        if isinstance(description, dict) and isinstance(number := description["format"], int) and number > FORMAT:
            newer = describe_value(description.get("version"))
            raise ValueError(f"expected a file of format {FORMAT}, got format {number}, of jaxann {newer}")
        model, dtypes = decode(description["model"]), description["dtypes"]
        leaves = {name: _read_leaf(arrays[f"params/{name}"], dtype) for name, dtype in dtypes.items()}
        if not isinstance(model, Layer):
            raise ValueError(f"expected a layer, got {describe_value(model)}")
        if arrays.keys() != {f"params/{name}" for name in leaves}:
            raise ValueError("expected the arrays of the parameters, got others as well")
        return Network(model, _restore(model, leaves))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: expected the description of a model, got {error!r}") from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _read_leaf(array: np.ndarray, dtype: str) -> Any:
    stored = np.dtype(jnp.dtype(dtype))
    if array.dtype != stored:
        array = array.view(stored)
    return jnp.asarray(array, jax.dtypes.canonicalize_dtype(stored))


def _restore(model: Layer, leaves: dict[str, Any]) -> PyTree:
    """Returns the tree of the stored leaves, in their own dtypes."""
    paths, treedef = jax.tree_util.tree_flatten_with_path(jax.eval_shape(model.init, jax.random.key(0)))
    names = [path_name(place) for place, _ in paths]
    shapes = {name: leaf.shape for name, (_, leaf) in zip(names, paths, strict=True)}
    for name in {**shapes, **leaves}:
        stored = f"shape {leaves[name].shape}" if name in leaves else "none"
        if name not in shapes:
            raise ValueError(f"expected params without {name or 'an array'}, got one of {stored}")
        if name not in leaves or leaves[name].shape != shapes[name]:
            raise ValueError(f"expected params with {name or 'an array'} of shape {shapes[name]}, got {stored}")
    return treedef.unflatten([leaves[name] for name in names])
