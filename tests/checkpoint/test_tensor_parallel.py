"""Meta's tensor-parallel files, cut as the llama repository's layers cut them, against the whole tensors."""

from __future__ import annotations

import pytest

import netweight
from netweight.errors import FormatError, ModelNotFoundError

torch = pytest.importorskip("torch")

# heads 4 of size 4, heads of keys 2, feed-forward 24, vocabulary 20
SHAPES = {
    "attention.wq": (16, 16, 0), "attention.wk": (8, 16, 0), "attention.wv": (8, 16, 0), "attention.wo": (16, 16, 1),
    "feed_forward.w1": (24, 16, 0), "feed_forward.w2": (16, 24, 1), "feed_forward.w3": (24, 16, 0),
}  # fmt: skip


def llama(embeddings: int):
    """The whole tensors, and the axis that each is cut along (None: every file has it)."""
    made = torch.Generator().manual_seed(0)
    cut = {"tok_embeddings.weight": (20, 16, embeddings), "output.weight": (20, 16, 0)}
    cut |= {f"layers.{i}.{name}.weight": shape for i in range(2) for name, shape in SHAPES.items()}
    whole = {name: torch.randn(rows, cols, generator=made).to(torch.bfloat16) for name, (rows, cols, _) in cut.items()}
    axes = {name: axis for name, (_, _, axis) in cut.items()}
    for name in ("norm.weight", *(f"layers.{i}.{kind}_norm.weight" for i in range(2) for kind in ("attention", "ffn"))):
        whole[name], axes[name] = torch.randn(16, generator=made).to(torch.bfloat16), None
    return whole, axes


def write(folder, whole, axes, count, change=lambda rank, name, part: part):
    folder.mkdir(exist_ok=True)
    for rank in range(count):
        parts = {
            name: change(rank, name, (tensor if axes[name] is None else tensor.chunk(count, axes[name])[rank]).clone())
            for name, tensor in whole.items()
        }
        parts = {name: part for name, part in parts.items() if part is not None}
        if rank == 0:
            parts["rope.freqs"] = torch.arange(2.0)
        torch.save(parts, folder / f"consolidated.{rank:02}.pth")
    return folder


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("embeddings", [0, 1])
def test_the_whole_is_read(tmp_path, embeddings, count):
    """Llama 1 and 2 cut embeddings along the columns, Llama 3 along the rows."""
    whole, axes = llama(embeddings)
    with netweight.open(write(tmp_path / "m", whole, axes, count)) as checkpoint:
        assert sorted(checkpoint) == sorted([*whole, "rope.freqs"])
        for name, tensor in whole.items():
            assert checkpoint[name].shape == tuple(tensor.shape)
            assert checkpoint[name].read().tobytes() == tensor.view(torch.int16).numpy().tobytes(), name
        last = f"consolidated.{count - 1:02}.pth"
        assert (
            f"{count} tensor-parallel files (consolidated.00.pth to {last}) are read as one model" in checkpoint.notes
        )
    assert netweight.info(tmp_path / "m").family.startswith("llama")
    message = rf"is one of {count} files with a part of every tensor each; name their folder, .*'{tmp_path / 'm'}'"
    with pytest.raises(FormatError, match=message):
        netweight.open(tmp_path / "m" / "consolidated.01.pth")


def test_one_file_is_a_model(tmp_path):
    whole, axes = llama(0)
    with netweight.open(write(tmp_path / "m", whole, axes, 1)) as checkpoint:
        assert checkpoint["output.weight"].shape == (20, 16)


def test_files_that_are_missing(tmp_path):
    """One in the middle by its number; the last by the size of the model that its matrices give."""
    whole, axes = llama(0)
    folder = write(tmp_path / "m", whole, axes, 4)
    (folder / "consolidated.03.pth").unlink()
    with pytest.raises(FormatError, match=r"3 files with queries .* make 12 rows, expected 16.*a file is missing"):
        netweight.open(folder)
    write(folder, whole, axes, 4)
    (folder / "consolidated.02.pth").unlink()
    with pytest.raises(FormatError, match="of 4 tensor-parallel files number 02 is missing"):
        netweight.open(folder)


def other(name, value):
    return lambda rank, at, part: value(part) if rank == 1 and at == name else part


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other("norm.weight", lambda part: part + 1), "'norm.weight': has other values in every file"),
        (other("output.weight", lambda part: part[:3].clone()), "'output.weight': the files have it in other shapes"),
        (other("output.weight", lambda part: part.float()), "'output.weight': .* in other shapes or types"),
        (other("output.weight", lambda _: None), r"do not hold the same tensors: 'output\.weight'"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit(tmp_path, change, message):
    whole, axes = llama(0)
    with pytest.raises(FormatError, match=message):
        netweight.open(write(tmp_path / "m", whole, axes, 2, change))


def test_what_is_not_known_is_not_guessed(tmp_path):
    """A tensor of an unknown name, another model's files, and more files than heads of keys."""
    whole, axes = llama(0)
    extra = {**whole, "layers.0.feed_forward.gate.weight": torch.ones(4, 16)}
    with pytest.raises(FormatError, match=r"'layers\.0\.feed_forward\.gate\.weight': is one of 2 parts, and not known"):
        netweight.open(write(tmp_path / "a", extra, {**axes, "layers.0.feed_forward.gate.weight": 0}, 2))
    with pytest.raises(FormatError, match="of another model than Llama: not known is how its tensors are cut"):
        netweight.open(write(tmp_path / "b", {"w": torch.ones(4, 4)}, {"w": 0}, 2))
    whole["layers.0.attention.wk.weight"] = whole["layers.0.attention.wk.weight"][:4].repeat(2, 1)
    with pytest.raises(FormatError, match=r"'layers\.0\.attention\.wk\.weight': is the same in two files"):
        netweight.open(write(tmp_path / "c", whole, axes, 2))


def test_files_with_tensors_of_their_own_are_joined(tmp_path):
    """Mixtral's: the same names of files, whole tensors in each."""
    for rank in range(2):
        torch.save({f"layers.{rank}.w": torch.full((2, 2), float(rank))}, tmp_path / f"consolidated.0{rank}.pth")
    with netweight.open(tmp_path) as checkpoint:
        assert checkpoint["layers.1.w"].read().tolist() == [[1, 1], [1, 1]]


def test_megatrons_files_are_refused(tmp_path):
    for rank in range(2):
        torch.save({"w": torch.ones(2, 2)}, tmp_path / f"mp_rank_0{rank}.pt")
    for ref in (tmp_path, tmp_path / "mp_rank_00.pt"):
        with pytest.raises((FormatError, ModelNotFoundError), match="2 files have each a part of every tensor"):
            netweight.open(ref)
