"""Checkpoints: references, places and readers; names in order, and tensors whose data stay in their files."""

from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.tensor import Checkpoint, CheckpointFile, Skipped, Tensor

__all__ = ["Checkpoint", "CheckpointFile", "Skipped", "Tensor", "open_checkpoint"]
