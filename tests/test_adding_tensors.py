"""A kind of tensor is a class beside its reader, and a layout is a row: in a copy of the source, a toy format whose
weights are decoded, one whose weights have an adapter on top, and one more habit of naming. Every job then takes them.
"""

from __future__ import annotations

import difflib
import filecmp
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from copied_source import ROOT, SOURCE, Copy, add, copied, differing, insert_row

HEAD = '''"""Toy: eight bytes of magic, four of a length, JSON {name: shape} of that length, the data of each."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from netweight.checkpoint.byte_stream import digest_of, stream_of
from netweight.checkpoint.part import Part
from netweight.checkpoint.reader import Reader
from netweight.checkpoint.tensor import CheckpointFile, Stretch, Tensor
from netweight.dtypes import DTYPES
from netweight.source.protocol import Source

_BLOCK = 1 << 12  # elements that are decoded at a time


def _read(source):
    stream = stream_of(source, 8, source.size)
    at = 12 + int.from_bytes(stream.read(4), "little")
    header = digest_of(source, 0, at)
    tensors = {}
    for name, shape in json.loads(stream.read(at - 12)).items():
        tensors[name] = tensor = ToyTensor(name, tuple(shape), DTYPES["F32"], source, at)
        at += sum(stretch.size for stretch in tensor.bytes_of(0, tensor.size))
    return Part("toy", source, CheckpointFile(source.name, source.size, header), tensors)


def _elements(source, offset, count, kind):
    import numpy as np

    out = np.empty(count, kind)
    source.read_into(offset, out.view(np.uint8).data)
    return out


READER = Reader("toy", lambda start, size: start.startswith(b"TOYMODEL"), _read, endings=(".toy",))


@dataclass(frozen=True)
class _InFile(Tensor):
    """`at` is where its data begin; a vector is one row."""

    source: Source = field(repr=False)
    at: int

    where = property(lambda self: self.source.name)
    parts = property(lambda self: (self,))
    cols = property(lambda self: self.shape[-1])
    rows = property(lambda self: self.size // self.cols)
    scratch = property(lambda self: 64 * _BLOCK)

    def read_into(self, start, out):
        """See Tensor."""
        import numpy as np

        count = self.count_in(start, out)
        target = np.frombuffer(out, "<f4")
        for done in range(0, count, _BLOCK):
            some = min(_BLOCK, count - done)
            target[done : done + some] = self._decoded(start + done, some)
'''

DECODED = '''

@dataclass(frozen=True)
class ToyTensor(_InFile):
    """int8 codes, row after row, then a float32 factor for every row."""

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        if count > 0:
            first, last = start // self.cols, (start + count - 1) // self.cols
            yield Stretch(self.source, self.at + start, count)
            yield Stretch(self.source, self.at + self.size + 4 * first, 4 * (last - first + 1))

    def _decoded(self, start, count):
        import numpy as np

        codes = _elements(self.source, self.at + start, count, "i1")
        rows = np.arange(start, start + count) // self.cols
        factors = _elements(self.source, self.at + self.size + 4 * rows[0], rows[-1] - rows[0] + 1, "<f4")
        return codes * factors[rows - rows[0]]
'''

ADAPTED = '''

_RANK = 2


@dataclass(frozen=True)
class ToyTensor(_InFile):
    """float32 W [rows, cols], A [2, cols], B [rows, 2], one after another: W + 0.5 B A in float64, rounded once."""

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        if count > 0:
            first, last = start // self.cols, (start + count - 1) // self.cols
            behind = self.at + 4 * self.size
            yield Stretch(self.source, self.at + 4 * start, 4 * count)
            yield Stretch(self.source, behind, 4 * _RANK * self.cols)
            yield Stretch(self.source, behind + 4 * _RANK * (self.cols + first), 4 * _RANK * (last - first + 1))

    def _decoded(self, start, count):
        import numpy as np

        behind = self.at + 4 * self.size
        rows, cols = np.divmod(np.arange(start, start + count), self.cols)
        total = _elements(self.source, self.at + 4 * start, count, "<f4").astype("f8")
        a = _elements(self.source, behind, _RANK * self.cols, "<f4").reshape(_RANK, -1).astype("f8")
        size = _RANK * (rows[-1] - rows[0] + 1)
        b = _elements(self.source, behind + 4 * _RANK * (self.cols + rows[0]), size, "<f4").reshape(-1, _RANK)
        for k in range(_RANK):
            total += 0.5 * b[rows - rows[0], k] * a[k, cols]
        return total.astype("f4")
'''

PROGRAM = """
import dataclasses, json, sys
import numpy as np
import netweight
from netweight.params.model import Model

sys.path.insert(0, {harness!r})
from far_executor import FarExecutor

base, toy, fused, out = {paths!r}
answer = {{}}


def measured(result):
    return [[row[0], row[2], row[3], row[4]] for row in result.per_parameter(0)]


class Spy:
    def __init__(self, source):
        self.source, self.name, self.size, self.asked = source, source.name, source.size, set()

    def read_into(self, offset, buffer):
        self.asked.update(range(offset, offset + len(buffer)))
        self.source.read_into(offset, buffer)


with netweight.open(toy) as opened:
    answer["kind"] = sorted({{type(t).__name__ for t in opened.values()}})
    answer["values"] = {{name: tensor.read().tobytes().hex() for name, tensor in opened.items()}}
    tensor = max(opened.values(), key=lambda tensor: tensor.size)
    whole, unlike, untold = tensor.read().reshape(-1), 0, 0
    ranges = [(0, 1), (tensor.size - 1, 1), (tensor.size, 0), (4095, 2), (299, 3), (17, 70_000)]
    for start, count in ranges:
        spied = dataclasses.replace(tensor, source=Spy(tensor.source))
        part = np.empty(count, "f4")
        spied.read_into(start, part.view(np.uint8).data)
        unlike += int((part != whole[start : start + count]).sum())
        told = {{i for s in tensor.bytes_of(start, count) for i in range(s.offset, s.offset + s.size)}}
        untold += len(spied.source.asked ^ told)
    answer["unlike"], answer["untold"] = unlike, untold
with netweight.open(toy, canonical=True) as opened:
    answer["canonical"] = list(opened)

answer["delta"] = measured(netweight.delta(base, [toy]))
answer["far"] = measured(netweight.delta(base, [toy], executor=FarExecutor()))
answer["to fused"] = measured(netweight.delta(toy, [fused]))
answer["from fused"] = measured(netweight.delta(fused, [toy], executor=FarExecutor()))
compared = netweight.compare(base, toy)
answer["compare"] = {{name: one["l2_distance"] for name, one in compared["layer_comparisons"].items()}}
answer["coverage"] = list(compared.coverage)
for name, executor in (("near", None), ("far", FarExecutor())):
    netweight.merge(None, f"{{out}}/{{name}}", base=base, models=[toy], weights=[0.5], executor=executor)
netweight.merge(None, f"{{out}}/of fused", base=fused, models=[toy], weights=[0.5], allow_mismatch=True)
answer["verified"] = [bool(netweight.verify(f"{{out}}/{{n}}").good) for n in ("near", "far", "of fused")]
answer["verified"].append(bool(netweight.verify(f"{{out}}/near", executor=FarExecutor()).good))
answer["structure"] = netweight.structure(toy).structure["total_params"]
answer["reduced"] = netweight.structure(toy, base).comparison["total_params"]["reduced"]
"""

HEADS = {"hidden_size": 300, "num_attention_heads": 5, "num_key_value_heads": 5}
LAYER = "model.layers.0."
SHAPES = {
    "model.embed_tokens.weight": (64, 300),
    **{f"{LAYER}self_attn.{p}_proj.weight": (300, 300) for p in "qkvo"},
    **{f"{LAYER}mlp.{p}_proj.weight": (40, 300) for p in ("gate", "up")},
    f"{LAYER}mlp.down_proj.weight": (300, 40),
    f"{LAYER}input_layernorm.weight": (300,),
    "model.norm.weight": (300,),
    "lm_head.weight": (64, 300),
}
RNG = np.random.default_rng(3)


class Toy(NamedTuple):
    """A class for a toy format, and what a weight is there: (its bytes in the file, its values)."""

    source: str
    made: Any


def decoded(shape: tuple[int, ...]) -> tuple[bytes, np.ndarray]:
    codes = RNG.integers(-128, 128, shape, dtype="i1")
    factors = RNG.uniform(1e-4, 1e-3, shape[0] if len(shape) > 1 else 1).astype("f4")
    return codes.tobytes() + factors.tobytes(), codes * (factors[:, None] if len(shape) > 1 else factors)


def adapted(shape: tuple[int, ...]) -> tuple[bytes, np.ndarray]:
    rows = shape[0] if len(shape) > 1 else 1
    w, a, b = (RNG.normal(size=s).astype("f4") for s in ((rows, shape[-1]), (2, shape[-1]), (rows, 2)))
    total = w.astype("f8") + 0.5 * np.outer(b[:, 0].astype("f8"), a[0]) + 0.5 * np.outer(b[:, 1].astype("f8"), a[1])
    return w.tobytes() + a.tobytes() + b.tobytes(), total.astype("f4").reshape(shape)


TOYS = {"decoded": Toy(DECODED, decoded), "adapted": Toy(ADAPTED, adapted)}


def write(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray] | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors")
    return folder


def fuse(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same as a Phi-3 has them."""
    qkv = np.concatenate([tensors[f"{LAYER}self_attn.{p}_proj.weight"] for p in "qkv"])
    gate_up = np.concatenate([tensors[f"{LAYER}mlp.{p}_proj.weight"] for p in ("gate", "up")])
    made = {f"{LAYER}self_attn.qkv_proj.weight": qkv, f"{LAYER}mlp.gate_up_proj.weight": gate_up}
    apart = {f"{LAYER}{p}_proj.weight" for p in ("self_attn.q", "self_attn.k", "self_attn.v", "mlp.gate", "mlp.up")}
    return made | {name: values for name, values in tensors.items() if name not in apart}


def norms(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """L2, L1 and the largest of every difference."""
    steps = {name: (after[name] - before[name]).astype("f8") for name in before}
    return {name: [float(np.linalg.norm(d)), float(abs(d).sum()), float(abs(d).max())] for name, d in steps.items()}


def close(found: list[list[Any]], expected: dict[str, list[float]]) -> None:
    assert sorted(row[0] for row in found) == sorted(expected)
    for name, *row in found:
        assert row == pytest.approx(expected[name], rel=1e-9), name


@pytest.mark.parametrize("kind", TOYS)
def test_a_tensor_that_is_computed(tmp_path: Path, kind: str) -> None:
    toy = TOYS[kind]
    made = {name: toy.made(shape) for name, shape in SHAPES.items()}
    values = {name: array for name, (_, array) in made.items()}
    llama, phi = {"model_type": "llama", **HEADS}, {"model_type": "phi3", **HEADS}
    base = {name: RNG.normal(size=shape).astype("f4") for name, shape in SHAPES.items()}
    paths = [write(tmp_path / "base", llama, base), write(tmp_path / "toy", llama)]
    paths.append(write(tmp_path / "fused", phi, fuse(base)))
    header = json.dumps(SHAPES).encode()
    data = b"".join(raw for raw, _ in made.values())
    (paths[1] / "weights.toy").write_bytes(b"TOYMODEL" + len(header).to_bytes(4, "little") + header + data)

    copy = add(tmp_path, "checkpoint/toy.py", HEAD + toy.source, "checkpoint/kinds.py", "torch_legacy")
    program = PROGRAM.format(harness=str(ROOT / "tests" / "jobs"), paths=(*map(str, paths), str(tmp_path)))
    done = copy.ask(
        ["info", paths[1], "--format", "json"],
        ["scan", paths[1], "--methods", "basic_stats", "--format", "json"],
        program=program,
    )
    about, scan = map(json.loads, done["outputs"])
    answer = done["answer"]

    total = sum(array.size for array in values.values())
    assert (about["format"], about["parameters"]) == ("toy", total)
    for name, array in values.items():
        stats, wide = scan[name]["basic_stats"], array.astype("f8")
        assert stats["l2"] == pytest.approx(np.linalg.norm(wide), rel=1e-12)
        assert (stats["min"], stats["max"]) == (array.min(), array.max())
    assert answer["kind"] == ["ToyTensor"]
    assert answer["values"] == {name: array.tobytes().hex() for name, array in values.items()}
    assert (answer["unlike"], answer["untold"]) == (0, 0)
    assert answer["canonical"] == list(SHAPES)

    close(answer["delta"], norms(base, values))
    assert answer["far"] == answer["delta"]
    close(answer["to fused"], norms(values, base))
    close(answer["from fused"], norms(fuse(base), fuse(values)))
    expected = norms(base, values)
    assert answer["compare"] == {name: pytest.approx(row[0], rel=1e-6) for name, row in expected.items()}
    assert answer["coverage"] == [1, 1]
    near, far, fused = (tmp_path / name / "model.safetensors" for name in ("near", "far", "of fused"))
    assert near.read_bytes() == far.read_bytes()
    halfway = {name: base[name] + np.float32(0.5) * (values[name] - base[name]) for name in base}
    for file, wanted in ((near, halfway), (fused, fuse(halfway))):
        merged = load_file(file)
        assert merged.keys() == wanted.keys()
        for name, array in wanted.items():
            np.testing.assert_allclose(merged[name], array, rtol=1e-6, atol=1e-7, err_msg=name)
    assert answer["verified"] == [True] * 4
    assert (answer["structure"], answer["reduced"]) == (total, 0)


# A layout

ROW = '    Rename(r"^trunk\\.#\\.stage\\.", "model.layers.#."),\n'
PAIRED = """
import netweight


def paired(first, second):
    compared, measured = netweight.compare(first, second), netweight.delta(first, [second])
    return {
        "common": sorted(compared["common_layers"]), "coverage": list(compared.coverage),
        "only": [sorted(compared["only_in_model1"]), sorted(compared["only_in_model2"])],
        "measured": sorted(row[0] for row in measured.per_parameter(0)), "shares": [list(s) for s in measured.coverage],
    }


answer = [paired(*pair) for pair in pairs]
"""


def test_a_layout_is_one_row(tmp_path: Path) -> None:
    """Before it, such a model shares what is outside its layers; with it, all of them."""
    words = {"self_attn.q_proj": (8, 8), "mlp.up_proj": (12, 8), "input_layernorm": (8,)}
    outside = {"model.embed_tokens.weight": (20, 8), "lm_head.weight": (20, 8)}
    places = {"llama": "model.layers.{}.", "trunk": "trunk.{}.stage."}
    models, names = [], []
    for model, place in places.items():
        shapes = {f"{place.format(n)}{word}.weight": shape for n in range(3) for word, shape in words.items()}
        arrays = {name: RNG.normal(size=shape).astype("f4") for name, shape in (outside | shapes).items()}
        models.append(str(write(tmp_path / model, {"model_type": "llama", "hidden_size": 8}, arrays)))
        names.append(sorted(arrays))
    program = f"pairs = {[models, models[::-1]]!r}\n{PAIRED}"

    here: dict[str, Any] = {}
    exec(program, here)
    for number, found in enumerate(here["answer"]):
        lacking = [[name for name in side if name not in outside] for side in (names[number], names[1 - number])]
        assert found["common"] == found["measured"] == sorted(outside)
        assert found["only"] == lacking
        assert found["coverage"] == found["shares"][0] == pytest.approx([320 / 824] * 2)

    copy, file = copied(tmp_path), "params/layouts/renames.py"
    insert_row(copy, file, "ROWS = (\n", ROW)
    assert differing(filecmp.dircmp(SOURCE, copy, ignore=["__pycache__"])) == [file]
    texts = [(side / file).read_text(encoding="utf-8").splitlines(keepends=True) for side in (SOURCE, copy)]
    assert [line for line in difflib.ndiff(*texts) if line[0] in "+-?"] == [f"+ {ROW}"]
    for number, found in enumerate(Copy(copy).ask(program=program)["answer"]):
        assert found["common"] == found["measured"] == names[number]
        assert found["only"] == [[], []]
        assert found["coverage"] == found["shares"][0] == [1, 1]
