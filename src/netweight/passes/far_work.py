"""Work that threads of this process do, or processes on other machines."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["FarWork"]


class FarWork:
    """A work object that pickles: what its threads have of their own (`_own`) stays behind. `far` says that it came
    from another process: what it will read is not announced here, and its results go back over a wire.
    """

    far = False

    def __init__(self) -> None:
        self._own = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_own"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._own = threading.local()
        self.far = True
