"""Files of DTensors that the ranks of a training write, against the whole tensors.

Torch itself says what each rank has; its process group is its own fake one, which needs no other process.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file

import netweight
from netweight.checkpoint.dtensor import offsets_of
from netweight.checkpoint.pickle_nodes import Call, Global, Mapped
from netweight.errors import FormatError

torch = pytest.importorskip("torch")

PROGRAM = r"""
import json, sys, torch, torch.distributed as dist
from pathlib import Path
from safetensors.torch import save_file
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

made = torch.Generator().manual_seed(0)
whole = {"embed.weight": torch.randn(10, 7, generator=made), "up.weight": torch.randn(8, 12, generator=made).bfloat16(),
         "norm.weight": torch.randn(5, generator=made), "short.weight": torch.randn(2, 3, generator=made)}
MESHES = {"rows": ((4,), [Shard(0)]), "columns": ((3,), [Shard(1)]), "two": ((2, 2), [Shard(0), Shard(1)]),
          "twice": ((2, 3), [Shard(0), Shard(0)]), "copies": ((2, 2), [Replicate(), Shard(0)]),
          "one": ((1,), [Shard(0)]), "sums": ((2,), [Partial()])}
root = Path(sys.argv[1])
save_file(whole, root / "whole.safetensors")
for name, (sizes, placements) in MESHES.items():
    (root / name).mkdir()
    count = torch.Size(sizes).numel()
    for rank in range(count):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=count)
        mesh = init_device_mesh("cpu", sizes)
        held = {"plain": torch.ones(3)}
        for key, tensor in whole.items():
            how = [Shard(0) if isinstance(p, Shard) and p.dim >= tensor.ndim else p for p in placements]
            shape, begin = compute_local_shape_and_global_offset(tensor.shape, mesh, how)
            local = tensor[tuple(slice(b, b + n) for b, n in zip(begin, shape))].clone()
            about = {"shape": tensor.shape, "stride": tensor.stride(), "run_check": False}
            held[key] = DTensor.from_local(local, mesh, how, **about)
        torch.save({"model": held} if name == "two" else held, root / name / f"model_world_size_{count}_rank_{rank}.pt")
        dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("ranks")
    subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM, root], check=True, capture_output=True)
    return root


@pytest.mark.parametrize("mesh", ["rows", "columns", "two", "twice", "copies", "one"])
def test_the_files_of_all_ranks_are_the_model(made, mesh):
    whole = load_file(made / "whole.safetensors")
    with netweight.open(made / mesh) as checkpoint:
        assert set(checkpoint) == {*whole, "plain"}
        for name, tensor in whole.items():
            assert checkpoint[name].shape == tuple(tensor.shape)
            assert checkpoint[name].read().tobytes() == tensor.view(torch.uint8).numpy().tobytes(), name
        assert checkpoint["plain"].read().tolist() == [1, 1, 1]
        assert not checkpoint.outside
        joined = [note for note in checkpoint.notes if "are put together of what ranks saved" in note]
        assert bool(joined) == (mesh != "one")


def test_a_rank_alone_is_no_model(made, tmp_path):
    """Whatever the file is called; a tensor that every rank has whole is no reason to take it."""
    shutil.copy(made / "rows" / "model_world_size_4_rank_1.pt", tmp_path / "m.pt")
    with pytest.raises(FormatError, match=r"'\w+\.weight': its chunks hold .* the files of all ranks make one model"):
        netweight.open(tmp_path / "m.pt")
    with pytest.raises(FormatError, match=rf"one of 4 ranks of a training wrote; name their folder: '{made / 'rows'}'"):
        netweight.open(made / "rows" / "model_world_size_4_rank_1.pt")


@pytest.mark.parametrize("gone", [0, 2, 3])
def test_ranks_that_are_missing(made, tmp_path, gone):
    """The name says how many there were; where it does not, the tensors do."""
    for rank in {0, 1, 2, 3} - {gone}:
        shutil.copy(made / "rows" / f"model_world_size_4_rank_{rank}.pt", tmp_path)
    message = "its chunks hold" if gone == 0 else f"files of 3 of 4 ranks, and none of rank {gone}"
    if gone == 0:
        message = "holds several models"
    with pytest.raises(FormatError, match=message):
        netweight.open(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace("world_size_4_", ""))
    with pytest.raises(FormatError, match=r"holds several|none of rank 2|its chunks hold"):
        netweight.open(tmp_path)


def test_what_is_summed_up_of_several_ranks_is_not_read(made):
    shutil.copy(made / "sums" / "model_world_size_2_rank_0.pt", made / "sums.pt")
    with pytest.raises(FormatError, match=r"2 files that the ranks of a training wrote.* are not joined here"):
        netweight.open(made / "sums")
    skipped = netweight.open(made / "sums.pt").skipped
    assert {entry.name for entry in skipped} == {"embed.weight", "up.weight", "norm.weight", "short.weight"}
    assert all("one rank's share of a tensor that is distributed" in entry.reason for entry in skipped)


def test_plain_tensors_that_differ_are_not_of_one_model(made, tmp_path):
    shutil.copytree(made / "copies", tmp_path / "m")
    path = tmp_path / "m" / "model_world_size_4_rank_2.pt"
    data = path.read_bytes()
    ones = torch.ones(3).numpy().tobytes()
    assert data.count(ones) == 1
    path.write_bytes(data.replace(ones, torch.tensor([1.0, 1.0, 2.0]).numpy().tobytes()))
    with pytest.raises(FormatError, match=r"rank_2\.pt: tensor 'plain' is another than in the files before it"):
        netweight.open(tmp_path / "m")


def test_files_of_two_trainings_are_told(made, tmp_path):
    shutil.copytree(made / "rows", tmp_path / "m")
    shutil.copy(made / "copies" / "model_world_size_4_rank_3.pt", tmp_path / "m")
    with pytest.raises(FormatError, match=r"is another than in the files before it|do not fill its shape"):
        netweight.open(tmp_path / "m")


def node(name, state=None, args=()):
    """What a pickle says of an object of torch; dicts are its attributes."""
    made = Call(Global("torch.distributed", name), args)
    made.state = Mapped(list(state.items())) if isinstance(state, dict) else state
    return made


def distributed(*, whole=(10, 7), placements=(("Shard", 0),), coordinate=(1,), ranks=(4,)):
    """A DTensor's node; what is None is left out."""
    mesh = {"_coordinate_on_dim": coordinate, "_layout": node("_MeshLayout", {"shape": ranks})}
    how = placements
    if isinstance(placements, tuple):
        how = tuple(node(kind, {"dim": dim}, ()) for kind, dim in placements)
    spec = {"tensor_meta": node("TensorMeta", args=() if whole is None else (whole,)), "placements": how}
    attributes = {"_spec": node("DTensorSpec", spec | {"mesh": node("DeviceMesh", mesh)})}
    return node("_rebuild_from_type_v2", args=(None, None, None, Mapped(list(attributes.items()))))


def test_where_a_share_lies():
    """torch.chunk makes 3, 3, 3 and 1 rows of 10 for 4 ranks."""
    starts = [sum(len(c) for c in torch.arange(10).chunk(4)[:at]) for at in range(4)]
    for at, rows in enumerate(torch.arange(10).chunk(4)):
        assert offsets_of(distributed(coordinate=(at,)), (len(rows), 7)) == ((starts[at], 0), (10, 7))
    assert offsets_of(distributed(coordinate=(4,)), (0, 7)) is None
    assert offsets_of(distributed(placements=(), coordinate=(), ranks=()), (10, 7)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"whole": None},
        {"whole": (10, -7)},
        {"whole": (10, 7.0)},
        {"whole": (10, 8)},
        {"whole": (10,)},
        {"placements": None},
        {"placements": ()},
        {"placements": (("Shard", 0), ("Replicate", None))},
        {"placements": (("Shard", 2),)},
        {"placements": (("Shard", -1),)},
        {"placements": (("Shard", None),)},
        {"placements": (("Partial", 0),)},
        {"coordinate": None},
        {"coordinate": ()},
        {"coordinate": (4,)},
        {"coordinate": (-1,)},
        {"coordinate": ("1",)},
        {"ranks": None},
        {"ranks": ()},
        {"ranks": (0,)},
        {"ranks": (4, 1)},
    ],
    ids=str,
)
def test_shares_whose_place_is_not_known(change):
    assert offsets_of(distributed(), (3, 7)) == ((3, 0), (10, 7))
    assert offsets_of(distributed(**change), (3, 7)) is None
