import ast
from pathlib import Path

import jax.numpy as jnp
import jaxtyping
import pytest

import jaxann

ROOMS = [  # bottom to top; a module imports only from rows above its own in this list
    {"layer"},
    {"activations", "losses"},
    {"layers"},
    {"backprop", "autodiff", "gradient"},
    {"compare", "probe", "validate", "report", "once"},
    {"walk"},
    {"subjects"},
    {"differences", "evidence", "draws"},
    {"reruns"},
    {"stories"},
    {"trial"},
    {"check"},
    {"batches"},
    {"training", "optimizers", "per_example"},
    {"rule", "curvature"},
    {"rules", "kfac", "differentiable"},
    {"devices", "processes", "sweep"},
    {"pieces"},
    {"checkpoints", "folder"},
    {"files", "targets", "plots"},
    {"tables"},
    {"data"},
    {"record"},
]
PACKAGE = Path(jaxann.__file__).parent
MODULES = {path.stem: ast.parse(path.read_text()) for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
DIFFERENTIATING = {
    *("grad", "value_and_grad", "vjp", "jvp", "linearize", "linear_transpose", "jacobian", "jacfwd", "jacrev"),
    *("hessian", "custom_vjp", "custom_jvp", "custom_gradient", "stop_gradient", "checkpoint", "remat"),
}


def imports(tree):
    """Every module or name imported anywhere in `tree`, dotted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide from this test"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_a_room():
    assert set(MODULES) == set.union(*ROOMS)


@pytest.mark.parametrize("name", MODULES)
def test_modules_import_only_from_below(name):
    room = next(i for i, names in enumerate(ROOMS) if name in names)
    below = set().union(*ROOMS[:room])
    used = {path.split(".")[1] for path in imports(MODULES[name]) if path.startswith("jaxann")}
    assert used <= below


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"autodiff"}))
def test_only_autodiff_differentiates(name):
    named = {node.attr for node in ast.walk(MODULES[name]) if isinstance(node, ast.Attribute)}
    named |= {path.rsplit(".", 1)[1] for path in imports(MODULES[name]) if path.startswith("jax.")}
    telling = {"custom_vjp"} if name == "differentiable" else set()  # which tells JAX the derivative instead
    assert named & DIFFERENTIATING == telling


def test_autodiff_would_be_noticed():
    assert "value_and_grad" in {n.attr for n in ast.walk(MODULES["autodiff"]) if isinstance(n, ast.Attribute)}


@pytest.mark.parametrize("name", MODULES)
def test_no_library_function_hides_a_derivative(name):
    """`jax.nn` serves for initialisers only, optax for optimisers only, in three modules."""
    used = set(imports(MODULES[name]))
    assert {path for path in used if path.startswith("jax.nn")} <= {"jax.nn.initializers"}
    assert not {path for path in used if path.startswith("optax")} or name in (
        "training",
        "optimizers",
        "kfac",
    )
    chains = {ast.unparse(node) for node in ast.walk(MODULES[name]) if isinstance(node, ast.Attribute)}
    assert not {chain for chain in chains if chain.startswith(("jax.nn", "optax.losses", "jax.scipy"))}


def test_there_is_one_loop_over_layers_in_reverse():
    reversing = [
        (name, node.lineno)
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.For) and "reversed" in ast.unparse(node.iter)
    ]
    assert [name for name, _ in reversing] == ["layers"]


def test_modules_and_public_names_say_what_they_are():
    for name, tree in MODULES.items():
        assert ast.get_docstring(tree), name
    for name, value in vars(jaxann).items():
        if getattr(value, "__module__", "").startswith("jaxann") and not name.startswith("_"):
            assert value.__doc__, name


def test_annotations_are_checked_while_tests_run():
    with pytest.raises(jaxtyping.TypeCheckError, match=r"f64\[2,2\]"):
        jaxann.softmax.forward((), jnp.ones((2, 2)))
