"""/v1/files and /v1/batches over the whole surface: from a file of requests to a file of answers, also where the process that does them
ends, a tenant is not the other, and the server is busy."""

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch, FileObject

from cache.store import MemoryStore
from pipelines.cluster.live_app import LiveApp
from pipelines.ingress.app import Kept, create_app
from pipelines.ingress.kept.work import Task
from pipelines.ingress.kept.work_state import Status, WorkState
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.routes.batches import outcomes
from pipelines.ingress.routes.batches.batches import batch_told
from pipelines.ingress.routes.batches.built import told_error
from pipelines.jobs import ChatJob
from pipelines.settings.schema.auth import SINGLE_TENANT
from pipelines.settings.schema.http import KeptConfig
from stages.contract.errors import InvalidRequest, QueueFull, StageFailed, Unavailable
from tests.pipelines.ingress.fakes import CHAT, EMBED, FakeService, Gate, Trouble
from tests.pipelines.ingress.kept.workers import SharedStore
from tests.pipelines.ingress.surface import JsonObject, client_of, error_of, server_for
from tests.stages.host.hosting import once

SEVERAL = IngressSettings(
    keys={hashlib.sha256(tenant.encode()).hexdigest(): tenant for tenant in ("ada", "bob")}, secret=b"a secret"
)
OVER = ("completed", "failed", "expired", "cancelled")


class Surface:
    """One HTTP process."""

    def __init__(self, service: FakeService, settings: IngressSettings, store: MemoryStore | None = None) -> None:
        self.service = service
        self.live = LiveApp()
        self.kept = Kept.new(settings, store=store, live=self.live)
        self.serves(service, settings, "1")
        self.app = self.live

    def serves(self, service: FakeService, settings: IngressSettings, version: str) -> None:
        """From now on."""
        self.live.replace(create_app(service, settings, self.kept), version)

    async def close(self) -> None:
        if self.service.gate is not None:
            self.service.gate.open.set()
        await self.kept.close()
        self.kept.threads.close()


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
async def surface(service: FakeService) -> AsyncIterator[Surface]:
    surface = Surface(service, IngressSettings())
    yield surface
    await surface.close()


@pytest.fixture
async def client(surface: Surface) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(surface.app) as client:
        yield client


def asked(custom_id: str, content: str = "a b", **fields: Any) -> JsonObject:
    body = {"model": CHAT, "messages": [{"role": "user", "content": content}], **fields}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


async def uploaded(client: httpx.AsyncClient, *lines: JsonObject, **how: Any) -> str:
    content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    answer = await client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)}, **how)
    assert answer.status_code == 200, answer.text
    FileObject.model_validate(answer.json())
    return str(answer.json()["id"])


async def begun(client: httpx.AsyncClient, *lines: JsonObject, window: str = "24h", **how: Any) -> str:
    body = {"input_file_id": await uploaded(client, *lines, **how), "endpoint": lines[0]["url"], "completion_window": window}
    answer = await client.post("/v1/batches", json=body, **how)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def told(client: httpx.AsyncClient, id: str, **how: Any) -> JsonObject:
    answer = await client.get(f"/v1/batches/{id}", **how)
    assert answer.status_code == 200, answer.text
    Batch.model_validate(answer.json())
    return dict(answer.json())


async def polled(client: httpx.AsyncClient, id: str, **how: Any) -> AsyncIterator[JsonObject]:
    while True:
        yield await told(client, id, **how)
        await asyncio.sleep(0.01)


async def over(client: httpx.AsyncClient, id: str, **how: Any) -> JsonObject:
    async with asyncio.timeout(60):
        return await anext(batch async for batch in polled(client, id, **how) if batch["status"] in OVER)


async def lines_of(client: httpx.AsyncClient, file_id: str, **how: Any) -> dict[str, JsonObject]:
    answer = await client.get(f"/v1/files/{file_id}/content", **how)
    assert answer.status_code == 200, answer.text
    return {line["custom_id"]: line for line in map(json.loads, answer.text.split("\n")[:-1])}


async def test_every_line_is_answered_as_its_route_would(client: httpx.AsyncClient, service: FakeService) -> None:
    batch = await over(client, await begun(client, asked("one", "a"), asked("two", "b c"), asked("bad", temperature=9)))
    assert (batch["status"], batch["request_counts"]) == ("completed", {"total": 3, "completed": 2, "failed": 1})
    answers = await lines_of(client, batch["output_file_id"])
    assert list(answers) == ["one", "two"]
    response = answers["two"]["response"]
    assert (response["status_code"], answers["two"]["error"]) == (200, None)
    assert response["body"]["choices"][0]["message"]["content"] == "You said: b c"
    assert response["body"]["triptych"]["request_id"] == response["request_id"]
    errors = await lines_of(client, batch["error_file_id"])
    assert errors["bad"]["response"]["status_code"] == 400
    assert errors["bad"]["response"]["body"]["error"]["param"] == "temperature"
    assert {context.priority for context in service.contexts} == {10}
    named = (await client.get(f"/v1/files/{batch['output_file_id']}")).json()
    assert (named["purpose"], named["filename"]) == ("batch_output", f"{batch['id']}_output.jsonl")


async def test_any_route_of_models_may_be_asked(client: httpx.AsyncClient) -> None:
    line = {"custom_id": "e", "method": "POST", "url": "/v1/embeddings", "body": {"model": EMBED, "input": "a\u2028b"}}
    batch = await over(client, await begun(client, line))
    assert (await lines_of(client, batch["output_file_id"]))["e"]["response"]["body"]["data"][0]["embedding"]


async def test_a_file_that_is_none_fails_the_batch_and_names_the_lines(
    client: httpx.AsyncClient, service: FakeService
) -> None:
    batch = await over(client, await begun(client, asked("a"), asked("a")))
    assert (batch["status"], batch["output_file_id"]) == ("failed", None)
    assert [(fault["code"], fault["line"]) for fault in batch["errors"]["data"]] == [("duplicate_custom_id", 2)]
    assert service.jobs == []


async def test_a_busy_server_is_asked_again(client: httpx.AsyncClient, service: FakeService) -> None:
    service.trouble = Trouble(QueueFull("full", retry_after_s=0.01))
    id = await begun(client, asked("a"))
    await once(lambda: len(service.jobs) > 2)
    service.trouble = None
    assert (await over(client, id))["request_counts"]["completed"] == 1


async def test_what_fails_for_good_is_not_asked_again(client: httpx.AsyncClient, service: FakeService) -> None:
    service.trouble = Trouble(StageFailed("broke"))
    batch = await over(client, await begun(client, asked("a")))
    assert (await lines_of(client, batch["error_file_id"]))["a"]["response"]["status_code"] == 500
    assert len(service.jobs) == 1


async def test_so_many_are_asked_at_once_and_no_more(service: FakeService) -> None:
    service.gate = Gate()
    surface = Surface(service, IngressSettings(kept=KeptConfig(batch_at_once=3)))
    async with client_of(surface.app) as client:
        id = await begun(client, *(asked(str(at)) for at in range(9)))
        other = await begun(client, asked("x"))
        await once(lambda: service.running == 3)
        await asyncio.sleep(0)
        assert service.running == 3
        service.gate.open.set()
        assert (await over(client, id))["request_counts"]["completed"] == 9
        await over(client, other)
    await surface.close()


async def test_one_that_is_called_off_keeps_what_was_answered(client: httpx.AsyncClient, service: FakeService) -> None:
    lines = [asked(str(at)) for at in range(9)]
    service.gate = Gate(after=1)
    id = await begun(client, *lines)
    await once(lambda: service.running > 0)
    service.gate.open.set()
    service.gate = Gate()
    await once(lambda: service.gate is not None and service.gate.reached.is_set())
    assert (await client.post(f"/v1/batches/{id}/cancel")).json()["status"] == "cancelled"
    batch = await told(client, id)
    assert service.running == 0
    assert batch["request_counts"]["completed"] == len(await lines_of(client, batch["output_file_id"])) > 0
    assert await told(client, id) == batch
    assert (await client.post("/v1/batches/batch_none/cancel")).status_code == 404


async def test_one_that_is_called_off_is_told_of_also_where_its_files_have_no_room(service: FakeService) -> None:
    surface = Surface(service, IngressSettings(kept=KeptConfig(files=2)))
    async with client_of(surface.app) as client:
        other = await uploaded(client, asked("other"))
        service.gate = Gate(after=1)
        id = await begun(client, *(asked(str(at)) for at in range(9)))
        await once(lambda: service.running > 0)
        service.gate.open.set()
        service.gate = Gate()
        await once(lambda: service.gate is not None and service.gate.reached.is_set())
        assert (await client.post(f"/v1/batches/{id}/cancel")).json()["status"] == "cancelled"
        batch = await told(client, id)
        assert (batch["status"], batch["output_file_id"]) == ("cancelled", None)
        assert [one["id"] for one in (await client.get("/v1/batches")).json()["data"]] == [id]
        await client.delete(f"/v1/files/{other}")
        batch = await told(client, id)
        assert len(await lines_of(client, batch["output_file_id"])) == batch["request_counts"]["completed"] > 0
    await surface.close()


async def test_one_whose_time_is_up_tells_which_lines_were_not_asked(surface: Surface, client: httpx.AsyncClient) -> None:
    owner, worker = IngressSettings().key_ring().of(SINGLE_TENANT), surface.kept.batches.worker
    assert owner is not None
    assert worker is not None
    about = {"input_file_id": await uploaded(client, asked("a"), asked("b")), "endpoint": "/v1/chat/completions", "until": 0.0}
    task = Task("batch_late", b"", owner, 0.0, float("inf"), about | {"completion_window": "1m"})
    ended = await worker.run(task, lambda _: None)
    assert (ended["is_late"], ended["counts"]) == (True, {"total": 2, "completed": 0, "failed": 2})
    errors = await lines_of(client, ended["error_file_id"])
    assert {line["error"]["code"] for line in errors.values()} == {"batch_expired"}
    assert surface.service.jobs == []
    state = WorkState("batch_late", 0.0, 0.0, Status.DONE, ended=9.0, about=task.about, told=ended)
    batch = batch_told(state)
    assert (batch.status, batch.expired_at, batch.completed_at) == ("expired", 9, None)


async def test_another_process_goes_on_where_one_ended(service: FakeService) -> None:
    store, settings = SharedStore(2**26), IngressSettings()
    dying, living = Surface(service, settings, store), Surface(FakeService(), settings, store)
    service.gate = Gate(after=1)
    lines = [asked(str(at)) for at in range(9)]
    async with client_of(dying.app) as client:
        id = await begun(client, *lines)
        await once(lambda: service.running > 0)
        service.gate.open.set()
        service.gate = Gate()
        await once(lambda: service.gate is not None and service.gate.reached.is_set())
        await dying.kept.close()
    done = len([job for job in service.jobs if isinstance(job, ChatJob)]) - service.running
    living.kept.tend()
    async with client_of(living.app) as client:
        batch = await over(client, id)
        assert batch["request_counts"] == {"total": 9, "completed": 9, "failed": 0}
        assert len(await lines_of(client, batch["output_file_id"])) == 9
    assert 0 < len(living.service.jobs) <= 9
    assert done + len(living.service.jobs) >= 9
    await living.close()
    await dying.close()


class Interrupted(SharedStore):
    """In which the first delete of a batch's part takes until `go` is set."""

    def __init__(self) -> None:
        super().__init__(2**26)
        self.reached, self.go = threading.Event(), threading.Event()

    def delete(self, key: str) -> None:
        super().delete(key)
        if key.startswith("batch-part:") and not self.reached.is_set():
            self.reached.set()
            self.go.wait()


async def test_a_process_that_ends_while_it_clears_up_leaves_nothing_to_be_asked_again(service: FakeService) -> None:
    store, settings = Interrupted(), IngressSettings()
    dying, living = Surface(service, settings, store), Surface(FakeService(), settings, store)
    async with client_of(dying.app) as client:
        id = await begun(client, *(asked(str(at)) for at in range(100)))
        await once(store.reached.is_set)
        await dying.kept.close()
    store.go.set()
    living.kept.tend()
    async with client_of(living.app) as client:
        batch = await over(client, id)
        assert (batch["status"], batch["request_counts"]) == ("completed", {"total": 100, "completed": 100, "failed": 0})
        assert list(await lines_of(client, batch["output_file_id"])) == [str(at) for at in range(100)]
    assert living.service.jobs == []
    assert [key[-6:] for key in store._entries if key.startswith("batch-part:")] == ["-ended"]
    await living.close()
    await dying.close()


async def test_lines_that_are_left_at_a_change_of_settings_are_answered_by_the_new_ones(service: FakeService) -> None:
    settings = IngressSettings(kept=KeptConfig(batch_at_once=1))
    surface, new = Surface(service, settings), FakeService()
    service.gate = Gate(after=1)
    async with client_of(surface.app) as client:
        id = await begun(client, *(asked(str(at)) for at in range(4)))
        await once(lambda: service.running == 1)
        surface.serves(new, settings, "2")
        assert surface.live.in_use() == ("1", "2")  # what the line under way needs is kept until it is answered
        service.trouble = Trouble(Unavailable("its stages are gone", retry_after_s=0.01))
        service.gate.open.set()
        assert (await over(client, id))["request_counts"] == {"total": 4, "completed": 4, "failed": 0}
    assert (len(service.jobs), len(new.jobs)) == (1, 3)
    assert surface.live.in_use() == ("2",)
    await surface.close()


async def test_what_came_of_a_batch_is_written_and_read_off_the_event_loop(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = {name: list[int]() for name in ("part_of", "read_part", "file_of")}

    def noting(name: str) -> Callable[..., Any]:
        plain = getattr(outcomes, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            threads[name].append(threading.get_ident())
            return plain(*args, **kwargs)

        return noted

    for name in threads:
        monkeypatch.setattr(outcomes, name, noting(name))
    surface = Surface(service, IngressSettings())
    async with client_of(surface.app) as client:
        service.gate = Gate(after=1)
        id = await begun(client, *(asked(str(at)) for at in range(9)))
        await once(lambda: service.running > 0)
        service.gate.open.set()
        service.gate = Gate()
        await once(lambda: service.gate is not None and service.gate.reached.is_set())
        await client.post(f"/v1/batches/{id}/cancel")
        assert (await told(client, id))["output_file_id"] is not None
    assert all(threads.values())
    assert threading.get_ident() not in {ident for idents in threads.values() for ident in idents}
    await surface.close()


async def test_a_tenant_has_its_own_files_and_batches() -> None:
    surface = Surface(FakeService(), SEVERAL)
    ada, bob = ({"authorization": f"Bearer {tenant}"} for tenant in ("ada", "bob"))
    async with client_of(surface.app) as client:
        id = await begun(client, asked("a"), headers=ada)
        batch = await over(client, id, headers=ada)
        file_id = batch["output_file_id"]
        for path in (f"/v1/batches/{id}", f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
            assert (await client.get(path, headers=bob)).status_code == 404
            assert (await client.get(path)).status_code == 401
        assert (await client.delete(f"/v1/files/{file_id}", headers=bob)).status_code == 404
        assert (await client.get("/v1/batches", headers=bob)).json()["data"] == []
        assert (await client.get("/v1/files", headers=bob)).json()["data"] == []
        assert {context.tenant for context in surface.service.contexts} == {"ada"}
        stolen = {"input_file_id": batch["input_file_id"], "endpoint": "/v1/completions", "completion_window": "1h"}
        assert (await client.post("/v1/batches", json=stolen, headers=bob)).status_code == 400
    await surface.close()


async def test_files_are_listed_told_of_and_deleted(client: httpx.AsyncClient) -> None:
    ids = [await uploaded(client, asked(str(at))) for at in range(3)]
    listed = (await client.get("/v1/files?limit=2")).json()
    assert ([one["id"] for one in listed["data"]], listed["has_more"]) == ([ids[2], ids[1]], True)
    rest = (await client.get(f"/v1/files?limit=2&after={ids[1]}")).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    assert [one["id"] for one in (await client.get("/v1/files?order=asc&purpose=batch")).json()["data"]] == ids
    assert (await client.get(f"/v1/files/{ids[0]}")).json()["filename"] == "in.jsonl"
    assert (await client.delete(f"/v1/files/{ids[0]}")).json() == {"id": ids[0], "object": "file", "deleted": True}
    assert (await client.get(f"/v1/files/{ids[0]}")).status_code == 404
    assert error_of(await client.get("/v1/files?limit=0"))["param"] == "limit"


@pytest.mark.parametrize(
    ("fields", "param", "told_of"),
    [
        ({"completion_window": "25h"}, "completion_window", "ingress.kept.batch_s"),
        ({"completion_window": "soon"}, "completion_window", "match"),
        ({"endpoint": "/v1/models"}, "endpoint", "/v1/chat/completions"),
        ({"input_file_id": "file-none"}, "input_file_id", "is no file"),
        ({"input_file_id": "../x"}, "input_file_id", "is no file"),
        ({"typo": 1}, "typo", "not supported"),
    ],
)
async def test_what_is_wrong_with_a_batch_is_named(
    client: httpx.AsyncClient, fields: JsonObject, param: str, told_of: str
) -> None:
    body = {
        "input_file_id": await uploaded(client, asked("a")),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    answer = await client.post("/v1/batches", json=body | fields)
    assert answer.status_code == 400, answer.text
    error = error_of(answer)
    assert error["param"] == param
    assert told_of in error["message"]


async def test_a_file_for_something_else_and_no_file_are_refused(client: httpx.AsyncClient) -> None:
    other = await client.post("/v1/files", data={"purpose": "vision"}, files={"file": ("x", b"x")})
    assert error_of(other)["param"] == "purpose"
    assert error_of(await client.post("/v1/files", files={"purpose": (None, "batch")}))["param"] == "file"


async def test_what_a_tenant_may_keep_is_bounded(service: FakeService) -> None:
    surface = Surface(service, IngressSettings(kept=KeptConfig(files=2)))
    async with client_of(surface.app) as client:
        for at in range(2):
            await uploaded(client, asked(str(at)))
        answer = await client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("x", b"{}")})
        assert answer.status_code == 429
        assert "ingress.kept.file" in error_of(answer)["message"]
    await surface.close()


async def test_the_sdk_uploads_and_asks() -> None:
    async with server_for(FakeService()) as address:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as sdk:
            content = f"{json.dumps(asked('a'))}\n".encode()
            file = await sdk.files.create(file=("in.jsonl", content), purpose="batch")
            batch = await sdk.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"m": "x"}
            )
            assert batch.metadata == {"m": "x"}
            async with asyncio.timeout(60):
                while batch.status not in OVER:
                    await asyncio.sleep(0.01)
                    batch = await sdk.batches.retrieve(batch.id)
            assert batch.output_file_id is not None
            answer = json.loads((await sdk.files.content(batch.output_file_id)).text)
            assert answer["response"]["body"]["choices"][0]["message"]["content"] == "You said: a b"
            assert [one.id async for one in sdk.batches.list()] == [batch.id]
            assert (await sdk.files.delete(file.id)).deleted


async def test_a_line_is_nobody_elses_whatever_its_body_says(client: httpx.AsyncClient, service: FakeService) -> None:
    await over(client, await begun(client, asked("a", triptych={"priority": -5})))
    assert [context.priority for context in service.contexts] == [10]


def test_settings_are_read_anew_by_each_app() -> None:
    settings = IngressSettings()
    kept = Kept.new(settings)
    create_app(FakeService(), settings, kept)
    create_app(FakeService(), replace(settings, kept=KeptConfig(batch_at_once=5)), kept)
    assert kept.batches.max_running == 5
    kept.threads.close()


def test_what_fails_a_batch_as_a_whole_is_told_without_the_servers_own_words() -> None:
    assert told_error("batch_1", InvalidRequest("x is wrong", param="x"))["message"] == "x is wrong"
    assert "secret" not in told_error("batch_1", StageFailed("secret path"))["message"]
    assert "secret" not in told_error("batch_1", RuntimeError("secret"))["message"]
