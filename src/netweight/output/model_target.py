"""Checks that a folder may become a model's: no file of another model may be in it, since loaders take all files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from netweight.errors import OutputError, printable
from netweight.output.manifest import MANIFEST, read_manifest

__all__ = ["SENTENCE_FILES", "TOKENIZER_ENDINGS", "TOKENIZER_FILES", "WEIGHTS", "check_apart", "check_model_target"]

TOKENIZER_FILES = frozenset(
    {
        # of every tokenizer
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "chat_template.jinja", "chat_template.json",
        # SentencePiece
        "tokenizer.model", "spiece.model", "spm.model", "spm_char.model", "sentencepiece.model",
        "sentencepiece.bpe.model", "source.spm", "target.spm",
        # byte pairs and word pieces
        "vocab.json", "merges.txt", "vocab.txt", "vocab.bpe", "encoder.json", "bpe.codes", "dict.txt", "emoji.json",
        "entity_vocab.json", "tekken.json", "tiktoken.model",
        # what Whisper takes for spellings of one word
        "normalizer.json",
        # what turns pictures and sound into a model's input
        "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
        "audio_tokenizer_config.json",
    }
)  # fmt: skip
"""Files that belong to a tokenizer or processor, and name no code and no weights."""

TOKENIZER_ENDINGS = (".tiktoken",)

SENTENCE_FILES = frozenset(
    {
        "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json",
        # of its first versions, by family
        "sentence_roberta_config.json", "sentence_distilbert_config.json", "sentence_camembert_config.json",
        "sentence_albert_config.json", "sentence_xlm-roberta_config.json", "sentence_xlnet_config.json",
    }
)  # fmt: skip
"""What sentence-transformers reads beside a model: its modules, prompts and lengths."""

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".npz", ".index.json")
"""How names of files of weights, and of their indexes, end."""
_CONFIGS = frozenset({"config.json", "generation_config.json", "adapter_config.json"})
_NOBODYS = frozenset({MANIFEST, ".netweight-run", "lost+found"})


def check_apart(target: Path, given: Path, inputs: Sequence[Path]) -> None:
    """Raises OutputError where `target` (resolved; `given` is what messages call it) lies in an input model's folder,
    or an input lies in it.
    """
    for model in inputs:
        resolved = model.resolve()
        if resolved.is_dir() and any(_same(above, resolved) for above in target.parents):
            raise OutputError(
                f"{_shown(given)}: lies in the folder of the input model {_shown(model)}; choose an output folder "
                "outside of it"
            )
        if any(_same(above, target) for above in resolved.parents):
            raise OutputError(
                f"{_shown(given)}: the input model {_shown(model)} lies in it; choose another output folder"
            )


def check_model_target(target: Path, given: Path, kind: str, *, overwrite: bool) -> None:
    """Raises OutputError where something stands at `target` that a new model must not replace, or not lie beside.

    An empty folder may be filled. Results of the job `kind` may be replaced where `overwrite` says so, unless weights,
    a config or tokenizer files that are not theirs lie there too. Every other folder is somebody's.
    """
    if not target.is_dir():
        return
    names = sorted(path.name for path in target.iterdir())
    if not set(names) - _NOBODYS:
        return
    results, _ = read_manifest(target)
    if kind not in results:
        raise OutputError(
            f"{_shown(given)}: is not empty, and no {kind} of netweight's made it; remove it, or choose another output "
            "folder"
        )
    if not overwrite:
        raise OutputError(
            f"{_shown(given)}: holds an earlier {kind}; give --overwrite to replace it, or choose another output folder"
        )
    own = {name for files in results.values() for name in files}
    for name in names:
        if name not in own and _is_loaded(name):
            raise OutputError(
                f"{_shown(given / name)}: is not of the earlier {kind}, but would be loaded with the new model; move "
                "it away"
            )


def _is_loaded(name: str) -> bool:
    lower = name.lower()
    return lower.endswith(WEIGHTS + TOKENIZER_ENDINGS) or lower in _CONFIGS | TOKENIZER_FILES | SENTENCE_FILES


def _same(first: Path, second: Path) -> bool:
    """One place, also by another name (a link, other letters' case)."""
    try:
        return first == second or os.path.samestat(first.stat(), second.stat())
    except OSError:
        return False


def _shown(path: Path) -> str:
    return printable(str(path), 300)
