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
from collections.abc import AsyncIterator, Sequence
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
WAIT_S = 120
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "Space": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
Place = tuple[float, float]

_PAGE_GONE = ("navigated or closed", "context was destroyed", "Cannot find context")


class PageGone(AssertionError):
    """The page that was asked makes way for another."""


class Browser:
    """What is said to Chromium and by it, over its pipes: answers go to who asked, events to the page that they are of."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[JsonObject]] = {}
        self._pages: dict[str, Page] = {}

    @contextlib.asynccontextmanager
    async def page(self) -> AsyncIterator["Page"]:
        """A tab that shares nothing with others: no storage, no cache."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = self._pages[attached["sessionId"]] = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "DOM"):
            await page.call(f"{domain}.enable")
        await page.call("Emulation.setFocusEmulationEnabled", enabled=True)
        try:
            yield page
        finally:
            del self._pages[attached["sessionId"]]
            await self.call("Target.disposeBrowserContext", browserContextId=context)

    async def call(self, method: str, session: str | None = None, **params: Any) -> JsonObject:
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        of = {"sessionId": session} if session else {}
        self._writer.write(json.dumps({"id": number, "method": method, "params": params, **of}).encode() + b"\0")
        answer = await self._answers[number]
        del self._answers[number]
        if "error" in answer:
            has_gone = any(words in answer["error"].get("message", "") for words in _PAGE_GONE)
            raise (PageGone if has_gone else AssertionError)(f"{method}: {answer['error']}")
        return dict(answer["result"])

    async def listen(self) -> None:
        """Reads what the browser says until it ends."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                self._take(json.loads((await self._reader.readuntil(b"\0"))[:-1]))

    def _take(self, message: JsonObject) -> None:
        if "id" in message:
            waiting = self._answers.get(message["id"])
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        elif message.get("sessionId") in self._pages:
            self._pages[message["sessionId"]].hear(message["method"], message.get("params", {}))


class Page:
    """One tab. `problems` collects what the page complained about: exceptions, console errors, violations of its policy."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.problems: list[str] = []

    async def call(self, method: str, **params: Any) -> JsonObject:
        return await self._browser.call(method, self._session, **params)

    def hear(self, method: str, params: JsonObject) -> None:
        """An event of the page."""
        match method:
            case "Runtime.exceptionThrown":
                self.problems.append(str(params["exceptionDetails"]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Runtime.consoleAPICalled" if params["type"] == "error":
                self.problems.append(str(params["args"]))

    async def open(self, address: str, *, width: int = 1360, height: int = 1000, dark: bool = False) -> None:
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.navigate", url=address)
        await self.until("document.readyState === 'complete'")

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
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
        await self.call("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        code, name = KEYS[key], " " if key == "Space" else key
        text = {"text": {"Enter": "\r", "Space": " "}[key]} if key in ("Enter", "Space") else {}
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=name, code=key, windowsVirtualKeyCode=code, **text)

    async def drag(self, selector: str, places: Sequence[Place]) -> None:
        """With the mouse, from one place to the next; places as shares of the element's width and height."""
        first, *rest = points = await self._points(selector, places)
        button = {"button": "left", "buttons": 1, "clickCount": 1}
        await self.call("Input.dispatchMouseEvent", type="mousePressed", **first, **button)
        for point in rest:
            await self.call("Input.dispatchMouseEvent", type="mouseMoved", **point, **button)
        await self.call("Input.dispatchMouseEvent", type="mouseReleased", **points[-1], **button)

    async def touch(self, selector: str, places: Sequence[Place]) -> None:
        """The same with a finger."""
        first, *rest = await self._points(selector, places)
        await self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[first])
        for point in rest:
            await self.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=[point])
        await self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    async def _points(self, selector: str, places: Sequence[Place]) -> list[dict[str, float]]:
        box = await self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)}); one.scrollIntoView({{ block: 'center' }});"
            " const { left, top, width, height } = one.getBoundingClientRect(); return [left, top, width, height]; })()"
        )
        left, top, width, height = box
        return [{"x": left + width * across, "y": top + height * down} for across, down in places]

    async def reload(self) -> None:
        await self.run("window.isOld = true")
        await self.call("Page.reload")
        await self.until("!window.isOld && document.readyState === 'complete'")

    async def click(self, selector: str) -> None:
        await self.run(f"document.querySelector({json.dumps(selector)}).click()")

    async def choose_file(self, selector: str, path: Path) -> None:
        document = await self.call("DOM.getDocument")
        node = await self.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector=selector)
        await self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node["nodeId"])

    async def screenshot(self) -> bytes:
        """The whole page as PNG."""
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])


@contextlib.asynccontextmanager
async def browser(profile: Path, *flags: str) -> AsyncIterator[Page]:
    """A page in a browser of its own, whose profile lives in the folder `profile`."""
    async with chromium(profile, *flags) as started, started.page() as page:
        yield page


@contextlib.asynccontextmanager
async def chromium(profile: Path, *flags: str) -> AsyncIterator[Browser]:
    """A browser for several pages, on the event loop that it is started on."""
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
    started = Browser(reader, asyncio.StreamWriter(write_transport, protocol, reader, loop))
    listening = asyncio.create_task(started.listen())
    try:
        yield started
    finally:
        process.terminate()
        await process.wait()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        write_transport.close()
        read_transport.close()
