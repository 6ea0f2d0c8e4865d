"""Ranges of a file over HTTP, by the connections of `huggingface_hub`: the hub's files and any `https://` URL."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from netweight.errors import ModelNotFoundError, NetweightError, ReadError, printable
from netweight.source.least_rate import arriving
from netweight.source.protocol import FileState
from netweight.source.retry import Passing, Patience, retry_after, retry_passing

__all__ = ["HEAD", "HttpRanges", "open_http", "passing"]

HEAD = 1 << 16
"""Bytes that opening a URL brings."""

_PROGRESS = 1 << 20  # bytes after which an attempt counts as one that went well
_SKIPPED = 1 << 22  # bytes that may be read and thrown away where a server knows no ranges
_NOT_PACKED = {"", "identity", "aws-chunked"}  # the last one is what S3 keeps of how an object was once sent to it
_NEVER_PASS = {"UnsupportedProtocol", "TooManyRedirects", "InvalidURL", "DecodingError"}
_MAY_PASS = {408, 425, 429, 500, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")


def passing(problem: Exception) -> Passing | None:
    """`problem` as a failure that may pass: a lost connection, a busy server; None where it will not."""
    from huggingface_hub import errors  # noqa: PLC0415 - nothing of it is loaded for local files

    if isinstance(problem, errors.OfflineModeIsEnabled) or type(problem).__name__ in _NEVER_PASS:
        return None  # such as a redirect to file://, which no other try makes another
    response = getattr(problem, "response", None)
    if response is not None:
        if response.status_code not in _MAY_PASS:
            return None
        return Passing(f"the server answers HTTP {response.status_code}", retry_after(response.headers))
    if isinstance(problem, (errors.HTTPError, ConnectionError, TimeoutError)):  # type: ignore[attr-defined]
        return Passing(_lost(problem))
    return None


def _lost(problem: Exception) -> str:
    kind = type(problem).__name__
    if "Timeout" in kind:
        return "the server did not answer in time"
    if "Connect" in kind:
        return f"the server cannot be reached ({problem})"
    return f"the connection was lost ({problem or kind})"


class HttpRanges:
    """A file behind `url`. Where that leads to another address, later ranges are asked for there at once.

    `headers` are sent to `url` alone, never to another host. `size` and `tag` (an ETag) are checked with every answer.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        size: int = 0,
        tag: str = "",
        headers: Callable[[], Mapping[str, str]] = dict,
        head: bytes = b"",
    ) -> None:
        self._url = url
        self._name = name
        self._headers = headers
        self._state = FileState(size, tag)
        self._head = head
        self._direct: str | None = None
        self._final_tag = ""

    @property
    def name(self) -> str:
        """See Ranges."""
        return self._name

    @property
    def state(self) -> FileState:
        """See Ranges."""
        return self._state

    @property
    def head(self) -> bytes:
        """See Ranges."""
        return self._head

    def __repr__(self) -> str:
        return f"HttpRanges({self._url!r})"

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which finds its own token and its own way: signed addresses stay here."""
        return {**self.__dict__, "_head": b"", "_direct": None, "_final_tag": ""}

    def fetch(self, start: int, view: memoryview, stop: threading.Event) -> None:
        """Fill `view` with the bytes from `start`: what a broken answer brought is kept. Raises ReadError."""
        patience = Patience(f"{printable(self._name)}: bytes {start} to {start + len(view)}", stop)
        done = since = 0
        while done < len(view):
            got, failure = self._stream(start + done, view[done:])
            done += got
            since += got
            if since >= _PROGRESS:
                patience.renew()
                since = 0
            if failure is not None:
                patience.wait(failure)

    def open(self) -> None:
        """Take size, tag and the first HEAD bytes from one answer; raises FileNotFoundError where there is no file."""
        self._head = retry_passing(printable(self._name), self._first)

    def now(self) -> FileState:
        """Size and tag by a HEAD request; what the server does not say counts as unchanged. Raises ReadError."""
        return retry_passing(printable(self._name), self._look)

    def _stream(self, start: int, view: memoryview) -> tuple[int, Passing | None]:
        """How many bytes one request brought, and why not all of them."""
        got = 0
        try:
            with (
                self._explained(),
                self._request("GET", {"Range": f"bytes={start}-{start + len(view) - 1}"}) as response,
            ):
                self._check(response)
                skip = self._check_range(response, start)
                for chunk in arriving(response.iter_raw()):
                    data = memoryview(chunk)[skip:]
                    skip = max(0, skip - len(chunk))
                    taken = min(len(data), len(view) - got)
                    view[got : got + taken] = data[:taken]
                    got += taken
                    if got == len(view):
                        break
        except Passing as failure:
            return got, failure
        return got, None if got == len(view) else Passing(f"the answer ended after {got} of {len(view)} bytes")

    def _first(self) -> bytes:
        with self._explained(), self._request("GET", {"Range": f"bytes=0-{HEAD - 1}"}) as response:
            if response.status_code in {404, 410}:
                raise FileNotFoundError(self._url)
            content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if response.status_code == 416 and content_range:  # no first byte: the file is empty
                self._state = FileState(int(content_range[3]), _tag(response))
                return b""
            self._check(response)
            length = response.headers.get("Content-Length", "")
            if content_range is None and not length.isdecimal():
                raise ReadError(
                    f"{printable(self._name)}: the server does not say how long the file is; download it, and name the"
                    " file"
                )
            self._state = FileState(int(content_range[3]) if content_range else int(length), _tag(response))
            self._final_tag = _own_tag(response)
            wanted = min(HEAD, self._state.size)
            head = bytearray()
            for chunk in arriving(response.iter_raw()):
                head += chunk
                if len(head) >= wanted:
                    return bytes(head[:wanted])
        raise Passing(f"the answer ended after {len(head)} of {wanted} bytes")

    def _look(self) -> FileState:
        with self._explained(), self._request("HEAD", {}, direct=False) as response:
            self._check(response)
            length = response.headers.get("X-Linked-Size") or response.headers.get("Content-Length", "")
            size = int(length) if length.isdecimal() else self._state.size
            return FileState(size, _tag(response) or self._state.stamp)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What goes wrong inside becomes Passing, or an error of netweight's own."""
        try:
            yield
        except (FileNotFoundError, Passing, NetweightError):
            raise
        except Exception as problem:
            raise passing(problem) or self._not_read(problem) from None

    def _request(self, method: str, headers: Mapping[str, str], *, direct: bool = True) -> Any:
        from huggingface_hub import constants, get_session  # noqa: PLC0415

        address = self._direct if direct and self._direct is not None else self._url
        same_host = urlsplit(address)[:2] == urlsplit(self._url)[:2]
        own = self._headers() if same_host else {}
        # A packed answer would have other bytes than were asked for.
        sent = {**own, "Accept-Encoding": "identity", **headers}
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        return get_session().stream(method, address, headers=sent, timeout=timeout, follow_redirects=True)

    def _check(self, response: Any) -> None:
        """Raises Passing or ReadError where the answer is not about the file that was opened."""
        status = response.status_code
        if status in {200, 206}:
            packed = response.headers.get("Content-Encoding", "")
            if packed.strip().lower() not in _NOT_PACKED:
                raise ReadError(
                    f"{printable(self._name)}: the server packs what it sends ({printable(packed, 40)}), though it is"
                    " asked not to; download the file, and name it"
                )
            self._check_same(response)
            if response.history and response.history[0].status_code in {302, 303, 307}:
                self._direct = str(response.url)
            return
        if status in _MAY_PASS:
            raise Passing(f"the server answers HTTP {status}", retry_after(response.headers))
        if self._direct is not None and str(response.request.url) == self._direct:
            self._direct = None  # addresses of storage expire: the file's own leads to a new one
            raise Passing(f"HTTP {status} from {urlsplit(str(response.url)).hostname}", 0.0)
        if status == 416:
            raise self._changed("it is shorter now")
        raise ReadError(f"{printable(self._name)}: {_describe_status(status)}")

    def _check_same(self, response: Any) -> None:
        """The answer must be about the file that was opened, by size and tag where it says them."""
        size = None
        content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if content_range:
            size = int(content_range[3])
        elif response.status_code == 200 and response.headers.get("Content-Length", "").isdecimal():
            size = int(response.headers["Content-Length"])
        if not self._state.size and not self._state.stamp and not self._final_tag:
            return  # this is the answer that opens it
        if response.request.method == "GET" and size is not None and size != self._state.size:
            raise self._changed(f"then {self._state.size} bytes, now {size}")
        linked = _linked_tag(response)
        if linked and self._state.stamp and linked != self._state.stamp:
            raise self._changed("its ETag is another")
        own = _own_tag(response)
        if response.request.method == "GET" and own:
            if self._final_tag and own != self._final_tag:
                raise self._changed("its ETag is another")
            self._final_tag = own

    def _check_range(self, response: Any, start: int) -> int:
        """Bytes of the answer before the ones that were asked for; raises ReadError where there is no way to them."""
        if response.status_code == 206:
            content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if content_range is None or not content_range[1] or int(content_range[1]) != start:
                got = printable(response.headers.get("Content-Range", "no Content-Range"))
                raise ReadError(f"{printable(self._name)}: asked for the bytes from {start}, the server sends {got}")
            return 0
        if start > _SKIPPED:
            raise ReadError(
                f"{printable(self._name)}: the server sends the whole file and no ranges of it; leave --remote out, or"
                " download the file and name it"
            )
        return start

    def _changed(self, how: str) -> ReadError:
        return ReadError(
            f"{printable(self._name)}: changed since it was opened ({how}); run again when nothing writes to it"
        )

    def _not_read(self, problem: Exception) -> Exception:
        from huggingface_hub.errors import OfflineModeIsEnabled  # noqa: PLC0415

        if isinstance(problem, OfflineModeIsEnabled):
            return ModelNotFoundError(
                f"{printable(self._name)}: HF_HUB_OFFLINE forbids to read it over the network; unset it, or name a file"
            )
        return ReadError(f"{printable(self._name)}: cannot be read: {printable(str(problem) or repr(problem), 300)}")


def open_http(url: str) -> HttpRanges:
    """The file behind an `http(s)://` URL; raises FileNotFoundError where there is none, ReadError else."""
    ranges = HttpRanges(url, url)
    ranges.open()
    return ranges


def _normal(tag: str) -> str:
    return tag.strip().removeprefix("W/").strip('"')


def _linked_tag(response: Any) -> str:
    """The hub's own name of the content: beside a redirect to a storage, else the answer's ETag."""
    for answer in (*response.history, response):
        if "X-Linked-ETag" in answer.headers:
            return _normal(answer.headers["X-Linked-ETag"])
    return "" if response.history else _normal(response.headers.get("ETag", "")) if _is_hub(response) else ""


def _is_hub(response: Any) -> bool:
    return "X-Repo-Commit" in response.headers


def _own_tag(response: Any) -> str:
    return _normal(response.headers.get("ETag", ""))


def _tag(response: Any) -> str:
    return _linked_tag(response) or _own_tag(response)


def _describe_status(status: int) -> str:
    if status in {401, 403}:
        return f"access is refused (HTTP {status}); for a model that is private or gated, set HF_TOKEN to a token"
    if status in {404, 410}:
        return f"is gone (HTTP {status}); was it moved or renamed?"
    return f"the server answers HTTP {status}, expected 206 and the bytes"
