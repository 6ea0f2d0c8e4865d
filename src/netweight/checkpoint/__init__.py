"""Floor 4: checkpoint formats opened lazily as ordered mappings of names to tensors."""

from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.tensor import Checkpoint, CheckpointFile, Skipped, Tensor

__all__ = ["Checkpoint", "CheckpointFile", "Skipped", "Tensor", "open_checkpoint"]
