"""A page of another origin in a real browser, against a server without keys: nothing is done, and nothing can be read. The server's own
page beside it works (`playground/`), and so does a link to it."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.responses import HTMLResponse
from starlette.types import Receive, Scope, Send

from tests.pipelines.ingress.chromium import BROWSER, Page, browser
from tests.pipelines.ingress.fakes import PAINT, FakeService
from tests.pipelines.ingress.surface import chat_body, listening, png, server_for

pytestmark = [pytest.mark.browser, pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")]

ELSEWHERE = "evil.example"
NAMES = (f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1",)
SITES = {"another site": ELSEWHERE, "another port": "127.0.0.1", "another name of this machine": "localhost"}
PATHS = ("", "v1/models", "metrics", "openapi.json", "health", "ready", "no/such/route", "playground/main.js")


async def a_page(scope: Scope, receive: Receive, send: Send) -> None:
    await HTMLResponse("<!doctype html><title>elsewhere</title><body></body>")(scope, receive, send)


@asynccontextmanager
async def page_of(host: str, folder: Path) -> AsyncIterator[Page]:
    """A page of another server, under this name."""
    config = uvicorn.Config(a_page, log_level="error", timeout_graceful_shutdown=1)
    async with listening(config) as address, browser(folder / "profile", *NAMES) as page:
        await page.open(address.replace("127.0.0.1", host))
        yield page


async def tried(page: Page, script: str) -> Any:
    """What a page's script comes to, or "blocked" where the browser gave it nothing."""
    return await page.run(f"(async () => {{ try {{ {script} }} catch (error) {{ return 'blocked'; }} }})()")


async def read(page: Page, address: str, **options: Any) -> Any:
    return await tried(page, f"const answer = await fetch({address!r}, {json.dumps(options)}); return await answer.text();")


async def shown(page: Page, address: str) -> bool:
    """Whether an image tag shows something."""
    done = "image.onload = () => done(true); image.onerror = () => done(false);"
    script = f"new Promise(done => {{ const image = new Image(); {done} image.src = {address!r}; }})"
    return bool(await page.run(script))


async def ran(page: Page, address: str) -> bool:
    """Whether a script tag ran something."""
    done = "script.onload = () => done(true); script.onerror = () => done(false);"
    script = f"const script = document.createElement('script'); {done} script.src = {address!r}; document.body.append(script);"
    return bool(await page.run(f"new Promise(done => {{ {script} }})"))


async def sent_as_form(page: Page, address: str, **fields: str) -> None:
    """Sends a form into a frame, and waits until the frame has its answer. With a file, as edits take one."""
    image = base64.b64encode(png()).decode()
    script = f"""new Promise(done => {{
      const frame = document.createElement("iframe"), form = document.createElement("form"), file = document.createElement("input");
      frame.name = "answer"; frame.onload = () => done(true);
      Object.assign(form, {{ action: {address!r}, method: "post", enctype: "multipart/form-data", target: "answer" }});
      for (const [name, value] of Object.entries({json.dumps(fields)})) {{
        const field = document.createElement("input");
        Object.assign(field, {{ name, value }});
        form.append(field);
      }}
      const chosen = new DataTransfer();
      const image = Uint8Array.from(atob({image!r}), (letter) => letter.charCodeAt(0));
      chosen.items.add(new File([image], "a.png", {{ type: "image/png" }}));
      Object.assign(file, {{ type: "file", name: "image", files: chosen.files }});
      form.append(file);
      document.body.append(frame, form);
      form.submit();
    }})"""
    await page.run(script)


@pytest.mark.parametrize("host", SITES.values(), ids=SITES)
async def test_nothing_can_be_read_from(host: str, tmp_path: Path) -> None:
    async with server_for(FakeService()) as ours, page_of(host, tmp_path) as page:
        for path in PATHS:
            assert await read(page, f"{ours}/{path}") == "blocked"
            assert await read(page, f"{ours}/{path}", mode="no-cors") == ""
        assert not await shown(page, f"{ours}/playground/mark.svg")
        assert not await ran(page, f"{ours}/playground/api.js")


@pytest.mark.parametrize("host", SITES.values(), ids=SITES)
async def test_nothing_is_done_for(host: str, tmp_path: Path) -> None:
    service = FakeService()
    async with server_for(service) as ours, page_of(host, tmp_path) as page:
        chat, body = f"{ours}/v1/chat/completions", json.dumps(chat_body())
        assert await read(page, chat, method="POST", body=body, headers={"content-type": "application/json"}) == "blocked"
        assert await read(page, chat, method="POST", body=body) == "blocked"
        assert await read(page, chat, method="POST", body=body, mode="no-cors") == ""
        assert await page.run(f"navigator.sendBeacon({chat!r}, {body!r})")
        await sent_as_form(page, f"{ours}/v1/images/edits", model=PAINT, prompt="a boat")
        await sent_as_form(page, chat, model="x")
    assert service.jobs == []


async def test_a_page_whose_name_comes_to_mean_this_machine_reads_nothing(tmp_path: Path) -> None:
    """DNS rebinding: the browser takes the page and the server for one origin."""
    service = FakeService()
    async with server_for(service) as ours, browser(tmp_path / "profile", *NAMES) as page:
        theirs = ours.replace("127.0.0.1", ELSEWHERE)
        await page.open(f"{theirs}/no/such/page")
        for path in PATHS:
            assert json.loads(await read(page, f"{theirs}/{path}"))["error"]["code"] == "forbidden"
        answer = await read(page, f"{theirs}/v1/chat/completions", method="POST", body=json.dumps(chat_body()))
        assert json.loads(answer)["error"]["code"] == "forbidden"
    assert service.jobs == []


async def test_a_page_in_a_sandbox_is_nobodys(tmp_path: Path) -> None:
    service = FakeService()
    async with server_for(service) as ours, page_of(ELSEWHERE, tmp_path) as page:
        inner = f"fetch('{ours}/v1/models').then(answer => answer.text(), () => 'blocked').then(said => parent.postMessage(said, '*'))"
        frame = f"<script>{inner}</script>"
        script = (
            "new Promise(done => { addEventListener('message', event => done(event.data));"
            " const frame = document.createElement('iframe'); frame.sandbox = 'allow-scripts';"
            f" frame.srcdoc = {json.dumps(frame)}; document.body.append(frame); }})"
        )
        assert await page.run(script) == "blocked"


async def test_a_link_opens_the_playground_and_its_opener_sees_nothing_of_it(tmp_path: Path) -> None:
    async with server_for(FakeService()) as ours, page_of(ELSEWHERE, tmp_path) as page:
        await page.run(f"location.assign({ours!r})")
        await page.until("document.querySelector('#status')?.classList.contains('ready')")
        assert page.problems == []


async def test_a_frame_shows_nothing_of_the_playground(tmp_path: Path) -> None:
    async with server_for(FakeService()) as ours, page_of(ELSEWHERE, tmp_path) as page:
        script = (
            "new Promise(done => { const frame = document.createElement('iframe'); frame.onload = () => done(true);"
            f" frame.src = '{ours}/'; document.body.append(frame); }})"
        )
        await page.run(script)
        assert await page.run("frames[0].length") == 0
        assert await tried(page, "return frames[0].document.body.innerHTML;") == "blocked"
