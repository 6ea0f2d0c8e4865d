"""Models of the Hugging Face hub: taken from its cache, listed at one commit, or fetched into the cache.

All requests go through `huggingface_hub`, which reads HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE and HF_TOKEN.
It is loaded when a hub is asked for something.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from netweight.checkpoint.reference import HubReference
from netweight.checkpoint.remote_place import HubFile, HubPlace
from netweight.errors import ModelNotFoundError, NetweightError, OutputError, ReadError, nearest_path, printable
from netweight.source.digest import digest_of_file
from netweight.source.http_ranges import passing
from netweight.source.least_rate import least_rate
from netweight.source.retry import Passing, retry_passing

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MODULE_FILE", "cached_snapshot", "fetch", "list_files", "offline"]

T = TypeVar("T")

_MAIN = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's SHA-1 of a small file, SHA-256 of a large one
_LISTINGS = 3  # a branch that moves while it is fetched is listed again
_TOKENS = 30.0  # seconds that a listing may take
_BESIDE = (".json", ".txt", ".model", ".jinja", ".tiktoken")  # config and tokenizer: what a model's folder needs
_TEMPLATES = "additional_chat_templates/"
_LARGEST_BESIDE = 256 << 20  # bytes

MODULE_FILE = re.compile(r"[0-9]+_[A-Za-z0-9_-]+/[^/]+")
"""Files of a module of sentence-transformers, as `1_Pooling/config.json`, which stands beside the model."""


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub."""
    from huggingface_hub import constants  # noqa: PLC0415

    return bool(constants.HF_HUB_OFFLINE)


def cached_snapshot(reference: HubReference) -> Path | None:
    """The folder of this revision in the hub's cache; its name is the commit. None where there is none. It may hold
    some of the repository's files only.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    try:
        # No file is asked for, so none can be missing: the folder is all that is wanted.
        path = snapshot_download(reference.repo, revision=reference.revision, local_files_only=True, allow_patterns=[])
    except LocalEntryNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        raise ReadError(
            f"{printable(reference.label)}: the hub's cache cannot be read: {printable(str(problem), 300)}"
        ) from None
    return Path(path)


def list_files(reference: HubReference) -> HubPlace:
    """The repository at the commit that the revision stands for now, by one request.

    Raises ModelNotFoundError where the hub has no such model or revision or refuses it, ReadError where it cannot be
    reached.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415

    def ask() -> HubPlace:
        api = HfApi()
        with _explained(reference):
            info = api.model_info(reference.repo, revision=reference.revision, files_metadata=True, timeout=_TOKENS)
            if not _COMMIT.fullmatch(str(info.sha)):
                raise ValueError("it names no commit of the model")
            files = {}
            for entry in info.siblings or ():
                if entry.size is None:
                    return _by_tree(api, reference, str(info.sha))
                if type(entry.size) is not int or not isinstance(entry.rfilename, str) or entry.size < 0:
                    raise ValueError("it tells no names and sizes of the model's files")
                files[entry.rfilename] = HubFile(entry.size, (entry.lfs.sha256 if entry.lfs else entry.blob_id) or "")
            return HubPlace(reference, str(info.sha), files)

    return retry_passing(f"{printable(reference.label)}: there is no such file or folder here", ask, attempts=4)


def _by_tree(api: Any, reference: HubReference, commit: str) -> HubPlace:
    """The listing of a hub whose model info has no sizes."""
    files = {}
    for entry in api.list_repo_tree(reference.repo, recursive=True, revision=commit):
        if hasattr(entry, "size"):
            files[entry.path] = HubFile(entry.size, (entry.lfs.sha256 if entry.lfs else entry.blob_id) or "")
    return HubPlace(reference, commit, files)


def fetch(place: HubPlace, chosen: Callable[[HubPlace], Sequence[str]]) -> tuple[Path, str]:
    """Bring the `chosen` files, config and tokenizer into the hub's cache: (folder, commit). What is there is not
    fetched again, and what was interrupted goes on. Each file that came is held against the digest that the hub lists.

    Raises ReadError where the hub fails, OutputError where the cache cannot be written.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    reference = place.reference
    came: set[str] = set()
    for _ in range(_LISTINGS):
        names = [place.prefix + name for name in chosen(place)]
        names += [n for n, f in place.files.items() if _beside(n, place.prefix) and f.size <= _LARGEST_BESIDE]

        held = None if place.commit in came else cached_snapshot(replace(reference, revision=place.commit))
        new = [name for name in names if held is None or not (held / name).exists()]

        def bring(names: Sequence[str] = tuple(names)) -> str:
            with _explained(reference), least_rate():
                return snapshot_download(
                    reference.repo,
                    revision=reference.revision,
                    allow_patterns=[escape(name) for name in names],
                    tqdm_class=_bars(),
                )

        folder = Path(retry_passing(printable(reference.label), bring))
        came.add(folder.name)
        if folder.name == place.commit:
            try:
                _check_digests(place, folder, new)
            except OSError as problem:
                raise ReadError(
                    f"{printable(reference.label)}: what came into the hub's cache cannot be checked:"
                    f" {printable(str(folder), 500)}: {problem.strerror}"
                ) from None
            return folder, place.commit
        listed = list_files(reference)
        place = HubPlace(reference, listed.commit, listed.files, place.prefix)
    raise ReadError(
        f"{printable(reference.label)}: changed {_LISTINGS} times while it was fetched; name a commit: "
        f"{printable(reference.repo)}@{place.commit}"
    )


def _check_digests(place: HubPlace, folder: Path, names: Sequence[str]) -> None:
    """Raises ReadError where one of `names` has other bytes than the hub lists. Such a file leaves the cache, and
    `names` leave the snapshot, so that none takes what is left for the model: the next run links what is right again.
    """
    wrong = {}
    for name in names:
        tag = place.files[name].tag
        if _DIGEST.fullmatch(tag):  # else this hub lists none
            got = digest_of_file(folder / name, "sha256" if len(tag) == 64 else "git-sha1")
            if got != tag:
                wrong[name] = got
    if not wrong:
        return
    for name in wrong:
        (folder / name).resolve().unlink(missing_ok=True)  # what the snapshot's link leads to
    for name in names:
        (folder / name).unlink(missing_ok=True)
    name, got = next(iter(wrong.items()))
    raise ReadError(
        f"{printable(place.path(name.removeprefix(place.prefix)))}: came with other bytes than the hub lists"
        f" (digest {got}, expected {place.files[name].tag}); it is removed from the cache: run again"
    )


def _beside(name: str, prefix: str) -> bool:
    tail = name.removeprefix(prefix).removeprefix(_TEMPLATES)
    if MODULE_FILE.fullmatch(tail):
        tail = tail.partition("/")[2]
        return name.startswith(prefix) and tail.endswith(".json") and "index.json" not in tail
    return name.startswith(prefix) and "/" not in tail and tail.endswith(_BESIDE) and "index.json" not in tail


def _bars() -> type[Any]:
    """huggingface_hub's progress bars, for terminals alone."""
    from huggingface_hub.utils.tqdm import tqdm  # noqa: PLC0415

    class TerminalBars(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = kwargs.get("disable") or not sys.stderr.isatty()
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

    return TerminalBars


@contextmanager
def _explained(reference: HubReference) -> Iterator[None]:
    """Exceptions of huggingface_hub become Passing, or one line; its warnings are not shown beside that."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(max(logging.ERROR, level))
    try:
        yield
    except (NetweightError, Passing, KeyboardInterrupt):
        raise
    except Exception as problem:
        raise _explain(reference, problem) from None
    finally:
        logger.setLevel(level)


def _explain(reference: HubReference, problem: Exception) -> Exception:
    from huggingface_hub import constants, errors  # noqa: PLC0415

    cause = problem.__cause__ if isinstance(problem, errors.LocalEntryNotFoundError) else problem
    cause = cause if isinstance(cause, Exception) else problem
    shown, endpoint = printable(reference.label), printable(constants.ENDPOINT)
    near = nearest_path(reference.repo)
    if isinstance(cause, errors.GatedRepoError):
        return ModelNotFoundError(
            f"{shown}: is gated: ask for access on its page, and set HF_TOKEN to a token of the account that has it"
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        return ModelNotFoundError(f"{shown}: the model has no revision {printable(reference.revision or _MAIN)!r}")
    if isinstance(cause, errors.RepositoryNotFoundError):
        return ModelNotFoundError(
            f"{shown}: there is no such file or folder here{near}, and no such model on {endpoint}; if it is private,"
            " set HF_TOKEN to a token that may read it"
        )
    if isinstance(cause, errors.HFValidationError):
        return ModelNotFoundError(f"{shown}: not a model's name: {printable(str(cause), 300)}")
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return ModelNotFoundError(
            f"{shown}: there is no such file or folder here{near}, it is not in the hub's cache"
            f" ({printable(constants.HF_HUB_CACHE)}), and HF_HUB_OFFLINE forbids to ask the hub; unset it"
        )
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status in {401, 403}:
        return ModelNotFoundError(
            f"{shown}: {endpoint} refuses access (HTTP {status}); is the token in HF_TOKEN right?"
        )
    failed = passing(cause)
    if failed is not None:
        return Passing(f"{endpoint}: {failed}", failed.wait)
    if isinstance(cause, OSError) and cause.errno is not None:
        return OutputError(
            f"{shown}: cannot be fetched into the hub's cache ({printable(constants.HF_HUB_CACHE)}): {cause.strerror};"
            " set HF_HOME to another folder, or read it without fetching: --remote"
        )
    if isinstance(cause, OSError) and status is None:
        return Passing(f"{endpoint}: {_first_line(cause)}")  # such as a file that came in another size
    if isinstance(cause, ValueError | KeyError | TypeError | AttributeError):
        why = f"no {cause}" if isinstance(cause, KeyError) else _first_line(cause)
        return ReadError(f"{shown}: {endpoint} does not answer as a hub does ({why}); is HF_ENDPOINT right?")
    return ReadError(f"{shown}: {endpoint}: {_first_line(cause)}")


def _first_line(problem: Exception) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return printable(lines[0] if lines else repr(problem), 300)
