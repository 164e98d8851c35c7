import ast
import importlib
from pathlib import Path

import jax.numpy as jnp
import jaxtyping
import pytest

import jaxann
from jaxann.nn import Dense

# A room imports only from rooms before its own, and inside a room no imports go in a circle.
ROOMS = ("nn", "gradients", "data", "rules", "gradcheck", "training", "runs", "interop", "cli")
PACKAGE = Path(jaxann.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
    for path in sorted(PACKAGE.glob("*/*.py"))
}
DIFFERENTIATING = {
    *("grad", "value_and_grad", "vjp", "jvp", "linearize", "linear_transpose", "jacobian", "jacfwd", "jacrev"),
    *("hessian", "custom_vjp", "custom_jvp", "custom_gradient", "stop_gradient", "checkpoint", "remat"),
}
SETTINGS = {f"{owner}.checkpoint" for owner in ("self", "config", "settings", "arguments")}  # a number from the user


def imports(tree):
    """Every module or name imported anywhere in `tree`, dotted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide from this test"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def used_modules(name):
    """The modules of jaxann that a module imports, as "room.module"."""
    paths = [path.split(".")[1:] for path in imports(MODULES[name]) if path.startswith("jaxann.")]
    return {".".join(path[:2]) for path in paths}


def test_the_package_has_just_these_rooms():
    assert {path.parent.name for path in PACKAGE.glob("*/*.py")} == set(ROOMS)
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("name", MODULES)
def test_rooms_import_only_from_rooms_before_them(name):
    allowed = ROOMS[: ROOMS.index(name.split(".")[0]) + 1]
    assert {path.split(".")[0] for path in used_modules(name)} <= set(allowed)


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__init__")])
def test_modules_import_siblings_by_full_path(name):
    assert used_modules(name) <= set(MODULES), "names come from the module that defines them, not from an __init__"


@pytest.mark.parametrize("room", ROOMS)
def test_no_imports_inside_a_room_go_in_a_circle(room):
    inside = {name: used_modules(name) for name in MODULES if name.startswith(f"{room}.")}
    while inside:
        leaves = [name for name, used in inside.items() if not (used - {name}) & set(inside)]
        assert leaves, f"a circle among {sorted(inside)}"
        inside = {name: used for name, used in inside.items() if name not in leaves}


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"gradients.autodiff"}))
def test_only_autodiff_differentiates(name):
    attributes = [node for node in ast.walk(MODULES[name]) if isinstance(node, ast.Attribute)]
    named = {node.attr for node in attributes if ast.unparse(node) not in SETTINGS}
    named |= {path.rsplit(".", 1)[1] for path in imports(MODULES[name]) if path.startswith("jax.")}
    # One module tells JAX a derivative instead, and one has PyTorch run a handwritten backward.
    registering = {"custom_jvp", "custom_vjp", "linear_transpose"}
    allowed = {"interop.differentiable": registering, "interop.torch": {"grad"}}
    assert named & DIFFERENTIATING == allowed.get(name, set())


def test_autodiff_would_be_noticed():
    named = {node.attr for node in ast.walk(MODULES["gradients.autodiff"]) if isinstance(node, ast.Attribute)}
    assert "value_and_grad" in named


@pytest.mark.parametrize("name", MODULES)
def test_no_library_function_hides_a_derivative(name):
    """`jax.nn` serves for initializers only, optax for optimizers only, in the room that trains."""
    used = set(imports(MODULES[name]))
    assert {path for path in used if path.startswith("jax.nn")} <= {"jax.nn.initializers"}
    assert not {path for path in used if path.startswith("optax")} or name.startswith("training.")
    chains = {ast.unparse(node) for node in ast.walk(MODULES[name]) if isinstance(node, ast.Attribute)}
    assert not {chain for chain in chains if chain.startswith(("jax.nn", "optax.losses", "jax.scipy"))}


def test_there_is_one_loop_over_layers_in_reverse():
    reversing = [
        (name, node.lineno)
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.For) and "reversed" in ast.unparse(node.iter)
    ]
    assert [name for name, _ in reversing] == ["nn.sequential"]


def test_modules_are_short():
    lengths = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {str(path): length for path, length in lengths.items() if length > 300} == {}


def test_every_public_name_has_one_home():
    homes = {room: importlib.import_module(f"jaxann.{room}").__all__ for room in ROOMS}
    names = [*jaxann.__all__, *(name for room in homes.values() for name in room)]
    assert sorted(names) == sorted(set(names))
    for room, public in {"": jaxann.__all__, **homes}.items():
        package = importlib.import_module(f"jaxann.{room}".rstrip("."))
        for name in public:
            value = getattr(package, name)
            beside = (PACKAGE / room / f"{name}.py").exists() or (PACKAGE / room / name).is_dir()
            is_module = getattr(value, "__name__", "") == f"jaxann.{room}.{name}".replace("..", ".")
            assert is_module or not beside, f"{name} hides the module of that name in jaxann.{room}"


def test_public_names_say_what_they_are():
    for name, tree in MODULES.items():
        assert ast.get_docstring(tree), name
    for room in ROOMS:
        package = importlib.import_module(f"jaxann.{room}")
        for name in package.__all__:
            value = getattr(package, name)
            if isinstance(value, type) or callable(value):
                assert value.__doc__, f"{room}.{name}"


def test_annotations_are_checked_while_tests_run():
    with pytest.raises(jaxtyping.TypeCheckError, match=r"f64\[2,2\]"):
        Dense(2, 2).forward({}, jnp.ones((2, 2)))
