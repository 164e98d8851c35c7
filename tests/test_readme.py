"""The README and the programs' README: their code runs, prints what they say, and their commands are understood."""

import re
import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import jax
import pytest
import tyro
from test_architecture import ROOMS

from jaxann.cli.audit import AuditSettings
from jaxann.cli.gradcheck import GradcheckSettings
from jaxann.cli.predict import PredictSettings
from jaxann.cli.program import name_first
from jaxann.cli.settings import Settings
from jaxann.cli.sweep import SweepSettings

TOP = Path(__file__).parents[1]
README = (TOP / "README.md").read_text()
PROGRAMS = (TOP / "scripts" / "README.md").read_text()
COMMANDS = {
    "train": Settings,
    "sweep": SweepSettings,
    "predict": PredictSettings,
    "gradcheck": GradcheckSettings,
    "audit": AuditSettings,
}


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?", text)]


def words(text):
    return re.sub(r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?", "#", text).split()


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What each python block prints, run from a file, all of them in one namespace, in float32 as a reader has it."""
    names, outputs = {}, []
    with jax.enable_x64(False):
        for block in blocks("python"):
            path = tmp_path_factory.mktemp("readme") / "example.py"
            path.write_text(block)
            with redirect_stdout(StringIO()) as out:
                exec(compile(block, str(path), "exec"), names)
            outputs.append(out.getvalue())
    return [output for output in outputs if output]


def test_its_python_prints_what_stands_below_it(printed):
    shown = blocks("text")
    assert len(printed) == len(shown) == 2
    for output, text in zip(printed, shown, strict=True):
        assert words(output) == words(text)
        # Roundings differ between machines: errors by their size, everything else by less than 0.02.
        assert numbers(output) == pytest.approx(numbers(text), abs=0.02)


def test_its_example_has_twenty_lines_and_learns(printed):
    example = next(block for block in blocks("python") if "fit(" in block)
    assert len([line for line in example.splitlines() if line]) <= 20
    assert float(re.search(r"accuracy (\S+)", printed[1])[1]) >= 0.97


def test_it_is_short():
    assert len(README.splitlines()) <= 150
    assert len(README.split()) <= 1000


def test_continuous_integration_runs_its_test_command():
    train, test, *_ = blocks("sh")
    assert test.strip() in map(str.strip, (TOP / ".ci" / "run").read_text().splitlines())
    assert train.split("&&")[0] == test.split("&&")[0] == "python3 -m venv .venv "


def test_its_rooms_are_those_that_the_architecture_holds():
    rows = re.findall(r"^\| `(\w+)` \|", README.split("## The rooms")[1].split("##")[0], re.MULTILINE)
    assert tuple(rows) == ROOMS


def test_nothing_else_is_visible_at_the_top():
    tracked = {path.name for path in TOP.iterdir() if not path.name.startswith(".")}
    assert tracked <= {"pyproject.toml", "README.md", "jaxann", "scripts", "tests", "dist"}


@pytest.mark.parametrize("text", [README, PROGRAMS], ids=["README.md", "scripts/README.md"])
def test_links_and_pictures_lead_somewhere(text):
    folder = TOP if text is README else TOP / "scripts"
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (folder / target).is_file(), target


@pytest.mark.parametrize("command", [line for block in blocks("sh", PROGRAMS) for line in [block]])
def test_the_commands_of_the_programs_readme_are_understood(command):
    program, *arguments = shlex.split(command.replace("\\\n", ""))
    assert program in (".venv/bin/jaxann", ".venv/bin/python", ".venv/bin/pip")
    if program.endswith("jaxann"):
        name, *arguments = arguments
        positional = "dataset" if name in ("train", "sweep") else None
        tyro.cli(COMMANDS[name], args=name_first(arguments, positional))
    if program.endswith("python"):
        assert (TOP / arguments[0]).exists()
