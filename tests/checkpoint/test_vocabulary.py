"""Vocabularies in every form that models have them, against the libraries that write them; broken ones are one line."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer, models

from netweight.checkpoint.place import LocalPlace
from netweight.checkpoint.vocabulary import MAX_TOKENIZER, read_vocabulary
from netweight.errors import FormatError, JobError, NetweightError

WORDS = {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "\u00e9": 4, "##c": 5}


def of(folder):
    return read_vocabulary(LocalPlace(folder))


@pytest.mark.parametrize(
    "model",
    [
        models.BPE(WORDS, [("a", "b")], unk_token="<unk>"),
        models.WordPiece(WORDS, unk_token="<unk>"),
        models.WordLevel(WORDS, unk_token="<unk>"),
        models.Unigram([(word, -float(n)) for word, n in WORDS.items()], 0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_tokenizer_json(tmp_path, model):
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens([AddedToken("<s>"), AddedToken("a", special=True)])
    tokenizer.add_tokens([AddedToken("new", single_word=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = of(tmp_path)
    assert found.ids == tokenizer.get_vocab(with_added_tokens=True)
    assert set(found.added) == {"<s>", "a", "new"}
    assert (found.added["new"]["single_word"], found.added["<s>"]["special"]) == (True, True)
    assert found.tokens == {number: token for token, number in found.ids.items()}
    (tmp_path / "vocab.json").write_text("{}")  # tokenizer.json is what is loaded
    assert of(tmp_path).ids == found.ids


def test_the_files_of_slow_tokenizers(tmp_path):
    assert of(tmp_path) is None
    (tmp_path / "vocab.txt").write_bytes("[PAD]\n\u00e9\r\n##c\n".encode())
    assert of(tmp_path).ids == {"[PAD]": 0, "\u00e9": 1, "##c": 2}
    (tmp_path / "vocab.json").write_text(json.dumps(WORDS))
    (tmp_path / "added_tokens.json").write_text('{"<new>": 6}')
    assert of(tmp_path).ids == WORDS | {"<new>": 6}
    assert set(of(tmp_path).added) == {"<new>"}


def test_a_sentencepiece_model(tmp_path):
    library = pytest.importorskip("sentencepiece")
    text = tmp_path / "text.txt"
    text.write_text("the weights of the model are the weights that are merged\n" * 20)
    library.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "m"), vocab_size=40, minloglevel=2, hard_vocab_limit=False
    )
    (tmp_path / "m.model").rename(tmp_path / "tokenizer.model")
    processor = library.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert of(tmp_path).ids == {processor.id_to_piece(n): n for n in range(processor.get_piece_size())}
    (tmp_path / "tokenizer.model").write_bytes(b"\xff\xfe no model")
    with pytest.raises(FormatError, match=r"tokenizer\.model: is no SentencePiece model"):
        of(tmp_path)


def test_sentencepiece_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    (tmp_path / "tokenizer.model").write_bytes(b"\n")
    with pytest.raises(JobError, match=r"needs sentencepiece, which is not installed: pip install 'netweight\[sent"):
        of(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", ""),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", "[" * 100_000),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"model": 3}'),
        ("tokenizer.json", '{"model": {"vocab": 3}}'),
        ("tokenizer.json", '{"model": {"vocab": {"a": true}}}'),
        ("tokenizer.json", '{"model": {"vocab": {"a": 1e3}}}'),
        ("tokenizer.json", '{"model": {"vocab": {"a": 99999999999}}}'),
        ("tokenizer.json", '{"model": {"vocab": {"a": 4194304}}}'),
        ("tokenizer.json", '{"model": {"vocab": [3]}}'),
        ("tokenizer.json", '{"model": {"vocab": [["a"]]}}'),
        ("tokenizer.json", '{"model": {"vocab": [["a", "b"]]}}'),
        ("tokenizer.json", '{"model": {"vocab": []}, "added_tokens": 3}'),
        ("tokenizer.json", '{"model": {"vocab": []}, "added_tokens": [3]}'),
        ("tokenizer.json", '{"model": {"vocab": []}, "added_tokens": [{"id": 3}]}'),
        ("vocab.json", '{"\\u001b[31ma": -1}'),
    ],
)
def test_broken_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(FormatError) as caught:
        of(tmp_path)
    message = str(caught.value)
    assert name in message
    assert message.isprintable()


def test_what_is_too_large_or_elsewhere(tmp_path):
    with (tmp_path / "vocab.txt").open("wb") as file:
        file.truncate(MAX_TOKENIZER + 1)
    with pytest.raises(FormatError, match="expected at most"):
        of(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "tokenizer.json").symlink_to(tmp_path / "vocab.txt")
    with pytest.raises(NetweightError, match="outside its folder"):
        of(tmp_path / "sub")
