"""The wheel, the installed command, and the package under an older Python and on another operating system."""

import os
import pydoc
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import typing
from functools import cache
from pathlib import Path
from zipfile import ZipFile

import pytest
from support.paths import SCRIPTS, TOP

import jaxann

VERSION = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
OLDER = "jaxann needs Python 3.11 or newer, got 3.10."
OUTSIDE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*command, cwd, environment=OUTSIDE):
    return subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the checkout's packaged files without asking any package index."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(TOP / name, source)
    for name in ("jaxann", "scripts", "tests"):
        shutil.copytree(TOP / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = (
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        target,
        source,
    )
    built = run(*pip, cwd=target)
    assert built.returncode == 0, built.stderr
    (path,) = target.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The bin folder of a new environment that holds the wheel and borrows its dependencies from this one."""
    folder = tmp_path_factory.mktemp("environment")
    assert run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder).returncode == 0
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    scripts = Path(sysconfig.get_path("scripts", vars=paths))
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--no-deps", "--no-index", wheel)
    installed = run(*pip, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return scripts


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    files = {path.relative_to(TOP).as_posix() for path in (TOP / "jaxann").rglob("*.py")}
    held = set(ZipFile(wheel).namelist())
    about = {name for name in held if name.startswith(f"jaxann-{VERSION}.dist-info/")}
    assert held - about == files | {"jaxann/LICENSE", "jaxann/py.typed"}
    assert {name.split("/")[1] for name in about} == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses"}


def test_the_metadata_name_the_licence_and_a_lower_bound_for_every_dependency(wheel):
    archive = ZipFile(wheel)
    (path,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    metadata = archive.read(path).decode().split("\n\n")[0]
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "Requires-Python: >=3.11\n" in metadata
    required = re.findall(r"^Requires-Dist: (.*?)(?:;.*)?$", metadata, re.MULTILINE)
    assert len(required) >= 9
    assert [each for each in required if not re.search(r"[>=]=\d", each)] == []
    licence = archive.read("jaxann/LICENSE").decode()
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


def test_the_installed_command_trains_in_any_folder(environment, tmp_path):
    origin = "import importlib.util; print(importlib.util.find_spec('jaxann').origin)"
    found = run(environment / "python", "-c", origin, cwd=tmp_path).stdout
    assert Path(found).is_relative_to(environment.parent), found
    trained = run(environment / "jaxann", "train", "--epochs", "1", "--hidden", "4", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert re.search(r"held-out accuracy: \d\.\d+ \(30 examples\)", trained.stdout)
    assert list(tmp_path.iterdir()) == []


@cache
def find_older_python():
    """A Python 3.10 on this machine, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for path in [*pyenv.glob("versions/3.10.*/bin/python"), shutil.which("python3.10")]:
        if path and run(path, "--version", cwd=TOP).stdout.startswith("Python 3.10."):
            return path
    return None


@pytest.fixture
def older_python():
    return find_older_python() or pytest.skip("this machine has no Python 3.10")


@pytest.mark.parametrize("script", [None, "train", "sweep", "predict", "gradcheck", "audit"])
def test_an_older_python_that_runs_the_program_gets_one_sentence(older_python, script):
    arguments = [SCRIPTS / f"{script}.py"] if script else ["-m", "jaxann"]
    refused = run(older_python, *arguments, cwd=TOP)
    assert re.fullmatch(re.escape(OLDER) + r"\d+\n", refused.stderr)
    assert (refused.returncode, refused.stdout) == (2, "")


def test_an_older_python_that_runs_the_installed_command_gets_that_sentence_too(older_python, environment):
    packages = sysconfig.get_path("purelib", vars={"base": str(environment.parent)})
    command = (older_python, environment / "jaxann", "train")
    refused = run(*command, cwd=environment, environment=OUTSIDE | {"PYTHONPATH": packages})
    assert re.fullmatch(re.escape(OLDER) + r"\d+\n", refused.stderr)
    assert (refused.returncode, refused.stdout) == (2, "")


def test_an_older_python_that_imports_the_package_gets_an_import_error(older_python):
    refused = run(older_python, "-c", "import jaxann", cwd=TOP)
    assert re.search(r"^ImportError: " + re.escape(OLDER) + r"\d+\n\Z", refused.stderr, re.MULTILINE)
    assert refused.returncode == 1


def test_no_module_needs_what_only_unix_has():
    program = """if True:
        import builtins, importlib, pkgutil
        original = builtins.__import__

        def import_as_on_windows(name, globals=None, *rest):  # where other packages do without these modules, too
            if name in ("fcntl", "resource") and (globals or {}).get("__name__", "").startswith("jaxann"):
                raise ModuleNotFoundError(f"Windows has no {name}")
            return original(name, globals, *rest)

        builtins.__import__ = import_as_on_windows
        import jaxann
        for module in pkgutil.walk_packages(jaxann.__path__, "jaxann."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    """
    imported = run(sys.executable, "-W", "error", "-c", program, cwd=TOP)
    assert imported.returncode == 0, imported.stderr


def test_annotations_of_every_public_function_can_be_evaluated():
    rooms = [value for value in vars(jaxann).values() if getattr(value, "__name__", "").startswith("jaxann.")]
    for module in [jaxann, *rooms]:
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and getattr(value, "__module__", "").startswith("jaxann"):
                assert typing.get_type_hints(value) is not None, name
    assert {"model", "epochs", "key", "return"} <= set(typing.get_type_hints(jaxann.fit))


def test_help_lists_the_verbs_and_the_rooms():
    shown = pydoc.render_doc(jaxann, renderer=pydoc.plaintext)
    for name in set(jaxann.__all__) - {"__version__"}:
        assert re.search(rf"^    {name}\b", shown, re.MULTILINE), name
    assert f"VERSION\n    {jaxann.__version__}" in shown


def test_the_version_is_that_of_the_project_file():
    assert jaxann.__version__ == VERSION
