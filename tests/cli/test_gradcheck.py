"""The program gradcheck as its user meets it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from support import layers
from support.programs import call

from jaxann.cli import gradcheck
from jaxann.cli.own_code import report_failure

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

@dataclass(frozen=True)
class Quits(Layer):
    where: str

    def __post_init__(self):
        self.reach("__init__")

    def reach(self, method):
        if method == self.where:
            raise SystemExit(0)

    @property
    def sizes(self):
        self.reach("sizes")
        return 3, 3

    def init(self, key):
        self.reach("init")
        return ()

    def forward(self, params, x, key=None):
        self.reach("forward")
        return x, ()

    def backward(self, params, saved, dy):
        self.reach("backward")
        return (), dy

class Never(Layer):
    pass

def __getattr__(name):
    if name == "exploding":  # what must be refused before the layer is imported
        raise RuntimeError("imported")
    raise AttributeError(f"module 'own' has no {name}")

cube = Elementwise("cube", lambda x: x**3, lambda x, y: 3 * x**2)
nothing = 3
LAYER_TYPE = dict
"""


FUNCTIONS = """
import numpy as np

def forward(W, x):
    return np.tanh(W @ x)

def backward(dy, W, x):
    dz = dy * (1 - np.tanh(W @ x) ** 2)
    return np.outer(dz, x), W.T @ dz

def wrong(dy, W, x):
    dz = dy * (1 - np.tanh(W @ x) ** 2)
    return -np.outer(dz, x), W.T @ dz

args = (np.full((2, 3), 0.3), np.array([0.1, -0.4, 0.8]))

def stop(dy, W, x):
    raise SystemExit(0)
"""


@pytest.fixture
def call_gradcheck(monkeypatch, tmp_path):
    """Calls the program in a folder with a layer of the user's own."""
    (tmp_path / "own.py").write_text(LAYER)
    (tmp_path / "pair.py").write_text(FUNCTIONS)
    (tmp_path / "shaped.py").write_text(Path(layers.__file__).read_text())
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "quits.py").write_text("raise SystemExit(0)")
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("own", "pair"):
        monkeypatch.delitem(sys.modules, name, raising=False)

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


def test_functions_of_the_users_own(call_gradcheck):
    code, out, err = call_gradcheck("--function", "pair:forward,backward", "--shapes", "2,3", "3", "--json")
    assert (code, err) == (0, "")
    (when, report), *_ = json.loads(out).items()
    assert (when, report["ok"], len(report["rows"])) == ("at random", True, 2)
    code, out, _ = call_gradcheck("--function", "pair:forward,wrong", "--args", "pair:args", "--json")
    ((when, report),) = json.loads(out).items()
    assert (code, when, [row["cause"] for row in report["rows"]]) == (1, "at the given arguments", ["sign", ""])
    wrong = report["wrong"]
    assert call_gradcheck("--function", "pair:forward,wrong", "--args", "pair:args", "--on-purpose", *wrong).code == 0


@pytest.mark.parametrize(
    ("arguments", "summary"),
    [
        (("shaped:Embedding(5, 3)",), "the gradient is right"),  # it is given integers
        (("shaped:Embedding(5, 3)", "--shape", 2, 3), "the gradient is right"),
        (("shaped:Conv(1, 2, 2)", "--shape", 3, 3, 1), "all 3 gradients are right"),
        (("jaxann.nn:Flatten", "--shape", 2, 2, 1), "the gradient is right"),
    ],
)
def test_a_layer_that_states_no_sizes(call_gradcheck, arguments, summary):
    code, out, err = call_gradcheck("--layer", *arguments)
    assert (code, err) == (0, "")
    assert summary in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--layer", "shaped:Conv(1, 2, 2)"),
            "expected --shape to be given, because Conv(1, 2, 2) cannot take an input of shape",
        ),
        (
            ("--layer", "jaxann.nn:AvgPool((2, 2))", "--shape", 1, 2, 1),
            "expected --shape to be the shape of an input that AvgPool((2, 2)) can take (",
        ),
        (
            ("--layer", "own"),
            "expected --layer to be module:Class, module:Class(5, rate=0.1) or module:instance, got 'own'",
        ),
        (("--layer", "own:a.b"), "expected --layer to be module:Class, module:Class(5, rate=0.1) or module:instance"),
        (("--layer", "own:Scale(open)"), "expected --layer to be module:Class, module:Class(5, rate=0.1) or"),
        (
            ("--layer", "none:Scale"),
            "the layer 'none:Scale' cannot be imported: ModuleNotFoundError: No module named 'none'",
        ),
        (
            ("--layer", "broken:Scale"),
            "the layer 'broken:Scale' cannot be imported: ZeroDivisionError: division by zero",
        ),
        (("--layer", "own:Sale"), "the layer 'own:Sale' cannot be imported: AttributeError: module 'own' has no"),
        (("--layer", "own:Scale"), "the layer 'own:Scale' cannot be constructed: TypeError: "),
        (
            ("--layer", "own:nothing"),
            "expected --layer to name a subclass or an instance of jaxann.nn.Layer, not the object of type int, "
            "got 'own:nothing'",
        ),
        (
            ("--layer", "own:LAYER_TYPE()"),
            "expected --layer to name a subclass or an instance of jaxann.nn.Layer, not the class dict, "
            "got 'own:LAYER_TYPE()'",
        ),
        (
            ("--layer", "own:cube", "--on-purpose", "W"),
            "expected --on-purpose to name gradients of the report (dx), got 'W'",
        ),
        (("--layer", "own:cube", "--shape", -1), "expected --shape to be sizes of at least 1, got (-1,)"),
        (("--function", "pair:forward"), "expected --function to be module:forward,backward, got 'pair:forward'"),
        (
            ("--function", "pair:forward,backward", "--layer", "own:cube"),
            "expected --function only without a layer, got",
        ),
        (
            ("--function", "pair:forward,back"),
            "the function 'pair:back' cannot be imported: AttributeError: module 'pair' has no attribute 'back'",
        ),
        (
            ("--function", "pair:forward,args"),
            "expected --function to name a function, not the object of type tuple, got 'pair:args'",
        ),
        (
            ("--function", "pair:forward,backward", "--shapes", 3),
            "expected --shapes to give the arguments of pair:forward,backward (missing a required argument: 'x'), got",
        ),
        (
            ("--function", "pair:forward,stop", "--args", "pair:args"),
            "the function 'pair:forward,stop' cannot be check",
        ),
        (("--args", "pair:args"), "expected --args only for functions, got 'pair:args'"),
        (("--after", -1), "expected --after of at least 0, got -1"),
        (("--run", "a"), "expected --run only for `jaxann train`, got a"),
        (("--precision", "bfloat16"), "expected --precision to be float32 or float64, whose rounding a check allows"),
        (("--held-out", 2), "expected --held-out between 0 and 1, excluding 0 and 1, got 2.0"),
        (("--layer", "own:cube(3)"), "expected --layer to have no arguments after an instance, got 'own:cube(3)'"),
        (("--layer", "own:" + "(" * 500), "expected --layer to be module:Class, module:Class(5, rate=0.1) or"),
        (("--layer", "own:Never"), "the layer 'own:Never' cannot be constructed: TypeError: Can't instantiate"),
        (
            ("--layer", "sys:exit(0)"),
            "expected --layer to name a subclass or an instance of jaxann.nn.Layer, not the object of type builtin_",
        ),
        (("--layer", "quits:Scale"), "the layer 'quits:Scale' cannot be imported: SystemExit: 0"),
        (
            ("--layer", "own:Quits('__init__')"),
            "the layer \"own:Quits('__init__')\" cannot be constructed: SystemExit: 0",
        ),
        (("--layer", "own:Quits('sizes')"), "the layer \"own:Quits('sizes')\" cannot be initialized: SystemExit: 0"),
        (("--layer", "own:Quits('init')"), "the layer \"own:Quits('init')\" cannot be initialized: SystemExit: 0"),
        (("--layer", "own:Quits('forward')"), "the layer \"own:Quits('forward')\" cannot be checked: SystemExit: 0"),
        (("--layer", "own:Quits('backward')"), "the layer \"own:Quits('backward')\" cannot be checked: SystemExit: 0"),
        (
            ("--layer", "own:exploding", "--plot", "no/such/folder.png"),
            "expected --plot to be a file in a folder that exists, got no/such/folder.png",
        ),
        (("--layer", "own:exploding", "--plot", "a.txt"), "expected --plot to end in one of ."),
        (("--layer", "own:exploding", "--plot", "a"), "expected --plot to end in one of ."),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(call_gradcheck, arguments, sentence):
    code, out, err = call_gradcheck(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"gradcheck.py: {sentence}"), err
    assert len(err.splitlines()) == 1


def test_a_function_that_is_no_layer_is_not_called(call_gradcheck, tmp_path):
    (tmp_path / "tool.py").write_text("def delete_all(): open('called', 'w')")
    assert call_gradcheck("--layer", "tool:delete_all()").code == 2
    assert not (tmp_path / "called").exists()


def test_an_interrupt_is_not_reported_as_a_failure_of_the_layer():
    with pytest.raises(KeyboardInterrupt), report_failure("own:Scale", "made"):
        raise KeyboardInterrupt


def test_the_picture_has_the_format_of_its_ending(call_gradcheck, tmp_path):
    for ending, magic in {".png": b"\x89PNG", ".PDF": b"%PDF", ".svg": b"<?xml"}.items():
        assert call_gradcheck("--layer", "own:cube", "--shape", 2, "--plot", f"check{ending}").code == 0
        assert (tmp_path / f"check{ending}").read_bytes().startswith(magic)


def test_the_derivations_own_network_is_right(call_gradcheck):
    code, out, err = call_gradcheck("--precision", "float32", "--json")
    assert (code, err) == (0, "")
    (report,) = json.loads(out).values()
    assert (report["examples"], report["total"]) == (64, 120)
    assert np.max([row["float64"] for row in report["rows"]]) < 1e-12
