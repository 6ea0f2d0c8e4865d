"""The full test of models made by numpy: which block is which, whatever the order, and what it cannot take."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from fine_tunes import changed, noise
from lineage_models import relayered, reordered, save, start
from safetensors.numpy import save_file

import netweight
from netweight.cli.main import cli
from netweight.errors import JobError, OptionError


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save(tmp_path_factory.mktemp("confirm") / "base", start(1))


def test_a_copy_in_another_order_with_layers_cut_and_moved(base, tmp_path) -> None:
    copy = save(tmp_path / "copy", reordered(relayered(changed(start(1), noise(0.3), ""), [3, 0, 2])))
    found = netweight.confirm(base, copy)
    assert (found.verdict, found.how) == ("one start", "reordered")
    assert [(layer.b, layer.a) for layer in found.layers] == [("0", "3"), ("1", "0"), ("2", "2")]
    assert all(min(layer.cosine.values()) > 0.9 for layer in found.layers)
    assert all(min(layer.alignment.values()) > 0.8 for layer in found.layers)
    stranger = netweight.confirm(base, save(tmp_path / "stranger", start(2)))
    assert stranger.verdict == "no trace of one start"
    assert all(abs(value) < 0.1 for layer in stranger.layers for value in layer.alignment.values())


@pytest.mark.parametrize("turned", [False, True])
def test_the_narrower_of_two_is_looked_for_in_the_wider(base, tmp_path, turned) -> None:
    kept = np.sort(np.random.default_rng(3).choice(320, 200, replace=False))
    thin = {n: w[:, kept] if "down_proj" in n else w[kept] if "mlp" in n else w for n, w in start(1).items()}
    pair = [base, save(tmp_path / "thin", thin, intermediate_size=200)]
    found = netweight.confirm(*(pair[::-1] if turned else pair), output=tmp_path / "found.json")
    assert (found.a, found.b, found.narrowed) == ("base", "thin", ("200 of 320 units",))
    assert found.verdict == "one start"
    assert json.loads((tmp_path / "found.json").read_text())["verdict"] == "one start"


def test_a_block_of_fewer_units_has_no_rank(base, tmp_path) -> None:
    """Of two models of which each is wider somewhere: what is not one by one has no rank correlation, and no NaN."""
    model = start(1)
    cut = {n: w[:, :100] if "1.mlp.down" in n else w[:100] if "1.mlp" in n else w for n, w in model.items()}
    mixed = save(tmp_path / "mixed", cut)
    found = netweight.confirm(mixed, base, output=tmp_path / "x.json")
    held = json.loads((tmp_path / "x.json").read_text())
    assert found.verdict == held["verdict"] == "one start"


def test_tokens_are_paired_by_spelling(base, tmp_path) -> None:
    """Rows in another order, said by the tokenizers; and tokenizers that share nothing."""
    order = np.random.default_rng(4).permutation(300)
    model = start(1)
    moved = {n: w[order] if w.shape[0] == 300 else w for n, w in model.items()}
    one, two, other = (save(tmp_path / name, held) for name, held in (("one", model), ("two", moved), ("other", moved)))
    for folder, words in ((one, range(300)), (two, order), (other, range(1000, 1300))):
        (folder / "vocab.json").write_text(json.dumps({f"t{word}": at for at, word in enumerate(map(int, words))}))
    found = netweight.confirm(one, two)
    assert (found.verdict, found.how, found.pairing) == ("one start", "in order", "by the spelling of 300 tokens")
    with pytest.raises(JobError, match="share 0 tokens"):
        netweight.confirm(one, other)
    (two / "vocab.json").write_text("{")
    assert "cannot be read" in netweight.confirm(one, two).pairing


def test_models_that_it_cannot_take(base, tmp_path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "net").mkdir()
    save_file(
        {f"{i}.weight": rng.normal(size=(16, 16)).astype("f4") for i in range(3)},
        tmp_path / "net" / "model.safetensors",
    )
    with pytest.raises(JobError, match="no MLP in numbered layers"):
        netweight.confirm(base, tmp_path / "net")
    bare = {n: w for n, w in start(1).items() if "embed" not in n}
    with pytest.raises(JobError, match="no token embedding"):
        netweight.confirm(base, save(tmp_path / "bare", bare))


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--confirm", "a", "b", "--check"], "--check"),
        (["--confirm", "a", "b", "--index", "x"], "--index"),
        (["index", "a", "-o", "x", "--report", "x.html"], "--report"),
        (["index", "a", "-o", "x", "--confirm"], "--confirm"),
    ],
)
def test_no_option_is_ignored(words, option) -> None:
    with pytest.raises(OptionError, match=f"{option}: has no effect"):
        CliRunner().invoke(cli, ["lineage", *words], catch_exceptions=False)


def test_a_model_that_cannot_be_read_leaves_its_claims_undecided(base, tmp_path) -> None:
    tuned = save(tmp_path / "tuned", changed(start(1), noise(0.05), ""), "base_model: base")
    words = ["lineage", str(base), str(tuned), "--check"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"x")
    assert CliRunner().invoke(cli, [*words, str(tmp_path / "broken")]).exit_code == 4
