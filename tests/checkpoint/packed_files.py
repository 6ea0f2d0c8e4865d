"""Small checkpoints of packed weights as files, and what every decoded weight must do."""

from __future__ import annotations

import json
import pickle
import struct
from random import Random

import ml_dtypes  # noqa: F401 - safetensors reads bfloat16 as numpy arrays where this was imported
import numpy as np
import pytest
from ends_checks import check_ends
from packed_cases import RECORDED, digest, one_nan, recorded

import netweight

_TYPES = {
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "int8": "I8", "uint8": "U8", "int32": "I32",
    "uint32": "U32",
}  # fmt: skip
BITS = {"F16": np.uint16, "BF16": np.uint16, "F32": np.uint32}


def write(folder, tensors, config=None, **others):
    """A folder with `tensors`, (type, array) by name, as safetensors, and config.json; `others` are JSON files."""
    folder.mkdir(parents=True, exist_ok=True)
    header, data, at = {}, [], 0
    for name, (dtype, array) in tensors.items():
        held = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + len(held)]}
        data.append(held)
        at += len(held)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))
    if config is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    for name, held in others.items():
        (folder / f"{name}.json").write_text(json.dumps(held))
    return folder


def of_package(name, at):
    """(The tensors under `at/x.` of a file that a package has written, by their names; what else is under `at/`.)"""
    import safetensors

    stored, others = {}, {}
    with safetensors.safe_open(RECORDED / f"{name}.safetensors", "numpy") as file:
        for key in file.keys():  # noqa: SIM118 - it is no dict
            if not key.startswith(f"{at}/"):
                continue
            array = file.get_tensor(key)
            dtype = _TYPES[array.dtype.name]
            rest = key.removeprefix(f"{at}/")
            held = (dtype, array.view(np.uint16) if dtype == "BF16" else array)
            (stored if rest.startswith("x.") else others)[rest] = held
    return stored, others


def bits_of(tensor, start=0, count=None):
    """Elements of a decoded weight, as the bits of its type."""
    out = np.empty(tensor.size - start if count is None else count, BITS[tensor.dtype.name])
    tensor.read_into(start, out.view(np.uint8).data)
    return out


def check_recorded(package, case, name, tmp_path):
    """The weight of a case is what the package made of it; read from anywhere; as a pickle; returns it."""
    with netweight.open(write(tmp_path / "m", case.tensors, case.config)) as checkpoint:
        assert list(checkpoint) == ["x.weight"]
        tensor = checkpoint["x.weight"]
        assert {part.name for part in tensor.stored_parts} <= set(case.tensors)
        whole = bits_of(tensor)
        assert digest(one_nan(whole, tensor.dtype.name)) == recorded(package)["digests"][name]
        rng = Random(name)
        for _ in range(12):
            start = rng.randrange(tensor.size)
            count = rng.choice([1, min(33, tensor.size - start), rng.randint(1, tensor.size - start)])
            assert np.array_equal(bits_of(tensor, start, count), whole[start : start + count])
        assert np.array_equal(bits_of(pickle.loads(pickle.dumps(tensor))), whole)
        assert tensor.file_bytes == sum(part.nbytes for part in tensor.stored_parts) < 9 * tensor.size
        check_ends(tensor)
        told = {(s.offset, s.size) for s in tensor.bytes_of(0, tensor.size)}
        assert all(any(at <= p.offset and p.offset + p.nbytes <= at + n for at, n in told) for p in tensor.stored_parts)
        return tensor


def check_jobs(tmp_path, tensors, decoded, config):
    """Jobs give on a quantised model what they give on its decoded form, under the same names: delta and compare of the
    two find nothing, merges of each are the same.
    """
    rng = np.random.default_rng(3)
    plain = {"model.norm.weight": ("F32", rng.standard_normal(8).astype(np.float32))}
    stored = write(tmp_path / "stored", {**plain, **tensors}, config)
    about = {key: value for key, value in config.items() if not key.startswith("quantization")}
    dense = write(tmp_path / "dense", {**plain, **decoded}, about)
    shapes = {name: array.shape for name, (_, array) in {**plain, **decoded}.items()}
    random = {name: ("F32", rng.standard_normal(shape).astype(np.float32)) for name, shape in shapes.items()}
    base = write(tmp_path / "base", random, about)
    found = netweight.delta(dense, [stored]).models[0].summary
    assert found["global_l2"] == 0
    assert found["elements"] == sum(array.size for _, array in {**plain, **decoded}.values())
    compared = netweight.compare(stored, dense)
    assert set(compared.identical) == {*plain, *decoded}
    one, other = (netweight.delta(base, [path]).models[0].summary for path in (stored, dense))
    assert one["global_l2"] == other["global_l2"] > 0
    assert one["groups"] == other["groups"]
    for path in (stored, dense):
        netweight.merge(
            None, tmp_path / f"of {path.name}", base=path, models=[base], method="linear", weights=(0.5,), workers=1
        )
    assert netweight.verify(tmp_path / "of stored").good
    merged, expected = ((tmp_path / f"of {name}" / "model.safetensors").read_bytes() for name in ("stored", "dense"))
    assert merged == expected
    written = json.loads((tmp_path / "of stored" / "config.json").read_text())
    assert not [key for key in written if key.startswith("quantization")]
    packed, whole = netweight.info(stored), netweight.info(dense)
    assert (packed.parameters, packed.tensors) == (whole.parameters, whole.tensors)
    assert packed.bytes < whole.bytes
    assert netweight.structure(stored).structure["total_params"] == netweight.structure(dense).structure["total_params"]
    assert dict(netweight.scan(stored)) == dict(netweight.scan(dense))


def fails(tmp_path, tensors, config, match):
    from netweight.errors import FormatError

    with pytest.raises(FormatError, match=match):
        netweight.open(write(tmp_path / "m", tensors, config))
