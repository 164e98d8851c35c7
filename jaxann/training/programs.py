"""Programs that are compiled once for what they compute, and once more when the code of a layer has changed.

`jax.jit` compiles a function again for every new object among its static arguments, such as an optimizer with the same
settings as the one before, and it does not notice that a method of a layer was replaced.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import is_dataclass
from functools import partial
from hashlib import sha256
from inspect import signature
from threading import RLock
from types import FunctionType, MethodType
from typing import Any

import jax

from jaxann.nn.hyperparameters import is_traced, is_tracing
from jaxann.nn.xla import Options, for_cpu

CAPACITY = 64  # programs that are kept


class RecentValues(OrderedDict[Hashable, Any]):
    """The values of the last `CAPACITY` keys that were used. Several threads may share it."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = RLock()  # reentrant, because to make a value may take another one

    def get_or_make(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Returns the value of a key, and makes it if it is not there. Other threads wait meanwhile."""
        with self._lock:
            if key in self:
                self.move_to_end(key)
                return self[key]
            value = self[key] = make()
            if len(self) > CAPACITY:
                self.popitem(last=False)
            return value


_shared = RecentValues()  # jitted functions by the text of their programs


def share(jitted: Any, args: tuple[Any, ...], settings: Any = None) -> Any:
    """Returns the first jitted function that computes the same for such arguments, which may be the given one.

    Args:
        jitted: What `jax.jit` returned.
        args: The arguments.
        settings: What the program depends on besides its text, such as the options of the compiler.
    """
    lowered = jitted.lower(*args)
    text = lowered.as_text()
    if "callback" in text:  # the text does not say which function of Python is called
        return jitted
    shardings = tuple(getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(args))
    key = sha256(text.encode()).digest(), lowered.in_tree, lowered.out_tree, shardings, settings
    return _shared.get_or_make(key, lambda: jitted)


class Program:
    """A function as a compiled program.

    A call traces the function again where `jax.jit` would, and also after the code of a layer, the loss or the gradient
    function has changed. XLA compiles it again only if the traced program differs. Under `jax.vmap` or `jax.jit` the
    function becomes part of the surrounding program.

    Args:
        function: The function.
        static: The names of the arguments that are compiled in; they must be hashable.
        options: The compiler's options on a CPU, or a function that takes the arguments that are not static, by name,
            and returns them.
        rewrite: Turns the function into one with the same results up to rounding, which is compiled in its place.
    """

    def __init__(
        self,
        function: Callable,
        static: tuple[str, ...],
        options: Options | Callable[..., Options],
        rewrite: Callable[[Callable], Callable] = lambda function: function,
    ) -> None:
        self._function, self._static, self._options, self._rewrite = function, static, options, rewrite
        self._signature, self._programs = signature(function), RecentValues()
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        static, dynamic = self._split(args, kwargs)
        parts, values = find_parts(static), tuple(dynamic.values())
        if is_tracing() or any(map(is_traced, (*parts, *jax.tree.leaves(dynamic)))):
            return jax.jit(self._bind(static, tuple(dynamic)))(*values)
        return self._find(parts, static, dynamic)(*values)

    def lower(self, *args: Any, **settings: Any) -> Any:
        """Returns the lowered program, as the `lower` of a jitted function does. It is kept, as that of a call is.

        Args:
            *args: The arguments. Those that are not static may be `jax.ShapeDtypeStruct`s.
            **settings: Settings of `jax.jit`, such as `out_shardings`.
        """
        static, dynamic = self._split(args, {})
        return self._find(find_parts(static), static, dynamic, **settings).lower(*dynamic.values())

    def eval_shape(self, *args: Any) -> Any:
        """Returns the shapes and dtypes of the results. A later call with such arguments does not trace the function.

        Args:
            *args: The arguments.
        """
        static, dynamic = self._split(args, {})
        return self._find(find_parts(static), static, dynamic).eval_shape(*dynamic.values())

    def _find(self, parts: list[Any], static: dict[str, Any], dynamic: dict[str, Any], **settings: Any) -> Any:
        """Returns the jitted function of the arguments that are not static, for arguments like these."""
        codes = [(part, part.__code__, part.__defaults__) for part in parts]
        types = tuple((jax.typeof(leaf), getattr(leaf, "sharding", None)) for leaf in jax.tree.leaves(dynamic))
        identities = tuple(id(value) for code in codes for value in code)
        structure = jax.tree.structure((dynamic, settings))
        key = tuple(static.items()), identities, structure, types, tuple(jax.tree.leaves(settings)), _read_modes()

        def make() -> tuple[Any, Any]:
            return self._jit(static, dynamic, **settings), codes  # no new object gets the id of one that is kept alive

        return self._programs.get_or_make(key, make)[0]

    def _split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        bound = self._signature.bind(*args, **kwargs).arguments
        static = {name: bound.pop(name) for name in self._static if name in bound}
        return static, bound

    def _bind(self, static: dict[str, Any], names: tuple[str, ...]) -> Callable:
        """Returns a function of the arguments that are not static: a new one, because JAX remembers what it traced."""

        def bound(*values: Any) -> Any:
            return self._function(**static, **dict(zip(names, values, strict=True)))

        return bound

    def _jit(self, static: dict[str, Any], dynamic: dict[str, Any], **settings: Any) -> Any:
        options = dict(self._options(**dynamic) if callable(self._options) else self._options)
        rewritten = self._rewrite(self._bind(static, tuple(dynamic)))
        rewritten.__name__ = self._function.__name__  # the program of that name in profiles
        jitted = jax.jit(rewritten, compiler_options=for_cpu(options), **settings)
        return share(jitted, tuple(dynamic.values()), (*options.items(), *jax.tree.leaves(settings)))


def compile_ahead(lowerings: Iterable[Callable[[], Any]], ahead: int) -> Iterator[Future]:
    """Compiles programs in parallel before they are needed.

    Args:
        lowerings: For each program a function that returns it lowered, as `lower` of a jitted function does.
        ahead: How many programs at most are compiled while the one before them is in use.

    Yields:
        A future for each program, in order. Its `result()` returns the compiled program, or raises the error of
        lowering or compiling it.
    """
    threads, waiting = ThreadPoolExecutor(max(1, ahead)), deque[Future]()
    try:
        for lower in lowerings:
            while waiting and (waiting[0].done() or len(waiting) > ahead):
                yield waiting.popleft()
            try:
                waiting.append(threads.submit(lower().compile))
            except Exception as error:  # raised by `result()`, when the program is needed
                waiting.append(Future())
                waiting[-1].set_exception(error)
        yield from waiting
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def call_in_thread(function: Callable[..., Any], *args: Any) -> Future:
    """Calls a function in another thread, under the modes of JAX that are set in this one.

    Args:
        function: The function.
        *args: Its arguments.

    Returns:
        A future, whose `result()` returns what the function returns or raises its error.
    """
    x64, precision, device = _read_modes()

    def call() -> Any:
        with jax.enable_x64(x64), jax.default_matmul_precision(precision), jax.default_device(device):
            return function(*args)

    return ThreadPoolExecutor(1).submit(call)


def _read_modes() -> tuple[Any, Any, Any]:
    """Returns the modes of JAX that decide what is compiled and that a thread may set for itself."""
    config: Any = jax.config
    return config.jax_enable_x64, config.jax_default_matmul_precision, config.jax_default_device


def find_parts(value: Any) -> list[Any]:
    """Returns what a static argument computes with: all functions and methods that belong to it, and traced numbers.

    Args:
        value: A function, a layer, a loss or another dataclass, or a container of such.
    """
    parts: list[Any] = []
    seen: set[Any] = set()

    def collect(value: Any) -> None:
        if isinstance(value, FunctionType):
            if value not in seen:
                seen.add(value)
                parts.append(value)
                collect(tuple(_list_captured(value)))
        elif isinstance(value, tuple | list):
            for element in value:
                collect(element)
        elif isinstance(value, Mapping):
            collect(tuple(value.values()))
        elif isinstance(value, partial):
            collect((value.func, value.args, value.keywords))
        elif isinstance(value, MethodType):
            collect((value.__func__, value.__self__))
        elif is_dataclass(value) and not isinstance(value, type):
            if type(value) not in seen:
                seen.add(type(value))
                parts.extend(_list_methods(type(value)))
            collect(tuple(vars(value).values()))
        elif is_traced(value):
            parts.append(value)

    collect(value)
    return parts


def _list_captured(function: FunctionType) -> Iterator[Any]:
    """Yields the values of the variables in a function's closure."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a variable without a value yet
            yield cell.cell_contents


def _list_methods(cls: type) -> list[FunctionType]:
    """Returns the methods and properties of a class and of its bases, as functions."""
    attributes = [attribute for base in cls.__mro__ for attribute in vars(base).values()]
    methods = [attribute.fget if isinstance(attribute, property) else attribute for attribute in attributes]
    return [method for method in methods if isinstance(method, FunctionType)]
