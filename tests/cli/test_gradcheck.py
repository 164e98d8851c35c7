"""`scripts/gradcheck.py` as its user meets it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from support.paths import SCRIPTS

from jaxann.cli import gradcheck

LAYER = """
from dataclasses import dataclass
import jax.numpy as jnp
from jaxann import Dense, Elementwise, Layer

@dataclass(frozen=True)
class Scale(Layer):
    n: int
    times: float = 1.0

    @property
    def sizes(self):
        return self.n, self.n

    def init(self, key):
        return {"scale": jnp.ones(self.n)}

    def forward(self, params, x, key=None):
        return params["scale"] * x, x

    def backward(self, params, saved, dy):
        return {"scale": self.times * saved * dy}, params["scale"] * dy

cube = Elementwise("cube", lambda x: x**3, lambda x, y: 3 * x**2)
nothing = 3
"""


@pytest.fixture
def script(monkeypatch, capsys, tmp_path):
    """Runs `main` on a command line in a folder with a layer of the user's own; gives exit code, output and errors."""
    (tmp_path / "own.py").write_text(LAYER)
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own", raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gradcheck.py", "--precision", "float64", *map(str, arguments)])
        try:
            code = gradcheck.main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_a_network_that_train_can_train(script, tmp_path):
    small = ("--dataset", "wine", "--hidden", 6, "--activation", "relu", "--loss", "hinge", "--after", 2)
    code, out, _ = script(*small, "--json", "--plot", "check.png", "--learning-rate", 0.01, "--batch-size", 20)
    assert code == 0
    found = json.loads(out)
    assert list(found) == ["at initialisation", "after 2 epochs"]
    for report in found.values():
        assert report["ok"]
        assert {"0.W", "1.dx", "2.b", "loss", "gradient.0.W"} <= {row["path"] for row in report["rows"]}
    assert (tmp_path / "check.png").stat().st_size > 5000


def test_a_layer_of_the_users_own(script):
    code, out, _ = script("--layer", "own:Scale(5)")
    assert code == 0
    assert "all 2 gradients are right" in out
    code, out, _ = script("--layer", "own:cube", "--shape", 3)
    assert code == 0
    code, out, _ = script("--layer", "own:Scale(5, times=2.0)")
    assert code == 1
    assert "scale: consistent with a factor of 2" in out
    code, out, _ = script("--layer", "own:Scale(5, times=2.0)", "--on-purpose", "scale")
    assert code == 0
    assert "scale: 0.0 degrees from the true gradient" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--layer", "own"),
            "layer is 'own', but module:Class, module:Class(5, rate=0.1) or module:instance is wanted",
        ),
        (("--layer", "own:a.b"), "layer is 'own:a.b', but module:Class"),
        (("--layer", "own:Scale(open)"), "layer is 'own:Scale(open)', but"),
        (("--layer", "none:Scale"), "layer 'none:Scale' cannot be made: ModuleNotFoundError: No module named 'none'"),
        (("--layer", "broken:Scale"), "layer 'broken:Scale' cannot be made: ZeroDivisionError: division by zero"),
        (("--layer", "own:Sale"), "layer 'own:Sale' cannot be made: AttributeError: module 'own' has no attribute"),
        (("--layer", "own:Scale"), "layer 'own:Scale' cannot be made: TypeError: "),
        (("--layer", "own:nothing"), "layer 'own:nothing' cannot be made: TypeError: 'int' object is not callable"),
        (
            ("--layer", "own:cube", "--on-purpose", "W"),
            "expected on_purpose to name gradients of the report (dx), got 'W'",
        ),
        (("--layer", "own:cube", "--shape", -1), "shape is (-1,), but sizes of at least 1 are wanted"),
        (("--after", -1), "after is -1, but 0 or more epochs are wanted"),
        (("--held-out", 2), "held_out is 2.0, but a share between 0 and 1 is wanted"),
        (("--layer", "own:cube", "--plot", "no/such/folder.png"), "[Errno 2] No such file or directory"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(script, arguments, sentence):
    code, out, err = script(*arguments)
    assert code == 2
    assert not out
    assert err.startswith(f"gradcheck.py: {sentence}")
    assert len(err.splitlines()) == 1


def test_as_a_process_it_checks_the_derivations_own_network():
    run = subprocess.run([sys.executable, SCRIPTS / "gradcheck.py", "--json"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (report,) = json.loads(run.stdout).values()
    assert (report["examples"], report["total"]) == (64, 120)
    assert np.max([row["float64"] for row in report["rows"]]) < 1e-12
