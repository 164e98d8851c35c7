"""Every Python example in a docstring, and so in the reference, runs as it stands."""

import ast
import re
from pathlib import Path

import jax
import pytest

import jaxann

PACKAGE = Path(jaxann.__file__).parent


def blocks(path):
    """The Python blocks in the docstrings of the module at `path`, of its classes and of its functions, in order."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, documented)]
    docstrings = [ast.get_docstring(node) or "" for node in nodes]
    return [b for text in docstrings for b in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)]


EXAMPLES = {path.relative_to(PACKAGE).as_posix(): blocks(path) for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("module", [name for name, found in EXAMPLES.items() if found])
def test_its_examples_run_in_order(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):  # as a reader has it
        for block in EXAMPLES[module]:
            exec(compile(block, f"jaxann/{module}", "exec"), names)
