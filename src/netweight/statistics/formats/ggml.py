"""llama.cpp's types, encoded and decoded by libgguf, whose bytes are those of llama.cpp's own reference encoders."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netweight.kernels.arrays import F32Array

__all__ = ["NEEDED", "coded", "importance", "installed"]

NEEDED = 'llama.cpp\'s types are encoded by libgguf: pip install "netweight[formats]"'
"""What to say where it is not installed."""


def installed() -> bool:
    """Whether libgguf is there."""
    return find_spec("libgguf") is not None


@cache
def _library() -> Any:
    return import_module("libgguf")


def coded(values: F32Array, kind: str, weights: F32Array | None = None) -> F32Array:
    """float32 [n, cols] as a type such as "Q4_K" has them; cols is a multiple of its block. `weights`: float32 [cols],
    the importance of columns, as of an imatrix.
    """
    library = _library()
    number = library.GGMLQuantizationType[kind]
    found: F32Array = library.dequantize_rows(
        library.quantize_rows(values, number, weights), number, n_per_row=values.shape[1]
    )
    return found


def importance(path: Any) -> dict[str, F32Array]:
    """{tensor: float32, mean square of its inputs} of an imatrix file; raises OSError and ValueError."""
    found: dict[str, F32Array] = _library().load_imatrix(path)
    return found
