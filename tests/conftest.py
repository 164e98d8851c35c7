"""The strict setting that every test runs in: float64, no silent broadcasting, shapes checked, warnings as errors."""

import importlib
import pkgutil
import typing

import beartype  # noqa: F401
import jax
import optax  # noqa: F401
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)

# jaxann imports its annotations' names only for type checkers; here they are what beartype checks calls against.
# Whatever else is imported must be so before, unused or not: it has imports of its own for type checkers.
typing.TYPE_CHECKING = True
with install_import_hook("jaxann", "beartype.beartype"):
    import jaxann

    for module in pkgutil.iter_modules(jaxann.__path__, "jaxann."):
        importlib.import_module(module.name)
typing.TYPE_CHECKING = False


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
