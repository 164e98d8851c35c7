import re
from pathlib import Path

import jax
from test_architecture import ROOMS

TOP = Path(__file__).parents[1]
README = (TOP / "README.md").read_text()
BLOCKS = {language: re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) for language in ("python", "sh")}


def test_its_python_runs_as_it_stands(capsys):
    names = {}
    with jax.enable_x64(False):  # as its reader has it
        for block in BLOCKS["python"]:
            exec(compile(block, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert float(re.search(r"accuracy (\S+)", out)[1]) >= 0.97
    assert out.count("max|a-b|/max|b|") == 1
    assert float(re.search(r"learned by random signs (\S+)", out)[1]) >= 0.95
    before, after = re.search(r"degrees from the true gradient \[(\S+)\s+(\S+)\]", out).groups()
    assert float(after) < 45 < float(before)
    assert re.search(r"all \d+ gradients are right", out)
    assert out.endswith("".join(f"{line[4:]}\n" for line in README.split("report ends\n\n")[1].split("\n")[:2]))


def test_its_first_example_has_twenty_lines():
    assert len([line for line in BLOCKS["python"][0].splitlines() if line]) <= 20


def test_continuous_integration_runs_its_test_command():
    train, test, *_ = BLOCKS["sh"]
    assert test.strip() in map(str.strip, (TOP / ".ci" / "run").read_text().splitlines())
    assert train.split("&&")[0] == test.split("&&")[0] == "python3 -m venv .venv "


def test_its_rooms_are_those_that_the_architecture_holds():
    rows = re.findall(r"^\| (`.*?) \|", README.split("## The rooms")[1].split("##")[0], re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == ROOMS


def test_nothing_else_is_visible_at_the_top():
    tracked = {path.name for path in TOP.iterdir() if not path.name.startswith(".")}
    assert tracked <= {"pyproject.toml", "README.md", "jaxann", "scripts", "tests", "dist"}
