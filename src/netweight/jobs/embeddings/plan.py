"""The plan of `embeddings`: the embedding and its tokenizer opened, memory counted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import InputError, JobError, OptionError, printable
from netweight.jobs.embeddings.rows import Rows
from netweight.jobs.embeddings.token_embedding import TokenEmbedding, find_embedding
from netweight.jobs.embeddings.tokens import Tokens, open_tokens
from netweight.jobs.inputs import Reference, far_bytes, globs
from netweight.params.opening import open_whole
from netweight.run.devices import without_gpu
from netweight.run.memory import FLOOR, asked_for, available_cores, default_budget

__all__ = ["Options", "Prepared", "prepare", "require_sklearn"]

_LIBRARIES = 160 << 20  # bytes that scikit-learn takes beside those of FLOOR


@dataclass(frozen=True)
class Options:
    """How `embeddings` runs: k from 2 to `max_k`; `sample` rows on which each k is fitted; `random_state` picks them
    and the first centres. `n_representatives` rows of each cluster are named, none with `skip_representatives`, which
    needs no tokenizer. `workers` (default: every core that memory allows), `memory` in bytes (default: the smaller of
    2 GiB and a quarter of the machine's), globs on parameter names. `remote`: the model of a hub is not fetched into
    the cache; its embedding is then held in memory. `device` and `multi_gpu` are accepted, and answered with a note:
    k-means is computed on the CPU.
    """

    max_k: int = 30
    sample: int = 20_000
    random_state: int = 0
    n_representatives: int = 10
    skip_representatives: bool = False
    workers: int | None = None
    memory: int | None = None
    include: str | Sequence[str] = ()
    exclude: str | Sequence[str] = ()
    remote: bool = False
    device: str = "auto"
    multi_gpu: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "include", globs(self.include))
        object.__setattr__(self, "exclude", globs(self.exclude))
        for name, least in (("max_k", 2), ("sample", 3), ("n_representatives", 1), ("random_state", 0)):
            value = getattr(self, name)
            if value < least:
                raise OptionError(f"--{name.replace('_', '-')} {value}: expected {least} or more")
        if self.random_state >= 1 << 32:
            raise OptionError(f"--random-state {self.random_state}: expected less than 2^32")


@dataclass(frozen=True)
class Prepared:
    """A checkpoint opened and its token embedding found; no tensor data read. `sampled` rows are fitted, by `workers`,
    in about `memory` bytes.
    """

    checkpoint: Checkpoint
    embedding: TokenEmbedding
    tokens: Tokens | None
    tokenizer: str
    sampled: int
    workers: int
    memory: int
    notes: tuple[str, ...]


def require_sklearn() -> None:
    """Raises JobError where scikit-learn is not installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError as problem:
        raise JobError(
            "embeddings needs scikit-learn, which is not installed: pip install 'netweight[embeddings]'"
        ) from problem


def prepare(ref: Reference, options: Options, stack: ExitStack) -> Prepared:
    """Open the model and find its token embedding; the checkpoint is closed with `stack`. Reads headers, and the
    tokenizer.

    Raises InputError where there is no token embedding, or too few rows; OptionError where memory does not suffice.
    """
    checkpoint = stack.enter_context(open_whole(ref, download=not options.remote))
    embedding = find_embedding(checkpoint, options.include, options.exclude)
    rows, cols = embedding.tensor.shape
    if rows < 3 or cols < 1:
        raise InputError(
            f"{printable(checkpoint.ref)}: {printable(embedding.tensor.name)} is {rows} x {cols}, clusters need 3 rows"
        )
    if options.skip_representatives:
        tokens, tokenizer = None, "not read: --skip-representatives"
    else:
        tokens, tokenizer = open_tokens(checkpoint.place)
    sampled = min(options.sample, rows)
    far = checkpoint.location is None
    workers, memory = _fit_memory(
        Rows(embedding.tensor), sampled, options, held=embedding.tensor.nbytes + far_bytes([checkpoint]) if far else 0
    )
    notes = [
        note if note.startswith(checkpoint.ref) else f"{printable(checkpoint.ref)}: {note}" for note in checkpoint.notes
    ]
    notes += [f"another token embedding was not taken: {printable(name)}" for name in embedding.others]
    if tokens is None and not options.skip_representatives:
        notes.append(tokenizer)
    if (ignored := without_gpu(options.device, options.multi_gpu, "clusters are computed")) is not None:
        notes.append(ignored)
    return Prepared(checkpoint, embedding, tokens, tokenizer, sampled, workers, memory, tuple(notes))


def _fit_memory(rows: Rows, sampled: int, options: Options, *, held: int) -> tuple[int, int]:
    """Workers, and the bytes of the run: a worker copies the sample, or sums for all k at once; `held` bytes stay."""
    if options.workers is not None and options.workers < 1:
        raise OptionError(f"--workers {options.workers}: expected 1 or more")
    sample = sampled * rows.cols * 4
    centres = (options.max_k * (options.max_k + 1) // 2) * rows.cols * 8
    fixed = FLOOR + _LIBRARIES + sample + rows.count * 100 + held
    per_worker = max(sample + (64 << 20), rows.block_bytes + 3 * centres)
    allowed = options.memory if options.memory is not None else default_budget(2 << 30)
    fitting = (allowed - fixed) // per_worker
    if fitting < 1 and options.memory is not None:
        need = -(-(fixed + per_worker) >> 20)
        raise OptionError(
            f"--memory {asked_for(allowed)}: a sample of {sampled} rows of {rows.cols} columns needs at least"
            f" {need} MiB for one worker; give --memory {need + 1}MiB, or a smaller --sample or --max-k"
        )
    workers = max(1, min(options.workers or available_cores(), fitting))
    return workers, fixed + workers * per_worker
