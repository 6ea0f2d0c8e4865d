"""Signs of formats that have no magic number: each function says whether a file's own bytes prove that it is one."""

from __future__ import annotations

import re
import struct

from netweight.checkpoint.protobuf_fields import BYTES, FIXED32, VARINT, Field, fields, peek, text
from netweight.source.protocol import Source

__all__ = [
    "is_caffe", "is_core_ml", "is_ctranslate2", "is_flax", "is_graph_def", "is_html", "is_llama2_c", "is_onnx",
    "is_openvino", "is_saved_model", "is_sentencepiece", "is_tensorflow_index", "is_tiktoken", "is_xml_answer",
]  # fmt: skip

_ONNX = {1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES, 7: BYTES, 8: BYTES, 14: BYTES, 20: BYTES,
         25: BYTES, 26: BYTES}  # fmt: skip
_ONNX_GRAPH = {1, 2, 5, 10, 11, 12, 13, 14, 15, 16}
_INDEX_END = bytes.fromhex("57fb808b247547db")
_RANKS = re.compile(rb"[A-Za-z0-9+/]+={0,2} 0\r?\n[A-Za-z0-9+/]+={0,2} 1\r?\n[A-Za-z0-9+/]+={0,2} 2\r?\n")


def is_onnx(_start: bytes, source: Source) -> bool:
    """A ModelProto (onnx.proto): ir_version 1, producer_name 2 ... graph 7, opset_import 8, in any order."""
    found, _ = fields(source)
    if any(_ONNX.get(field.number) != field.wire for field in found):
        return False
    by_number = {field.number: field for field in found}
    if not all(not by_number[n].value or text(source, by_number[n]) for n in (2, 3, 4) if n in by_number):
        return False
    graph = 7 in by_number and _first_tag(source, by_number[7]) in {number << 3 | BYTES for number in _ONNX_GRAPH}
    opset = 8 in by_number and _is_opset(source, by_number[8])
    version = 1 in by_number and 1 <= by_number[1].value <= 255
    producer = 2 in by_number and by_number[2].value > 0
    return sum((graph, opset, version, producer)) >= 2


def _is_opset(source: Source, field: Field) -> bool:
    inside, whole = fields(source, field.start, field.start + field.value)
    kinds = {entry.number: entry.wire for entry in inside}
    return whole and kinds.get(2) == VARINT and kinds.get(1, BYTES) == BYTES and not kinds.keys() - {1, 2}


def is_saved_model(_start: bytes, source: Source) -> bool:
    """TensorFlow's SavedModel: saved_model_schema_version 1 is 1, then meta_graphs 2."""
    found, whole = fields(source)
    shapes = {(field.number, field.wire) for field in found}
    if not whole or shapes != {(1, VARINT), (2, BYTES)} or found[0].value != 1:
        return False
    return all(_first_tag(source, field) in {0x0A, 0x12} for field in found if field.number == 2)


def is_graph_def(_start: bytes, source: Source) -> bool:
    """TensorFlow's GraphDef (a frozen graph): nodes, each with the names of itself and of its operation."""
    found, _ = fields(source)
    nodes = [field for field in found if field.number == 1][:3]
    return bool(nodes) and all(field.wire == BYTES and _two_names(source, field) for field in nodes)


def is_caffe(_start: bytes, source: Source) -> bool:
    """Caffe's NetParameter: a name, then layers (100, or 2 before that) with their names and types."""
    found, _ = fields(source)
    if not found or found[0].number != 1 or not text(source, found[0]):
        return False
    layers = [field for field in found if field.number == 100][:3]
    return bool(layers) and all(field.wire == BYTES and _two_names(source, field) for field in layers)


def is_core_ml(_start: bytes, source: Source) -> bool:
    """Core ML's Model: specificationVersion 1, description 2, and a type of model from 200."""
    found, _ = fields(source)
    shapes = [(field.number, field.wire) for field in found]
    if shapes[:2] != [(1, VARINT), (2, BYTES)] or not 1 <= found[0].value <= 64:
        return False
    return any(200 <= number <= 3000 and wire == BYTES for number, wire in shapes[2:])


def is_sentencepiece(_start: bytes, source: Source) -> bool:
    """A sentencepiece ModelProto: pieces, each a text and its score."""
    found, _ = fields(source)
    if len(found) < 3:
        return False
    for piece in found[:3]:
        inside, whole = fields(source, piece.start, piece.start + piece.value) if piece.wire == BYTES else ([], False)
        shapes = [(field.number, field.wire) for field in inside]
        if piece.number != 1 or not whole or shapes[:2] != [(1, BYTES), (2, FIXED32)]:
            return False
    return True


def _two_names(source: Source, field: Field) -> bool:
    """Whether a message starts with two texts."""
    inside, _ = fields(source, field.start, field.start + field.value)
    numbers = [entry.number for entry in inside[:2]]
    return numbers == [1, 2] and all(text(source, entry) for entry in inside[:2])


def _first_tag(source: Source, field: Field) -> int:
    return (peek(source, field.start, 1) or b"\0")[0] if field.value else 0


def is_tensorflow_index(_start: bytes, source: Source) -> bool:
    """The index of a TensorFlow checkpoint is a table of LevelDB's form, which ends with this number."""
    return source.size >= 48 and peek(source, source.size - 8, 8) == _INDEX_END


def is_flax(start: bytes, _source: Source) -> bool:
    """Maps in msgpack, one in the other, down to an array of Flax (extension type 1)."""
    at = 0
    for _ in range(32):
        head = start[at : at + 1]
        if b"\x81" <= head <= b"\x8f":
            at += 1
        elif head in (b"\xde", b"\xdf"):
            at += 3 if head == b"\xde" else 5
        else:
            break
        size = start[at] & 31 if start[at : at + 1] and 0xA0 <= start[at] <= 0xBF else -1
        if start[at : at + 1] == b"\xd9":
            at, size = at + 1, start[at + 1] if at + 1 < len(start) else -1
        if size < 0 or not start[at + 1 : at + 1 + size].isascii():
            return False
        at += 1 + size
    widths = {0xC7: 2, 0xC8: 3, 0xC9: 5, 0xD4: 1, 0xD5: 1, 0xD6: 1, 0xD7: 1, 0xD8: 1}
    width = widths.get(start[at], 0) if 0 < at < len(start) else 0
    return bool(width) and start[at + width : at + width + 1] == b"\x01"


def is_ctranslate2(start: bytes, _source: Source) -> bool:
    """CTranslate2's model.bin: a version, and the name of a specification with its length and a zero byte."""
    if len(start) < 12:
        return False
    version, length = struct.unpack_from("<IH", start)
    name, end = start[6 : 5 + length], start[5 + length : 6 + length]
    if not (2 <= version <= 64 and 4 < length <= 64 and end == b"\0"):
        return False
    return name.isalnum() and (name.endswith(b"Spec") or name in (b"TransformerBase", b"TransformerBig"))


def is_llama2_c(start: bytes, source: Source) -> bool:
    """llama2.c: its magic number, or seven sizes (version 0) from which the size of the file follows."""
    if start.startswith(b"24ka"):
        return True
    if len(start) < 28:
        return False
    dim, hidden, layers, heads, kv_heads, vocabulary, length = struct.unpack_from("<7i", start)
    if min(dim, hidden, layers, heads, kv_heads, length, abs(vocabulary)) < 1 or dim % heads:
        return False
    head = dim // heads
    layer = 2 * dim + 2 * dim * dim + 2 * dim * kv_heads * head + 3 * dim * hidden
    own_head = -vocabulary * dim if vocabulary < 0 else 0
    elements = abs(vocabulary) * dim + layers * layer + dim + length * head // 2 * 2 + own_head
    return bool(source.size == 28 + 4 * elements)


def is_openvino(start: bytes, _source: Source) -> bool:
    """OpenVINO's description of a network, in XML."""
    return start.lstrip().startswith((b"<?xml", b"<net ")) and b"<net " in start and b"version=" in start


def is_html(start: bytes, _source: Source) -> bool:
    """A web page."""
    return start.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower().startswith((b"<!doctype", b"<html"))


def is_xml_answer(start: bytes, _source: Source) -> bool:
    """What object stores answer instead of a file."""
    return b"<Error>" in start and b"<Code>" in start and start.lstrip().startswith((b"<?xml", b"<Error"))


def is_tiktoken(start: bytes, _source: Source) -> bool:
    """Lines of a token in base64 and its rank, from 0."""
    return bool(_RANKS.match(start))
