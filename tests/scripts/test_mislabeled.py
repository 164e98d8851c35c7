"""`scripts/mislabeled.py`: a run on a small folder of IDX files, of which some labels are wrong, and its parts."""

import re
import struct
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import jax
import jax.numpy as jnp
import mislabeled as script
import numpy as np
import optax
import pytest

from jaxann.data.splits import load_dataset
from jaxann.nn import Dense, Sequential, SoftmaxCrossEntropy, tanh

PLANTED = (5, 50, 150, 250)  # images that the folder itself labels wrongly
FLIPPED = 0.1


def write_part(folder, part, labels, images):
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        head = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
        (folder / f"{part}-{kind}-ubyte").write_bytes(head + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of a bar in one of three places, in noise."""
    generator, folder = np.random.default_rng(0), tmp_path_factory.mktemp("bars")
    for part, count in (("train", 300), ("t10k", 30)):
        labels = np.arange(count) % 3
        images = generator.integers(0, 60, (count, 8, 8))
        for image, label in zip(images, labels, strict=True):
            image[:, 2 * label + 1 : 2 * label + 3] += 150
        if part == "train":
            labels[list(PLANTED)] = (labels[list(PLANTED)] + 1) % 3
        write_part(folder, part, labels, images)
    return folder


@pytest.fixture(scope="module")
def lines(folder):
    """What the program prints."""
    arguments = (str(folder), "--classes", "left", "middle", "right", "--flipped", str(FLIPPED), "--epochs", "4")
    arguments += ("--by", "gradient")
    figure = ("--figure", str(folder / "worst.png"))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as log:
        patch.setattr(sys, "argv", ["mislabeled.py", *arguments, "--batch-size", "10", *figure])
        with jax.enable_x64(False):
            assert script.main() == 0, log.getvalue()
    return out.getvalue().splitlines()


def test_the_images_that_the_dataset_labels_wrongly_come_first(lines):
    assert lines[0] == "300 images, test accuracy 1.000, largest gradient norm"
    assert lines[1].split() == ["image", "label", "prediction", "gradient", "bias", "loss"]
    rows = [line.split() for line in lines[2:42]]
    names = ("left", "middle", "right")
    assert {int(row[0]) for row in rows[: len(PLANTED)]} == set(PLANTED)
    for index, label, prediction, *scores in rows[: len(PLANTED)]:
        assert (label, prediction) == (names[(int(index) + 1) % 3], names[int(index) % 3])
        norm, bias, loss = map(float, scores)
        p = np.exp(-loss)  # of the label; all the rest is nearly all with the prediction
        assert bias == pytest.approx(2**0.5 * (1 - p), rel=0.01)
        assert norm > bias > 0.8
    assert all(row[1] == row[2] == names[int(row[0]) % 3] for row in rows[len(PLANTED) :])
    norms = [float(row[3]) for row in rows]
    assert norms == sorted(norms, reverse=True)


def test_flipped_labels_have_the_largest_gradients(lines):
    assert lines[43] == "30 of 300 labels replaced by wrong ones, and the network trained on them:"
    header, *rows = lines[44:]
    assert re.split("  +", header)[1:] == [f"precision at {k}" for k in (7, 15, 30)]
    precisions = {" ".join(row.split()[:-3]): [float(cell) for cell in row.split()[-3:]] for row in rows}
    assert list(precisions) == ["gradient norm", "gradient norm of the last bias", "loss", "random order"]
    assert precisions.pop("random order") == [0.1] * 3
    assert min(last for *_, last in precisions.values()) >= 0.85  # the folder's own four are among the first 30, too


def test_the_picture_is_saved(lines, folder):
    pytest.importorskip("matplotlib")
    assert (folder / "worst.png").read_bytes().startswith(b"\x89PNG")


def test_scores_are_norms_of_the_true_gradient_and_losses():
    model, loss = Sequential((Dense(4, 5), tanh, Dense(5, 3))), SoftmaxCrossEntropy()
    params, t = model.init(jax.random.key(0)), jnp.asarray(np.arange(6) % 3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)))

    def value(params, x, t):
        return loss.value(model.forward(params, x)[0], t)

    @jax.jit
    def expect(params, x, t):
        losses, grads = jax.vmap(jax.value_and_grad(value), in_axes=(None, 0, 0))(params, x, t)
        norms = jax.vmap(optax.tree.norm)
        return {"gradient": norms(grads), "bias": norms(grads[-1]["b"]), "loss": losses}

    jax.tree.map(np.testing.assert_allclose, script.score(model, loss, params, x, t), expect(params, x, t))


def make_ranking(norms, losses):
    labels = np.arange(len(norms)) % 2
    scores = {"gradient": np.array(norms), "bias": -np.array(norms), "loss": np.array(losses)}
    return script.Ranking(labels, np.zeros(len(norms), int), scores, 1.0)


def test_precision_is_that_of_each_ranking():
    ranking = make_ranking([8.0, 6, 7, 5, 4, 3, 2, 1], [1.0, 2, 3, 4, 5, 6, 7, 8])
    wrong = np.array([True, True, False, True, False, False, False, True])
    rows = script.format_precision(ranking, wrong).splitlines()
    assert [row.split()[-3:] for row in rows[1:]] == [
        ["1.000", "0.500", "0.750"],
        ["1.000", "0.500", "0.250"],
        ["1.000", "0.500", "0.250"],
        ["0.500", "0.500", "0.500"],
    ]


def test_the_picture_shows_the_largest_scores_with_labels_and_predictions(folder):
    pytest.importorskip("matplotlib")
    data = load_dataset(str(folder), scaling="all")
    norms = np.random.default_rng(0).permutation(300).astype(float)
    figure = script.plot_largest(make_ranking(norms, -norms), "gradient", data, ("a", "b", "c"))
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == script.ROWS * script.COLUMNS
    for axes, i in zip(drawn, np.argsort(-norms), strict=False):
        assert axes.get_title() == f"{'ab'[i % 2]} /\na"
        shown, pixels = axes.images[0].get_array().ravel(), data.train.x[i]
        np.testing.assert_allclose((shown - shown.mean()) / shown.std(), (pixels - pixels.mean()) / pixels.std(), 1e-4)


def test_labels_are_flipped_to_every_other_class():
    labels = np.arange(1000) % 10
    given = script.flip(labels, 10, script.RankingSettings(flipped=0.2, seed=1))
    wrong = given != labels
    assert wrong.sum() == 200
    assert set((given - labels)[wrong] % 10) == set(range(1, 10))
    assert {*given} == set(range(10))
    assert (labels == np.arange(1000) % 10).all()
    assert (given != script.flip(labels, 10, script.RankingSettings(flipped=0.2, seed=2))).any()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--flipped", "1"), "expected --flipped between 0 and 1, excluding 1, got 1.0"),
        (("--learning-rate", "nan"), "expected --learning-rate to be a finite number, got nan"),
        (("--seed", "-1"), "expected --seed between 0 and 4294967295, got -1"),
        (("--epochs", "0"), "expected --epochs of at least 1, got 0"),
        (("--batch-size", "301"), "expected --batch-size between 1 and 300 (the number of examples), got 301"),
        (("--classes", "left", "right"), "expected --classes to name each of 3 classes, got 'left right'"),
        (("--classes", "Fashion-MNIST"), "expected --classes to name each of 3 classes, got 'T-shirt/top Trouser "),
    ],
)
def test_bad_input_gets_a_sentence(monkeypatch, capsys, folder, arguments, sentence):
    monkeypatch.setattr(sys, "argv", ["mislabeled.py", str(folder), *arguments])
    assert script.main() == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(f"mislabeled.py: {sentence}")


@pytest.mark.parametrize("dataset", ["iris", "diabetes"])
def test_a_dataset_without_images_is_refused(monkeypatch, capsys, dataset):
    monkeypatch.setattr(sys, "argv", ["mislabeled.py", "--dataset", dataset])
    assert script.main() == 2
    sentence = f"expected --dataset to hold images of two or more classes, got '{dataset}'"
    assert capsys.readouterr() == ("", f"mislabeled.py: {sentence}\n")
