"""A collector of traces on a loopback port: takes OTLP over HTTP, as a real one does, and tells what it was sent."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan

PATIENCE_S = 30.0


@dataclass
class Collector:
    """`is_down`: it answers 503, which exporters try again. `hangs`: it answers nothing until that is set."""

    address: str
    is_down: bool = False
    hangs: threading.Event = field(default_factory=threading.Event)
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)
    num_asked: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def spans(self) -> dict[str, SentSpan]:
        """By name; of several of one name the last."""
        return {
            span.name: span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }

    def wait_for(self, *names: str) -> dict[str, SentSpan]:
        with self.changed:
            assert self.changed.wait_for(lambda: set(names) <= self.spans().keys(), PATIENCE_S), (names, list(self.spans()))
            return self.spans()

    def took(self, request: ExportTraceServiceRequest) -> None:
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()


def told(span: SentSpan) -> dict[str, str | int | float]:
    values = {one.key: one.value for one in span.attributes}
    return {key: getattr(value, str(value.WhichOneof("value"))) for key, value in values.items()}


@contextmanager
def collector() -> Iterator[Collector]:
    found = Collector("")
    found.hangs.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with found.changed:
                found.num_asked += 1
                found.changed.notify_all()
            found.hangs.wait(PATIENCE_S)
            if not found.is_down:
                plain = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
                found.took(ExportTraceServiceRequest.FromString(plain))
            self.send_response(503 if found.is_down else 200)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """A test's output is its own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.address = f"http://127.0.0.1:{server.server_port}/v1/traces"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.hangs.set()
        server.shutdown()
        server.server_close()
        thread.join()
