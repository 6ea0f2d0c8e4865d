"""A Gram matrix in float64 on the device, panel by panel, and the R of a QR decomposition in its place."""

from __future__ import annotations

from math import frexp, isfinite, ldexp

import torch

__all__ = ["ScaledGram", "add_qr", "singular_values"]

_SAFE = 200  # exponents up to 2^200 apart are summed as they are: squares and their sums stay far inside float64


class ScaledGram:
    """Sum of panel.T @ panel, times 2^(-2 exponent): a power of two keeps the squares inside float64.

    `any_exponent`: elements may be so large or small (64-bit floats); those of other types never need a scale, and
    nothing waits for the device.
    """

    def __init__(self, n: int, device: torch.device, *, any_exponent: bool) -> None:
        self.matrix = torch.zeros((n, n), dtype=torch.float64, device=device)
        self.exponent = 0
        self.finite = True
        self._any = any_exponent
        self._begun = False

    def add(self, panel: torch.Tensor) -> None:
        """Take in float64 [k, n], which may be scaled in place."""
        if self._any:
            most = float(panel.abs().max())
            self.finite = self.finite and isfinite(most)
            if not self.finite or most == 0.0:
                return
            self._make_room(frexp(most)[1])
            self.scale(panel)
        if len(self.matrix) == 1:
            self.matrix += panel.square().sum()
        else:
            self.matrix.addmm_(panel.T, panel)

    def _make_room(self, exponent: int) -> None:
        if not self._begun:
            self.exponent = exponent if abs(exponent) > _SAFE else 0
            self._begun = True
        elif exponent > self.exponent + _SAFE:
            self._times(self.matrix, 2 * (self.exponent - exponent))
            self.exponent = exponent

    def scale(self, panel: torch.Tensor) -> None:
        """Panel times 2^-exponent."""
        if self.exponent:
            self._times(panel, -self.exponent)

    @staticmethod
    def _times(matrix: torch.Tensor, exponent: int) -> None:
        """Times 2^exponent, which float64 may only hold as a product."""
        while exponent:
            step = max(min(exponent, 1000), -1000)
            matrix *= ldexp(1.0, step)
            exponent -= step

    def shrink(self, keep: torch.Tensor) -> None:
        """Keep these rows and columns."""
        self.matrix = self.matrix[keep][:, keep]


def add_qr(triangle: torch.Tensor, panel: torch.Tensor) -> torch.Tensor:
    """float64 [n, n]: the R of the QR decomposition of `triangle` upon float64 [k, n]."""
    r: torch.Tensor = torch.linalg.qr(torch.cat([triangle, panel]), mode="r").R
    return r


def singular_values(triangle: torch.Tensor) -> torch.Tensor:
    """float64 [n] descending, on the host, of float64 [n, n]."""
    # By way of bidiagonal form, as LAPACK: cuSOLVER's other ways stop at a tolerance.
    driver = "gesvd" if triangle.device.type == "cuda" else None
    values: torch.Tensor = torch.linalg.svdvals(triangle, driver=driver)
    return values.cpu()
