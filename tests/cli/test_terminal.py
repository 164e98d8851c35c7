"""Programs in terminals that are closed, full or in ASCII, and text from data that could steer a terminal."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from support.paths import ENVIRONMENT
from support.programs import call, compile_cache
from support.runs import BARE, call_predict, call_train

from jaxann.cli import terminal, train
from jaxann.cli.errors import LONGEST_SENTENCE, format_line, print_error
from jaxann.cli.program import run_program
from jaxann.cli.signals import catch_signals
from jaxann.cli.terminal import Stream, quote_formula, run_in_terminal
from jaxann.nn.hyperparameters import LARGEST, SettingError, validate_number
from jaxann.nn.text import describe_value, make_printable

TINY = ("--hidden", 2, "--epochs", 2, "--batch-size", 16)
SETOSA = "sepal length (cm),sepal width (cm),petal length (cm),petal width (cm)\n5,3,1,0\n"
HOSTILE = "\x1b]0;a\x07\x9b1m\u202eb\r\u2028\ud800"
HARMLESS = r"\x1b]0;a\x07\x9b1m\u202eb\r\u2028\ud800"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished run and an input for its predictions."""
    folder = tmp_path_factory.mktemp("terminal")
    assert call_train(folder, *TINY, *BARE, "--run", "a").code == 0
    (folder / "in.csv").write_text(SETOSA)
    return folder


@pytest.fixture(scope="module")
def shell(folder):
    """Runs a line of the shell in the folder, in which `jaxann` is the command, and returns how it ended."""
    environment = ENVIRONMENT | compile_cache(folder / "cache")

    def run(line, **changes):
        line = f'jaxann() {{ "{sys.executable}" -m jaxann "$@"; }}; {line}'
        command = ["bash", "-o", "pipefail", "-c", line]
        options = {"capture_output": True, "cwd": folder, "env": environment | changes, "timeout": 120}
        ended = subprocess.run(command, **options, check=False)
        return ended.returncode, ended.stdout.decode(), ended.stderr.decode()

    return run


def last_line(text):
    return re.split(r"[\r\n]", text.rstrip())[-1]


TRAIN = "jaxann train --hidden 2 --epochs 2 --batch-size 16 --no-plots --no-tensorboard"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (f"{TRAIN} --run full >/dev/full", "train: stdout cannot be written: No space left on device"),
        ("jaxann predict a --input in.csv >&-", "predict: expected stdout to be open, or --output to name a place"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                (
                    "JAX_PLATFORMS=nonsense jaxann train",
                    "train: expected JAX_PLATFORMS to name a platform that JAX finds",
                ),
                (f"{TRAIN} >&-", "train: expected stdout to be open, or --run to name a place for the result, got nei"),
                ("jaxann sweep --seeds 1 >&-", "sweep: expected stdout to be open, or --out to name a place for the"),
                ("jaxann predict a --input in.csv >/dev/full", "predict: stdout cannot be written: No space left on"),
                ("jaxann train --help | true", "train: stdout cannot be written: nothing reads it"),
            ]
        ),
    ],
)
def test_output_that_cannot_be_written_is_one_sentence(shell, folder, line, sentence):
    ended = shell(line)
    assert ended[0] == 2, ended
    assert last_line(ended[2]).startswith(f"jaxann {sentence}"), ended
    assert not re.search("Traceback|Exception ignored", ended[2])
    if "--run full" in line:
        assert "accuracy" in json.loads((folder / "full" / "result.json").read_text())


@pytest.mark.parametrize(
    "line",
    [
        f"{TRAIN} --run none >&- 2>&-",
        "PYTHONIOENCODING=ascii jaxann train --dataset diabetes --hidden 2 --epochs 1 --batch-size 99",
        *(
            pytest.param(line, marks=pytest.mark.slow)
            for line in [
                f"{TRAIN} 2>/dev/full",
                f"{TRAIN} --run closed >&-",
                f"{TRAIN} 2>&-",
                "jaxann gradcheck --layer jaxann.nn:sigmoid --shape 2 >&-",
                "jaxann predict a --input in.csv 2>&-",
                "jaxann predict a --input in.csv --output out.csv >&-",
            ]
        ),
    ],
)
def test_a_program_succeeds_if_its_result_does_not_need_the_stream_that_is_closed_full_or_in_ascii(shell, folder, line):
    code, out, err = shell(line)
    assert code == 0, err
    assert not re.search("Traceback|Exception ignored|codec", err)
    assert bool(re.search(" >&-", line)) == (not out)
    if "--run" in line:
        name = re.search(r"--run (\w+)", line)[1]
        assert "accuracy" in json.loads((folder / name / "result.json").read_text())
    if "ascii" in line:
        assert r"held-out R\xb2: " in out


def test_a_failed_output_keeps_the_exit_code_of_a_signal_and_of_an_error():
    for code, expected in {0: 2, 1: 2, 2: 2, 130: 130}.items():
        out, err = TextIOWrapper(open("/dev/full", "wb")), StringIO()  # noqa: SIM115 - the program flushes it

        def program(code=code):
            print("result")
            return code

        with out, redirect_stdout(out), redirect_stderr(err):
            assert run_in_terminal(program) == expected
        assert err.getvalue().count("stdout cannot be written") == (code in (0, 1))


def test_text_that_could_steer_a_terminal_is_printed_as_escapes():
    out = StringIO()
    Stream(out, "\n\t").write(f"a\tb\n{HOSTILE}")
    assert out.getvalue() == f"a\tb\n{HARMLESS}"
    assert make_printable("Ünïcode\u00a0日本語 \u200d\u200c \\ 'x'") == "Ünïcode\u00a0日本語 \u200d\u200c \\ 'x'"
    assert make_printable("\u2066\u200e\xad\ufeff\U000e0041\0\n") == r"\u2066\u200e\xad\ufeff\U000e0041\x00\n"


def test_characters_that_the_encoding_lacks_are_printed_as_escapes_and_data_is_refused():
    out = TextIOWrapper(BytesIO(), encoding="ascii")
    stream = Stream(out, "\n")
    stream.write("R² ± ä\n")
    stream.flush()
    assert out.buffer.getvalue() == rb"R\xb2 \xb1 \xe4" + b"\n"
    with pytest.raises(ValueError, match="expected stdout in UTF-8, got ascii, which lacks the character ä"):
        stream.write_exactly("ä")


def test_names_from_data_are_harmless_on_the_terminal_and_exact_in_files(tmp_path):
    names = ["\x1b[31mred", "=1+1", "$x"]
    rows = [["@a", "b\u202e", "\x07kind"], *([i, i % 3, names[i % 3]] for i in range(30))]
    with (tmp_path / "hostile.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    trained = call_train(tmp_path, "--dataset", "hostile.csv", *TINY, "--run", "a")
    assert trained.code == 0, trained.err
    assert r"\x1b[31mred" in trained.out
    assert (tmp_path / "a" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    exact = call_predict(tmp_path, "a", "--input", "hostile.csv").out
    assert call_predict(tmp_path, "a", "--input", "hostile.csv", "--output", "exact.csv").code == 0
    assert call_predict(tmp_path, "a", "--input", "hostile.csv", "--output", "safe.csv", "--safe-csv").code == 0
    assert (tmp_path / "exact.csv").read_text(encoding="utf-8") == exact
    header, *predicted = csv.reader(exact.splitlines())
    assert header == ["\x07kind", *(f"P({name})" for name in sorted(names))]
    assert {kind for kind, *_ in predicted} <= set(names)
    with (tmp_path / "safe.csv").open(newline="", encoding="utf-8") as file:
        safe = list(csv.reader(file))
    assert safe == [header, *([quote_formula(kind), *numbers] for kind, *numbers in predicted)]


def test_only_text_that_a_spreadsheet_would_run_gets_an_apostrophe():
    for text in ("=1", "+a", "-a", "@a", "\ta", "\ra", "-1+2", "-", "=cmd|' /C calc'!A0", "-1_0", "-inf"):
        assert quote_formula(text) == f"'{text}"
    for text in ("-1.5", "+2", "-1e-300", "a=1", "'=1", "", "1-2"):
        assert quote_formula(text) == text


def test_messages_have_one_line_of_bounded_length_that_keeps_the_explanation():
    long = "x" * 6000
    error = SettingError("grid", "to hold settings", long)
    assert str(error) == f"expected grid to hold settings, got {describe_value(long)}"
    assert len(str(error)) < 200
    for message in (
        f"expected a list in a.json, got {[0] * 3000}",
        f"{long}: expected names of settings, got 'a'",
        f"first\n{long}\nexpected the explanation to stay\n",
        ", ".join(["a name"] * 900),
    ):
        line = format_line(message)
        assert len(line) <= LONGEST_SENTENCE
        assert "\n" not in line
        assert "..." in line
    assert format_line("a.json: expected a list, got [1]") == "a.json: expected a list, got [1]"
    assert format_line(f"expected a list, got {[0] * 3000}").startswith("expected a list, got [0, 0, ")
    assert format_line(f"{long}: expected names, got 'a'").endswith(": expected names, got 'a'")


def test_integers_beyond_floats_and_beyond_any_counter_are_refused():
    validate_number("seed", LARGEST, integer=True)
    for value in (10**400, 10**5000):
        for name, limits in {"epochs": {"integer": True}, "rate": {}, "steps": {"least": 1, "most": 9}}.items():
            with pytest.raises(SettingError) as caught:
                validate_number(name, value, **limits)
            assert len(str(caught.value)) < 250
    with pytest.raises(SettingError, match=f"expected epochs of at most {LARGEST}, got 9223372036854775808"):
        validate_number("epochs", LARGEST + 1, integer=True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--epochs", 10**30), "expected --epochs of at most 9223372036854775807, got 1000000000000000000000000000000"),
        (("--epochs", 2**31), "expected --epochs of at most 2147483647, got 2147483648"),
        (("--seed", 10**30), "expected --seed between 0 and 4294967295, got 1000000000000000000000000000000"),
        (("--learning-rate", 10**400), "expected --learning-rate to be a finite number, got inf"),
        (("--config", "huge.json"), "expected learning_rate to be a finite number, got inf"),
        (("--dataset", "x" * 6000), "expected the dataset"),
    ],
)
def test_absurd_values_get_a_short_sentence(tmp_path, arguments, sentence):
    (tmp_path / "huge.json").write_text(f'{{"learning_rate": {10**400}}}')
    ended = call_train(tmp_path, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"train.py: {sentence}") or arguments[0] == "--dataset"
    assert len(ended.err.splitlines()) == 1
    assert len(ended.err) < 600


def test_usage_errors_show_arguments_short_and_without_control_characters(tmp_path):
    for argument in ("x" * 6000, "\x1b]0;title\x07", "\u202ecba"):
        ended = call_train(tmp_path, "--epochs", argument)
        assert ended.code == 2
        assert "Error parsing --epochs" in ended.err
        assert len(ended.err) < 2500
        assert not {"\x1b", "\x07", "\u202e"} & set(ended.err)


def test_too_little_memory_is_one_sentence():
    for error in (MemoryError(), MemoryError("Unable to allocate 7 TiB"), RuntimeError("RESOURCE_EXHAUSTED: 7 TiB")):

        def work(settings, spelling, error=error):
            raise error

        ended = call(lambda work=work: run_program(train.Settings, "", work))
        sentence = f"program.py: expected enough memory for the data and the network, got less: {error}"
        assert ended == (2, "", sentence.removesuffix(": ") + "\n")


def test_an_error_that_no_sentence_explains_keeps_its_traceback():
    def work(settings, spelling):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        call(lambda: run_program(train.Settings, "", work))


@pytest.mark.filterwarnings("default")
def test_warnings_are_plain_lines_after_a_success_and_are_left_out_after_an_error():
    def work(settings, spelling):
        for _ in range(2):
            warnings.warn("a warning\nof two lines", UserWarning, stacklevel=1)
        if settings.epochs == 1:
            return print_error(ValueError("expected more epochs"), spelling)
        return 0

    def run():
        return run_program(train.Settings, "", work)

    assert call(run) == (0, "", "program.py: warning: a warning of two lines\n")
    assert call(run, "--epochs", 1) == (2, "", "program.py: expected more epochs\n")


def test_warnings_for_programmers_are_not_shown():
    shown = []
    with warnings.catch_warnings():
        warnings.resetwarnings()
        with terminal._collect_warnings() as shown:
            for category in (RuntimeWarning, DeprecationWarning, FutureWarning, ResourceWarning, UserWarning):
                warnings.warn(category.__name__, category, stacklevel=1)
    assert shown == ["UserWarning"]


def test_the_signal_of_a_closed_terminal_is_caught_unless_nohup_has_it_ignored():
    before = signal.getsignal(signal.SIGHUP)
    try:
        with catch_signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals == [signal.SIGHUP]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with catch_signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
