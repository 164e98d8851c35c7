"""Text as parts: windows that lie side by side, the next token of each token, and what is refused."""

import re

import numpy as np
import pytest

from jaxann.data.text_parts import DOCUMENTATION, load_text, read_text
from jaxann.nn.hyperparameters import SettingError


@pytest.fixture
def text(tmp_path):
    """A file of 1000 characters, no two neighbours of which are equal."""
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(97 + i * i % 26) for i in range(1000)))
    return str(path)


def test_the_windows_of_each_part_are_its_text_and_targets_are_one_token_ahead(text):
    parts = load_text(text, context=7, held_out=0.1, validation=0.2)
    content = read_text(text)
    pieces = {"train": content[:720], "validation": content[720:900], "test": content[900:]}
    for name, piece in pieces.items():
        part = getattr(parts, name)
        assert part.x.shape == part.t.shape == ((len(piece) - 1) // 7, 7)
        assert parts.tokenizer.decode(part.x.ravel()) == piece[: part.x.size]
        assert parts.tokenizer.decode(part.t.ravel()) == piece[1 : part.x.size + 1]
    assert parts.characters_per_token == 1
    assert load_text(text, context=7).validation is None
    assert len(load_text(text, context=7).test.x) == 14  # a tenth by default


def test_the_documentation_of_python_is_a_text():
    assert len(read_text(DOCUMENTATION)) > 400_000
    assert "statement" in read_text(DOCUMENTATION)


def test_a_tokenizers_text_counts_its_characters(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "bb": 1, " ": 2}, unk_token=" "))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "words.json"))
    (tmp_path / "words.txt").write_text("a bb " * 100)
    options = {"context": 3, "tokenizer": str(tmp_path / "words.json"), "validation": 0.1}
    parts = load_text(str(tmp_path / "words.txt"), **options)
    assert parts.characters_per_token == pytest.approx(2.5, abs=0.05)
    np.testing.assert_array_equal(np.sort(np.unique(parts.train.x)), [0, 1])


@pytest.mark.parametrize(
    ("content", "settings", "sentence"),
    [
        (
            "abc" * 100,
            {"context": 30},
            r"expected context to be below 30 \(the number of tokens in the test part of .*\), got 30",
        ),
        ("abc" * 100, {"context": 28, "validation": 0.1}, r"below 27 \(the number of tokens in the validation part"),
        ("", {}, "expected a text, got an empty file: .*text.txt"),
        ("abc" * 100, {"context": 0}, "expected context of at least 1, got 0"),
        ("abc" * 100, {"held_out": 1.0}, "expected held_out between 0 and 1, excluding 0 and 1, got 1.0"),
        (None, {}, "no such file: .*text.txt"),
        (b"\xff\xfe\xfd", {}, "expected text in UTF-8 in .*text.txt, got other bytes at position 0"),
    ],
)
def test_what_does_not_fit_gets_a_sentence(tmp_path, content, settings, sentence):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((ValueError, SettingError)) as caught:
        load_text(str(path), **({"context": 5} | settings))
    assert re.search(sentence, str(caught.value)), str(caught.value)
