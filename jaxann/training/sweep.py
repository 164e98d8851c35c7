"""Many networks in one program: the run of `fit` for many seeds and numbers in its recipe.

The program trains the members together under `vmap`. On a CPU it trains them one after the other under `lax.map` if
their steps are large or they have convolutions. Members that differ in other settings, such as layer sizes, form
groups, and each group has a program of its own. A group is trained in chunks, and the members of a chunk are spread
over the devices.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache, partial
from inspect import signature
from itertools import product
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, PyTree

from jaxann.data.batches import Examples, make_lanes
from jaxann.data.validation import require_logits, validate, validate_schedule, validate_weights
from jaxann.nn.convolution import has_convolution
from jaxann.nn.hyperparameters import SettingError, validate_number
from jaxann.nn.xla import FAST_CODE, LARGE_PRODUCTS, LIGHT_OPTIMIZATION, THREADS, for_cpu
from jaxann.training.chunks import fit_chunk, largest_chunk
from jaxann.training.memory import validate_memory
from jaxann.training.programs import compile_ahead, find_parts, share
from jaxann.training.recipe import Recipe, init_state, run_epochs, step_work

# Above this work of a step, a CPU trains members one after the other. Measured against that, training them together
# takes 0.7 of the time for 3,000 and 24,000, where light optimization makes it no slower. For 77,000 and 154,000 it
# takes the same time, and compiling takes twice as long.
LARGE_STEP = 50_000
AHEAD = 8  # programs at most that are compiled while members are trained
MEMBERS, SHARED = PartitionSpec("members"), PartitionSpec()


class Outcome(NamedTuple):
    """The result of training one member of a sweep.

    Attributes:
        place: The index of the member in the list of members that `sweep` was given.
        loss: [epochs], the mean loss of each epoch, as in `History`.
        metrics: The metrics of the gradient function by name, each [epochs], as in `History`.
        measured: What `measure` returned after the last epoch; () if there is no `measure`.
        finite: False if the member diverged: its parameters or one of its losses are not finite.
        more: How many results of the same chunk, already computed, will follow this one.
    """

    place: int
    loss: Float[np.ndarray, " epochs"]
    metrics: dict[str, Float[np.ndarray, " epochs"]]
    measured: Any
    finite: bool
    more: int


def combinations(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """Returns the settings for all combinations of the values.

    Args:
        **values: For each setting the values that it takes.

    Returns:
        The settings of each combination, by name; `combinations(seed=range(20), rate=[0.01, 0.1])` returns 40.
    """
    return [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]


def sweep(
    make: Callable[..., Recipe],
    members: Sequence[Mapping[str, Any]],
    examples: Examples,
    *,
    epochs: int,
    traced: Sequence[str] = (),
    measure: Callable[[Recipe, PyTree, Any], Any] | None = None,
    measure_data: Any = (),
    budget: int | float | None = None,
    devices: Sequence[Any] | None = None,
) -> Iterator[Outcome]:
    """Trains a network for each member, all on the same examples.

    Settings listed in `traced` vary inside one compiled program. Any other setting splits the sweep into groups, and
    each group is compiled once. A later sweep that computes the same is not compiled again.

    A member is trained as `fit` would train it with the key of its seed, up to rounding, which may differ between
    programs for chunks of different sizes. Diverged members are marked and do not affect the others.

    Args:
        make: A function from the settings of a member, as keyword arguments, to its recipe. It may compute with
            traced settings and pass them to layers, losses and optimizers, but it must not branch on their values.
        members: For each member its settings by name, and its "seed": it is trained with `jax.random.key(seed)`.
        examples: The examples that all members are trained on.
        epochs: How many times a member takes every example.
        traced: The names of the settings that vary inside one compiled program. They must be numbers in every member.
        measure: A function of the recipe, the trained parameters and `measure_data`, which computes a tree of arrays
            such as an accuracy. It is called for each member inside the program, after the last epoch.
        measure_data: The third argument of `measure`, such as test examples: a tree of arrays.
        budget: The most memory to use, in bytes: by this process on a CPU, by each device otherwise. Memory that is in
            use already counts. None stands for all memory of a device, and sets no limit on a CPU.
        devices: The devices that the members are spread over; None stands for all devices of this process.

    Returns:
        An iterator over the outcomes, group by group, each chunk as soon as it is trained.

    Raises:
        SettingError: If a seed, a traced setting, the number of epochs or a setting that `make` checks is out of range
            or of the wrong type. It is a ValueError.
        ValueError: If there are no members, if `make` does not take the settings of a member, if the data are not what
            `fit` expects, or if a member needs more memory than is free. The iterator raises it if the budget is too
            small or if `make` cannot compute with a traced setting.
    """
    devices = jax.local_devices() if devices is None else devices
    mesh = jax.make_mesh((len(devices),), ("members",), axis_types=(AxisType.Auto,), devices=devices)
    _validate_members(make, members, traced)
    groups: dict[_Group, list[int]] = {}
    # The examples that groups are trained on, by the dtype of the features: some models take integers, others floats.
    versions: dict[str, Examples] = {}
    dtypes: dict[_Group, str] = {}
    for index, settings in enumerate(members):
        recipe = _make_recipe(make, settings)
        fixed = tuple(sorted((name, value) for name, value in settings.items() if name not in ("seed", *traced)))
        group = _Group(make, epochs, measure, mesh, fixed, tuple(traced))
        if group not in groups:
            require_logits(recipe.model, recipe.loss)
            x, t = validate(recipe.model, recipe.loss, examples.x, examples.t)
            validate_schedule(len(x), epochs, recipe.batch_size)
            validate_memory(recipe, jax.random.key(0), x.shape[1:], dtype=x.dtype)
            weights = validate_weights(examples.weights, len(x))
            dtypes[group] = str(x.dtype)
            versions.setdefault(dtypes[group], Examples(x, t, weights))
            if jnp.issubdtype(getattr(examples.x, "dtype", x.dtype), jnp.floating):
                examples = versions[dtypes[group]]  # so that the next group need not convert them again
        groups.setdefault(group, []).append(index)
    shared = jax.device_put((versions, measure_data), NamedSharding(mesh, SHARED))
    jobs = [
        (group, {i: members[i] for i in indices}, (shared[0][dtypes[group]], shared[1]))
        for group, indices in groups.items()
    ]
    # What is compiled meanwhile takes memory too, and on a GPU it disturbs what runs there.
    ahead = min(os.cpu_count() or 1, AHEAD) if budget is None and devices[0].platform == "cpu" else 0
    programs = compile_ahead((partial(group.lower_largest, own, data) for group, own, data in jobs), ahead)
    return (
        outcome
        for (group, own, data), program in zip(jobs, programs, strict=True)
        for outcome in group.train(own, data, budget, program)
    )


class _Group(NamedTuple):
    """Members that one program trains, because they differ only in the seed and in the settings named in `traced`."""

    make: Callable[..., Recipe]
    epochs: int
    measure: Callable[[Recipe, PyTree, Any], Any] | None
    mesh: Mesh
    fixed: tuple[tuple[str, Any], ...]
    traced: tuple[str, ...]

    @property
    def device_list(self) -> list[Any]:
        """The devices that the members are spread over."""
        return self.mesh.devices.ravel().tolist()

    def train_member(self, seed: Any, numbers: list[Any], shared: tuple[Examples, Any]) -> tuple[Any, ...]:
        """Returns the loss, metrics, measurement and finiteness of one member."""
        examples, measure_data = shared
        recipe = self.make(**dict(self.fixed), **dict(zip(self.traced, numbers, strict=True)))
        lanes = make_lanes(examples, recipe.batch_size)
        state, history = run_epochs(recipe, init_state(recipe, jax.random.key(seed)), lanes, self.epochs)
        finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, history.loss))]
        measured = () if self.measure is None else self.measure(recipe, state.params, measure_data)
        return history.loss, history.metrics, measured, jnp.stack(finite).all()

    def make_arguments(self, members: list[Mapping[str, Any]]) -> tuple[Any, list[Any]]:
        """Returns the seeds and the traced numbers of members, spread over the devices."""
        seeds, dtype = np.array([settings["seed"] for settings in members], np.uint32), jnp.result_type(float)
        numbers = [np.array([settings[name] for settings in members], dtype) for name in self.traced]
        return jax.device_put((seeds, numbers), NamedSharding(self.mesh, MEMBERS))

    def lower_largest(self, members: dict[int, Mapping[str, Any]], shared: tuple[Examples, Any]) -> Any:
        """Lowers the program for chunks of the size that they have when memory sets no limit."""
        return self.lower_chunk(list(members.values()), largest_chunk(len(members), self.device_list), shared)

    def lower_chunk(self, members: list[Mapping[str, Any]], size: int, shared: tuple[Examples, Any]) -> Any:
        """Lowers the program for chunks of `size` members."""
        members = members[:1] * size
        args, recipe = (*self.make_arguments(members), shared), _make_recipe(self.make, members[0])
        work = step_work(jax.eval_shape(recipe.model.init, jax.random.key(0)), recipe.batch_size)
        # On a CPU, XLA computes convolutions with different kernels together more slowly than one after the other.
        is_large = work > LARGE_STEP or has_convolution(recipe.model)
        one_by_one = is_large and self.mesh.devices.flat[0].platform == "cpu"
        options = LARGE_PRODUCTS | FAST_CODE if is_large else THREADS | LIGHT_OPTIMIZATION
        options = tuple(options.items())
        try:
            functions = find_parts((recipe.model, recipe.loss, recipe.gradient))
            codes = tuple((function, function.__code__) for function in functions)
            return share(_jit_group(self, one_by_one, options, codes), args, options).lower(*args)
        except (TypeError, ValueError) as error:
            if not self.traced:
                raise
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"the program that traces {', '.join(self.traced)} cannot be made: {reason}") from error

    def train(
        self, members: dict[int, Mapping[str, Any]], shared: Any, budget: int | float | None, largest: Future
    ) -> Iterator[Outcome]:
        """Yields the outcomes of members, given by index, from chunks of one size: copies of a member fill up the last.

        `largest` is the future of the compiled program of `lower_largest`.
        """
        indices, settings, devices = list(members), list(members.values()), self.device_list

        def make_program(size: int) -> Any:
            is_largest = size == largest_chunk(len(members), devices)
            return largest.result() if is_largest else self.lower_chunk(settings, size, shared).compile()

        program, size = fit_chunk(make_program, len(members), devices, budget)
        for start in range(0, len(members), size):
            chunk = settings[start : start + size]
            filled = chunk + chunk[-1:] * (size - len(chunk))
            results = jax.tree.map(np.asarray, program(*self.make_arguments(filled), shared))
            for i, index in enumerate(indices[start : start + size]):
                loss, metrics, measured, finite = jax.tree.map(lambda leaf, i=i: leaf[i], results)
                yield Outcome(index, loss, metrics, measured, bool(finite), len(chunk) - 1 - i)


@lru_cache(maxsize=16)
def _jit_group(group: _Group, one_by_one: bool, options: tuple[tuple[str, Any], ...], codes: tuple[Any, ...]) -> Any:
    """Returns the jitted program of a group, from a cache, so that a later sweep need not trace the group again.

    Args:
        group: The group.
        one_by_one: Whether each device trains its members one after the other instead of all together.
        options: The options of the compiler.
        codes: The functions of the layers and their code, with which the program changes.
    """

    def train_all(seeds: Any, numbers: list[Any], shared: Any) -> tuple[Any, ...]:
        if one_by_one:
            return jax.lax.map(lambda member: group.train_member(member[0], member[1], shared), (seeds, numbers))
        return jax.vmap(group.train_member, in_axes=(0, 0, None))(seeds, numbers, shared)

    specs = {"in_specs": (MEMBERS, MEMBERS, SHARED), "out_specs": MEMBERS}
    train_all = jax.shard_map(train_all, mesh=group.mesh, **specs, check_vma=False)  # devices exchange nothing
    return jax.jit(train_all, compiler_options=for_cpu(dict(options)))


def _validate_members(make: Callable[..., Recipe], members: Sequence[Mapping[str, Any]], traced: Sequence[str]) -> None:
    """Raises ValueError unless each member has a seed, settings that `make` takes, and numbers to trace."""
    if not members:
        raise ValueError("expected at least one member, got none")
    if isinstance(traced, str) or "seed" in traced:
        raise SettingError("traced", "to be a list of names without seed, which varies in any case", traced)
    parameters = signature(make).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for settings in members:
        validate_number("seed", settings.get("seed"), least=0, most=2**32 - 1, integer=True, note="2³² - 1")
        for name in traced:
            value = settings.get(name)
            if not isinstance(value, Real) or isinstance(value, bool):
                raise SettingError(name, "to be a number in every member, since it is traced", value)
        for name, value in settings.items():
            if name not in (*parameters, "seed") and not takes_any:
                raise ValueError(f"expected settings among {', '.join(('seed', *parameters))}, got {name}")
            try:
                hash(value)
            except TypeError:
                raise SettingError(name, "to be a number or something hashable", value) from None


def _make_recipe(make: Callable[..., Recipe], settings: Mapping[str, Any]) -> Recipe:
    """Returns the recipe of a member, from the values of all its settings. Raises ValueError if `make` fails."""
    try:
        return make(**{name: value for name, value in settings.items() if name != "seed"})
    except TypeError as error:
        raise ValueError(f"no recipe can be made of {dict(settings)}: {error}") from None
