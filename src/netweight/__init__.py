"""netweight weighs neural nets: opens checkpoints lazily, and measures what fine-tunes changed."""

from netweight.version import __version__

__all__ = ["__version__"]
