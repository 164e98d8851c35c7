"""The command `jaxann`, and the scripts and the module that start the same programs."""

import re
import resource
import runpy
import signal
import subprocess
import sys
from importlib.metadata import version

import jax
import pytest
from support.paths import ENVIRONMENT, SCRIPTS
from support.programs import call

from jaxann import cli
from jaxann.cli.main import COMMANDS, main


def run_script(program):
    runpy.run_path(str(SCRIPTS / f"{program}.py"), run_name="__main__")


def run_module():
    runpy.run_module("jaxann", run_name="__main__", alter_sys=True)


@pytest.fixture(autouse=True)
def _interrupt():
    """The scripts change how the process answers Ctrl-C."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("program", COMMANDS)
def test_script_and_module_start_the_program_and_usage_has_the_name_by_which_it_was_called(program):
    name = f"{program}.py"
    started = {
        name: call(lambda: run_script(program), "--help", name=str(SCRIPTS / name)),
        f"jaxann {program}": call(run_module, program, "--help", name="jaxann"),
    }
    for name, (code, out, err) in started.items():
        assert (code, err) == (0, "")
        assert re.match(rf"usage: {name} \[-h\]", out)
    by_script, by_module = (out.partition("options")[2] for _, out, _ in started.values())
    assert by_script == by_module


@pytest.mark.parametrize("program", COMMANDS)
def test_the_help_of_every_setting_says_something(program):
    _, out, _ = call(main, program, "--help", name="jaxann")
    out = out.replace("│", " ")  # older versions of tyro draw boxes
    settings = re.split(r"\n  (?=-)", out.partition(" options ")[2])[2:]
    assert settings
    for setting in settings:
        assert re.search(r" [A-Z].* .*\. \((default|required)", " ".join(setting.split())), setting


def test_messages_have_the_name_by_which_the_program_was_called():
    arguments = ("--learning-rate", 0)
    sentence = "expected --learning-rate above 0, got 0.0\n"
    assert call(main, "train", *arguments, name="jaxann") == (2, "", f"jaxann train: {sentence}")
    started = call(lambda: run_script("train"), *arguments, name=str(SCRIPTS / "train.py"))
    assert started == (2, "", f"train.py: {sentence}")


def test_help_lists_the_commands_and_the_version_is_shown():
    for flag in ("--help", "-h"):
        code, out, err = call(main, flag, name="jaxann")
        assert (code, err) == (0, "")
        assert all(f"\n  {command} " in out for command in COMMANDS)
    assert call(main, "--version", name="jaxann") == (0, f"jaxann {version('jaxann')}\n", "")


def test_without_a_command_the_help_is_an_error():
    help_text = call(main, "--help", name="jaxann").out
    assert call(main, name="jaxann") == (2, "", help_text)


@pytest.mark.parametrize("command", ["trian", "--train", "jaxann"])
def test_an_unknown_command_gets_one_sentence_and_exit_code_2(command):
    sentence = f"jaxann: expected one of the commands train, sweep, predict, gradcheck, audit, got {command!r}\n"
    assert call(main, command, name="jaxann") == (2, "", sentence)


def test_help_takes_at_most_two_seconds_of_a_processor():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "jaxann", "--help"], check=True, capture_output=True, env=ENVIRONMENT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 2


def test_the_chapters_commands_run_as_they_stand(tmp_path):
    (tmp_path / "flowers.csv").write_text(
        "sepal length (cm),sepal width (cm),petal length (cm),petal width (cm)\n5,3,1,0\n"
    )
    commands = re.search(r"```sh\n(.*?)```", cli.__doc__, re.DOTALL)[1].splitlines()
    try:
        for command in commands:
            name, *arguments = command.split()
            ended = call(main, *arguments, name=name, folder=tmp_path)
            assert (name, ended.code) == ("jaxann", 0), ended.err
    finally:
        jax.config.update("jax_enable_x64", True)  # as all tests have it
    assert {command.split()[1] for command in commands} == set(COMMANDS)
    assert (tmp_path / "kinds.csv").read_text().startswith("target,P(setosa),P(versicolor),P(virginica)\n")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"iris", "sweep"}
