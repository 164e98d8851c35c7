"""Windows that a forward pass takes at a stride, and that a backward pass takes one entry apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxann.gradcheck.step_sweep import Edit, Local, Sweep

# Operations that only arrange the entries of a window.
ARRANGING = ("broadcast_in_dim", "convert_element_type", "copy", "reshape", "squeeze", "transpose")


class Windows(NamedTuple):
    """The windows of a variable that come from one line, with a stride that is forgotten.

    Attributes:
        stride: The stride.
        members: The indices of the operations that take the windows.
        edits: What the backward pass does differently.
    """

    stride: int
    members: tuple[int, ...]
    edits: tuple[Edit, ...]


def list_windows(sweep: Sweep) -> Iterator[Windows]:
    """Yields the windows that a backward pass takes with a stride of 1 where the forward pass has a larger one.

    The backward pass passes the gradient of a window to other entries, and computes other gradients, such as that of
    the weights of a convolution, from the values of other entries.

    Args:
        sweep: The forward pass with its values.
    """
    groups: dict[tuple, list[int]] = defaultdict(list)
    for index, step in enumerate(sweep.program.steps):
        if step.name == "slice" and step.position and sweep.edges(index):
            place = step.position.file, step.position.line
            groups[step.inputs[0], step.shape, place].append(index)
    for members in groups.values():
        steps = [sweep.program.steps[index] for index in members]
        starts = np.array([step.equation.params["start_indices"] for step in steps])
        inside = np.array([step.equation.params["strides"] or (1,) * starts.shape[1] for step in steps])
        apart = [_find_stride(column) for column in starts.T]
        stride = max(*apart, inside.max())
        if stride > 1:
            one_apart = starts.min(0) + (starts - starts.min(0)) // apart
            yield Windows(int(stride), tuple(members), tuple(_take_windows(sweep, members, one_apart)))


def _find_stride(starts: np.ndarray) -> int:
    """Returns how far windows are apart along an axis; 1 if the distances differ."""
    distances = np.unique(np.diff(np.unique(starts)))
    return int(distances[0]) if len(distances) == 1 else 1


def _take_windows(sweep: Sweep, members: Sequence[int], starts: np.ndarray) -> Iterator[Edit]:
    """Yields the edits of a backward pass that takes windows without strides from other starts."""
    values: dict[int, Any] = {}
    for index, start in zip(members, starts, strict=True):
        step = sweep.program.steps[index]
        window = tuple(slice(begin, begin + n) for begin, n in zip(start, step.shape, strict=True))
        yield Edit(index, partial(_place, window))
        values[step.outputs[0]] = sweep.value(step.inputs[0])[(slice(None), *window)]
    for index in range(members[0] + 1, len(sweep.program.steps)):
        step = sweep.program.steps[index]
        if values.keys() & set(step.inputs):
            if step.name in ARRANGING:
                values[step.outputs[0]] = sweep.evaluate([index], values, step.outputs[0])
            elif sweep.edges(index):
                yield Edit(index, partial(_pull_at, values))


def _place(window: tuple[slice, ...], local: Local) -> dict[int, np.ndarray]:
    gradient = np.zeros_like(local.dx[0])
    gradient[(slice(None), slice(None), *window)] = local.dy
    return {0: gradient}


def _pull_at(values: dict[int, Any], local: Local) -> dict[int, Any]:
    pulled = local.pull(local.dy, [values.get(n, x) for n, x in zip(local.step.inputs, local.x, strict=True)])
    return {k: gradient for k, gradient in enumerate(pulled) if gradient is not None}
