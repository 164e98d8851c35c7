"""The strict setting that every test runs in: float64, no silent broadcasting, shapes checked, warnings as errors."""

import os
from importlib.metadata import version

# Compiling is most of the tests' time: XLA optimizes less here. Level 0 was seen to make infinities of finite numbers.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=1",
        "--xla_cpu_parallel_codegen_split_count=1",  # splitting the many small programs takes a fifth of the time
        # Newer versions do not know this flag, and abort at one that they do not know.
        "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith(("0.9.", "0.10.")) else "",
    ]
).strip()

import functools
import gc
import importlib
import pkgutil
import threading
import warnings

import jax
import pytest
from jax._src.interpreters import mlir
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_traceback_in_locations_limit", 0)  # no test reads where operations come from

# Catching warnings changes the filters of the whole process. Beartype does it at every call that it checks, so a thread
# that compiles could take the filters from a test that expects a warning: only the test's own thread changes them.
enter_catching, leave_catching = warnings.catch_warnings.__enter__, warnings.catch_warnings.__exit__


def _is_main_thread():
    return threading.current_thread() is threading.main_thread()


warnings.catch_warnings.__enter__ = lambda self: enter_catching(self) if _is_main_thread() else []
warnings.catch_warnings.__exit__ = lambda self, *error: leave_catching(self, *error) if _is_main_thread() else None

# The rooms whose annotations tell shapes have every annotation checked at every call. In the others it would find what
# the type checker finds, and takes a fifth of their tests' time.
SHAPED = [f"jaxann.{room}" for room in ("nn", "gradients", "data", "rules", "training", "interop")]
with install_import_hook(SHAPED, "beartype.beartype"):
    import jaxann

    for module in pkgutil.walk_packages(jaxann.__path__, "jaxann."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


# Tracing makes many objects that live on: looking for garbage among them as often as usual takes 7 % of the time.
gc.freeze()
gc.set_threshold(100_000, 50, 100)

# An MLIR context for each program takes 8 % of the tests' time. Newer versions of JAX use one for several, too.
make_context = functools.cache(lambda make, thread: make())
if version("jax").startswith(("0.9.", "0.10.")):
    make = mlir.make_ir_context
    mlir.make_ir_context = lambda: make_context(make, threading.get_ident())

jax.devices()  # now they are there, and no script that a test calls makes fewer of them


def pytest_configure(config):
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    """Each takes memory maps, of which a process may not have many more than all tests together would need."""
    yield
    jax.clear_caches()
    make_context.cache_clear()


@pytest.fixture(autouse=True)
def _double_precision():
    """A program that a test calls sets the precision of its process."""
    yield
    jax.config.update("jax_enable_x64", True)
