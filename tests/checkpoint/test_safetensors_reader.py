"""safetensors headers: ours and the safetensors package agree on every file, mutated or not."""

# ruff: noqa: E501 - one case a line reads better

from __future__ import annotations

import json
import random
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slowness import PEAK, slowness

from netweight.checkpoint import open_checkpoint
from netweight.checkpoint.safetensors import read_safetensors
from netweight.dtypes import DTYPES
from netweight.errors import FormatError
from netweight.source.local import open_local

GOOD = '"dtype":"F32","shape":[1],"data_offsets":[0,4]'


def framed(header: str | bytes, data: bytes = bytes(4)) -> bytes:
    raw = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    return struct.pack("<Q", len(raw)) + raw + data


def ours(path: Path, content: bytes) -> tuple[bool, object]:
    path.write_bytes(content)
    source = open_local(path)
    try:
        part = read_safetensors(source)
    except FormatError as problem:
        assert "\n" not in str(problem)  # noqa: PT017 - both answers are right
        return False, str(problem)
    finally:
        source.close()
    start = 8 + int.from_bytes(content[:8], "little")
    return True, {
        name: (t.dtype.name, list(t.shape), content[t.offset : t.offset + t.nbytes], t.offset >= start)
        for name, t in part.tensors.items()
    }


def theirs(content: bytes) -> tuple[bool, object]:
    try:
        found = safetensors.deserialize(content)
    except safetensors.SafetensorError as problem:
        return False, str(problem)
    return True, {name: (info["dtype"], list(info["shape"]), bytes(info["data"]), True) for name, info in found}


def agree(path: Path, content: bytes) -> bool:
    mine, reference = ours(path, content), theirs(content)
    assert mine[0] == reference[0], (content[:400], mine[1], reference[1])
    if mine[0]:
        assert mine[1] == reference[1], content[:400]
    return mine[0]


ACCEPTED = [
    f'{{"a":{{{GOOD}}}}}',
    f' \r\n\t{{"a":{{{GOOD}}}}} \n ',
    f'{{"a":{{{GOOD}}},"a":{{{GOOD}}}}}',
    f'{{"a":{{{GOOD},"x":[1,{{"y":1e5}},null,true,"z",-0,123456789012345678901234567890]}}}}',
    f'{{"a":{{{GOOD},"x":1,"x":2}}}}',
    '{"a":["F32",[1],[0,4]]}',
    '{"a":{"data_offsets":[0,4],"shape":[1],"dtype":{"F32":null}}}',
    f'{{"a":{{{GOOD}}},"__metadata__":null}}',
    f'{{"__metadata__":{{"x":"y","x":"z"}},"a":{{{GOOD}}}}}',
    f'{{"\\ud83d\\ude00 \\u0000 é 漢 🙂":{{{GOOD}}}}}',
    f'{{"":{{{GOOD}}}}}',
    f'{{"a":{{{GOOD},"x":{"[" * 125}{"]" * 125}}}}}',
    f'{{"a":{{{GOOD},"x":{"{" + chr(34) + "k" + chr(34) + ":" }1}}}}}}',
    f'{{"z":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"a":{{{GOOD}}},"b":{{"dtype":"I64","shape":[3,0],"data_offsets":[4,4]}}}}',
    f'{{"a":{{{GOOD}}},"b":{{"dtype":"U8","shape":[0,9223372036854775808,4],"data_offsets":[4,4]}}}}',
    '{"a":{"dtype":"F4","shape":[2,4],"data_offsets":[0,4]}}',
    '{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}',
    '{"a":{"dtype":"F32","shape":[' + ",".join(["1"] * 300) + '],"data_offsets":[0,4]}}',
]  # fmt: skip
REFUSED = [
    ("", "expected '{' at character 0, got the end of the text"),
    ("null", "expected '{' at character 0, got 'null'"),
    ("[]", "expected '{' at character 0, got '[]'"),
    ("{}", "its header describes 0 bytes of data, but 4 follow it; the rest belongs to no tensor"),
    (f'\ufeff{{"a":{{{GOOD}}}}}', "expected '{' at character 0, got '\\ufeff"),
    (f'{{"a":{{{GOOD}}}}}x', "expected nothing more at character"),
    (f'{{"a":{{{GOOD},}}}}', "tensor 'a': expected a string at character"),
    (f'{{"a":{{{GOOD}}},}}', "expected a string at character"),
    (f'{{"a":{{{GOOD}}} "b":{{{GOOD}}}}}', "expected ',' at character"),
    (f'{{,"a":{{{GOOD}}}}}', "expected a string at character 1"),
    ('{"a":null}', "tensor 'a': expected '{' at character 5, got 'null}'"),
    ('{"a":{"dtype":"F32"}}', "tensor 'a': has no shape and no data_offsets"),
    (f'{{"a":{{{GOOD},"dtype":"F32"}}}}', "tensor 'a': 'dtype' is there twice"),
    (f'{{"a":{{{GOOD},"\\u0064type":"F32"}}}}', "tensor 'a': 'dtype' is there twice"),
    (f'{{"a":{{{GOOD}}},"__metadata__":{{}},"__metadata__":{{}}}}', "'__metadata__' is there twice"),
    (f'{{"a":{{{GOOD}}},"__metadata__":{{"x":1}}}}', "expected a string at character"),
    (f'{{"a":{{{GOOD}}},"__metadata__":[]}}', "expected '{' at character"),
    ('{"__metadata__":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "expected a string at character"),
    ('{"a":["F32",[1],[0,4],1]}', "tensor 'a': expected ']' at character"),
    ('{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}', "tensor 'a': dtype 'F99' is unknown, expected one of BOOL,"),
    ('{"a":{"dtype":"C128","shape":[],"data_offsets":[0,4]}}', "tensor 'a': dtype 'C128' is unknown, expected one of"),
    ('{"a":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}}', "tensor 'a': dtype 'f32' is unknown, expected one of"),
    ('{"a":{"dtype":{"F32":{}},"shape":[1],"data_offsets":[0,4]}}', "tensor 'a': expected null at character"),
    ('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', "expected a whole number from 0 to 2**64 - 1 at character 29"),
    ('{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}', "expected a whole number from 0 to 2**64 - 1 at character 29"),
    ('{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', "expected a whole number from 0 to 2**64 - 1"),
    ('{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}', "expected a whole number from 0 to 2**64 - 1"),
    ('{"a":{"dtype":"F32","shape":[01],"data_offsets":[0,4]}}', "expected ',' at character 30"),
    ('{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', "expected a whole number from 0 to 2**64 - 1"),
    ('{"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}}', "expected a whole number from 0 to 2**64 - 1"),
    ('{"a":{"dtype":"F32","shape":null,"data_offsets":[0,4]}}', "expected '[' at character 28"),
    ('{"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}}', "expected a whole number from 0 to 2**64"),
    ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}', "tensor 'a': data_offsets holds 3 numbers, expected 2"),
    ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', "tensor 'a': data_offsets [4, 0], expected to start at 0"),
    ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}', "tensor 'a': data_offsets [1, 5], expected to start at 0"),
    ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', "tensor 'a': data_offsets [0, 4] hold 4 bytes, but shape [2] of F32 takes 8"),
    ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "its header describes 8 bytes of data, but 4 follow it; the file is cut short"),
    ('{"a":{"dtype":"F4","shape":[7],"data_offsets":[0,4]}}', "tensor 'a': shape [7] of F4 is 28 bits, expected whole bytes"),
    (f'{{"a":{{{GOOD}}},"b":{{{GOOD}}}}}', "tensor 'b': data_offsets [0, 4], expected to start at 4"),
    (f'{{"a":{{{GOOD}}},"b":{{"dtype":"U8","shape":[0],"data_offsets":[2,2]}}}}', "tensor 'b': data_offsets [2, 2], expected to start at 4"),
    (f'{{"a":{{{GOOD}}},"b":{{"dtype":"U8","shape":[9223372036854775808,4,0],"data_offsets":[4,4]}}}}', "tensor 'b': shape [9223372036854775808, 4, 0] of U8 is more than 2**64 bits"),
    ('{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}', "is more than 2**64 bits"),
    ('{"a":{"dtype":"F32","shape":[576460752303423489],"data_offsets":[0,4]}}', "is more than 2**64 bits"),
    ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551615,3]}}', "expected to start at 0"),
    (f'{{"a":{{{GOOD},"x":{"[" * 126}{"]" * 126}}}}}', "more than 127 levels of nesting at character"),
    (f'{{"a":{{{GOOD},"x":{"[" * 100_000}', "more than 127 levels of nesting at character"),
    (f'{{"a":{{{GOOD},"x":1e999}}}}', "expected a number that float64 can hold at character"),
    (f'{{"a":{{{GOOD},"x":NaN}}}}', "expected a value at character"),
    (f'{{"a":{{{GOOD},"x":-Infinity}}}}', "expected a value at character"),
    (f'{{"a":{{{GOOD},"x":"\\ud800"}}}}', "expected a string without lone surrogates at character"),
    (f'{{"\\udc00":{{{GOOD}}}}}', "expected a string without lone surrogates at character 1"),
    (f'{{"a\tb":{{{GOOD}}}}}', "expected a valid string at character 1"),
    (f'{{"a":{{{GOOD},"x":"\\q"}}}}', "expected a valid string at character"),
]  # fmt: skip


@pytest.mark.parametrize("header", ACCEPTED, ids=range(len(ACCEPTED)))
def test_headers_that_the_package_accepts(header, tmp_path) -> None:
    assert agree(tmp_path / "x.safetensors", framed(header))


@pytest.mark.parametrize(("header", "message"), REFUSED, ids=range(len(REFUSED)))
def test_headers_that_the_package_refuses(header, message, tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    assert not agree(path, framed(header))
    with pytest.raises(FormatError) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1234567", "7 bytes, expected at least the 8 of a safetensors header length"),
        (
            struct.pack("<Q", 100_000_001) + b"{}",
            "says that its header takes 100000001 bytes, expected at most 100000000",
        ),
        (
            struct.pack("<Q", 2**64 - 1) + b"{}",
            "says that its header takes 18446744073709551615 bytes, expected at most",
        ),
        (
            struct.pack("<Q", 3) + b"{}",
            "says that its header takes 3 bytes, but only 2 follow; the file is cut short: download it again",
        ),
        (bytes(8), "its header is not valid: expected '{' at character 0, got the end of the text"),
        (framed(b'{"\xff":1}'), "its header is not UTF-8 at byte 10"),
        (framed(b'{"\xed\xa0\x80":1}'), "its header is not UTF-8 at byte 10"),
    ],
)
def test_broken_frames(content, message, tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    assert not agree(path, content)
    with pytest.raises(FormatError) as caught:
        open_checkpoint(path)
    assert message in str(caught.value)


def test_a_header_without_tensors_is_a_checkpoint_of_none(tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    assert agree(path, framed("{}", b""))
    assert len(open_checkpoint(path)) == 0


def test_the_dtypes_of_the_package_are_those_that_are_read() -> None:
    """The installed release lists them itself: one that adds a dtype fails here, and not at a user."""
    header = b'{"a":{"dtype":"none of them","shape":[1],"data_offsets":[0,1]}}'
    with pytest.raises(safetensors.SafetensorError, match="expected one of") as caught:
        safetensors.deserialize(len(header).to_bytes(8, "little") + header + b"x")
    assert set(re.findall(r"`(\w+)`", str(caught.value).partition("expected one of")[2])) == set(DTYPES) - {"C128"}


def test_every_dtype_name_of_the_package_is_known_and_no_other(tmp_path) -> None:
    for name in [
        "BOOL",
        "U8",
        "I8",
        "U16",
        "I16",
        "U32",
        "I32",
        "U64",
        "I64",
        "F16",
        "BF16",
        "F32",
        "F64",
        "C64",
        "C128",
        "F8_E4M3",
        "F8_E5M2",
        "F8_E8M0",
        "F8_E4M3FNUZ",
        "F8_E5M2FNUZ",
        "F4",
        "F6_E2M3",
        "F6_E3M2",
        "U4",
        "I4",
        "F8",
        "F128",
        "bool",
    ]:
        accepted = [
            agree(
                tmp_path / "x.safetensors",
                framed(f'{{"a":{{"dtype":"{name}","shape":[8],"data_offsets":[0,{n}]}}}}', bytes(n)),
            )
            for n in (4, 6, 8, 16, 32, 64, 128)
        ]
        assert sum(accepted) == (name not in {"C128", "U4", "I4", "F8", "F128", "bool"})


def test_repeated_names_are_told(tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(framed(f'{{"a":{{{GOOD}}},"a":{{{GOOD}}}}}'))
    assert open_checkpoint(path).notes == (f"{path}: names tensor 'a' more than once; the last one counts",)


def base_headers(rng: random.Random) -> tuple[str, int]:
    sizes = {"F32": 32, "BF16": 16, "U8": 8, "I64": 64, "F4": 4, "F6_E2M3": 6, "C64": 64, "BOOL": 8}
    at = 0
    entries: list[tuple[str, object]] = []
    for i in range(rng.randrange(1, 5)):
        dtype = rng.choice(list(sizes))
        shape = [rng.choice([0, 1, 2, 4, 8]) for _ in range(rng.randrange(4))] + [8]
        end = at + int(np.prod(shape)) * sizes[dtype] // 8
        entries.append((f"layer.{i}.wéight", {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}))
        at = end
    if rng.random() < 0.5:
        entries.insert(rng.randrange(len(entries) + 1), ("__metadata__", {"format": "pt", "n": "1"}))
    if rng.random() < 0.3:
        rng.shuffle(entries)
    spaced = (", ", ": ") if rng.random() < 0.3 else (",", ":")
    return json.dumps(dict(entries), ensure_ascii=rng.random() < 0.5, separators=spaced), at


def mutated(rng: random.Random, header: str) -> bytes:
    raw = bytearray(header.encode())
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        at = rng.randrange(len(raw) + 1)
        what = rng.randrange(9)
        if what == 0 and raw:
            raw[at % len(raw)] ^= 1 << rng.randrange(8)
        elif what == 1:
            raw[at:at] = rng.choice(
                [b" ", b"\n", b"\0", b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"-", b"0", b".0", b"e1"]
            )
        elif what == 2:
            del raw[at : at + rng.randrange(1, 4)]
        elif what == 3:
            digits = [i for i, c in enumerate(raw) if chr(c).isdigit()]
            if digits:
                i = rng.choice(digits)
                raw[i : i + 1] = rng.choice([b"0", b"7", b"-1", b"1.0", b"18446744073709551615", b"18446744073709551616",
                    b"9223372036854775808", b"1e3", b"null", b"true", b'"1"', b"00", b"-0", b"[1]", b"{}"])  # fmt: skip
        elif what == 4:
            text = raw.decode("utf-8", "replace")
            new = rng.choice(
                [("F32", "F64"), ("dtype", "shape"), ("shape", "dtype"), ("F32", "f32"), ('"data_offsets"', '"x":1,"data_offsets"'),
                 ("BF16", "F16"), ("layer.1", "layer.0"), ("__metadata__", "m"), ("layer.0.wéight", "__metadata__"),
                 ("[", "[ "), ("}", " }"), ('"pt"', "null"), ('"pt"', '"\\ud800"'), ('"dtype"', '"dtype":"U8","dtype"')]
            )  # fmt: skip
            raw = bytearray(text.replace(*new, 1).encode())
        elif what == 5:
            raw = raw[:at]
        elif what == 6:
            raw += rng.choice([b" ", b"   ", b"\n\t", b"\0", b"{}", b","])
        elif what == 7:
            raw[:0] = rng.choice([b" ", b"\r\n", b"\xef\xbb\xbf", b"\0"])
        else:
            cut = raw[at : at + rng.randrange(60)]
            raw[at:at] = cut
    return bytes(raw)


def test_agreement_over_mutated_headers(tmp_path) -> None:
    rng = random.Random(20250101)
    accepted = total = 0
    for _ in range(6000):
        header, size = base_headers(rng)
        content = framed(mutated(rng, header), bytes(max(0, size + rng.choice([0] * 12 + [1, -1, 8]))))
        if rng.random() < 0.03:
            content = content[: rng.randrange(len(content))]
        accepted += agree(tmp_path / "x.safetensors", content)
        total += 1
    assert 500 < accepted < total - 500  # both answers are well tried


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_round_trip_in_random_blocks(data, tmp_path) -> None:
    dtypes = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8"]
    names = st.text(min_size=0, max_size=12).filter(
        lambda text: text != "__metadata__" and not any("\ud800" <= c <= "\udfff" for c in text)
    )
    arrays = {
        name: np.random.default_rng(7).integers(0, 2, size=shape).astype(dtype)
        for name, dtype, shape in data.draw(
            st.lists(
                st.tuples(names, st.sampled_from(dtypes), st.lists(st.integers(0, 5), max_size=4)),
                max_size=5, unique_by=lambda entry: entry[0],
            )
        )
    }  # fmt: skip
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors.numpy.save(arrays, {"k": "v"}))
    with open_checkpoint(path) as opened:
        assert set(opened) == set(arrays)
        assert opened.metadata == {"k": "v"}
        assert [t.offset for t in opened.values()] == sorted(t.offset for t in opened.values())
        for name, array in arrays.items():
            tensor = opened[name]
            assert (tensor.name, tensor.shape, tensor.nbytes) == (name, array.shape, array.nbytes)
            assert tensor.read().dtype == array.dtype
            np.testing.assert_array_equal(tensor.read(), array)
            start = data.draw(st.integers(0, array.size))
            count = data.draw(st.integers(0, array.size - start))
            block = np.empty(count, array.dtype)
            tensor.prefetch(start, count)
            if count:
                tensor.read_into(start, memoryview(block.view(np.uint8)))
            np.testing.assert_array_equal(block, array.reshape(-1)[start : start + count])


def test_real_files_agree_with_the_package(realweights) -> None:
    files = sorted(realweights.glob("*.safetensors"))
    assert files
    for path in files:
        expected = safetensors.numpy.load_file(path)
        with open_checkpoint(path) as opened:
            assert set(opened) == set(expected)
            for name, array in expected.items():
                assert opened[name].read().tobytes() == array.tobytes()
                assert opened[name].read().dtype == array.dtype
                assert opened[name].shape == array.shape


MEASURE = f"""{PEAK}
import sys, time
from netweight.checkpoint import open_checkpoint
from netweight.dtypes import DTYPES
from netweight.errors import FormatError
before, start = peak(), time.process_time()
try:
    print(len(open_checkpoint(sys.argv[1])))
except FormatError as problem:
    print(str(problem)[-150:])
print(time.process_time() - start, (peak() - before) / 1024)
"""


def measured(path: Path) -> tuple[str, float, float]:
    pytest.importorskip("resource", reason="peak memory is not told on this system")
    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    *text, numbers = done.stdout.splitlines()
    seconds, mebibytes = map(float, numbers.split())
    return "\n".join(text), seconds, mebibytes


def test_many_tensors(tmp_path) -> None:
    """The bounds are those of a million in 10 s and 270 MiB."""
    many = 400_000
    path = tmp_path / "x.safetensors"
    entries = ",".join(f'"h.{i}.w":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{i + 1}]}}' for i in range(many))
    path.write_bytes(framed("{" + entries + "}", bytes(many)))
    text, seconds, mebibytes = measured(path)
    assert text == str(many)
    assert seconds < 4 * slowness()
    assert mebibytes < 108


def test_many_shapes_out_of_order(tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    entries = ",".join(
        f'"h.{i}":{{"dtype":"U8","shape":[{i},0],"data_offsets":[0,0]}}' for i in reversed(range(300_000))
    )
    path.write_bytes(framed("{" + entries + "}", b""))
    text, seconds, mebibytes = measured(path)
    assert text == "300000"
    assert seconds < 10 * slowness()
    assert mebibytes < 256


def test_a_name_of_a_megabyte(tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    name = "n" * (1 << 20)
    assert agree(path, framed(f'{{"{name}":{{{GOOD}}}}}'))
    path.write_bytes(framed(f'{{"{name}":{{{GOOD}}}}}', bytes(5)))
    with pytest.raises(FormatError) as caught:
        open_checkpoint(path)
    path.write_bytes(framed(f'{{"{name}":{{"dtype":1}}}}'))
    with pytest.raises(FormatError) as caught:
        open_checkpoint(path)
    assert len(str(caught.value)) < 600
    assert measured(path)[2] < 64


@pytest.mark.parametrize("junk", ["[],", "0,"])
def test_junk_of_a_hundred_megabytes(junk, tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    many = junk * (95_000_000 // len(junk))
    path.write_bytes(framed(f'{{"a":{{{GOOD},"x":[{many}0]}}}}'))
    text, seconds, mebibytes = measured(path)
    assert "tensor 'a': more than 1000000 values under unknown keys; download the file again" in text
    assert seconds < 10 * slowness()
    assert mebibytes < 256
