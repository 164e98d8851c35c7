"""Networks for images, sequences and text, trained, continued, swept and checked from the command line."""

import json
import re
from functools import cache

import numpy as np
import pytest
from support.examples import write_images, write_sequences, write_text
from support.programs import call
from support.runs import BARE, assert_same_run, call_predict, call_train, read_rows

import jaxann
from jaxann.cli import gradcheck, sweep

SETTINGS = {
    "lenet": (
        *("images.npz", "--network", "lenet", "--batch-size", 16, "--learning-rate", 0.01, "--schedule", "constant"),
        *("--crop", 1, "--flip"),
    ),
    "resnet": (
        *("images.npz", "--network", "resnet", "--widths", 4, 8, "--batch-size", 16, "--learning-rate", 0.01),
        *("--schedule", "constant"),
    ),
    "gru": ("sequences.npz", "--network", "gru", "--hidden", 6, "--batch-size", 16, "--bidirectional"),
    "lstm": (
        *("text.txt", "--network", "lstm", "--hidden", 8, "--context", 12, "--learning-rate", 0.01),
        *("--schedule", "constant"),
    ),
    "transformer": (
        *("text.txt", "--network", "transformer", "--width", 8, "--heads", 2, "--blocks", 1, "--context", 12),
        *("--learning-rate", 0.01, "--schedule", "constant", "--dropout", 0.1),
    ),
}
SLOW = ("lenet", "resnet", "gru", "lstm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the data of `SETTINGS`."""
    path = tmp_path_factory.mktemp("networks")
    write_images(path / "images.npz")
    write_sequences(path / "sequences.npz")
    write_text(path / "text.txt")
    return path


@pytest.fixture(scope="module")
def trained(folder):
    """Returns a function that trains a network for three epochs, once, and returns what it printed."""

    @cache
    def train(network):
        settings = (*SETTINGS[network], *BARE, "--checkpoint-seconds", 0)
        ended = call_train(folder, *settings, "--epochs", 3, "--run", network)
        assert ended.code == 0, ended.err
        rows = read_rows(folder / network)
        assert rows[-1]["loss"] < rows[0]["loss"]
        return ended.out

    return train


@pytest.mark.parametrize("network", ["transformer", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_run_is_the_same_when_it_is_continued(folder, trained, network):
    settings = (*SETTINGS[network], *BARE, "--checkpoint-seconds", 0, "--run", f"{network}-parts")
    assert call_train(folder, *settings, "--epochs", 1).code == 0
    assert call_train(folder, "--resume", f"{network}-parts", "--epochs", 3).code == 0
    trained(network)
    assert_same_run(folder / network, folder / f"{network}-parts")


@pytest.mark.parametrize(
    "network", ["lenet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet", "gru"))]
)
def test_a_network_predicts_from_features_in_one_row_and_prints_its_shapes(folder, trained, network):
    trained(network)
    source, run = SETTINGS[network][0], jaxann.load(folder / network)
    predicted = call_predict(folder, network, "--input", source).out.splitlines()[1:]
    with np.load(folder / source) as data:
        x, shape = data["x"].reshape(len(data["x"]), -1), data["x"].shape[1:]
    np.testing.assert_array_equal(run.predict(x), [line.split(",")[0] for line in predicted])
    assert json.loads((folder / network / "data.json").read_text())["shape"] == list(shape)
    assert run.model.input_shape == x.shape[1:]
    assert str(shape) in str(run.model)


@pytest.mark.parametrize("network", ["transformer", pytest.param("lstm", marks=pytest.mark.slow)])
def test_a_network_of_text_shows_samples_and_continues_a_prompt(folder, trained, network):
    out = trained(network)
    assert [int(epoch) for epoch in re.findall(r"^sample after epoch (\d+):$", out, re.MULTILINE)] == [1, 2, 3]
    text = call_predict(folder, network, "--prompt", "the cat", "--length", 20).out
    assert text == "the cat" + jaxann.load(folder / network).generate("the cat", length=20) + "\n"
    assert len(text) == len("the cat") + 20 + 1
    other = call_predict(folder, network, "--prompt", "the cat", "--length", 20, "--seed", 1).out
    assert other != text


def test_what_a_text_is_scored_by(folder):
    """The baseline gives each character its frequency in the training part, with one added to each count."""
    settings = ("text.txt", "--network", "gru", "--hidden", 16, "--context", 16, "--learning-rate", 0.02, *BARE)
    ended = call_train(folder, *settings, "--epochs", 8, "--batch-size", 16, "--run", "scores")
    assert ended.code == 0, ended.err
    scores = json.loads((folder / "scores" / "result.json").read_text())["scores"]
    assert list(scores) == ["bits_per_character", "perplexity", "token_accuracy"]
    bits, perplexity = scores["bits_per_character"], scores["perplexity"]
    for who in ("network", "baseline"):
        assert 2 ** bits[who] == pytest.approx(perplexity[who], rel=1e-9)  # tokens are characters
    text = (folder / "text.txt").read_text()
    end = len(text) - -(-len(text) // 10)
    train, test = text[: end - -(-end // 10)], text[end:]
    frequency = {c: (train.count(c) + 1) / (len(train) + len(set(text))) for c in set(text)}
    expected = -np.mean([np.log2(frequency[c]) for c in test[1 : 1 + 16 * ((len(test) - 1) // 16)]])
    assert bits["baseline"] == pytest.approx(expected, rel=1e-2)
    assert bits["network"] < 0.8 * bits["baseline"]
    assert scores["token_accuracy"]["network"] > scores["token_accuracy"]["baseline"]
    assert f"held-out bits per character: {bits['network']:.3f} (" in ended.out


@pytest.mark.slow
def test_a_text_in_tokens_of_a_file_is_scored_by_its_characters(folder):
    """A run keeps the tokenizer, and continues a prompt when the file is gone."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer, made.decoder = tokenizers.pre_tokenizers.ByteLevel(False), tokenizers.decoders.ByteLevel()
    made.train([str(folder / "text.txt")], tokenizers.trainers.BpeTrainer(vocab_size=50))
    made.save(str(folder / "tokenizer.json"))
    settings = (*SETTINGS["transformer"], *BARE, "--tokenizer", "tokenizer.json")
    assert call_train(folder, *settings, "--epochs", 2, "--run", "tokens").code == 0
    (folder / "tokenizer.json").unlink()
    scores = json.loads((folder / "tokens" / "result.json").read_text())["scores"]
    targets = json.loads((folder / "tokens" / "data.json").read_text())["targets"]
    assert targets["characters_per_token"] > 1.5
    bits = np.log2(scores["perplexity"]["network"]) / targets["characters_per_token"]
    assert scores["bits_per_character"]["network"] == pytest.approx(bits, rel=1e-9)
    ended = call_predict(folder, "tokens", "--prompt", "the cat", "--length", 10)
    assert ended.out.startswith("the cat")
    assert len(ended.out) > len("the cat") + 10
    resumed = call_train(folder, "--resume", "tokens", "--epochs", 3)
    assert (resumed.code, resumed.sentence) == (2, "train.py: no such file: tokenizer.json")


@pytest.mark.slow
@pytest.mark.parametrize("network", SETTINGS)
def test_every_network_trains_on_two_devices_and_in_bfloat16(folder, network):
    common = (*SETTINGS[network], *BARE, "--epochs", 2)
    one = call_train(folder, *common, "--run", f"{network}-one")
    two = call_train(folder, *common, "--devices", 2, "--run", f"{network}-two")
    assert one.code == two.code == 0, two.err
    for row, other in zip(read_rows(folder / f"{network}-one"), read_rows(folder / f"{network}-two"), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-6)
    assert call_train(folder, *common, "--precision", "bfloat16").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("network", SETTINGS)
def test_every_network_is_checked_and_swept(folder, network):
    settings, grid = SETTINGS[network], ("--grid", "learning_rate=0.001,0.01", "--seeds", 2, "--epochs", 2)
    named = ("--dataset", *settings, "--precision", "float64")
    checked = call(gradcheck.main, *named, folder=folder)
    assert checked.code == 0, checked.out
    swept = call(sweep.main, *settings, *grid, "--top", 1, "--out", f"{network}-sweep", folder=folder)
    assert swept.code == 0, swept.err
    rows = [json.loads(line) for line in (folder / f"{network}-sweep" / "members.jsonl").read_text().splitlines()]
    assert (len(rows), any(row["diverged"] for row in rows)) == (4, False)
    assert (folder / f"{network}-sweep" / "top" / "1-seed0" / "result.json").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("text.txt", "--network", "transformer", "--context", 900), "expected --context to be below .* tokens in the"),
        (
            ("table.npz", "--network", "lenet"),
            r"--network to fit the examples of shape \(5,\) of table.npz \(lenet takes images \[",
        ),
        (
            ("gray.npz", "--network", "resnet"),
            r"the examples of shape \(6, 6\) of gray.npz \(resnet takes images \[height",
        ),
        (("wine", "--network", "lstm"), r"--network to fit the features of wine \(lstm takes text or sequences"),
        (
            ("images.npz", "--network", "gru"),
            r"examples of shape \(8, 8, 1\) of images.npz \(gru takes text or sequ",
        ),
        (
            ("pydoc", "--network", "mlp"),
            "--network to be gru, lstm, transformer for the text pydoc, got 'mlp'",
        ),
        (("none.txt", "--network", "lstm"), "no such file: none.txt"),
        (("text.txt",), r"got the names alone \(text.txt is read as text with --network transformer\)$"),
        (
            ("objects.npz", "--network", "lenet"),
            "expected numbers or text in array x of .*, got Python objects, as",
        ),
        (
            ("images.npz", "--network", "lenet", "--dropout", 0.1),
            "--dropout only for the networks mlp, transformer, not for lenet",
        ),
        (
            ("images.npz", "--network", "lenet", "--hidden", 7),
            "--hidden only for the networks mlp, gru, lstm, not for",
        ),
        (("images.npz", "--network", "resnet", "--widths", 0), "expected --widths to be sizes of at least 1"),
        (("wine", "--crop", 1), "expected --crop only for images, which wine does not hold, got 1"),
        (("wine", "--context", 9), "expected --context only for text, and mlp reads wine as a table, got 9"),
        (
            ("table.npz", "--network", "transformer"),
            r"--network to fit the table table.npz \(transformer takes text\), got",
        ),
        (
            ("tiny.npz", "--network", "lenet"),
            r"shape \(3, 3, 1\) of tiny.npz \(lenet takes images with sides of",
        ),
        (
            ("one.txt", "--network", "lstm"),
            "expected at least 2 tokens in the training part of one.txt, got",
        ),
        (("images.npz", "--network", "lenet", "--batch-size", 90), "expected --batch-size between 1 and 43 .*, got 90"),
        (("text.txt", "--network", "lstm", "--target", "a"), "expected --target to be left out for text, got 'a'"),
        (
            ("text.txt", "--network", "lstm", "--loss", "hinge"),
            "softmax_cross_entropy for text, got 'hinge'",
        ),
        (
            ("text.txt", "--network", "lstm", "--score", "r2"),
            "--score to be loss, bits_per_character, .* for text",
        ),
        (("text.txt", "--network", "transformer", "--heads", 3), "expected --heads to divide the width 128, got 3"),
        (
            ("text.txt", "--network", "lstm", "--bidirectional"),
            "--bidirectional to be left out for text, which",
        ),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(folder, arguments, sentence):
    np.savez(folder / "table.npz", x=np.ones((30, 5)), t=np.arange(30) % 3)
    np.savez(folder / "gray.npz", x=np.ones((30, 6, 6)), t=np.arange(30) % 3)
    np.savez(folder / "tiny.npz", x=np.ones((30, 3, 3, 1)), t=np.arange(30) % 3)
    (folder / "one.txt").write_text("a")
    images = np.array([np.ones((8, 8, 1)), np.ones((9, 8, 1))], object)
    np.savez(folder / "objects.npz", x=images, t=np.arange(2))
    ended = call_train(folder, *arguments)
    assert ended.code == 2
    assert re.search(sentence, ended.sentence), ended.sentence
    assert len(ended.err.splitlines()) == 1


def test_bad_prompts_get_one_sentence_and_exit_code_2(folder, trained):
    trained("transformer")
    for arguments, sentence in {
        (): "expected --prompt to be the beginning of a text, because transformer learned from text, got None",
        ("--prompt", "Ω"): "in the prompt, expected characters of the text that the network was trained on, got 'Ω'",
        ("--prompt", ""): "expected --prompt to have 1 to 12 tokens, the context of the network, got 0",
        ("--prompt", "the cat sat on"): "expected --prompt to have 1 to 12 tokens, the context of the network, got 14",
        ("--prompt", "a", "--temperature", -1): "expected --temperature of at least 0, got -1.0",
        (
            "--prompt",
            "a",
            "--input",
            "text.txt",
        ): "expected --input to be left out for transformer, which learned from",
        ("--prompt", "a", "--length", 0): "expected --length of at least 1, got 0",
        ("--prompt", "a", "--output", "a.csv"): "expected --output to end with .txt, got a.csv",
    }.items():
        ended = call_predict(folder, "transformer", *arguments)
        assert (ended.code, len(ended.err.splitlines())) == (2, 1)
        assert re.match(f"predict.py: {re.escape(sentence)}", ended.sentence), ended.sentence
    with pytest.raises(ValueError, match=r"^expected a run of a table, got .*, a run of a text, which has `generate`$"):
        jaxann.load(folder / "transformer").predict(np.ones((1, 12)))
