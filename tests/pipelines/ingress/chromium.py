"""A real browser for tests: Chromium, headless, driven over the DevTools protocol on a pair of pipes.

Knows no page. Messages are JSON, each ended by a zero byte (`--remote-debugging-pipe`).
"""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

JsonObject = dict[str, Any]

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
WAIT_S = 30


_PAGE_GONE = ("navigated or closed", "context was destroyed", "Cannot find context")


class PageGone(AssertionError):
    """The page that was asked makes way for another."""


class Page:
    """One tab. `problems` collects what the page complained about: exceptions, console errors, violations of its policy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[JsonObject]] = {}
        self._session: str | None = None
        self.problems: list[str] = []

    async def open(self, address: str, *, width: int = 1360, height: int = 1000, dark: bool = False) -> None:
        target = await self._call("Target.createTarget", url="about:blank")
        attached = await self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            await self._call(f"{domain}.enable")
        await self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._call("Emulation.setEmulatedMedia", features=[scheme])
        await self._call("Page.navigate", url=address)
        await self.until("document.readyState === 'complete'")

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = await self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Waits until a JavaScript expression is true, looking again at every frame of the page; on the next page, where this one makes
        way meanwhile."""
        script = f"new Promise(done => {{ const look = () => ({condition}) ? done(true) : setTimeout(look, 10); look(); }})"
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    try:
                        await self.run(script)
                        return
                    except PageGone:
                        continue
        except TimeoutError:
            text = await self.run("document.body.innerText")
            raise AssertionError(f"not in {WAIT_S} s: {condition}\n{self.problems}\n{text}") from None

    async def type(self, selector: str, text: str) -> None:
        await self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        await self._call("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        code = {"Enter": 13, "Escape": 27, "Tab": 9}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    async def click(self, selector: str) -> None:
        await self.run(f"document.querySelector({json.dumps(selector)}).click()")

    async def choose_file(self, selector: str, path: Path) -> None:
        document = await self._call("DOM.getDocument")
        node = await self._call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector=selector)
        await self._call("DOM.setFileInputFiles", files=[str(path)], nodeId=node["nodeId"])

    async def screenshot(self) -> bytes:
        """The whole page as PNG."""
        shot = await self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    async def listen(self) -> None:
        """Reads what the browser says until it ends."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                self._take(json.loads((await self._reader.readuntil(b"\0"))[:-1]))

    async def _call(self, method: str, **params: Any) -> JsonObject:
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        session = {"sessionId": self._session} if self._session else {}
        self._writer.write(json.dumps({"id": number, "method": method, "params": params, **session}).encode() + b"\0")
        answer = await self._answers[number]
        del self._answers[number]
        if "error" in answer:
            has_gone = any(words in answer["error"].get("message", "") for words in _PAGE_GONE)
            raise (PageGone if has_gone else AssertionError)(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def _take(self, message: JsonObject) -> None:
        if "id" in message:
            waiting = self._answers.get(message["id"])
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
            return
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(str(params["exceptionDetails"]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Runtime.consoleAPICalled" if params["type"] == "error":
                self.problems.append(str(params["args"]))


@contextlib.asynccontextmanager
async def browser(profile: Path, *flags: str) -> AsyncIterator[Page]:
    """A page in a browser of its own, whose profile lives in the folder `profile`."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    command = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
    process = await asyncio.create_subprocess_exec(
        "/bin/bash",
        *("-c", command, str(BROWSER), *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"),
        pass_fds=(theirs_in, theirs_out),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**28)
    read_transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours_in, "rb"))
    write_transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(ours_out, "wb"))
    page = Page(reader, asyncio.StreamWriter(write_transport, protocol, reader, loop))
    listening = asyncio.create_task(page.listen())
    try:
        yield page
    finally:
        process.terminate()
        await process.wait()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        write_transport.close()
        read_transport.close()
