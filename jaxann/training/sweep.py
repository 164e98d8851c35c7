"""Many networks in one program: a run, unchanged, under `vmap` over its seed and its numbers.

Members that differ in more than numbers, in sizes say, are groups, each compiled once. A group runs chunk by chunk, and
a chunk's members share the devices that are there.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from inspect import signature
from itertools import product
from math import ceil
from numbers import Integral, Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, PyTree

from jaxann.data.batches import Examples
from jaxann.data.validation import validate, validate_schedule, validate_weights
from jaxann.training.recipe import Recipe, init_state, run_epochs

WIDTH = 32  # members at a time on a CPU's device, whose caches hold few more: 64 are no faster, 128 slower (measured)
MEMBERS, SHARED = PartitionSpec("members"), PartitionSpec()


class Outcome(NamedTuple):
    """What came of the member at `place`: what `History` tells of each epoch, and what was measured at the end.

    `finite` is False where the parameters or a loss are not: the member diverged. `more` of its chunk, computed
    already, are still to come.
    """

    place: int
    loss: Float[np.ndarray, " epochs"]
    metrics: dict[str, Float[np.ndarray, " epochs"]]
    measured: Any
    finite: bool
    more: int


def combinations(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """Settings for all combinations: grid(seed=range(20), learning_rate=[0.01, 0.1]) has 40."""
    return [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]


def sweep(
    make: Callable[..., Recipe],
    members: Sequence[Mapping[str, Any]],
    data: Examples,
    *,
    epochs: int,
    measure: Callable[[Recipe, PyTree, Any], Any] | None = None,
    given: Any = (),
    budget: int | float | None = None,
    devices: Sequence[Any] | None = None,
) -> Iterator[Outcome]:
    """Trains a network for each of `members` on the same data; their outcomes, group by group, as they come.

    A member is a "seed", of `fit`'s key, and the settings of which `make` makes its recipe. Those that are floats are
    traced: `make` may compute with them and hand them to layers, losses and optimisers, but not ask for their values.
    All others, whole numbers too, tell the groups apart. So a dropout of 0 builds a network without, and one of 0.0
    a network that drops nothing. `measure(recipe, params, given)` is taken after the last epoch, in the program.

    It is compiled once for the same `make`, `measure` and sizes: define them before a loop around it, not in it.
    A member comes out as `fit` would train it alone, but for rounding: programs of other widths may round otherwise.
    One that diverges disturbs no other. A chunk takes no more memory than `budget` bytes allow, less what is held
    before: on a CPU by this process, else by a device, all of whose memory it is if None. Its members are spread over
    `devices`, all of this process if None.

    Raises ValueError, before anything is compiled, for settings that `make` does not take or finds wrong, that are no
    number where another member's is, or neither a number nor hashable, and as `fit` does; for too small a budget later.
    """
    devices = jax.local_devices() if devices is None else devices
    mesh = jax.make_mesh((len(devices),), ("members",), axis_types=(AxisType.Auto,), devices=devices)
    _refuse_mixed(members)
    groups: dict[_Program, list[int]] = {}
    for place, settings in enumerate(members):
        recipe = _make_recipe(make, settings)
        group = _Program(make, epochs, measure, mesh, *_split_settings(settings))
        if group not in groups:
            x, t = validate(recipe.model, recipe.loss, data.x, data.t)
            validate_schedule(len(x), epochs, recipe.batch_size)
            data = Examples(x, t, validate_weights(data.weights, len(x)))
        groups.setdefault(group, []).append(place)
    shared = jax.device_put((data, given), NamedSharding(mesh, SHARED))
    return (
        outcome
        for group, places in groups.items()
        for outcome in group.run({place: members[place] for place in places}, shared, budget)
    )


class _Program(NamedTuple):
    """The program of a group: of members with the same settings but for the seed and the numbers called `traced`."""

    make: Callable[..., Recipe]
    epochs: int
    measure: Callable[[Recipe, PyTree, Any], Any] | None
    mesh: Mesh
    fixed: tuple[tuple[str, Any], ...]
    traced: tuple[str, ...]

    def member(self, seed: Any, numbers: list[Any], shared: tuple[Examples, Any]) -> tuple[Any, ...]:
        """One run, and what is kept of it."""
        recipe, (data, given) = self.make(**dict(self.fixed), **dict(zip(self.traced, numbers, strict=True))), shared
        state, history = run_epochs(recipe, init_state(recipe, jax.random.key(seed)), data, self.epochs)
        finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, history.loss))]
        measured = () if self.measure is None else self.measure(recipe, state.params, given)
        return history.loss, history.metrics, measured, jnp.stack(finite).all()

    def arguments(self, members: list[Mapping[str, Any]]) -> tuple[Any, list[Any]]:
        """Seeds and numbers of members, spread over the devices."""
        seeds, default = np.array([settings["seed"] for settings in members], np.uint32), jnp.result_type(float)
        numbers = [np.array([settings[name] for settings in members], default) for name in self.traced]
        return jax.device_put((seeds, numbers), NamedSharding(self.mesh, MEMBERS))

    def run(self, members: dict[int, Mapping[str, Any]], shared: Any, budget: int | float | None) -> Iterator[Outcome]:
        """The outcomes of members, by their places, in chunks of one size, the last filled up with one again."""
        places, settings = list(members), list(members.values())

        def compiled(chunk: int) -> Any:
            return _compile_members(self).lower(*self.arguments(settings[:1] * chunk), shared).compile()

        program, chunk = _fit_chunk(compiled, len(members), self.mesh.devices.ravel().tolist(), budget)
        for first in range(0, len(members), chunk):
            here = settings[first : first + chunk]
            filled = here + here[-1:] * (chunk - len(here))
            kept = jax.tree.map(np.asarray, program(*self.arguments(filled), shared))
            for i, place in enumerate(places[first : first + chunk]):
                loss, metrics, measured, finite = jax.tree.map(lambda leaf, i=i: leaf[i], kept)
                yield Outcome(place, loss, metrics, measured, bool(finite), len(here) - 1 - i)


@lru_cache(maxsize=16)
def _compile_members(group: _Program) -> Any:
    """The runs of many members, which the same sweep need not compile again."""
    of_each = jax.vmap(group.member, in_axes=(0, 0, None))
    specs = {"in_specs": (MEMBERS, MEMBERS, SHARED), "out_specs": MEMBERS}
    return jax.jit(jax.shard_map(of_each, mesh=group.mesh, **specs, check_vma=False))  # nothing passes between any


def _fit_chunk(
    compiled: Callable[[int], Any], members: int, devices: list[Any], budget: int | float | None
) -> tuple[Any, int]:
    """The program for as many members at a time as fit, a whole number for each device, and how many they are.

    As a rule it is compiled once: again only where memory_analysis tells that the chunk was too large.
    """
    on_cpu, share = devices[0].platform == "cpu", ceil(members / len(devices))
    limit = min(share, WIDTH) if on_cpu else share
    while True:
        width = ceil(share / ceil(share / limit))  # chunks of one size, not small ones after large ones
        program = compiled(width * len(devices))
        stats = None if on_cpu else devices[0].memory_stats()
        allowed = stats["bytes_limit"] if budget is None and stats else budget
        if allowed is None:
            return program, width * len(devices)
        found = program.memory_analysis()
        needed = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
        needed *= len(devices) if on_cpu else 1  # whose devices share a memory
        left = allowed - (stats["bytes_in_use"] if stats else _peak_memory())
        if needed <= left:
            return program, width * len(devices)
        if width == 1:
            raise ValueError(
                f"budget is {allowed:,.0f} bytes, of which {max(left, 0):,.0f} are left, but a member for each of "
                f"{len(devices)} devices takes {needed:,}"
            )
        limit = max(1, min(width - 1, int(width * left / needed)))


def _peak_memory() -> int:
    """The bytes that this process has held at the most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _is_float(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, Integral)


def _split_settings(settings: Mapping[str, Any]) -> tuple[tuple[tuple[str, Any], ...], tuple[str, ...]]:
    """The settings that tell groups apart, and the names of those that are traced."""
    fixed = tuple(sorted((name, value) for name, value in settings.items() if name != "seed" and not _is_float(value)))
    return fixed, tuple(name for name, value in settings.items() if name != "seed" and _is_float(value))


def _make_recipe(make: Callable[..., Recipe], settings: Mapping[str, Any]) -> Recipe:
    """The recipe of a member. Raises ValueError for settings of which none can be made."""
    seed, known = settings.get("seed"), signature(make).parameters
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed!r}, but a whole number from 0 to below 2³² is wanted for each member")
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for name, value in settings.items():
        if name not in (*known, "seed") and not any_name:
            raise ValueError(f"there is no setting {name}, only {', '.join(('seed', *known))}")
        try:
            hash(value)
        except TypeError:
            raise ValueError(f"{name} is {value!r}, but a number or something hashable is wanted") from None
    try:
        return make(**{name: value for name, value in settings.items() if name != "seed"})
    except TypeError as error:
        raise ValueError(f"no recipe can be made of {dict(settings)}: {error}") from None


def _refuse_mixed(members: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError for none, and for a text where another member has a number."""
    if not members:
        raise ValueError("there are no members, but at least one is wanted")
    numbers = {name for settings in members for name, value in settings.items() if isinstance(value, Real)}
    for settings in members:
        for name in numbers & settings.keys():
            if isinstance(settings[name], str):
                raise ValueError(f"{name} is {settings[name]!r}, but a number is wanted, as in other members")
