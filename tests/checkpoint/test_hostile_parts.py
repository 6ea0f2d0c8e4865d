"""Parts of quantised weights that are changed at random: refused by a FormatError, or read inside of the file."""

from __future__ import annotations

import copy
import json
import random

import numpy as np
from packed_cases import RECORDED, awq, bitsandbytes, gptq, mlx
from packed_files import write

import netweight
from netweight.errors import FormatError, ReadError

_OF_BITS = {
    8: ["U8", "I8", "F8_E4M3", "F8_E8M0", "BOOL"], 16: ["F16", "BF16", "I16"], 32: ["F32", "I32", "U32"],
    64: ["I64", "F64"],
}  # fmt: skip
_BITS = {dtype: bits for bits, dtypes in _OF_BITS.items() for dtype in dtypes}
_ODD = [
    0, 1, -1, 2, 3, 5, 7, 16, 31, 33, 64, 128, 2**31, 2**40, 2**63, 2**64, 10**30, -(2**63), None, "4", "x", [], {},
    1.5, float("inf"), True, "nf4", [4, 64], [2**40, 2**40], [-1, -1], [0], [[]],
]  # fmt: skip


def cases():
    """(Tensors, config) of weights of 4 formats made of random bits, and of what compressed-tensors has recorded."""
    made = [*gptq().values(), *awq().values(), *bitsandbytes().values(), *mlx().values()]
    found = [(case.tensors, case.config) for case in made]
    for name in ("compressed_tensors", "compressed_tensors_old"):
        content = (RECORDED / f"{name}.safetensors").read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        for number, about in enumerate(json.loads(header.pop("__metadata__")["cases"])):
            tensors = {}
            for key, held in header.items():
                if key.startswith(f"{number}/") and not key.endswith("/expected"):
                    raw = content[slice(*(start + at for at in held["data_offsets"]))]
                    array = np.frombuffer(raw, f"u{_BITS[held['dtype']] // 8}").reshape(held["shape"])
                    tensors[f"x.{key.partition('/')[2]}"] = (held["dtype"], array)
            found.append((tensors, {"quantization_config": about["config"]} if about["config"] else {}))
    return found


def change_number(rng, held):
    """One entry of JSON is another, or is not there."""
    paths = []

    def walk(at, path):
        if path:
            paths.append(path)
        for key in at if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else ():
            walk(at[key], [*path, key])

    walk(held, [])
    if not paths:
        return
    *path, last = rng.choice(paths)
    for key in path:
        held = held[key]
    if rng.random() < 0.2:
        del held[last]
    else:
        held[last] = rng.choice(_ODD)


def change_part(rng, tensors):
    """One tensor has another type or shape, other elements, or is not there."""
    name = rng.choice(list(tensors))
    dtype, array = tensors[name]
    how = rng.randrange(8)
    axis = rng.randrange(array.ndim) if array.ndim else 0
    if how == 0:
        del tensors[name]
    elif how == 1:
        tensors[name] = (rng.choice(_OF_BITS[_BITS[dtype]]), array)
    elif how == 2:
        n = array.size
        shapes = [(n,), (n, 1), (1, n), (1, 1, n), array.shape[::-1], (*array.shape, 1), (1, *array.shape)]
        shapes += [(k, n // k) for k in (2, 3, 4, 8) if n % k == 0]
        tensors[name] = (dtype, array.reshape(rng.choice(shapes)))
    elif how == 3 and array.ndim:
        count = rng.choice([0, 1, 2, max(0, array.shape[axis] - 1), array.shape[axis] // 2])
        tensors[name] = (dtype, np.take(array, range(min(count, array.shape[axis])), axis))
    elif how == 4 and array.ndim:
        tensors[name] = (dtype, np.concatenate([array] * rng.choice([2, 3, 9]), axis))
    elif how == 5:
        bits = rng.choice(list(_OF_BITS))
        tensors[name] = (rng.choice(_OF_BITS[bits]), np.zeros(array.shape, f"u{bits // 8}"))
    elif how == 6 and array.size:
        raw = bytearray(array.tobytes())
        for _ in range(3):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        tensors[name] = (dtype, np.frombuffer(bytes(raw), array.dtype).reshape(array.shape))
    else:
        other = rng.choice(list(tensors))
        tensors[name], tensors[other] = tensors[other], tensors[name]


def change(rng, tensors, config):
    state = next((name for name in tensors if "quant_state" in name), None)
    if tensors and rng.random() < 0.7:
        change_part(rng, tensors)
    elif state and tensors[state][0] == "U8" and rng.random() < 0.7:
        try:
            held = json.loads(bytes(tensors[state][1]))
        except ValueError:  # changed before
            return
        change_number(rng, held)
        tensors[state] = ("U8", np.frombuffer(json.dumps(held).encode(), np.uint8))
    else:
        change_number(rng, config)


def outcome(folder):
    try:
        model = netweight.open(folder)
    except FormatError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both answers are right
        return "refused"
    with model:
        for tensor in model.values():
            assert tensor.nbytes < 1 << 24
            assert tensor.scratch < 1 << 28
            for part in tensor.bytes_of(0, tensor.size):
                assert 0 <= part.offset <= part.offset + part.size <= part.source.size
            try:
                assert tensor.read().shape == tensor.shape
            except ReadError:
                return "damaged"
            except ValueError as error:
                assert "names group" in str(error)  # noqa: PT017
                return "damaged"
    return "read"


def test_parts_that_are_changed(tmp_path):
    held = cases()
    assert len(held) > 150
    rng = random.Random(20261129)
    counts = {"refused": 0, "read": 0, "damaged": 0}
    for number in range(800):
        tensors, config = rng.choice(held)
        tensors, config = dict(tensors), copy.deepcopy(config)
        for _ in range(rng.choice([1, 1, 2])):
            change(rng, tensors, config)
        counts[outcome(write(tmp_path / str(number % 2), tensors, config))] += 1
    assert counts["refused"] > 150
    assert counts["read"] > 150
    assert counts["damaged"]
