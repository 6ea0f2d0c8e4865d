"""Element types of checkpoints, named as safetensors names them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DTYPES", "DType", "Kind"]


class Kind(Enum):
    """What the bits of an element mean."""

    FLOAT = "float"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    COMPLEX = "complex"
    PACKED = "packed float"  # less than a byte an element


@dataclass(frozen=True)
class DType:
    """One element type: `name` as in safetensors, `bits` an element, `numpy_name` for numpy (with ml_dtypes)."""

    name: str
    bits: int
    kind: Kind
    numpy_name: str | None

    def __str__(self) -> str:
        return self.name

    def nbytes(self, elements: int) -> int:
        """Bytes that `elements` of this type take; raises ValueError where they do not fill whole bytes."""
        bits = elements * self.bits
        if bits % 8:
            msg = f"{elements} elements of {self.name} ({self.bits} bits each) do not fill whole bytes"
            raise ValueError(msg)
        return bits // 8

    def to_numpy(self) -> np.dtype[Any]:
        """The numpy dtype, little-endian; raises TypeError for packed types, which have none."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        if self.numpy_name is None:
            msg = f"{self.name} has no numpy dtype: its elements are smaller than a byte"
            raise TypeError(msg)
        if self.numpy_name.startswith("ml_dtypes."):
            import ml_dtypes  # noqa: PLC0415

            element_type: np.dtype[Any] = np.dtype(getattr(ml_dtypes, self.numpy_name.removeprefix("ml_dtypes.")))
            return element_type
        return np.dtype(self.numpy_name)


_TABLE = [
    ("BOOL", 8, Kind.BOOLEAN, "|b1"),
    ("U8", 8, Kind.INTEGER, "|u1"),
    ("I8", 8, Kind.INTEGER, "|i1"),
    ("U16", 16, Kind.INTEGER, "<u2"),
    ("I16", 16, Kind.INTEGER, "<i2"),
    ("U32", 32, Kind.INTEGER, "<u4"),
    ("I32", 32, Kind.INTEGER, "<i4"),
    ("U64", 64, Kind.INTEGER, "<u8"),
    ("I64", 64, Kind.INTEGER, "<i8"),
    ("F16", 16, Kind.FLOAT, "<f2"),
    ("BF16", 16, Kind.FLOAT, "ml_dtypes.bfloat16"),
    ("F32", 32, Kind.FLOAT, "<f4"),
    ("F64", 64, Kind.FLOAT, "<f8"),
    ("C64", 64, Kind.COMPLEX, "<c8"),
    ("C128", 128, Kind.COMPLEX, "<c16"),  # torch only
    ("F8_E4M3", 8, Kind.FLOAT, "ml_dtypes.float8_e4m3fn"),
    ("F8_E5M2", 8, Kind.FLOAT, "ml_dtypes.float8_e5m2"),
    ("F8_E8M0", 8, Kind.FLOAT, "ml_dtypes.float8_e8m0fnu"),
    ("F8_E4M3FNUZ", 8, Kind.FLOAT, "ml_dtypes.float8_e4m3fnuz"),
    ("F8_E5M2FNUZ", 8, Kind.FLOAT, "ml_dtypes.float8_e5m2fnuz"),
    ("F6_E2M3", 6, Kind.PACKED, None),
    ("F6_E3M2", 6, Kind.PACKED, None),
    ("F4", 4, Kind.PACKED, None),
]

DTYPES: dict[str, DType] = {name: DType(name, bits, kind, numpy_name) for name, bits, kind, numpy_name in _TABLE}
"""Every element type by its safetensors name (and C128, which only torch has)."""
