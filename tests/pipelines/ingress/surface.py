"""How tests reach the HTTP surface: in process through ASGI, or over a real socket where a connection must break."""

import asyncio
import base64
import io
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from PIL import Image
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.ingress.app import create_app
from pipelines.ingress.request.settings import IngressSettings
from pipelines.jobs import Service
from tests.pipelines.ingress.fakes import CHAT

JsonObject = dict[str, Any]


@asynccontextmanager
async def client_for(service: Service, settings: IngressSettings | None = None) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create_app(service, settings or IngressSettings())) as client:
        yield client


@asynccontextmanager
async def client_of(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app in this process; an error that escapes the app escapes the call."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        yield client


def from_this_machine(app: ASGIApp) -> ASGIApp:
    """The app, for a test client that says it is called otherwise: without keys only loopback is answered."""

    async def local(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
            scope = {**scope, "client": ("127.0.0.1", 50000), "headers": [*headers, (b"host", b"127.0.0.1")]}
        await app(scope, receive, send)

    return local


@asynccontextmanager
async def server_for(service: Service, settings: IngressSettings | None = None) -> AsyncIterator[str]:
    """The app on a loopback port; yields its address."""
    app = create_app(service, settings or IngressSettings())
    async with listening(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)) as address:
        yield address


@asynccontextmanager
async def listening(config: uvicorn.Config) -> AsyncIterator[str]:
    """A server on a loopback port; yields its address."""
    server = _Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await server.listening.wait()
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


def chat_body(content: Any = "hello there", **fields: Any) -> JsonObject:
    return {"model": CHAT, "messages": [{"role": "user", "content": content}], **fields}


def png(width: int = 4, height: int = 3, colour: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "PNG")
    return out.getvalue()


def data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image_part(data: bytes | None = None, **fields: Any) -> JsonObject:
    return {"type": "image_url", "image_url": {"url": data_url(png() if data is None else data), **fields}}


def sse_events(text: str) -> list[JsonObject]:
    """The JSON of every data event but [DONE]."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in data if line != "[DONE]"]


def error_of(response: httpx.Response) -> JsonObject:
    """The error, having checked that it has OpenAI's form."""
    body = response.json()
    assert set(body) == {"error"}, body
    assert set(body["error"]) == {"message", "type", "param", "code"}, body
    return dict(body["error"])
