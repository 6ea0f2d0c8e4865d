"""Texts of tokens: from the model's own tokenizer.json, hostile ones harmless, missing and broken ones said so."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from embedding_models import NAME, planted, save_model, save_tokenizer
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

import netweight
from netweight.checkpoint.place import LocalPlace
from netweight.errors import OptionError
from netweight.jobs.embeddings.tokens import open_tokens


def byte_level(folder, extra: tuple[str, ...] = ()) -> None:
    """A tokenizer over bytes, as GPT-2's, with a few merges and words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, "ab", "\u0120c", *extra])}
    tokenizer = Tokenizer(BPE(vocabulary, [("a", "b"), ("\u0120", "c")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))


def test_texts_of_a_byte_level_tokenizer(tmp_path) -> None:
    byte_level(tmp_path)
    tokens, said = open_tokens(LocalPlace(tmp_path))
    assert tokens is not None
    assert said == "tokenizer.json: 259 tokens"
    by_piece = {piece: i for i, piece in tokens.pieces.items()}
    asked = [by_piece["ab"], by_piece["\u0120c"], by_piece["<|endoftext|>"], 100_000, by_piece["\u00e9"]]
    # \u00e9 stands for the byte E9, which is no text by itself: its spelling is shown
    assert tokens.texts(asked) == ["ab", " c", "<|endoftext|>", None, "\u00e9"]
    assert [tokens.is_word(i, t) for i, t in zip(asked, tokens.texts(asked), strict=True)] == [True, *[False] * 4]
    unused = tokens.unused(261)
    assert {i for i, why in unused.items() if why == "no token has this id"} == {259, 260}
    impossible = {bytes([b]).decode("latin-1") for b in (0xC0, 0xC1, *range(0xF5, 0x100))}
    assert {tokens.pieces[i] for i, why in unused.items() if why.startswith("a byte")} == impossible


def test_a_file_beside_which_the_tokenizer_lies(tmp_path) -> None:
    x, _ = planted(60, 8, 2, apart=4)
    model = save_model(tmp_path, {NAME: x})
    save_tokenizer(model, [f"word{i}" for i in range(60)])
    found = netweight.embeddings(model / "model.safetensors", max_k=3)
    assert found.texts == tuple(f"word{i}" for i in range(60))


def test_words_among_the_nearest(tmp_path) -> None:
    x, _ = planted(90, 8, 3, apart=6)
    model = save_model(tmp_path, {NAME: x})
    words = [f"word{i}" if i % 5 == 0 else "\u97e9" + str(i) if i % 7 == 0 else f"{i}," for i in range(90)]
    save_tokenizer(model, words, special=())
    found = netweight.embeddings(model, max_k=5)
    for cluster in found.clusters:
        first = cluster.representatives[0]
        assert cluster.representative_text == first.text == words[first.token_id]
        assert cluster.meaningful_text is not None
        assert "word" in cluster.meaningful_text or "\u97e9" in cluster.meaningful_text


def test_no_tokenizer_and_broken_ones(tmp_path) -> None:
    x, _ = planted(60, 8, 2, apart=4)
    model = save_model(tmp_path / "m", {NAME: x})
    missing = "tokenizer.json is not beside the model: tokens are shown by their ids alone"
    found = netweight.embeddings(model, tmp_path / "out", max_k=3)
    assert found.tokenizer == missing
    assert missing in found.notes
    assert found.clusters[0].representative_text is None
    assert len(found.clusters[0].representatives) == 10
    for text in ("", "{", "[]", "null", '{"model": {"type": "BPE"}}', "\x00" * 50, '{"model": ' + "[" * 5000):
        (model / "tokenizer.json").write_text(text)
        tokens, said = open_tokens(LocalPlace(model))
        assert tokens is None
        assert said.startswith("tokenizer.json cannot be used, tokens are shown by their ids alone: ")
        assert "\n" not in said
    skipped = netweight.embeddings(model, tmp_path / "out2", max_k=3, skip_representatives=True)
    assert skipped.tokenizer == "not read: --skip-representatives"
    assert not (tmp_path / "out2" / "cluster_representatives.json").exists()
    assert skipped.clusters[0].representatives == ()


HOSTILE = [
    "=cmd()",
    "\x1b[31mred",
    "a\nb",
    "<script>alert(1)</script>",
    "[bold]x[/bold]",
    "$x^2$",
    "x" * 5000,
    "\u202eabc",
]


def test_hostile_tokens(tmp_path, capsys) -> None:
    x, _ = planted(40, 8, 2, apart=6)
    model = save_model(tmp_path / "m", {NAME: x})
    words = [HOSTILE[i % 8] + " " * (i // 8) for i in range(40)]
    save_tokenizer(model, words)
    found = netweight.embeddings(model, tmp_path / "out", max_k=3, n_representatives=40)
    summary = (tmp_path / "out" / "embedding_clusters_summary.csv").read_text()
    assert "\x1b" not in summary
    assert len(summary.splitlines()) == 1 + found.optimal_k
    for row in csv.DictReader(summary.splitlines()):
        assert not row["representative_text"].startswith("=")
    assert "<script>" not in found._repr_html_()
    named = json.loads((tmp_path / "out" / "cluster_representatives.json").read_text())
    texts = {r["text"] for c in named for r in c["representatives"]}
    assert max(map(len, texts)) == 200
    from netweight.views.embeddings import show_embeddings, show_neighbours

    show_embeddings(found, verbose=True)
    show_neighbours(netweight.nearest_tokens(model, list(range(8)), count=20))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[bold]" in shown


def test_nearest_tokens(tmp_path) -> None:
    x, _ = planted(300, 24, 4, apart=1)
    model = save_model(tmp_path, {NAME: x})
    save_tokenizer(model, [f"word{i}" for i in range(300)])
    wide = x.astype(np.float64)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    found = netweight.nearest_tokens(model, ["word7", 12, "text:word9"], count=5)
    assert len(found.rows) == 15
    for number, rows in ((7, found.rows[:5]), (12, found.rows[5:10]), (9, found.rows[10:])):
        cosines = unit @ unit[number]
        cosines[number] = -2
        order = np.argsort(-cosines)[:5]
        assert [r.neighbour_id for r in rows] == order.tolist()
        assert [r.cosine for r in rows] == pytest.approx(cosines[order], abs=1e-6)
        assert [r.neighbour_text for r in rows] == [f"word{i}" for i in order]
        assert [r.rank for r in rows] == [1, 2, 3, 4, 5]
    assert found.to_dict()["neighbours"][0]["token_id"] == 7
    assert len(found.frame) == 15
    assert "word7" in found._repr_html_()


def test_tokens_that_are_not_there(tmp_path) -> None:
    x, _ = planted(30, 8, 2, apart=4)
    x[3] = 0
    model = save_model(tmp_path, {NAME: x})
    with pytest.raises(OptionError, match=r"--nearest cat: tokenizer.json is not beside the model: .*; give an id"):
        netweight.nearest_tokens(model, ["cat"])
    byte_level(model)
    with pytest.raises(OptionError, match="--nearest 30: expected an id below 30, the number of rows"):
        netweight.nearest_tokens(model, [30])
    with pytest.raises(OptionError, match="--nearest 3: its row is 0 or holds NaN or infinities"):
        netweight.nearest_tokens(model, ["3"])
    with pytest.raises(OptionError, match=r"--nearest xyz: is 3 tokens .*; give one of them by its id"):
        netweight.nearest_tokens(model, ["xyz"])
    with pytest.raises(OptionError, match="--neighbours 0: expected 1 or more"):
        netweight.nearest_tokens(model, [1], count=0)
    empty = tmp_path / "empty"
    save_model(empty, {NAME: x})
    save_tokenizer(empty, ["[UNK]", "cat"])
    assert netweight.nearest_tokens(empty, ["cat"], count=1).rows[0].token_id == 1


def test_equal_cosines_are_in_the_order_of_ids(tmp_path) -> None:
    """Rows of +-1, some of them longer by a power of two: their cosines are exact, and many are equal."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (6, 16))[rng.integers(0, 6, 300)]
    rows = signs * np.exp2(rng.integers(-3, 4, 300))[:, None]
    model = save_model(tmp_path / "m", {"model.embed_tokens.weight": rows.astype(np.float32)})
    cosines = signs @ signs.T / 16
    for token, count in ((0, 299), (17, 20), (299, 130)):
        others = [i for i in range(300) if i != token]
        expected = sorted(others, key=lambda i: (-cosines[token, i], i))[:count]
        found = netweight.nearest_tokens(model, [token], count=count)
        assert [row.neighbour_id for row in found.rows] == expected
        assert [row.rank for row in found.rows] == list(range(1, count + 1))
        assert [row.cosine for row in found.rows] == [cosines[token, i] for i in expected]
