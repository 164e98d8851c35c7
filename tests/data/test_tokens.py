"""Tokens of text: characters and tokenizers of a file, and the way back."""

import json
import sys

import numpy as np
import pytest

from jaxann.data.tokens import CharacterTokenizer, TokenizerFile, from_json, read_tokenizer


def test_characters_are_numbered_in_their_order_and_come_back():
    tokenizer = CharacterTokenizer.fit("héllo\nworld")
    assert tokenizer.alphabet == "\ndhlorwé"
    tokens = tokenizer.encode("world")
    assert (tokens.dtype, tokenizer.size) == (np.int32, 8)
    assert [tokenizer.alphabet[token] for token in tokens] == list("world")
    assert tokenizer.decode(tokens) == "world"
    assert from_json(json.loads(json.dumps(tokenizer.to_json()))) == tokenizer
    sentence = "^expected characters of the text that the network was trained on, got 'X'$"
    with pytest.raises(ValueError, match=sentence):
        tokenizer.encode("wXY")


@pytest.mark.parametrize(
    "content", [None, [], {}, {"alphabet": ""}, {"alphabet": "ba"}, {"alphabet": "aa"}, {"alphabet": 1}, {"a": "ab"}]
)
def test_what_is_no_tokenizer_gets_a_sentence(content):
    with pytest.raises(ValueError, match=r"^expected a tokenizer, got "):
        from_json(content)


def test_a_tokenizer_of_a_file_keeps_text_and_itself(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer, made.decoder = tokenizers.pre_tokenizers.ByteLevel(), tokenizers.decoders.ByteLevel()
    made.train_from_iterator(["the cat sat on the mat", "the dog"] * 9, tokenizers.trainers.BpeTrainer(vocab_size=60))
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    tokenizer = read_tokenizer(str(path))
    tokens = tokenizer.encode("the cat")
    assert len(tokens) < len("the cat")
    assert (tokens.dtype, tokenizer.size) == (np.int32, made.get_vocab_size())
    assert tokenizer.decode(tokens).strip() == "the cat"
    again = from_json(json.loads(json.dumps(tokenizer.to_json())))
    np.testing.assert_array_equal(again.encode("the cat"), tokens)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"^.*tokenizer.json: expected the file of a tokenizer of the package tokeni"):
        read_tokenizer(str(path))


def test_files_that_cannot_be_read_and_a_missing_package_get_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^no such file: none.json$"):
        read_tokenizer("none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"bytes.json cannot be read: "):
        read_tokenizer(str(tmp_path / "bytes.json"))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"^a tokenizer needs tokenizers: pip install 'jaxann\[text\]'$"):
        TokenizerFile("{}")
