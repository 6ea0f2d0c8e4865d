"""Every error that netweight raises on purpose.

    NetweightError              anything below; `except NetweightError` catches all
      InputError                bad input: exit code 2
        ModelNotFoundError      a model reference that leads to no checkpoint
        FormatError             a file that is not what its format demands
        UnsafeFileError         a file that asks for code, or for files outside its folder
        OptionError             an option, or a combination of options, that cannot be
        OutputError             a place that cannot take the results
      JobError                  a job that started and could not be finished: exit code 1
        ReadError               bytes that could not be read, or changed while they were read
        BusyError               another run holds the output folder
      Interrupted               stopped by the user: exit code 130

A message says what, where (file, tensor, byte offset), expected, got, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

__all__ = [
    "BusyError",
    "FormatError",
    "InputError",
    "Interrupted",
    "JobError",
    "ModelNotFoundError",
    "NetweightError",
    "OptionError",
    "OutputError",
    "ReadError",
    "UnsafeFileError",
    "did_you_mean",
    "nearest",
    "nearest_path",
    "printable",
]

_ALIKE = 0.65  # of difflib: 'modle' is 'model', 'cuda' is no 'vocab'
NO_WORDS: Mapping[str, str] = MappingProxyType({})


class NetweightError(Exception):
    """The root of netweight's errors; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(NetweightError):
    """Bad input, found before any work was done."""

    exit_code = 2


class ModelNotFoundError(InputError):
    """A model reference that leads to no checkpoint."""


class FormatError(InputError):
    """A file that is not what its format demands."""


class UnsafeFileError(FormatError):
    """A file that asks for code to be run, or for files outside its own folder."""


class OptionError(InputError):
    """An option, or a combination of options, that cannot be."""


class OutputError(InputError):
    """A place that cannot take the results."""


class JobError(NetweightError):
    """A job that started and could not be finished."""


class ReadError(JobError):
    """Bytes that could not be read, or that changed while they were read."""


class BusyError(JobError):
    """Another run holds the output folder."""


class Interrupted(NetweightError):  # noqa: N818 - it is not an error of anything
    """Stopped by the user; what was done is kept for `--resume`."""

    exit_code = 130


def printable(text: str, limit: int = 200) -> str:
    """`text` from a checkpoint made safe for one line of a terminal: control characters escaped, cut at `limit`."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: limit + 1])
    return clean if len(clean) <= limit and len(text) <= limit else clean[: limit - 3] + "..."


def did_you_mean(word: str, known: Iterable[str], elsewhere: Mapping[str, str] = NO_WORDS) -> str:
    """` (did you mean 'x'?)` for the nearest of `known`, or nothing; `elsewhere` has words of other tools for some."""
    near = nearest(word, known, elsewhere)
    return f" (did you mean {near!r}?)" if near else ""


def nearest(word: str, known: Iterable[str], elsewhere: Mapping[str, str] = NO_WORDS) -> str | None:
    """The one of `known` that `word` may be a slip of: what `elsewhere` says, what begins with it, else what differs
    in few letters. Case, dashes and underscores do not count.
    """
    import difflib  # noqa: PLC0415 - only when something is already wrong

    plain = {_plain(name): name for name in reversed([*known])}  # of two that are equal then, the first
    asked = _plain(word)
    meant = elsewhere.get(asked)
    if meant is not None and _plain(meant) in plain:
        return plain[_plain(meant)]
    begun = [name for name in plain if len(asked) > 2 and name.startswith(asked)]
    near = begun if len(begun) == 1 else difflib.get_close_matches(asked, [*plain], n=1, cutoff=_ALIKE)
    return plain[near[0]] if near else None


def nearest_path(name: str) -> str:
    """` (did you mean 'x'?)` for a path that is not there: what lies where its first missing part is looked for."""
    from difflib import SequenceMatcher  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    path = Path(name)
    try:
        missing = next(p for p in (*reversed(path.parents), path) if not p.exists())
        there = sorted(missing.parent.iterdir())
    except (OSError, ValueError, StopIteration):  # what cannot be listed has nothing to offer
        return ""
    there.sort(key=lambda p: SequenceMatcher(None, p.suffix, missing.suffix).ratio())
    names = {p.stem: p.name for p in there}  # suffixes, which many files share, make none alike
    near = nearest(missing.stem, names)
    if near is None:
        return ""
    entry = missing.with_name(names[near])
    found = entry.name if missing == path else str(entry / path.relative_to(missing))
    return f" (did you mean {found!r}?)"


def _plain(word: str) -> str:
    return word.casefold().replace("_", "-").strip("-")
