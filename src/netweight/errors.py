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

from collections.abc import Iterable

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
    "printable",
]


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


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the nearest of `known`, or nothing."""
    import difflib  # noqa: PLC0415 - only when something is already wrong

    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
