"""What files of a model are called, and what trainers call the files that they leave beside one."""

from __future__ import annotations

import re
from collections.abc import Iterable

from netweight.checkpoint.kinds import READERS

__all__ = [
    "CHUNKS",
    "COUNTED",
    "NOT_MODELS",
    "NUMBERED",
    "OTHERS",
    "PARALLEL",
    "RANKS",
    "SIDE_MODELS",
    "TORCH",
    "ZERO_2",
    "is_zero_2",
    "may_be_weights",
]

NUMBERED = re.compile(r"(.+)-(\d{5,})-of-(\d{5,})(\.safetensors|\.bin|\.pt|\.pth|\.npz|\.gguf)")
COUNTED = re.compile(r"(.+)\.(\d{2,5})(\.npz)")
"""MLX's: weights.00.npz, weights.01.npz ..."""
TORCH = (".bin", ".pt", ".pth", ".ckpt")
OTHERS = tuple(ending for reader in READERS.values() for ending in reader.endings)
PARALLEL = re.compile(r"(consolidated|mp_rank)[._](\d{2,4})(?:_model_states)?\.(?:pth|pt)")
"""Files with a part of every tensor each: Meta's, which are joined here, Megatron's and DeepSpeed's, which are not."""
RANKS = re.compile(
    r"(?!mp_rank)(?:(.*?)[-_.])?(?:rank|shard)[-_]?(\d{1,5})(?:[-_.]?of[-_]?\d+)?(\.(?:pth|pt|bin|ckpt))"
)
"""Files that the ranks of a training write, each its own: pytorch_model_fsdp_0_rank1.bin, model_world_size_8_rank_1.pt,
checkpoint_last-shard1.pt."""
SIDE_MODELS = re.compile(r"(?:.*[-_.])?(?:mmproj|imatrix|mtp)(?:[-_.].*)?\.gguf", re.IGNORECASE)
"""GGUF files that lie beside a model: its projector of images, importance of weights, its head for further tokens."""
CHUNKS = re.compile(r"shard-(\d{5})-model-\d{5}-of-\d{5}\.safetensors")
"""Files of chunks that the ranks of torch.distributed.checkpoint write for Hugging Face."""
NOT_MODELS = re.compile(
    r"training_args\.(bin|pt)"
    r"|(optim_|optimizer|scheduler|scaler|random_states|rng_state|trainer_state|extra_state|distrib_optim|model_rng).*"
    r"|.*_(optim|model)_states\.pt|events\.out.*"
)
"""What trainers leave beside a model."""


ZERO_2 = "mp_rank_00_model_states.pt"
"""Where DeepSpeed leaves the weights of a training whose ranks each had all of them (ZeRO 0 to 2)."""


def may_be_weights(name: str) -> bool:
    """Whether a file of this name may hold a model, or a part of one."""
    return name.endswith((".safetensors", ".distcp", *TORCH, *OTHERS)) and not NOT_MODELS.fullmatch(name)


def is_zero_2(names: Iterable[str]) -> bool:
    """Whether of DeepSpeed's files of a model, among `names`, one has all weights: no other rank or layer has some."""
    return [name for name in names if name.endswith("_model_states.pt")] == [ZERO_2]
