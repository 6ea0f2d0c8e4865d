"""A hub on loopback for tests: enough of the Hugging Face hub's HTTP API for `huggingface_hub` itself to work.

How to use it (the fixture `hub` of tests/conftest.py sets the environment; elsewhere use `with HubServer() as hub`):

    def test_it(hub, tmp_path):
        commit = hub.publish("org/name", folder)             # all files below folder, as one commit on "main"
        second = hub.publish("org/name", {"config.json": b"{}"}, revision="main")   # or a mapping of bytes and paths
        hub.publish("org/huge", folder, hashed=False)        # digests invented: for sparse files of many gigabytes
        env = {**os.environ, **hub.environment(tmp_path)}    # for a subprocess; in this process the fixture did it

        hub.fault("*/model.safetensors", drop_after=1000)              # the next GET that matches loses its connection
        hub.fault("*", status=429, headers={"Retry-After": "1"}, times=2)
        hub.fault("*/config.json", delay=2.0, times=None)              # every time
        hub.repo("org/name").gated = True      # or .token = "hf_x" (private: 401 without it), .gone = True
        hub.before = lambda request: ...       # called before each answer, e.g. to publish in between

        hub.requests                           # every Request: method, path, status, range, authorized, sent (bytes)
        hub.most_waiting                       # answers that were delayed at the same time, at most
        hub.count("*/model.safetensors"), hub.sent("*.safetensors"), hub.clear()

Globs match the path without its query: `/api/models/ORG/NAME/...`, `/ORG/NAME/resolve/REV/FILE`, and on the "CDN"
(another port, so another origin), where LFS files are redirected to, `/cdn/COMMIT/ORG/NAME/FILE`. A `*` crosses
slashes. A fault on `*/FILE` is used up by the redirect (no body): take `/cdn/*/FILE` for LFS files.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

CHUNK = 1 << 16
LFS_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".model")
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Blob:
    """A file's content: in memory, or a path that is read when it is asked for."""

    content: bytes | Path
    lfs: bool
    invented: str = ""

    @cached_property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def chunks(self, start: int = 0, stop: int | None = None, step: int = CHUNK):
        stop = self.size if stop is None else stop
        if isinstance(self.content, bytes):
            for at in range(start, stop, step):
                yield self.content[at : min(at + step, stop)]
            return
        with self.content.open("rb") as file:
            file.seek(start)
            while start < stop and (piece := file.read(min(step, stop - start))):
                start += len(piece)
                yield piece

    def _digest(self, digest) -> str:
        if self.invented:
            digest.update(f"{self.invented} {self.size}".encode())
            return digest.hexdigest()
        for piece in self.chunks(step=1 << 20):
            digest.update(piece)
        return digest.hexdigest()

    @cached_property
    def sha256(self) -> str:
        return self._digest(hashlib.sha256())

    @cached_property
    def oid(self) -> str:
        """git's name of the blob: of the pointer where the content is in LFS."""
        if self.lfs:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
            return hashlib.sha1(f"blob {len(pointer)}\0{pointer}".encode()).hexdigest()
        return self._digest(hashlib.sha1(f"blob {self.size}\0".encode()))

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass
class Repo:
    """`commits` by name, `refs` to them; `token` is what a private repo (or a gated one) asks for."""

    name: str
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False
    gone: bool = False


@dataclass
class Fault:
    """What goes wrong where `glob` matches a request's path; `times` None: always."""

    glob: str
    method: str | None = "GET"
    times: int | None = 1
    skip: int = 0  # so many requests go well first
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    drop_after: int | None = None  # bytes of the body, then the connection is closed
    delay: float = 0.0  # seconds before the answer
    rate: float | None = None  # bytes per second
    hold: threading.Event | None = None  # until it is set, the body comes by 5 kB a second: slow, but not too slow
    body: bytes | None = None  # served instead of the file, ETag and X-Linked-* as they should be
    no_range: bool = False  # 200 and the whole file whatever is asked for
    shift: int = 0  # by which the range that is served lies behind the one asked for
    etag: str | None = None
    size: int | None = None  # X-Linked-Size


@dataclass
class Request:
    """One request that was answered; `sent` counts bytes of the body."""

    method: str
    path: str
    range: str | None
    authorized: bool
    status: int = 0
    sent: int = 0


class HubServer:
    """The server, between `with` and its end; see the module."""

    page = 1000  # entries of a tree in one answer

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.before: Callable[[Request], None] | None = None
        self.most_waiting = self._waiting = 0
        self._lock = threading.Lock()
        self._servers: list[ThreadingHTTPServer] = []

    def __enter__(self) -> Self:
        handler = type("HubHandler", (_Handler,), {"hub": self})
        for _ in range(2):
            server = _Server(("127.0.0.1", 0), handler)
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            self._servers.append(server)
        self.url, self.cdn = (f"http://127.0.0.1:{s.server_address[1]}" for s in self._servers)
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.end_connections()
            server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that make huggingface_hub talk to this server alone, its cache below `home`; no token."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home / "hf_home"),
            "HF_HUB_CACHE": str(home / "hf_home" / "hub"),
            "HF_TOKEN_PATH": str(home / "hf_home" / "token"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def publish(
        self,
        name: str,
        files: Path | Mapping[str, bytes | Path],
        *,
        revision: str = "main",
        hashed: bool = True,
        lfs: tuple[str, ...] = LFS_ENDINGS,
    ) -> str:
        """A new commit with exactly these files, to which `revision` then points; its name. `lfs`: endings of names."""
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p for p in sorted(files.rglob("*")) if p.is_file()}
        repo = self.repos.setdefault(name, Repo(name))
        blobs = {
            path: Blob(content, path.endswith(lfs), "" if hashed else f"{name}/{path}")
            for path, content in files.items()
        }
        text = f"{name} {len(repo.commits)} {[(path, blob.oid) for path, blob in blobs.items()]}"
        commit = hashlib.sha1(text.encode()).hexdigest()
        repo.commits[commit] = blobs
        repo.refs[revision] = commit
        return commit

    def repo(self, name: str) -> Repo:
        return self.repos[name]

    def fault(self, glob: str, **settings) -> Fault:
        """Add a Fault (see its fields); it is returned, so that `times` can be looked at."""
        found = Fault(glob, **settings)
        self.faults.append(found)
        return found

    def count(self, glob: str = "*", method: str | None = None) -> int:
        return len(self._matching(glob, method))

    def sent(self, glob: str = "*") -> int:
        return sum(request.sent for request in self._matching(glob, None))

    def clear(self) -> None:
        """Forget requests and faults; what is published stays."""
        with self._lock:
            self.requests.clear()
            self.faults.clear()

    def _matching(self, glob: str, method: str | None) -> list[Request]:
        with self._lock:
            return [r for r in self.requests if fnmatchcase(r.path, glob) and method in {None, r.method}]

    def record(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def delay(self, seconds: float) -> None:
        with self._lock:
            self._waiting += 1
            self.most_waiting = max(self.most_waiting, self._waiting)
        time.sleep(seconds)
        with self._lock:
            self._waiting -= 1

    def fault_for(self, method: str, path: str) -> Fault:
        with self._lock:
            for fault in self.faults:
                if fault.times == 0 or fault.method not in {None, method} or not fnmatchcase(path, fault.glob):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return Fault("")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.open: set[socket.socket] = set()

    def process_request(self, request, client_address) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        for each in list(self.open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address) -> None:
        """A client that went away is no error of the server's; anything else shows as a failed request."""


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        """Tests look at `hub.requests`."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.query = parse_qs(parts.query)
        self.payload = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.request_ = Request(self.command, path, self.headers.get("Range"), "Authorization" in self.headers)
        self.hub.record(self.request_)
        if self.hub.before is not None:
            self.hub.before(self.request_)
        self.wrong = self.hub.fault_for(self.command, path)
        self.hub.delay(self.wrong.delay)
        if self.wrong.status is not None:
            self._refuse(self.wrong.status, None, "as the test wants it")
        elif path.startswith("/cdn/"):
            commit, rest = path.removeprefix("/cdn/").split("/", 1)
            name = next(name for name in self.hub.repos if rest.startswith(f"{name}/"))
            self._body(self.hub.repos[name].commits[commit][rest.removeprefix(f"{name}/")], {})
        elif path.startswith("/api/models/") and self.wrong.body is not None:
            self._send(200, self.wrong.body, {"Content-Type": "application/json"})
        elif path.startswith("/api/models/"):
            self._api(parts.path.removeprefix("/api/models/"))
        elif "/resolve/" in path:
            self._resolve(parts.path.removeprefix("/"))
        else:
            self._refuse(404, None, "no such page")

    def _repo(self, name: str) -> Repo | None:
        """The repo, or None where it was refused."""
        repo = self.hub.repos.get(name)
        given = self.headers.get("Authorization")
        private = repo is not None and repo.token is not None and not repo.gated
        if repo is None or repo.gone or (private and given != f"Bearer {repo.token}"):
            self._refuse(404 if given else 401, "RepoNotFound", "Repository not found")
        else:
            return repo
        return None

    def _commit(self, repo: Repo, revision: str) -> str | None:
        commit = repo.refs.get(revision) or (revision if revision in repo.commits else None)
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _api(self, rest: str) -> None:
        words = rest.split("/")
        parts = 1 if words[0] in self.hub.repos else 2  # the hub's first models have no owner
        name, rest_words = "/".join(words[:parts]), [unquote(word) for word in words[parts:]]
        repo = self._repo(name)
        if repo is None:
            return
        kind = rest_words[0] if rest_words else "revision"
        commit = self._commit(repo, rest_words[1] if len(rest_words) > 1 else "main")
        if commit is None:
            return
        blobs = repo.commits[commit]
        if kind == "revision":
            self._json(self._info(repo, commit, blobs))
        elif kind == "tree":
            self._tree(blobs, "/".join(rest_words[2:]))
        elif kind == "paths-info":
            self._paths_info(blobs)
        else:
            self._refuse(404, None, "no such page")

    def _info(self, repo: Repo, commit: str, blobs: Mapping[str, Blob]) -> dict:
        siblings: list[dict] = []
        for path, blob in blobs.items():
            entry: dict = {"rfilename": path}
            if self.query.get("blobs") or self.query.get("files_metadata"):
                entry |= {"size": blob.size, "blobId": blob.oid}
                if blob.lfs:
                    entry["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": 134}
            siblings.append(entry)
        return {
            "_id": "0" * 24, "id": repo.name, "modelId": repo.name, "author": repo.name.split("/")[0], "sha": commit,
            "lastModified": DATE, "createdAt": DATE, "private": repo.token is not None and not repo.gated,
            "gated": "manual" if repo.gated else False, "disabled": False, "downloads": 0, "likes": 0, "tags": [],
            "siblings": siblings,
        }  # fmt: skip

    def _entry(self, path: str, blob: Blob, *, expand: bool) -> dict:
        entry: dict = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path}
        if blob.lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}
        if expand:
            entry["lastCommit"] = {"id": "0" * 40, "title": "a commit", "date": DATE}
            entry["securityFileStatus"] = {"status": "safe", "avScan": None, "pickleImportScan": None}
        return entry

    def _folder(self, path: str, *, expand: bool) -> dict:
        entry: dict = {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
        if expand:
            entry["lastCommit"] = {"id": "0" * 40, "title": "a commit", "date": DATE}
        return entry

    def _tree(self, blobs: Mapping[str, Blob], below: str) -> None:
        expand = self.query.get("expand", ["false"])[0].lower() == "true"
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        prefix = f"{below}/" if below else ""
        entries: dict[str, dict] = {}
        for path, blob in blobs.items():
            if not path.startswith(prefix):
                continue
            inner = path.removeprefix(prefix).split("/")
            for depth in range(1, len(inner)):
                if depth == 1 or recursive:
                    folder = prefix + "/".join(inner[:depth])
                    entries.setdefault(folder, self._folder(folder, expand=expand))
            if len(inner) == 1 or recursive:
                entries[path] = self._entry(path, blob, expand=expand)
        if below and not entries:
            self._refuse(404, "EntryNotFound", f"{below} does not exist")
            return
        start = int(self.query.get("cursor", ["0"])[0])
        found = list(entries.values())[start : start + self.hub.page]
        headers = {}
        if start + self.hub.page < len(entries):
            kept = "".join(f"&{k}={quote(v[0])}" for k, v in self.query.items() if k != "cursor")
            address = f"{self.hub.url}{urlsplit(self.path).path}?cursor={start + self.hub.page}{kept}"
            headers["Link"] = f'<{address}>; rel="next"'
        self._json(found, headers)

    def _paths_info(self, blobs: Mapping[str, Blob]) -> None:
        if "json" in self.headers.get("Content-Type", ""):
            asked = json.loads(self.payload)
        else:
            asked = parse_qs(self.payload.decode())
        paths = asked["paths"] if isinstance(asked["paths"], list) else [asked["paths"]]
        expand = str(asked.get("expand", ["False"])).strip("[]'").lower() == "true"
        found = [self._entry(path, blobs[path], expand=expand) for path in paths if path in blobs]
        found += [
            self._folder(path, expand=expand)
            for path in paths
            if path not in blobs and any(p.startswith(f"{path}/") for p in blobs)
        ]
        self._json(found)

    def _resolve(self, rest: str) -> None:
        place, _, tail = rest.partition("/resolve/")
        revision, _, file = tail.partition("/")
        revision, file = unquote(revision), unquote(file)
        repo = self._repo(unquote(place))
        commit = repo and self._commit(repo, revision)
        if not repo or not commit:
            return
        given = self.headers.get("Authorization")
        if repo.gated and given != f"Bearer {repo.token}":
            self._refuse(403 if given else 401, "GatedRepo", f"Access to model {repo.name} is restricted")
            return
        blob = repo.commits[commit].get(file)
        if blob is None:
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        headers = {"X-Repo-Commit": commit}
        if blob.lfs:
            headers["X-Linked-Size"] = str(blob.size if self.wrong.size is None else self.wrong.size)
            headers["X-Linked-ETag"] = f'"{self.wrong.etag or blob.etag}"'
            headers["Location"] = f"{self.hub.cdn}/cdn/{commit}/{repo.name}/{quote(file)}"
            self._send(302, b"", headers)
        else:
            self._body(blob, headers)

    def _body(self, blob: Blob, headers: dict[str, str]) -> None:
        etag = self.wrong.etag or blob.etag
        headers = {**headers, "ETag": f'"{etag}"', "Accept-Ranges": "bytes", **self.wrong.headers}
        if self.wrong.body is not None:
            blob = Blob(self.wrong.body, blob.lfs)
        start, stop = 0, blob.size
        asked = self.headers.get("Range")
        unchanged = self.headers.get("If-Range", f'"{etag}"') == f'"{etag}"'
        if asked and unchanged and not self.wrong.no_range:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(blob.size - int(last), 0)
            stop = min(int(last) + 1, blob.size) if first and last else blob.size
            if self.wrong.shift:
                start, stop = min(start + self.wrong.shift, blob.size - 1), min(stop + self.wrong.shift, blob.size)
            if start >= stop:
                self._send(416, b"", {**headers, "Content-Range": f"bytes */{blob.size}"})
                return
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
        status = 206 if "Content-Range" in headers else 200
        self._head(status, stop - start, headers)
        if self.command == "HEAD":
            return
        left, hold = self.wrong.drop_after, self.wrong.hold
        while hold is not None and start < stop and not hold.wait(0.1):
            for piece in blob.chunks(start, min(start + 512, stop)):
                self.request_.sent += len(piece)
                self.wfile.write(piece)
                start += len(piece)
        for piece in blob.chunks(start, stop):
            part = piece if left is None else piece[:left]
            # Counted before it goes: the client may look at the counts the moment it has the last byte.
            self.request_.sent += len(part)
            self.wfile.write(part)
            if left is not None:
                left -= len(part)
                if left <= 0:
                    self._drop()
                    return
            if rate := self.wrong.rate:
                self.wfile.flush()
                time.sleep(len(part) / rate)

    def _drop(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _json(self, value: object, headers: Mapping[str, str] = {}) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})

    def _refuse(self, status: int, code: str | None, message: str, headers: Mapping[str, str] = {}) -> None:
        found = {"X-Error-Message": message, **headers, **self.wrong.headers}
        if code:
            found["X-Error-Code"] = code
        self._send(status, json.dumps({"error": message}).encode(), {"Content-Type": "application/json", **found})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._head(status, len(body), headers)
        if self.command != "HEAD":
            left = self.wrong.drop_after
            part = body if left is None else body[:left]
            self.request_.sent += len(part)
            self.wfile.write(part)
            if left is not None and left < len(body):
                self._drop()

    def _head(self, status: int, size: int, headers: Mapping[str, str]) -> None:
        self.request_.status = status
        self.send_response(status)
        for key, value in {"X-Request-Id": "test", **headers, "Content-Length": str(size)}.items():
            self.send_header(key, value)
        self.end_headers()


def point_here(hub: HubServer, home: Path, set_variable: Callable[[str, str], None], set_attribute) -> None:
    """Make huggingface_hub in this process talk to `hub`: it reads the environment only while it is imported."""
    for name, value in hub.environment(home).items():
        set_variable(name, value)
    import huggingface_hub.utils._http as http
    from huggingface_hub import constants

    set_attribute(constants, "ENDPOINT", hub.url)
    set_attribute(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    set_attribute(constants, "HF_HOME", os.environ["HF_HOME"])
    set_attribute(constants, "HF_HUB_CACHE", os.environ["HF_HUB_CACHE"])
    set_attribute(constants, "HF_TOKEN_PATH", os.environ["HF_TOKEN_PATH"])
    set_attribute(constants, "HF_HUB_DISABLE_XET", True)
    set_attribute(constants, "HF_HUB_OFFLINE", False)
    set_attribute(http, "_HUB_ORIGINS", http._HUB_ORIGINS | {http._url_origin(hub.url)})
    http.close_session()
