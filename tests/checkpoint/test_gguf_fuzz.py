"""GGUF files that are broken at random are refused in one of netweight's own words, or read inside of the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gguf_files
import gguf_mutants
import numpy as np
import pytest
from gguf_files import field
from slowness import PEAK, slowness

import netweight
from netweight.errors import FormatError

_PROGRAM = """
import collections, contextlib, json, sys, time
import gguf_mutants, netweight
from netweight.errors import FormatError, ReadError
from netweight.source.local import PreadFile

path, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ends, longest, counts, faults = collections.Counter(), 0.0, collections.Counter(), []
read_into = PreadFile.read_into

def inside(self, offset, buffer):
    assert 0 <= offset <= offset + len(buffer) <= size, (offset, len(buffer), size)
    read_into(self, offset, buffer)

PreadFile.read_into = inside

def opened(content):
    global size, longest
    size = len(content)
    with open(path, "wb") as file:
        file.write(content)
    began = time.thread_time()
    try:
        model = netweight.open(path)
    except (FormatError, ReadError) as error:
        assert "\\n" not in str(error) and path in str(error), str(error)
        return "refused"
    finally:
        longest = max(longest, time.thread_time() - began)
    with model:
        for tensor in model.values():
            for part in tensor.bytes_of(0, tensor.size):
                assert 0 <= part.offset <= part.offset + part.size <= size, (tensor, part)
            with contextlib.suppress(ReadError):
                assert tensor.read().shape == tensor.shape
    return "read"

files = gguf_mutants.seeds()
assert {opened(file.content) for file in files} == {"read"}  # all loops are compiled then
if sys.platform == "linux":  # a file that makes netweight ask for much is an error, and not the end of the machine
    import resource
    taken = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmSize:"))
    resource.setrlimit(resource.RLIMIT_AS, (taken + (256 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
before, longest = peak(), 0.0
for what, content in gguf_mutants.mutants(files, count, seed):
    try:
        counts[opened(content)] += 1
    except BaseException as error:
        faults.append(f"{what}: {type(error).__name__}: {error}"[:400])
print(json.dumps({"counts": counts, "faults": faults, "longest": longest, "grown": (peak() - before) << 10}))
"""


def test_broken_headers(tmp_path):
    """Refused or read: no other error, no read outside of the file, no second of time, no more than 64 MiB."""
    here = Path(__file__).parent
    program = f"import sys; sys.path.insert(0, {str(here)!r})\n{PEAK}\n{_PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.gguf"), "2000", "20261129"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert not found["faults"], found["faults"][:5]
    assert min(found["counts"].values()) > 200  # both answers are well tried
    assert found["longest"] < slowness()
    assert found["grown"] < 64 << 20


def test_mutants_are_the_same_for_a_seed_and_break_every_part():
    files = gguf_mutants.seeds(("llama",))
    first, again = (list(gguf_mutants.mutants(files, 300, 4)) for _ in range(2))
    assert first == again
    kinds = {word for what, _ in first for word in what.replace(",", "").split()}
    assert {"bit", "cut", "without", "twice", "shape", "from", str(2**63 - 1), str(2**64 - 1)} <= kinds
    assert all(content not in {file.content for file in files} for _, content in first[:20])


LLAMA = [field("general.architecture", "text", "llama"), field("llama.expert_count", "u32", 4)]
HEADS = [*LLAMA, field("llama.attention.head_count", "u32", 2**32 - 1)]
MANY = 1 << 40


@pytest.mark.parametrize(
    ("fields", "name", "shape", "message"),
    [
        (LLAMA, "blk.0.ffn_up_exps.weight", (MANY, 0, 2), "expected a stack of matrices, at most 65536"),
        (LLAMA, "blk.0.ffn_up_exps.weight", (9, 0, 2), "expected a stack of matrices, at most 65536"),
        (LLAMA, "blk.0.ffn_up_exps.weight", (65537, 1, 1), "expected a stack of matrices, at most 65536"),
        (LLAMA, "blk.0.ffn_gate_up_exps.weight", (65537, 2, 1), "expected a stack of matrices, at most 65536"),
        (HEADS, "blk.0.attn_q.weight", (2 * (2**32 - 1), 0), "expected rows for None heads"),
        (LLAMA, "a", (0, 1 << 61), "is more than 2**63 bytes"),
        (LLAMA, "a", (1 << 63, 0, 0), "is more than 2**63 bytes"),
    ],
)
def test_much_of_a_few_bytes(tmp_path, fields, name, shape, message):
    """Shapes that say a great number of matrices, heads or elements, for which the file needs no bytes or few."""
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf_files.gguf(fields, [(name, shape, 24, bytes(int(np.prod(shape, dtype=object))))]))
    with pytest.raises(FormatError) as raised:
        netweight.open(path)
    assert message in str(raised.value)


def test_many_matrices_of_gpt_oss(tmp_path):
    fields = [field("general.architecture", "text", "gpt-oss")]
    path = tmp_path / "a.gguf"
    tensors = [(f"blk.0.ffn_{part}_exps.weight", (65537, 1, 1), 24, bytes(65537)) for part in ("gate", "up")]
    path.write_bytes(gguf_files.gguf(fields, tensors))
    with pytest.raises(FormatError, match="expected a stack of matrices, at most 65536"):
        netweight.open(path)


def test_an_empty_weight_with_heads(tmp_path):
    """No elements, and so no rows to put in order: nothing is made for each head."""
    fields = [field("general.architecture", "text", "llama"), field("llama.attention.head_count", "u32", 4)]
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf_files.gguf(fields, [("blk.0.attn_q.weight", (1 << 40, 0), 24, b"")]))
    with netweight.open(path) as model:
        assert model["model.layers.0.self_attn.q_proj.weight"].read().shape == (1 << 40, 0)
