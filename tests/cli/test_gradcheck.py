"""The program gradcheck as its user meets it."""

import json
import sys

import numpy as np
import pytest
from support.programs import call

from jaxann.cli import gradcheck

LAYER = """
from dataclasses import dataclass
import jax.numpy as jnp
from jaxann.nn import Elementwise, Layer

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
LAYER_TYPE = dict
"""


@pytest.fixture
def call_gradcheck(monkeypatch, tmp_path):
    """Calls the program in a folder with a layer of the user's own."""
    (tmp_path / "own.py").write_text(LAYER)
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own", raising=False)

    def run(*arguments):
        return call(gradcheck.main, "--precision", "float64", *arguments, name="gradcheck.py", folder=tmp_path)

    return run


def test_a_network_that_train_can_train(call_gradcheck, tmp_path):
    small = ("--dataset", "wine", "--hidden", 6, "--activation", "relu", "--loss", "hinge", "--after", 2)
    options = ("--json", "--plot", "check.png", "--learning-rate", 0.01, "--batch-size", 20)
    code, out, _ = call_gradcheck(*small, *options)
    assert code == 0
    reports = json.loads(out)
    assert list(reports) == ["at initialization", "after 2 epochs"]
    for report in reports.values():
        assert report["ok"]
        assert {"0.W", "1.dx", "2.b", "loss", "gradient.0.W"} <= {row["path"] for row in report["rows"]}
    assert (tmp_path / "check.png").stat().st_size > 5000


def test_a_layer_of_the_users_own(call_gradcheck):
    code, out, _ = call_gradcheck("--layer", "own:Scale(5)")
    assert code == 0
    assert "all 2 gradients are right" in out
    assert call_gradcheck("--layer", "own:cube", "--shape", 3).code == 0
    code, out, _ = call_gradcheck("--layer", "own:Scale(5, times=2.0)")
    assert code == 1
    assert "scale: consistent with a factor of 2" in out
    code, out, _ = call_gradcheck("--layer", "own:Scale(5, times=2.0)", "--on-purpose", "scale")
    assert code == 0
    assert "scale: 0.0 degrees from the true gradient" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--layer", "own"),
            "expected --layer to be module:Class, module:Class(5, rate=0.1) or module:instance, got 'own'",
        ),
        (("--layer", "own:a.b"), "expected --layer to be module:Class, module:Class(5, rate=0.1) or module:instance"),
        (("--layer", "own:Scale(open)"), "expected --layer to be module:Class, module:Class(5, rate=0.1) or"),
        (
            ("--layer", "none:Scale"),
            "the layer 'none:Scale' cannot be made: ModuleNotFoundError: No module named 'none'",
        ),
        (("--layer", "broken:Scale"), "the layer 'broken:Scale' cannot be made: ZeroDivisionError: division by zero"),
        (("--layer", "own:Sale"), "the layer 'own:Sale' cannot be made: AttributeError: module 'own' has no attribute"),
        (("--layer", "own:Scale"), "the layer 'own:Scale' cannot be made: TypeError: "),
        (("--layer", "own:nothing"), "the layer 'own:nothing' cannot be made: TypeError: 'int' object is not callable"),
        (
            ("--layer", "own:LAYER_TYPE()"),
            "expected --layer to stand for a jaxann.nn.Layer, got 'own:LAYER_TYPE() of type dict'",
        ),
        (
            ("--layer", "own:cube", "--on-purpose", "W"),
            "expected --on-purpose to name gradients of the report (dx), got 'W'",
        ),
        (("--layer", "own:cube", "--shape", -1), "expected --shape to be sizes of at least 1, got (-1,)"),
        (("--after", -1), "expected --after of at least 0, got -1"),
        (("--run", "a"), "expected --run only for `jaxann train`, got a"),
        (("--precision", "bfloat16"), "expected --precision to be float32 or float64, whose rounding a check allows"),
        (("--held-out", 2), "expected --held-out between 0 and 1, excluding 0 and 1, got 2.0"),
        (("--layer", "own:cube", "--plot", "no/such/folder.png"), "[Errno 2] No such file or directory"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(call_gradcheck, arguments, sentence):
    code, out, err = call_gradcheck(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"gradcheck.py: {sentence}"), err
    assert len(err.splitlines()) == 1


def test_the_derivations_own_network_is_right(call_gradcheck):
    code, out, err = call_gradcheck("--precision", "float32", "--json")
    assert (code, err) == (0, "")
    (report,) = json.loads(out).values()
    assert (report["examples"], report["total"]) == (64, 120)
    assert np.max([row["float64"] for row in report["rows"]]) < 1e-12
