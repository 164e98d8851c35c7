"""The shapes that a model takes and returns, found by tracing its forward pass on one example.

What a layer states in `sizes` is a help for early errors. Whether an input fits is decided by its forward.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxann.nn.axis import alone
from jaxann.nn.base import Layer, Wrapper, map_parts, part_path
from jaxann.nn.hyperparameters import SettingError
from jaxann.nn.text import shorten

# What Python and JAX raise for arrays of a shape or type that an operation does not take.
REFUSALS = (TypeError, ValueError, IndexError)
# The code raises these for every input: it computes with the values of arrays, which have none while JAX traces it.
_UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.UnexpectedTracerError,
)


class InputError(ValueError):
    """Error for an input that the forward of a layer does not take.

    Attributes:
        path: The path of the layer in its model, such as "2"; "" for the model itself.
        layer: The name of the layer.
        shape: The shape of the layer's input, for one example.
        dtype: The dtype of that input.
        reason: What the forward raised.
        depth: How many layers of the model, at any depth, had taken their inputs before.
        source: The layer that returned the input, such as "layer 1, Flatten()"; "" where no single layer did.
    """

    def __init__(
        self, path: str, layer: str, shape: Any, dtype: Any, reason: str, depth: int = 0, source: str = ""
    ) -> None:
        self.path, self.layer, self.shape, self.dtype = path, layer, shape, dtype
        self.reason, self.depth, self.source = reason, depth, source
        # the arguments as they are, so that the error can be pickled
        super().__init__(path, layer, shape, dtype, reason, depth, source)

    def __str__(self) -> str:
        name = f"layer {self.path}, {self.layer}," if self.path else self.layer
        found = f"shape {self.shape} and dtype {self.dtype}" + (f" from {self.source}" if self.source else "")
        return f"expected an input that {name} can take, got {found}: {self.reason}"


def output_shape(model: Layer, params: PyTree, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Finds the shape and dtype of a model's output for one example, without computing it.

    Args:
        model: The layer or network.
        params: Its parameters, or their shapes and dtypes.
        x: The shape and dtype of one example.

    Returns:
        The shape and dtype of y.

    Raises:
        InputError: If a layer's forward raises a TypeError, ValueError or IndexError, as it does for an input of the
            wrong shape or type. The message names the innermost such layer and its input. It is a ValueError.
        TypeError: If the forward returns no array y.
        Exception: Anything else that a forward raises.
    """

    def trace(model: Layer) -> Any:
        return jax.eval_shape(alone(lambda params, x: model.forward(params, x)[0]), params, x)

    try:
        y = trace(model)
    except REFUSALS as error:
        if isinstance(error, (SettingError, *_UNTRACEABLE)):
            raise
        refusal = error
    else:
        if not isinstance(y, jax.ShapeDtypeStruct):
            raise TypeError(f"expected forward of {model} to return the pair (y, saved) with an array y, got {y}")
        return y
    try:
        trace(_add_guards(model, "", []))
    except InputError as located:
        raise located from refusal
    except Exception:  # a user's layer may do anything with its parts, and then no part can be named
        pass
    raise _describe_refusal("", model, x, refusal, []) from refusal


class LayerShapes(NamedTuple):
    """The shapes of a layer's input and output for one example.

    Attributes:
        x: The shape of the input.
        y: The shape of the output.
    """

    x: tuple[int, ...]
    y: tuple[int, ...]


def layer_shapes(model: Layer, params: PyTree, x: jax.ShapeDtypeStruct) -> dict[str, LayerShapes]:
    """Finds the shapes of what the layers of a model take and return for one example, without computing it.

    Args:
        model: The layer or network.
        params: Its parameters, or their shapes and dtypes.
        x: The shape and dtype of one example.

    Returns:
        The shapes of each layer's input and output, by the path of the layer, at any depth to which layers expose their
        parts.

    Raises:
        Exception: Anything that a forward raises.
    """
    taken: list[_Taken] = []
    guarded = _add_guards(model, "", taken, exposed=True)
    jax.eval_shape(alone(lambda params, x: guarded.forward(params, x)[0]), params, x)
    return {layer.path: LayerShapes(layer.x.shape, layer.y.shape) for layer in taken}


def example_of(model: Layer, shape: tuple[int, ...]) -> tuple[PyTree, jax.ShapeDtypeStruct]:
    """Returns the shapes and dtypes of a model's parameters and of an input of a given shape that the model takes.

    Args:
        model: The layer or network.
        shape: The shape of one example.

    Raises:
        InputError: If the model takes neither floats nor integers of this shape.
    """
    params = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    return params, resolve_input(model, params, jax.ShapeDtypeStruct(shape, jnp.int32))[0]


def resolve_input(
    model: Layer, params: PyTree, x: jax.ShapeDtypeStruct
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Finds out in which dtype a model takes one example: integers become floats unless `forward` rejects floats.

    Args:
        model: The layer or network.
        params: Its parameters, or their shapes and dtypes.
        x: The shape and dtype of one example, as the user gives it.

    Returns:
        The shape and dtype of x as the model takes it, and those of y. Floats stay floats. Integers and Booleans become
        floats of the default precision where the model takes those, and integers otherwise.

    Raises:
        InputError: If the model takes neither.
        Exception: Anything else that a forward raises, as `output_shape` does.
    """
    # The dtype of an array, unlike a dtype alone, becomes one of JAX's default precision without a warning.
    x = jax.ShapeDtypeStruct(x.shape, jnp.result_type(np.zeros((), int if x.dtype == bool else x.dtype)))
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x, output_shape(model, params, x)
    floats = jax.ShapeDtypeStruct(x.shape, jnp.result_type(float))
    try:
        return floats, output_shape(model, params, floats)
    except Exception as error:
        rejection = error
    try:
        return x, output_shape(model, params, x)
    except InputError as error:
        # The attempt that came further tells more: an embedding rejects floats before a later layer rejects a shape.
        is_further = isinstance(rejection, InputError) and error.depth > rejection.depth
        raise (error if is_further else rejection) from None


class _Taken(NamedTuple):
    """A layer that took its input x and returned y."""

    path: str
    layer: Layer
    x: Any
    y: Any


@dataclass(frozen=True)
class _Guard(Wrapper):
    """A layer that names itself in the error for an input that its forward does not take."""

    original: Layer
    path: str
    taken: list[_Taken] = field(hash=False, compare=False)  # the layers that took their inputs, in the order of calls

    @property
    def sizes(self) -> tuple[None, None]:
        return None, None  # a chain compares sizes when it is built, and the trace is to find what does not fit

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)  # a composite layer may read the settings of its parts

    def forward(self, params: PyTree, x: Array, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        try:
            pair = self.layer.forward(params, x, key)
        except InputError:
            raise
        except REFUSALS as error:
            raise _describe_refusal(self.path, self.original, x, error, self.taken) from error
        self.taken.append(_Taken(self.path, self.original, x, pair[0]))
        return pair


def _add_guards(model: Layer, path: str, taken: list[_Taken], exposed: bool = False) -> Layer:
    """Returns a model with a guard around each layer, or around each that is `exposed`."""
    if model.exposes_parts or not exposed:
        inner = map_parts(model, lambda name, part: _add_guards(part, part_path(model, path, name), taken, exposed))
        return _Guard(inner, model, path, taken)
    return _Guard(model, model, path, taken)


def _describe_refusal(path: str, layer: Layer, x: Any, error: Exception, taken: list[_Taken]) -> InputError:
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    source = next((f"layer {t.path}, {shorten(repr(t.layer))}" for t in reversed(taken) if t.y is x), "")
    return InputError(path, shorten(repr(layer), 120), jnp.shape(x), jnp.result_type(x), reason, len(taken), source)
