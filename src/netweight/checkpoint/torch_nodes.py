"""Pickle nodes that stand for torch tensors, storages and modules (torch/_utils.py, torch/nn/modules/module.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from netweight.checkpoint.dtensor import is_dtensor, local_tensor, offsets_of
from netweight.checkpoint.pickle_nodes import Blob, Call, Global, Mapped, Persistent
from netweight.dtypes import DTYPES, DType, Kind

__all__ = [
    "Storage",
    "TensorNodes",
    "Unreadable",
    "View",
    "dtype_named",
    "element_width",
    "is_module",
    "is_script",
    "storage_dtype",
]

_TYPES = {
    "Float": "F32", "Double": "F64", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32", "Short": "I16",
    "Char": "I8", "Byte": "U8", "Bool": "BOOL", "ComplexFloat": "C64", "ComplexDouble": "C128",
}  # fmt: skip
_QUANTIZED = {"QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1}  # bytes an element
_NAMES = {
    "float32": "F32", "float": "F32", "float64": "F64", "double": "F64", "float16": "F16", "half": "F16",
    "bfloat16": "BF16", "int64": "I64", "long": "I64", "int32": "I32", "int": "I32", "int16": "I16", "short": "I16",
    "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL", "complex64": "C64",
    "cfloat": "C64", "complex128": "C128", "cdouble": "C128", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip
_WRAPPERS = frozenset({  # calls whose first argument is the tensor
    "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state", "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer", "torch.autograd.variable.Variable", "torch.nn.Parameter", "torch.autograd.Variable",
    "torch.nn.parameter.UninitializedParameter",
})  # fmt: skip
_SUBCLASSES = frozenset({"torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type"})
_REASONS = {
    "torch._utils._rebuild_qtensor": "a quantized tensor, which is not read",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor, which is not read",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor, which is not read",
    "torch._utils._rebuild_nested_tensor": "a nested tensor, which is not read",
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor: it has a shape and no data",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor saved as a numpy array (XLA), which is not read",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor saved for another device, which is not read",
    "torch._utils._rebuild_xla_tensor": "a tensor saved as a numpy array (XLA), which is not read",
    "torch._utils._rebuild_wrapper_subclass": "a tensor subclass without a storage, which is not read",
    "torch.storage._load_from_bytes": "a tensor pickled inside the pickle, which is not read",
}
_OF_A_RANK = (
    "one rank's share of a tensor that is distributed over several in a way that is not known here, which is not read:"
    " save the whole model with the trainer that wrote it (verl: python -m verl.model_merger merge)"
)
_NUMPY = ("numpy.core.multiarray.", "numpy._core.multiarray.", "numpy.ndarray", "numpy._core.numeric.")
_MAX_DIMENSIONS = 64
_BITS = frozenset({"neg", "conj"})


@dataclass(frozen=True)
class Storage:
    """A storage by its key; `dtype` is None for an untyped one, `count` its elements (bytes if untyped).

    `shift` is where it starts in the storage of that key, in its own elements.
    """

    key: str
    dtype: DType | None
    count: int
    shift: int = 0


@dataclass(frozen=True)
class View:
    """A tensor as a view of a storage; `offset` and `strides` are in elements of `dtype`. `negative` and `conjugate`:
    the elements are those of the storage with another sign. `inside`: of one rank's share of a tensor, where it begins
    in the whole, and the whole's shape.
    """

    storage: Storage
    dtype: DType
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    negative: bool = False
    conjugate: bool = False
    inside: tuple[tuple[int, ...], tuple[int, ...]] | None = None


@dataclass(frozen=True)
class Unreadable:
    """A tensor that cannot be read, and why; `broken` where the file itself is at fault."""

    reason: str
    broken: bool = False


def storage_dtype(kind: Any) -> DType | Unreadable | None:
    """The dtype of a storage class such as `torch.FloatStorage`; None for UntypedStorage."""
    name = kind.name if isinstance(kind, Global) and kind.module.partition(".")[0] == "torch" else ""
    if name in {"UntypedStorage", "_UntypedStorage"}:
        return None
    stem = name.removesuffix("Storage").removesuffix("Tensor")
    if stem in _TYPES and stem != name:
        return DTYPES[_TYPES[stem]]
    if stem in _QUANTIZED:
        return Unreadable("a quantized tensor, which is not read")
    if kind is None or not name:
        return Unreadable("its storage is of no torch class", broken=True)
    return Unreadable(f"its storage is of the unknown class {kind.full}")


def dtype_named(dtype: Any) -> DType | Unreadable:
    """The dtype that a global such as `torch.bfloat16` names."""
    if isinstance(dtype, Global) and dtype.module == "torch" and dtype.name in _NAMES:
        return DTYPES[_NAMES[dtype.name]]
    name = dtype.full if isinstance(dtype, Global) else "none"
    return Unreadable(f"its dtype is {name}, which is not known")


def element_width(kind: Any) -> int:
    """Bytes of an element of a storage of the class `kind`; 1 for untyped ones and those of unknown classes."""
    dtype = storage_dtype(kind)
    if isinstance(dtype, DType):
        return dtype.bits // 8
    return _QUANTIZED.get(kind.name.removesuffix("Storage"), 1) if isinstance(kind, Global) else 1


def is_module(node: Any) -> bool:
    """Whether `node` is a pickled torch.nn.Module of any class."""
    if not isinstance(node, Call) or not isinstance(node.state, Mapped):
        return False
    return isinstance(node.state.get("_modules"), Mapped) and isinstance(node.state.get("_parameters"), Mapped)


def is_script(node: Any) -> bool:
    """Whether `node` is a module of TorchScript, whose attributes are its tensors and children."""
    return isinstance(node, Call) and node.of.startswith("__torch__.") and isinstance(node.state, Mapped)


class TensorNodes:
    """Reads nodes as tensors; `storage_of` makes a persistent id a Storage, `tensor_of` (torch tar) a tensor."""

    def __init__(
        self,
        storage_of: Callable[[Any], Storage | Unreadable],
        tensor_of: Callable[[Any], View | Unreadable | None] | None = None,
    ) -> None:
        self._storage_of = storage_of
        self._tensor_of = tensor_of

    def read(self, node: Any) -> View | Unreadable | None:
        """The tensor that `node` stands for, None where it is none."""
        for _ in range(8):  # a Parameter of a subclass of a Parameter ...; more is an attack
            if isinstance(node, Persistent) and self._tensor_of is not None:
                return self._tensor_of(node.pid)
            if not isinstance(node, Call):
                return None
            if node.of in _WRAPPERS:
                node = node.args[0] if node.args else None
            elif is_dtensor(node):
                return self._share(node)
            elif node.of in _SUBCLASSES:
                if len(node.args) < 3 or not isinstance(node.args[2], tuple):
                    return Unreadable("a tensor subclass without its arguments", broken=True)
                node = Call(node.args[0], node.args[2])
            else:
                return self._call(node)
        return Unreadable("wrapped more than eight times", broken=True)

    def _call(self, node: Call) -> View | Unreadable | None:
        name = node.of
        if name in {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}:
            return _with_bits(self._view(node.args[:4]), node.args[6:7])
        if name == "torch._utils._rebuild_tensor_v3":
            view = self._view(node.args[:4], node.args[6] if len(node.args) > 6 else None)
            return _with_bits(view, node.args[7:8])
        if _is_named(node.function, "ShardedTensor"):
            return Unreadable(_OF_A_RANK)
        if name in _REASONS:
            return Unreadable(_REASONS[name])
        if name.startswith(_NUMPY):
            return Unreadable("a numpy array or number, which is not read")
        if (
            name.startswith("torch.")
            and name.endswith("Tensor")
            and isinstance(node.state, tuple)
            and len(node.state) == 4
        ):
            return self._view(node.state)  # torch 0.1: an empty tensor whose state says what it views
        return None

    def _share(self, node: Call) -> View | Unreadable:
        """The tensor that one rank holds of a DTensor."""
        local = self.read(local_tensor(node))
        if not isinstance(local, View):
            return local or Unreadable("a distributed tensor without its share", broken=True)
        inside = offsets_of(node, local.shape)
        return replace(local, inside=inside) if inside else Unreadable(_OF_A_RANK)

    def _view(self, args: tuple[Any, ...], dtype: Any = None) -> View | Unreadable:
        reference, offset, shape, strides = args if len(args) == 4 else (None, 0, (), ())
        if isinstance(reference, Persistent):
            storage = self._storage_of(reference.pid)
        elif isinstance(reference, tuple) and reference and reference[0] == "storage":
            storage = self._storage_of(reference)  # some tools write the reference itself
        else:
            return Unreadable("a tensor without its storage", broken=True)
        if isinstance(storage, Unreadable):
            return storage
        if not (_is_count(offset) and _are_counts(shape) and _are_counts(strides) and len(shape) == len(strides)):
            return Unreadable(
                f"offset, sizes and strides are no whole numbers from 0: {_shown(offset)}, {_shown(shape)}, "
                f"{_shown(strides)}",
                broken=True,
            )
        element = storage.dtype
        if dtype is not None or element is None:
            named = dtype_named(dtype)
            if isinstance(named, Unreadable):
                return named
            element = named
        return View(storage, element, offset, tuple(shape), tuple(strides))


def _with_bits(view: View | Unreadable, about: tuple[Any, ...]) -> View | Unreadable:
    """The view with the bits that torch keeps beside a tensor (torch/_utils.py, set_tensor_metadata): `about` is empty
    where it keeps none.
    """
    held = about[0] if about else None
    if isinstance(view, Unreadable) or held is None:
        return view
    if not isinstance(held, Mapped):
        return Unreadable("what is kept of its bits is no dict", broken=True)
    for key, value in held.pairs:
        if key not in _BITS or type(value) is not bool:
            return Unreadable("bits beside its elements, of a kind that is not known")
    negative, conjugate = held.get("neg") is True, held.get("conj") is True
    if conjugate and view.dtype.kind is not Kind.COMPLEX:
        return Unreadable(f"the conjugate of {view.dtype}", broken=True)
    if negative and view.dtype.kind not in {Kind.FLOAT, Kind.COMPLEX, Kind.INTEGER}:
        return Unreadable(f"the negative of {view.dtype}, which is not read")
    return replace(view, negative=negative, conjugate=conjugate)


def _is_named(node: Any, name: str) -> bool:
    return isinstance(node, Global) and node.name == name and node.module.startswith("torch.distributed.")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _are_counts(values: Any) -> bool:
    return isinstance(values, (tuple, list)) and len(values) <= _MAX_DIMENSIONS and all(map(_is_count, values))


def _shown(value: Any) -> str:
    """A number or a few of them for a message; nothing else is put into words."""
    if type(value) is int:
        return str(value) if abs(value) < 1 << 64 else "a huge number"
    if isinstance(value, (tuple, list)):
        more = ", ..." if len(value) > 8 else ""
        return "(" + ", ".join(_shown(entry) if type(entry) is int else "?" for entry in value[:8]) + more + ")"
    return "bytes" if isinstance(value, Blob) else "no number"
