"""The sentence that says how to install optional packages."""

import sys

import pytest

from jaxann.data.extras import require_packages
from jaxann.interop import torch_pair

RUN_FOLDER = ("orbax.checkpoint", "tensorboardX", "matplotlib.figure")


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        (["orbax.checkpoint"], r"orbax-checkpoint: pip install 'jaxann\[checkpoints\]'"),
        (["tensorboardX"], r"tensorboardX: pip install 'jaxann\[logging\]'"),
        (["matplotlib.figure"], r"matplotlib: pip install 'jaxann\[plots\]'"),
        (["tensorboardX", "matplotlib.figure"], r"tensorboardX and matplotlib: pip install 'jaxann\[runs\]'"),
        (RUN_FOLDER, r"orbax-checkpoint, tensorboardX and matplotlib: pip install 'jaxann\[runs\]'"),
    ],
)
def test_all_missing_packages_are_named_with_the_extra_that_installs_them(monkeypatch, missing, sentence):
    for module in missing:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"^a run folder needs {sentence}$"):
        require_packages("a run folder", *RUN_FOLDER)
    require_packages("a run folder", *(set(RUN_FOLDER) - set(missing)))


def test_installed_packages_raise_nothing():
    assert require_packages("a run folder", *RUN_FOLDER) is None


def test_a_missing_pytorch_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"^PyTorch code needs torch: pip install 'jaxann\[oracles\]'$"):
        torch_pair(object())
