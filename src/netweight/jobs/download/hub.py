"""The files of a model on the hub at one commit, asked once; refusals become one line each.

`huggingface_hub` sends the requests: its endpoint, token, headers and session are used, and its errors are translated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import (  # type: ignore[attr-defined] # offered there, though not listed
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from netweight.checkpoint.reference import HubReference, parse_reference
from netweight.errors import ModelNotFoundError, NetweightError, OptionError, ReadError, printable
from netweight.source.http_ranges import passing
from netweight.source.least_rate import arriving
from netweight.source.retry import Passing, retry_passing
from netweight.version import __version__

__all__ = [
    "HubFile",
    "HubModel",
    "hub_error",
    "parse_hub_id",
    "read_file_list",
    "read_small",
    "request_file",
    "request_headers",
]

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubFile:
    """A file of the model: its path in the repository, `size` in bytes, and the digest that its bytes must have:
    `algorithm` is "sha256" (of a large file), "git-sha1" (git's name of a small one), or "" where the hub tells none.
    """

    name: str
    size: int
    algorithm: str
    digest: str


@dataclass(frozen=True)
class HubModel:
    """A model at one commit: `id`, the `revision` that was asked for, what it stood for then, and all files."""

    id: str
    revision: str
    commit: str
    endpoint: str
    files: tuple[HubFile, ...]


def parse_hub_id(ref: str, revision: str | None = None) -> tuple[str, str]:
    """(id, revision) of `org/name`, `org/name@revision` or either behind `hf://`; the revision is "main" where none is
    given.

    Raises OptionError where `ref` and `revision` differ, ModelNotFoundError where it is no hub id.
    """
    parsed = parse_reference(ref)
    if not isinstance(parsed, HubReference) or parsed.path:
        raise ModelNotFoundError(
            f"{printable(ref)}: is no model on the hub; expected an id such as org/name or org/name@revision"
        )
    if None not in {parsed.revision, revision} and parsed.revision != revision:
        raise OptionError(
            f"{printable(ref)}: names the revision {printable(parsed.revision or '')!r}, and --revision"
            f" {printable(revision or '')!r}; give one of them"
        )
    return parsed.repo, parsed.revision or revision or "main"


def request_headers() -> dict[str, str]:
    """The headers of every request: the token, where there is one, and the library's name."""
    headers: dict[str, str] = build_hf_headers(library_name="netweight", library_version=__version__)
    return {**headers, "Accept-Encoding": "identity"}


def read_file_list(model: str, revision: str) -> HubModel:
    """All files of `model`, at the commit that `revision` stands for now: one request.

    Raises ModelNotFoundError where there is none, or none for this token; ReadError where the hub cannot be reached.
    """
    api = HfApi(library_name="netweight", library_version=__version__)
    where = f"{model}@{revision}"

    def request() -> ModelInfo:
        try:
            return api.model_info(
                model, revision=revision, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            )
        except Exception as error:
            if not isinstance(error, OSError) and isinstance(error, ValueError | KeyError | TypeError | AttributeError):
                raise ReadError(
                    f"{printable(where)}: {api.endpoint} does not answer as a hub does ({printable(str(error))}); check"
                    " HF_ENDPOINT"
                ) from error
            raise passing(error) or hub_error(error, where, api.endpoint) from error

    info = retry_passing(f"{printable(where)} at {api.endpoint}", request)
    commit = info.sha or ""
    if not _COMMIT.fullmatch(commit):
        raise ReadError(f"{printable(where)}: {api.endpoint} names no commit of it; check HF_ENDPOINT")
    files = []
    for sibling in info.siblings or ():
        size = sibling.lfs.size if sibling.lfs is not None else sibling.size
        if not isinstance(size, int) or not isinstance(sibling.rfilename, str) or size < 0:
            raise ReadError(f"{printable(where)}: {api.endpoint} tells no sizes of its files; check HF_ENDPOINT")
        if sibling.lfs is not None:
            kind, digest = "sha256", str(sibling.lfs.sha256)
        else:
            kind, digest = ("git-sha1", sibling.blob_id) if sibling.blob_id else ("", "")
        files.append(HubFile(sibling.rfilename, size, kind, digest))
    return HubModel(model, revision, commit, api.endpoint, tuple(files))


@contextmanager
def request_file(model: HubModel, file: HubFile, headers: Mapping[str, str]) -> Iterator[Any]:
    """The answer to a GET request for a file at the model's commit, whose bytes are still to come (`iter_raw`).

    Raises HfHubHTTPError where it is no success. The token is not sent on where another host serves the bytes.
    """
    url = hf_hub_url(model.id, file.name, revision=model.commit, endpoint=model.endpoint)
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        hf_raise_for_status(response)
        yield response


def read_small(model: HubModel, file: HubFile, limit: int) -> bytes:
    """A whole file, to be looked at in memory; raises ReadError where it has another size, or more than `limit`."""
    where = f"{model.id}/{file.name}"
    if file.size > limit:
        raise ReadError(f"{printable(where)}: {file.size} bytes, expected at most {limit}; --exclude leaves it out")

    def request() -> bytes:
        data = bytearray()
        try:
            with request_file(model, file, request_headers()) as response:
                for chunk in arriving(response.iter_raw()):
                    data += chunk
                    if len(data) > file.size:
                        break
        except Passing:
            raise
        except Exception as error:
            raise passing(error) or hub_error(error, where, model.endpoint) from error
        if len(data) != file.size:
            raise Passing(f"its size is {len(data)} bytes, the hub lists {file.size}")
        return bytes(data)

    return retry_passing(printable(where), request)


def hub_error(error: Exception, where: str, endpoint: str) -> Exception:
    """netweight's own one-line error for a refusal of the hub; `error` itself where it is none."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    model = "/".join(where.partition("@")[0].split("/")[:2])
    kind: type[NetweightError] = ModelNotFoundError
    if isinstance(error, OfflineModeIsEnabled):
        text = "HF_HUB_OFFLINE is set, and the hub must be asked; unset it"
    elif isinstance(error, GatedRepoError):
        todo = "wait until access is granted" if status == 403 else "then log in (`hf auth login`) or set HF_TOKEN"
        text = f"is gated: ask for access at {endpoint}/{printable(model)}, {todo}"
    elif isinstance(error, RevisionNotFoundError):
        text = f"there is no such revision at {endpoint}; give a branch, a tag or a commit"
    elif isinstance(error, RepositoryNotFoundError):
        text = f"there is no such model at {endpoint}, or it is private: check the id, or set HF_TOKEN"
    elif isinstance(error, DisabledRepoError):
        text = f"was disabled at {endpoint}; choose another model"
    elif isinstance(error, EntryNotFoundError) or status == 404:
        kind, text = ReadError, f"is listed, but {endpoint} does not have it (404); try again later"
    elif status in {401, 403}:
        text = f"{endpoint} refuses access ({status}): check HF_TOKEN, or log in with `hf auth login`"
    elif status:
        kind, text = ReadError, f"{endpoint} answers HTTP {status}; run again later, what is fetched is kept"
    else:
        return error
    return kind(f"{printable(where)}: {text}")
