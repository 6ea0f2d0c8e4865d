"""Eigenvalues on the device; small matrices of one size that several threads wait with are solved in one batch.

A GPU takes as long for one small matrix as for many. Whoever finds the solver free takes along all that wait with its
size; nobody waits for a batch to fill. Which ones meet depends on time, and so may the last bits of small spectra.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from threading import Lock

import torch

__all__ = ["BatchedEigenvalues", "eigenvalues"]

_SMALL = 512  # columns up to which matrices are joined
_MOST = 64  # matrices of a batch


def _alone(gram: torch.Tensor) -> torch.Tensor:
    values: torch.Tensor = torch.linalg.eigvalsh(gram)
    return values.cpu()


class BatchedEigenvalues:
    """The solver of one device; any thread may call it."""

    def __init__(self) -> None:
        self._solving = Lock()
        self._guard = Lock()
        self._waiting: dict[int, list[tuple[torch.Tensor, Future[torch.Tensor | None]]]] = {}

    def __call__(self, gram: torch.Tensor) -> torch.Tensor:
        """float64 [n] ascending, on the host, of the symmetric float64 [n, n].

        Raises torch.linalg.LinAlgError where the iteration does not converge, torch.OutOfMemoryError.
        """
        n = len(gram)
        if n > _SMALL:
            return _alone(gram)
        if gram.device.type == "cuda":
            torch.cuda.current_stream(gram.device).synchronize()  # another thread's stream may read it
        mine: Future[torch.Tensor | None] = Future()
        with self._guard:
            self._waiting.setdefault(n, []).append((gram, mine))
        while not mine.done():
            with self._solving:
                if not mine.done():
                    self._solve(n)
        values = mine.result()
        return _alone(gram) if values is None else values

    def _solve(self, n: int) -> None:
        with self._guard:
            batch, self._waiting[n] = self._waiting[n][:_MOST], self._waiting[n][_MOST:]
        results: Sequence[torch.Tensor | None] = [None] * len(batch)
        try:
            results = list(torch.linalg.eigvalsh(torch.stack([gram for gram, _ in batch])).cpu())
        except RuntimeError:
            # Each thread then tries its own matrix alone: only those that fail by themselves fail.
            results = [None] * len(batch)
        finally:
            for (_, future), values in zip(batch, results, strict=True):
                future.set_result(values)


_solvers: dict[torch.device, BatchedEigenvalues] = {}


def eigenvalues(gram: torch.Tensor) -> torch.Tensor:
    """float64 [n] ascending, on the host, of the symmetric float64 [n, n] on its device; raises as the solver does."""
    return _solvers.setdefault(gram.device, BatchedEigenvalues())(gram)
