"""A real HTTP server on loopback that behaves as it is told, well or badly, and remembers what it was asked."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class ImageServer(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str]] = []  # path, Host header
        self.headers: list[dict[str, str]] = []
        self.closing = threading.Event()  # what a stalling answer waits for

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what half of the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: ImageServer

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Host", "")))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.server.answers[self.path](self)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def body(data: bytes, *, status: int = 200, kind: str = "image/png", **headers: str) -> Answer:
    """An answer with a body; `headers` with underscores for dashes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data))}.items() | headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def redirect(location: str, status: int = 302) -> Answer:
    return body(b"", status=status, Location=location)


def endless(piece: bytes) -> Answer:
    """A body without a length that ends only when the client goes away."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(piece)

    return answer


def in_pieces(piece: bytes, count: int) -> Answer:
    """A body in chunks."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) * count + b"0\r\n\r\n")

    return answer


def announced(count: int, data: bytes) -> Answer:
    """A body behind so many answers that only say that it will come."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 102 Processing\r\n\r\n" * count)
        body(data)(handler)

    return answer


def stalled(server: ImageServer, begin: bytes = b"") -> Answer:
    """Headers (and perhaps some bytes), then nothing more until the server closes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(begin)
        handler.wfile.flush()
        server.closing.wait()

    return answer


@contextmanager
def running(tls: ssl.SSLContext | None = None) -> Iterator[ImageServer]:
    server = ImageServer()
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
