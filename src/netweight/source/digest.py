"""The digests by which a hub names the bytes of a file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["digest_of_file"]


def digest_of_file(path: Path, algorithm: str) -> str:
    """SHA-256 of a file's bytes, or git's name of them: SHA-1 of "blob", their number, a zero byte and the bytes.
    `algorithm` is "sha256" or "git-sha1". Raises OSError where they cannot be read.
    """
    digest = hashlib.sha256() if algorithm == "sha256" else hashlib.sha1(usedforsecurity=False)
    with path.open("rb") as file:
        if algorithm != "sha256":
            digest.update(b"blob %d\0" % os.fstat(file.fileno()).st_size)
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
