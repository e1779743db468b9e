"""A model hub on loopback: what huggingface_hub asks a real one, answered from memory, and remembered who asked for what."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


def commit(number: int) -> str:
    """A commit's 40 hex digits."""
    return hashlib.sha1(str(number).encode()).hexdigest()


@dataclass
class Repository:
    """`revisions`: branch, tag or commit -> commit. `gated`: files are refused without a token. `truncated`: files that break off
    half-way."""

    files: Mapping[str, bytes]
    revisions: dict[str, str] = field(default_factory=lambda: {"main": commit(1), commit(1): commit(1)})
    gated: bool = False
    truncated: frozenset[str] = frozenset()

    def push(self, number: int) -> None:
        """`main` means another commit now; the files are the same."""
        self.revisions |= {"main": commit(number), commit(number): commit(number)}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Hub:
    """`asked`: every request's path; `sent`: the files whose bodies were."""

    repositories: dict[str, Repository]
    endpoint: str = ""
    asked: list[str] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)

    def taken(self) -> set[str]:
        """The files sent since this was last asked."""
        sent, self.sent, self.asked = self.sent, set(), []
        return sent


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(path)
            parts = path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                self._tell(with_body, "/".join(parts[2:4]), parts[4:])
            elif parts[2:3] == ["resolve"]:
                self._give(with_body, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))
            else:
                self._refuse(404, "EntryNotFound")

        def _tell(self, with_body: bool, name: str, rest: list[str]) -> None:
            """/api/models/NAME[/revision/REVISION], /api/models/NAME/tree/REVISION"""
            repository, revision = hub.repositories.get(name), rest[1] if len(rest) > 1 else "main"
            if repository is None:
                self._refuse(401, "RepoNotFound")
            elif revision not in repository.revisions:
                self._refuse(404, "RevisionNotFound")
            elif rest[:1] == ["tree"]:
                entries = [
                    {"type": "file", "path": path, "size": len(data), "oid": _etag(data)}
                    for path, data in repository.files.items()
                ]
                self._send(with_body, json.dumps(entries).encode(), {"Content-Type": "application/json"})
            else:
                info = {"id": name, "sha": repository.revisions[revision], "siblings": []}
                self._send(with_body, json.dumps(info).encode(), {"Content-Type": "application/json"})

        def _give(self, with_body: bool, name: str, revision: str, file: str) -> None:
            """/NAME/resolve/REVISION/FILE"""
            repository = hub.repositories.get(name)
            if repository is None:
                self._refuse(401, "RepoNotFound")
            elif repository.gated and "Authorization" not in self.headers:
                self._refuse(401, "GatedRepo")
            elif file not in repository.files:
                self._refuse(404, "EntryNotFound")
            else:
                data = repository.files[file]
                headers = {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": repository.revisions[revision]}
                if with_body:
                    hub.sent.add(file)
                self._send(with_body, data, headers, cut=file in repository.truncated)

        def _send(self, with_body: bool, data: bytes, headers: Mapping[str, str], *, cut: bool = False) -> None:
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(data[: len(data) // 2] if cut else data)
                self.close_connection = self.close_connection or cut

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
